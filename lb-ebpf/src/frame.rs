//! What a program may do with the frame that it is run on, whether it runs on a driver's
//! buffer (XDP) or on the kernel's (TC).
//!
//! Every pointer into a frame is good until the frame is moved, cut or gathered.
use aya_ebpf::helpers::bpf_redirect;
use lb_common::{checksum::Difference, wire::Ports};

mod bounds;
mod buffer;
mod driver;

pub(crate) use buffer::{
    PSEUDO, Transport, difference, rewrite_v4, rewrite_v6, write_address_v4, write_address_v6,
};

/// A frame that begins with an Ethernet header.
pub(crate) trait Frame {
    /// Whether the frame is one of the kernel's buffers (`sk_buff`): its checksums may be
    /// only begun or already summed, its VLAN tag stands beside it, and its bytes may be
    /// scattered.
    const IS_BUFFER: bool;

    /// Where the linear part starts.
    fn data(&self) -> usize;

    /// Where the linear part ends.
    fn data_end(&self) -> usize;

    /// Index of the interface that it arrived on.
    fn ifindex(&self) -> u32;

    /// Its length in bytes, with what is not in the linear part.
    fn whole_length(&self) -> usize;

    /// Makes the first `wanted` bytes lie in the linear part, or all if there are fewer, and
    /// writable. Returns whether they do. A driver's buffer stays as it is.
    fn gather(&self, wanted: usize) -> bool;

    /// The VLAN tag that stands beside the frame, as [`tag_of`](crate::packet::tag_of) has it;
    /// 0 is none. A driver's buffer has none there.
    fn tag_beside(&self) -> u32;

    /// Tags the frame for a VLAN, 0 being none, in the place of any tag that stands beside it.
    /// Returns whether that was possible.
    fn set_vlan(&self, vlan: u16) -> bool;

    /// Bytes of payload in each packet of those that the kernel has joined to this one; 0 if
    /// it is as it came.
    fn segment(&self) -> u32;

    /// Moves the link-layer header `delta` bytes away from what follows it (which leaves a
    /// gap of undefined bytes) or, if negative, over the bytes that follow it. Its 14 bytes
    /// stay as they are. Returns whether that was possible.
    fn make_room(&self, delta: i32) -> bool;

    /// Makes room for the headers of a tunnel over UDP behind a link-layer header that is left to
    /// the caller, as they are. Returns whether that was possible.
    fn encapsulate(&self, length: usize, outer_v6: bool) -> bool;

    /// Takes the headers of a tunnel off. The EtherType is left to the caller.
    fn decapsulate(&self, length: usize, inner_v6: bool) -> bool;

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

    /// Tells the kernel of bytes behind the link-layer header that were changed in place, if no
    /// checksum among them makes up for it: the card may have summed them all.
    fn was_changed(&self, change: Difference);

    /// Puts another destination and other ports into the packet, with its checksums in step.
    fn rewrite<const V6: bool>(&self, rewrite: &Rewrite) -> Option<()>;

    /// Tells the kernel where the frame goes if the verdict is to redirect it.
    #[inline(always)]
    fn redirect(&self, ifindex: u32) {
        // With flags 0 the helper answers "redirect" whatever the index.
        // SAFETY: plain helper.
        unsafe { bpf_redirect(ifindex, 0) };
    }
}

/// A destination that becomes another, with the ports.
pub(crate) struct Rewrite {
    /// As headers hold it.
    pub(crate) old: [u32; 4],
    /// As headers hold it.
    pub(crate) new: [u32; 4],
    /// Offset of the transport header.
    pub(crate) transport: usize,
    /// Of which protocol that is; of others than TCP and UDP, such as 0, nothing is changed.
    pub(crate) proto: u8,
    pub(crate) old_ports: Ports,
    pub(crate) new_ports: Ports,
}
