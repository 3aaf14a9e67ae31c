//! The listening sockets: binding, accepting, and ending without resetting whoever is in the backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::address::Address;
use super::reexec::baggage::{self, Baggage};
use super::returned::{self, CameBack, Candidate, Found, REASON_COUNT, Reason, Returned};
use super::scheduler::Rotation;
use crate::protocol::ids::{LaneId, WorkerId};
use crate::protocol::record::{Kind, Record};
use crate::protocol::time::Monotonic;
use serde::{Deserialize, Serialize};

/// How long accepting rests when this process or the machine has no descriptors or memory left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a listener that lets no new client in waits for handshakes that are under way.
pub const END_QUIET: Duration = Duration::from_millis(10);

/// A listening socket, its rotation, and the connections that came back to it.
#[derive(Debug)]
pub struct Listener {
    declared: Address,
    address: Address,
    socket: Option<Socket>,
    /// Whose turn it is; the index is a slot.
    pub rotation: Rotation,
    /// The lane that sits at each slot.
    pub seats: Vec<Option<(WorkerId, LaneId)>>,
    /// There may be a client in the backlog: set by an event, cleared by `EAGAIN`.
    readable: bool,
    /// Resting for want of descriptors or memory.
    rest: Option<Rest>,
    ending: Option<Ending>,
    /// Connections that came back from workers. They are dealt before the backlog.
    pub returned: Returned,
    /// What has happened here.
    pub counters: Counters,
    /// A worker has asked for it.
    pub is_asked_for: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener, SocketFile),
}

/// The file of a Unix listener, removed with it unless somebody else has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    /// `None`: it is over, and whether it helped is not known yet.
    until: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Nobody new is let in; handshakes that are under way may complete until then.
    Quieting { until: Monotonic },
    /// What is in the backlog is all that will ever be.
    Emptying,
}

/// What has happened on one listener since it was bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Deals, those of connections that had come back included.
    pub dealt: u64,
    /// Deals of connections that had come back, by [`Reason`].
    pub redealt: [u64; REASON_COUNT],
    /// Connections that came back and were closed because nobody took them in time.
    pub expired: u64,
}

/// A listener as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    declared: String,
    address: String,
    socket: Option<RawFd>,
    inode: Option<u64>,
    next_slot: usize,
    seats: Vec<Option<(WorkerId, LaneId)>>,
    returned: returned::Saved,
    counters: Counters,
    is_asked_for: bool,
}

/// The next connection to deal.
#[derive(Debug)]
pub enum Next {
    /// A connection, never dealt or come back.
    Connection(Candidate),
    /// There are some, but only for other workers.
    NotForThisWorker,
    /// There is none for now.
    Nothing,
    /// There may be some, but nothing to hold them with: again at [`Listener::deadline`].
    Resting,
}

/// A listener could not be made. The message names the address and what to do.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {what}")]
pub struct BindError {
    address: Address,
    what: String,
    source: io::Error,
}

