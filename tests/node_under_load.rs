//! What clients notice while Node workers are replaced, killed, stopped, or leave by themselves: nothing, or the end of
//! what a dead worker had taken. Nobody is refused, and nobody waits for ever.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use croupier::primary::settings::NODE_DEPTH_DEFAULT;
use nix::sys::signal::Signal;
use serde_json::Value;

use support::http::{self, Client};
use support::load::Load;
use support::script::{Scripted, ask, free_port};
use support::{Croupier, Started, node, processes, until, wait_until};

fn start(worker_count: u32) -> Croupier {
    node::start(&[&format!("--workers={worker_count}")], "http.js", &[])
}

/// So many connections, each with a request.
fn ask_all(address: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    clients
}

// What nobody notices.

#[test]
fn a_reload_loses_nobody() {
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let load = Load::start(&address, 4, 0);
    for _ in 0..2 {
        croupier.client(&["reload"]).assert_ok();
        load.wait_for(20);
    }
    load.end();
    assert_eq!(croupier.started().len(), 6);
    assert_eq!(croupier.terminate(), Some(0));
}

/// As `--policy shared`, where nobody deals.
#[test]
fn a_reload_of_workers_that_accept_themselves_loses_nobody() {
    let mut croupier = node::start(&["--workers=2", "--policy=shared"], "http.js", &[]);
    let address = croupier.wait_ready(2);
    let load = Load::start(&address, 4, 0);
    croupier.client(&["reload"]).assert_ok();
    load.wait_for(20);
    load.end();
    assert_eq!(croupier.terminate(), Some(0));
}

/// A worker that has begun with a request finishes it; others serve who comes meanwhile.
#[test]
fn requests_in_flight_are_answered_by_the_worker_that_is_replaced() {
    let mut croupier = start(1);
    let address = croupier.wait_ready(1);
    let clients: Vec<Client> = (0..5).map(|_| node::begin(&address)).collect();
    croupier.client(&["reload"]).assert_ok();
    assert_eq!(http::next_workers(&address, 3), [2, 2, 2]);
    assert!(clients.into_iter().all(|client| node::finish(client) == 1));
    croupier.log().wait_for(&format!("worker=1 pid={} exited code=0", croupier.started()[0].pid));
    assert_eq!(croupier.terminate(), Some(0));
}

/// One worker alone: between it and its replacement clients wait in the backlog.
#[test]
fn the_only_worker_leaves_by_itself_again_and_again_and_nobody_is_refused() {
    const LEAVES: usize = 4;
    let mut croupier = start(1);
    let address = croupier.wait_ready(1);
    let load = Load::start(&address, 4, 0);
    for left in 1..=LEAVES {
        let mut client = Client::connect(&address).unwrap();
        client.send(&node::request("/disconnect")).unwrap();
        assert_eq!(client.response().unwrap().status, 200);
        croupier.wait_ready(1 + left);
        load.wait_for(20);
    }
    load.end();
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn an_upgrade_of_the_primary_is_noticed_by_no_client_and_no_worker() {
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let (pid, workers) = (croupier.pid(), croupier.started());
    let load = Load::start(&address, 4, 2);
    for upgrades in 1..=4 {
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for(&format!("upgrades={upgrades}"));
        load.wait_for(50);
    }
    load.end();
    assert_eq!((croupier.pid(), croupier.started()), (pid, workers));
    let answers = http::next_workers(&address, 6);
    assert!(http::is_rotation(&answers, 2), "{answers:?}");
    croupier.client(&["reload"]).assert_ok();
    assert!(http::next_workers(&address, 4).iter().all(|worker| *worker > 2));
    assert_eq!(croupier.terminate(), Some(0));
    croupier.log().wait_end();
    assert_eq!(croupier.log().count("ERROR"), 0, "{}", croupier.log());
}

/// Questions of workers that are on their way then are answered by the new image.
#[test]
fn an_upgrade_while_workers_begin_to_listen_is_noticed_by_none() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!(
        "listen a {address}\nlisten b 127.0.0.1:0\nclose a\nudp c 127.0.0.1:0\nlisten a {address}\nlisten d 127.0.0.1:0"
    );
    for moment in [" started", " bound for worker", " a is", " c is"] {
        let scripted = Scripted::start_node(&["--workers=3"], &script);
        scripted.says(moment);
        scripted.croupier.signal(Signal::SIGUSR2);
        scripted.says("upgrades=1");
        scripted.address("d", 3);
        for address in [scripted.address("a", 6), scripted.address("b", 3)] {
            let workers: BTreeSet<String> = (0..3).map(|_| ask(&address)).collect();
            assert_eq!(workers.len(), 3, "{moment}: {workers:?}");
        }
        let lines = scripted.end();
        assert!(!lines.iter().any(|line| line.contains("ERROR") || line.contains("failed")), "{moment}: {lines:#?}");
    }
}

