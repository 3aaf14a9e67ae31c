//! No descriptors left: in the primary, and in a worker. Needs `prlimit` (util-linux).

#![cfg(feature = "cli")]

mod support;

use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use support::http::{self, Client};
use support::{Croupier, processes};

#[test]
fn without_a_descriptor_for_accept_the_primary_rests_says_so_once_and_serves_again() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    assert_eq!(http::get(&address).unwrap().status, 200);
    let before = processes::open_files_limits(croupier.pid()).unwrap();

    // Numbers 0 to 2 are taken, and the kernel gives out none from the limit on.
    processes::limit_open_files(croupier.pid(), 3, before.1);
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    croupier.log().wait_for("cannot accept");

    let cpu_before = processes::stat(croupier.pid()).unwrap().cpu_ticks;
    std::thread::sleep(Duration::from_secs(1)); // the window of the measurement below, not a wait for anything
    let used = processes::stat(croupier.pid()).unwrap().cpu_ticks - cpu_before;
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    assert!(used < ticks_per_second / 2, "it spins: {used} of {ticks_per_second} ticks");
    assert_eq!(croupier.log().count("cannot accept"), 1, "said once:\n{}", croupier.log());

    processes::limit_open_files(croupier.pid(), before.0, before.1);
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    croupier.log().wait_for("dealing again");
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

/// What a dead worker had not taken stays in its queue until there are descriptors to receive it back with.
#[test]
fn without_a_descriptor_what_a_dead_worker_had_not_taken_waits_and_is_not_lost() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let workers = croupier.started();
    for worker in &workers {
        kill(Pid::from_raw(worker.pid), Signal::SIGSTOP).unwrap();
        processes::wait_stopped(worker.pid);
    }
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());

    let before = processes::open_files_limits(croupier.pid()).unwrap();
    processes::limit_open_files(croupier.pid(), 3, before.1);
    kill(Pid::from_raw(workers[0].pid), Signal::SIGKILL).unwrap();
    croupier.log().wait_for("exited signal=9");
    kill(Pid::from_raw(workers[1].pid), Signal::SIGCONT).unwrap();
    processes::limit_open_files(croupier.pid(), before.0, before.1);
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
    }
    assert_eq!(croupier.log().count("lost"), 0);
    croupier.wait_ready(3);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_worker_with_few_descriptors_is_dealt_no_more_connections_than_it_can_hold() {
    // 64 are the worker's own.
    let mut croupier = Croupier::spawn(support::run_after("ulimit -Sn 80", &["--workers", "1"]));
    let address = croupier.wait_ready(1);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::REQUEST).unwrap());
    // Each that is served makes room for one more.
    for client in &mut clients {
        assert_eq!(client.response().unwrap().status, 200);
        client.stream().shutdown(std::net::Shutdown::Both).unwrap();
    }
    assert_eq!(croupier.log().count("lost"), 0);
    assert_eq!(croupier.started().len(), 1);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_primary_that_can_hardly_open_anything_still_serves() {
    let mut croupier = Croupier::spawn(support::run_after("ulimit -n 36", &["--workers", "2"]));
    let address = croupier.wait_ready(2);
    for _ in 0..300 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}
