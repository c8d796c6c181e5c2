//! Where two persistent maps differ.
use imbl::{OrdMap, ordmap::DiffItem};

/// The keys whose values differ, or that only one of the maps has. What both share is not looked at.
pub(crate) fn keys<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.diff(after).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
        DiffItem::Update { new: (key, _), .. } => key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_removed_and_changed_keys() {
        let before = OrdMap::from_iter((0..100).map(|n| (n, n)));
        assert_eq!(keys(&before, &before.clone()).count(), 0);
        let mut after = before.clone();
        after.remove(&3);
        after.insert(50, 0);
        after.insert(100, 100);
        assert_eq!(Vec::from_iter(keys(&before, &after)), [&3, &50, &100]);
    }
}