/// What a worker has not acknowledged goes over an upgrade, and after its death to others.
#[test]
fn what_a_stopped_worker_has_is_not_lost_over_an_upgrade() {
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients = ask_all(&address, 12);
    wait_until("the other one has served its share", || clients.iter().filter(|it| it.hears()).count() >= 4);
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("upgrades=1");
    processes::send(stopped.pid, Signal::SIGKILL);
    assert!(clients.iter_mut().all(|client| client.response().unwrap().worker() != 1));
    assert_eq!(croupier.terminate(), Some(0));
}

// Deaths.

/// At most as many wait with it as were dealt to it without an acknowledgement.
#[test]
fn what_a_stopped_worker_had_not_taken_is_answered_by_others_after_its_death() {
    const CLIENTS: usize = 40;
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients = ask_all(&address, CLIENTS);
    let delayed = NODE_DEPTH_DEFAULT as usize;
    let answered = |clients: &[Client]| clients.iter().filter(|client| client.hears()).count();
    wait_until("all others are served", || answered(&clients) >= CLIENTS - delayed);
    assert_eq!(answered(&clients), CLIENTS - delayed);
    processes::send(stopped.pid, Signal::SIGKILL);
    assert!(clients.iter_mut().all(|client| client.response().unwrap().worker() != 1));
    assert_eq!(croupier.terminate(), Some(0));
}

