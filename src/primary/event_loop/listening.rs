//! What workers listen on: their lanes, and the listeners that are made because a worker asks, and closed after the
//! last one.
//!
//! The first worker that asks for an address has it bound, later ones share it. It is closed when the last one says
//! that it closes it. If the last one only died or drains, its replacement is given the time to ask again: clients
//! wait in the backlog meanwhile. Declared listeners stay whatever workers do.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;

use super::conversation::echo;
use super::token::Source;
use super::{Primary, UNASKED_AFTER};
use crate::primary::address::Address;
use crate::primary::dialect::{DialectKind, Grant, ListenRequest};
use crate::primary::events;
use crate::primary::kept::Kept;
use crate::primary::lanes::{InFlight, Phase};
use crate::primary::lifecycle::{self, State};
use crate::primary::listener_spec::{ListenerSpec, ProxyProtocol};
use crate::primary::listeners::{BindError, Listener};
use crate::primary::returned::Reason;
use crate::primary::room::Bounds;
use crate::primary::settings::{BindOptions, Inherited, LISTENERS_MAX, OPEN_FILES_RESERVED};
use crate::primary::supervisor::Event;
use crate::primary::workers::Worker;
use crate::protocol::control::ListenWish;
use crate::protocol::deal_channel;
use crate::protocol::ids::{LaneId, WorkerId};
use crate::protocol::scoreboard::LANES_MAX;
use crate::protocol::time::Monotonic;
use crate::sys::{fd_passing, limits};

/// How long a listener on which nobody listens any more is kept for a replacement that is ready already.
const DESERTED_FOR: Duration = Duration::from_secs(2);

/// Up to here ports need a privilege, unless the machine says otherwise. Source: ip(7), `ip_unprivileged_port_start`.
const PRIVILEGED_PORT_LAST: u16 = 1023;

/// Why a worker does not get a lane.
struct Refusal {
    errno: Errno,
    reason: String,
}

/// Binds what a worker asks for. Where there is no IPv6, every address is every one of IPv4.
fn bind_anywhere(address: &Address, options: &BindOptions) -> Result<Listener, BindError> {
    let bound = Listener::bind(address, options);
    let has_no_ipv6 = |error: &BindError| {
        matches!(Errno::from_raw(error.errno()), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) && !options.ipv6_only
    };
    match (address, bound) {
        (Address::Tcp { host, port }, Err(error)) if host == "::" && has_no_ipv6(&error) => {
            let every_ipv4 = Address::Tcp { host: "0.0.0.0".into(), port: *port };
            Listener::bind(&every_ipv4, options).map(|listener| listener.instead_of(address))
        }
        (_, bound) => bound,
    }
}

fn refusal<T>(errno: Errno, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { errno, reason: reason.into() })
}

/// What workers ask for takes three quarters of the primary's descriptors at most: the others are for connections, and
/// for workers to come.
fn few_descriptors<T>() -> Result<T, Refusal> {
    refusal(
        Errno::ENFILE,
        "the primary keeps its last file descriptors for connections (raise its limit of open files)",
    )
}

impl Primary {
    /// Binds a listener that is there before any worker runs.
    pub(super) fn declare(&mut self, spec: &ListenerSpec) -> Result<(), BindError> {
        let address = &spec.address;
        let listener = match address {
            Address::Tcp { .. } | Address::Unix(_) => Listener::bind(address, &self.settings.bind)?,
            Address::Fd(number) => self.inherit(address, |it| it.fd == *number)?,
            Address::Systemd(name) => self.inherit(address, |it| it.name.as_ref() == Some(name))?,
        };
        let policy = spec.policy.as_ref().unwrap_or(&self.settings.policy);
        let proxies = match &spec.proxy_protocol {
            Some(ProxyProtocol::Of(proxies)) => Some(proxies.clone()),
            Some(ProxyProtocol::Off) => None,
            None => self.settings.proxy_protocol.clone(),
        };
        let listener = listener.declared().dealing_by(policy).behind(proxies);
        self.add_listener(listener).map_err(|error| BindError::new(address, error))?;
        Ok(())
    }

