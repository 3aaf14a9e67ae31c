//! Belonging to a primary: who this worker is, its conversation on the control channel, and the order to drain.
//!
//! One thread of the library reads the control channel, so that a program which only ever blocks in `accept` hears
//! of the primary's death too. It does nothing else: answers go to whoever asked, orders become a flag and a wake-up,
//! messages are kept for the program.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::Waker;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::lane::Lane;
use super::listener::{ListenOptions, Listener};
use super::messages::{Inbox, Message};
use super::readiness::wait_readable;
use crate::protocol::allow_list::AllowList;
use crate::protocol::control::{FromPrimary, FromWorker, IdleRule, ListenWish, PACKET_MAX_BYTES, VERSION};
use crate::protocol::control_channel::{ControlChannel, Incoming};
use crate::protocol::ids::{LaneId, Slot, WorkerId};
use crate::protocol::scoreboard::{LANES_MAX, Scoreboard};
use crate::protocol::{Wait, bootstrap};
use crate::sys::{limits, signals};

/// How long a worker may go on with the requests in progress after its primary has died; then the process exits
/// with 0. The exit comes from the library's thread: it needs no cooperation of the program.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// This process as the worker of a primary. Cheap to clone; all clones are the same worker.
#[derive(Debug, Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

/// Why this worker is to finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// The primary said so, and what is to become of idle connections.
    Ordered(IdleRule),
    /// The primary has gone. See [`ORPHAN_GRACE`].
    PrimaryGone,
}

#[derive(Debug)]
struct Shared {
    channel: ControlChannel,
    board: Arc<Scoreboard>,
    id: WorkerId,
    slot: Slot,
    generation: u32,
    idle_timeout: Option<Duration>,
    state: Mutex<State>,
    /// Written once, never read.
    drain_signal: EventFd,
    #[cfg(feature = "tokio")]
    drain_begun: tokio::sync::SetOnce<()>,
    inbox: Inbox,
}

#[derive(Debug, Default)]
struct State {
    last_request: u32,
    questions: HashMap<u32, Sender<Answer>>,
    drain: Option<Drain>,
    wakers: Vec<Arc<Waker>>,
}

/// The answer to `listen`.
#[derive(Debug)]
enum Answer {
    Lane { lane: LaneId, address: String, shared: bool, proxy_protocol: Option<AllowList>, end: OwnedFd },
    Refused { errno: i32, reason: String },
}

/// What ends a socket of this process's own that has a primary: its order to finish.
#[derive(Debug)]
pub(super) struct Alone {
    pub(super) worker: Worker,
    /// A duplicate of the worker's, for each socket one: epoll takes a descriptor once. Source: epoll_ctl(2), `EEXIST`.
    order: OwnedFd,
}

/// What the primary has granted.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) lane: Arc<Lane>,
    /// The listener's real address.
    pub(super) address: String,
    /// The listener's own socket, if the lane is a shared one; `None` also if it has ended already.
    pub(super) socket: Option<OwnedFd>,
    /// Its connections begin with a PROXY header of one of these.
    pub(super) proxy_protocol: Option<AllowList>,
}

/// The one membership of this process, once somebody has asked for it.
static MEMBERSHIP: Mutex<Membership> = Mutex::new(Membership::Unknown);

enum Membership {
    Unknown,
    None,
    Joined(Worker),
    /// There is a primary, and joining it failed: whoever asks again must not take this process for alone.
    Failed(io::ErrorKind, String),
}

