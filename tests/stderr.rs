//! Whoever reads the log may be slow, stopped or gone: dealing goes on, and so does the end.

#![cfg(feature = "cli")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use support::log::Log;
use support::{Croupier, http, roles};

/// More lines than the pipe and croupier's queue of lines hold together.
const CONNECTIONS: usize = 6000;

/// A primary whose workers make it log several lines for each connection, and its stderr, read up to readiness.
fn chatty() -> (Croupier, String, BufReader<ChildStderr>) {
    let role = "worker_that_chats";
    let mut run = support::run(&["-v", "--workers", "2"]);
    run.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
    let mut child: Child =
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let stderr = child.stderr.take().unwrap();
    fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let (log, mut stderr) = (Log::default(), BufReader::new(stderr));
    while log.count(" listening on ") < 2 {
        let mut line = String::new();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it has ended:\n{log}");
        log.push(line.trim_end().to_owned());
    }
    let croupier = Croupier::adopt(child, log);
    let address = croupier.address();
    (croupier, address, stderr)
}

#[test]
fn a_full_pipe_that_nobody_reads_changes_nothing() {
    let (mut croupier, address, stderr) = chatty();
    for _ in 0..CONNECTIONS {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert!(is_full(&stderr), "the test must have filled it");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_reader_that_comes_back_is_told_how_much_it_has_missed() {
    let (mut croupier, address, mut stderr) = chatty();
    for _ in 0..CONNECTIONS {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    let mut line = String::new();
    while !line.contains("log lines dropped") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it does not say so");
        // Something must be logged after the loss for it to be told.
        let _ = http::get(&address);
    }
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_pipe_whose_reader_has_gone_changes_nothing() {
    let (mut croupier, address, stderr) = chatty();
    drop(stderr);
    for _ in 0..CONNECTIONS {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_closed_stderr_changes_nothing() {
    let directory = support::Directory::new();
    let path = directory.file("socket");
    let mut run = support::plain("sh");
    run.args(["-c", "exec \"$0\" \"$@\" 2>&-", support::PROGRAM]);
    run.args(["run", "-v", "--workers", "2", "--listen", &format!("unix:{path}")]);
    let mut croupier = Croupier::spawn(run);
    let connected = support::until(|| http::Client::connect_unix(&path).ok());
    assert_eq!(connected.expect("it listens").get().unwrap().status, 200);
    for _ in 0..CONNECTIONS {
        assert_eq!(http::Client::connect_unix(&path).unwrap().get().unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert!(croupier.log().wait_end().is_empty());
}

/// A writer would have to wait.
fn is_full(stderr: &BufReader<ChildStderr>) -> bool {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(stderr.get_ref()));
    let writer = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
}

/// A message that croupier does not know, for every connection: it logs that.
#[test]
fn worker_that_chats() {
    if !roles::plays("worker_that_chats") {
        return;
    }
    let bare = roles::Bare::listen();
    let chat = || bare.channel.send_blocking(&croupier::protocol::control::FromWorker::Unknown).unwrap();
    bare.serve(chat).unwrap();
}
