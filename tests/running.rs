//! How workers run: as whom, where, with which arguments and variables. Needs root, `setpriv` and `taskset`
//! (util-linux).

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::load::Load;
use support::{Croupier, Directory, Outcome, processes};

/// The user of these tests; every system has it.
const NOBODY: u32 = 65534;

/// A primary of root's from a copy of the program that everybody may execute, with demo workers.
struct Open {
    croupier: Croupier,
    directory: Directory,
}

impl Open {
    fn run(options: &[&str]) -> Self {
        let directory = Directory::new();
        let mut command = support::plain(directory.copy_for_all(support::PROGRAM));
        command.args(["run", "--listen", "127.0.0.1:0"]).args(options);
        Self { croupier: Croupier::spawn(command), directory }
    }
}

// As whom.

/// All four of them: real, effective, saved, and the one for files.
fn ids(pid: i32, field: &str) -> Vec<u32> {
    processes::status(pid, field).unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn groups(pid: i32) -> BTreeSet<u32> {
    ids(pid, "Groups").into_iter().collect()
}

fn groups_by_the_system(user: &str) -> BTreeSet<u32> {
    let mut command = Command::new("id");
    command.args(["-G", user]);
    Outcome::of(command).stdout.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn workers_are_their_user_s_and_keep_nothing_of_the_primary_s() {
    // Groups that only the primary has.
    let mut command = support::plain("setpriv");
    command.args(["--groups", "4,27", support::PROGRAM, "run", "--listen", "127.0.0.1:0", "--workers", "2"]);
    command.args(["--user", "nobody", "--", "sleep", "1000"]);
    let croupier = Croupier::spawn(command);
    for id in [1, 2] {
        let worker = croupier.wait_started(id).pid;
        assert_eq!((ids(worker, "Uid"), ids(worker, "Gid")), (vec![NOBODY; 4], vec![NOBODY; 4]));
        assert_eq!(groups(worker), groups_by_the_system("nobody"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(processes::status(worker, set).unwrap().trim_matches('0'), "", "{set}");
        }
    }
    assert_eq!((ids(croupier.pid(), "Uid"), groups(croupier.pid())), (vec![0; 4], BTreeSet::from([4, 27])));
}

#[test]
fn users_and_groups_can_be_numbers_that_nobody_has_and_a_group_can_stand_alone() {
    let cases: [(&[&str], u32, u32, &[u32]); 4] = [
        (&["--user", "4711"], 4711, 4711, &[4711]),
        (&["--user", "4711", "--group", "4712"], 4711, 4712, &[4712]),
        (&["--user", "nobody", "--group", "4712"], NOBODY, 4712, &[4712]),
        (&["--group", "daemon"], 0, 1, &[1]),
    ];
    for (options, uid, gid, expected) in cases {
        let croupier = Croupier::of_command(options, &["sleep", "1000"]);
        let worker = croupier.wait_started(1).pid;
        assert_eq!((ids(worker, "Uid"), ids(worker, "Gid")), (vec![uid; 4], vec![gid; 4]), "{options:?}");
        assert_eq!(groups(worker), expected.iter().copied().collect(), "{options:?}");
    }
}

#[test]
fn a_worker_of_another_user_is_dealt_connections_drained_upgraded_around_and_recovered() {
    let Open { mut croupier, directory: _directory } = Open::run(&["--workers", "2", "--user", "nobody"]);
    let address = croupier.wait_ready(2);
    let workers = http::next_workers(&address, 8);
    assert!(http::is_rotation(&workers, 2), "{workers:?}");

    let load = Load::start(&address, 2, 4);
    croupier.client(&["reload"]).assert_ok();
    load.wait_for(20);
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    load.wait_for(20);
    load.end();
    for id in [3, 4] {
        assert_eq!(ids(croupier.wait_started(id).pid, "Uid"), [NOBODY; 4]);
    }

    // What one has not taken goes to the other.
    processes::stop(croupier.wait_started(3).pid);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().worker(), 4));
    processes::send(croupier.wait_started(4).pid, Signal::SIGKILL);
    assert_eq!(ids(croupier.wait_started(5).pid, "Uid"), [NOBODY; 4]);
    processes::send(croupier.wait_started(3).pid, Signal::SIGCONT);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_group_of_another_user_s_is_killed_at_the_end() {
    let script = "trap '' TERM; sleep 1000 & sleep 1000";
    let options = ["--workers", "1", "--user", "nobody", "--kill-delay", "100ms", "--env", "MARK=killed-at-the-end"];
    let mut croupier = Croupier::of_command(&options, &["sh", "-c", script]);
    croupier.wait_started(1);
    let marked = || processes::with_variable("MARK", "killed-at-the-end");
    support::wait_until("the shell has started both", || marked().len() == 3);
    let group = marked();
    croupier.client(&["stop"]).assert_ok();
    assert_eq!(croupier.wait_exit(), Some(1));
    group.into_iter().for_each(processes::wait_gone);
}

#[test]
fn the_control_socket_stays_root_s() {
    let Open { mut croupier, directory } = Open::run(&["--workers", "1", "--user", "nobody"]);
    croupier.wait_ready(1);
    let socket = std::fs::metadata(croupier.control()).unwrap();
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (0, 0, 0o600));
    let mut status = support::plain(directory.file("croupier"));
    status.args(["status", "--control", &croupier.control()]).uid(NOBODY).gid(NOBODY).current_dir("/");
    Outcome::of(status).assert_failed(1, &croupier.control());
    croupier.client(&["status"]).assert_ok();
    assert_eq!(croupier.terminate(), Some(0));
}

// Where, with which arguments and variables.

#[test]
fn arguments_reach_every_worker_unchanged() {
    let script = "printf '<%s>' \"$@\" >&2; echo >&2; exec sleep 1000";
    let odd = ["two words", "", "$HOME *", "--workers", "-w", "a'b\"c\\", "\u{fc}"];
    let options = ["--workers", "2", "--stderr", "prefix"];
    let croupier = Croupier::of_command(&options, &[&["sh", "-c", script, "sh"], &odd[..]].concat());
    let words: String = odd.iter().map(|word| format!("<{word}>")).collect();
    for id in [1, 2] {
        let line = croupier.log().wait_for(&format!("worker={id} | "));
        assert_eq!(line, format!("worker={id} | {words}"));
    }
}

#[test]
fn variables_are_added_to_and_override_those_of_the_primary_and_keep_their_values() {
    let mut run =
        support::run(&["--workers", "2", "--env", "KEPT=no, overridden", "--env", "ADDED=a=b c", "--env", "E="]);
    run.env("KEPT", "kept").env("OTHER", "as it was").args(["--", "sleep", "1000"]);
    let croupier = Croupier::spawn(run);
    for id in [1, 2] {
        let environment = processes::environment(croupier.wait_started(id).pid);
        for (name, value) in [("KEPT", "no, overridden"), ("ADDED", "a=b c"), ("E", ""), ("OTHER", "as it was")] {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
}

#[test]
fn replacements_run_where_the_first_ones_did() {
    let directory = Directory::new();
    let path = directory.path().canonicalize().unwrap();
    let croupier = Croupier::demo(&["--workers", "1", "--chdir", path.to_str().unwrap(), "--env", "ADDED=added"]);
    croupier.wait_ready(1);
    croupier.client(&["reload"]).assert_ok();
    processes::send(croupier.wait_started(2).pid, Signal::SIGKILL);
    let worker = croupier.wait_started(3).pid;
    assert_eq!(std::fs::read_link(format!("/proc/{worker}/cwd")).unwrap(), path);
    assert_eq!(processes::environment(worker)["ADDED"], "added");
    let own = std::fs::read_link(format!("/proc/{}/cwd", croupier.pid())).unwrap();
    assert_eq!(own, std::env::current_dir().unwrap(), "the primary stays where it is");
}

// How many.

#[test]
fn there_is_one_worker_per_processor_that_this_process_may_use() {
    let mut command = support::plain("taskset");
    command.args(["--cpu-list", "0", support::PROGRAM, "run", "--listen", "127.0.0.1:0", "--", "sleep", "1000"]);
    let croupier = Croupier::spawn(command);
    assert!(croupier.log().wait_for("dealing ").contains("workers=1 "));
    croupier.wait_started(1);
    assert_eq!(croupier.status()["workers"].as_array().unwrap().len(), 1);
}

#[test]
fn web_concurrency_says_how_many_and_the_option_says_it_louder() {
    for (options, expected) in [(&[][..], 3), (&["--workers", "2"], 2)] {
        let mut run = support::run(options);
        run.env("WEB_CONCURRENCY", "3").args(["--", "sleep", "1000"]);
        let croupier = Croupier::spawn(run);
        assert!(croupier.log().wait_for("dealing ").contains(&format!("workers={expected} ")));
        croupier.wait_started(expected);
        assert_eq!(croupier.status()["workers"].as_array().unwrap().len(), expected as usize);
    }
}