/// While all are busy the primary lets their answers gather; whoever is stuck is busy for ever.
#[test]
fn while_all_workers_are_stuck_the_primary_answers_and_nobody_is_lost() {
    const CLIENTS: usize = 40;
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let pids = [1, 2].map(|id| croupier.wait_started(id).pid);
    pids.into_iter().for_each(processes::stop);
    let mut clients = ask_all(&address, CLIENTS);
    let has_all_it_may = |worker: &Value| worker["untaken"] == NODE_DEPTH_DEFAULT;
    wait_until("both have as many as they may", || {
        croupier.status()["workers"].as_array().unwrap().iter().all(has_all_it_may)
    });
    pids.into_iter().for_each(|pid| processes::send(pid, Signal::SIGCONT));
    let mut served = [0; 2];
    clients.iter_mut().for_each(|client| served[client.response().unwrap().worker() as usize - 1] += 1);
    assert_eq!(served.iter().sum::<usize>(), CLIENTS);
    assert!(served.iter().all(|count| *count >= NODE_DEPTH_DEFAULT as usize), "{served:?}");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_worker_that_hangs_is_killed_after_the_hang_timeout_and_what_it_had_not_taken_is_answered_by_others() {
    let mut croupier = node::start(&["--workers=2", "--hang-timeout=300ms"], "http.js", &[]);
    let address = croupier.wait_ready(2);
    processes::stop(croupier.wait_started(1).pid);
    assert!(ask_all(&address, 20).iter_mut().all(|client| client.response().unwrap().worker() != 1));
    croupier.wait_ready(3);
    assert_eq!(croupier.terminate(), Some(0));
}

/// Not only at the end of the shutdown timeout: what waits for it waits as before.
#[test]
fn a_worker_that_hangs_and_is_replaced_all_the_same_is_killed_after_the_hang_timeout_too() {
    let options = ["--workers=1", "--hang-timeout=3s", "--shutdown-timeout=10m"];
    let mut croupier = node::start(&options, "http.js", &[]);
    let address = croupier.wait_ready(1);
    processes::stop(croupier.wait_started(1).pid);
    let mut clients = ask_all(&address, 4);
    croupier.client(&["reload"]).assert_ok();
    assert!(clients.iter_mut().all(|client| client.response().unwrap().worker() == 2));
    croupier.log().wait_for("(--hang-timeout)");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn what_the_only_worker_had_not_taken_is_answered_by_its_replacement() {
    let mut croupier = start(1);
    let address = croupier.wait_ready(1);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients = ask_all(&address, 30);
    processes::send(stopped.pid, Signal::SIGKILL);
    assert!(clients.iter_mut().all(|client| client.response().unwrap().worker() == 2));
    assert_eq!(croupier.terminate(), Some(0));
}

/// What it had taken by then ends; the rest is answered by others.
#[test]
fn a_worker_that_exits_over_a_connection_leaves_nobody_hanging() {
    const CLIENTS: usize = 20;
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let mut last = Client::connect(&address).unwrap();
    last.send(&node::request("/exit")).unwrap();
    let mut clients = ask_all(&address, CLIENTS);
    let ended = |error: std::io::Error| assert_ne!(error.kind(), ErrorKind::WouldBlock, "neither answer nor end");
    ended(last.response().unwrap_err());
    let cut = clients.iter_mut().filter_map(|client| client.response().err()).map(ended).count();
    // Until it has so many, it has its turns, however slow it is.
    let of_other = (NODE_DEPTH_DEFAULT as usize).min(CLIENTS / 2);
    assert!(cut <= CLIENTS - of_other, "{cut} ended");
    croupier.wait_ready(3);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn every_client_gets_an_answer_or_a_clear_end_while_workers_are_killed() {
    const CLIENTS: usize = 4;
    const KILLS: u32 = 6;
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let asking = Asking::default();
    std::thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| _ = scope.spawn(|| asking.ask_on_and_on(&address)));
        for kills in 1..=KILLS {
            let victim = *croupier.started().iter().rfind(|worker| worker.slot == kills % 2).unwrap();
            processes::send(victim.pid, Signal::SIGKILL);
            // Not a panic in here: the clients would go on for ever.
            let goes_on = replaced(&croupier, 2 + kills) && asking.goes_on();
            if !goes_on {
                asking.done.store(true, Ordering::Relaxed);
                panic!("service has stopped after {kills} kills");
            }
        }
        asking.done.store(true, Ordering::Relaxed);
    });
    let (answered, cut) = (asking.answered.into_inner(), asking.cut.into_inner());
    assert!(cut <= CLIENTS * KILLS as usize, "only what was being served at that moment: {cut} of {answered}");
    assert_eq!(croupier.terminate(), Some(0));
}

/// Clients of which some may see the end of their connection, and none a refusal.
#[derive(Default)]
struct Asking {
    done: AtomicBool,
    answered: AtomicUsize,
    cut: AtomicUsize,
}

impl Asking {
    fn ask_on_and_on(&self, address: &str) {
        while !self.done.load(Ordering::Relaxed) {
            match http::get(address) {
                Ok(_) => self.answered.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    let is_end = !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused);
                    assert!(is_end, "no clear end: {error}");
                    self.cut.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }

    fn goes_on(&self) -> bool {
        let before = self.answered.load(Ordering::Relaxed);
        until(|| (self.answered.load(Ordering::Relaxed) > before + 10).then_some(())).is_some()
    }
}

/// Waits until this worker listens.
fn replaced(croupier: &Croupier, id: u32) -> bool {
    let Started { id, pid, .. } = croupier.wait_started(id);
    let listening = format!("worker={id} pid={pid} listening on");
    until(|| (croupier.log().count(&listening) > 0).then_some(())).is_some()
}

#[test]
fn deaths_leave_no_descriptor_behind() {
    let mut croupier = start(2);
    let address = croupier.wait_ready(2);
    let before = processes::descriptors(croupier.pid()).len();
    for round in 1..=4 {
        let victim = *croupier.started().iter().rfind(|worker| worker.slot == round % 2).unwrap();
        processes::stop(victim.pid);
        let mut clients = ask_all(&address, 10);
        processes::send(victim.pid, Signal::SIGKILL);
        assert!(clients.iter_mut().all(|client| client.response().unwrap().status == 200));
        assert!(replaced(&croupier, 2 + round));
    }
    wait_until("as many as before", || processes::descriptors(croupier.pid()).len() == before);
    assert_eq!(croupier.terminate(), Some(0));
}
