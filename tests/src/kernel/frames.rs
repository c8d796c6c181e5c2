//! Frames as clients, neighbours and pods send them, with valid checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, IpNumber, PacketBuilder,
    PacketBuilderStep,
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

/// The sequence number of each TCP segment.
pub const SEQUENCE: u32 = 0x0102_0304;

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
    let mut header = etherparse::TcpHeader::new(from.port(), to.port(), SEQUENCE, 64_240);
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

/// An ICMP or ICMPv6 message, its checksum right: what follows type and code is `rest`, then `data`.
pub fn icmp(
    link: Link,
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
    [kind, code]: [u8; 2],
    rest: [u8; 4],
    data: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(data);
    let mut sum = etherparse::checksum::Sum16BitWords::new().add_slice(&message);
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        sum = sum.add_16bytes(from.octets()).add_16bytes(to.octets());
        sum = sum.add_4bytes((message.len() as u32).to_be_bytes()).add_2bytes([0, 58]);
    }
    message[2..4].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    with_payload(link, from, to, ttl, if to.is_ipv4() { 1 } else { 58 }, &message)
}

/// CRC32c (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// An SCTP packet with one chunk: INIT or, else, DATA.
pub fn sctp(link: Link, from: SocketAddr, to: SocketAddr, ttl: u8, init: bool) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    // The first packet has no tag yet.
    packet.extend(if init { [0; 4] } else { [0, 0, 0x12, 0x34] });
    packet.extend([0; 4]);
    if init {
        packet.extend([1, 0, 0, 20, 0, 0, 0x12, 0x34, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 7]);
    } else {
        packet.extend([0, 3, 0, 20, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, b'd', b'a', b't', b'a']);
    }
    let check = crc32c(&packet);
    packet[8..12].copy_from_slice(&check.to_le_bytes());
    with_payload(link, from.ip(), to.ip(), ttl, 132, &packet)
}

/// A packet with a payload as it is.
pub fn with_payload(
    link: Link,
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let step = ip(link, from, to, ttl);
    let mut bytes = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut bytes, IpNumber(protocol), payload).expect("the frame can be built");
    bytes
}

/// A TCP segment or UDP datagram with a longer payload, filled with a pattern.
pub fn long(link: Link, from: SocketAddr, to: SocketAddr, tcp: bool, length: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
    if tcp {
        let mut header = etherparse::TcpHeader::new(from.port(), to.port(), SEQUENCE, 64_240);
        header.ack = true;
        header.acknowledgment_number = 0x0506_0708;
        finish!(ip(link, from.ip(), to.ip(), 64).tcp_header(header), &payload)
    } else {
        finish!(ip(link, from.ip(), to.ip(), 64).udp(from.port(), to.port()), &payload)
    }
}

/// A SYN-ACK with these options (a multiple of four bytes).
pub fn syn_ack(link: Link, from: SocketAddr, to: SocketAddr, options: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(from.port(), to.port(), SEQUENCE, 64_240);
    header.syn = true;
    header.ack = true;
    header.acknowledgment_number = 0x0506_0708;
    header.set_options_raw(options).expect("the options fit");
    finish!(ip(link, from.ip(), to.ip(), 64).tcp_header(header), &[0u8; 0])
}

/// A packet of another protocol: its payload has no meaning.
pub fn other_protocol(link: Link, from: IpAddr, to: IpAddr, ttl: u8, protocol: u8) -> Vec<u8> {
    with_payload(link, from, to, ttl, protocol, PAYLOAD)
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

/// A target link-layer address option (RFC 4861 section 4.6.1).
pub fn target_link_layer_option(mac: Mac) -> Vec<u8> {
    [&[2, 1][..], &mac[..]].concat()
}

/// An unsolicited neighbour advertisement: its sender claims the target's address.
pub fn advertisement(
    link: Link,
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    options: &[u8],
) -> Vec<u8> {
    let kind = Icmpv6Type::NeighborAdvertisement(etherparse::icmpv6::NeighborAdvertisementHeader {
        router: false,
        solicited: false,
        r#override: true,
    });
    neighbour(link, from, to, 255, kind, target, options)
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

/// Puts so many words of "no operation" options into an IPv4 header.
pub fn with_ipv4_options(frame: &[u8], words: u8) -> Vec<u8> {
    let options = vec![1; usize::from(words) * 4];
    let mut frame = [&frame[..34], &options, &frame[34..]].concat();
    frame[14] = 0x45 + words;
    let length = u16::from_be_bytes([frame[16], frame[17]]) + u16::from(words) * 4;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    refresh_ipv4(&mut frame);
    frame
}

/// Puts an extension header of so many bytes (a multiple of 8), all padding, behind the IPv6 header.
pub fn with_extension(frame: &[u8], kind: u8, bytes: u16) -> Vec<u8> {
    let mut extension = vec![0; usize::from(bytes)];
    extension[0] = frame[20];
    extension[1] = (bytes / 8 - 1) as u8;
    if kind == 0 || kind == 60 {
        // One option that fills it (PadN).
        extension[2..4].copy_from_slice(&[1, (bytes - 4).min(255) as u8]);
    }
    let mut frame = [&frame[..54], &extension[..], &frame[54..]].concat();
    frame[20] = kind;
    let length = u16::from_be_bytes([frame[18], frame[19]]) + bytes;
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
    let mut frame = with_extension(frame, 44, 8);
    let word = offset << 3 | u16::from(more);
    frame[55] = 0;
    frame[56..58].copy_from_slice(&word.to_be_bytes());
    frame[58..62].copy_from_slice(&[0, 0, 0x1c, 0x46]);
    frame
}

/// The parts of a packet from one offset of its upper layer (in units of 8 bytes) up to
/// another, as a fragment.
pub fn part(frame: &[u8], from: u16, to: Option<u16>) -> Vec<u8> {
    let at = |units: u16| 54.min(l4_offset(frame)) + usize::from(units) * 8;
    let end = to.map_or(frame.len(), |to| at(to).min(frame.len()));
    let mut bytes = [&frame[..at(0)], &frame[at(from).min(end)..end]].concat();
    if frame[12..14] == [0x08, 0x00] {
        let length = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        as_fragment_v4(&bytes, from, to.is_some())
    } else {
        let length = (bytes.len() - 54) as u16;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        as_fragment_v6(&bytes, from, to.is_some())
    }
}

/// Sets DSCP and ECN.
pub fn set_class(frame: &mut [u8], class: u8) {
    if frame[12..14] == [0x08, 0x00] {
        frame[15] = class;
        refresh_ipv4(frame);
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4 | frame[15] & 0x0f;
    }
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
