//! Death of workers and of the primary: who is replaced, what is not lost, and what is not left behind.

#![cfg(feature = "cli")]

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use croupier::worker::ListenOptions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::http::{self, Client};
use support::{Croupier, Started, processes, roles, until, wait_until};

#[test]
fn killed_workers_leave_no_zombie_and_are_replaced_in_their_slots_under_new_ids() {
    const ROUNDS: u32 = 10;
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    for round in 1..=ROUNDS {
        let started = croupier.started();
        let Started { id, pid, slot } = *started.iter().rfind(|worker| worker.slot == round % 2).unwrap();
        kill_worker(pid, Signal::SIGKILL);
        croupier.log().wait_for(&format!("worker={id} pid={pid} exited signal=9 state=ready"));
        let new = croupier.wait_started(2 + round);
        assert_eq!(new.slot, slot, "the replacement inherits the slot");
        croupier.log().wait_for(&format!("worker={} pid={} listening on", new.id, new.pid));
    }
    wait_until("only the two last workers are left", || {
        let children = processes::children(croupier.pid());
        children.len() == 2 && children.into_iter().all(processes::runs)
    });
    let ids: Vec<u32> = croupier.started().iter().map(|worker| worker.id).collect();
    assert_eq!(ids, (1..=2 + ROUNDS).collect::<Vec<_>>(), "ids only go up");
    let mut serving: Vec<u32> = (0..4).map(|_| http::get(&address).unwrap().worker()).collect();
    serving.sort_unstable();
    let last = [ROUNDS + 1, ROUNDS + 1, ROUNDS + 2, ROUNDS + 2];
    assert_eq!(serving, last);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn when_the_primary_is_killed_its_workers_end_and_its_port_is_free() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    // One idle connection, one in the middle of a request: neither may keep a worker.
    let mut idle = Client::connect(&address).unwrap();
    idle.get().unwrap();
    let mut busy = Client::connect(&address).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();

    croupier.signal(Signal::SIGKILL);
    croupier.wait_status();
    for worker in croupier.started() {
        processes::wait_gone(worker.pid);
    }
    wait_until("the port can be bound again", || TcpListener::bind(&address).is_ok());
}

#[test]
fn what_a_stopped_worker_had_not_taken_is_answered_by_others_after_its_death() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let stopped = croupier.wait_started(1);
    stop_worker(stopped.pid);

    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::LAST_REQUEST).unwrap();
    }
    // The rotation had both of them, so the second of each pair is answered by now: the others are in the queue.
    for client in clients.iter_mut().skip(1).step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    kill_worker(stopped.pid, Signal::SIGKILL);
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(client.response().unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn what_the_only_worker_had_not_taken_is_answered_by_its_replacement() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let stopped = croupier.wait_started(1);
    stop_worker(stopped.pid);
    // More than its queue holds: the rest waits in the backlog.
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::LAST_REQUEST).unwrap();
    }
    kill_worker(stopped.pid, Signal::SIGKILL);
    let workers: Vec<u32> = clients.iter_mut().map(|client| client.response().unwrap().worker()).collect();
    assert_eq!(workers, vec![2; 30]);
    // Whether its channel's end or its exit is seen first, its account is whole: what was dealt had not been taken.
    let exit = croupier.log().wait_for(&format!("worker=1 pid={} exited", stopped.pid));
    let count = |name: &str| {
        let word = exit.split(' ').find_map(|word| word.strip_prefix(name));
        word.and_then(|number| number.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {name} in {exit}"))
    };
    assert!(count("dealt=") > 0 && count("taken=") == 0, "{exit}");
    assert_eq!(count("untaken="), count("dealt="), "{exit}");
    assert_eq!(croupier.terminate(), Some(0));
}

