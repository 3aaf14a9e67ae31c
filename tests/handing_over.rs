//! Descriptors that an embedder and its workers hand over by messages: they are the receiver's then, and nobody keeps a
//! copy.

#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use croupier::primary::commands::Signal;
use croupier::worker::Worker;

use support::embedded::{self, Embedded};
use support::http::{self, Client};
use support::{Croupier, roles};

const WORKERS: u32 = 3;

/// Workers of this role, which may not be ready yet: what they are sent waits for them.
fn start(role: &str) -> Embedded {
    let mut settings = embedded::settings(role);
    settings.plan.worker_count = WORKERS;
    Embedded::of(settings)
}

/// A client with its request, and the other end of its connection.
fn client(listener: &TcpListener) -> (Client, OwnedFd) {
    let mut client = Client::connect(&listener.local_addr().unwrap().to_string()).unwrap();
    client.send(http::LAST_REQUEST).unwrap();
    let (connection, _) = listener.accept().unwrap();
    (client, connection.into())
}

#[test]
fn a_connection_is_served_and_ended_by_the_worker_that_was_given_it() {
    let embedded = start("worker_that_is_given_things");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    for number in 0..12 {
        let (client, connection) = client(&listener);
        let worker = 1 + number % WORKERS;
        embedded.send_with(worker, "serve", Some(connection)).unwrap();
        clients.push((client, worker));
    }
    for (mut client, worker) in clients {
        assert_eq!(client.response().unwrap().worker(), worker);
        assert_eq!(client.rest().unwrap(), b"", "its worker's copy was the last one");
    }
}

#[test]
fn connections_end_with_the_worker_that_was_given_them_however_it_ends() {
    let embedded = start("worker_that_is_given_things");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    for number in 0..12 {
        let (client, connection) = client(&listener);
        embedded.send_with(1 + number % WORKERS, "keep", Some(connection)).unwrap();
        clients.push(client);
    }
    for _ in 0..12 {
        assert_eq!(embedded.message().1.as_str(), "\"kept\"");
    }
    embedded.send(1, "end them").unwrap();
    embedded.disconnect(2).unwrap();
    embedded.kill(3, Signal::SIGKILL).unwrap();
    for mut client in clients {
        // With its request unread it is a reset.
        let rest = client.rest();
        assert!(rest.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, Vec::is_empty));
    }
}

#[test]
fn a_listening_socket_is_shared_with_the_worker_that_was_given_it() {
    let embedded = Embedded::of_role("worker_that_is_given_things");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    embedded.send_with(1, "accept", Some(listener.try_clone().unwrap().into())).unwrap();
    assert_eq!(http::get(&address).unwrap().worker(), 1, "it accepts there");
    assert_eq!(embedded.message().1.as_str(), "\"accepted\"");
    let _client = TcpStream::connect(&address).unwrap();
    listener.accept().expect("and so do we");
}

#[test]
fn the_same_descriptor_can_be_sent_twice() {
    let embedded = Embedded::of_role("worker_that_is_given_things");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    embedded.send_with(1, "return twice", Some(writer)).unwrap();
    for _ in 0..2 {
        let (_, _, fd) = embedded.message();
        nix::unistd::write(fd.unwrap(), b"x").unwrap();
    }
    let mut heard = String::new();
    File::from(reader).read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "xx");
}

/// The command has no use for messages.
#[test]
fn what_is_sent_to_a_primary_that_nobody_listens_to_is_closed() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "worker_that_gives_to_nobody");
    croupier.log().wait_for("worker 1: nobody has kept it");
    assert_eq!(croupier.terminate(), Some(0));
}

// The workers.

#[test]
fn worker_that_is_given_things() {
    if roles::plays("worker_that_is_given_things") {
        let worker = roles::join();
        std::thread::spawn({
            let worker = worker.clone();
            move || receive_all(&worker)
        });
        // On no listener, and so until it is told to finish.
        let mut fds = [nix::poll::PollFd::new(worker.drain_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
        std::process::exit(0);
    }
}

fn receive_all(worker: &Worker) {
    let id = worker.id().to_string();
    let mut kept = Vec::new();
    while let Some(message) = worker.messages().receive().unwrap() {
        let text: String = message.body.parse().unwrap();
        match (text.as_str(), message.fd) {
            ("serve", Some(fd)) => _ = http::answer(TcpStream::from(fd), &id).unwrap(),
            ("keep", Some(fd)) => {
                kept.push(fd);
                worker.send("kept", None).unwrap();
            }
            ("end them", None) => kept.clear(),
            ("accept", Some(fd)) => {
                http::answer(TcpListener::from(fd).accept().unwrap().0, &id).unwrap();
                worker.send("accepted", None).unwrap();
            }
            ("return twice", Some(fd)) => (0..2).for_each(|_| worker.send("here", Some(fd.as_fd())).unwrap()),
            (other, fd) => panic!("{other} with {fd:?}"),
        }
    }
}

#[test]
fn worker_that_gives_to_nobody() {
    if roles::plays("worker_that_gives_to_nobody") {
        let worker = roles::join();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        worker.send("for whoever listens", Some(writer.as_fd())).unwrap();
        drop(writer);
        assert_eq!(File::from(reader).read(&mut [0]).unwrap(), 0, "up to the end of the last copy");
        roles::say(&format!("worker {}: nobody has kept it", worker.id()));
        roles::serve_well();
        std::process::exit(0);
    }
}
