//! Who watches whom.
//!
//! In a small cluster everybody watches everybody. In a large one that would be too much: each node
//! is watched by [`WATCHERS`] others, the first in an order that rendezvous hashing gives (the
//! score of a watcher depends on nothing but the two names), of those whose agents live. So
//! everybody knows the watchers of everybody, the work is spread evenly, and where a watcher dies
//! the next in the order takes its place, and nothing else changes.
use sha2::{Digest as _, Sha256};

/// How many watch a node: an odd number, since most of them decide.
pub const WATCHERS: usize = 5;
/// So many of each order are worked out in advance: more than ever die at a time.
const KEPT: usize = 16;

/// The orders of all nodes. Nodes are known by their place among the names, sorted.
#[derive(Debug, Default)]
pub struct Orders {
    digests: Vec<u64>,
    first: Vec<Vec<u16>>,
}

/// Mixes the bits of a word (the finalizer of MurmurHash3).
const fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

impl Orders {
    /// Of these nodes, sorted.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let digest = |name: &str| {
            u64::from_be_bytes(Sha256::digest(name).first_chunk().copied().unwrap_or_default())
        };
        let mut orders = Self { digests: names.map(digest).collect(), first: Vec::new() };
        let count = orders.digests.len();
        orders.first = (0..count).map(|target| orders.order(target, KEPT)).collect();
        orders
    }

    fn score(&self, watcher: usize, target: usize) -> u64 {
        mix(self.digests[watcher] ^ self.digests[target].rotate_left(32))
    }

    fn order(&self, target: usize, count: usize) -> Vec<u16> {
        let others = (0..self.digests.len()).filter(|watcher| *watcher != target);
        let mut scored: Vec<_> =
            others.map(|watcher| (self.score(watcher, target), watcher as u16)).collect();
        if scored.len() > count {
            scored.select_nth_unstable_by(count, |a, b| b.cmp(a));
            scored.truncate(count);
        }
        scored.sort_unstable_by(|a, b| b.cmp(a));
        scored.into_iter().map(|(_, watcher)| watcher).collect()
    }

    /// The watchers of a node, of those that are fit to.
    pub fn watchers(&self, target: usize, fit: impl Fn(usize) -> bool) -> Vec<usize> {
        let first = |order: &[u16]| -> Vec<usize> {
            order.iter().map(|w| usize::from(*w)).filter(|w| fit(*w)).take(WATCHERS).collect()
        };
        let Some(kept) = self.first.get(target) else { return Vec::new() };
        let found = first(kept);
        if found.len() == WATCHERS || kept.len() + 1 >= self.digests.len() {
            return found;
        }
        first(&self.order(target, self.digests.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn orders(count: usize) -> Orders {
        let names: Vec<_> = (0..count).map(|n| format!("node-{n:04}")).collect();
        Orders::new(names.iter().map(String::as_str))
    }

    #[test]
    fn in_a_small_cluster_all_watch_all() {
        let orders = orders(4);
        for target in 0..4 {
            let watchers: BTreeSet<_> = orders.watchers(target, |_| true).into_iter().collect();
            assert_eq!(watchers, (0..4).filter(|w| *w != target).collect());
        }
        assert!(Orders::default().watchers(0, |_| true).is_empty());
    }

    #[test]
    fn in_a_large_one_the_work_is_spread() {
        let orders = orders(1000);
        let mut load = vec![0; 1000];
        for target in 0..1000 {
            let watchers = orders.watchers(target, |_| true);
            assert_eq!(watchers.len(), WATCHERS);
            assert!(!watchers.contains(&target));
            watchers.iter().for_each(|watcher| load[*watcher] += 1);
        }
        assert_eq!(load.iter().sum::<usize>(), 5000);
        assert!(load.iter().max() < Some(&20), "{:?}", load.iter().max());
    }

    #[test]
    fn who_dies_is_replaced_and_nobody_else() {
        let orders = orders(100);
        let before = orders.watchers(7, |_| true);
        let after = orders.watchers(7, |watcher| watcher != before[2]);
        assert_eq!(after[..2], before[..2]);
        assert_eq!(after[2..4], before[3..]);
        let few: BTreeSet<_> = [3, 50, 99].into();
        let last: BTreeSet<_> = orders.watchers(7, |w| few.contains(&w)).into_iter().collect();
        assert_eq!(last, few, "however many die");
    }
}
