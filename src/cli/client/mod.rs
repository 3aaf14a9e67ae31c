//! The client commands: `status`, `reload`, `upgrade`, `scale`, `events`, `enable`, `disable`, `shutdown`, `stop`. They
//! find a primary, ask it over its control socket, and say what it answered.

mod connection;
mod events;
mod harmless;
mod rates;
mod screen;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::arguments::{EndOptions, PrimaryName, ScaleOptions, StatusOptions, Target};
use super::{Exit, Failure, runtime_directory};
use crate::primary::admin::is_alive;
use crate::primary::status::{Scaled, Status};
use connection::{Connection, Reply};
pub(super) use events::events;
use rates::Rates;
use screen::Screen;

/// How long a primary may take to answer what it answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the image that takes over may take to answer.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
const UPGRADE_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a primary that has obeyed its last command may take to be gone.
const ENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// With `--watch` until somebody interrupts it, nobody reads it any more, or the primary has ended.
pub(super) fn status(options: &StatusOptions) -> Result<(), Failure> {
    let path = find(&options.target)?;
    let mut screen = Screen::open();
    let (mut is_first, mut before): (bool, Option<(Status, Instant)>) = (true, None);
    loop {
        let (reply, now) = (look(&path, is_first)?, Instant::now());
        is_first = false;
        let body = expect_success(&reply)?;
        let written = if options.json {
            screen.write(&harmless::json(&(body.to_owned() + "\n")))
        } else {
            let status: Status = read(body)?;
            let rates = before.as_ref().and_then(|(then, at)| Rates::between(then, &status, now - *at));
            let table = table::of_status(&status, rates.as_ref());
            before = Some((status, now));
            if options.watch { screen.show(&table) } else { screen.write(&table) }
        };
        if !options.watch || written.is_err() {
            return Ok(());
        }
        std::thread::sleep(options.interval.saturating_sub(now.elapsed()));
    }
}

/// An upgrade in place ends the connections of the old image: whoever looks again and again asks the new one.
fn look(path: &Path, is_first: bool) -> Result<Reply, Failure> {
    let ask = || Connection::open(path)?.get("/status", ANSWER_TIMEOUT);
    ask().or_else(|failure| if is_first { Err(failure) } else { ask() })
}

/// Waits for the end of the reload, however long it takes: workers may take long to start.
pub(super) fn reload(target: &Target) -> Result<(), Failure> {
    let reply = connect(target)?.post("/reload", &Value::Null, Duration::MAX)?;
    expect_success(&reply)?;
    write("reloaded: every worker was replaced\n");
    Ok(())
}

/// Of the status no more than is needed: who upgrades is usually newer than the primary, which may lack the rest.
#[derive(Deserialize)]
struct Upgraded {
    upgrades: u32,
}

/// The image that takes over knows nothing of our connection: it breaks, and the count of upgrades says the rest.
pub(super) fn upgrade(target: &Target) -> Result<(), Failure> {
    let upgrades = || -> Result<u32, Failure> {
        let reply = connect(target)?.get("/status", ANSWER_TIMEOUT)?;
        Ok(read::<Upgraded>(expect_success(&reply)?)?.upgrades)
    };
    let before = upgrades()?;
    let mut trouble = match connect(target)?.post("/upgrade", &Value::Null, ANSWER_TIMEOUT) {
        Ok(reply) => return expect_success(&reply).map(drop),
        Err(broken) => broken,
    };
    let deadline = Instant::now() + UPGRADE_TIMEOUT;
    while Instant::now() < deadline {
        match upgrades() {
            Ok(now) if now > before => {
                write("upgraded: the program now at the primary's path goes on\n");
                return Ok(());
            }
            Ok(_) => {}
            Err(failure) => trouble = failure,
        }
        std::thread::sleep(UPGRADE_LOOK_EVERY);
    }
    Err(trouble)
}

