//! Router advertisements and solicitations (RFC 4861 sections 4.1 and 4.2), as far as unnumbered peers
//! find each other by them.
use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

/// ICMPv6 types.
pub const SOLICITATION: u8 = 133;
/// See [`SOLICITATION`].
pub const ADVERTISEMENT: u8 = 134;
/// The hop limit of both: what comes from further away is not taken (RFC 4861 section 6.1).
pub const HOP_LIMIT: u8 = 255;
/// Octets of an advertisement without options.
const ADVERTISEMENT_LENGTH: usize = 16;
/// Octets of a solicitation without options.
const SOLICITATION_LENGTH: usize = 8;
/// For how long a router is taken to be there that does not say how long it is: three times the longest
/// interval that a router may have (RFC 4861 section 6.2.1).
const LONGEST: Duration = Duration::from_secs(3 * 1800);
/// Advertisements of routers that are nobody's default router have no lifetime: such a router is
/// taken to be there as long as FRR's and the agents', which send each ten seconds.
const WITHOUT_LIFETIME: Duration = Duration::from_secs(60);

/// An advertisement that makes its sender nobody's default router, and configures nothing. The kernel
/// fills the checksum in.
pub fn advertisement() -> [u8; ADVERTISEMENT_LENGTH] {
    let mut message = [0; ADVERTISEMENT_LENGTH];
    message[0] = ADVERTISEMENT;
    message
}

/// Asks routers to advertise themselves at once.
pub fn solicitation() -> [u8; SOLICITATION_LENGTH] {
    let mut message = [0; SOLICITATION_LENGTH];
    message[0] = SOLICITATION;
    message
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody asks for advertisements.
    Solicitation,
    /// A router says that it is there, and for how long.
    Advertisement(Ipv6Addr, Duration),
}

/// Reads a message; `None` for what is none of these, or must not be taken (RFC 4861 section 6.1).
pub fn read(message: &[u8], from: Ipv6Addr, hop_limit: Option<u8>) -> Option<Heard> {
    if hop_limit != Some(HOP_LIMIT) || message.get(1) != Some(&0) {
        return None;
    }
    match *message.first()? {
        SOLICITATION if message.len() >= SOLICITATION_LENGTH => Some(Heard::Solicitation),
        ADVERTISEMENT if message.len() >= ADVERTISEMENT_LENGTH && from.is_unicast_link_local() => {
            let seconds = u16::from_be_bytes([message[6], message[7]]);
            let lifetime = Duration::from_secs(seconds.into()).min(LONGEST);
            Some(Heard::Advertisement(from, lifetime.max(WITHOUT_LIFETIME)))
        }
        _ => None,
    }
}

/// The routers that are heard on a link, of which there is to be one.
#[derive(Clone, Debug, Default)]
pub struct Routers {
    /// The one that was heard first, and until when it is taken to be there.
    known: Option<(Ipv6Addr, Instant)>,
    /// Another that was heard beside it.
    other: Option<(Ipv6Addr, Instant)>,
}

impl Routers {
    /// A router was heard.
    pub fn heard(&mut self, router: Ipv6Addr, lifetime: Duration, now: Instant) {
        self.expire(now);
        let until = now + lifetime;
        match &mut self.known {
            Some((known, last)) if *known == router => *last = until,
            Some(_) => self.other = Some((router, until)),
            None => self.known = Some((router, until)),
        }
    }

    /// Forgets who has not been heard for too long.
    pub fn expire(&mut self, now: Instant) {
        let there = |one: &(Ipv6Addr, Instant)| one.1 > now;
        self.other = self.other.filter(there);
        self.known = self.known.filter(there).or_else(|| self.other.take());
    }

    /// The router to speak to: the same, as long as it is heard.
    pub fn known(&self) -> Option<Ipv6Addr> {
        self.known.map(|(router, _)| router)
    }

    /// Another that is heard beside it: there should be none.
    pub fn other(&self) -> Option<Ipv6Addr> {
        self.other.map(|(router, _)| router)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    #[test]
    fn only_what_comes_from_the_link_is_taken() {
        let own = advertisement();
        let heard = Heard::Advertisement(ROUTER, WITHOUT_LIFETIME);
        assert_eq!(read(&own, ROUTER, Some(255)), Some(heard));
        assert_eq!(read(&own, ROUTER, Some(254)), None, "from further away");
        assert_eq!(read(&own, ROUTER, None), None);
        assert_eq!(read(&own, Ipv6Addr::LOCALHOST, Some(255)), None, "not link-local");
        assert_eq!(read(&own[..15], ROUTER, Some(255)), None, "too short");
        let asked = read(&solicitation(), Ipv6Addr::UNSPECIFIED, Some(255));
        assert_eq!(asked, Some(Heard::Solicitation));
        let mut other = own;
        other[1] = 1;
        assert_eq!(read(&other, ROUTER, Some(255)), None, "another code");
        assert_eq!(read(&[], ROUTER, Some(255)), None);
        let mut lasting = own;
        lasting[6..8].copy_from_slice(&1800u16.to_be_bytes());
        let heard = Heard::Advertisement(ROUTER, Duration::from_secs(1800));
        assert_eq!(read(&lasting, ROUTER, Some(255)), Some(heard));
    }

    #[test]
    fn a_router_stays_while_it_is_heard_and_another_takes_its_place() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let minute = Duration::from_secs(60);
        let mut routers = Routers::default();
        routers.heard(ROUTER, minute, at(0));
        routers.heard(OTHER, minute, at(50));
        assert_eq!((routers.known(), routers.other()), (Some(ROUTER), Some(OTHER)));
        routers.heard(ROUTER, minute, at(55));
        routers.expire(at(114));
        assert_eq!((routers.known(), routers.other()), (Some(ROUTER), None));
        routers.heard(OTHER, minute, at(114));
        routers.expire(at(116));
        assert_eq!((routers.known(), routers.other()), (Some(OTHER), None));
        routers.expire(at(200));
        assert_eq!(routers.known(), None);
    }
}
