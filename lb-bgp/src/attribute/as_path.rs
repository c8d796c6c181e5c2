//! `AS_PATH`: the ASes that a route has passed (RFC 4271 section 4.3, RFC 6793).
use crate::wire::{Reader, octet};

/// Stands for an AS number that does not fit into two octets (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23_456;

/// AS numbers that stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What they are to each other.
    pub kind: SegmentKind,
    /// The numbers: 1 to 255 of them.
    pub numbers: Vec<u32>,
}

/// What the numbers of a segment are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// Any order.
    Set,
    /// In the order in which the route passed them, the last first.
    Sequence,
    /// A sequence within a confederation (RFC 5065 section 3).
    ConfederationSequence,
    /// A set within a confederation.
    ConfederationSet,
}

impl SegmentKind {
    const ALL: [(u8, Self); 4] = [
        (1, Self::Set),
        (2, Self::Sequence),
        (3, Self::ConfederationSequence),
        (4, Self::ConfederationSet),
    ];

    fn octet(self) -> u8 {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or(2, |(octet, _)| *octet)
    }

    fn of(octet: u8) -> Option<Self> {
        Self::ALL.iter().find(|(own, _)| *own == octet).map(|(_, kind)| *kind)
    }
}

/// The ASes that a route has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// A path of these, the last that was passed first.
    pub fn sequence(numbers: Vec<u32>) -> Self {
        Self(vec![Segment { kind: SegmentKind::Sequence, numbers }])
    }

    pub(super) fn encode(&self, four_octets: bool, value: &mut Vec<u8>) {
        for segment in &self.0 {
            value.extend_from_slice(&[segment.kind.octet(), octet(segment.numbers.len())]);
            for number in &segment.numbers {
                encode_asn(*number, four_octets, value);
            }
        }
    }

    /// RFC 7606 section 7.2: an unknown kind of segment, one that is empty or goes beyond the end,
    /// or an octet too many make it malformed.
    pub(super) fn decode(value: &[u8], four_octets: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let kind = SegmentKind::of(reader.u8()?)?;
            let count = reader.u8().filter(|count| *count > 0)?;
            let numbers = (0..count).map(|_| decode_asn(&mut reader, four_octets));
            segments.push(Segment { kind, numbers: numbers.collect::<Option<_>>()? });
        }
        Some(Self(segments))
    }

    /// Whether a number in it does not fit into two octets.
    pub(crate) fn is_wide(&self) -> bool {
        self.0.iter().flat_map(|segment| &segment.numbers).any(|n| *n > u32::from(u16::MAX))
    }
}

pub(super) fn encode_asn(asn: u32, four_octets: bool, value: &mut Vec<u8>) {
    if four_octets {
        value.extend_from_slice(&asn.to_be_bytes());
    } else {
        value.extend_from_slice(&u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes());
    }
}

pub(super) fn decode_asn(reader: &mut Reader<'_>, four_octets: bool) -> Option<u32> {
    if four_octets { reader.u32() } else { reader.u16().map(u32::from) }
}
