//! The pid directory: its files say what runs, and belong to one primary, whatever the ends of others.
#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;

use support::{Croupier, Directory, Outcome, http, processes, until, wait_until};

const NOBODY: u32 = 65534;

fn run_in(directory: &Directory, options: &[&str]) -> Command {
    let mut run = support::run(&["--pid-dir", directory.path().to_str().unwrap()]);
    run.args(options);
    run
}

/// The files in the directory, and what they say.
fn files(directory: &Directory) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory.path()).unwrap().flatten();
    let named = |path: std::path::PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((name, fs::read_to_string(&path).ok()?))
    };
    entries.filter_map(|entry| named(entry.path())).collect()
}

/// What the files of a primary are to be.
fn expected(croupier: &Croupier) -> BTreeMap<String, String> {
    let status = croupier.status();
    let workers = status["workers"].as_array().unwrap().iter();
    let mut files: BTreeMap<String, String> =
        workers.map(|it| (format!("worker.{}.pid", it["id"]), format!("{}\n", it["pid"]))).collect();
    files.insert("primary.pid".into(), format!("{}\n", croupier.pid()));
    files
}

#[track_caller]
fn wait_right(directory: &Directory, croupier: &Croupier, count: usize) {
    let is_right = || files(directory) == expected(croupier) && files(directory).len() == count + 1;
    wait_until("the files are those of the processes", is_right);
}

#[test]
fn the_files_are_those_of_the_processes_over_deaths_reloads_scales_and_upgrades_until_the_end() {
    let directory = Directory::new();
    let mut croupier = Croupier::spawn(run_in(&directory, &["--workers", "2"]));
    croupier.wait_ready(2);
    wait_right(&directory, &croupier, 2);
    let primary = || fs::metadata(directory.file("primary.pid")).unwrap().ino();
    let inode = primary();
    processes::send(croupier.started()[0].pid, Signal::SIGKILL);
    croupier.wait_ready(3);
    wait_right(&directory, &croupier, 2);
    croupier.client(&["reload"]).assert_ok();
    croupier.client(&["scale", "4"]).assert_ok();
    wait_right(&directory, &croupier, 4);
    for upgrades in 1..=2 {
        croupier.client(&["upgrade"]).assert_ok();
        croupier.log().wait_for_count("took over", upgrades);
        wait_right(&directory, &croupier, 4);
        Outcome::of(run_in(&directory, &[])).assert_failed(3, &format!("(pid {})", croupier.pid()));
    }
    processes::send(croupier.started()[4].pid, Signal::SIGKILL);
    wait_right(&directory, &croupier, 4);
    assert_eq!(primary(), inode, "it is the same file all the time");
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(files(&directory), BTreeMap::new());
    assert_eq!(croupier.log().count("WARN") + croupier.log().count("ERROR"), 0);
}

#[test]
fn a_second_primary_in_the_directory_ends_with_3_and_the_first_goes_on() {
    let directory = Directory::new();
    let first = Croupier::spawn(run_in(&directory, &["--workers", "1"]));
    let address = first.wait_ready(1);
    wait_right(&directory, &first, 1);
    let second = Outcome::of(run_in(&directory, &["--name", "another"]));
    second.assert_failed(3, "another primary keeps its files there");
    assert!(second.stderr.contains(&format!("(pid {})", first.pid())) && second.stderr.contains("choose another"));
    wait_right(&directory, &first, 1);
    assert_eq!(http::get(&address).unwrap().status, 200);
}

#[test]
fn what_a_dead_primary_left_is_taken_over_whoever_has_its_pid_now() {
    let directory = Directory::new();
    let mut first = Croupier::spawn(run_in(&directory, &["--workers", "2"]));
    first.wait_ready(2);
    wait_right(&directory, &first, 2);
    first.signal(Signal::SIGKILL);
    first.wait_status();
    assert_eq!(files(&directory).len(), 3);
    // As if the pid had been given to somebody else: this very process.
    fs::write(directory.file("primary.pid"), format!("{}\n", std::process::id())).unwrap();
    fs::write(directory.file("worker.4711.pid"), "1\n").unwrap();
    fs::write(directory.file("notes.pid"), "not croupier's").unwrap();
    let mut second = Croupier::spawn(run_in(&directory, &["--workers", "1"]));
    second.wait_ready(1);
    let mut right = expected(&second);
    right.insert("notes.pid".into(), "not croupier's".into());
    wait_until("only its own files are there", || files(&directory) == right);
    assert_eq!(second.terminate(), Some(0));
    assert_eq!(files(&directory).into_keys().collect::<Vec<_>>(), ["notes.pid"]);
}

