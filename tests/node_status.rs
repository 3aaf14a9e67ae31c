//! What the status and the metrics say of Node workers: what they are, and no number that nobody knows.
#![cfg(feature = "cli")]

mod support;

use std::fs;

use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::{Croupier, Directory, node, processes, wait_until};

const SERVER: &str = "
    const { worker } = require('cluster');
    const greet = (_, answer) => answer.setHeader('x-worker', worker.id).end('hello');
    require('http').createServer(greet).listen(0, '127.0.0.1');
";

struct Server(Directory);

impl Server {
    fn new() -> Self {
        let directory = Directory::new();
        fs::write(directory.file("server.js"), SERVER).unwrap();
        Self(directory)
    }

    fn run(&self, options: &[&str]) -> Croupier {
        let mut run = support::undeclared(options);
        run.args(["--", &node::program(), &self.0.file("server.js")]);
        Croupier::spawn(run)
    }
}

/// Where the server listens, once so many workers do.
fn address(croupier: &Croupier, worker_count: usize) -> String {
    let lines = croupier.log().wait_for_count(" listening on ", worker_count);
    let address = lines[0].split(" listening on ").nth(1).and_then(|rest| rest.split(' ').next());
    address.expect("the line names it").to_owned()
}

fn metrics(croupier: &Croupier) -> String {
    let mut scraper = Client::connect_unix(&croupier.control()).unwrap();
    scraper.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    scraper.response().unwrap().body
}

#[test]
fn nobody_is_told_how_many_connections_node_workers_have_open() {
    let server = Server::new();
    let croupier = server.run(&["--workers", "2"]);
    let address = address(&croupier, 2);
    let mut client = Client::connect(&address).unwrap();
    assert_eq!(client.get().unwrap().worker(), 1);
    assert_eq!(http::next_workers(&address, 1), [2]);

    let status = croupier.status();
    for worker in status["workers"].as_array().unwrap() {
        assert_eq!((&worker["dialect"], &worker["open"], &worker["taken"]), (&"node".into(), &().into(), &1.into()));
    }
    let table = croupier.client(&["status"]).assert_ok().stdout.clone();
    assert!(table.contains("DIALECT  UNTAKEN  TAKEN") && table.contains(" node "), "{table}");
    let metrics = metrics(&croupier);
    assert!(metrics.contains(&format!("croupier_taken_total{{listener=\"{address}\",slot=\"0\"}} 1\n")), "{metrics}");
    for family in ["croupier_closed_total", "croupier_cut_total", "croupier_open_connections"] {
        assert!(!metrics.contains(family), "{family} in:\n{metrics}");
    }
}

/// How many clients its end has cut would be the difference to those taken.
#[test]
fn nor_how_many_a_node_worker_had_closed_when_it_ended() {
    let server = Server::new();
    let croupier = server.run(&["--workers", "1"]);
    let address = address(&croupier, 1);
    let mut client = Client::connect(&address).unwrap();
    client.get().unwrap();
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    let line = croupier.log().wait_for(" exited signal=9");
    assert!(line.contains(" dealt=1 reclaimed=0 taken=1 untaken=0 "), "{line}");
}

#[test]
fn what_native_workers_have_open_is_said_as_ever() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    let mut client = Client::connect(&croupier.wait_ready(1)).unwrap();
    client.get().unwrap();
    let worker = &croupier.status()["workers"][0];
    assert_eq!((&worker["dialect"], &worker["open"]), (&"native".into(), &1.into()));
    assert!(!croupier.client(&["status"]).assert_ok().stdout.contains("DIALECT"));
}

#[test]
fn what_node_workers_accept_themselves_has_no_metrics_at_all() {
    let server = Server::new();
    let croupier = server.run(&["--workers", "1", "--policy", "shared"]);
    let address = address(&croupier, 1);
    assert_eq!(http::next_workers(&address, 2), [1, 1]);
    let metrics = metrics(&croupier);
    assert!(metrics.contains(&format!("croupier_accepted_total{{listener=\"{address}\"}} 0\n")), "{metrics}");
    for family in ["dealt_total", "taken_total", "closed_total", "open_connections", "untaken_connections"] {
        assert!(!metrics.contains(&format!("croupier_{family}")), "{family} in:\n{metrics}");
    }
}

#[test]
fn a_stopped_node_worker_holds_up_as_many_connections_as_its_depth() {
    let server = Server::new();
    let croupier = server.run(&["--workers", "2", "--node-depth", "3"]);
    let address = address(&croupier, 2);
    let stopped = croupier.wait_started(1).pid;
    processes::stop(stopped);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap());
    wait_until("the other one has the rest", || croupier.status()["workers"][1]["taken"] == 17);
    assert_eq!(croupier.status()["workers"][0]["untaken"], 3);
    processes::send(stopped, Signal::SIGCONT);
    let served = clients.iter_mut().map(|client| client.response().unwrap().worker());
    assert_eq!(served.filter(|worker| *worker == 1).count(), 3);
}
