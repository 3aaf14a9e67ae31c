//! The arguments, as clap reads them: flags first, then `CROUPIER_*` variables. Defaults are applied in
//! [`settings`](super::settings).

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::primary::address::Address;
use crate::primary::admin::{EcvPath, MonitorUrl};
use crate::primary::commands::Scale;
use crate::primary::listener_spec::ListenerSpecs;
use crate::primary::policy::PolicyKind;
use crate::primary::recycle::Spread;
use crate::primary::settings::{AllowList, NAME_MAX_BYTES, NODE_DEPTH_LIMIT, TCP_SECS_MAX, WORKERS_MAX};

/// Where the monitor is when nobody says where.
const MONITOR: &str = "127.0.0.1:3001";

/// Deals the connections of one port to several worker processes, evenly, and keeps the workers running.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    override_usage = "croupier [COMMAND]",
    after_help = "`croupier` alone deals 127.0.0.1:8000 to one demo worker per CPU."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a primary and its workers, in the foreground
    Run(Box<RunOptions>),
    /// Validate the options of `run`, bind nothing, print what would be in force
    Check(Box<RunOptions>),
    /// Show the workers and listeners of a running primary
    Status(StatusOptions),
    /// Replace every worker of a running primary, one after the other, and wait until it is done
    Reload(Target),
    /// Replace the program of a running primary by what is now at its path; workers and connections stay
    Upgrade(Target),
    /// Change the number of workers of a running primary
    Scale(ScaleOptions),
    /// Tell load balancers that a running primary is for clients again
    Enable(Target),
    /// Tell load balancers to leave a running primary out; it goes on serving whoever comes
    Disable(Target),
    /// Show what has happened to a running primary lately, a line of JSON for every event
    Events(EventsOptions),
    /// End a running primary: every client is served to the end
    Shutdown(EndOptions),
    /// End a running primary at once
    Stop(EndOptions),
    /// Run the built-in demo worker, a small HTTP server: under a primary it is dealt connections, alone it listens
    /// itself
    Demo(DemoOptions),
    /// Print the completions of a shell: bash, elvish, fish, powershell or zsh
    Completions(CompletionsOptions),
    /// Print the manual page: croupier man | man -l -
    Man,
    /// Say whether this program could take over from a running primary
    #[command(hide = true)]
    UpgradeCheck(UpgradeCheckOptions),
}

#[derive(Debug, Clone, Args)]
pub(super) struct RunOptions {
    /// Options from a file: TOML, the keys are the long options, `command` and `env`. Flags and variables come before
    /// it. A reload reads it again
    #[arg(long, value_name = "FILE", env = "CROUPIER_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// Where to listen before any worker runs: HOST:PORT, [IPV6]:PORT, unix:PATH, fd:N or systemd:NAME (inherited
    /// listening sockets); ADDR,policy=NAME and ADDR,proxy-protocol=CIDR|unix|off are for this one alone. Repeatable;
    /// the first is the default of workers, which may ask for others [default: what systemd has passed; without COMMAND
    /// 127.0.0.1:8000]
    #[arg(short, long, value_name = "ADDR", env = "CROUPIER_LISTEN")]
    pub(super) listen: Vec<ListenerSpecs>,

    /// How many workers; auto: one per CPU that this process may use. WEB_CONCURRENCY is honoured [default: auto]
    #[arg(short, long, value_name = "N|auto", env = "CROUPIER_WORKERS")]
    pub(super) workers: Option<WorkerCount>,

    /// Who gets the next connection, of those workers with room: round-robin, least-connections (whoever has the fewest
    /// open), source-hash (the same worker for the same client IP) or shared (nobody deals: workers accept from the
    /// socket themselves) [default: round-robin]
    #[arg(long, value_name = "NAME", env = "CROUPIER_POLICY")]
    pub(super) policy: Option<PolicyKind>,

    /// How workers are spoken to: native (they use croupier's worker library), node (Node programs as they are, in the
    /// protocol of Node's own cluster) or auto (node if COMMAND is Node, else native) [default: auto]
    #[arg(long, value_name = "NAME", env = "CROUPIER_DIALECT")]
    pub(super) dialect: Option<DialectChoice>,

    /// The most connections of one listener that a Node worker has not acknowledged: so many wait with one that is
    /// stuck [default: 16]
    #[arg(long, value_name = "N", env = "CROUPIER_NODE_DEPTH",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(NODE_DEPTH_LIMIT)))]
    pub(super) node_depth: Option<u32>,

