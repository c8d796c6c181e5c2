//! Capabilities: what a speaker understands beyond RFC 4271 (RFC 5492).
use crate::{
    family::AfiSafi,
    wire::{Reader, octet},
};
use bytes::Bytes;

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Routes of this family (RFC 4760 section 8).
    Multiprotocol(AfiSafi),
    /// ROUTE-REFRESH (RFC 2918).
    RouteRefresh,
    /// Next hops of another family than the routes (RFC 8950 section 4).
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// Routes may be kept while the speaker restarts (RFC 4724 section 3).
    GracefulRestart(GracefulRestart),
    /// AS numbers of four octets, and the sender's own (RFC 6793 section 3).
    FourOctetAs(u32),
    /// ROUTE-REFRESH with a beginning and an end (RFC 7313).
    EnhancedRouteRefresh,
    /// Any other, or one whose value does not have the form that its RFC gives it.
    Unknown {
        /// Its code.
        code: u8,
        /// Its value.
        value: Bytes,
    },
}

/// Routes of a family may have next hops of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedNextHop {
    /// The routes' address family.
    pub afi: u16,
    /// Their subsequent family, in two octets here.
    pub safi: u16,
    /// The next hop's address family.
    pub next_hop_afi: u16,
}

/// What RFC 4724 section 3 has a speaker say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// It has just restarted (R bit): others must not wait for its End-of-RIB.
    pub restarting: bool,
    /// Routes may be kept after a NOTIFICATION, too (N bit, RFC 8538 section 2).
    pub notification: bool,
    /// How long it takes to come back, in seconds: at most 4095.
    pub restart_time: u16,
    /// For which families.
    pub families: Vec<GracefulFamily>,
}

/// A family whose routes may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulFamily {
    /// The family.
    pub family: AfiSafi,
    /// Packets for its routes were forwarded all the time (F bit).
    pub forwarding: bool,
}

mod code {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const EXTENDED_NEXT_HOP: u8 = 5;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_AS: u8 = 65;
    pub(super) const ENHANCED_ROUTE_REFRESH: u8 = 70;
}

const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const RESTART_TIME: u16 = 0x0fff;
const FORWARDING: u8 = 0x80;

impl Capability {
    /// Its code, as IANA lists them.
    pub fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => code::MULTIPROTOCOL,
            Self::RouteRefresh => code::ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Self::GracefulRestart(_) => code::GRACEFUL_RESTART,
            Self::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Self::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Appends it, with code and length.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let mut value = Vec::new();
        match self {
            Self::Multiprotocol(AfiSafi { afi, safi }) => {
                value.extend_from_slice(&afi.to_be_bytes());
                value.extend_from_slice(&[0, *safi]);
            }
            Self::RouteRefresh | Self::EnhancedRouteRefresh => {}
            Self::ExtendedNextHop(list) => {
                for ExtendedNextHop { afi, safi, next_hop_afi } in list {
                    value.extend(
                        [afi, safi, next_hop_afi].into_iter().flat_map(|n| n.to_be_bytes()),
                    );
                }
            }
            Self::GracefulRestart(graceful) => {
                let flag = |is: bool, flag: u16| if is { flag } else { 0 };
                let head = flag(graceful.restarting, RESTARTING)
                    | flag(graceful.notification, NOTIFICATION)
                    | graceful.restart_time.min(RESTART_TIME);
                value.extend_from_slice(&head.to_be_bytes());
                for GracefulFamily { family, forwarding } in &graceful.families {
                    value.extend_from_slice(&family.afi.to_be_bytes());
                    value.extend_from_slice(&[
                        family.safi,
                        if *forwarding { FORWARDING } else { 0 },
                    ]);
                }
            }
            Self::FourOctetAs(asn) => value.extend_from_slice(&asn.to_be_bytes()),
            Self::Unknown { value: other, .. } => value.extend_from_slice(other),
        }
        bytes.extend_from_slice(&[self.code(), octet(value.len())]);
        bytes.extend_from_slice(&value);
    }

    fn decode(code: u8, value: &[u8]) -> Self {
        Self::decode_known(code, value)
            .unwrap_or_else(|| Self::Unknown { code, value: Bytes::copy_from_slice(value) })
    }

    fn decode_known(code: u8, value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let capability = match code {
            code::MULTIPROTOCOL => {
                let [high, low, _, safi] = reader.array()?;
                Self::Multiprotocol(AfiSafi { afi: u16::from_be_bytes([high, low]), safi })
            }
            code::ROUTE_REFRESH => Self::RouteRefresh,
            code::EXTENDED_NEXT_HOP => {
                let mut list = Vec::new();
                while !reader.is_empty() {
                    let (afi, safi) = (reader.u16()?, reader.u16()?);
                    list.push(ExtendedNextHop { afi, safi, next_hop_afi: reader.u16()? });
                }
                Self::ExtendedNextHop(list)
            }
            code::GRACEFUL_RESTART => {
                let head = reader.u16()?;
                let mut families = Vec::new();
                while !reader.is_empty() {
                    let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
                    families.push(GracefulFamily {
                        family,
                        forwarding: reader.u8()? & FORWARDING != 0,
                    });
                }
                Self::GracefulRestart(GracefulRestart {
                    restarting: head & RESTARTING != 0,
                    notification: head & NOTIFICATION != 0,
                    restart_time: head & RESTART_TIME,
                    families,
                })
            }
            code::FOUR_OCTET_AS => Self::FourOctetAs(reader.u32()?),
            code::ENHANCED_ROUTE_REFRESH => Self::EnhancedRouteRefresh,
            _ => return None,
        };
        reader.is_empty().then_some(capability)
    }

    /// The capabilities that a parameter of an OPEN holds. `None` if their lengths do not add up.
    pub(super) fn decode_list(bytes: &[u8]) -> Option<Vec<Self>> {
        let mut reader = Reader::new(bytes);
        let mut list = Vec::new();
        while !reader.is_empty() {
            let (code, length) = (reader.u8()?, reader.u8()?);
            list.push(Self::decode(code, reader.take(length.into())?));
        }
        Some(list)
    }
}
