//! Telling the service manager (systemd, or whoever stands in for it) how the primary is, and that its dealing loop
//! goes round. A thread of its own looks at the primary when something has happened, and now and then; it decides
//! nothing, and a service manager that does not listen changes nothing.
//!
//! The messages are lines in a datagram. The packages that send them (sd-notify 0.5) take the socket from the
//! environment, which workers must not see it in, or know no abstract addresses: this is shorter than going round that.
//! Source: sd_notify(3), sd_watchdog_enabled(3).

mod news;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::primary::Primary;
use crate::primary::commands::{Command, Remote, Unsent};
use crate::primary::events::Event;
use crate::sys::{clock, environment};
use news::{Heard, Rate};

/// Where the service manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long it waits for a sign of life, in microseconds.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Whose sign of life; without it, whoever reads this.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// How often the primary is looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon again if it has too much to do to be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a full socket may keep us. Then it is tried again at the next look.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The most events that wait for us. They only say when to look: nothing is lost with one.
const EVENTS_MAX: usize = 256;

/// A service manager that wants to hear of this process.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: OsString,
    /// How long it waits for a sign of life; `None`: it does not.
    watchdog: Option<Duration>,
    /// What it has said to this process, for the next image.
    variables: Vec<(OsString, OsString)>,
}

/// The thread that tells it. Dropping it waits for its last word: drop it after the primary's end.
#[derive(Debug)]
pub(super) struct Notifier {
    thread: Option<JoinHandle<()>>,
}

/// What the thread knows.
struct Teller {
    remote: Remote,
    address: SocketAddr,
    watchdog: Option<Duration>,
    /// When the next sign of life is due.
    next_sign: Option<Instant>,
    heard: Heard,
    rate: Rate,
    /// A reload has, and the service manager has not heard of it.
    reload_ended: bool,
    /// Nobody took the last message: said once.
    is_unheard: bool,
}

impl ServiceManager {
    /// The one that started this process, if it wants to hear. The variables are removed: workers are not meant. To be
    /// called before the first thread.
    pub(super) fn find() -> Option<Self> {
        let variables = [SOCKET, WATCHDOG, WATCHDOG_PID].into_iter().filter_map(|name| {
            let value = std::env::var_os(name);
            environment::remove(name);
            Some((name.into(), value?))
        });
        let variables: Vec<(OsString, OsString)> = variables.collect();
        let value = |name: &str| variables.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_os_str());
        let socket = value(SOCKET).filter(|socket| !socket.is_empty())?.to_owned();
        let watchdog = watchdog(value(WATCHDOG), value(WATCHDOG_PID), std::process::id());
        Some(Self { socket, watchdog, variables })
    }

    /// What the next image of this process needs to find it.
    pub(super) fn variables(&self) -> Vec<(OsString, OsString)> {
        self.variables.clone()
    }

    /// Tells it of `primary`, which is to run. What cannot be is said in the log: the service goes on without.
    pub(super) fn notify(&self, primary: &mut Primary) -> Option<Notifier> {
        let started = address(&self.socket).and_then(|address| {
            let teller = Teller::new(primary.remote(), address, self.watchdog);
            let events = primary.subscribe_to_lives(EVENTS_MAX);
            let thread = std::thread::Builder::new().name("croupier-notify".into()).stack_size(128 * 1024);
            thread.spawn(move || teller.tell_until_the_end(&events))
        });
        match started {
            Ok(thread) => Some(Notifier { thread: Some(thread) }),
            Err(error) => {
                log::warn!("{SOCKET}={}: {error} [going on; nobody is told]", self.socket.display());
                None
            }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It has panicked: the panic itself has said so.
            let _ = thread.join();
        }
    }
}

/// How long the service manager waits for a sign of life of process `pid`.
fn watchdog(micros: Option<&OsStr>, of: Option<&OsStr>, pid: u32) -> Option<Duration> {
    if of.is_some_and(|of| of.to_str() != Some(pid.to_string().as_str())) {
        return None;
    }
    let micros = micros?.to_str()?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

/// `/a/path`, or `@name` for an abstract one.
///
/// # Errors
/// `InvalidInput` for anything else, and for what does not fit into a socket address.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it begins with neither / nor @")),
    }
}

impl Teller {
    fn new(remote: Remote, address: SocketAddr, watchdog: Option<Duration>) -> Self {
        let (heard, rate) = (Heard::nothing_of(std::process::id()), Rate::default());
        Self { remote, address, watchdog, next_sign: None, heard, rate, reload_ended: false, is_unheard: false }
    }

    /// The events end with the primary.
    fn tell_until_the_end(mut self, events: &Receiver<Event>) {
        loop {
            let (looked, now) = (self.look(), Instant::now());
            let next_look = match looked {
                Ok(()) => self.next_sign.map_or(now + LOOK_EVERY, |next_sign| next_sign.min(now + LOOK_EVERY)),
                // Also if a sign of life is due: there is none before it has answered.
                Err(Unsent::Busy) => now + LOOK_AGAIN,
                Err(Unsent::Ended) => break,
            };
            match wait(events, next_look) {
                Ok(reload_ended) => self.reload_ended |= reload_ended,
                Err(Ended) => break,
            }
        }
        if let Some(last) = self.heard.stopping(0) {
            self.send(&last);
        }
    }