    /// A Node worker is ready when it says process.send('ready'), and not when it listens
    #[arg(long)]
    pub(super) wait_ready: bool,

    /// A Node worker gets the message 'shutdown' before it is told to finish
    #[arg(long)]
    pub(super) shutdown_message: bool,

    /// The backlog of the listeners; the kernel caps it at net.core.somaxconn [default: 4096]
    #[arg(long, value_name = "N", env = "CROUPIER_BACKLOG", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) backlog: Option<u32>,

    /// IPv6 listeners do not take IPv4 clients
    #[arg(long)]
    pub(super) ipv6_only: bool,

    /// The mode of socket files, in octal, like 660 [default: as the umask has it]
    #[arg(long, value_name = "MODE", env = "CROUPIER_UNIX_MODE", value_parser = file_mode)]
    pub(super) unix_mode: Option<u32>,

    /// Accept a client when its first bytes are there, or after so many seconds; TCP only [default: at once]
    #[arg(long, value_name = "SECS", env = "CROUPIER_DEFER_ACCEPT", value_parser = tcp_secs())]
    pub(super) defer_accept: Option<u32>,

    /// Send what workers write at once, however little it is; TCP only
    #[arg(long)]
    pub(super) nodelay: bool,

    /// Ask a client of which nothing has come for so many seconds whether it is still there; TCP only [default: never]
    #[arg(long, value_name = "SECS", env = "CROUPIER_KEEPALIVE", value_parser = tcp_secs())]
    pub(super) keepalive: Option<u32>,

    /// Connections begin with a PROXY header (version 1 or 2), which workers take off; these proxies may send one, and
    /// nobody else may connect: networks, addresses, and unix for clients of Unix listeners [default: no header]
    #[arg(long, value_name = "CIDR|unix,...", env = "CROUPIER_PROXY_PROTOCOL")]
    pub(super) proxy_protocol: Option<AllowList>,

    /// Workers get no other listeners than those of --listen
    #[arg(long)]
    pub(super) declared_only: bool,

