//! Listeners that workers ask for: who shares one, when it is bound and closed, what bind(2) says there, Unix paths,
//! inherited sockets, and sockets of a worker's own.

#![cfg(feature = "cli")]

mod support;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use croupier::worker::Listener;
use nix::libc::{BPF_K, BPF_RET};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::http::{self, Client};
use support::load::Load;
use support::roles;
use support::script::{self, Scripted, ask, free_port, scripted, who};
use support::{Croupier, Directory};

#[test]
fn worker_with_script() {
    script::play();
}

#[track_caller]
fn assert_nobody_listens(address: &str) {
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn kill_9(pid: i32) {
    support::processes::send(pid, nix::sys::signal::Signal::SIGKILL);
}

/// The backlog of the listener on `address`, as the kernel tells it.
fn backlog_of(address: &str) -> u32 {
    let port = address.rsplit(':').next().unwrap();
    let ss = std::process::Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
    let line = String::from_utf8(ss.stdout).unwrap();
    line.split_whitespace().nth(2).unwrap_or_else(|| panic!("ss says {line:?}")).parse().unwrap()
}

#[test]
fn two_ports_of_the_kernels_choice_are_two_listeners_of_all_eight_workers() {
    let scripted = Scripted::start(&["--workers", "8"], "listen a 127.0.0.1:0\nlisten b 127.0.0.1:0");
    let (a, b) = (scripted.address("a", 8), scripted.address("b", 8));
    assert_ne!(a, b);
    assert!(!a.ends_with(":0") && !b.ends_with(":0"));
    for (address, name) in [(&a, "a"), (&b, "b")] {
        let mut answers: Vec<String> = (0..8).map(|_| ask(address)).collect();
        answers.sort();
        let all: Vec<String> = (1..=8).map(|id| format!("{id} {name}")).collect();
        assert_eq!(answers, all);
    }
    scripted.end();
}

#[test]
fn the_number_that_port_0_became_is_the_same_listener() {
    let script = "only 1 listen a 127.0.0.1:0\nonly 2 listen b @port";
    let scripted = Scripted::start(&["--workers", "2"], script);
    let a = scripted.address("a", 1);
    scripted.tell("port", &a);
    assert_eq!(scripted.address("b", 1), a);
    scripted.croupier.log().wait_for_count(&format!(" listening on {a}"), 2);
    let mut answers = [ask(&a), ask(&a)];
    answers.sort();
    assert_eq!(answers, ["1 a", "2 b"]);
    scripted.end();
}

#[test]
fn closing_and_listening_again_at_once_works_and_the_last_close_frees_the_port() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let script = format!(
        "listen a {address}\nclose a\nlisten a {address}\nclose a\nlisten p 127.0.0.1:0\nclose p\n\
         listen q 127.0.0.1:0\n         wait go\nlisten a {address}"
    );
    let scripted = Scripted::start(&["--workers", "1"], &script);
    scripted.croupier.log().wait_for_count("a closed", 2);
    let q = scripted.address("q", 1);
    assert_eq!(ask(&q), "1 q");
    assert_nobody_listens(&address);
    drop(TcpListener::bind(&address).unwrap());
    scripted.go_on("go");
    scripted.addresses("a", 3);
    assert_eq!(ask(&address), "1 a");
    scripted.end();
}

#[test]
fn one_worker_closes_and_listens_again_while_the_other_keeps_serving() {
    let address = format!("127.0.0.1:{}", free_port());
    let again = format!("only 1 close a\nonly 1 listen a {address}\n").repeat(20);
    let script = format!("listen a {address}\nwait go\n{again}only 1 listen done 127.0.0.1:0");
    let scripted = Scripted::start(&["--workers", "2"], &script);
    scripted.address("a", 2);
    scripted.go_on("go");
    let mut asked = 0;
    while scripted.croupier.log().count(": done is ") == 0 || asked < 200 {
        assert!(ask(&address).ends_with(" a"));
        asked += 1;
    }
    scripted.end();
}

