//! Node programs that only start the server, as `npm start` does: the server is no worker, and croupier says so.
#![cfg(feature = "cli")]

mod support;

use std::fs;

use support::http::{self, Client};
use support::{Croupier, Directory, node};

/// Starts what its argument names, as npm starts a script: in its own process group, and without its channel.
const WRAPPER: &str = "require('child_process').spawn(process.execPath, process.argv.slice(2), { stdio: 'inherit' })";
/// Says where it listens, for whoever wants to ask.
const SERVER: &str = "
    const server = require('http').createServer((_, answer) => answer.setHeader('x-worker', 0).end('hello'));
    server.listen(process.argv[2] || 0, () => console.error(`bypassing at ${JSON.stringify(server.address())}`));
";
const WARNING: &str = "has not asked to listen, but pid=";

struct Program(Directory);

impl Program {
    fn new() -> Self {
        let directory = Directory::new();
        fs::write(directory.file("wrapper.js"), WRAPPER).unwrap();
        fs::write(directory.file("server.js"), SERVER).unwrap();
        Self(directory)
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Croupier {
        let mut run = support::undeclared(options);
        run.args(["--", &node::program(), &self.0.file("wrapper.js"), &self.0.file("server.js")]).args(words);
        Croupier::spawn(run)
    }
}

#[test]
fn a_server_beside_croupier_is_named_once_with_where_it_listens_and_what_to_do() {
    let program = Program::new();
    let croupier = program.run(&["--workers", "2", "--start-timeout", "5s"], &[]);
    let warning = croupier.log().wait_for(WARNING);
    let said = croupier.log().wait_for_count("bypassing at ", 2);
    let ports =
        said.iter().filter_map(|line| line.split("\"port\":").nth(1)?.trim_end_matches('}').parse::<u16>().ok());
    let port = ports.into_iter().find(|port| warning.contains(&format!("listens on [::]:{port} [nothing is dealt")));
    let port = port.unwrap_or_else(|| panic!("no such port: {warning}"));
    assert_eq!(http::get(&format!("127.0.0.1:{port}")).unwrap().status, 200);
    let server = program.0.file("server.js");
    for part in [" WARN ", &format!(" {server}`, which it has started"), "write its command after --"] {
        assert!(warning.contains(part), "no {part:?} in {warning}");
    }
    // By then there was time for another look, and the other worker is of the same command.
    croupier.log().wait_for_count("[taken for ready]", 2);
    assert_eq!(croupier.log().lines().iter().filter(|line| line.contains(WARNING)).count(), 1);
}

#[test]
fn a_unix_path_is_found_too() {
    let program = Program::new();
    let path = program.0.file("server.sock");
    let croupier = program.run(&["--workers", "1"], &[&path]);
    let warning = croupier.log().wait_for(WARNING);
    assert!(warning.contains(&format!("listens on unix:{path} [")), "{warning}");
    Client::connect_unix(&path).unwrap().get().unwrap();
}
