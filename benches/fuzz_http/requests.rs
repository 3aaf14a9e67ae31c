//! Good requests, and bad ones made of them.

use super::chance::Chance;

/// What both doors know, and what they do not.
const GOOD: [&str; 24] = [
    "GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /livez HTTP/1.1\r\nhost: 127.0.0.1:3001\r\nconnection: close\r\n\r\n",
    "GET /readyz HTTP/1.0\r\n\r\n",
    "GET /ecv HTTP/1.1\r\nhost: [::1]:80\r\nuser-agent: x/1\r\naccept: */*\r\n\r\n",
    "HEAD /ecv HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /events?with=status,output HTTP/1.1\r\nhost: localhost\r\nlast-event-id: 7\r\n\r\n",
    "POST /ecv/disable HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\ncontent-length: 0\r\n\r\n",
    "POST /ecv/enable HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "POST /scale HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\n{\"workers\": \"many\"",
    "POST /scale HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"wor\r\n0\r\n\r\n",
    "POST /scale HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\r\n[[[[[[[[[[",
    "POST /workers/x/kill HTTP/1.1\r\nhost: x\r\n\r\n",
    "POST /workers/%ff/disconnect HTTP/1.1\r\nhost: x\r\n\r\n",
    "PUT /status HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc",
    "OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n\r\n",
    "TRACE / HTTP/1.1\r\nhost: localhost\r\nmax-forwards: 0\r\n\r\n",
    "GET http://localhost/status HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /../../etc/passwd?x=%00#y HTTP/1.1\r\nhost: localhost\r\ncookie: a=b; c=\r\n\r\n",
    "GET /status HTTP/1.1\r\nhost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
];

/// What parsers stumble over.
const TOKENS: [&[u8]; 20] = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\r\n\r\n",
    b": ",
    b" HTTP/1.1",
    b"HTTP/9.9",
    b"%00%0d%0a",
    b"\xff\xfe\xc0\x80",
    b"\xe2\x80\xae",
    b"content-length: 18446744073709551616\r\n",
    b"content-length: -1\r\n",
    b"content-length: 5\r\ncontent-length: 6\r\n",
    b"transfer-encoding: chunked\r\n",
    b"ffffffffffffffff\r\n",
    b"host: evil.example\r\n",
    b"origin: null\r\n",
    b"expect: 100-continue\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
];

/// What must not get through by chance: it would be obeyed.
const OBEYED: [&str; 6] = ["/reload", "/upgrade", "/shutdown", "/stop", "/kill", "/disconnect"];

/// The most changes of one request.
const CHANGES_MAX: usize = 4;
/// Longer than the head of a request may be.
const LONG_BYTES: usize = 20 * 1024;

/// A request that the primary would not obey, whatever it is.
pub fn bad(chance: &mut Chance) -> Vec<u8> {
    loop {
        let mut request = GOOD[chance.below(GOOD.len())].as_bytes().to_vec();
        for _ in 0..chance.below(CHANGES_MAX + 1) {
            change(&mut request, chance);
        }
        if is_harmless(&request) {
            return request;
        }
    }
}

fn change(request: &mut Vec<u8>, chance: &mut Chance) {
    let at = chance.below(request.len() + 1);
    let end = (at + 1 + chance.below(16)).min(request.len());
    match chance.below(10) {
        0 | 1 if at < request.len() => request[at] = chance.below(256) as u8,
        2 if at < request.len() => request[at] ^= 1 << chance.below(8),
        3 => drop(request.drain(at..end.max(at))),
        4 => {
            let copy = request[at..end.max(at)].to_vec();
            request.splice(at..at, copy);
        }
        5 => request.truncate(at),
        6 => {
            let other = GOOD[chance.below(GOOD.len())].as_bytes();
            request.splice(at.., other[chance.below(other.len())..].iter().copied());
        }
        7 if chance.below(10) == 0 => drop(request.splice(at..at, vec![b'a'; LONG_BYTES])),
        7 if chance.below(10) == 0 => drop(request.splice(at..at, b"x: y\r\n".repeat(200))),
        _ => {
            let token = TOKENS[chance.below(TOKENS.len())];
            request.splice(at..at, token.iter().copied());
        }
    }
}

/// `POST /workers/x/kill` is harmless as long as there is no number in it.
fn is_harmless(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let asks = |path: &str| text.split("POST ").skip(1).any(|rest| rest.split("HTTP").next().unwrap().contains(path));
    let has_number = |text: &str| text.contains(|it: char| it.is_ascii_digit());
    let scales =
        asks("/scale") && text.split("\r\n\r\n").skip(1).any(|body| body.contains("\"workers\"") && has_number(body));
    let targets = |path: &str| {
        let workers = text.split("/workers/").skip(1);
        ["/kill", "/disconnect"].contains(&path) && !workers.clone().any(|id| has_number(id.split('/').next().unwrap()))
    };
    !scales && OBEYED.iter().all(|path| !asks(path) || targets(path))
}
