//! Policies with real processes: who gets the next connection while workers are killed, replaced, scaled and full.

#![cfg(feature = "cli")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use croupier::worker::ListenOptions;
use support::http::{self, Client};
use support::{Croupier, Directory, roles, wait_until};

/// The variable that names the second listener of [`worker_on_two_listeners`].
const SECOND: &str = "CROUPIER_TEST_SECOND";
/// A worker that is slow on a busy machine keeps what it was dealt.
const PATIENCE: &str = "--stall-after=1h";

/// Under rotation it would get a fourth of what comes, and stay behind for as long as the others' clients do.
#[test]
fn a_replaced_worker_gets_what_comes_until_it_has_as_many_as_the_others() {
    let mut croupier = demo(&["--workers", "4", "--policy", "least-connections"]);
    let address = croupier.wait_ready(4);
    let mut idle = Idle::default();
    idle.connect(&address, 40);
    assert_eq!(idle.shares(), [(1, 10), (2, 10), (3, 10), (4, 10)]);
    end_worker(&croupier, 2);
    croupier.wait_ready(5);
    idle.clients.retain(|(_, worker)| *worker != 2);
    idle.connect(&address, 10);
    assert_eq!(idle.shares(), [(1, 10), (3, 10), (4, 10), (5, 10)]);

    // And one that has lost its clients while it lives.
    idle.clients.retain(|(_, worker)| *worker != 3);
    wait_until("worker 3 has noticed", || open_of(&croupier, 3) == 0);
    idle.connect(&address, 14);
    assert_eq!(idle.shares(), [(1, 11), (3, 11), (4, 11), (5, 11)]);
    assert_eq!(croupier.terminate(), Some(0));
}

