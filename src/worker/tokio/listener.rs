//! The listener on tokio's reactor.

use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::SetOnce;

use super::Connection;
use crate::sys::reactor;
use crate::worker;

/// Where connections come from, as [`worker::Listener`]. Any number of tasks may accept from one listener, by
/// reference or in an `Arc`.
///
/// Dropping it deregisters it and tells the primary, which deals what was not taken to other workers.
#[derive(Debug)]
pub struct Listener {
    /// A duplicate of the listener's descriptor. The primary holds another of a lane's, so that close(2) alone would
    /// leave the lane in the reactor's epoll for ever; this one is deregistered when it is dropped.
    readable: AsyncFd<OwnedFd>,
    /// The same of what shows the end of a listener that accepts from a socket.
    end: Option<AsyncFd<OwnedFd>>,
    inner: worker::Listener,
    ended: Arc<SetOnce<()>>,
    /// Counts the connections that axum has and on which nothing has come.
    #[cfg(feature = "axum")]
    pub(in crate::worker) fresh: tokio::sync::watch::Sender<()>,
}

impl Listener {
    /// Listens on `address` with the default [`ListenOptions`](worker::ListenOptions). The answer of the primary is
    /// awaited on a thread for blocking calls; if the future is dropped before, so is the listener when it comes. The
    /// first of a process joins the primary: make it early, as [`Worker::from_env`](worker::Worker::from_env) says.
    ///
    /// # Errors
    /// As [`ListenOptions::bind`](worker::ListenOptions::bind) and [`new`](Self::new).
    pub async fn bind(address: &str) -> io::Result<Self> {
        let address = address.to_owned();
        let bound = tokio::task::spawn_blocking(move || worker::Listener::bind(&address)).await;
        Self::new(bound.map_err(io::Error::other)??)
    }

    /// Registers a listener with the reactor of the runtime that this is called in: one that was asked for with
    /// [`ListenOptions`](worker::ListenOptions) or [`Worker::listen_on_first`](worker::Worker::listen_on_first). Those
    /// calls wait for the primary's answer: make them before there is anything else to do.
    ///
    /// # Errors
    /// `EMFILE`, and those of epoll_ctl(2): `ENOSPC`, `ENOMEM`. The listener is closed then.
    ///
    /// # Panics
    /// Outside of a runtime, or in one without I/O, as everything of tokio does.
    pub fn new(listener: worker::Listener) -> io::Result<Self> {
        let register = |fd: BorrowedFd<'_>| reactor::register_readable(fd.try_clone_to_owned()?);
        Ok(Self {
            readable: register(listener.as_fd())?,
            end: listener.end_fd().map(register).transpose()?,
            inner: listener,
            ended: Arc::default(),
            #[cfg(feature = "axum")]
            fresh: tokio::sync::watch::Sender::default(),
        })
    }

    /// Waits for a connection. `None`: the listener is closed, and every connection that had been dealt to it was
    /// taken. All tasks that wait get it, and whoever asks again.
    ///
    /// Cancel safe: a future that is dropped has taken none.
    ///
    /// # Errors
    /// Those of accept(2) when this process listens itself. They are there again a moment later if the cause is:
    /// at `EMFILE` and the like wait before accepting again.
    pub async fn accept(&self) -> io::Result<Option<Connection>> {
        let taken = self.take().await;
        self.note_end(&taken);
        taken
    }

    /// As [`accept`](Self::accept), but the end is not told to those who wait for it.
    pub(in crate::worker) async fn take(&self) -> io::Result<Option<Connection>> {
        let mut at_readable = pin!(self.take_when(Some(&self.readable)));
        let mut at_end = pin!(self.take_when(self.end.as_ref()));
        // Nothing may be awaited after this: a connection that was taken must be returned.
        let taken = poll_fn(|context| match at_readable.as_mut().poll(context) {
            Poll::Pending => at_end.as_mut().poll(context),
            taken => taken,
        });
        taken.await?.map(Connection::new).transpose()
    }

    async fn take_when(&self, fd: Option<&AsyncFd<OwnedFd>>) -> io::Result<Option<worker::Connection>> {
        match fd {
            Some(fd) => fd.async_io(Interest::READABLE, |_| self.inner.take_or_end()).await,
            None => pending().await,
        }
    }

    fn poll_take_when(
        &self,
        fd: &AsyncFd<OwnedFd>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<worker::Connection>>> {
        loop {
            let mut readable = ready!(fd.poll_read_ready(context))?;
            // Err: somebody was faster. The readiness is cleared, and the next look waits.
            if let Ok(taken) = readable.try_io(|_| self.inner.take_or_end()) {
                return Poll::Ready(taken);
            }
        }
    }

    fn note_end(&self, taken: &io::Result<Option<Connection>>) {
        if matches!(taken, Ok(None)) {
            self.say_ended();
        }
    }

    pub(in crate::worker) fn say_ended(&self) {
        // Every task that accepts sees the end; the first one says it.
        let _ = self.ended.set(());
    }

    /// Resolves when this worker is to finish, as [`Worker::drained`](worker::Worker::drained). Without a primary it
    /// never does.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let worker = self.inner.worker().cloned();
        async move {
            match worker {
                Some(worker) => worker.drained().await,
                None => pending().await,
            }
        }
    }

    /// Resolves when somebody has been told that the listener has ended: there is nothing more to take. Without a
    /// primary it never does.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = Arc::clone(&self.ended);
        async move { _ = ended.wait().await }
    }

    /// The listener itself: to close, pause or resume it, and for its address.
    pub fn get_ref(&self) -> &worker::Listener {
        &self.inner
    }
}

/// The connections, to its end; the same as [`accept`](Listener::accept).
impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let taken = match (self.poll_take_when(&self.readable, context), &self.end) {
            (Poll::Ready(taken), _) => taken,
            (Poll::Pending, Some(end)) => ready!(self.poll_take_when(end, context)),
            (Poll::Pending, None) => return Poll::Pending,
        };
        let taken = taken.and_then(|it| it.map(Connection::new).transpose());
        self.note_end(&taken);
        Poll::Ready(taken.transpose())
    }
}
