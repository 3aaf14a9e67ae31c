//! The files and pipes that workers write to. See [`output`](super).

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown, pipe2, read};
use serde::{Deserialize, Serialize};

use super::lines::{LINE_MAX_BYTES, Part, Splitter};
use super::{Destination, LineSink, Lines, OpenError, Stream};
use crate::primary::reexec::baggage::{self, Baggage};
use crate::protocol::ids::WorkerId;
use crate::protocol::time::Monotonic;
use crate::sys::identity::Identity;

/// Reads in one turn of the loop, of [`LINE_MAX_BYTES`] each.
const READS_PER_TURN: usize = 4;
/// If there was more to read after them, reading rests for so many times as long as it took.
const REST_FACTOR: u32 = 9;
/// Reads of what a dead worker has left in one of its pipes, whose usual capacity is 64 KiB.
const LAST_READS: usize = 5;
/// How long after a worker's exit its children, if they have its pipe, are still read.
const AFTER_EXIT: Duration = Duration::from_secs(5);

/// The output of all workers.
#[derive(Debug)]
pub struct Outputs {
    stdout: Open,
    stderr: Open,
    pipes: BTreeMap<(WorkerId, Stream), Pipe>,
    /// Pipes that may have something to read, the next one first.
    readable: VecDeque<(WorkerId, Stream)>,
    /// Nothing is read before.
    rests_until: Option<Monotonic>,
    /// Pipes whose workers have ended: whoever still has them is read until then. Ordered by time.
    closing: VecDeque<(Monotonic, WorkerId, Stream)>,
    /// Who looks on: gets the lines too.
    onlooker: Option<Arc<dyn LineSink>>,
    buffer: Vec<u8>,
}

/// A [`Destination`] that is there.
#[derive(Debug)]
enum Open {
    Inherit,
    File(OwnedFd),
    Lines(Arc<dyn LineSink>),
}

/// What one worker writes to one stream. It may outlive the worker.
#[derive(Debug)]
struct Pipe {
    end: OwnedFd,
    splitter: Splitter,
    sink: Arc<dyn LineSink>,
    /// In [`Outputs::readable`].
    is_queued: bool,
}

/// What was found in a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Something,
    Nothing,
    End,
}

/// The outputs as they go over an exec.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    stdout: Option<RawFd>,
    stderr: Option<RawFd>,
    pipes: Vec<SavedPipe>,
    closing: VecDeque<(Monotonic, WorkerId, Stream)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedPipe {
    worker: WorkerId,
    stream: Stream,
    end: RawFd,
    splitter: Splitter,
}

impl Outputs {
    /// Opens the files.
    ///
    /// # Errors
    /// [`OpenError`], with the first that cannot be opened.
    pub fn open(stdout: &Destination, stderr: &Destination) -> Result<Self, OpenError> {
        Self::restore(Saved::default(), stdout, stderr)
    }

    /// Goes on with what another image has saved, and opens what it did not have.
    ///
    /// # Errors
    /// [`OpenError`]. A pipe that has not come over the exec is left out: its worker finds it closed.
    pub fn restore(saved: Saved, stdout: &Destination, stderr: &Destination) -> Result<Self, OpenError> {
        let mut outputs = Self {
            stdout: Open::make(Stream::Stdout, stdout, saved.stdout)?,
            stderr: Open::make(Stream::Stderr, stderr, saved.stderr)?,
            pipes: BTreeMap::new(),
            readable: VecDeque::new(),
            rests_until: None,
            closing: saved.closing,
            onlooker: None,
            buffer: vec![0; LINE_MAX_BYTES],
        };
        for SavedPipe { worker, stream, end, splitter } in saved.pipes {
            if let (Ok(end), Open::Lines(sink)) = (baggage::unpack(end), outputs.of(stream)) {
                let pipe = Pipe { end, splitter, sink: Arc::clone(sink), is_queued: false };
                outputs.pipes.insert((worker, stream), pipe);
            }
        }
        Ok(outputs)
    }

    /// Has `onlooker` get every line that goes to a [`LineSink`] from now on.
    pub fn show_to(&mut self, onlooker: Arc<dyn LineSink>) {
        self.onlooker = Some(onlooker);
    }

