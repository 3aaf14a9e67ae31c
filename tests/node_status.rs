//! What the status and the metrics say of Node workers: what they are, and no number that nobody knows.
#![cfg(feature = "cli")]

mod support;

use std::fs;

use support::http::{self, Client};
use support::{Croupier, Directory};

const SERVER: &str = "
    const { worker } = require('cluster');
    const greet = (_, answer) => answer.setHeader('x-worker', worker.id).end('hello');
    require('http').createServer(greet).listen(0, '127.0.0.1');
";

#[test]
fn nobody_is_told_how_many_connections_node_workers_have_open() {
    let directory = Directory::new();
    fs::write(directory.file("server.js"), SERVER).unwrap();
    let mut run = support::undeclared(&["--workers", "2"]);
    run.args(["--", "node", &directory.file("server.js")]);
    let croupier = Croupier::spawn(run);
    let lines = croupier.log().wait_for_count(" listening on ", 2);
    let address = lines[0].split(" listening on ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let mut client = Client::connect(&address).unwrap();
    assert_eq!(client.get().unwrap().worker(), 1);
    assert_eq!(http::next_workers(&address, 1), [2]);

    let status = croupier.status();
    for worker in status["workers"].as_array().unwrap() {
        assert_eq!((&worker["dialect"], &worker["open"], &worker["taken"]), (&"node".into(), &().into(), &1.into()));
    }
    let table = croupier.client(&["status"]).assert_ok().stdout.clone();
    assert!(table.contains("DIALECT  UNTAKEN  TAKEN") && table.contains(" node "), "{table}");
    let mut scraper = Client::connect_unix(&croupier.control()).unwrap();
    scraper.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let metrics = scraper.response().unwrap().body;
    assert!(metrics.contains(&format!("croupier_taken_total{{listener=\"{address}\",slot=\"0\"}} 1\n")), "{metrics}");
    for family in ["croupier_closed_total", "croupier_cut_total", "croupier_open_connections"] {
        assert!(!metrics.contains(family), "{family} in:\n{metrics}");
    }
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
