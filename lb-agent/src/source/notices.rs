//! Telling users things once, not once per reconcile.
use crate::{
    plan::Notice,
    snapshot::ObjectName,
    validate::{Fault, Kind},
};
use imbl::{OrdSet, ordset::DiffItem};
use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// The reason of notices about configuration that cannot be used.
pub const CONFIGURATION_ERROR: &str = "ConfigurationError";

/// What is to be told about an object of the configuration: nothing if it can be used. Pools'
/// addresses are the allocator's own matter, which has a notice for them.
pub fn of_faults(kind: Kind, namespace: &str, name: &str, faults: &[Fault]) -> Option<Notice> {
    let told = |fault: &&Fault| kind != Kind::Pool || !fault.field.starts_with("spec.addresses");
    let lines: Vec<_> = faults.iter().filter(told).map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| Notice {
        kind: kind.name(),
        object: ObjectName::new(namespace, name),
        warning: true,
        reason: CONFIGURATION_ERROR,
        message: format!("is not used. {}", lines.join("; ")).into(),
    })
}

/// Writes a notice to the log.
pub(super) fn log(Notice { kind, object, warning, reason, message }: &Notice) {
    if *warning {
        warn!("{kind} {object}: {reason}: {message}");
    } else {
        info!("{kind} {object}: {reason}: {message}");
    }
}

/// Of notices that stand for as long as they are true, those that did not stand last time.
#[derive(Debug, Default)]
pub struct Standing {
    notices: OrdSet<Arc<Notice>>,
    /// They stand, and were to be told later.
    held: BTreeSet<Arc<Notice>>,
}

impl Standing {
    /// Takes the notices as they stand now, and returns those that are new.
    pub fn update(&mut self, notices: OrdSet<Arc<Notice>>) -> Vec<Arc<Notice>> {
        self.update_but(notices, |_| false)
    }

    /// The same, but those that are to be told `later`: they are new once they are not any more.
    pub fn update_but(
        &mut self,
        notices: OrdSet<Arc<Notice>>,
        later: impl Fn(&Notice) -> bool,
    ) -> Vec<Arc<Notice>> {
        let mut new = std::mem::take(&mut self.held);
        for item in self.notices.diff(&notices) {
            match item {
                DiffItem::Add(notice) => drop(new.insert(Arc::clone(notice))),
                DiffItem::Remove(notice) => drop(new.remove(notice)),
            }
        }
        self.notices = notices;
        let (held, new) = new.into_iter().partition(|notice| later(notice));
        self.held = held;
        new.into_iter().collect()
    }
}

/// How long the same notice is left out: longer than any burst of reconciles, short
/// enough that what comes back after a real pause is told again.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// How long a repetition is counted on the Event that is already there, rather than
/// on a new one. The API server keeps Events for an hour.
const SERIES_FOR: Duration = Duration::from_secs(6 * 60);

/// What to do about a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Telling {
    /// It has just been told.
    Nothing,
    /// Tell it.
    New,
    /// Tell that it happened again.
    Again {
        /// When it was told first (see [`Told::at`]).
        first: NonZeroU64,
        /// How often it was told, this time included.
        count: u32,
    },
}

/// What has been told recently.
///
/// Notices are known by a keyed hash, and times are short: tens of thousands of them are remembered
/// for minutes.
#[derive(Debug, Default)]
pub struct Told {
    recent: HashMap<u64, Entry>,
    key: RandomState,
    /// When the first one was judged.
    begin: Option<Instant>,
    forgotten_s: u64,
}

#[derive(Debug)]
struct Entry {
    /// Seconds since the begin.
    seen_s: u32,
    count: u32,
    /// Nanoseconds since 1970.
    first: Option<NonZeroU64>,
}

