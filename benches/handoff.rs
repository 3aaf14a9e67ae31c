//! One handoff (accept4, sendmsg with the connection attached, close) by croupier's own code, and by the bare system
//! calls in the same run: the difference is what croupier adds.
//!
//! The clients' connects and the worker's receives are not in the measured part, and the worker's end sleeps in
//! nobody: a handoff here wakes no process. In real life waking the worker costs more than all of this.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use croupier::protocol::Wait;
use croupier::protocol::deal_channel::{self, PrimaryEnd, Took, WorkerEnd};
use croupier::protocol::record::{Kind, Record};
use croupier::protocol::time::Monotonic;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags};

/// How many clients connect before the clock runs. Below the 278 records that a channel's queue takes.
const BATCH: u64 = 200;

struct Table {
    listener: mio::net::TcpListener,
    address: SocketAddr,
    primary_end: PrimaryEnd,
    worker_end: WorkerEnd,
}

impl Table {
    fn new() -> Self {
        let listener = mio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        rustix::net::listen(&listener, BATCH as i32).expect("a longer backlog");
        let address = listener.local_addr().expect("it is bound");
        let (primary_end, worker_end) = deal_channel::pair().expect("a socket pair");
        Self { listener, address, primary_end, worker_end }
    }

    /// The time that `count` handoffs take, in batches of clients that have connected before.
    fn time(&self, count: u64, mut hand_off: impl FnMut(&Table)) -> Duration {
        let mut total = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH);
            let clients: Vec<TcpStream> =
                (0..batch).map(|_| TcpStream::connect(self.address).expect("there is room in the backlog")).collect();
            let start = Instant::now();
            (0..batch).for_each(|_| hand_off(self));
            total += start.elapsed();
            // The clients end first, so that it is their side that lingers in TIME_WAIT and not the port's.
            drop(clients);
            for _ in 0..batch {
                assert!(matches!(self.worker_end.take(Wait::Never), Ok(Took::Connection(..))));
            }
            left -= batch;
        }
        total
    }
}

fn by_croupier(table: &Table) {
    let (connection, peer) = table.listener.accept().expect("a client waits");
    let connection = OwnedFd::from(connection);
    let (kind, accepted) = (Kind::Connection, Monotonic::now());
    let record = Record { kind, sequence: 1, accepted, peer: Some(peer), ..Record::probe() };
    table.primary_end.deal(&record, connection.as_fd()).expect("the queue has room");
}

fn by_bare_calls(table: &Table) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (connection, _) = rustix::net::acceptfrom_with(&table.listener, flags).expect("a client waits");
    send_bare(table.primary_end.as_fd(), &RECORD, connection.as_fd());
}

/// Of the size and kind that the worker's end expects.
const RECORD: [u8; croupier::protocol::record::RECORD_BYTES] = {
    let mut bytes = [0; croupier::protocol::record::RECORD_BYTES];
    bytes[0] = 1;
    bytes
};

fn send_bare(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags).expect("the queue has room");
}

fn handoff(criterion: &mut Criterion) {
    let table = Table::new();
    let mut group = criterion.benchmark_group("handoff");
    group.bench_function("bare system calls", |bencher| bencher.iter_custom(|count| table.time(count, by_bare_calls)));
    group.bench_function("croupier", |bencher| bencher.iter_custom(|count| table.time(count, by_croupier)));
    group.finish();
    criterion.bench_function("handoff, the record alone", |bencher| {
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        let record = Record { kind: Kind::Connection, sequence: 7, peer, ..Record::probe() };
        bencher.iter(|| std::hint::black_box(&record).encode())
    });
}

criterion_group! {
    name = handoffs;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = handoff
}
criterion_main!(handoffs);
