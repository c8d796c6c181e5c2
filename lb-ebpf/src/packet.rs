//! A frame: access to its bytes, whose it is, and what its headers say.
use crate::maps::uplink_mac;
use aya_ebpf::programs::XdpContext;
use lb_common::wire::{
    Ethernet,
    length::{ETHERNET, IPV4, IPV6},
};

/// A packet to what may be a VIP, with sound headers.
pub(crate) struct Packet {
    /// Source address, IPv4 as `::ffff:a.b.c.d`.
    pub(crate) source: [u32; 4],
    /// Destination address, likewise.
    pub(crate) destination: [u32; 4],
    /// What the IP header says.
    pub(crate) protocol: u8,
    /// Length of what follows the IP header.
    pub(crate) payload: usize,
}

/// A header at an offset, if all of it lies inside the frame.
///
/// The pointer is good until the frame's head or tail is moved.
#[inline(always)]
pub(crate) fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// The frame's length.
#[inline(always)]
pub(crate) fn length(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}

/// Offset of the transport header.
pub(crate) const fn transport_at(v6: bool) -> usize {
    if v6 { ETHERNET + IPV6 } else { ETHERNET + IPV4 }
}

/// Whether the frame was sent to this node, and not flooded to it by a switch.
#[inline(always)]
pub(crate) fn is_for_us(ctx: &XdpContext) -> bool {
    let Some(ethernet) = at::<Ethernet>(ctx, 0) else { return false };
    // SAFETY: `at` has checked the bounds.
    let destination = unsafe { (*ethernet).destination };
    uplink_mac(ctx.ingress_ifindex() as u32) == Some(destination)
}
