//! The client commands and the requests of the control socket, with real primaries and workers.
#![cfg(feature = "cli")]

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use support::http::{self, Client};
use support::{Croupier, Directory, Outcome, processes, wait_until};

/// One request on the control socket.
fn ask(croupier: &Croupier, request: &str) -> http::Response {
    let mut client = Client::connect_unix(&croupier.control()).unwrap();
    client.send(request).unwrap();
    client.response().unwrap()
}

fn post(croupier: &Croupier, path: &str, body: &str) -> http::Response {
    ask(croupier, &format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

fn get(croupier: &Croupier, path: &str) -> http::Response {
    ask(croupier, &format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
}

#[track_caller]
fn assert_error(response: &http::Response, status: u16, text: &str) {
    let body: Value = serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"));
    let error = body["error"].as_str().unwrap_or_default();
    assert!(response.status == status && error.contains(text), "no {status} with {text:?} in {response:?}");
}

fn sum(list: &Value, field: &str) -> u64 {
    list.as_array().unwrap().iter().map(|it| it[field].as_u64().unwrap()).sum()
}

fn ready_count(status: &Value) -> usize {
    status["workers"].as_array().unwrap().iter().filter(|worker| worker["state"] == "ready").count()
}

/// A primary whose workers are started by a script, which can be replaced.
fn of_script(directory: &Directory, options: &[&str]) -> Croupier {
    set_script(directory, &format!("exec {} demo", support::PROGRAM));
    Croupier::of_command(options, &["sh", &directory.file("worker")])
}

fn set_script(directory: &Directory, text: &str) {
    fs::write(directory.file("new"), text).unwrap();
    fs::rename(directory.file("new"), directory.file("worker")).unwrap();
}

#[test]
fn the_status_shows_every_worker_and_counts_every_connection() {
    let croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    for _ in 0..6 {
        http::get(&address).unwrap();
    }
    let mut idle = Client::connect(&address).unwrap();
    let serving = idle.get().unwrap().worker();
    wait_until("six are closed and one is open", || sum(&croupier.status()["workers"], "open") == 1);

    let status = croupier.status();
    assert_eq!((status["pid"].as_i64(), status["state"].as_str()), (Some(croupier.pid().into()), Some("running")));
    assert_eq!((status["generation"].as_u64(), status["workers_wanted"].as_u64()), (Some(0), Some(3)));
    assert!(status["started_unix_seconds"].as_u64().unwrap() > 1_700_000_000);
    let workers = status["workers"].as_array().unwrap();
    let seen: Vec<_> = workers.iter().map(|it| (it["id"].as_u64(), it["pid"].as_i64(), it["slot"].as_u64())).collect();
    let started = croupier.started();
    let known = started.iter().map(|it| (Some(it.id.into()), Some(it.pid.into()), Some(it.slot.into())));
    assert_eq!(seen, known.collect::<Vec<_>>());
    assert_eq!((sum(&status["workers"], "dealt"), sum(&status["workers"], "taken")), (7, 7));
    assert!(workers.iter().all(|it| (it["open"] == 1) == (it["id"] == serving) && it["untaken"] == 0), "{status}");
    let listener = &status["listeners"][0];
    assert_eq!(listener["address"], address);
    assert_eq!((listener["accepted"].as_u64(), listener["dealt"].as_u64()), (Some(7), Some(7)));
    assert_eq!(status["counters"]["accepted"], 7);

    let table = croupier.client(&["status"]);
    for text in ["running", "WORKER", "RESTARTS", &address, &format!("{}", started[0].pid)] {
        assert!(table.assert_ok().stdout.contains(text), "no {text:?} in\n{}", table.stdout);
    }
}

#[test]
fn the_number_of_open_connections_falls_by_one_with_each_that_ends() {
    let mut croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    let open = || sum(&croupier.status()["workers"], "open");
    assert_eq!(open(), 12);
    while clients.pop().is_some() {
        wait_until("one less is open", || open() <= clients.len() as u64);
        assert_eq!(open(), clients.len() as u64);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_reload_under_keep_alive_clients_replaces_every_worker_and_cuts_nobody() {
    const CLIENTS: usize = 8;
    let croupier = Croupier::demo(&["--workers", "3"]);
    let address = croupier.wait_ready(3);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed = std::thread::scope(|scope| {
        let keep_asking = || {
            let mut client = Client::connect(&address)?;
            while !over.load(Ordering::Relaxed) {
                client.get()?;
                served.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<(), std::io::Error>(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(keep_asking)).collect();
        for generation in 1..=2 {
            let before = served.load(Ordering::Relaxed);
            wait_until("the load is on", || served.load(Ordering::Relaxed) > before + 50);
            let outcome = croupier.client(&["reload"]);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "reloaded: every worker was replaced\n"));
            let status = croupier.status();
            assert_eq!((status["generation"].as_u64(), ready_count(&status)), (Some(generation), 3));
        }
        let before = served.load(Ordering::Relaxed);
        wait_until("it goes on", || served.load(Ordering::Relaxed) > before + 50);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().filter_map(|client| client.join().unwrap().err()).collect::<Vec<_>>()
    });
    // A worker ends a connection whose request was on its way when it was told to finish only after the answer, and
    // says so; these clients go on all the same.
    let said_close = failed.iter().all(|error| error.kind() == std::io::ErrorKind::UnexpectedEof);
    assert!(failed.is_empty(), "of {} requests (only ends: {said_close}): {failed:?}", served.load(Ordering::Relaxed));
}

#[test]
fn a_reload_whose_new_worker_dies_at_once_says_why_and_the_old_ones_go_on() {
    let directory = Directory::new();
    let croupier = of_script(&directory, &["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let before = croupier.started();
    set_script(&directory, "exit 3");
    croupier.client(&["reload"]).assert_failed(1, "the new worker failed: it exited before it listened (code=3)");
    fs::remove_file(directory.file("worker")).unwrap();
    croupier.client(&["reload"]).assert_failed(1, "the old ones go on");
    for _ in 0..4 {
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    let status = croupier.status();
    let pids: Vec<_> = status["workers"].as_array().unwrap().iter().map(|worker| worker["pid"].as_i64()).collect();
    assert_eq!(pids, before.iter().map(|worker| Some(worker.pid.into())).collect::<Vec<_>>());

    set_script(&directory, &format!("exec {} demo", support::PROGRAM));
    croupier.client(&["reload"]).assert_ok();
}

/// Two that come while a reload is under way are answered by the next one, and there is only one next one.
#[test]
fn reloads_that_are_asked_for_during_a_reload_are_answered_by_the_one_after_it() {
    let directory = Directory::new();
    let croupier = of_script(&directory, &["--workers", "1", "--verbose"]);
    croupier.wait_ready(1);
    let go = directory.file("go");
    set_script(&directory, &format!("until [ -e {go} ]; do sleep 0.01; done; exec {} demo", support::PROGRAM));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| croupier.client(&["reload"]));
        croupier.wait_started(2);
        let later: Vec<_> = (0..2).map(|_| scope.spawn(|| croupier.client(&["reload"]))).collect();
        croupier.log().wait_for_count("POST \"/reload\"", 3);
        // The three requests are with the event loop: this one comes after them.
        croupier.status();
        fs::write(&go, "").unwrap();
        first.join().unwrap().assert_ok();
        later.into_iter().for_each(|client| _ = client.join().unwrap().assert_ok());
    });
    assert_eq!(croupier.status()["generation"], 2);
}

#[test]
fn a_reload_that_a_stop_overtakes_is_answered() {
    let directory = Directory::new();
    let mut croupier = of_script(&directory, &["--workers", "1"]);
    croupier.wait_ready(1);
    set_script(&directory, "sleep 1000");
    let croupier_ref = &croupier;
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| croupier_ref.client(&["reload"]));
        croupier_ref.wait_started(2);
        croupier_ref.client(&["shutdown"]).assert_ok();
        reload.join().unwrap().assert_failed(1, "croupier is stopping");
    });
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn scaling_changes_the_number_of_workers_and_refuses_what_is_not_possible() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    for (text, count) in [("+2", 4), ("-1", 3), ("1", 1), ("3", 3)] {
        let outcome = croupier.client(&["scale", text]);
        assert!(outcome.assert_ok().stdout.ends_with(&format!("-> {count}\n")), "{outcome:?}");
        wait_until("there are as many", || {
            let status = croupier.status();
            ready_count(&status) == count && status["workers"].as_array().unwrap().len() == count
        });
        assert_eq!(http::get(&address).unwrap().status, 200);
    }
    croupier.client(&["scale", "-3"]).assert_failed(1, "0 workers are not possible");
    croupier.client(&["scale", "4097"]).assert_failed(1, "4097 workers are not possible");
    croupier.client(&["scale", "many"]).assert_failed(2, "no number of workers");
    assert_eq!(croupier.status()["workers_wanted"], 3);
}

#[test]
fn a_shutdown_serves_every_client_to_the_end_and_its_wait_ends_with_the_primary() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let control = croupier.control();
    let mut busy = Client::connect(&address).unwrap();
    let (first_half, second_half) = http::REQUEST.split_at(10);
    busy.send(first_half).unwrap();
    http::get(&address).unwrap();
    http::get(&address).unwrap();
    croupier.client(&["shutdown", "--wait", "50ms"]).assert_failed(1, "has not ended within 50ms");
    assert_eq!(croupier.status()["state"], "stopping");
    assert_error(&get(&croupier, "/readyz"), 503, "stopping");
    assert_error(&post(&croupier, "/reload", ""), 409, "stopping");
    assert_error(&post(&croupier, "/scale", r#"{"workers": "+1"}"#), 409, "stopping");
    assert_error(&post(&croupier, "/workers/1/disconnect", ""), 409, "stopping");
    busy.send(second_half).unwrap();
    assert_eq!(busy.response().unwrap().status, 200);
    let outcome = croupier.client(&["shutdown", "--wait", "30s"]);
    // It may have ended before it could be asked.
    assert!(outcome.code == Some(0) || outcome.stderr.contains("no primary runs on"), "{outcome:?}");
    assert_eq!(croupier.wait_exit(), Some(0));
    assert!(!fs::exists(&control).unwrap(), "its socket is gone");
    croupier.client(&["status"]).assert_failed(1, "no primary runs on");
}

#[test]
fn a_stop_does_not_wait_for_requests_in_progress() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--shutdown-timeout", "1h", "--kill-delay", "100ms"]);
    let address = croupier.wait_ready(2);
    let mut busy = Client::connect(&address).unwrap();
    busy.send("GET / HTTP/1.1\r\n").unwrap();
    http::get(&address).unwrap();
    croupier.client(&["stop", "--wait", "30s"]).assert_ok();
    let _ = busy.rest();
    assert_eq!(croupier.wait_exit(), Some(1), "a worker had to be killed");
}

#[test]
fn one_worker_can_be_told_to_finish_and_another_one_killed() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));

    assert_eq!(post(&croupier, "/workers/1/disconnect", "").status, 200);
    croupier.log().wait_for("worker=1 pid=");
    croupier.wait_ready(3);
    processes::wait_gone(croupier.wait_started(1).pid);
    // Idle ones were given back: others serve them.
    clients.iter_mut().for_each(|client| assert_ne!(client.get().unwrap().worker(), 1));

    assert_eq!(post(&croupier, "/workers/2/kill", "").status, 200);
    croupier.log().wait_for("exited signal=9");
    croupier.wait_ready(4);
    assert_error(&post(&croupier, "/workers/2/kill", ""), 404, "no worker 2");
    assert_error(&post(&croupier, "/workers/99/disconnect", ""), 404, "no worker 99");
    assert_error(&post(&croupier, "/workers/x/kill", ""), 404, "no id of a worker");
    let status = croupier.status();
    assert_eq!((ready_count(&status), sum(&status["workers"], "restarts")), (2, 2));
    assert_eq!(status["counters"]["workers_ended"], 2);
}

