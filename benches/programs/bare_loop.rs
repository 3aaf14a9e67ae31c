//! The floor that `scripts/bench` measures the primary against: a dealer that does nothing but deal.
//!
//! It greets the same workers over the same protocol, then repeats epoll_wait, accept4, sendmsg and close, worker
//! after worker. No room, no accounts, no kicks, no reload, and a worker that dies ends it.
//!
//! Usage: `bare_loop PROGRAM [ARGUMENT...]` starts two of PROGRAM on a free port of 127.0.0.1 and prints
//! `ADDRESS PID PID` once both listen.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use croupier::protocol::control::{FromPrimary, FromWorker, PACKET_MAX_BYTES, VERSION};
use croupier::protocol::control_channel::{ControlChannel, Incoming};
use croupier::protocol::deal_channel::{self, PrimaryEnd};
use croupier::protocol::ids::{LaneId, Slot, WorkerId};
use croupier::protocol::record::{Kind, Record};
use croupier::protocol::scoreboard::Scoreboard;
use croupier::protocol::time::Monotonic;
use croupier::protocol::{Wait, bootstrap};
use rustix::event::epoll;
use rustix::io::{Errno, FdFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags};

const WORKERS: u32 = 2;
const BACKLOG: i32 = 4096;

/// What keeps a worker going, and the end on which it is dealt to.
struct Worker {
    pid: u32,
    deals: PrimaryEnd,
    _channel: ControlChannel,
    _board: Arc<Scoreboard>,
}

fn main() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or_else(|| io::Error::other("usage: bare_loop PROGRAM [ARGUMENT...]"))?;
    let arguments: Vec<OsString> = words.collect();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let start = |number| start(Command::new(&program).args(&arguments), number, address);
    let workers = (1..=WORKERS).map(start).collect::<io::Result<Vec<_>>>()?;
    let pids: Vec<String> = workers.iter().map(|worker| worker.pid.to_string()).collect();
    println!("{address} {}", pids.join(" "));
    deal_for_ever(&listener, &workers)
}

fn start(command: &mut Command, number: u32, address: SocketAddr) -> io::Result<Worker> {
    let id = WorkerId(number);
    let (channel, theirs) = ControlChannel::pair()?;
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let pid = command.envs(bootstrap::variables(theirs.as_raw_fd(), id, 0)).spawn()?.id();
    drop(theirs);
    let board = Scoreboard::create()?;
    hear(&channel)?; // hello
    let slot = Slot(number - 1);
    let welcome = FromPrimary::Welcome { version: VERSION, worker: id, slot, generation: 0, idle_timeout_ms: None };
    channel.send(&welcome, Some(board.as_fd()))?;
    let FromWorker::Listen { request, .. } = hear(&channel)? else {
        return Err(io::Error::other("the worker did not ask to listen"));
    };
    let (deals, takes) = deal_channel::pair()?;
    let lane = FromPrimary::Lane {
        request,
        lane: LaneId(0),
        address: address.to_string(),
        shared: false,
        proxy_protocol: None,
    };
    channel.send(&lane, Some(takes.as_fd()))?;
    hear(&channel)?; // listening
    Ok(Worker { pid, deals, _channel: channel, _board: board })
}

fn hear(channel: &ControlChannel) -> io::Result<FromWorker> {
    match channel.receive(&mut [0; PACKET_MAX_BYTES], Wait::Block)? {
        Incoming::Message(message, _) => Ok(message),
        Incoming::Malformed(malformed) => Err(io::Error::other(malformed.reason)),
        Incoming::End => Err(io::Error::other("the worker has gone")),
    }
}

fn deal_for_ever(listener: &TcpListener, workers: &[Worker]) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let mut events = Vec::with_capacity(1);
    let mut sequence = 0;
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        while let Some((connection, peer)) = accept(listener.as_fd())? {
            let worker = &workers[sequence as usize % workers.len()];
            sequence += 1;
            let (kind, accepted) = (Kind::Connection, Monotonic::now());
            let record = Record { kind, sequence, accepted, peer, ..Record::probe() };
            deal(&worker.deals, &record.encode(), connection.as_fd())?;
        }
    }
}

fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    match rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((connection, peer)) => Ok(Some((connection, peer.and_then(|peer| peer.try_into().ok())))),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sleeps while the worker's queue is full, which takes 278 records.
fn deal(end: &PrimaryEnd, record: &[u8], connection: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [connection];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(end, &[IoSlice::new(record)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
