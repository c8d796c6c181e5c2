//! Herald's kernel programs.
//!
//! * [`herald_ingress`] (XDP, on each uplink) answers ARP, neighbour solicitations and
//!   echo requests for VIPs and steers their TCP and UDP traffic;
//! * [`herald_egress`] (TCX, on each interface that replies leave by) writes the VIP back into
//!   them; [`herald_egress_l3`] is the same for interfaces without link-layer header;
//! * [`herald_pass`] (XDP) passes everything: veth devices take frames from XDP_TX
//!   only where their peer has an XDP program too.
//!
//! This file only wires. Each handler returns an [`Outcome`]; the outcome is counted
//! and turned into the kernel's verdict here and nowhere else.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros emit bare public functions")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros pass the context by value")]

mod answer;
mod arp;
mod deliver;
mod echo;
mod flows;
mod forward;
mod ip;
mod maps;
mod ndp;
mod packet;
mod reply;
mod steer;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    outcome::{Action, Outcome},
    wire::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, length::ETHERNET},
};

/// The ingress program.
#[xdp]
pub fn herald_ingress(ctx: XdpContext) -> u32 {
    let outcome = ingress(&ctx);
    maps::count(outcome);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &ctx,
        "ingress on {} of {} bytes: outcome {}",
        ctx.ingress_ifindex(),
        packet::length(&ctx),
        outcome as u32
    );
    outcome.action() as u32
}

#[inline(always)]
fn ingress(ctx: &XdpContext) -> Outcome {
    let Some(ethernet) = packet::at::<Ethernet>(ctx, 0) else { return Outcome::Passed };
    // SAFETY: `at` has checked the bounds.
    match unsafe { (*ethernet).ethertype } {
        ETHERTYPE_IPV4 => ip::v4(ctx),
        ETHERTYPE_IPV6 => ip::v6(ctx),
        ETHERTYPE_ARP => arp::handle(ctx),
        _ => Outcome::Passed,
    }
}

/// The egress program. It never ends the chain of TCX programs but by dropping.
#[classifier]
pub fn herald_egress(ctx: TcContext) -> i32 {
    egress::<ETHERNET>(&ctx)
}

/// The egress program for interfaces where the IP header comes first.
#[classifier]
pub fn herald_egress_l3(ctx: TcContext) -> i32 {
    egress::<0>(&ctx)
}

#[inline(always)]
fn egress<const LINK: usize>(ctx: &TcContext) -> i32 {
    let outcome = reply::egress::<LINK>(ctx);
    maps::count(outcome);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "egress of {} bytes: outcome {}", ctx.len(), outcome as u32);
    match outcome.action() {
        Action::Drop => TC_ACT_SHOT,
        Action::Pass | Action::Tx | Action::Redirect => TC_ACT_UNSPEC,
    }
}

/// The program for the far ends of veth pairs.
#[xdp]
pub fn herald_pass(_ctx: XdpContext) -> u32 {
    Action::Pass as u32
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
