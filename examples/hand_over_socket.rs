//! Two doors. Behind the first one croupier deals connections in turn. At the second one the program accepts itself:
//! the client says which worker it wants, and that one gets the socket, by message.
//!
//! `hand_over_socket`, then `nc 127.0.0.1 PORT` at either door; at the second one say a number from 1 to 3.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use croupier::primary::settings::Command;
use croupier::primary::{Cluster, RunningCluster};
use croupier::protocol::ids::WorkerId;
use croupier::worker::{ListenOptions, Worker};

fn main() -> Result<(), Box<dyn Error>> {
    match Worker::from_env()? {
        Some(worker) => Ok(serve(&worker)?),
        None => keep_doors(),
    }
}

/// The primary.
fn keep_doors() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::of(Command::of_this_program()?).workers(3).listen("127.0.0.1:0").start()?;
    let door = TcpListener::bind("127.0.0.1:0")?;
    println!("in turn: {}", cluster.addresses()[0]);
    println!("by number: {}", door.local_addr()?);
    for client in door.incoming() {
        let _ = hand_over(client?, &cluster); // a client that goes away is its own affair
    }
    Ok(())
}

fn hand_over(mut client: TcpStream, cluster: &RunningCluster) -> io::Result<()> {
    // Exactly what it says to the door and not a byte more: the rest is the worker's. Nobody waits longer for it.
    let mut wish = [0; 2];
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    client.read_exact(&mut wish)?;
    client.set_read_timeout(None)?;
    let worker = WorkerId(u32::from(wish[0].wrapping_sub(b'0')));
    let apology = client.try_clone()?;
    // The message and the socket go together, and are kept until the worker reads. The primary closes what it sent:
    // when this function has closed its copy too, the connection is the worker's alone, and ends when it closes it.
    match cluster.send(worker, "a guest of yours", Some(client.into())) {
        Ok(()) => Ok(()),
        Err(error) => writeln!(&apology, "sorry: {error}"),
    }
}

/// A worker: some connections are dealt to it, others come by message. It says which.
fn serve(worker: &Worker) -> io::Result<()> {
    let listener = worker.listen_on_first(&ListenOptions::new())?;
    let (id, messages) = (worker.id(), worker.messages());
    std::thread::spawn(move || {
        while let Ok(Some(message)) = messages.receive() {
            if let Some(socket) = message.fd {
                let _ = writeln!(TcpStream::from(socket), "handed over to worker {id}");
            }
        }
    });
    for connection in listener.incoming() {
        let _ = writeln!(connection?, "dealt to worker {id}");
    }
    Ok(()) // the primary is finishing
}
