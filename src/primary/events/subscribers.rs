//! Who hears [`events`](super), through bounded channels for which the event loop never waits: subscribers as events,
//! observers as lines of JSON, which are made once for all of them.

use std::fmt;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{Event, Line, Who, json};
use crate::sys::clock;

/// Whoever wants to hear events.
#[derive(Debug, Default)]
pub(in crate::primary) struct Subscribers {
    subscribers: Vec<Subscriber>,
    observers: Vec<Observer>,
    /// The number of the last event.
    last_id: u64,
}

/// The primary's side of one subscription.
#[derive(Debug)]
pub struct Subscriber {
    events: Sender<Event>,
    /// Events since the last one that found room.
    lost: u64,
    /// Messages of workers are events to it too.
    hears_messages: bool,
}

/// The primary's side of one observation.
#[derive(Debug)]
pub(in crate::primary) struct Observer {
    lines: Sender<Line>,
    /// Dropped after `lines`: whoever is woken finds their end.
    wake: Wake,
}

/// Called when there is something new, and at the end.
struct Wake(Box<dyn Fn() + Send>);

/// A subscription that holds at most `capacity` events, and where they come out. It ends when the receiver is dropped.
pub(in crate::primary) fn subscription(capacity: usize) -> (Subscriber, Receiver<Event>) {
    // Events and the word of those that were lost before them go together.
    let (events, receiver) = bounded(capacity.max(2));
    (Subscriber { events, lost: 0, hears_messages: true }, receiver)
}

/// The same for lines. `wake` is called in the event loop: it must not wait for anybody.
pub(in crate::primary) fn observation(capacity: usize, wake: impl Fn() + Send + 'static) -> (Observer, Receiver<Line>) {
    let (lines, receiver) = bounded(capacity.max(1));
    (Observer { lines, wake: Wake(Box::new(wake)) }, receiver)
}

impl Subscribers {
    /// Goes on after the event of this number.
    pub fn go_on_after(&mut self, last_id: u64) {
        self.last_id = last_id;
    }

    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    pub fn add(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    pub fn add_observer(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// Tells all of them, if there are any, what is about no worker.
    pub fn tell(&mut self, event: impl FnOnce() -> Event) {
        self.tell_about(None, event);
    }

    /// The same about a worker.
    pub fn tell_of(&mut self, who: Who, event: impl FnOnce() -> Event) {
        self.tell_about(Some(who), event);
    }

    fn tell_about(&mut self, who: Option<Who>, event: impl FnOnce() -> Event) {
        self.last_id += 1;
        if self.subscribers.is_empty() && self.observers.is_empty() {
            return;
        }
        let event = event();
        if !self.observers.is_empty() {
            let line = json::line(self.last_id, clock::since_epoch(), who, &event);
            self.observers.retain(|observer| observer.tell(&line));
        }
        self.subscribers.retain_mut(|subscriber| subscriber.tell(&event));
    }
}

impl Observer {
    /// False: nobody reads any more. What finds no room is lost, and the numbers of the lines tell.
    fn tell(&self, line: &Line) -> bool {
        let is_read = !matches!(self.lines.try_send(line.clone()), Err(TrySendError::Disconnected(_)));
        (self.wake.0)();
        is_read
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

impl Subscriber {
    /// The same, but messages of workers pass it by: they may be many, and their descriptors would wait with them.
    pub(in crate::primary) fn without_messages(self) -> Self {
        Self { hears_messages: false, ..self }
    }

    /// False: nobody reads any more.
    fn tell(&mut self, event: &Event) -> bool {
        if !self.hears_messages && matches!(event, Event::Message { .. }) {
            return true;
        }
        if self.lost > 0 {
            // Only this side sends: what finds room now is not taken by anybody else.
            if self.events.capacity().is_some_and(|capacity| self.events.len() + 2 > capacity) {
                self.lost += 1;
                return true;
            }
            let told = self.events.try_send(Event::Lost { count: self.lost });
            self.lost = 0;
            if told.is_err() {
                return false;
            }
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost = 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::protocol::body::Body;
    use crate::protocol::ids::WorkerId;

    fn online(id: u32) -> impl FnOnce() -> Event {
        move || Event::Online { worker: WorkerId(id) }
    }

    /// Ids, and losses as negative numbers.
    fn heard(events: &Receiver<Event>) -> Vec<i64> {
        let number = |event| match event {
            Event::Online { worker } => worker.0.into(),
            Event::Lost { count } => -(count as i64),
            other => panic!("nobody told {other:?}"),
        };
        events.try_iter().map(number).collect()
    }

    #[test]
    fn a_slow_reader_loses_events_and_hears_how_many_in_their_place() {
        let mut subscribers = Subscribers::default();
        let (subscriber, slow) = subscription(3);
        subscribers.add(subscriber);
        let (subscriber, fast) = subscription(100);
        subscribers.add(subscriber);
        (1..=7).for_each(|id| subscribers.tell(online(id)));
        assert!(matches!(slow.try_recv(), Ok(Event::Online { worker: WorkerId(1) })));
        subscribers.tell(online(8));
        assert_eq!(heard(&slow), [2, 3], "no room yet for the loss and what comes after it");
        subscribers.tell(online(9));
        assert_eq!(heard(&slow), [-5, 9]);
        (10..=11).for_each(|id| subscribers.tell(online(id)));
        assert_eq!(heard(&slow), [10, 11]);
        assert_eq!(heard(&fast), (1..=11).collect::<Vec<_>>(), "whatever the other one does");
    }

    #[test]
    fn messages_can_pass_by_and_are_not_lost_then() {
        let mut subscribers = Subscribers::default();
        let (subscriber, events) = subscription(2);
        subscribers.add(subscriber.without_messages());
        let message = || Event::Message { worker: WorkerId(9), body: Body::of(&1).unwrap(), fd: None };
        (0..5).for_each(|_| subscribers.tell(message));
        subscribers.tell(online(1));
        subscribers.tell(message);
        subscribers.tell(online(2));
        assert_eq!(heard(&events), [1, 2]);
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let mut subscribers = Subscribers::default();
        let (subscriber, events) = subscription(3);
        subscribers.add(subscriber);
        drop(events);
        subscribers.tell(online(1));
        subscribers.tell(|| panic!("the only one has gone"));
    }

    #[test]
    fn an_observer_is_woken_for_every_line_and_at_the_end_and_sees_by_the_numbers_what_it_has_lost() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let (observer, lines) = observation(2, move || _ = counter.fetch_add(1, Ordering::Relaxed));
        let mut subscribers = Subscribers::default();
        subscribers.go_on_after(40);
        subscribers.tell(|| panic!("nobody listens"));
        subscribers.add_observer(observer);
        (1..=3).for_each(|id| subscribers.tell(online(id)));
        assert_eq!(lines.try_iter().map(|line| line.id).collect::<Vec<_>>(), [42, 43]);
        subscribers.tell(online(4));
        assert_eq!(lines.try_iter().map(|line| line.id).collect::<Vec<_>>(), [45]);
        assert_eq!((woken.load(Ordering::Relaxed), subscribers.last_id()), (4, 45));
        drop(subscribers);
        assert_eq!((woken.load(Ordering::Relaxed), lines.try_recv().is_err()), (5, true));
    }
}
