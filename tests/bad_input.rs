//! What cannot work ends at once, with its exit code and with one line that names the thing and the remedy.

#![cfg(feature = "cli")]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::{Croupier, Directory, processes};

/// A variable that tells the workers of one test from all other processes.
const MARK: &str = "CROUPIER_TEST_MARK";

/// Somebody without any privilege.
const NOBODY: u32 = 65534;

/// Runs to the end. Returns the exit code and the one line that is no log line.
#[track_caller]
fn fails(command: Command) -> (i32, String) {
    let what = format!("{command:?}");
    let mut croupier = Croupier::spawn(command);
    let code = croupier.wait_exit().unwrap_or_else(|| panic!("{what}: ended by a signal"));
    let lines = croupier.log().wait_end();
    let reasons: Vec<&String> = lines.iter().filter(|line| !is_log_line(line)).collect();
    let [reason] = reasons[..] else { panic!("{what}: not one line but {}: {lines:#?}", reasons.len()) };
    assert!(reason.starts_with("croupier: "), "{what}: {reason}");
    (code, reason.clone())
}

/// `2026-01-31T12:00:00.000Z INFO  ...`
fn is_log_line(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let is_time = words.next().is_some_and(|word| word.ends_with('Z') && word.contains('T') && word.starts_with("20"));
    is_time && matches!(words.next(), Some("INFO" | "WARN"))
}

#[track_caller]
fn assert_fails(command: Command, code: i32, parts: &[&str]) {
    let what = format!("{command:?}");
    let (actual, reason) = fails(command);
    assert_eq!(actual, code, "{what}: {reason}");
    for part in parts {
        assert!(reason.contains(part), "{what}: no {part:?} in: {reason}");
    }
}

fn croupier(arguments: &[&str]) -> Command {
    let mut command = support::plain(support::PROGRAM);
    command.args(arguments);
    command
}

#[test]
fn a_port_that_somebody_has_is_named_and_ends_with_4() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    assert_fails(croupier(&["run", "--listen", &address]), 4, &[&address, "address in use", "--listen"]);
    // Also if it is not the first: then the first is released again.
    let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert_fails(croupier(&["run", "-l", &first, "-l", &address]), 4, &[&address, "address in use"]);
    TcpListener::bind(&first).unwrap();
}

#[test]
fn a_port_of_another_primary_is_not_shared_with_it() {
    let running = Croupier::demo(&["--workers", "1"]);
    let address = running.wait_ready(1);
    assert_fails(croupier(&["run", "--listen", &address]), 4, &[&address, "address in use"]);
    assert_eq!(support::http::get(&address).unwrap().status, 200);
}

#[test]
fn an_address_of_no_interface_ends_with_4() {
    let documentation_only = "203.0.113.7:8000";
    assert_fails(croupier(&["run", "--listen", documentation_only]), 4, &[documentation_only, "no network interface"]);
}

#[test]
fn a_port_that_needs_a_privilege_is_named_and_ends_with_4() {
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let start: u16 = start.trim().parse().unwrap();
    assert_ne!(start, 0, "every port is free for all on this machine: this promise cannot be tested here");
    let address = format!("127.0.0.1:{}", start - 1);
    let directory = Directory::new();
    let program = directory.copy_for_all(support::PROGRAM);
    let mut command = support::plain(program);
    command.args(["run", "--listen", &address]).uid(NOBODY).gid(NOBODY).current_dir("/");
    assert_fails(command, 4, &[&address, "permission denied", "CAP_NET_BIND_SERVICE"]);
}

