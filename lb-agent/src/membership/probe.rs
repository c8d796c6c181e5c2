//! The frame that proves a link: a tunnel's headers with nothing in the tunnel, from an
//! address that is nobody's.
//!
//! The other node's kernel program takes it for its cookie and hands the sender's address,
//! which follows the headers, to its agent.
use super::cookies::Cookie;
use crate::datapath::address_bytes;
use lb_common::{
    tunnel::{GUE_VERSION_LENGTH, PROBE, cookie_words},
    wire::protocol,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The sources, of the ranges for documentation (RFC 5737, RFC 3849): whoever filters by
/// address does not know them.
const FOREIGN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FOREIGN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// No router may pass it on.
const HOP_LIMIT: u8 = 1;
/// "No next header" (RFC 8200 section 4.7).
const NOTHING: u8 = 59;

/// A link to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The other node's link-layer address.
    pub mac: [u8; 6],
    /// Ours on that link.
    pub source_mac: [u8; 6],
    /// The VLAN to tag the frame with; 0 is none.
    pub vlan: u16,
    /// The other node's address.
    pub peer: IpAddr,
    /// Ours, by which the other node tells of it.
    pub sender: IpAddr,
    /// What the other node asks for.
    pub cookie: Cookie,
    /// UDP port of the tunnels.
    pub port: u16,
}

impl Probe {
    /// The frame, Ethernet header included.
    pub fn frame(&self) -> Vec<u8> {
        let mut payload = vec![GUE_VERSION_LENGTH, NOTHING, 0, 0, PROBE, 0, 0, 0];
        for word in cookie_words(self.cookie.get()) {
            payload.extend(word.to_ne_bytes());
        }
        payload.extend(address_bytes(self.sender));
        let length = (8 + payload.len()) as u16;
        let mut udp =
            [self.port.to_be_bytes(), self.port.to_be_bytes(), length.to_be_bytes()].concat();
        udp.extend([0, 0]);
        udp.extend(payload);

        let mut frame = [self.mac, self.source_mac].concat();
        if self.vlan != 0 {
            frame.extend([0x81, 0x00]);
            frame.extend((self.vlan & 0xfff).to_be_bytes());
        }
        match self.peer {
            IpAddr::V4(peer) => {
                frame.extend([0x08, 0x00]);
                let mut ip = vec![0x45, 0];
                ip.extend((20 + length).to_be_bytes());
                ip.extend([0, 0, 0x40, 0, HOP_LIMIT, protocol::UDP, 0, 0]);
                ip.extend(FOREIGN_V4.octets());
                ip.extend(peer.octets());
                let sum = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(ip);
            }
            IpAddr::V6(peer) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([protocol::UDP, HOP_LIMIT]);
                frame.extend(FOREIGN_V6.octets());
                frame.extend(peer.octets());
                // Not optional over IPv6 (RFC 8200 section 8.1).
                let pseudo = [0, 0, length.to_be_bytes()[0], length.to_be_bytes()[1]];
                let sum = checksum(&[
                    &FOREIGN_V6.octets(),
                    &peer.octets(),
                    &pseudo,
                    &[0, 0, 0, protocol::UDP],
                    &udp,
                ]);
                let sum = if sum == 0 { 0xffff } else { sum };
                udp[6..8].copy_from_slice(&sum.to_be_bytes());
            }
        }
        frame.extend(udp);
        frame
    }
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    fn probe(peer: &str, sender: &str, vlan: u16) -> Probe {
        let cookie = Cookie::new(0x0102_0304_0506_0708).unwrap();
        let (peer, sender) = (ip(peer), ip(sender));
        Probe { mac: [2; 6], source_mac: [4; 6], vlan, peer, sender, cookie, port: 7948 }
    }

    #[test]
    fn frames_are_well_formed() {
        for (peer, sender, vlan) in
            [("10.0.0.2", "10.0.0.1", 0), ("fd00::2", "fd00::1", 0), ("10.0.0.2", "10.0.0.1", 7)]
        {
            let frame = probe(peer, sender, vlan).frame();
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            assert_eq!(packet.link_exts.len(), usize::from(vlan != 0));
            let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP") };
            assert_eq!(udp.destination_port(), 7948);
            match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(v4) => {
                    let header = v4.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    assert_eq!(v4.header().destination_addr(), ip(peer));
                    assert_eq!(v4.header().source_addr(), FOREIGN_V4);
                }
                NetSlice::Ipv6(v6) => {
                    assert_eq!(v6.header().destination_addr(), ip(peer));
                    let sum = udp.to_header().calc_checksum_ipv6_raw(
                        v6.header().source(),
                        v6.header().destination(),
                        udp.payload(),
                    );
                    assert_eq!(sum, Ok(udp.checksum()));
                }
                NetSlice::Arp(_) => panic!("ARP"),
            }
            let gue = udp.payload();
            assert_eq!(gue[..8], [GUE_VERSION_LENGTH, 59, 0, 0, PROBE, 0, 0, 0]);
            assert_eq!(gue[8..16], 0x0102_0304_0506_0708u64.to_le_bytes());
            assert_eq!(gue[16..], address_bytes(ip(sender)));
        }
    }
}
