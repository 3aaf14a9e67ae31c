//! `--events FILE|-`: what happens to the primary, as lines of JSON (`docs/events.md`), written down by a thread of its
//! own. A full disk, or a reader that does not read, changes nothing for anybody else: lines are lost, and once it
//! works again a line of the event `lost` says how many.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::arguments::EventsTo;
use super::run::APPEND_REMEDY;
use super::{Exit, Failure, writer};
use crate::primary::Primary;
use crate::primary::events::{Line, Signal, json};
use crate::primary::output;
use crate::sys::clock;

/// Events that wait for a slow disk. Above it they are lost.
const WAITING_MAX: usize = 1024;
/// How long the end of the process, and an upgrade, wait until everything is written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Who wants everything written, and where to say that it is.
static FLUSHES: OnceLock<Sender<Sender<()>>> = OnceLock::new();

/// A place for events, opened before anything is started.
#[derive(Debug)]
pub(super) struct EventLog {
    /// The number of the last event that came here.
    last_heard: Option<u64>,
    /// The number of the last event that was written.
    last_written: Option<u64>,
    sink: Sink,
}

/// The thread that writes. Dropping it waits for its last line: drop it after the primary's end.
#[derive(Debug)]
pub(super) struct Writing {
    /// Never says anything, and ends with the thread.
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File(EventFile),
}

#[derive(Debug)]
struct EventFile {
    path: PathBuf,
    /// `None`: it could not be opened yet.
    file: Option<File>,
    /// The end of a line that is only begun: it is written before anything else.
    begun: Vec<u8>,
    /// It has been said that nothing can be written.
    is_failing: bool,
}

impl EventLog {
    /// Opens the file. One that was open before an upgrade is not worth ending for: it is tried again at every event.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a file that cannot be appended to, if the primary is new.
    pub(super) fn open(to: EventsTo, is_new: bool) -> Result<Self, Failure> {
        let sink = match to {
            EventsTo::Stdout => Sink::Stdout,
            EventsTo::File(path) => Sink::File(EventFile::open(path, is_new)?),
        };
        Ok(Self { last_heard: None, last_written: None, sink })
    }

    /// Writes what happens to `primary`, which is to run, in a thread. Signals are blocked already.
    ///
    /// # Errors
    /// Those of pthread_create(3).
    pub(super) fn start(mut self, primary: &mut Primary) -> io::Result<Writing> {
        let lines = primary.observe(WAITING_MAX, || {});
        let (flush, flushes) = bounded(1);
        // There is one primary in this process.
        let _ = FLUSHES.set(flush);
        let (end, ended) = bounded(0);
        let thread = std::thread::Builder::new().name("croupier-events".into()).stack_size(128 * 1024);
        thread.spawn(move || {
            self.write_all(&lines, &flushes);
            drop(end);
        })?;
        Ok(Writing { ended })
    }

    fn write_all(&mut self, lines: &Receiver<Line>, flushes: &Receiver<Sender<()>>) {
        loop {
            select! {
                recv(lines) -> line => match line {
                    Ok(line) => self.write(&line),
                    Err(_) => return,
                },
                recv(flushes) -> done => {
                    lines.try_iter().for_each(|line| self.write(&line));
                    drop(done);
                }
            }
        }
    }

    fn write(&mut self, line: &Line) {
        let missing_after = |last: u64| line.id.saturating_sub(last + 1);
        // The order to open files anew may be among those that have not come here.
        let unheard = self.last_heard.replace(line.id).map_or(0, missing_after);
        if line.signal == Some(Signal::SIGUSR1) || unheard > 0 {
            self.sink.reopen();
        }
        let lost = self.last_written.map_or(0, missing_after);
        let mut text = String::new();
        if lost > 0 {
            text = json::lost(clock::since_epoch(), lost) + "\n";
        }
        text.push_str(&line.json);
        text.push('\n');
        if self.sink.write(text.into_bytes(), lost) {
            self.last_written = Some(line.id);
        } else {
            // What is lost before the first line that is written is to be counted too.
            self.last_written.get_or_insert(line.id - 1);
        }
    }
}

/// Waits until every event until now is written, but not for ever.
pub(super) fn flush() {
    if let Some(flushes) = FLUSHES.get() {
        let (done, wait) = bounded(0);
        if flushes.send_timeout(done, FLUSH_TIMEOUT).is_ok() {
            // Nothing is said: its end is the answer.
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.ended.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl Sink {
    fn reopen(&mut self) {
        match self {
            Sink::Stdout => {}
            Sink::File(file) => file.reopen(),
        }
    }

    /// False: it is lost. `lost` have been lost before it.
    fn write(&mut self, text: Vec<u8>, lost: u64) -> bool {
        match self {
            Sink::Stdout => {
                writer::write_event(text);
                true
            }
            Sink::File(file) => file.write(&text, lost),
        }
    }
}

impl EventFile {
    fn open(path: PathBuf, is_new: bool) -> Result<Self, Failure> {
        let mut file = Self { path, file: None, begun: Vec::new(), is_failing: false };
        match output::open_end(&file.path) {
            Ok(opened) => file.file = Some(opened.into()),
            Err(error) if is_new => {
                let line = format!("--events {}: {error}; {APPEND_REMEDY}", file.path.display());
                return Err(Failure::new(Exit::Usage, line));
            }
            Err(error) => file.fails(&error),
        }
        Ok(file)
    }

    /// Goes on with the old one if there is no new one.
    fn reopen(&mut self) {
        match output::open_end(&self.path) {
            Ok(opened) => {
                // The last chance of a line to have its end.
                let _ = self.write_begun();
                self.begun.clear();
                self.file = Some(opened.into());
                log::info!("events={} opened anew", self.path.display());
            }
            Err(error) => {
                log::error!(
                    "events={} cannot be opened anew: {error} [going on with the old file]",
                    self.path.display()
                );
            }
        }
    }

    fn write(&mut self, text: &[u8], lost: u64) -> bool {
        match self.try_write(text) {
            Ok(()) => {
                if self.begun.is_empty() && std::mem::take(&mut self.is_failing) {
                    log::warn!("events={} is written again [events={lost} lost]", self.path.display());
                }
                true
            }
            Err(error) => {
                self.fails(&error);
                false
            }
        }
    }

    /// A line that is written in part counts: its end follows as soon as there is room for it.
    fn try_write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(output::open_end(&self.path)?.into());
        }
        self.write_begun()?;
        self.begun.extend_from_slice(text);
        match self.write_begun() {
            Err(error) if self.begun.len() == text.len() => {
                self.begun.clear();
                Err(error)
            }
            Err(error) => {
                self.fails(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn write_begun(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        while !self.begun.is_empty() {
            match file.write(&self.begun) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => drop(self.begun.drain(..len)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn fails(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            log::warn!("events={} cannot be written: {error} [lost until it can be]", self.path.display());
        }
    }
}