    /// Waits for the answer however long it takes: while the loop does not go round, there is no sign of life.
    fn look(&mut self) -> Result<(), Unsent> {
        let glance = self.remote.ask(Command::Glance)?;
        let now = Duration::from_nanos(clock::monotonic_ns());
        let per_second = self.rate.after(glance.accepted, now);
        let mut heard = self.heard.clone();
        let news = heard.news(&glance, per_second, self.reload_ended, now);
        // What was not taken is said again.
        if news.iter().all(|message| self.send(message)) {
            (self.heard, self.reload_ended) = (heard, false);
        }
        if let Some(watchdog) = self.watchdog
            && self.next_sign.is_none_or(|at| Instant::now() >= at)
        {
            self.send("WATCHDOG=1");
            self.next_sign = Some(Instant::now() + watchdog / 2);
        }
        Ok(())
    }

    /// False: nobody took it. The socket is opened anew each time: the service manager may have been restarted.
    fn send(&mut self, message: &str) -> bool {
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            socket.connect_addr(&self.address)?;
            socket.send(message.as_bytes())
        });
        if let Err(error) = &sent
            && !self.is_unheard
        {
            log::warn!("the service manager does not listen on {SOCKET}: {error} [trying again]");
        }
        self.is_unheard = sent.is_err();
        sent.is_ok()
    }
}

/// The primary has ended.
struct Ended;

/// Waits until then, or until something has happened that a look may show. True: also the end of a reload.
fn wait(events: &Receiver<Event>, until: Instant) -> Result<bool, Ended> {
    match events.recv_deadline(until) {
        Ok(first) => {
            let is_end = |event: &Event| matches!(event, Event::Reload { .. });
            // All that are there are taken: one look shows what they did.
            let others = events.try_iter().take(EVENTS_MAX);
            Ok(others.fold(is_end(&first), |has_ended, event| has_ended | is_end(&event)))
        }
        Err(RecvTimeoutError::Timeout) => Ok(false),
        Err(RecvTimeoutError::Disconnected) => Err(Ended),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::primary::commands::{Answer, Change};
    use crate::primary::settings::{Command as WorkerCommand, Settings};
    use crate::primary::supervisor::Stop;

    #[test]
    fn the_watchdog_is_for_one_process_and_needs_a_time() {
        let micros = |text| watchdog(Some(OsStr::new(text)), None, 7);
        assert_eq!(micros("2000000"), Some(Duration::from_secs(2)));
        assert_eq!(["0", "", "soon", "-1"].map(micros), [None; 4]);
        let of = |pid| watchdog(Some(OsStr::new("5")), Some(OsStr::new(pid)), 7).is_some();
        assert_eq!([of("7"), of("8"), of("")], [true, false, false]);
        assert_eq!(watchdog(None, None, 7), None);
    }

    #[test]
    fn sockets_are_paths_or_abstract_names() {
        assert_eq!(address(OsStr::new("/run/it")).unwrap().as_pathname(), Some("/run/it".as_ref()));
        assert_eq!(address(OsStr::new("@it")).unwrap().as_abstract_name(), Some(b"it".as_ref()));
        for bad in ["it", "vsock:2:1234", &format!("/{}", "x".repeat(108))] {
            assert!(address(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    /// The signs of life that arrive until the socket has been silent for much longer than they are apart.
    fn signs_until_silence(socket: &UnixDatagram) -> usize {
        let mut buffer = [0; 1000];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| buffer[..len].starts_with(b"WATCHDOG=1")))
            .filter(|is_sign| *is_sign)
            .count()
    }

    #[test]
    fn there_is_a_sign_of_life_only_while_the_dealing_loop_goes_round() {
        let name = format!("croupier-test-watchdog-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut settings = Settings::of(WorkerCommand::of_this_program().unwrap());
        (settings.plan.worker_count, settings.plan.outlives_workers) = (0, true);
        let mut primary = Primary::bind(settings).unwrap();
        let remote = primary.remote();
        let manager = ServiceManager {
            socket: format!("@{name}").into(),
            watchdog: Some(Duration::from_millis(20)),
            variables: Vec::new(),
        };
        let notifier = manager.notify(&mut primary).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(signs_until_silence(&socket), 0, "the loop does not go round yet");
        let running = std::thread::spawn(move || primary.run());
        let wait_for_sign = || {
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut buffer = [0; 1000];
            while !buffer.starts_with(b"WATCHDOG=1") {
                socket.recv(&mut buffer).unwrap();
            }
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        };
        wait_for_sign();
        let ((hangs, is_hanging), (go_on, waits)) = (mpsc::channel(), mpsc::channel::<()>());
        let hang = Change::new(move |_| {
            hangs.send(()).unwrap();
            _ = waits.recv();
        });
        remote.send(Command::Change(hang, Answer::new(drop))).unwrap();
        is_hanging.recv().unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 1000]).is_ok() {}
        socket.set_nonblocking(false).unwrap();
        assert!(signs_until_silence(&socket) <= 1, "the last answer may have been on its way");
        drop(go_on);
        wait_for_sign();
        remote.send(Command::Stop(Stop::Fast, Answer::new(drop))).unwrap();
        running.join().unwrap().unwrap();
        drop(notifier);
    }
}