/// The last one closes it: nobody will ever take what it had not taken.
#[test]
fn what_the_only_worker_had_not_taken_when_it_closed_its_listener_sees_an_end() {
    let scripted = Scripted::start(&["--workers", "1"], "listen a 127.0.0.1:0\nwait go\nclose a");
    let address = scripted.address("a", 1);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\n").unwrap());
    // It sits in a read of the first, and all others were dealt to it.
    support::wait_until("it has one and all others wait for it", || {
        let worker = &scripted.croupier.status()["workers"][0];
        worker["taken"] == 1 && worker["dealt"] == 5
    });
    scripted.go_on("go");
    for client in &mut clients[1..] {
        let error = client.response().unwrap_err();
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither answer nor end");
    }
    clients[0].send("\r\n").unwrap();
    assert_eq!(who(&clients[0].response().unwrap()), "1 a");
    scripted.says("a closed");
    assert_nobody_listens(&address);
    scripted.end();
}

/// Again and again, in two of three workers.
#[test]
fn workers_that_close_their_listener_and_leave_cost_nobody_a_connection() {
    const LEAVING: usize = 12;
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!("listen a {address}\nonly 1 wait ever\nserved a 5\nclose a\nexit 0");
    let scripted = Scripted::start(&["--workers", "3"], &script);
    scripted.says("worker 1: a is"); // it stays
    let load = Load::start(&address, 4, 0);
    scripted.croupier.log().wait_for_count(" exited code=0", LEAVING);
    load.wait_for(50);
    load.end();
    drop(scripted);
}

#[test]
fn a_program_may_end_what_it_takes_at_once_and_nobody_else_gets_it() {
    let scripted = Scripted::start(&["--workers", "2"], "drop a 127.0.0.1:0");
    let address = scripted.address("a", 2);
    for _ in 0..20 {
        assert_eq!(Client::connect(&address).unwrap().rest().unwrap(), b"");
    }
    let taken = |status: &serde_json::Value| -> u64 {
        status["workers"].as_array().unwrap().iter().map(|it| it["taken"].as_u64().unwrap()).sum()
    };
    assert_eq!(taken(&scripted.croupier.status()), 20, "each once");
    scripted.end();
}

#[test]
fn an_address_in_use_is_an_error_of_that_worker_and_forgotten() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let script = format!("listen own 127.0.0.1:0\nlisten a {address}\nwait free\nlisten a {address}");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    let line = scripted.says("a failed");
    assert!(line.contains("AddrInUse") && line.contains(&address), "{line}");
    assert_eq!(ask(&scripted.address("own", 1)), "1 own");
    drop(taken);
    scripted.go_on("free");
    assert_eq!(scripted.address("a", 1), address);
    assert_eq!(ask(&address), "1 a");
    scripted.end();
}

/// Whoever deals, and whoever accepts: the error is the worker's, which can leave on account of it.
#[test]
fn a_privileged_port_is_an_error_of_the_worker_and_no_harm_to_its_primary() {
    for policy in ["round-robin", "shared"] {
        let script = format!("listen a 127.0.0.1:{}\ndisconnect\nexit 0", privileged_port());
        let options = ["--workers", "1", "--respawn", "never", "--policy", policy];
        let mut scripted = Scripted::start_as_nobody(&options, &script);
        assert!(scripted.says("a failed").contains("PermissionDenied"), "{policy}");
        assert_eq!(scripted.croupier.wait_exit(), Some(0), "{policy}");
    }
}

fn privileged_port() -> u16 {
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let start: u16 = start.trim().parse().unwrap();
    assert_ne!(start, 0, "every port is free for all on this machine: this promise cannot be tested here");
    start - 1
}

#[test]
fn two_primaries_do_not_share_a_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let first = Scripted::start(&["--workers", "1"], &format!("listen a {address}"));
    first.address("a", 1);
    let second = Scripted::start(&["--workers", "1"], &format!("listen own 127.0.0.1:0\nlisten a {address}"));
    assert!(second.says("a failed").contains("AddrInUse"));
    assert_eq!(ask(&address), "1 a");
    second.end();
    assert_eq!(ask(&address), "1 a");
    first.end();
}

