//! `croupier check`: what `run` would do, without doing it.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::arguments::{EventsTo, RunOptions};
use super::doors::DoorOptions;
use super::program::Place;
use super::run::APPEND_REMEDY;
use super::sources::Given;
use super::{Exit, Failure, dialect, inherited, log_writer, settings};
use crate::primary::output::{Destination, Stream};
use crate::primary::recycle::Recycle;
use crate::primary::settings::{DialectKind, NodeOptions, Settings};
use crate::primary::supervisor::Respawn;

pub(super) fn check(options: RunOptions, given: &Given) -> Result<(), Failure> {
    let doors = DoorOptions::of(&options);
    let events = options.events.clone();
    let settings = check_settings(options).and_then(|settings| {
        check_events(events.as_ref())?;
        Ok(settings)
    });
    let settings = settings.map_err(|failure| given.blame(failure))?;
    if let Some(warning) = dialect::warning(&settings.command) {
        log_writer::say(&warning);
    }
    // Nobody reads: nothing to do about it.
    let _ = std::io::stdout().write_all(effective(&settings, &doors, given).as_bytes());
    Ok(())
}

fn check_settings(options: RunOptions) -> Result<Settings, Failure> {
    let settings = settings::resolve(options, inherited::find()?)?;
    settings::check_listeners(&settings)?;
    find_program(&settings)?;
    for (stream, destination) in [(Stream::Stdout, &settings.stdout), (Stream::Stderr, &settings.stderr)] {
        if let Destination::File(path) = destination {
            may_append(path).map_err(|why| {
                Failure::new(Exit::Usage, format!("--{stream} {}: {why}; {APPEND_REMEDY}", path.display()))
            })?;
        }
    }
    Ok(settings)
}

fn check_events(events: Option<&EventsTo>) -> Result<(), Failure> {
    match events {
        None | Some(EventsTo::Stdout) => Ok(()),
        Some(EventsTo::File(path)) => may_append(path)
            .map_err(|why| Failure::new(Exit::Usage, format!("--events {}: {why}; {APPEND_REMEDY}", path.display()))),
    }
}

/// Whether the command is there and may be executed.
///
/// # Errors
/// [`Exit::CannotStartWorkers`].
pub(super) fn find_program(settings: &Settings) -> Result<(), Failure> {
    let command = &settings.command;
    if Place::of(command).find(&command.program).is_some() {
        return Ok(());
    }
    let line = format!("{}: not found or not executable; check the path of the command", command.program.display());
    Err(Failure::new(Exit::CannotStartWorkers, line))
}

/// Whether a file could be opened to write to its end, and created if it is not there.
fn may_append(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match access(path, AccessFlags::W_OK) {
        Ok(()) if path.is_dir() => Err(Errno::EISDIR.into()),
        Err(Errno::ENOENT) => Ok(access(folder, AccessFlags::W_OK | AccessFlags::X_OK)?),
        result => Ok(result?),
    }
}

