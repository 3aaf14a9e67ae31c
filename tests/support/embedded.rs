//! A primary inside the test program, as an embedder has one: it runs in a thread, is told what to do by commands, and
//! tells what happens by events. Its workers are the test program in the part of a role.

use std::thread::JoinHandle;

use crossbeam_channel::Receiver;
use croupier::primary::address::Address;
use croupier::primary::commands::{Command, Refused, Remote, Signal, Undelivered};
use croupier::primary::events::Event;
use croupier::primary::listener_spec::ListenerSpec;
use croupier::primary::settings::{self, Settings};
use croupier::primary::status::Status;
use croupier::primary::supervisor::{Outcome, Plan, Respawn, Stop};
use croupier::primary::{Ending, Primary};
use croupier::protocol::body::Body;
use croupier::protocol::ids::WorkerId;
use serde::Serialize;

use super::{DEADLINE, roles};

/// A running primary. Dropping it stops it at once.
pub struct Embedded {
    pub remote: Remote,
    events: Receiver<Event>,
    thread: Option<JoinHandle<Ending>>,
    address: String,
}

/// The command of a worker of `role`.
pub fn command(role: &str) -> settings::Command {
    let mut words = roles::command(role).into_iter();
    let command = settings::Command::new(words.next().expect("it begins with the program"));
    words.fold(command, settings::Command::argument).variable(roles::ROLE, role)
}

/// One worker of `role` on a port of the kernel's choice, which is not replaced when it ends.
pub fn settings(role: &str) -> Settings {
    Settings {
        listeners: vec![listener("127.0.0.1:0")],
        plan: Plan { respawn: Respawn::Never, ..Plan::of(1) },
        ..Settings::of(command(role))
    }
}

/// A listener to declare.
pub fn listener(address: &str) -> ListenerSpec {
    address.parse::<Address>().expect("it is an address").into()
}

impl Embedded {
    /// With these settings. Every event from the first one on is heard.
    pub fn of(settings: Settings) -> Self {
        Self::with_capacity(settings, 10_000)
    }

    /// The same with room for so many events.
    pub fn with_capacity(settings: Settings, capacity: usize) -> Self {
        let mut primary = Primary::bind(settings).expect("the port is the kernel's choice");
        let (remote, events) = (primary.remote(), primary.subscribe(capacity));
        let address = primary.addresses().next().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::spawn(move || primary.run().expect("epoll works"));
        Self { remote, events, thread: Some(thread), address }
    }

    pub fn of_role(role: &str) -> Self {
        Self::of(settings(role))
    }

    /// Of the first listener.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next event.
    #[track_caller]
    pub fn event(&self) -> Event {
        self.events.recv_timeout(DEADLINE).expect("the next event comes in time")
    }

    /// The next event in [`word`]s.
    #[track_caller]
    pub fn word(&self) -> String {
        word(&self.event())
    }

    /// So many of them.
    #[track_caller]
    pub fn words(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.word()).collect()
    }

    /// Those up to the one that says `last`.
    #[track_caller]
    pub fn words_until(&self, last: &str) -> Vec<String> {
        let mut words = Vec::new();
        while words.last().is_none_or(|word| word != last) {
            match self.events.recv_timeout(DEADLINE) {
                Ok(event) => words.push(word(&event)),
                Err(_) => panic!("no {last:?} after {words:#?}"),
            }
        }
        words
    }

    /// The next message, and what came with it. Other events are skipped.
    #[track_caller]
    pub fn message(&self) -> (u32, Body, Option<std::sync::Arc<std::os::fd::OwnedFd>>) {
        loop {
            if let Event::Message { worker, body, fd } = self.event() {
                return (worker.0, body, fd);
            }
        }
    }

    pub fn send(&self, worker: u32, body: &(impl Serialize + ?Sized)) -> Result<(), Undelivered> {
        self.send_with(worker, body, None)
    }

    pub fn send_with(
        &self,
        worker: u32,
        body: &(impl Serialize + ?Sized),
        fd: Option<std::os::fd::OwnedFd>,
    ) -> Result<(), Undelivered> {
        let (worker, body) = (WorkerId(worker), Body::of(body).expect("it is JSON"));
        self.remote.ask(|answer| Command::Send { worker, body, fd, answer }).expect("the primary answers")
    }

    pub fn kill(&self, worker: u32, signal: Signal) -> Result<(), Refused> {
        self.remote.ask(|answer| Command::Kill(WorkerId(worker), signal, answer)).expect("the primary answers")
    }

    pub fn disconnect(&self, worker: u32) -> Result<(), Refused> {
        self.remote.ask(|answer| Command::Disconnect(WorkerId(worker), answer)).expect("the primary answers")
    }

    pub fn status(&self) -> Status {
        self.remote.ask(Command::Status).expect("the primary answers")
    }

    /// The process of a worker that lives.
    pub fn pid(&self, worker: u32) -> i32 {
        let workers = self.status().workers;
        workers.iter().find(|it| it.id == worker).map(|it| it.pid).expect("it lives")
    }

    pub fn ask_to_stop(&self, stop: Stop) {
        self.remote.ask(|answer| Command::Stop(stop, answer)).expect("the primary answers");
    }

    /// A graceful stop.
    pub fn stop(mut self) -> Outcome {
        self.ask_to_stop(Stop::Graceful);
        self.wait_end()
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self) -> Outcome {
        let thread = self.thread.take().expect("nobody has waited before");
        thread.join().expect("a primary never panics").outcome
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It has ended already.
            let _ = self.remote.ask(|answer| Command::Stop(Stop::Fast, answer));
            let _ = thread.join();
        }
    }
}

/// An event as `message 1 "body"`; numbers by chance (pids, ports) are left out.
pub fn word(event: &Event) -> String {
    match event {
        Event::Fork { worker, slot, generation, .. } => format!("fork {worker} slot={slot} generation={generation}"),
        Event::Online { worker } => format!("online {worker}"),
        Event::Listening { worker, .. } => format!("listening {worker}"),
        Event::Message { worker, body, fd } => {
            format!("message {worker} {body}{}", if fd.is_some() { " with a descriptor" } else { "" })
        }
        Event::Disconnect { worker, voluntary } => format!("disconnect {worker} voluntary={voluntary}"),
        Event::Exit { worker, exit, voluntary } => format!("exit {worker} {exit} voluntary={voluntary}"),
        other => format!("{other:?}"),
    }
}
