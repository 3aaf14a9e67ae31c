//! One connection to a control socket: HTTP/1.1, one request, whose answer may be a stream.

use std::ops::ControlFlow;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime;
use tokio::time::timeout;

use super::{Failure, failed};
use crate::sys::process::Stranger;

/// A connection to a primary of this user (or of root, or of any user, if this user is root).
pub(super) struct Connection {
    path: PathBuf,
    stream: StdStream,
    pid: i32,
}

/// What the primary answered.
pub(super) struct Reply {
    pub(super) is_success: bool,
    pub(super) body: String,
}

/// How a stream of the primary's came to its end.
pub(super) enum Followed {
    /// The primary ended it, or itself.
    Ended,
    /// The reader did.
    LetGo,
    /// There was none.
    Refused(Reply),
}

impl Connection {
    /// # Errors
    /// With exit code 1: nobody listens there, or it is somebody else's.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let stream = StdStream::connect(path).map_err(|error| {
            failed(match error.kind() {
                NotFound | ConnectionRefused => format!("no primary runs on {}", path.display()),
                PermissionDenied => format!("{}: permission denied: it is another user's primary", path.display()),
                _ => format!("connect to {}: {error}", path.display()),
            })
        })?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials)
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
        if ![0, peer.uid()].contains(&geteuid().as_raw()) && peer.uid() != 0 {
            return Err(failed(format!("{} is served by another user, uid {}", path.display(), peer.uid())));
        }
        Ok(Self { path: path.to_owned(), stream, pid: peer.pid() })
    }

    /// The primary's process, to wait for its end.
    pub(super) fn process(&self) -> std::io::Result<Stranger> {
        Stranger::open(self.pid)
    }

    pub(super) fn get(self, path: &str, time: Duration) -> Result<Reply, Failure> {
        self.exchange(request(Method::GET, path, String::new()), time)
    }

    pub(super) fn post(self, path: &str, body: &Value, time: Duration) -> Result<Reply, Failure> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.exchange(request(Method::POST, path, body), time)
    }

    /// Hands everything that the primary says to `read`, until that breaks off or there is nothing more.
    ///
    /// # Errors
    /// The primary did not answer at all.
    pub(super) fn follow(
        self,
        path: &str,
        last_event_id: Option<&str>,
        read: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Followed, Failure> {
        let mut request = request(Method::GET, path, String::new());
        if let Some(id) = last_event_id.and_then(|id| id.parse().ok()) {
            request.headers_mut().insert("last-event-id", id);
        }
        self.run(|stream| follow_on(stream, request, read))
    }

    fn exchange(self, request: Request<Full<Bytes>>, time: Duration) -> Result<Reply, Failure> {
        let late =
            format!("{}: the primary did not answer within {}", self.path.display(), humantime::format_duration(time));
        self.run(|stream| async move {
            match timeout(time, exchange_on(stream, request)).await {
                Ok(replied) => replied.map(Ok),
                Err(_) => Ok(Err(failed(late))),
            }
        })?
    }

    /// Runs a conversation to its end.
    fn run<T, C: Future<Output = hyper::Result<T>>>(
        self,
        converse: impl FnOnce(UnixStream) -> C,
    ) -> Result<T, Failure> {
        let path = self.path.display();
        let gone = |error: &dyn std::fmt::Display| failed(format!("{path}: the primary did not answer: {error}"));
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| gone(&error))?;
        runtime.block_on(async {
            self.stream.set_nonblocking(true).map_err(|error| gone(&error))?;
            let stream = UnixStream::from_std(self.stream).map_err(|error| gone(&error))?;
            converse(stream).await.map_err(|error| gone(&error))
        })
    }
}

fn request(method: Method, path: &str, body: String) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(method).uri(path).header("host", "croupier");
    builder.body(Full::from(body)).expect("the paths are our own and valid")
}

async fn exchange_on(stream: UnixStream, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
    reply_of(answer_on(stream, request).await?).await
}

async fn follow_on(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
    mut read: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> hyper::Result<Followed> {
    let response = answer_on(stream, request).await?;
    if !response.status().is_success() {
        return reply_of(response).await.map(Followed::Refused);
    }
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if frame.data_ref().is_some_and(|bytes| read(bytes).is_break()) {
            return Ok(Followed::LetGo);
        }
    }
    Ok(Followed::Ended)
}

async fn answer_on(stream: UnixStream, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors are those of the request too.
    tokio::spawn(connection);
    sender.send_request(request).await
}

async fn reply_of(response: Response<Incoming>) -> hyper::Result<Reply> {
    let is_success = response.status().is_success();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Reply { is_success, body: String::from_utf8_lossy(&body).into_owned() })
}
