//! The listening sockets as the kernel has them: bound or inherited, accepted from, and ended without resetting
//! whoever is in the backlog.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::address::Address;
use crate::sys::socket_path::SocketPath;
use crate::sys::tcp;

/// How a socket is to be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindOptions {
    /// For listen(2); the kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// An IPv6 listener does not take IPv4 clients.
    pub ipv6_only: bool,
    /// The mode of a socket file; `None`: as the umask has it.
    pub unix_mode: Option<u32>,
    /// What its connections inherit, on TCP.
    pub tcp: TcpOptions,
}

/// Options of a TCP listener, set there once: an accepted connection inherits those that concern it. A Unix listener
/// has none of them. Source: tcp(7), socket(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// A client is accepted when its first bytes are there, or after so many seconds, up to [`TCP_SECS_MAX`]
    /// (`TCP_DEFER_ACCEPT`).
    pub defer_accept_secs: Option<u32>,
    /// What a worker writes is sent at once, however little it is (`TCP_NODELAY`).
    pub nodelay: bool,
    /// The kernel asks a client of which nothing has come for so many seconds, up to [`TCP_SECS_MAX`], whether it is
    /// still there (`SO_KEEPALIVE`, `TCP_KEEPIDLE`).
    pub keepalive_secs: Option<u32>,
}

/// The most seconds that the kernel takes for `TCP_KEEPIDLE`. Source: `MAX_TCP_KEEPIDLE` of the kernel.
pub const TCP_SECS_MAX: u32 = 32767;

impl TcpOptions {
    /// Sets those that are asked for. The others stay as they are, whoever has set them.
    ///
    /// # Errors
    /// Those of setsockopt(2); on a TCP socket none is expected.
    fn add_to(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket2::SockRef::from(&listener);
        if let Some(secs) = self.defer_accept_secs {
            tcp::set_defer_accept(listener, secs)?;
        }
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(secs) = self.keepalive_secs {
            let idle = Duration::from_secs(secs.into());
            socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(idle))?;
        }
        Ok(())
    }

    /// Switches off those that are not asked for, and sets the others.
    ///
    /// # Errors
    /// As [`add_to`](Self::add_to).
    fn replace_on(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket2::SockRef::from(&listener);
        if self.defer_accept_secs.is_none() {
            tcp::set_defer_accept(listener, 0)?;
        }
        if !self.nodelay {
            socket.set_tcp_nodelay(false)?;
        }
        if self.keepalive_secs.is_none() {
            socket.set_keepalive(false)?;
        }
        self.add_to(listener)
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP over IPv4 or IPv6.
    Tcp(mio::net::TcpListener),
    /// A Unix stream socket, and its file if it is ours.
    Unix(mio::net::UnixListener, Option<SocketFile>),
    /// A UDP socket: only ever shared.
    Udp(std::net::UdpSocket),
}

/// The file of a Unix listener, removed with it unless somebody else has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Who has bound a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundBy {
    /// This primary, or an earlier image of it.
    Croupier,
    /// Whoever passed it on.
    SomebodyElse,
}

