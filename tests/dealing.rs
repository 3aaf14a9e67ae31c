//! Dealing with real processes: strict rotation, its bounds, and clients that behave badly.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use support::http::{self, Client};
use support::script::{self, Scripted};
use support::{Croupier, processes};

#[test]
fn four_hundred_connections_go_round_four_workers_in_strict_rotation() {
    let mut croupier = Croupier::demo(&["--workers", "4"]);
    let address = croupier.wait_ready(4);
    let workers: Vec<u32> = (0..400)
        .map(|_| {
            let response = http::get(&address).unwrap();
            assert_eq!(
                (response.status, response.body),
                (200, format!("hello from worker {}\n", worker_of(&response.head)))
            );
            worker_of(&response.head)
        })
        .collect();
    assert_eq!(shares(&workers), BTreeMap::from([(1, 100), (2, 100), (3, 100), (4, 100)]));
    for turn in workers.windows(5) {
        assert_eq!(turn[0], turn[4], "not a rotation: {workers:?}");
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn requests_on_one_connection_stay_with_one_worker() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&address).unwrap()).collect();
    let first: Vec<u32> = clients.iter_mut().map(|client| client.get().unwrap().worker()).collect();
    for _ in 0..10 {
        let again: Vec<u32> = clients.iter_mut().map(|client| client.get().unwrap().worker()).collect();
        assert_eq!(again, first);
    }
    assert_eq!(shares(&first), BTreeMap::from([(1, 2), (2, 2)]));
}

#[test]
fn a_client_that_resets_at_once_costs_nothing_but_its_own_connection() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    for _ in 0..200 {
        let client = Client::connect(&address).unwrap();
        socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client); // RST instead of FIN
    }
    // Who has answered has taken everything that was dealt to it before.
    for worker in [1, 2] {
        assert!((0..300).any(|_| http::get(&address).unwrap().worker() == worker));
    }
    let workers: Vec<u32> = (0..100).map(|_| http::get(&address).unwrap().worker()).collect();
    assert_eq!(shares(&workers), BTreeMap::from([(1, 50), (2, 50)]));
    assert_eq!(croupier.log().count(" exited "), 0);
    assert_eq!(croupier.terminate(), Some(0));
}

/// While nobody has room croupier does not accept: clients wait in the kernel, and lose nothing but time.
#[test]
fn clients_beyond_the_bound_of_open_connections_wait_and_are_then_served() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--connections-max", "3"]);
    let address = croupier.wait_ready(2);
    let mut holders: Vec<Client> = (0..6).map(|_| Client::connect(&address).unwrap()).collect();
    let held: Vec<u32> = holders.iter_mut().map(|client| client.get().unwrap().worker()).collect();
    assert_eq!(shares(&held), BTreeMap::from([(1, 3), (2, 3)]));

    let mut waiting: Vec<Client> = (0..4).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut waiting {
        client.send(http::REQUEST).unwrap();
        assert!(stays_silent(client), "a seventh connection was dealt");
    }
    let second = holders.iter().zip(&held).position(|(_, worker)| *worker == 2).unwrap();
    drop(holders.remove(second));
    assert_eq!(waiting[0].response().unwrap().worker(), 2, "to the one that made room, the oldest first");
    drop(holders);
    for client in &mut waiting[1..] {
        assert_eq!(client.response().unwrap().status, 200);
    }
    drop(waiting);
    assert_eq!(croupier.terminate(), Some(0));
}

/// One worker has room for one connection, the other for nine. Who comes then costs nobody anything but a place in the
/// backlog.
#[test]
fn workers_say_how_many_they_hold_and_who_comes_after_that_waits_without_cost() {
    let script = "only 1 hold a 127.0.0.1:0 connections=1\nonly 2 hold a 127.0.0.1:0 connections=9";
    let scripted = Scripted::start(&["--workers", "2"], script);
    let address = scripted.dealt_address("a", 2);
    let mut holders: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    support::wait_until("all are taken", || taken(&scripted.croupier) == [1, 9]);
    let mut next = Client::connect(&address).unwrap();
    next.send(http::LAST_REQUEST).unwrap();
    assert!(next.stays_silent());

    let used = || -> Vec<u64> {
        let workers = scripted.croupier.started().into_iter().map(|worker| worker.pid);
        let all = workers.chain([scripted.croupier.pid()]);
        all.map(|pid| processes::stat(pid).unwrap().cpu_ticks).collect()
    };
    let before = used();
    std::thread::sleep(Duration::from_secs(1)); // the window of the measurement, not a wait for anything
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    for (after, before) in used().into_iter().zip(before) {
        assert!(after - before < ticks_per_second / 5, "it spins: {} of {ticks_per_second} ticks", after - before);
    }
    assert_eq!(taken(&scripted.croupier), [1, 9]);

    holders[0].send(http::LAST_REQUEST).unwrap();
    let made_room = script::who(&holders[0].response().unwrap());
    assert_eq!(script::who(&next.response().unwrap()), made_room);
    drop(holders);
    scripted.end();
}

fn taken(croupier: &Croupier) -> Vec<u64> {
    let status = croupier.status();
    status["workers"].as_array().unwrap().iter().map(|worker| worker["taken"].as_u64().unwrap()).collect()
}

#[test]
fn worker_with_script() {
    script::play();
}

/// Connections that come in all at once are all served, whatever the bound of each queue.
#[test]
fn a_burst_larger_than_all_queues_is_served_completely() {
    for queue_max in ["1", "2", "256"] {
        let mut croupier = Croupier::demo(&["--workers", "3", "--queue-max", queue_max]);
        let address = croupier.wait_ready(3);
        for _ in 0..3 {
            let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(&address).unwrap()).collect();
            for client in &mut clients {
                client.send(http::LAST_REQUEST).unwrap();
            }
            let workers: Vec<u32> = clients.iter_mut().map(|client| client.response().unwrap().worker()).collect();
            assert_eq!(workers.len(), 300);
        }
        assert_eq!(croupier.terminate(), Some(0));
    }
}

fn worker_of(head: &str) -> u32 {
    head.lines().find_map(|line| line.strip_prefix("x-worker: ")).unwrap().parse().unwrap()
}

fn shares(workers: &[u32]) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for worker in workers {
        *shares.entry(*worker).or_default() += 1;
    }
    shares
}

/// Nothing comes for a while. An answer that should not come and comes later than that is not noticed; one that
/// comes in time is.
fn stays_silent(client: &Client) -> bool {
    let mut stream = client.stream();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silent = stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
    silent
}
