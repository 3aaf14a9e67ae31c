//! Requests become commands, answers become JSON. An error is `{"error": "..."}`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::admission::{Gate, admit};
use super::audit::Detail;
use super::desk::{ALIVE_TIMEOUT, ANSWER_TIMEOUT, Desk};
use super::ecv::Ecv;
use super::feed::Feed;
use super::metrics::metrics;
use super::problem::{Answered, Problem};
use super::{Door, ecv, events, page};
use crate::primary::commands::{Command, Remote, Scale, Signal};
use crate::primary::status::{self, Glance, Status};
use crate::primary::supervisor::Stop;
use crate::protocol::ids::WorkerId;

/// The body of a request, in bytes. Above it: 413.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// How long the body of a request may take. Then: 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(3);
/// What the paths of the admin API begin with; those of ECV must not.
pub(super) const FIRST_SEGMENTS: [&str; 11] =
    ["status", "metrics", "events", "livez", "readyz", "reload", "upgrade", "scale", "shutdown", "stop", "workers"];

/// What the answers at both doors are made of.
pub(super) struct Offer {
    pub(super) ecv: Arc<Ecv>,
    pub(super) feed: Feed,
    pub(super) remote: Remote,
}

impl Offer {
    /// Everything that one door offers.
    pub(super) fn router(&self, door: Door, gate: Gate) -> Router {
        let desk = Desk::new(door, self.remote.clone());
        let router = match door {
            Door::Control => to_read().merge(to_control()),
            Door::Monitor => to_read(),
        };
        router
            .merge(events::route(door, self.feed.clone()))
            .merge(ecv::routes(door, Arc::clone(&self.ecv), desk.clone()))
            .merge(page::routes(door))
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(from_fn_with_state(Arc::new(gate), admit))
            .with_state(desk)
    }
}

/// What is safe to read, for both doors.
fn to_read() -> Router<Desk> {
    Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
}

/// What changes something, for the control socket.
fn to_control() -> Router<Desk> {
    Router::new()
        .route("/reload", post(reload))
        .route("/upgrade", post(upgrade))
        .route("/scale", post(scale))
        .route("/shutdown", post(|desk| stop(desk, Stop::Graceful)))
        .route("/stop", post(|desk| stop(desk, Stop::Fast)))
        .route("/workers/{id}/disconnect", post(disconnect))
        .route("/workers/{id}/kill", post(kill))
}

async fn status(State(desk): State<Desk>) -> Answered<Json<Status>> {
    desk.status().await.map(Json)
}

/// The event loop goes round.
async fn livez(State(desk): State<Desk>) -> Answered<Json<serde_json::Value>> {
    desk.ask_within(ALIVE_TIMEOUT, Command::Glance).await?;
    Ok(Json(json!({ "alive": true })))
}

/// New clients are welcome: enabled, not stopping, and no fewer workers ready than there should be.
async fn readyz(State(desk): State<Desk>) -> Answered<Json<serde_json::Value>> {
    let Glance { state, enabled, workers_ready, workers_wanted, .. } =
        desk.ask_within(ALIVE_TIMEOUT, Command::Glance).await?;
    let not_ready = |why: String| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why));
    match state {
        status::State::Stopping => not_ready("croupier is stopping".into()),
        status::State::Running if !enabled.is_enabled => not_ready("it is disabled: see `croupier enable`".into()),
        status::State::Running if workers_ready < workers_wanted.max(1) => {
            not_ready(format!("{workers_ready} of {workers_wanted} workers are ready"))
        }
        status::State::Running => Ok(Json(json!({ "ready": true, "workers_ready": workers_ready }))),
    }
}

async fn reload(State(desk): State<Desk>) -> Answered<Json<serde_json::Value>> {
    desk.ask(Command::Reload).await??;
    Ok(Json(json!({ "reloaded": true })))
}

/// Answers only if it failed: the image that takes over knows nothing of this connection.
async fn upgrade(State(desk): State<Desk>) -> Answered<()> {
    Err(desk.ask(Command::Upgrade).await?.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    workers: String,
}

async fn scale(State(desk): State<Desk>, body: Body) -> Answered<impl IntoResponse> {
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
    let scaled = desk.ask_within(ANSWER_TIMEOUT, |answer| Command::Scale(scale, answer)).await??;
    Ok((Extension(Detail(format!("workers={scale}"))), Json(scaled)))
}

fn is_too_long(error: &axum::Error) -> bool {
    use std::error::Error;
    error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

async fn stop(State(desk): State<Desk>, how: Stop) -> Answered<(StatusCode, Json<serde_json::Value>)> {
    desk.ask_within(ANSWER_TIMEOUT, |answer| Command::Stop(how, answer)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "state": status::State::Stopping }))))
}

async fn disconnect(State(desk): State<Desk>, Path(id): Path<String>) -> Answered<Json<serde_json::Value>> {
    let worker = read_id(&id)?;
    desk.ask_within(ANSWER_TIMEOUT, |answer| Command::Disconnect(worker, answer)).await??;
    Ok(Json(json!({ "worker": worker, "disconnecting": true })))
}

async fn kill(State(desk): State<Desk>, Path(id): Path<String>) -> Answered<Json<serde_json::Value>> {
    let worker = read_id(&id)?;
    desk.ask_within(ANSWER_TIMEOUT, |answer| Command::Kill(worker, Signal::SIGKILL, answer)).await??;
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
