//! Where connections wait until their PROXY header has come, so that `accept` hands out only those with a client who
//! has a name, and no slow proxy holds up the others.
//!
//! ```text
//!    lane ──take──▶ header there ────────────────────────▶ accept
//!                   not yet: waits here ──it comes────────▶ accept
//!                                       ──timeout, garbage, end──▶ ended
//!                   not from a proxy that may send one ───▶ ended
//! ```
//! One epoll for the lane, the connections that wait, and the timer: it is readable like the lane itself, so programs
//! wait for it the same way, blocking, with mio or on tokio.
//!
//! Headers are looked at in the kernel (`MSG_PEEK`) and only taken out when they are whole, to the last byte and not
//! further. So what follows is still there for the program, and for whoever gets the connection if it is given back.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Mutex;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::connection::Connection;
use super::membership::lock;
use super::proxy_header::{self, Beginning, PROXY_HEADER_MAX_BYTES};
use crate::protocol::allow_list::AllowList;
use crate::protocol::time::Monotonic;

/// How long a connection may take until its PROXY header is there as a whole. One that takes longer is ended.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the epoll calls the timer, and what connections come from. Tickets are above.
const TIMER: u64 = 0;
const SOURCE: u64 = 1;

/// The connections of one listener whose headers have not come.
#[derive(Debug)]
pub(super) struct Reception {
    proxies: AllowList,
    timeout: Duration,
    epoll: Epoll,
    timer: TimerFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By ticket, and so in the order in which they came, and in which their time is over.
    waiting: BTreeMap<u64, Waiting>,
    last_ticket: u64,
    source_has_ended: bool,
    timer_is_set: bool,
    /// One connection that was ended has been named in a warning.
    has_warned: bool,
    /// Room for a header, one for all of them.
    peeked: Box<[u8]>,
}

#[derive(Debug)]
struct Waiting {
    connection: Connection,
    until: Monotonic,
}

