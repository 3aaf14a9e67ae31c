//! The attack: many clients at both doors, and what the primary is like before and after.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::chance::Chance;
use super::requests;
use crate::support::http;
use crate::support::{Croupier, processes, until};

/// Clients at once.
const CLIENTS: usize = 4;
/// How long an answer is waited for before the request's end is said: many requests are not complete.
const PATIENCE: Duration = Duration::from_millis(3);
/// How long a connection may take to end after that. The primary's own limits are shorter.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at the dealing, in requests of one client.
const LOOK_EVERY: usize = 500;
/// Requests before the first look at the size: what is allocated once is there then.
const WARM_UP: usize = 2_000;
/// How much the primary may grow: an allocator's noise.
const GROWTH_MAX_KIB: u64 = 2 * 1024;

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub requests: usize,
    /// How often each status was answered; 0: nothing was.
    pub statuses: BTreeMap<u16, usize>,
    /// RssAnon of the primary, in KiB, and its descriptors: before and after.
    pub rss_kib: [u64; 2],
    pub descriptors: [usize; 2],
    pub took: Duration,
    /// What must not be.
    pub faults: Vec<String>,
}

/// Sends `count` requests, after some to warm up.
pub fn run(count: usize, seed: u64) -> Report {
    let croupier = Croupier::demo(&["--workers", "2", "--monitor", "127.0.0.1:0", "--ecv-control"]);
    croupier.wait_ready(2);
    let mut warm = Report::default();
    send_all(&croupier, WARM_UP.min(count), seed ^ 1, &mut warm);
    let mut report = Report { faults: warm.faults, ..Report::default() };
    let (rss, descriptors) = (rss_kib(&croupier), settled(&croupier, 0));
    let begin = Instant::now();
    send_all(&croupier, count, seed, &mut report);
    report.took = begin.elapsed();
    report.descriptors = [descriptors, settled(&croupier, descriptors)];
    report.rss_kib = [rss, rss_kib(&croupier)];
    judge(croupier, &mut report);
    report
}

fn send_all(croupier: &Croupier, count: usize, seed: u64, report: &mut Report) {
    let (monitor, control, address) = (croupier.monitor(), croupier.control(), croupier.address());
    let client = |index: usize| {
        let mut chance = Chance::new(seed.wrapping_add(index as u64));
        let mut report = Report::default();
        for request in 0..count / CLIENTS {
            let bytes = requests::bad(&mut chance);
            let answer = if request % 2 == 0 { at_monitor(&monitor, &bytes) } else { at_control(&control, &bytes) };
            note(&mut report, &bytes, answer);
            if request % LOOK_EVERY == 0 && !http::get(&address).is_ok_and(|answer| answer.status == 200) {
                report.faults.push(format!("after {request} requests of client {index} nobody deals"));
            }
        }
        report
    };
    let client = &client;
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|index| scope.spawn(move || client(index))).collect();
        clients.into_iter().map(|client| client.join().expect("clients do not panic")).collect()
    });
    for part in reports {
        report.requests += part.requests;
        report.faults.extend(part.faults);
        part.statuses.into_iter().for_each(|(status, count)| *report.statuses.entry(status).or_default() += count);
    }
}

/// What one request came to: the beginning of the answer, or what is wrong with it.
type Answer = Result<Vec<u8>, String>;

fn note(report: &mut Report, request: &[u8], answer: Answer) {
    report.requests += 1;
    let fault = |what: String| format!("{what}; it was asked {:?}", String::from_utf8_lossy(request));
    let status = answer.and_then(|answer| match status_of(&answer) {
        // Disabled by one of the requests.
        Some(status) if status < 500 || status == 503 => Ok(status),
        _ => Err(format!("answered {:?}", String::from_utf8_lossy(&answer))),
    });
    match status {
        Ok(status) => *report.statuses.entry(status).or_default() += 1,
        Err(what) => report.faults.push(fault(what)),
    }
}

/// Nothing at all is 0.
fn status_of(answer: &[u8]) -> Option<u16> {
    if answer.is_empty() {
        return Some(0);
    }
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()
}

fn at_monitor(address: &str, bytes: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    let _ = stream.set_read_timeout(Some(PATIENCE));
    converse(stream, bytes, |stream| {
        let _ = stream.set_read_timeout(Some(END_TIMEOUT));
        let _ = stream.shutdown(Shutdown::Write);
    })
}

fn at_control(path: &str, bytes: &[u8]) -> Answer {
    let stream = UnixStream::connect(path).map_err(|error| format!("connect: {error}"))?;
    let _ = stream.set_read_timeout(Some(PATIENCE));
    converse(stream, bytes, |stream| {
        let _ = stream.set_read_timeout(Some(END_TIMEOUT));
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// Sends and reads the beginning of the answer; without one, `ends` the request, and waits for the end.
fn converse<S: Read + Write>(mut stream: S, bytes: &[u8], ends: impl Fn(&S)) -> Answer {
    // It may be refused before all of it was read.
    let _ = stream.write_all(bytes);
    let mut answer = vec![0; 256];
    let mut has_ended = false;
    loop {
        match stream.read(&mut answer) {
            Ok(len) => {
                answer.truncate(len);
                return Ok(answer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && !has_ended => {
                has_ended = true;
                ends(&stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err("the connection does not end".into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset: the rest of the request was not read.
            Err(_) => return Ok(Vec::new()),
        }
    }
}

fn judge(mut croupier: Croupier, report: &mut Report) {
    let mut expect = |is_so: bool, what: String| {
        if !is_so {
            report.faults.push(what);
        }
    };
    let [before, after] = report.descriptors;
    expect(after <= before, format!("{before} descriptors became {after}"));
    let [before, after] = report.rss_kib;
    expect(after <= before + GROWTH_MAX_KIB, format!("{before} KiB became {after}"));
    expect(croupier.client(&["enable"]).code == Some(0), "it does not answer".into());
    let answers = http::next_workers(&croupier.address(), 8);
    expect(http::is_rotation(&answers, 2), format!("it does not deal in turn: {answers:?}"));
    expect(croupier.started().len() == 2, "workers were replaced".into());
    expect(croupier.terminate() == Some(0), "it does not end well".into());
    let errors = croupier.log().count("ERROR") + croupier.log().count("panicked");
    expect(errors == 0, format!("{errors} errors in the log"));
}

fn rss_kib(croupier: &Croupier) -> u64 {
    let text = processes::status(croupier.pid(), "RssAnon").expect("it runs");
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("proc(5)")
}

/// The descriptors of the primary, when those of the clients are closed: no more than `before` (0: not known yet), or
/// what stays after a while.
fn settled(croupier: &Croupier, before: usize) -> usize {
    let count = || processes::descriptors(croupier.pid()).len();
    let mut last = usize::MAX;
    until(|| {
        let now = count();
        let is_settled = if before > 0 { now <= before } else { std::mem::replace(&mut last, now) == now };
        is_settled.then_some(now)
    })
    .unwrap_or_else(count)
}
