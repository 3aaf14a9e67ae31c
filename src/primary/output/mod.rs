//! Where the output of workers goes. Unless they write to a file or to the primary's own descriptors, the event loop
//! reads it from pipes and hands whole lines to a [`LineSink`].
//!
//! In the loop, not in a thread: a worker's last words, its exit and an upgrade come in one order, and there is
//! nothing to hand over. For that, reading has a share of the loop's time and no more: a worker that writes faster
//! finds its pipe full and waits, and nobody else does.

mod lines;
mod pipes;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use lines::LINE_MAX_BYTES;
use lines::Part;
pub use pipes::open_end;
pub(super) use pipes::{Outputs, Saved};

use crate::protocol::ids::WorkerId;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// Where one stream of the workers goes.
#[derive(Debug, Clone, Default)]
pub enum Destination {
    /// To where the primary's own goes.
    #[default]
    Inherit,
    /// Nowhere.
    Null,
    /// To the end of this file, which the primary opens once, and creates with mode 0644. All workers share it.
    File(PathBuf),
    /// Line by line to whoever wants them.
    Lines(Arc<dyn LineSink>),
}

/// Whoever gets the lines of workers.
pub trait LineSink: fmt::Debug + Send + Sync {
    /// Takes lines, in the order in which a worker has written them to a stream. The event loop calls this: it must
    /// not wait for anybody. What cannot be taken now is to be dropped, and counted.
    fn take(&self, lines: &Lines<'_>);
}

/// Whole lines of one worker.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'a> {
    /// Whose.
    pub worker: WorkerId,
    /// Written to what.
    pub stream: Stream,
    part: Part<'a>,
}

impl<'a> Lines<'a> {
    /// The lines with line breaks between them, and none at the end.
    pub fn text(&self) -> &'a [u8] {
        self.part.text
    }

    #[cfg(all(test, feature = "admin"))]
    pub(super) fn of(worker: WorkerId, stream: Stream, text: &'a [u8]) -> Self {
        Self { worker, stream, part: Part { text, continues: false } }
    }

    /// Each line without its newline: any bytes, at most [`LINE_MAX_BYTES`]; and whether it goes on with the line
    /// before, which was longer, or had no end yet when its worker ended.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], bool)> + use<'a> {
        let Part { text, continues } = self.part;
        text.split(|byte| *byte == b'\n').enumerate().map(move |(index, line)| (line, continues && index == 0))
    }
}

/// A file for the output of workers could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{stream} of workers: {}: {error}", path.display())]
pub struct OpenError {
    /// For what.
    pub stream: Stream,
    /// The file.
    pub path: PathBuf,
    /// Why. `ENXIO`: it is a FIFO that nobody reads.
    pub error: io::Error,
}
