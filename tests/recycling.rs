//! Workers that have lived long enough, or have grown, are replaced while clients are served.

#![cfg(feature = "cli")]

mod support;

use std::net::SocketAddr;

use croupier::worker::ListenOptions;
use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};

use support::{Croupier, http, roles};

#[test]
fn workers_are_replaced_at_an_age_one_after_the_other() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--recycle-age", "1s+500ms"]);
    let address = croupier.wait_ready(2);
    let due = croupier.log().wait_for_count("--recycle-age reached [recycling]", 4);
    assert!(due[0].contains("worker=1 ") || due[0].contains("worker=2 "), "{due:?}");
    croupier.wait_ready(2 + 3);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert!(croupier.status()["workers"].as_array().unwrap().len() <= 4, "one comes for each that goes");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_worker_that_has_grown_is_replaced_and_nobody_else() {
    let mut croupier = Croupier::of_role(&["--workers", "2", "--recycle-rss", "64MiB"], "worker_that_grows");
    let address = croupier.wait_ready(2);
    // It grows with the requests of one connection: the other one stays as it is.
    let mut client = http::Client::connect(&address).unwrap();
    let mut grown = 0;
    while croupier.log().count("--recycle-rss reached [recycling]") == 0 && grown < 64 {
        grown += 1;
        client.send("GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(client.response().unwrap().worker(), 1);
    }
    let due = croupier.log().wait_for("--recycle-rss reached [recycling]");
    assert!(due.contains("worker=1 "), "{due}");
    croupier.log().wait_for("worker=3 pid=");
    croupier.wait_ready(3);
    croupier.log().wait_for("worker=1 pid=");
    assert_eq!(croupier.log().count("--recycle-rss"), 1);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn worker_that_grows() {
    if roles::plays("worker_that_grows") {
        let worker = roles::join();
        let mut event_loop =
            EventLoop::new(Growing { good: roles::Good::named(worker.id()), kept: Vec::new() }).unwrap();
        event_loop.listen(worker.listen_on_first(&ListenOptions::new()).unwrap()).unwrap();
        event_loop.run().unwrap();
    }
}

/// A server that keeps 4 MiB for every request.
struct Growing {
    good: roles::Good,
    kept: Vec<Vec<u8>>,
}

impl Server for Growing {
    type Session = ();

    fn open(&mut self, _peer: Option<SocketAddr>) {}

    fn receive(&mut self, session: &mut (), exchange: &mut Exchange<'_>) -> Next {
        self.kept.push(vec![1; 4 << 20]);
        self.good.receive(session, exchange)
    }
}
