//! What a process has of the machine, and which machine that is. Source: proc(5).

use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::utsname::uname;
use nix::unistd::{SysconfVar, sysconf};

/// What one process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Its time on the processors so far, that of children it has waited for included.
    pub cpu: Duration,
}

/// Of the process with this number; `None` if there is none. One that has ended and was not waited for has no memory
/// any more, and the time of its whole life.
pub fn of(pid: i32) -> Option<Usage> {
    read(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The time on the processors of all children together that this process has waited for. It takes no descriptor to
/// know. Source: getrusage(2).
pub fn cpu_of_ended_children() -> Duration {
    let time = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0));
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |it| time(it.user_time()) + time(it.system_time()))
}

/// The release of the running kernel; empty if it does not tell. Source: uname(2).
pub fn kernel_release() -> String {
    uname().map_or_else(|_| String::new(), |names| names.release().to_string_lossy().into_owned())
}

/// How many descriptors this process has open. The one that it takes to count them is not among them.
///
/// # Errors
/// `EMFILE`/`ENFILE`: all of them.
pub fn open_files() -> io::Result<u64> {
    Ok((std::fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// From `/proc/PID/stat`. Fields 14 to 17 are times, 24 is the memory; the name, field 2, may contain anything.
fn read(stat: &str) -> Option<Usage> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    let constant = |name| u64::try_from(sysconf(name).ok()??).ok();
    let (per_second, page_bytes) = (constant(SysconfVar::CLK_TCK)?, constant(SysconfVar::PAGE_SIZE)?);
    Some(Usage { rss_bytes: number(24)? * page_bytes, cpu: Duration::from_millis(ticks * 1000 / per_second) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_moves_no_field() {
        let times = "1 2 3 4";
        let stat =
            format!("7 (a) R 1 (b) S 1 7 7 0 -1 4194560 0 0 0 0 {times} 20 0 1 0 99 1000 5 18446744073709551615");
        let usage = read(&stat).unwrap();
        assert_eq!(usage.cpu, Duration::from_millis(100), "of 100 ticks per second, as everywhere on Linux");
        assert_eq!(usage.rss_bytes % 5, 0);
        assert!(usage.rss_bytes >= 5 * 4096);
    }

    #[test]
    fn this_process_has_memory_and_there_is_no_process_0() {
        assert!(of(std::process::id() as i32).unwrap().rss_bytes > 0);
        assert_eq!(of(0), None);
        assert!(open_files().unwrap() >= 3);
    }
}