    /// Opens the files anew, which somebody may have moved away: for workers that are started from now on. Where that
    /// fails, the old one goes on being used.
    pub fn reopen(&mut self, stdout: &Destination, stderr: &Destination) -> Vec<(Stream, Result<(), OpenError>)> {
        let files = [(Stream::Stdout, stdout, &mut self.stdout), (Stream::Stderr, stderr, &mut self.stderr)];
        let files = files.into_iter().filter(|(_, destination, _)| matches!(destination, Destination::File(_)));
        let reopened = files.map(|(stream, destination, open)| {
            let opened = Open::make(stream, destination, None).map(|anew| *open = anew);
            (stream, opened)
        });
        reopened.collect()
    }

    /// What the next image needs to go on.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        let file = |open: &Open, baggage: &mut Baggage| match open {
            Open::File(file) => Some(baggage.pack(file.as_fd())),
            Open::Inherit | Open::Lines(_) => None,
        };
        let of_pipe = |(&(worker, stream), pipe): (&(WorkerId, Stream), &Pipe)| SavedPipe {
            worker,
            stream,
            end: baggage.pack(pipe.end.as_fd()),
            splitter: pipe.splitter.clone(),
        };
        let pipes = self.pipes.iter().map(of_pipe).collect();
        let (stdout, stderr) = (file(&self.stdout, baggage), file(&self.stderr, baggage));
        Saved { stdout, stderr, pipes, closing: self.closing.clone() }
    }

    /// Lets `token` tell when a pipe has something to read.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: impl Fn(WorkerId, Stream) -> Token) -> io::Result<()> {
        self.pipes.iter().try_for_each(|(&(worker, stream), pipe)| {
            registry.register(&mut SourceFd(&pipe.end.as_raw_fd()), token(worker, stream), Interest::READABLE)
        })
    }

    /// What a worker that is about to be started gets for `stream`; `None`: the primary's own. A pipe belongs to
    /// `identity`, which may open it again as `/dev/stdout`; `token` will tell when there is something in it.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`: try again later.
    pub fn for_worker(
        &mut self,
        worker: WorkerId,
        stream: Stream,
        identity: Option<&Identity>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Option<OwnedFd>> {
        let sink = match self.of(stream) {
            Open::Inherit => return Ok(None),
            Open::File(file) => return file.try_clone().map(Some),
            Open::Lines(sink) => Arc::clone(sink),
        };
        let (end, workers) = pipe2(OFlag::O_CLOEXEC)?;
        // Of the primary's end alone: the worker may rely on a pipe that blocks.
        fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if let Some(identity) = identity {
            fchown(&workers, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid)))?;
        }
        registry.register(&mut SourceFd(&end.as_raw_fd()), token, Interest::READABLE)?;
        let pipe = Pipe { end, splitter: Splitter::default(), sink, is_queued: false };
        self.pipes.insert((worker, stream), pipe);
        Ok(Some(workers))
    }

    /// A pipe has something to read, or its end has come.
    pub fn has_become_readable(&mut self, worker: WorkerId, stream: Stream) {
        if let Some(pipe) = self.pipes.get_mut(&(worker, stream)).filter(|pipe| !pipe.is_queued) {
            pipe.is_queued = true;
            self.readable.push_back((worker, stream));
        }
    }

    /// When there is something to do next, if nothing becomes readable before.
    pub fn deadline(&self) -> Option<Monotonic> {
        let more = self.rests_until.filter(|_| !self.readable.is_empty());
        self.closing.front().map(|(at, ..)| *at).into_iter().chain(more).min()
    }

    /// Reads a little, each pipe in its turn, unless it is time to rest.
    pub fn let_time_pass(&mut self, now: Monotonic) {
        while let Some((_, worker, stream)) = self.closing.front().copied().filter(|(at, ..)| *at <= now) {
            self.closing.pop_front();
            self.close((worker, stream));
        }
        if self.readable.is_empty() || self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let begin = Monotonic::now();
        for _ in 0..READS_PER_TURN {
            let Some(key) = self.readable.pop_front() else { break };
            match self.read_once(key) {
                Found::Something => self.readable.push_back(key),
                Found::Nothing => self.await_more(key),
                Found::End => self.close(key),
            }
        }
        let end = Monotonic::now();
        self.rests_until = (!self.readable.is_empty()).then(|| end + end.since(begin) * REST_FACTOR);
    }

    /// A worker has ended: what it has written last is read now. Its children may go on for [`AFTER_EXIT`].
    pub fn worker_ended(&mut self, worker: WorkerId, now: Monotonic) {
        for stream in Stream::ALL {
            self.read_last((worker, stream));
            if self.pipes.contains_key(&(worker, stream)) {
                self.closing.push_back((now + AFTER_EXIT, worker, stream));
            }
        }
    }

    /// Everything ends: reads what is there, and waits for nothing more.
    pub fn finish(&mut self) {
        let keys: Vec<_> = self.pipes.keys().copied().collect();
        for key in keys {
            self.read_last(key);
            self.close(key);
        }
    }

    fn await_more(&mut self, key: (WorkerId, Stream)) {
        if let Some(pipe) = self.pipes.get_mut(&key) {
            pipe.is_queued = false;
        }
    }

    fn of(&self, stream: Stream) -> &Open {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// As far as [`LAST_READS`] go. If that is everything, the line that has no end leaves too.
    fn read_last(&mut self, key: (WorkerId, Stream)) {
        for _ in 0..LAST_READS {
            match self.read_once(key) {
                Found::Something => {}
                Found::Nothing => return self.flush(key),
                Found::End => return self.close(key),
            }
        }
    }

    fn read_once(&mut self, key: (WorkerId, Stream)) -> Found {
        let Some(pipe) = self.pipes.get_mut(&key) else { return Found::End };
        match read(&pipe.end, &mut self.buffer) {
            Ok(0) => Found::End,
            Ok(len) => {
                let sinks = sinks(&pipe.sink, &self.onlooker);
                pipe.splitter.feed(&self.buffer[..len], &mut |part| hand_over(sinks, key, part));
                Found::Something
            }
            Err(Errno::EINTR) => Found::Something,
            Err(Errno::EAGAIN) => Found::Nothing,
            Err(_) => Found::End,
        }
    }

    fn flush(&mut self, key: (WorkerId, Stream)) {
        if let Some(pipe) = self.pipes.get_mut(&key) {
            let sinks = sinks(&pipe.sink, &self.onlooker);
            pipe.splitter.flush(&mut |part| hand_over(sinks, key, part));
        }
    }

    fn close(&mut self, key: (WorkerId, Stream)) {
        self.flush(key);
        self.pipes.remove(&key);
        self.readable.retain(|other| *other != key);
    }
}

