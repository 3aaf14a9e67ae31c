//! How much a worker may want, and what becomes of wishes that cannot be: every limit has a name, reaching it is an
//! error of that worker alone, the clients of the others notice nothing, and the primary stays as small as it was.

#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsFd;

use croupier::protocol::Wait;
use croupier::protocol::body::Body;
use croupier::protocol::bootstrap::WORKER_ID;
use croupier::protocol::control::{self, FromPrimary, FromWorker, ListenWish};
use croupier::protocol::control_channel::{ControlChannel, Incoming};
use croupier::protocol::ids::LaneId;
use croupier::protocol::scoreboard::LANES_MAX;
use nix::errno::Errno;

use support::http;
use support::roles::{self, say};
use support::script::free_port;
use support::{Croupier, Directory, processes, wait_until};

/// What the first worker does, when the file appears, and what it may need for it.
const MODE: &str = "CROUPIER_TEST_MODE";
const GO: &str = "CROUPIER_TEST_GO";
const ARGUMENT: &str = "CROUPIER_TEST_ARGUMENT";
/// Listeners that workers have, all together.
const LISTENERS_MAX: usize = 1024;
/// More descriptors than this, and the primary has kept what it was to close: a listener and two ends for each lane.
const FDS_MORE_MAX: usize = 3 * LANES_MAX + 8;
/// The same with memory: the first use of some buffers is no leak.
const MEMORY_MORE_MAX_KIB: u64 = 4096;

/// A primary whose worker 1 overdoes something, beside worker 2 that serves.
struct Stage {
    croupier: Croupier,
    place: Directory,
}

impl Stage {
    fn of(mode: &str, argument: &str) -> Self {
        let place = Directory::new();
        let variables = [(MODE, mode), (ARGUMENT, argument), (GO, &place.file("go"))];
        let variables = variables.map(|(name, value)| format!("--env={name}={value}"));
        let options: Vec<&str> = ["--workers", "2"].into_iter().chain(variables.iter().map(String::as_str)).collect();
        Self { croupier: Croupier::of_role(&options, "worker_that_overdoes_it"), place }
    }

    /// The same; the primary may have so many descriptors.
    fn with_open_files(count: u32, mode: &str, argument: &str) -> Self {
        let stage = Self::of(mode, argument);
        stage.croupier.wait_ready(2); // these were started with the limits of this process
        let limits = format!("--nofile={count}:");
        let pid = stage.croupier.pid().to_string();
        assert!(std::process::Command::new("prlimit").args(["--pid", &pid, &limits]).status().unwrap().success());
        stage
    }

    /// Lets it, and serves clients meanwhile. Returns what it says at the end.
    #[track_caller]
    fn play(&self) -> String {
        let address = self.croupier.wait_ready(2);
        let serve = || assert_eq!(http::get(&address).unwrap().worker(), 2);
        serve();
        let (fds, memory) = self.size();
        std::fs::write(self.place.file("go"), "").unwrap();
        wait_until("worker 1 is done", || {
            serve();
            self.croupier.log().count("worker 1 is done: ") == 1
        });
        wait_until("the primary has closed what it was sent", || self.size().0 <= fds + FDS_MORE_MAX);
        let (_, memory_after) = self.size();
        assert!(memory_after <= memory + MEMORY_MORE_MAX_KIB, "{memory} KiB before, {memory_after} KiB after");
        serve();
        let line = self.croupier.log().wait_for("worker 1 is done: ");
        line.split_once("done: ").unwrap().1.to_owned()
    }

    /// Descriptors and memory of the primary.
    fn size(&self) -> (usize, u64) {
        let pid = self.croupier.pid();
        let memory = processes::status(pid, "RssAnon").unwrap();
        (processes::descriptors(pid).len(), memory.split(' ').next().unwrap().parse().unwrap())
    }

    /// Ends it: nobody had to be replaced.
    #[track_caller]
    fn end(mut self) {
        assert_eq!(self.croupier.started().len(), 2, "{}", self.croupier.log());
        assert_eq!(self.croupier.terminate(), Some(0));
    }
}

#[test]
fn a_thousand_listeners_one_after_the_other_leave_nothing_behind() {
    let stage = Stage::of("one after the other", "");
    assert_eq!(stage.play(), "1000 granted, []");
    let status = stage.croupier.status();
    let listeners = status["listeners"].as_array().unwrap();
    assert!(listeners.len() <= 1 + LANES_MAX, "{listeners:?}");
    stage.end();
}

