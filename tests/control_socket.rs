//! The control socket as a file, and what its clients may do to the primary: nothing.
#![cfg(feature = "cli")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::http::{self, Client};
use support::{Croupier, Directory, Outcome, processes, wait_until};

const NOBODY: u32 = 65534;

fn run_at(path: &str) -> Command {
    support::run(&["--workers", "1", "--control", path])
}

#[test]
fn it_is_for_nobody_else_whatever_the_umask() {
    for umask in ["000", "022", "277"] {
        let directory = Directory::new();
        let mut run = support::run_after(&format!("umask {umask}"), &["--workers", "1"]);
        run.env("XDG_RUNTIME_DIR", directory.path());
        let croupier = Croupier::spawn(run);
        croupier.wait_ready(1);
        let socket = fs::symlink_metadata(croupier.control()).unwrap();
        assert!(socket.file_type().is_socket() && socket.mode() & 0o177 == 0, "{umask}: {:o}", socket.mode());
        let folder = fs::metadata(directory.file("croupier")).unwrap();
        assert_eq!(folder.mode() & 0o777, 0o700, "{umask}");
    }
}

#[test]
fn a_second_primary_of_one_name_ends_with_3_and_the_first_goes_on() {
    let first = Croupier::demo(&["--workers", "1"]);
    let address = first.wait_ready(1);
    let name = first.status()["name"].as_str().unwrap().to_owned();
    let second = Outcome::of(support::run(&["--name", &name]));
    second.assert_failed(3, &format!("the name {name} is taken: another primary listens on {}", first.control()));
    assert!(second.stderr.contains(&format!("(pid {})", first.pid())) && second.stderr.contains("--name"));
    assert_eq!(http::get(&address).unwrap().status, 200);
    first.client(&["status"]).assert_ok();
    // An address in use says more, and comes first.
    let mut third = support::plain(support::PROGRAM);
    third.args(["run", "--listen", &address, "--name", &name]);
    Outcome::of(third).assert_failed(4, "address in use");
}

#[test]
fn of_primaries_that_start_at_once_with_one_name_exactly_one_stays() {
    let directory = Directory::new();
    let path = directory.file("c.sock");
    drop(UnixListener::bind(&path).unwrap());
    let mut all: Vec<Croupier> = (0..4).map(|_| Croupier::spawn(run_at(&path))).collect();
    let mut stays = None;
    for (index, croupier) in all.iter_mut().enumerate() {
        let line = croupier.log().wait_until("a decision", |lines| {
            lines.iter().find(|line| line.contains("control=") || line.contains("is taken")).cloned()
        });
        if line.contains("is taken") {
            assert_eq!(croupier.wait_exit(), Some(3));
        } else {
            assert_eq!(stays.replace(index), None, "one is enough");
        }
    }
    let croupier = &all[stays.expect("one stays")];
    assert_eq!(croupier.status()["pid"], croupier.pid());
}

#[test]
fn what_a_dead_primary_left_behind_is_replaced() {
    let directory = Directory::new();
    let path = directory.file("c.sock");
    let mut first = Croupier::spawn(run_at(&path));
    first.wait_ready(1);
    first.signal(Signal::SIGKILL);
    first.wait_status();
    assert!(fs::exists(&path).unwrap());
    let mut second = Croupier::spawn(run_at(&path));
    second.wait_ready(1);
    assert_eq!(second.status()["pid"], second.pid());
    assert_eq!(second.terminate(), Some(0));
    assert!(!fs::exists(&path).unwrap());
}

#[test]
fn a_path_that_is_taken_by_something_else_is_an_error_and_is_left_alone() {
    let directory = Directory::new();
    let file = directory.file("file");
    fs::write(&file, "precious").unwrap();
    Outcome::of(run_at(&file)).assert_failed(2, "is a file that is no socket");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let link = directory.file("link");
    symlink(&file, &link).unwrap();
    Outcome::of(run_at(&link)).assert_failed(2, "is a file that is no socket");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    let strange = directory.file("strange");
    drop(UnixListener::bind(&strange).unwrap());
    std::os::unix::fs::chown(&strange, Some(NOBODY), None).unwrap();
    Outcome::of(run_at(&strange)).assert_failed(2, "is a socket of another user");
    assert!(fs::symlink_metadata(&strange).unwrap().file_type().is_socket());

    let long = directory.file(&"x".repeat(120));
    Outcome::of(run_at(&long)).assert_failed(2, "path is longer than 107 bytes");
    Outcome::of(run_at(&directory.file("no/such"))).assert_failed(2, "No such file or directory");
}

#[test]
fn a_runtime_directory_that_is_not_safe_is_an_error_that_names_the_way_out() {
    let directory = Directory::new();
    let run_in = |folder: &str| {
        let mut run = support::run(&["--workers", "1"]);
        run.env("XDG_RUNTIME_DIR", folder);
        Outcome::of(run)
    };
    run_in(&directory.file("missing")).assert_failed(2, "--control");
    let folder = directory.file("croupier");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    run_in(directory.path().to_str().unwrap()).assert_failed(2, "has mode 755 and needs 700");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&folder, Some(NOBODY), None).unwrap();
    run_in(directory.path().to_str().unwrap()).assert_failed(2, "is no directory of this user");
}

