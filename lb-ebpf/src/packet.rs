//! A packet: what its headers say, and how it arrived.
use crate::{frame::Frame, maps::uplink_mac};
use lb_common::{
    maps::{FlowKey, TO_ENDPOINT},
    wire::{Ethernet, VLAN_MASK, length::ETHERNET},
};

/// [`Packet::arrived`]: in a frame from anybody; below it, the position that a tunnel named.
pub(crate) const BY_FRAME: u8 = 0xff;
/// [`Packet::arrived`]: a fragment that has found its node, as if in a frame of an agent.
pub(crate) const BY_AGENT: u8 = 0xfe;

/// [`Packet::fragment`]: no fragment.
pub(crate) const WHOLE: u8 = 0;
/// [`Packet::fragment`]: the one with the transport header.
pub(crate) const FIRST: u8 = 1;
/// [`Packet::fragment`]: one without; only addresses can be rewritten in it.
pub(crate) const LATER: u8 = 2;

/// [`Packet::stats`]: of no Service.
pub(crate) const NO_STATS: u32 = u32::MAX;

/// [`Packet::tag`]: the frame came with a tag.
const TAGGED: u32 = 1 << 16;
/// The largest [`Packet::transport`], as a mask: an Ethernet header, an IPv6 header and 256
/// bytes of extension headers come to 310.
const TRANSPORT_MASK: u32 = 0x1ff;

/// A packet to what may be a VIP, with sound headers.
#[repr(C, align(8))]
pub(crate) struct Packet {
    /// Its flow: `client` is its source and `peer` its destination. Of an ICMP error
    /// ([`is_error`](Self::is_error)): the flow that it is about.
    pub(crate) flow: FlowKey,
    /// [`WHOLE`], [`FIRST`] or [`LATER`].
    pub(crate) fragment: u8,
    /// TCP's flags; 0 for other protocols.
    pub(crate) flags: u8,
    /// Whether it begins a flow.
    pub(crate) begins: bool,
    /// Whether it is an ICMP error about `flow`.
    pub(crate) is_error: bool,
    /// Whether IPv4 options or IPv6 extension headers have been skipped.
    pub(crate) has_options: bool,
    /// [`BY_FRAME`], [`BY_AGENT`] or the position in a tunnel's header.
    pub(crate) arrived: u8,
    pub(crate) pad: [u8; 2],
    /// Of addresses, ports and protocol.
    pub(crate) hash: u32,
    /// The VLAN tag that was taken off, as [`tag_of`] has it; 0 is none.
    pub(crate) tag: u32,
    /// Offset of the transport header in the frame.
    pub(crate) transport: u32,
    /// Bytes of the transport header and what follows it, as the IP header has it.
    pub(crate) payload: u32,
    /// Bytes of the frame.
    pub(crate) length: u32,
    /// The identification of a fragment, network order; IPv4's is 16 bits.
    pub(crate) fragment_id: u32,
    /// Index in `SERVICE_STATS`, or [`NO_STATS`].
    pub(crate) stats: u32,
    /// TCP's sequence number, network order; 0 for other protocols, and for later fragments.
    pub(crate) sequence: u32,
}

impl Packet {
    /// A packet of which nothing is known yet but how it arrived.
    #[inline(always)]
    pub(crate) const fn new(tag: u32, arrived: u8) -> Self {
        Self {
            flow: FlowKey {
                client: [0; 16],
                peer: [0; 16],
                client_port: [0; 2],
                peer_port: [0; 2],
                proto: 0,
                direction: TO_ENDPOINT,
                pad: [0; 2],
            },
            hash: 0,
            tag,
            transport: 0,
            payload: 0,
            length: 0,
            fragment_id: 0,
            stats: NO_STATS,
            arrived,
            fragment: WHOLE,
            flags: 0,
            begins: false,
            is_error: false,
            has_options: false,
            pad: [0; 2],
            sequence: 0,
        }
    }

    /// The VLAN that the frame came in; 0 is none.
    #[inline(always)]
    pub(crate) const fn vlan(&self) -> u16 {
        vlan_of(self.tag)
    }

    /// Bytes of the whole IP packet.
    #[inline(always)]
    pub(crate) const fn ip_length(&self) -> u32 {
        self.transport + self.payload - ETHERNET as u32
    }

    /// Whether it was taken out of a tunnel.
    #[inline(always)]
    pub(crate) const fn is_from_tunnel(&self) -> bool {
        self.arrived < BY_AGENT
    }

    /// Offset of the transport header, in bounds that the verifier sees.
    #[inline(always)]
    pub(crate) const fn transport_at(&self) -> usize {
        (self.transport & TRANSPORT_MASK) as usize
    }
}

/// A VLAN tag, given its control field in network order, as [`Packet::tag`] remembers it.
#[inline(always)]
pub(crate) const fn tag_of(control: u16) -> u32 {
    TAGGED | control as u32
}

/// The VLAN in [`Packet::tag`]; 0 is none.
#[inline(always)]
pub(crate) const fn vlan_of(tag: u32) -> u16 {
    u16::from_be(tag as u16) & VLAN_MASK
}

/// A header at an offset, if all of it lies inside the linear part of the frame.
///
/// The pointer is good until the frame is moved or cut.
#[inline(always)]
pub(crate) fn at<F: Frame, T>(frame: &F, offset: usize) -> Option<*mut T> {
    let start = frame.data() + offset;
    if start + size_of::<T>() > frame.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// The length of the frame's linear part.
#[inline(always)]
pub(crate) fn linear_length<F: Frame>(frame: &F) -> usize {
    frame.data_end() - frame.data()
}

/// Whether the frame was sent to this node, and not flooded to it by a switch.
#[inline(always)]
pub(crate) fn is_for_us<F: Frame>(frame: &F, vlan: u16) -> bool {
    let Some(ethernet) = at::<F, Ethernet>(frame, 0) else { return false };
    // SAFETY: `at` has checked the bounds.
    let destination = unsafe { (*ethernet).destination };
    uplink_mac(frame.ifindex(), vlan) == Some(destination)
}