    /// The most connections that wait untaken for one worker [default: 64]
    #[arg(long, value_name = "N", env = "CROUPIER_QUEUE_MAX",
          value_parser = clap::value_parser!(u32).range(1..=crate::primary::settings::QUEUE_MAX_LIMIT as i64))]
    pub(super) queue_max: Option<u32>,

    /// The most connections that one worker has open on one listener [default: the worker's limit of open files minus
    /// 64, shared by the listeners]
    #[arg(long, value_name = "N", env = "CROUPIER_CONNECTIONS_MAX", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) connections_max: Option<u64>,

    /// Take connections back from a worker that has taken nothing for this long while another is idle [default: 100ms]
    #[arg(long, value_name = "T", env = "CROUPIER_STALL_AFTER", value_parser = stall_duration)]
    pub(super) stall_after: Option<Duration>,

    /// Kill a worker that has taken nothing for this long while connections waited [default: never]
    #[arg(long, value_name = "T", env = "CROUPIER_HANG_TIMEOUT", value_parser = positive_duration)]
    pub(super) hang_timeout: Option<Duration>,

    /// Have workers end connections on which there has been no request for this long [default: never]
    #[arg(long, value_name = "T", env = "CROUPIER_IDLE_TIMEOUT", value_parser = positive_duration)]
    pub(super) idle_timeout: Option<Duration>,

    /// Close a connection that came back and that nobody takes within this time [default: 30s]
    #[arg(long, value_name = "T", env = "CROUPIER_REDEAL_TIMEOUT", value_parser = positive_duration)]
    pub(super) redeal_timeout: Option<Duration>,

    /// Whether an ended worker is replaced [default: always]
    #[arg(long, value_name = "WHEN", env = "CROUPIER_RESPAWN")]
    pub(super) respawn: Option<RespawnWhen>,

    /// Give up after N failures within SECS of workers that were never ready, while none is ready [default: 5/10]
    #[arg(long, value_name = "N/SECS", env = "CROUPIER_RESPAWN_BURST")]
    pub(super) respawn_burst: Option<Burst>,

    /// How long a worker may take until it listens [default: 30s]
    #[arg(long, value_name = "T", env = "CROUPIER_START_TIMEOUT", value_parser = duration)]
    pub(super) start_timeout: Option<Duration>,

    /// How long workers may take to finish before they get SIGTERM [default: 30s]
    #[arg(long, value_name = "T", env = "CROUPIER_SHUTDOWN_TIMEOUT", value_parser = duration)]
    pub(super) shutdown_timeout: Option<Duration>,

    /// From SIGTERM to SIGKILL [default: 2s]
    #[arg(long, value_name = "T", env = "CROUPIER_KILL_DELAY", value_parser = duration)]
    pub(super) kill_delay: Option<Duration>,

    /// How long to go on accepting after SIGTERM, for the load balancer in front [default: 0s]
    #[arg(long, value_name = "T", env = "CROUPIER_SHUTDOWN_DELAY", value_parser = duration)]
    pub(super) shutdown_delay: Option<Duration>,

    /// Replace a worker after so many connections, plus up to JITTER by chance
    #[arg(long, value_name = "N[+JITTER]", env = "CROUPIER_RECYCLE_AFTER")]
    pub(super) recycle_after: Option<SpreadCount>,

    /// Replace a worker at an age, plus up to JITTER by chance
    #[arg(long, value_name = "T[+JITTER]", env = "CROUPIER_RECYCLE_AGE")]
    pub(super) recycle_age: Option<SpreadTime>,

    /// Replace a worker that has grown to this size (resident memory, like 512MiB)
    #[arg(long, value_name = "SIZE", env = "CROUPIER_RECYCLE_RSS", value_parser = size)]
    pub(super) recycle_rss: Option<u64>,

    /// How many workers a reload replaces at a time [default: 1]
    #[arg(long, value_name = "N", env = "CROUPIER_RELOAD_PARALLEL", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) reload_parallel: Option<u32>,

    /// Where workers run
    #[arg(long, value_name = "DIR", env = "CROUPIER_CHDIR")]
    pub(super) chdir: Option<PathBuf>,

    /// A variable for the workers' environment. Repeatable
    #[arg(long, value_name = "K=V")]
    pub(super) env: Vec<Variable>,

    /// Whose workers are: a name or a number, with that user's groups. Needs root; the primary stays root's
    #[arg(long, value_name = "NAME|UID", env = "CROUPIER_USER")]
    pub(super) user: Option<String>,

    /// The group of workers, in place of their user's primary one. Needs root
    #[arg(long, value_name = "NAME|GID", env = "CROUPIER_GROUP")]
    pub(super) group: Option<String>,

    /// Where workers' standard output goes: where croupier's own goes, nowhere, to the end of a file, or line by line
    /// with the worker's id in front to croupier's own [default: inherit]
    #[arg(long, value_name = "inherit|null|FILE|prefix", env = "CROUPIER_STDOUT", value_parser = worker_output())]
    pub(super) stdout: Option<WorkerOutput>,

    /// The same for workers' standard error [default: inherit]
    #[arg(long, value_name = "inherit|null|FILE|prefix", env = "CROUPIER_STDERR", value_parser = worker_output())]
    pub(super) stderr: Option<WorkerOutput>,

    /// Names this primary, for `croupier status --name` and the like [default: croupier-ADDRESS-PORT of the first
    /// --listen]
    #[arg(long, value_name = "NAME", env = "CROUPIER_NAME")]
    pub(super) name: Option<PrimaryName>,

    /// Where the control socket is [default: NAME.sock in $XDG_RUNTIME_DIR/croupier, else in /run/croupier for root and
    /// /tmp/croupier-UID for others]
    #[arg(long, value_name = "PATH", env = "CROUPIER_CONTROL")]
    pub(super) control: Option<PathBuf>,

    /// Where the monitor is: HTTP for whoever watches this primary. Off unless asked for [default without ADDR:
    /// 127.0.0.1:3001]
    #[arg(long, value_name = "HOST:PORT", env = "CROUPIER_MONITOR", num_args = 0..=1,
          default_missing_value = MONITOR, value_parser = tcp_address)]
    pub(super) monitor: Option<Address>,

    /// Where load balancers ask whether this primary is for clients [default: /ecv]
    #[arg(long, value_name = "PATH", env = "CROUPIER_ECV_PATH")]
    pub(super) ecv_path: Option<EcvPath>,

    /// Tell load balancers to send nobody unless this URL answers 2xx or 3xx. Usually a worker's: http://HOST:PORT/PATH
    #[arg(long, value_name = "URL", env = "CROUPIER_ECV_MONITOR")]
    pub(super) ecv_monitor: Option<MonitorUrl>,

    /// Whoever can connect to the monitor may enable and disable this primary there
    #[arg(long)]
    pub(super) ecv_control: bool,

    /// Write what happens, a line of JSON for every event, to the end of a file or (-) to standard output
    #[arg(long, value_name = "FILE|-", env = "CROUPIER_EVENTS", value_parser = events_to())]
    pub(super) events: Option<EventsTo>,

    /// Keep primary.pid and worker.ID.pid in this directory, as long as those processes run [default: no such files]
    #[arg(long, value_name = "DIR", env = "CROUPIER_PID_DIR")]
    pub(super) pid_dir: Option<PathBuf>,

    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", env = "CROUPIER_LOG_FORMAT")]
    pub(super) log_format: Option<LogFormat>,

    /// Log more: every message of a worker. RUST_LOG works too
    #[arg(short, long, conflicts_with = "quiet")]
    pub(super) verbose: bool,

    /// Log less: warnings and errors only
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// The worker's command and its arguments [default: croupier demo]
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// Which primary is meant.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The primary of this name [default: the only one that runs]
    #[arg(long, value_name = "NAME", env = "CROUPIER_NAME")]
    pub(super) name: Option<PrimaryName>,

    /// The primary with this control socket, whatever its name
    #[arg(long, value_name = "PATH", env = "CROUPIER_CONTROL")]
    pub(super) control: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct StatusOptions {
    #[command(flatten)]
    pub(super) target: Target,

    /// Print it as the primary sends it, in JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Show it again and again, with rates, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,

    /// How often, with --watch
    #[arg(long, value_name = "T", default_value = "1s", requires = "watch", value_parser = positive_duration)]
    pub(super) interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct ScaleOptions {
    /// So many workers, or so many more or fewer
    #[arg(value_name = "N|+N|-N", allow_hyphen_values = true)]
    pub(super) workers: Scale,

    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, Args)]