impl BindError {
    fn new(address: &Address, source: io::Error) -> Self {
        let what = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRINUSE) => {
                "address in use (end the program that has it, `ss -lptn` names it, or choose another --listen)".into()
            }
            Some(Errno::EACCES) => match address {
                Address::Tcp { .. } => "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".into(),
                Address::Unix(_) => "permission denied (the directory must be writable)".into(),
            },
            Some(Errno::EADDRNOTAVAIL) => "no network interface has this address (0.0.0.0 or [::] is all)".into(),
            Some(Errno::ENOENT) if address.path().is_some() => "the directory does not exist".into(),
            _ => source.to_string(),
        };
        Self { address: address.clone(), what, source }
    }
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// [`BindError`], with the address and the remedy in its message.
    pub fn bind(declared: &Address, backlog: u32) -> Result<Self, BindError> {
        let bound = match declared {
            Address::Tcp { host, port } => bind_tcp(host, *port, backlog),
            Address::Unix(path) => bind_unix(path, backlog),
        };
        let (socket, address) = bound.map_err(|error| BindError::new(declared, error))?;
        Ok(Self {
            declared: declared.clone(),
            address,
            socket: Some(socket),
            rotation: Rotation::new(),
            seats: Vec::new(),
            readable: true,
            rest: None,
            ending: None,
            returned: Returned::default(),
            counters: Counters::default(),
            is_asked_for: false,
        })
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        let (socket, inode) = match &self.socket {
            Some(Socket::Tcp(listener)) => (Some(baggage.pack(listener.as_fd())), None),
            Some(Socket::Unix(listener, file)) => (Some(baggage.pack(listener.as_fd())), Some(file.inode)),
            None => (None, None),
        };
        Saved {
            declared: self.declared.to_string(),
            address: self.address.to_string(),
            socket,
            inode,
            next_slot: self.rotation.position(),
            seats: self.seats.clone(),
            returned: self.returned.save(baggage),
            counters: self.counters,
            is_asked_for: self.is_asked_for,
        }
    }

    /// Goes on with it. Nobody has room until somebody looks.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Saved) -> io::Result<Self> {
        let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (declared, address) = (saved.declared.parse().map_err(bad)?, saved.address.parse().map_err(bad)?);
        let socket = match (saved.socket.map(baggage::unpack).transpose()?, &address) {
            (Some(fd), Address::Tcp { .. }) => Some(Socket::Tcp(mio::net::TcpListener::from_std(fd.into()))),
            (Some(fd), Address::Unix(path)) => {
                let file = SocketFile { path: path.clone(), inode: saved.inode.unwrap_or_default() };
                Some(Socket::Unix(mio::net::UnixListener::from_std(fd.into()), file))
            }
            (None, _) => None,
        };
        Ok(Self {
            declared,
            address,
            socket,
            rotation: Rotation::starting_at(saved.next_slot),
            seats: saved.seats,
            readable: true,
            rest: None,
            ending: None,
            returned: Returned::restore(saved.returned)?,
            counters: saved.counters,
            is_asked_for: saved.is_asked_for,
        })
    }

    /// The address with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether a worker that asks for `wanted` means this listener: as declared, as bound, or another way to write
    /// the same socket address.
    pub fn answers_to(&self, wanted: &str) -> bool {
        let same = |address: &Address| match wanted.parse::<SocketAddr>() {
            Ok(wanted) => matches!(address, Address::Tcp { host, port }
                if host.parse().is_ok_and(|ip: std::net::IpAddr| SocketAddr::new(ip, *port) == wanted)),
            Err(_) => address.to_string() == wanted,
        };
        same(&self.declared) || same(&self.address)
    }

    /// Registers the socket.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Some(Socket::Tcp(listener)) => listener.register(registry, token, Interest::READABLE),
            Some(Socket::Unix(listener, _)) => listener.register(registry, token, Interest::READABLE),
            None => Ok(()),
        }
    }

    /// The socket has become readable.
    pub fn has_become_readable(&mut self) {
        self.readable = true;
    }

    /// Whether it is worth calling [`next`](Self::next) now.
    pub fn may_have_connections(&self, now: Monotonic) -> bool {
        if self.rest.and_then(|rest| rest.until).is_some_and(|until| now < until) {
            return false;
        }
        !self.returned.is_empty() || self.readable && self.socket.is_some()
    }

    /// The next connection for `worker`: first what came back, oldest first, then the backlog.
    pub fn next_for(&mut self, worker: WorkerId, sequence: &mut u64, now: Monotonic) -> Next {
        if self.returned.is_empty() {
            return self.accept(sequence, now);
        }
        let any_other = self.has_other_than(worker);
        match self.returned.next_for(worker, any_other) {
            Ok(Found::Candidate(candidate)) => Next::Connection(candidate),
            Ok(Found::Nothing) => self.accept(sequence, now),
            Ok(Found::NotForThisWorker) => match self.accept(sequence, now) {
                Next::Nothing => Next::NotForThisWorker,
                accepted => accepted,
            },
            Err(error) => self.rest("cannot receive back", &error, now + ACCEPT_PAUSE),
        }
    }

    /// Takes a connection back that could not be dealt; it is among the next ones again.
    pub fn put_back(&mut self, candidate: Candidate, from: WorkerId, now: Monotonic) {
        let never = CameBack { reason: Reason::Unsent, at: now, from, not_again: false, uncounted: None };
        self.returned.hold(candidate.record, candidate.connection, candidate.came_back.unwrap_or(never));
    }

    /// Whether anybody but `worker` sits here.
    pub fn has_other_than(&self, worker: WorkerId) -> bool {
        self.seats.iter().flatten().any(|(other, _)| *other != worker)
    }

    /// Gives a lane its seat in the rotation. Whoever sat there has lost it.
    pub fn seat(&mut self, slot: usize, worker: WorkerId, lane: LaneId) {
        self.seats.resize(self.seats.len().max(slot + 1), None);
        self.seats[slot] = Some((worker, lane));
    }

    /// Takes a lane out of the rotation, if it sits there.
    pub fn unseat(&mut self, slot: usize, worker: WorkerId, lane: LaneId) {
        if self.is_seated(slot, worker, lane) {
            self.seats[slot] = None;
            self.rotation.set_room(slot, false);
        }
    }

    /// Whether nobody sits at `slot`.
    pub fn is_vacant(&self, slot: usize) -> bool {
        self.seats.get(slot).copied().flatten().is_none()
    }

    /// The socket is closed: nothing is dealt any more.
    pub fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    /// Whether a lane has its seat.
    pub fn is_seated(&self, slot: usize, worker: WorkerId, lane: LaneId) -> bool {
        self.seats.get(slot) == Some(&Some((worker, lane)))
    }

    /// Rests until `until`, whatever there is to deal. Says so once, until [`resume`](Self::resume).
    pub fn rest(&mut self, what: &str, error: &io::Error, until: Monotonic) -> Next {
        if self.rest.replace(Rest { until: Some(until) }).is_none() {
            log::warn!("listener={} {what}: {error} [clients wait in the backlog; trying again]", self.address);
        }
        Next::Resting
    }

    /// Nothing is dealt for a while, for want of descriptors or memory.
    pub fn is_resting(&self) -> bool {
        self.rest.is_some()
    }

    /// There is enough of everything again.
    pub fn resume(&mut self) {
        if self.rest.take().is_some() {
            log::info!("listener={} dealing again", self.address);
        }
    }

    fn accept(&mut self, sequence: &mut u64, now: Monotonic) -> Next {
        loop {
            let accepted = match &self.socket {
                None => return Next::Nothing,
                Some(_) if !self.readable => return Next::Nothing,
                // mio accepts with SOCK_NONBLOCK: the mode lives on the connection, for whoever gets it.
                Some(Socket::Tcp(listener)) => listener.accept().map(|(tcp, peer)| (OwnedFd::from(tcp), Some(peer))),
                Some(Socket::Unix(listener, _)) => listener.accept().map(|(unix, _)| (OwnedFd::from(unix), None)),
            };
            match accepted {
                Ok((connection, peer)) => {
                    *sequence += 1;
                    self.counters.accepted += 1;
                    let (kind, accepted) = (Kind::Connection, Monotonic::now());
                    let record = Record { kind, sequence: *sequence, accepted, peer, ..Record::probe() };
                    return Next::Connection(Candidate { record, connection, came_back: None });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    self.resume();
                    return Next::Nothing;
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(errno) if concerns_the_client(errno) => {
                        log::debug!("accept on {}: {error} [skipped]", self.address);
                    }
                    // Whatever else it is, it may be so again the next time, and the next.
                    _ => return self.rest("cannot accept", &error, now + ACCEPT_PAUSE),
                },
            }
        }
    }

    /// When something is due here: the end of a rest, of the quiet time of an ending, or of the patience with a
    /// connection that came back and that nobody takes.
    pub fn deadline(&self, redeal_timeout: Duration) -> Option<Monotonic> {
        let quiet_at = match self.ending {
            Some(Ending::Quieting { until }) => Some(until),
            Some(Ending::Emptying) | None => None,
        };
        let rested_at = self.rest.and_then(|rest| rest.until);
        [rested_at, quiet_at, self.returned.deadline(redeal_timeout)].into_iter().flatten().min()
    }

    /// Lets no new client in, so that the backlog can be dealt empty: on TCP a filter that drops a SYN (an ACK of a
    /// handshake under way passes), on Unix by removing the path. Closing at once would reset everyone in the
    /// backlog. Measured over 300 rounds with eager clients: plain close 581 resets, accept-all and close 40, this 0.
    pub fn begin_ending(&mut self, now: Monotonic) {
        match &mut self.socket {
            Some(Socket::Tcp(listener)) => {
                if let Err(error) = drop_new_handshakes(listener.as_fd()) {
                    log::warn!("listener={} cannot filter new clients: {error} [some may be reset]", self.address);
                }
            }
            Some(Socket::Unix(_, file)) => file.remove(),
            None => {}
        }
        self.ending = Some(Ending::Quieting { until: now + END_QUIET });
    }

    /// The quiet time of an ending may be over: handshakes that completed in it are in the backlog now. And nobody
    /// waits for ever for a worker to take it.
    pub fn let_time_pass(&mut self, now: Monotonic, redeal_timeout: Duration) {
        if let Some(rest) = &mut self.rest {
            rest.until = rest.until.filter(|until| now < *until);
        }
        let expired = self.returned.expire(redeal_timeout, now);
        if expired > 0 {
            self.counters.expired += expired as u64;
            log::warn!(
                "listener={} connections={expired} came back and nobody took them within {redeal_timeout:?} [closed]",
                self.address
            );
        }
        if matches!(self.ending, Some(Ending::Quieting { until }) if now >= until) {
            self.ending = Some(Ending::Emptying);
            self.readable = true;
        }
    }

    /// Whether an ending has come to its end: everything that there was has been dealt.
    pub fn has_ended(&self) -> bool {
        let is_empty = self.is_backlog_empty() && self.returned.is_empty();
        self.socket.is_none() || self.ending == Some(Ending::Emptying) && is_empty
    }

    /// Nobody new is let in, and no worker takes those who are there.
    pub fn is_deserted(&self) -> bool {
        self.ending == Some(Ending::Emptying) && self.seats.iter().all(Option::is_none)
    }

    /// Nobody waits to be accepted. While no worker has room nobody accepts either, so that no `EAGAIN` has said so:
    /// then this asks the kernel.
    fn is_backlog_empty(&self) -> bool {
        let socket = match &self.socket {
            Some(Socket::Tcp(listener)) if self.readable => listener.as_fd(),
            Some(Socket::Unix(listener, _)) if self.readable => listener.as_fd(),
            Some(_) | None => return true,
        };
        poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
    }

    /// Closes the socket. Returns how many connections nobody took: their clients see the end.
    pub fn close(&mut self) -> usize {
        self.socket = None;
        self.returned.clear()
    }
}

