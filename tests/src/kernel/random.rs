//! Random numbers for the suites: seeded, so that a failing run can be repeated.
use crate::suite;

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed that the environment names in `HERALD_SEED`; else one from the clock for a full
    /// run, and always the same for a short one: what a change did is not mixed up with luck.
    pub fn seed() -> u64 {
        if suite::full() { Self::any_seed() } else { Self::named().unwrap_or(1) }
    }

    /// The seed that the environment names in `HERALD_SEED`; else one from the clock.
    pub fn any_seed() -> u64 {
        Self::named().unwrap_or_else(Self::from_the_clock)
    }

    fn named() -> Option<u64> {
        std::env::var("HERALD_SEED").ok().and_then(|text| text.parse().ok())
    }

    fn from_the_clock() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A random byte.
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

/// How many cases a suite of `few` runs with `HERALD_FULL=1`: `many`.
pub fn count(few: u32, many: u32) -> u32 {
    if std::env::var_os("HERALD_FULL").is_some_and(|value| value == "1") { many } else { few }
}
