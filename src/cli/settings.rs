//! From options to settings: the defaults, and the checks that need to look at this machine.

use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::geteuid;

use super::arguments::{LogFormat, RespawnWhen, RunOptions, WorkerCount, WorkerOutput};
use super::inherited::Passed;
use super::prefixed::Prefixed;
use super::{Exit, Failure, dialect, event_log, writer};
use crate::primary::address::Address;
use crate::primary::listener_spec::{ListenerSpec, ProxyProtocol};
use crate::primary::output::Destination;
use crate::primary::policy::PolicyKind;
use crate::primary::recycle::Recycle;
use crate::primary::reexec::Invocation;
use crate::primary::settings::{BindOptions, Command, DialectKind, NodeOptions, Settings, TcpOptions};
use crate::primary::supervisor::{Plan, Respawn};
use crate::sys::identity::{Identity, Unknown};

const LISTEN: &str = "127.0.0.1:8000";

/// The settings that `options` ask for.
///
/// # Errors
/// [`Exit::Usage`] for an address that is there twice, a directory that is none, and the like.
pub(super) fn resolve(options: RunOptions, passed: Passed) -> Result<Settings, Failure> {
    let mut listeners: Vec<ListenerSpec> = options.listen.iter().flat_map(|specs| specs.0.clone()).collect();
    if listeners.is_empty() {
        listeners = passed.activated().into_iter().map(ListenerSpec::from).collect();
    }
    // A command of the user's own asks for the addresses that it wants.
    if listeners.is_empty() && options.command.is_empty() {
        listeners.push(LISTEN.parse::<Address>().expect("the default is an address").into());
    }
    check_twice(&listeners)?;
    check_policies(&listeners, options.policy.as_ref(), options.proxy_protocol.is_some())?;
    if let Some(directory) = options.chdir.as_ref().filter(|directory| !directory.is_dir()) {
        return Err(Failure::new(
            Exit::Usage,
            format!("--chdir {}: there is no such directory; give one that is there", directory.display()),
        ));
    }
    let command = command(&options);
    dialect::check(&options, &listeners, &command)?;
    let format = options.log_format.unwrap_or(LogFormat::Text);
    let default = Settings::of(command);
    let plan = Plan {
        worker_count: worker_count(options.workers)?.unwrap_or(default.plan.worker_count),
        respawn: match options.respawn {
            Some(RespawnWhen::Always) => Respawn::Always,
            Some(RespawnWhen::OnFailure) => Respawn::OnFailure,
            Some(RespawnWhen::Never) => Respawn::Never,
            None => default.plan.respawn,
        },
        outlives_workers: default.plan.outlives_workers,
        burst_max: options.respawn_burst.map_or(default.plan.burst_max, |burst| burst.failures_max),
        burst_window: options.respawn_burst.map_or(default.plan.burst_window, |burst| burst.window),
        start_timeout: options.start_timeout.unwrap_or(default.plan.start_timeout),
        shutdown_timeout: options.shutdown_timeout.unwrap_or(default.plan.shutdown_timeout),
        kill_delay: options.kill_delay.unwrap_or(default.plan.kill_delay),
        shutdown_delay: options.shutdown_delay.unwrap_or(default.plan.shutdown_delay),
        reload_parallel: options.reload_parallel.unwrap_or(default.plan.reload_parallel),
    };
    Ok(Settings {
        name: options.name.map(|name| name.0),
        listeners,
        policy: options.policy.unwrap_or(default.policy),
        proxy_protocol: options.proxy_protocol,
        bind: BindOptions {
            backlog: options.backlog.unwrap_or(default.bind.backlog),
            ipv6_only: options.ipv6_only,
            unix_mode: options.unix_mode,
            tcp: TcpOptions {
                defer_accept_secs: options.defer_accept,
                nodelay: options.nodelay,
                keepalive_secs: options.keepalive,
            },
        },
        declared_only: options.declared_only,
        inherited: passed.all,
        queue_max: options.queue_max.unwrap_or(default.queue_max),
        connections_max: options.connections_max,
        stall_after: options.stall_after.unwrap_or(default.stall_after),
        hang_timeout: options.hang_timeout,
        idle_timeout: options.idle_timeout,
        redeal_timeout: options.redeal_timeout.unwrap_or(default.redeal_timeout),
        invocation: Some(invocation()),
        configuration: None,
        node: NodeOptions {
            depth: options.node_depth.unwrap_or(default.node.depth),
            wait_ready: options.wait_ready,
            shutdown_message: options.shutdown_message,
        },
        recycle: Recycle {
            after: options.recycle_after.map(|it| it.0),
            age: options.recycle_age.map(|it| it.0),
            rss_bytes: options.recycle_rss,
        },
        command: default.command,
        groups: default.groups,
        open_files: default.open_files,
        identity: identity(options.user.as_deref(), options.group.as_deref())?,
        stdout: destination(options.stdout, format),
        stderr: destination(options.stderr, format),
        plan,
    })
}

/// What a worker executes, and how it is spoken to.
fn command(options: &RunOptions) -> Command {
    let (program, arguments) = match options.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => (invocation().program.into(), vec!["demo".into()]),
    };
    let variables = options.env.iter().map(|it| (it.name.clone().into(), it.value.clone().into())).collect();
    let command =
        Command { program, arguments, variables, directory: options.chdir.clone(), dialect: DialectKind::Native };
    let dialect = dialect::resolve(options.dialect, &command);
    command.dialect(dialect)
}

