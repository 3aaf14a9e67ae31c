//! A worker in 15 lines: `croupier run --listen 127.0.0.1:8000 -- target/release/examples/echo`, or alone. An argument
//! is another address.

use std::io::{Read, Write};

use croupier::worker::{Connection, Listener};

fn main() -> std::io::Result<()> {
    // Under a primary: dealt connections. Alone: binds the address itself. The same program, unchanged.
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    let listener = Listener::bind(&address)?;
    for connection in listener.incoming() {
        let _ = serve(connection?); // a client that goes away is its own affair
    }
    Ok(()) // the primary is finishing, and everything it had dealt is served
}

fn serve(mut connection: Connection) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let len = connection.read(&mut request)?;
    connection.write_all(&request[..len]) // an ordinary socket; dropped: closed, and counted
}
