//! Which interfaces have a carrier. One that goes counts at once; one that comes back only after it has
//! stayed for a while, longer each time: a cable that flaps moves no VIPs to and fro. No I/O and no
//! clock: `now` is an argument.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a carrier that comes back has to stay, the first time. Switches' ports may not forward
/// before, either.
const FIRST: Duration = Duration::from_millis(500);
/// And at most.
const LONGEST: Duration = Duration::from_secs(60);
/// Losses are forgotten after so long without any.
const FORGOTTEN: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug)]
struct Carrier {
    up: bool,
    /// When it counts again, if it has come back.
    counts: Option<Instant>,
    /// How often it was lost of late.
    losses: u32,
    lost: Option<Instant>,
}

/// The carriers of interfaces, by index.
#[derive(Clone, Debug, Default)]
pub(super) struct Carriers(BTreeMap<u32, Carrier>);

impl Carriers {
    /// Takes in whether an interface has a carrier.
    pub(super) fn observe(&mut self, now: Instant, index: u32, up: bool) {
        let known =
            self.0.entry(index).or_insert(Carrier { up, counts: None, losses: 0, lost: None });
        if known.up == up {
            return;
        }
        known.up = up;
        if up {
            let pause = FIRST * 2u32.saturating_pow(known.losses.saturating_sub(1).min(10));
            known.counts = Some(now + pause.min(LONGEST));
            return;
        }
        if known.lost.is_none_or(|lost| now >= lost + FORGOTTEN) {
            known.losses = 0;
        }
        known.losses = known.losses.saturating_add(1);
        (known.lost, known.counts) = (Some(now), None);
    }

    /// An interface is gone. One that is made anew is another.
    pub(super) fn forget(&mut self, index: u32) {
        self.0.remove(&index);
    }

    /// Keeps those that are there.
    pub(super) fn retain(&mut self, there: impl Fn(u32) -> bool) {
        self.0.retain(|index, _| there(*index));
    }

    /// Whether an interface has one that counts. Nothing known counts as good.
    pub(super) fn counts(&self, now: Instant, index: u32) -> bool {
        let known = self.0.get(&index);
        known.is_none_or(|known| known.up && known.counts.is_none_or(|at| at <= now))
    }

    /// When the next one that has come back counts.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.0.values().filter_map(|carrier| carrier.counts).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_there_from_the_start_counts() {
        let now = Instant::now();
        let mut carriers = Carriers::default();
        assert!(carriers.counts(now, 2));
        carriers.observe(now, 2, true);
        carriers.observe(now, 3, false);
        assert!(carriers.counts(now, 2));
        assert!(!carriers.counts(now, 3));
        assert_eq!(carriers.next_deadline(now), None);
    }

    #[test]
    fn what_is_lost_is_lost_at_once_and_comes_back_later_each_time() {
        let mut now = Instant::now();
        let mut carriers = Carriers::default();
        carriers.observe(now, 2, true);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            carriers.observe(now, 2, false);
            assert!(!carriers.counts(now, 2));
            now += MS * 10;
            carriers.observe(now, 2, true);
            assert!(!carriers.counts(now, 2));
            let at = carriers.next_deadline(now).unwrap();
            pauses.push((at - now).as_millis());
            now = at;
            assert!(carriers.counts(now, 2));
            assert_eq!(carriers.next_deadline(now), None);
        }
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000];
        assert_eq!(pauses, expected);
        now += FORGOTTEN;
        carriers.observe(now, 2, false);
        carriers.observe(now, 2, true);
        assert_eq!(carriers.next_deadline(now), Some(now + FIRST));
    }

    #[test]
    fn an_interface_made_anew_is_another() {
        let now = Instant::now();
        let mut carriers = Carriers::default();
        carriers.observe(now, 2, true);
        carriers.observe(now, 2, false);
        carriers.forget(2);
        carriers.observe(now, 2, true);
        assert!(carriers.counts(now, 2));
    }
}