    /// The first inherited socket of that kind, which is nobody else's from then on.
    fn inherit(&mut self, address: &Address, is_it: impl Fn(&Inherited) -> bool) -> Result<Listener, BindError> {
        let inherited = &mut self.settings.inherited;
        let found = inherited.iter().position(is_it).map(|index| inherited.remove(index).fd);
        let fd = found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EBADF)).and_then(fd_passing::adopt_fd);
        Listener::inherit(address, fd.map_err(|error| BindError::new(address, error))?, &self.settings.bind.tcp)
    }

    fn add_listener(&mut self, mut listener: Listener) -> io::Result<usize> {
        let vacant = self.vacant_place();
        let index = vacant.unwrap_or(self.listeners.len());
        listener.register(self.poll.registry(), Source::Listener(index).token())?;
        self.ledger.open_account(&listener.address().to_string(), listener.is_declared());
        match vacant {
            Some(index) => {
                let old = std::mem::replace(&mut self.listeners[index], listener);
                self.ledger.enter_listener(&old.address().to_string(), old.counters);
            }
            None => self.listeners.push(listener),
        }
        Ok(index)
    }

    /// The place of a listener that is closed, and that no lane knows any more.
    fn vacant_place(&self) -> Option<usize> {
        let is_known = self.which_have(|_| true);
        (0..self.listeners.len()).find(|index| self.listeners[*index].is_gone() && !is_known[*index])
    }

    /// For every listener, whether there is a lane of it in such a phase. One pass: there may be a thousand of both.
    fn which_have(&self, is_such: impl Fn(Phase) -> bool) -> Vec<bool> {
        let mut have = vec![false; self.listeners.len()];
        let lanes = self.workers.iter().flat_map(|worker| worker.lanes().map(|(_, lane)| lane));
        lanes.filter(|lane| is_such(lane.phase())).for_each(|lane| have[lane.listener] = true);
        have
    }

    /// All lanes of a listener, those that have ended included.
    fn lanes_of(&self, index: usize) -> impl Iterator<Item = (WorkerId, Phase)> {
        let of_all = self.workers.iter().flat_map(|worker| worker.lanes().map(|(_, lane)| (worker.id, lane)));
        of_all.filter(move |(_, lane)| lane.listener == index).map(|(id, lane)| (id, lane.phase()))
    }

    fn has_lane(&self, id: WorkerId, index: usize) -> bool {
        self.lanes_of(index).any(|(worker, phase)| worker == id && phase != Phase::Ended)
    }

    pub(super) fn listen(&mut self, id: WorkerId, wanted: &ListenRequest) {
        let Some(worker) = self.workers.get(id) else { return };
        if !worker.state().hears() {
            let why = match worker.dialect.kind() {
                DialectKind::Native => "it asked to listen before it said hello",
                DialectKind::Node => "its program must be in a file: Node makes no whole worker of `node -e`",
            };
            return self.end_worker(id, why);
        }
        let Err(Refusal { errno, reason }) = self.grant(id, wanted) else { return };
        let Some(worker) = self.workers.get_mut(id) else { return };
        log::warn!("worker={id} may not listen: {reason}");
        if let Err(error) = worker.dialect.refuse(wanted.request, errno as i32, reason) {
            self.cannot_answer(id, &error);
        }
    }

    /// First a lane, then the listener: none is bound that nobody has a lane for.
    fn grant(&mut self, id: WorkerId, wanted: &ListenRequest) -> Result<(), Refusal> {
        let lane_id = self.free_lane(id)?;
        let index = self.find_or_make(id, &wanted.wish)?;
        let opened = self.open_lane(id, lane_id, index, wanted);
        self.note_deserted();
        opened
    }

    fn free_lane(&mut self, id: WorkerId) -> Result<LaneId, Refusal> {
        let ended = |worker: &Worker| {
            let ended = worker.lanes().filter(|(_, lane)| lane.phase() == Phase::Ended);
            ended.map(|(lane_id, _)| lane_id).collect::<Vec<_>>()
        };
        // What it gave back through one of them would be lost with it.
        for lane_id in self.workers.get(id).map(ended).unwrap_or_default() {
            self.hear_from_below(id, lane_id);
        }
        let free = self.workers.get_mut(id).and_then(Worker::free_lane);
        free.map_or_else(|| refusal(Errno::EMFILE, format!("a worker can have {LANES_MAX} listeners")), Ok)
    }

    fn find_or_make(&mut self, id: WorkerId, wish: &ListenWish) -> Result<usize, Refusal> {
        let Some(text) = &wish.address else {
            let is_it = |it: &Listener| it.is_declared() && !it.is_closed() && it.takes_datagrams() == wish.datagrams;
            let first = self.listeners.iter().position(is_it);
            let none = || Refusal { errno: Errno::EADDRNOTAVAIL, reason: "no listener is declared: name one".into() };
            return self.unless_it_has_it(id, first.ok_or_else(none)?);
        };
        let address: Address = match text.parse() {
            Ok(address) => address,
            Err(error) => return refusal(Errno::EINVAL, error.to_string()),
        };
        let meant = self.meant_by(&address, wish);
        let is_any_port = matches!(address, Address::Tcp { port: 0, .. });
        match meant.iter().find(|index| !self.has_lane(id, **index)) {
            Some(index) => Ok(*index),
            None if is_any_port || wish.reuse_address || meant.is_empty() => self.make(id, &address, wish),
            None => self.unless_it_has_it(id, meant[0]),
        }
    }

    /// The listeners that a wish may mean. Who asks for every address of a port means the declared one with that port,
    /// if there is one: beside it nobody could bind them all.
    fn meant_by(&self, address: &Address, wish: &ListenWish) -> Vec<usize> {
        let such = |is_it: &dyn Fn(&Listener) -> bool| {
            (0..self.listeners.len()).filter(|it| is_it(&self.listeners[*it])).collect::<Vec<_>>()
        };
        let exactly = such(&|it| it.answers_to(address, wish));
        if exactly.is_empty() { such(&|it| it.is_part_of(address, wish)) } else { exactly }
    }

    fn unless_it_has_it(&self, id: WorkerId, index: usize) -> Result<usize, Refusal> {
        if self.has_lane(id, index) {
            let address = self.listeners[index].address();
            return refusal(Errno::EADDRINUSE, format!("this worker listens on {address} already"));
        }
        Ok(index)
    }

    /// Binds what a worker asks for.
    fn make(&mut self, id: WorkerId, address: &Address, wish: &ListenWish) -> Result<usize, Refusal> {
        let name = echo(&address.to_string());
        let is_undeclared = |why: &str| {
            let declared = self.listeners.iter().filter(|it| it.is_declared() && !it.is_closed());
            let declared: Vec<String> = declared.map(|it| it.address().to_string()).collect();
            format!("{name} is not declared ({why}); --listen declares {}", declared.join(" "))
        };
        if self.supervisor.is_stopping() {
            return refusal(Errno::ESHUTDOWN, "croupier is stopping");
        }
        if self.settings.declared_only {
            return refusal(Errno::EACCES, is_undeclared("--declared-only"));
        }
        let has_other_user = self.settings.identity.is_some();
        match address {
            Address::Fd(_) | Address::Systemd(_) => {
                return refusal(Errno::EBADF, is_undeclared("inherited sockets must be"));
            }
            // Asking a name server would stop the one loop.
            Address::Tcp { .. } if address.socket_addr().is_none() => {
                return refusal(Errno::EINVAL, is_undeclared("ask for its IP address"));
            }
            // The primary's rights are not those of its workers.
            Address::Unix(_) if has_other_user => {
                return refusal(Errno::EACCES, is_undeclared("with --user, Unix paths must be"));
            }
            Address::Tcp { port: 1..=PRIVILEGED_PORT_LAST, .. } if has_other_user => {
                return refusal(Errno::EACCES, is_undeclared("with --user, ports below 1024 must be"));
            }
            Address::Tcp { .. } | Address::Unix(_) => {}
        }
        if self.listeners.iter().filter(|it| !it.is_declared() && !it.is_closed()).count() >= LISTENERS_MAX {
            return refusal(Errno::ENFILE, format!("workers have {LISTENERS_MAX} listeners already"));
        }
        // An inherited umask is no reason to be stricter or laxer than the worker asks.
        let bind = &self.settings.bind;
        let options = BindOptions {
            backlog: wish.backlog.filter(|backlog| *backlog > 0).unwrap_or(bind.backlog),
            ipv6_only: wish.ipv6_only,
            unix_mode: wish.unix_mode.map(|mode| mode & 0o777).or(bind.unix_mode),
            tcp: bind.tcp,
        };
        let bound = match wish.datagrams {
            true => Listener::bind_datagrams(address, wish),
            false => bind_anywhere(address, &options).map(|listener| {
                listener.dealing_by(&self.settings.policy).behind(self.settings.proxy_protocol.clone())
            }),
        };
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => {
                return refusal(Errno::from_raw(error.errno()), format!("listen on {name}: {}", error.plainly()));
            }
        };
        if listener.is_of_the_last_descriptors() {
            return few_descriptors();
        }
        log::info!("listener={} bound for worker={id}", listener.address());
        self.add_listener(listener).map_err(|error| Refusal { errno: Errno::ENFILE, reason: error.to_string() })
    }

    /// Answers with a new lane of a listener.
    fn open_lane(
        &mut self,
        id: WorkerId,
        lane_id: LaneId,
        index: usize,
        wanted: &ListenRequest,
    ) -> Result<(), Refusal> {
        let bounds = self.bounds(id, index, &wanted.wish);
        let Some(kind) = self.workers.get(id).map(|worker| worker.dialect.kind()) else { return Ok(()) };
        if kind == DialectKind::Node && self.listeners[index].proxies().is_some() {
            return refusal(Errno::EPROTONOSUPPORT, "Node programs cannot read PROXY headers");
        }
        let in_flight = self.in_flight(id, lane_id, index, kind)?;
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        let listener = &mut self.listeners[index];
        listener.is_asked_for = true;
        listener.deserted_since = None;
        let data = listener.share_data(wanted.data.as_ref()).cloned();
        let (address, shared) = (listener.address().clone(), listener.is_shared());
        let grant = Grant { lane: lane_id, address, shared, proxy_protocol: listener.proxies().cloned(), data };
        let fd = match &in_flight {
            InFlight::Queued { retained, .. } => retained.as_ref().map(AsFd::as_fd),
            InFlight::Kept(_) => listener.shared_socket(),
        };
        if let Err(error) = worker.dialect.grant(wanted.request, grant, fd) {
            self.cannot_answer(id, &error);
            return Ok(());
        }
        let is_draining = worker.state() == State::Draining;
        let (before, slot) = (worker.open_lane(lane_id, index, in_flight, bounds), worker.slot);
        let Some(lane) = worker.lane_mut(lane_id) else { return Ok(()) };
        let shared = listener.shared_socket().map(|socket| lane.share(socket)).transpose();
        if is_draining {
            // Its other lanes were ended when it was told to finish; this one must not keep it.
            lane.end();
        }
        if let Some((listener, counted)) = before.and_then(|mut it| Some((it.listener, it.counted()?))) {
            self.ledger.enter_lane(&self.listeners[listener].address().to_string(), slot, &counted);
        }
        if let Err(error) = shared {
            self.end_worker(id, &format!("it cannot be given the socket of its listener: {error}"));
        }
        Ok(())
    }

    /// What a new lane has for connections in flight.
    fn in_flight(&self, id: WorkerId, lane: LaneId, index: usize, kind: DialectKind) -> Result<InFlight, Refusal> {
        if kind == DialectKind::Node {
            return Ok(InFlight::Kept(Kept::default()));
        }
        let no_descriptor = |error| Refusal {
            errno: Errno::ENFILE,
            reason: format!("the primary has no file descriptor left: {error}"),
        };
        let (primary_end, retained) = deal_channel::pair().map_err(no_descriptor)?;
        if !self.listeners[index].is_declared() && limits::is_in_last_quarter(retained.as_fd()) {
            return few_descriptors();
        }
        let token = Source::Deal(id, lane).token();
        let fd = primary_end.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE).map_err(no_descriptor)?;
        Ok(InFlight::Queued { primary_end, retained: Some(retained) })
    }

    /// The primary's bounds, or the worker's where they are lower.
    fn bounds(&self, id: WorkerId, index: usize, wish: &ListenWish) -> Bounds {
        let kind = self.workers.get(id).map(|worker| worker.dialect.kind());
        if kind == Some(DialectKind::Node) {
            // How many it has open nobody knows; it refuses when it has enough.
            let depth = self.settings.node.depth;
            let keeps_clients = self.listeners[index].chooser.keeps_clients();
            let queue_max = if keeps_clients { depth.max(self.settings.queue_max) } else { depth };
            return Bounds { queue_max: queue_max.into(), connections_max: u64::MAX };
        }
        let open_files_max = self.workers.get(id).map_or(0, |worker| worker.open_files_max);
        let declared_count = self.settings.listeners.len().max(1) as u64;
        let share = open_files_max.saturating_sub(OPEN_FILES_RESERVED) / declared_count;
        let connections_max = self.settings.connections_max.unwrap_or(share);
        let queue_max = u64::from(self.settings.queue_max);
        Bounds {
            queue_max: wish.queue_max.map_or(queue_max, |own| queue_max.min(own.into())).max(1),
            connections_max: wish.connections_max.map_or(connections_max, |own| connections_max.min(own.into())).max(1),
        }
    }
}

