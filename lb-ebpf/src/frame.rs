//! What a program may do with the frame that it is run on, whether it runs on a driver's
//! buffer (XDP) or on the kernel's (TC).
//!
//! Every pointer into a frame is good until the frame is moved or cut.
use aya_ebpf::{
    helpers::{
        bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::{TcContext, XdpContext},
};
use lb_common::wire::{Ethernet, length::ETHERNET};

/// A frame that begins with an Ethernet header.
pub(crate) trait Frame {
    /// Whether the frame is one of the kernel's buffers (`sk_buff`): its checksums may be
    /// only begun or already summed, so that they change by the kernel's helpers alone.
    const IS_BUFFER: bool;

    /// Where the linear part starts.
    fn data(&self) -> usize;

    /// Where the linear part ends.
    fn data_end(&self) -> usize;

    /// Index of the interface that it arrived on.
    fn ifindex(&self) -> u32;

    /// Its length in bytes, with what is not in the linear part.
    fn whole_length(&self) -> usize;

    /// Moves the link-layer header `delta` bytes away from what follows it (which leaves a
    /// gap of undefined bytes) or, if negative, over the bytes that follow it. Its 14 bytes
    /// stay as they are. Returns whether that was possible.
    fn make_room(&self, delta: i32) -> bool;

    /// Appends `delta` bytes of zeros or, if negative, cuts that many off. Returns whether
    /// that was possible.
    fn move_tail(&self, delta: i32) -> bool;

    /// Copies `length` bytes from `offset` on. Returns whether they are there.
    ///
    /// # Safety
    /// `to` has room for `length` bytes.
    unsafe fn copy_out(&self, offset: u32, to: *mut u8, length: u32) -> bool;

    /// Whether the kernel is still to write the checksum of 16 bits at this offset: what stands
    /// there is the sum of the pseudo-header only.
    fn is_checksum_partial(&self, at: usize) -> bool;

    /// Tells the kernel where the frame goes if the verdict is to redirect it.
    #[inline(always)]
    fn redirect(&self, ifindex: u32) {
        // With flags 0 the helper answers "redirect" whatever the index.
        // SAFETY: plain helper.
        unsafe { bpf_redirect(ifindex, 0) };
    }
}

impl Frame for XdpContext {
    const IS_BUFFER: bool = false;

    #[inline(always)]
    fn data(&self) -> usize {
        Self::data(self)
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        Self::data_end(self)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn whole_length(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    #[inline(always)]
    fn is_checksum_partial(&self, _: usize) -> bool {
        false
    }

    #[inline(always)]
    fn make_room(&self, delta: i32) -> bool {
        let start = Self::data(self);
        if start + ETHERNET > Self::data_end(self) {
            return false;
        }
        // SAFETY: the bounds are checked above.
        let header = unsafe { *(start as *const Ethernet) };
        // SAFETY: the helper checks what it is asked; the pointer is taken anew below.
        if unsafe { bpf_xdp_adjust_head(self.ctx, -delta) } != 0 {
            return false;
        }
        let start = Self::data(self);
        if start + ETHERNET > Self::data_end(self) {
            return false;
        }
        // SAFETY: the bounds are checked above.
        unsafe { *(start as *mut Ethernet) = header };
        true
    }

    #[inline(always)]
    fn move_tail(&self, delta: i32) -> bool {
        // SAFETY: the helper checks what it is asked.
        unsafe { bpf_xdp_adjust_tail(self.ctx, delta) == 0 }
    }

    #[inline(always)]
    unsafe fn copy_out(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: as the caller promises.
        unsafe { bpf_xdp_load_bytes(self.ctx, offset, to.cast(), length) == 0 }
    }
}

/// `BPF_ADJ_ROOM_MAC` (`linux/bpf.h`): the room is behind the link-layer header.
const ROOM_MAC: u32 = 1;

impl Frame for TcContext {
    const IS_BUFFER: bool = true;

    #[inline(always)]
    fn data(&self) -> usize {
        Self::data(self)
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        Self::data_end(self)
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
    fn make_room(&self, delta: i32) -> bool {
        // SAFETY: the helper checks what it is asked.
        unsafe { bpf_skb_adjust_room(self.skb.skb, delta, ROOM_MAC, 0) == 0 }
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
}
