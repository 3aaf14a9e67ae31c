//! A reload and an upgrade read the configuration file again: what changes, what stays, and what a mistake leaves be.
#![cfg(feature = "cli")]

mod support;

use std::fs;

use nix::sys::signal::Signal;

use support::{Croupier, Directory, http, processes, wait_until};

/// A primary with a configuration file that the test rewrites.
struct Configured {
    directory: Directory,
    croupier: Croupier,
}

impl Configured {
    fn new(text: &str, options: &[&str]) -> Self {
        let directory = Directory::new();
        let path = directory.file("croupier.toml");
        fs::write(&path, text).unwrap();
        let mut run = support::run(&["--config", &path]);
        run.args(options);
        Self { croupier: Croupier::spawn(run), directory }
    }

    /// In one piece, as editors do it.
    fn write(&self, text: &str) {
        fs::write(self.directory.file("new"), text).unwrap();
        fs::rename(self.directory.file("new"), self.directory.file("croupier.toml")).unwrap();
    }

    fn reload(&self) {
        self.croupier.client(&["reload"]).assert_ok();
    }

    fn generation(&self) -> u64 {
        self.croupier.status()["generation"].as_u64().unwrap()
    }

    /// The pids of workers that are ready.
    fn ready(&self) -> Vec<i32> {
        let status = self.croupier.status();
        let workers = status["workers"].as_array().unwrap().iter();
        workers.filter(|it| it["state"] == "ready").map(|it| it["pid"].as_i64().unwrap() as i32).collect()
    }

    /// The variable of every ready worker, once there are as many.
    fn modes(&self, count: usize) -> Vec<String> {
        let ready = support::until(|| Some(self.ready()).filter(|ready| ready.len() == count));
        let mode = |pid| processes::environment(pid).get("MODE").cloned().unwrap_or_default();
        ready.unwrap_or_else(|| panic!("there are never {count} ready")).into_iter().map(mode).collect()
    }

    fn serves(&self) {
        assert_eq!(http::get(&self.croupier.address()).unwrap().status, 200);
    }
}

#[test]
fn a_reload_reads_the_file_and_flags_go_on_to_come_before_it() {
    let configured = Configured::new("workers = 1\nenv = { MODE = 'one' }\nqueue-max = 7", &["--backlog", "17"]);
    configured.croupier.wait_ready(1);
    assert_eq!(configured.modes(1), ["one"]);
    configured.write("workers = 2\nbacklog = 18\nenv = { MODE = 'two' }\nchdir = '/'\nkill-delay = '3s'");
    configured.croupier.signal(Signal::SIGHUP);
    configured.croupier.log().wait_for("reload done generation=1");
    assert_eq!(configured.modes(2), ["two", "two"]);
    for pid in configured.ready() {
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    }
    configured.serves();
    // What a flag says is not asked of the file, and so nothing of it changed.
    assert_eq!(configured.croupier.log().count("a reload cannot change"), 0);

    configured.write("workers = 1\nenv = { MODE = 'three' }");
    configured.reload();
    assert_eq!(configured.modes(1), ["three"]);
    assert_eq!(configured.generation(), 2);
}

