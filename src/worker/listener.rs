//! The listener of a worker: a lane of the primary's listener, or, without a primary, a socket of its own.

use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use mio::{Interest, Registry, Token, event};

use super::connection::{Connection, Stream};
use super::lane::Lane;
use super::membership::{Alone, Granted, Worker};
use super::readiness::{Fds, Registration, wait_readable};
use super::reception::{PROXY_HEADER_TIMEOUT, Reception};
use crate::protocol::Wait;
use crate::protocol::control::ListenWish;
use crate::protocol::scoreboard::Pause;
use crate::sys::fd_passing;
use crate::sys::socket_path::SocketPath;

/// How a listener is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListenOptions {
    queue_max: Option<u32>,
    connections_max: Option<u32>,
    backlog: Option<u32>,
    ipv6_only: bool,
    unix_mode: Option<u32>,
    exclusive: bool,
    reuse_port: bool,
    reuse_address: bool,
}

/// The backlog of a listener that this process binds itself, if it is not said.
const BACKLOG: u32 = 4096;

/// Where connections come from. `Send` and `Sync`: any number of threads may accept from one listener.
///
/// Dropping it tells the primary, which deals what was not taken to other workers.
#[derive(Debug)]
pub struct Listener {
    /// Where connections wait for their PROXY headers, if they begin with one. Before the source: what waits there is
    /// given back through it.
    reception: Option<Reception>,
    source: Source,
    /// Where it is registered. The primary holds a duplicate of a lane's descriptor, so close(2) alone would leave it
    /// in our epoll for ever: readable, and no longer removable.
    registration: Registration,
    /// This process bound it itself although it has a primary: it ends when the primary says so.
    alone: Option<Alone>,
}

#[derive(Debug)]
enum Source {
    /// Connections are dealt.
    Lane(Membership),
    /// This process accepts from the primary's own socket (policy `shared`) until the lane ends.
    Shared(Socket, Membership),
    /// There is no primary, or it is not asked.
    Own(Socket),
}

/// A lane, and whom to tell when it closes: the primary, at the latest when this is dropped. A socket of the primary's
/// is to be dropped before that: whoever asks for its address next finds it free.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) lane: Arc<Lane>,
    pub(super) worker: Worker,
    pub(super) address: String,
}

#[derive(Debug)]
enum Socket {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

impl Socket {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Ok(match socket2::SockRef::from(&fd).domain()? {
            socket2::Domain::UNIX => Socket::Unix(mio::net::UnixListener::from_std(fd.into())),
            _ => Socket::Tcp(mio::net::TcpListener::from_std(fd.into())),
        })
    }

    fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Socket::Tcp(listener) => listener.accept().map(|(tcp, peer)| (Stream::Tcp(tcp.into()), Some(peer))),
            Socket::Unix(listener) => {
                let (unix, _) = listener.accept()?;
                Ok((Stream::Unix(OwnedFd::from(unix).into()), None))
            }
        }
    }

    fn address(&self) -> String {
        match self {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".into(), |it| it.to_string()),
            Socket::Unix(listener) => {
                let path = listener.local_addr().ok().and_then(|it| it.as_pathname().map(|path| path.to_owned()));
                format!("unix:{}", path.unwrap_or_default().display())
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Source {
    /// The next connection, as it comes. `None` is the end.
    fn take(&self) -> io::Result<Option<Connection>> {
        match self {
            Source::Lane(Membership { lane, .. }) => take(lane, Wait::Never),
            Source::Shared(_, Membership { lane, .. }) if lane.has_ended() => Ok(None),
            Source::Shared(socket, Membership { lane, .. }) => {
                let (stream, peer) = socket.accept()?;
                Ok(Some(Connection::shared(stream, peer, Arc::clone(lane))))
            }
            Source::Own(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok(Some(Connection::accepted(stream, peer)))
            }
        }
    }

    /// What is readable when there is a connection to take, and at the end.
    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> + Clone {
        let (fd, end) = match self {
            Source::Lane(Membership { lane, .. }) => (lane.as_fd(), None),
            Source::Shared(socket, Membership { lane, .. }) => (socket.as_fd(), Some(lane.as_fd())),
            Source::Own(socket) => (socket.as_fd(), None),
        };
        std::iter::once(fd).chain(end)
    }
}

impl Membership {
    pub(super) fn close(&self) {
        if self.lane.close() {
            self.worker.say_close(self.lane.id);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.close();
    }
}

impl ListenOptions {
    /// The primary's bounds; alone, no `SO_REUSEPORT` and a backlog of 4096.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most `queue_max` connections wait untaken for this worker; the primary's own bound holds too. A program
    /// that serves one connection at a time says 1: the next one then goes to a worker that is free. Under a
    /// primary only.
    pub fn queue_max(mut self, queue_max: u32) -> Self {
        self.queue_max = Some(queue_max.max(1));
        self
    }

    /// At most `connections_max` connections are open (untaken ones included) through this listener in this worker;
    /// the primary's own bound holds too. Under a primary only.
    pub fn connections_max(mut self, connections_max: u32) -> Self {
        self.connections_max = Some(connections_max.max(1));
        self
    }

    /// A socket of this process's own, of which the primary knows nothing, also under a primary: each worker that asks
    /// for port 0 gets a port of its own, and a fixed port is in use for the second one.
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// `SO_REUSEPORT`: several processes bind the same address and the kernel spreads the connections. As
    /// [`exclusive`](Self::exclusive) the socket is this process's own.
    pub fn reuse_port(mut self, reuse_port: bool) -> Self {
        self.reuse_port = reuse_port;
        self
    }

    /// For UDP, `SO_REUSEADDR`: several sockets on one port, each time this is asked for another one.
    pub fn reuse_address(mut self, reuse_address: bool) -> Self {
        self.reuse_address = reuse_address;
        self
    }

    /// The backlog of listen(2), at least 1; the kernel caps it at `net.core.somaxconn`. Under a primary it counts
    /// for whoever asks for the address first; a declared listener has its own.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = Some(backlog.max(1));
        self
    }

    /// A listener on `[::]` is not to take IPv4 clients, and leaves the port of `0.0.0.0` to others. Without it, it
    /// takes both. A declared listener is as the primary declares it.
    pub fn ipv6_only(mut self, ipv6_only: bool) -> Self {
        self.ipv6_only = ipv6_only;
        self
    }

    /// The mode of the socket file of a Unix listener, like 0o777; only its permission bits count. Without it the
    /// umask of whoever binds decides.
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.unix_mode = Some(mode & 0o777);
        self
    }

    /// Listens on `address`: `HOST:PORT`, `[IPV6]:PORT`, `unix:PATH`, or `fd:N`, a listening socket that the primary
    /// inherited and declares, or, alone, this process.
    ///
    /// Under a primary the first worker that asks for an address has it bound, later ones share it. Port 0: the n-th
    /// such listener of each worker is one listener, with one real port. Closing it and asking again at once works.
    ///
    /// # Errors
    /// Under a primary what bind(2) and listen(2) say there (`AddrInUse`, `PermissionDenied`, `AddrNotAvailable` ...;
    /// asking again later is harmless), and: `AddrInUse` if this process has it already, `PermissionDenied` if the
    /// primary deals declared listeners only (the text lists them), `EMFILE` above 24 listeners. Alone those of
    /// getaddrinfo(3), bind(2) and listen(2).
    pub fn bind(&self, address: &str) -> io::Result<Listener> {
        match Worker::from_env()? {
            Some(worker) if self.is_own() => {
                let mut listener = self.bind_here(address)?;
                listener.alone = Some(Alone::under(worker.clone())?);
                worker.say_listening_alone(listener.address())?;
                Ok(listener)
            }
            Some(worker) => worker.listen(Some(address), self),
            None => self.bind_here(address),
        }
    }

    /// The primary is not to be asked.
    pub(super) fn is_own(&self) -> bool {
        self.exclusive || self.reuse_port
    }

    /// What the primary is asked for, for datagrams.
    pub(super) fn udp_wish(&self, address: &str) -> ListenWish {
        ListenWish {
            address: Some(as_the_primary_sees_it(address)),
            datagrams: true,
            reuse_address: self.reuse_address,
            ipv6_only: self.ipv6_only,
            ..ListenWish::default()
        }
    }

    pub(super) fn bind_udp_socket(&self, address: &str) -> io::Result<std::net::UdpSocket> {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
        socket.set_reuse_address(self.reuse_address)?;
        self.set_options(&socket, address)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    fn set_options(&self, socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(self.ipv6_only)?;
        }
        Ok(())
    }

    /// What the primary is asked for.
    pub(super) fn wish(&self, address: Option<&str>) -> ListenWish {
        ListenWish {
            address: address.map(as_the_primary_sees_it),
            queue_max: self.queue_max,
            connections_max: self.connections_max,
            backlog: self.backlog,
            ipv6_only: self.ipv6_only,
            unix_mode: self.unix_mode,
            ..ListenWish::default()
        }
    }

    fn bind_here(&self, address: &str) -> io::Result<Listener> {
        let socket = if let Some(path) = address.strip_prefix("unix:") {
            Socket::Unix(mio::net::UnixListener::from_std(self.bind_unix(Path::new(path))?))
        } else if let Some(number) = address.strip_prefix("fd:") {
            Socket::from_fd(inherited_socket(number)?)?
        } else {
            Socket::Tcp(mio::net::TcpListener::from_std(self.bind_tcp(address)?))
        };
        Ok(Listener {
            reception: None,
            source: Source::Own(socket),
            registration: Registration::default(),
            alone: None,
        })
    }

    fn bind_tcp(&self, address: &str) -> io::Result<std::net::TcpListener> {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        self.set_options(&socket, address)?;
        socket.bind(&address.into())?;
        socket.listen(self.listen_backlog())?;
        Ok(socket.into())
    }

    fn bind_unix(&self, path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking(), None)?;
        socket.bind(&SocketPath::to(path)?.address()?)?;
        if let Some(mode) = self.unix_mode {
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        socket.listen(self.listen_backlog())?;
        Ok(OwnedFd::from(socket).into())
    }

    fn listen_backlog(&self) -> i32 {
        self.backlog.unwrap_or(BACKLOG).min(i32::MAX as u32) as i32
    }
}

/// The primary has another working directory, and does not wait for name servers.
fn as_the_primary_sees_it(address: &str) -> String {
    if let Some(path) = address.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return std::path::absolute(path).map_or(address.into(), |path| format!("unix:{}", path.display()));
    }
    let is_inherited = address.starts_with("fd:") || address.starts_with("systemd:");
    let resolved = if is_inherited { None } else { address.to_socket_addrs().ok().and_then(|mut all| all.next()) };
    resolved.map_or(address.into(), |it| it.to_string())
}

/// Takes over a listening socket that this process was started with.
fn inherited_socket(number: &str) -> io::Result<OwnedFd> {
    let number: RawFd = number.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = fd_passing::adopt_fd(number)?;
    socket2::SockRef::from(&fd).set_nonblocking(true)?;
    Ok(fd)
}

impl Listener {
    /// Listens on `address` with the default [`ListenOptions`].
    ///
    /// # Errors
    /// As [`ListenOptions::bind`].
    pub fn bind(address: &str) -> io::Result<Self> {
        ListenOptions::new().bind(address)
    }

    pub(super) fn from_lane(granted: Granted, worker: Worker) -> io::Result<Self> {
        let Granted { lane, address, socket, proxy_protocol } = granted;
        let membership = Membership { lane, worker, address };
        let source = match socket {
            Some(socket) => Source::Shared(Socket::from_fd(socket)?, membership),
            None => Source::Lane(membership),
        };
        let reception = proxy_protocol.map(|proxies| Reception::new(proxies, PROXY_HEADER_TIMEOUT, source.fds()));
        Ok(Self { reception: reception.transpose()?, source, registration: Registration::default(), alone: None })
    }

    /// Sleeps until there is a connection; it blocks. `None`: the listener is closed, and every connection that had
    /// been dealt to it was taken. All threads that wait get it.
    ///
    /// # Errors
    /// Those of accept(2) when this process listens itself; `EMFILE` and the like pass by themselves when
    /// connections are closed.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        let accepted = match (&self.source, &self.reception) {
            (Source::Lane(Membership { lane, .. }), None) => take(lane, Wait::Block),
            (Source::Lane(_) | Source::Shared(..) | Source::Own(_), _) => loop {
                match self.take_or_end() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_readable()?,
                    other => break other,
                }
            },
        };
        if let Ok(Some(connection)) = &accepted {
            connection.set_nonblocking(false)?;
        }
        accepted
    }

    /// The next connection, in non-blocking mode. `None`: the listener is closed (as [`accept`](Self::accept)).
    ///
    /// # Errors
    /// `WouldBlock` when none waits. Otherwise as [`accept`](Self::accept).
    pub fn try_accept(&self) -> io::Result<Option<Connection>> {
        match &self.reception {
            Some(reception) => reception.next(self.source.fds(), || self.source.take()),
            None => self.source.take(),
        }
    }

    /// As [`try_accept`](Self::try_accept), but a socket of this process's own ends too, at the order to drain, once no
    /// connection waits there.
    pub(super) fn take_or_end(&self) -> io::Result<Option<Connection>> {
        match self.try_accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.is_to_end() => Ok(None),
            taken => taken,
        }
    }

    /// Asks the primary to deal no more connections here. Those that were not taken go to other workers; then
    /// `accept` reports the end. A socket that workers share (policy `shared`) is closed, and its address free, when
    /// this is dropped. Without a primary it does nothing: drop the listener.
    pub fn close(&self) {
        if let Some(membership) = self.membership() {
            membership.close();
        }
    }

    /// Wants no connections until [`resume`](Self::resume): the primary deals none, and what it had dealt and was not
    /// taken goes to other workers. Connections that this process has are not touched. A take that runs at the same
    /// time may still bring one; serve it or give it back. Without a primary it does nothing.
    ///
    /// The library does the same by itself while this process has no file descriptors left.
    pub fn pause(&self) {
        self.set_pause(Pause::ByProgram);
    }

    /// Wants connections again.
    pub fn resume(&self) {
        self.set_pause(Pause::None);
    }

    fn set_pause(&self, pause: Pause) {
        if let Source::Lane(Membership { lane, .. }) = &self.source {
            lane.pause(pause);
        }
    }

    /// The address that clients connect to, in the form of `--listen`.
    pub fn address(&self) -> String {
        match &self.source {
            Source::Lane(membership) | Source::Shared(_, membership) => membership.address.clone(),
            Source::Own(socket) => socket.address(),
        }
    }

    /// Whether a primary deals the connections, or shares its socket (policy `shared`): it says when this ends.
    pub fn is_dealt(&self) -> bool {
        self.membership().is_some()
    }

    fn membership(&self) -> Option<&Membership> {
        match &self.source {
            Source::Lane(membership) | Source::Shared(_, membership) => Some(membership),
            Source::Own(_) => None,
        }
    }

    /// What becomes readable when the primary ends a listener that accepts from a socket, shared or this process's own;
    /// `None` for any other: the end of a lane, or of anything with PROXY headers, shows in `as_fd`, and alone there is
    /// none.
    pub fn end_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Lane(_) => None,
            Source::Shared(..) if self.reception.is_some() => None,
            Source::Shared(_, Membership { lane, .. }) => Some(lane.as_fd()),
            Source::Own(_) => self.alone.as_ref().map(Alone::end_fd),
        }
    }

    /// Whether the primary has ended a listener that accepts from a socket.
    fn is_to_end(&self) -> bool {
        match &self.source {
            Source::Lane(_) => false,
            Source::Shared(..) if self.reception.is_some() => false,
            Source::Shared(_, Membership { lane, .. }) => lane.has_ended(),
            Source::Own(_) => self.alone.as_ref().is_some_and(Alone::is_to_end),
        }
    }

    /// Who it listens for; `None` without a primary.
    #[cfg(feature = "tokio")]
    pub(super) fn worker(&self) -> Option<&Worker> {
        self.membership().map(|membership| &membership.worker).or(self.alone.as_ref().map(|alone| &alone.worker))
    }

    fn wait_readable(&self) -> io::Result<()> {
        wait_readable(std::iter::once(self.as_fd()).chain(self.end_fd()))
    }

    fn fds(&self) -> Fds {
        [Some(self.as_fd().as_raw_fd()), self.end_fd().map(|fd| fd.as_raw_fd())]
    }
}

