//! Where the output of workers goes: `--stdout` and `--stderr`.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use support::http;
use support::log::Log;
use support::{Croupier, Directory, Outcome, processes, roles, run, until, wait_until};

/// The limit of a line, as documented.
const LINE_MAX_BYTES: usize = 16 * 1024;

/// Workers of this shell script.
fn shell(options: &[&str], script: &str) -> Command {
    let mut command = run(options);
    command.args(["--", "sh", "-c", script]);
    command
}

/// Workers that play `role`.
fn role(options: &[&str], role: &str) -> Command {
    let mut command = run(options);
    command.arg(format!("--env={}={role}", roles::ROLE)).arg("--").args(roles::command(role));
    command
}

/// A FIFO in the directory: who opens it for reading waits for who writes.
fn fifo(directory: &Directory, name: &str) -> String {
    let path = directory.file(name);
    mkfifo(path.as_str(), Mode::S_IRWXU).unwrap();
    path
}

// null, FILE.

#[test]
fn nothing_is_seen_of_what_goes_nowhere() {
    let script = "echo said; echo said >&2";
    for (stdout, stderr) in [("null", "inherit"), ("inherit", "null"), ("null", "null")] {
        let options = ["--workers", "1", "--respawn", "never", "-q", "--stdout", stdout, "--stderr", stderr];
        let outcome = Outcome::of(shell(&options, script));
        outcome.assert_ok();
        assert_eq!(outcome.stdout, if stdout == "null" { "" } else { "said\n" });
        assert_eq!(outcome.stderr, if stderr == "null" { "" } else { "said\n" });
    }
}

#[test]
fn a_file_is_created_once_appended_to_by_all_and_the_primary_opens_it() {
    let directory = Directory::new();
    let (out, err) = (directory.file("out"), directory.file("err"));
    std::fs::write(&out, "before\n").unwrap();
    // Closed to whoever the workers are.
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let script = "echo out $CROUPIER_WORKER_ID; echo err >&2; exec sleep 1000";
    let options = ["--workers", "3", "--stdout", &out, "--stderr", &err, "--user", "nobody"];
    let mut croupier = Croupier::spawn(shell(&options, script));
    let sorted = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    wait_until("all have written", || sorted(&out).len() == 4 && sorted(&err).len() == 3);
    assert_eq!(
        (sorted(&out), sorted(&err)),
        (["before", "out 1", "out 2", "out 3"].map(String::from).to_vec(), ["err"; 3].map(String::from).to_vec())
    );
    assert_eq!(std::fs::metadata(&err).unwrap().permissions().mode() & 0o777, 0o644);

    // It stays the same file, whatever is at its path, also for the next image of the primary.
    let moved = directory.file("moved");
    std::fs::rename(&out, &moved).unwrap();
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    wait_until("the replacement has written", || sorted(&moved).contains(&"out 4".to_owned()));
    assert!(!std::path::Path::new(&out).exists());
    croupier.client(&["stop"]).assert_ok();
    croupier.wait_exit();
}

#[test]
fn a_fifo_without_a_reader_does_not_keep_croupier_from_starting_to_say_so() {
    let directory = Directory::new();
    let path = fifo(&directory, "fifo");
    let mut croupier = Croupier::spawn(shell(&["--stdout", &path], "true"));
    assert_eq!(croupier.wait_exit(), Some(2));
    let lines = croupier.log().wait_end();
    assert!(lines.len() == 1 && lines[0].contains(&format!("--stdout {path}: ")), "{lines:?}");
}

#[test]
fn a_fifo_with_a_reader_is_blocking_for_workers() {
    let directory = Directory::new();
    let path = fifo(&directory, "fifo");
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let script = "grep -h '^flags' /proc/self/fdinfo/1; exec sleep 1000";
    let _croupier = Croupier::spawn(shell(&["--workers", "1", "--stdout", &path], script));
    let mut line = [0; 64];
    let len = reader.read(&mut line).unwrap();
    let flags = String::from_utf8_lossy(&line[..len]);
    let flags = i32::from_str_radix(flags.trim_start_matches("flags:").trim(), 8).unwrap();
    assert_eq!(flags & nix::libc::O_NONBLOCK, 0, "{flags:o}");
}

// prefix.

#[test]
fn every_line_carries_the_worker_s_id_and_keeps_its_stream() {
    let script = "echo out; printf 'a\\n\\nb\\n'; echo err >&2; exec sleep 1000";
    let options = ["--workers", "2", "--stdout", "prefix", "--stderr", "prefix"];
    let (mut croupier, stdout) = Croupier::spawn_with_stdout(shell(&options, script));
    for id in [1, 2] {
        stdout.wait_for_count(&format!("worker={id} |"), 4);
        let lines = stdout.lines();
        let own: Vec<&String> = lines.iter().filter(|line| line.starts_with(&format!("worker={id} "))).collect();
        let expected = ["out", "a", "", "b"].map(|text| format!("worker={id} | {text}").trim_end().to_owned());
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
        croupier.log().wait_for(&format!("worker={id} | err"));
    }
    croupier.client(&["stop"]).assert_ok();
    croupier.wait_exit();
    assert_eq!((stdout.wait_end().len(), stdout.count("err")), (8, 0));
}

