//! When to publish a snapshot: soon, but not for each of a thousand changes.
use std::time::{Duration, Instant};

/// A Service and its EndpointSlice come as two changes within a millisecond or so.
const QUIET: Duration = Duration::from_millis(2);
/// A steady stream of changes is not waited out for longer.
const PATIENCE: Duration = Duration::from_millis(20);
/// Making snapshots may take a tenth of the time, within these bounds.
const SHARE: u32 = 10;
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// When the next snapshot is due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    changes: Option<(Instant, Instant)>,
    not_before: Option<Instant>,
}

impl Pace {
    /// Something has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let first = self.changes.map_or(now, |(first, _)| first);
        self.changes = Some((first, now));
    }

    /// When to publish; `None` if there is nothing to publish.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = self.changes?;
        let due = (last + QUIET).min(first + PATIENCE);
        Some(self.not_before.map_or(due, |earliest| due.max(earliest)))
    }

    /// It was published, which took `cost`.
    pub(super) fn published(&mut self, now: Instant, cost: Duration) {
        self.changes = None;
        self.not_before = Some(now + (cost * SHARE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_gathered_but_not_for_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.changed(at(0));
        assert_eq!(pace.due(), Some(at(2)));
        pace.changed(at(1));
        assert_eq!(pace.due(), Some(at(3)));
        for ms in 2..30 {
            pace.changed(at(ms));
        }
        assert_eq!(pace.due(), Some(at(20)));
        pace.published(at(20), Duration::from_micros(700));
        assert_eq!(pace.due(), None);
        pace.changed(at(21));
        assert_eq!(pace.due(), Some(at(27)), "a pause after each");
        pace.published(at(30), Duration::from_millis(7));
        pace.changed(at(31));
        assert_eq!(pace.due(), Some(at(100)), "a longer one where snapshots are dear");
        pace.published(at(100), Duration::from_secs(9));
        pace.changed(at(101));
        assert_eq!(pace.due(), Some(at(600)));
    }
}
