//! `--idle-timeout`: which connections end, how, and which never do.

#![cfg(feature = "cli")]

mod support;

use std::io::{self, ErrorKind, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use croupier::protocol::ids::WorkerId;
use croupier::worker::event_loop::EventLoop;
use croupier::worker::{ListenOptions, Listener, Worker};

use support::http::{self, Client};
use support::log::Log;
use support::roles::{self, say};
use support::{Croupier, wait_until};

/// The program's own timeout, in milliseconds.
const OWN_TIMEOUT: &str = "CROUPIER_TEST_OWN_TIMEOUT";

/// Serves well, with an idle timeout of its own; with a primary or without.
#[test]
fn server_with_a_timeout_of_its_own() {
    if !roles::plays("server_with_a_timeout_of_its_own") {
        return;
    }
    let worker = Worker::from_env().unwrap();
    let name = worker.as_ref().map_or(WorkerId(1), Worker::id);
    let mut event_loop = EventLoop::new(roles::Good::named(name)).unwrap();
    event_loop.idle_timeout(Duration::from_millis(roles::variable(OWN_TIMEOUT).parse().unwrap()));
    let listener = match worker {
        Some(worker) => worker.listen_on_first(&ListenOptions::new()).unwrap(),
        None => Listener::bind("127.0.0.1:0").unwrap(),
    };
    say(&format!("listens on {}", listener.address()));
    event_loop.listen(listener).unwrap();
    event_loop.run().unwrap();
}

/// As the documentation of `worker::tokio` says it.
#[cfg(feature = "axum")]
#[test]
fn tasks_that_wait_for_so_long() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn answer_lines(mut connection: croupier::worker::tokio::Connection, timeout: Duration) -> io::Result<()> {
        let mut message = Vec::new();
        loop {
            // Only before the first byte: half a message is no idle connection.
            let mut byte = [0];
            if tokio::time::timeout(timeout, connection.read(&mut byte)).await?? == 0 {
                return Ok(());
            }
            message.push(byte[0]);
            while !message.ends_with(b"\r\n\r\n") {
                connection.read_buf(&mut message).await?;
            }
            message.clear();
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }

    async fn serve() {
        let worker = roles::join();
        let timeout = worker.idle_timeout().expect("the test has set it");
        let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
        let listener = croupier::worker::tokio::Listener::new(listener).unwrap();
        while let Some(connection) = listener.accept().await.unwrap() {
            tokio::spawn(answer_lines(connection, timeout));
        }
    }

    if roles::plays("tasks_that_wait_for_so_long") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    }
}

/// As the documentation of `worker::axum` says it.
#[cfg(feature = "axum")]
#[test]
fn axum_on_hyper() {
    use axum::Router;
    use axum::routing::get;
    use croupier::worker::tokio::{Connection, Listener};
    use hyper::server::conn::http1;
    use hyper_util::rt::{TokioIo, TokioTimer};
    use hyper_util::service::TowerToHyperService;

    async fn serve_one(http: http1::Builder, app: Router, connection: Connection, ended: impl Future<Output = ()>) {
        let mut serving =
            std::pin::pin!(http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(app)));
        tokio::select! {
            _ = &mut serving => return,
            () = ended => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    }

    async fn serve() {
        let worker = roles::join();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(worker.idle_timeout().expect("the test has set it"));
        let slow = || async {
            tokio::time::sleep(SLOW).await;
            "slow"
        };
        let app = Router::new().route("/", get(|| async { "" })).route("/slow", get(slow));
        let listener = Listener::new(worker.listen_on_first(&ListenOptions::new()).unwrap()).unwrap();
        let mut serving = tokio::task::JoinSet::new();
        while let Some(connection) = listener.accept().await.unwrap() {
            serving.spawn(serve_one(http.clone(), app.clone(), connection, listener.ended()));
        }
        while serving.join_next().await.is_some() {}
    }

    if roles::plays("axum_on_hyper") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    }
}

/// How long a request to `/slow` takes: longer than the timeout.
#[cfg(feature = "axum")]
const SLOW: Duration = Duration::from_millis(2500);

#[cfg(feature = "axum")]
#[test]
fn async_programs_end_idle_connections_by_the_same_timeout() {
    for role in ["tasks_that_wait_for_so_long", "axum_on_hyper"] {
        let mut croupier = Croupier::of_role(&["--workers", "1", "--idle-timeout", "1s"], role);
        let address = croupier.wait_ready(1);
        let mut fresh = Client::connect(&address).unwrap();
        let mut idle = Client::connect(&address).unwrap();
        assert_eq!(idle.get().unwrap().status, 200, "{role}");
        assert_ended_by_fin(&mut idle);
        assert_ended_by_fin(&mut fresh);
        assert_eq!(croupier.terminate(), Some(0), "{role}");
    }
}