#[test]
fn every_wrong_wish_is_refused_with_its_reason_and_hurts_nobody() {
    let many: String = (0..24).map(|index| format!("listen x{index} 127.0.0.1:0\n")).collect();
    let script = format!(
        "listen good 127.0.0.1:0\nlisten a 192.0.2.1:0\nlisten b unix:/no/such/directory/s\nlisten c vsock:2:80\n\
         listen d fd:7\nlisten e systemd:web\nlisten f no.such.host.invalid:80\n\
         listen g 127.0.0.1:99999\n{many}wait end"
    );
    let scripted = Scripted::start(&["--workers", "2"], &script);
    let good = scripted.address("good", 2);
    for (name, kind) in [
        ("a", "AddrNotAvailable"),
        ("b", "NotFound"),
        ("c", "InvalidInput"),
        ("d", "fd:7 is not declared"),
        ("e", "systemd:web is not declared"),
        ("f", "no.such.host.invalid:80 is not declared"),
        ("g", "InvalidInput"),
        ("x23", "a worker can have 24 listeners"),
    ] {
        let lines = scripted.croupier.log().wait_for_count(&format!(": {name} failed"), 2);
        assert!(lines.iter().all(|line| line.contains(kind)), "{name}: {lines:?}");
    }
    assert_ne!(ask(&good), ask(&good), "both serve");
    drop(scripted);
}

#[test]
fn nothing_is_bound_for_a_worker_that_can_have_no_more_listeners() {
    let many: String = (0..24).map(|index| format!("listen x{index} 127.0.0.1:0\n")).collect();
    let place = Directory::new();
    // A path, which nobody else is given by chance.
    let path = place.file("one-more");
    let scripted = Scripted::start(&["--workers", "1"], &format!("{many}listen one-more unix:{path}"));
    scripted.says("one-more failed");
    assert!(!std::path::Path::new(&path).exists());
    scripted.end();
}

#[test]
fn what_a_worker_asks_for_that_is_told_to_finish_does_not_stay_bound() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!("listen a 127.0.0.1:0\nonly 1 wait go\nonly 1 listen late {address}\nonly 1 wait end");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    scripted.address("a", 1);
    scripted.croupier.client(&["reload"]).assert_ok();
    scripted.go_on("go");
    scripted.address("late", 1);
    scripted.says(&format!("listener={address} closed"));
    assert_nobody_listens(&address);
    scripted.go_on("end");
    scripted.end();
}

#[test]
fn worker_that_closes_before_it_takes() {
    if roles::plays("worker_that_closes_before_it_takes") {
        let worker = roles::join();
        // More often than there are lanes.
        for _ in 0..30 {
            let listener = Listener::bind("127.0.0.1:0").unwrap();
            let _taken = TcpStream::connect(listener.address()).unwrap();
            let taken = listener.accept().unwrap().unwrap();
            let mut untaken = TcpStream::connect(listener.address()).unwrap();
            wait_readable(listener.as_fd());
            drop(listener);
            assert_eq!(untaken.read(&mut [0]).unwrap(), 0, "it sees the end although the worker keeps its lane");
            drop(taken);
        }
        roles::say("all of them were closed");
        wait_readable(worker.drain_fd());
        std::process::exit(0);
    }
}

fn wait_readable(fd: BorrowedFd<'_>) {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
}

#[test]
fn what_is_untaken_when_a_listener_closes_ends_and_holds_nothing() {
    let role = "worker_that_closes_before_it_takes";
    let mut run = support::undeclared(&["--workers", "1"]);
    run.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
    let mut croupier = Croupier::spawn(run);
    croupier.log().wait_for("all of them were closed");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_listener_outlives_its_last_worker_while_the_replacement_is_on_its_way() {
    let address = format!("127.0.0.1:{}", free_port());
    let scripted = Scripted::start(&["--workers", "1"], &format!("only 2 wait come\nlisten a {address}"));
    scripted.address("a", 1);
    let first = scripted.croupier.wait_started(1);
    kill_9(first.pid);
    scripted.says("worker=2 ");
    // It waits in the backlog until the second one listens.
    let mut waiting = Client::connect(&address).unwrap();
    waiting.send(http::LAST_REQUEST).unwrap();
    scripted.go_on("come");
    assert_eq!(who(&waiting.response().unwrap()), "2 a");
    scripted.end();
}

#[test]
fn a_listener_to_which_no_replacement_comes_back_is_closed() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!("listen own 127.0.0.1:0\nonly 1 listen a {address}");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    scripted.address("a", 1);
    kill_9(scripted.croupier.wait_started(1).pid);
    scripted.addresses("own", 2);
    scripted.says(&format!("listener={address} closed"));
    assert_nobody_listens(&address);
    scripted.end();
}

