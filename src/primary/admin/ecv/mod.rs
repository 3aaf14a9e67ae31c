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
mod pulse;
mod url;

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
use pulse::Pulse;
pub use url::{BadUrl, MonitorUrl};

/// When the primary was enabled or disabled, or started. Source: cluster2.
const SINCE: HeaderName = HeaderName::from_static("since");

/// How the load balancer in front is answered.
#[derive(Debug, Clone, Default)]
pub struct EcvOptions {
    /// Where it asks. The control socket answers at the default path too, which `croupier enable` goes by.
    pub path: EcvPath,
    /// What must answer, too; `None`: it is enough that a worker is ready.
    pub url: Option<MonitorUrl>,
    /// It may enable and disable at the monitor address.
    pub is_control: bool,
}

/// ECV, as both doors offer it.
#[derive(Debug)]
pub(super) struct Ecv {
    options: EcvOptions,
    hostname: String,
    pulse: Option<Pulse>,
}

/// One door's way to the answers.
#[derive(Debug, Clone)]
struct Asked {
    ecv: Arc<Ecv>,
    desk: Desk,
}

impl Ecv {
    /// Begins to ask the URL, if there is one. In a runtime of tokio.
    pub(super) fn start(options: EcvOptions) -> Self {
        let pulse = options.url.clone().map(Pulse::follow);
        Self { options, hostname: own_name().unwrap_or_default(), pulse }
    }

    /// Where anybody may post at the monitor.
    pub(super) fn paths_to_post(&self) -> Vec<String> {
        match &self.options {
            EcvOptions { is_control: true, path, .. } => vec![path.to_enable(), path.to_disable()],
            EcvOptions { is_control: false, .. } => Vec::new(),
        }
    }
}

/// The routes of one door.
pub(super) fn routes(door: Door, ecv: Arc<Ecv>, desk: Desk) -> Router<Desk> {
    let (path, default) = (&ecv.options.path, EcvPath::default());
    let router = match door {
        Door::Control if *path != default => routes_at(path).merge(routes_at(&default)),
        Door::Control | Door::Monitor => routes_at(path),
    };
    router.with_state(Asked { ecv, desk })
}

fn routes_at(path: &EcvPath) -> Router<Asked> {
    Router::new()
        .route(path.as_str(), get(heartbeat))
        .route(&path.to_enable(), post(|asked| set_enabled(asked, true)))
        .route(&path.to_disable(), post(|asked| set_enabled(asked, false)))
}

async fn heartbeat(State(asked): State<Asked>, Extension(asker): Extension<Asker>) -> Answered<Response> {
    let Asked { ecv, desk } = asked;
    let glance = desk.ask_within(ALIVE_TIMEOUT, Command::Glance).await?;
    let is_served = match &ecv.pulse {
        Some(pulse) => pulse.answers().await,
        None => true,
    };
    let place = Place::of(glance.address, asker.asked_at(), &ecv.hostname);
    let heartbeat = Heartbeat::of(&glance, is_served);
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

async fn set_enabled(State(asked): State<Asked>, is_enabled: bool) -> Answered<Response> {
    let command = |answer| Command::SetEnabled(is_enabled, answer);
    let enabled = asked.desk.ask_within(ANSWER_TIMEOUT, command).await?;
    Ok((StatusCode::NO_CONTENT, since(enabled, true)).into_response())
}

/// `ends`: the load balancer opens another connection next time, when another one may answer.
fn since(enabled: Enabled, ends: bool) -> HeaderMap {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(enabled.since_unix_seconds);
    let since = HeaderValue::try_from(httpdate::fmt_http_date(time)).ok().map(|date| (SINCE, date));
    let close = ends.then_some((CONNECTION, HeaderValue::from_static("close")));
    since.into_iter().chain(close).collect()
}