pub(super) struct EventsOptions {
    #[command(flatten)]
    pub(super) target: Target,

    /// Go on with what happens, until the primary ends
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct EndOptions {
    #[command(flatten)]
    pub(super) target: Target,

    /// Wait for its end, at most this long; exit with 1 if it has not come
    #[arg(long, value_name = "T", value_parser = duration)]
    pub(super) wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsOptions {
    /// Whose
    #[arg(value_name = "SHELL")]
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct UpgradeCheckOptions {
    /// The arguments that it would be started with
    #[arg(last = true)]
    pub(super) arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct DemoOptions {
    /// Where to listen when there is no primary: HOST:PORT, unix:PATH or fd:N, an inherited listening socket
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub(super) listen: String,

    /// Bind with SO_REUSEPORT, so that several can listen on one port without a primary
    #[arg(long)]
    pub(super) reuse_port: bool,

    /// End connections on which there has been no request for this long; a primary's own --idle-timeout is stronger
    /// [default: never]
    #[arg(long, value_name = "T", value_parser = positive_duration)]
    pub(super) idle_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerCount {
    Auto,
    Exactly(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DialectChoice {
    Auto,
    Native,
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RespawnWhen {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// A file of one of the other names is `./prefix` and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WorkerOutput {
    Inherit,
    Null,
    Prefix,
    File(PathBuf),
}

/// A file of the name `-` is `./-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EventsTo {
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Burst {
    pub(super) failures_max: u32,
    pub(super) window: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpreadCount(pub(super) Spread<u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpreadTime(pub(super) Spread<Duration>);

/// A name that can be part of a file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrimaryName(pub(super) String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
}

impl FromStr for WorkerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(WorkerCount::Auto),
            Ok(count @ 1..=WORKERS_MAX) => Ok(WorkerCount::Exactly(count)),
            _ => Err(format!("give a number from 1 to {WORKERS_MAX}, or auto")),
        }
    }
}

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |text: &str| {
            let (failures, secs) = text.split_once('/')?;
            let (failures_max, secs): (u32, u64) = (failures.parse().ok()?, secs.parse().ok()?);
            (failures_max > 0 && secs > 0).then_some(Burst { failures_max, window: Duration::from_secs(secs) })
        };
        read(text).ok_or_else(|| "give failures and seconds, like 5/10".into())
    }
}

impl FromStr for SpreadCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "give a number, like 10000 or 10000+500".to_owned();
        let (base, jitter) = text.split_once('+').unwrap_or((text, "0"));
        match (base.parse().map_err(wrong)?, jitter.parse().map_err(wrong)?) {
            (0, _) => Err("give a number above 0".into()),
            (base, jitter) => Ok(SpreadCount(Spread { base, jitter })),
        }
    }
}

impl FromStr for SpreadTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, jitter) = text.split_once('+').unwrap_or((text, "0"));
        Ok(SpreadTime(Spread { base: positive_duration(base)?, jitter: duration(jitter)? }))
    }
}

