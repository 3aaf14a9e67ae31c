//! The listening sockets that whoever started croupier passed to it: by number, and by systemd's names.

use std::os::fd::RawFd;

use super::{Exit, Failure};
use crate::primary::address::Address;
use crate::primary::settings::Inherited;
use crate::sys::{environment, inherited};

/// Where the descriptors of systemd begin. Source: sd_listen_fds(3).
const FIRST: RawFd = 3;

/// What was passed, and which of it was passed by systemd's protocol (`LISTEN_FDS`).
#[derive(Debug, Clone, Default)]
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
        let names: Vec<&str> = names.split(':').collect();
        // Among those of systemd may be some that are no listening sockets; they have names too.
        let activated = FIRST..FIRST.saturating_add(activated_count);
        let name_of = |fd: RawFd| {
            let index = usize::try_from(fd - FIRST).ok().filter(|_| activated.contains(&fd))?;
            names.get(index).filter(|name| !name.is_empty()).map(|name| (*name).to_owned())
        };
        let all: Vec<Inherited> = fds.into_iter().map(|fd| Inherited { fd, name: name_of(fd) }).collect();
        let activated = all.iter().map(|it| it.fd).filter(|fd| activated.contains(fd)).collect();
        Self { all, activated }
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
        let passed = Passed::new(vec![4], 2, "fifo:web");
        assert_eq!((passed.all[0].name.as_deref(), passed.activated()), (Some("web"), vec![Address::Fd(4)]));
        assert_eq!(Passed::new(vec![3], 1, "").all, [Inherited { fd: 3, name: None }]);
    }
}