impl Socket {
    /// Binds and listens. The address has the real port.
    ///
    /// # Errors
    /// Those of getaddrinfo(3), socket(2), bind(2) and listen(2); `InvalidInput` for an inherited address.
    pub fn bind(address: &Address, options: &BindOptions) -> io::Result<(Self, Address)> {
        match address {
            Address::Tcp { host, port } => bind_tcp(host, *port, options),
            Address::Unix(path) => bind_unix(path, options),
            Address::Fd(_) | Address::Systemd(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Binds a UDP socket.
    ///
    /// # Errors
    /// Those of getaddrinfo(3), socket(2) and bind(2); `InvalidInput` if the address is not one of IP.
    pub fn bind_datagrams(address: &Address, ipv6_only: bool, reuse_address: bool) -> io::Result<(Self, Address)> {
        let Address::Tcp { host, port } = address else {
            return Err(io::Error::from_raw_os_error(nix::libc::EAFNOSUPPORT));
        };
        let address = Address::resolve(host, *port)?;
        let kind = socket2::Type::DGRAM.nonblocking().cloexec();
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
        socket.set_reuse_address(reuse_address)?;
        if address.is_ipv6() {
            socket.set_only_v6(ipv6_only)?;
        }
        socket.bind(&address.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let real = socket.local_addr()?.into();
        Ok((Socket::Udp(socket), real))
    }

    /// Goes on with a socket that somebody else has bound, and whose file, if it has one, is somebody else's too.
    ///
    /// # Errors
    /// `EINVAL` if it is neither a listening socket for TCP or Unix streams nor a UDP socket.
    pub fn inherit(fd: OwnedFd) -> io::Result<(Self, Address)> {
        let wrong = || io::Error::from_raw_os_error(nix::libc::EINVAL);
        let kind = getsockopt(&fd, sockopt::SockType);
        if kind == Ok(SockType::Stream) && getsockopt(&fd, sockopt::AcceptConn) != Ok(true) {
            return Err(wrong());
        }
        // That of a primary which was killed while it ended: see `let_anybody_in`.
        let _ = socket2::SockRef::from(&fd).detach_filter();
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let name: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(&fd))?;
        let is_ip = matches!(name.family(), Some(AddressFamily::Inet | AddressFamily::Inet6));
        match kind {
            Ok(SockType::Stream) if name.family() == Some(AddressFamily::Unix) => {
                let listener = mio::net::UnixListener::from_std(fd.into());
                let local = listener.local_addr()?;
                // For people: nobody binds it again.
                let path = local.as_pathname().filter(|path| !path.to_string_lossy().contains(char::is_control));
                let address = Address::Unix(path.unwrap_or(Path::new("?")).to_owned());
                Ok((Socket::Unix(listener, None), address))
            }
            Ok(SockType::Stream) if is_ip => {
                let listener = mio::net::TcpListener::from_std(fd.into());
                let address = listener.local_addr()?.into();
                Ok((Socket::Tcp(listener), address))
            }
            Ok(SockType::Datagram) if is_ip => {
                let socket = std::net::UdpSocket::from(fd);
                let address = socket.local_addr()?.into();
                Ok((Socket::Udp(socket), address))
            }
            _ => Err(wrong()),
        }
    }

    /// Goes on with a socket of an earlier image of this process. `inode` is that of its file, if it is ours.
    pub fn restore(fd: OwnedFd, address: &Address, inode: Option<u64>) -> Self {
        match address {
            _ if getsockopt(&fd, sockopt::SockType) == Ok(SockType::Datagram) => Socket::Udp(fd.into()),
            Address::Unix(path) => {
                let file = inode.map(|inode| SocketFile { path: path.clone(), inode });
                Socket::Unix(mio::net::UnixListener::from_std(fd.into()), file)
            }
            Address::Tcp { .. } | Address::Fd(_) | Address::Systemd(_) => {
                Socket::Tcp(mio::net::TcpListener::from_std(fd.into()))
            }
        }
    }

    /// Has its future connections inherit other options than before: what an earlier image set, and this one is not
    /// asked for, ends. Only what is asked for changes on a socket that somebody else has bound. Nothing on sockets
    /// that are not TCP's.
    ///
    /// # Errors
    /// Those of setsockopt(2); none is expected.
    pub fn set_tcp_options(&self, options: &TcpOptions, whose: BoundBy) -> io::Result<()> {
        match (self, whose) {
            (Socket::Tcp(listener), BoundBy::Croupier) => options.replace_on(listener.as_fd()),
            (Socket::Tcp(listener), BoundBy::SomebodyElse) => options.add_to(listener.as_fd()),
            (Socket::Unix(..) | Socket::Udp(_), _) => Ok(()),
        }
    }

    /// The inode of its file, if it has one and it is ours.
    pub fn inode(&self) -> Option<u64> {
        match self {
            Socket::Unix(_, file) => file.as_ref().map(|file| file.inode),
            Socket::Tcp(_) | Socket::Udp(_) => None,
        }
    }

    /// Registers it.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Socket::Tcp(listener) => listener.register(registry, token, Interest::READABLE),
            Socket::Unix(listener, _) => listener.register(registry, token, Interest::READABLE),
            Socket::Udp(_) => Ok(()),
        }
    }

    /// Accepts a connection, in non-blocking mode: the mode lives on the connection, for whoever gets it.
    ///
    /// # Errors
    /// Those of accept(2). [`concerns_the_client`] tells which of them mean nothing to the listener.
    pub fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self {
            Socket::Tcp(listener) => listener.accept().map(|(tcp, peer)| (OwnedFd::from(tcp), Some(peer))),
            Socket::Unix(listener, _) => listener.accept().map(|(unix, _)| (OwnedFd::from(unix), None)),
            Socket::Udp(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Lets no new client in, so that the backlog can be dealt empty: on TCP a filter that drops a SYN (an ACK of a
    /// handshake under way passes), on Unix by removing the path. Closing at once would reset everyone in the
    /// backlog. Measured over 300 rounds with eager clients: plain close 581 resets, accept-all and close 40, this 0.
    ///
    /// Since Linux commit 5d39580f68e6 (2026) a filter on TCP takes `CAP_NET_ADMIN`. Without it the socket leaves the
    /// network, if it is ours: the same to who has connected, but who comes is refused instead of trying again.
    ///
    /// # Errors
    /// Those of setsockopt(2): clients come in as before.
    pub fn let_nobody_in(&mut self, whose: BoundBy) -> io::Result<()> {
        match self {
            Socket::Tcp(listener) => match (drop_new_handshakes(listener.as_fd()), whose) {
                (Err(error), BoundBy::Croupier) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tcp::bind_to_no_interface(listener.as_fd())
                }
                (done, BoundBy::Croupier | BoundBy::SomebodyElse) => done,
            },
            Socket::Udp(socket) => drop_everything(socket.as_fd()),
            Socket::Unix(_, file) => {
                // Once: whoever binds the path from now on may get the same inode.
                drop(file.take());
                Ok(())
            }
        }
    }

    /// Undoes [`let_nobody_in`](Self::let_nobody_in), for a socket that belongs to somebody else too: a filter stays on
    /// it when this process closes its descriptor.
    ///
    /// # Errors
    /// Those of setsockopt(2): nobody is let in any more, whoever has it.
    pub fn let_anybody_in(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(_) | Socket::Udp(_) => match socket2::SockRef::from(self).detach_filter() {
                // There was none: it could not be attached.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
            Socket::Unix(..) => Ok(()),
        }
    }

    /// Whether it is a UDP socket.
    pub fn takes_datagrams(&self) -> bool {
        matches!(self, Socket::Udp(_))
    }

    /// Nobody waits to be accepted, no datagram to be received. Asks the kernel.
    pub fn is_backlog_empty(&self) -> bool {
        poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener, _) => listener.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Errors that are pending on the new connection, and gone with it. Source: accept(2), error handling.
pub fn concerns_the_client(errno: Errno) -> bool {
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

fn bind_tcp(host: &str, port: u16, options: &BindOptions) -> io::Result<(Socket, Address)> {
    let address = Address::resolve(host, port)?;
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Said either way: the default is the machine's (net.ipv6.bindv6only).
        socket.set_only_v6(options.ipv6_only)?;
    }
    // Before listen(2): no connection comes without them.
    options.tcp.add_to(socket.as_fd())?;
    socket.bind(&address.into())?;
    socket.listen(listen_backlog(options.backlog))?;
    let listener = mio::net::TcpListener::from_std(socket.into());
    let real = listener.local_addr()?.into();
    Ok((Socket::Tcp(listener), real))
}

fn bind_unix(path: &Path, options: &BindOptions) -> io::Result<(Socket, Address)> {
    let way = SocketPath::to(path)?;
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, kind, None)?;
    if let Err(error) = socket.bind(&way.address()?) {
        if error.kind() != io::ErrorKind::AddrInUse || !is_abandoned(path, &way) {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&way.address()?)?;
    }
    let file = SocketFile { path: path.to_owned(), inode: std::fs::symlink_metadata(path)?.ino() };
    if let Some(mode) = options.unix_mode {
        // Before listen(2): until then nobody can connect.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(listen_backlog(options.backlog))?;
    let listener = mio::net::UnixListener::from_std(OwnedFd::from(socket).into());
    Ok((Socket::Unix(listener, Some(file)), Address::Unix(path.to_owned())))
}

/// A socket file that nobody listens on any more: its owner died without removing it.
fn is_abandoned(path: &Path, way: &SocketPath) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let connect = || {
        let kind = socket2::Type::STREAM.nonblocking().cloexec();
        socket2::Socket::new(socket2::Domain::UNIX, kind, None)?.connect(&way.address()?)
    };
    is_socket && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn listen_backlog(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// No datagram comes in any more; those that are queued can be received, and answered.
fn drop_everything(socket: BorrowedFd<'_>) -> io::Result<()> {
    use nix::libc::{BPF_K, BPF_RET};
    let nothing = socket2::SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0);
    socket2::SockRef::from(&socket).attach_filter(&[nothing])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_is_removed_once_and_not_again_when_its_inode_is_another_ones() {
        let path = std::env::temp_dir().join(format!("croupier-socket-file-{}", std::process::id()));
        let kept = path.with_extension("kept");
        let options = BindOptions { backlog: 1, ipv6_only: false, unix_mode: None, tcp: TcpOptions::default() };
        let (mut socket, _) = Socket::bind(&Address::Unix(path.clone()), &options).unwrap();
        std::fs::hard_link(&path, &kept).unwrap();
        socket.let_nobody_in(BoundBy::Croupier).unwrap();
        assert!(!path.exists());
        std::fs::rename(&kept, &path).unwrap();
        drop(socket);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn options_end_on_a_socket_of_ours_and_stay_on_somebody_elses() {
        let all = TcpOptions { defer_accept_secs: Some(5), nodelay: true, keepalive_secs: Some(60) };
        let options = BindOptions { backlog: 1, ipv6_only: false, unix_mode: None, tcp: all };
        let (socket, _) = Socket::bind(&"127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let in_force = || {
            let socket = socket2::SockRef::from(&socket);
            (socket.tcp_nodelay().unwrap(), socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap()))
        };
        assert_eq!(in_force(), (true, Some(Duration::from_secs(60))));
        let others = TcpOptions { keepalive_secs: Some(30), ..TcpOptions::default() };
        socket.set_tcp_options(&others, BoundBy::SomebodyElse).unwrap();
        assert_eq!(in_force(), (true, Some(Duration::from_secs(30))));
        socket.set_tcp_options(&TcpOptions::default(), BoundBy::Croupier).unwrap();
        assert_eq!(in_force(), (false, None));
    }
}
