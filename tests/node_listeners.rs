//! What a Node program may listen on: addresses of every form, errors of bind(2), port 0, Unix paths, inherited
//! sockets, sockets of its own; closed, and listened on again.

#![cfg(feature = "cli")]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use support::http::{self, Client};
use support::load::Load;
use support::script::{Scripted, ask, free_port, node_scripted, who};
use support::{Croupier, Directory, node, processes};

fn start(worker_count: u32, script: &str) -> Scripted {
    Scripted::start_node(&[&format!("--workers={worker_count}")], script)
}

/// Workers that accept themselves.
fn start_shared(worker_count: u32, script: &str) -> Scripted {
    Scripted::start_node(&["--policy=shared", &format!("--workers={worker_count}")], script)
}

#[track_caller]
fn assert_nobody_listens(address: &str) {
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// The answers of the next connections, sorted.
#[track_caller]
fn ask_all(address: &str, count: usize) -> Vec<String> {
    let mut answers: Vec<String> = (0..count).map(|_| ask(address)).collect();
    answers.sort();
    answers
}

// Port 0.

#[test]
fn two_ports_of_the_kernels_choice_are_two_listeners_of_all_workers() {
    let scripted = start(4, "listen a 127.0.0.1:0\nlisten b 127.0.0.1:0");
    let (a, b) = (scripted.address("a", 4), scripted.address("b", 4));
    assert_ne!(a, b);
    assert!(!a.ends_with(":0") && !b.ends_with(":0"));
    assert_eq!(ask_all(&a, 4), ["1 a", "2 a", "3 a", "4 a"]);
    assert_eq!(ask_all(&b, 4), ["1 b", "2 b", "3 b", "4 b"]);
    scripted.end();
}

#[test]
fn without_a_port_it_is_one_of_the_kernels_choice_on_every_address() {
    let scripted = start(2, "listen a :0");
    let address = scripted.address("a", 2);
    let port = address.strip_prefix("[::]:").unwrap();
    assert!(ask(&format!("127.0.0.1:{port}")).ends_with(" a"));
    assert!(ask(&format!("[::1]:{port}")).ends_with(" a"));
    scripted.end();
}

// Errors.

#[test]
fn an_address_in_use_is_an_error_of_that_worker_and_forgotten() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let script = format!("listen own 127.0.0.1:0\nlisten a {address}\nwait free\nlisten a {address}");
    let scripted = start(1, &script);
    let line = scripted.says("a failed");
    assert!(line.contains("EADDRINUSE") && line.contains(&address), "{line}");
    assert_eq!(ask(&scripted.address("own", 1)), "1 own");
    drop(taken);
    scripted.go_on("free");
    assert_eq!(scripted.address("a", 1), address);
    assert_eq!(ask(&address), "1 a");
    scripted.end();
}

#[test]
fn the_same_address_twice_in_one_worker_is_an_error_there_and_nowhere_else() {
    let address = format!("127.0.0.1:{}", free_port());
    let scripted = start(2, &format!("listen a {address}\nonly 1 listen b {address}"));
    assert!(scripted.says("worker 1: b failed").contains("EADDRINUSE"));
    scripted.address("a", 2);
    assert_eq!(ask_all(&address, 2), ["1 a", "2 a"]);
    scripted.end();
}

#[test]
fn two_primaries_do_not_share_a_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let first = start(1, &format!("listen a {address}"));
    first.address("a", 1);
    let second = start(1, &format!("listen own 127.0.0.1:0\nlisten a {address}"));
    assert!(second.says("a failed").contains("EADDRINUSE"));
    second.end();
    assert_eq!(ask(&address), "1 a");
    first.end();
}

/// Whoever deals, and whoever accepts: the error is the worker's, which can leave on account of it and fail after that.
#[test]
fn a_worker_that_cannot_listen_may_leave_and_fail_after_that() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!("listen a {}\ndisconnect\nthrow", taken.local_addr().unwrap());
    for policy in ["round-robin", "shared"] {
        let options = ["--workers=1", "--respawn=never", &format!("--policy={policy}")];
        let mut scripted = Scripted::start_node(&options, &script);
        assert!(scripted.says("a failed").contains("EADDRINUSE"), "{policy}");
        scripted.says("caught as the script says");
        assert_eq!(scripted.croupier.wait_exit(), Some(0), "{policy}");
        scripted.says("worker 1: disconnected");
    }
}

#[test]
fn a_privileged_port_is_an_error_of_the_worker_and_no_harm_to_its_primary() {
    let script = format!("listen a 127.0.0.1:{}\ndisconnect", privileged_port());
    for policy in ["round-robin", "shared"] {
        let options = ["--workers=1", "--respawn=never", &format!("--policy={policy}")];
        let mut scripted = Scripted::start_node_as_nobody(&options, &script);
        assert!(scripted.says("a failed").contains("EACCES"), "{policy}");
        assert_eq!(scripted.croupier.wait_exit(), Some(0), "{policy}");
    }
}

fn privileged_port() -> u16 {
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let start: u16 = start.trim().parse().unwrap();
    assert_ne!(start, 0, "every port is free for all on this machine: this promise cannot be tested here");
    start - 1
}

