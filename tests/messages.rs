//! Messages between an embedder and its workers, with descriptors, in both directions: their order, their limits, and
//! what becomes of those that nobody reads.

#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use croupier::primary::commands::{Command, Signal, Undelivered};
use croupier::primary::events::Event;
use croupier::primary::supervisor::Stop;
use croupier::protocol::Wait;
use croupier::protocol::body::Body;
use croupier::protocol::control::{self, FromWorker, MESSAGES_UNREAD_MAX, PACKET_MAX_BYTES};
use croupier::protocol::ids::WorkerId;
use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};
use croupier::worker::{ListenOptions, Message, Worker};

use support::embedded::{self, Embedded};
use support::{Croupier, Directory, http, processes, roles, wait_until};

/// A file that says "go on".
const GO: &str = "CROUPIER_TEST_GO";
/// What is around the text of a message that is a text.
const ENVELOPE_BYTES: usize = r#"{"type":"message","body":""}"#.len();

#[test]
fn messages_go_both_ways_in_order_and_say_who_sent_them() {
    let mut settings = embedded::settings("worker_that_echoes");
    settings.plan.worker_count = 2;
    let embedded = Embedded::of(settings);
    // Nothing that a body says means anything to the protocol.
    let like_ours = r#"{"type":"disconnect","cmd":"NODE_CLUSTER"}"#;
    let bodies = [r#"{"n":[1,2.50,null],"ä":"\u00e4"}"#, "null", "\"text\"", "0", like_ours];
    for worker in [2, 1] {
        for body in bodies {
            let body: Body = serde_json::from_str::<Box<serde_json::value::RawValue>>(body).unwrap().into();
            embedded.send(worker, &body).unwrap();
        }
        for body in bodies {
            let (from, heard, fd) = embedded.message();
            assert_eq!((from, heard.as_str(), fd.is_none()), (worker, body, true));
        }
    }
    assert_eq!(embedded.send(3, "hello"), Err(Undelivered::NoSuchWorker(WorkerId(3))));
}

#[test]
fn what_is_sent_before_the_worker_is_there_waits_for_it_up_to_the_limit() {
    let directory = Directory::new();
    let mut settings = embedded::settings("worker_that_joins_late");
    settings.command.variables.push((GO.into(), directory.file("go").into()));
    let embedded = Embedded::of(settings);
    assert_eq!(embedded.word(), "fork 1 slot=0 generation=0");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    embedded.send_with(1, &0, Some(writer)).unwrap();
    for number in 1..MESSAGES_UNREAD_MAX {
        embedded.send(1, &number).unwrap();
    }
    let error = embedded.send(1, "one more").unwrap_err();
    assert_eq!(error, Undelivered::WouldExceed(WorkerId(1)));
    assert!(error.to_string().contains("64 messages"), "{error}");
    std::fs::write(directory.file("go"), "").unwrap();
    assert_eq!(embedded.words(2), ["online 1", "message 1 0 with a descriptor"]);
    assert_eq!(embedded.word(), "message 1 1");
    for number in 2..MESSAGES_UNREAD_MAX {
        assert_eq!(embedded.message().1.as_str(), number.to_string());
    }
    let mut nothing = Vec::new();
    drop(embedded);
    File::from(reader).read_to_end(&mut nothing).unwrap();
    assert_eq!(nothing, b"", "every copy of the other end is closed");
}

#[test]
fn the_last_words_of_a_worker_come_before_its_end() {
    let embedded = Embedded::of_role("worker_that_speaks_and_exits");
    assert_eq!(embedded.words(2), ["fork 1 slot=0 generation=0", "online 1"]);
    for number in 0..20 {
        let (_, body, _) = embedded.message();
        assert_eq!(body.parse::<(u32, String)>().unwrap().0, number);
    }
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=false", "exit 1 code=42 voluntary=false"]);
}

#[test]
fn a_descriptor_of_any_kind_goes_with_its_message_and_nobody_keeps_a_copy() {
    let embedded = Embedded::of_role("worker_that_echoes");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    embedded.send(1, "first").unwrap();
    embedded.send_with(1, "a pipe", Some(writer)).unwrap();
    embedded.send(1, "between").unwrap();
    embedded.send_with(1, "a socket", Some(theirs.into())).unwrap();
    embedded.send_with(1, "a file", Some(File::open("/dev/null").unwrap().into())).unwrap();
    let echoes: Vec<_> = (0..5).map(|_| embedded.message()).collect();
    let words: Vec<_> = echoes.iter().map(|(_, body, fd)| (body.as_str(), fd.is_some())).collect();
    let expected = [
        ("\"first\"", false),
        ("\"a pipe\"", true),
        ("\"between\"", false),
        ("\"a socket\"", true),
        ("\"a file\"", true),
    ];
    assert_eq!(words, expected);
    let through = |index: usize, text: &str| {
        let fd: &OwnedFd = echoes[index].2.as_ref().unwrap();
        File::from(fd.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    };
    through(1, "through the pipe");
    through(3, "through the socket");
    drop(echoes);
    for (mut end, text) in
        [(File::from(reader), "through the pipe"), (OwnedFd::from(ours).into(), "through the socket")]
    {
        let mut heard = String::new();
        end.read_to_string(&mut heard).unwrap(); // up to its end, which comes when the last copy is closed
        assert_eq!(heard, text);
    }
}

/// Many at a time, each with a descriptor, while as many come back.
#[test]
fn credits_come_back_and_descriptors_in_both_directions_block_nobody() {
    let embedded = Embedded::of_role("worker_that_echoes");
    let null = File::open("/dev/null").unwrap();
    let mut sent = 0;
    for heard in 0..500 {
        while sent < 500 {
            match embedded.send_with(1, &sent, Some(null.try_clone().unwrap().into())) {
                Ok(()) => sent += 1,
                Err(Undelivered::WouldExceed(_)) => break,
                Err(other) => panic!("{other}"),
            }
        }
        let (_, body, fd) = embedded.message();
        assert_eq!((body.as_str(), fd.is_some()), (&*heard.to_string(), true));
    }
}

#[test]
fn a_message_of_the_largest_size_passes_and_a_larger_one_is_an_error_that_names_the_limit() {
    let embedded = Embedded::of_role("worker_that_echoes");
    let largest = "x".repeat(PACKET_MAX_BYTES - ENVELOPE_BYTES);
    let of_two_bytes = "ä".repeat(largest.len() / 2);
    for body in [&largest, &of_two_bytes] {
        for fd in [None, Some(File::open("/dev/null").unwrap().into())] {
            let has_fd = fd.is_some();
            embedded.send_with(1, body, fd).unwrap();
            let (_, heard, fd) = embedded.message();
            assert!(heard.parse::<String>().unwrap() == *body && fd.is_some() == has_fd);
        }
    }

    let error = embedded.send(1, &format!("{largest}x")).unwrap_err();
    assert_eq!(error, Undelivered::TooLong(largest.len() + 3));
    assert!(error.to_string().contains("65536"), "{error}");
    embedded.send(1, "send a megabyte").unwrap();
    let error = embedded.message().1.parse::<String>().unwrap();
    assert_eq!(error, "InvalidInput: a message of 1048604 bytes with its envelope: at most 65536, send less at a time");
    embedded.send(1, "and nothing happened").unwrap();
    assert_eq!(embedded.message().1.as_str(), "\"and nothing happened\"");
}

#[test]
fn a_worker_that_is_stopped_has_a_bounded_number_waiting_and_costs_the_others_nothing() {
    let mut settings = embedded::settings("worker_that_echoes");
    settings.plan.worker_count = 2;
    let embedded = Embedded::of(settings);
    let all_listen = ["listening 1", "listening 2"];
    let mut words = Vec::new();
    wait_until("both listen", || {
        words.push(embedded.word());
        all_listen.iter().all(|word| words.iter().any(|it| it == word))
    });
    let pid = embedded.pid(1);
    processes::stop(pid);
    let large = "x".repeat(60_000);
    for number in 0..MESSAGES_UNREAD_MAX {
        embedded.send(1, &(number, &large)).unwrap();
    }
    assert_eq!(embedded.send(1, "one more"), Err(Undelivered::WouldExceed(WorkerId(1))));
    let body = Body::of("to all").unwrap();
    let missed = embedded.remote.ask(|answer| Command::Broadcast(body, answer)).unwrap();
    assert_eq!(missed, [(WorkerId(1), Undelivered::WouldExceed(WorkerId(1)))]);
    assert_eq!(embedded.word(), "message 2 \"to all\"");
    // What is dealt to the one that is stopped is taken back from it.
    for _ in 0..10 {
        assert_eq!(http::get(embedded.address()).unwrap().worker(), 2);
    }
    processes::send(pid, Signal::SIGCONT);
    for number in 0..MESSAGES_UNREAD_MAX {
        let (worker, body, _) = embedded.message();
        assert_eq!((worker, body.parse::<(u32, String)>().unwrap()), (1, (number, large.clone())));
    }
    embedded.send(1, "and it goes on").unwrap();
    assert_eq!(embedded.message().1.as_str(), "\"and it goes on\"");
}

/// As fast as it can, in the largest messages, and it never reads what it is sent.
#[test]
fn a_flood_keeps_nobody_from_being_served_and_a_slow_reader_hears_what_it_has_lost() {
    let mut settings = embedded::settings("worker_that_floods_or_serves");
    settings.plan.worker_count = 2;
    let embedded = Embedded::with_capacity(settings, 16);
    let Event::Fork { .. } = embedded.event() else { panic!("it begins with the processes") };
    wait_until("both listen", || embedded.status().workers.iter().filter(|it| it.state == "ready").count() == 2);
    let mut accepted = 0;
    while embedded.send(1, "unread").is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, MESSAGES_UNREAD_MAX);
    for _ in 0..100 {
        assert_eq!(http::get(embedded.address()).unwrap().worker(), 2);
    }
    let mut lost = 0;
    wait_until("the loss is told", || {
        if let Event::Lost { count } = embedded.event() {
            lost = count;
        }
        lost > 0
    });
    assert_eq!(embedded.status().workers.len(), 2, "that is no reason to end a worker");
}

#[test]
fn surplus_and_unasked_descriptors_are_closed() {
    let embedded = Embedded::of_role("worker_that_sends_too_many_descriptors");
    assert_eq!(embedded.words(2), ["fork 1 slot=0 generation=0", "online 1"]);
    assert_eq!(embedded.word(), "message 1 \"unasked: closed\"");
    let (_, body, fd) = embedded.message();
    assert_eq!((body.as_str(), fd.is_some()), ("\"253\"", true));
    drop(fd);
    assert_eq!(embedded.word(), "message 1 \"surplus: closed\"");
}

#[test]
fn credits_that_were_never_given_end_the_worker_that_returns_them() {
    let embedded = Embedded::of_role("worker_that_returns_too_much");
    assert_eq!(
        embedded.words(4),
        ["fork 1 slot=0 generation=0", "online 1", "disconnect 1 voluntary=false", "exit 1 signal=9 voluntary=false"]
    );
}

#[test]
fn one_that_has_closed_its_channel_is_told_apart_from_one_that_is_not_there() {
    let embedded = Embedded::of_role("worker_that_hangs_up_and_stays");
    embedded.words_until("disconnect 1 voluntary=false");
    assert_eq!(embedded.send(1, "hello?"), Err(Undelivered::Disconnected(WorkerId(1))));
}

#[test]
fn workers_that_leave_all_at_once_while_they_are_sent_messages_end_well() {
    for is_stopped_too in [false, true] {
        let mut settings = embedded::settings("worker_that_echoes");
        settings.plan.worker_count = 4;
        let embedded = Embedded::of(settings);
        let mut listening = 0;
        wait_until("all listen", || {
            listening += usize::from(embedded.word().starts_with("listening"));
            listening == 4
        });
        let leave = Body::of("leave").unwrap();
        assert_eq!(embedded.remote.ask(|answer| Command::Broadcast(leave, answer)).unwrap(), []);
        if is_stopped_too {
            // It may have ended with the last of them.
            let _ = embedded.remote.ask(|answer| Command::Stop(Stop::Graceful, answer));
        }
        let mut ends = Vec::new();
        while ends.len() < 8 {
            // Both ends of the channel go away at any time: that is a refusal, or nothing at all. At the end the
            // primary goes.
            let body = Body::of("are you there?").unwrap();
            let _ = embedded.remote.ask(|answer| Command::Broadcast(body, answer));
            let word = embedded.word();
            ends.extend((word.starts_with("exit") || word.starts_with("disconnect")).then_some(word));
        }
        for id in 1..=4 {
            let of_this_one: Vec<_> =
                ends.iter().filter(|word| word.split(' ').nth(1) == Some(&id.to_string())).collect();
            let expected = [format!("disconnect {id} voluntary=true"), format!("exit {id} code=0 voluntary=true")];
            assert_eq!(of_this_one, expected.each_ref(), "{is_stopped_too}");
        }
    }
}

#[test]
fn what_was_said_before_the_order_to_finish_is_heard_before_it() {
    let embedded = Embedded::of_role("worker_that_echoes");
    embedded.words_until("listening 1");
    for number in 0..MESSAGES_UNREAD_MAX {
        embedded.send(1, &number).unwrap();
    }
    embedded.ask_to_stop(Stop::Graceful);
    for number in 0..MESSAGES_UNREAD_MAX {
        assert_eq!(embedded.message().1.as_str(), number.to_string());
    }
    assert_eq!(embedded.words(2), ["disconnect 1 voluntary=true", "exit 1 code=0 voluntary=true"]);
}

/// Messages are received one by one: what goes wrong over one of them is no matter of the next.
#[test]
fn a_message_over_which_the_program_panics_does_not_cost_those_behind_it() {
    let embedded = Embedded::of_role("worker_that_panics_over_a_message");
    for text in ["first", "panic", "third"] {
        embedded.send(1, text).unwrap();
    }
    assert_eq!(embedded.message().1.as_str(), "\"first\"");
    assert_eq!(embedded.message().1.as_str(), "\"third\"");
}

#[test]
fn a_primary_that_does_not_read_or_is_gone_is_an_error_and_no_end_of_the_worker() {
    let directory = Directory::new();
    let go = format!("--env={GO}={}", directory.file("go"));
    let croupier = Croupier::of_role(&["--workers", "1", &go], "worker_that_talks_to_a_dying_primary");
    croupier.log().wait_for("worker 1 has joined");
    processes::stop(croupier.pid());
    std::fs::write(directory.file("go"), "").unwrap();
    croupier.log().wait_for("worker 1 would block");
    croupier.signal(Signal::SIGKILL);
    croupier.log().wait_for("worker 1 heard send=BrokenPipe receive=None disconnect=Ok(())");
}

// The workers.

/// Serves as any, sends every message back, and obeys a few.
struct Echo {
    worker: Worker,
    serves: roles::Good,
}

impl Server for Echo {
    type Session = ();

    fn open(&mut self, peer: Option<SocketAddr>) {
        self.serves.open(peer);
    }

    fn receive(&mut self, session: &mut (), exchange: &mut Exchange<'_>) -> Next {
        self.serves.receive(session, exchange)
    }

    fn message(&mut self, message: Message) {
        match message.body.as_str() {
            "\"leave\"" => self.worker.disconnect().unwrap(),
            "\"send a megabyte\"" => {
                let error = self.worker.send(&"x".repeat(1 << 20), None).unwrap_err();
                self.worker.send(&format!("{:?}: {error}", error.kind()), None).unwrap();
            }
            // The primary may have ended.
            _ => drop(self.worker.send(&message.body, message.fd.as_ref().map(AsFd::as_fd))),
        }
    }
}

#[test]
fn worker_that_echoes() {
    if roles::plays("worker_that_echoes") {
        let worker = roles::join();
        let serves = roles::Good::named(worker.id());
        let mut event_loop = EventLoop::new(Echo { worker: worker.clone(), serves }).unwrap();
        event_loop.listen(worker.listen_on_first(&ListenOptions::new()).unwrap()).unwrap();
        event_loop.run().unwrap();
        std::process::exit(0);
    }
}

/// It receives in the blocking way.
#[test]
fn worker_that_joins_late() {
    if roles::plays("worker_that_joins_late") {
        wait_for_file(&roles::variable(GO));
        let worker = roles::join();
        while let Some(message) = worker.messages().receive().unwrap() {
            worker.send(&message.body, message.fd.as_ref().map(AsFd::as_fd)).unwrap();
        }
    }
}

#[test]
fn worker_that_panics_over_a_message() {
    if roles::plays("worker_that_panics_over_a_message") {
        let worker = roles::join();
        while let Some(message) = worker.messages().receive().unwrap() {
            let serve = || {
                assert_ne!(message.body.as_str(), "\"panic\"");
                worker.send(&message.body, None).unwrap();
            };
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve));
        }
    }
}

