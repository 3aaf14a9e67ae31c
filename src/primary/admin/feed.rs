//! What watchers see: events, lines of workers, and the status, each kept once for all of them.
//!
//! ```text
//!   event loop ─▶ observation ─┐               ┌─▶ events ─┐
//!              ─▶ tap ─────────┴─▶ Source::run ┼─▶ output ─┼─▶ Watcher, Watcher ...
//!              ◀── Command::Status ─────────── └─▶ status ─┘
//! ```
//! A watcher is a place in rings of lines: one that reads slowly loses lines, hears how many, and costs no memory. The
//! status is asked for while somebody wants it, once a second whoever they are; of that only the latest counts.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use crossbeam_channel::{Receiver, TryRecvError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::Door;
use super::desk::Desk;
use super::problem::{Answered, Problem};
use super::ring::{Bounds, Place, Ring, Step};
use super::tap::{Piece, Tap};
use crate::primary::Primary;
use crate::primary::events::Line;

/// Events that wait for the admin thread. Above it they are lost to watchers.
const WAITING_MAX: usize = 1024;
/// Events that a slow watcher may be behind.
const EVENTS: Bounds = Bounds { count_max: 1024, bytes_max: 1024 * 1024 };
/// Events that a new watcher gets first.
const RECENT_EVENTS: usize = 100;
/// Lines that a slow watcher may be behind.
const OUTPUT: Bounds = Bounds { count_max: 1024, bytes_max: 512 * 1024 };
/// Lines that a new watcher gets first.
const RECENT_LINES: usize = 200;
/// How often the status is told.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// A stream without news says so after this time, or its reader, and who stands between, would take it for dead.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// What is taken over from the event loop before others in this thread have their turn.
const TAKEN_PER_TURN: usize = 256;
/// Watchers at the control socket. Above it they are refused: they stay long, and others need the places.
const CONTROL_WATCHERS_MAX: usize = 32;
/// The same at the monitor address.
const MONITOR_WATCHERS_MAX: usize = 128;

/// Where watchers come in. Clones are of the same feed.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    events: watch::Receiver<Ring>,
    output: watch::Receiver<Ring>,
    status: Arc<watch::Sender<Option<Arc<str>>>>,
    status_is_wanted: Arc<Notify>,
    control_places: Arc<Semaphore>,
    monitor_places: Arc<Semaphore>,
}

/// What comes from the event loop. [`run`](Self::run) it: the feed ends with it.
#[derive(Debug)]
pub(super) struct Source {
    arrived: Arc<Notify>,
    lines: Receiver<Line>,
    pieces: Receiver<Piece>,
    events: watch::Sender<Ring>,
    output: watch::Sender<Ring>,
    feed: Feed,
}

/// What somebody wants to see beside events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wish {
    pub(super) status: bool,
    pub(super) output: bool,
    /// Not only what there is, but also what comes.
    pub(super) follow: bool,
    /// The last event that it has seen already.
    pub(super) last_event: Option<u64>,
}

/// Somebody who watches. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Watcher {
    events: Reader,
    output: Option<Reader>,
    status: Option<watch::Receiver<Option<Arc<str>>>>,
    follow: bool,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Event(u64, Arc<str>),
    Output(Arc<str>),
    Status(Arc<str>),
    /// So many of the first two did not reach it.
    Lost(u64),
    /// Nothing has happened for a while.
    Heartbeat,
}

#[derive(Debug)]
struct Reader {
    ring: watch::Receiver<Ring>,
    place: Place,
}

impl Source {
    /// Observes a primary that does not run yet.
    pub(super) fn of(primary: &mut Primary) -> Self {
        let arrived = Arc::new(Notify::new());
        let wake = || {
            let arrived = Arc::clone(&arrived);
            move || arrived.notify_one()
        };
        let lines = primary.observe(WAITING_MAX, wake());
        let (tap, pieces) = Tap::new(wake());
        primary.show_output_to(Arc::new(tap));
        let ((events, events_out), (output, output_out)) =
            (watch::channel(Ring::new(EVENTS)), watch::channel(Ring::new(OUTPUT)));
        let feed = Feed {
            events: events_out,
            output: output_out,
            status: Arc::new(watch::Sender::new(None)),
            status_is_wanted: Arc::default(),
            control_places: Arc::new(Semaphore::new(CONTROL_WATCHERS_MAX)),
            monitor_places: Arc::new(Semaphore::new(MONITOR_WATCHERS_MAX)),
        };
        Self { arrived, lines, pieces, events, output, feed }
    }

