//! What a primary is to do. Plain data, already validated by whoever made it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::Address;
pub use super::dialect::DialectKind;
use super::listener_spec::ListenerSpec;
use super::output::Destination;
use super::policy::PolicyKind;
use super::recycle::Recycle;
use super::reexec::Invocation;
pub use super::socket::{BindOptions, TCP_SECS_MAX, TcpOptions};
use super::supervisor::Plan;
pub use crate::protocol::allow_list::{AllowList, BadAllowList};
use crate::protocol::ids::Slot;
pub use crate::sys::identity::{Identity, Unknown};
pub use crate::sys::limits::OpenFiles;

/// The settings of one primary.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names this primary; `None`: see [`name_with`](Self::name_with).
    pub name: Option<String>,
    /// Bound in this order before any worker starts. Workers may ask for others, unless
    /// [`declared_only`](Self::declared_only).
    pub listeners: Vec<ListenerSpec>,
    /// Who gets the connections of a listener that does not say so itself.
    pub policy: PolicyKind,
    /// Whose PROXY headers the connections of a listener begin with that does not say so itself; `None`: with none.
    /// Workers take them off, so that the primary does not know the address that they name: no policy may go by it.
    pub proxy_protocol: Option<AllowList>,
    /// What is special about workers that are Node programs.
    pub node: NodeOptions,
    /// How they are bound; and those of workers, where these do not say otherwise.
    pub bind: BindOptions,
    /// Workers get declared listeners only.
    pub declared_only: bool,
    /// The listening sockets that `fd:N` and `systemd:NAME` may mean.
    pub inherited: Vec<Inherited>,
    /// The most untaken connections per lane, 1 to [`QUEUE_MAX_LIMIT`].
    pub queue_max: u32,
    /// The most open connections per lane; `None`: what the worker's limit of open files allows, less
    /// [`OPEN_FILES_RESERVED`], divided by the number of listeners.
    pub connections_max: Option<u64>,
    /// A worker that has taken nothing for this long, while connections waited for it and another worker is idle, has
    /// them taken back.
    pub stall_after: Duration,
    /// A worker that has taken nothing for this long, while connections waited, is killed.
    pub hang_timeout: Option<Duration>,
    /// A worker ends connections on which there has been no request for so long, if its program is of that kind; the
    /// library's event loop is. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection that came back and that nobody takes within this time is closed.
    pub redeal_timeout: Duration,
    /// When a worker has served long enough.
    pub recycle: Recycle,
    /// How this process was started, for an upgrade in place; `None`: there is none.
    pub invocation: Option<Invocation>,
    /// What a reload reads again before it replaces workers; `None`: nothing.
    pub configuration: Option<Configuration>,
    /// What a worker is, unless its slot is a group's.
    pub command: Command,
    /// Workers with commands of their own. They have the first slots: `plan.worker_count` counts them too.
    pub groups: Vec<Group>,
    /// The limit of open files of workers; `None`: the primary's.
    pub open_files: Option<OpenFiles>,
    /// Whose workers are; `None`: the primary's user and groups. Needs a primary of root's.
    pub identity: Option<Identity>,
    /// Where the standard output of workers goes.
    pub stdout: Destination,
    /// Where their standard error goes.
    pub stderr: Destination,
    /// How many there are, when they are replaced, and how long things may take.
    pub plan: Plan,
}

/// A descriptor that whoever started this process passed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// Its number. It becomes the listener's own.
    pub fd: RawFd,
    /// What systemd calls it.
    pub name: Option<String>,
}

/// Some workers among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What these are.
    pub command: Command,
    /// How many.
    pub worker_count: u32,
}

/// A variable of the environment: its name and its value.
pub type Variable = (OsString, OsString);

/// Where the settings come from, to read them again.
#[derive(Clone)]
pub struct Configuration(Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>);

