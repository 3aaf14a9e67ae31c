//! ECV, "extended content verification": what a load balancer in front asks, and how it is told to leave this primary
//! out for a while. As eBay's cluster2 has it.
//!
//! ```text
//!   GET PATH            200, 400 or 500, and one line: see `answer`
//!   POST PATH/disable   204; from now on 400, and /readyz is 503
//!   POST PATH/enable    204
//! ```
//! It is offered at both doors; `admission` lets nobody at the monitor post unless that was asked for. Whether the
//! primary is enabled is the event loop's to know: it goes over reloads and upgrades.

mod answer;
mod path;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::admission::Asker;
use super::desk::{ALIVE_TIMEOUT, ANSWER_TIMEOUT, Desk};
use super::problem::Answered;
use super::{Door, own_name};
use crate::primary::commands::Command;
use crate::primary::status::Enabled;
use answer::{Heartbeat, Place};
pub use path::{BadPath, EcvPath};

/// When the primary was enabled or disabled, or started. Source: cluster2.
const SINCE: HeaderName = HeaderName::from_static("since");

/// How the load balancer in front is answered.
#[derive(Debug, Clone, Default)]
pub struct EcvOptions {
    /// Where it asks. The control socket answers at the default path too, which `croupier enable` goes by.
    pub path: EcvPath,
    /// It may enable and disable at the monitor address.
    pub is_control: bool,
}

/// What the routes of one door know.
#[derive(Debug)]
struct Ecv {
    desk: Desk,
    hostname: String,
}

/// The routes of one door.
pub(super) fn routes(door: Door, options: &EcvOptions, desk: Desk) -> Router<Desk> {
    let ecv = Arc::new(Ecv { desk, hostname: own_name().unwrap_or_default() });
    let (path, default) = (&options.path, EcvPath::default());
    let router = match door {
        Door::Control if *path != default => routes_at(path).merge(routes_at(&default)),
        Door::Control | Door::Monitor => routes_at(path),
    };
    router.with_state(ecv)
}

fn routes_at(path: &EcvPath) -> Router<Arc<Ecv>> {
    Router::new()
        .route(path.as_str(), get(heartbeat))
        .route(&path.to_enable(), post(|ecv| set_enabled(ecv, true)))
        .route(&path.to_disable(), post(|ecv| set_enabled(ecv, false)))
}

async fn heartbeat(State(ecv): State<Arc<Ecv>>, Extension(asker): Extension<Asker>) -> Answered<Response> {
    let glance = ecv.desk.ask_within(ALIVE_TIMEOUT, Command::Glance).await?;
    let place = Place::of(glance.address, asker.asked_at(), &ecv.hostname);
    let heartbeat = Heartbeat::of(&glance);
    let (status, ends) = match heartbeat {
        Heartbeat::Available => (StatusCode::OK, false),
        Heartbeat::Disabled => (StatusCode::BAD_REQUEST, true),
        Heartbeat::Warning => (StatusCode::INTERNAL_SERVER_ERROR, false),
    };
    let headers =
        [(CONTENT_TYPE, HeaderValue::from_static("text/plain")), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    let time = httpdate::fmt_http_date(SystemTime::now());
    Ok((status, headers, since(glance.enabled, ends), heartbeat.line(&place, &time)).into_response())
}

async fn set_enabled(State(ecv): State<Arc<Ecv>>, is_enabled: bool) -> Answered<Response> {
    let command = |answer| Command::SetEnabled(is_enabled, answer);
    let enabled = ecv.desk.ask_within(ANSWER_TIMEOUT, command).await?;
    Ok((StatusCode::NO_CONTENT, since(enabled, true)).into_response())
}

/// `ends`: the load balancer opens another connection next time, when another one may answer.
fn since(enabled: Enabled, ends: bool) -> HeaderMap {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(enabled.since_unix_seconds);
    let since = HeaderValue::try_from(httpdate::fmt_http_date(time)).ok().map(|date| (SINCE, date));
    let close = ends.then_some((CONNECTION, HeaderValue::from_static("close")));
    since.into_iter().chain(close).collect()
}
