//! An IP packet in an Ethernet frame, as far as the data path looks into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an IP header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// Where the upper layer begins in the frame, if there are no options.
    pub(super) upper: usize,
}

/// A 16-bit number in network order.
pub(super) fn number(frame: &[u8], at: usize) -> u16 {
    u16::from(frame[at]) << 8 | u16::from(frame[at + 1])
}

/// The IP header of a frame that claims to have one and is long enough for it.
pub(super) fn ip(frame: &[u8]) -> Option<Ip> {
    match number(frame.get(..14)?, 12) {
        0x0800 if frame.len() >= 34 => Some(Ip {
            source: Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]).into(),
            destination: Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]).into(),
            protocol: frame[23],
            ttl: frame[22],
            upper: 34,
        }),
        0x86dd if frame.len() >= 54 => Some(Ip {
            source: v6(frame, 22).into(),
            destination: v6(frame, 38).into(),
            protocol: frame[20],
            ttl: frame[21],
            upper: 54,
        }),
        _ => None,
    }
}

/// An IPv6 address in a frame.
pub(super) fn v6(frame: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&frame[at..at + 16]);
    octets.into()
}

/// Writes the source or destination address of an IP header.
pub(super) fn set_address(frame: &mut [u8], source: bool, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let at = if source { 26 } else { 30 };
            frame[at..at + 4].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            let at = if source { 22 } else { 38 };
            frame[at..at + 16].copy_from_slice(&v6.octets());
        }
    }
}

/// Where TTL or hop limit stands.
pub(super) fn ttl_at(ip: &Ip) -> usize {
    if ip.source.is_ipv4() { 22 } else { 21 }
}
