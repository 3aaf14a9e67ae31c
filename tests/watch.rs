//! `croupier status --watch` on a real terminal. Alone in its file, because a terminal's descriptors must not leak into
//! the processes of other tests.

#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;

use support::http;
use support::{Croupier, until, wait_until};

const ROWS: u16 = 7;
/// What begins and what ends a picture.
const BEGIN: &str = "\u{1b}[H";
const END: &str = "\u{1b}[J\u{1b}[?7h";
const GREEN: &str = "\u{1b}[32m";

/// A terminal on which it runs, and what it has shown so far.
struct Terminal {
    master: File,
    shown: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    fn show(croupier: &Croupier, variables: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        for end in [&master, &slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        // A session of its own, whose controlling terminal is its stdin: as a shell in a new window would be, where
        // Ctrl-C means something. To what a script starts in the background it does not.
        let mut command = support::plain("env");
        command.args(["--default-signal=INT", "setsid", "--ctty"]);
        command.args([support::PROGRAM, "status", "--watch", "--interval", "20ms"]);
        command.args(["--control", &croupier.control()]).env("TERM", "xterm").env_remove("NO_COLOR");
        command.envs(variables.iter().copied()).stdin(slave.try_clone().unwrap()).stdout(slave).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        drop(command); // and our copies of the slave
        let (master, shown) = (File::from(master), Arc::<Mutex<String>>::default());
        let (mut source, collected) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO when nobody has the slave any more.
            while let Ok(len @ 1..) = source.read(&mut bytes) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        Self { master, shown, child }
    }

    /// Complete pictures so far.
    fn pictures(&self) -> Vec<String> {
        let shown = self.shown.lock().unwrap().clone();
        let mut pictures: Vec<String> = shown.split(BEGIN).skip(1).map(str::to_owned).collect();
        pictures.retain(|picture| picture.ends_with(END));
        pictures
    }

    #[track_caller]
    fn wait_for(&self, what: &str) -> String {
        let found = until(|| self.pictures().into_iter().find(|picture| picture.contains(what)));
        found.unwrap_or_else(|| panic!("no {what:?} in {:?}", self.shown.lock().unwrap()))
    }

    /// Ctrl-C.
    fn interrupt(mut self) {
        self.master.write_all(b"\x03").unwrap();
        let status = until(|| self.child.try_wait().unwrap()).expect("it ends");
        assert_eq!(status.signal(), Some(Signal::SIGINT as i32));
        wait_until("its last picture is whole", || self.shown.lock().unwrap().trim_end_matches("^C").ends_with(END));
    }
}

#[test]
fn on_a_terminal_every_picture_replaces_the_last_one_in_colours_unless_nobody_wants_them() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);

    let terminal = Terminal::show(&croupier, &[]);
    let first = terminal.wait_for("accepted 0");
    assert!(first.contains(&format!("{GREEN}running")), "{first:?}");
    assert_eq!(http::get(&address).unwrap().status, 200);
    let later = terminal.wait_for("accepted 1");
    assert_eq!(later.matches("\r\n").count(), usize::from(ROWS) - 1, "{later:?}");
    assert!(later.contains("LISTENER") && !later.contains("\u{1b}[2J"), "{later:?}");
    terminal.interrupt();

    let terminal = Terminal::show(&croupier, &[("NO_COLOR", "1")]);
    let picture = terminal.wait_for("accepted 1");
    assert!(picture.contains(": running, ") && !picture.contains(GREEN), "{picture:?}");
    terminal.interrupt();
}