impl FromStr for PrimaryName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_fit = |it: char| !it.is_control() && it != '/';
        match text.chars().all(is_fit) && !text.starts_with('.') && (1..=NAME_MAX_BYTES).contains(&text.len()) {
            true => Ok(PrimaryName(text.to_owned())),
            false => Err(format!("give 1 to {NAME_MAX_BYTES} bytes without a slash and without a dot in front")),
        }
    }
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Variable { name: name.into(), value: value.into() }),
            _ => Err("give a name and a value, like MODE=fast".into()),
        }
    }
}

fn worker_output() -> impl TypedValueParser<Value = WorkerOutput> {
    PathBufValueParser::new().map(|path| match path.to_str() {
        Some("inherit") => WorkerOutput::Inherit,
        Some("null") => WorkerOutput::Null,
        Some("prefix") => WorkerOutput::Prefix,
        _ => WorkerOutput::File(path),
    })
}

fn tcp_address(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(address @ Address::Tcp { .. }) => Ok(address),
        _ => Err("give HOST:PORT or [IPV6]:PORT, like 127.0.0.1:3001".into()),
    }
}

fn events_to() -> impl TypedValueParser<Value = EventsTo> {
    PathBufValueParser::new().map(|path| match path.to_str() {
        Some("-") => EventsTo::Stdout,
        _ => EventsTo::File(path),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => humantime::parse_duration(text).map_err(|_| "give a time with a unit, like 500ms, 30s or 2m".into()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("give a time above 0, like 100ms".into()),
        time => Ok(time),
    }
}

/// The primary looks twice in that time: much shorter ones would do nothing else.
fn stall_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_millis(10) => Err("give a time of 10ms or more, like 100ms".into()),
        time => Ok(time),
    }
}

fn tcp_secs() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=i64::from(TCP_SECS_MAX))
}

fn file_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "give a mode in octal, from 0 to 777, like 660".into())
}

/// Bytes, with a unit or without.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err("give a size, like 64KiB, 512MiB or 2GiB".into()),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("give a size above 0, like 64KiB, 512MiB or 2GiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units_and_zero_needs_none() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("30").is_err());
    }

    #[test]
    fn sizes_and_spreads_are_read_with_their_units() {
        assert_eq!((size("512MiB"), size("1K"), size("7")), (Ok(512 << 20), Ok(1024), Ok(7)));
        assert!(size("0").is_err() && size("1XB").is_err() && size("99999999999GiB").is_err());
        assert_eq!("500+20".parse(), Ok(SpreadCount(Spread { base: 500, jitter: 20 })));
        let age = Spread { base: Duration::from_secs(3600), jitter: Duration::from_secs(60) };
        assert_eq!("1h+60s".parse(), Ok(SpreadTime(age)));
        assert!("0".parse::<SpreadCount>().is_err() && "0".parse::<SpreadTime>().is_err());
    }

    #[test]
    fn a_number_of_workers_to_remove_is_no_option() {
        for text in ["4", "+2", "-1"] {
            let arguments = Arguments::try_parse_from(["croupier", "scale", text, "--name", "x"]).unwrap();
            let Command::Scale(options) = arguments.command else { panic!("{arguments:?}") };
            assert_eq!((options.workers.to_string().as_str(), options.target.name), (text, "x".parse().ok()));
        }
        assert!(Arguments::try_parse_from(["croupier", "scale", "--name", "x", "-1"]).is_ok());
        assert!(Arguments::try_parse_from(["croupier", "scale", "-x"]).is_err());
    }

    #[test]
    fn names_can_be_part_of_a_file_s() {
        for text in ["", ".", "..", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(text.parse::<PrimaryName>().is_err(), "{text}");
        }
        assert!("croupier-[::]-80".parse::<PrimaryName>().is_ok());
    }

    #[test]
    fn counts_out_of_range_are_refused() {
        for text in ["0", "4097", "-1", "many", ""] {
            assert!(text.parse::<WorkerCount>().is_err(), "{text}");
        }
        assert!("0/10".parse::<Burst>().is_err() && "5".parse::<Burst>().is_err());
    }
}
