//! A set whose elements several may have put in.
use imbl::OrdSet;
use std::{collections::BTreeMap, mem};

/// A set in which an element stays until all who put it in have taken it out.
#[derive(Debug)]
pub(super) struct Tally<T: Ord + Clone> {
    set: OrdSet<T>,
    /// By how many an element was put in besides the first.
    more: BTreeMap<T, usize>,
}

impl<T: Ord + Clone> Default for Tally<T> {
    fn default() -> Self {
        Self { set: OrdSet::new(), more: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Tally<T> {
    /// What is in it.
    pub(super) fn set(&self) -> &OrdSet<T> {
        &self.set
    }

    /// Puts an element in; returns the one of those that are equal which is kept.
    fn add(&mut self, element: T) -> T {
        if let Some(known) = self.set.get(&element).cloned() {
            *self.more.entry(element).or_default() += 1;
            return known;
        }
        self.set.insert(element.clone());
        element
    }

    /// Takes it out again.
    fn remove(&mut self, element: &T) {
        let Some(more) = self.more.get_mut(element) else {
            self.set.remove(element);
            return;
        };
        *more -= 1;
        if *more == 0 {
            self.more.remove(element);
        }
    }

    /// Takes some out and puts others in. What is among both has not left in between.
    pub(super) fn exchange(&mut self, held: &mut Vec<T>, others: impl IntoIterator<Item = T>) {
        let mut others: Vec<_> = others.into_iter().map(|element| self.add(element)).collect();
        // Else it can be what the elements were made from that the list keeps the memory of.
        others.shrink_to_fit();
        for element in mem::replace(held, others) {
            self.remove(&element);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_stays_until_all_have_taken_it_out() {
        let mut tally = Tally::default();
        let (mut one, mut other) = (Vec::new(), Vec::new());
        tally.exchange(&mut one, [1, 2, 2]);
        tally.exchange(&mut other, [2, 3]);
        assert_eq!(Vec::from_iter(tally.set()), [&1, &2, &3]);
        tally.exchange(&mut one, [1]);
        assert_eq!(Vec::from_iter(tally.set()), [&1, &2, &3], "the other has it");
        tally.exchange(&mut other, []);
        assert_eq!(Vec::from_iter(tally.set()), [&1]);
        tally.exchange(&mut one, []);
        assert!(tally.set().is_empty() && tally.more.is_empty());
    }
}
