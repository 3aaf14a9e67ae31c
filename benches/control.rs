//! The messages of the control channel. Not per connection: this only watches that they stay cheap.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use croupier::protocol::body::Body;
use croupier::protocol::control::{FromPrimary, FromWorker, ListenWish, PACKET_MAX_BYTES, VERSION, decode, encode};
use croupier::protocol::ids::LaneId;

fn control(criterion: &mut Criterion) {
    let hello = FromWorker::Hello { version: VERSION, pid: 4711, open_files_max: 1_048_576 };
    let listen = FromWorker::Listen {
        request: 1,
        wish: ListenWish { address: Some("127.0.0.1:8000".into()), queue_max: Some(8), ..ListenWish::default() },
    };
    let lane = FromPrimary::Lane {
        request: 1,
        lane: LaneId(0),
        address: "127.0.0.1:8000".into(),
        shared: false,
        proxy_protocol: None,
    };
    criterion.bench_function("control, encode hello", |bencher| bencher.iter(|| encode(black_box(&hello))));
    criterion.bench_function("control, encode lane", |bencher| bencher.iter(|| encode(black_box(&lane))));
    for (name, message) in [("hello", &hello), ("listen", &listen)] {
        let packet = encode(message);
        criterion.bench_function(&format!("control, decode {name}"), |bencher| {
            bencher.iter(|| decode::<FromWorker>(black_box(&packet)))
        });
    }
    // What one turn of the primary's loop hears at most is four of these.
    let body = Body::of(&"x".repeat(PACKET_MAX_BYTES - 1024)).expect("a text is JSON");
    let packet = encode(&FromWorker::Message { body });
    criterion.bench_function("control, decode message of 63 KiB", |bencher| {
        bencher.iter(|| decode::<FromWorker>(black_box(&packet)))
    });
    criterion.bench_function("control, decode garbage", |bencher| {
        bencher.iter(|| decode::<FromWorker>(black_box(br#"{"type":"close","lane":300}"#)))
    });
}

criterion_group! {
    name = messages;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = control
}
criterion_main!(messages);
