//! The monitor address: what it offers to whom, and what its clients may do to the primary: nothing.
#![cfg(feature = "cli")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use croupier::primary::Primary;
use croupier::primary::admin::{Admin, ControlSocket, Doors, EcvOptions, MonitorSocket};
use croupier::primary::commands::{Answer, Change, Command};
use croupier::primary::settings::{self, Settings};
use croupier::primary::supervisor::{Plan, Stop};
use nix::sys::signal::Signal;
use serde_json::Value;

use support::http::{self, Client, Response};
use support::load::Load;
use support::{Croupier, Directory, Outcome, processes, wait_until};

const MONITOR: &str = "127.0.0.1:0";

fn run(options: &[&str]) -> Croupier {
    Croupier::demo(&[&["--monitor", MONITOR], options].concat())
}

/// One request with these bytes.
#[track_caller]
fn ask(croupier: &Croupier, request: &str) -> Response {
    let mut client = Client::connect(&croupier.monitor()).unwrap();
    client.send(request).unwrap();
    client.response().unwrap()
}

#[track_caller]
fn get(croupier: &Croupier, path: &str) -> Response {
    ask(croupier, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
}

#[track_caller]
fn assert_error(response: &Response, status: u16, text: &str) {
    let body: Value = serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"));
    let error = body["error"].as_str().unwrap_or_default();
    assert!(response.status == status && error.contains(text), "no {status} with {text:?} in {response:?}");
}

// What it offers.

#[test]
fn it_is_off_unless_asked_for_and_then_on_loopback() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    assert_eq!(croupier.log().count("monitor="), 0);
    let check = |options: &[&str], variable: Option<&str>| {
        let mut command = support::plain(support::PROGRAM);
        command.arg("check").args(options).envs(variable.map(|value| ("CROUPIER_MONITOR", value)));
        Outcome::of(command).assert_ok().stdout.clone()
    };
    assert!(check(&[], None).contains("# monitor: off\n"));
    assert!(check(&["--monitor"], None).contains("monitor = \"127.0.0.1:3001\"\n"));
    assert!(check(&["--monitor", "--workers", "1"], None).contains("monitor = \"127.0.0.1:3001\"\n"));
    assert!(check(&["--monitor=[::1]:99"], Some("0.0.0.0:1")).contains("monitor = \"[::1]:99\"\n"));
    assert!(check(&[], Some("127.0.0.1:4")).contains("monitor = \"127.0.0.1:4\"\n"));
}