#[test]
fn unix_paths_that_cannot_be_bound_are_named_and_end_with_4() {
    let directory = Directory::new();
    let missing = format!("unix:{}", directory.file("missing/socket"));
    assert_fails(croupier(&["run", "--listen", &missing]), 4, &[&missing, "the directory does not exist"]);

    let file = directory.file("file");
    std::fs::write(&file, "precious").unwrap();
    let occupied = format!("unix:{file}");
    assert_fails(croupier(&["run", "--listen", &occupied]), 4, &[&occupied, "in use"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let socket = directory.file("socket");
    let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let occupied = format!("unix:{socket}");
    assert_fails(croupier(&["run", "--listen", &occupied]), 4, &[&occupied, "in use"]);
    std::os::unix::net::UnixStream::connect(&socket).expect("the other goes on listening");
}

#[test]
fn bad_options_are_named_and_end_with_2() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", "--listen", "8000"], &["--listen", "8000", "HOST:PORT"]),
        (&["run", "--listen", "127.0.0.1:http"], &["--listen", "127.0.0.1:http", "port"]),
        (&["run", "--listen", "127.0.0.1:65536"], &["--listen", "65536", "port"]),
        (&["run", "--listen", "::1:8000"], &["--listen", "brackets"]),
        (&["run", "--listen", "unix:"], &["--listen", "path is empty"]),
        (&["run", "--listen", "no-such-host.invalid:8000"], &["--listen", "no-such-host.invalid", "unknown host"]),
        (&["run", "-l", "127.0.0.1:8000", "-l", "127.0.0.1:8000"], &["127.0.0.1:8000", "twice"]),
        (
            &["run", "--policy", "fair"],
            &["--policy", "\"fair\"", "round-robin, least-connections, source-hash or shared"],
        ),
        (&["run", "-l", "[::1]:80,policy=fair"], &["--listen", "\"fair\"", "source-hash or shared"]),
        (&["run", "-l", "[::1]:80,colour=red"], &["--listen", "\"colour\"", "policy=NAME"]),
        (&["run", "-l", "[::1]:80", "-l", "policy=source-hash"], &["--listen", "before any address", "ADDR,policy"]),
        (&["run", "--workers", "0"], &["--workers", "0", "auto"]),
        (&["run", "--workers", "many"], &["--workers", "many", "auto", "croupier run --help"]),
        (&["run", "--queue-max", "0"], &["--queue-max"]),
        (&["run", "--queue-max", "257"], &["--queue-max", "256"]),
        (&["run", "--start-timeout", "30"], &["--start-timeout", "30s"]),
        (&["run", "--respawn", "sometimes"], &["--respawn", "sometimes", "on-failure"]),
        (&["run", "--respawn-burst", "0/0"], &["--respawn-burst", "5/10"]),
        (&["run", "--env", "NAME"], &["--env", "NAME"]),
        (&["run", "--chdir", "/no/such/directory"], &["--chdir", "/no/such/directory"]),
        (&["run", "--user", "no-such-user"], &["--user no-such-user", "no such user", "getent passwd"]),
        (&["run", "--user", "4294967295"], &["--user 4294967295", "no such user"]),
        (&["run", "--user", "nobody", "--group", "no-such-group"], &["--group no-such-group", "no such group"]),
        (&["run", "--group", "no-such-group"], &["--group no-such-group", "no such group", "getent group"]),
        (&["run", "--stdout", ""], &["--stdout"]),
        (&["run", "--stdout", "/no/such/directory/file"], &["--stdout /no/such/directory/file", "may append to"]),
        (&["run", "--stderr", "/tmp"], &["--stderr /tmp", "directory"]),
        (&["run", "--verbose", "--quiet"], &["--verbose", "--quiet"]),
        (&["run", "--worker", "3"], &["--worker", "--workers"]),
        (&["run", "--no-such-option"], &["--no-such-option"]),
        (&["run", "command-without-dashes"], &["command-without-dashes"]),
        (&["rum"], &["rum", "run"]),
        (&["check", "--no-such-option"], &["--no-such-option"]),
        (&["check", "--workers", "0"], &["--workers"]),
        (&["check", "--user", "no-such-user"], &["--user no-such-user"]),
        (&["check", "--stdout", "/tmp"], &["--stdout /tmp", "directory"]),
        (&["check", "--stderr", "/no/such/directory/file"], &["--stderr /no/such/directory/file", "may append to"]),
        (&["check", "--listen", "no-such-host.invalid:8000"], &["unknown host"]),
    ];
    for (arguments, parts) in cases {
        assert_fails(croupier(arguments), 2, parts);
    }
}

#[test]
fn workers_of_another_user_need_root_and_otherwise_end_with_2_before_anything_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let directory = Directory::new();
    let program = directory.copy_for_all(support::PROGRAM);
    for who in [&["--user", "nobody"][..], &["--user", "0"], &["--group", "nogroup"]] {
        let mut command = support::plain(&program);
        command.args(["run", "--listen", &taken]).args(who).uid(NOBODY).gid(NOBODY).current_dir("/");
        assert_fails(command, 2, &[&who.join(" "), "only root", "start croupier as root"]);
    }
}

#[test]
fn a_root_that_may_not_change_ids_ends_with_5() {
    let mut command = support::plain("setpriv");
    command.args(["--bounding-set=-setuid", "--inh-caps=-setuid", support::PROGRAM]);
    command.args(["run", "--listen", "127.0.0.1:0", "--user", "nobody", "--", "true"]);
    assert_fails(command, 5, &["cannot start workers", "uid=65534", "CAP_SETUID"]);
}

#[test]
fn a_command_that_is_closed_to_its_user_ends_with_5() {
    let directory = Directory::new();
    let program = directory.copy_for_all(support::PROGRAM);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = support::run(&["--user", "nobody"]);
    command.args(["--", &program, "demo"]);
    assert_fails(command, 5, &[&program, "uid=65534", "must be open to that user", "check the path"]);
}

