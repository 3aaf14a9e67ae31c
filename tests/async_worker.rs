//! Workers on tokio: the library's listener and connections, and the axum example, under a primary and alone.

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use croupier::worker::tokio::{Connection, Listener};
use croupier::worker::{self, ListenOptions};
use futures_core::Stream;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use support::http::{self, Client};
use support::load::Load;
use support::log::Log;
use support::{Croupier, Directory, processes, roles};

/// Where a worker without a primary listens.
const ADDRESS: &str = "CROUPIER_TEST_ADDRESS";
/// A file that says "go on".
const GO: &str = "CROUPIER_TEST_GO";

// The library.

#[test]
fn connections_go_round_the_async_workers_and_the_drain_ends_them_cleanly() {
    let mut croupier = Croupier::of_role(&["--workers", "3"], "async_worker");
    let address = croupier.wait_ready(3);
    let workers = http::next_workers(&address, 60);
    assert!(http::is_rotation(&workers, 3), "{workers:?}");

    let mut busy = Client::connect(&address).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    croupier.log().wait_for("half a request");
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for_count("has been drained", 3);
    busy.send("\r\n").unwrap();
    let response = busy.response().unwrap();
    assert!(response.status == 200 && response.head.contains("connection: close"), "{response:?}");
    assert_eq!(croupier.wait_exit(), Some(0));
    croupier.log().wait_for_count("exited code=0", 3);
}

#[test]
fn a_reload_of_async_workers_loses_nothing_and_moves_idle_connections() {
    let mut croupier = Croupier::of_role(&["--workers", "2"], "async_worker");
    let address = croupier.wait_ready(2);
    let mut kept: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    let load = Load::start(&address, 3, 3);
    for generation in 1..=3 {
        let before = croupier.started().len() as u32;
        croupier.signal(Signal::SIGHUP);
        croupier.log().wait_for(&format!("reload done generation={generation}"));
        croupier.log().wait_for_count("exited code=0", before as usize);
        load.wait_for(100);
        for client in &mut kept {
            assert!(client.get().unwrap().worker() > before, "one of the new generation answers");
        }
    }
    load.end();
    drop(kept);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn async_workers_finish_and_end_by_themselves_when_the_primary_is_killed() {
    let mut croupier = Croupier::of_role(&["--workers", "2"], "async_worker");
    let address = croupier.wait_ready(2);
    let mut busy = Client::connect(&address).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    croupier.log().wait_for("half a request");
    let workers: Vec<i32> = croupier.started().iter().map(|started| started.pid).collect();
    croupier.signal(Signal::SIGKILL);
    croupier.wait_status();
    croupier.log().wait_for_count("has been drained", 2);
    croupier.log().wait_for_count("sees the end", 2);
    busy.send("\r\n").unwrap();
    assert_eq!(busy.response().unwrap().status, 200);
    workers.into_iter().for_each(processes::wait_gone);
}

/// A task that never ends does not keep the process: the library ends it after the grace time.
#[test]
fn an_async_worker_that_does_not_finish_ends_all_the_same_when_the_primary_is_killed() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "async_worker");
    let address = croupier.wait_ready(1);
    let mut busy = Client::connect(&address).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    croupier.log().wait_for("half a request");
    let worker = croupier.wait_started(1).pid;
    croupier.signal(Signal::SIGKILL);
    croupier.wait_status();
    processes::wait_gone(worker);
    assert!(busy.response().is_err(), "it was never finished");
}

#[test]
fn the_same_async_program_serves_without_a_primary() {
    let mut command = roles::command("async_worker").into_iter();
    let mut alone = support::plain(command.next().unwrap());
    alone.args(command).env(roles::ROLE, "async_worker").env(ADDRESS, "127.0.0.1:0");
    let mut alone = alone.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Log::collect(alone.stderr.take().unwrap());
    let line = log.wait_for("listens on ");
    let (_, address) = line.split_once("listens on ").unwrap();
    let mut client = Client::connect(address).unwrap();
    for _ in 0..20 {
        assert_eq!(http::get(address).unwrap().worker(), 0);
        assert_eq!(client.get().unwrap().worker(), 0);
    }
    assert_eq!(log.count("sees the end"), 0);
    alone.kill().unwrap();
    alone.wait().unwrap();
}

