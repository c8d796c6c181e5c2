//! Frames as clients, neighbours and pods send them, with valid checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv4Type, Icmpv6Type, IpNumber,
    PacketBuilder, PacketBuilderStep,
};

/// A link-layer address.
pub type Mac = [u8; 6];

/// All hosts of the link.
pub const BROADCAST: Mac = [0xff; 6];

/// Where a frame comes from and goes to on the link.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Source.
    pub from: Mac,
    /// Destination.
    pub to: Mac,
}

/// What is inside a UDP datagram, a TCP segment or an echo; an odd length on purpose.
pub const PAYLOAD: &[u8] = b"a payload of odd length";

/// Flags of a TCP segment, as they stand in the header.
pub mod tcp_flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronise: a connection begins.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// Acknowledgment.
    pub const ACK: u8 = 16;
}

fn ip(link: Link, from: IpAddr, to: IpAddr, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(link.from, link.to);
    let headers = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header =
                etherparse::Ipv4Header::new(0, ttl, IpNumber::TCP, from.octets(), to.octets())
                    .expect("an empty payload fits");
            header.identification = 0x1c46;
            header.dont_fragment = true;
            etherparse::IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = etherparse::Ipv6Header {
                source: from.octets(),
                destination: to.octets(),
                hop_limit: ttl,
                flow_label: 0x1_2345u32.try_into().expect("20 bits"),
                ..Default::default()
            };
            etherparse::IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{from} and {to} are of different families"),
    };
    ethernet.ip(headers)
}

macro_rules! finish {
    ($builder:expr, $payload:expr) => {{
        let builder = $builder;
        let mut bytes = Vec::with_capacity(builder.size($payload.len()));
        builder.write(&mut bytes, $payload).expect("the frame can be built");
        bytes
    }};
}

/// A TCP segment; SYNs carry no data.
pub fn tcp(link: Link, from: SocketAddr, to: SocketAddr, ttl: u8, flags: u8) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(from.port(), to.port(), 0x0102_0304, 64_240);
    header.fin = flags & tcp_flags::FIN != 0;
    header.syn = flags & tcp_flags::SYN != 0;
    header.rst = flags & tcp_flags::RST != 0;
    header.psh = flags & tcp_flags::PSH != 0;
    header.ack = flags & tcp_flags::ACK != 0;
    if header.ack {
        header.acknowledgment_number = 0x0506_0708;
    }
    if header.syn {
        header
            .set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)])
            .expect("one option fits");
    }
    let payload = if header.syn { &[] } else { PAYLOAD };
    finish!(ip(link, from.ip(), to.ip(), ttl).tcp_header(header), payload)
}

/// A UDP datagram.
pub fn udp(link: Link, from: SocketAddr, to: SocketAddr, ttl: u8) -> Vec<u8> {
    finish!(ip(link, from.ip(), to.ip(), ttl).udp(from.port(), to.port()), PAYLOAD)
}

/// A UDP datagram without checksum (RFC 768: all zeros).
pub fn udp_without_checksum(link: Link, from: SocketAddr, to: SocketAddr, ttl: u8) -> Vec<u8> {
    let mut frame = udp(link, from, to, ttl);
    let at = l4_offset(&frame) + 6;
    frame[at..at + 2].fill(0);
    frame
}

/// An ICMP or ICMPv6 echo request.
pub fn echo_request(link: Link, from: IpAddr, to: IpAddr, ttl: u8) -> Vec<u8> {
    let step = ip(link, from, to, ttl);
    match to {
        IpAddr::V4(_) => finish!(step.icmpv4_echo_request(0x77, 3), PAYLOAD),
        IpAddr::V6(_) => finish!(step.icmpv6_echo_request(0x77, 3), PAYLOAD),
    }
}

/// An ICMP or ICMPv6 echo reply.
pub fn echo_reply(link: Link, from: IpAddr, to: IpAddr, ttl: u8) -> Vec<u8> {
    let step = ip(link, from, to, ttl);
    match to {
        IpAddr::V4(_) => finish!(step.icmpv4_echo_reply(0x77, 3), PAYLOAD),
        IpAddr::V6(_) => finish!(step.icmpv6_echo_reply(0x77, 3), PAYLOAD),
    }
}

/// "Port unreachable" about a packet that `about` is the IP part of.
pub fn icmp_error(link: Link, from: IpAddr, to: IpAddr, ttl: u8, about: &[u8]) -> Vec<u8> {
    let step = ip(link, from, to, ttl);
    match to {
        IpAddr::V4(_) => {
            let kind =
                Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
            finish!(step.icmpv4(kind), &about[..about.len().min(28)])
        }
        IpAddr::V6(_) => {
            let kind =
                Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port);
            finish!(step.icmpv6(kind), about)
        }
    }
}

