//! The primary replaced in place (SIGUSR2): same process, same workers, same connections.

#![cfg(feature = "cli")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::load::Load;
use support::roles::{self, Orders};
use support::{Croupier, Directory, Outcome, processes, wait_until};

/// Makes a program that never answers.
const HANGS: &str = "printf '#!/bin/sh\\nsleep 1000\\n' >\"$1\"; chmod +x \"$1\"";

/// A program that can be replaced.
struct Program {
    directory: Directory,
}

// What goes on.

#[test]
fn an_upgrade_under_load_is_noticed_by_no_client_and_no_worker() {
    let program = Program::install();
    let mut croupier = program.run(&["--workers", "3", "--stall-after", "1h"]);
    let address = croupier.wait_ready(3);
    let (pid, workers) = (croupier.pid(), croupier.started());
    let load = Load::start(&address, 4, 4);
    for upgrades in 1..=5 {
        program.replace_by_itself();
        upgrade(&croupier, upgrades);
        load.wait_for(100);
    }
    load.end();
    let answers = http::next_workers(&address, 12);
    assert!(http::is_rotation(&answers, 3), "{answers:?}");
    assert_eq!((croupier.pid(), croupier.started()), (pid, workers.clone()));
    assert!(workers.iter().all(|worker| processes::stat(worker.pid).is_some_and(|it| it.parent == pid)));
    assert_eq!(croupier.terminate(), Some(0));
    croupier.log().wait_end();
    assert_eq!((croupier.log().count("WARN"), croupier.log().count("ERROR")), (0, 0), "{}", croupier.log());
}

#[test]
fn the_rotation_goes_on_where_it_was() {
    let mut croupier = Croupier::demo(&["--workers", "3", "--stall-after", "1h"]);
    let address = croupier.wait_ready(3);
    let mut answers = http::next_workers(&address, 4);
    for upgrades in 1..=3 {
        upgrade(&croupier, upgrades);
        answers.extend(http::next_workers(&address, 4));
    }
    assert!(http::is_rotation(&answers, 3), "{answers:?}");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn several_upgrades_asked_for_at_once_are_one_or_more_and_none_is_harmful() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let load = Load::start(&address, 2, 2);
    for _ in 0..5 {
        let before = croupier.log().count("took over");
        for _ in 0..10 {
            croupier.signal(Signal::SIGUSR2);
        }
        croupier.log().wait_for_count("took over", before + 1);
        load.wait_for(20);
    }
    load.end();
    assert_eq!(croupier.terminate(), Some(0));
    croupier.log().wait_end();
    assert_eq!(croupier.log().count("ERROR"), 0, "{}", croupier.log());
}