impl Told {
    /// Judges a notice.
    pub fn judge(&mut self, now: Instant, notice: &Notice) -> Telling {
        let now_s = now.duration_since(*self.begin.get_or_insert(now)).as_secs();
        let since = |entry: &Entry| Duration::from_secs(now_s.saturating_sub(entry.seen_s.into()));
        if now_s.saturating_sub(self.forgotten_s) >= REPEAT_AFTER.as_secs() {
            self.recent.retain(|_, entry| since(entry) < SERIES_FOR);
            self.recent.shrink_to(2 * self.recent.len());
            self.forgotten_s = now_s;
        }
        // A century later they would all be as old.
        let seen_s = u32::try_from(now_s).unwrap_or(u32::MAX);
        let hash = self.key.hash_one(notice);
        let Some(entry) = self.recent.get_mut(&hash) else {
            let entry = Entry { seen_s, count: 1, first: None };
            self.recent.insert(hash, entry);
            return Telling::New;
        };
        let pause = since(entry);
        entry.seen_s = seen_s;
        if pause < REPEAT_AFTER {
            return Telling::Nothing;
        }
        match entry.first {
            Some(first) if pause < SERIES_FOR => {
                entry.count = entry.count.saturating_add(1);
                Telling::Again { first, count: entry.count }
            }
            _ => {
                (entry.count, entry.first) = (1, None);
                Telling::New
            }
        }
    }

    /// Remembers when a new notice was told, in nanoseconds since 1970.
    pub fn at(&mut self, notice: &Notice, time: u64) {
        if let Some(entry) = self.recent.get_mut(&self.key.hash_one(notice)) {
            entry.first = NonZeroU64::new(time);
        }
    }

    /// Forgets a notice that could not be told, so that the next one is.
    pub fn failed(&mut self, notice: &Notice) {
        self.recent.remove(&self.key.hash_one(notice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ObjectName;

    fn notice(reason: &'static str, message: &str) -> Notice {
        Notice {
            kind: "Service",
            object: ObjectName::new("default", "web"),
            warning: false,
            reason,
            message: message.into(),
        }
    }

    #[test]
    fn standing_notices_are_new_once() {
        let mut standing = Standing::default();
        let mut update = |reasons: &[&'static str]| {
            let notices = reasons.iter().map(|reason| Arc::new(notice(reason, "1")));
            let new = standing.update(notices.collect());
            Vec::from_iter(new.iter().map(|notice| notice.reason))
        };
        assert_eq!(update(&["A", "B"]), ["A", "B"]);
        assert!(update(&["A", "B"]).is_empty());
        assert!(update(&["B"]).is_empty());
        assert_eq!(update(&["A", "B"]), ["A"], "it had gone in between");
    }

    #[test]
    fn what_is_to_be_told_later_is_new_then_if_it_still_stands() {
        let mut standing = Standing::default();
        let mut update = |reasons: &[&'static str], later: &'static str| {
            let notices = reasons.iter().map(|reason| Arc::new(notice(reason, "1")));
            let new = standing.update_but(notices.collect(), |notice| notice.reason == later);
            Vec::from_iter(new.iter().map(|notice| notice.reason))
        };
        assert_eq!(update(&["A", "B"], "B"), ["A"]);
        assert!(update(&["A", "B"], "B").is_empty());
        assert_eq!(update(&["A", "B"], ""), ["B"]);
        assert!(update(&["A", "B", "C"], "C").is_empty());
        assert!(update(&["A", "B"], "").is_empty(), "it does not stand any more");
    }

    #[test]
    fn a_change_is_told_at_once_and_a_repetition_is_not() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut told = Told::default();
        assert_eq!(told.judge(at(0), &notice("nodeAssigned", "a")), Telling::New);
        assert_eq!(told.judge(at(1), &notice("nodeAssigned", "a")), Telling::Nothing);
        assert_eq!(told.judge(at(2), &notice("nodeAssigned", "b")), Telling::New);
        // However long it is repeated, it is told once as long as it does not pause.
        for s in (3..400).step_by(50) {
            assert_eq!(told.judge(at(s), &notice("nodeAssigned", "b")), Telling::Nothing, "{s}");
        }
    }

    #[test]
    fn what_comes_back_after_a_pause_is_counted_on_the_first() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut told = Told::default();
        let n = notice("AllocationFailed", "pool is full");
        assert_eq!(told.judge(at(0), &n), Telling::New);
        told.at(&n, 1);
        let again = |count| Telling::Again { first: NonZeroU64::MIN, count };
        assert_eq!(told.judge(at(61), &n), again(2));
        assert_eq!(told.judge(at(150), &n), again(3));
        assert_eq!(told.judge(at(600), &n), Telling::New, "too long ago");
    }

    #[test]
    fn what_could_not_be_told_is_told_next_time() {
        let now = Instant::now();
        let mut told = Told::default();
        assert_eq!(told.judge(now, &notice("A", "1")), Telling::New);
        told.failed(&notice("A", "1"));
        assert_eq!(told.judge(now, &notice("A", "1")), Telling::New);
    }
}
