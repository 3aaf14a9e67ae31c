//! One listener: its socket, whose turn it is there, what came back to it, and its end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use mio::{Registry, Token};
use nix::errno::Errno;

use super::address::Address;
use super::chooser::Chooser;
use super::ledger::{Counters, PauseReason};
use super::policy::{Choice, PolicyKind};
use super::reexec::baggage::{self, Baggage};
use super::returned::{self, CameBack, Candidate, Found, Reason, Returned};
use super::scheduler::Rotation;
use super::socket::{BindOptions, BoundBy, Socket, TcpOptions, concerns_the_client};
use crate::protocol::allow_list::AllowList;
use crate::protocol::body::Body;
use crate::protocol::control::ListenWish;
use crate::protocol::ids::{LaneId, WorkerId};
use crate::protocol::record::{Kind, Record};
use crate::protocol::time::Monotonic;
use crate::sys::limits;
use serde::{Deserialize, Serialize};

/// How long accepting rests when this process or the machine has no descriptors or memory left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a listener that lets no new client in waits for handshakes that are under way.
pub const END_QUIET: Duration = Duration::from_millis(10);

/// A listening socket, its rotation, and the connections that came back to it.
#[derive(Debug)]
pub struct Listener {
    wanted: Address,
    address: Address,
    is_ipv6_only: bool,
    is_declared: bool,
    /// Since when no worker has listened here, if it is there for workers only.
    pub deserted_since: Option<Monotonic>,
    socket: Option<Socket>,
    /// Whose turn it is; the index is a slot.
    pub rotation: Rotation,
    /// Its connections begin with a PROXY header of one of these, which workers take off.
    proxy_protocol: Option<AllowList>,
    /// What the first worker here had for the others: keys of TLS session tickets. Nobody looks into it.
    data: Option<Body>,
    /// Who chooses among those with room.
    pub chooser: Chooser,
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
    /// How much had been dealt when nobody had room the last time.
    no_room_at: u64,
    /// A worker has asked for it.
    pub is_asked_for: bool,
}

