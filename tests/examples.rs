//! The examples of the library do what their first lines promise.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::log::Log;
use support::{Croupier, DEADLINE, http};

/// A running example, and what it says. Dropping it kills it; its workers see that and end.
struct Example {
    child: Child,
    log: Log,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = support::plain(path(name));
        command.args(arguments);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let log = Log::collect(child.stdout.take().unwrap());
        Self { child, log }
    }

    /// What follows `words` in the first line that has them.
    #[track_caller]
    fn said(&self, words: &str) -> String {
        let line = self.log.wait_for(words);
        let rest = line.split(words).nth(1).unwrap();
        rest.split(';').next().unwrap().to_owned()
    }

    fn tell(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// It has ended by itself, with success; all that it and its workers said.
    #[track_caller]
    fn ends(mut self) -> Vec<String> {
        let child = &mut self.child;
        let status = support::until(|| child.try_wait().unwrap()).expect("it ends");
        assert!(status.success(), "{status}");
        self.log.wait_end()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cargo builds examples beside the programs of the tests; `cargo test --test examples` alone does not.
fn path(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().and_then(|folder| folder.parent()).unwrap().join("examples").join(name);
    assert!(path.exists(), "{}: run `cargo build --examples` before", path.display());
    path
}

/// What somebody says who is told `wish`, to the end of the connection.
fn converse(address: &str, wish: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(wish.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.trim_end().to_owned()
}

#[test]
fn every_request_is_counted_in_the_primary() {
    let mut example = Example::start("count_requests", &["127.0.0.1:0"]);
    let address = example.said("counting requests to ");
    let mut workers: Vec<u32> = (0..6).map(|_| http::get(&address).unwrap().worker()).collect();
    example.log.wait_for("requests=6 ");
    example.tell("");
    let lines = example.ends();
    let mut counted: Vec<u32> = (1..=6)
        .map(|count| {
            let line = lines.iter().find(|line| line.starts_with(&format!("requests={count} "))).unwrap();
            assert!(line.ends_with(" path=\"/\""), "{line}");
            line.split("worker=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    workers.sort_unstable();
    counted.sort_unstable();
    assert_eq!(counted, workers, "whoever served is whom it is counted for");
}

#[test]
fn every_message_comes_back_to_whom_it_came_from() {
    let lines = Example::start("echo_messages", &[]).ends();
    for worker in 1..=3 {
        let expected: Vec<String> = (1..=3).map(|count| format!("worker {worker} hears [\"hello\",{count}]")).collect();
        let heard: Vec<&String> =
            lines.iter().filter(|line| line.starts_with(&format!("worker {worker} hears"))).collect();
        assert_eq!(heard, expected.iter().collect::<Vec<_>>());
        let end = format!("worker {worker} has ended: code=0 voluntary=true");
        assert_eq!(lines.iter().filter(|line| **line == end).count(), 1, "{lines:#?}");
    }
}

#[test]
fn who_comes_later_gets_everything_until_it_has_caught_up() {
    let mut example = Example::start("fewest_requests", &["127.0.0.1:0"]);
    let address = example.said("dealing ");
    example.log.wait_for_count(" listens", 2);
    let turns = |count: usize| (0..count).map(|_| converse(&address, "")).collect::<Vec<_>>();
    assert_eq!(turns(10).iter().filter(|worker| *worker == "1").count(), 5);
    example.tell("fork");
    example.log.wait_for("worker 3 listens");
    assert_eq!(turns(5), ["3"; 5], "the others have had five each");
    let mut next = turns(3);
    next.sort();
    assert_eq!(next, ["1", "2", "3"]);
    example.tell("");
    let lines = example.ends();
    for worker in 1..=3 {
        assert!(lines.contains(&format!("worker {worker} had 6")), "{lines:#?}");
    }
}

#[test]
fn a_client_gets_the_worker_that_it_asks_for() {
    let example = Example::start("hand_over_socket", &[]);
    let (in_turn, by_number) = (example.said("in turn: "), example.said("by number: "));
    for worker in [2, 2, 1, 3] {
        assert_eq!(converse(&by_number, &format!("{worker}\n")), format!("handed over to worker {worker}"));
    }
    assert_eq!(converse(&by_number, "9\n"), "sorry: there is no worker 9");
    assert!(converse(&in_turn, "").starts_with("dealt to worker "));
}

#[test]
fn echo_returns_what_it_was_sent() {
    let mut run = support::undeclared(&["--workers", "2", "--"]);
    run.arg(path("echo")).arg("127.0.0.1:0");
    let mut croupier = Croupier::spawn(run);
    let lines = croupier.log().wait_for_count(" listening on ", 2);
    let address = lines[0].rsplit(' ').next().unwrap();
    for _ in 0..4 {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(b"hello").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"hello");
    }
    assert_eq!(croupier.terminate(), Some(0));
}
