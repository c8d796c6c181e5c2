//! Path attributes (RFC 4271 section 4.3, and those of the RFCs named with them).
mod as_path;
mod check;
mod community;
mod reach;

pub use as_path::{AS_TRANS, AsPath, Segment, SegmentKind};
pub use check::{Fault, Severity};
pub(crate) use check::{MALFORMED_LIST, Source, read_list};
pub use community::{Community, ExtendedCommunity, LargeCommunity};
pub use reach::{MpReach, MpUnreach, NextHop};

use crate::wire::{octet, two_octets};
use bytes::Bytes;
use std::net::Ipv4Addr;

/// The attribute is not known to be well-known (RFC 4271 section 4.3).
pub const OPTIONAL: u8 = 0x80;
/// It is passed on, even where it is not understood.
pub const TRANSITIVE: u8 = 0x40;
/// It was passed on by somebody who did not understand it.
pub const PARTIAL: u8 = 0x20;
/// Its length takes two octets.
const EXTENDED_LENGTH: u8 = 0x10;

/// Attribute types, as IANA lists them.
pub mod kind {
    #![expect(missing_docs, reason = "they are called what their RFCs call them")]
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const LARGE_COMMUNITIES: u8 = 32;
}

/// Where a route was first learned (RFC 4271 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Within the AS.
    Igp,
    /// By the Exterior Gateway Protocol of RFC 904.
    Egp,
    /// By other means.
    Incomplete,
}

/// Who aggregated a route (RFC 4271 section 5.1.7, RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aggregator {
    /// Its AS.
    pub asn: u32,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A path attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// RFC 4271 section 5.1.1.
    Origin(Origin),
    /// RFC 4271 section 5.1.2.
    AsPath(AsPath),
    /// RFC 4271 section 5.1.3.
    NextHop(Ipv4Addr),
    /// RFC 4271 section 5.1.4.
    MultiExitDisc(u32),
    /// RFC 4271 section 5.1.5.
    LocalPref(u32),
    /// RFC 4271 section 5.1.6.
    AtomicAggregate,
    /// RFC 4271 section 5.1.7.
    Aggregator(Aggregator),
    /// RFC 1997.
    Communities(Vec<Community>),
    /// RFC 4456.
    OriginatorId(Ipv4Addr),
    /// RFC 4456.
    ClusterList(Vec<Ipv4Addr>),
    /// RFC 4760 section 3.
    MpReach(MpReach),
    /// RFC 4760 section 4.
    MpUnreach(MpUnreach),
    /// RFC 4360.
    ExtendedCommunities(Vec<ExtendedCommunity>),
    /// RFC 6793 section 3.
    As4Path(AsPath),
    /// RFC 6793 section 3.
    As4Aggregator(Aggregator),
    /// RFC 8092.
    LargeCommunities(Vec<LargeCommunity>),
    /// Any other.
    Unknown {
        /// All of its flags but the one for the length's size.
        flags: u8,
        /// Its type.
        kind: u8,
        /// Its value.
        value: Bytes,
    },
}

impl Attribute {
    /// Its type.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Origin(_) => kind::ORIGIN,
            Self::AsPath(_) => kind::AS_PATH,
            Self::NextHop(_) => kind::NEXT_HOP,
            Self::MultiExitDisc(_) => kind::MULTI_EXIT_DISC,
            Self::LocalPref(_) => kind::LOCAL_PREF,
            Self::AtomicAggregate => kind::ATOMIC_AGGREGATE,
            Self::Aggregator(_) => kind::AGGREGATOR,
            Self::Communities(_) => kind::COMMUNITIES,
            Self::OriginatorId(_) => kind::ORIGINATOR_ID,
            Self::ClusterList(_) => kind::CLUSTER_LIST,
            Self::MpReach(_) => kind::MP_REACH_NLRI,
            Self::MpUnreach(_) => kind::MP_UNREACH_NLRI,
            Self::ExtendedCommunities(_) => kind::EXTENDED_COMMUNITIES,
            Self::As4Path(_) => kind::AS4_PATH,
            Self::As4Aggregator(_) => kind::AS4_AGGREGATOR,
            Self::LargeCommunities(_) => kind::LARGE_COMMUNITIES,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    fn flags(&self) -> u8 {
        match self {
            Self::Unknown { flags, .. } => *flags & !EXTENDED_LENGTH,
            known => check::flags_of(known.kind()).unwrap_or(OPTIONAL | TRANSITIVE),
        }
    }

    /// Appends it. `four_octets` says how AS numbers are written in this session (RFC 6793
    /// section 4); what does not fit into two octets is then written as [`AS_TRANS`].
    ///
    /// A value of more than 65,535 octets cannot be written, and no message is so long: callers
    /// hold the whole message to its limit.
    pub(crate) fn encode(&self, four_octets: bool, bytes: &mut Vec<u8>) {
        let mut value = Vec::new();
        self.encode_value(four_octets, &mut value);
        encode_head(self.flags(), self.kind(), value.len(), bytes);
        bytes.extend_from_slice(&value);
    }

    fn encode_value(&self, four_octets: bool, value: &mut Vec<u8>) {
        match self {
            Self::Origin(origin) => value.push(match origin {
                Origin::Igp => 0,
                Origin::Egp => 1,
                Origin::Incomplete => 2,
            }),
            Self::AsPath(path) => path.encode(four_octets, value),
            Self::NextHop(address) | Self::OriginatorId(address) => {
                value.extend_from_slice(&address.octets());
            }
            Self::MultiExitDisc(number) | Self::LocalPref(number) => {
                value.extend_from_slice(&number.to_be_bytes());
            }
            Self::AtomicAggregate => {}
            Self::Aggregator(aggregator) => {
                as_path::encode_asn(aggregator.asn, four_octets, value);
                value.extend_from_slice(&aggregator.address.octets());
            }
            Self::Communities(list) => list.iter().for_each(|one| value.extend(one.octets())),
            Self::ClusterList(list) => list.iter().for_each(|one| value.extend(one.octets())),
            Self::MpReach(reach) => reach.encode(value),
            Self::MpUnreach(unreach) => unreach.encode(value),
            Self::ExtendedCommunities(list) => list.iter().for_each(|one| value.extend(one.0)),
            Self::As4Path(path) => path.encode(true, value),
            Self::As4Aggregator(aggregator) => {
                as_path::encode_asn(aggregator.asn, true, value);
                value.extend_from_slice(&aggregator.address.octets());
            }
            Self::LargeCommunities(list) => list.iter().for_each(|one| value.extend(one.octets())),
            Self::Unknown { value: bytes, .. } => value.extend_from_slice(bytes),
        }
    }
}

/// Appends what stands before an attribute's value.
fn encode_head(flags: u8, kind: u8, length: usize, bytes: &mut Vec<u8>) {
    if length > usize::from(u8::MAX) {
        bytes.extend_from_slice(&[flags | EXTENDED_LENGTH, kind]);
        bytes.extend_from_slice(&two_octets(length).to_be_bytes());
    } else {
        bytes.extend_from_slice(&[flags, kind, octet(length)]);
    }
}
