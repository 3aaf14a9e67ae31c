//! Whether the program behind this primary answers: a URL is asked again and again, as a client would. It is usually
//! one of croupier's own listeners, so a worker answers.

use std::fmt;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::url::MonitorUrl;

/// How often the URL is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take, its body included. Then it is none.
const TIMEOUT: Duration = Duration::from_secs(2);
/// As much of an answer's body as is read, in bytes: to its end the connection ends in order.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// What is known of the program behind this primary. Clones know the same.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    /// `None`: it has not been asked yet.
    answers: watch::Receiver<Option<bool>>,
}

/// Why an answer is none, or not a good one.
#[derive(Debug)]
enum Failure {
    Status(StatusCode),
    Late,
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl Pulse {
    /// Asks `url` as long as somebody wants to know. In a runtime of tokio.
    pub(super) fn follow(url: MonitorUrl) -> Self {
        let (verdict, answers) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                () = ask_on_and_on(&url, &verdict) => {}
                () = verdict.closed() => {}
            }
        });
        Self { answers }
    }

    /// Whether it answers. Who wants to know at the very start waits for the first answer, [`TIMEOUT`] at most: after
    /// an upgrade in place a load balancer must not be told that nobody is there.
    pub(super) async fn answers(&self) -> bool {
        let mut answers = self.answers.clone();
        let known = answers.wait_for(Option::is_some).await.map(|answers| *answers == Some(true));
        known.unwrap_or(false)
    }
}

async fn ask_on_and_on(url: &MonitorUrl, verdict: &watch::Sender<Option<bool>>) {
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let asked = timeout(TIMEOUT, ask(url)).await.unwrap_or(Err(Failure::Late));
        let before = verdict.send_replace(Some(asked.is_ok()));
        match asked {
            Ok(status) if before != Some(true) => log::info!("ecv-monitor={url} answers status={status}"),
            Err(why) if before != Some(false) => {
                log::warn!(
                    "ecv-monitor={url} {why} [load balancers are told to send nobody until it answers 2xx or 3xx]"
                );
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// One request, one connection: who answers may be another worker every time.
async fn ask(url: &MonitorUrl) -> Result<StatusCode, Failure> {
    let stream = TcpStream::connect((url.host(), url.port())).await.map_err(broken)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its errors are those of the request too; it ends with the sender and the answer.
    tokio::spawn(connection);
    let response = sender.send_request(request(url)).await.map_err(broken)?;
    let status = response.status();
    // Whatever is the matter with the body, the status is what was asked for.
    let _ = Limited::new(response.into_body(), BODY_MAX_BYTES).collect().await;
    match status.is_success() || status.is_redirection() {
        true => Ok(status),
        false => Err(Failure::Status(status)),
    }
}

fn request(url: &MonitorUrl) -> Request<Empty<Bytes>> {
    let request = Request::get(url.path()).header(HOST, url.authority()).header(CONNECTION, "close");
    let request = request.header(USER_AGENT, concat!("croupier-ecv/", env!("CARGO_PKG_VERSION")));
    request.body(Empty::new()).expect("the URL was read as one")
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Broken(Box::new(error))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(status) => write!(f, "answers status={}", status.as_u16()),
            Failure::Late => write!(f, "does not answer within {TIMEOUT:?}"),
            Failure::Broken(error) => write!(f, "does not answer: {error}"),
        }
    }
}
