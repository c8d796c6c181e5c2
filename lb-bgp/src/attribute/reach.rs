//! `MP_REACH_NLRI` and `MP_UNREACH_NLRI`: routes of any family (RFC 4760), with the next hops of RFC 2545
//! (IPv6) and RFC 8950 (IPv4 by way of IPv6).
use crate::{
    family::{AfiSafi, Family},
    prefix,
    wire::{Reader, octet},
};
use ipnet::IpNet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Where to send packets for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Four octets.
    V4(Ipv4Addr),
    /// Sixteen octets, or thirty-two with a link-local address (RFC 2545 section 3).
    V6 {
        /// The first address.
        global: Ipv6Addr,
        /// The second one.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    fn encode(self, value: &mut Vec<u8>) {
        match self {
            Self::V4(address) => {
                value.push(4);
                value.extend_from_slice(&address.octets());
            }
            Self::V6 { global, link_local } => {
                value.push(octet(16 + link_local.map_or(0, |_| 16)));
                value.extend_from_slice(&global.octets());
                value.extend(link_local.iter().flat_map(Ipv6Addr::octets));
            }
        }
    }

    /// Octets of it, without its length.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::V4(_) => 4,
            Self::V6 { link_local, .. } => 16 + link_local.map_or(0, |_| 16),
        }
    }

    fn decode(family: Family, octets: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(octets);
        let v6 = |octets: Option<[u8; 16]>| octets.map(Ipv6Addr::from);
        match (octets.len(), family) {
            (4, Family::Ipv4Unicast) => Some(Self::V4(reader.array()?.into())),
            (16, _) => Some(Self::V6 { global: v6(reader.array())?, link_local: None }),
            (32, _) => Some(Self::V6 {
                global: v6(reader.array())?,
                link_local: Some(v6(reader.array())?),
            }),
            _ => None,
        }
    }
}

/// Routes of a family that can be reached by way of a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpReach {
    /// Their family.
    pub family: Family,
    /// The next hop.
    pub next_hop: NextHop,
    /// The routes, all of the family.
    pub prefixes: Vec<IpNet>,
}

/// Routes of a family that cannot be reached any more. None at all say that all that there was to say
/// of the family has been said (End-of-RIB, RFC 4724 section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpUnreach {
    /// Their family.
    pub family: Family,
    /// The routes, all of the family.
    pub prefixes: Vec<IpNet>,
}

/// What is left of an attribute whose family is none of ours, or does not add up.
#[derive(Clone, Copy)]
pub(super) enum Unread {
    /// None of our families: nothing of it concerns us (RFC 4760 section 7).
    OtherFamily,
    /// The routes in it cannot be told.
    Malformed(&'static str),
}

impl MpReach {
    pub(super) fn encode(&self, value: &mut Vec<u8>) {
        encode_family(self.family, value);
        self.next_hop.encode(value);
        // Reserved, once the number of SNPAs.
        value.push(0);
        self.prefixes.iter().for_each(|one| prefix::encode(one, value));
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Unread> {
        let mut reader = Reader::new(value);
        let family = decode_family(&mut reader)?;
        let length = reader.u8().ok_or(Unread::Malformed("it ends before its next hop"))?;
        let octets = reader.take(length.into());
        let octets = octets.ok_or(Unread::Malformed("its next hop goes beyond its end"))?;
        // RFC 7606 section 7.11: with another length, nobody knows where the routes begin.
        let next_hop = NextHop::decode(family, octets)
            .ok_or(Unread::Malformed("its next hop has a length that its family does not have"))?;
        reader.u8().ok_or(Unread::Malformed("it ends before its routes"))?;
        let prefixes = prefix::decode_list(family, reader.rest())
            .ok_or(Unread::Malformed("its routes do not add up"))?;
        Ok(Self { family, next_hop, prefixes })
    }
}

impl MpUnreach {
    pub(super) fn encode(&self, value: &mut Vec<u8>) {
        encode_family(self.family, value);
        self.prefixes.iter().for_each(|one| prefix::encode(one, value));
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Unread> {
        let mut reader = Reader::new(value);
        let family = decode_family(&mut reader)?;
        let prefixes = prefix::decode_list(family, reader.rest())
            .ok_or(Unread::Malformed("its routes do not add up"))?;
        Ok(Self { family, prefixes })
    }
}

fn encode_family(family: Family, value: &mut Vec<u8>) {
    let AfiSafi { afi, safi } = family.wire();
    value.extend_from_slice(&afi.to_be_bytes());
    value.push(safi);
}

fn decode_family(reader: &mut Reader<'_>) -> Result<Family, Unread> {
    let wire = (|| Some(AfiSafi { afi: reader.u16()?, safi: reader.u8()? }))();
    let wire = wire.ok_or(Unread::Malformed("it ends within its family"))?;
    Family::of_wire(wire).ok_or(Unread::OtherFamily)
}
