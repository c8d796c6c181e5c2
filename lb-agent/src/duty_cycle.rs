//! A bound on the part of the time that repeated work takes, which lets a few changes through at once.
//!
//! What one user does is a few changes within milliseconds, and is to be seen at once; what a rollout
//! does are thousands, and is to leave processor time to others. Both are told apart by what has
//! been worked lately, as a leaky bucket tells bursts from load (the generic cell rate algorithm of
//! ITU-T I.371): each work is accounted for at a multiple of what it took, and the next waits only
//! while the account is further ahead of the clock than a burst may be.
use std::time::{Duration, Instant};

/// When work may be done again.
#[derive(Clone, Debug)]
pub(crate) struct DutyCycle {
    limits: Limits,
    /// Up to when the work that was done fills its part of the time.
    paid_by: Option<Instant>,
}

/// What it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// One part in so many of the time.
    pub(crate) one_in: u32,
    /// A work that took less counts as much: what comes within a moment is done together.
    pub(crate) least: Duration,
    /// How far what is accounted for may be ahead of the clock before anything waits.
    pub(crate) burst: Duration,
    /// Nothing waits longer than this.
    pub(crate) longest: Duration,
}

impl DutyCycle {
    /// Nothing has been worked yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, paid_by: None }
    }

    /// Work was done from `began` to `ended`.
    pub(crate) fn worked(&mut self, began: Instant, ended: Instant) {
        let Limits { one_in, least, burst, longest } = self.limits;
        let took = ended.saturating_duration_since(began).max(least);
        let paid_by = self.paid_by.map_or(began, |by| by.max(began)) + took * one_in;
        self.paid_by = Some(paid_by.min(ended + longest + burst));
    }

    /// From when on the next may be done; `None` before the first.
    pub(crate) fn ready(&self) -> Option<Instant> {
        Some(self.paid_by? - self.limits.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        one_in: 4,
        least: Duration::from_micros(100),
        burst: Duration::from_millis(20),
        longest: Duration::from_millis(500),
    };

    /// Works as often as it may for a while, each time that long: how often, and the longest wait.
    fn busy(took: Duration, time: Duration) -> (u32, Duration) {
        let (mut duty, start) = (DutyCycle::new(LIMITS), Instant::now());
        let (mut now, mut times, mut longest) = (start, 0, Duration::ZERO);
        while now < start + time {
            duty.worked(now, now + took);
            now += took;
            times += 1;
            let ready = duty.ready().unwrap_or(now).max(now);
            longest = longest.max(ready - now);
            now = ready;
        }
        (times, longest)
    }

    #[test]
    fn a_few_changes_do_not_wait() {
        let (mut duty, start) = (DutyCycle::new(LIMITS), Instant::now());
        assert_eq!(duty.ready(), None);
        let ms = Duration::from_millis;
        for n in 0..5 {
            let at = start + ms(n);
            assert!(duty.ready().is_none_or(|ready| ready <= at), "change {n}");
            duty.worked(at, at + ms(1));
        }
        assert!(duty.ready().unwrap() <= start + ms(5));
        // It recovers with the time.
        let later = start + ms(1000);
        duty.worked(later, later + ms(1));
        assert!(duty.ready().unwrap() < later + ms(1));
    }

    #[test]
    fn thousands_take_their_part_of_the_time() {
        for took in [1, 5, 30].map(Duration::from_millis) {
            let second = Duration::from_secs(10);
            let (times, longest) = busy(took, second);
            let part = f64::from(times) * took.as_secs_f64() / second.as_secs_f64();
            assert!((0.24..0.26).contains(&part), "{took:?}: {part}");
            assert!(longest <= took * 4, "{took:?}: {longest:?}");
        }
        let (_, longest) = busy(Duration::from_secs(2), Duration::from_secs(20));
        assert_eq!(longest, LIMITS.longest);
        let (times, _) = busy(Duration::ZERO, Duration::from_secs(1));
        assert!((2500..2600).contains(&times), "what takes nothing is gathered, too: {times}");
    }
}