#[test]
fn a_thousand_listeners_at_once_are_24_and_nothing_is_bound_for_the_others() {
    let port = free_port();
    let stage = Stage::of("at once", &port.to_string());
    assert_eq!(stage.play(), format!("24 granted, {:?}", [Errno::EMFILE as i32; 976]));
    stage.croupier.log().wait_for_count("may not listen: a worker can have 24 listeners", 976);
    assert_eq!(stage.croupier.log().count("bound for worker=1"), 24);
    drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
    stage.end();
}

#[test]
fn what_workers_ask_for_leaves_the_primary_descriptors_for_connections() {
    let stage = Stage::with_open_files(100, "at once", &free_port().to_string());
    let said = stage.play();
    let (granted, refused) = said.split_once(" granted, ").unwrap();
    let granted: usize = granted.parse().unwrap();
    assert!((1..LANES_MAX).contains(&granted), "{said}");
    assert_eq!(refused, format!("{:?}", vec![Errno::ENFILE as i32; 1000 - granted]));
    assert!(stage.size().0 <= 80, "{} descriptors", stage.size().0);
    assert_eq!(stage.croupier.log().count("cannot accept"), 0);
    stage.end();
}

#[test]
fn datagram_sockets_of_ones_own_count_like_any_listener() {
    let stage = Stage::of("datagrams", "");
    assert_eq!(stage.play(), format!("24 granted, {:?}", [Errno::EMFILE as i32; 76]));
    stage.end();
}

#[test]
fn one_address_is_granted_once_and_again_after_it_was_closed() {
    let stage = Stage::of("twice", "");
    assert_eq!(stage.play(), format!("2 granted, [{}]", Errno::EADDRINUSE as i32));
    assert!(stage.croupier.log().wait_for("may not listen").contains("this worker listens on 127.0.0.1:"));
    stage.end();
}

#[test]
fn wishes_that_cannot_be_are_refused_in_one_line() {
    let stage = Stage::of("what cannot be", "");
    let expected: Vec<i32> = impossible().into_iter().map(|(_, errno)| errno as i32).collect();
    assert_eq!(stage.play(), format!("0 granted, {expected:?}"));
    stage.croupier.log().wait_for_count("may not listen: ", expected.len());
    for line in stage.croupier.log().lines() {
        assert!(line.len() < 500 && !line.contains(char::is_control) && !line.starts_with("EVIL"), "{line:?}");
    }
    stage.end();
}

/// Wishes, and what they are refused with.
fn impossible() -> Vec<(ListenWish, Errno)> {
    let long = "x".repeat(60_000);
    let streams = [
        ("unix:/no/such/directory/socket", Errno::ENOENT),
        ("unix:/", Errno::EADDRINUSE),
        ("unix:/proc/self/nothing", Errno::ENOENT),
        ("unix:/dev/null/socket", Errno::ENOTDIR),
        ("unix:", Errno::EINVAL),
        ("unix:/tmp/a\nEVIL worker=2 exited", Errno::EINVAL),
        ("unix:/tmp/a\0b", Errno::EINVAL),
        ("\u{1b}]0;title\u{7}:80", Errno::EINVAL),
        ("systemd:\r\nEVIL", Errno::EINVAL),
        ("vsock:2:80", Errno::EINVAL),
        ("garbage", Errno::EINVAL),
        ("", Errno::EINVAL),
        ("[fe80::1%lo]:80", Errno::EINVAL),
        ("[::ffff:192.0.2.1]:0", Errno::EADDRNOTAVAIL),
        ("127.0.0.1:65536", Errno::EINVAL),
        ("no.such.host.invalid:80", Errno::EINVAL),
        ("fd:0", Errno::EINVAL),
        ("fd:2147483647", Errno::EBADF),
        ("systemd:web", Errno::EBADF),
        (&long, Errno::EINVAL),
        (&format!("{long}:80"), Errno::EINVAL),
        (&format!("unix:/tmp/{long}"), Errno::ENAMETOOLONG),
        (&format!("systemd:{long}"), Errno::EBADF),
    ];
    let datagrams = [
        ("unix:/tmp/socket", Errno::EAFNOSUPPORT),
        ("garbage", Errno::EINVAL),
        ("192.0.2.1:0", Errno::EADDRNOTAVAIL),
        ("fd:9", Errno::EBADF),
    ];
    let wish = |address: &str, datagrams| ListenWish { datagrams, ..wish(address) };
    let streams = streams.into_iter().map(|(address, errno)| (wish(address, false), errno));
    let no_such = ListenWish { datagrams: true, ..ListenWish::default() };
    let datagrams = datagrams.into_iter().map(|(address, errno)| (wish(address, true), errno));
    streams.chain(datagrams).chain([(no_such, Errno::EADDRNOTAVAIL)]).collect()
}

