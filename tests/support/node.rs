//! Node programs as workers: those in `tests/node`, none of which has a line for croupier.

use std::process::Command;

use croupier::primary::output::Destination;
use croupier::primary::settings::{self, DialectKind, Settings};
use croupier::primary::supervisor::{Plan, Respawn};
use serde_json::Value;

use super::http::Client;
use super::script::free_port;
use super::{Croupier, Directory, Outcome};

/// Names the Node to test with; otherwise it is `node` of PATH.
const NODE: &str = "CROUPIER_TEST_NODE";

/// The Node to test with.
pub fn program() -> String {
    std::env::var(NODE).unwrap_or_else(|_| "node".into())
}

/// Its major version: some of what a program can do is new.
#[track_caller]
pub fn version() -> u32 {
    let mut command = Command::new(program());
    command.arg("--version");
    let says = Outcome::of(command).assert_ok().stdout.clone();
    let major = says.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    major.unwrap_or_else(|| panic!("no version: {says:?}"))
}

/// The path of a program in `tests/node`.
pub fn path(name: &str) -> String {
    format!("{}/tests/node/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// `run` with workers that are Node, executed with these words.
pub fn run(run: Command, words: &[&str]) -> Command {
    run_by(&program(), run, words)
}

/// The same with this Node.
pub fn run_by(node: &str, mut run: Command, words: &[&str]) -> Command {
    run.args(["--dialect=node", "--", node]).args(words);
    run
}

/// A primary with one declared address, whose workers are a program of `tests/node` with these arguments: it knows the
/// port from PORT.
pub fn start(options: &[&str], program: &str, arguments: &[&str]) -> Croupier {
    let path = path(program);
    start_words(options, &[&[path.as_str()], arguments].concat())
}

/// The same with the words after `node` as they are.
pub fn start_words(options: &[&str], words: &[&str]) -> Croupier {
    Croupier::spawn(served(super::PROGRAM, options, words))
}

/// What starts it, with this croupier.
pub fn served(croupier: &str, options: &[&str], words: &[&str]) -> Command {
    let port = free_port();
    let mut command = super::plain(croupier);
    command.args(["run", &format!("--listen=127.0.0.1:{port}"), &format!("--env=PORT={port}")]).args(options);
    run(command, words)
}

/// A request for a path, to be the last one on its connection.
pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

/// What `http.js` sees of the world.
#[track_caller]
pub fn world(address: &str) -> Value {
    let mut client = Client::connect(address).unwrap();
    client.send(&request("/json")).unwrap();
    let response = client.response().unwrap();
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// A client whose request a worker has begun to serve: [`finish`] it.
#[track_caller]
pub fn begin(address: &str) -> Client {
    let mut client = Client::connect(address).unwrap();
    client.send("POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").unwrap();
    client.proceed().unwrap();
    client
}

/// The worker that has served it.
#[track_caller]
pub fn finish(mut client: Client) -> u32 {
    client.send("x").unwrap();
    client.response().unwrap().worker()
}

/// As settings have it, for a primary inside the test: one worker that is not replaced, and nothing declared. What it
/// writes nobody reads.
pub fn settings(words: &[&str]) -> Settings {
    let command = words.iter().fold(settings::Command::new(program()), |command, word| command.argument(word));
    let plan = Plan { respawn: Respawn::Never, ..Plan::of(1) };
    Settings { plan, stderr: Destination::Null, ..Settings::of(command.dialect(DialectKind::Node)) }
}

/// The same with workers that follow a script: see `tests/node/script.js`.
pub fn scripted_settings(place: &Directory, script: &str) -> Settings {
    let place = place.path().to_str().expect("temporary paths are text");
    settings(&[&path("script.js"), place, script])
}
