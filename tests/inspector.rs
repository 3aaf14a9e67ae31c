//! Node workers under `--inspect`: each of them has an inspector at a port of its own.
#![cfg(feature = "cli")]

mod support;

use std::fs;

use support::http::Client;
use support::{Croupier, Directory, node};

const SERVER: &str =
    "require('http').createServer((_, answer) => answer.end(process.debugPort + '\\n')).listen(0, '127.0.0.1')";

/// A server, and a host of its own on which every port is free.
struct Program {
    directory: Directory,
    host: String,
}

impl Program {
    fn new(test: u8) -> Self {
        let directory = Directory::new();
        fs::write(directory.file("server.js"), SERVER).unwrap();
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Self { directory, host: format!("127.{}.{high}.{}", 64 + test, low.clamp(1, 254)) }
    }

    /// Two workers of it, with these options for croupier and these arguments of Node's own.
    fn run(&self, options: &[&str], arguments: &[&str]) -> Croupier {
        let options = [&["--workers", "2"], options].concat();
        let (node, server) = (node::program(), self.directory.file("server.js"));
        Croupier::of_command(&options, &[&[node.as_str()], arguments, &[&server]].concat())
    }

    /// What the inspector at this port says, once it is there.
    #[track_caller]
    fn inspector(&self, port: u16) -> String {
        let address = format!("{}:{port}", self.host);
        let ask = || {
            let mut client = Client::connect(&address).ok()?;
            client.send(&format!("GET /json/version HTTP/1.1\r\nHost: {address}\r\n\r\n")).ok()?;
            client.response().ok()
        };
        let answer = support::until(ask).unwrap_or_else(|| panic!("no inspector at {address}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
}

#[test]
fn every_node_worker_has_an_inspector_of_its_own_and_so_has_its_replacement() {
    let program = Program::new(0);
    let croupier = program.run(&[], &["--no-warnings", &format!("--inspect={}:9300", program.host)]);
    for port in [9301, 9302] {
        assert!(program.inspector(port).contains("node.js/"), "{port}");
    }
    croupier.wait_ready(2);
    assert!(croupier.client(&["reload"]).code == Some(0));
    for port in [9303, 9304] {
        assert!(program.inspector(port).contains("node.js/"), "{port}");
    }
}

#[test]
fn node_options_count_as_arguments_do() {
    let program = Program::new(1);
    let options = format!("NODE_OPTIONS=--no-warnings --inspect={}:9300", program.host);
    let _croupier = program.run(&["--env", &options], &[]);
    for port in [9301, 9302] {
        assert!(program.inspector(port).contains("node.js/"), "{port}");
    }
}
