//! How much of something there may be in a second.
use std::time::{Duration, Instant};

/// Generic cell rate algorithm (ITU-T I.371): a tenth of a second's worth at once.
#[derive(Debug)]
pub struct Rate {
    interval: Duration,
    conforming: Instant,
}

/// How early the next may come.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    /// So many in a second, at least 1.
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), conforming: now }
    }

    /// Whether there may be one more now.
    pub fn allows(&mut self, now: Instant) -> bool {
        let allowed = self.conforming <= now + BURST;
        if allowed {
            self.conforming = self.conforming.max(now) + self.interval;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_steady_rate() {
        let now = Instant::now();
        let mut rate = Rate::new(1000, now);
        assert_eq!((0..1000).filter(|_| rate.allows(now)).count(), 101);
        let later = |ms| now + Duration::from_millis(ms);
        assert_eq!((1..=1000).filter(|ms| rate.allows(later(*ms))).count(), 1000);
        assert_eq!((0..1000).filter(|_| rate.allows(later(5000))).count(), 101);
    }
}
