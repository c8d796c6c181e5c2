//! Who has which element of an array map: indices that stay the same as long as their
//! owner is there, given out from the lowest, and that rest before they are used again.
use super::ranges::REST_NS;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Indices of an array map whose owners know theirs.
#[derive(Clone, Debug)]
pub struct Indices {
    end: u32,
    /// The lowest index that was never given out.
    next: u32,
    /// Lower ones that are free.
    free: BTreeSet<u32>,
    /// Released, oldest first: when it may be used again, and which.
    resting: VecDeque<(u64, u32)>,
}

impl Indices {
    /// Indices from `first` up to, not including, `end`.
    pub fn new(first: u32, end: u32) -> Self {
        Self { end, next: first, free: BTreeSet::new(), resting: VecDeque::new() }
    }

    /// Notes an index that is in use already when the agent starts. False, and nothing
    /// changes, if it is taken or outside.
    #[must_use]
    pub fn adopt(&mut self, index: u32) -> bool {
        if index >= self.end {
            return false;
        }
        if index >= self.next {
            self.free.extend(self.next..index);
            self.next = index + 1;
            return true;
        }
        self.free.remove(&index)
    }

    /// A new index; `None` if there is none left that has rested at `now` (`CLOCK_MONOTONIC`, ns).
    pub fn allocate(&mut self, now: u64) -> Option<u32> {
        while let Some(&(at, index)) = self.resting.front()
            && at <= now
        {
            self.resting.pop_front();
            self.free.insert(index);
        }
        match self.free.pop_first() {
            Some(index) => Some(index),
            None if self.next < self.end => {
                self.next += 1;
                Some(self.next - 1)
            }
            None => None,
        }
    }

    /// Takes an index back; it rests before it is given out again.
    pub fn release(&mut self, index: u32, now: u64) {
        self.resting.push_back((now.saturating_add(REST_NS), index));
    }
}

/// Indices of an array map by owner.
#[derive(Clone, Debug)]
pub struct Slots<K> {
    indices: Indices,
    index: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Slots<K> {
    /// Indices from `first` up to, not including, `end`.
    pub fn new(first: u32, end: u32) -> Self {
        Self { indices: Indices::new(first, end), index: BTreeMap::new() }
    }

    /// The owner's index.
    pub fn get<Q: Ord + ?Sized>(&self, owner: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.index.get(owner).copied()
    }

    /// Owners and their indices.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.index.iter().map(|(owner, index)| (owner, *index))
    }

    /// Notes an index that is in use already when the agent starts. False, and nothing
    /// changes, if either the owner or the index is taken, or the index is outside.
    #[must_use]
    pub fn adopt(&mut self, owner: K, index: u32) -> bool {
        if self.index.contains_key(&owner) || !self.indices.adopt(index) {
            return false;
        }
        self.index.insert(owner, index);
        true
    }

    /// The owner's index, a new one if it has none; `None` if there is none left that has
    /// rested at `now` (`CLOCK_MONOTONIC`, ns).
    pub fn get_or_allocate(&mut self, owner: &K, now: u64) -> Option<u32> {
        if let Some(&index) = self.index.get(owner) {
            return Some(index);
        }
        let index = self.indices.allocate(now)?;
        self.index.insert(owner.clone(), index);
        Some(index)
    }

    /// Gives another name to an owner that keeps its index.
    pub fn rename(&mut self, owner: &K, name: K) {
        if let Some(index) = self.index.remove(owner) {
            self.index.insert(name, index);
        }
    }

    /// Takes the index from its owner; it rests before another gets it.
    pub fn release(&mut self, owner: &K, now: u64) -> Option<u32> {
        let index = self.index.remove(owner)?;
        self.indices.release(index, now);
        Some(index)
    }

    /// Releases all but those that `keep` wants; returns how many it released.
    pub fn retain(&mut self, now: u64, mut keep: impl FnMut(&K, u32) -> bool) -> usize {
        let before = self.index.len();
        let indices = &mut self.indices;
        self.index.retain(|owner, index| {
            let kept = keep(owner, *index);
            if !kept {
                indices.release(*index, now);
            }
            kept
        });
        before - self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_keep_their_index_and_released_ones_rest() {
        let mut slots = Slots::new(1, 4);
        let get = |slots: &mut Slots<&str>, owner, now| slots.get_or_allocate(&owner, now);
        assert_eq!(get(&mut slots, "a", 0), Some(1));
        assert_eq!(get(&mut slots, "b", 0), Some(2));
        assert_eq!(get(&mut slots, "a", 0), Some(1));
        assert_eq!(slots.release(&"a", 5), Some(1));
        assert_eq!(get(&mut slots, "c", 6), Some(3));
        assert_eq!(get(&mut slots, "d", 6), None);
        assert_eq!(get(&mut slots, "d", 5 + REST_NS), Some(1));
        assert_eq!(slots.get("b"), Some(2));
        slots.retain(7, |owner, _| *owner == "b");
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(&"b", 2)]);
    }

    #[test]
    fn found_indices_are_adopted_once() {
        let mut slots = Slots::new(1, 10);
        assert!(slots.adopt("x", 4));
        assert!(!slots.adopt("x", 5), "has one");
        assert!(!slots.adopt("y", 4), "taken");
        assert!(!slots.adopt("y", 0) && !slots.adopt("y", 10), "outside");
        assert!(slots.adopt("y", 2));
        let others: Vec<_> = ["a", "b", "c"].map(|o| slots.get_or_allocate(&o, 0)).into();
        assert_eq!(others, [Some(1), Some(3), Some(5)]);
        slots.rename(&"x", "z");
        assert_eq!((slots.get("x"), slots.get("z")), (None, Some(4)));
    }
}
