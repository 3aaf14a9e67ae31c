//! Requests become commands, answers become JSON. An error is `{"error": "..."}`.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connections::Peer;
use crate::primary::commands::{Answer, Command, Refused, Remote, Scale, Signal, Unsent};
use crate::primary::status::{self, Glance, Scaled, Status};
use crate::primary::supervisor::Stop;
use crate::protocol::ids::WorkerId;

/// The body of a request, in bytes. Above it: 413.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// How long the body of a request may take. Then: 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the event loop may take to answer, but for a reload, whose answer is its end. Then: 504.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for the health checks.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A request that was not answered as asked.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    error: String,
}

type Answered<T> = Result<T, Problem>;

/// Everything that the control socket offers.
pub(super) fn router(remote: Remote) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/reload", post(reload))
        .route("/upgrade", post(upgrade))
        .route("/scale", post(scale))
        .route("/shutdown", post(|remote| stop(remote, Stop::Graceful)))
        .route("/stop", post(|remote| stop(remote, Stop::Fast)))
        .route("/workers/{id}/disconnect", post(disconnect))
        .route("/workers/{id}/kill", post(kill))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn(only_our_own))
        .with_state(remote)
}

/// Another user's request ends here, whatever it asks for.
async fn only_our_own(request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Problem::new(StatusCode::FORBIDDEN, "nobody knows who asks").into_response();
    };
    let (method, path) = (request.method(), request.uri().path());
    if !peer.is_allowed {
        log::warn!("control: {method} {path} uid={} pid={} [refused: another user]", peer.uid, peer.pid);
        let problem = Problem::new(StatusCode::FORBIDDEN, format!("uid {} may not control this primary", peer.uid));
        return ([("connection", "close")], problem).into_response();
    }
    if request.method().is_safe() {
        log::debug!("control: {method} {path} uid={} pid={}", peer.uid, peer.pid);
    } else {
        log::info!("control: {method} {path} uid={} pid={}", peer.uid, peer.pid);
    }
    next.run(request).await
}

async fn status(State(remote): State<Remote>) -> Answered<Json<Status>> {
    ask_within(ANSWER_TIMEOUT, &remote, Command::Status).await.map(Json)
}

/// The event loop goes round.
async fn livez(State(remote): State<Remote>) -> Answered<Json<serde_json::Value>> {
    ask_within(ALIVE_TIMEOUT, &remote, Command::Glance).await?;
    Ok(Json(json!({ "alive": true })))
}

/// New clients are welcome.
async fn readyz(State(remote): State<Remote>) -> Answered<Json<serde_json::Value>> {
    let Glance { state, workers_ready } = ask_within(ALIVE_TIMEOUT, &remote, Command::Glance).await?;
    match state {
        status::State::Stopping => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "croupier is stopping")),
        status::State::Running if workers_ready == 0 => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no worker is ready"))
        }
        status::State::Running => Ok(Json(json!({ "ready": true, "workers_ready": workers_ready }))),
    }
}

async fn reload(State(remote): State<Remote>) -> Answered<Json<serde_json::Value>> {
    ask(&remote, Command::Reload).await??;
    Ok(Json(json!({ "reloaded": true })))
}

/// Answers only if it failed: the image that takes over knows nothing of this connection.
async fn upgrade(State(remote): State<Remote>) -> Answered<()> {
    Err(ask(&remote, Command::Upgrade).await?.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    workers: String,
}

async fn scale(State(remote): State<Remote>, body: Body) -> Answered<Json<Scaled>> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let too_late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long");
    let body = timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX_BYTES)).await.map_err(too_late)?;
    let body = body.map_err(|error| {
        let status = if is_too_long(&error) { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        Problem::new(status, format!("the body cannot be read: {error}"))
    })?;
    let ScaleBody { workers } = serde_json::from_slice(&body)
        .map_err(|error| bad(format!("send {{\"workers\": \"4\"}}, or \"+1\", or \"-2\" ({error})")))?;
    let scale: Scale = workers.parse().map_err(|error| bad(format!("workers: {error}")))?;
    let scaled = ask_within(ANSWER_TIMEOUT, &remote, |answer| Command::Scale(scale, answer)).await??;
    Ok(Json(scaled))
}

fn is_too_long(error: &axum::Error) -> bool {
    use std::error::Error;
    error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

async fn stop(State(remote): State<Remote>, how: Stop) -> Answered<(StatusCode, Json<serde_json::Value>)> {
    ask_within(ANSWER_TIMEOUT, &remote, |answer| Command::Stop(how, answer)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "state": status::State::Stopping }))))
}

async fn disconnect(State(remote): State<Remote>, Path(id): Path<String>) -> Answered<Json<serde_json::Value>> {
    let worker = read_id(&id)?;
    ask_within(ANSWER_TIMEOUT, &remote, |answer| Command::Disconnect(worker, answer)).await??;
    Ok(Json(json!({ "worker": worker, "disconnecting": true })))
}

async fn kill(State(remote): State<Remote>, Path(id): Path<String>) -> Answered<Json<serde_json::Value>> {
    let worker = read_id(&id)?;
    ask_within(ANSWER_TIMEOUT, &remote, |answer| Command::Kill(worker, Signal::SIGKILL, answer)).await??;
    Ok(Json(json!({ "worker": worker, "killed": true })))
}

fn read_id(text: &str) -> Answered<WorkerId> {
    let no_id = |_| Problem::new(StatusCode::NOT_FOUND, format!("{text:?} is no id of a worker: see GET /status"));
    text.parse().map(WorkerId).map_err(no_id)
}

async fn no_such_path(request: Request) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {}", request.uri().path()))
}

async fn no_such_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for {path}"))
}

async fn ask<T: Send + 'static>(remote: &Remote, command: impl FnOnce(Answer<T>) -> Command) -> Answered<T> {
    let (sender, answer) = oneshot::channel();
    // Nobody waits any more: the client has gone.
    remote.send(command(Answer::new(move |it| drop(sender.send(it)))))?;
    answer.await.map_err(|_| Problem::from(Unsent::Ended))
}

async fn ask_within<T: Send + 'static>(
    time: Duration,
    remote: &Remote,
    command: impl FnOnce(Answer<T>) -> Command,
) -> Answered<T> {
    let late = |_| Problem::new(StatusCode::GATEWAY_TIMEOUT, format!("the primary did not answer within {time:?}"));
    timeout(time, ask(remote, command)).await.map_err(late)?
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

impl From<Unsent> for Problem {
    fn from(unsent: Unsent) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, unsent.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Stopping => StatusCode::CONFLICT,
            Refused::NoSuchWorker(_) => StatusCode::NOT_FOUND,
            Refused::OutOfRange { .. } => StatusCode::BAD_REQUEST,
            Refused::NotReady(_) | Refused::NotStarted(_) | Refused::NoUpgrade(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refused::TooManyWaiting => StatusCode::TOO_MANY_REQUESTS,
        };
        Self::new(status, refused.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}
