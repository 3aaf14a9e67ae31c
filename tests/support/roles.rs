//! Workers that are the test program itself. It is started again with the name of one of its test functions; that
//! function plays the worker when [`ROLE`] names it, and otherwise returns at once.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use croupier::protocol::Wait;
use croupier::protocol::bootstrap;
use croupier::protocol::control::{FromPrimary, FromWorker, ListenWish, PACKET_MAX_BYTES, VERSION};
use croupier::protocol::control_channel::{ControlChannel, Incoming};
use croupier::protocol::deal_channel::{Took, WorkerEnd};
use croupier::protocol::ids::{LaneId, WorkerId};
use croupier::protocol::scoreboard::{LaneBoard, Scoreboard};
use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};
use croupier::worker::{ListenOptions, Listener, Worker};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{Croupier, Directory, http};

/// The variable that says which part to play.
pub const ROLE: &str = "CROUPIER_TEST_ROLE";

/// Whether this process was started to play `role`.
pub fn plays(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|value| value == role)
}

/// A variable that the test gave to its workers.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the test did not set {name}"))
}

/// The command that starts this test program in the part of `role`.
pub fn command(role: &str) -> Vec<String> {
    let program = std::env::current_exe().expect("a running program has a file");
    let program = program.to_str().expect("target directories are text").to_owned();
    vec![program, "--exact".into(), role.into(), "--nocapture".into(), "--test-threads=1".into()]
}

/// Joins the primary through the library; every role that uses it can rely on one.
pub fn join() -> Worker {
    Worker::from_env().expect("the primary answers").expect("there is a primary")
}

/// A good worker on the library's event loop: answers every request with its id, until it is told to finish.
pub fn serve_well() {
    let worker = join();
    let mut event_loop = EventLoop::new(Good::named(worker.id())).unwrap();
    event_loop.listen(worker.listen_on_first(&ListenOptions::new()).unwrap()).unwrap();
    event_loop.run().unwrap();
}

/// A server that answers every request with its worker's id.
pub struct Good {
    name: String,
}

impl Good {
    pub fn named(worker: WorkerId) -> Self {
        Self { name: worker.to_string() }
    }
}

impl Server for Good {
    type Session = ();

    fn open(&mut self, _peer: Option<SocketAddr>) {}

    fn receive(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Next {
        if !exchange.input.ends_with(b"\r\n\r\n") {
            return Next::Busy;
        }
        exchange.input.clear();
        let (name, len) = (&self.name, self.name.len());
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nx-worker: {name}\r\n\r\n");
        exchange.output.extend_from_slice([head.as_str(), name].concat().as_bytes());
        if exchange.draining { Next::Close } else { Next::Idle }
    }
}

/// The variable that names the directory of [`obey_files`].
pub const ORDERS: &str = "CROUPIER_TEST_ORDERS";

/// The test's side of [`obey_files`].
pub struct Orders(Directory);

impl Orders {
    pub fn new() -> Self {
        Self(Directory::new())
    }

    /// The option of croupier that lets its workers obey.
    pub fn option(&self) -> String {
        format!("--env={ORDERS}={}", self.0.path().display())
    }

    /// Waits until worker `id` has obeyed.
    #[track_caller]
    pub fn give(&self, croupier: &Croupier, id: u32, order: &str) {
        let obeyed = format!("worker {id} obeys {order}");
        let before = croupier.log().count(&obeyed);
        std::fs::write(self.0.file(&format!("{id}.{order}")), "").unwrap();
        croupier.log().wait_for_count(&obeyed, before + 1);
    }
}

/// A worker on the library that takes and answers one connection after the other, and obeys the files that the test
/// puts into [`ORDERS`]: `ID.take` has it begin to take, `ID.pause` and `ID.resume` do so, `ID.return` has it give
/// back whatever it takes from then on, until `ID.keep`. It says when it has obeyed, and whose connection it has.
pub fn obey_files() {
    let worker = join();
    let id = worker.id();
    let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
    let gives_back = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for order in orders(&id.to_string()) {
                match order {
                    "take" => _ = scope.spawn(|| take_all(&listener, &id.to_string(), &gives_back)),
                    "pause" => listener.pause(),
                    "resume" => listener.resume(),
                    other => gives_back.store(other == "return", Ordering::SeqCst),
                }
                say(&format!("worker {id} obeys {order}"));
            }
        });
    });
}

