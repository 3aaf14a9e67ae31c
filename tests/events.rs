//! What happens, as lines of JSON: what each event says, and the ways to read them. `docs/events.md` is their table.

#![cfg(feature = "cli")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use croupier::worker::ListenOptions;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use support::events::{EventFile, Stream, ask, ids, messages, read};
use support::http::{self, Client};
use support::log::Log;
use support::script::Scripted;
use support::{Croupier, Directory, Outcome, PROGRAM, Started, processes, roles, run, until, wait_until};

/// The limit of a body, as documented.
const BODY_MAX_BYTES: usize = 1024;

/// A primary that writes its events to a file.
struct Stage {
    croupier: Croupier,
    events: EventFile,
    directory: Directory,
}

impl Stage {
    fn demo(options: &[&str]) -> Self {
        Self::start(|path| Croupier::demo(&[options, &["--events", path]].concat()))
    }

    fn start(start: impl FnOnce(&str) -> Croupier) -> Self {
        let directory = Directory::new();
        let path = directory.file("events");
        Self { croupier: start(&path), events: EventFile::at(path), directory }
    }

    /// The event of this name about this worker.
    #[track_caller]
    fn of(&self, name: &str, worker: &Started) -> Value {
        self.events.wait_for(name, |event| event["worker"] == worker.id)
    }

    /// Ends it. Events begin at 1, and none is missing.
    #[track_caller]
    fn end(mut self) -> Vec<Value> {
        assert_eq!(self.croupier.terminate(), Some(0));
        let events = self.events.all();
        assert_eq!(ids(&events), (1..=events.len() as u64).collect::<Vec<_>>());
        events
    }
}

