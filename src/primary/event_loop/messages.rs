//! Messages between workers and whoever started the primary, and the packets that wait for a worker to read.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use nix::errno::Errno;

use super::Primary;
use super::token::Source;
use crate::primary::commands::Undelivered;
use crate::primary::dialect::Message;
use crate::primary::events::Event;
use crate::primary::lifecycle::State;
use crate::protocol::body::Body;
use crate::protocol::ids::WorkerId;
use crate::sys::fd_passing;

impl Primary {
    /// A worker's program has said something to whoever listens.
    pub(super) fn pass_on(&mut self, worker: WorkerId, body: Body, fd: Option<OwnedFd>) {
        let fd = fd.map(Arc::new);
        if let Some(from) = self.workers.get(worker) {
            self.subscribers.tell_of(from.who(), || Event::Message { worker, body, fd: fd.clone() });
        }
        if let Some(unwanted) = fd.and_then(Arc::into_inner) {
            fd_passing::close_at_once(unwanted);
        }
    }

    pub(super) fn send_message(&mut self, id: WorkerId, body: Body, fd: Option<OwnedFd>) -> Result<(), Undelivered> {
        self.send_to(id, &Message::new(body), fd)
    }

    /// Encoded once, whoever they are. Those that do not get it, and why.
    pub(super) fn broadcast(&mut self, body: Body) -> Vec<(WorkerId, Undelivered)> {
        let message = Message::new(body);
        let everybody: Vec<WorkerId> = self.workers.iter().map(|worker| worker.id).collect();
        let send = |id| self.send_to(id, &message, None).err().map(|why| (id, why));
        everybody.into_iter().filter_map(send).collect()
    }

    fn send_to(&mut self, id: WorkerId, message: &Message, fd: Option<OwnedFd>) -> Result<(), Undelivered> {
        let worker = self.workers.get_mut(id).ok_or(Undelivered::NoSuchWorker(id))?;
        if worker.has_exited || worker.state() == State::Disconnected {
            return Err(Undelivered::Disconnected(id));
        }
        worker.dialect.message(message, fd).map_err(|error| match error.kind() {
            io::ErrorKind::QuotaExceeded => Undelivered::WouldExceed(id),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Undelivered::Disconnected(id),
            _ if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => Undelivered::TooLong(message.body_bytes()),
            _ => Undelivered::Kernel(id, error.to_string()),
        })
    }

    /// A worker may have read: what waits for it is sent.
    pub(super) fn send_waiting(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let was_behind = worker.dialect.is_behind();
        if let Err(error) = worker.dialect.send_waiting() {
            log::debug!("worker={id} {error} [its messages wait]");
            self.unsent.push(id);
            return self.watch();
        }
        if was_behind && !worker.dialect.is_behind() {
            for lane in worker.lane_ids() {
                self.look_for_room(id, lane);
            }
        }
    }

    /// Channels for which something has begun, or ceased, to wait are watched accordingly.
    pub(super) fn watch_channels(&mut self) {
        let registry = self.poll.registry();
        for worker in self.workers.with_busy_channels().filter(|it| it.state() != State::Disconnected) {
            let interest = worker.dialect.interest();
            if interest == worker.interest {
                continue;
            }
            let (fd, token) = (worker.dialect.as_fd().as_raw_fd(), Source::Control(worker.id).token());
            match registry.reregister(&mut SourceFd(&fd), token, interest) {
                Ok(()) => worker.interest = interest,
                Err(error) => log::error!("worker={} its channel cannot be watched: {error}", worker.id),
            }
        }
    }

    /// Those whom the kernel did not let be sent anything the last time.
    pub(super) fn send_unsent(&mut self) {
        for id in std::mem::take(&mut self.unsent) {
            self.send_waiting(id);
        }
    }
}
