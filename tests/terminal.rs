//! Ctrl-C on a real terminal reaches the primary alone: its workers finish what they are at. Alone in its file,
//! because a terminal's descriptors must not leak into the processes of other tests.

#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::Write;
use std::process::{Child, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};

use support::http::{self, Client};
use support::{Croupier, processes};

#[test]
fn ctrl_c_finishes_requests_in_progress_and_ends_with_0() {
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    for end in [&master, &slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    // A session of its own, whose controlling terminal is its stdin: as a shell in a new window would be.
    let mut run = support::plain("setsid");
    run.args(["--ctty", support::PROGRAM, "run", "--listen", "127.0.0.1:0", "--workers", "2"]);
    let child: Child = run.stdin(slave).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut croupier = adopt(child);
    let address = croupier.wait_ready(2);
    let primary = processes::stat(croupier.pid()).unwrap();
    assert_eq!(primary.group, croupier.pid(), "it leads the foreground process group");

    let mut busy: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
    let (first_half, second_half) = http::REQUEST.split_at(10);
    busy.iter_mut().for_each(|client| client.send(first_half).unwrap());
    // Answered by the same event loops after the half requests had come.
    (0..2).for_each(|_| assert_eq!(http::get(&address).unwrap().status, 200));

    let mut terminal = File::from(master);
    terminal.write_all(b"\x03").unwrap();
    croupier.log().wait_for("signal=SIGINT");
    croupier.log().wait_for("ending listeners");
    assert_eq!(croupier.log().count(" exited "), 0);
    for client in &mut busy {
        client.send(second_half).unwrap();
        assert_eq!(client.response().unwrap().status, 200);
        assert_eq!(client.rest().unwrap(), b"");
    }
    drop(busy);
    assert_eq!(croupier.wait_exit(), Some(0));
}

fn adopt(mut child: Child) -> Croupier {
    let log = support::log::Log::collect(child.stderr.take().unwrap());
    Croupier::adopt(child, log)
}
