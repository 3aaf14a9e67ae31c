//! Connections at both doors: how many at once, how long they may take, and who is at the other end.

use std::future::pending;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::admission::{Asker, Gate};
use super::desk::Desk;
use super::ecv::Ecv;
use super::feed::Source;
use super::routes::Offer;
use super::{Door, EcvOptions, MonitorSocket};
use crate::primary::commands::Remote;

/// Connections of the control socket served at once. Above it clients wait in the socket's backlog, until one ends or
/// is ended.
const CONTROL_CONNECTIONS_MAX: u32 = 64;
/// The same at the monitor address.
const MONITOR_CONNECTIONS_MAX: u32 = 256;
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

/// Serves until `ended`: by a word, or because its sender has gone.
pub(super) async fn serve(
    control: StdListener,
    monitor: Option<MonitorSocket>,
    ecv: EcvOptions,
    remote: &Remote,
    source: Source,
    ended: oneshot::Receiver<()>,
) -> io::Result<()> {
    let offer = Offer { ecv: Arc::new(Ecv::start(ecv)), feed: source.feed(), remote: remote.clone() };
    let control = Entrance::control(control, &offer)?;
    let monitor = monitor.map(|monitor| Entrance::monitor(monitor, &offer)).transpose()?;
    tokio::spawn(source.run(Desk::new(Door::Control, remote.clone())));
    let at_monitor = async {
        match &monitor {
            Some(monitor) => monitor.accept_all().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = control.accept_all() => {}
        () = at_monitor => {}
        _ = ended => {}
    }
    let last_answers = async {
        control.close().await;
        if let Some(monitor) = monitor {
            monitor.close().await;
        }
    };
    // What is not answered by then never will be.
    let _ = timeout(LAST_ANSWERS, last_answers).await;
    Ok(())
}

/// One door: its socket, what it offers, and its places.
struct Entrance {
    door: Door,
    listening: Listening,
    router: Router,
    places: Arc<Semaphore>,
    places_max: u32,
}

enum Listening {
    Control(UnixListener),
    Monitor(TcpListener),
}

impl Entrance {
    fn control(listener: StdListener, offer: &Offer) -> io::Result<Self> {
        let listening = Listening::Control(UnixListener::from_std(listener)?);
        let router = offer.router(Door::Control, Gate::control());
        Ok(Self::new(Door::Control, listening, router, CONTROL_CONNECTIONS_MAX))
    }

    fn monitor(socket: MonitorSocket, offer: &Offer) -> io::Result<Self> {
        let gate = Gate::monitor(socket.host(), offer.ecv.paths_to_post());
        let router = offer.router(Door::Monitor, gate);
        let listening = Listening::Monitor(TcpListener::from_std(socket.into_listener())?);
        Ok(Self::new(Door::Monitor, listening, router, MONITOR_CONNECTIONS_MAX))
    }

    fn new(door: Door, listening: Listening, router: Router, places_max: u32) -> Self {
        Self { door, listening, router, places: Arc::new(Semaphore::new(places_max as usize)), places_max }
    }

    async fn accept_all(&self) {
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            if let Err(error) = self.accept(place).await {
                log::debug!("{}: cannot accept: {error} [trying again]", self.door);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn accept(&self, place: OwnedSemaphorePermit) -> io::Result<()> {
        let router = self.router.clone();
        match &self.listening {
            Listening::Control(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Ok(asker) = process_at(&stream) {
                    tokio::spawn(serve_one(stream, asker, router, place));
                }
            }
            Listening::Monitor(listener) => {
                let (stream, client) = listener.accept().await?;
                if let Ok(asked_at) = stream.local_addr() {
                    tokio::spawn(serve_one(stream, Asker::Client { client, asked_at }, router, place));
                }
            }
        }
        Ok(())
    }

    /// Lets nobody in any more, and waits until the last one has left.
    async fn close(self) {
        drop(self.listening);
        let _ = self.places.acquire_many(self.places_max).await;
    }
}

async fn serve_one<S>(stream: S, asker: Asker, router: Router, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(asker);
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
        log::debug!("{asker}: {error} [closed]");
    }
    drop(place);
}

/// Who connected. Source: unix(7), SO_PEERCRED.
fn process_at(stream: &UnixStream) -> io::Result<Asker> {
    let credentials = stream.peer_cred()?;
    let (uid, pid) = (credentials.uid(), credentials.pid().unwrap_or(0));
    Ok(Asker::Process { uid, pid, is_allowed: uid == 0 || uid == geteuid().as_raw() })
}