#[test]
fn bad_variables_are_named_and_end_with_2() {
    let cases = [
        ("CROUPIER_LISTEN", "8000", "8000"),
        ("CROUPIER_LISTEN", "policy=source-hash", "before any address"),
        ("CROUPIER_POLICY", "fair", "least-connections"),
        ("CROUPIER_WORKERS", "0", "0"),
        ("CROUPIER_KILL_DELAY", "soon", "soon"),
        ("WEB_CONCURRENCY", "lots", "WEB_CONCURRENCY"),
    ];
    for (name, value, part) in cases {
        // With the word `run` and without any.
        for arguments in [&["run"][..], &[]] {
            let mut command = croupier(arguments);
            command.env(name, value);
            assert_fails(command, 2, &[part]);
        }
    }
}

#[test]
fn a_command_that_is_not_there_or_not_executable_ends_with_5_at_once() {
    let directory = Directory::new();
    let plain_file = directory.file("plain");
    std::fs::write(&plain_file, "no program").unwrap();
    for command in ["no-such-program-anywhere", "/no/such/program", &plain_file, directory.file("").as_str()] {
        let mut run = support::run(&["--workers", "3"]);
        run.args(["--", command]);
        assert_fails(run, 5, &[command, "cannot start workers", "check the path"]);
    }
}

#[test]
fn a_command_that_ends_at_once_ends_with_5_after_the_burst() {
    let cases = [(&["false"][..], "code=1"), (&["true"], "code=0"), (&["sh", "-c", "kill -SEGV $$"], "signal=11")];
    for (command, how) in cases {
        let mut run = support::run(&["--workers", "2", "--respawn-burst", "4/60"]);
        run.arg("--").args(command);
        assert_fails(run, 5, &[command[0], how, "run it by hand"]);
    }
}

#[test]
fn a_command_that_never_says_hello_ends_with_5_and_leaves_nobody_behind() {
    let mark = format!("{MARK}={}", mark("never-hello"));
    let mut run = support::run(&["--workers", "2", "--start-timeout", "1s", "--env", &mark]);
    run.args(["--", "sleep", "1000"]);
    assert_fails(run, 5, &["sleep 1000", "never said hello within 1s", "--start-timeout"]);
    assert_nobody_is_left("never-hello");
}

#[test]
fn a_command_of_another_protocol_ends_with_5_and_leaves_nobody_behind() {
    let mark = format!("{MARK}={}", mark("other-protocol"));
    // The shell cannot send packets, but a closed channel is a worker that hung up before it listened.
    let script = "eval \"exec $CROUPIER_CHANNEL>&-\"; sleep 1000";
    let options = [
        "--workers",
        "1",
        "--start-timeout",
        "1s",
        "--shutdown-timeout",
        "1s",
        "--respawn-burst",
        "2/60",
        "--env",
        &mark,
    ];
    let mut run = support::run(&options);
    run.args(["--", "bash", "-c", script]);
    assert_fails(run, 5, &["bash -c"]);
    assert_nobody_is_left("other-protocol");
}

#[test]
fn check_prints_what_would_be_in_force_and_binds_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut arguments = vec!["check", "--listen", &address, "--workers", "3", "--kill-delay", "1500ms"];
    let directory = Directory::new();
    let file = directory.file("not-created");
    arguments.extend(["--user", "4711", "--group", "4712", "--stdout", &file, "--stderr", "prefix"]);
    arguments.extend(["--", "sleep", "a b"]);
    let output = croupier(&arguments).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""));
    for line in [
        &format!("listen = [\"{address}\"]"),
        "workers = 3",
        "command = [\"sleep\",\"a b\"]",
        "kill-delay = \"1s 500ms\"",
        "respawn = \"always\"",
        &format!("stdout = \"{file}\""),
        "stderr = \"prefix\"",
        "user = 4711",
        "group = 4712",
    ] {
        assert!(out.lines().any(|it| it == line), "no {line:?} in:\n{out}");
    }
    assert!(!std::path::Path::new(&file).exists());
}

#[test]
fn check_takes_flags_before_variables() {
    let mut command = croupier(&["check", "--workers", "3"]);
    command.env("CROUPIER_WORKERS", "4").env("WEB_CONCURRENCY", "5").env("CROUPIER_QUEUE_MAX", "7");
    let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(out.contains("workers = 3\n") && out.contains("queue-max = 7\n"), "{out}");
    let mut command = croupier(&["check"]);
    command.env("WEB_CONCURRENCY", "5");
    let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(out.contains("workers = 5\n"), "{out}");
}

#[test]
fn check_of_a_command_that_cannot_be_started_ends_with_5() {
    for command in ["no-such-program-anywhere", "/no/such/program", "/etc/passwd", "/"] {
        assert_fails(croupier(&["check", "--", command]), 5, &[command, "not found or not executable"]);
    }
}

#[test]
fn help_and_version_go_to_stdout_and_end_with_0() {
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["help", "check"]] {
        let output = croupier(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
}

fn mark(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[track_caller]
fn assert_nobody_is_left(name: &str) {
    support::wait_until("all workers are gone", || processes::with_variable(MARK, &mark(name)).is_empty());
}