/// The event about the worker, of the generation, with these fields and no others.
#[track_caller]
fn assert_is(event: &Value, name: &str, who: Option<(&Started, u32)>, own: Value) {
    let mut fields = event.as_object().unwrap().clone();
    let time = fields.remove("time").and_then(|time| time.as_str().map(str::to_owned)).unwrap_or_default();
    let shape: String = time.chars().map(|it| if it.is_ascii_digit() { '9' } else { it }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999Z", "{event}");
    assert!(fields.remove("id").is_some_and(|id| id.is_u64()), "{event}");
    let mut expected = json!({ "event": name });
    if let Some((worker, generation)) = who {
        expected = json!({
            "event": name, "worker": worker.id, "slot": worker.slot, "pid": worker.pid, "generation": generation
        });
    }
    expected.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    assert_eq!(Value::Object(fields), expected);
}

// What each of them says.

#[test]
fn the_lives_of_workers_are_told_with_who_they_are_on_every_line() {
    let stage = Stage::demo(&["--workers", "2"]);
    let address = stage.croupier.wait_ready(2);
    let first = stage.croupier.wait_started(1);
    assert_is(&stage.of("fork", &first), "fork", Some((&first, 0)), json!({}));
    assert_is(&stage.of("online", &first), "online", Some((&first, 0)), json!({}));
    assert_is(&stage.of("listening", &first), "listening", Some((&first, 0)), json!({ "address": address }));

    processes::send(first.pid, Signal::SIGKILL);
    let killed = json!({ "signal": "SIGKILL", "voluntary": false });
    assert_is(&stage.of("exit", &first), "exit", Some((&first, 0)), killed);
    assert_is(&stage.of("disconnect", &first), "disconnect", Some((&first, 0)), json!({ "voluntary": false }));
    let respawn = stage.of("respawn", &first);
    let after_ms = respawn["after_ms"].as_u64().expect("it is a number");
    assert_is(&respawn, "respawn", Some((&first, 0)), json!({ "after_ms": after_ms }));
    let heir = stage.croupier.wait_started(3);
    assert_is(&stage.of("fork", &heir), "fork", Some((&heir, 0)), json!({}));
    assert_eq!(heir.slot, first.slot);

    stage.croupier.wait_ready(3);
    stage.croupier.client(&["reload"]).assert_ok();
    let reload = stage.events.wait_for("reload", |_| true);
    assert_is(&reload, "reload", None, json!({ "outcome": "done", "generation": 1 }));
    let second = stage.croupier.wait_started(2);
    let left = json!({ "code": 0, "voluntary": true });
    assert_is(&stage.of("exit", &second), "exit", Some((&second, 0)), left);
    let newest = *stage.croupier.started().last().unwrap();
    assert_is(&stage.of("online", &newest), "online", Some((&newest, 1)), json!({}));

    let events = stage.end();
    let of_first: Vec<&str> =
        events.iter().filter(|it| it["worker"] == 1).filter_map(|it| it["event"].as_str()).collect();
    assert_eq!(of_first, ["fork", "online", "listening", "disconnect", "exit", "respawn"]);
}

#[test]
fn what_is_done_to_the_primary_is_told() {
    let stage = Stage::demo(&["--workers", "1"]);
    stage.croupier.wait_ready(1);
    stage.croupier.signal(Signal::SIGTTIN);
    let signal = stage.events.wait_for("signal", |_| true);
    assert_is(&signal, "signal", None, json!({ "signal": "SIGTTIN" }));
    assert_is(&stage.events.wait_for("scale", |_| true), "scale", None, json!({ "workers": 2 }));
    stage.croupier.wait_ready(2);
    stage.croupier.client(&["scale", "1"]).assert_ok();
    stage.events.wait_for("scale", |event| event["workers"] == 1);
    stage.croupier.client(&["disable"]).assert_ok();
    assert_is(&stage.events.wait_for("disable", |_| true), "disable", None, json!({}));
    stage.croupier.client(&["enable"]).assert_ok();
    assert_is(&stage.events.wait_for("enable", |_| true), "enable", None, json!({}));
    let events = stage.end();
    assert!(events.iter().any(|event| event["signal"] == "SIGTERM" && event["event"] == "signal"), "{events:?}");
}

#[test]
fn a_worker_that_has_served_enough_is_recycled_and_a_reload_that_fails_says_so() {
    let script = "[ $CROUPIER_GENERATION = 0 ] || exit 3; exec \"$0\" demo";
    let start = |path: &str| {
        let options = ["--workers", "1", "--recycle-after", "3", "--events", path];
        Croupier::of_command(&options, &["sh", "-c", script, PROGRAM])
    };
    let stage = Stage::start(start);
    let address = stage.croupier.wait_ready(1);
    let first = stage.croupier.wait_started(1);
    (0..3).for_each(|_| drop(http::get(&address).unwrap()));
    assert_is(&stage.of("recycle", &first), "recycle", Some((&first, 0)), json!({}));
    stage.of("exit", &first);
    stage.croupier.client(&["reload"]);
    let reload = stage.events.wait_for("reload", |_| true);
    assert_is(&reload, "reload", None, json!({ "outcome": "not_ready" }));
    let failed = stage.events.wait_for("exit", |event| event["code"] == 3);
    assert_eq!((&failed["generation"], &failed["voluntary"]), (&json!(1), &json!(false)));
    stage.end();
}

#[test]
fn worker_with_script() {
    support::script::play();
}

#[test]
fn messages_are_told_with_their_body_or_its_size() {
    let directory = Directory::new();
    let path = directory.file("events");
    let (small, large) = ("x".repeat(BODY_MAX_BYTES - 2), "x".repeat(BODY_MAX_BYTES - 1));
    let script = format!("listen a 127.0.0.1:0\nsend hello\nsend {small}\nsend {large}");
    let scripted = Scripted::start(&["--workers", "1", "--events", &path], &script);
    let events = EventFile::at(path);
    let worker = scripted.croupier.wait_started(1);
    events.wait_for("message", |event| event["body_bytes"].is_u64());
    let told: Vec<Value> = events.all().into_iter().filter(|event| event["event"] == "message").collect();
    let own = [json!({ "body": "hello" }), json!({ "body": small }), json!({ "body_bytes": BODY_MAX_BYTES + 1 })];
    assert_eq!(told.len(), own.len());
    for (event, own) in told.iter().zip(own) {
        assert_is(event, "message", Some((&worker, 0)), own);
    }
    scripted.end();
}

#[test]
fn a_listener_that_pauses_for_want_of_descriptors_is_told_of_and_so_is_its_return() {
    let stage = Stage::demo(&["--workers", "1"]);
    let address = stage.croupier.wait_ready(1);
    let before = processes::open_files_limits(stage.croupier.pid()).unwrap();
    processes::limit_open_files(stage.croupier.pid(), 3, before.1);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    let paused = stage.events.wait_for("accept_paused", |_| true);
    let why = "cannot accept: Too many open files (os error 24)";
    assert_is(&paused, "accept_paused", None, json!({ "address": address, "why": why }));
    processes::limit_open_files(stage.croupier.pid(), before.0, before.1);
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().status, 200));
    let resumed = stage.events.wait_for("accept_resumed", |_| true);
    assert_is(&resumed, "accept_resumed", None, json!({ "address": address }));
    let events = stage.end();
    assert_eq!(events.iter().filter(|event| event["event"] == "accept_paused").count(), 1);
}

