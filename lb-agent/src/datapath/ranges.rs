//! Who has which rows of `ROWS`: a buddy allocator, since sizes are powers of two.
//!
//! A released range rests before it is given out again: a program that has read the old
//! `SERVICES` entry may still be on its way to the row.
use std::collections::{BTreeSet, VecDeque};

/// Nanoseconds that something released rests before it is used again. A program run
/// takes microseconds; this is for a virtual CPU that is descheduled in the middle of one.
pub const REST_NS: u64 = 1_000_000_000;

/// Consecutive rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Index of the first.
    pub start: u32,
    /// How many: a power of two.
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
    /// Starts of free blocks by the logarithm of their size. Each block is aligned to its size.
    free: [BTreeSet<u32>; 32],
    /// Released, oldest first: when it may be used again, and what.
    resting: VecDeque<(u64, Range)>,
}

impl Ranges {
    /// All of `capacity` rows are free. The capacity need not be a power of two.
    pub fn new(capacity: u32) -> Self {
        let mut ranges = Self {
            capacity,
            free: std::array::from_fn(|_| BTreeSet::new()),
            resting: VecDeque::new(),
        };
        let mut start = 0u32;
        while start < capacity {
            let fits = (capacity - start).ilog2();
            let aligned = if start == 0 { 31 } else { start.trailing_zeros() };
            let order = fits.min(aligned);
            ranges.free[order as usize].insert(start);
            start += 1 << order;
        }
        ranges
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
        if !len.is_power_of_two() || start % len != 0 {
            return false;
        }
        let order = len.trailing_zeros();
        // The free block that contains it.
        let Some((of, block)) = (order..32).find_map(|of| {
            let block = start >> of << of;
            self.free[of as usize].contains(&block).then_some((of, block))
        }) else {
            return false;
        };
        self.free[of as usize].remove(&block);
        let mut block = block;
        for half in (order..of).rev() {
            let upper = block + (1 << half);
            if start >= upper {
                self.free[half as usize].insert(block);
                block = upper;
            } else {
                self.free[half as usize].insert(upper);
            }
        }
        true
    }

    /// Takes a range of `len` rows, a power of two.
    ///
    /// # Errors
    ///
    /// [`Exhausted`] if no such range is free and rested at `now` (`CLOCK_MONOTONIC`, ns).
    pub fn allocate(&mut self, len: u32, now: u64) -> Result<Range, Exhausted> {
        self.wake(now);
        let order = len.trailing_zeros();
        // The smallest block that is large enough, the lowest of them: large ones stay whole.
        let block = (order..32).find_map(|of| self.free[of as usize].first().copied());
        match block {
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

    /// Puts a block back, joined with its buddy as long as that is free, too.
    fn insert(&mut self, range: Range) {
        let mut start = range.start;
        let mut order = range.len.trailing_zeros();
        while order < 31 && self.free[order as usize].remove(&(start ^ 1 << order)) {
            start &= !(1 << order);
            order += 1;
        }
        self.free[order as usize].insert(start);
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
    fn any_capacity_can_be_used_up_to_the_last_row() {
        for capacity in [0, 1, 7, 256, 1000, 1 << 20] {
            let mut ranges = Ranges::new(capacity);
            let mut used = 0;
            for order in (0..=20).rev() {
                while ranges.allocate(1 << order, 0).is_ok() {
                    used += 1 << order;
                }
            }
            assert_eq!(used, capacity);
        }
    }

    #[test]
    fn what_is_not_a_range_cannot_be_reserved() {
        let mut ranges = Ranges::new(1024);
        for (start, len) in [(0, 0), (0, 3), (128, 256), (1024, 256), (0, 2048), (u32::MAX, 1)] {
            assert!(!ranges.reserve(Range { start, len }), "{start} {len}");
        }
        assert!(ranges.reserve(Range { start: 256, len: 256 }));
        assert!(!ranges.reserve(Range { start: 256, len: 256 }));
        assert!(!ranges.reserve(Range { start: 256, len: 128 }));
        assert!(!ranges.reserve(Range { start: 0, len: 512 }));
        assert!(ranges.reserve(Range { start: 0, len: 256 }));
        assert!(ranges.reserve(Range { start: 512, len: 512 }));
    }

    proptest! {
        /// Whatever is taken and given back: ranges in use never overlap, are aligned and
        /// inside; and in the end everything is there again as at first.
        #[test]
        fn ranges_never_overlap_and_nothing_is_lost(
            capacity in 1u32..5000,
            steps in prop::collection::vec((0u32..9, any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let mut ranges = Ranges::new(capacity);
            let fresh = ranges.clone();
            let mut used: Vec<Range> = Vec::new();
            let mut now = 0;
            for (order, index, release) in steps {
                now += REST_NS / 3;
                if release && !used.is_empty() {
                    ranges.release(used.swap_remove(index.index(used.len())), now);
                } else if let Ok(range) = ranges.allocate(1 << order, now) {
                    prop_assert_eq!(range.start % range.len, 0);
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