#[test]
fn connections_that_wait_untaken_survive_and_reach_their_worker() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--stall-after", "1h"]);
    let address = croupier.wait_ready(2);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients = clients_with_requests(&address, 12);
    answered_by_second(&mut clients);
    upgrade(&croupier, 1);
    processes::send(stopped.pid, Signal::SIGCONT);
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 1);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn connections_that_wait_untaken_survive_and_are_recovered_if_their_worker_dies_afterwards() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--stall-after", "1h"]);
    let address = croupier.wait_ready(2);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients = clients_with_requests(&address, 12);
    answered_by_second(&mut clients);
    upgrade(&croupier, 1);
    processes::send(stopped.pid, Signal::SIGKILL);
    for client in clients.iter_mut().step_by(2) {
        assert_ne!(client.response().unwrap().worker(), 1);
    }
    croupier.wait_ready(3);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_stalled_worker_is_still_skipped_and_takes_again_afterwards() {
    let mut croupier = Croupier::demo(&["--workers", "3", "--stall-after", "500ms"]);
    let address = croupier.wait_ready(3);
    let stopped = croupier.wait_started(1);
    processes::stop(stopped.pid);
    for client in &mut clients_with_requests(&address, 9) {
        assert_ne!(client.response().unwrap().worker(), 1);
    }
    croupier.log().wait_for("reclaimed [skipped");
    upgrade(&croupier, 1);
    assert!(!http::next_workers(&address, 6).contains(&1));
    processes::send(stopped.pid, Signal::SIGCONT);
    croupier.log().wait_for("worker=1 takes again");
    let answers = http::next_workers(&address, 9);
    assert!(http::is_rotation(&answers, 3), "{answers:?}");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn connections_that_the_primary_holds_survive() {
    let orders = Orders::new();
    let options = ["--workers", "2", "--stall-after", "1h", &orders.option()];
    let croupier = Croupier::of_role(&options, "worker_on_command");
    let address = croupier.wait_ready(2);
    // Untaken ones that are taken back when both pause, and one that is given back.
    let mut clients = clients_with_requests(&address, 6);
    orders.give(&croupier, 2, "pause");
    orders.give(&croupier, 1, "return");
    orders.give(&croupier, 1, "take");
    croupier.log().wait_for("worker 1 returns");
    orders.give(&croupier, 1, "pause");
    upgrade(&croupier, 1);
    upgrade(&croupier, 2);
    orders.give(&croupier, 2, "take");
    orders.give(&croupier, 2, "resume");
    for client in &mut clients {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
}

#[test]
fn a_full_worker_that_makes_room_right_after_an_upgrade_is_dealt_to() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--connections-max", "2"]);
    let address = croupier.wait_ready(1);
    for upgrades in 1..=5 {
        let mut holders: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
        holders.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
        let mut clients = clients_with_requests(&address, 6);
        if upgrades % 2 == 0 {
            upgrade(&croupier, upgrades);
            drop(holders);
        } else {
            croupier.signal(Signal::SIGUSR2);
            drop(holders);
            croupier.log().wait_for(&format!("upgrades={upgrades}"));
        }
        for client in &mut clients {
            assert_eq!(client.response().unwrap().status, 200);
        }
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_worker_that_is_killed_around_an_upgrade_is_replaced() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    for round in 1..=12 {
        let victim = *croupier.started().iter().rfind(|worker| worker.slot == round % 2).unwrap();
        match round % 3 {
            0 => {
                processes::send(victim.pid, Signal::SIGKILL);
                upgrade(&croupier, round);
            }
            1 => {
                croupier.signal(Signal::SIGUSR2);
                processes::send(victim.pid, Signal::SIGKILL);
                croupier.log().wait_for(&format!("upgrades={round}"));
            }
            _ => {
                upgrade(&croupier, round);
                processes::send(victim.pid, Signal::SIGKILL);
            }
        }
        let new = croupier.wait_started(2 + round);
        assert_eq!(new.slot, victim.slot);
        croupier.wait_ready(2 + round as usize);
        let mut answers = http::next_workers(&address, 2);
        answers.sort_unstable();
        assert!(answers[0] < answers[1] && answers[1] == new.id, "{answers:?}");
    }
    wait_until("nobody is left but the two", || {
        let children = processes::children(croupier.pid());
        children.len() == 2 && children.into_iter().all(processes::runs)
    });
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn an_upgrade_during_a_reload_does_not_disturb_it() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let load = Load::start(&address, 2, 2);
    for round in 1..=5 {
        croupier.signal(Signal::SIGHUP);
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for(&format!("upgrades={round}"));
        croupier.log().wait_for(&format!("reload done generation={round}"));
        load.wait_for(20);
    }
    load.end();
    croupier.log().wait_for_count(" exited code=0", 15);
    assert_eq!(croupier.started().len(), 18);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_path_of_a_unix_listener_stays_and_goes_with_the_last_image() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let mut run = support::plain(support::PROGRAM);
    run.args(["run", "--workers", "2", "--listen", &format!("unix:{path}")]);
    let mut croupier = Croupier::spawn(run);
    croupier.wait_ready(2);
    for upgrades in 1..=3 {
        upgrade(&croupier, upgrades);
        assert!(Path::new(&path).exists());
        for _ in 0..4 {
            assert_eq!(Client::connect_unix(&path).unwrap().get().unwrap().status, 200);
        }
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert!(!Path::new(&path).exists());
}

#[test]
fn nothing_leaks_over_many_upgrades() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let (descriptors, memfds) = (processes::descriptors(croupier.pid()).len(), memfds(croupier.pid()));
    for upgrades in 1..=20 {
        upgrade(&croupier, upgrades);
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    // The last connection is answered a moment before the primary closes its copy.
    wait_until("as few descriptors as before", || processes::descriptors(croupier.pid()).len() == descriptors);
    assert_eq!(self::memfds(croupier.pid()), memfds);
    assert_eq!(processes::children(croupier.pid()).len(), 2, "those on trial are reaped");
    assert!(!processes::environment(croupier.started()[0].pid).contains_key("CROUPIER_STATE"));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_worker_that_is_started_after_an_upgrade_is_born_like_any_other() {
    let mut run = support::run_after("ulimit -Sn 512", &["--workers", "1", "--respawn-burst", "50/1"]);
    run.args(["--", "sleep", "1000"]);
    let croupier = Croupier::spawn(run);
    let first = croupier.wait_started(1);
    let (_, hard) = processes::open_files_limits(croupier.pid()).unwrap();
    for (upgrades, id) in [(1, 2), (2, 3)] {
        upgrade(&croupier, upgrades);
        processes::send(croupier.wait_started(id - 1).pid, Signal::SIGKILL);
        let worker = croupier.wait_started(id).pid;
        wait_until("it is sleep", || processes::environment(worker).contains_key("CROUPIER_CHANNEL"));
        let environment = processes::environment(worker);
        let channel: i32 = environment["CROUPIER_CHANNEL"].parse().unwrap();
        wait_until("descriptors 0, 1, 2 and the channel", || processes::descriptors(worker) == [0, 1, 2, channel]);
        assert_eq!(processes::open_files_limits(worker), Some((512, hard)));
        assert!(!environment.contains_key("CROUPIER_STATE"));
        for set in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(processes::status(worker, set).unwrap(), "0".repeat(16), "{set}");
        }
    }
    assert!(!processes::runs(first.pid));
}

// What cannot take over.

#[test]
fn a_program_that_is_not_croupier_does_not_take_over() {
    let program = Program::install();
    let mut croupier = program.run(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let load = Load::start(&address, 2, 2);
    let mut upgrades = 0;
    for (replace, why) in [
        ("cp /bin/true \"$1\"", "it is not a croupier that knows this state (code=0, it said \"\")"),
        ("printf '#!/bin/sh\\necho nonsense\\n' >\"$1\"; chmod +x \"$1\"", "it said \"nonsense\""),
        ("printf '#!/bin/sh\\nexit 7\\n' >\"$1\"; chmod +x \"$1\"", "(code=7, "),
        ("printf '#!/bin/sh\\nkill -9 $$\\n' >\"$1\"; chmod +x \"$1\"", "(signal=9, "),
        ("printf '\\177ELF' >\"$1\"; chmod +x \"$1\"", "it is not a croupier"),
        ("cp /bin/true \"$1\"; chmod -x \"$1\"", "Permission denied"),
        ("true", "No such file"),
    ] {
        program.replace(replace);
        let before = croupier.log().count("no upgrade: ");
        croupier.signal(Signal::SIGUSR2);
        let line = croupier.log().wait_for_count("no upgrade: ", before + 1).pop().unwrap();
        assert!(line.contains(why) && line.contains(&program.path()), "{why}: {line}");
        load.wait_for(20);
        upgrades += 1;
        program.replace_by_itself();
        upgrade(&croupier, upgrades);
        load.wait_for(20);
    }
    load.end();
    assert_eq!(croupier.started().len(), 2);
    assert_eq!(processes::children(croupier.pid()).len(), 2);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_program_that_hangs_does_not_take_over_and_is_ended() {
    let program = Program::install();
    let mut croupier = program.run(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    program.replace(HANGS);
    let load = Load::start(&address, 1, 1);
    croupier.signal(Signal::SIGUSR2);
    wait_until("it runs", || processes::children(croupier.pid()).len() == 3);
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("an upgrade is under way already");
    let line = croupier.log().wait_for("no upgrade: ");
    assert!(line.contains("it did not answer within 5s"), "{line}");
    wait_until("it is ended", || processes::children(croupier.pid()).len() == 2);
    load.wait_for(20);
    program.replace_by_itself();
    upgrade(&croupier, 1);
    load.wait_for(20);
    load.end();
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_an_upgrade_under_way() {
    let program = Program::install();
    let mut croupier = program.run(&["--workers", "2"]);
    croupier.wait_ready(2);
    program.replace(HANGS);
    croupier.signal(Signal::SIGUSR2);
    wait_until("it runs", || processes::children(croupier.pid()).len() == 3);
    let workers: Vec<i32> = croupier.started().iter().map(|worker| worker.pid).collect();
    let on_trial = processes::children(croupier.pid()).into_iter().find(|pid| !workers.contains(pid)).unwrap();
    assert_eq!(croupier.terminate(), Some(0));
    processes::wait_gone(on_trial);
}

/// Signals that come while the new image is not yet there to read them wait for it.
#[test]
fn a_stop_during_the_change_of_images_is_obeyed_by_the_new_one() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut croupier = Croupier::demo(&["--workers", "2"]);
        let address = croupier.wait_ready(2);
        let mut clients = clients_with_requests(&address, 10);
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for("upgrading [the new image");
        croupier.signal(signal);
        for client in &mut clients {
            assert_eq!(client.response().unwrap().status, 200);
        }
        assert_eq!(croupier.wait_exit(), Some(0));
        croupier.log().wait_for("took over");
    }
}

#[test]
fn worker_on_command() {
    if roles::plays("worker_on_command") {
        roles::obey_files();
    }
}

impl Program {
    fn install() -> Self {
        let program = Self { directory: Directory::new() };
        program.replace_by_itself();
        program
    }

    fn path(&self) -> String {
        self.directory.file("croupier")
    }

    fn run(&self, options: &[&str]) -> Croupier {
        let mut run = support::plain(self.path());
        run.args(["run", "--listen", "127.0.0.1:0"]).args(options).args(["--", support::PROGRAM, "demo"]);
        Croupier::spawn(run)
    }

    fn replace_by_itself(&self) {
        self.replace(&format!("cp {} \"$1\"", support::PROGRAM));
    }

    /// Has a shell make a file at `$1`, and puts that in place of the program in one step; without a file the program
    /// goes. Another process does it: what this one has open for writing a child that another test starts at this
    /// moment has open too, and nobody could execute it (ETXTBSY).
    fn replace(&self, script: &str) {
        let new = self.directory.file("new");
        let path = self.path();
        let made = Command::new("sh").args(["-c", script, "sh", &new]).status().unwrap();
        assert!(made.success(), "{script}");
        if Path::new(&new).exists() { std::fs::rename(new, path) } else { std::fs::remove_file(path) }.unwrap();
    }
}

/// Upgrades, and waits for the new image.
#[track_caller]
fn upgrade(croupier: &Croupier, upgrades: u32) {
    croupier.signal(Signal::SIGUSR2);
    let took_over = croupier.log().wait_for(&format!("upgrades={upgrades}"));
    assert!(took_over.contains("took over from version="), "{took_over}");
}

fn answered_by_second(clients: &mut [Client]) {
    for client in clients.iter_mut().skip(1).step_by(2) {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
}

/// How many memory files it has open.
fn memfds(pid: i32) -> usize {
    let links = processes::descriptors(pid).into_iter();
    let links = links.filter_map(|fd| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok());
    links.filter(|link| link.to_string_lossy().contains("memfd:")).count()
}

/// Clients that have sent a request after which they expect the end.
fn clients_with_requests(address: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    clients
}

/// Whoever asks for it usually has the new program, and the primary is the old one.
#[test]
fn it_is_asked_for_at_a_primary_that_tells_less_of_itself() {
    let directory = Directory::new();
    let path = directory.file("control");
    let listener = UnixListener::bind(&path).unwrap();
    let old = std::thread::spawn(move || {
        for answer in [Some(0), None, Some(1)] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = request.next().unwrap();
            assert_eq!(first.starts_with("POST /upgrade"), answer.is_none(), "{first}");
            request.find(|line| line.is_empty()).unwrap();
            // The new image knows nothing of who asked the old one.
            let Some(upgrades) = answer else { continue };
            let body = format!("{{\"upgrades\":{upgrades}}}");
            write!(client, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let mut upgrade = support::plain(support::PROGRAM);
    upgrade.args(["upgrade", "--control", &path]);
    assert!(Outcome::of(upgrade).assert_ok().stdout.starts_with("upgraded"));
    old.join().unwrap();
}