#[test]
fn tasks_that_share_a_listener_get_each_connection_once_and_all_see_its_end() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "async_worker_with_eight_tasks");
    let address = croupier.wait_ready(1);
    let clients = clients_at_once(&address, 8, 50);
    assert_eq!(clients.len(), 400);
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for_count("sees the end", 8);
    assert_eq!(croupier.wait_exit(), Some(0));
    // In its log a connection is known by its client's address.
    let taken: Vec<String> = croupier.log().wait_end().into_iter().filter(|line| line.starts_with("took ")).collect();
    let distinct: BTreeSet<&str> = taken.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!((taken.len(), distinct.len()), (400, 400));
    assert!(clients.iter().all(|client| distinct.contains(client.as_str())));
}

#[test]
fn accepts_that_are_given_up_lose_no_connection() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "async_worker_that_gives_up");
    let address = croupier.wait_ready(1);
    assert_eq!(clients_at_once(&address, 4, 100).len(), 400);
    croupier.signal(Signal::SIGTERM);
    let line = croupier.log().wait_for("given up=");
    assert!(!line.ends_with("given up=0"), "nothing was tested: {line}");
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn a_stream_of_connections_ends_with_the_listener() {
    for policy in ["round-robin", "shared"] {
        let options = ["--workers", "1", "--policy", policy];
        let mut croupier = Croupier::of_role(&options, "async_worker_with_a_stream");
        let address = croupier.wait_ready(1);
        assert_eq!(clients_at_once(&address, 4, 25).len(), 100);
        croupier.signal(Signal::SIGTERM);
        croupier.log().wait_for("the stream has ended, ended() too");
        assert_eq!(croupier.wait_exit(), Some(0));
    }
}

#[test]
fn async_workers_that_share_the_socket_end_when_the_primary_says_so() {
    let mut croupier = Croupier::of_role(&["--workers", "2", "--policy", "shared"], "async_worker");
    let address = croupier.wait_ready(2);
    assert_eq!(clients_at_once(&address, 4, 25).len(), 100);
    croupier.client(&["reload"]).assert_ok();
    assert_eq!(clients_at_once(&address, 4, 25).len(), 100);
    assert_eq!(croupier.terminate(), Some(0));
}

/// The primary holds the other ends of what a worker closes, so that close(2) alone would leave them in the epoll.
#[test]
fn what_is_dropped_or_given_back_leaves_no_ghost_in_the_epoll_of_the_reactor() {
    let directory = Directory::new();
    let go = format!("--env={GO}={}", directory.file("go"));
    let mut croupier = Croupier::of_role(&["--workers", "2", &go], "async_worker_that_gives_everything_back");
    let address = croupier.wait_ready(2);
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        client.send(http::REQUEST).unwrap();
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    std::fs::write(directory.file("go"), "").unwrap();
    let line = croupier.log().wait_for("ghosts=");
    assert!(line.ends_with("ghosts=0") && !line.contains("given back=0"), "{line}");
    drop(clients);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn an_async_worker_serves_unix_clients() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let mut run = support::plain(support::PROGRAM);
    run.args(["run", "--workers", "2", "--listen", &format!("unix:{path}")]);
    run.arg(format!("--env={}=async_worker", roles::ROLE)).arg("--").args(roles::command("async_worker"));
    let mut croupier = Croupier::spawn(run);
    croupier.wait_ready(2);
    let mut workers = BTreeSet::new();
    for _ in 0..10 {
        let mut client = Client::connect_unix(&path).unwrap();
        workers.insert(client.get().unwrap().worker());
        client.send(http::LAST_REQUEST).unwrap();
        assert_eq!(client.response().unwrap().status, 200);
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(workers.len(), 2);
    assert_eq!(croupier.terminate(), Some(0));
}

/// The primary deals nothing there, and its order ends them all the same.
#[test]
fn sockets_of_an_async_workers_own_end_when_the_primary_says_so() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "async_worker_with_sockets_of_its_own");
    let addresses: Vec<String> = croupier
        .log()
        .wait_for_count("own socket ", 2)
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    for address in &addresses {
        assert_eq!(clients_at_once(address, 2, 10).len(), 20);
    }
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for("its accept and its stream have ended");
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn a_connection_without_a_primary_cannot_be_given_back_and_stays_usable() {
    let alone = worker::Listener::bind("127.0.0.1:0").unwrap();
    let address = alone.address();
    runtime().block_on(async {
        let listener = Listener::new(alone).unwrap();
        let mut client = Client::connect(&address).unwrap();
        let connection = listener.accept().await.unwrap().expect("alone there is no end");
        assert_eq!(connection.peer_addr(), Some(client.own_address()));
        let refused = connection.give_back().unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Unsupported);
        let mut connection = refused.connection;
        client.send(http::REQUEST).unwrap();
        let mut request = vec![0; http::REQUEST.len()];
        connection.read_exact(&mut request).await.unwrap();
        assert_eq!(request, http::REQUEST.as_bytes());
        connection.shutdown().await.unwrap();
        assert_eq!(client.rest().unwrap(), b"");
    });
}

