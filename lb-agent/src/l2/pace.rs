//! A bound for how many frames are sent in a second, and at once.
use std::time::{Duration, Instant};

/// The generic cell rate algorithm (ITU-T I.371) without a clock.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two.
    interval: Duration,
    /// How far it may run ahead.
    burst: Duration,
    /// When the next one is due at the full rate.
    next: Option<Instant>,
}

impl Pace {
    /// So many a second (at least one), and so many at once.
    pub fn new(rate: u32, burst: u32) -> Self {
        Self::every(Duration::from_secs(1) / rate.max(1), burst)
    }

    /// One in that time, and so many at once.
    pub fn every(interval: Duration, burst: u32) -> Self {
        // The one that is allowed in any case is the first of them.
        Self { interval, burst: interval * burst.saturating_sub(1), next: None }
    }

    /// When something that is due then may be sent.
    pub fn from(&self, due: Instant) -> Instant {
        match self.next.and_then(|next| next.checked_sub(self.burst)) {
            Some(free) => due.max(free),
            None => due,
        }
    }

    /// Some were sent.
    pub fn sent(&mut self, now: Instant, count: usize) {
        let from = self.next.map_or(now, |next| next.max(now));
        self.next = Some(from + self.interval * u32::try_from(count).unwrap_or(u32::MAX));
    }
}