// Close, and listen again.

#[test]
fn closing_and_listening_again_at_once_works_and_the_last_close_frees_the_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let script = format!(
        "listen a {address}\nclose a\nlisten a {address}\nclose a\nlisten p 127.0.0.1:0\nlisten q 127.0.0.1:0\n\
         close p\nlisten p 127.0.0.1:0\nwait go\nlisten a {address}"
    );
    let scripted = start(1, &script);
    scripted.croupier.log().wait_for_count("a closed", 2);
    let q = scripted.address("q", 1);
    assert!(scripted.addresses("p", 2).iter().all(|p| *p != q));
    assert_eq!(ask(&q), "1 q");
    // It is kept for a moment, for whoever listens again.
    scripted.says(&format!("listener={address} closed"));
    assert_nobody_listens(&address);
    drop(TcpListener::bind(&address).unwrap());
    scripted.go_on("go");
    scripted.addresses("a", 3);
    assert_eq!(ask(&address), "1 a");
    scripted.end();
}

/// With the rotation, and with workers that accept themselves.
#[test]
fn one_worker_closes_and_listens_again_while_the_other_keeps_serving() {
    for start in [start, start_shared] {
        let address = format!("127.0.0.1:{}", free_port());
        let again = format!("only 1 close a\nonly 1 listen a {address}\n").repeat(20);
        let script = format!("listen a {address}\nwait go\n{again}only 1 listen done 127.0.0.1:0");
        let scripted = start(2, &script);
        scripted.address("a", 2);
        let load = Load::start(&address, 4, 0);
        scripted.go_on("go");
        scripted.address("done", 1);
        load.wait_for(50);
        load.end();
        scripted.end();
    }
}

/// Node's own primary leaves them hanging.
#[test]
fn what_the_only_worker_had_not_taken_when_it_closed_its_server_sees_an_answer_or_an_end() {
    let scripted = start(1, "listen a 127.0.0.1:0\nwait go\nclose a");
    let address = scripted.address("a", 1);
    let worker = scripted.croupier.wait_started(1).pid;
    processes::stop(worker);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    scripted.go_on("go");
    processes::send(worker, nix::sys::signal::Signal::SIGCONT);
    for client in &mut clients {
        match client.response() {
            Ok(response) => assert_eq!(who(&response), "1 a"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither answer nor end"),
        }
    }
    scripted.says("a closed");
    scripted.end();
}

#[test]
fn a_server_that_gives_up_its_reference_lets_its_worker_end_and_others_keep_it_alive() {
    let script = "only 1 listen a 127.0.0.1:0\nonly 1 unref channel\nonly 1 wait go\nonly 1 close a\n\
                  only 2 listen b 127.0.0.1:0\nonly 2 unref channel\nonly 2 unref b\nonly 2 ref b\nonly 2 wait go\n\
                  only 2 unref b\nonly 3 listen c 127.0.0.1:0\nonly 3 unref c\nonly 3 ref c\nonly 3 close c\n\
                  only 3 disconnect";
    let mut scripted = Scripted::start_node(&["--workers=3", "--respawn=never"], script);
    scripted.says("worker 3: c closed");
    for (address, answer) in [(scripted.address("a", 1), "1 a"), (scripted.address("b", 1), "2 b")] {
        assert_eq!(ask(&address), answer);
    }
    scripted.go_on("go");
    assert_eq!(scripted.croupier.wait_exit(), Some(0));
    assert_eq!(scripted.croupier.log().count(" exited code=0"), 3);
}

// What the kernel is asked for.

#[test]
fn the_backlog_is_the_one_that_was_asked_for() {
    let scripted = start(1, "listen seven 127.0.0.1:0 backlog=7\nlisten most 127.0.0.1:0 backlog=127");
    for (name, expected) in [("seven", 7), ("most", 127)] {
        let address = scripted.address(name, 1);
        assert_eq!(backlog_of(&address), expected, "{name}");
        assert_eq!(ask(&address), format!("1 {name}"));
    }
    scripted.end();
}

/// As the kernel tells it.
fn backlog_of(address: &str) -> u32 {
    let port = address.rsplit(':').next().unwrap();
    let ss = std::process::Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
    let line = String::from_utf8(ss.stdout).unwrap();
    line.split_whitespace().nth(2).unwrap_or_else(|| panic!("ss says {line:?}")).parse().unwrap()
}

#[test]
fn an_ipv6_only_listener_leaves_the_ipv4_port_free_and_the_other_one_takes_both() {
    for start in [start, start_shared] {
        let port = free_port();
        let only = start(3, &format!("listen a [::]:{port} ipv6Only"));
        assert_eq!(only.address("a", 3), format!("[::]:{port}"));
        let four = TcpListener::bind(("0.0.0.0", port)).unwrap();
        assert!(ask(&format!("[::1]:{port}")).ends_with(" a"));
        drop(four);
        only.end();
    }
    let both = start(3, "listen a [::]:0");
    let port = both.address("a", 3).rsplit(':').next().unwrap().to_owned();
    assert!(ask(&format!("127.0.0.1:{port}")).ends_with(" a"));
    assert!(ask(&format!("[::1]:{port}")).ends_with(" a"));
    both.end();
}

// Sockets of its own.

#[test]
fn an_exclusive_socket_is_a_worker_s_own() {
    let port = free_port();
    let script = format!(
        "listen each 127.0.0.1:0 exclusive\nonly 1 listen fixed 127.0.0.1:{port} exclusive\n\
         listen up 127.0.0.1:0\nonly 2 wait first\nonly 2 listen fixed 127.0.0.1:{port} exclusive\n\
         wait end\nclose each\nonly 1 close fixed"
    );
    let scripted = start(2, &script);
    let each = scripted.addresses("each", 2);
    assert_ne!(each[0], each[1]);
    assert_ne!(ask(&each[0]), ask(&each[1]));
    assert_eq!(scripted.address("fixed", 1), format!("127.0.0.1:{port}"));
    scripted.go_on("first");
    assert!(scripted.says("worker 2: fixed failed").contains("EADDRINUSE"));
    scripted.address("up", 2);
    assert_eq!(scripted.croupier.log().count("bound for worker"), 1, "the primary was asked for `up` only");
    // Nobody but the program itself closes what is its own.
    scripted.go_on("end");
    scripted.end();
}

/// New in Node 22, where it bypasses the primary; before, the option is ignored.
#[test]
fn with_reuse_port_workers_share_a_port_without_their_primary() {
    let address = format!("127.0.0.1:{}", free_port());
    let scripted = start(2, &format!("listen a {address} reusePort\nlisten up 127.0.0.1:0\nwait end\nclose a"));
    assert_eq!(scripted.address("a", 2), address);
    scripted.address("up", 2);
    let answers: std::collections::BTreeSet<String> = (0..100).map(|_| ask(&address)).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["1 a", "2 a"]);
    let bound = scripted.croupier.log().count("bound for worker");
    assert_eq!(bound, if node::version() >= 22 { 1 } else { 2 });
    scripted.go_on("end");
    scripted.end();
}