    pub(super) fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Until the primary has ended. Watchers then get what is left, and their end.
    pub(super) async fn run(self, desk: Desk) {
        tokio::select! {
            () = self.take_all() => {}
            () = self.feed.tell_status(&desk) => {}
        }
    }

    async fn take_all(&self) {
        loop {
            // In this order: once events have ended, no line comes any more, and all that have come fit in one turn.
            let (events, has_lines) = (self.take_events(), self.take_lines());
            match events {
                Ok(true) => yield_now().await,
                Ok(false) if has_lines => yield_now().await,
                Ok(false) => self.arrived.notified().await,
                Err(TryRecvError::Disconnected | TryRecvError::Empty) => return,
            }
        }
    }

    /// True if there was any.
    fn take_lines(&self) -> bool {
        self.output.send_if_modified(|ring| {
            let pieces = self.pieces.try_iter().take(TAKEN_PER_TURN);
            pieces.map(|piece| piece.shown().for_each(|(number, line)| ring.push(number, line))).count() > 0
        })
    }

    /// True if there was any. It fails when there will never be one again.
    fn take_events(&self) -> Result<bool, TryRecvError> {
        let mut end = Ok(true);
        self.events.send_if_modified(|ring| {
            for count in 0..TAKEN_PER_TURN {
                match self.lines.try_recv() {
                    Ok(line) => ring.push(line.id, line.json),
                    Err(why) => {
                        end = if why == TryRecvError::Empty { Ok(count > 0) } else { Err(why) };
                        return count > 0;
                    }
                }
            }
            true
        });
        end
    }
}

impl Feed {
    /// Begins to watch.
    ///
    /// # Errors
    /// 503 if too many do already.
    pub(super) fn watch(&self, door: Door, wish: Wish) -> Answered<Watcher> {
        let (places, most) = match door {
            Door::Control => (&self.control_places, CONTROL_WATCHERS_MAX),
            Door::Monitor => (&self.monitor_places, MONITOR_WATCHERS_MAX),
        };
        let place = Arc::clone(places).try_acquire_owned();
        let too_many = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{most} watch already: try later"));
        let _place = place.map_err(too_many)?;
        let reader = |ring: &watch::Receiver<Ring>, place| Reader { ring: ring.clone(), place };
        let status = wish.status.then(|| {
            // What is there already is news to it.
            let mut status = self.status.subscribe();
            status.mark_changed();
            self.status_is_wanted.notify_one();
            status
        });
        Ok(Watcher {
            events: reader(&self.events, Place::after(wish.last_event, RECENT_EVENTS)),
            output: wish.output.then(|| reader(&self.output, Place::after(None, RECENT_LINES))),
            status,
            follow: wish.follow,
            is_over: false,
            _place,
        })
    }

    async fn tell_status(&self, desk: &Desk) {
        loop {
            self.status_is_wanted.notified().await;
            while self.status.receiver_count() > 0 {
                // Without an answer they see how old the last one is.
                if let Ok(status) = desk.status().await
                    && let Ok(json) = serde_json::to_string(&status)
                {
                    self.status.send_replace(Some(json.into()));
                }
                sleep(STATUS_EVERY).await;
            }
            self.status.send_replace(None);
        }
    }
}

impl Watcher {
    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            if self.is_over || !self.follow {
                return None;
            }
            let output = self.output.as_mut().map(|reader| &mut reader.ring);
            tokio::select! {
                // What came last is still to be taken.
                changed = self.events.ring.changed() => self.is_over = changed.is_err(),
                () = has_changed(output) => {}
                () = has_changed(self.status.as_mut()) => {
                    // To wait for it was to see it, and nobody has read it.
                    self.status.iter_mut().for_each(watch::Receiver::mark_changed);
                }
                () = sleep(HEARTBEAT_EVERY) => return Some(Message::Heartbeat),
            }
        }
    }

    /// The status first: it comes once a second, and lines may come without end.
    fn take(&mut self) -> Option<Message> {
        let is_news = |status: &&mut watch::Receiver<_>| status.has_changed().unwrap_or(false);
        let status = self.status.as_mut().filter(is_news).and_then(|status| status.borrow_and_update().clone());
        let event = |step| match step {
            Step::Line(id, json) => Message::Event(id, json),
            Step::Lost(count) => Message::Lost(count),
        };
        let line = |step| match step {
            Step::Line(_, json) => Message::Output(json),
            Step::Lost(count) => Message::Lost(count),
        };
        status
            .map(Message::Status)
            .or_else(|| self.events.step().map(event))
            .or_else(|| self.output.as_mut()?.step().map(line))
    }
}