#[test]
fn what_is_taken_back_from_a_stopped_worker_is_told_once_with_its_count() {
    let stage = Stage::demo(&["--workers", "2"]);
    let address = stage.croupier.wait_ready(2);
    let stopped = stage.croupier.wait_started(1);
    processes::stop(stopped.pid);
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().worker(), 2));
    let status = stage.croupier.status();
    processes::send(stopped.pid, Signal::SIGCONT);
    let told: Vec<Value> = stage.end().into_iter().filter(|event| event["event"] == "reclaimed").collect();
    let count: u64 = told.iter().filter_map(|event| event["count"].as_u64()).sum();
    for event in &told {
        let own = json!({ "address": address, "count": event["count"] });
        assert_is(event, "reclaimed", Some((&stopped, 0)), own);
    }
    assert!((1..=count).contains(&(told.len() as u64)) && (1..=8).contains(&count), "{told:?}");
    assert_eq!(status["workers"][0]["reclaimed"], count, "as the status has it");
}

// The stream.

#[test]
fn a_stream_begins_with_what_has_happened_and_goes_on_with_what_happens_until_the_end() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    croupier.wait_ready(2);
    let stream = Stream::open(&croupier, "/events", None);
    stream.wait_for("the second worker", |it| it.data["event"] == "listening" && it.data["worker"] == 2);
    let head = stream.lines().lines();
    let is_there = |text: &str| head.iter().take_while(|line| !line.is_empty()).any(|line| line == text);
    assert!(head[0].ends_with(" 200 OK") && is_there("content-type: text/event-stream"), "{head:?}");
    assert!(is_there("cache-control: no-cache"), "{head:?}");
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    stream.wait_for("its end", |it| it.data["event"] == "exit" && it.data["worker"] == 1);
    assert_eq!(croupier.terminate(), Some(0));
    stream.lines().wait_end();
    let messages = stream.messages();
    let numbers: Vec<Option<u64>> = (1..=messages.len() as u64).map(Some).collect();
    assert_eq!(messages.iter().map(|message| message.id).collect::<Vec<_>>(), numbers);
    for message in &messages {
        assert_eq!((&message.event, message.data["id"].as_u64()), (&None, message.id), "{message:?}");
    }
    let last = &messages.last().unwrap().data;
    assert_eq!((&last["event"], &last["voluntary"]), (&json!("exit"), &json!(true)), "to the end");
}

