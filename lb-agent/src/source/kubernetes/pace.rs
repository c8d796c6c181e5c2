//! When to publish a snapshot: at once, but not for each of a thousand changes.
use std::time::{Duration, Instant};

/// Making snapshots may take a tenth of the time, within these bounds.
const SHARE: u32 = 10;
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// When the next snapshot is due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    changed: Option<Instant>,
    not_before: Option<Instant>,
}

impl Pace {
    /// Something has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// When to publish; `None` if there is nothing to publish.
    pub(super) fn due(&self) -> Option<Instant> {
        let changed = self.changed?;
        Some(self.not_before.map_or(changed, |earliest| changed.max(earliest)))
    }

    /// It was published, which took `cost`.
    pub(super) fn published(&mut self, now: Instant, cost: Duration) {
        self.changed = None;
        self.not_before = Some(now + (cost * SHARE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_gathered_during_the_pause_after_a_snapshot() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.changed(at(0));
        pace.changed(at(1));
        assert_eq!(pace.due(), Some(at(0)), "nothing is waited for");
        pace.published(at(20), Duration::from_micros(700));
        assert_eq!(pace.due(), None);
        pace.changed(at(21));
        pace.changed(at(25));
        assert_eq!(pace.due(), Some(at(27)), "a pause after each");
        pace.published(at(30), Duration::from_millis(7));
        pace.changed(at(31));
        assert_eq!(pace.due(), Some(at(100)), "a longer one where snapshots are dear");
        pace.published(at(100), Duration::from_secs(9));
        pace.changed(at(101));
        assert_eq!(pace.due(), Some(at(600)));
    }
}
