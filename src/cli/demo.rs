//! `croupier demo`: a small HTTP/1.1 server on the plain event loop, to try croupier with and to measure it by.

use std::net::SocketAddr;

use log::LevelFilter;

use super::arguments::DemoOptions;
use super::{Exit, Failure, log_writer};
use crate::worker::event_loop::{EventLoop, Exchange, Next, Server};
use crate::worker::{ListenOptions, Worker};

/// The longest request head; a longer one is answered with 431.
const HEAD_MAX_BYTES: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

pub(super) fn demo(options: &DemoOptions) -> Result<(), Failure> {
    let failed = |what: &str, error: std::io::Error| Failure::new(Exit::Failed, format!("{what}: {error}"));
    let worker = Worker::from_env().map_err(|error| failed("join the primary", error))?;
    let name = match &worker {
        Some(worker) => worker.id().to_string(),
        None => format!("pid-{}", std::process::id()),
    };
    let mut event_loop = EventLoop::new(Demo::new(&name)).map_err(|error| failed("start the event loop", error))?;
    if let Some(timeout) = options.idle_timeout {
        event_loop.idle_timeout(timeout);
    }
    log_writer::install(LevelFilter::Warn);
    let listen = ListenOptions::new().reuse_port(options.reuse_port);
    let declared = match &worker {
        Some(worker) if !options.reuse_port => worker.listen_on_first(&listen),
        Some(_) | None => Err(std::io::ErrorKind::AddrNotAvailable.into()),
    };
    let listener = match declared {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => listen.bind(&options.listen),
        other => other,
    };
    let listener = listener.map_err(|error| {
        Failure::new(Exit::CannotListen, format!("listen on {}: {error}; choose another --listen", options.listen))
    })?;
    event_loop.listen(listener).map_err(|error| failed("listen", error))?;
    event_loop.run().map_err(|error| failed("wait for events", error))
}

/// The server: every request is answered with the same bytes.
struct Demo {
    answer: Answer,
    last_answer: Answer,
}

/// A response with and without its body.
struct Answer {
    whole: Vec<u8>,
    head_len: usize,
}

/// What is left of the body of the last request: received and thrown away.
#[derive(Default)]
struct Session {
    body_left: u64,
    ends_after_body: bool,
}

/// What matters of a request head.
struct Request {
    head_len: usize,
    body_len: u64,
    is_head: bool,
    is_last: bool,
}

impl Demo {
    fn new(name: &str) -> Self {
        let body = format!("hello from worker {name}\n");
        let answer = |connection: &str| {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nx-worker: {name}\r\n\
                 {connection}\r\n",
                body.len()
            );
            Answer { head_len: head.len(), whole: [head.as_bytes(), body.as_bytes()].concat() }
        };
        Self { answer: answer(""), last_answer: answer("connection: close\r\n") }
    }
}

impl Server for Demo {
    type Session = Session;

    fn open(&mut self, _peer: Option<SocketAddr>) -> Session {
        Session::default()
    }

    fn receive(&mut self, session: &mut Session, exchange: &mut Exchange<'_>) -> Next {
        let mut used = 0;
        let next = loop {
            used += session.skip_body(exchange.input.len() - used);
            if session.body_left > 0 {
                break Next::Busy;
            }
            if session.ends_after_body {
                break Next::Close;
            }
            let input = &exchange.input[used..];
            if input.is_empty() {
                break Next::Idle;
            }
            let request = match read_head(input) {
                Ok(Some(request)) => request,
                Ok(None) if input.len() <= HEAD_MAX_BYTES => break Next::Busy,
                Ok(None) => break refuse(exchange.output, "431 Request Header Fields Too Large"),
                Err(_) => break refuse(exchange.output, "400 Bad Request"),
            };
            used += request.head_len;
            session.body_left = request.body_len;
            session.ends_after_body = request.is_last || exchange.draining;
            let answer = if session.ends_after_body { &self.last_answer } else { &self.answer };
            let len = if request.is_head { answer.head_len } else { answer.whole.len() };
            exchange.output.extend_from_slice(&answer.whole[..len]);
        };
        exchange.input.drain(..used);
        next
    }
}

