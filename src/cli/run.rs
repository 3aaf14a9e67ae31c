//! `croupier run`: from options to a running primary, and from its end to an exit code.

use log::LevelFilter;

use super::arguments::{LogFormat, RunOptions};
use super::doors::{self, DoorOptions};
use super::event_log::EventLog;
use super::notify::ServiceManager;
use super::pid_files::PidFiles;
use super::sources::Given;
use super::{Exit, Failure, dialect, inherited, log_writer, rereading, settings};
use crate::primary::address::Address;
use crate::primary::admin::Admin;
use crate::primary::output::OpenError;
use crate::primary::reexec::state::State;
use crate::primary::settings::{DialectKind, Settings};
use crate::primary::supervisor::Outcome;
use crate::primary::{Ending, Primary, StartError};
use crate::sys::limits;
use crate::sys::signals::{self, Signal, Signals};

/// What the primary reads from its signalfd.
const SIGNALS: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// What to do about a file for workers' output that cannot be opened.
pub(super) const APPEND_REMEDY: &str = "give a file that croupier may append to";

pub(super) fn run(options: RunOptions, given: &Given) -> Result<(), Failure> {
    log_writer::speak(options.log_format.unwrap_or(LogFormat::Text));
    run_primary(options, given).map_err(|failure| given.blame(failure))
}

fn run_primary(options: RunOptions, given: &Given) -> Result<(), Failure> {
    let passed = inherited::find()?;
    let service_manager = ServiceManager::find();
    // Before the first thread: a signal goes to any thread that does not block it.
    let signals = block_signals()?;
    let level = match (options.verbose, options.quiet) {
        (true, _) => LevelFilter::Debug,
        (_, true) => LevelFilter::Warn,
        _ => LevelFilter::Info,
    };
    log_writer::install(level);
    let doors = DoorOptions::of(&options);
    let (is_demo, events) = (options.command.is_empty(), options.events.clone());
    let pid_dir = options.pid_dir.clone();
    let mut state = State::claim().map_err(failed("take over from the old image"))?;
    let carried = state.as_mut().map(State::carried_doors).transpose();
    let carried = carried.map_err(failed("take over the control socket"))?.unwrap_or_default();
    let lock = state.as_mut().map(State::carried_lock).transpose();
    let lock = lock.map_err(failed("take over the pid directory"))?.flatten();
    let configuration = given.file().map(|_| rereading::configuration(given.clone(), passed.clone()));
    let mut settings = settings::resolve(options, passed)?;
    settings.configuration = configuration;
    if state.is_none() {
        settings::check_listeners(&settings)?;
    }
    if let (Some(invocation), Some(manager)) = (&mut settings.invocation, &service_manager) {
        invocation.variables = manager.variables();
    }
    let raised = limits::raise_open_files().map_err(failed("raise the limit of open files"))?;
    settings.open_files = state.as_ref().and_then(|state| state.open_files).or(Some(raised));
    warn_of_tight_limits(&settings);

    let is_new = state.is_none();
    let events = events.map(|to| EventLog::open(to, is_new)).transpose()?;
    let started = match state {
        None => Primary::bind(settings.clone()),
        Some(state) => Primary::take_over(settings.clone(), state),
    };
    let mut primary = started.map_err(|error| match error {
        StartError::Bind(_) => Failure::new(Exit::CannotListen, error.to_string()),
        StartError::Output(OpenError { stream, path, error }) => {
            Failure::new(Exit::Usage, format!("--{stream} {}: {error}; {APPEND_REMEDY}", path.display()))
        }
        StartError::Listener(_) | StartError::OutOfRange { .. } => Failure::new(Exit::Usage, error.to_string()),
        StartError::EventLoop(_) => Failure::new(Exit::Failed, error.to_string()),
    })?;
    primary.obey(signals).map_err(failed("read signals"))?;
    let admin = doors::open(&mut primary, doors, carried);
    let admin = going_on_without("control socket and monitor", is_new, admin)?;
    let pid_files = PidFiles::keep(&mut primary, pid_dir.as_deref(), lock);
    let pid_files = going_on_without("pid files", is_new, pid_files)?.flatten();
    if let Some(file) = given.file() {
        log::info!("config={}", file.display());
    }
    if let Some(warning) = dialect::warning(&settings.command) {
        log::warn!("{warning}");
    }
    if is_new {
        announce(&settings, &primary, admin.as_ref(), is_demo);
    }
    let events = events.map(|events| events.start(&mut primary)).transpose();
    let events = events.map_err(failed("start a thread for events"))?;
    let notifier = service_manager.and_then(|manager| manager.notify(&mut primary));
    let ending = primary.run().map_err(failed("wait for events"))?;
    drop((admin, notifier, events, pid_files));
    conclude(&ending)
}

