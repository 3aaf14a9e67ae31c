//! Workers that are replaced, added or ended while clients have connections to them: the clients notice nothing.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use croupier::worker::Listener;
use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::load::Load;
use support::roles;
use support::{Croupier, Directory, processes, until, wait_until};

// One worker ends.

#[test]
fn idle_clients_of_a_worker_that_is_terminated_go_on_with_another_on_the_same_connection() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let mut clients = kept_clients(&address, 30);
    let ending = croupier.wait_started(2);
    processes::send(ending.pid, Signal::SIGTERM);
    croupier.log().wait_for(&format!("worker=2 pid={} exited code=0", ending.pid));
    for client in &mut clients {
        assert_ne!(client.get().unwrap().worker(), 2);
        assert_eq!(client.get().unwrap().status, 200, "it stays");
    }
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_request_in_progress_is_finished_by_the_worker_that_is_terminated() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let mut clients = kept_clients(&address, 2);
    let [of_first, of_second] = &mut clients[..] else { panic!("two") };
    of_first.send("GET / HTTP/1.1\r\n").unwrap();
    wait_read(of_first);
    let ending = croupier.wait_started(1);
    processes::send(ending.pid, Signal::SIGTERM);
    // By then it is draining: a connection that comes now is the other one's, or its replacement's.
    wait_until("it drains", || http::next_workers(&address, 2).iter().all(|worker| *worker != 1));
    of_first.send("\r\n").unwrap();
    let response = of_first.response().unwrap();
    assert_eq!(response.worker(), 1);
    assert!(response.head.contains("connection: close"), "{}", response.head);
    assert_eq!(of_first.rest().unwrap(), b"");
    assert_eq!(of_second.get().unwrap().worker(), 2);
    croupier.log().wait_for(&format!("worker=1 pid={} exited code=0", ending.pid));
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn idle_clients_of_the_only_worker_wait_for_its_replacement_when_it_is_terminated() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let mut clients = kept_clients(&address, 10);
    processes::send(croupier.wait_started(1).pid, Signal::SIGTERM);
    for client in &mut clients {
        // Also if it is sent before the worker drains: then that one answers, and says that it ends.
        client.send(http::REQUEST).unwrap();
        assert!([1, 2].contains(&client.response().unwrap().worker()));
    }
    drop(clients);
    croupier.wait_ready(2);
    assert_eq!(croupier.terminate(), Some(0));
}

// Reload.

#[test]
fn a_reload_replaces_every_worker_and_no_client_notices() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let mut clients = kept_clients(&address, 30);
    let load = Load::start(&address, 3, 3);
    for generation in 1..=3 {
        let before = croupier.started().len() as u32;
        croupier.signal(Signal::SIGHUP);
        croupier.log().wait_for(&format!("reload done generation={generation}"));
        for id in before - 2..=before {
            let pid = croupier.wait_started(id).pid;
            croupier.log().wait_for(&format!("worker={id} pid={pid} exited code=0"));
        }
        for id in before + 1..=before + 3 {
            let environment = processes::environment(croupier.wait_started(id).pid);
            assert_eq!(environment["CROUPIER_GENERATION"], generation.to_string());
        }
        load.wait_for(100);
        for client in &mut clients {
            assert!(client.get().unwrap().worker() > before, "one of the new generation answers");
        }
    }
    load.end();
    drop(clients);
    assert_eq!(croupier.started().len(), 12);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn worker_with_more_than_one_listener() {
    if roles::plays("worker_with_more_than_one_listener") {
        let _datagrams = roles::join().bind_udp("127.0.0.1:0").unwrap();
        drop(Listener::bind("127.0.0.1:0").unwrap());
        roles::serve_well();
        std::process::exit(0); // before the test harness says how well it went
    }
}

