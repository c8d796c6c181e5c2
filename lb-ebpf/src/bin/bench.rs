//! The bench's own kernel programs; no part of the product.
//!
//! `BPF_PROG_TEST_RUN` runs a program again and again on one buffer and does not
//! restore it, so a program that edits its packet would see its own work from the
//! second run on. [`bench_restore`] and [`bench_restore_egress`] therefore write the
//! packet anew before each run, with another client each time, and tail-call what
//! stands in `TARGETS`: the production program as it is, or [`bench_null`], whose
//! time is what all this costs. All of them take frames with fragments, as the production
//! program does: the kernel lets no program call one that differs in that.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros emit bare public functions")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros pass the context by value")]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    btf_maps::{Array, HashMap},
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, classifier, map, xdp},
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use core::hint::black_box;

/// Bytes of the packet that are written anew: a whole solicitation, and with it all
/// headers that any program edits.
const TEMPLATE: usize = 86;
const WHOLE_WORDS: usize = TEMPLATE / 8;
const WORDS: usize = WHOLE_WORDS + 1;

/// What varies between two packets, element 0 of `PLAN`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Plan {
    /// Where the client stands: 0 nowhere, 1 IPv4 source, 2 IPv6 source, 3 IPv4
    /// destination, 4 IPv6 destination.
    pub client: u32,
    /// Number of clients less one; a power of two less one.
    pub mask: u32,
    /// Whether 64 VIPs and 32 ports of each vary as well (IPv4 source only).
    pub spread: u32,
    /// The state of the generator.
    pub state: u32,
    /// The first client.
    pub first: u32,
    /// The packet's length: what the last program put before it or took off is undone.
    pub length: u32,
}

#[btf_map]
static PACKET: Array<[u64; WORDS], 1> = Array::new();
#[btf_map]
static PLAN: Array<Plan, 1> = Array::new();
#[btf_map]
static LOOKUP: HashMap<[u64; 3], u64, 16_384> = HashMap::new();
#[map]
static TARGETS: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TARGETS_EGRESS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Writes the packet, and the next client into it. Checksums are left alone: no program
/// verifies those of TCP, UDP or IPv4.
#[inline(always)]
fn restore(start: usize, end: usize) -> Option<()> {
    if start + TEMPLATE > end {
        return None;
    }
    let packet = PACKET.get(0)?;
    let plan = PLAN.get_ptr_mut(0)?;
    // SAFETY: the bounds are checked above; offsets below are constants inside of them;
    // the bench runs on one CPU at a time.
    unsafe {
        let words = start as *mut u64;
        let mut i = 0;
        while i < WHOLE_WORDS {
            *words.add(i) = packet[i];
            i += 1;
        }
        let rest = packet[WHOLE_WORDS];
        *words.add(WHOLE_WORDS).cast::<u32>() = rest as u32;
        *words.add(WHOLE_WORDS).cast::<u16>().add(2) = (rest >> 32) as u16;
        // A linear congruential generator of full period modulo any power of two
        // (Hull and Dobell 1962): every client once before any comes again.
        let state = (*plan).state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*plan).state = state;
        let client = (*plan).first + (state & (*plan).mask);
        let (address, port) = match (*plan).client {
            1 => (start + 28, start + 34),
            2 => (start + 36, start + 54),
            3 => (start + 32, start + 36),
            4 => (start + 52, start + 56),
            _ => return Some(()),
        };
        *(address as *mut u16) = (client >> 12) as u16;
        *(port as *mut u16) = (1024 + (client & 0xfff) as u16).to_be();
        if (*plan).spread != 0 {
            let other = client.wrapping_mul(0x9e37_79b1) >> 21;
            *((start + 33) as *mut u8) = (other & 63) as u8;
            *((start + 36) as *mut u16) = (1000 + (other >> 6) as u16).to_be();
        }
    }
    Some(())
}

/// Moves the packet's head back to where it was before a tunnel's headers were added or
/// taken off. What that costs is half of what [`bench_grow`] does, and taken off the target's time.
#[inline(always)]
fn realign(ctx: &XdpContext) {
    let Some(plan) = PLAN.get(0) else { return };
    // Opaque, or the compiler subtracts in 32 bits, which the verifier lets no pointer be.
    let length = black_box(ctx.data_end() - ctx.data());
    let delta = length as i32 - plan.length as i32;
    if delta != 0 {
        // SAFETY: the helper checks what it is asked; every pointer is taken anew below.
        unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) };
    }
}

#[xdp(frags)]
pub fn bench_restore(ctx: XdpContext) -> u32 {
    realign(&ctx);
    if restore(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is to be dropped.
        unsafe { TARGETS.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[xdp(frags)]
pub fn bench_null(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp(frags)]
pub fn bench_tx(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Makes room for a tunnel's headers, and writes none: the next run takes it away again.
#[xdp(frags)]
pub fn bench_grow(ctx: XdpContext) -> u32 {
    // SAFETY: the helper checks what it is asked; nothing is read or written after it.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -44) } == 0 {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// Exchanges the link-layer addresses: the least that any answer costs.
#[xdp(frags)]
pub fn bench_swap(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + 14 > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let macs = start as *mut [u16; 6];
    // SAFETY: the bounds are checked above.
    unsafe {
        let [a, b, c, d, e, f] = *macs;
        *macs = [d, e, f, a, b, c];
    }
    xdp_action::XDP_TX
}

/// Looks one key of 24 bytes up among 10,000: the least that any steering costs.
#[xdp(frags)]
pub fn bench_lookup(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + 38 > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the bounds are checked above; only the entry's presence is used.
    unsafe {
        let client = *((start + 34) as *const u16);
        let key = [u64::from(u16::from_be(client) - 1024), 0, 0];
        if LOOKUP.get(key).is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
    }
}

#[classifier]
pub fn bench_restore_egress(ctx: TcContext) -> i32 {
    if restore(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is to be dropped.
        unsafe { TARGETS_EGRESS.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

#[classifier]
pub fn bench_null_egress(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Never reached: nothing above can panic, and the verifier would refuse this loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