pub(super) fn scale(options: &ScaleOptions) -> Result<(), Failure> {
    let body = json!({ "workers": options.workers.to_string() });
    let reply = connect(&options.target)?.post("/scale", &body, ANSWER_TIMEOUT)?;
    let scaled: Scaled = read(expect_success(&reply)?)?;
    write(&format!("workers: {} -> {}\n", scaled.workers_before, scaled.workers));
    Ok(())
}

pub(super) fn enable(target: &Target) -> Result<(), Failure> {
    set_enabled(target, "/ecv/enable", "enabled: load balancers are told that it is for clients\n")
}

pub(super) fn disable(target: &Target) -> Result<(), Failure> {
    set_enabled(target, "/ecv/disable", "disabled: load balancers are told to leave it out; it goes on serving\n")
}

fn set_enabled(target: &Target, path: &str, done: &str) -> Result<(), Failure> {
    expect_success(&connect(target)?.post(path, &Value::Null, ANSWER_TIMEOUT)?)?;
    write(done);
    Ok(())
}

pub(super) fn shutdown(options: &EndOptions) -> Result<(), Failure> {
    end("/shutdown", options)
}

pub(super) fn stop(options: &EndOptions) -> Result<(), Failure> {
    end("/stop", options)
}

fn end(path: &str, options: &EndOptions) -> Result<(), Failure> {
    let connection = connect(&options.target)?;
    let process = connection.process();
    let posted = connection.post(path, &Value::Null, ANSWER_TIMEOUT);
    if let Err(failure) = posted.and_then(|reply| expect_success(&reply).map(drop)) {
        // It was about to end anyway, and may have gone without an answer.
        let has_ended = process.is_ok_and(|process| process.wait_end(ENDING_TIMEOUT));
        return if has_ended { Ok(()) } else { Err(failure) };
    }
    let Some(timeout) = options.wait else { return Ok(()) };
    let process = process.map_err(|error| failed(format!("cannot wait for the primary's end: {error}")))?;
    if process.wait_end(timeout) {
        return Ok(());
    }
    let timeout = humantime::format_duration(timeout);
    Err(failed(format!("the primary has not ended within {timeout}; it goes on finishing (`croupier stop` is faster)")))
}

fn connect(target: &Target) -> Result<Connection, Failure> {
    let path = find(target)?;
    Connection::open(&path)
}

/// The socket of the primary that is meant.
fn find(target: &Target) -> Result<PathBuf, Failure> {
    match target {
        Target { control: Some(path), .. } => Ok(path.clone()),
        Target { name: Some(PrimaryName(name)), .. } => Ok(runtime_directory::socket_of(name)),
        Target { control: None, name: None } => find_only(),
    }
}

fn find_only() -> Result<PathBuf, Failure> {
    let mut sockets = runtime_directory::sockets().map_err(failed)?;
    // One that cannot be asked counts: whoever asks it will be told why.
    sockets.retain(|(_, path)| !matches!(is_alive(path), Ok(None)));
    if sockets.len() > 1 {
        let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
        return Err(failed(format!("several primaries run: {}; choose one with --name", names.join(", "))));
    }
    let no_primary = || failed("no primary runs; start one with `croupier run`, or name its socket with --control");
    sockets.pop().map(|(_, path)| path).ok_or_else(no_primary)
}

/// The body of a good answer; of another one, its error.
fn expect_success(reply: &Reply) -> Result<&str, Failure> {
    if reply.is_success {
        return Ok(&reply.body);
    }
    let error = serde_json::from_str::<Value>(&reply.body).ok();
    let error = error.as_ref().and_then(|body| body.get("error")?.as_str()).unwrap_or(&reply.body);
    Err(failed(format!("the primary says: {error}")))
}

fn read<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, Failure> {
    let another = |error| failed(format!("the primary's answer is of another version of croupier: {error}"));
    serde_json::from_str(body).map_err(another)
}

fn failed(line: impl Into<String>) -> Failure {
    Failure::new(Exit::Failed, line)
}

fn write(text: &str) {
    // Nobody reads: nothing to do about it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
