//! Random numbers for jitter.
use std::time::Duration;

/// Numbers that are spread evenly (SplitMix64). They hide nothing: whoever seeds it knows them all.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a number that should be another one for each session.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A part of a duration, between two percentages of it.
    pub(crate) fn part(
        &mut self,
        whole: Duration,
        percent: std::ops::RangeInclusive<u32>,
    ) -> Duration {
        const STEPS: u32 = 1 << 16;
        let step = u32::try_from(self.next() >> 48).unwrap_or(0);
        let spread = whole * (percent.end() - percent.start()) / 100;
        whole * *percent.start() / 100 + spread * step / (STEPS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_spread_over_all_of_the_range() {
        let mut random = Random::new(7);
        let whole = Duration::from_secs(1);
        let parts: Vec<_> = (0..10_000).map(|_| random.part(whole, 75..=100)).collect();
        let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
        assert!((750..752).contains(&least.as_millis()), "{least:?}");
        assert!((998..=1000).contains(&most.as_millis()), "{most:?}");
        let mean = parts.iter().sum::<Duration>() / 10_000;
        assert!((870..880).contains(&mean.as_millis()), "{mean:?}");
    }
}
