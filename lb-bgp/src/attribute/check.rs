//! Reading attributes that others sent, and what comes of those that are wrong (RFC 7606).
use super::{
    Aggregator, AsPath, Attribute, Community, EXTENDED_LENGTH, ExtendedCommunity, LargeCommunity,
    MpReach, MpUnreach, OPTIONAL, Origin, TRANSITIVE, as_path, kind, reach::Unread,
};
use crate::wire::Reader;
use bytes::Bytes;
use std::{collections::BTreeSet, fmt};

/// What comes of an error in an UPDATE, the mildest first (RFC 7606 section 2). (The fourth way,
/// to ignore a family from then on, is never taken.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The attribute counts as absent.
    AttributeDiscard,
    /// The routes of the UPDATE count as withdrawn.
    TreatAsWithdraw,
    /// A NOTIFICATION is sent, and the session ends.
    SessionReset,
}

/// What is wrong with an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What comes of it.
    pub severity: Severity,
    /// The attribute's type; 0 if it is about all of them.
    pub kind: u8,
    /// What is wrong, as part of a sentence.
    pub what: &'static str,
    /// The subcode of the NOTIFICATION, where one is sent (RFC 4271 section 6.3).
    pub subcode: u8,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            0 => f.write_str(self.what),
            kind => write!(f, "{}: {}", name(kind), self.what),
        }
    }
}

fn name(of: u8) -> String {
    let name = match of {
        kind::ORIGIN => "ORIGIN",
        kind::AS_PATH => "AS_PATH",
        kind::NEXT_HOP => "NEXT_HOP",
        kind::MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
        kind::LOCAL_PREF => "LOCAL_PREF",
        kind::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        kind::AGGREGATOR => "AGGREGATOR",
        kind::COMMUNITIES => "COMMUNITIES",
        kind::ORIGINATOR_ID => "ORIGINATOR_ID",
        kind::CLUSTER_LIST => "CLUSTER_LIST",
        kind::MP_REACH_NLRI => "MP_REACH_NLRI",
        kind::MP_UNREACH_NLRI => "MP_UNREACH_NLRI",
        kind::EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        kind::AS4_PATH => "AS4_PATH",
        kind::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        kind::LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        other => return format!("attribute {other}"),
    };
    name.to_owned()
}

/// Malformed Attribute List (RFC 4271 section 6.3).
pub(crate) const MALFORMED_LIST: u8 = 1;
/// Unrecognized Well-known Attribute.
const UNRECOGNIZED: u8 = 2;
/// Optional Attribute Error.
const OPTIONAL_ERROR: u8 = 9;

/// The flags that attributes of this type have; `None` if the type is not known.
pub(super) fn flags_of(of: u8) -> Option<u8> {
    match of {
        kind::ORIGIN..=kind::NEXT_HOP | kind::LOCAL_PREF | kind::ATOMIC_AGGREGATE => {
            Some(TRANSITIVE)
        }
        kind::MULTI_EXIT_DISC
        | kind::ORIGINATOR_ID
        | kind::CLUSTER_LIST
        | kind::MP_REACH_NLRI
        | kind::MP_UNREACH_NLRI => Some(OPTIONAL),
        kind::AGGREGATOR
        | kind::COMMUNITIES
        | kind::EXTENDED_COMMUNITIES
        | kind::AS4_PATH
        | kind::AS4_AGGREGATOR
        | kind::LARGE_COMMUNITIES => Some(OPTIONAL | TRANSITIVE),
        _ => None,
    }
}

/// What attributes mean depends on who sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// AS numbers take four octets (RFC 6793 section 4).
    pub(crate) four_octets: bool,
    /// The sender is of the same AS.
    pub(crate) internal: bool,
}