/// A packet of another protocol: its payload has no meaning.
pub fn other_protocol(link: Link, from: IpAddr, to: IpAddr, ttl: u8, protocol: u8) -> Vec<u8> {
    let step = ip(link, from, to, ttl);
    let mut bytes = Vec::with_capacity(step.size(PAYLOAD.len()));
    step.write(&mut bytes, IpNumber(protocol), PAYLOAD).expect("the frame can be built");
    bytes
}

/// The parts of an ARP packet that differ between the cases.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// Whether it is a reply.
    pub reply: bool,
    /// Sender's link-layer address.
    pub sender_mac: Mac,
    /// Sender's address; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Target's link-layer address; zeros in a request.
    pub target_mac: Mac,
    /// Target's address.
    pub target: Ipv4Addr,
}

/// An ARP packet, padded to the shortest frame that Ethernet allows (60 bytes without its check sequence).
pub fn arp(link: Link, arp: Arp) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        if arp.reply { ArpOperation::REPLY } else { ArpOperation::REQUEST },
        &arp.sender_mac,
        &arp.sender.octets(),
        &arp.target_mac,
        &arp.target.octets(),
    )
    .expect("the lengths are Ethernet's and IPv4's");
    let builder = PacketBuilder::ethernet2(link.from, link.to).arp(packet);
    let mut bytes = Vec::with_capacity(60);
    builder.write(&mut bytes).expect("the frame can be built");
    bytes.resize(60, 0);
    bytes
}

/// The solicited-node multicast address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

/// The link-layer address of an IPv6 multicast group (RFC 2464 section 7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// A source link-layer address option (RFC 4861 section 4.6.1).
pub fn source_link_layer_option(mac: Mac) -> Vec<u8> {
    [&[1, 1][..], &mac[..]].concat()
}

/// A nonce option (RFC 7527, as SEND defines it in RFC 3971 section 5.3.2).
pub const NONCE_OPTION: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

/// A neighbour solicitation with the given options.
pub fn solicitation(
    link: Link,
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    hop_limit: u8,
    options: &[u8],
) -> Vec<u8> {
    neighbour(link, from, to, hop_limit, Icmpv6Type::NeighborSolicitation, target, options)
}

/// An unsolicited neighbour advertisement: its sender claims the target's address.
pub fn advertisement(link: Link, from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let kind = Icmpv6Type::NeighborAdvertisement(etherparse::icmpv6::NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    });
    let option = [&[2, 1][..], &link.from[..]].concat();
    neighbour(link, from, to, 255, kind, target, &option)
}

fn neighbour(
    link: Link,
    from: Ipv6Addr,
    to: Ipv6Addr,
    hop_limit: u8,
    kind: Icmpv6Type,
    target: Ipv6Addr,
    options: &[u8],
) -> Vec<u8> {
    let payload = [&target.octets()[..], options].concat();
    finish!(ip(link, from.into(), to.into(), hop_limit).icmpv6(kind), &payload)
}

/// Puts an 802.1Q tag into a frame.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat()
}

/// Puts four bytes of "no operation" options into an IPv4 header.
pub fn with_ipv4_options(frame: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..34], &[1, 1, 1, 0], &frame[34..]].concat();
    frame[14] = 0x46;
    let length = u16::from_be_bytes([frame[16], frame[17]]) + 4;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    refresh_ipv4(&mut frame);
    frame
}

/// Puts an extension header of 8 bytes, all padding, before the upper layer.
pub fn with_extension(frame: &[u8], kind: u8) -> Vec<u8> {
    let next = frame[20];
    let extension = [next, 0, 1, 4, 0, 0, 0, 0];
    let mut frame = [&frame[..54], &extension[..], &frame[54..]].concat();
    frame[20] = kind;
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Makes an IPv4 packet a fragment: `offset` in units of 8 bytes, and whether more follow.
pub fn as_fragment_v4(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let word = offset | if more { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    refresh_ipv4(&mut frame);
    frame
}

/// Makes an IPv6 packet a fragment: `offset` in units of 8 bytes, and whether more follow.
pub fn as_fragment_v6(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut frame = with_extension(frame, 44);
    let word = offset << 3 | u16::from(more);
    frame[55] = 0;
    frame[56..58].copy_from_slice(&word.to_be_bytes());
    frame[58..62].copy_from_slice(&[0, 0, 0x1c, 0x46]);
    frame
}

/// Sets the time to live or the hop limit.
pub fn set_ttl(frame: &mut [u8], ttl: u8) {
    if frame[12..14] == [0x08, 0x00] {
        frame[22] = ttl;
        refresh_ipv4(frame);
    } else {
        frame[21] = ttl;
    }
}

/// Recomputes the header checksum of an IPv4 packet.
pub fn refresh_ipv4(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

/// Where the upper layer begins in an untagged IPv4 frame, or an IPv6 one without extension headers.
pub fn l4_offset(frame: &[u8]) -> usize {
    if frame[12..14] == [0x08, 0x00] { 14 + usize::from(frame[14] & 15) * 4 } else { 54 }
}