#[test]
fn descriptors_that_come_with_any_other_message_are_closed() {
    let stage = Stage::of("descriptors", "");
    assert_eq!(stage.play(), "7 times 253 descriptors are closed");
    stage.end();
}

#[test]
fn floods_of_anything_are_heard_in_the_time_that_is_left_by_others() {
    for mode in ["flood: messages", "flood: alone", "flood: close", "flood: listening", "flood: consumed"] {
        let stage = Stage::of(mode, "");
        assert_eq!(stage.play(), "5000 sent", "{mode}");
        stage.end();
    }
}

#[test]
fn workers_together_have_1024_listeners_and_those_of_the_primary_are_no_less_for_it() {
    const WORKERS: usize = LISTENERS_MAX / (LANES_MAX - 1) + 1;
    let place = Directory::new();
    let path = format!("--env={ARGUMENT}={}", place.path().display());
    let count = WORKERS.to_string();
    let mut croupier = Croupier::of_role(&["--workers", &count, &path], "worker_that_wants_24");
    let lines = croupier.log().wait_for_count(" has listeners: ", WORKERS);
    let number = |line: &String| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
    assert_eq!(lines.iter().map(number).sum::<usize>(), LISTENERS_MAX);
    let refused = croupier.log().wait_for("may not listen");
    assert!(refused.contains("workers have 1024 listeners already"), "{refused}");
    assert_eq!(http::get(&croupier.address()).unwrap().status, 200);
    assert_eq!(croupier.started().len(), WORKERS);
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "every socket file is gone");
}

// The workers.

#[test]
fn worker_that_wants_24() {
    if roles::plays("worker_that_wants_24") {
        let worker = roles::join();
        let place = roles::variable(ARGUMENT);
        let mut event_loop = croupier::worker::event_loop::EventLoop::new(roles::Good::named(worker.id())).unwrap();
        let options = croupier::worker::ListenOptions::new();
        let mut granted = 0;
        for number in 0..LANES_MAX - 1 {
            if let Ok(listener) = options.bind(&format!("unix:{place}/{}.{number}", worker.id())) {
                event_loop.listen(listener).unwrap();
                granted += 1;
            }
        }
        event_loop.listen(worker.listen_on_first(&options).unwrap()).unwrap();
        say(&format!("worker {} has listeners: {granted}", worker.id()));
        event_loop.run().unwrap();
        std::process::exit(0);
    }
}

#[test]
fn worker_that_overdoes_it() {
    if !roles::plays("worker_that_overdoes_it") {
        return;
    }
    if roles::variable(WORKER_ID) != "1" {
        return roles::serve_well();
    }
    let channel = roles::claim();
    roles::hello(&channel);
    channel.send(&FromWorker::ListeningAlone { address: "nowhere".into() }, None).unwrap();
    let go = roles::variable(GO);
    wait_until("the test lets it", || std::path::Path::new(&go).exists());
    say(&format!("worker 1 is done: {}", overdo(&channel, &roles::variable(MODE))));
    // Told to finish, it does.
    while !matches!(roles::receive(&channel), Incoming::Message(FromPrimary::Disconnect { .. }, _) | Incoming::End) {}
    std::process::exit(0);
}

fn wish(address: &str) -> ListenWish {
    ListenWish { address: Some(address.to_owned()), ..ListenWish::default() }
}

