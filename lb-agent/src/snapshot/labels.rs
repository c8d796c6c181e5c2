//! Labels and annotations.
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{collections::BTreeMap, fmt};

/// Labels or annotations, sorted by key.
///
/// They are few, and most are never looked at: so all of an object's stand in one piece of memory,
/// and are looked through. Tens of thousands of maps of strings would take five times as much.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(
    /// Keys and values in turn; before each its length in bytes, in four bytes.
    Box<[u8]>,
);

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == key).then_some(value))
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || Some((text(&mut rest)?, text(&mut rest)?)))
    }

    /// Keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// Sets the value of a key, and returns the one of before.
    pub fn insert(&mut self, key: String, value: String) -> Option<String> {
        self.change(|all| all.insert(key, value))
    }

    /// Removes a key, and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.change(|all| all.remove(key))
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
        let mut all = self.to_map();
        let changed = change(&mut all);
        *self = all.into();
        changed
    }

    fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

/// The text that the bytes begin with, which is taken off them.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    str::from_utf8(text).ok()
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(map: BTreeMap<String, String>) -> Self {
        let texts = || map.iter().flat_map(|(key, value)| [key, value]);
        let mut bytes = Vec::with_capacity(texts().map(|text| size_of::<u32>() + text.len()).sum());
        for text in texts() {
            // An object in the API has two megabytes at most.
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&text.as_bytes()[..length as usize]);
        }
        Self(bytes.into())
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        BTreeMap::from_iter(pairs).into()
    }
}

impl Extend<(String, String)> for Labels {
    fn extend<I: IntoIterator<Item = (String, String)>>(&mut self, pairs: I) {
        self.change(|all| all.extend(pairs));
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_a_map(
            pairs in prop::collection::vec((".{0,3}", ".{0,300}"), 0..6),
            gone in any::<prop::sample::Index>(),
        ) {
            let mut map = BTreeMap::from_iter(pairs.iter().cloned());
            let mut labels = Labels::from_iter(pairs.iter().cloned());
            prop_assert_eq!(labels.to_map(), map.clone());
            prop_assert_eq!(&Labels::from(map.clone()), &labels);
            let text = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(&serde_json::from_str::<Labels>(&text).unwrap(), &labels);
            for (key, value) in &map {
                prop_assert_eq!(labels.get(key), Some(value.as_str()));
            }
            prop_assert_eq!(labels.get("absent"), None);
            if !pairs.is_empty() {
                let (key, _) = &pairs[gone.index(pairs.len())];
                prop_assert_eq!(labels.remove(key), map.remove(key));
                prop_assert_eq!(labels.to_map(), map.clone());
            }
            labels.insert("key".to_owned(), "value".to_owned());
            map.insert("key".to_owned(), "value".to_owned());
            prop_assert_eq!(labels.to_map(), map);
        }
    }
}
