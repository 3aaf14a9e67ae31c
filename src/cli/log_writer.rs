//! The log: how its lines look. They leave through the [`writer`].

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use log::{Level, LevelFilter};

use super::arguments::LogFormat;
use super::writer;

/// How lines look that are no log lines.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// From now on everything that this process has to say is in this form.
pub(super) fn speak(format: LogFormat) {
    // The first word counts: one process has one log.
    let _ = FORMAT.set(format);
}

/// Installs the logger, for the form of [`speak`]. Call it after signals are blocked: it starts the writer thread.
pub(super) fn install(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    builder.parse_default_env();
    builder.target(env_logger::Target::Pipe(Box::new(Queue)));
    builder.format(move |out, record| {
        let time = out.timestamp_millis();
        match format() {
            LogFormat::Text => writeln!(out, "{time} {:<5} {}", record.level(), record.args()),
            LogFormat::Json => writeln!(out, "{}", object(&time, record.level(), &record.args())),
        }
    });
    // A second logger in one process can only be our own mistake; the first one goes on.
    let _ = builder.try_init();
}

/// Writes one line that is not a log line: why the process ends.
pub(super) fn say(line: &str) {
    writer::write_log(plain(Level::Error, line));
    writer::flush();
}

/// A line that is not a log line, with its newline; the level is for those who read objects.
pub(super) fn plain(level: Level, line: &str) -> Vec<u8> {
    let line = match format() {
        LogFormat::Text => format!("croupier: {line}\n"),
        LogFormat::Json => object(&humantime::format_rfc3339_millis(SystemTime::now()), level, &line) + "\n",
    };
    line.into_bytes()
}

fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or(LogFormat::Text)
}

fn object(time: &dyn Display, level: Level, message: &dyn Display) -> String {
    let (time, level, message) = (time.to_string(), level.as_str().to_lowercase(), message.to_string());
    serde_json::json!({ "time": time, "level": level, "message": message }).to_string()
}

/// What env_logger writes to.
struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        writer::write_log(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