fn wait_for_file(path: &str) {
    wait_until(path, || std::path::Path::new(path).exists());
}

#[test]
fn worker_that_speaks_and_exits() {
    if roles::plays("worker_that_speaks_and_exits") {
        let worker = roles::join();
        for number in 0..20 {
            worker.send(&(number, "x".repeat(60_000)), None).unwrap();
        }
        std::process::exit(42);
    }
}

/// Worker 1 does nothing else until it is ended, or for a while; the others serve.
#[test]
fn worker_that_floods_or_serves() {
    if roles::plays("worker_that_floods_or_serves") {
        if std::env::var(croupier::protocol::bootstrap::WORKER_ID).unwrap() != "1" {
            return roles::serve_well();
        }
        let bare = roles::Bare::listen();
        let body = Body::of(&"x".repeat(PACKET_MAX_BYTES - ENVELOPE_BYTES)).unwrap();
        let packet = control::encode(&FromWorker::Message { body });
        for _ in 0..100_000 {
            if bare.channel.send_packet(&packet, None, Wait::Block).is_err() {
                return;
            }
        }
    }
}

#[test]
fn worker_that_sends_too_many_descriptors() {
    if roles::plays("worker_that_sends_too_many_descriptors") {
        let channel = roles::claim();
        roles::hello(&channel);
        let say = |text: &str| channel.send(&FromWorker::Message { body: Body::of(text).unwrap() }, None).unwrap();
        for (packet, count, what) in
            [(&br#"{"type":"sing"}"#[..], 1, "unasked"), (br#"{"type":"message","body":"253"}"#, 253, "surplus")]
        {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            roles::send_with(channel.as_fd(), packet, &vec![writer.as_fd(); count]);
            drop(writer);
            File::from(reader).read_to_end(&mut Vec::new()).unwrap();
            say(&format!("{what}: closed"));
        }
    }
}

#[test]
fn worker_that_returns_too_much() {
    if roles::plays("worker_that_returns_too_much") {
        let channel = roles::claim();
        roles::hello(&channel);
        channel.send(&FromWorker::Consumed { messages: 1 }, None).unwrap();
        roles::wait_for_the_end();
    }
}

/// Without the library, which would not do that.
#[test]
fn worker_that_hangs_up_and_stays() {
    if roles::plays("worker_that_hangs_up_and_stays") {
        drop(roles::Bare::listen().channel);
        roles::wait_for_the_end();
    }
}

#[test]
fn worker_that_talks_to_a_dying_primary() {
    if roles::plays("worker_that_talks_to_a_dying_primary") {
        let worker = roles::join();
        let large = "x".repeat(60_000);
        roles::say("worker 1 has joined");
        wait_for_file(&roles::variable(GO));
        let blocked = (0..1000).find_map(|_| worker.try_send(&large, None).err()).expect("nobody reads");
        assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
        roles::say("worker 1 would block");
        // It sleeps here until the primary has died.
        let send = worker.send(&large, None).unwrap_err().kind();
        let receive = worker.messages().receive().unwrap().map(|message| message.body);
        let disconnect = worker.disconnect();
        roles::say(&format!("worker 1 heard send={send:?} receive={receive:?} disconnect={disconnect:?}"));
    }
}