#[test]
fn the_backlog_is_the_one_that_was_asked_for() {
    let script = "listen seven 127.0.0.1:0 backlog=7\nlisten most 127.0.0.1:0 backlog=127\n\
                  listen none 127.0.0.1:0 backlog=0";
    let scripted = Scripted::start(&["--workers", "1"], script);
    for (name, expected) in [("seven", 7), ("most", 127), ("none", 1)] {
        let address = scripted.address(name, 1);
        assert_eq!(backlog_of(&address), expected, "{name}");
        assert_eq!(ask(&address), format!("1 {name}"));
    }
    scripted.end();
}

#[test]
fn an_ipv6_only_listener_leaves_the_ipv4_port_free_and_the_other_one_takes_both() {
    let port = free_port();
    let only = Scripted::start(&["--workers", "3"], &format!("listen a [::]:{port} ipv6_only"));
    assert_eq!(only.address("a", 3), format!("[::]:{port}"));
    let four = TcpListener::bind(("0.0.0.0", port)).unwrap();
    assert!(ask(&format!("[::1]:{port}")).ends_with(" a"));
    drop(four);
    only.end();
    let both = Scripted::start(&["--workers", "3"], "listen a [::]:0");
    let port = both.address("a", 3).rsplit(':').next().unwrap().to_owned();
    assert!(ask(&format!("127.0.0.1:{port}")).ends_with(" a"));
    assert!(ask(&format!("[::1]:{port}")).ends_with(" a"));
    both.end();
}

#[test]
fn a_socket_of_ones_own_bypasses_the_primary() {
    let port = free_port();
    let script = format!(
        "listen each 127.0.0.1:0 exclusive\nonly 1 listen fixed 127.0.0.1:{port} exclusive\n\
         only 1 listen up 127.0.0.1:0\n         only 2 wait first\nonly 2 listen fixed 127.0.0.1:{port} exclusive"
    );
    let scripted = Scripted::start(&["--workers", "2"], &script);
    let each = scripted.addresses("each", 2);
    assert_ne!(each[0], each[1]);
    assert_ne!(ask(&each[0]), ask(&each[1]));
    scripted.address("up", 1);
    scripted.go_on("first");
    assert!(scripted.says("worker 2: fixed failed").contains("AddrInUse"));
    let bound = scripted.end().iter().filter(|line| line.contains("bound for worker")).count();
    assert_eq!(bound, 1, "the primary was asked once, for `up`");
    let port = free_port();
    let shared = Scripted::start(&["--workers", "2"], &format!("listen a 127.0.0.1:{port} reuse_port"));
    shared.address("a", 2);
    let mut answers: Vec<String> = (0..100).map(|_| ask(&format!("127.0.0.1:{port}"))).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["1 a", "2 a"]);
    shared.end();
}

#[test]
fn a_unix_path_of_any_length_has_the_mode_that_was_asked_for_and_goes_with_its_listener() {
    let scripted = Scripted::start(
        &["--workers", "2"],
        "wait path\nlisten a unix:PLACE mode=777".replace("PLACE", &long_path("a").display().to_string()).as_str(),
    );
    let path = long_path("a");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    scripted.go_on("path");
    scripted.dealt_address("a", 2);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    let mut answers: Vec<String> = (0..2).map(|_| ask_unix(&path)).collect();
    answers.sort();
    assert_eq!(answers, ["1 a", "2 a"]);
    scripted.end();
    assert!(!path.exists());
    std::fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
}

