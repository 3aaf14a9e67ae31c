//! What a worker's process is born with: nothing of the primary's but what it needs.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use croupier::worker::ListenOptions;
use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::{Croupier, Directory, Outcome, processes, roles, until, wait_until};

/// The worst parent: ignored and blocked signals, a stray descriptor, a low soft limit, leftovers of another primary.
const PRELUDE: &str = "trap '' HUP INT QUIT TERM USR1 USR2 PIPE CHLD; exec 7</dev/null; ulimit -Sn 512; \
     export CROUPIER_CHANNEL=7 CROUPIER_WORKER_ID=99 CROUPIER_GENERATION=99 KEPT=kept";

#[test]
fn a_worker_starts_with_clean_descriptors_signals_limits_and_environment() {
    let mut run = support::run_after(PRELUDE, &["--workers", "2", "--env", "ADDED=added"]);
    run.args(["--", "sleep", "1000"]);
    let croupier = Croupier::spawn(run);
    let primary = croupier.pid();
    croupier.wait_started(2);
    let kept = environment_without_ours(primary);
    assert_eq!(kept.get("KEPT").map(String::as_str), Some("kept"));
    for id in [1, 2] {
        let worker = croupier.wait_started(id).pid;
        let environment = processes::environment(worker);
        let channel: i32 = environment["CROUPIER_CHANNEL"].parse().unwrap();
        // The program's loader opens files of its own for a moment.
        wait_until("descriptors 0, 1, 2 and the channel", || processes::descriptors(worker) == [0, 1, 2, channel]);
        for set in ["SigBlk", "SigIgn", "SigCgt"] {
            let mask = u64::from_str_radix(&processes::status(worker, set).unwrap(), 16).unwrap();
            assert_eq!(mask, 0, "{set} is {mask:x}");
        }
        assert_eq!(processes::stat(worker).unwrap().group, worker, "a process group of its own");
        let (_, hard) = processes::open_files_limits(primary).unwrap();
        assert_eq!(processes::open_files_limits(worker), Some((512, hard)));

        let mut expected = kept.clone();
        expected.insert("ADDED".into(), "added".into());
        assert_eq!(environment_without_ours(worker), expected);
        assert_eq!(environment["CROUPIER_WORKER_ID"], id.to_string());
        assert_eq!(environment["CROUPIER_GENERATION"], "0");
    }
    let (soft, hard) = processes::open_files_limits(primary).unwrap();
    assert_eq!(soft, hard, "the primary itself takes all that it may");
}

/// The variables that make it a worker, and the descriptors, are its own affair: what it starts is nobody's worker.
#[test]
fn what_a_worker_starts_is_no_worker() {
    let croupier = Croupier::of_role(&["--workers", "1"], "worker_with_a_child");
    croupier.wait_ready(1);
    croupier.log().wait_for("child: done");
    let lines = croupier.log().lines();
    let said: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("child: ")).collect();
    assert!(said.iter().any(|line| line.starts_with("CROUPIER_TEST_ROLE=")), "{said:?}");
    for sign in ["CROUPIER_CHANNEL=", "CROUPIER_WORKER_ID=", "socket:", "memfd:", "eventfd"] {
        assert!(!said.iter().any(|line| line.contains(sign)), "{sign} in {said:#?}");
    }
}

#[test]
fn worker_with_a_child() {
    if roles::plays("worker_with_a_child") {
        let _listener = roles::join().listen_on_first(&ListenOptions::new()).unwrap();
        let child = Command::new("sh").args(["-c", "env; ls -l /proc/self/fd; echo done"]).output().unwrap();
        for line in String::from_utf8(child.stdout).unwrap().lines() {
            roles::say(&format!("child: {line}"));
        }
        roles::wait_for_the_end();
    }
}

#[test]
fn chdir_says_where_workers_run() {
    let directory = Directory::new();
    let path = directory.path().canonicalize().unwrap();
    let croupier = Croupier::of_command(&["--workers", "1", "--chdir", path.to_str().unwrap()], &["sleep", "1000"]);
    let worker = croupier.wait_started(1).pid;
    assert_eq!(std::fs::read_link(format!("/proc/{worker}/cwd")).unwrap(), path);
    let croupier = Croupier::of_command(&["--workers", "1"], &["sleep", "1000"]);
    let worker = croupier.wait_started(1).pid;
    let own = std::env::current_dir().unwrap();
    assert_eq!(std::fs::read_link(format!("/proc/{worker}/cwd")).unwrap(), own, "by default where the primary does");
}

/// Signals that its parent had ignored still reach the primary.
#[test]
fn a_primary_with_ignored_signals_still_obeys_them() {
    let mut croupier = Croupier::spawn(support::run_after(PRELUDE, &["--workers", "1"]));
    let address = croupier.wait_ready(1);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

/// The variables and the channel of the outer one reach the inner primary, which is nobody's worker; its own
/// workers get their own.
#[test]
fn a_croupier_under_a_croupier_has_workers_of_its_own() {
    let directory = Directory::new();
    let (socket, control) = (directory.file("socket"), directory.file("control"));
    let inner = "\"$0\" run --listen unix:$SOCKET --workers 1 --control $CONTROL 2>/dev/null &";
    let script = format!("[ $CROUPIER_WORKER_ID = 1 ] && {inner} exec \"$0\" demo");
    let options = ["--workers", "1", "--env", &format!("SOCKET={socket}"), "--env", &format!("CONTROL={control}")];
    let mut outer = Croupier::of_command(&options, &["sh", "-c", &script, support::PROGRAM]);
    let address = outer.wait_ready(1);
    let client = |arguments: &[&str]| {
        let mut command = support::plain(support::PROGRAM);
        command.args(arguments).args(["--control", &control]);
        Outcome::of(command)
    };
    let ready = || Client::connect_unix(&socket).ok()?.get().ok();
    assert_eq!(until(ready).expect("the inner one serves").worker(), 1);
    assert_eq!(http::get(&address).unwrap().worker(), 1);

    let status: serde_json::Value = serde_json::from_str(&client(&["status", "--json"]).assert_ok().stdout).unwrap();
    let worker = status["workers"][0]["pid"].as_i64().unwrap() as i32;
    let environment = processes::environment(worker);
    assert_eq!((environment["CROUPIER_WORKER_ID"].as_str(), environment["CROUPIER_GENERATION"].as_str()), ("1", "0"));
    // Nobody but the outer worker has what it is dealt: its end is seen, and it is replaced.
    let outer_worker = outer.wait_started(1).pid;
    let files = |pid: i32| {
        let link = move |fd: i32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
        processes::descriptors(pid).into_iter().filter(|fd| *fd > 2).filter_map(link).collect::<Vec<_>>()
    };
    let sockets = |pid: i32| files(pid).into_iter().filter(|link| link.to_string_lossy().starts_with("socket:"));
    assert!(sockets(worker).all(|socket| sockets(outer_worker).all(|other| other != socket)));
    processes::send(outer_worker, Signal::SIGKILL);
    outer.log().wait_for("worker=2 pid=");
    wait_until("the replacement serves", || http::get(&address).is_ok_and(|it| it.worker() == 2));

    client(&["stop", "--wait", "30s"]).assert_ok();
    assert_eq!(outer.terminate(), Some(0));
}

fn environment_without_ours(pid: i32) -> BTreeMap<String, String> {
    let mut environment = processes::environment(pid);
    environment.retain(|name, _| !name.starts_with("CROUPIER_"));
    environment
}
