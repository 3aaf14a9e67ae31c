//! Workers serve, the primary counts: `count_requests [ADDRESS]`, then `curl http://127.0.0.1:8000/` a few times.
//!
//! The classic of Node's documentation of `cluster`. One program is both: started by hand it is the primary, which
//! starts it again as its workers; those find the primary in their environment.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use croupier::primary::Cluster;
use croupier::primary::events::Event;
use croupier::primary::settings::Command;
use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};
use croupier::worker::{ListenOptions, Worker};

fn main() -> Result<(), Box<dyn Error>> {
    match Worker::from_env()? {
        Some(worker) => Ok(serve(worker)?),
        None => count(),
    }
}

/// The primary: it accepts and deals in a thread of its own, and this program has nothing to do but to listen.
fn count() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    let cluster = Cluster::of(Command::of_this_program()?).listen(&address).start()?;
    println!("counting requests to {}; Enter ends", cluster.addresses()[0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut requests = 0;
            // The events end with the cluster, and so does this thread.
            for event in cluster.events() {
                if let Event::Message { worker, body, .. } = event {
                    requests += 1;
                    println!("requests={requests} worker={worker} path={body}");
                }
            }
        });
        let _ = io::stdin().read_line(&mut String::new());
        // Everybody is served to the end. Without this, dropping the cluster would stop it at once.
        cluster.shutdown()
    })?;
    Ok(())
}

/// A worker: connections are dealt to it, and whatever it sends goes to the primary.
fn serve(worker: Worker) -> io::Result<()> {
    let listener = worker.listen_on_first(&ListenOptions::new())?;
    let mut event_loop = EventLoop::new(Hello { worker })?;
    event_loop.listen(listener)?;
    event_loop.run()
}

struct Hello {
    worker: Worker,
}

impl Server for Hello {
    type Session = ();

    fn open(&mut self, _peer: Option<SocketAddr>) {}

    fn receive(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Next {
        if !exchange.input.ends_with(b"\r\n\r\n") {
            return Next::Busy;
        }
        let request = String::from_utf8_lossy(exchange.input);
        let path = request.split(' ').nth(1).unwrap_or_default();
        // A primary that has gone counts no more; this request is answered all the same.
        let _ = self.worker.send(path, None);
        exchange.input.clear();
        let id = self.worker.id();
        let body = format!("hello from worker {id}\n");
        let head = format!("HTTP/1.1 200 OK\r\nx-worker: {id}\r\ncontent-length: {}\r\n\r\n", body.len());
        exchange.output.extend_from_slice((head + &body).as_bytes());
        if exchange.draining { Next::Close } else { Next::Idle }
    }
}
