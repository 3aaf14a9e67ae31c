//! `--pid-dir`: `primary.pid`, and `worker.ID.pid` for every worker's process, for tools that go by such files. A
//! thread of its own writes them, after the events of the primary: a directory that hangs hinders nobody.
//!
//! ```text
//!   Fork ─▶ write      Exit ─▶ remove      Lost, a new image, a failure ─▶ compare with the status, write and remove
//! ```

mod directory;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::{Exit, Failure};
use crate::primary::Primary;
use crate::primary::commands::{Command, Remote};
use crate::primary::events::Event;
use crate::primary::reexec::CarriedLock;
use crate::sys::signals;
use directory::{ClaimError, Directory};

/// The most events that wait here. After more the files are compared with the status.
const EVENTS_MAX: usize = 256;
/// When what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// While there is nothing to try again.
const LONG: Duration = Duration::from_secs(3600);

/// The files, kept right until this is dropped: then they are removed.
#[derive(Debug)]
pub(super) struct PidFiles {
    /// Its end is the thread's.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread goes by.
#[derive(Debug)]
struct Keeper {
    directory: Directory,
    remote: Remote,
    /// The files that are there.
    written: BTreeMap<u32, i32>,
    /// They may not be what they should be.
    is_doubtful: bool,
    /// The last attempt failed, and the log says so.
    is_failing: bool,
}

impl PidFiles {
    /// Claims the directory for this process, or takes it over from the image before, and keeps its files right.
    /// Without a `path` there are none; those of the image before are removed then, as when it names another directory.
    ///
    /// # Errors
    /// [`Exit::NameTaken`] if another primary has it, [`Exit::Usage`] if it is not there or cannot be written.
    pub(super) fn keep(
        primary: &mut Primary,
        path: Option<&Path>,
        carried: Option<CarriedLock>,
    ) -> Result<Option<Self>, Failure> {
        let restored = carried.and_then(Directory::restore);
        let (restored, other) = match restored {
            Some(directory) if path == Some(directory.path()) => (Some(directory), None),
            other => (None, other),
        };
        give_up(other);
        let Some(path) = path else { return Ok(None) };
        let claim = || Directory::claim(path).map_err(|why| failure(path, why));
        let directory = restored.map_or_else(claim, Ok)?;
        let io = |error: io::Error| failure(path, error.into());
        primary.carry_lock(directory.carried().map_err(io)?);
        let (end, ended) = bounded(0);
        let (remote, events) = (primary.remote(), primary.subscribe_to_lives(EVENTS_MAX));
        let keeper = Keeper { directory, remote, written: BTreeMap::new(), is_doubtful: true, is_failing: false };
        let thread = std::thread::Builder::new().name("croupier-pids".into());
        let thread = thread.spawn(move || match signals::block_all_in_this_thread() {
            Ok(()) => keeper.follow(&events, &ended),
            Err(error) => log::error!("the pid files are not kept: {error} [dealing goes on]"),
        });
        Ok(Some(Self { end: Some(end), thread: Some(thread.map_err(io)?) }))
    }
}

fn give_up(directory: Option<Directory>) {
    if let Some(directory) = directory
        && let Err(error) = directory.retain_workers(|_| false)
    {
        log::warn!("pid-dir={}: {error} [files are left there]", directory.path().display());
    }
}

fn failure(path: &Path, why: ClaimError) -> Failure {
    let path = path.display();
    match why {
        ClaimError::Alive(_) => {
            Failure::new(Exit::NameTaken, format!("--pid-dir {path}: {why}; choose another --pid-dir"))
        }
        ClaimError::Strange => Failure::new(Exit::Usage, format!("--pid-dir {path}: {why}; choose another --pid-dir")),
        ClaimError::Io(_) => {
            Failure::new(Exit::Usage, format!("--pid-dir {path}: {why}; give a directory that croupier may write to"))
        }
    }
}

impl Drop for PidFiles {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked: the panic itself has said so.
            let _ = thread.join();
        }
    }
}

impl Keeper {
    /// Until the primary ends, or nobody wants the files any more.
    fn follow(mut self, events: &Receiver<Event>, ended: &Receiver<()>) {
        loop {
            if self.is_doubtful {
                self.compare();
            }
            select! {
                recv(events) -> event => match event {
                    Ok(event) => self.hear(&event),
                    Err(_) => break,
                },
                recv(ended) -> _ => break,
                default(if self.is_doubtful { AGAIN } else { LONG }) => {}
            }
        }
        give_up(Some(self.directory));
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Fork { worker, pid, .. } => self.write(worker.0, *pid),
            Event::Exit { worker, .. } => {
                self.written.remove(&worker.0);
                let removed = self.directory.remove_worker(worker.0);
                self.note(removed);
            }
            Event::Lost { .. } => self.is_doubtful = true,
            _ => {}
        }
    }

    fn write(&mut self, id: u32, pid: i32) {
        let done = self.directory.write_worker(id, pid);
        if done.is_ok() {
            self.written.insert(id, pid);
        }
        self.note(done);
    }

    /// Makes the files what the status says. Whoever starts or ends after it is in the events that follow.
    fn compare(&mut self) {
        // Busy: another time.
        let Ok(status) = self.remote.ask(Command::Status) else { return };
        self.is_doubtful = false;
        let now: BTreeMap<u32, i32> = status.workers.iter().map(|worker| (worker.id, worker.pid)).collect();
        let removed = self.directory.retain_workers(|id| now.contains_key(&id));
        self.note(removed);
        self.written.retain(|id, _| now.contains_key(id));
        for (id, pid) in now {
            if self.written.get(&id) != Some(&pid) {
                self.write(id, pid);
            }
        }
        if !self.is_doubtful && std::mem::take(&mut self.is_failing) {
            log::info!("pid-dir={}: all files are there again", self.directory.path().display());
        }
    }

    fn note(&mut self, done: io::Result<()>) {
        let Err(error) = done else { return };
        self.is_doubtful = true;
        if !std::mem::replace(&mut self.is_failing, true) {
            let path = self.directory.path().display();
            log::warn!("pid-dir={path}: {error} [dealing goes on, tried again every {AGAIN:?}]");
        }
    }
}