#[derive(Debug)]
struct Rest {
    /// What failed, and why, the last time.
    why: String,
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

/// A listener as it goes over an exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    wanted: String,
    address: String,
    is_ipv6_only: bool,
    is_declared: bool,
    deserted_since: Option<Monotonic>,
    socket: Option<RawFd>,
    inode: Option<u64>,
    next_slot: usize,
    policy: String,
    #[serde(default)]
    proxy_protocol: Option<AllowList>,
    #[serde(default)]
    data: Option<Body>,
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
    pub(super) fn new(address: &Address, source: io::Error) -> Self {
        let is_inherited = matches!(address, Address::Fd(_) | Address::Systemd(_));
        let what = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRINUSE) => {
                "address in use (end the program that has it, `ss -lptn` names it, or choose another --listen)".into()
            }
            Some(Errno::EACCES) if address.path().is_some() => {
                "permission denied (the directory must be writable)".into()
            }
            Some(Errno::EACCES) => "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".into(),
            Some(Errno::EADDRNOTAVAIL) => "no network interface has this address (0.0.0.0 or [::] is all)".into(),
            Some(Errno::ENOENT) if address.path().is_some() => "the directory does not exist".into(),
            Some(Errno::EBADF) if is_inherited => {
                "no such socket was inherited, or another --listen has it (whoever starts croupier must pass it)".into()
            }
            Some(Errno::EINVAL) if is_inherited => {
                "it is neither a socket that listens for TCP or Unix streams nor one for UDP".into()
            }
            _ => source.to_string(),
        };
        Self { address: address.clone(), what, source }
    }

    /// Without advice: for a program, which has no options to change.
    pub(super) fn plainly(&self) -> &io::Error {
        &self.source
    }

    /// The system's own word for it.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(nix::libc::EINVAL)
    }
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// [`BindError`], with the address and the remedy in its message.
    pub fn bind(wanted: &Address, options: &BindOptions) -> Result<Self, BindError> {
        let (socket, address) = Socket::bind(wanted, options).map_err(|error| BindError::new(wanted, error))?;
        Ok(Self::new(wanted, address, socket, options.ipv6_only))
    }

    /// Goes on with a socket that listens already.
    ///
    /// # Errors
    /// [`BindError`] if it does not.
    pub fn inherit(wanted: &Address, fd: OwnedFd, options: &TcpOptions) -> Result<Self, BindError> {
        let refused = |error| BindError::new(wanted, error);
        let (socket, address) = Socket::inherit(fd).map_err(refused)?;
        socket.set_tcp_options(options, BoundBy::SomebodyElse).map_err(refused)?;
        Ok(Self::new(wanted, address, socket, false))
    }

    fn new(wanted: &Address, address: Address, socket: Socket, is_ipv6_only: bool) -> Self {
        Self {
            wanted: wanted.clone(),
            address,
            is_ipv6_only,
            is_declared: false,
            deserted_since: None,
            chooser: Chooser::new(if socket.takes_datagrams() { &PolicyKind::Shared } else { &PolicyKind::RoundRobin }),
            proxy_protocol: None,
            data: None,
            socket: Some(socket),
            rotation: Rotation::new(),
            seats: Vec::new(),
            readable: true,
            rest: None,
            ending: None,
            returned: Returned::default(),
            counters: Counters::default(),
            no_room_at: 0,
            is_asked_for: false,
        }
    }

    /// Binds a UDP socket, which workers share.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_datagrams(wanted: &Address, wish: &ListenWish) -> Result<Self, BindError> {
        let bound = Socket::bind_datagrams(wanted, wish.ipv6_only, wish.reuse_address);
        let (socket, address) = bound.map_err(|error| BindError::new(wanted, error))?;
        Ok(Self::new(wanted, address, socket, wish.ipv6_only))
    }

    /// Whether workers get the socket itself, and nothing is dealt.
    pub fn is_shared(&self) -> bool {
        self.chooser.shares()
    }

    /// The socket for workers, if it is shared.
    pub fn shared_socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| self.is_shared()).map(Socket::as_fd)
    }

    /// Whether there are few descriptors left beside its own.
    pub fn is_of_the_last_descriptors(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| limits::is_in_last_quarter(socket.as_fd()))
    }

    /// Whether it is a UDP socket.
    pub fn takes_datagrams(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::takes_datagrams)
    }

    /// It was declared before any worker ran, and stays whoever listens.
    pub fn declared(self) -> Self {
        Self { is_declared: true, ..self }
    }

    /// It is what there is where `wanted` was asked for, and answers to it.
    pub fn instead_of(self, wanted: &Address) -> Self {
        Self { wanted: wanted.clone(), ..self }
    }

    /// It deals by this policy; a UDP socket is shared whatever the policy.
    pub fn dealing_by(self, policy: &PolicyKind) -> Self {
        match self.takes_datagrams() {
            true => self,
            false => Self { chooser: Chooser::new(policy), ..self },
        }
    }

    /// Its connections begin with a PROXY header of one of `proxies`; `None`, and on a UDP socket always: as clients
    /// like.
    pub fn behind(self, proxies: Option<AllowList>) -> Self {
        let proxy_protocol = proxies.filter(|_| !self.takes_datagrams());
        Self { proxy_protocol, ..self }
    }

    /// Who may send a PROXY header, and has to.
    pub fn proxies(&self) -> Option<&AllowList> {
        self.proxy_protocol.as_ref()
    }

    /// Whether it was declared; otherwise it is there for those who listen on it.
    pub fn is_declared(&self) -> bool {
        self.is_declared
    }

    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        Saved {
            wanted: self.wanted.to_string(),
            address: self.address.to_string(),
            is_ipv6_only: self.is_ipv6_only,
            is_declared: self.is_declared,
            deserted_since: self.deserted_since,
            socket: self.socket.as_ref().map(|socket| baggage.pack(socket.as_fd())),
            inode: self.socket.as_ref().and_then(Socket::inode),
            next_slot: self.rotation.position(),
            policy: self.chooser.name().to_owned(),
            proxy_protocol: self.proxy_protocol.clone(),
            data: self.data.clone(),
            seats: self.seats.clone(),
            returned: self.returned.save(baggage),
            counters: self.counters,
            is_asked_for: self.is_asked_for,
        }
    }

    /// Goes on with it. Nobody has room until somebody looks. `policy_named` knows the policies by their names; one
    /// that has none any more is replaced by the rotation, with a warning.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Saved, policy_named: impl Fn(&str) -> Option<PolicyKind>) -> io::Result<Self> {
        let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (wanted, address) = (saved.wanted.parse().map_err(bad)?, saved.address.parse().map_err(bad)?);
        let socket = saved.socket.map(baggage::unpack).transpose()?;
        let policy = policy_named(&saved.policy).unwrap_or_else(|| {
            log::warn!("listener={address} policy={} is not known any more [dealing in turn]", saved.policy);
            PolicyKind::RoundRobin
        });
        Ok(Self {
            socket: socket.map(|fd| Socket::restore(fd, &address, saved.inode)),
            wanted,
            address,
            is_ipv6_only: saved.is_ipv6_only,
            is_declared: saved.is_declared,
            deserted_since: saved.deserted_since,
            rotation: Rotation::starting_at(saved.next_slot),
            chooser: Chooser::new(&policy),
            proxy_protocol: saved.proxy_protocol,
            data: saved.data,
            seats: saved.seats,
            readable: true,
            rest: None,
            ending: None,
            returned: Returned::restore(saved.returned)?,
            counters: saved.counters,
            no_room_at: saved.counters.dealt,
            is_asked_for: saved.is_asked_for,
        })
    }

    /// Has connections that come from now on inherit these options; what is set already on a socket that was inherited
    /// stays.
    pub fn set_tcp_options(&self, options: &TcpOptions) {
        let whose = self.bound_by();
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.set_tcp_options(options, whose)) {
            log::warn!("listener={} cannot change its TCP options: {error} [they stay]", self.address);
        }
    }

    fn was_inherited(&self) -> bool {
        matches!(self.wanted, Address::Fd(_) | Address::Systemd(_))
    }

    fn bound_by(&self) -> BoundBy {
        if self.was_inherited() { BoundBy::SomebodyElse } else { BoundBy::Croupier }
    }

    /// The address with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether a worker that asks for `wanted` means this listener: as it was asked for first, as it is bound, or
    /// another way to write the same. Whoever declares a listener has decided whether it is for IPv6 only.
    pub fn answers_to(&self, wanted: &Address, wish: &ListenWish) -> bool {
        let is_of_kind = self.takes_datagrams() == wish.datagrams;
        if self.is_closed() || !is_of_kind || !self.is_declared && self.is_ipv6_only != wish.ipv6_only {
            return false;
        }
        // A name was resolved when it was bound: port 0 of the same host is the same wish.
        let of_any_port = |bound: SocketAddr| wanted.socket_addr() == Some(SocketAddr::new(bound.ip(), 0));
        let was_of_any_port = matches!(self.wanted, Address::Tcp { port: 0, .. });
        self.wanted.is_same_place(wanted)
            || self.address.is_same_place(wanted)
            || was_of_any_port && self.address.socket_addr().is_some_and(of_any_port)
    }

    /// Whether a worker that asks for every address of a port gets this one of them, because it was declared.
    pub fn is_part_of(&self, wanted: &Address, wish: &ListenWish) -> bool {
        let is_of_kind = self.is_declared && !self.is_closed() && self.takes_datagrams() == wish.datagrams;
        let (ours, theirs) = (self.address.socket_addr(), wanted.socket_addr());
        let is_part = |ours: SocketAddr, theirs: SocketAddr| {
            theirs.port() != 0 && ours.port() == theirs.port() && theirs.ip().is_unspecified()
        };
        is_of_kind && ours.zip(theirs).is_some_and(|(ours, theirs)| is_part(ours, theirs))
    }

    /// What the first worker here had for the others, which may be this one.
    pub fn share_data(&mut self, own: Option<&Body>) -> Option<&Body> {
        if self.data.is_none() {
            self.data = own.cloned();
        }
        self.data.as_ref()
    }

    /// Registers the socket.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let is_shared = self.is_shared();
        self.socket.as_mut().filter(|_| !is_shared).map_or(Ok(()), |socket| socket.register(registry, token))
    }

    /// The socket has become readable.
    pub fn has_become_readable(&mut self) {
        self.readable = true;
    }

    /// Whether it is worth calling [`next`](Self::next) now.
    pub fn may_have_connections(&self, now: Monotonic) -> bool {
        if self.rest.as_ref().and_then(|rest| rest.until).is_some_and(|until| now < until) {
            return false;
        }
        !self.returned.is_empty() || self.readable && !self.is_shared() && self.socket.is_some()
    }

    /// The next connection for `worker`: first what came back, oldest first, then the backlog.
    pub fn next_for(&mut self, worker: WorkerId, sequence: &mut u64, now: Monotonic) -> Next {
        if self.returned.is_empty() {
            return self.accept(sequence, now);
        }
        let giver = self.has_other_than(worker).then_some(worker);
        self.next_but_from(giver, sequence, now)
    }

    /// The next connection for one of several workers with room. Somebody among them may have any: if it was given back
    /// it must not go to its giver.
    pub fn next_for_several(&mut self, sequence: &mut u64, now: Monotonic) -> Next {
        self.next_but_from(None, sequence, now)
    }

    fn next_but_from(&mut self, giver: Option<WorkerId>, sequence: &mut u64, now: Monotonic) -> Next {
        match self.returned.next_but_from(giver) {
            Ok(Found::Candidate(candidate)) => Next::Connection(candidate),
            Ok(Found::Nothing) => self.accept(sequence, now),
            Ok(Found::NotForThisWorker) => match self.accept(sequence, now) {
                Next::Nothing => Next::NotForThisWorker,
                accepted => accepted,
            },
            Err(error) => self.rest("cannot receive back", &error, now + ACCEPT_PAUSE),
        }
    }

    /// Who of those that [`chooser`](Self::chooser) was offered gets it.
    pub fn choose(&mut self, candidate: &Candidate) -> Option<Choice> {
        let giver = candidate.came_back.filter(|it| it.not_again).map(|it| it.from);
        self.chooser.choose(&self.address, candidate.record.peer, giver)
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

    /// It was there for workers only, and is closed.
    pub fn is_gone(&self) -> bool {
        !self.is_declared && self.is_closed()
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
        let why = format!("{what}: {error}");
        if self.rest.is_none() {
            self.counters.pauses[pause_reason(error) as usize] += 1;
            log::warn!("listener={} {why} [clients wait in the backlog; trying again]", self.address);
        }
        self.rest = Some(Rest { why, until: Some(until) });
        Next::Resting
    }

    /// Nobody has room. However often that is found, it is one pause until something is dealt again.
    pub fn note_no_room(&mut self) {
        if self.no_room_at != self.counters.dealt {
            self.no_room_at = self.counters.dealt;
            self.counters.pauses[PauseReason::NoRoom as usize] += 1;
        }
    }

    /// Nothing is dealt for a while, for want of descriptors or memory.
    pub fn is_resting(&self) -> bool {
        self.rest.is_some()
    }

    /// What failed, and why, if it rests.
    pub fn rests_because(&self) -> Option<&str> {
        self.rest.as_ref().map(|rest| rest.why.as_str())
    }

    /// There is enough of everything again.
    pub fn resume(&mut self) {
        if self.rest.take().is_some() {
            log::info!("listener={} dealing again", self.address);
        }
    }

    fn accept(&mut self, sequence: &mut u64, now: Monotonic) -> Next {
        loop {
            let Some(socket) = self.socket.as_ref().filter(|_| self.readable && !self.is_shared()) else {
                return Next::Nothing;
            };
            match socket.accept() {
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
        let rested_at = self.rest.as_ref().and_then(|rest| rest.until);
        [rested_at, quiet_at, self.returned.deadline(redeal_timeout)].into_iter().flatten().min()
    }

    /// Lets no new client in, so that the backlog can be dealt empty. See [`Socket::let_nobody_in`].
    pub fn begin_ending(&mut self, now: Monotonic) {
        let (whose, address) = (self.bound_by(), &self.address);
        match (self.socket.as_mut().map(|socket| socket.let_nobody_in(whose)), whose) {
            (Some(Err(error)), BoundBy::Croupier) => {
                log::warn!("listener={address} cannot keep out new clients: {error} [some may be reset]");
            }
            // Later ones are served by whoever listens there next.
            (Some(Err(error)), BoundBy::SomebodyElse) => {
                log::info!("listener={address} goes on taking clients until none waits: {error}");
            }
            (None | Some(Ok(())), _) => {}
        }
        self.ending = Some(Ending::Quieting { until: now + END_QUIET });
    }

    /// The quiet time of an ending may be over: handshakes that completed in it are in the backlog now. And nobody
    /// waits for ever for a worker to take it: returns where those came from that were closed for that.
    pub fn let_time_pass(&mut self, now: Monotonic, redeal_timeout: Duration) -> Vec<CameBack> {
        if let Some(rest) = &mut self.rest {
            rest.until = rest.until.filter(|until| now < *until);
        }
        let expired = self.returned.expire(redeal_timeout, now);
        if !expired.is_empty() {
            self.counters.expired += expired.len() as u64;
            log::warn!(
                "listener={} connections={} came back and nobody took them within {redeal_timeout:?} [closed]",
                self.address,
                expired.len()
            );
        }
        if matches!(self.ending, Some(Ending::Quieting { until }) if now >= until) {
            self.ending = Some(Ending::Emptying);
            self.readable = true;
        }
        expired
    }

    /// Whether an ending has come to its end: everything that there was has been dealt.
    pub fn has_ended(&self) -> bool {
        let is_empty = self.is_backlog_empty() && self.returned.is_empty();
        self.socket.is_none() || self.is_emptying() && is_empty
    }

    /// Nobody new is let in, and those who are there are all that will ever be.
    pub fn is_emptying(&self) -> bool {
        self.ending == Some(Ending::Emptying)
    }

    /// No worker sits here; in a shared listener none ever does.
    pub fn is_vacated(&self) -> bool {
        self.seats.iter().all(Option::is_none)
    }

    /// Nobody waits to be accepted. While no worker has room nobody accepts either, so that no `EAGAIN` has said so:
    /// then this asks the kernel.
    fn is_backlog_empty(&self) -> bool {
        !self.readable || self.socket.as_ref().is_none_or(Socket::is_backlog_empty)
    }

    /// Closes the socket. Returns where the connections came from that nobody took: their clients see the end. A socket
    /// that was inherited is as it was for whoever else has it: systemd keeps it for the next start.
    pub fn close(&mut self) -> Vec<CameBack> {
        self.deserted_since = None;
        let is_inherited = self.was_inherited();
        let filtered = self.socket.take().filter(|_| is_inherited && self.ending.is_some());
        if let Some(Err(error)) = filtered.map(|socket| socket.let_anybody_in()) {
            log::error!("listener={} its filter stays: {error} [close it wherever it is open]", self.address);
        }
        self.returned.clear()
    }
}

fn pause_reason(error: &io::Error) -> PauseReason {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => PauseReason::Descriptors,
        Some(Errno::ENOMEM | Errno::ENOBUFS) => PauseReason::Memory,
        Some(Errno::ETOOMANYREFS) => PauseReason::InFlight,
        _ => PauseReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise each worker would bind it anew, and all but the first in vain.
    #[test]
    fn what_is_bound_instead_of_every_address_is_found_by_the_next_worker_that_asks_for_it() {
        let options = BindOptions { backlog: 1, ipv6_only: false, unix_mode: None, tcp: TcpOptions::default() };
        let address = |text: &str| text.parse::<Address>().unwrap();
        for (bound, asked) in [("127.0.0.1:0", "[::]:0"), ("127.0.0.1:0", "[::]:8000")] {
            let listener = Listener::bind(&address(bound), &options).unwrap().instead_of(&address(asked));
            assert!(listener.answers_to(&address(asked), &ListenWish::default()));
            assert!(listener.answers_to(listener.address(), &ListenWish::default()));
            assert!(!listener.answers_to(&address("[::]:8001"), &ListenWish::default()));
        }
    }
}