/// How workers that are Node programs are treated: those whose [`Command::dialect`] is [`DialectKind::Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOptions {
    /// The most connections per lane that such a worker has not acknowledged, 1 to [`NODE_DEPTH_LIMIT`]. As long as it
    /// lives they cannot be moved: so many wait with one that is stuck. Under a policy that
    /// [keeps clients](super::policy::Policy::keeps_clients) it is at least [`Settings::queue_max`].
    pub depth: u32,
    /// Such a worker is ready when it says `process.send('ready')`, and not when it listens. It is dealt connections
    /// when it has done both.
    pub wait_ready: bool,
    /// Such a worker is sent the message `'shutdown'` before it is told to finish.
    pub shutdown_message: bool,
}

/// What a worker executes, with what, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Looked up in `PATH` if it has no slash.
    pub program: OsString,
    /// Without the program's own name.
    pub arguments: Vec<OsString>,
    /// Added to the environment of the primary.
    pub variables: Vec<Variable>,
    /// `None`: the primary's.
    pub directory: Option<PathBuf>,
    /// How the program is spoken to.
    pub dialect: DialectKind,
}

/// The queue of the socket itself takes 278 records at the default buffer size; `queue_max` must stay below.
pub const QUEUE_MAX_LIMIT: u32 = 256;

/// The default of [`Settings::queue_max`]: see "Benchmarks" in the README for how it was chosen.
pub const QUEUE_MAX_DEFAULT: u32 = 64;

/// The channel of a Node worker takes 278 connections at the default buffer size; the depth must stay below.
pub const NODE_DEPTH_LIMIT: u32 = 256;

/// The default of [`NodeOptions::depth`].
pub const NODE_DEPTH_DEFAULT: u32 = 16;

/// The default of [`BindOptions::backlog`].
pub const BACKLOG_DEFAULT: u32 = 4096;

/// The default of [`Settings::stall_after`].
pub const STALL_AFTER_DEFAULT: Duration = Duration::from_millis(100);

/// The default of [`Settings::redeal_timeout`].
pub const REDEAL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The most listeners that workers have the primary make, over all of them. Above it they are refused with `ENFILE`.
pub const LISTENERS_MAX: usize = 1024;

/// More workers than any machine has use for; a slip of the finger stops here.
pub const WORKERS_MAX: u32 = 4096;

/// Descriptors that a worker keeps for itself: files, logs, connections to databases.
pub const OPEN_FILES_RESERVED: u64 = 64;

/// The longest name of a primary in bytes: it becomes the name of a socket file, and its path must fit.
pub const NAME_MAX_BYTES: usize = 64;

impl Settings {
    /// Workers of this command, one per CPU that this process may use, and the defaults of the README's table. Nothing
    /// is declared: workers get what they ask for.
    pub fn of(command: Command) -> Self {
        // Affinity and cgroup quota are taken into account by the standard library.
        let cpu_count = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Self {
            name: None,
            listeners: Vec::new(),
            policy: PolicyKind::RoundRobin,
            proxy_protocol: None,
            node: NodeOptions { depth: NODE_DEPTH_DEFAULT, wait_ready: false, shutdown_message: false },
            bind: BindOptions {
                backlog: BACKLOG_DEFAULT,
                ipv6_only: false,
                unix_mode: None,
                tcp: TcpOptions::default(),
            },
            declared_only: false,
            inherited: Vec::new(),
            queue_max: QUEUE_MAX_DEFAULT,
            connections_max: None,
            stall_after: STALL_AFTER_DEFAULT,
            hang_timeout: None,
            idle_timeout: None,
            redeal_timeout: REDEAL_TIMEOUT_DEFAULT,
            recycle: Recycle::default(),
            invocation: None,
            configuration: None,
            command,
            groups: Vec::new(),
            open_files: None,
            identity: None,
            stdout: Destination::Inherit,
            stderr: Destination::Inherit,
            plan: Plan::of(cpu_count),
        }
    }