#[cfg(feature = "axum")]
#[test]
fn a_slow_request_of_an_axum_program_is_answered() {
    let mut croupier = Croupier::of_role(&["--workers", "1", "--idle-timeout", "1s"], "axum_on_hyper");
    let mut client = Client::connect(&croupier.wait_ready(1)).unwrap();
    client.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(client.response().unwrap().body, "slow");
    assert_eq!(client.get().unwrap().status, 200);
    assert_ended_by_fin(&mut client);
    assert_eq!(croupier.terminate(), Some(0));
}

/// Waits for its end; it must be a FIN, and nothing may come before it.
#[track_caller]
fn assert_ended_by_fin(client: &mut Client) {
    let len = client.stream().read(&mut [0; 64]).expect("a reset, or no end at all");
    assert_eq!(len, 0, "bytes came");
}

fn has_ended(client: &Client) -> bool {
    client.stream().set_nonblocking(true).unwrap();
    let peeked: io::Result<usize> = client.stream().peek(&mut [0]);
    client.stream().set_nonblocking(false).unwrap();
    match peeked {
        Ok(len) => len == 0,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            false
        }
    }
}

#[test]
fn an_idle_connection_ends_with_a_fin_whether_it_ever_spoke_or_not() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--idle-timeout", "1s"]);
    let address = croupier.wait_ready(1);
    let mut fresh = Client::connect(&address).unwrap();
    let mut idle = Client::connect(&address).unwrap();
    assert_eq!(idle.get().unwrap().status, 200);
    assert_ended_by_fin(&mut idle);
    assert_ended_by_fin(&mut fresh);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_request_in_progress_is_served_however_long_it_takes() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--idle-timeout", "1s"]);
    let address = croupier.wait_ready(1);
    let mut half_a_head = Client::connect(&address).unwrap();
    half_a_head.send("GET / HTTP/1.1\r\n").unwrap();
    let mut half_a_body = Client::connect(&address).unwrap();
    half_a_body.send("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nab").unwrap();
    assert_eq!(half_a_body.response().unwrap().status, 200, "the demo answers heads");
    // Both began before, so their time would be over too.
    for _ in 0..2 {
        assert_ended_by_fin(&mut Client::connect(&address).unwrap());
    }
    half_a_head.send("\r\n").unwrap();
    assert_eq!(half_a_head.response().unwrap().status, 200);
    half_a_body.send("cd").unwrap();
    assert_eq!(half_a_body.get().unwrap().status, 200);
    assert_ended_by_fin(&mut half_a_head);
    assert_ended_by_fin(&mut half_a_body);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_connection_stays_as_long_as_requests_come() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--idle-timeout", "2s"]);
    let address = croupier.wait_ready(1);
    let mut active = Client::connect(&address).unwrap();
    for _ in 0..2 {
        let idle = Client::connect(&address).unwrap();
        wait_until("the end of an idle connection", || {
            assert_eq!(active.get().unwrap().status, 200);
            has_ended(&idle)
        });
    }
    assert_ended_by_fin(&mut active);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn without_the_option_nobody_is_ended() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let mut client = Client::connect(&address).unwrap();
    assert_eq!(client.get().unwrap().status, 200);
    assert!(client.stays_silent());
    assert_eq!(client.get().unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_primarys_timeout_is_stronger_than_the_programs_own() {
    let options = ["--workers", "1", "--env", &format!("{OWN_TIMEOUT}=1")];
    let role = "server_with_a_timeout_of_its_own";
    let mut croupier = Croupier::of_role(&[&options[..], &["--idle-timeout", "1h"]].concat(), role);
    let mut client = Client::connect(&croupier.wait_ready(1)).unwrap();
    assert_eq!(client.get().unwrap().status, 200);
    assert!(client.stays_silent());
    assert_eq!(client.get().unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));

    let mut croupier = Croupier::of_role(&options, role);
    assert_ended_by_fin(&mut Client::connect(&croupier.wait_ready(1)).unwrap());
    assert_eq!(croupier.terminate(), Some(0));
}

/// Killed when it is dropped.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_event_loop_without_a_primary_ends_idle_connections_too() {
    let mut command = roles::command("server_with_a_timeout_of_its_own").into_iter();
    let mut alone = support::plain(command.next().unwrap());
    alone.args(command).env(roles::ROLE, "server_with_a_timeout_of_its_own").env(OWN_TIMEOUT, "1000");
    let mut alone = Alone(alone.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let log = Log::collect(alone.0.stderr.take().unwrap());
    let line = log.wait_for("listens on ");
    let mut client = Client::connect(line.split_once("listens on ").unwrap().1).unwrap();
    assert_eq!(client.get().unwrap().status, 200);
    assert_ended_by_fin(&mut client);
}

#[test]
fn many_idle_connections_all_end() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--idle-timeout", "200ms"]);
    let address = croupier.wait_ready(1);
    let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(&address).unwrap()).collect();
    for client in clients.iter_mut().step_by(2) {
        // One that was ended a moment ago is no failure here.
        let _ = client.get();
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.rest().unwrap(), b""));
    assert_eq!(croupier.terminate(), Some(0));
}