/// The file was replaced while the primary ran: it is not ours any more.
#[test]
fn at_the_end_only_its_own_socket_is_removed() {
    let directory = Directory::new();
    let path = directory.file("c.sock");
    let mut croupier = Croupier::spawn(run_at(&path));
    croupier.wait_ready(1);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "somebody else's").unwrap();
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's");
}

#[test]
fn another_user_is_refused_by_the_file_and_where_the_file_lets_it_in_by_its_uid() {
    let directory = Directory::new();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.file("c.sock");
    let mut croupier = Croupier::spawn(run_at(&path));
    let address = croupier.wait_ready(1);
    // The target directory need not be readable for everybody. Copied by another process: here a thread that forks
    // meanwhile would keep the copy open for writing, and nobody could start it (ETXTBSY).
    let program = directory.file("croupier");
    let mut copy = support::plain("cp");
    copy.args([support::PROGRAM, &program]);
    Outcome::of(copy).assert_ok();
    let as_nobody = |arguments: &[&str]| {
        let mut command = support::plain(&program);
        command.args(arguments).args(["--control", &path]).uid(NOBODY).gid(NOBODY);
        Outcome::of(command)
    };
    as_nobody(&["stop"]).assert_failed(1, "permission denied: it is another user's primary");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    for command in ["status", "reload", "shutdown", "stop"] {
        as_nobody(&[command]).assert_failed(1, "uid 65534 may not control this primary");
    }
    croupier.log().wait_for("audit action=stop uid=65534");
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.started().len(), 1);
    assert_eq!(croupier.terminate(), Some(0));
}

/// 100 connections, more than are served at once: silent, half a request, half a body, and one that reads nothing. The
/// workers' clients notice nothing; whoever asks properly waits for the time limit at most.
#[test]
fn clients_that_stall_are_ended_and_nobody_else_waits_for_them() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let before = processes::descriptors(croupier.pid()).len();
    let connect = || UnixStream::connect(croupier.control()).unwrap();
    let mut half_a_body = connect();
    half_a_body.write_all(b"POST /scale HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"workers\"").unwrap();
    let mut reads_nothing = connect();
    reads_nothing.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let pipelined = "GET /status HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20_000);
    assert!(reads_nothing.write_all(pipelined.as_bytes()).is_err(), "the primary stops reading");
    let mut stalled: Vec<UnixStream> = (0..98).map(|_| connect()).collect();
    for (index, stream) in stalled.iter_mut().enumerate() {
        stream.write_all(["", "GET /status HT", "POST /reload HTTP/1.1\r\nhost: x\r\n"][index % 3].as_bytes()).unwrap();
    }
    let begin = Instant::now();
    for _ in 0..500 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(4), "500 requests took {took:?}");
    assert_eq!(croupier.status()["state"], "running");
    let mut answer = String::new();
    half_a_body.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    for stream in &mut stalled {
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        // Its end, with or without a 408 before it, or a reset: all but waiting for ever.
        let _ = stream.read_to_end(&mut Vec::new()).map_err(|error| assert_ne!(error.kind(), timed_out(), "{error}"));
    }
    wait_until("their descriptors are closed", || processes::descriptors(croupier.pid()).len() <= before);
    drop(reads_nothing);
    assert_eq!(croupier.log().count("ERROR"), 0);
}

fn timed_out() -> std::io::ErrorKind {
    std::io::ErrorKind::WouldBlock
}

/// A browser that was forwarded to the socket, to a page that could have made its own name resolve there.
#[test]
fn it_answers_under_any_word_but_under_nobody_s_domain() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    let status = |host: &str| {
        let mut client = Client::connect_unix(&croupier.control()).unwrap();
        client.send(&format!("GET /status HTTP/1.1\r\n{host}\r\n")).unwrap();
        client.response().unwrap().status
    };
    for host in ["", "host: x\r\n", "host: localhost:3001\r\n", "host: 127.0.0.1:3001\r\n", "host: [::1]\r\n"] {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in ["host: evil.example\r\n", "host: evil.example.:80\r\n", "host: 127.0.0.1.evil.example\r\n"] {
        assert_eq!(status(host), 421, "{host}");
    }
    assert_eq!(status("host: x\r\nhost: y\r\n"), 400);
}

#[test]
fn garbage_changes_nothing() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let control = croupier.control();
    let head_too_long = format!("GET /status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /status HTTP/9.9\r\n\r\n",
        b"POST /stop HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        head_too_long.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(&control).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        // It may be closed before all of it was read.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).map_err(|error| assert_ne!(error.kind(), timed_out(), "{error}"));
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(http::get(&address).unwrap().status, 200);
    let mut client = Client::connect_unix(&control).unwrap();
    for _ in 0..3 {
        client.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_eq!(client.response().unwrap().status, 200, "a good connection can be used again");
    }
    croupier.client(&["status"]).assert_ok();
}

/// What the admin thread costs: three threads, and little memory.
#[test]
fn the_primary_stays_small() {
    let croupier = Croupier::demo(&["--workers", "4"]);
    croupier.wait_ready(4);
    for _ in 0..100 {
        let mut client = Client::connect_unix(&croupier.control()).unwrap();
        client.send("GET /status HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_eq!(client.response().unwrap().status, 200);
    }
    let number = |field| {
        let text = processes::status(croupier.pid(), field).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (kib, threads) = (number("RssAnon"), number("Threads"));
    assert!(kib < 6 * 1024 && threads == 3, "RssAnon {kib} KiB, threads {threads}");
}
