//! What every datagram between agents is wrapped in: who sent it, that it was sent by one who has
//! a [key](super::keys) of the cluster, and that it is no old one.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `HrlM` |
//! | 1 | version of this layout, 1 |
//! | 1 | kind: 1 hello, 2 challenge, 3 other |
//! | 1 | length of the sender's name |
//! | 1 | 0 |
//! | 8 | which key; 0 is none |
//! | 8 | the newest key that the sender has |
//! | 8 | session: a random number that the sender has taken at its start |
//! | 8 | sequence number within the session |
//! | 8 | what the receiver has asked for; of a challenge, the session that is asked |
//! | | the sender's name |
//! | | the content |
//! | 32 | HMAC-SHA256 of all that and of the receiver's name, unless without a key |
//!
//! Numbers are big-endian. **Replay:** within a session each sequence number is taken once. A
//! session that the receiver does not know is taken only with a random number in it that
//! the receiver has asked for in a *challenge*, and that is used up by that. So no
//! clock is needed, a receiver that has just started takes no old message for a new one, and an old
//! session never comes back.
use super::keys::{KeyId, Keyring, TAG};
use crate::bytes::{Short, take, take_slice};
use ring::hmac;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

const MAGIC: [u8; 4] = *b"HrlM";
const VERSION: u8 = 1;
/// Bytes in front of the sender's name.
const HEADER: usize = 48;
/// Longest datagram, in bytes; what is longer is none.
pub const MAX_LENGTH: usize = 4096;
/// Sequence numbers that are remembered of a session: so many datagrams may be overtaken by one.
const REMEMBERED: usize = 32;
/// Between two challenges of a peer.
const CHALLENGE_AGAIN: Duration = Duration::from_millis(20);
/// After so long without a word, a peer may have started anew with other keys.
const FORGET_KEY: Duration = Duration::from_secs(3);

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`Hello`](super::message::Hello).
    Hello,
    /// A number to be sent back.
    Challenge,
    /// Another module's: passed on as it is.
    Other,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Challenge => 2,
            Self::Other => 3,
        }
    }
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not begin as one, or ends too early.
    #[error("no datagram of an agent")]
    Malformed,
    /// Another version of the layout.
    #[error("a datagram of version {0}, which this agent does not know")]
    Version(u8),
    /// No key of ours made its tag.
    #[error("a datagram that carries no key of this cluster")]
    Forged,
    /// It came before.
    #[error("a datagram that came before, or too late")]
    Old,
    /// Its session is yet to be proven, and was asked for that just now.
    #[error("a datagram of a session that is not proven")]
    Unproven,
}

impl From<Short> for Refused {
    fn from(Short: Short) -> Self {
        Self::Malformed
    }
}

/// What a datagram is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Sent by the peer, and new.
    Message {
        /// What it is.
        kind: Kind,
        /// The content.
        body: &'a [u8],
        /// The peer's agent has started, or this one.
        new_session: bool,
    },
    /// The peer wants to be written to again: what it gets now, it takes.
    Challenged,
    /// This is to be sent to the peer, which then writes again.
    Challenge(Vec<u8>),
}

/// Where random numbers come from that nobody can guess.
pub struct Random(Box<dyn FnMut() -> u64 + Send>);

impl Random {
    /// From a source.
    pub fn new(source: impl FnMut() -> u64 + Send + 'static) -> Self {
        Self(Box::new(source))
    }