#[test]
fn of_primaries_that_start_at_once_exactly_one_gets_the_directory() {
    let directory = Directory::new();
    for round in 0..3 {
        if round == 1 {
            fs::write(directory.file("primary.pid"), "4194304\n").unwrap();
        }
        let mut all: Vec<Croupier> = (0..4).map(|_| Croupier::spawn(run_in(&directory, &["--workers", "1"]))).collect();
        let mut stays = None;
        for (index, croupier) in all.iter_mut().enumerate() {
            let line = croupier.log().wait_until("a decision", |lines| {
                lines.iter().find(|line| line.contains(" started") || line.contains("--pid-dir")).cloned()
            });
            if line.contains("--pid-dir") {
                assert_eq!(croupier.wait_exit(), Some(3), "{line}");
            } else {
                assert_eq!(stays.replace(index), None, "one is enough");
            }
        }
        let stays = &mut all[stays.expect("one stays")];
        wait_right(&directory, stays, 1);
        if round < 2 {
            assert_eq!(stays.terminate(), Some(0));
        }
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_named_and_ends_with_2() {
    let directory = Directory::new();
    let run = |path: &str| Outcome::of(support::run(&["--pid-dir", path]));
    let missing = directory.file("missing");
    run(&missing).assert_failed(2, &format!("--pid-dir {missing}: No such file or directory"));
    fs::write(directory.file("file"), "").unwrap();
    run(&directory.file("file")).assert_failed(2, "Not a directory");
    fs::write(directory.file("primary.pid"), "precious").unwrap();
    run(directory.path().to_str().unwrap()).assert_failed(2, "primary.pid is no pid file; choose another --pid-dir");
    assert_eq!(fs::read_to_string(directory.file("primary.pid")).unwrap(), "precious");
    let program = directory.copy_for_all(support::PROGRAM);
    let mut as_nobody = support::plain(program);
    let control = format!("/tmp/croupier-test-nobody-{}.sock", std::process::id());
    as_nobody.args(["run", "--listen", "127.0.0.1:0", "--control", &control, "--pid-dir"]);
    as_nobody.arg(directory.path()).uid(NOBODY).gid(NOBODY).current_dir("/");
    Outcome::of(as_nobody)
        .assert_failed(2, "Permission denied (os error 13); give a directory that croupier may write to");
    let full = Outcome::of(support::run(&["--pid-dir", "/dev/full"]));
    full.assert_failed(2, "--pid-dir /dev/full: Not a directory");
    assert_eq!(files(&directory).len(), 2, "{:?}", files(&directory));
}

/// The directory goes away for a while, as on a file system that is remounted: one warning, and all is right later.
#[test]
fn later_trouble_is_a_warning_and_made_up_for() {
    let directory = Directory::new();
    let (place, aside) = (directory.file("pids"), directory.file("aside"));
    fs::create_dir(&place).unwrap();
    let croupier = Croupier::spawn(support::run(&["--workers", "1", "--pid-dir", &place]));
    let address = croupier.wait_ready(1);
    let of_first = format!("{place}/worker.1.pid");
    wait_until("the worker's file is there", || fs::exists(&of_first).unwrap());
    fs::rename(&place, &aside).unwrap();
    croupier.client(&["reload"]).assert_ok();
    let line = croupier.log().wait_for("pid-dir=");
    assert!(line.contains("WARN") && line.contains("No such file or directory") && line.contains("dealing goes on"));
    assert_eq!(http::get(&address).unwrap().status, 200);
    fs::rename(&aside, &place).unwrap();
    croupier.log().wait_for("all files are there again");
    let pid = fs::read_to_string(format!("{place}/worker.2.pid")).unwrap();
    assert_eq!(pid.trim(), croupier.wait_started(2).pid.to_string());
    wait_until("that of the worker that has ended is gone", || !fs::exists(&of_first).unwrap());
    assert_eq!(croupier.log().count("WARN"), 1);
}

/// The file was replaced while the primary ran: it is not ours any more.
#[test]
fn at_the_end_only_its_own_file_is_removed() {
    let directory = Directory::new();
    let mut croupier = Croupier::spawn(run_in(&directory, &["--workers", "1"]));
    croupier.wait_ready(1);
    wait_right(&directory, &croupier, 1);
    fs::remove_file(directory.file("primary.pid")).unwrap();
    fs::write(directory.file("primary.pid"), "1\n").unwrap();
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(files(&directory), BTreeMap::from([("primary.pid".into(), "1\n".into())]));
}

#[test]
fn an_upgrade_takes_them_to_another_directory_or_ends_them() {
    let directory = Directory::new();
    let (file, old, new) = (directory.file("croupier.toml"), directory.file("old"), directory.file("new"));
    [&old, &new].iter().for_each(|path| fs::create_dir(path).unwrap());
    let write = |path: &str| fs::write(&file, path).unwrap();
    write(&format!("pid-dir = '{old}'"));
    let croupier = Croupier::spawn(support::run(&["--workers", "1", "--config", &file]));
    croupier.wait_ready(1);
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    wait_until("both files are there", || count(&old) == 2);
    write(&format!("pid-dir = '{new}'"));
    croupier.client(&["upgrade"]).assert_ok();
    wait_until("they are in the other directory", || (count(&old), count(&new)) == (0, 2));
    write("");
    croupier.client(&["upgrade"]).assert_ok();
    wait_until("they are gone", || count(&new) == 0);
    assert_eq!(until(|| http::get(&croupier.address()).ok()).map(|it| it.status), Some(200));
}

#[test]
fn everybody_may_read_them_as_far_as_the_umask_lets_them() {
    let directory = Directory::new();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let mut run = support::run_after("umask 022", &["--workers", "1", "--pid-dir"]);
    run.arg(directory.path());
    let croupier = Croupier::spawn(run);
    croupier.wait_ready(1);
    wait_right(&directory, &croupier, 1);
    for name in files(&directory).into_keys() {
        assert_eq!(fs::metadata(directory.file(&name)).unwrap().mode() & 0o777, 0o644, "{name}");
    }
}