#[test]
fn who_comes_back_to_a_stream_gets_what_it_has_missed_and_one_that_does_not_follow_gets_its_end() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    croupier.wait_ready(2);
    // The line in the log comes a moment before the event.
    Stream::open(&croupier, "/events", None).wait_for("the last of them", |it| it.id == Some(6));
    let all = |last| {
        let stream = Stream::open(&croupier, "/events?follow=no", last);
        stream.lines().wait_end();
        stream.messages().iter().filter_map(|message| message.id).collect::<Vec<_>>()
    };
    assert_eq!(all(None), [1, 2, 3, 4, 5, 6]);
    assert_eq!(all(Some(4)), [5, 6]);
    assert_eq!(all(Some(6)), [0; 0]);
    assert_eq!(all(Some(1000)), [1, 2, 3, 4, 5, 6], "of another primary, which had counted further");
    for (query, says) in
        [("with=stdout", "with=stdout: give"), ("follow=1", "follow=1: give"), ("x=1", "unknown field")]
    {
        let stream = Stream::open(&croupier, &format!("/events?{query}"), None);
        let answer = stream.lines().wait_end();
        assert!(answer[0].ends_with(" 400 Bad Request") && answer.last().unwrap().contains(says), "{answer:?}");
    }
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_status_and_the_lines_of_workers_come_with_the_stream_if_they_are_asked_for() {
    let script = "echo \"<b>$CROUPIER_WORKER_ID\"; exec \"$0\" demo";
    let mut croupier = Croupier::of_command(&["--workers", "1", "--stdout", "prefix"], &["sh", "-c", script, PROGRAM]);
    croupier.wait_ready(1);
    let stream = Stream::open(&croupier, "/events?with=status,output", None);
    let of = |name: &str| {
        let name = name.to_owned();
        move |it: &support::events::Message| it.event.as_deref() == Some(name.as_str())
    };
    let line = stream.wait_for("a line of the worker", of("output"));
    assert_eq!((line.data, line.id), (json!({ "worker": 1, "stream": "stdout", "line": "<b>1" }), None));
    let status = stream.wait_for("the status", of("status"));
    assert_eq!(status.data["pid"], croupier.pid());
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    stream.wait_for("a line of the next worker", |it| it.data["line"] == "<b>2");
    stream.wait_for("the status with it", |it| it.data["workers"][0]["id"] == 2);
    let plain = Stream::open(&croupier, "/events", None);
    plain.wait_for("the second worker", |it| it.data["event"] == "listening" && it.data["worker"] == 2);
    assert!(plain.messages().iter().all(|message| message.event.is_none()), "only what was asked for");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_monitor_has_the_stream_too() {
    let mut croupier = Croupier::demo(&["--workers", "1", "--monitor", "127.0.0.1:0"]);
    croupier.wait_ready(1);
    let mut socket = TcpStream::connect(croupier.monitor()).unwrap();
    socket.write_all(b"GET /events HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
    let lines = Log::collect(socket);
    lines.wait_for("\"listening\"");
    assert_eq!(croupier.terminate(), Some(0));
    let ids: Vec<u64> = messages(&lines.wait_end()).iter().filter_map(|it| it.id).collect();
    assert_eq!(ids, (1..=6).collect::<Vec<_>>(), "to the signal and the end of the worker");
}

/// Messages that the worker of the next test sends for each connection: more than watchers can be behind.
const TALK: usize = 1200;

#[test]
fn worker_that_talks() {
    if !roles::plays("worker_that_talks") {
        return;
    }
    let worker = roles::join();
    let listener = worker.listen_on_first(&ListenOptions::new()).unwrap();
    let text = "x".repeat(BODY_MAX_BYTES - 100);
    while let Some(connection) = listener.accept().unwrap() {
        (0..TALK).for_each(|number| worker.send(&(number, &text), None).unwrap());
        http::answer(&connection, "talker").unwrap();
    }
    std::process::exit(0);
}

#[test]
fn a_watcher_that_does_not_read_is_ended_and_hears_later_how_much_it_has_missed() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "worker_that_talks");
    let address = croupier.wait_ready(1);
    let mut asleep = ask(&croupier.control(), "/events", None);
    let awake = Stream::open(&croupier, "/events", None);
    awake.wait_for("the beginning", |it| it.data["event"] == "listening");
    let open = processes::descriptors(croupier.pid()).len();
    assert_eq!(http::get(&address).unwrap().status, 200);
    awake.wait_for("the last message", |it| it.data["body"][0] == TALK - 1);
    let heard = awake.messages();
    let lost: u64 = heard.iter().filter(|it| it.event.is_some()).filter_map(|it| it.data["count"].as_u64()).sum();
    let events = heard.iter().filter(|it| it.event.is_none()).count() as u64;
    assert_eq!(lost + events, 3 + TALK as u64, "what it did not get it was told of");

    // What found a place on the way to it, and nothing more: its connection was closed.
    wait_until("it was ended", || processes::descriptors(croupier.pid()).len() < open);
    let mut received = Vec::new();
    asleep.read_to_end(&mut received).unwrap();
    let text = String::from_utf8_lossy(&received).replace("\r\n", "\n");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let last = messages(&lines).iter().filter_map(|it| it.id).max().unwrap();
    assert!(last < 3 + TALK as u64, "it got everything: this checks nothing");
    let again = Stream::open(&croupier, "/events?follow=no", Some(last));
    again.lines().wait_end();
    let after = again.messages();
    let lost = after[0].data["count"].as_u64().unwrap_or(0);
    assert_eq!(lost + after.iter().filter(|it| it.event.is_none()).count() as u64, 3 + TALK as u64 - last);
    assert_eq!(croupier.terminate(), Some(0));
}

