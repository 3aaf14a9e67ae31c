//! Connections of the control socket: how many at once, how long they may take, and who may ask.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::routes;
use crate::primary::commands::Remote;

/// Connections served at once. Above it clients wait in the socket's backlog, until one ends or is ended.
const CONNECTIONS_MAX: u32 = 64;
/// How long the head of a request may take, also an idle connection until its next one. Then it is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client may read nothing of its answer. Then it is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// The head of a request, in bytes. Above it: 431.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// How long accepting rests when this process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At the end: for answers that are on their way.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// The process at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: i32,
    /// Its user is ours, or root.
    pub(super) is_allowed: bool,
}

/// Serves until `ended`: by a word, or because its sender has gone.
pub(super) async fn serve(listener: StdListener, remote: Remote, ended: oneshot::Receiver<()>) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let router = routes::router(remote);
    tokio::select! {
        () = accept_all(&listener, &router, &places) => {}
        _ = ended => {}
    }
    drop(listener);
    // What is not answered by then never will be.
    let _ = timeout(LAST_ANSWERS, places.acquire_many(CONNECTIONS_MAX)).await;
    Ok(())
}

async fn accept_all(listener: &UnixListener, router: &Router, places: &Arc<Semaphore>) {
    while let Ok(place) = Arc::clone(places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve_one(stream, router.clone(), place));
            }
            Err(error) => {
                log::debug!("control: cannot accept: {error} [trying again]");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: UnixStream, router: Router, place: OwnedSemaphorePermit) {
    let Ok(peer) = peer_of(&stream) else { return };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    if let Err(error) = connection.await {
        log::debug!("control: uid={} pid={}: {error} [closed]", peer.uid, peer.pid);
    }
    drop(place);
}

/// Who connected. Source: unix(7), SO_PEERCRED.
fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    let (uid, pid) = (credentials.uid(), credentials.pid().unwrap_or(0));
    Ok(Peer { uid, pid, is_allowed: uid == 0 || uid == geteuid().as_raw() })
}
