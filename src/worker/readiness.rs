//! Waiting for a socket, and for its end where that shows on a descriptor of its own: by poll(2), and with mio.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event::Source};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Sleeps until one of `fds` is readable, or a signal has come.
pub(super) fn wait_readable<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where descriptors are registered that other processes hold too: close(2) alone would leave them in our epoll for
/// ever, readable, and no longer removable. Whoever has them calls [`end`](Self::end) before it closes them.
#[derive(Debug, Default)]
pub(super) struct Registration(Option<Registry>);

/// A socket, and what shows its end if it does not do so itself.
pub(super) type Fds = [Option<RawFd>; 2];

impl Registration {
    pub(super) fn register(
        &mut self,
        fds: Fds,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        let handle = registry.try_clone()?;
        each(fds, |mut fd| fd.register(registry, token, interests))?;
        self.0 = Some(handle);
        Ok(())
    }

    pub(super) fn reregister(fds: Fds, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        each(fds, |mut fd| fd.reregister(registry, token, interests))
    }

    pub(super) fn deregister(&mut self, fds: Fds, registry: &Registry) -> io::Result<()> {
        self.0 = None;
        each(fds, |mut fd| fd.deregister(registry))
    }

    /// Deregisters them, if they are registered.
    pub(super) fn end(&mut self, fds: Fds) {
        if let Some(registry) = self.0.take() {
            let _ = self.deregister(fds, &registry);
        }
    }
}

fn each(fds: Fds, act: impl FnMut(SourceFd<'_>) -> io::Result<()>) -> io::Result<()> {
    fds.iter().flatten().map(SourceFd).try_for_each(act)
}