#[test]
fn idle_clients_move_on_a_reload_whatever_else_their_worker_listens_on_or_has_closed() {
    let mut croupier = Croupier::of_role(&["--workers", "2"], "worker_with_more_than_one_listener");
    let address = croupier.wait_ready(2);
    wait_until("both serve", || http::next_workers(&address, 2).iter().collect::<BTreeSet<_>>().len() == 2);
    let mut clients = kept_clients(&address, 4);
    croupier.client(&["reload"]).assert_ok();
    for client in &mut clients {
        assert!(client.get().unwrap().worker() > 2);
    }
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_reload_whose_first_new_worker_fails_stops_and_the_old_ones_go_on() {
    let directory = Directory::new();
    let command = directory.file("worker");
    install_demo(&command);
    let mut croupier = Croupier::of_command(&["--workers", "2"], &[&command]);
    let address = croupier.wait_ready(2);
    let mut clients = kept_clients(&address, 10);
    let load = Load::start(&address, 2, 2);

    install(&command, "exit 3");
    croupier.signal(Signal::SIGHUP);
    let line = croupier.log().wait_for("reload stopped");
    assert!(line.contains("exited before it listened (code=3)"), "{line}");
    std::fs::remove_file(&command).unwrap();
    croupier.signal(Signal::SIGHUP);
    let line = croupier.log().wait_for_count("reload stopped", 2).remove(1);
    assert!(line.contains("No such file"), "{line}");

    load.wait_for(100);
    let workers = http::next_workers(&address, 8);
    assert!(workers.iter().all(|worker| *worker <= 2), "{workers:?}");
    for client in &mut clients {
        assert!(client.get().unwrap().worker() <= 2);
    }
    assert!(croupier.started().iter().take(2).all(|worker| processes::runs(worker.pid)));

    install_demo(&command);
    croupier.signal(Signal::SIGHUP);
    croupier.log().wait_for("reload done");
    load.wait_for(50);
    load.end();
    assert!(http::next_workers(&address, 8).iter().all(|worker| *worker > 2));
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_second_reload_waits_for_the_first_and_a_third_is_the_second() {
    let directory = Directory::new();
    let (command, go) = (directory.file("worker"), directory.file("go"));
    install_demo(&command);
    let mut croupier = Croupier::of_command(&["--workers", "2"], &[&command]);
    croupier.wait_ready(2);
    install(&command, &format!("while ! [ -e {go} ]; do sleep 0.01; done; exec {} demo", support::PROGRAM));
    for signals in 1..=3 {
        croupier.signal(Signal::SIGHUP);
        croupier.log().wait_for_count("[reloading]", signals);
    }
    croupier.wait_started(3);
    assert_eq!(croupier.log().count("reload done"), 0);
    std::fs::write(&go, "").unwrap();
    croupier.log().wait_for("reload done generation=1");
    croupier.log().wait_for("reload done generation=2");
    assert_eq!(croupier.terminate(), Some(0));
    croupier.log().wait_end();
    assert_eq!((croupier.log().count("reload done"), croupier.started().len()), (2, 6), "{}", croupier.log());
}

/// It is told to finish, and cannot hear it: what it had taken waits for it, and nothing else does.
#[test]
fn what_a_stopped_worker_had_not_taken_is_answered_by_others_when_it_is_replaced() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--stall-after", "1h"]);
    let address = croupier.wait_ready(2);
    let mut kept = kept_clients(&address, 2);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    for client in clients.iter_mut().skip(1).step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    croupier.signal(Signal::SIGHUP);
    for client in clients.iter_mut().step_by(2) {
        assert_ne!(client.response().unwrap().worker(), 1);
    }
    croupier.log().wait_for("reload done");
    processes::send(stopped.pid, Signal::SIGCONT);
    croupier.log().wait_for_count(" exited code=0", 2);
    for client in &mut kept {
        assert!(client.get().unwrap().worker() > 2, "given back when it went on");
    }
    drop(kept);
    assert_eq!(croupier.terminate(), Some(0));
}

// Scaling.

#[test]
fn workers_are_added_and_removed_without_any_client_noticing_and_one_always_stays() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let load = Load::start(&address, 2, 2);
    for round in 0..3 {
        let before = croupier.started().len();
        for more in 1..=3 {
            croupier.signal(Signal::SIGTTIN);
            croupier.log().wait_for_count(" listening on ", before + more);
        }
        let mut clients = kept_clients(&address, 20);
        load.wait_for(50);
        for _ in 0..3 {
            let ended = croupier.log().count(" exited code=0");
            croupier.signal(Signal::SIGTTOU);
            croupier.log().wait_for_count(" exited code=0", ended + 1);
        }
        for client in &mut clients {
            assert_eq!(client.get().unwrap().worker(), 1, "round {round}");
        }
        load.wait_for(50);
    }
    croupier.signal(Signal::SIGTTOU);
    croupier.log().wait_for_count("signal=SIGTTOU", 10);
    load.wait_for(50);
    load.end();
    assert_eq!(http::next_workers(&address, 3), [1; 3]);
    assert_eq!(croupier.terminate(), Some(0));
}