/// What a look at a connection has found.
enum Look {
    /// Its header was taken off.
    Named(Connection),
    /// There is less than a header.
    NotYet(Connection),
    /// The client has gone without a byte, as a health check does.
    Gone,
    /// It is to be ended, and why.
    Hopeless(&'static str, Connection),
}

impl Reception {
    /// For connections from `sources`: descriptors that become readable when there is one to take, or none any more.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE`/`ENOMEM`/`ENOSPC` of epoll_create1(2), epoll_ctl(2) and timerfd_create(2).
    pub(super) fn new<'a>(
        proxies: AllowList,
        timeout: Duration,
        sources: impl IntoIterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        for source in sources {
            epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, SOURCE))?;
        }
        let state = State {
            waiting: BTreeMap::new(),
            last_ticket: SOURCE,
            source_has_ended: false,
            timer_is_set: false,
            has_warned: false,
            peeked: vec![0; PROXY_HEADER_MAX_BYTES].into(),
        };
        Ok(Self { proxies, timeout, epoll, timer, state: Mutex::new(state) })
    }

    /// The next connection with a header, of those that wait and those that `take` takes from the sources. `None`:
    /// these have ended, and nobody waits any more.
    ///
    /// # Errors
    /// `WouldBlock` if there is none for now. Those of `take`.
    pub(super) fn next<'a>(
        &self,
        sources: impl Iterator<Item = BorrowedFd<'a>> + Clone,
        take: impl Fn() -> io::Result<Option<Connection>>,
    ) -> io::Result<Option<Connection>> {
        let mut state = lock(&self.state);
        while !state.is_over() {
            let named = match self.next_event()?.ok_or(io::ErrorKind::WouldBlock)? {
                TIMER => {
                    self.let_time_pass(&mut state);
                    None
                }
                SOURCE => match take() {
                    Ok(Some(connection)) => self.receive(&mut state, connection),
                    Ok(None) => {
                        state.source_has_ended = true;
                        // They stay readable, and nobody is to wake up for them while others wait here.
                        sources.clone().for_each(|source| _ = self.epoll.delete(source));
                        None
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                    Err(error) => return Err(error),
                },
                ticket => self.look_again(&mut state, ticket),
            };
            self.set_timer(&mut state)?;
            if named.is_some() {
                return Ok(named);
            }
        }
        Ok(None)
    }

    /// One at a time: what is not asked for stays, and keeps this readable for whoever else accepts.
    fn next_event(&self) -> io::Result<Option<u64>> {
        let mut events = [EpollEvent::empty()];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(events[0].data())),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A connection has come. Its header is often there already: look before paying for a registration.
    fn receive(&self, state: &mut State, connection: Connection) -> Option<Connection> {
        if connection.proxy_is_consumed() {
            return Some(connection);
        }
        if !self.proxies.allows(connection.peer_addr()) {
            state.end(connection, "it is none of the proxies of --proxy-protocol");
            return None;
        }
        match state.look(connection) {
            Look::Named(connection) => return Some(connection),
            Look::NotYet(connection) => self.let_wait(state, connection),
            Look::Gone => {}
            Look::Hopeless(why, connection) => state.end(connection, why),
        }
        None
    }

    fn let_wait(&self, state: &mut State, connection: Connection) {
        state.last_ticket += 1;
        // Edge-triggered: a part of a header stays in the socket, and is no reason to wake up again.
        let event =
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, state.last_ticket);
        match self.epoll.add(&connection, event) {
            Ok(()) => {
                let until = Monotonic::now() + self.timeout;
                state.waiting.insert(state.last_ticket, Waiting { connection, until });
            }
            Err(error) => state.end(connection, error.desc()),
        }
    }

    /// More of a connection has come, or its end.
    fn look_again(&self, state: &mut State, ticket: u64) -> Option<Connection> {
        let Waiting { connection, until } = state.waiting.remove(&ticket)?;
        match state.look(connection) {
            Look::Named(connection) => {
                // The program has it, so it is not closed, and would stay in here.
                let _ = self.epoll.delete(&connection);
                return Some(connection);
            }
            Look::NotYet(connection) => _ = state.waiting.insert(ticket, Waiting { connection, until }),
            Look::Gone => {}
            Look::Hopeless(why, connection) => state.end(connection, why),
        }
        None
    }

    fn let_time_pass(&self, state: &mut State) {
        state.timer_is_set = false;
        // Reads it, so that it is not readable any more.
        let _ = self.timer.wait();
        let now = Monotonic::now();
        while let Some(first) = state.waiting.first_entry().filter(|first| now >= first.get().until) {
            let connection = first.remove().connection;
            state.end(connection, "its PROXY header has not come in time");
        }
    }

    /// For whoever waits longest; and at the end for ever, for all who wait for it.
    fn set_timer(&self, state: &mut State) -> io::Result<()> {
        let first = state.waiting.values().next().map(|first| first.until);
        let at = if state.is_over() { Some(Monotonic { ns: 1 }) } else { first.filter(|_| !state.timer_is_set) };
        if let Some(at) = at {
            let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at.ns)));
            self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            state.timer_is_set = true;
        }
        Ok(())
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.source_has_ended && self.waiting.is_empty()
    }

    /// Takes the header off, if it is there.
    fn look(&mut self, mut connection: Connection) -> Look {
        let fd = connection.as_raw_fd();
        let len = match recv(fd, &mut self.peeked, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Look::Gone,
            Ok(len) => len,
            Err(Errno::EAGAIN) => 0,
            Err(error) => return Look::Hopeless(error.desc(), connection),
        };
        match proxy_header::read(&self.peeked[..len]) {
            Beginning::Incomplete => Look::NotYet(connection),
            Beginning::Malformed => Look::Hopeless("it does not begin with a PROXY header", connection),
            Beginning::Header { len, source } => match recv(fd, &mut self.peeked[..len], MsgFlags::MSG_DONTWAIT) {
                Ok(taken) if taken == len => {
                    connection.consume_proxy(source);
                    Look::Named(connection)
                }
                // Nobody else reads from it, so it was there a moment ago.
                Ok(_) => Look::Hopeless("its PROXY header has gone", connection),
                Err(error) => Look::Hopeless(error.desc(), connection),
            },
        }
    }

    /// The first one is a warning: it may be that the proxy is not set up to send headers, or not listed.
    fn end(&mut self, connection: Connection, why: &str) {
        let peer = connection.peer_addr().map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        match std::mem::replace(&mut self.has_warned, true) {
            false => {
                log::warn!("a connection of {peer} ended: {why} [later ones are logged at level debug]")
            }
            true => log::debug!("a connection of {peer} ended: {why}"),
        }
    }
}

/// Readable when there may be a connection, or the end.
impl AsFd for Reception {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Those that wait are as they came: another worker may have them.
impl Drop for Reception {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for Waiting { connection, .. } in std::mem::take(&mut state.waiting).into_values() {
            let _ = self.epoll.delete(&connection);
            // Otherwise it ends.
            let _ = connection.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;

    use nix::sys::eventfd::{EfdFlags, EventFd};
    use proptest::prelude::*;

    use super::*;
    use crate::worker::Stream;
    use crate::worker::readiness::wait_readable;

    /// A lane of the test's own: an event for every connection, and for the end.
    struct Source {
        event: EventFd,
        queue: RefCell<VecDeque<Option<Connection>>>,
        reception: Reception,
    }

    const LONG: Duration = Duration::from_secs(3600);

    impl Source {
        fn new(timeout: Duration) -> Self {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
            let event = EventFd::from_flags(flags).unwrap();
            let reception = Reception::new("unix,10.0.0.0/8".parse().unwrap(), timeout, [event.as_fd()]).unwrap();
            Self { event, queue: RefCell::default(), reception }
        }

        fn put(&self, connection: Option<Connection>) {
            self.queue.borrow_mut().push_back(connection);
            self.event.write(1).unwrap();
        }

