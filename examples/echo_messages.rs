//! Messages both ways: three workers each say a few things, the primary sends everything back, and they leave.
//!
//! Messages are any JSON. This program starts itself as its workers, which listen on nothing.

use std::error::Error;
use std::io;

use croupier::primary::Cluster;
use croupier::primary::events::Event;
use croupier::primary::settings::Command;
use croupier::primary::supervisor::Respawn;
use croupier::worker::Worker;

const WORKERS: u32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    match Worker::from_env()? {
        Some(worker) => Ok(talk(&worker)?),
        None => echo(),
    }
}

/// The primary.
fn echo() -> Result<(), Box<dyn Error>> {
    // Workers that have ended are not replaced, and the cluster goes on without any, until it is told to end.
    let cluster = Cluster::of(Command::of_this_program()?).workers(WORKERS).respawn(Respawn::Never).start()?;
    let mut running = WORKERS;
    while running > 0 {
        match cluster.events().recv()? {
            Event::Message { worker, body, .. } => {
                println!("worker {worker} says {body}");
                // Kept until the worker reads it. It may have ended in the meantime: that is no reason to end too.
                if let Err(error) = cluster.send(worker, &body, None) {
                    println!("no echo: {error}");
                }
            }
            Event::Exit { worker, exit, voluntary } => {
                println!("worker {worker} has ended: {exit} voluntary={voluntary}");
                running -= 1;
            }
            _ => {} // fork, online, disconnect: see croupier::primary::events
        }
    }
    cluster.shutdown()?;
    Ok(())
}

/// A worker.
fn talk(worker: &Worker) -> io::Result<()> {
    for count in 1..=3 {
        worker.send(&("hello", count), None)?;
        match worker.messages().receive()? {
            Some(echo) => println!("worker {} hears {}", worker.id(), echo.body),
            None => return Ok(()), // the primary has gone
        }
    }
    // Tells the primary that this is no failure: `voluntary=true`.
    worker.disconnect()
}
