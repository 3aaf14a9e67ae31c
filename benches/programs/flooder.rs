//! What `scripts/bench --flood` measures the others beside: a worker that takes no connections and is a burden.
//!
//! Usage: `flooder BURDEN WORKER PROGRAM [ARGUMENT...]` is to be the command of a primary. The worker with that number
//! is the burden until it is told to finish or the primary has gone; every other one becomes PROGRAM.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use croupier::protocol::Wait;
use croupier::protocol::body::Body;
use croupier::protocol::bootstrap;
use croupier::protocol::control::{self, FromPrimary, FromWorker, ListenWish, PACKET_MAX_BYTES, VERSION};
use croupier::protocol::control_channel::{ControlChannel, Incoming};
use croupier::protocol::ids::LaneId;

/// Wishes that are sent before their answers are read: below what lets the primary end a worker that does not read.
const WISHES_AT_ONCE: u32 = 16;
/// What is around the text of a message that is a text.
const ENVELOPE_BYTES: usize = r#"{"type":"message","body":""}"#.len();

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: flooder idle|burn|large|tiny|refused|listen WORKER PROGRAM [ARGUMENT...]");
    let mut words = std::env::args_os().skip(1);
    let burden = words.next().and_then(|word| word.into_string().ok()).ok_or_else(usage)?;
    let worker = words.next().ok_or_else(usage)?;
    let program = words.next().ok_or_else(usage)?;
    if std::env::var_os(bootstrap::WORKER_ID) != Some(worker) {
        return Err(Command::new(program).args(words).exec());
    }
    let channel = bootstrap::claim_channel()?.ok_or_else(|| io::Error::other("there is no primary"))?;
    let channel = ControlChannel::from_fd(channel);
    channel.send(&FromWorker::Hello { version: VERSION, pid: std::process::id(), open_files_max: 1024 }, None)?;
    answer(&channel)?; // welcome
    channel.send(&FromWorker::ListeningAlone { address: format!("nowhere: {burden}") }, None)?;
    let Err(error) = match burden.as_str() {
        "listen" => wish(&channel, "127.0.0.2:0"),
        "refused" => wish(&channel, "nowhere"),
        _ => std::thread::scope(|scope| {
            scope.spawn(|| while answer(&channel).is_ok() {});
            match burden.as_str() {
                "idle" => loop {
                    std::thread::park();
                },
                "burn" => loop {
                    std::hint::spin_loop();
                },
                "large" => say(&channel, &"x".repeat(PACKET_MAX_BYTES - ENVELOPE_BYTES)),
                "tiny" => say(&channel, ""),
                _ => Err(usage()),
            }
        }),
    };
    Err(error)
}

/// Sends the same message again and again.
fn say(channel: &ControlChannel, text: &str) -> io::Result<Infallible> {
    let packet = control::encode(&FromWorker::Message { body: Body::of(text)? });
    loop {
        channel.send_packet(&packet, None, Wait::Block)?;
    }
}

/// Asks for a listener again and again, and closes what it gets.
fn wish(channel: &ControlChannel, address: &str) -> io::Result<Infallible> {
    let wish = ListenWish { address: Some(address.to_owned()), ..ListenWish::default() };
    loop {
        for request in 0..WISHES_AT_ONCE {
            channel.send_blocking(&FromWorker::Listen { request, wish: wish.clone() })?;
        }
        let granted = (0..WISHES_AT_ONCE).map(|_| answer(channel)).collect::<io::Result<Vec<_>>>()?;
        for lane in granted.into_iter().flatten() {
            channel.send_blocking(&FromWorker::Close { lane })?;
        }
    }
}

/// The next answer: the lane, if it is one. What is attached is closed. The end of this process, if that is what the
/// primary wants.
fn answer(channel: &ControlChannel) -> io::Result<Option<LaneId>> {
    match channel.receive(&mut vec![0; PACKET_MAX_BYTES], Wait::Block)? {
        Incoming::Message(FromPrimary::Lane { lane, .. }, _) => Ok(Some(lane)),
        Incoming::Message(FromPrimary::Disconnect { .. }, _) | Incoming::End => std::process::exit(0),
        Incoming::Message(..) => Ok(None),
        Incoming::Malformed(malformed) => Err(io::Error::other(malformed.reason)),
    }
}
