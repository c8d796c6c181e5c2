//! Who has which rows of `ROWS`, or which elements of `ROW_ENDPOINTS`: first fit, in units of 256.
//!
//! A released range rests before it is given out again: a program that has read the old
//! `SERVICES` entry may still be on its way to the row.
use std::collections::{BTreeMap, VecDeque};

/// Nanoseconds that something released rests before it is used again. A program run
/// takes microseconds; this is for a virtual CPU that is descheduled in the middle of one.
pub const REST_NS: u64 = 1_000_000_000;

/// Starts and lengths are multiples of this.
pub const UNIT: u32 = 256;

/// Consecutive rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Index of the first.
    pub start: u32,
    /// How many: a multiple of [`UNIT`].
    pub len: u32,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// When (`CLOCK_MONOTONIC`, ns) something that rests comes free; trying again then may help.
    pub retry_at: Option<u64>,
}

/// The allocator.
#[derive(Clone, Debug)]
pub struct Ranges {
    capacity: u32,
    /// What is free: length by start, neighbours always joined.
    free: BTreeMap<u32, u32>,
    /// Released, oldest first: when it may be used again, and what.
    resting: VecDeque<(u64, Range)>,
}

impl Ranges {
    /// All of `capacity` rows are free, but for a rest of less than [`UNIT`].
    pub fn new(capacity: u32) -> Self {
        let len = capacity / UNIT * UNIT;
        let free = (len > 0).then_some((0, len)).into_iter().collect();
        Self { capacity, free, resting: VecDeque::new() }
    }

    /// Number of rows, used or not.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Takes a particular range: one that is in use already when the agent starts. False,
    /// and nothing changes, if it is no range of this allocator or not wholly free.
    #[must_use]
    pub fn reserve(&mut self, range: Range) -> bool {
        let Range { start, len } = range;
        if len == 0 || len % UNIT != 0 || start % UNIT != 0 {
            return false;
        }
        let Some((&from, &length)) = self.free.range(..=start).next_back() else { return false };
        // Free ranges lie inside, so that their ends are no overflow.
        let end = from + length;
        if start.checked_add(len).is_none_or(|wanted| wanted > end) {
            return false;
        }
        self.free.remove(&from);
        if start > from {
            self.free.insert(from, start - from);
        }
        if end > start + len {
            self.free.insert(start + len, end - start - len);
        }
        true
    }

    /// Takes the first range of `len` rows, a multiple of [`UNIT`].
    ///
    /// # Errors
    ///
    /// [`Exhausted`] if no such range is free and rested at `now` (`CLOCK_MONOTONIC`, ns).
    pub fn allocate(&mut self, len: u32, now: u64) -> Result<Range, Exhausted> {
        self.wake(now);
        let first = self.free.iter().find(|(_, free)| **free >= len).map(|(start, _)| *start);
        match first {
            Some(start) if self.reserve(Range { start, len }) => Ok(Range { start, len }),
            _ => Err(Exhausted { retry_at: self.resting.front().map(|(at, _)| *at) }),
        }
    }

    /// Gives a range back. It can be had again after [`REST_NS`].
    pub fn release(&mut self, range: Range, now: u64) {
        self.resting.push_back((now.saturating_add(REST_NS), range));
    }

    fn wake(&mut self, now: u64) {
        while let Some((at, range)) = self.resting.front().copied()
            && at <= now
        {
            self.resting.pop_front();
            self.insert(range);
        }
    }

    /// Puts a range back, joined with what is free on either side.
    fn insert(&mut self, Range { mut start, mut len }: Range) {
        if let Some(behind) = self.free.remove(&(start + len)) {
            len += behind;
        }
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            start = before;
            len += length;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_freed_range_rests_before_it_is_used_again() {
        let mut ranges = Ranges::new(512);
        let first = ranges.allocate(256, 0).unwrap();
        let second = ranges.allocate(256, 0).unwrap();
        assert_ne!(first, second);
        assert_eq!(ranges.allocate(256, 0), Err(Exhausted { retry_at: None }));
        ranges.release(first, 10);
        assert_eq!(ranges.allocate(256, 11), Err(Exhausted { retry_at: Some(10 + REST_NS) }));
        assert_eq!(ranges.allocate(256, 10 + REST_NS), Ok(first));
    }

    #[test]
    fn any_capacity_can_be_used_up_to_the_last_unit() {
        for capacity in [0, 1, 255, 256, 1000, 1 << 20] {
            let mut ranges = Ranges::new(capacity);
            let mut used = 0;
            for len in [3 * UNIT, 2 * UNIT, UNIT] {
                while ranges.allocate(len, 0).is_ok() {
                    used += len;
                }
            }
            assert_eq!(used, capacity / UNIT * UNIT);
        }
    }

    #[test]
    fn what_is_not_a_range_cannot_be_reserved() {
        let mut ranges = Ranges::new(1024);
        let wrong =
            [(0, 0), (0, 3), (128, 256), (1024, 256), (0, 2048), (u32::MAX, 1), (!0xff, 256)];
        for (start, len) in wrong {
            assert!(!ranges.reserve(Range { start, len }), "{start} {len}");
        }
        assert!(ranges.reserve(Range { start: 256, len: 256 }));
        assert!(!ranges.reserve(Range { start: 256, len: 256 }));
        assert!(!ranges.reserve(Range { start: 0, len: 512 }));
        assert!(ranges.reserve(Range { start: 0, len: 256 }));
        assert!(ranges.reserve(Range { start: 512, len: 512 }));
    }

    proptest! {
        /// Whatever is taken and given back: ranges in use never overlap, are of whole units
        /// and inside; and in the end everything is there again as at first.
        #[test]
        fn ranges_never_overlap_and_nothing_is_lost(
            capacity in 1u32..16_000,
            steps in prop::collection::vec((1u32..14, any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let mut ranges = Ranges::new(capacity);
            let fresh = ranges.clone();
            let mut used: Vec<Range> = Vec::new();
            let mut now = 0;
            for (units, index, release) in steps {
                now += REST_NS / 3;
                if release && !used.is_empty() {
                    ranges.release(used.swap_remove(index.index(used.len())), now);
                } else if let Ok(range) = ranges.allocate(units * UNIT, now) {
                    prop_assert_eq!((range.start % UNIT, range.len), (0, units * UNIT));
                    prop_assert!(range.start + range.len <= capacity);
                    for other in &used {
                        prop_assert!(range.start + range.len <= other.start || other.start + other.len <= range.start);
                    }
                    used.push(range);
                }
            }
            // An agent that starts now reserves what is in use and has the same left.
            let mut restarted = Ranges::new(capacity);
            for range in &used {
                prop_assert!(restarted.reserve(*range));
            }
            ranges.wake(u64::MAX);
            prop_assert_eq!(&ranges.free, &restarted.free);
            for range in used {
                ranges.release(range, now);
            }
            ranges.wake(u64::MAX);
            prop_assert_eq!(&ranges.free, &fresh.free);
        }
    }
}