#[test]
fn it_says_how_the_primary_is_and_changes_nothing() {
    let mut croupier = run(&["--workers", "2"]);
    croupier.wait_ready(2);
    let status: Value = serde_json::from_str(&get(&croupier, "/status").body).unwrap();
    assert_eq!((&status["pid"], &status["state"]), (&croupier.pid().into(), &"running".into()));
    assert_eq!((get(&croupier, "/livez").status, get(&croupier, "/readyz").status), (200, 200));
    for path in ["/reload", "/upgrade", "/scale", "/shutdown", "/stop", "/workers/1/disconnect", "/workers/1/kill"] {
        let request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
        assert_error(&ask(&croupier, &request), 403, "is for the control socket only");
        assert_error(&get(&croupier, path), 404, "there is no");
    }
    for method in ["PUT", "DELETE", "PATCH", "CONNECT", "ANYTHING"] {
        let request = format!("{method} /status HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
        assert_error(&ask(&croupier, &request), 403, "is for the control socket only");
    }
    assert_eq!(croupier.started().len(), 2);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_option_before_anything_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = |options: &[&str]| Outcome::of(support::run(&[&["--workers", "1"], options].concat()));
    run(&["--monitor", &address]).assert_failed(4, &format!("--monitor {address}: Address already in use"));
    run(&["--monitor", "no-such-host.invalid:1"]).assert_failed(4, "--monitor no-such-host.invalid:1: ");
    for wrong in ["3001", "127.0.0.1", "127.0.0.1:http", "unix:/tmp/x", "fd:3", ":3001", ""] {
        run(&[&format!("--monitor={wrong}")]).assert_failed(2, "--monitor");
    }
}

#[test]
fn an_address_that_others_can_reach_is_worth_a_warning() {
    let croupier = Croupier::demo(&["--workers", "1", "--monitor", "0.0.0.0:0"]);
    croupier.wait_ready(1);
    croupier.log().wait_for("is not a loopback address: whoever can connect may read");
    let port = croupier.monitor().rsplit_once(':').unwrap().1.to_owned();
    let mut client = Client::connect(&format!("127.0.0.1:{port}")).unwrap();
    client.send("GET /livez HTTP/1.1\r\nhost: 10.1.2.3\r\n\r\n").unwrap();
    assert_eq!(client.response().unwrap().status, 200);
    let loopback = run(&["--workers", "1"]);
    loopback.wait_ready(1);
    assert_eq!(loopback.log().count("WARN"), 0);
}

/// Whoever connects while one image replaces the other waits for the next one.
#[test]
fn it_goes_over_an_upgrade_with_its_address() {
    let mut croupier = run(&["--workers", "1"]);
    croupier.wait_ready(1);
    let address = croupier.monitor();
    for upgrades in 1..=3 {
        croupier.signal(Signal::SIGUSR2);
        let mut waiting = Client::connect(&address).unwrap();
        croupier.log().wait_for_count("took over", upgrades);
        // It was answered by the old image, or waits for the new one, or was cut.
        let _ = waiting.send("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").and_then(|()| waiting.response());
        let status: Value = serde_json::from_str(&get(&croupier, "/status").body).unwrap();
        assert_eq!(status["upgrades"], upgrades);
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(croupier.log().count("ERROR"), 0);
    assert!(TcpStream::connect(&address).is_err(), "it ends with the primary");
}

/// The admin thread answers at once; whether the loop does is what is asked.
#[test]
fn livez_says_whether_the_dealing_loop_answers() {
    let directory = Directory::new();
    let sleep = settings::Command::new("sleep").argument("1000");
    let mut primary = Primary::bind(Settings { plan: Plan::of(1), ..Settings::of(sleep) }).unwrap();
    let control = ControlSocket::claim(Path::new(&directory.file("control"))).unwrap();
    let monitor = MonitorSocket::bind(&MONITOR.parse().unwrap()).unwrap();
    let address = monitor.address().to_string();
    let doors = Doors { control, monitor: Some(monitor), ecv: EcvOptions::default() };
    let admin = Admin::start(doors, &mut primary).unwrap();
    let remote = primary.remote();
    let running = std::thread::spawn(move || primary.run());
    let status_of = &|path: &str| {
        let mut client = Client::connect(&address).unwrap();
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).unwrap();
        client.response().unwrap().status
    };
    assert_eq!(status_of("/livez"), 200);
    let (release, held) = mpsc::channel::<()>();
    let hold = Change::new(move |_| _ = held.recv());
    remote.send(Command::Change(hold, Answer::new(|()| ()))).unwrap();
    std::thread::scope(|scope| {
        let asked = ["/livez", "/readyz", "/ecv"].map(|path| scope.spawn(move || status_of(path)));
        asked.into_iter().for_each(|status| assert_eq!(status.join().unwrap(), 504));
    });
    drop(release);
    assert_eq!(status_of("/livez"), 200);
    remote.ask(|answer| Command::Stop(Stop::Fast, answer)).unwrap();
    running.join().unwrap().unwrap();
    drop(admin);
}

/// The file of --config is read again at an upgrade, and may name another address.
#[test]
fn another_address_is_in_force_after_an_upgrade_and_one_that_is_taken_costs_only_the_monitor() {
    let directory = Directory::new();
    let file = directory.file("croupier.toml");
    let configure = |address: &str| fs::write(&file, format!("monitor = \"{address}\"\n")).unwrap();
    configure(MONITOR);
    let mut croupier = Croupier::demo(&["--workers", "1", "--config", &file]);
    croupier.wait_ready(1);
    let first = croupier.monitor();
    configure("[::1]:0");
    croupier.client(&["upgrade"]).assert_ok();
    assert!(TcpStream::connect(&first).is_err(), "nobody listens there any more");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    configure(&address);
    croupier.client(&["upgrade"]).assert_ok();
    croupier.log().wait_for(&format!("ERROR --monitor {address}: Address already in use"));
    assert_eq!(croupier.status()["upgrades"], 2, "the control socket answers");
    assert_eq!(croupier.terminate(), Some(0));
}

// Who may ask.

#[test]
fn it_answers_under_its_own_names_only() {
    let croupier = run(&["--workers", "1"]);
    croupier.wait_ready(1);
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let with = |headers: &str| ask(&croupier, &format!("GET /livez HTTP/1.1\r\n{headers}\r\n"));
    let own = ["127.0.0.1", "localhost:3001", "LocalHost", "10.0.0.7:80", "[::1]:3001", &name, &name.to_uppercase()];
    for host in own {
        assert_eq!(with(&format!("host: {host}\r\n")).status, 200, "{host}");
    }
    let strange =
        ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:3001", "a@127.0.0.1", "", "[::1", "::1"];
    for host in strange {
        assert_error(&with(&format!("host: {host}\r\n")), 421, "localhost");
    }
    assert_error(&with(""), 400, "host header is missing");
    assert_error(&with("host: localhost\r\nhost: localhost\r\n"), 400, "there twice");
    assert_error(
        &ask(&croupier, "GET http://evil.example/livez HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        421,
        "localhost",
    );
    assert_eq!(ask(&croupier, "GET /livez HTTP/1.0\r\n\r\n").status, 200, "as old health checks ask");
}

// What is told.

#[test]
fn every_action_at_either_door_leaves_one_line_that_says_who_what_and_what_came_of_it() {
    let mut croupier = run(&["--workers", "1", "--ecv-control"]);
    croupier.wait_ready(1);
    let at_monitor = |path: &str| {
        let mut client = Client::connect(&croupier.monitor()).unwrap();
        client.send(&format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).unwrap();
        let address = client.own_address();
        client.rest().unwrap();
        format!("address={address}")
    };
    let uid = nix::unistd::geteuid();
    let told = |begin: &str, end: &str| {
        let line = croupier.log().wait_for(&format!("audit {begin}"));
        assert!(line.ends_with(end), "{line:?} does not end with {end:?}");
    };
    croupier.client(&["scale", "+1"]).assert_ok();
    told(&format!("action=scale workers=+1 uid={uid} pid="), " outcome=done");
    croupier.client(&["scale", "99999"]).assert_failed(1, "not possible");
    told(&format!("action=scale uid={uid} pid="), " outcome=refused [99999 workers are not possible: give 1 to 4096]");
    let who = at_monitor("/ecv/disable");
    told(&format!("action=disable {who}"), " outcome=done");
    let who = at_monitor("/workers/1/kill");
    told(&format!("action=kill worker=1 {who}"), " outcome=refused [POST is for the control socket only]");
    croupier.client(&["enable"]).assert_ok();
    told(&format!("action=enable uid={uid} pid="), " outcome=done");
    croupier.client(&["reload"]).assert_ok();
    told("action=reload uid=", " outcome=done");
    croupier.client(&["upgrade"]).assert_ok();
    told("action=upgrade uid=", " outcome=begun");
    croupier.client(&["shutdown"]).assert_ok();
    told("action=shutdown uid=", " outcome=begun");
    assert_eq!(croupier.log().count("audit "), 8, "and nothing else does");
    assert_eq!(croupier.wait_exit(), Some(0));
}

#[test]
fn whoever_is_refused_again_and_again_does_not_fill_the_log() {
    let croupier = run(&["--workers", "1"]);
    croupier.wait_ready(1);
    let request = "POST /stop HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let begin = Instant::now();
    for _ in 0..300 {
        assert_eq!(ask(&croupier, request).status, 403);
    }
    let seconds = begin.elapsed().as_secs() as usize + 1;
    let lines = croupier.log().count("outcome=refused");
    assert!(lines >= 1 && lines <= 10 * (seconds + 1), "{lines} lines in {seconds} s");
}

// What it costs.

#[test]
fn garbage_is_refused_and_changes_nothing() {
    let croupier = run(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let long = "y".repeat(64 * 1024);
    let garbage = [
        "\x16\x03\x01\x02\0\x01\0\x01".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /livez HTTP/9.9\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(1000)),
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(croupier.monitor()).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        // It may be closed before all of it was read.
        let _ = stream.write_all(bytes.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        assert_ne!(read, Err(std::io::ErrorKind::WouldBlock), "{bytes:?}");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(get(&croupier, "/livez").status, 200);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.log().count("ERROR"), 0);
}

/// Idle ones, and ones with half a request: more than are served at once. Both doors answer, and dealing goes on.
#[test]
fn a_thousand_open_requests_keep_neither_the_workers_nor_the_control_socket_from_answering() {
    let croupier = run(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let before = processes::descriptors(croupier.pid()).len();
    let mut open: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(croupier.monitor()).unwrap()).collect();
    for (index, stream) in open.iter_mut().enumerate() {
        stream.write_all(["", "GET /status HT", "GET /livez HTTP/1.1\r\nhost: x\r\n"][index % 3].as_bytes()).unwrap();
    }
    let served = || processes::descriptors(croupier.pid()).len() - before;
    wait_until("all places are taken", || served() >= 256);
    let load = Load::start(&address, 2, 2);
    for round in 1..=20 {
        assert_eq!(croupier.status()["state"], "running");
        load.wait_for(50 * round);
    }
    load.end();
    assert!(served() < 300, "no more than are allowed: {}", served());
    // Behind all of those that are ended one after the other.
    assert_eq!(get(&croupier, "/livez").status, 200);
    drop(open);
    wait_until("their descriptors are closed", || served() == 0);
    assert_eq!(croupier.log().count("ERROR"), 0);
}

/// Two milliseconds lie between two requests, whoever asks: an attack leaves the processors to the dealing.
#[test]
fn requests_at_the_monitor_are_let_in_one_after_the_other() {
    let croupier = run(&["--workers", "1"]);
    croupier.wait_ready(1);
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&croupier.monitor()).unwrap()).collect();
    let begin = Instant::now();
    let requests = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(30);
    clients.iter_mut().for_each(|client| client.send(&requests).unwrap());
    for client in &mut clients {
        (0..30).for_each(|_| assert_eq!(client.response().unwrap().status, 200));
    }
    // The timer counts in whole milliseconds and makes up for what it is late: all together may be a little less.
    assert!(begin.elapsed() >= Duration::from_millis(2) * 299 * 9 / 10, "{:?}", begin.elapsed());
}

/// Many at once ask for what costs the event loop most: the control socket still gets its turn.
#[test]
fn a_flood_of_questions_leaves_the_control_socket_its_turn() {
    let croupier = run(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let request = "GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut flood: Vec<Client> = (0..100).map(|_| Client::connect(&croupier.monitor()).unwrap()).collect();
    for _ in 0..5 {
        flood.iter_mut().for_each(|client| client.send(&request.repeat(3)).unwrap());
        assert_eq!(croupier.status()["state"], "running");
        assert_eq!(http::get(&address).unwrap().status, 200);
        for client in &mut flood {
            (0..3).for_each(|_| assert_eq!(client.response().unwrap().status, 200));
        }
    }
}