type Sinks<'a> = [Option<&'a Arc<dyn LineSink>>; 2];

fn sinks<'a>(own: &'a Arc<dyn LineSink>, onlooker: &'a Option<Arc<dyn LineSink>>) -> Sinks<'a> {
    [Some(own), onlooker.as_ref()]
}

fn hand_over(sinks: Sinks<'_>, (worker, stream): (WorkerId, Stream), part: Part<'_>) {
    sinks.into_iter().flatten().for_each(|sink| sink.take(&Lines { worker, stream, part }));
}

impl Open {
    /// Opens what `carried`, a file that came over an exec, is not.
    fn make(stream: Stream, destination: &Destination, carried: Option<RawFd>) -> Result<Self, OpenError> {
        let carried = carried.and_then(|number| baggage::unpack(number).ok());
        let path = match destination {
            Destination::Inherit => return Ok(Open::Inherit),
            Destination::Lines(sink) => return Ok(Open::Lines(Arc::clone(sink))),
            Destination::Null => Path::new("/dev/null"),
            Destination::File(path) => path,
        };
        let opened = carried.map_or_else(|| open_end(path), Ok);
        opened.map(Open::File).map_err(|error| OpenError { stream, path: path.to_owned(), error })
    }
}

/// Opens a file to write to its end, and creates it with mode 0644. Opening a FIFO does not wait for a reader, but
/// writing to it will.
///
/// # Errors
/// Those of open(2): the remedy is another file. `ENXIO`: it is a FIFO that nobody reads.
pub fn open_end(path: &Path) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    let file: File = options.open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file.into())
}