// Unix paths, and inherited sockets.

#[test]
fn a_unix_path_has_the_mode_that_was_asked_for_and_goes_with_its_listener() {
    let place = Directory::new();
    let path = place.file("s");
    let scripted = start(2, &format!("listen a unix:{path} readableAll writableAll"));
    scripted.address("a", 2);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    let mut answers = [ask_unix(&path), ask_unix(&path)];
    answers.sort();
    assert_eq!(answers, ["1 a", "2 a"]);
    scripted.end();
    assert!(!std::path::Path::new(&path).exists());
}

/// It is the worker's directory that counts, and what its path makes of the name does not fit into `sockaddr_un`.
#[test]
fn a_relative_unix_path_is_the_worker_s_and_may_be_long() {
    let place = Directory::new();
    let directory = place.path().join("d".repeat(60));
    std::fs::create_dir(&directory).unwrap();
    let name = "n".repeat(84);
    let path = directory.join(&name);
    assert!(path.as_os_str().len() > 108);
    let scripted = start(2, &format!("chdir {}\nlisten a unix:{name}", directory.display()));
    scripted.croupier.log().wait_for_count(&format!(" listening on unix:{}", path.display()), 2);
    let open = std::fs::File::open(&directory).unwrap();
    let way = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&open));
    let mut answers = [ask_unix(&way), ask_unix(&way)];
    answers.sort();
    assert_eq!(answers, ["1 a", "2 a"]);
    scripted.end();
    assert!(!path.exists());
}

#[test]
fn a_socket_file_in_use_is_left_alone() {
    let place = Directory::new();
    let path = place.file("s");
    let other = UnixListener::bind(&path).unwrap();
    let scripted = start(1, &format!("listen own 127.0.0.1:0\nlisten a unix:{path}"));
    assert!(scripted.says("a failed").contains("EADDRINUSE"));
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    other.accept().unwrap();
    scripted.end();
    assert!(std::path::Path::new(&path).exists());
}

fn ask_unix(path: &str) -> String {
    let mut client = Client::connect_unix(path).unwrap();
    client.send(http::LAST_REQUEST).unwrap();
    who(&client.response().unwrap())
}

#[test]
fn an_inherited_listener_is_dealt_by_its_number() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let place = Directory::new();
    let run = support::undeclared_with_fds(&["--workers=2", "--listen=fd:3"], None);
    let run = node_scripted(run, &place, "listen a fd:3");
    let croupier = Croupier::spawn_with_stdin(run, OwnedFd::from(listener).into());
    let scripted = Scripted { croupier, place };
    assert_eq!(scripted.address("a", 2), address);
    assert_eq!(ask_all(&address, 2), ["1 a", "2 a"]);
    scripted.end();
}

#[test]
fn an_inherited_socket_that_was_not_declared_is_an_error() {
    let scripted = start(1, "listen a fd:7\nlisten up 127.0.0.1:0");
    scripted.says("a failed");
    assert_eq!(ask(&scripted.address("up", 1)), "1 up");
    scripted.end();
}
