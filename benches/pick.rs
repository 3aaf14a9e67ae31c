//! Whose turn it is, with few workers and with many: 1024 should cost at most 1.5 times what 2 cost.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use croupier::primary::scheduler::Rotation;

fn rotation(slots_with_room: impl IntoIterator<Item = usize>) -> Rotation {
    let mut rotation = Rotation::new();
    slots_with_room.into_iter().for_each(|slot| rotation.set_room(slot, true));
    rotation
}

fn deal_one(rotation: &mut Rotation) {
    let slot = black_box(rotation.pick()).expect("somebody has room");
    rotation.advance(slot);
}

fn everyone_has_room(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick, everyone has room");
    for workers in [2, 16, 256, 1024] {
        let mut rotation = rotation(0..workers);
        group.bench_function(BenchmarkId::from_parameter(workers), |bencher| bencher.iter(|| deal_one(&mut rotation)));
    }
}

/// Far apart and at the very ends, so that every search crosses words without a member.
fn few_have_room(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick, few of 1024 have room");
    for few in [&[1023][..], &[0, 1023], &[5, 300, 900]] {
        let mut rotation = rotation(0..1024);
        (0..1024).filter(|slot| !few.contains(slot)).for_each(|slot| rotation.set_room(slot, false));
        group
            .bench_function(BenchmarkId::from_parameter(few.len()), |bencher| bencher.iter(|| deal_one(&mut rotation)));
    }
}

/// What a full queue and a kick cost the rotation.
fn room_comes_and_goes(criterion: &mut Criterion) {
    let mut rotation = rotation(0..1024);
    criterion.bench_function("pick, the picked one of 1024 is full until the next turn", |bencher| {
        bencher.iter(|| {
            let slot = rotation.pick().expect("somebody has room");
            rotation.advance(slot);
            rotation.set_room(slot, false);
            black_box(&mut rotation).set_room(slot, true);
        })
    });
}

criterion_group! {
    name = pick;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = everyone_has_room, few_have_room, room_comes_and_goes
}
criterion_main!(pick);
