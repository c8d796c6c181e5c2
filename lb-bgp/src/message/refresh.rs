//! ROUTE-REFRESH (RFC 2918, RFC 7313).
use super::{Kind, framed};
use crate::family::AfiSafi;
use bytes::Bytes;

/// What a ROUTE-REFRESH says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// Send all routes again (RFC 2918 section 3).
    Request,
    /// From here on they are sent again (BoRR, RFC 7313 section 3.2).
    Begin,
    /// They have been sent (EoRR).
    End,
    /// Of no consequence (RFC 7313 section 5).
    Other(u8),
}

/// A ROUTE-REFRESH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The routes that it is about.
    pub family: AfiSafi,
    /// What it says.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// The message.
    pub fn encode(&self) -> Bytes {
        let subtype = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Other(other) => other,
        };
        let [high, low] = self.family.afi.to_be_bytes();
        framed(Kind::RouteRefresh, &[high, low, subtype, self.family.safi])
    }

    /// Reads the body. `None` if it has another length than four octets.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let [high, low, subtype, safi] = *<&[u8; 4]>::try_from(body).ok()?;
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Other(other),
        };
        Some(Self { family: AfiSafi { afi: u16::from_be_bytes([high, low]), safi }, kind })
    }
}
