//! Log lines leave through a bounded queue and one writer thread: whoever reads stderr may be slow, stopped or gone,
//! and the primary must not notice. What does not fit is dropped, counted, and the count is written.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::LevelFilter;

use super::arguments::LogFormat;

/// Lines that wait for a reader of stderr.
const QUEUE_MAX_LINES: usize = 4096;
/// How long the end of the process waits for the last lines to be read.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<Sender<Item>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Item {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// Installs the logger. Call it after signals are blocked: it starts the writer thread.
pub(super) fn install(format: LogFormat, level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    builder.parse_default_env();
    builder.target(env_logger::Target::Pipe(Box::new(Queue)));
    builder.format(move |out, record| {
        let time = out.timestamp_millis();
        match format {
            LogFormat::Text => writeln!(out, "{time} {:<5} {}", record.level(), record.args()),
            LogFormat::Json => {
                let message = record.args().to_string();
                let line = serde_json::json!({
                    "time": time.to_string(), "level": record.level().as_str().to_lowercase(), "message": message
                });
                writeln!(out, "{line}")
            }
        }
    });
    // A second logger in one process can only be our own mistake; the first one goes on.
    let _ = builder.try_init();
}

/// Writes one line that is not a log line: why the process ends.
pub(super) fn say(line: &str) {
    enqueue(format!("croupier: {line}\n").into_bytes());
    flush();
}

/// Waits until what is queued is written, but not for ever.
pub(super) fn flush() {
    if let Some(queue) = QUEUE.get() {
        let (done, wait) = bounded(1);
        if queue.send_timeout(Item::Flush(done), FLUSH_TIMEOUT).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn enqueue(line: Vec<u8>) {
    let queue = QUEUE.get_or_init(start_writer);
    if queue.try_send(Item::Line(line)).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn start_writer() -> Sender<Item> {
    let (queue, items) = bounded(QUEUE_MAX_LINES);
    let thread = std::thread::Builder::new().name("croupier-log".into()).stack_size(128 * 1024);
    // Without a thread the receiver is dropped, and every line counts as dropped.
    let _ = thread.spawn(move || write_items(&items));
    queue
}

fn write_items(items: &Receiver<Item>) {
    let mut stderr = io::stderr().lock();
    for item in items {
        match item {
            Item::Line(line) => {
                let dropped = DROPPED.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let notice = format!("croupier: {dropped} log lines dropped: nobody read stderr\n");
                    let _ = stderr.write_all(notice.as_bytes());
                }
                // A closed stderr changes nothing.
                let _ = stderr.write_all(&line);
            }
            Item::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// What env_logger writes to.
struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        enqueue(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
