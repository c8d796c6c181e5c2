//! The datagram that agents send each other.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `Hrld` |
//! | 1 | version of this layout, 2 |
//! | 1 | flags: 1 the agent stops, 2 its kernel programs go too |
//! | 1 | length of the node's name |
//! | 1 | number of uplinks |
//! | 4 | [plan version](crate::plan::PLAN_VERSION) |
//! | 8 | incarnation: larger each time the agent starts |
//! | 8 | sequence number within the incarnation |
//! | 8 | [cookie](super::cookies) that the node asks tunnelled packets to carry; 0 is none yet |
//! | 1 | number of addresses |
//! | | the node's name |
//! | | each uplink: a length byte and its name |
//! | | each address of the receiver whose [probe frames](super::proofs) arrive: 16 bytes, IPv4 mapped |
//!
//! Numbers are big-endian. A change of the layout is a new version; an agent ignores
//! versions that it does not know.
use super::{Departure, cookies::Cookie};
use crate::{
    bytes::{Short, take, take_slice},
    datapath::{address_bytes, address_from_bytes},
};
use std::{collections::BTreeSet, net::IpAddr};

const MAGIC: [u8; 4] = *b"Hrld";
const VERSION: u8 = 2;
const STOPPING: u8 = 1;
const UNLOADING: u8 = 2;
/// Longest message, in bytes; what is longer is not one.
pub const MAX_LENGTH: usize = 4096;
/// Most uplinks that are told of.
const MAX_INTERFACES: usize = 64;
/// Most addresses that are told of.
const MAX_HEARD: usize = 64;

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub node: String,
    /// Larger each time its agent starts.
    pub incarnation: u64,
    /// Larger with each message of an incarnation.
    pub sequence: u64,
    /// The agent goes.
    pub departure: Option<Departure>,
    /// The rules that the agent decides by.
    pub plan_version: u32,
    /// The names of its uplinks.
    pub interfaces: BTreeSet<String>,
    /// What it asks tunnelled packets to carry.
    pub cookie: Option<Cookie>,
    /// The receiver's addresses whose probe frames have arrived at the sender of late.
    pub heard: BTreeSet<IpAddr>,
}

/// Why a datagram is not a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin as one.
    #[error("not a heartbeat")]
    Magic,
    /// Another version of the layout.
    #[error("heartbeat of version {0}, which this agent does not know")]
    Version(u8),
    /// It ends too early or goes on after its end.
    #[error("heartbeat of the wrong length")]
    Length,
    /// A name is not UTF-8 or is empty.
    #[error("heartbeat with a name that is not text")]
    Name,
}

impl From<Short> for Malformed {
    fn from(Short: Short) -> Self {
        Self::Length
    }
}

/// Whether a datagram is meant to be a heartbeat, of whatever version.
pub fn begins_as_one(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

impl Message {
    /// The datagram. Names longer than 255 bytes, which neither nodes nor interfaces can
    /// have, make a message that nobody accepts.
    pub fn encode(&self) -> Vec<u8> {
        let interfaces: Vec<_> = self.interfaces.iter().take(MAX_INTERFACES).collect();
        let heard: Vec<_> = self.heard.iter().take(MAX_HEARD).collect();
        let length = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
        let flags = match self.departure {
            None => 0,
            Some(Departure::Stopping) => STOPPING,
            Some(Departure::Unloading) => STOPPING | UNLOADING,
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend([VERSION, flags, length(&self.node), interfaces.len() as u8]);
        bytes.extend(self.plan_version.to_be_bytes());
        bytes.extend(self.incarnation.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.cookie.map_or(0, Cookie::get).to_be_bytes());
        bytes.push(heard.len() as u8);
        bytes.extend(self.node.as_bytes());
        for interface in interfaces {
            bytes.push(length(interface));
            bytes.extend(interface.as_bytes());
        }
        for address in heard {
            bytes.extend(address_bytes(*address));
        }
        bytes
    }

    /// Reads a datagram.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        if take(&mut rest)? != MAGIC {
            return Err(Malformed::Magic);
        }
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let [flags, name_length, count] = take(&mut rest)?;
        let plan_version = u32::from_be_bytes(take(&mut rest)?);
        let incarnation = u64::from_be_bytes(take(&mut rest)?);
        let sequence = u64::from_be_bytes(take(&mut rest)?);
        let cookie = Cookie::new(u64::from_be_bytes(take(&mut rest)?));
        let [addresses] = take(&mut rest)?;
        let node = name(&mut rest, name_length)?;
        let mut interfaces = BTreeSet::new();
        for _ in 0..count {
            let [length] = take(&mut rest)?;
            interfaces.insert(name(&mut rest, length)?);
        }
        let mut heard = BTreeSet::new();
        for _ in 0..addresses {
            heard.insert(address_from_bytes(take(&mut rest)?));
        }
        if !rest.is_empty() {
            return Err(Malformed::Length);
        }
        let departure = match (flags & UNLOADING != 0, flags & STOPPING != 0) {
            (true, _) => Some(Departure::Unloading),
            (false, true) => Some(Departure::Stopping),
            (false, false) => None,
        };
        Ok(Self { node, incarnation, sequence, departure, plan_version, interfaces, cookie, heard })
    }
}

fn name(rest: &mut &[u8], length: u8) -> Result<String, Malformed> {
    let text = str::from_utf8(take_slice(rest, length.into())?).map_err(|_| Malformed::Name)?;
    if text.is_empty() { Err(Malformed::Name) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> impl Strategy<Value = Message> {
        let departure =
            prop::option::of(prop::sample::select(vec![Departure::Stopping, Departure::Unloading]));
        let interfaces = prop::collection::btree_set("[a-z0-9.]{1,15}", 0..20);
        let heard = prop::collection::btree_set(any::<IpAddr>(), 0..20);
        let numbers = any::<(u64, u64, u32, u64)>();
        ("[a-z0-9.-]{1,253}", numbers, departure, interfaces, heard).prop_map(
            |(
                node,
                (incarnation, sequence, plan_version, cookie),
                departure,
                interfaces,
                heard,
            )| {
                Message {
                    node,
                    incarnation,
                    sequence,
                    departure,
                    plan_version,
                    interfaces,
                    cookie: Cookie::new(cookie),
                    heard: heard.iter().map(IpAddr::to_canonical).collect(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_LENGTH);
            prop_assert_eq!(Message::parse(&bytes), Ok(message));
            let cut = cut.index(bytes.len());
            prop_assert_eq!(Message::parse(&bytes[..cut]), Err(Malformed::Length));
            let longer = [bytes, vec![0]].concat();
            prop_assert_eq!(Message::parse(&longer), Err(Malformed::Length));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes);
            let mut likely = b"Hrld\x02".to_vec();
            likely.extend(bytes);
            let _ = Message::parse(&likely);
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let message = Message {
            node: "n1".to_owned(),
            incarnation: 0x0102,
            sequence: 0x0304,
            departure: Some(Departure::Stopping),
            plan_version: 5,
            interfaces: ["eth0".to_owned()].into(),
            cookie: Cookie::new(0x0506),
            heard: ["10.0.0.1".parse().unwrap()].into(),
        };
        let expected = [
            &b"Hrld\x02\x01\x02\x01\0\0\0\x05\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x03\x04"[..],
            b"\0\0\0\0\0\0\x05\x06\x01n1\x04eth0\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01",
        ]
        .concat();
        assert_eq!(message.encode(), expected);
        let mut newer = expected;
        newer[4] = 9;
        assert_eq!(Message::parse(&newer), Err(Malformed::Version(9)));
    }
}