// croupier events.

#[test]
fn croupier_events_prints_what_has_happened_and_ends() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    Stream::open(&croupier, "/events", None).wait_for("the last of them", |it| it.id == Some(3));
    let outcome = croupier.client(&["events"]);
    outcome.assert_ok();
    let events: Vec<Value> = outcome.stdout.lines().map(read).collect();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(names, ["fork", "online", "listening"]);
    assert_eq!(croupier.terminate(), Some(0));
    let mut late = support::plain(PROGRAM);
    late.args(["events", "--control", &croupier.control()]);
    Outcome::of(late).assert_failed(1, "no primary runs on");
}

#[test]
fn croupier_events_goes_on_over_upgrades_until_the_primary_ends_and_misses_nothing() {
    let mut croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    let mut follow = support::plain(PROGRAM);
    follow.args(["events", "--follow", "--control", &croupier.control()]);
    let (mut follower, lines) = Croupier::spawn_with_stdout(follow);
    lines.wait_for("\"listening\"");
    for upgrades in 1..=2 {
        croupier.signal(Signal::SIGUSR2);
        croupier.log().wait_for(&format!("upgrades={upgrades}"));
        lines.wait_for(&format!("\"upgrades\":{upgrades}"));
    }
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(follower.wait_exit(), Some(0));
    let events: Vec<Value> = lines.wait_end().iter().map(|line| read(line)).collect();
    let told: u64 =
        events.iter().map(|event| if event["event"] == "lost" { event["count"].as_u64().unwrap() } else { 1 }).sum();
    let last = events.last().unwrap();
    assert_eq!((&last["event"], last["id"].as_u64()), (&json!("exit"), Some(told)), "{events:?}");
}

#[test]
fn croupier_events_ends_when_nobody_reads_it() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    let mut follow = support::plain("sh");
    let script = "\"$0\" events --follow --control \"$1\" | head -n 1";
    follow.args(["-c", script, PROGRAM, &croupier.control()]);
    let follower = std::thread::spawn(move || Outcome::of(follow));
    // The first line ends `head`; the next event is what it cannot be told.
    until(|| {
        processes::send(croupier.pid(), Signal::SIGTTIN);
        follower.is_finished().then_some(())
    });
    assert_eq!(follower.join().unwrap().assert_ok().stdout.lines().count(), 1);
}

// The file.

#[test]
fn a_file_that_was_moved_away_is_left_at_the_signal_and_no_line_is_lost() {
    let stage = Stage::demo(&["--workers", "2"]);
    stage.croupier.wait_ready(2);
    stage.events.wait_for("listening", |event| event["worker"] == 2);
    let (path, old) = (stage.directory.file("events"), stage.directory.file("old"));
    std::fs::rename(&path, &old).unwrap();
    processes::send(stage.croupier.wait_started(1).pid, Signal::SIGKILL);
    EventFile::at(&old).wait_for("exit", |event| event["worker"] == 1);
    stage.croupier.signal(Signal::SIGUSR1);
    let first = stage.events.wait_for("signal", |_| true);
    assert_is(&first, "signal", None, json!({ "signal": "SIGUSR1" }));
    stage.croupier.log().wait_for(&format!("events={path} opened anew"));
    let Stage { mut croupier, events, directory: _directory } = stage;
    assert_eq!(croupier.terminate(), Some(0));
    let (before, after) = (EventFile::at(&old).all(), events.all());
    assert_eq!(after.first(), Some(&first));
    let both = [before, after].concat();
    assert_eq!(ids(&both), (1..=both.len() as u64).collect::<Vec<_>>());
}

