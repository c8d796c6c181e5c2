//! One of the kernel's buffers: what it knows of the packet must stay true.
//!
//! Its checksum may be only begun, for the card to finish, or the card may have summed all of
//! it. Addresses and ports are therefore changed by the kernel's helpers, which know.
use super::{Frame, Rewrite, bounds::pointer};
use crate::packet::tag_of;
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
    },
    helpers::{
        bpf_csum_diff, bpf_csum_update, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use core::mem::offset_of;
use lb_common::{
    checksum::Difference,
    wire::{ETHERTYPE_VLAN, Ipv4, Ipv6, Ports, Tcp, Udp, length::ETHERNET, protocol},
};

/// `BPF_ADJ_ROOM_MAC` (`linux/bpf.h`): the room is behind the link-layer header.
const ROOM_MAC: u32 = 1;

#[inline(always)]
fn room(frame: &TcContext, delta: i32, flags: u32) -> bool {
    // The packets that the kernel has joined to one keep their size.
    let flags = u64::from(flags | BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: the helper checks what it is asked.
    unsafe { bpf_skb_adjust_room(frame.skb.skb, delta, ROOM_MAC, flags) == 0 }
}

impl Frame for TcContext {
    const IS_BUFFER: bool = true;

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { pointer::<{ offset_of!(__sk_buff, data) }, _>(self.skb.skb) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { pointer::<{ offset_of!(__sk_buff, data_end) }, _>(self.skb.skb) }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn whole_length(&self) -> usize {
        self.len() as usize
    }

    #[inline(always)]
    fn gather(&self, wanted: usize) -> bool {
        let linear = Frame::data_end(self) - Frame::data(self);
        let length = self.len() as usize;
        if linear >= wanted || length <= linear {
            return true;
        }
        let wanted = if length < wanted { length } else { wanted };
        self.pull_data(wanted as u32).is_ok()
    }

    #[inline(always)]
    fn tag_beside(&self) -> u32 {
        // SAFETY: the context is the program's own.
        let (present, control) =
            unsafe { ((*self.skb.skb).vlan_present, (*self.skb.skb).vlan_tci) };
        if present == 0 { 0 } else { tag_of((control as u16).to_be()) }
    }

    #[inline(always)]
    fn set_vlan(&self, vlan: u16) -> bool {
        // SAFETY: the helpers check what they are asked.
        unsafe {
            if (*self.skb.skb).vlan_present != 0 && bpf_skb_vlan_pop(self.skb.skb) != 0 {
                return false;
            }
            vlan == 0 || bpf_skb_vlan_push(self.skb.skb, ETHERTYPE_VLAN, vlan) == 0
        }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb.skb).gso_size }
    }

    #[inline(always)]
    fn make_room(&self, delta: i32) -> bool {
        room(self, delta, 0)
    }

    #[inline(always)]
    fn encapsulate(&self, length: usize, outer_v6: bool) -> bool {
        let outer =
            if outer_v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let length = length as i32;
        // One that came in a tunnel may still be marked as encapsulated, by the card or, between
        // veths, by its sender: it has its inner headers noted where they are, and the kernel
        // notes none twice (EALREADY). Only segments to be made could be made wrongly then.
        room(self, length, outer | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
            || self.segment() == 0 && room(self, length, 0)
    }

    #[inline(always)]
    fn decapsulate(&self, length: usize, inner_v6: bool) -> bool {
        let inner =
            if inner_v6 { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 };
        room(self, -(length as i32), inner)
    }

    #[inline(always)]
    fn move_tail(&self, delta: i32) -> bool {
        let length = (self.len() as i32).wrapping_add(delta);
        // SAFETY: the helper checks what it is asked.
        length > 0 && unsafe { bpf_skb_change_tail(self.skb.skb, length as u32, 0) == 0 }
    }

    #[inline(always)]
    unsafe fn copy_out(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: as the caller promises.
        unsafe { bpf_skb_load_bytes(self.skb.skb.cast(), offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn is_checksum_partial(&self, at: usize) -> bool {
        // The helper leaves such a checksum alone where it is told of a change behind the
        // pseudo-header, and changes every other.
        let read = || self.load::<u16>(at).ok();
        let Some(before) = read() else { return false };
        if self.skb.l4_csum_replace(at, 0, 1, 0).is_err() {
            return false;
        }
        read() == Some(before) || self.skb.store(at, &before, 0).is_err()
    }

    #[inline(always)]
    fn was_changed(&self, change: Difference) {
        // Refused where nothing has been summed.
        // SAFETY: plain helper.
        unsafe { bpf_csum_update(self.skb.skb, change.folded().into()) };
    }

    #[inline(always)]
    fn rewrite<const V6: bool>(&self, rewrite: &Rewrite) -> Option<()> {
        let transport = Transport {
            at: rewrite.transport,
            proto: rewrite.proto,
            old: rewrite.old_ports,
            new: rewrite.new_ports,
        };
        if V6 {
            let field = ETHERNET + offset_of!(Ipv6, destination);
            rewrite_v6(self, field, rewrite.old, rewrite.new, &transport)
        } else {
            let field = offset_of!(Ipv4, destination);
            rewrite_v4(self, ETHERNET, field, rewrite.old[3], rewrite.new[3], &transport)
        }
    }
}

/// In the flags of `bpf_l4_csum_replace`: what changes is in the pseudo-header.
pub(crate) const PSEUDO: u64 = BPF_F_PSEUDO_HDR as u64;

/// A transport header whose ports become others.
pub(crate) struct Transport {
    /// Its offset.
    pub(crate) at: usize,
    /// Of others than TCP and UDP nothing is changed: SCTP's CRC32c covers no address
    /// (RFC 9260 section 6.8), and its ports stay.
    pub(crate) proto: u8,
    pub(crate) old: Ports,
    pub(crate) new: Ports,
}

impl Transport {
    #[inline(always)]
    const fn is_changed(&self) -> bool {
        self.proto == protocol::TCP || self.proto == protocol::UDP
    }

    #[inline(always)]
    const fn check(&self) -> usize {
        self.at
            + if self.proto == protocol::TCP {
                offset_of!(Tcp, check)
            } else {
                offset_of!(Udp, check)
            }
    }

    /// A UDP checksum of 0 is none and stays so (RFC 768).
    #[inline(always)]
    const fn flags(&self) -> u64 {
        if self.proto == protocol::TCP { 0 } else { BPF_F_MARK_MANGLED_0 as u64 }
    }

    #[inline(always)]
    fn rewrite_ports(&self, ctx: &TcContext) -> Option<()> {
        let (old, new) = (self.old, self.new);
        if new.source == old.source && new.destination == old.destination {
            return Some(());
        }
        let word = |ports: Ports| u64::from(ports.source) | u64::from(ports.destination) << 16;
        ctx.skb.l4_csum_replace(self.check(), word(old), word(new), self.flags() | 4).ok()?;
        ctx.skb.store(self.at, &new, 0).ok()
    }
}

/// Puts another address into the IPv4 header at `ip`, at the offset `field` in it, and other
/// ports into the transport header.
#[inline(always)]
pub(crate) fn rewrite_v4(
    ctx: &TcContext,
    ip: usize,
    field: usize,
    old: u32,
    new: u32,
    transport: &Transport,
) -> Option<()> {
    if transport.is_changed() {
        let flags = transport.flags() | PSEUDO | 4;
        ctx.skb.l4_csum_replace(transport.check(), old.into(), new.into(), flags).ok()?;
        transport.rewrite_ports(ctx)?;
    }
    write_address_v4(ctx, ip, field, old, new)
}

/// Puts another address at the offset `field` of an IPv6 packet, and other ports into the
/// transport header.
#[inline(always)]
pub(crate) fn rewrite_v6(
    ctx: &TcContext,
    field: usize,
    old: [u32; 4],
    new: [u32; 4],
    transport: &Transport,
) -> Option<()> {
    if transport.is_changed() {
        let flags = transport.flags() | PSEUDO;
        ctx.skb.l4_csum_replace(transport.check(), 0, difference(old, new), flags).ok()?;
        transport.rewrite_ports(ctx)?;
    }
    write_address_v6(ctx, field, new)
}

/// Puts another address into an IPv4 header, whose checksum makes up for it.
#[inline(always)]
pub(crate) fn write_address_v4(
    ctx: &TcContext,
    ip: usize,
    field: usize,
    old: u32,
    new: u32,
) -> Option<()> {
    ctx.skb.l3_csum_replace(ip + offset_of!(Ipv4, check), old.into(), new.into(), 4).ok()?;
    ctx.skb.store(ip + field, &new, 0).ok()
}

/// Puts another address into an IPv6 packet. In what the card has summed it is made up for only
/// by the transport's checksum, of whose change the kernel has taken note.
#[inline(always)]
pub(crate) fn write_address_v6(ctx: &TcContext, field: usize, new: [u32; 4]) -> Option<()> {
    ctx.skb.store(field, &new, BPF_F_RECOMPUTE_CSUM.into()).ok()
}

/// What another address makes of a checksum, as `bpf_l4_csum_replace` takes it.
#[inline(always)]
pub(crate) fn difference(mut old: [u32; 4], mut new: [u32; 4]) -> u64 {
    // SAFETY: both are 16 bytes on the stack.
    let difference = unsafe { bpf_csum_diff(old.as_mut_ptr(), 16, new.as_mut_ptr(), 16, 0) };
    difference as u64
}
