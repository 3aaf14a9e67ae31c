//! The listening sockets that whoever started croupier passed to it: by number, and by systemd's names.

use std::os::fd::RawFd;

use super::{Exit, Failure};
use crate::primary::address::Address;
use crate::primary::settings::Inherited;
use crate::sys::{environment, inherited};

/// Where the descriptors of systemd begin. Source: sd_listen_fds(3).
const FIRST: RawFd = 3;

/// What was passed, and which of it was passed by systemd's protocol (`LISTEN_FDS`).
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) all: Vec<Inherited>,
    activated: Vec<RawFd>,
}

/// Looks for what was passed. To be called before this process opens a socket. The variables are removed: workers are
/// not meant.
///
/// # Errors
/// [`Exit::Usage`] if `/proc` cannot be read.
pub(super) fn find() -> Result<Passed, Failure> {
    let fds = inherited::listening_fds()
        .map_err(|error| Failure::new(Exit::Usage, format!("read /proc/self/fd: {error}; is /proc mounted?")))?;
    let variable = |name: &str| {
        let value = std::env::var(name).ok();
        environment::remove(name);
        value
    };
    let (pid, count, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    let is_for_us = pid.is_some_and(|pid| pid == std::process::id().to_string());
    let count = count.and_then(|count| count.parse().ok()).filter(|_| is_for_us).unwrap_or(0);
    Ok(Passed::new(fds, count, &names.unwrap_or_default()))
}

impl Passed {
    fn new(fds: Vec<RawFd>, activated_count: RawFd, names: &str) -> Self {
        let mut names = names.split(':').filter(|name| !name.is_empty()).map(str::to_owned);
        let activated: Vec<RawFd> =
            (FIRST..FIRST.saturating_add(activated_count)).filter(|fd| fds.contains(fd)).collect();
        let named: Vec<(RawFd, Option<String>)> = activated.iter().map(|fd| (*fd, names.next())).collect();
        let name_of = |fd: RawFd| named.iter().find(|(it, _)| *it == fd).and_then(|(_, name)| name.clone());
        Self { all: fds.into_iter().map(|fd| Inherited { fd, name: name_of(fd) }).collect(), activated }
    }

    /// Where to listen if nobody has said it: on what systemd has passed.
    pub(super) fn activated(&self) -> Vec<Address> {
        self.activated.iter().map(|fd| Address::Fd(*fd)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_to_descriptors_in_their_order() {
        let passed = Passed::new(vec![3, 4, 7], 2, "web:admin");
        let names: Vec<_> = passed.all.iter().map(|it| (it.fd, it.name.as_deref())).collect();
        assert_eq!(names, [(3, Some("web")), (4, Some("admin")), (7, None)]);
        assert_eq!(passed.activated(), [Address::Fd(3), Address::Fd(4)]);
        assert!(Passed::new(vec![3], 0, "web").activated().is_empty(), "another process was meant");
    }
}
