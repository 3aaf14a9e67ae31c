//! The last lines of a kind, numbered, for readers of different pace: one store for all of them, and a place in it for
//! each. A reader that is too slow finds that lines are missing, and how many. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

/// Lines, the oldest first. Numbers rise; where one is missing, a line was lost before it came here.
#[derive(Debug)]
pub(super) struct Ring {
    lines: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
    bounds: Bounds,
}

/// How much is kept. The oldest line goes when there is more than one of them allows; the newest one stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) count_max: usize,
    pub(super) bytes_max: usize,
}

/// Where one reader stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The number of the last line that it has had; `None`: it is new.
    last: Option<u64>,
    /// How many lines it gets first if it is new.
    recent_max: usize,
}

/// What a reader gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// So many lines are missing here.
    Lost(u64),
    /// The line of this number.
    Line(u64, Arc<str>),
}

impl Ring {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, bounds }
    }

    pub(super) fn push(&mut self, number: u64, line: Arc<str>) {
        self.bytes += line.len();
        self.lines.push_back((number, line));
        while self.lines.len() > 1 && (self.lines.len() > self.bounds.count_max || self.bytes > self.bounds.bytes_max) {
            self.bytes -= self.lines.pop_front().map_or(0, |(_, line)| line.len());
        }
    }
}

impl Place {
    /// Of a reader that has had everything up to `last`, if it has had anything.
    pub(super) fn after(last: Option<u64>, recent_max: usize) -> Self {
        Self { last, recent_max }
    }

    /// The next thing for the reader, `None` if it has had everything.
    pub(super) fn step(&mut self, ring: &Ring) -> Option<Step> {
        let lines = &ring.lines;
        // Its lines were those of another primary, which had counted further.
        self.last = self.last.filter(|last| lines.back().is_none_or(|(newest, _)| last <= newest));
        let index = match self.last {
            Some(last) => lines.partition_point(|(number, _)| *number <= last),
            None => lines.len().saturating_sub(self.recent_max),
        };
        let (number, line) = lines.get(index)?;
        match self.last.replace(number - 1).map_or(0, |last| number - 1 - last) {
            0 => {
                self.last = Some(*number);
                Some(Step::Line(*number, Arc::clone(line)))
            }
            missing => Some(Step::Lost(missing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(numbers: impl IntoIterator<Item = u64>, count_max: usize, bytes_max: usize) -> Ring {
        let mut ring = Ring::new(Bounds { count_max, bytes_max });
        numbers.into_iter().for_each(|number| ring.push(number, format!("{number:03}").into()));
        ring
    }

    /// Numbers, and losses as negative ones.
    fn read(place: &mut Place, ring: &Ring) -> Vec<i64> {
        let step = || place.step(ring);
        let number = |step| match step {
            Step::Lost(count) => -(count as i64),
            Step::Line(number, line) => {
                assert_eq!(*line, *format!("{number:03}"));
                number as i64
            }
        };
        std::iter::from_fn(step).map(number).collect()
    }

    #[test]
    fn the_oldest_go_first_by_number_and_by_size_and_the_newest_stays() {
        let all = |ring: &Ring| read(&mut Place::after(None, usize::MAX), ring);
        assert_eq!(all(&ring(1..=9, 4, 1000)), [6, 7, 8, 9]);
        assert_eq!(all(&ring(1..=9, 1000, 8)), [8, 9]);
        assert_eq!(all(&ring(1..=9, 1000, 1)), [9]);
        assert_eq!(all(&ring([], 4, 4)), [0; 0]);
    }

    #[test]
    fn who_is_new_begins_with_the_recent_ones_and_then_gets_each_once() {
        let mut lines = ring(11..=19, 100, 1000);
        let mut place = Place::after(None, 3);
        assert_eq!(read(&mut place, &lines), [17, 18, 19]);
        assert_eq!(read(&mut place, &lines), [0; 0]);
        lines.push(20, "020".into());
        assert_eq!(read(&mut place, &lines), [20]);
        let mut early = Place::after(None, 3);
        assert_eq!(read(&mut early, &ring([], 4, 4)), [0; 0]);
        assert_eq!(read(&mut early, &ring(5..=6, 4, 100)), [5, 6], "nothing was lost to who has had nothing");
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was_and_hears_what_it_has_missed() {
        let lines = ring(11..=19, 5, 1000);
        assert_eq!(read(&mut Place::after(Some(16), 3), &lines), [17, 18, 19]);
        assert_eq!(read(&mut Place::after(Some(12), 3), &lines), [-2, 15, 16, 17, 18, 19]);
        assert_eq!(read(&mut Place::after(Some(14), 3), &lines), [15, 16, 17, 18, 19]);
        assert_eq!(read(&mut Place::after(Some(0), 3), &lines), [-14, 15, 16, 17, 18, 19]);
        assert_eq!(read(&mut Place::after(Some(19), 3), &lines), [0; 0]);
        assert_eq!(read(&mut Place::after(Some(20), 3), &lines), [17, 18, 19], "these were another primary's");
    }

    #[test]
    fn a_line_that_never_came_is_missed_like_one_that_has_gone() {
        assert_eq!(read(&mut Place::after(None, 9), &ring([1, 2, 5, 6], 9, 1000)), [1, 2, -2, 5, 6]);
        let mut slow = Place::after(None, 9);
        assert_eq!(read(&mut slow, &ring(1..=2, 3, 1000)), [1, 2]);
        assert_eq!(read(&mut slow, &ring(1..=9, 3, 1000)), [-4, 7, 8, 9]);
    }
}
