//! What `/proc` says of other processes.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// A line of `/proc/PID/stat`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub state: char,
    pub parent: i32,
    pub group: i32,
    /// User and system time, in clock ticks.
    pub cpu_ticks: u64,
}

/// `None`: there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: number(1)? as i32,
        group: number(2)? as i32,
        cpu_ticks: (number(11)? + number(12)?) as u64,
    })
}

/// Whether it still runs: a zombie does not.
pub fn runs(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Its children, zombies included.
pub fn children(pid: i32) -> Vec<i32> {
    all().filter(|child| stat(*child).is_some_and(|stat| stat.parent == pid)).collect()
}

#[track_caller]
pub fn wait_gone(pid: i32) {
    wait_until(&format!("the end of process {pid}"), || !runs(pid));
}

/// Waits until SIGSTOP has taken effect.
#[track_caller]
pub fn wait_stopped(pid: i32) {
    wait_until(&format!("process {pid} stops"), || stat(pid).is_some_and(|stat| stat.state == 'T'));
}

/// Sends a signal to a process that the caller knows to be there.
#[track_caller]
pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// SIGSTOP, and waits until it has taken effect.
#[track_caller]
pub fn stop(pid: i32) {
    send(pid, Signal::SIGSTOP);
    wait_stopped(pid);
}

/// The environment that it was started with.
pub fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split('\0')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// Whether a primary started it.
pub fn is_worker(pid: i32) -> bool {
    environment(pid).contains_key("CROUPIER_CHANNEL")
}

/// Those who have this variable in their environment.
pub fn with_variable(name: &str, value: &str) -> Vec<i32> {
    all().filter(|pid| runs(*pid) && environment(*pid).get(name).is_some_and(|it| it == value)).collect()
}

/// The numbers of its open descriptors.
pub fn descriptors(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let listed: Vec<_> = entries.map(|entry| entry.path()).collect();
    // Of this process itself, one of those listed was the listing's own.
    let open = listed.into_iter().filter(|path| path.read_link().is_ok());
    let mut numbers: Vec<i32> = open.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// One field of `/proc/PID/status`.
pub fn status(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(|value| value.trim().to_owned())
}

/// Soft and hard limit of open files.
pub fn open_files_limits(pid: i32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The address of the only TCP socket that the process listens on, as the kernel tells it.
pub fn listening_address(pid: i32) -> String {
    let find = || {
        let sockets: Vec<String> = descriptors(pid)
            .into_iter()
            .filter_map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_listening = fields[3] == "0A" && sockets.iter().any(|inode| inode == fields[9]);
            let port = fields[1].rsplit_once(':')?.1;
            is_listening.then(|| format!("127.0.0.1:{}", u16::from_str_radix(port, 16).unwrap()))
        })
    };
    super::until(find).expect("it listens")
}

/// Changes the limits of open files of a process. Needs `prlimit` (util-linux).
#[track_caller]
pub fn limit_open_files(pid: i32, soft: u64, hard: u64) {
    let limits = format!("--nofile={soft}:{hard}");
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limits]).status().expect("prlimit is there");
    assert!(status.success());
}