    /// The next number, not 0.
    pub fn number(&mut self) -> u64 {
        (self.0)().max(1)
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

/// What is known of a peer.
#[derive(Debug, Default)]
struct Link {
    session: Option<u64>,
    /// The latest sequence numbers of the session, in no order.
    taken: VecDeque<u64>,
    /// What the peer was asked for, and when.
    issued: Option<u64>,
    challenged: Option<Instant>,
    /// What the peer asks for.
    echo: u64,
    newest: Option<KeyId>,
    heard: Option<Instant>,
    tries: usize,
}

impl Link {
    fn takes(&mut self, sequence: u64) -> bool {
        let oldest = self.taken.iter().min().copied().unwrap_or(0);
        if self.taken.contains(&sequence) || self.taken.len() == REMEMBERED && sequence < oldest {
            return false;
        }
        if self.taken.len() == REMEMBERED
            && let Some(at) = self.taken.iter().position(|taken| *taken == oldest)
        {
            self.taken.remove(at);
        }
        self.taken.push_back(sequence);
        true
    }
}

/// Wraps and unwraps.
#[derive(Debug)]
pub struct Envelopes {
    me: String,
    keys: Keyring,
    session: u64,
    sequence: u64,
    links: BTreeMap<String, Link>,
}

/// Who says to have sent a datagram. Nothing proves it yet.
pub fn sender(bytes: &[u8]) -> Result<&str, Refused> {
    let mut rest = bytes;
    if bytes.len() > MAX_LENGTH || take(&mut rest)? != MAGIC {
        return Err(Refused::Malformed);
    }
    let [version] = take(&mut rest)?;
    if version != VERSION {
        return Err(Refused::Version(version));
    }
    let [_, length, _] = take(&mut rest)?;
    take_slice(&mut rest, HEADER - 8)?;
    let name = take_slice(&mut rest, length.into())?;
    str::from_utf8(name).map_err(|_| Refused::Malformed)
}

impl Envelopes {
    /// Of the agent that starts now on node `me`.
    pub fn new(me: impl Into<String>, keys: Keyring, random: &mut Random) -> Self {
        let session = random.number();
        Self { me: me.into(), keys, session, sequence: 0, links: BTreeMap::new() }
    }

    /// Takes other keys.
    pub fn set_keys(&mut self, keys: Keyring) {
        self.keys = keys;
    }

    /// Forgets peers that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.links.retain(|name, _| keep(name));
    }

    /// The datagram that brings `body` to a peer.
    pub fn seal(&mut self, to: &str, kind: Kind, body: &[u8], now: Instant) -> Vec<u8> {
        let echo = self.links.get(to).map_or(0, |link| link.echo);
        self.seal_with(to, kind, echo, body, now)
    }

    fn seal_with(&mut self, to: &str, kind: Kind, echo: u64, body: &[u8], now: Instant) -> Vec<u8> {
        self.sequence += 1;
        let link = self.links.entry(to.to_owned()).or_default();
        if link.heard.is_none_or(|heard| now > heard + FORGET_KEY) {
            link.newest = None;
            link.tries = link.tries.wrapping_add(1);
        }
        let chosen = self.keys.choose(link.newest, link.tries);
        let mut bytes = Vec::with_capacity(HEADER + self.me.len() + body.len() + TAG + to.len());
        bytes.extend(MAGIC);
        let length = u8::try_from(self.me.len()).unwrap_or(u8::MAX);
        bytes.extend([VERSION, kind.number(), length, 0]);
        bytes.extend(chosen.map_or(0, |(id, _)| id.get()).to_be_bytes());
        bytes.extend(self.keys.newest().map_or(0, KeyId::get).to_be_bytes());
        bytes.extend(self.session.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(echo.to_be_bytes());
        bytes.extend(self.me.as_bytes());
        bytes.extend(body);
        if let Some((_, key)) = chosen {
            let length = bytes.len();
            bytes.extend(to.as_bytes());
            let tag = hmac::sign(key, &bytes);
            bytes.truncate(length);
            bytes.extend(tag.as_ref());
        }
        bytes
    }

    /// Unwraps a datagram whose [sender] is known to be a node, and to have the address that it
    /// came from.
    ///
    /// # Errors
    ///
    /// It is to be ignored.
    pub fn open<'a>(
        &mut self,
        bytes: &'a [u8],
        random: &mut Random,
        now: Instant,
    ) -> Result<Opened<'a>, Refused> {
        let name = sender(bytes)?.to_owned();
        let mut rest = &bytes[8..];
        let mut number = || take(&mut rest).map(u64::from_be_bytes);
        let (key, newest) = (KeyId::new(number()?), KeyId::new(number()?));
        let (session, sequence, echo) = (number()?, number()?, number()?);
        take_slice(&mut rest, name.len())?;
        let body = match (key, self.keys.is_empty()) {
            (None, true) => rest,
            (Some(id), false) => {
                let content = rest.len().checked_sub(TAG).ok_or(Refused::Malformed)?;
                let (signed, tag) = bytes.split_at(bytes.len() - TAG);
                let signed = [signed, self.me.as_bytes()].concat();
                if !self.keys.verify(id, &signed, tag) {
                    return Err(Refused::Forged);
                }
                &rest[..content]
            }
            _ => return Err(Refused::Forged),
        };
        let kind = match bytes[5] {
            1 => Kind::Hello,
            2 => Kind::Challenge,
            3 => Kind::Other,
            _ => return Err(Refused::Malformed),
        };
        let link = self.links.entry(name.clone()).or_default();
        if kind == Kind::Challenge {
            let asked = body.try_into().map_err(|_| Refused::Malformed)?;
            if echo != self.session {
                return Err(Refused::Old);
            }
            link.echo = u64::from_be_bytes(asked);
            // It can read what is written with a key that it has.
            (link.newest, link.heard) = (newest, Some(now));
            return Ok(Opened::Challenged);
        }
        let known = link.session == Some(session);
        if known && !link.takes(sequence) {
            return Err(Refused::Old);
        }
        if !known {
            if link.issued.is_none_or(|issued| issued != echo) {
                if link.challenged.is_some_and(|at| now < at + CHALLENGE_AGAIN) {
                    return Err(Refused::Unproven);
                }
                link.challenged = Some(now);
                link.newest = newest;
                link.heard = Some(now);
                let asked = *link.issued.get_or_insert_with(|| random.number());
                let body = asked.to_be_bytes();
                let challenge = self.seal_with(&name, Kind::Challenge, session, &body, now);
                return Ok(Opened::Challenge(challenge));
            }
            link.issued = None;
            link.session = Some(session);
            link.taken = [sequence].into();
        }
        (link.newest, link.heard) = (newest, Some(now));
        Ok(Opened::Message { kind, body, new_session: !known })
    }
}

#[cfg(test)]
mod tests;