    /// The name as given, else `croupier-ADDRESS-PORT` of the first listener, with the port of `bound` if the kernel
    /// was to choose; `croupier-PID` if that is longer than [`NAME_MAX_BYTES`].
    pub fn name_with(&self, bound: Option<&Address>) -> String {
        let of_listener = |first: &Address| match (first, bound) {
            (Address::Tcp { host, .. }, Some(Address::Tcp { port, .. }))
            | (Address::Tcp { host, port }, _)
            | (Address::Fd(_) | Address::Systemd(_), Some(Address::Tcp { host, port })) => {
                format!("croupier-{host}-{port}")
            }
            (Address::Unix(path), _) | (Address::Fd(_) | Address::Systemd(_), Some(Address::Unix(path))) => {
                format!("croupier{}", path.display().to_string().replace('/', "-"))
            }
            (Address::Fd(_) | Address::Systemd(_), _) => format!("croupier-{first}").replace('/', "-"),
        };
        let given = self.name.clone().or_else(|| self.listeners.first().map(|spec| of_listener(&spec.address)));
        given.filter(|name| name.len() <= NAME_MAX_BYTES).unwrap_or_else(|| format!("croupier-{}", std::process::id()))
    }

    /// Takes what can change while a primary runs from `new`, and keeps the rest: what is bound, opened, or was passed
    /// on is what it is, and so are the name and the groups.
    pub fn adopt(&mut self, new: Settings) {
        self.declared_only = new.declared_only;
        self.queue_max = new.queue_max;
        self.connections_max = new.connections_max;
        self.stall_after = new.stall_after;
        self.hang_timeout = new.hang_timeout;
        self.redeal_timeout = new.redeal_timeout;
        self.recycle = new.recycle;
        self.node = new.node;
        self.command = new.command;
        self.identity = new.identity;
        self.idle_timeout = new.idle_timeout;
        self.plan = Plan { outlives_workers: self.plan.outlives_workers, ..new.plan };
    }

    /// What the worker of `slot` executes.
    pub fn command_of(&self, slot: Slot) -> &Command {
        let mut slot_count = 0;
        let own = self.groups.iter().find(|group| {
            slot_count += group.worker_count;
            slot.0 < slot_count
        });
        own.map_or(&self.command, |group| &group.command)
    }

    /// All of them, the one without a group first.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        std::iter::once(&self.command).chain(self.groups.iter().map(|group| &group.command))
    }

    /// As [`commands`](Self::commands).
    pub fn commands_mut(&mut self) -> impl Iterator<Item = &mut Command> {
        std::iter::once(&mut self.command).chain(self.groups.iter_mut().map(|group| &mut group.command))
    }

    /// The policy of this name, if it is among these settings or built in.
    pub fn policy_named(&self, name: &str) -> Option<PolicyKind> {
        let own = self.listeners.iter().filter_map(|spec| spec.policy.as_ref()).chain([&self.policy]);
        own.chain(&PolicyKind::BUILT_IN).find(|kind| kind.name() == name).cloned()
    }
}

impl Configuration {
    /// `read` is called in a thread of its own, where it may take its time. An error is one line: what is wrong where,
    /// and the remedy.
    pub fn new(read: impl Fn() -> Result<Settings, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(super) fn read(&self) -> Result<Settings, String> {
        (self.0)()
    }
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configuration")
    }
}

impl Command {
    /// This program, without arguments, in this process's directory and with its environment, that uses croupier's
    /// worker library.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: None,
            dialect: DialectKind::Native,
        }
    }

    /// This program itself once more, in another part: how it knows is up to `arguments` and `variables`.
    ///
    /// # Errors
    /// As [`std::env::current_exe`].
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
    }

    /// With one more argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With this variable, whatever its value in this process.
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// In this directory.
    pub fn directory(self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), ..self }
    }

    /// Spoken to in this dialect.
    pub fn dialect(self, dialect: DialectKind) -> Self {
        Self { dialect, ..self }
    }

    /// The command as a person would type it, for logs and errors.
    pub fn display(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }
}
