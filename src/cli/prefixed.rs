//! `--stdout prefix` and `--stderr prefix`: the lines of all workers on one stream, each with its worker's id.

use std::time::SystemTime;

use serde::Serialize;

use super::arguments::LogFormat;
use super::writer;
use crate::primary::output::{LineSink, Lines};

/// Writes the lines of workers to where croupier's own output goes: `worker=3 | text`, and `worker=3 + text` for what
/// goes on with the line before, which was too long. With `--log-format json` each is an object.
#[derive(Debug)]
pub(super) struct Prefixed {
    format: LogFormat,
}

/// One line as an object. What is no UTF-8 is replaced.
#[derive(Serialize)]
struct Object<'a> {
    time: &'a str,
    worker: u32,
    stream: &'a str,
    line: &'a str,
    /// It goes on with the line before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
}

impl Prefixed {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format }
    }
}

impl LineSink for Prefixed {
    fn take(&self, lines: &Lines<'_>) {
        let text = match self.format {
            LogFormat::Text => as_text(lines),
            LogFormat::Json => as_objects(lines),
        };
        let line_count = lines.iter().count() as u64;
        writer::write_output(lines.stream, text, line_count);
    }
}

fn as_text(lines: &Lines<'_>) -> Vec<u8> {
    let [begins, continues] = ['|', '+'].map(|mark| format!("worker={} {mark} ", lines.worker).into_bytes());
    let mut text = Vec::new();
    for (line, goes_on) in lines.iter() {
        text.extend_from_slice(if goes_on { &continues } else { &begins });
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text
}

fn as_objects(lines: &Lines<'_>) -> Vec<u8> {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let stream = lines.stream.to_string();
    let mut text = Vec::new();
    for (line, continues) in lines.iter() {
        let line = String::from_utf8_lossy(line);
        let object = Object { time: &time, worker: lines.worker.0, stream: &stream, line: &line, continues };
        text.extend(serde_json::to_vec(&object).expect("numbers and texts"));
        text.push(b'\n');
    }
    text
}