/// The last one that is ready goes only when its successor is.
#[test]
fn the_only_worker_serves_until_its_successor_is_ready() {
    let directory = Directory::new();
    let croupier = of_script(&directory, &["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let go = directory.file("go");
    set_script(&directory, &format!("until [ -e {go} ]; do sleep 0.01; done; exec {} demo", support::PROGRAM));
    assert_eq!(post(&croupier, "/workers/1/disconnect", "").status, 200);
    croupier.wait_started(2);
    assert_eq!(http::get(&address).unwrap().worker(), 1);
    fs::write(&go, "").unwrap();
    processes::wait_gone(croupier.wait_started(1).pid);
    assert_eq!(http::get(&address).unwrap().worker(), 2);
}

#[test]
fn health_checks_say_whether_it_lives_and_whether_clients_are_welcome() {
    let croupier = Croupier::of_command(&["--workers", "1"], &["sleep", "1000"]);
    croupier.wait_started(1);
    assert_eq!(get(&croupier, "/livez").status, 200);
    assert_error(&get(&croupier, "/readyz"), 503, "0 of 1 workers are ready");
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    assert_eq!(get(&croupier, "/readyz").status, 200);
    kill(Pid::from_raw(croupier.pid()), Signal::SIGSTOP).unwrap();
    processes::wait_stopped(croupier.pid());
    kill(Pid::from_raw(croupier.pid()), Signal::SIGCONT).unwrap();
    assert_eq!(get(&croupier, "/livez").status, 200);
}

#[test]
fn bad_requests_are_answered_in_json_with_the_fitting_status() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    assert_error(&get(&croupier, "/nothing"), 404, "no /nothing");
    assert_error(&get(&croupier, "/reload"), 405, "GET is not for /reload");
    assert_error(&post(&croupier, "/status", ""), 405, "POST is not for /status");
    assert_error(&get(&croupier, "/upgrade"), 405, "GET is not for /upgrade");
    for body in ["", "x", "{}", r#"{"workers": 4}"#, r#"{"workers": "4", "x": 1}"#] {
        assert_error(&post(&croupier, "/scale", body), 400, "send {");
    }
    assert_error(&post(&croupier, "/scale", r#"{"workers": "some"}"#), 400, "no number of workers");
    assert_error(&post(&croupier, "/scale", r#"{"workers": "0"}"#), 400, "0 workers are not possible");
    assert_error(&post(&croupier, "/scale", &" ".repeat(64 * 1024 + 1)), 413, "body");
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.status()["workers_wanted"], 1);
}

#[test]
fn without_a_name_the_only_primary_is_meant_and_several_are_listed() {
    let directory = Directory::new();
    let client = |arguments: &[&str]| {
        let mut command = support::plain(support::PROGRAM);
        command.args(arguments).env("XDG_RUNTIME_DIR", directory.path());
        Outcome::of(command)
    };
    let primary = |name: &str| {
        let mut run = support::run(&["--workers", "1", "--name", name]);
        run.env("XDG_RUNTIME_DIR", directory.path());
        Croupier::spawn(run)
    };
    client(&["status"]).assert_failed(1, "no primary runs");
    let one = primary("one");
    one.wait_ready(1);
    assert!(client(&["status"]).assert_ok().stdout.starts_with("one: running"));
    let two = primary("two");
    two.wait_ready(1);
    client(&["status"]).assert_failed(1, "several primaries run: one, two");
    assert!(client(&["status", "--name", "two"]).assert_ok().stdout.starts_with("two: running"));
    client(&["reload", "--name", "three"]).assert_failed(1, "no primary runs on");
    one.signal(Signal::SIGKILL);
    processes::wait_gone(one.pid());
    assert!(client(&["status"]).assert_ok().stdout.starts_with("two: running"), "a dead one does not count");
}
