//! Gratuitous ARP, unsolicited neighbour advertisements and probes, as whole Ethernet frames.
use bytes::{BufMut as _, Bytes, BytesMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// All nodes on the link, and the link-layer group it maps to (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// ff02::1:ff00:0/104, the solicited-node groups (RFC 4291 section 2.7.1).
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u32 = 0x2000_0000;

/// The frames by which `mac` says that it has `vip` now.
///
/// For IPv4 both forms, since some hosts heed only one: an ARP request for the address
/// itself (an ARP Announcement, RFC 5227 section 2.3) and a reply (RFC 5944 section 4.6
/// describes both). For IPv6 a neighbour advertisement to all nodes with the Override
/// flag (RFC 4861 section 7.2.6).
pub fn announcement(vip: IpAddr, mac: [u8; 6]) -> Vec<Bytes> {
    match vip {
        IpAddr::V4(vip) => {
            vec![arp(Operation::Request, vip, vip, mac), arp(Operation::Reply, vip, vip, mac)]
        }
        IpAddr::V6(vip) => vec![neighbour_advertisement(vip, mac)],
    }
}

/// The frame by which `mac` asks who has `vip` without claiming it: an ARP probe (RFC 5227 section
/// 2.1.1), or a neighbour solicitation of duplicate address detection (RFC 4862 section 5.4.2).
/// Nobody takes anything into a cache by it.
pub fn probe(vip: IpAddr, mac: [u8; 6]) -> Bytes {
    match vip {
        IpAddr::V4(vip) => arp(Operation::Request, Ipv4Addr::UNSPECIFIED, vip, mac),
        IpAddr::V6(vip) => {
            let mut group = SOLICITED_NODE.octets();
            group[13..].copy_from_slice(&vip.octets()[13..]);
            let message = neighbour_message(SOLICITATION, 0, vip);
            let mut to = [0x33, 0x33, 0xff, 0, 0, 0];
            to[3..].copy_from_slice(&group[13..]);
            icmpv6(to, mac, Ipv6Addr::UNSPECIFIED, group.into(), message)
        }
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Request = 1,
    Reply = 2,
}

/// RFC 826.
fn arp(operation: Operation, sender: Ipv4Addr, target: Ipv4Addr, mac: [u8; 6]) -> Bytes {
    let mut frame = BytesMut::with_capacity(42);
    frame.put_slice(&BROADCAST);
    frame.put_slice(&mac);
    frame.put_u16(ETHERTYPE_ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.put_u16(1);
    frame.put_u16(0x0800);
    frame.put_slice(&[6, 4]);
    frame.put_u16(operation as u16);
    frame.put_slice(&mac);
    frame.put_slice(&sender.octets());
    // RFC 5227 section 2.1.1 leaves the target's link-layer address of a request at zero;
    // a reply is to everybody.
    match operation {
        Operation::Request => frame.put_slice(&[0; 6]),
        Operation::Reply => frame.put_slice(&BROADCAST),
    }
    frame.put_slice(&target.octets());
    frame.freeze()
}

/// RFC 4861 section 4.4, with the target link-layer address option.
fn neighbour_advertisement(vip: Ipv6Addr, mac: [u8; 6]) -> Bytes {
    let mut message = neighbour_message(ADVERTISEMENT, OVERRIDE, vip);
    message.put_slice(&[2, 1]);
    message.put_slice(&mac);
    icmpv6(ALL_NODES_MAC, mac, vip, ALL_NODES, message)
}

/// What solicitations and advertisements begin with.
fn neighbour_message(kind: u8, flags: u32, target: Ipv6Addr) -> BytesMut {
    let mut message = BytesMut::with_capacity(32);
    message.put_slice(&[kind, 0, 0, 0]);
    message.put_u32(flags);
    message.put_slice(&target.octets());
    message
}

fn icmpv6(
    to: [u8; 6],
    mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mut message: BytesMut,
) -> Bytes {
    let check = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&check.to_be_bytes());

    let mut frame = BytesMut::with_capacity(86);
    frame.put_slice(&to);
    frame.put_slice(&mac);
    frame.put_u16(ETHERTYPE_IPV6);
    frame.put_u32(6 << 28);
    frame.put_u16(message.len() as u16);
    // The hop limit proves that no router sent it on (RFC 4861 section 7.1.2).
    frame.put_slice(&[ICMPV6, 255]);
    frame.put_slice(&source.octets());
    frame.put_slice(&destination.octets());
    frame.put_slice(&message);
    frame.freeze()
}

/// RFC 4443 section 2.3, over the pseudo-header of RFC 8200 section 8.1.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut sum = message.len() as u32 + u32::from(ICMPV6);
    for segment in source.segments().into_iter().chain(destination.segments()) {
        sum += u32::from(segment);
    }
    for pair in message.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpOperation, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn ipv4_is_announced_by_a_request_and_a_reply_to_everybody() {
        let frames = announcement("192.0.2.5".parse().unwrap(), MAC);
        let operations = [ArpOperation::REQUEST, ArpOperation::REPLY];
        assert_eq!(frames.len(), 2);
        for (frame, operation) in frames.iter().zip(operations) {
            assert_eq!(frame[..6], BROADCAST);
            assert_eq!(frame[6..12], MAC);
            let parsed = SlicedPacket::from_ethernet(frame).unwrap();
            let Some(NetSlice::Arp(arp)) = parsed.net else { panic!("{parsed:?}") };
            assert_eq!(arp.operation(), operation);
            assert_eq!(arp.sender_hw_addr(), MAC);
            assert_eq!(arp.sender_protocol_addr(), [192, 0, 2, 5]);
            assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 5]);
        }
    }

    #[test]
    fn probes_claim_nothing() {
        let frame = probe("192.0.2.5".parse().unwrap(), MAC);
        assert_eq!(frame[..6], BROADCAST);
        let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = parsed.net else { panic!("{parsed:?}") };
        assert_eq!(arp.operation(), ArpOperation::REQUEST);
        assert_eq!(arp.sender_hw_addr(), MAC);
        assert_eq!(arp.sender_protocol_addr(), [0; 4]);
        assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 5]);

        let vip: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        let frame = probe(vip.into(), MAC);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &parsed.net else { panic!("{parsed:?}") };
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(ip.header().source_addr(), Ipv6Addr::UNSPECIFIED);
        assert_eq!(ip.header().destination_addr(), group);
        let Some(TransportSlice::Icmpv6(icmp)) = &parsed.transport else { panic!("{parsed:?}") };
        assert!(icmp.is_checksum_valid([0; 16], group.octets()));
        assert!(matches!(icmp.icmp_type(), Icmpv6Type::NeighborSolicitation));
        // RFC 4862 section 5.4.2: no source link-layer address.
        assert_eq!((frame.len(), &frame[62..78]), (78, &vip.octets()[..]));
    }

    #[test]
    fn ipv6_is_announced_to_all_nodes_with_a_good_checksum() {
        let vip: Ipv6Addr = "2001:db8::5".parse().unwrap();
        let [frame] = &announcement(vip.into(), MAC)[..] else { panic!("one frame expected") };
        assert_eq!(frame[..6], ALL_NODES_MAC);
        let parsed = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &parsed.net else { panic!("{parsed:?}") };
        assert_eq!(ip.header().hop_limit(), 255);
        assert_eq!(ip.header().source_addr(), vip);
        assert_eq!(ip.header().destination_addr(), ALL_NODES);
        let Some(TransportSlice::Icmpv6(icmp)) = &parsed.transport else { panic!("{parsed:?}") };
        assert!(icmp.is_checksum_valid(vip.octets(), ALL_NODES.octets()));
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else {
            panic!("{:?}", icmp.icmp_type())
        };
        assert!(header.r#override && !header.solicited && !header.router);
        assert_eq!(frame[62..78], vip.octets());
        assert_eq!(frame[78..80], [2, 1]);
        assert_eq!(frame[80..86], MAC);
    }
}
