//! How often packets go, and how long may pass without one (RFC 5880 sections 6.8.2 to 6.8.7).
use super::packet::Packet;
use crate::random::Random;
use std::{num::NonZeroU8, time::Duration};

/// Nothing is sent more often than this while a session is not up (RFC 5880 section 6.8.3).
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// What a peer has last said of its intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) desired_min_tx: Duration,
    pub(super) required_min_rx: Duration,
    pub(super) detect_multiplier: NonZeroU8,
}

impl Remote {
    pub(super) fn of(packet: &Packet) -> Self {
        Self {
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            detect_multiplier: packet.detect_multiplier,
        }
    }

    /// How long may pass without a packet, at the intervals that we have told (section 6.8.4).
    pub(super) fn detection_time(&self, required_min_rx: Duration) -> Duration {
        required_min_rx.max(self.desired_min_tx) * u32::from(self.detect_multiplier.get())
    }
}

/// When the next packet goes after one: sooner than the interval by up to a quarter, and by a tenth at
/// least where a single one that is missed is too many (section 6.8.7).
pub(super) fn pause(interval: Duration, multiplier: NonZeroU8, random: &mut Random) -> Duration {
    let most = if multiplier.get() == 1 { 90 } else { 100 };
    random.part(interval, 75..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_three_quarters_to_all_of_the_interval() {
        let interval = Duration::from_millis(300);
        let mut random = Random::new(3);
        for (multiplier, least, most) in [(1, 225, 270), (3, 225, 300)] {
            let multiplier = NonZeroU8::new(multiplier).unwrap();
            let pauses: Vec<_> =
                (0..5_000).map(|_| pause(interval, multiplier, &mut random)).collect();
            let shortest = pauses.iter().min().unwrap().as_millis();
            let longest = pauses.iter().max().unwrap().as_millis();
            assert!((least..least + 2).contains(&shortest), "{shortest}");
            assert!((most - 2..=most).contains(&longest), "{longest}");
        }
    }
}
