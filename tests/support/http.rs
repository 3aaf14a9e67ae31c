//! As much of HTTP/1.1 as the tests need, blocking: a client, and the answer of a worker.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::DEADLINE;

/// A request that keeps the connection.
pub const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
/// A request that ends it.
pub const LAST_REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";

/// A connection of a client. No read waits longer than [`DEADLINE`].
pub struct Client<S = TcpStream> {
    stream: S,
    received: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client<TcpStream> {
    pub fn connect(address: &str) -> io::Result<Self> {
        let address: SocketAddr = address.parse().expect("a socket address");
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self::on(stream))
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn own_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("it is connected")
    }

    /// Whether an answer, or an end, has begun to come.
    pub fn hears(&self) -> bool {
        self.stream.set_nonblocking(true).expect("it is a socket");
        let heard = self.stream.peek(&mut [0]).map_err(|error| error.kind());
        self.stream.set_nonblocking(false).expect("it is a socket");
        heard != Err(io::ErrorKind::WouldBlock)
    }

    /// Nothing comes for a while. An answer that should not come and comes later than that is not noticed; one that
    /// comes in time is.
    pub fn stays_silent(&self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("above 0");
        let silent = self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(DEADLINE)).expect("above 0");
        silent
    }
}

impl Client<UnixStream> {
    pub fn connect_unix(path: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self::on(stream))
    }
}

impl<S: Read + Write> Client<S> {
    pub fn on(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// One request on a connection that stays.
    pub fn get(&mut self) -> io::Result<Response> {
        self.send(REQUEST)?;
        self.response()
    }

    /// The next answer.
    pub fn response(&mut self) -> io::Result<Response> {
        let head_len = loop {
            match find(&self.received, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.receive()?,
            }
        };
        let head = String::from_utf8_lossy(&self.received[..head_len]).to_lowercase();
        let bad = || io::Error::new(io::ErrorKind::InvalidData, head.clone());
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body_len: usize = length.and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        while self.received.len() < head_len + body_len {
            self.receive()?;
        }
        let body = String::from_utf8_lossy(&self.received[head_len..head_len + body_len]).into_owned();
        self.received.drain(..head_len + body_len);
        Ok(Response { status, head, body })
    }

    /// Waits for `100 Continue`: somebody reads this request.
    pub fn proceed(&mut self) -> io::Result<()> {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        while self.received.len() < CONTINUE.len() {
            self.receive()?;
        }
        assert!(self.received.starts_with(CONTINUE), "{:?}", String::from_utf8_lossy(&self.received));
        self.received.drain(..CONTINUE.len());
        Ok(())
    }

    /// Reads to the end; what came since the last answer.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.received);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is not complete")),
            len => {
                self.received.extend_from_slice(&bytes[..len]);
                Ok(())
            }
        }
    }
}

impl Response {
    /// The id of the worker that answered.
    #[track_caller]
    pub fn worker(&self) -> u32 {
        let id = self.head.lines().find_map(|line| line.strip_prefix("x-worker: "));
        id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no worker is named in {self:?}"))
    }
}

/// One connection with one request.
pub fn get(address: &str) -> io::Result<Response> {
    let mut client = Client::connect(address)?;
    client.send(LAST_REQUEST)?;
    client.response()
}

/// The workers that answer the next requests, each on a connection of its own.
#[track_caller]
pub fn next_workers(address: &str, count: usize) -> Vec<u32> {
    (0..count).map(|_| get(address).unwrap().worker()).collect()
}

/// Whether these are the turns of `worker_count` workers, each in its place.
pub fn is_rotation(workers: &[u32], worker_count: usize) -> bool {
    let first: std::collections::BTreeSet<u32> = workers.iter().take(worker_count).copied().collect();
    first.len() == worker_count && workers.windows(worker_count + 1).all(|turn| turn[0] == turn[worker_count])
}

/// A worker's part: reads one request, answers it as `who`, and says that the connection ends. False if no request
/// came.
pub fn answer(mut stream: impl Read + Write, who: &str) -> io::Result<bool> {
    let mut received = Vec::new();
    while find(&received, b"\r\n\r\n").is_none() {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes)? {
            0 => return Ok(false),
            len => received.extend_from_slice(&bytes[..len]),
        }
    }
    let body = format!("hello from worker {who}\n");
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-worker: {who}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all([head, body].concat().as_bytes())?;
    Ok(true)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