/// The orders to `who`, as they come; each file is obeyed once, and can be put there again.
fn orders(who: &str) -> impl Iterator<Item = &'static str> {
    let directory = variable(ORDERS);
    std::iter::from_fn(move || {
        loop {
            for order in ["take", "pause", "resume", "return", "keep"] {
                if std::fs::remove_file(format!("{directory}/{who}.{order}")).is_ok() {
                    return Some(order);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

fn take_all(listener: &Listener, who: &str, gives_back: &AtomicBool) {
    while let Some(connection) = listener.accept().unwrap() {
        if gives_back.load(Ordering::SeqCst) {
            say(&format!("worker {who} returns a connection of {:?}", connection.peer_addr()));
            connection.give_back().unwrap();
        } else {
            say(&format!("worker {who} has a connection of {:?}", connection.peer_addr()));
            let _ = http::answer(&connection, who);
        }
    }
    std::process::exit(0);
}

/// A worker without the library: it speaks the protocol itself, and can say what the library never would.
pub struct Bare {
    pub id: WorkerId,
    pub channel: ControlChannel,
    pub lane: LaneId,
    pub end: WorkerEnd,
    pub board: LaneBoard,
}

impl Bare {
    /// Says hello and listens on the first listener.
    pub fn listen() -> Self {
        let channel = claim();
        let (id, board) = hello(&channel);
        channel.send(&listen_request(1), None).unwrap();
        let Incoming::Message(FromPrimary::Lane { lane, .. }, Some(end)) = receive(&channel) else {
            panic!("no lane came");
        };
        channel.send(&FromWorker::Listening { lane }, None).unwrap();
        let board = Scoreboard::open(board).unwrap().lane(lane);
        Self { id, channel, lane, end: WorkerEnd::from_fd(end), board }
    }

    /// Takes and answers one connection after the other until the end of the lane.
    pub fn serve(&self, mut before_each: impl FnMut()) -> io::Result<()> {
        loop {
            match self.end.take(Wait::Block)? {
                Took::Connection(_, connection) => {
                    before_each();
                    self.kick_if(self.board.count_taken(None));
                    let stream = std::net::TcpStream::from(connection);
                    stream.set_nonblocking(false)?;
                    let _ = http::answer(stream, &self.id.to_string());
                    self.kick_if(self.board.count_closed());
                }
                Took::Probe => self.end.kick(),
                Took::Socket(_) => panic!("the lane is not a shared one"),
                Took::Lost(record) => panic!("lost {record:?}"),
                Took::End => return Ok(()),
            }
        }
    }

    fn kick_if(&self, wanted: bool) {
        if wanted {
            self.end.kick();
        }
    }
}

/// The control channel of this process.
pub fn claim() -> ControlChannel {
    ControlChannel::from_fd(bootstrap::claim_channel().unwrap().expect("there is a primary"))
}

/// Says hello; the worker's id and its scoreboard.
pub fn hello(channel: &ControlChannel) -> (WorkerId, OwnedFd) {
    channel.send(&hello_message(), None).unwrap();
    match receive(channel) {
        Incoming::Message(FromPrimary::Welcome { worker, .. }, Some(board)) => (worker, board),
        other => panic!("no welcome but {other:?}"),
    }
}

pub fn hello_message() -> FromWorker {
    FromWorker::Hello { version: VERSION, pid: std::process::id(), open_files_max: 1024 }
}

pub fn listen_request(request: u32) -> FromWorker {
    FromWorker::Listen { request, wish: ListenWish::default() }
}

pub fn receive(channel: &ControlChannel) -> Incoming<FromPrimary> {
    channel.receive(&mut vec![0; PACKET_MAX_BYTES], Wait::Block).unwrap()
}

/// Sends a packet that need not be a message.
pub fn send_raw(socket: BorrowedFd<'_>, packet: &[u8]) {
    use std::os::fd::AsRawFd;
    let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::send(socket.as_fd().as_raw_fd(), packet, flags).unwrap();
}

/// The same with descriptors, 253 at most.
pub fn send_with(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// Says a line on stderr, which is croupier's log, in one piece: `eprintln!` writes every part of it separately, and
/// the others who write there would come in between.
pub fn say(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Sleeps until somebody ends this process.
pub fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}