/// A stopped worker that is continued goes on with what it was dealt.
#[test]
fn a_stopped_worker_that_continues_answers_what_it_was_dealt() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let worker = croupier.wait_started(1);
    stop_worker(worker.pid);
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::LAST_REQUEST).unwrap();
    }
    kill_worker(worker.pid, Signal::SIGCONT);
    for client in &mut clients {
        assert_eq!(client.response().unwrap().worker(), 1);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

/// A connection whose worker dies in the middle of it ends for its client too: an answer or an end, never silence.
#[test]
fn every_client_gets_an_answer_or_a_clear_end_while_workers_are_killed() {
    const CLIENTS: usize = 6;
    const KILLS: u32 = 12;
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let (done, answered, cut) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match http::get(&address) {
                        Ok(response) => {
                            assert_eq!(response.status, 200);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither answer nor end");
                            cut.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        for kills in 1..=KILLS {
            let victim = *croupier.started().iter().rfind(|worker| worker.slot == kills % 3).unwrap();
            kill_worker(victim.pid, Signal::SIGKILL);
            let new = croupier.wait_started(3 + kills);
            let listening = format!("worker={} pid={} listening on", new.id, new.pid);
            // Not a panic in here: the clients would go on for ever.
            let ready = until(|| (croupier.log().count(&listening) > 0).then_some(()));
            let before = answered.load(Ordering::Relaxed);
            let goes_on = until(|| (answered.load(Ordering::Relaxed) > before + 10).then_some(()));
            if ready.is_none() || goes_on.is_none() {
                done.store(true, Ordering::Relaxed);
                panic!("service has stopped after {kills} kills");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let (answered, cut) = (answered.into_inner(), cut.into_inner());
    assert!(cut <= CLIENTS * KILLS as usize, "only what was being served at that moment: {cut} of {answered}");
    assert_eq!(croupier.terminate(), Some(0));
}

/// It has taken one, and the others wait for it.
#[test]
fn a_worker_that_dies_over_its_first_connection_costs_that_one_and_no_other() {
    let mut croupier = Croupier::of_role(&["--workers", "2"], "worker_that_dies_over_its_first_connection");
    let address = croupier.wait_ready(2);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    let cut: Vec<std::io::Error> = clients.iter_mut().filter_map(|client| client.response().err()).collect();
    assert!(cut.len() == 1 && cut[0].kind() != std::io::ErrorKind::WouldBlock, "{cut:?}");
    croupier.wait_started(3);
    assert_eq!(croupier.terminate(), Some(0));
}

/// Those of connections that were not taken are among them.
#[test]
fn deaths_leave_no_descriptor_behind() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let before = processes::descriptors(croupier.pid()).len();
    for round in 1..=5 {
        let victim = *croupier.started().iter().rfind(|worker| worker.slot == round % 2).unwrap();
        stop_worker(victim.pid);
        let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
        clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
        kill_worker(victim.pid, Signal::SIGKILL);
        for client in &mut clients {
            assert_eq!(client.response().unwrap().status, 200);
        }
        let new = croupier.wait_started(2 + round);
        croupier.log().wait_for(&format!("worker={} pid={} listening on", new.id, new.pid));
    }
    wait_until("as many as before", || processes::descriptors(croupier.pid()).len() == before);
    assert_eq!(croupier.terminate(), Some(0));
}

/// What the worker started stays behind, and must not keep croupier from seeing its death.
#[test]
fn a_dead_workers_child_that_holds_the_channels_open_does_not_hide_its_death() {
    let command = ["sh", "-c", "sleep 1000 & exec \"$0\" demo", support::PROGRAM];
    let mut croupier = Croupier::of_command(&["--workers", "1"], &command);
    let address = croupier.wait_ready(1);
    let worker = croupier.wait_started(1);
    let child = until(|| processes::children(worker.pid).first().copied()).expect("it has started a child");
    stop_worker(worker.pid);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::LAST_REQUEST).unwrap();
    }
    kill_worker(worker.pid, Signal::SIGKILL);
    for client in &mut clients {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    assert!(processes::runs(child));
    kill_worker(child, Signal::SIGKILL);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn worker_that_dies_over_its_first_connection() {
    if roles::plays("worker_that_dies_over_its_first_connection") {
        let worker = roles::join();
        if worker.id().0 == 1 {
            let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
            let mut connection = listener.accept().unwrap().unwrap();
            std::io::Read::read(&mut connection, &mut [0]).unwrap();
            std::process::exit(1);
        }
        roles::serve_well();
    }
}

fn kill_worker(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn stop_worker(pid: i32) {
    kill_worker(pid, Signal::SIGSTOP);
    processes::wait_stopped(pid);
}
