//! Who may ask what at which door. Nobody gets past it: it is the outermost layer of both routers.
//!
//! The control socket is for processes of this user and root. The monitor is for whoever can connect, and that includes
//! every page in a browser on this machine: a page of another origin can send requests, and one whose name is made to
//! resolve to this machine (DNS rebinding) could read the answers too. The first names its origin, the second is asked
//! under a name that is not ours.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::audit::{Audit, Refusals};
use super::problem::Problem;
use super::{Door, own_name};

/// Between two requests at the monitor, 500 a second: others wait for their turn. Whoever can connect can ask as often
/// as it likes, and the processors are there for dealing. Of 256 connections at once nobody waits longer than half a
/// second, which every health check allows.
const MONITOR_REQUEST_EVERY: Duration = Duration::from_millis(2);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// At the control socket.
    Process {
        uid: u32,
        pid: i32,
        /// Its user is ours, or root.
        is_allowed: bool,
    },
    /// At the monitor address.
    Client {
        client: SocketAddr,
        /// Which of this machine's addresses it connected to.
        asked_at: SocketAddr,
    },
}

/// What one door lets in.
#[derive(Debug)]
pub(super) struct Gate {
    door: Door,
    /// The names that this machine is asked under, besides its IP addresses.
    hosts: Vec<String>,
    /// The paths to post to at the monitor.
    to_post: Vec<String>,
    refusals: Refusals,
    /// When the next request is let in; `None`: at once.
    pace: Option<Mutex<Interval>>,
}

impl Gate {
    pub(super) fn control() -> Self {
        let (hosts, to_post) = (own_names(), Vec::new());
        Self { door: Door::Control, hosts, to_post, refusals: Refusals::default(), pace: None }
    }

    /// `host` is what the monitor was told to bind: a name of this machine, whatever else it is called. Nothing
    /// can be posted there but `to_post`, paths. In a runtime of tokio.
    pub(super) fn monitor(host: Option<&str>, to_post: Vec<String>) -> Self {
        let hosts = own_names().into_iter().chain(host.map(str::to_owned)).collect();
        let mut pace = interval(MONITOR_REQUEST_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { door: Door::Monitor, hosts, to_post, refusals: Refusals::default(), pace: Some(Mutex::new(pace)) }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        match request.extensions().get::<Asker>() {
            Some(Asker::Process { is_allowed: true, .. } | Asker::Client { .. }) => {}
            Some(Asker::Process { uid, .. }) => {
                let error = format!("uid {uid} may not control this primary");
                return Err(Problem::new(StatusCode::FORBIDDEN, error));
            }
            None => return Err(Problem::new(StatusCode::FORBIDDEN, "nobody knows who asks")),
        }
        self.check_host(request)?;
        if request.method().is_safe() {
            return Ok(());
        }
        check_origin(request.headers())?;
        match self.door {
            Door::Control => Ok(()),
            Door::Monitor if self.to_post.iter().any(|path| path == request.uri().path()) => Ok(()),
            Door::Monitor => {
                let error = format!("{} is for the control socket only", request.method());
                Err(Problem::new(StatusCode::FORBIDDEN, error))
            }
        }
    }

    /// A page whose name was made to resolve to this machine asks under that name.
    fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let host = match only(request.headers(), &HOST)? {
            Some(host) => host.parse().ok().filter(|host: &Authority| !host.as_str().contains('@')),
            // Old health checks and people at the control socket do without; a browser does not.
            None if self.door == Door::Control || request.version() < Version::HTTP_11 => return Ok(()),
            None => return Err(Problem::new(StatusCode::BAD_REQUEST, "the host header is missing")),
        };
        let is_ours = |authority: &Authority| self.is_own_host(authority.host());
        if host.as_ref().is_some_and(is_ours) && request.uri().authority().is_none_or(is_ours) {
            return Ok(());
        }
        let error = "this is not a host of that name; ask for its IP address, localhost, the machine's name, or the \
                     name that --monitor was given";
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, error))
    }

    fn is_own_host(&self, host: &str) -> bool {
        let is_v6 = |host: &str| {
            let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            inside.is_some_and(|inside| inside.parse::<Ipv6Addr>().is_ok())
        };
        let is_ip = host.parse::<IpAddr>().is_ok() || is_v6(host);
        // Whoever has the control socket's path may call it anything. But a browser may have been forwarded to it, and
        // what the owner of a domain can make resolve to this machine has a dot.
        let is_any_word = self.door == Door::Control && !host.contains('.');
        is_ip || is_any_word || self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }
}

/// The layer: lets a request in, or answers it; either way an action leaves its line.
pub(super) async fn admit(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Asker>().map_or_else(String::new, Asker::to_string);
    let (door, method, path) = (gate.door, request.method(), request.uri().path());
    // Quoted: control characters of the upper half may stand in a path.
    log::debug!("{door}: {method} {path:?} {who}");
    if let Some(pace) = &gate.pace {
        pace.lock().await.tick().await;
    }
    let audit = Audit::of(method, path, &who);
    let answer = match gate.check(&request) {
        Ok(()) => {
            audit.iter().for_each(Audit::begin);
            next.run(request).await
        }
        Err(problem) => ([(CONNECTION, "close")], problem).into_response(),
    };
    if let Some(audit) = audit {
        audit.conclude(&answer, &gate.refusals);
    }
    answer
}

/// Browsers say of every page which origin it has when it sends more than a request to read.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = only(headers, &ORIGIN)? else { return Ok(()) };
    let host = only(headers, &HOST)?.unwrap_or_default();
    let is_same = |origin: Uri| origin.authority().is_some_and(|it| it.as_str().eq_ignore_ascii_case(host));
    match origin.parse().is_ok_and(is_same) {
        true => Ok(()),
        false => Err(Problem::new(StatusCode::FORBIDDEN, "a page of another origin asks")),
    }
}

/// The value of a header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let bad = |what: &str| Problem::new(StatusCode::BAD_REQUEST, format!("the header {name} is {what}"));
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| bad("no text")),
        (Some(_), Some(_)) => Err(bad("there twice")),
    }
}

fn own_names() -> Vec<String> {
    std::iter::once("localhost".to_owned()).chain(own_name()).collect()
}

impl Asker {
    /// Which of this machine's addresses it knows.
    pub(super) fn asked_at(self) -> Option<SocketAddr> {
        match self {
            Asker::Process { .. } => None,
            Asker::Client { asked_at, .. } => Some(asked_at),
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::Process { uid, pid, .. } => write!(f, "uid={uid} pid={pid}"),
            Asker::Client { client, .. } => write!(f, "address={client}"),
        }
    }
}
