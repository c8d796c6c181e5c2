//! When to publish a snapshot: at once, but not for each of a thousand changes.
use crate::duty_cycle::{DutyCycle, Limits};
use std::time::{Duration, Instant};

/// Making snapshots may take a tenth of the time, beyond some at once.
const LIMITS: Limits = Limits {
    one_in: 10,
    least: Duration::from_micros(100),
    burst: Duration::from_millis(20),
    longest: Duration::from_millis(500),
};

/// When the next snapshot is due.
#[derive(Debug)]
pub(super) struct Pace {
    changed: Option<Instant>,
    duty: DutyCycle,
}

impl Default for Pace {
    fn default() -> Self {
        Self { changed: None, duty: DutyCycle::new(LIMITS) }
    }
}

impl Pace {
    /// Something has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// When to publish; `None` if there is nothing to publish.
    pub(super) fn due(&self) -> Option<Instant> {
        let changed = self.changed?;
        Some(self.duty.ready().map_or(changed, |ready| changed.max(ready)))
    }

    /// It was published, which was begun and ended then.
    pub(super) fn published(&mut self, began: Instant, ended: Instant) {
        self.changed = None;
        self.duty.worked(began, ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_gathered_where_snapshots_are_dear() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.changed(at(0));
        pace.changed(at(1));
        assert_eq!(pace.due(), Some(at(0)), "nothing is waited for");
        pace.published(at(1), at(2));
        assert_eq!(pace.due(), None);
        pace.changed(at(3));
        assert_eq!(pace.due(), Some(at(3)), "nor after one");
        pace.published(at(3), at(10));
        pace.changed(at(11));
        pace.changed(at(25));
        assert_eq!(pace.due(), Some(at(61)));
    }
}
