//! What a load balancer in front is told, and how this primary is taken out and put in again.
#![cfg(feature = "cli")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use nix::sys::signal::Signal;

use support::http::{self, Client, Response};
use support::{Croupier, Directory, Outcome, wait_until};

fn run(options: &[&str]) -> Croupier {
    Croupier::demo(&[&["--monitor", "127.0.0.1:0"], options].concat())
}

/// Everything that is answered to these bytes; if it says that the connection ends, it does.
fn raw(croupier: &Croupier, request: &str) -> String {
    let mut stream = TcpStream::connect(croupier.monitor()).unwrap();
    stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    while !is_whole(&answer, request.starts_with("HEAD ")) {
        let mut bytes = [0; 4096];
        let len = stream.read(&mut bytes).unwrap();
        assert!(len > 0, "it ends after {answer:?}");
        answer += std::str::from_utf8(&bytes[..len]).unwrap();
    }
    if answer.contains("connection: close\r\n") {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "after {answer:?}");
    }
    answer
}

fn is_whole(answer: &str, is_head_alone: bool) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    is_head_alone || length.is_none_or(|length| length.parse() == Ok(body.len()))
}

fn ask(croupier: &Croupier, request: &str) -> Response {
    let mut client = Client::connect(&croupier.monitor()).unwrap();
    client.send(request).unwrap();
    client.response().unwrap()
}

