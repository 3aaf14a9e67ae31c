//! The log: how its lines look. They leave through the [`writer`].

use std::io::{self, Write};

use log::LevelFilter;

use super::arguments::LogFormat;
use super::writer;

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
    writer::write_log(format!("croupier: {line}\n").into_bytes());
    writer::flush();
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
