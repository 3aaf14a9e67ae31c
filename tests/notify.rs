//! What the service manager hears (`NOTIFY_SOCKET`). A datagram socket stands in for systemd.

#![cfg(feature = "cli")]

mod support;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use support::http;
use support::{Croupier, DEADLINE, Directory, processes, run, wait_until};

/// systemd, as far as a service sees it.
struct Manager {
    socket: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    name: String,
}

impl Manager {
    /// With a socket that is a file.
    fn at(directory: &Directory) -> Self {
        let name = directory.file("notify");
        Self::on(UnixDatagram::bind(&name).unwrap(), name)
    }

    /// With an abstract one.
    fn abstract_one() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("croupier-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self::on(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    }

    fn on(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, name }
    }

    /// `croupier run` with these options, started by this manager.
    fn command(&self, options: &[&str]) -> Command {
        let mut command = run(options);
        command.env("NOTIFY_SOCKET", &self.name);
        command
    }

    fn start(&self, options: &[&str]) -> Croupier {
        Croupier::spawn(self.command(options))
    }

    #[track_caller]
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).expect("croupier has something to say");
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    /// The next message with a line that begins with `text`, and what came before it.
    #[track_caller]
    fn hear_until(&self, text: &str) -> (Vec<String>, String) {
        let mut before = Vec::new();
        loop {
            let message = self.hear();
            if message.lines().any(|line| line.starts_with(text)) {
                return (before, message);
            }
            before.push(message);
        }
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        self.hear_until(text).1
    }

    /// The next message that is not about the status alone, nor a sign of life.
    #[track_caller]
    fn hear_step(&self) -> String {
        loop {
            let message = self.hear();
            if !message.starts_with("STATUS=") && message != "WATCHDOG=1" {
                return message;
            }
        }
    }
}

fn field<'a>(message: &'a str, name: &str) -> &'a str {
    let found = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

fn monotonic_usec() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

#[test]
fn it_is_ready_when_every_worker_was_and_stopping_when_told() {
    let directory = Directory::new();
    let manager = Manager::at(&directory);
    // The second worker to be started waits for a word of ours: until then one of two is ready.
    let gate = directory.file("gate");
    let script = "mkdir \"$0.first\" 2>/dev/null || until [ -e \"$0\" ]; do sleep 0.01; done; exec \"$1\" demo";
    let mut command = manager.command(&["--workers", "2"]);
    command.args(["--", "sh", "-c", script, &gate, support::PROGRAM]);
    let mut croupier = Croupier::spawn(command);
    let (before, half) = manager.hear_until("STATUS=starting, 1 of 2 workers ready");
    assert!(!half.contains("READY") && !before.iter().any(|it| it.contains("READY")), "{before:?}, {half}");
    std::fs::write(&gate, "").unwrap();
    let (before, ready) = manager.hear_until("READY=1");
    assert!(before.iter().all(|message| message.starts_with("STATUS=starting, ")), "{before:?}");
    assert_eq!(field(&ready, "MAINPID"), croupier.pid().to_string());
    assert!(field(&ready, "STATUS").starts_with("2 of 2 workers ready"), "{ready}");
    assert_eq!(croupier.terminate(), Some(0));
    assert!(manager.hear_step().starts_with("STOPPING=1\nSTATUS=stopping"));
}

#[test]
fn workers_do_not_see_the_variables_of_the_service_manager() {
    let manager = Manager::abstract_one();
    let mut command = manager.command(&["--workers", "1"]);
    command.env("WATCHDOG_USEC", "60000000");
    let croupier = Croupier::spawn(command);
    croupier.wait_ready(1);
    manager.wait_for("READY=1");
    let environment = processes::environment(croupier.started()[0].pid);
    let ours = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
    assert!(!environment.is_empty() && ours.iter().all(|name| !environment.contains_key(*name)), "{environment:?}");
}

#[test]
fn a_reload_is_told_from_its_beginning_to_its_end() {
    let manager = Manager::abstract_one();
    let croupier = manager.start(&["--workers", "2"]);
    manager.wait_for("READY=1");
    for _ in 0..3 {
        let asked_at = monotonic_usec();
        croupier.signal(Signal::SIGHUP);
        let reloading = manager.hear_step();
        assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
        let told_at: u64 = field(&reloading, "MONOTONIC_USEC").parse().unwrap();
        assert!((asked_at..=monotonic_usec()).contains(&told_at), "{asked_at} {told_at}");
        assert!(manager.hear_step().starts_with("READY=1\n"));
    }
    croupier.log().wait_for_count("reload done", 3);
}