#[test]
fn the_files_of_workers_are_opened_anew_too() {
    let directory = Directory::new();
    let (out, old) = (directory.file("out"), directory.file("old"));
    let script = "echo \"out $CROUPIER_WORKER_ID\"; exec sleep 1000";
    let options = ["--workers", "1", "--stdout", &out];
    let mut croupier = Croupier::of_command(&options, &["sh", "-c", script]);
    let has = |path: &str, text: &str| std::fs::read_to_string(path).is_ok_and(|it| it == text);
    wait_until("the first has written", || has(&out, "out 1\n"));
    std::fs::rename(&out, &old).unwrap();
    croupier.signal(Signal::SIGUSR1);
    croupier.log().wait_for("stdout of workers: opened anew [for those that are started from now on]");
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    wait_until("the second has written to the new file", || has(&out, "out 2\n"));
    assert!(has(&old, "out 1\n"));
    // Where there can be no new file, the old one goes on.
    std::fs::rename(&out, directory.file("older")).unwrap();
    std::fs::create_dir(&out).unwrap();
    croupier.signal(Signal::SIGUSR1);
    croupier.log().wait_for(&format!("{out}: Is a directory (os error 21) [going on with the old file]"));
    processes::send(croupier.wait_started(2).pid, Signal::SIGKILL);
    wait_until("the third has written to the second file", || has(&directory.file("older"), "out 2\nout 3\n"));
    croupier.client(&["stop"]).assert_ok();
    croupier.wait_exit();
}

#[test]
fn a_full_disk_changes_nothing_and_is_said_once() {
    let mut croupier = Croupier::demo(&["--workers", "2", "--events", "/dev/full"]);
    let address = croupier.wait_ready(2);
    croupier.log().wait_for("events=/dev/full cannot be written: No space left on device");
    assert_eq!(http::next_workers(&address, 4).len(), 4);
    processes::send(croupier.wait_started(1).pid, Signal::SIGKILL);
    croupier.wait_ready(3);
    assert_eq!(croupier.terminate(), Some(0));
    croupier.log().wait_end();
    assert_eq!(croupier.log().count("events="), 1, "{}", croupier.log());
}