#[test]
fn a_mistake_in_the_file_is_logged_and_told_and_nothing_is_reloaded() {
    let place = Directory::new();
    let events = place.file("events");
    let configured = Configured::new("workers = 2\nenv = { MODE = 'old' }", &["--events", &events]);
    configured.croupier.wait_ready(2);
    let (before, log) = (configured.ready(), configured.croupier.log());
    let mistakes: [(&str, &str); 5] = [
        ("workers = 2\nqueue-max = 'many'", "croupier.toml:2: queue-max = 'many': "),
        ("\n\nqueue-maxx = 1", "croupier.toml:3: queue-maxx: there is no such key; did you mean queue-max?"),
        ("workers = = 2", "croupier.toml:1: "),
        ("chdir = '/no/such/directory'", "croupier.toml:1: chdir /no/such/directory: there is no such directory"),
        ("env = { MODE = 'new' }\ncommand = ['/no/such']", "croupier.toml:2: command: /no/such: not found"),
    ];
    for (index, (text, part)) in mistakes.iter().enumerate() {
        configured.write(text);
        configured.croupier.signal(Signal::SIGHUP);
        let lines = log.wait_for_count("ERROR no reload: ", 2 * index + 1);
        let line = lines.last().unwrap();
        assert!(line.contains(part) && line.ends_with("[the old configuration goes on]"), "no {part:?} in {line}");
        configured.croupier.client(&["reload"]).assert_failed(1, part);
    }
    fs::remove_file(configured.directory.file("croupier.toml")).unwrap();
    configured.croupier.client(&["reload"]).assert_failed(1, "croupier.toml: No such file or directory");
    nix::unistd::mkfifo(configured.directory.file("croupier.toml").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    configured.croupier.client(&["reload"]).assert_failed(1, "croupier.toml: no plain file");
    assert_eq!((configured.ready(), configured.generation()), (before, 0));
    let told = || fs::read_to_string(&events).unwrap().matches("\"outcome\":\"misconfigured\"").count();
    wait_until("every one is told as an event", || told() == 2 * mistakes.len() + 2);
    // And a worker that ends is replaced by one of the old configuration.
    processes::send(configured.ready()[0], Signal::SIGKILL);
    log.wait_for_count(" listening on ", 3);
    assert_eq!(configured.modes(2), ["old", "old"]);
    configured.serves();
}

/// As the process that executes it does: in its directory, and with its `PATH`.
#[test]
fn a_reload_finds_the_command_where_workers_find_it() {
    let place = Directory::new();
    std::os::unix::fs::symlink(support::PROGRAM, place.file("web")).unwrap();
    let folder = place.path().display();
    let in_directory = format!("workers = 1\nchdir = '{folder}'\ncommand = ['./web', 'demo']");
    let in_path = format!("workers = 1\nenv = {{ PATH = '{folder}' }}\ncommand = ['web', 'demo']");
    let configured = Configured::new(&in_directory, &[]);
    configured.croupier.wait_ready(1);
    for text in [in_directory, in_path] {
        configured.write(&text);
        configured.reload();
        configured.serves();
    }
}

#[test]
fn what_cannot_change_is_named_with_the_remedy_and_the_rest_is_reloaded() {
    let configured = Configured::new("workers = 1\nname = 'configured-a'", &[]);
    configured.croupier.wait_ready(1);
    let text = "workers = 1\nname = 'configured-b'\nunix-mode = 600\nlog-format = 'json'\nenv = { MODE = 'new' }";
    configured.write(text);
    configured.reload();
    let line = configured.croupier.log().wait_for("a reload cannot change these");
    let stays = "name, unix-mode until croupier is started anew; log-format until `croupier upgrade`";
    assert!(line.contains("WARN") && line.ends_with(stays), "{line}");
    assert_eq!(configured.modes(1), ["new"]);
    assert_eq!(configured.croupier.status()["name"], "configured-a");
    configured.croupier.client(&["upgrade"]).assert_ok();
    configured.reload();
    let lines = configured.croupier.log().wait_for_count("a reload cannot change these", 1);
    assert_eq!(lines.len(), 1, "the new image began with the new file");
    configured.croupier.log().wait_for("{\"level\":\"info\"");
}

/// A configuration is good if workers come up with it.
#[test]
fn when_the_new_workers_fail_the_old_configuration_is_in_force_again() {
    let configured = Configured::new("workers = 2\nenv = { MODE = 'good' }", &[]);
    configured.croupier.wait_ready(2);
    configured.write("workers = 3\nenv = { MODE = 'bad' }\nstart-timeout = '1s'\ncommand = ['false']");
    configured.croupier.client(&["reload"]).assert_failed(1, "the new worker failed");
    configured.croupier.log().wait_for("the old configuration is in force again");
    assert_eq!(configured.modes(2), ["good", "good"]);
    let before = configured.ready();
    before.iter().for_each(|pid| processes::send(*pid, Signal::SIGKILL));
    wait_until("both are replaced", || {
        configured.ready().len() == 2 && configured.ready().iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(configured.modes(2), ["good", "good"]);
    configured.write("workers = 1\nenv = { MODE = 'better' }");
    configured.reload();
    assert_eq!(configured.modes(1), ["better"]);
    configured.serves();
}

#[test]
fn what_somebody_has_scaled_to_stays_until_the_file_says_another_number() {
    let configured = Configured::new("workers = 1", &[]);
    configured.croupier.wait_ready(1);
    configured.croupier.client(&["scale", "3"]).assert_ok();
    configured.modes(3);
    configured.write("workers = 1\nenv = { MODE = 'new' }");
    configured.reload();
    assert_eq!(configured.modes(3), ["new"; 3]);
    configured.croupier.client(&["upgrade"]).assert_ok();
    assert_eq!(configured.modes(3), ["new"; 3]);
    configured.write("workers = 2");
    configured.reload();
    assert_eq!(configured.modes(2), [""; 2]);
}

#[test]
fn an_upgrade_reads_the_file_too_and_does_not_happen_if_it_is_wrong() {
    let configured = Configured::new("workers = 1", &[]);
    configured.croupier.wait_ready(1);
    configured.write("workers = 0");
    let part = "croupier.toml:1: workers = 0: give a number from 1 to 4096, or auto";
    configured.croupier.client(&["upgrade"]).assert_failed(1, part);
    assert_eq!(configured.croupier.status()["upgrades"], 0);
    configured.write("workers = 2\nenv = { MODE = 'new' }");
    configured.croupier.client(&["upgrade"]).assert_ok();
    let modes = configured.modes(2);
    assert!(modes.contains(&"new".to_owned()) && modes.contains(&String::new()), "only the second is new: {modes:?}");
    configured.reload();
    assert_eq!(configured.modes(2), ["new"; 2]);
    configured.serves();
}

#[test]
fn whom_an_upgrade_starts_for_the_new_file_is_among_the_events() {
    let place = Directory::new();
    let path = place.file("events");
    let configured = Configured::new("workers = 1", &["--events", &path]);
    configured.croupier.wait_ready(1);
    configured.write("workers = 3");
    configured.croupier.client(&["upgrade"]).assert_ok();
    configured.modes(3);
    let events = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&path).unwrap();
        text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
    };
    wait_until("both are told", || events().iter().filter(|it| it["event"] == "fork").count() == 3);
    let ids: Vec<u64> = events().iter().map(|it| it["id"].as_u64().unwrap()).collect();
    assert!(ids.iter().copied().eq(1..=ids.len() as u64), "none is missing: {ids:?}");
}

/// The first reload waits for a worker that waits at a gate, and the second one for the first.
#[test]
fn a_reload_that_waits_for_its_turn_is_not_lost_in_an_upgrade() {
    let directory = Directory::new();
    let gate = directory.file("gate");
    let script = format!("[ -p {gate} ] && read < {gate}; exec {} demo", support::PROGRAM);
    let file = |mode| format!("workers = 1\nenv = {{ MODE = '{mode}' }}\ncommand = ['bash', '-c', '{script}']");
    let configured = Configured::new(&file("one"), &[]);
    configured.croupier.wait_ready(1);
    nix::unistd::mkfifo(gate.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    configured.write(&file("two"));
    configured.croupier.signal(Signal::SIGHUP);
    configured.croupier.wait_started(2);
    configured.write(&file("three"));
    configured.croupier.signal(Signal::SIGHUP);
    configured.croupier.log().wait_for_count("signal=SIGHUP", 2);
    configured.croupier.client(&["upgrade"]).assert_ok();
    let open = fs::File::options().write(true).open(&gate).unwrap();
    fs::remove_file(&gate).unwrap();
    drop(open);
    configured.croupier.log().wait_for("reload done generation=2");
    assert_eq!(configured.modes(1), ["three"]);
}

/// The settings from before do not go over an upgrade: what is in force then is said.
#[test]
fn a_reload_that_fails_after_an_upgrade_says_which_configuration_stays() {
    let directory = Directory::new();
    let gate = directory.file("gate");
    nix::unistd::mkfifo(gate.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let configured = Configured::new("workers = 1", &[]);
    configured.croupier.wait_ready(1);
    configured.write(&format!("workers = 1\ncommand = ['bash', '-c', 'read < {gate}; exit 9']"));
    configured.croupier.signal(Signal::SIGHUP);
    configured.croupier.wait_started(2);
    configured.croupier.client(&["upgrade"]).assert_ok();
    drop(fs::File::options().write(true).open(&gate).unwrap());
    configured.croupier.log().wait_for("reload stopped: the new worker failed");
    configured.croupier.log().wait_for("the new configuration stays in force");
    assert_eq!(configured.croupier.log().count("the old configuration is in force again"), 0);
    configured.serves();
}

/// Requests that come while one is under way are one more, and all are answered.
#[test]
fn many_reloads_at_once_end_with_what_the_file_says_last() {
    let configured = Configured::new("workers = 1", &[]);
    configured.croupier.wait_ready(1);
    for round in 0..5 {
        configured.write(&format!("workers = 1\nenv = {{ MODE = '{round}' }}"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| configured.reload());
                configured.croupier.signal(Signal::SIGHUP);
            }
        });
        configured.reload();
        assert_eq!(configured.modes(1), [round.to_string()]);
    }
    assert_eq!(configured.croupier.log().count("ERROR"), 0);
    configured.serves();
}

#[test]
fn the_last_line_is_about_what_was_in_force_at_the_end() {
    let mut configured = Configured::new("workers = 1", &[]);
    let address = configured.croupier.wait_ready(1);
    configured.write("workers = 1\nshutdown-timeout = '7ms'");
    configured.reload();
    let mut busy = http::Client::connect(&address).unwrap();
    assert_eq!(busy.get().unwrap().status, 200);
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    // The only worker has read what came before.
    configured.serves();
    assert_eq!(configured.croupier.terminate(), Some(1));
    configured.croupier.log().wait_for("(--shutdown-timeout is 7ms)");
}

/// The thread that reads is of no use any more, and nobody waits for what it found.
#[test]
fn a_stop_while_the_file_is_read_ends_as_ever() {
    for _ in 0..5 {
        let mut configured = Configured::new("workers = 1", &[]);
        configured.croupier.wait_ready(1);
        configured.croupier.signal(Signal::SIGHUP);
        assert_eq!(configured.croupier.terminate(), Some(0));
    }
}
