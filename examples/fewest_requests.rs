//! A policy of one's own: the next connection goes to whoever has had the fewest. A worker that comes later gets all
//! of them until it has caught up; in rotation it would get its share, and no more.
//!
//! `fewest_requests [ADDRESS]`, then `nc 127.0.0.1 8000` as often as you like; `fork` and Enter adds a worker, Enter
//! alone ends and says who had how many.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;

use croupier::primary::policy::{Choice, Policy, PolicyKind};
use croupier::primary::settings::Command;
use croupier::primary::{Cluster, RunningCluster};
use croupier::worker::{ListenOptions, Worker};

/// It is asked once per connection, in the primary's only thread, and sees nobody but workers that have room.
#[derive(Debug)]
struct FewestRequests;

impl Policy for FewestRequests {
    fn choose(&mut self, _client: Option<SocketAddr>, choices: &[Choice]) -> usize {
        // The first is the one whose turn it is: among equals the rotation goes on.
        let fewest = choices.iter().enumerate().min_by_key(|(_, choice)| choice.taken + choice.untaken);
        fewest.map_or(0, |(index, _)| index)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    match Worker::from_env()? {
        Some(worker) => Ok(serve(&worker)?),
        None => run(),
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    let policy = PolicyKind::custom("fewest-requests", || FewestRequests);
    let cluster = Cluster::of(Command::of_this_program()?).workers(2).policy(policy).listen(&address).start()?;
    println!("dealing {}; fork, or Enter to end", cluster.addresses()[0]);
    for line in io::stdin().lines() {
        match line?.as_str() {
            "fork" => println!("worker {} comes", cluster.fork(&[])?),
            _ => break,
        }
    }
    tell(&cluster)?;
    cluster.shutdown()?;
    Ok(())
}

fn tell(cluster: &RunningCluster) -> Result<(), Box<dyn Error>> {
    for worker in cluster.status()?.workers {
        println!("worker {} had {}", worker.id, worker.taken);
    }
    Ok(())
}

/// One line for everybody who connects.
fn serve(worker: &Worker) -> io::Result<()> {
    let listener = worker.listen_on_first(&ListenOptions::new())?;
    println!("worker {} listens", worker.id());
    for connection in listener.incoming() {
        let _ = writeln!(connection?, "{}", worker.id()); // a client that goes away is its own affair
    }
    Ok(())
}