/// How many lines each worker of the next test writes.
const LINES: usize = 400;

/// Line `number` of a worker: of any length up to the limit, and such that every byte of it can be checked.
fn line_of(id: u32, number: usize) -> Vec<u8> {
    let len = [0, 1, 80, 4000, 5000, LINE_MAX_BYTES - 64][number % 6];
    let mut line = format!("{id} {number} ").into_bytes();
    line.extend((0..len).map(|at| b'a' + ((at + number) % 26) as u8));
    line
}

#[test]
fn no_line_is_torn_or_lost_or_mixed_with_another_whatever_the_sizes_of_the_writes() {
    let options = ["--workers", "3", "--stdout", "prefix", "--stderr", "prefix", "-v"];
    // Also if both streams are one pipe, as under a service manager.
    let mut command = support::plain("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(support::PROGRAM);
    command.args(role(&options, "worker_that_writes_pieces").get_args());
    let (_croupier, lines) = Croupier::spawn_with_stdout(command);
    let lines = lines.wait_until("all lines", |lines| {
        (lines.iter().filter(|line| line.ends_with("| written")).count() == 3).then(|| lines.to_vec())
    });
    let mut next: BTreeMap<u32, usize> = BTreeMap::new();
    for line in &lines {
        let Some((id, text)) = line.strip_prefix("worker=").and_then(|line| line.split_once(" | ")) else { continue };
        let Ok(id) = id.parse::<u32>() else { continue };
        if !text.starts_with(&format!("{id} ")) {
            continue; // what the test harness says around it
        }
        let number = next.entry(id).or_default();
        assert!(text.as_bytes() == line_of(id, *number).trim_ascii_end(), "line {number} of worker {id}: {text}");
        *number += 1;
    }
    assert_eq!(next, BTreeMap::from([(1, LINES), (2, LINES), (3, LINES)]));
}

#[test]
fn worker_that_writes_pieces() {
    if !roles::plays("worker_that_writes_pieces") {
        return;
    }
    let id: u32 = roles::variable("CROUPIER_WORKER_ID").parse().unwrap();
    let _channel = roles::claim();
    let mut text = b"\n".to_vec();
    for number in 0..LINES {
        text.extend(line_of(id, number));
        text.push(b'\n');
    }
    text.extend_from_slice(b"written\n");
    // Sizes by a small generator of its own, the same in each run.
    let mut chance = u64::from(id);
    let mut stdout = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().unwrap());
    let mut rest = &text[..];
    while !rest.is_empty() {
        chance = chance.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let len = 1 + (chance >> 33) as usize % [7, 300, 9000, 70_000][(chance >> 60) as usize % 4];
        let (piece, after) = rest.split_at(len.min(rest.len()));
        stdout.write_all(piece).unwrap();
        rest = after;
    }
    roles::wait_for_the_end();
}

#[test]
fn a_line_that_is_too_long_is_split_where_everybody_sees_it() {
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo next; exec sleep 1000";
    let (_croupier, stdout) = Croupier::spawn_with_stdout(shell(&["--workers", "1", "--stdout", "prefix"], script));
    stdout.wait_for("next");
    let x = |count: usize| "x".repeat(count);
    assert_eq!(
        stdout.lines(),
        [
            format!("worker=1 | {}", x(LINE_MAX_BYTES)),
            format!("worker=1 + {}", x(LINE_MAX_BYTES)),
            format!("worker=1 + {}", x(40000 - 2 * LINE_MAX_BYTES)),
            "worker=1 | next".to_owned(),
        ]
    );
}

#[test]
fn bytes_pass_unchanged_and_the_last_line_needs_no_end() {
    let script = "printf '\\377\\0\\033[1m\\r\\tx\\n'; printf 'the last one'";
    let options = ["--workers", "1", "--respawn", "never", "--stdout", "prefix"];
    let output = shell(&options, script).output().unwrap();
    assert_eq!(output.stdout, b"worker=1 | \xff\0\x1b[1m\r\tx\nworker=1 | the last one\n");
}