impl Primary {
    /// The worker takes from a lane: connections are dealt to it from now on.
    pub(super) fn listening(&mut self, id: WorkerId, lane_id: LaneId) {
        let may_serve = self.supervisor.may_serve(id);
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(lane) = worker.lane_mut(lane_id) else {
            return self.end_worker(id, &format!("it listens on lane {lane_id}, which it does not have"));
        };
        if !may_serve || !lane.set_listening() {
            return; // it was told to finish in the meantime, and its seat may be somebody else's
        }
        let address = self.listeners[lane.listener].address().to_string();
        if worker.apply(lifecycle::Event::Listening).is_err() {
            return self.end_worker(id, "it listens before it said hello");
        }
        let who = worker.who();
        self.note_ready(id, &address);
        self.subscribers.tell_of(who, || events::Event::Listening { worker: id, address });
        if self.supervisor.holds_slot(id) {
            self.seat(id);
        } else if !self.supervisor.expects(id) {
            // It was turned away, or replaced, in the meantime: the seat is another's.
            if let Some(lane) = self.workers.lane_mut(id, lane_id) {
                lane.end();
            }
            self.note_deserted();
        }
    }

    /// The worker has bound a socket itself. There is nothing to deal, but it is ready.
    pub(super) fn listening_alone(&mut self, id: WorkerId, address: &str) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.apply(lifecycle::Event::Listening).is_err() {
            return self.end_worker(id, "it listens before it said hello");
        }
        let who = worker.who();
        self.note_ready(id, &format!("{address} (a socket of its own)"));
        self.subscribers.tell_of(who, || events::Event::Listening { worker: id, address: address.to_owned() });
    }

    /// The worker listens on nothing, and that is all right.
    pub(super) fn ready_without_listening(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.apply(lifecycle::Event::Listening).is_err() {
            return self.end_worker(id, "it is ready before it is online");
        }
        self.note_ready(id, "nothing");
    }

    /// Workers that could not be told apart from those that start slowly, and whose time to start is over: a Node
    /// program need not listen, or may have a socket of its own without a word.
    pub(super) fn wait_no_longer(&mut self, now: Monotonic) {
        let plan = self.settings.plan;
        let is_over = |worker: &Worker| now >= worker.started_at + plan.start_timeout;
        let may_be_silent = |worker: &Worker| worker.state() == State::Online && worker.ready_since.is_none();
        let silent = self.workers.iter().filter(|it| it.dialect.may_be_silent() && may_be_silent(it) && is_over(it));
        for id in silent.map(|worker| worker.id).collect::<Vec<_>>() {
            log::warn!("worker={id} has not asked to listen in {:?} [taken for ready]", plan.start_timeout);
            self.ready_without_listening(id);
        }
    }

    fn note_ready(&mut self, id: WorkerId, address: &str) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.ready_since.is_some() || worker.has_exited {
            return;
        }
        let now = Monotonic::now();
        worker.ready_since = Some(now);
        log::info!("worker={id} pid={} listening on {address}", worker.process.pid());
        // It may be the one that they wait for, and is about to ask for them too.
        for since in self.listeners.iter_mut().filter_map(|listener| listener.deserted_since.as_mut()) {
            *since = now;
        }
        if self.unasked_at.is_none() && id.0 <= self.settings.plan.worker_count {
            self.unasked_at = Some(now + UNASKED_AFTER);
        }
        self.decide(Event::Ready(id));
    }

    /// A worker gets its seats in the rotations, wherever it listens. Whoever sat there has been replaced.
    pub(super) fn seat(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.state() == State::Ready) else { return };
        let slot = worker.slot.0 as usize;
        for lane_id in worker.lane_ids() {
            if let Some(lane) =
                worker.lane_mut(lane_id).filter(|lane| lane.phase() == Phase::Listening && lane.is_dealt())
                && !lane.stall.is_probed()
            {
                self.listeners[lane.listener].seat(slot, id, lane_id);
            }
        }
        for lane_id in self.workers.get(id).map(|worker| worker.lane_ids()).unwrap_or_default() {
            self.look_for_room(id, lane_id);
        }
    }

    /// The worker says that it takes no more from a lane. If it was the last one on a listener that is there for
    /// workers only, the listener closes with it.
    pub(super) fn close_lane_as_told(&mut self, id: WorkerId, lane_id: LaneId) {
        let Some(lane) = self.workers.lane_mut(id, lane_id) else { return };
        let (index, had_ended) = (lane.listener, lane.phase() == Phase::Ended);
        // A Node worker that leaves, or starts its server anew, says no more than that it closes it.
        let is_final = !lane.keeps_copies();
        self.close_lane(id, lane_id, Reason::Untaken);
        if !is_final {
            self.note_deserted();
        } else if !had_ended && !self.anyone_listens(index) {
            self.close_if_made_for_workers(index);
        }
    }

    /// The lane ends, and what is untaken goes to others.
    fn close_lane(&mut self, id: WorkerId, lane_id: LaneId, reason: Reason) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let slot = worker.slot.0 as usize;
        let Some(lane) = worker.lane_mut(lane_id) else { return };
        let listener = &mut self.listeners[lane.listener];
        listener.unseat(slot, id, lane_id);
        lane.end();
        if let Some(retained) = lane.take_retained() {
            listener.returned.inherit_untaken(retained, (id, lane_id), reason, Monotonic::now());
        }
        if reason == Reason::Died {
            self.bring_back_kept(id, lane_id);
        }
        let Some(worker) = self.workers.get_mut(id) else { return };
        if !worker.listens() && worker.apply(lifecycle::Event::LastClosed).is_err() {
            self.end_worker(id, "it closed a lane before it said hello");
        }
    }

    /// Its channel has ended.
    pub(super) fn close_lanes(&mut self, id: WorkerId) {
        let lanes = self.workers.get(id).map(|worker| worker.lane_ids()).unwrap_or_default();
        for lane in lanes {
            self.close_lane(id, lane, Reason::Died);
        }
        self.note_deserted();
    }

    pub(super) fn anyone_listens(&self, index: usize) -> bool {
        self.lanes_of(index).any(|(_, phase)| phase != Phase::Ended)
    }

    /// Workers have died or drain: notes on which listeners nobody listens now.
    pub(super) fn note_deserted(&mut self) {
        let now = Monotonic::now();
        let is_wanted = self.which_have(|phase| phase != Phase::Ended);
        for (listener, is_wanted) in self.listeners.iter_mut().zip(is_wanted) {
            if !listener.is_declared() && !listener.is_closed() && !is_wanted {
                listener.deserted_since.get_or_insert(now);
            }
        }
    }

    /// When somebody is to [look](Self::close_deserted) for deserted listeners.
    pub(super) fn deserted_deadline(&self) -> Option<Monotonic> {
        self.listeners.iter().filter_map(|listener| listener.deserted_since).min().map(|since| since + DESERTED_FOR)
    }

    /// Closes listeners to which nobody came back, unless a worker is still on its way.
    pub(super) fn close_deserted(&mut self, now: Monotonic) {
        let someone_comes = self.supervisor.awaits_anyone();
        for index in 0..self.listeners.len() {
            match self.listeners[index].deserted_since {
                Some(since) if now < since + DESERTED_FOR => {}
                Some(_) if someone_comes => self.listeners[index].deserted_since = Some(now),
                Some(_) => self.close_if_made_for_workers(index),
                None => {}
            }
        }
    }

    fn close_if_made_for_workers(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        if listener.is_declared() || listener.is_closed() {
            return;
        }
        let dropped = listener.close();
        dropped.iter().for_each(|it| self.workers.count_received_back(it));
        let (address, count) = (listener.address(), dropped.len());
        log::info!("listener={address} closed: no worker listens there [connections={count} ended]");
    }
}
