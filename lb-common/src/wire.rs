//! Protocol headers as they stand on the wire.
//!
//! Fields are integers, not byte arrays, because BPF code generation copies byte by
//! byte what may be unaligned: these structs cost half the instructions. They are
//! read at offsets where they are in fact unaligned, which the kernel's JITs for
//! x86-64 and arm64 allow for packets. Multi-byte fields hold network order.

/// Ethernet II (IEEE 802.3).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// Destination link-layer address.
    pub destination: [u16; 3],
    /// Source link-layer address.
    pub source: [u16; 3],
    /// EtherType.
    pub ethertype: u16,
}

/// EtherType of IPv4, network order.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// EtherType of ARP, network order.
pub const ETHERTYPE_ARP: u16 = 0x0806u16.to_be();
/// EtherType of IPv6, network order.
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// EtherType of an IEEE 802.1Q tag, network order.
pub const ETHERTYPE_VLAN: u16 = 0x8100u16.to_be();

/// An IEEE 802.1Q tag: it stands between source address and EtherType.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VlanTag {
    /// [`ETHERTYPE_VLAN`].
    pub protocol: u16,
    /// Priority (3 bits), drop eligible (1), VLAN (12), network order.
    pub control: u16,
}

/// The VLAN in [`VlanTag::control`], once in host order.
pub const VLAN_MASK: u16 = 0x0fff;

/// ARP for IPv4 over Ethernet (RFC 826). The IPv4 addresses are unaligned in it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// 1: Ethernet.
    pub hardware_type: u16,
    /// 0x0800: IPv4.
    pub protocol_type: u16,
    /// 6 and 4, as one word.
    pub lengths: u16,
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Link-layer address of the sender.
    pub sender_mac: [u16; 3],
    /// IPv4 address of the sender; 0 in a probe (RFC 5227 section 2.1.1).
    pub sender: [u16; 2],
    /// Link-layer address of the target.
    pub target_mac: [u16; 3],
    /// IPv4 address of the target.
    pub target: [u16; 2],
}

/// IPv4 without options (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ipv4 {
    /// Version in the upper four bits, header length in words in the lower.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the datagram with its header.
    pub total_length: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub check: u16,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
}

/// In [`Ipv4::fragment`], network order: more fragments, or an offset.
pub const IPV4_FRAGMENT_MASK: u16 = 0x3fffu16.to_be();
/// In [`Ipv4::fragment`], network order: the offset, in units of 8 bytes.
pub const IPV4_OFFSET_MASK: u16 = 0x1fffu16.to_be();
/// In [`Ipv4::fragment`], network order: don't fragment.
pub const IPV4_DONT_FRAGMENT: u16 = 0x4000u16.to_be();

/// IPv6 (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: u32,
    /// Length of what follows this header.
    pub payload_length: u16,
    /// Next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
}

/// What TCP and UDP begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// TCP without options (RFC 9293).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Header length in words in the upper four bits.
    pub data_offset: u8,
    /// CWR ECE URG ACK PSH RST SYN FIN.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub check: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// In [`Tcp::flags`].
pub const TCP_FIN: u8 = 0x01;
/// In [`Tcp::flags`].
pub const TCP_SYN: u8 = 0x02;
/// In [`Tcp::flags`].
pub const TCP_RST: u8 = 0x04;
/// In [`Tcp::flags`].
pub const TCP_ACK: u8 = 0x10;

/// UDP (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Length of header and data.
    pub length: u16,
    /// Checksum; 0 is none (IPv4 only).
    pub check: u16,
}

/// What an SCTP packet begins with (RFC 9260 section 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sctp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Verification tag.
    pub tag: u32,
    /// CRC32c over the whole packet.
    pub check: u32,
}

/// What an SCTP chunk begins with (RFC 9260 section 3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SctpChunk {
    /// 1: INIT.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Length with this header.
    pub length: u16,
}

/// [`SctpChunk::kind`]: INIT begins an association.
pub const SCTP_INIT: u8 = 1;

/// An IPv6 fragment header (RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Next header.
    pub next_header: u8,
    /// 0.
    pub reserved: u8,
    /// Offset in units of 8 bytes (13 bits), reserved (2), more fragments (1).
    pub offset: u16,
    /// Identification.
    pub id: u32,
}

/// In [`Fragment::offset`], network order: the offset.
pub const IPV6_OFFSET_MASK: u16 = 0xfff8u16.to_be();

/// What ICMP (RFC 792) and ICMPv6 (RFC 4443) begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub check: u16,
}

/// An ICMP or ICMPv6 error up to the packet that it is about (RFC 792, RFC 4443 section 3).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub check: u16,
    /// Unused, pointer, or MTU: ICMPv6's in all 32 bits, IPv4's (RFC 1191) in the last 16.
    pub rest: u32,
}

/// Neighbour solicitation or advertisement up to its options (RFC 4861 sections 4.3, 4.4).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    /// 135: solicitation, 136: advertisement.
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub check: u16,
    /// Router, Solicited and Override in an advertisement, else reserved.
    pub flags: u32,
    /// Target address.
    pub target: [u32; 4],
}

/// A link-layer address option (RFC 4861 section 4.6.1).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LinkLayerOption {
    /// 1: source, 2: target.
    pub kind: u8,
    /// In units of 8 bytes: 1 for Ethernet.
    pub length: u8,
    /// The address.
    pub mac: [u16; 3],
}

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// IPv6 fragment header
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
    /// IPv6 hop-by-hop options
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header
    pub const ROUTING: u8 = 43;
    /// IPsec authentication header
    pub const AUTHENTICATION: u8 = 51;
    /// IPv6 destination options
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Mobility header
    pub const MOBILITY: u8 = 135;
    /// SCTP
    pub const SCTP: u8 = 132;
    /// IPv4 in a tunnel
    pub const IPV4: u8 = 4;
    /// IPv6 in a tunnel
    pub const IPV6: u8 = 41;
    /// No next header (RFC 8200 section 4.7)
    pub const NO_NEXT_HEADER: u8 = 59;
}

/// Lengths in bytes.
pub mod length {
    use super::*;
    /// Ethernet header.
    pub const ETHERNET: usize = size_of::<Ethernet>();
    /// IPv4 header without options.
    pub const IPV4: usize = size_of::<Ipv4>();
    /// IPv6 header.
    pub const IPV6: usize = size_of::<Ipv6>();
    /// ICMPv6 neighbour solicitation without options.
    pub const NEIGHBOUR: usize = size_of::<Neighbour>();
    /// Link-layer address option.
    pub const LINK_LAYER_OPTION: usize = size_of::<LinkLayerOption>();
}

const _: () = {
    assert!(size_of::<Ethernet>() == 14);
    assert!(size_of::<Arp>() == 28);
    assert!(size_of::<Ipv4>() == 20);
    assert!(size_of::<Ipv6>() == 40);
    assert!(size_of::<Tcp>() == 20);
    assert!(size_of::<Udp>() == 8);
    assert!(size_of::<VlanTag>() == 4);
    assert!(size_of::<Sctp>() == 12);
    assert!(size_of::<SctpChunk>() == 4);
    assert!(size_of::<Fragment>() == 8);
    assert!(size_of::<IcmpError>() == 8);
    assert!(size_of::<Neighbour>() == 24);
    assert!(size_of::<LinkLayerOption>() == 8);
};