impl Worker {
    /// The primary that started this process, or `None` if none did. The first call greets it and removes
    /// `CROUPIER_CHANNEL` and `CROUPIER_WORKER_ID` from the environment: make it early, before other threads run.
    ///
    /// # Errors
    /// `InvalidData` if the variables are there but lead to no primary; `ConnectionAborted` if the primary hung up
    /// (it logs why, for instance another version of the protocol).
    pub fn from_env() -> io::Result<Option<Worker>> {
        let mut membership = lock(&MEMBERSHIP);
        if let Membership::Unknown = *membership {
            *membership = match bootstrap::claim_channel().and_then(|channel| channel.map(Worker::join).transpose()) {
                Ok(Some(worker)) => Membership::Joined(worker),
                Ok(None) => Membership::None,
                Err(error) => Membership::Failed(error.kind(), error.to_string()),
            };
        }
        match &*membership {
            Membership::Joined(worker) => Ok(Some(worker.clone())),
            Membership::Unknown | Membership::None => Ok(None),
            Membership::Failed(kind, text) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    fn join(channel: OwnedFd) -> io::Result<Worker> {
        let channel = ControlChannel::from_fd(channel);
        let open_files_max = limits::open_files()?.soft;
        channel.send_blocking(&FromWorker::Hello { version: VERSION, pid: std::process::id(), open_files_max })?;
        let (message, board) = loop {
            match channel.receive(&mut vec![0; PACKET_MAX_BYTES], Wait::Block)? {
                Incoming::Message(FromPrimary::Unknown, _) => continue,
                Incoming::Message(message, fd) => break (message, fd),
                Incoming::Malformed(malformed) => return Err(invalid(malformed.reason)),
                Incoming::End => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the primary hung up; its log says why",
                    ));
                }
            }
        };
        let (FromPrimary::Welcome { worker: id, slot, generation, idle_timeout_ms, .. }, Some(board)) =
            (message, board)
        else {
            return Err(invalid("the primary did not begin with a welcome and a scoreboard".into()));
        };
        let board = Scoreboard::open(board)?;
        let shared = Shared {
            channel,
            board,
            id,
            slot,
            generation,
            idle_timeout: idle_timeout_ms.map(Duration::from_millis),
            state: Mutex::new(State::default()),
            inbox: Inbox::new()?,
            drain_signal: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            #[cfg(feature = "tokio")]
            drain_begun: tokio::sync::SetOnce::new(),
        };
        let worker = Worker { shared: Arc::new(shared) };
        let reader = worker.clone();
        std::thread::Builder::new()
            .name("croupier-control".into())
            .stack_size(256 * 1024)
            .spawn(move || reader.read_control_channel())?;
        Ok(worker)
    }

    /// Who this worker is: from 1 upwards, never used again.
    pub fn id(&self) -> WorkerId {
        self.shared.id
    }

    /// Its stable place: 0 to the number of workers - 1, inherited by its replacement.
    pub fn slot(&self) -> Slot {
        self.shared.slot
    }

    /// How many reloads its primary had done when it was started.
    pub fn generation(&self) -> u32 {
        self.shared.generation
    }

    /// The primary's `--idle-timeout`: after how long without a request a connection is to end; `None`: never. The
    /// [event loop](super::event_loop) keeps to it. Any other program knows alone where its messages end, and so which
    /// connections are idle.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.shared.idle_timeout
    }

    /// Listens on the primary's first declared listener, whatever its address is.
    ///
    /// # Errors
    /// As [`Worker::listen`].
    pub fn listen_on_first(&self, options: &ListenOptions) -> io::Result<Listener> {
        self.listen(None, options)
    }

    /// Asks the primary for a lane of the listener on `address`; `None` is the first declared one. Sleeps until the
    /// primary answers.
    ///
    /// # Errors
    /// As [`ListenOptions::bind`] under a primary; `AddrNotAvailable` if none is declared; `ConnectionAborted` if the
    /// primary has gone.
    pub fn listen(&self, address: Option<&str>, options: &ListenOptions) -> io::Result<Listener> {
        self.ask_for(options.wish(address)).and_then(|granted| Listener::from_lane(granted, self.clone()))
    }

    /// Asks the primary for a lane and says that it is read.
    pub(super) fn ask_for(&self, wish: ListenWish) -> io::Result<Granted> {
        let (answers, answer) = channel();
        let request = {
            let mut state = lock(&self.shared.state);
            if state.drain == Some(Drain::PrimaryGone) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state.last_request += 1;
            let request = state.last_request;
            state.questions.insert(request, answers);
            request
        };
        self.shared.channel.send_blocking(&FromWorker::Listen { request, wish })?;
        match answer.recv() {
            Ok(Answer::Lane { lane, address, shared, proxy_protocol, end }) => {
                let lane = Arc::new(Lane::new(lane, end, self.shared.board.lane(lane)));
                let socket = if shared { lane.take_socket().inspect_err(|_| self.say_close(lane.id))? } else { None };
                self.shared.channel.send_blocking(&FromWorker::Listening { lane: lane.id })?;
                Ok(Granted { lane, address, socket, proxy_protocol })
            }
            Ok(Answer::Refused { errno, reason }) => {
                Err(io::Error::new(io::Error::from_raw_os_error(errno).kind(), reason))
            }
            Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Whether, and why, this worker is to finish.
    pub fn drain(&self) -> Option<Drain> {
        lock(&self.shared.state).drain
    }

    /// Asks the primary to let this worker finish, and sleeps until it has said so. From then on it is as in any other
    /// [`drain`](Self::drain): no more connections come, listeners end, the plain event loop returns when it has served
    /// what it has. The primary knows that this worker wanted to go; whether another one follows is its `--respawn`.
    ///
    /// It does nothing if this worker is to finish already, and may be called before anything listens.
    ///
    /// # Errors
    /// Those of sendmsg(2) and poll(2); none is expected. A primary that has gone is none: then this worker is to
    /// finish too.
    pub fn disconnect(&self) -> io::Result<()> {
        self.ask_to_disconnect()?;
        while self.is_connected() {
            wait_readable([self.drain_fd()])?;
        }
        Ok(())
    }

    /// The same without waiting for the primary's word.
    pub(super) fn ask_to_disconnect(&self) -> io::Result<()> {
        if !self.is_connected() {
            return Ok(());
        }
        match self.shared.channel.send_blocking(&FromWorker::Disconnect) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(error)
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether this worker belongs to its primary: it has not been told to finish, and the primary is there.
    pub fn is_connected(&self) -> bool {
        self.drain().is_none()
    }

    /// Readable once this worker is to finish, and from then on: for programs with an event loop of their own.
    pub fn drain_fd(&self) -> BorrowedFd<'_> {
        self.shared.drain_signal.as_fd()
    }

    /// Resolves when this worker is to finish, because the primary says so or has gone; [`drain`](Self::drain) then
    /// says which. At once if it is so already. Any number of tasks can wait; dropping the future loses nothing.
    ///
    /// It is the time to end idle connections or give them back, not yet to stop accepting: what was dealt before
    /// still waits, and when the whole cluster ends the clients in the backlog are still to come. `accept` reports
    /// the end. Available with the feature `tokio`; it needs no reactor.
    #[cfg(feature = "tokio")]
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let worker = self.clone();
        async move { _ = worker.shared.drain_begun.wait().await }
    }

    /// Wakes `waker` when [`drain`](Self::drain) changes.
    pub(super) fn wake_on_drain(&self, waker: Arc<Waker>) {
        lock(&self.shared.state).wakers.push(waker);
    }

    pub(super) fn say_listening_alone(&self, address: String) -> io::Result<()> {
        self.shared.channel.send_blocking(&FromWorker::ListeningAlone { address })
    }

    pub(super) fn say_close(&self, lane: LaneId) {
        // The primary has gone, or will see that we have: either way there is nobody to tell.
        let _ = self.shared.channel.send_blocking(&FromWorker::Close { lane });
    }

    pub(super) fn channel(&self) -> &ControlChannel {
        &self.shared.channel
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }

    fn read_control_channel(&self) {
        let _ = signals::block_all_in_this_thread();
        let mut buffer = vec![0; PACKET_MAX_BYTES];
        loop {
            match self.shared.channel.receive(&mut buffer, Wait::Block) {
                Ok(Incoming::Message(message, fd)) => self.hear(message, fd),
                Ok(Incoming::Malformed(malformed)) => {
                    log::error!("the primary sent garbage ({malformed}) [finishing]");
                    break;
                }
                Ok(Incoming::End) => break,
                Err(error) => {
                    log::error!("control channel: {error} [finishing]");
                    break;
                }
            }
        }
        self.shared.inbox.end();
        self.order(Drain::PrimaryGone);
        std::thread::sleep(ORPHAN_GRACE);
        std::process::exit(0);
    }

    fn hear(&self, message: FromPrimary, fd: Option<OwnedFd>) {
        match message {
            FromPrimary::Lane { request, lane, address, shared, proxy_protocol } => match fd {
                Some(end) if usize::from(lane.0) < LANES_MAX => {
                    self.answer(request, Answer::Lane { lane, address, shared, proxy_protocol, end });
                }
                _ => {
                    let reason = "the lane's channel did not arrive (no file descriptor left in this worker?)";
                    self.answer(request, Answer::Refused { errno: nix::libc::EMFILE, reason: reason.into() });
                    self.say_close(lane);
                }
            },
            FromPrimary::Refused { request, errno, reason } => {
                self.answer(request, Answer::Refused { errno, reason });
            }
            FromPrimary::Message { body } => self.shared.inbox.put(Message { body, fd }),
            FromPrimary::Disconnect { idle } => self.order(Drain::Ordered(idle)),
            FromPrimary::Welcome { .. } => log::warn!("the primary said welcome twice [ignored]"),
            FromPrimary::Unknown => log::info!("a message of a newer primary [ignored]"),
        }
    }

    fn answer(&self, request: u32, answer: Answer) {
        if let Some(asker) = lock(&self.shared.state).questions.remove(&request) {
            let _ = asker.send(answer);
        }
    }

    fn order(&self, drain: Drain) {
        let mut state = lock(&self.shared.state);
        if drain == Drain::PrimaryGone {
            state.questions.clear(); // whoever waits for an answer sees its channel close
        }
        state.drain = Some(drain);
        // Its counter cannot be full.
        let _ = self.shared.drain_signal.write(1);
        for waker in &state.wakers {
            let _ = waker.wake();
        }
        drop(state); // whoever is woken may look at it
        // Already set if the primary has gone after it had given the order.
        #[cfg(feature = "tokio")]
        let _ = self.shared.drain_begun.set(());
    }
}

impl Alone {
    pub(super) fn under(worker: Worker) -> io::Result<Self> {
        let order = worker.drain_fd().try_clone_to_owned()?;
        Ok(Self { worker, order })
    }

    /// Readable once it is to end.
    pub(super) fn end_fd(&self) -> BorrowedFd<'_> {
        self.order.as_fd()
    }

    pub(super) fn is_to_end(&self) -> bool {
        self.worker.drain().is_some()
    }
}

/// A panic of a thread that holds one of these locks leaves nothing half-done behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_primary_is_no_worker() {
        assert!(Worker::from_env().unwrap().is_none());
        assert!(Worker::from_env().unwrap().is_none(), "and stays none");
    }
}