/// Idle connections of a replaced worker are given back: to those who have the fewest.
#[test]
fn a_reload_of_everybody_leaves_nobody_with_more_than_his_share() {
    let mut croupier = demo(&["--workers", "4", "--policy", "least-connections"]);
    let address = croupier.wait_ready(4);
    let mut idle = Idle::default();
    idle.connect(&address, 40);
    croupier.client(&["reload"]).assert_ok();
    wait_until("all are among the new workers", || (5..=8).map(|id| open_of(&croupier, id)).sum::<u64>() == 40);
    // Whoever was replaced last has none. Of 40 that come as others go, none goes to a worker that has 10.
    for _ in 0..40 {
        idle.clients.remove(0);
        wait_until("its end is noticed", || (5..=8).map(|id| open_of(&croupier, id)).sum::<u64>() == 39);
        idle.connect(&address, 1);
    }
    assert_eq!(idle.shares(), [(5, 10), (6, 10), (7, 10), (8, 10)]);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_client_stays_with_its_worker_and_with_the_one_that_replaces_it() {
    let mut croupier = demo(&["--workers", "4", "--policy", "source-hash"]);
    let address = croupier.wait_ready(4);
    let homes = homes(&address);
    let shares = homes.values().collect::<BTreeSet<_>>();
    assert_eq!(shares.len(), 4, "40 clients, and somebody has none: {homes:?}");
    assert_eq!(self::homes(&address), homes);
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    assert_eq!(self::homes(&address), homes, "after an upgrade");
    end_worker(&croupier, 3);
    croupier.wait_ready(5);
    assert_eq!(self::homes(&address), moved(&homes, 3, 5));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn only_the_clients_of_a_worker_that_leaves_move_and_they_come_back() {
    let mut croupier = demo(&["--workers", "4", "--policy", "source-hash"]);
    let address = croupier.wait_ready(4);
    let before = homes(&address);
    croupier.client(&["scale", "3"]).assert_ok();
    wait_exited(&croupier, 4);
    let without = homes(&address);
    let mut takers = BTreeSet::new();
    for (client, worker) in &before {
        match worker {
            4 => _ = takers.insert(without[client]),
            _ => assert_eq!(without[client], *worker, "{client} has moved"),
        }
    }
    assert_eq!(takers, BTreeSet::from([1, 2, 3]), "all the others have a share of its clients");
    croupier.client(&["scale", "4"]).assert_ok();
    croupier.wait_ready(5);
    let (client, _) = before.iter().find(|(_, worker)| **worker == 4).unwrap();
    wait_until("worker 5 has its seat", || get_from(*client, &address) == 5);
    assert_eq!(homes(&address), moved(&before, 4, 5));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_client_whose_worker_is_full_is_served_by_another_and_later_by_its_own() {
    let mut croupier = demo(&["--workers", "2", "--policy", "source-hash", "--connections-max", "1"]);
    let address = croupier.wait_ready(2);
    let mut idle = Idle::default();
    idle.connect(&address, 2);
    assert_eq!(idle.shares(), [(1, 1), (2, 1)]);
    let (_, own) = idle.clients.remove(0);
    idle.connect(&address, 1);
    assert_eq!(idle.clients[1].1, own);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn every_listener_has_its_own_policy_also_after_an_upgrade() {
    let directory = Directory::new();
    let path = directory.file("second.sock");
    let second = format!("--listen=unix:{path},policy=round-robin");
    let variable = format!("--env={SECOND}=unix:{path}");
    let options = ["--workers", "3", PATIENCE, "--policy", "source-hash", &second, &variable];
    let mut croupier = Croupier::of_role(&options, "worker_on_two_listeners");
    let address = croupier.wait_ready(3);
    croupier.log().wait_for_count("has both", 3);
    for upgrades in 1..=2 {
        let own = http::get(&address).unwrap().worker();
        assert_eq!(http::next_workers(&address, 5), [own; 5], "one client, one worker");
        let workers: Vec<u32> = (0..9)
            .map(|_| {
                let mut client = Client::connect_unix(&path).unwrap();
                client.send(http::LAST_REQUEST).unwrap();
                client.response().unwrap().worker()
            })
            .collect();
        assert!(http::is_rotation(&workers, 3), "{workers:?}");
        let status = croupier.status();
        let policies = [0, 1].map(|index| status["listeners"][index]["policy"].as_str().unwrap().to_owned());
        assert_eq!(policies, ["source-hash", "round-robin"]);
        let table = croupier.client(&["status"]).stdout;
        assert!(table.contains("POLICY") && table.contains("source-hash"), "{table}");
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for(&format!("upgrades={upgrades}"));
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_listener_that_workers_asked_for_has_the_policy_of_all() {
    let directory = Directory::new();
    let variable = format!("--env={SECOND}=unix:{}", directory.file("asked.sock"));
    let options =
        ["--workers", "2", "--policy", "least-connections", "--listen", "[::1]:0,policy=source-hash", &variable];
    let mut croupier = Croupier::of_role(&options, "worker_on_two_listeners");
    croupier.log().wait_for_count("has both", 2);
    let status = croupier.status();
    let policies = [0, 1, 2].map(|index| status["listeners"][index]["policy"].as_str().unwrap().to_owned());
    assert_eq!(policies, ["least-connections", "source-hash", "least-connections"]);
    assert_eq!(croupier.terminate(), Some(0));
}

/// Who has no address cannot be told from others.
#[test]
fn clients_of_a_unix_listener_go_round_whatever_their_source() {
    let directory = Directory::new();
    let path = directory.file("first.sock");
    let mut run = support::plain(support::PROGRAM);
    run.args(["run", "--workers", "3", PATIENCE, "--policy", "source-hash", "--listen", &format!("unix:{path}")]);
    let mut croupier = Croupier::spawn(run);
    croupier.wait_ready(3);
    let workers: Vec<u32> = (0..9).map(|_| Client::connect_unix(&path).unwrap().get().unwrap().worker()).collect();
    assert!(http::is_rotation(&workers, 3), "{workers:?}");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn check_prints_the_policies() {
    let listen = "127.0.0.1:8001,policy=source-hash,127.0.0.1:8002";
    for (option, value) in [("--policy", "least-connections"), ("--listen", listen)] {
        let variable = option.replace("--", "CROUPIER_").to_uppercase();
        for by_variable in [false, true] {
            let mut check: Command = support::plain(support::PROGRAM);
            check.arg("check");
            if by_variable {
                check.env(&variable, value)
            } else {
                check.args([option, value])
            };
            let out = support::Outcome::of(check).assert_ok().stdout.clone();
            let line = match option {
                "--policy" => "policy = \"least-connections\"",
                _ => "listen = [\"127.0.0.1:8001,policy=source-hash\",\"127.0.0.1:8002\"]",
            };
            assert!(out.lines().any(|it| it == line), "no {line:?} in:\n{out}");
        }
    }
}

#[test]
fn worker_on_two_listeners() {
    if !roles::plays("worker_on_two_listeners") {
        return;
    }
    let worker = roles::join();
    let first = worker.listen_on_first(&ListenOptions::new()).unwrap();
    let second = worker.listen(Some(&roles::variable(SECOND)), &ListenOptions::new()).unwrap();
    roles::say("has both");
    std::thread::scope(|scope| {
        for listener in [&first, &second] {
            let who = worker.id().to_string();
            scope.spawn(move || {
                while let Some(connection) = listener.accept().unwrap() {
                    http::answer(&connection, &who).unwrap();
                }
            });
        }
    });
}

/// Demo workers from whom nothing is taken back because this machine is slow.
fn demo(options: &[&str]) -> Croupier {
    Croupier::demo(&[options, &[PATIENCE]].concat())
}

/// Clients that have had an answer, and keep their connections.
#[derive(Default)]
struct Idle {
    clients: Vec<(Client, u32)>,
}

impl Idle {
    fn connect(&mut self, address: &str, count: usize) {
        for _ in 0..count {
            let mut client = Client::connect(address).unwrap();
            let worker = client.get().unwrap().worker();
            self.clients.push((client, worker));
        }
    }

    /// How many each worker has.
    fn shares(&mut self) -> Vec<(u32, usize)> {
        let mut shares = BTreeMap::new();
        for (client, _) in &mut self.clients {
            *shares.entry(client.get().unwrap().worker()).or_default() += 1;
        }
        shares.into_iter().collect()
    }
}

/// The worker of each of 40 clients. All of one are answered by the same.
#[track_caller]
fn homes(address: &str) -> BTreeMap<Ipv4Addr, u32> {
    let clients = (1..=40).map(|last| Ipv4Addr::new(127, 0, 0, last));
    clients
        .map(|client| {
            let workers = [(); 2].map(|()| get_from(client, address));
            assert_eq!(workers[0], workers[1], "{client} was answered by both");
            (client, workers[0])
        })
        .collect()
}

fn moved(homes: &BTreeMap<Ipv4Addr, u32>, from: u32, to: u32) -> BTreeMap<Ipv4Addr, u32> {
    homes.iter().map(|(client, worker)| (*client, if *worker == from { to } else { *worker })).collect()
}

/// The worker that answers a client with this address of its own.
fn get_from(own: Ipv4Addr, address: &str) -> u32 {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(own.into(), 0).into()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.connect_timeout(&address.into(), support::DEADLINE).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let mut client = Client::on(stream);
    client.send(http::LAST_REQUEST).unwrap();
    client.response().unwrap().worker()
}

/// SIGKILL, seen by the primary.
fn end_worker(croupier: &Croupier, id: u32) {
    kill(Pid::from_raw(croupier.wait_started(id).pid), Signal::SIGKILL).unwrap();
    wait_exited(croupier, id);
}

fn wait_exited(croupier: &Croupier, id: u32) {
    let worker = format!("worker={id} ");
    croupier.log().wait_until(&format!("end of worker {id}"), |lines| {
        lines.iter().find(|line| line.contains(&worker) && line.contains(" exited ")).cloned()
    });
}

/// How many connections a worker has open, as the status has it.
fn open_of(croupier: &Croupier, id: u32) -> u64 {
    let status = croupier.status();
    let worker = status["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == id);
    worker.map_or(0, |worker| worker["open"].as_u64().unwrap() + worker["untaken"].as_u64().unwrap())
}
