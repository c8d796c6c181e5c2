//! Communities: marks that a route carries, for routers to act on.
use std::{fmt, str::FromStr};

/// A community (RFC 1997): by custom an AS number and a number of that AS's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// The route is about to go, and others are to be preferred (RFC 8326 section 3).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);

    /// One of its two halves.
    pub const fn new(asn: u16, value: u16) -> Self {
        Self((asn as u32) << 16 | value as u32)
    }

    pub(crate) fn octets(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no community: it should be such as 65000:100, or large:65000:1:2")]
pub struct NoCommunity(String);

impl FromStr for Community {
    type Err = NoCommunity;

    fn from_str(text: &str) -> Result<Self, NoCommunity> {
        let halves = text.split_once(':');
        let community =
            halves.and_then(|(asn, value)| Some(Self::new(number(asn)?, number(value)?)));
        community.ok_or_else(|| NoCommunity(text.to_owned()))
    }
}

/// Digits only: no sign, which Rust would take.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A large community (RFC 8092 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// The AS that says what the rest means.
    pub global_administrator: u32,
    /// Its first part.
    pub local_data_1: u32,
    /// Its second part.
    pub local_data_2: u32,
}

impl LargeCommunity {
    pub(crate) fn octets(self) -> [u8; 12] {
        let mut octets = [0; 12];
        let parts = [self.global_administrator, self.local_data_1, self.local_data_2];
        octets.copy_from_slice(parts.map(u32::to_be_bytes).as_flattened());
        octets
    }

    pub(super) fn of_octets(octets: [u8; 12]) -> Self {
        let part =
            |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|offset| octets[at * 4 + offset]));
        Self { global_administrator: part(0), local_data_1: part(1), local_data_2: part(2) }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { global_administrator, local_data_1, local_data_2 } = self;
        write!(f, "{global_administrator}:{local_data_1}:{local_data_2}")
    }
}

impl FromStr for LargeCommunity {
    type Err = NoCommunity;

    /// Three numbers, with or without `large:` before them.
    fn from_str(text: &str) -> Result<Self, NoCommunity> {
        let mut parts = text.strip_prefix("large:").unwrap_or(text).split(':').map(number);
        let mut part = || parts.next().flatten();
        let community = (|| {
            Some(Self {
                global_administrator: part()?,
                local_data_1: part()?,
                local_data_2: part()?,
            })
        })();
        match (community, parts.next()) {
            (Some(community), None) => Ok(community),
            _ => Err(NoCommunity(text.to_owned())),
        }
    }
}

/// An extended community (RFC 4360 section 2), as its eight octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// Link bandwidth: how much traffic a next hop takes, for routers that weigh several
    /// (draft-ietf-idr-link-bandwidth section 2). In octets a second, as a number of four octets
    /// after IEEE 754; not passed on to other ASes, which is why an AS number beyond two octets may be
    /// written as [`AS_TRANS`](super::AS_TRANS).
    pub fn link_bandwidth(asn: u32, octets_a_second: f32) -> Self {
        let [asn_high, asn_low] = u16::try_from(asn).unwrap_or(super::AS_TRANS).to_be_bytes();
        let [a, b, c, d] = octets_a_second.to_be_bytes();
        Self([0x40, 0x04, asn_high, asn_low, a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_they_are_written() {
        let community: Community = "65000:100".parse().unwrap();
        assert_eq!(community, Community::new(65_000, 100));
        assert_eq!(community.to_string(), "65000:100");
        assert_eq!(Community::GRACEFUL_SHUTDOWN.to_string(), "65535:0");
        let large: LargeCommunity = "large:4200000000:1:2".parse().unwrap();
        assert_eq!(large.to_string(), "4200000000:1:2");
        assert_eq!("4200000000:1:2".parse(), Ok(large));
        assert_eq!(LargeCommunity::of_octets(large.octets()), large);
    }

    #[test]
    fn what_is_no_community_is_refused() {
        for text in ["", "1", "65536:1", "1:65536", "1:2:3", "+1:2", "a:b", ":", "1:"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
        for text in ["", "1:2", "large:1:2", "1:2:3:4", "large:large:1:2:3", "4294967296:0:0"] {
            assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
        }
    }

    #[test]
    fn link_bandwidth_is_a_float_behind_the_as() {
        // 1.25e9 octets a second are 10 Gbit/s.
        let ExtendedCommunity(octets) = ExtendedCommunity::link_bandwidth(65_001, 1.25e9);
        assert_eq!(octets, [0x40, 0x04, 0xfd, 0xe9, 0x4e, 0x95, 0x02, 0xf9]);
    }
}
