//! A packet: what its headers say, and how it arrived.
use crate::{frame::Frame, maps::uplink_mac};
use lb_common::{
    maps::FlowKey,
    wire::{Ethernet, VLAN_MASK},
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
    /// Of addresses, ports and protocol.
    pub(crate) hash: u32,
    /// The VLAN tag that was taken off, see [`set_tag`](Self::set_tag).
    pub(crate) tag: u32,
    /// Offset of the transport header in the frame.
    pub(crate) transport: u32,
    /// Bytes of the transport header and what follows it, as the IP header has it.
    pub(crate) payload: u32,
    /// Bytes of the frame.
    pub(crate) length: u32,
    /// [`BY_FRAME`], [`BY_AGENT`] or the position in a tunnel's header.
    pub(crate) arrived: u8,
    /// [`WHOLE`], [`FIRST`] or [`LATER`].
    pub(crate) fragment: u8,
    /// TCP's flags; 0 for other protocols.
    pub(crate) flags: u8,
    /// Whether it begins a flow.
    pub(crate) begins: bool,
    /// Whether it is an ICMP error about `flow`.
    pub(crate) is_error: bool,
    pub(crate) pad: [u8; 3],
}

impl Packet {
    /// Remembers the control field of the tag that was taken off.
    #[inline(always)]
    pub(crate) const fn set_tag(&mut self, control: u16) {
        self.tag = TAGGED | control as u32;
    }

    /// The control field (network order) of the tag that was taken off.
    #[inline(always)]
    pub(crate) const fn tag_control(&self) -> Option<u16> {
        if self.tag == 0 { None } else { Some(self.tag as u16) }
    }

    /// The VLAN that the frame came in; 0 is none.
    #[inline(always)]
    pub(crate) const fn vlan(&self) -> u16 {
        u16::from_be(self.tag as u16) & VLAN_MASK
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