// Recycling.

#[test]
fn workers_are_recycled_one_at_a_time_and_no_client_fails() {
    let mut croupier = Croupier::demo(&["--workers", "3", "--recycle-after", "40+20"]);
    let address = croupier.wait_ready(3);
    let load = Load::start(&address, 4, 2);
    croupier.log().wait_for_count(" exited code=0", 12);
    load.wait_for(50);
    load.end();
    let mut more_than_planned = 0;
    let mut starting = BTreeSet::new();
    for line in croupier.log().lines() {
        let Some(id) = line.split("worker=").nth(1).and_then(|rest| rest.split(' ').next()) else { continue };
        if line.ends_with(" started") && id.parse::<u32>().unwrap() > 3 {
            starting.insert(id.to_owned());
        } else if line.contains(" listening on ") {
            starting.remove(id);
        }
        more_than_planned = more_than_planned.max(starting.len());
    }
    assert_eq!(more_than_planned, 1, "{}", croupier.log());
    assert_eq!(croupier.terminate(), Some(0));
}

// Shutdown.

#[test]
fn idle_clients_see_an_end_and_no_reset_when_croupier_is_terminated() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let mut clients = kept_clients(&address, 30);
    croupier.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.rest().unwrap(), b"", "FIN");
    }
    drop(clients);
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn during_shutdown_delay_everything_goes_on_and_then_it_ends() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--shutdown-delay", "3s"]);
    let address = croupier.wait_ready(2);
    let mut clients = kept_clients(&address, 4);
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for("signal=SIGTERM");
    for _ in 0..10 {
        assert_eq!(http::get(&address).unwrap().status, 200);
        clients.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    }
    croupier.log().wait_for("ending listeners");
    for client in &mut clients {
        assert_eq!(client.rest().unwrap(), b"");
    }
    drop(clients);
    assert_eq!(croupier.wait_exit(), Some(0));
}

/// Clients that keep their connections, each after its first answer.
fn kept_clients(address: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    clients
}

/// Waits until the worker has read what the client has sent: the kernel's receive queue of its socket is empty.
/// Source: proc(5), /proc/net/tcp.
fn wait_read(client: &Client) {
    let port = |address: std::net::SocketAddr| format!("0100007F:{:04X}", address.port());
    let (theirs, ours) = (port(client.stream().peer_addr().unwrap()), port(client.own_address()));
    let is_read = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let line = table.lines().find(|line| line.contains(&format!("{theirs} {ours} 01 ")))?;
        line.split_whitespace().nth(4)?.ends_with(":00000000").then_some(())
    };
    until(is_read).expect("it is read");
}

fn install_demo(path: &str) {
    install(path, &format!("exec {} demo", support::PROGRAM));
}

/// Puts a shell script to `path` in one step. Another process writes it: what this one has open for writing a child
/// that another test starts at this moment has open too, and nobody could execute it (ETXTBSY).
fn install(path: &str, script: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2.new\" && chmod +x \"$2.new\" && mv \"$2.new\" \"$2\"";
    assert!(Command::new("sh").args(["-c", write, "sh", script, path]).status().unwrap().success());
}