#[test]
fn last_words_come_before_the_exit_and_what_a_child_says_later_still_comes() {
    let directory = Directory::new();
    let go = fifo(&directory, "go");
    let script = "[ $CROUPIER_WORKER_ID = 1 ] || exec sleep 1000
        printf 'last words' >&2
        (read x <$GO; echo late; exec sleep 1000) &
        exit 3";
    let go_option = format!("--env=GO={go}");
    let options = ["--workers", "1", "--stdout", "prefix", "--stderr", "prefix", &go_option];
    let (croupier, stdout) = Croupier::spawn_with_stdout(shell(&options, script));
    croupier.log().wait_for("worker=1 pid=");
    croupier.log().wait_for("exited code=3");
    let lines = croupier.log().lines();
    let place = |text: &str| lines.iter().position(|line| line.contains(text));
    assert!(place("worker=1 | last words") < place("exited code=3"), "{}", croupier.log());
    std::fs::write(&go, "\n").unwrap();
    stdout.wait_for("worker=1 | late");
    // The child goes on and has its pipe, but is not read for ever.
    croupier.wait_started(2);
    let of_first = |pid: &i32| processes::environment(*pid)["CROUPIER_WORKER_ID"] == "1";
    let child = processes::with_variable("GO", &go).into_iter().find(of_first).unwrap();
    let link = |pid: i32, fd: i32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    let pipe = link(child, 1);
    let primary = croupier.pid();
    wait_until("the pipe of the first worker is closed", || {
        processes::descriptors(primary).into_iter().all(|fd| link(primary, fd) != pipe)
    });
    processes::send(child, Signal::SIGKILL);
}

#[test]
fn a_line_goes_on_over_an_upgrade() {
    let directory = Directory::new();
    let go = fifo(&directory, "go");
    let script = format!("printf 'begun\\nhalf'; read x <{go}; echo \" and half\"; exec sleep 1000");
    let (croupier, stdout) = Croupier::spawn_with_stdout(shell(&["--workers", "1", "--stdout", "prefix"], &script));
    stdout.wait_for("worker=1 | begun");
    for upgrades in 1..=2 {
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for(&format!("upgrades={upgrades}"));
    }
    std::fs::write(&go, "\n").unwrap();
    stdout.wait_for("worker=1 | half and half");
    assert_eq!(stdout.lines().len(), 2);
}

#[test]
fn a_worker_of_another_user_may_open_its_streams_again() {
    let script = "echo out >/dev/stdout; echo err >/dev/stderr; exec sleep 1000";
    let options = ["--workers", "1", "--stdout", "prefix", "--stderr", "prefix", "--user", "nobody"];
    let (croupier, stdout) = Croupier::spawn_with_stdout(shell(&options, script));
    stdout.wait_for("worker=1 | out");
    croupier.log().wait_for("worker=1 | err");
}

// Whoever does not read, and whoever writes too much.

#[test]
fn worker_that_floods() {
    if !roles::plays("worker_that_floods") {
        return;
    }
    std::thread::spawn(|| {
        let text = "y\n".repeat(1000) + &("long ".repeat(30) + "\n").repeat(400) + &"longer ".repeat(10_000) + "\n";
        while std::io::stdout().write_all(text.as_bytes()).is_ok() {}
    });
    roles::serve_well();
}

/// A primary with two workers that serve well and never stop writing, and who reads its stdout.
fn spawn_flooding() -> (Croupier, Reader) {
    let mut command = role(&["--workers", "2", "--stdout", "prefix"], "worker_that_floods");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Log::collect(child.stderr.take().unwrap());
    let mut reader = Command::new("cat");
    let reader = reader.stdin(child.stdout.take().unwrap()).stdout(Stdio::null()).spawn().unwrap();
    (Croupier::adopt(child, log), Reader(reader))
}

/// A process that reads, and can be stopped. Dropping it kills it.
struct Reader(Child);

impl Reader {
    fn stop(&self) {
        processes::stop(self.0.id() as i32);
    }

    fn go_on(&self) {
        processes::send(self.0.id() as i32, Signal::SIGCONT);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn workers_that_flood_their_output_are_dealt_to_as_ever() {
    let (mut croupier, _reader) = spawn_flooding();
    let address = croupier.wait_ready(2);
    let answers = http::next_workers(&address, 200);
    assert!(http::is_rotation(&answers, 2), "{answers:?}");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_stdout_that_nobody_reads_changes_nothing_and_is_said_on_stderr() {
    let (mut croupier, reader) = spawn_flooding();
    let address = croupier.wait_ready(2);
    // It is said once somebody reads again, and something must have been dropped by then: each round lasts longer.
    let mut requests = 100;
    let said = until(|| {
        requests *= 2;
        reader.stop();
        assert!((0..requests).all(|_| http::get(&address).unwrap().status == 200));
        reader.go_on();
        http::next_workers(&address, 4);
        (croupier.log().count("lines of workers dropped: nobody read stdout") > 0).then_some(())
    });
    assert!(said.is_some(), "nothing was dropped");
    reader.stop();
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_stdout_whose_reader_has_gone_changes_nothing() {
    let (mut croupier, reader) = spawn_flooding();
    let address = croupier.wait_ready(2);
    drop(reader);
    for _ in 0..200 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    assert_eq!(croupier.terminate(), Some(0));
}