/// Whose workers are to be. A capability to change ids is not enough: only the step down from root takes every
/// capability away, and a worker that could change its ids would be nobody's. Source: capabilities(7).
fn identity(user: Option<&str>, group: Option<&str>) -> Result<Option<Identity>, Failure> {
    let (option, value) = match (user, group) {
        (Some(user), _) => ("--user", user),
        (None, Some(group)) => ("--group", group),
        (None, None) => return Ok(None),
    };
    if !geteuid().is_root() {
        let line = format!("{option} {value}: only root can have workers of somebody else's; start croupier as root");
        return Err(Failure::new(Exit::Usage, line));
    }
    let unknown = |option, value| move |why: Unknown| Failure::new(Exit::Usage, format!("{option} {value}: {why}"));
    let identity = user.map_or_else(|| Ok(Identity::own()), Identity::of_user).map_err(unknown(option, value))?;
    match group {
        Some(group) => identity.with_group(group).map(Some).map_err(unknown("--group", group)),
        None => Ok(Some(identity)),
    }
}

fn destination(wanted: Option<WorkerOutput>, format: LogFormat) -> Destination {
    match wanted {
        None | Some(WorkerOutput::Inherit) => Destination::Inherit,
        Some(WorkerOutput::Null) => Destination::Null,
        Some(WorkerOutput::Prefix) => Destination::Lines(Arc::new(Prefixed::new(format))),
        Some(WorkerOutput::File(path)) => Destination::File(path),
    }
}

fn check_twice(listeners: &[ListenerSpec]) -> Result<(), Failure> {
    for (index, ListenerSpec { address, .. }) in listeners.iter().enumerate() {
        let is_there = listeners[..index].iter().any(|before| before.address == *address);
        // systemd gives all sockets of a unit one name.
        let may_be_several = matches!(address, Address::Tcp { port: 0, .. } | Address::Systemd(_));
        if is_there && !may_be_several {
            return Err(Failure::new(Exit::Usage, format!("--listen {address} is there twice: once is enough")));
        }
    }
    Ok(())
}

/// A policy that goes by an address which only the worker reads, in the PROXY header, would go by the proxy's.
fn check_policies(listeners: &[ListenerSpec], policy: Option<&PolicyKind>, has_headers: bool) -> Result<(), Failure> {
    let hashes = |policy: &PolicyKind| matches!(policy, PolicyKind::SourceHash);
    let is_wrong = |spec: &&ListenerSpec| {
        let has_headers = spec.proxy_protocol.as_ref().map_or(has_headers, |it| *it != ProxyProtocol::Off);
        has_headers && spec.policy.as_ref().or(policy).is_some_and(hashes)
    };
    // Also of the listeners that workers ask for.
    let is_default_wrong = has_headers && policy.is_some_and(hashes);
    let what = match listeners.iter().find(is_wrong) {
        _ if is_default_wrong => "--policy source-hash with --proxy-protocol".to_owned(),
        Some(spec) => format!("--listen {spec}"),
        None => return Ok(()),
    };
    let why = "source-hash goes by the client's address, which with a PROXY header only workers learn";
    Err(Failure::new(Exit::Usage, format!("{what}: {why}; choose another policy, or no headers")))
}

/// Whether all hosts exist, and somebody can listen at all. An image that takes over has its listeners already and
/// does not ask.
///
/// # Errors
/// [`Exit::Usage`], with the host.
pub(super) fn check_listeners(settings: &Settings) -> Result<(), Failure> {
    if settings.listeners.is_empty() && settings.declared_only {
        let line = "--declared-only: no listener is declared; declare one with --listen ADDR";
        return Err(Failure::new(Exit::Usage, line));
    }
    for ListenerSpec { address, .. } in &settings.listeners {
        if let Address::Tcp { host, port } = address {
            Address::resolve(host, *port).map_err(|error| {
                Failure::new(Exit::Usage, format!("--listen {address}: unknown host ({error}); give its IP address"))
            })?;
        }
    }
    Ok(())
}

/// `WEB_CONCURRENCY` is what hosting platforms set for programs of this kind. `None`: one per CPU.
fn worker_count(wanted: Option<WorkerCount>) -> Result<Option<u32>, Failure> {
    let wanted = match (wanted, std::env::var("WEB_CONCURRENCY")) {
        (Some(wanted), _) => wanted,
        (None, Ok(text)) if !text.is_empty() => text
            .parse()
            .map_err(|why| Failure::new(Exit::Usage, format!("WEB_CONCURRENCY={text}: {why}, or unset it")))?,
        (None, _) => WorkerCount::Auto,
    };
    Ok(match wanted {
        WorkerCount::Exactly(count) => Some(count),
        WorkerCount::Auto => None,
    })
}

/// How this process was started. The path is found once: /proc/self/exe goes on naming a file that was replaced.
fn invocation() -> Invocation {
    let mut arguments = std::env::args_os();
    let name = PathBuf::from(arguments.next().unwrap_or_else(|| "croupier".into()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = if name.components().count() > 1 {
        std::path::absolute(&name).ok()
    } else {
        std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file())
    };
    let program = found.or_else(|| std::env::current_exe().ok()).unwrap_or(name);
    Invocation { program, arguments: arguments.collect(), variables: Vec::new(), before_exec: flush }
}

/// Events first: what is said of them goes to the log.
fn flush() {
    event_log::flush();
    writer::flush();
}