impl Session {
    fn skip_body(&mut self, available: usize) -> usize {
        let skipped = self.body_left.min(available as u64);
        self.body_left -= skipped;
        skipped as usize
    }
}

fn refuse(output: &mut Vec<u8>, status: &str) -> Next {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    output.extend_from_slice(answer.as_bytes());
    Next::Close
}

/// `None`: the head is not complete yet.
fn read_head(input: &[u8]) -> Result<Option<Request>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_len) = parsed.parse(input)? else { return Ok(None) };
    let is_head = parsed.method == Some("HEAD");
    let mut request = Request { head_len, body_len: 0, is_head, is_last: parsed.version == Some(0) };
    for header in parsed.headers.iter() {
        let has = |word: &str| {
            let words = header.value.split(|byte| *byte == b',');
            words.map(<[u8]>::trim_ascii).any(|it| it.eq_ignore_ascii_case(word.as_bytes()))
        };
        if header.name.eq_ignore_ascii_case("connection") {
            request.is_last = has("close") || request.is_last && !has("keep-alive");
        } else if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).ok();
            request.body_len = text.and_then(|it| it.trim().parse().ok()).ok_or(httparse::Error::HeaderValue)?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            // Where a chunked body ends is more than a demo needs to know: answer, and end the connection.
            request.is_last = true;
        }
    }
    Ok(Some(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(demo: &mut Demo, session: &mut Session, input: &str, draining: bool) -> (Next, String, String) {
        let (mut input, mut output) = (input.as_bytes().to_vec(), Vec::new());
        let next = demo.receive(session, &mut Exchange { input: &mut input, output: &mut output, draining });
        (next, String::from_utf8(output).unwrap(), String::from_utf8(input).unwrap())
    }

    fn once(input: &str) -> (Next, String, String) {
        exchange(&mut Demo::new("7"), &mut Session::default(), input, false)
    }

    #[test]
    fn a_request_is_answered_and_the_connection_stays() {
        let (next, output, input) = once("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(output.ends_with("x-worker: 7\r\n\r\nhello from worker 7\n"), "{output}");
        assert_eq!((next, input.as_str()), (Next::Idle, ""));
    }

    #[test]
    fn pipelined_requests_are_all_answered_and_a_half_one_waits() {
        let (next, output, input) = once("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HT");
        assert_eq!(output.matches("200 OK").count(), 2);
        assert_eq!((next, input.as_str()), (Next::Busy, "GET / HT"));
    }

    #[test]
    fn the_connection_ends_when_the_client_or_the_version_or_the_drain_says_so() {
        assert_eq!(once("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").0, Next::Close);
        assert_eq!(once("GET / HTTP/1.0\r\n\r\n").0, Next::Close);
        assert_eq!(once("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").0, Next::Idle);
        let (next, output, _) = exchange(&mut Demo::new("7"), &mut Session::default(), "GET / HTTP/1.1\r\n\r\n", true);
        assert!(next == Next::Close && output.contains("connection: close"));
    }

    #[test]
    fn a_body_is_swallowed_even_in_pieces() {
        let (mut demo, mut session) = (Demo::new("7"), Session::default());
        let head = "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab";
        assert_eq!(exchange(&mut demo, &mut session, head, false).0, Next::Busy);
        let (next, output, _) = exchange(&mut demo, &mut session, "cdeGET / HTTP/1.1\r\n\r\n", false);
        assert_eq!((next, output.matches("200 OK").count()), (Next::Idle, 1));
    }

    #[test]
    fn head_gets_no_body_and_nonsense_an_error() {
        assert!(once("HEAD / HTTP/1.1\r\n\r\n").1.ends_with("\r\n\r\n"));
        assert!(once("\x01\x02\r\n\r\n").1.contains("400"));
        assert!(once("POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n").1.contains("400"));
        assert!(once(&format!("GET /{} ", "x".repeat(HEAD_MAX_BYTES))).1.contains("431"));
    }
}