fn get(croupier: &Croupier, path: &str) -> Response {
    ask(croupier, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
}

/// On the control socket; the status alone, because a 204 has no length.
fn post(croupier: &Croupier, path: &str) -> String {
    let mut client = Client::connect_unix(&croupier.control()).unwrap();
    client.send(&format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).unwrap();
    String::from_utf8(client.rest().unwrap()).unwrap()
}

/// With every date in it, in the form of HTTP, as `DATE`.
fn without_dates(answer: &str) -> String {
    let mut text = answer.to_owned();
    while let Some(end) = text.find(" GMT") {
        // `Fri, 20 Nov 2026 15:11:35 GMT`
        let begin = end - "Fri, 20 Nov 2026 15:11:35".len();
        let date = &text[begin..end + " GMT".len()];
        assert!(date.as_bytes()[3] == b',' && date.matches(':').count() == 2, "{date:?} in {answer}");
        text.replace_range(begin..end + " GMT".len(), "DATE");
    }
    text
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

#[test]
fn every_answer_is_that_of_cluster2_byte_for_byte() {
    let mut croupier = run(&["--workers", "1", "--ecv-control"]);
    let address: SocketAddr = croupier.wait_ready(1).parse().unwrap();
    let place = format!("ip=127.0.0.1&hostname={}&port={}", hostname(), address.port());
    let to = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let with_body = |head: &str, body: &str| {
        let length = body.replace("DATE", "Fri, 20 Nov 2026 15:11:35 GMT").len();
        format!("{head}content-length: {length}\r\ndate: DATE\r\n\r\n{body}")
    };
    let head = "content-type: text/plain\r\ncache-control: no-cache\r\nsince: DATE\r\n";
    let available = with_body(
        &format!("HTTP/1.1 200 OK\r\n{head}"),
        &format!("status=AVAILABLE&ServeTraffic=true&{place}&time=DATE"),
    );
    let disabled = with_body(
        &format!("HTTP/1.1 400 Bad Request\r\n{head}connection: close\r\n"),
        &format!("status=DISABLED&ServeTraffic=false&{place}&time=DATE"),
    );
    let switched = "HTTP/1.1 204 No Content\r\nsince: DATE\r\nconnection: close\r\ndate: DATE\r\n\r\n";

    assert_eq!(without_dates(&raw(&croupier, &to("GET", "/ecv"))), available);
    for _ in 0..2 {
        assert_eq!(without_dates(&raw(&croupier, &to("POST", "/ecv/disable"))), switched);
        assert_eq!(without_dates(&raw(&croupier, &to("GET", "/ecv"))), disabled);
    }
    assert_eq!(without_dates(&raw(&croupier, &to("POST", "/ecv/enable"))), switched);
    assert_eq!(without_dates(&raw(&croupier, &to("GET", "/ecv"))), available);
    let (head, _) = available.split_once("\r\n\r\n").unwrap();
    assert_eq!(without_dates(&raw(&croupier, &to("HEAD", "/ecv"))), format!("{head}\r\n\r\n"));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_time_is_now_and_since_is_when_it_was_enabled_or_disabled() {
    let croupier = run(&["--workers", "1"]);
    croupier.wait_ready(1);
    let since = |answer: &Response| {
        let line = answer.head.lines().find_map(|line| line.strip_prefix("since: ").map(str::to_owned));
        line.expect("it is always there")
    };
    let started = since(&get(&croupier, "/ecv"));
    let now = |croupier: &Croupier| croupier.status()["enabled_since_unix_seconds"].as_u64().unwrap();
    let began = now(&croupier);
    // Dates have seconds: in the next one it is another time.
    wait_until("the next second", || unix_seconds() > began + 1);
    let disabled = post(&croupier, "/ecv/disable");
    let answer = get(&croupier, "/ecv");
    assert!(since(&answer) != started && disabled.to_lowercase().contains(&since(&answer)), "{disabled} {answer:?}");
    assert!(unix_seconds() - now(&croupier) < 30 && now(&croupier) > began + 1);
    let again = post(&croupier, "/ecv/disable");
    assert!(again.to_lowercase().contains(&since(&answer)), "it has been so since then: {again}");
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn disabled_it_serves_whoever_comes_and_stays_so_over_reloads_and_upgrades() {
    let mut croupier = run(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    assert_eq!(get(&croupier, "/readyz").status, 200);
    let outcome = croupier.client(&["disable"]);
    assert!(outcome.assert_ok().stdout.starts_with("disabled"), "{outcome:?}");
    let is_out = |croupier: &Croupier| {
        let (ecv, ready) = (get(croupier, "/ecv"), get(croupier, "/readyz"));
        assert_eq!((ecv.status, ready.status, get(croupier, "/livez").status), (400, 503, 200));
        assert!(ready.body.contains("disabled"), "{ready:?}");
        assert_eq!(croupier.status()["enabled"], false);
        assert_eq!(http::get(&address).unwrap().status, 200);
    };
    is_out(&croupier);
    let since = croupier.status()["enabled_since_unix_seconds"].clone();
    croupier.client(&["reload"]).assert_ok();
    is_out(&croupier);
    croupier.client(&["upgrade"]).assert_ok();
    is_out(&croupier);
    assert_eq!(croupier.status()["enabled_since_unix_seconds"], since);
    croupier.client(&["enable"]).assert_ok();
    croupier.client(&["upgrade"]).assert_ok();
    assert_eq!((get(&croupier, "/ecv").status, get(&croupier, "/readyz").status), (200, 200));
    assert_eq!(croupier.status()["enabled"], true);
    assert_eq!((croupier.log().count(" disabled ["), croupier.log().count(" enabled [")), (1, 1));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn it_is_out_while_nobody_serves_and_from_the_first_word_of_the_end() {
    let directory = Directory::new();
    let (script, go) = (directory.file("worker"), directory.file("go"));
    std::fs::write(&script, format!("until [ -e {go} ]; do sleep 0.01; done; exec {} demo", support::PROGRAM)).unwrap();
    let options = ["--workers", "2", "--monitor", "127.0.0.1:0", "--shutdown-delay", "1h"];
    let croupier = Croupier::of_command(&options, &["sh", &script]);
    croupier.wait_started(2);
    let warning = get(&croupier, "/ecv");
    assert!(warning.status == 500 && warning.body.starts_with("status=WARNING&ServeTraffic=false&"), "{warning:?}");
    assert_eq!(get(&croupier, "/readyz").status, 503);
    std::fs::write(&go, "").unwrap();
    croupier.wait_ready(2);
    assert_eq!((get(&croupier, "/ecv").status, get(&croupier, "/readyz").status), (200, 200));
    croupier.signal(Signal::SIGTERM);
    croupier.log().wait_for("signal=SIGTERM");
    wait_until("it is out", || get(&croupier, "/ecv").status == 400);
    assert!(get(&croupier, "/ecv").body.starts_with("status=DISABLED&ServeTraffic=false&"));
    assert!(get(&croupier, "/readyz").body.contains("stopping"));
    assert_eq!(http::get(&croupier.address()).unwrap().status, 200, "it still serves");
}

#[test]
fn one_worker_of_two_is_enough_for_clients_and_not_enough_for_readyz() {
    let croupier = Croupier::demo(&["--workers", "2", "--monitor", "127.0.0.1:0", "--respawn", "never"]);
    croupier.wait_ready(2);
    support::processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    croupier.log().wait_for("worker=1 pid=");
    wait_until("it is noticed", || get(&croupier, "/readyz").status == 503);
    assert!(get(&croupier, "/readyz").body.contains("1 of 2 workers are ready"));
    assert_eq!(get(&croupier, "/ecv").status, 200);
}

#[test]
fn at_the_monitor_nobody_switches_it_unless_that_was_asked_for_and_a_page_elsewhere_never() {
    let post = |croupier: &Croupier, path: &str, header: &str| {
        raw(croupier, &format!("POST {path} HTTP/1.1\r\nhost: localhost:3001\r\n{header}\r\n"))
    };
    let closed = run(&["--workers", "1"]);
    closed.wait_ready(1);
    assert!(post(&closed, "/ecv/disable", "").starts_with("HTTP/1.1 403"));
    assert_eq!(closed.status()["enabled"], true);

    let open = run(&["--workers", "1", "--ecv-control"]);
    open.wait_ready(1);
    for origin in ["http://evil.example", "http://localhost:3002", "http://localhost", "null", "nonsense", ""] {
        let answer = post(&open, "/ecv/disable", &format!("origin: {origin}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 403"), "{origin}: {answer}");
    }
    for header in ["origin: http://localhost:3001\r\norigin: http://localhost:3001\r\n", "origin: \u{e4}\r\n"] {
        assert!(post(&open, "/ecv/disable", header).starts_with("HTTP/1.1 4"), "{header}");
    }
    let rebound = "POST /ecv/disable HTTP/1.1\r\nhost: evil.example\r\norigin: http://evil.example\r\n\r\n";
    assert!(raw(&open, rebound).starts_with("HTTP/1.1 421"));
    for path in ["/reload", "/stop", "/scale", "/ecv", "/ecv/", "/ecv/disable/", "/ecv/enable/x"] {
        assert!(post(&open, path, "").starts_with("HTTP/1.1 403"), "{path}");
    }
    assert_eq!(open.status()["enabled"], true);
    assert!(post(&open, "/ecv/disable", "origin: http://localhost:3001\r\n").starts_with("HTTP/1.1 204"));
    assert_eq!(open.status()["enabled"], false);
    assert!(post(&open, "/ecv/enable", "").starts_with("HTTP/1.1 204"));
    assert_eq!(open.status()["enabled"], true);
}

#[test]
fn another_path_is_asked_at_both_doors_and_the_commands_need_not_know() {
    let croupier = run(&["--workers", "1", "--ecv-path", "/lb/health"]);
    croupier.wait_ready(1);
    assert_eq!((get(&croupier, "/lb/health").status, get(&croupier, "/ecv").status), (200, 404));
    assert!(post(&croupier, "/lb/health/disable").starts_with("HTTP/1.1 204"));
    assert_eq!(get(&croupier, "/lb/health").status, 400);
    croupier.client(&["enable"]).assert_ok();
    assert_eq!(get(&croupier, "/lb/health").status, 200);
    for wrong in ["", "ecv", "/", "/ecv/", "/a b", "/status", "/workers/1", "/{x}"] {
        let option = format!("--ecv-path={wrong}");
        Outcome::of(support::run(&["--workers", "1", &option])).assert_failed(2, "--ecv-path");
    }
    let mut command = support::plain(support::PROGRAM);
    command.args(["check", "--ecv-control"]).env("CROUPIER_ECV_PATH", "/x");
    let effective = Outcome::of(command).assert_ok().stdout.clone();
    assert!(effective.contains("ecv-path = \"/x\"\n# ecv-monitor: off\necv-control = true\n"), "{effective}");
}

// A URL that must answer, too.

/// Something behind the primary: it answers every request with the same bytes, and keeps the connection without any.
struct Backend {
    address: String,
    answer: Arc<Mutex<&'static str>>,
    /// What it was asked last.
    asked: Arc<Mutex<String>>,
}

impl Backend {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(String::new())));
        let backend = Self { address, answer: Arc::clone(&answer), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let len = stream.read(&mut request).unwrap_or(0);
                *asked.lock().unwrap() = String::from_utf8_lossy(&request[..len]).into_owned();
                let answer = *answer.lock().unwrap();
                // The primary may not wait for it.
                let _ = stream.write_all(answer.as_bytes());
                if answer.is_empty() {
                    kept.push(stream);
                }
            }
        });
        backend
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn answers(&self, answer: &'static str) {
        *self.answer.lock().unwrap() = answer;
    }
}

#[test]
fn it_is_available_only_while_the_url_answers_well_and_again_by_itself() {
    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const BAD: [&str; 3] = ["HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", "nonsense\r\n\r\n", ""];
    const WELL: [&str; 3] = [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        GOOD,
    ];
    let backend = Backend::start(GOOD);
    let url = backend.url("/health?deep=1");
    let croupier = run(&["--workers", "1", "--ecv-monitor", &url]);
    let address = croupier.wait_ready(1);
    assert_eq!(get(&croupier, "/ecv").status, 200, "from the first answer on, which it waits for");
    let asked = backend.asked.lock().unwrap().clone();
    let host = format!("host: {}\r\n", backend.address);
    assert!(asked.starts_with("GET /health?deep=1 HTTP/1.1\r\n") && asked.contains(&host), "{asked}");
    for (round, bad) in (1..).zip(BAD) {
        backend.answers(bad);
        wait_until("it is out", || get(&croupier, "/ecv").status == 500);
        let warning = get(&croupier, "/ecv");
        assert!(warning.body.starts_with("status=WARNING&ServeTraffic=false&ip=127.0.0.1&"), "{warning:?}");
        assert_eq!((get(&croupier, "/readyz").status, http::get(&address).unwrap().status), (200, 200));
        backend.answers(WELL[round % WELL.len()]);
        wait_until("it is in again", || get(&croupier, "/ecv").status == 200);
        croupier.log().wait_for_count("load balancers are told to send nobody", round);
    }
    let changes = croupier.log().wait_for_count("ecv-monitor=", 1 + 2 * BAD.len());
    assert_eq!(changes.len(), 1 + 2 * BAD.len(), "once for each change: {changes:?}");
    croupier.client(&["disable"]).assert_ok();
    assert_eq!(get(&croupier, "/ecv").status, 400);
}

#[test]
fn a_url_of_its_own_listener_is_answered_by_a_worker_and_an_upgrade_does_not_make_it_doubtful() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (url, inherited) = (format!("http://{address}/"), OwnedFd::from(listener));
    let options = ["--listen", "fd:3", "--workers", "1", "--monitor", "127.0.0.1:0", "--ecv-monitor", &url];
    let croupier = Croupier::spawn_with_stdin(support::undeclared_with_fds(&options, None), inherited.into());
    croupier.wait_ready(1);
    assert_eq!(get(&croupier, "/ecv").status, 200);
    for upgrades in 1..=3 {
        croupier.client(&["upgrade"]).assert_ok();
        assert_eq!((get(&croupier, "/ecv").status, &croupier.status()["upgrades"]), (200, &upgrades.into()));
    }
    let worker = croupier.wait_started(1);
    support::processes::stop(worker.pid);
    wait_until("it is out", || get(&croupier, "/ecv").status == 500);
    croupier.log().wait_for("does not answer within 2s [load balancers are told to send nobody");
    support::processes::send(worker.pid, Signal::SIGCONT);
    wait_until("it is in again", || get(&croupier, "/ecv").status == 200);
    assert_eq!(croupier.log().count("ERROR"), 0);
}

#[test]
fn a_url_that_is_none_is_named_and_one_that_nobody_serves_holds_up_nothing() {
    for wrong in ["", "127.0.0.1:80", "https://localhost/", "http://", "http://a b/", "http://u:p@h/"] {
        let option = format!("--ecv-monitor={wrong}");
        Outcome::of(support::run(&["--workers", "1", &option])).assert_failed(2, "--ecv-monitor");
    }
    let mut croupier = run(&["--workers", "1", "--ecv-monitor", "http://no-such-host.invalid/"]);
    croupier.wait_ready(1);
    croupier.log().wait_for("ecv-monitor=http://no-such-host.invalid/ does not answer: ");
    assert_eq!((get(&croupier, "/ecv").status, get(&croupier, "/readyz").status), (500, 200));
    assert_eq!(croupier.terminate(), Some(0));
}
