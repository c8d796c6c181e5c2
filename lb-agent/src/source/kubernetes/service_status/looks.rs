//! When objects are looked at, rather than written by what is known of them.
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether the objects are still there.
const AGAIN: Duration = Duration::from_secs(300);
/// For how long nothing is to have changed before objects of other nodes are judged: for a moment,
/// while agents start or hear that one has gone, two take themselves for owners, and each would remove what
/// the other has just written.
const CALM: Duration = Duration::from_secs(3);
/// Where it never is so long, they are judged all the same.
const LONGEST: Duration = Duration::from_secs(30);

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// This node's own objects.
    Own,
    /// Those, which another may have removed by mistake, and those of others.
    All,
}

/// When.
#[derive(Debug)]
pub(super) struct Looks {
    /// Objects of others may have to be removed.
    of_others: bool,
    due: Instant,
    /// When the first change was that no look at all objects has followed.
    unsettled: Option<Instant>,
    begun: bool,
}

impl Looks {
    /// The first is due now.
    pub(super) fn new(of_others: bool, now: Instant) -> Self {
        Self { of_others, due: now, unsettled: None, begun: false }
    }

    /// What is to be looked at now, as it will be; `None` if nothing.
    pub(super) fn take(&mut self, now: Instant) -> Option<Look> {
        if now < self.due {
            return None;
        }
        self.due = now + AGAIN;
        if !std::mem::replace(&mut self.begun, true) {
            self.changed(now);
            return Some(Look::Own);
        }
        self.unsettled = None;
        Some(if self.of_others { Look::All } else { Look::Own })
    }

    /// What is announced has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        if self.of_others {
            let first = *self.unsettled.get_or_insert(now);
            self.due = (now + CALM).min(first + LONGEST);
        }
    }

    /// What was to be written could not be: all is looked at again then.
    pub(super) fn failed(&mut self, again: Instant) {
        self.due = self.due.min(again);
    }

    /// When the next is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_judged_once_nothing_changes() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut looks = Looks::new(true, start);
        assert_eq!(looks.take(at(0)), Some(Look::Own));
        assert_eq!(looks.take(at(1)), None);
        looks.changed(at(2));
        assert_eq!(looks.take(at(4)), None);
        assert_eq!((looks.due(), looks.take(at(5))), (at(5), Some(Look::All)));
        assert_eq!((looks.due(), looks.take(at(6))), (at(305), None));
        for second in 100..130 {
            looks.changed(at(second));
            assert_eq!(looks.take(at(second)), None, "{second}");
        }
        looks.changed(at(130));
        assert_eq!(looks.take(at(130)), Some(Look::All), "not put off for ever");
        looks.failed(at(140));
        assert_eq!((looks.due(), looks.take(at(140))), (at(140), Some(Look::All)));
    }

    #[test]
    fn where_others_are_left_alone_a_change_calls_for_no_look() {
        let start = Instant::now();
        let mut looks = Looks::new(false, start);
        assert_eq!(looks.take(start), Some(Look::Own));
        looks.changed(start);
        assert_eq!((looks.due(), looks.take(start + CALM)), (start + AGAIN, None));
        assert_eq!(looks.take(start + AGAIN), Some(Look::Own));
    }
}