#[test]
fn a_full_disk_behind_standard_output_changes_nothing_and_is_said_on_stderr() {
    let mut run = run(&["--workers", "1", "--events", "-"]);
    run.stdin(Stdio::null()).stdout(File::create("/dev/full").unwrap()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let log = Log::collect(child.stderr.take().unwrap());
    let mut croupier = Croupier::adopt(child, log);
    let address = croupier.wait_ready(1);
    croupier.log().wait_for("events dropped: nobody read stdout");
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn what_could_not_be_written_is_counted_once_it_can_be_again() {
    let directory = Directory::new();
    let path = directory.file("fifo");
    mkfifo(path.as_str(), Mode::S_IRWXU).unwrap();
    let open = || {
        let mut options = OpenOptions::new();
        let fifo = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
        nix::fcntl::fcntl(&fifo, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
        Log::collect(fifo)
    };
    let fifo = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
    let mut croupier = Croupier::demo(&["--workers", "1", "--events", &path]);
    croupier.wait_ready(1);
    let mut begin = String::new();
    wait_until("the first events are there", || {
        let _ = (&fifo).read_to_string(&mut begin);
        begin.contains("\"listening\"")
    });
    drop(fifo);
    croupier.signal(Signal::SIGTTIN);
    croupier.log().wait_for(&format!("events={path} cannot be written: Broken pipe"));
    croupier.wait_ready(2);
    let lines = open();
    croupier.signal(Signal::SIGTTOU);
    let lost = read(&lines.wait_for("\"lost\""));
    let again = croupier.log().wait_for("is written again");
    assert!(again.ends_with(&format!("[events={} lost]", lost["count"])), "{again}");
    assert_eq!(croupier.terminate(), Some(0));
    let begin: Vec<Value> = begin.lines().map(read).collect();
    let rest: Vec<Value> = lines.wait_end().iter().map(|line| read(line)).collect();
    assert_eq!(rest[0], lost, "before the first line that is written again");
    let next = ids(&begin).last().unwrap() + lost["count"].as_u64().unwrap() + 1;
    assert_eq!(ids(&rest[1..]), (next..next + rest.len() as u64 - 1).collect::<Vec<_>>());
}

#[test]
fn a_file_that_cannot_be_opened_is_named_before_anything_is_started() {
    let directory = Directory::new();
    for (path, why) in [(directory.file("none/events"), "No such file"), (directory.file(""), "Is a directory")] {
        for command in ["run", "check"] {
            let mut croupier = support::plain(PROGRAM);
            croupier.args([command, "--listen", "127.0.0.1:0", "--events", &path]);
            Outcome::of(croupier).assert_failed(2, &format!("--events {path}: {why}"));
        }
    }
}

#[test]
fn the_file_goes_on_after_an_upgrade_and_standard_output_too() {
    let directory = Directory::new();
    let path = directory.file("events");
    for to in [path.as_str(), "-"] {
        let (mut croupier, stdout) = Croupier::spawn_with_stdout(run(&["--workers", "1", "--events", to]));
        croupier.wait_ready(1);
        for upgrades in 1..=3 {
            croupier.signal(Signal::SIGUSR2);
            croupier.log().wait_for(&format!("upgrades={upgrades}"));
        }
        assert_eq!(croupier.terminate(), Some(0));
        let events: Vec<Value> = match to {
            "-" => stdout.wait_end().iter().map(|line| read(line)).collect(),
            path => EventFile::at(path).all(),
        };
        assert_eq!(ids(&events), (1..=events.len() as u64).collect::<Vec<_>>(), "none is missing");
        let upgrades: Vec<&Value> =
            events.iter().filter(|it| it["event"] == "upgrade").map(|it| &it["upgrades"]).collect();
        assert_eq!(upgrades, [&json!(1), &json!(2), &json!(3)]);
        assert_eq!(events.last().unwrap()["event"], "exit");
    }
}

// --log-format json.

#[test]
fn with_the_log_in_json_every_line_on_stderr_is_an_object() {
    let directory = Directory::new();
    let long = "y".repeat(20_000);
    let script = "printf 'a \"quote\" \\377\\n' >&2; echo out; printf '%s\\n' $LONG; exec \"$0\" demo";
    let options = ["--workers", "1", "--stdout", "prefix", "--stderr", "prefix", "--log-format", "json"];
    let mut json = run(&options);
    json.args([&format!("--env=LONG={long}"), "--", "sh", "-c", script, PROGRAM]);
    let (mut croupier, stdout) = Croupier::spawn_with_stdout(json);
    croupier.log().wait_for(" listening on ");
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    assert_eq!(croupier.terminate(), Some(0));
    let log: Vec<Value> = croupier.log().wait_end().iter().map(|line| read(line)).collect();
    assert!(log.iter().all(|line| line["time"].is_string()), "{log:?}");
    let said = log.iter().find(|line| line["worker"] == 1).expect("the worker said something");
    assert_eq!((&said["stream"], &said["line"]), (&json!("stderr"), &json!("a \"quote\" \u{fffd}")));
    assert_eq!(log.last().unwrap()["message"], "stopped");
    let lines: Vec<Value> = stdout.wait_end().iter().map(|line| read(line)).collect();
    let parts: String = lines[1..].iter().filter_map(|line| line["line"].as_str()).collect();
    assert_eq!((&lines[0]["line"], parts), (&json!("out"), long));
    assert_eq!((&lines[1]["continues"], &lines[2]["continues"]), (&Value::Null, &json!(true)));

    let missing = directory.file("missing");
    let endings: [(&[&str], i32, &str); 3] = [
        (&["--", missing.as_str()], 5, "cannot start workers"),
        (&["--events", "/none/events"], 2, "--events /none/events"),
        (&["--no-such-option"], 2, "unexpected argument"),
    ];
    for (arguments, code, says) in endings {
        let mut command = run(&["--log-format", "json"]);
        command.args(arguments);
        let outcome = Outcome::of(command);
        let said: Vec<Value> = outcome.stderr.lines().map(read).collect();
        let last = said.last().unwrap();
        let message = last["message"].as_str().unwrap();
        assert!(outcome.code == Some(code) && last["level"] == "error" && message.contains(says), "{outcome:?}");
    }
}