/// It is the worker's directory that counts, and what its path makes of the name does not fit into `sockaddr_un`.
#[test]
fn a_relative_unix_path_is_the_worker_s_and_may_be_long() {
    let place = Directory::new();
    let directory = place.path().join("d".repeat(60));
    std::fs::create_dir(&directory).unwrap();
    let (name, workers) = ("n".repeat(84), directory.to_str().unwrap());
    let path = directory.join(&name);
    assert!(path.as_os_str().len() > 108);
    let scripted = Scripted::start(&["--workers", "2", "--chdir", workers], &format!("listen a unix:{name}"));
    assert_eq!(scripted.dealt_address("a", 2), format!("unix:{}", path.display()));
    let mut answers = [ask_unix(&path), ask_unix(&path)];
    answers.sort();
    assert_eq!(answers, ["1 a", "2 a"]);
    scripted.end();
    assert!(!path.exists());
}

/// A path that does not fit into `sockaddr_un`.
fn long_path(name: &str) -> std::path::PathBuf {
    let top = std::env::temp_dir().join(format!("croupier-test-long-{}", std::process::id()));
    top.join("x".repeat(120)).join(name)
}

fn ask_unix(path: &std::path::Path) -> String {
    // The directory is reached under a name of its own length.
    let directory = std::fs::File::open(path.parent().unwrap()).unwrap();
    let way = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), path.file_name().unwrap().display());
    let mut client = Client::connect_unix(&way).unwrap();
    client.send(http::LAST_REQUEST).unwrap();
    who(&client.response().unwrap())
}

#[test]
fn a_socket_file_in_use_is_left_alone_and_one_of_a_dead_owner_is_replaced() {
    let place = Directory::new();
    let path = place.file("s");
    let other = UnixListener::bind(&path).unwrap();
    let script = format!("listen own 127.0.0.1:0\nlisten a unix:{path}\nwait dead\nlisten a unix:{path}");
    let scripted = Scripted::start(&["--workers", "1"], &script);
    assert!(scripted.says("a failed").contains("AddrInUse"));
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    other.accept().unwrap();
    drop(other);
    scripted.go_on("dead");
    scripted.address("a", 1);
    assert_eq!(ask_unix(std::path::Path::new(&path)), "1 a");
    scripted.end();
}

#[test]
fn an_inherited_listener_is_dealt_by_its_number() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let place = Directory::new();
    let run = support::undeclared_with_fds(&["--workers", "2", "--listen", "fd:3"], None);
    let run = scripted(run, &place, "listen a fd:3");
    let croupier = Croupier::spawn_with_stdin(run, OwnedFd::from(listener).into());
    let scripted = Scripted { croupier, place };
    assert_eq!(scripted.address("a", 2), address);
    assert_ne!(ask(&address), ask(&address));
    scripted.end();
}

#[test]
fn an_inherited_listener_serves_the_next_primary_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // As if one had been killed while it let nobody in.
    let nobody = socket2::SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0);
    socket2::SockRef::from(&listener).attach_filter(&[nobody]).unwrap();
    for _ in 0..2 {
        let mut croupier = Croupier::spawn_with_stdin(
            support::undeclared_with_fds(&["--workers", "1", "--listen", "fd:3"], None),
            OwnedFd::from(listener.try_clone().unwrap()).into(),
        );
        croupier.wait_ready(1);
        assert_eq!(http::get(&address).unwrap().status, 200);
        assert_eq!(croupier.terminate(), Some(0));
    }
}

#[test]
fn what_systemd_passes_is_declared_by_its_name_or_by_nothing_at_all() {
    for options in [&["--listen", "systemd:web"][..], &[]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let place = Directory::new();
        let run = support::undeclared_with_fds(&[&["--workers", "1"], options].concat(), Some("web:nothing"));
        let run = scripted(run, &place, &format!("listen a {address}"));
        let croupier = Croupier::spawn_with_stdin(run, OwnedFd::from(listener).into());
        let scripted = Scripted { croupier, place };
        scripted.address("a", 1);
        assert_eq!(ask(&address), "1 a");
        assert_eq!(scripted.croupier.log().count("bound for worker"), 0);
        let environment = support::processes::environment(scripted.croupier.wait_started(1).pid);
        assert!(!environment.keys().any(|name| name.starts_with("LISTEN_")), "{environment:?}");
        scripted.end();
    }
}