// The example.

#[test]
fn the_axum_example_is_dealt_connections_and_knows_its_clients() {
    let mut croupier = of_axum_example(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    for _ in 0..3 {
        let pids: Vec<i32> = clients
            .iter_mut()
            .map(|client| {
                let body = client.get().unwrap().body;
                assert!(body.starts_with(&format!("hello {} from", client.own_address())), "{body}");
                pid_in(&body)
            })
            .collect();
        let turns = pids.windows(3).all(|turn| turn[0] == turn[2] && turn[0] != turn[1]);
        assert!(turns, "the connections stay where they were dealt: {pids:?}");
    }
    croupier.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.rest().unwrap(), b"", "an idle connection ends with a FIN");
    }
    assert_eq!(croupier.wait_exit(), Some(0));
    croupier.log().wait_for_count("exited code=0", 2);
}

#[test]
fn a_reload_of_the_axum_example_loses_no_new_connection_and_finishes_what_is_in_progress() {
    let mut croupier = of_axum_example(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let load = Load::start(&address, 6, 0);
    for generation in 1..=5 {
        let before = croupier.started();
        let mut slow = Client::connect(&address).unwrap();
        slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        croupier.signal(Signal::SIGHUP);
        croupier.log().wait_for(&format!("reload done generation={generation}"));
        let response = slow.response().unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, "done\n"));
        croupier.log().wait_for_count("exited code=0", before.len());
        load.wait_for(50);
    }
    load.end();
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_silent_connection_of_the_axum_example_moves_at_a_reload_and_ends_at_the_end() {
    let mut croupier = of_axum_example(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let mut silent = Client::connect(&address).unwrap();
    // Taken after the silent one, so that is taken too.
    let first = pid_in(&http::get(&address).unwrap().body);
    croupier.signal(Signal::SIGHUP);
    croupier.log().wait_for(&format!("worker=1 pid={first} exited code=0"));
    let second = pid_in(&silent.get().unwrap().body);
    assert_eq!(second, croupier.wait_started(2).pid);

    let mut silent = Client::connect(&address).unwrap();
    assert_eq!(pid_in(&http::get(&address).unwrap().body), second);
    croupier.signal(Signal::SIGTERM);
    assert_eq!(silent.rest().unwrap(), b"", "it does not keep the worker");
    assert_eq!(croupier.wait_exit(), Some(0));
}

/// That is why the signal of axum is the end of the listener and not the order to drain.
#[test]
fn the_axum_example_answers_the_clients_in_the_backlog_when_the_cluster_ends() {
    let mut croupier = of_axum_example(&["--workers", "1", "--queue-max", "4"]);
    let address = croupier.wait_ready(1);
    let worker = croupier.wait_started(1).pid;
    processes::stop(worker);
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for("ending listeners");
    processes::send(worker, Signal::SIGCONT);
    for (number, client) in clients.iter_mut().enumerate() {
        let response = client.response().unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert_eq!(pid_in(&response.body), worker);
    }
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn the_axum_example_runs_alone() {
    let mut alone = support::plain(axum_example());
    alone.arg("127.0.0.1:0").stdout(Stdio::piped());
    let mut alone = alone.spawn().unwrap();
    let log = Log::collect(alone.stdout.take().unwrap());
    let line = log.wait_for("listening on ");
    let (_, address) = line.split_once("listening on ").unwrap();
    let mut client = Client::connect(address).unwrap();
    for _ in 0..3 {
        assert_eq!(pid_in(&client.get().unwrap().body), alone.id() as i32);
    }
    alone.kill().unwrap();
    alone.wait().unwrap();
}

// What the tests have in common.

/// `client_count` clients at once with that many connections each, one after the other, every one of them answered.
/// Their addresses.
fn clients_at_once(address: &str, client_count: usize, connections: usize) -> Vec<String> {
    let ask = || {
        let mut client = Client::connect(address).unwrap();
        client.send(http::LAST_REQUEST).unwrap();
        assert_eq!(client.response().unwrap().status, 200);
        client.own_address().to_string()
    };
    std::thread::scope(|scope| {
        let ask_all = || (0..connections).map(|_| ask()).collect::<Vec<String>>();
        let clients: Vec<_> = (0..client_count).map(|_| scope.spawn(ask_all)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// Cargo builds examples beside the programs of the tests; `cargo test --test async_worker` alone does not.
fn axum_example() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().and_then(Path::parent).unwrap().join("examples/axum");
    assert!(path.exists(), "{}: run `cargo build --features axum --example axum` before", path.display());
    path
}

fn of_axum_example(options: &[&str]) -> Croupier {
    Croupier::of_command(options, &[axum_example().to_str().unwrap(), "127.0.0.1:0"])
}

/// From `hello 127.0.0.1:4711 from process 42`.
#[track_caller]
fn pid_in(body: &str) -> i32 {
    let pid = body.trim_end().rsplit(' ').next().and_then(|word| word.parse().ok());
    pid.unwrap_or_else(|| panic!("no process is named in {body:?}"))
}

// The workers.

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// On the first listener of the primary, to which this process is known by its id.
fn listen() -> (Listener, String) {
    let worker = roles::join();
    let id = worker.id().to_string();
    (Listener::new(worker.listen_on_first(&ListenOptions::new()).unwrap()).unwrap(), id)
}

#[test]
fn async_worker() {
    if !roles::plays("async_worker") {
        return;
    }
    runtime().block_on(async {
        let (listener, who) = match std::env::var(ADDRESS) {
            Ok(address) => (Listener::bind(&address).await.unwrap(), "0".into()),
            Err(_) => listen(),
        };
        roles::say(&format!("listens on {}", listener.get_ref().address()));
        let drained = listener.drained();
        let said = who.clone();
        let watch = tokio::spawn(async move {
            drained.await;
            roles::say(&format!("worker {said} has been drained"));
        });
        let mut serving = JoinSet::new();
        while let Some(connection) = listener.accept().await.unwrap() {
            serving.spawn(serve(connection, listener.drained(), who.clone()));
            while serving.try_join_next().is_some() {}
        }
        roles::say(&format!("worker {who} sees the end"));
        while serving.join_next().await.is_some() {}
        watch.await.unwrap();
    });
}

/// Answers requests until the client ends it, or asks for the end, or this worker drains; between requests it is then
/// given back.
async fn serve(mut connection: Connection, drained: impl Future<Output = ()>, who: String) -> std::io::Result<()> {
    let mut drained = std::pin::pin!(drained);
    let mut draining = false;
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let is_idle = request.is_empty();
            let len = tokio::select! {
                biased; // who has been told before the rest of a request comes is to know it in the answer
                () = &mut drained, if !draining => {
                    draining = true;
                    if is_idle {
                        break;
                    }
                    continue;
                }
                len = connection.read_buf(&mut request) => len?,
            };
            if len == 0 {
                return Ok(());
            }
            if is_idle && !request.ends_with(b"\r\n\r\n") {
                roles::say("half a request");
            }
        }
        if request.is_empty() {
            let _ = connection.give_back();
            return Ok(());
        }
        let is_last = draining || request.windows(17).any(|part| part == b"connection: close");
        let end = if is_last { "connection: close\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-worker: {who}\r\n{end}\r\n", who.len());
        connection.write_all([head.as_str(), &who].concat().as_bytes()).await?;
        if is_last {
            return connection.shutdown().await;
        }
    }
}

#[test]
fn async_worker_with_eight_tasks() {
    if !roles::plays("async_worker_with_eight_tasks") {
        return;
    }
    runtime().block_on(async {
        let (listener, who) = listen();
        let listener = Arc::new(listener);
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (listener, who) = (Arc::clone(&listener), who.clone());
            tasks.spawn(async move {
                while let Some(connection) = listener.accept().await.unwrap() {
                    roles::say(&format!("took {}", connection.peer_addr().unwrap()));
                    serve(connection, std::future::pending(), who.clone()).await.unwrap();
                }
                roles::say(&format!("task {task} sees the end"));
            });
        }
        tasks.join_all().await;
    });
}

#[test]
fn async_worker_that_gives_up() {
    if !roles::plays("async_worker_that_gives_up") {
        return;
    }
    let (given_up, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    runtime().block_on(async {
        let (listener, who) = listen();
        let listener = Arc::new(listener);
        for task in 0..4 {
            let (listener, who, given_up) = (Arc::clone(&listener), who.clone(), Arc::clone(&given_up));
            tasks.spawn(async move {
                for turn in 0.. {
                    // Sometimes it is polled once only, sometimes it is about to be ready.
                    let patience = Duration::from_micros((turn + task) % 7 * 100);
                    tokio::select! {
                        biased;
                        accepted = listener.accept() => match accepted.unwrap() {
                            Some(connection) => serve(connection, std::future::pending(), who.clone()).await.unwrap(),
                            None => return,
                        },
                        () = time::sleep_until(Instant::now() + patience) => {
                            given_up.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        tasks.join_all().await;
    });
    roles::say(&format!("given up={}", given_up.load(Ordering::Relaxed)));
}

/// On one thread: a listener that always has a connection must let the others run.
#[test]
fn async_worker_with_a_stream() {
    if !roles::plays("async_worker_with_a_stream") {
        return;
    }
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (mut listener, who) = listen();
        let mut serving = JoinSet::new();
        while let Some(connection) = std::future::poll_fn(|context| Pin::new(&mut listener).poll_next(context)).await {
            serving.spawn(serve(connection.unwrap(), std::future::pending(), who.clone()));
        }
        listener.ended().await;
        roles::say("the stream has ended, ended() too");
        serving.join_all().await;
    });
}

#[test]
fn async_worker_with_sockets_of_its_own() {
    if !roles::plays("async_worker_with_sockets_of_its_own") {
        return;
    }
    runtime().block_on(async {
        roles::join();
        let own = || {
            let listener = ListenOptions::new().exclusive(true).bind("127.0.0.1:0").unwrap();
            roles::say(&format!("own socket {}", listener.address()));
            Listener::new(listener).unwrap()
        };
        let (accepting, mut streaming) = (own(), own());
        let who = || "1".to_owned();
        let accepted = tokio::spawn(async move {
            while let Some(connection) = accepting.accept().await.unwrap() {
                serve(connection, std::future::pending(), who()).await.unwrap();
            }
        });
        while let Some(connection) = std::future::poll_fn(|context| Pin::new(&mut streaming).poll_next(context)).await {
            serve(connection.unwrap(), std::future::pending(), who()).await.unwrap();
        }
        assert!(std::future::poll_fn(|context| Pin::new(&mut streaming).poll_next(context)).await.is_none());
        accepted.await.unwrap();
        roles::say("its accept and its stream have ended");
    });
}

/// Worker 1 gives everything back; worker 2 serves. Worker 1 then drops its listener.
#[test]
fn async_worker_that_gives_everything_back() {
    if !roles::plays("async_worker_that_gives_everything_back") {
        return;
    }
    if roles::join().id().0 != 1 {
        return roles::serve_well();
    }
    runtime().block_on(async {
        let before = registered_in_epolls();
        let (listener, _) = listen();
        assert!(registered_in_epolls() > before, "it would see one");
        let mut given_back = 0;
        let mut look = time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                connection = listener.accept() => {
                    connection.unwrap().unwrap().give_back().unwrap();
                    given_back += 1;
                }
                _ = look.tick() => if Path::new(&roles::variable(GO)).exists() {
                    break;
                },
            }
        }
        drop(listener);
        let ghosts = registered_in_epolls() - before;
        roles::say(&format!("given back={given_back} ghosts={ghosts}"));
        roles::join().drained().await;
    });
}

/// How many registrations the epolls of this process have, those of descriptors that it has closed included. Source:
/// proc_pid_fdinfo(5).
fn registered_in_epolls() -> usize {
    let own = std::process::id() as i32;
    let of = |number: &i32| std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let numbers = processes::descriptors(own);
    numbers.iter().map(|number| of(number).lines().filter(|line| line.starts_with("tfd:")).count()).sum()
}
