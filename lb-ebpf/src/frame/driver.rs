//! A driver's buffer: the program is the first to see it, and writes into it as it likes.
use super::{Frame, Rewrite, bounds::pointer};
use crate::{packet::at, vlan};
use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use core::mem::offset_of;
use lb_common::{
    checksum::Difference,
    wire::{Ethernet, Ipv4, Ipv6, Tcp, Udp, length::ETHERNET, protocol},
};

impl Frame for XdpContext {
    const IS_BUFFER: bool = false;

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { pointer::<{ offset_of!(xdp_md, data) }, _>(self.ctx) }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { pointer::<{ offset_of!(xdp_md, data_end) }, _>(self.ctx) }
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
    fn gather(&self, _: usize) -> bool {
        true
    }

    #[inline(always)]
    fn tag_beside(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn set_vlan(&self, vlan: u16) -> bool {
        vlan == 0 || vlan::push(self, vlan.to_be()) != 0
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn make_room(&self, delta: i32) -> bool {
        let start = Frame::data(self);
        if start + ETHERNET > Frame::data_end(self) {
            return false;
        }
        // SAFETY: the bounds are checked above.
        let header = unsafe { *(start as *const Ethernet) };
        // SAFETY: the helper checks what it is asked; the pointer is taken anew below.
        if unsafe { bpf_xdp_adjust_head(self.ctx, -delta) } != 0 {
            return false;
        }
        let start = Frame::data(self);
        if start + ETHERNET > Frame::data_end(self) {
            return false;
        }
        // SAFETY: the bounds are checked above.
        unsafe { *(start as *mut Ethernet) = header };
        true
    }

    #[inline(always)]
    fn encapsulate(&self, length: usize, _: bool) -> bool {
        // SAFETY: the helper checks what it is asked.
        unsafe { bpf_xdp_adjust_head(self.ctx, -(length as i32)) == 0 }
    }

    #[inline(always)]
    fn decapsulate(&self, length: usize, _: bool) -> bool {
        self.make_room(-(length as i32))
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

    #[inline(always)]
    fn is_checksum_partial(&self, _: usize) -> bool {
        false
    }

    #[inline(always)]
    fn was_changed(&self, _: Difference) {}

    #[inline(always)]
    fn rewrite<const V6: bool>(&self, rewrite: &Rewrite) -> Option<()> {
        let (old, new, ports) = (rewrite.old, rewrite.new, rewrite.new_ports);
        let mut change = Difference::new()
            .word(rewrite.old_ports.source, ports.source)
            .word(rewrite.old_ports.destination, ports.destination);
        if V6 {
            let ip = at::<_, Ipv6>(self, ETHERNET)?;
            change = change.address(old, new);
            // SAFETY: `at` has checked the bounds.
            unsafe { (*ip).destination = new };
        } else {
            let ip = at::<_, Ipv4>(self, ETHERNET)?;
            change = change.words(old[3], new[3]);
            // SAFETY: `at` has checked the bounds.
            unsafe {
                (*ip).check = Difference::new().words(old[3], new[3]).apply((*ip).check);
                (*ip).destination = new[3];
            }
        }
        match rewrite.proto {
            protocol::TCP => {
                let tcp = at::<_, Tcp>(self, rewrite.transport)?;
                // SAFETY: `at` has checked the bounds.
                unsafe {
                    (*tcp).source = ports.source;
                    (*tcp).destination = ports.destination;
                    (*tcp).check = change.apply((*tcp).check);
                }
            }
            protocol::UDP => {
                let udp = at::<_, Udp>(self, rewrite.transport)?;
                // SAFETY: `at` has checked the bounds.
                unsafe {
                    (*udp).source = ports.source;
                    (*udp).destination = ports.destination;
                    (*udp).check = change.apply_udp((*udp).check);
                }
            }
            _ => {}
        }
        Some(())
    }
}