impl SocketFile {
    fn remove(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn bind_tcp(host: &str, port: u16, backlog: u32) -> io::Result<(Socket, Address)> {
    let address = Address::resolve(host, port)?;
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(listen_backlog(backlog))?;
    let listener = mio::net::TcpListener::from_std(socket.into());
    let real = listener.local_addr()?;
    Ok((Socket::Tcp(listener), Address::Tcp { host: real.ip().to_string(), port: real.port() }))
}

fn bind_unix(path: &Path, backlog: u32) -> io::Result<(Socket, Address)> {
    let address = socket2::SockAddr::unix(path)?;
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, kind, None)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse || !is_abandoned(path) {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    let inode = std::fs::symlink_metadata(path)?.ino();
    let file = SocketFile { path: path.to_owned(), inode };
    socket.listen(listen_backlog(backlog))?;
    let listener = mio::net::UnixListener::from_std(OwnedFd::from(socket).into());
    Ok((Socket::Unix(listener, file), Address::Unix(path.to_owned())))
}

/// A socket file that nobody listens on any more: its owner died without removing it.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let connected = std::os::unix::net::UnixStream::connect(path);
    is_socket && connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Errors that are pending on the new connection, and gone with it. Source: accept(2), error handling.
fn concerns_the_client(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
    )
}

fn listen_backlog(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// A classic BPF program on the listening socket: a segment with SYN and without ACK is dropped, the client's kernel
/// sends it again. The packet begins at the TCP header; its byte 13 is the flags. Source: socket(7), SO_ATTACH_FILTER.
fn drop_new_handshakes(listener: BorrowedFd<'_>) -> io::Result<()> {
    use nix::libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const WHOLE: u32 = u32::MAX;
    const NOTHING: u32 = 0;
    let step =
        |code: u32, if_true, if_false, operand| socket2::SockFilter::new(code as u16, if_true, if_false, operand);
    socket2::SockRef::from(&listener).attach_filter(&[
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, FLAGS),
        step(BPF_ALU | BPF_AND | BPF_K, 0, 0, SYN | ACK),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYN),
        step(BPF_RET | BPF_K, 0, 0, NOTHING),
        step(BPF_RET | BPF_K, 0, 0, WHOLE),
    ])
}
