//! A TCP port that leads to a Unix socket, as `ssh -L` or socat make one: a browser cannot open a Unix socket itself.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{Shutdown, shutdown};

/// Dropping it closes the port. Connections end when either side ends them.
pub struct Forwarder {
    listener: TcpListener,
    address: SocketAddr,
}

impl Forwarder {
    pub fn start(path: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (accepting, address) = (listener.try_clone().unwrap(), listener.local_addr().unwrap());
        let path = path.to_owned();
        std::thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                // Nobody listens there now: the client sees its connection end.
                if let Ok(socket) = UnixStream::connect(&path) {
                    carry(&client, &socket);
                }
            }
        });
        Self { listener, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        end(&self.listener); // accept() fails now. Source: inet_csk_accept() in net/ipv4/inet_connection_sock.c.
    }
}

/// Both ways, until either side ends.
fn carry(client: &TcpStream, socket: &UnixStream) {
    let (from_client, to_client) = (client.try_clone().unwrap(), client.try_clone().unwrap());
    let (from_socket, to_socket) = (socket.try_clone().unwrap(), socket.try_clone().unwrap());
    std::thread::spawn(move || copy(from_client, to_socket));
    std::thread::spawn(move || copy(from_socket, to_client));
}

fn copy(mut from: impl Read + AsFd, mut to: impl Write + AsFd) {
    let _ = io::copy(&mut from, &mut to);
    end(&from);
    end(&to);
}

fn end(socket: &impl AsFd) {
    // It may have ended already.
    let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
}