/// One line per setting, in TOML that `--config` takes. Those that [`Settings`] does not have stand there as given.
fn effective(settings: &Settings, doors: &DoorOptions, given: &Given) -> String {
    let Settings { listeners, policy, bind, command, plan, .. } = settings;
    let words = std::iter::once(&command.program).chain(&command.arguments);
    let variables = command.variables.iter().map(|(name, value)| format!("{}={}", name.display(), value.display()));
    let respawn = match plan.respawn {
        Respawn::Always => "always",
        Respawn::OnFailure => "on-failure",
        Respawn::Never => "never",
    };
    let name = settings.name_with(None);
    let mut lines = vec![
        format!("name = {}", text(&name)),
        format!("listen = {}", texts(listeners.iter().map(ToString::to_string).collect())),
        format!("policy = {}", text(policy.name())),
        format!("workers = {}", plan.worker_count),
        format!("command = {}", texts(words.map(|word| word.to_string_lossy().into_owned()).collect())),
        format!("backlog = {}", bind.backlog),
        format!("ipv6-only = {}", bind.ipv6_only),
        format!("declared-only = {}", settings.declared_only),
        match settings.hang_timeout {
            Some(timeout) => format!("hang-timeout = {}", time(timeout)),
            None => "# hang-timeout: never".into(),
        },
        format!("redeal-timeout = {}", time(settings.redeal_timeout)),
        format!("respawn = {}", text(respawn)),
        format!("respawn-burst = {}", text(&format!("{}/{}", plan.burst_max, plan.burst_window.as_secs()))),
        format!("start-timeout = {}", time(plan.start_timeout)),
        format!("shutdown-timeout = {}", time(plan.shutdown_timeout)),
        format!("kill-delay = {}", time(plan.kill_delay)),
        format!("shutdown-delay = {}", time(plan.shutdown_delay)),
        format!("reload-parallel = {}", plan.reload_parallel),
        format!("env = {}", texts(variables.collect())),
    ];
    lines.extend(of_dialect(settings));
    let proxies = settings.proxy_protocol.as_ref().map(ToString::to_string);
    lines.extend(proxies.map(|proxies| format!("proxy-protocol = {}", text(&proxies))));
    lines.extend(bind.tcp.defer_accept_secs.map(|secs| format!("defer-accept = {secs}")));
    lines.push(format!("nodelay = {}", bind.tcp.nodelay));
    lines.extend(bind.tcp.keepalive_secs.map(|secs| format!("keepalive = {secs}")));
    lines.extend(doors.lines(&name));
    lines.extend(bind.unix_mode.map(|mode| format!("unix-mode = \"{mode:o}\"")));
    let Recycle { after, age, rss_bytes } = settings.recycle;
    lines.extend(after.map(|it| format!("recycle-after = {}", text(&format!("{}+{}", it.base, it.jitter)))));
    let human = |time| humantime::format_duration(time).to_string();
    lines.extend(age.map(|it| format!("recycle-age = {}", text(&format!("{}+{}", human(it.base), human(it.jitter))))));
    lines.extend(rss_bytes.map(|bytes| format!("recycle-rss = {}", text(&format!("{bytes}B")))));
    if let Some(directory) = &command.directory {
        lines.push(format!("chdir = {}", text(&directory.display().to_string())));
    }
    for (stream, destination) in [(Stream::Stdout, &settings.stdout), (Stream::Stderr, &settings.stderr)] {
        let destination = match destination {
            Destination::Inherit => "inherit".into(),
            Destination::Null => "null".into(),
            Destination::Lines(_) => "prefix".into(),
            Destination::File(path) => path.display().to_string(),
        };
        lines.push(format!("{stream} = {}", text(&destination)));
    }
    if let Some(identity) = &settings.identity {
        let groups = serde_json::Value::from(identity.groups.as_slice());
        lines.extend([format!("user = {}", identity.uid), format!("group = {}", identity.gid)]);
        lines.push(format!("# groups: {groups}"));
    }
    for (key, words) in &given.options {
        if !lines.iter().any(|line| line.starts_with(&format!("{key} = "))) {
            let value = match &words[..] {
                [] => "true".into(),
                [word] => text(word),
                words => texts(words.to_vec()),
            };
            lines.push(format!("{key} = {value}"));
        }
    }
    lines.join("\n") + "\n"
}

/// What there is in one dialect, and is refused in the other.
fn of_dialect(settings: &Settings) -> Vec<String> {
    match settings.command.dialect {
        DialectKind::Native => vec![
            "dialect = \"native\"".into(),
            format!("queue-max = {}", settings.queue_max),
            match settings.connections_max {
                Some(connections_max) => format!("connections-max = {connections_max}"),
                None => "# connections-max: the worker's limit of open files minus 64, shared by the listeners".into(),
            },
            format!("stall-after = {}", time(settings.stall_after)),
            match settings.idle_timeout {
                Some(timeout) => format!("idle-timeout = {}", time(timeout)),
                None => "# idle-timeout: never".into(),
            },
        ],
        DialectKind::Node => {
            let NodeOptions { depth, wait_ready, shutdown_message } = settings.node;
            vec![
                "dialect = \"node\"".into(),
                format!("node-depth = {depth}"),
                format!("wait-ready = {wait_ready}"),
                format!("shutdown-message = {shutdown_message}"),
            ]
        }
    }
}

fn time(time: Duration) -> String {
    text(&humantime::format_duration(time).to_string())
}

fn text(text: &str) -> String {
    as_toml(&text.into())
}

fn texts(texts: Vec<String>) -> String {
    as_toml(&texts.into())
}

/// Its texts and lists are TOML's too, but for the one control character that it leaves as it is.
fn as_toml(json: &serde_json::Value) -> String {
    json.to_string().replace('\u{7f}', "\\u007f")
}
