//! One client: connects, asks, reads the answer, and perhaps asks again after a pause. Never sleeps.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: torture\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: torture\r\nconnection: close\r\n\r\n";
/// Clients come from so many addresses, so that none of them runs out of ports.
const SOURCES: u8 = 32;

/// What a client wants to do.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// How many requests it sends, one after the other.
    pub requests: u32,
    /// How long it is idle between them.
    pub pause: Duration,
}

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// When the client began: the connect if it was its first request.
    pub asked: Instant,
    /// How long it waited.
    pub waited: Duration,
    /// Who answered.
    pub worker: u32,
}

/// How a client failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it noticed.
    pub at: Instant,
    /// When it connected.
    pub opened: Instant,
    /// When it last sent a request, or began to connect.
    pub asked: Instant,
    pub what: What,
    pub moment: Moment,
    /// Answers that it had had.
    pub answered: u32,
    /// Who gave the last one.
    pub worker: Option<u32>,
    pub address: Option<SocketAddr>,
}

/// What a client saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Nobody listens.
    Refused,
    /// Reset, or another error.
    Reset(io::ErrorKind),
    /// FIN where an answer was due, or between requests.
    Ended,
    /// Nothing, for longer than its patience.
    Hung,
    /// An answer that is none.
    Nonsense,
}

/// What it was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Connecting,
    /// A request was sent, or is half sent, and not answered.
    Waiting,
    /// Between two requests.
    Idle,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Goes,
    Answered(u32),
    /// Its errand is done, or the server has said in an answer that the connection ends.
    Done(u32),
    Failed(What),
}

/// A client.
pub struct Client {
    pub stream: TcpStream,
    errand: Errand,
    moment: Moment,
    opened: Instant,
    asked: Instant,
    /// When the pause is over.
    pub resumes: Option<Instant>,
    answered: u32,
    asked_last: bool,
    worker: Option<u32>,
    received: Vec<u8>,
}

impl Client {
    /// Begins to connect. `number` chooses the address that it comes from.
    pub fn connect(to: SocketAddr, errand: Errand, number: u64) -> io::Result<Self> {
        let opened = Instant::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1 + (number % u64::from(SOURCES)) as u8));
        socket.bind(&SocketAddr::new(source, 0).into())?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            errand,
            moment: Moment::Connecting,
            opened,
            asked: opened,
            resumes: None,
            answered: 0,
            asked_last: false,
            worker: None,
            received: Vec::new(),
        })
    }

    /// Does what it can after an event.
    pub fn advance(&mut self, is_last: bool) -> Step {
        if self.moment == Moment::Connecting {
            match self.stream.take_error() {
                Ok(None) if self.stream.peer_addr().is_ok() => {}
                Ok(None) => return Step::Goes,
                Ok(Some(error)) | Err(error) => return Step::Failed(what(&error)),
            }
            if let Err(error) = self.ask(is_last) {
                return Step::Failed(what(&error));
            }
        }
        self.receive()
    }

    /// Sends the next request after a pause.
    pub fn resume(&mut self, is_last: bool) -> Step {
        self.resumes = None;
        // An end that came during the pause met an idle client.
        let ended = self.receive();
        if ended != Step::Goes {
            return ended;
        }
        self.asked = Instant::now();
        match self.ask(is_last) {
            Ok(()) => self.receive(),
            Err(error) => Step::Failed(what(&error)),
        }
    }

    fn ask(&mut self, is_last: bool) -> io::Result<()> {
        self.moment = Moment::Waiting;
        self.asked_last = is_last || self.answered + 1 >= self.errand.requests;
        let request = if self.asked_last { LAST_REQUEST } else { REQUEST };
        // The socket's buffer is empty: it takes all of it.
        self.stream.write_all(request)
    }

    fn receive(&mut self) -> Step {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Step::Failed(What::Ended),
                Ok(len) => self.received.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Goes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Step::Failed(what(&error)),
            }
            match read_answer(&self.received) {
                Ok(None) => {}
                Ok(Some((worker, ends))) if self.moment == Moment::Waiting => return self.note(worker, ends),
                _ => return Step::Failed(What::Nonsense),
            }
        }
    }

    fn note(&mut self, worker: u32, ends: bool) -> Step {
        self.received.clear();
        self.answered += 1;
        self.worker = Some(worker);
        self.moment = Moment::Idle;
        if ends || self.answered >= self.errand.requests {
            return Step::Done(worker);
        }
        self.resumes = Some(Instant::now() + self.errand.pause);
        Step::Answered(worker)
    }

    pub fn answer(&self, worker: u32) -> Answer {
        Answer { asked: self.asked, waited: self.asked.elapsed(), worker }
    }

    /// The server has ended the connection, in an answer, before the client wanted to.
    pub fn was_sent_away(&self) -> bool {
        !self.asked_last
    }

    pub fn failure(&self, what: What) -> Failure {
        Failure {
            at: Instant::now(),
            opened: self.opened,
            asked: self.asked,
            what,
            moment: self.moment,
            answered: self.answered,
            worker: self.worker,
            address: self.stream.local_addr().ok(),
        }
    }

    /// Waits for something since when.
    pub fn waits_since(&self) -> Option<Instant> {
        (self.moment != Moment::Idle).then_some(self.asked)
    }
}

/// What an error of a socket means.
pub fn what(error: &io::Error) -> What {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => What::Refused,
        kind => What::Reset(kind),
    }
}

/// The worker that a whole answer names, and whether the connection ends with it. `None`: it is not whole yet.
fn read_answer(received: &[u8]) -> Result<Option<(u32, bool)>, ()> {
    let Some(head_len) = received.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&received[..head_len]).map_err(|_| ())?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(());
    }
    let field = |name: &str| {
        let is_it = |line: &&str| line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
        head.lines().find(is_it).map(|line| &line[name.len()..])
    };
    let body_len: usize = field("content-length: ").and_then(|text| text.parse().ok()).ok_or(())?;
    // A demo worker that listens itself says its pid.
    let worker = field("x-worker: ").and_then(|text| text.trim_start_matches("pid-").parse().ok()).ok_or(())?;
    match received.len().cmp(&(head_len + 4 + body_len)) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some((worker, field("connection: close").is_some()))),
        std::cmp::Ordering::Greater => Err(()),
    }
}
