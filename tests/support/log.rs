//! The lines that a process writes to a pipe, collected while it runs.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use super::DEADLINE;

/// The lines so far. Clones see the same lines.
#[derive(Clone, Default)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Collects the lines of `source` in a thread until its end.
    pub fn collect(source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let collector = log.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                collector.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            collector.lock().ended = true;
            collector.shared.changed.notify_all();
        });
        log
    }

    /// Adds a line that the test has read itself.
    pub fn push(&self, line: String) {
        self.lock().lines.push(line);
        self.shared.changed.notify_all();
    }

    /// Nobody panics while holding the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("see above")
    }

    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    pub fn count(&self, text: &str) -> usize {
        self.lock().lines.iter().filter(|line| line.contains(text)).count()
    }

    /// The first line that contains `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// Waits for `count` lines that contain `text`.
    #[track_caller]
    pub fn wait_for_count(&self, text: &str, count: usize) -> Vec<String> {
        let what = format!("{count} lines with {text:?}");
        self.wait_until(&what, |lines| {
            let found: Vec<String> = lines.iter().filter(|line| line.contains(text)).cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Waits until `find` finds something in the lines.
    #[track_caller]
    pub fn wait_until<T>(&self, what: &str, mut find: impl FnMut(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&state.lines) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let lines = state.lines.join("\n");
                let ended = state.ended;
                drop(state);
                panic!("no {what:?} in the log (ended: {ended}):\n{lines}");
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits until everybody who could write has closed the pipe.
    #[track_caller]
    pub fn wait_end(&self) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                panic!("somebody still has the log open:\n{self}");
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
        state.lines.clone()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().join("\n").fmt(f)
    }
}