        /// A client of a Unix socket, unless it is said to have another address.
        fn connect(&self, peer: Option<SocketAddr>) -> UnixStream {
            let (client, ours) = UnixStream::pair().unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            self.put(Some(Connection::accepted(Stream::Unix(ours), peer)));
            client
        }

        fn next(&self) -> io::Result<Option<Connection>> {
            self.reception.next(std::iter::once(self.event.as_fd()), || {
                self.event.read()?;
                Ok(self.queue.borrow_mut().pop_front().expect("as many as were announced"))
            })
        }

        #[track_caller]
        fn expect_none_yet(&self) {
            assert_eq!(self.next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }

        /// As a program does: waits until it is readable, and looks.
        fn wait(&self) -> io::Result<Option<Connection>> {
            wait_readable([self.reception.as_fd()])?;
            self.next()
        }
    }

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n";

    fn received(mut connection: &Connection) -> Vec<u8> {
        let mut bytes = Vec::new();
        connection.set_nonblocking(false).unwrap();
        connection.read_to_end(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn however_header_and_payload_are_cut_the_payload_is_whole(
            as_text: bool,
            payload in prop::collection::vec(any::<u8>(), 0..100),
            cuts in prop::collection::btree_set(0..150_usize, 0..20),
        ) {
            let v2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f\xc0\0\x02\x07\xc0\0\x02\x01\x12\x67\0\x50\x04\0\0";
            let header = if as_text { HEADER } else { v2 };
            let bytes = [header, &payload].concat();
            let source = Source::new(LONG);
            let mut client = source.connect(None);
            let mut connection = None;
            let mut sent = 0;
            for cut in cuts.into_iter().filter(|cut| *cut < bytes.len()).chain([bytes.len()]) {
                client.write_all(&bytes[sent..cut]).unwrap();
                sent = cut;
                if connection.is_none() {
                    connection = source.next().map_or(None, |next| next);
                    prop_assert_eq!(connection.is_some(), sent >= header.len(), "after {} bytes", sent);
                }
            }
            drop(client);
            let connection = connection.expect("the header was sent");
            prop_assert_eq!(connection.peer_addr(), Some("192.0.2.7:4711".parse().unwrap()));
            prop_assert_eq!(received(&connection), payload);
        }
    }

    #[test]
    fn a_slow_one_holds_up_nobody_and_is_ended() {
        let source = Source::new(Duration::from_millis(50));
        let (mut slow, mut silent) = (source.connect(None), source.connect(None));
        slow.write_all(&HEADER[..20]).unwrap();
        let mut fast = source.connect(None);
        fast.write_all(HEADER).unwrap();
        assert!(source.wait().unwrap().is_some());
        while !source.reception.state.lock().unwrap().waiting.is_empty() {
            assert_eq!(source.wait().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert!(matches!(slow.read(&mut [0]), Ok(0) | Err(_)) && matches!(silent.read(&mut [0]), Ok(0)));
    }

    #[test]
    fn strangers_and_those_without_a_header_end() {
        let source = Source::new(LONG);
        let mut stranger = source.connect(Some("11.0.0.1:5".parse().unwrap()));
        let mut proxy = source.connect(Some("10.0.0.1:5".parse().unwrap()));
        let mut other = source.connect(None);
        let gone = source.connect(None);
        stranger.write_all(HEADER).unwrap();
        proxy.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap();
        other.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        drop(gone);
        let connection = source.next().unwrap().unwrap();
        assert_eq!(connection.peer_addr(), Some("10.0.0.1:5".parse().unwrap()), "it speaks for itself");
        source.expect_none_yet();
        assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)) && matches!(other.read(&mut [0]), Ok(0) | Err(_)));
    }

    #[test]
    fn the_end_comes_after_the_last_that_waits_and_stays() {
        let source = Source::new(LONG);
        let mut late = source.connect(None);
        source.put(None);
        source.expect_none_yet();
        let has_event = || {
            nix::poll::poll(
                &mut [nix::poll::PollFd::new(source.reception.as_fd(), nix::poll::PollFlags::POLLIN)],
                nix::poll::PollTimeout::ZERO,
            )
        };
        assert_eq!(has_event(), Ok(0), "nobody is woken in vain");
        late.write_all(HEADER).unwrap();
        assert!(source.wait().unwrap().is_some());
        for _ in 0..3 {
            assert!(source.wait().unwrap().is_none());
        }
    }

    #[test]
    fn all_who_wait_are_woken_for_each_connection_and_for_the_end() {
        let source = Source::new(LONG);
        let mut clients: Vec<UnixStream> = (0..20).map(|_| source.connect(None)).collect();
        source.expect_none_yet();
        clients.iter_mut().for_each(|client| client.write_all(HEADER).unwrap());
        let taken: Vec<Connection> = (0..20).map(|_| source.wait().unwrap().unwrap()).collect();
        source.expect_none_yet();
        drop(taken);
        clients.iter_mut().for_each(|client| assert_eq!(client.read(&mut [0]).unwrap(), 0));
    }
}