fn take(lane: &Arc<Lane>, wait: Wait) -> io::Result<Option<Connection>> {
    let Some((record, connection)) = lane.take(wait)? else { return Ok(None) };
    // A PROXY header gives clients of Unix sockets an address too.
    let is_unix = match record.proxy_consumed {
        true => socket2::SockRef::from(&connection).domain()? == socket2::Domain::UNIX,
        false => record.peer.is_none(),
    };
    let stream = if is_unix { Stream::Unix(connection.into()) } else { Stream::Tcp(connection.into()) };
    Ok(Some(Connection::dealt(stream, record, Arc::clone(lane))))
}

impl AsFd for Listener {
    /// Readable when a connection waits, or the end; with PROXY headers also when there is only something to do for the
    /// library: then [`try_accept`](Listener::try_accept) does it, and says `WouldBlock`. The end of a shared listener
    /// (policy `shared`) does not show here: see [`end_fd`](Listener::end_fd).
    fn as_fd(&self) -> BorrowedFd<'_> {
        match (&self.reception, &self.source) {
            (Some(reception), _) => reception.as_fd(),
            (None, Source::Lane(Membership { lane, .. })) => lane.as_fd(),
            (None, Source::Shared(socket, _) | Source::Own(socket)) => socket.as_fd(),
        }
    }
}

/// Edge-triggered like everything in mio: after an event take with [`Listener::try_accept`] until `WouldBlock`.
/// Dropping the listener deregisters it.
impl event::Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        let fds = self.fds();
        self.registration.register(fds, registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        Registration::reregister(self.fds(), registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let fds = self.fds();
        self.registration.deregister(fds, registry)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let fds = self.fds();
        self.registration.end(fds);
    }
}