fn overdo(channel: &ControlChannel, mode: &str) -> String {
    match mode {
        "one after the other" => ask_for(channel, vec![wish("127.0.0.2:0"); 1000], |_| true),
        "at once" => {
            let port = roles::variable(ARGUMENT);
            let mut wishes = vec![wish("127.0.0.2:0"); 999];
            wishes.push(wish(&format!("127.0.0.1:{port}")));
            ask_for(channel, wishes, |_| false)
        }
        "datagrams" => {
            let own = ListenWish { datagrams: true, reuse_address: true, ..wish("127.0.0.2:0") };
            ask_for(channel, vec![own; 100], |_| false)
        }
        "twice" => {
            let address = format!("127.0.0.1:{}", free_port());
            let mut lanes = Vec::new();
            let mut closes = |lane| {
                lanes.push(lane);
                false
            };
            let first = ask_for(channel, vec![wish(&address); 2], &mut closes);
            assert!(first.starts_with("1 granted"));
            channel.send_blocking(&FromWorker::Close { lane: lanes[0] }).unwrap();
            let again = ask_for(channel, vec![wish(&address)], |_| false);
            assert_eq!(again, "1 granted, []");
            first.replace("1 granted", "2 granted")
        }
        "what cannot be" => ask_for(channel, impossible().into_iter().map(|(wish, _)| wish).collect(), |_| false),
        "descriptors" => attach_descriptors(channel),
        _ => flood(channel, mode),
    }
}

/// Has all wishes, one by one, and closes those lanes that `is_closed` says. Tells how many were granted, and what the
/// others were refused with.
fn ask_for(channel: &ControlChannel, wishes: Vec<ListenWish>, mut is_closed: impl FnMut(LaneId) -> bool) -> String {
    let (mut granted, mut refused) = (0, Vec::new());
    for (wish, number) in wishes.into_iter().zip(1..) {
        channel.send_blocking(&FromWorker::Listen { request: number, wish }).unwrap();
        match roles::receive(channel) {
            Incoming::Message(FromPrimary::Lane { request, lane, .. }, Some(_end)) => {
                assert_eq!(request, number);
                granted += 1;
                channel.send_blocking(&FromWorker::Listening { lane }).unwrap();
                if is_closed(lane) {
                    channel.send_blocking(&FromWorker::Close { lane }).unwrap();
                }
            }
            Incoming::Message(FromPrimary::Refused { request, errno, reason }, None) => {
                assert!(request == number && reason.len() < 400 && !reason.contains(char::is_control), "{reason}");
                refused.push(errno);
            }
            other => panic!("no answer but {other:?}"),
        }
    }
    format!("{granted} granted, {refused:?}")
}

/// Every kind of message but the one that may have a descriptor, and `hello`, which comes once, and the wish to leave.
fn attach_descriptors(channel: &ControlChannel) -> String {
    let lane = LaneId(0);
    let listen = |wish| FromWorker::Listen { request: 1, wish };
    let with_descriptors = [
        listen(ListenWish::default()),
        FromWorker::Listening { lane },
        FromWorker::Close { lane },
        listen(wish("garbage")),
        FromWorker::ListeningAlone { address: "nowhere".into() },
        FromWorker::Consumed { messages: 0 },
        FromWorker::Unknown,
    ];
    for message in &with_descriptors {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        roles::send_with(channel.as_fd(), &control::encode(message), &[writer.as_fd(); 253]);
        drop(writer);
        File::from(reader).read_to_end(&mut Vec::new()).unwrap(); // comes when the primary has closed all of them
    }
    format!("{} times 253 descriptors are closed", with_descriptors.len())
}

/// As fast as it can.
fn flood(channel: &ControlChannel, mode: &str) -> String {
    let message = match mode {
        "flood: messages" => FromWorker::Message { body: Body::of(&0).unwrap() },
        "flood: alone" => FromWorker::ListeningAlone { address: "nowhere\nEVIL".into() },
        "flood: close" => FromWorker::Close { lane: LaneId(200) },
        "flood: consumed" => FromWorker::Consumed { messages: 0 },
        "flood: listening" => {
            channel.send_blocking(&roles::listen_request(1)).unwrap();
            let Incoming::Message(FromPrimary::Lane { lane, .. }, _) = roles::receive(channel) else {
                panic!("no lane came");
            };
            // Never `listening` there, it would be dealt connections: what it says of it is said of the closed lane.
            channel.send_blocking(&FromWorker::Close { lane }).unwrap();
            FromWorker::Listening { lane }
        }
        other => panic!("unknown mode {other}"),
    };
    let packet = control::encode(&message);
    let sent = (0..5000).take_while(|_| channel.send_packet(&packet, None, Wait::Block).is_ok()).count();
    format!("{sent} sent")
}
