//! What croupier itself writes to stdout and stderr leaves through a bounded queue and one writer thread for each:
//! whoever reads may be slow, stopped or gone, and the primary must not notice. What does not fit, or cannot be
//! written, is dropped, counted, and the count is written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::log_writer;
use crate::primary::output::Stream;

/// What waits for a reader: log lines, events, and pieces of workers' output.
const QUEUE_MAX: usize = 4096;
/// Workers' output leaves the rest of the queue to the log.
const QUEUE_MAX_OUTPUT: usize = QUEUE_MAX / 2;
/// Workers' output that waits for a reader.
const OUTPUT_MAX_BYTES: usize = 4 * 1024 * 1024;
/// How long the end of the process waits for the last lines of each stream to be read.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two notices of lines that were dropped, if they are many.
const NOTICE_EVERY: Duration = Duration::from_secs(1);

static STDOUT: Writer = Writer::new(Stream::Stdout);
static STDERR: Writer = Writer::new(Stream::Stderr);

/// Writes one line of the log, with its newline, to stderr.
pub(super) fn write_log(line: Vec<u8>) {
    STDERR.enqueue(line, &STDERR.dropped_log);
}

/// Writes one event, with its newline, to stdout. It may have taken the place of events that were lost before it.
pub(super) fn write_event(line: Vec<u8>) {
    let writer = if both_are_one() { &STDERR } else { &STDOUT };
    writer.enqueue(line, &writer.dropped_events);
}

/// Writes whole lines of workers, each with its newline.
pub(super) fn write_output(stream: Stream, lines: Vec<u8>, line_count: u64) {
    // Two writers on one pipe would tear each other's lines. Source: pipe(7), PIPE_BUF.
    let writer = if stream == Stream::Stderr || both_are_one() { &STDERR } else { &STDOUT };
    writer.enqueue_output(lines, line_count);
}

/// Waits until what is queued is written, but not for ever.
pub(super) fn flush() {
    // In this order: how much of stdout was dropped is said on stderr.
    STDOUT.flush();
    STDERR.flush();
}

fn both_are_one() -> bool {
    static BOTH_ARE_ONE: OnceLock<bool> = OnceLock::new();
    *BOTH_ARE_ONE.get_or_init(|| {
        let file = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        file(io::stdout().as_fd()) == file(io::stderr().as_fd())
    })
}

struct Writer {
    stream: Stream,
    queue: OnceLock<Sender<Item>>,
    output_bytes: AtomicUsize,
    dropped_log: AtomicU64,
    dropped_events: AtomicU64,
    dropped_output: AtomicU64,
}

enum Item {
    /// Of the log, or an event; and where it is counted if it is dropped.
    Line(Vec<u8>, &'static AtomicU64),
    /// Lines of workers, and how many.
    Output(Vec<u8>, u64),
    Flush(Sender<()>),
}

impl Writer {
    const fn new(stream: Stream) -> Self {
        Self {
            stream,
            queue: OnceLock::new(),
            output_bytes: AtomicUsize::new(0),
            dropped_log: AtomicU64::new(0),
            dropped_events: AtomicU64::new(0),
            dropped_output: AtomicU64::new(0),
        }
    }

    fn enqueue(&'static self, line: Vec<u8>, dropped: &'static AtomicU64) {
        if self.queue().try_send(Item::Line(line, dropped)).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enqueue_output(&'static self, lines: Vec<u8>, line_count: u64) {
        let (queue, len) = (self.queue(), lines.len());
        // Only the event loop adds: nobody else can come in between.
        let has_room = queue.len() < QUEUE_MAX_OUTPUT && self.output_bytes.load(Ordering::Relaxed) < OUTPUT_MAX_BYTES;
        self.output_bytes.fetch_add(len, Ordering::Relaxed);
        if !has_room || queue.try_send(Item::Output(lines, line_count)).is_err() {
            self.output_bytes.fetch_sub(len, Ordering::Relaxed);
            self.dropped_output.fetch_add(line_count, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        if let Some(queue) = self.queue.get() {
            let (done, wait) = bounded(1);
            if queue.send_timeout(Item::Flush(done), FLUSH_TIMEOUT).is_ok() {
                let _ = wait.recv_timeout(FLUSH_TIMEOUT);
            }
        }
    }

    fn queue(&'static self) -> &'static Sender<Item> {
        self.queue.get_or_init(|| {
            let (queue, items) = bounded(QUEUE_MAX);
            let thread = std::thread::Builder::new().name(format!("croupier-{}", self.stream)).stack_size(128 * 1024);
            // Without a thread the receiver is dropped, and every line counts as dropped.
            let _ = thread.spawn(move || self.write_items(&items));
            queue
        })
    }

    fn write_items(&self, items: &Receiver<Item>) {
        let mut noticed_at = None;
        for item in items {
            let is_flush = matches!(item, Item::Flush(_));
            if is_flush || noticed_at.is_none_or(|at: Instant| at.elapsed() >= NOTICE_EVERY) {
                noticed_at = self.write_notice().then(Instant::now).or(noticed_at);
            }
            match item {
                Item::Line(line, dropped) => self.write_or_count(&line, dropped, 1),
                Item::Output(lines, line_count) => {
                    self.write_or_count(&lines, &self.dropped_output, line_count);
                    self.output_bytes.fetch_sub(lines.len(), Ordering::Relaxed);
                }
                Item::Flush(done) => _ = done.send(()),
            }
        }
    }

    /// On stderr, whatever the stream: others may expect to understand each line of stdout. True if there was something
    /// to say.
    fn write_notice(&self) -> bool {
        let dropped = [
            (&self.dropped_log, "log lines"),
            (&self.dropped_events, "events"),
            (&self.dropped_output, "lines of workers"),
        ];
        let dropped = dropped.map(|(count, what)| (count.swap(0, Ordering::Relaxed), what));
        for (count, what) in dropped.into_iter().filter(|(count, _)| *count > 0) {
            let notice = format!("{count} {what} dropped: nobody read {}", self.stream);
            let notice = log_writer::plain(Level::Warn, &notice);
            match self.stream {
                Stream::Stdout => write_log(notice),
                Stream::Stderr => _ = self.write(&notice),
            }
        }
        dropped.iter().any(|(count, _)| *count > 0)
    }

    fn write_or_count(&self, bytes: &[u8], dropped: &AtomicU64, count: u64) {
        if self.write(bytes).is_err() {
            dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<()> {
        match self.stream {
            Stream::Stdout => write_all(io::stdout().as_fd(), bytes),
            Stream::Stderr => write_all(io::stderr().as_fd(), bytes),
        }
    }
}

/// As std's, but a descriptor that somebody has made non-blocking for all its holders does not tear a line.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => _ = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
