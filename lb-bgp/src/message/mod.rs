//! Messages (RFC 4271 section 4), as they come out of a stream of bytes.
mod capability;
mod notification;
mod open;
mod refresh;
mod stream;
#[cfg(test)]
mod tests;
mod update;

pub use capability::{Capability, ExtendedNextHop, GracefulFamily, GracefulRestart};
pub use notification::{Notification, cease, code};
pub use open::{Open, OpenError};
pub use refresh::{RefreshKind, RouteRefresh};
pub use stream::{HeaderError, Stream};
pub use update::{Decoded, Update, UpdateError};
pub(crate) use update::{EMPTY, TooLong};

use bytes::Bytes;

/// Octets before the body: marker, length, type.
pub const HEADER: usize = 19;
/// No message is longer (RFC 4271 section 4.1). The longer ones of RFC 8654 are never agreed on.
pub const LONGEST: usize = 4096;
const MARKER: [u8; 16] = [0xff; 16];

/// What a message is (RFC 4271 section 4.1, RFC 2918 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first one.
    Open,
    /// Routes come or go.
    Update,
    /// The last one: what went wrong.
    Notification,
    /// The sender is still there.
    Keepalive,
    /// The sender would like to have all routes again.
    RouteRefresh,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh];

    fn octet(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    fn of(octet: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.octet() == octet)
    }

    /// The lengths that such messages can have (RFC 4271 section 6.1, RFC 2918 section 3).
    fn lengths(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Open => 29..=LONGEST,
            Self::Update | Self::RouteRefresh => 23..=LONGEST,
            Self::Notification => 21..=LONGEST,
            Self::Keepalive => HEADER..=HEADER,
        }
    }
}

/// A message as it is sent: header and body. The body must fit.
fn framed(kind: Kind, body: &[u8]) -> Bytes {
    let length = HEADER + body.len();
    debug_assert!(kind.lengths().contains(&length), "{kind:?} of {length} octets");
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&MARKER);
    message.extend_from_slice(&crate::wire::two_octets(length).to_be_bytes());
    message.push(kind.octet());
    message.extend_from_slice(body);
    message.into()
}

/// A KEEPALIVE: nothing but a header.
pub fn keepalive() -> Bytes {
    framed(Kind::Keepalive, &[])
}