impl Reader {
    fn step(&mut self) -> Option<Step> {
        self.place.step(&self.ring.borrow_and_update())
    }
}

/// Never, if there is nothing that could, or it has ended.
async fn has_changed<T>(watched: Option<&mut watch::Receiver<T>>) {
    let is_news = match watched {
        Some(watched) => watched.changed().await.is_ok(),
        None => false,
    };
    if !is_news {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};

    use super::*;
    use crate::primary::commands::Inbox;
    use crate::primary::settings::{self, Settings};

    /// A primary that never runs, and what it is asked.
    struct Stage {
        primary: Primary,
        feed: Feed,
        source: Source,
        inbox: Inbox,
        _poll: Poll,
    }

    impl Stage {
        fn new() -> Self {
            let mut primary = Primary::bind(Settings::of(settings::Command::new("true"))).unwrap();
            let poll = Poll::new().unwrap();
            let inbox = Inbox::new(poll.registry(), Token(1)).unwrap();
            let source = Source::of(&mut primary);
            Self { feed: source.feed(), primary, source, inbox, _poll: poll }
        }

        /// How many questions come within a time. None is answered, and whoever asks knows.
        async fn questions_within(&self, time: Duration) -> usize {
            let step = Duration::from_millis(10);
            let mut count = 0;
            for _ in 0..time.as_millis() / step.as_millis() {
                count += std::iter::from_fn(|| self.inbox.next()).count();
                sleep(step).await;
            }
            count
        }
    }

    const STATUS: Wish = Wish { status: true, output: false, follow: true, last_event: None };

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    #[test]
    fn a_hundred_watchers_are_one_question_a_second_and_nobody_is_none() {
        paused().block_on(async {
            let stage = Stage::new();
            let desk = Desk::new(Door::Control, stage.inbox.remote());
            let watch = || stage.feed.watch(Door::Monitor, STATUS).unwrap();
            let seen = async {
                let without_wish = stage.feed.watch(Door::Monitor, Wish { status: false, ..STATUS }).unwrap();
                let mut counts = vec![stage.questions_within(Duration::from_secs(3)).await];
                let watchers: Vec<Watcher> = (0..100).map(|_| watch()).collect();
                counts.push(stage.questions_within(Duration::from_secs(5)).await);
                drop((watchers, without_wish));
                // The last one may be on its way.
                stage.questions_within(Duration::from_secs(2)).await;
                counts.push(stage.questions_within(Duration::from_secs(3)).await);
                let late = watch();
                counts.push(stage.questions_within(Duration::from_millis(500)).await);
                drop(late);
                counts
            };
            let counts = tokio::select! {
                () = stage.feed.tell_status(&desk) => panic!("it never ends"),
                counts = seen => counts,
            };
            assert_eq!(counts, [0, 5, 0, 1]);
        });
    }

    #[test]
    fn each_door_has_its_places_and_whoever_leaves_makes_room() {
        let stage = Stage::new();
        let watch = |door| stage.feed.watch(door, STATUS);
        let mut watchers: Vec<_> = (0..CONTROL_WATCHERS_MAX).map(|_| watch(Door::Control).unwrap()).collect();
        assert!(watch(Door::Control).is_err_and(|problem| problem.error == "32 watch already: try later"));
        assert!(watch(Door::Monitor).is_ok());
        watchers.pop();
        assert!(watch(Door::Control).is_ok());
    }

    #[test]
    fn a_silent_stream_has_a_heartbeat_and_ends_with_the_primary() {
        paused().block_on(async {
            let Stage { primary, feed, source, inbox, _poll } = Stage::new();
            let running = tokio::spawn(source.run(Desk::new(Door::Control, inbox.remote())));
            let mut watcher = feed.watch(Door::Control, Wish { follow: true, ..Wish::default() }).unwrap();
            let begin = tokio::time::Instant::now();
            assert_eq!(watcher.next().await, Some(Message::Heartbeat));
            assert_eq!(begin.elapsed(), HEARTBEAT_EVERY);
            drop(primary);
            assert_eq!(watcher.next().await, None);
            running.await.unwrap();
        });
    }
}