#[test]
fn an_inherited_socket_is_one_listeners_only() {
    for again in ["fd:3", "systemd:web"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ["--listen", "systemd:web", "--listen", again];
        let run = support::undeclared_with_fds(&options, Some("web:nothing"));
        let mut croupier = Croupier::spawn_with_stdin(run, OwnedFd::from(listener).into());
        assert_eq!(croupier.wait_exit(), Some(4));
        croupier
            .log()
            .wait_for(&format!("listen on {again}: no such socket was inherited, or another --listen has it"));
    }
}

#[test]
fn a_socket_that_systemd_passes_in_vain_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let run = support::undeclared_with_fds(&["--listen", "127.0.0.1:0", "--workers", "1"], Some("web:nothing"));
    let mut croupier = Croupier::spawn_with_stdin(run, OwnedFd::from(listener).into());
    croupier.log().wait_for("fd:3 was passed as systemd:web and is not declared");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_reload_keeps_listeners_that_workers_asked_for() {
    let address = format!("127.0.0.1:{}", free_port());
    let scripted = Scripted::start(&["--workers", "2"], &format!("listen a {address}"));
    scripted.address("a", 2);
    for round in 1..=3 {
        scripted.croupier.signal(nix::sys::signal::Signal::SIGHUP);
        while scripted.croupier.log().count("reload done") < round {
            assert!(ask(&address).ends_with(" a"));
        }
    }
    assert_eq!(scripted.croupier.log().count("bound for worker"), 1);
    scripted.end();
}

#[test]
fn a_listener_that_a_worker_asked_for_survives_an_upgrade() {
    let address = format!("127.0.0.1:{}", free_port());
    let scripted = Scripted::start(&["--workers", "2"], &format!("listen a {address}"));
    scripted.address("a", 2);
    scripted.croupier.signal(nix::sys::signal::Signal::SIGUSR2);
    scripted.says("took over");
    assert_ne!(ask(&address), ask(&address));
    kill_9(scripted.croupier.wait_started(1).pid);
    scripted.addresses("a", 3);
    assert!(ask(&address).ends_with(" a"));
    scripted.end();
}

/// What root may bind, its workers of another user may not.
#[test]
fn workers_of_another_user_have_nothing_bound_that_they_could_not_bind() {
    let place = Directory::new();
    let mut command = roles::command("worker_with_script");
    command[0] = place.copy_for_all(&command[0]);
    let path = place.file("s");
    let script = format!("listen own 127.0.0.1:0\nlisten a 127.0.0.1:1023\nlisten b unix:{path}");
    let mut run = support::undeclared(&["--workers", "1", "--user", "nobody", "--listen", &format!("unix:{path}.ok")]);
    run.arg(format!("--env={}=worker_with_script", roles::ROLE)).arg(format!("--env={}={script}", script::SCRIPT));
    run.arg("--").args(command);
    let scripted = Scripted { croupier: Croupier::spawn(run), place };
    assert_eq!(ask(&scripted.address("own", 1)), "1 own");
    for name in ["a", "b"] {
        let line = scripted.says(&format!("{name} failed"));
        assert!(line.contains("PermissionDenied") && line.contains("--user") && line.contains(".ok"), "{line}");
    }
    scripted.end();
}

#[test]
fn a_worker_that_is_asked_to_go_leaves_its_port_to_its_replacement() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut run = support::undeclared(&["--workers", "1"]);
    run.args(["--", support::PROGRAM, "demo", "--listen", &address]);
    let mut croupier = Croupier::spawn(run);
    croupier.log().wait_for("listening on");
    support::processes::send(croupier.wait_started(1).pid, nix::sys::signal::Signal::SIGTERM);
    while http::get(&address).unwrap_or_else(|error| panic!("nobody listens: {error}")).worker() == 1 {}
    assert_eq!(croupier.log().count("bound for worker"), 1);
    assert_eq!(croupier.terminate(), Some(0));
}
