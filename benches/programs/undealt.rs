//! What `scripts/bench` compares croupier with: two servers of one port with nothing in front of them.
//!
//! Usage: `undealt reuse-port|shared PROGRAM [ARGUMENT...]` starts two of PROGRAM on a free port of 127.0.0.1, adding
//! `--listen ADDRESS --reuse-port`, or `--listen fd:N` for one listening socket that both inherit. It prints
//! `ADDRESS PID PID`, and ends when they have.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};

const SERVERS: usize = 2;
const BACKLOG: i32 = 4096;

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: undealt reuse-port|shared PROGRAM [ARGUMENT...]");
    let mut words = std::env::args_os().skip(1);
    let mode = words.next().ok_or_else(usage)?;
    let program = words.next().ok_or_else(usage)?;
    let mut arguments: Vec<OsString> = words.collect();
    // Keeps the port until the servers have it, and the listening socket until they have inherited it.
    let (socket, address) = match mode.to_str() {
        Some("reuse-port") => {
            let socket = reserve_port()?;
            let address = TcpListener::from(socket.try_clone()?).local_addr()?;
            arguments.extend(["--listen".into(), address.to_string().into(), "--reuse-port".into()]);
            (socket, address)
        }
        Some("shared") => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            rustix::net::listen(&listener, BACKLOG)?;
            rustix::io::fcntl_setfd(&listener, FdFlags::empty())?;
            arguments.extend(["--listen".into(), format!("fd:{}", listener.as_raw_fd()).into()]);
            let address = listener.local_addr()?;
            (listener.into(), address)
        }
        _ => return Err(usage()),
    };
    let start = |_| Command::new(&program).args(&arguments).spawn();
    let mut servers = (0..SERVERS).map(start).collect::<io::Result<Vec<Child>>>()?;
    let pids: Vec<String> = servers.iter().map(|server| server.id().to_string()).collect();
    println!("{address} {}", pids.join(" "));
    for server in &mut servers {
        server.wait()?;
    }
    drop(socket);
    Ok(())
}

/// A bound socket that never listens: the kernel gives it no connections.
fn reserve_port() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&socket, &any_port)?;
    Ok(socket)
}