/// Reads all attributes of an UPDATE. Those that are read; and what is wrong. Nothing is left out
/// silently: what is not among the first has its fault, unless it is of a family that is none of ours.
pub(crate) fn read_list(bytes: &[u8], source: Source) -> (Vec<Attribute>, Vec<Fault>) {
    let mut reader = Reader::new(bytes);
    let (mut attributes, mut faults) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    while !reader.is_empty() {
        let Some((flags, kind, value)) = read_one(&mut reader) else {
            // RFC 7606 section 4: the routes are where the lengths around the attributes say.
            faults.push(Fault {
                severity: Severity::TreatAsWithdraw,
                kind: 0,
                what: "an attribute goes beyond the end of all attributes",
                subcode: MALFORMED_LIST,
            });
            break;
        };
        if !seen.insert(kind) {
            faults.push(repeated(kind));
            continue;
        }
        // RFC 7606 section 3 (c). Where routes stand in it, they must be known to be withdrawn.
        let routes = matches!(kind, kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI);
        let flags = if routes && has_other_flags(flags, OPTIONAL) {
            faults.push(other_flags(kind));
            OPTIONAL
        } else {
            flags
        };
        match read_value(flags, kind, value, source) {
            Ok(Some(attribute)) => attributes.push(attribute),
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    (attributes, faults)
}

fn read_one<'a>(reader: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (flags, kind) = (reader.u8()?, reader.u8()?);
    let length = if flags & EXTENDED_LENGTH == 0 {
        usize::from(reader.u8()?)
    } else {
        usize::from(reader.u16()?)
    };
    Some((flags, kind, reader.take(length)?))
}

/// RFC 7606 section 3 (c): only these two bits count; "partial" is of no consequence.
fn has_other_flags(flags: u8, expected: u8) -> bool {
    (flags ^ expected) & (OPTIONAL | TRANSITIVE) != 0
}

fn other_flags(kind: u8) -> Fault {
    let what = "its flags are not those of its type";
    Fault { severity: Severity::TreatAsWithdraw, kind, what, subcode: MALFORMED_LIST }
}

/// RFC 7606 section 3 (g).
fn repeated(kind: u8) -> Fault {
    let routes = matches!(kind, kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI);
    let severity = if routes { Severity::SessionReset } else { Severity::AttributeDiscard };
    Fault { severity, kind, what: "it is there more than once", subcode: MALFORMED_LIST }
}

/// One attribute. `None` if it concerns nobody.
fn read_value(
    flags: u8,
    kind: u8,
    value: &[u8],
    source: Source,
) -> Result<Option<Attribute>, Fault> {
    let fault = |severity, what| Fault { severity, kind, what, subcode: MALFORMED_LIST };
    // RFC 7606 sections 7.5, 7.9 and 7.10: from another AS they say nothing, whatever is in them.
    let within = matches!(kind, kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST);
    if within && !source.internal {
        return Err(fault(Severity::AttributeDiscard, "a peer of another AS must not send it"));
    }
    let Some(expected) = flags_of(kind) else {
        if flags & OPTIONAL == 0 {
            let what = "it is said to be well-known, and is not";
            return Err(Fault { subcode: UNRECOGNIZED, ..fault(Severity::SessionReset, what) });
        }
        let value = Bytes::copy_from_slice(value);
        return Ok(Some(Attribute::Unknown { flags: flags & !EXTENDED_LENGTH, kind, value }));
    };
    if has_other_flags(flags, expected) {
        return Err(other_flags(kind));
    }
    let malformed = |severity, what| move || fault(severity, what);
    let withdraw = |what| malformed(Severity::TreatAsWithdraw, what);
    let discard = |what| malformed(Severity::AttributeDiscard, what);
    let mut reader = Reader::new(value);
    let attribute = match kind {
        // Section 7.1.
        kind::ORIGIN => Attribute::Origin(match value {
            [0] => Origin::Igp,
            [1] => Origin::Egp,
            [2] => Origin::Incomplete,
            _ => return Err(withdraw("it is none of 0, 1 and 2")()),
        }),
        // Section 7.2.
        kind::AS_PATH => AsPath::decode(value, source.four_octets)
            .map(Attribute::AsPath)
            .ok_or_else(withdraw("its segments do not add up"))?,
        // Section 7.3.
        kind::NEXT_HOP => {
            Attribute::NextHop(<[u8; 4]>::try_from(value).map_err(|_| withdraw(FOUR)())?.into())
        }
        // Section 7.4.
        kind::MULTI_EXIT_DISC => {
            Attribute::MultiExitDisc(number(value).ok_or_else(withdraw(FOUR))?)
        }
        // Section 7.5.
        kind::LOCAL_PREF => Attribute::LocalPref(number(value).ok_or_else(withdraw(FOUR))?),
        // Section 7.6.
        kind::ATOMIC_AGGREGATE if value.is_empty() => Attribute::AtomicAggregate,
        kind::ATOMIC_AGGREGATE => return Err(discard("it is not empty")()),
        // Section 7.7.
        kind::AGGREGATOR => aggregator(&mut reader, source.four_octets)
            .map(Attribute::Aggregator)
            .ok_or_else(discard("it has a wrong length"))?,
        // Section 7.8.
        kind::COMMUNITIES => list(value, |one| Community(u32::from_be_bytes(one)))
            .map(Attribute::Communities)
            .ok_or_else(withdraw(PARTS))?,
        // Section 7.9.
        kind::ORIGINATOR_ID => {
            Attribute::OriginatorId(number(value).ok_or_else(withdraw(FOUR))?.into())
        }
        // Section 7.10.
        kind::CLUSTER_LIST => list(value, |one: [u8; 4]| one.into())
            .map(Attribute::ClusterList)
            .ok_or_else(withdraw(PARTS))?,
        // Sections 5.3 and 7.11.
        kind::MP_REACH_NLRI => match MpReach::decode(value) {
            Ok(reach) => Attribute::MpReach(reach),
            Err(unread) => return routes_unread(kind, unread),
        },
        // Sections 5.3 and 7.12.
        kind::MP_UNREACH_NLRI => match MpUnreach::decode(value) {
            Ok(unreach) => Attribute::MpUnreach(unreach),
            Err(unread) => return routes_unread(kind, unread),
        },
        // Section 7.14.
        kind::EXTENDED_COMMUNITIES => list(value, ExtendedCommunity)
            .map(Attribute::ExtendedCommunities)
            .ok_or_else(withdraw(PARTS))?,
        // RFC 6793 section 6.
        kind::AS4_PATH => AsPath::decode(value, true)
            .map(Attribute::As4Path)
            .ok_or_else(discard("its segments do not add up"))?,
        kind::AS4_AGGREGATOR => aggregator(&mut reader, true)
            .map(Attribute::As4Aggregator)
            .ok_or_else(discard("it has a wrong length"))?,
        // RFC 8092 section 6.
        kind::LARGE_COMMUNITIES => list(value, LargeCommunity::of_octets)
            .map(Attribute::LargeCommunities)
            .ok_or_else(withdraw(PARTS))?,
        _ => return Ok(None),
    };
    Ok(Some(attribute))
}

const FOUR: &str = "it has not four octets";
const PARTS: &str = "it is empty, or no whole number of communities";

fn routes_unread(kind: u8, unread: Unread) -> Result<Option<Attribute>, Fault> {
    match unread {
        Unread::OtherFamily => Ok(None),
        Unread::Malformed(what) => {
            Err(Fault { severity: Severity::SessionReset, kind, what, subcode: OPTIONAL_ERROR })
        }
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn aggregator(reader: &mut Reader<'_>, four_octets: bool) -> Option<Aggregator> {
    let asn = as_path::decode_asn(reader, four_octets)?;
    let address = reader.array::<4>()?.into();
    reader.is_empty().then_some(Aggregator { asn, address })
}

/// Elements of a fixed size; at least one.
fn list<const N: usize, T>(value: &[u8], element: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (elements, rest) = value.as_chunks::<N>();
    (rest.is_empty() && !elements.is_empty())
        .then(|| elements.iter().map(|octets| element(*octets)).collect())
}
