//! `croupier events`: what has happened lately, a line of JSON for every event, and with `--follow` what happens.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::connection::{Connection, Followed};
use super::{UPGRADE_TIMEOUT, expect_success, find, harmless};
use crate::cli::Failure;
use crate::cli::arguments::EventsOptions;
use crate::sys::process::Stranger;

/// When a stream has broken: how long its primary may take to have ended until another stream is asked for.
const END_LOOK: Duration = Duration::from_millis(20);

/// What of the stream has been read. An upgrade in place breaks it, and another one goes on where it was.
#[derive(Debug, Default)]
struct Reading {
    /// The beginning of a line.
    begun: Vec<u8>,
    /// Of an event whose data has not come yet.
    next_id: Option<String>,
    last_id: Option<String>,
}

/// With `--follow` until the primary ends, or nobody reads any more.
pub(in crate::cli) fn events(options: &EventsOptions) -> Result<(), Failure> {
    let path = find(&options.target)?;
    let wanted = if options.follow { "/events" } else { "/events?follow=no" };
    let mut connection = Connection::open(&path)?;
    let process = connection.process();
    let mut reading = Reading::default();
    loop {
        let last_id = reading.last_id.clone();
        match connection.follow(wanted, last_id.as_deref(), |bytes| reading.read(bytes)) {
            Ok(Followed::Refused(reply)) => return expect_success(&reply).map(drop),
            Ok(Followed::LetGo) => return Ok(()),
            Ok(Followed::Ended) if !options.follow => return Ok(()),
            Err(failure) if !options.follow => return Err(failure),
            Ok(Followed::Ended) | Err(_) => {}
        }
        // Of a primary whose process cannot be seen, the end of the stream is all that there is.
        let Ok(process) = &process else { return Ok(()) };
        match connect_again(&path, process)? {
            Some(anew) => connection = anew,
            None => return Ok(()),
        }
        (reading.begun, reading.next_id) = (Vec::new(), None);
    }
}

/// `None`: the primary has ended. If not, its program is being replaced, and it is there again soon.
fn connect_again(path: &Path, process: &Stranger) -> Result<Option<Connection>, Failure> {
    let deadline = Instant::now() + UPGRADE_TIMEOUT;
    loop {
        if process.wait_end(END_LOOK) {
            return Ok(None);
        }
        match Connection::open(path) {
            Ok(connection) => return Ok(Some(connection)),
            Err(failure) if Instant::now() >= deadline => return Err(failure),
            Err(_) => {}
        }
    }
}

impl Reading {
    /// Prints what there is. Breaks off if nobody reads it.
    fn read(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        match std::io::stdout().write_all(&self.printed(bytes)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// The lines of events whose text has come with these bytes.
    fn printed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.begun.extend_from_slice(bytes);
        let end = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.begun.drain(..end).collect();
        let mut printed = Vec::new();
        for line in lines.split(|byte| *byte == b'\n') {
            if let Some(id) = line.strip_prefix(b"id: ") {
                self.next_id = String::from_utf8(id.to_vec()).ok();
            } else if let Some(data) = line.strip_prefix(b"data: ") {
                self.last_id = self.next_id.take().or(self.last_id.take());
                printed.extend_from_slice(harmless::json(&String::from_utf8_lossy(data)).as_bytes());
                printed.push(b'\n');
            }
        }
        printed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_as_read_only_with_its_text() {
        let mut reading = Reading::default();
        let mut after = |bytes: &[u8]| {
            let printed = String::from_utf8(reading.printed(bytes)).unwrap();
            (printed, reading.last_id.clone().unwrap_or_default())
        };
        let own = |printed: &str, last: &str| (printed.to_owned(), last.to_owned());
        assert_eq!(after(b"id: 7\n"), own("", ""));
        assert_eq!(after(b"data: {}"), own("", ""));
        assert_eq!(after(b"\n\nevent: lost\ndata: [1]\n\n"), own("{}\n[1]\n", "7"));
        assert_eq!(after(b"id: 8\ndata: {}\n\nid: 9\n"), own("{}\n", "8"));
    }
}
