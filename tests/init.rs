//! As PID 1 of a container, croupier also buries the orphans of others. Needs root and `unshare` (util-linux).

#![cfg(feature = "cli")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::http::{self, Client};
use support::{Croupier, Directory, processes, until, wait_until};

/// A primary that is PID 1 in a namespace of its own, and its PID out here.
fn as_init(options: &[&str], command: &[&str]) -> (Croupier, i32) {
    let mut unshare = support::plain("unshare");
    // --kill-child: the namespace ends with unshare, which is what Croupier kills at the end of a test.
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child", support::PROGRAM, "run"]);
    unshare.args(["--listen", "127.0.0.1:0"]).args(options).arg("--").args(command);
    let croupier = Croupier::spawn(unshare);
    assert!(croupier.log().wait_for("name=").contains(" pid=1 "), "{}", croupier.log());
    let primary = until(|| processes::children(croupier.pid()).first().copied()).unwrap();
    (croupier, primary)
}

#[test]
fn orphans_are_reaped_and_term_ends_it_with_0() {
    let directory = Directory::new();
    // Each worker leaves three orphans behind: the subshell ends at once, what it started a little later.
    let script = "for name in a b c; do (sh -c \"sleep 0.1; echo >> $0/$name\" &); done; exec \"$1\" demo";
    let folder = directory.path().to_str().unwrap();
    let (mut croupier, primary) = as_init(&["--workers", "2"], &["sh", "-c", script, folder, support::PROGRAM]);
    let address = croupier.wait_ready(2);
    wait_until("all orphans have written their line", || {
        ["a", "b", "c"]
            .iter()
            .all(|name| std::fs::read_to_string(directory.file(name)).is_ok_and(|text| text.lines().count() == 2))
    });
    wait_until("nobody but the workers is left", || {
        let children = processes::children(primary);
        children.len() == 2 && children.into_iter().all(processes::runs)
    });
    for _ in 0..10 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert_eq!(croupier.started().len(), 2, "no worker was taken for a stranger");
    kill(Pid::from_raw(primary), Signal::SIGTERM).unwrap();
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn dying_workers_and_dying_orphans_are_told_apart() {
    let script = "(sleep 0.05 &); (sleep 0.1 &); exec \"$0\" demo";
    let (mut croupier, primary) = as_init(&["--workers", "2"], &["sh", "-c", script, support::PROGRAM]);
    croupier.wait_ready(2);
    for round in 1..=10 {
        let demos: Vec<i32> = processes::children(primary)
            .into_iter()
            .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.ends_with(b"\0demo\0")))
            .collect();
        let victim = *demos.first().expect("a worker runs");
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        croupier.log().wait_for_count("exited signal=9", round);
        croupier.wait_ready(2 + round);
    }
    wait_until("nobody but the workers is left", || {
        let children = processes::children(primary);
        children.len() == 2 && children.into_iter().all(processes::runs)
    });
    kill(Pid::from_raw(primary), Signal::SIGTERM).unwrap();
    assert_eq!(croupier.wait_exit(), Some(0));
    assert_eq!(croupier.started().len(), 12);
}

#[test]
fn a_request_in_progress_is_answered_before_it_ends_with_0() {
    let command = ["sh", "-c", "(sleep 1000 &); exec \"$0\" demo", support::PROGRAM];
    let (mut croupier, primary) = as_init(&["--workers", "2", "--shutdown-timeout", "1h"], &command);
    let address = croupier.wait_ready(2);
    let mut busy = begin_request(&address);
    kill(Pid::from_raw(primary), Signal::SIGTERM).unwrap();
    croupier.log().wait_for("ending listeners");
    // Its worker has been told to finish; the other one has gone.
    croupier.log().wait_for(" exited ");
    busy.send("\r\n").unwrap();
    let response = busy.response().unwrap();
    assert!(response.status == 200 && response.head.contains("connection: close"), "{response:?}");
    assert_eq!(croupier.wait_exit(), Some(0), "what still runs of strangers ends with the namespace");
}

#[test]
fn a_second_interrupt_is_fast() {
    let command = ["sh", "-c", "exec \"$0\" demo", support::PROGRAM];
    let (mut croupier, primary) = as_init(&["--workers", "2", "--shutdown-timeout", "1h"], &command);
    let address = croupier.wait_ready(2);
    let mut busy = begin_request(&address);
    kill(Pid::from_raw(primary), Signal::SIGINT).unwrap();
    croupier.log().wait_for(" exited ");
    kill(Pid::from_raw(primary), Signal::SIGINT).unwrap();
    assert_eq!(croupier.wait_exit(), Some(0));
    assert_eq!(busy.rest().unwrap(), b"");
}

#[test]
fn an_upgrade_stays_pid_1_and_goes_on_reaping() {
    // Each worker starts two, one of which ends at once and leaves the other to whoever takes orphans.
    let script = "(sh -c 'sleep 0.05' &); exec \"$0\" demo";
    let (mut croupier, primary) = as_init(&["--workers", "2"], &["sh", "-c", script, support::PROGRAM]);
    let address = croupier.wait_ready(2);
    kill(Pid::from_raw(primary), Signal::SIGUSR2).unwrap();
    croupier.log().wait_for("upgrades=1");
    kill(Pid::from_raw(primary), Signal::SIGHUP).unwrap();
    croupier.log().wait_for("reload done");
    wait_until("nobody but the workers is left", || {
        let children = processes::children(primary);
        children.len() == 2 && children.into_iter().all(processes::runs)
    });
    assert_eq!(http::get(&address).unwrap().status, 200);
    kill(Pid::from_raw(primary), Signal::SIGTERM).unwrap();
    assert_eq!(croupier.wait_exit(), Some(0));
}

/// A client that has sent half of a request to a worker that has taken it.
fn begin_request(address: &str) -> Client {
    let mut client = Client::connect(address).unwrap();
    assert_eq!(client.get().unwrap().status, 200);
    client.send("GET / HTTP/1.1\r\nhost: test\r\n").unwrap();
    // Each of two workers answers one of these, and has read what came before.
    (0..2).for_each(|_| drop(http::get(address).unwrap()));
    client
}
