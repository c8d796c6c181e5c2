//! The secrets that the agents of a cluster share.
//!
//! There may be several at a time, so that they can be changed without a gap: what carries any of
//! them is taken. Agents tell each other which is the newest that they have, and write to each
//! with the newest that both have. So a key is added, and once all agents have read it, which takes
//! a minute, the one before it may be removed.
use ring::hmac;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fmt, num::NonZeroU64};

/// Bytes of a tag (HMAC-SHA256, RFC 2104).
pub const TAG: usize = 32;
/// Fewest bytes of a secret: 128 bits can be guessed by nobody.
pub const SHORTEST: usize = 16;
/// Bytes of a secret that agents make.
pub const MADE: usize = 32;

/// Says which key without giving it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(NonZeroU64);

impl KeyId {
    /// Of what stands in a datagram; `None` for 0, which is no key.
    pub fn new(value: u64) -> Option<Self> {
        NonZeroU64::new(value).map(Self)
    }

    /// As it stands in a datagram.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    fn of(secret: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(b"herald membership key").chain_update(secret);
        let first = digest.finalize().first_chunk().copied().unwrap_or_default();
        Self(NonZeroU64::new(u64::from_be_bytes(first)).unwrap_or(NonZeroU64::MIN))
    }
}

/// Why something is no set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// There is none.
    #[error("it holds no key")]
    Empty,
    /// One could be guessed.
    #[error("key {0} has fewer than {SHORTEST} bytes")]
    Short(String),
}

/// The keys, the newest last. None at all: nothing is authenticated. It does not print.
#[derive(Clone, Default)]
pub struct Keyring(Vec<(KeyId, hmac::Key)>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.0.len())
    }
}

impl PartialEq for Keyring {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|(id, _)| id).eq(other.0.iter().map(|(id, _)| id))
    }
}

impl Keyring {
    /// Keys by name, such as the data of a Secret. The last by name is the newest; of two names of
    /// digits at the end, the larger number (`key-10` after `key-9`).
    ///
    /// # Errors
    ///
    /// There is none, or one is too short.
    pub fn from_named(named: &BTreeMap<String, Vec<u8>>) -> Result<Self, BadKeys> {
        let mut sorted: Vec<_> = named.iter().map(|(name, secret)| (order(name), secret)).collect();
        sorted.sort();
        Self::new(
            sorted
                .iter()
                .map(|((name, _, rest), secret)| (format!("{name}{rest}"), secret.as_slice())),
        )
    }

    /// Keys of a file: one a line, the newest last. What is around a line does not count, nor do
    /// empty ones and those that begin with `#`.
    ///
    /// # Errors
    ///
    /// There is none, or one is too short.
    pub fn from_lines(text: &str) -> Result<Self, BadKeys> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Self::new(lines.map(|(n, line)| (format!("on line {}", n + 1), line.as_bytes())))
    }

    fn new<'a>(secrets: impl Iterator<Item = (String, &'a [u8])>) -> Result<Self, BadKeys> {
        let mut keys = Vec::new();
        for (name, secret) in secrets {
            if secret.len() < SHORTEST {
                return Err(BadKeys::Short(name));
            }
            keys.push((KeyId::of(secret), hmac::Key::new(hmac::HMAC_SHA256, secret)));
        }
        if keys.is_empty() { Err(BadKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// Whether nothing is authenticated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest.
    pub fn newest(&self) -> Option<KeyId> {
        self.0.last().map(|(id, _)| *id)
    }

    /// The key to write with to one whose newest is `theirs`, as far as is known. `tries` counts
    /// what was written in vain while it is not: each key has its turn.
    pub(super) fn choose(
        &self,
        theirs: Option<KeyId>,
        tries: usize,
    ) -> Option<(KeyId, &hmac::Key)> {
        let last = self.0.len().checked_sub(1)?;
        let (id, key) = match theirs {
            // Where it has one that is newer than ours, it has ours, too.
            Some(theirs) => self.0.iter().find(|(id, _)| *id == theirs).unwrap_or(&self.0[last]),
            None => &self.0[last - tries % self.0.len()],
        };
        Some((*id, key))
    }

    /// Whether a tag is right.
    pub(super) fn verify(&self, id: KeyId, message: &[u8], tag: &[u8]) -> bool {
        let key = self.0.iter().find(|(known, _)| *known == id);
        key.is_some_and(|(_, key)| hmac::verify(key, message, tag).is_ok())
    }
}

/// A name up to the number at its end, the number (by length, then digits), and its digits.
fn order(name: &str) -> (&str, usize, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &name[stem.len()..];
    (stem, digits.trim_start_matches('0').len(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(keys: &[&str]) -> Keyring {
        Keyring::from_lines(&keys.join("\n")).unwrap()
    }

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccc";

    #[test]
    fn files() {
        assert_eq!(Keyring::from_lines("# none\n\n"), Err(BadKeys::Empty));
        assert_eq!(
            Keyring::from_lines("short").unwrap_err().to_string(),
            "key on line 1 has fewer than 16 bytes"
        );
        let two = ring(&[" aaaaaaaaaaaaaaaa ", "# newer", B]);
        assert_eq!(two, ring(&[A, B]));
        assert_ne!(two, ring(&[B, A]));
        assert_eq!(format!("{two:?}"), "Keyring(2 keys)");
    }

    #[test]
    fn secrets() {
        let named = |names: &[(&str, &str)]| {
            let data = names.iter().map(|(n, k)| ((*n).to_owned(), k.as_bytes().to_vec()));
            Keyring::from_named(&data.collect())
        };
        let keys = named(&[("key-10", C), ("key-9", B), ("a", A)]).unwrap();
        assert_eq!(keys, ring(&[A, B, C]));
        assert_eq!(named(&[]), Err(BadKeys::Empty));
        assert_eq!(named(&[("k1", "x")]), Err(BadKeys::Short("k1".to_owned())));
    }

    #[test]
    fn the_newest_that_both_have() {
        let (old, both, new) = (ring(&[A]), ring(&[A, B]), ring(&[B]));
        let chosen = |from: &Keyring, to: &Keyring| from.choose(to.newest(), 0).unwrap().0;
        assert_eq!(chosen(&both, &old), old.newest().unwrap());
        assert_eq!(chosen(&old, &both), old.newest().unwrap());
        assert_eq!(chosen(&both, &new), new.newest().unwrap());
        assert_eq!(chosen(&both, &both), new.newest().unwrap());
        // Of one that was never heard, nothing is known.
        let tried: Vec<_> = (0..3).map(|n| both.choose(None, n).unwrap().0).collect();
        assert_eq!(tried, [new.newest().unwrap(), old.newest().unwrap(), new.newest().unwrap()]);
        assert!(Keyring::default().choose(None, 0).is_none());
    }

    #[test]
    fn tags() {
        let (mine, other) = (ring(&[A]), ring(&[B]));
        let (id, key) = mine.choose(None, 0).unwrap();
        let tag = hmac::sign(key, b"message");
        assert_eq!(tag.as_ref().len(), TAG);
        assert!(mine.verify(id, b"message", tag.as_ref()));
        assert!(!mine.verify(id, b"massage", tag.as_ref()));
        assert!(!other.verify(id, b"message", tag.as_ref()));
        assert!(!mine.verify(id, b"message", &tag.as_ref()[..16]));
    }
}