#[test]
fn a_reload_that_fails_is_over_too() {
    let directory = Directory::new();
    let manager = Manager::at(&directory);
    let broken = directory.file("broken");
    let script = "[ -e \"$0\" ] && exit 9; exec \"$1\" demo";
    let mut command = manager.command(&["--workers", "2"]);
    command.args(["--", "sh", "-c", script, &broken, support::PROGRAM]);
    let mut croupier = Croupier::spawn(command);
    manager.wait_for("READY=1");
    std::fs::write(&broken, "").unwrap();
    croupier.signal(Signal::SIGHUP);
    assert!(manager.hear_step().starts_with("RELOADING=1\n"));
    assert!(manager.hear_step().starts_with("READY=1\n"));
    croupier.log().wait_for("reload stopped");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_reload_with_a_wrong_file_is_over_at_once() {
    let directory = Directory::new();
    let manager = Manager::at(&directory);
    let file = directory.file("croupier.toml");
    std::fs::write(&file, "workers = 1\n").unwrap();
    let croupier = manager.start(&["--config", &file]);
    manager.wait_for("READY=1");
    std::fs::write(&file, "workers = \"many\"\n").unwrap();
    croupier.signal(Signal::SIGHUP);
    assert!(manager.hear_step().starts_with("RELOADING=1\n"));
    assert!(manager.hear_step().starts_with("READY=1\n"));
    croupier.log().wait_for("no reload: ");
}

#[test]
fn a_stop_is_told_before_its_delay() {
    let manager = Manager::abstract_one();
    let mut croupier = manager.start(&["--workers", "1", "--shutdown-delay", "1h"]);
    manager.wait_for("READY=1");
    croupier.signal(Signal::SIGTERM);
    assert!(manager.hear_step().starts_with("STOPPING=1\nSTATUS=stopping, workers left: 1"));
    croupier.client(&["stop"]).assert_ok();
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn the_image_after_an_upgrade_goes_on_telling() {
    let manager = Manager::abstract_one();
    let mut command = manager.command(&["--workers", "2"]);
    command.env("WATCHDOG_USEC", "1000000");
    let mut croupier = Croupier::spawn(command);
    let pid = croupier.pid().to_string();
    manager.wait_for("READY=1");
    for upgrades in 1..=2 {
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for(&format!("upgrades={upgrades}"));
        let ready = manager.hear_step();
        assert!(ready.starts_with("READY=1\n") && field(&ready, "MAINPID") == pid, "{ready}");
        manager.wait_for("WATCHDOG=1");
        assert!(!processes::environment(croupier.started()[0].pid).contains_key("NOTIFY_SOCKET"));
    }
    croupier.signal(Signal::SIGHUP);
    assert!(manager.hear_step().starts_with("RELOADING=1\n"));
    assert!(manager.hear_step().starts_with("READY=1\n"));
    let late = croupier.wait_started(3).pid;
    assert!(!processes::environment(late).contains_key("NOTIFY_SOCKET"), "a worker of the new image");
    assert_eq!(croupier.terminate(), Some(0));
    assert!(manager.hear_step().starts_with("STOPPING=1\n"));
}

#[test]
fn a_worker_that_is_stopped_does_not_stop_the_watchdog() {
    let manager = Manager::abstract_one();
    let mut command = manager.command(&["--workers", "1"]);
    command.env("WATCHDOG_USEC", "100000");
    let croupier = Croupier::spawn(command);
    manager.wait_for("READY=1");
    processes::stop(croupier.wait_started(1).pid);
    for _ in 0..20 {
        manager.wait_for("WATCHDOG=1");
    }
}

#[test]
fn the_watchdog_of_another_process_is_not_ours() {
    let manager = Manager::abstract_one();
    let mut command = manager.command(&["--workers", "1"]);
    command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let mut croupier = Croupier::spawn(command);
    let (before, _) = manager.hear_until("READY=1");
    assert_eq!(croupier.terminate(), Some(0));
    let (later, _) = manager.hear_until("STOPPING=1");
    let all: Vec<String> = before.into_iter().chain(later).collect();
    assert!(!all.contains(&"WATCHDOG=1".to_owned()), "{all:?}");
}

#[test]
fn a_service_manager_that_does_not_listen_is_said_once_and_harmless() {
    let directory = Directory::new();
    let manager = Manager::at(&directory);
    let mut command = manager.command(&["--workers", "1"]);
    command.env("WATCHDOG_USEC", "20000");
    let Manager { socket, name } = manager;
    drop(socket);
    let mut croupier = Croupier::spawn(command);
    let address = croupier.wait_ready(1);
    let line = croupier.log().wait_for("the service manager does not listen");
    assert!(line.contains("WARN") && line.contains("Connection refused"), "{line}");
    assert_eq!(http::get(&address).unwrap().status, 200);
    std::fs::remove_file(&name).unwrap();
    // It comes back, and hears what it has missed.
    let manager = Manager::at(&directory);
    assert!(manager.wait_for("READY=1").contains("1 of 1 workers ready"));
    manager.wait_for("WATCHDOG=1");
    drop(manager);
    wait_until("the second outage is said too", || croupier.log().count("the service manager does not listen") == 2);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_service_manager_that_never_reads_does_not_keep_the_primary() {
    let manager = Manager::abstract_one();
    let mut command = manager.command(&["--workers", "1"]);
    command.env("WATCHDOG_USEC", "2000");
    let mut croupier = Croupier::spawn(command);
    let address = croupier.wait_ready(1);
    croupier.log().wait_for("the service manager does not listen");
    for _ in 0..20 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn an_address_that_is_none_is_said_and_harmless() {
    let mut command = run(&["--workers", "1"]);
    command.env("NOTIFY_SOCKET", "vsock:2:1234");
    let mut croupier = Croupier::spawn(command);
    croupier.wait_ready(1);
    let line = croupier.log().wait_for("NOTIFY_SOCKET=vsock:2:1234: ");
    assert!(line.contains("WARN") && line.contains("going on"), "{line}");
    assert_eq!(croupier.terminate(), Some(0));
}