/// At the start everything must be there. To an image that takes over the service matters more than what comes with it.
fn going_on_without<T>(what: &str, is_new: bool, made: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match made {
        Err(failure) if !is_new => {
            log::error!("{} [going on without {what}]", failure.line);
            Ok(None)
        }
        made => made.map(Some),
    }
}

/// SIGCHLD only as PID 1, which inherits strangers: our own children are waited for through their pidfds.
fn block_signals() -> Result<Signals, Failure> {
    let mut set = SIGNALS.to_vec();
    if std::process::id() == 1 {
        set.push(Signal::SIGCHLD);
    }
    signals::stop_ignoring_children().map_err(failed("take SIGCHLD"))?;
    Signals::block(&set).map_err(failed("block signals"))
}

pub(super) fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::new(Exit::Failed, format!("{what}: {error}"))
}

/// In flight at once per unprivileged user: the sender's limit of open files, over all channels together. Source:
/// unix(7), ETOOMANYREFS.
fn warn_of_tight_limits(settings: &Settings) {
    let lanes = u64::from(settings.plan.worker_count) * settings.listeners.len().max(1) as u64;
    let (in_lane, option) = match settings.command.dialect {
        DialectKind::Native => (settings.queue_max, "--queue-max"),
        DialectKind::Node => (settings.node.depth, "--node-depth"),
    };
    let in_flight = lanes * u64::from(in_lane);
    let limit = settings.open_files.map_or(u64::MAX, |limit| limit.hard);
    if in_flight > limit / 2 {
        log::warn!(
            "up to {in_flight} connections may be in flight, and the limit of open files is {limit}: \
             croupier may have to pause; raise `ulimit -n` or lower {option}"
        );
    }
}

fn announce(settings: &Settings, primary: &Primary, admin: Option<&Admin>, is_demo: bool) {
    let (workers, command) = (settings.plan.worker_count, settings.command.display());
    let dialect = match settings.command.dialect {
        DialectKind::Native => "",
        DialectKind::Node => " dialect=node",
    };
    log::info!("name={} pid={} version={}", primary.name(), std::process::id(), env!("CARGO_PKG_VERSION"));
    if let Some(admin) = admin {
        log::info!("control={}", admin.path().display());
        if let Some(address) = admin.monitor() {
            log::info!("monitor=http://{address}/");
        }
    }
    for address in primary.addresses() {
        log::info!("dealing {address} to workers={workers} command=`{command}`{dialect}");
    }
    if primary.addresses().next().is_none() {
        log::info!("dealing what workers ask for to workers={workers} command=`{command}`{dialect}");
    }
    if is_demo && let Some(first) = primary.addresses().next() {
        match first {
            Address::Tcp { .. } => log::info!("try: curl http://{first}/ (again and again: every worker in turn)"),
            Address::Unix(path) => log::info!("try: curl --unix-socket {} http://localhost/", path.display()),
            Address::Fd(_) | Address::Systemd(_) => {}
        }
    }
}

fn conclude(ending: &Ending) -> Result<(), Failure> {
    let detail = ending.last_failure.as_deref().unwrap_or("it failed");
    match ending.outcome {
        Outcome::Stopped | Outcome::WorkersEnded { all_succeeded: true } => {
            log::info!("stopped");
            Ok(())
        }
        Outcome::StoppedByForce => {
            let timeout = humantime::format_duration(ending.shutdown_timeout);
            let line =
                format!("stopped, but workers had not finished and were cut off (--shutdown-timeout is {timeout})");
            Err(Failure::new(Exit::Failed, line))
        }
        Outcome::WorkersEnded { all_succeeded: false } => {
            Err(Failure::new(Exit::Failed, "the last worker has ended, not all of them with exit code 0 (--respawn)"))
        }
        Outcome::GaveUp(why) => {
            let (command, remedy) = (ending.command.display(), dialect::remedy(&ending.command, why));
            let line = format!("cannot start workers: `{command}`: {detail}; {remedy}");
            Err(Failure::new(Exit::CannotStartWorkers, line))
        }
    }
}
