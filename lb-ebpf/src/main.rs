//! Herald's kernel programs.
//!
//! * [`herald_ingress`] (XDP, on each uplink) answers ARP, neighbour solicitations and
//!   echo requests for VIPs and steers their TCP, UDP and SCTP traffic;
//! * [`herald_ingress_tc`] (TCX) does the same where XDP cannot be;
//! * [`herald_egress`] (TCX, on each interface that replies leave by) writes the VIP back into
//!   them; [`herald_egress_l3`] is the same for interfaces without link-layer header;
//! * [`herald_pass`] (XDP) passes everything: veth devices take frames from XDP_TX
//!   only where their peer has an XDP program too.
//!
//! This file only wires. Each handler returns an [`Outcome`]; the outcome is counted
//! and turned into the kernel's verdict here and nowhere else.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros emit bare public functions")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros pass the context by value")]

mod affinity;
mod answer;
mod arp;
mod budget;
mod chain;
mod claim;
mod deliver;
mod direct;
mod echo;
mod elsewhere;
mod events;
mod extension;
mod flows;
mod forward;
mod fragment;
mod frame;
mod icmp_error;
mod ingress;
mod ip;
mod liveness;
mod maps;
mod ndp;
mod packet;
mod ranges;
mod refuse;
mod reply;
mod sample;
mod steer;
mod step;
mod takeover;
mod tunnel;
mod verdict;
mod vlan;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use frame::Frame;
use lb_common::{outcome::Action, wire::length::ETHERNET};

/// The ingress program.
#[xdp(frags)]
pub fn herald_ingress(ctx: XdpContext) -> u32 {
    let verdict = ingress::ingress(&ctx);
    maps::count(verdict);
    sample::take(&ctx, sample::INGRESS, verdict);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &ctx,
        "ingress on {} of {} bytes: outcome {}",
        ctx.ingress_ifindex(),
        packet::linear_length(&ctx),
        verdict.number()
    );
    verdict.action() as u32
}

/// The ingress program where XDP cannot be. Like the egress program it ends the chain of TCX
/// programs only by dropping or sending on.
#[classifier]
pub fn herald_ingress_tc(ctx: TcContext) -> i32 {
    let verdict = ingress::ingress(&ctx);
    maps::count(verdict);
    sample::take(&ctx, sample::INGRESS, verdict);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "ingress of {} bytes: outcome {}", ctx.len(), verdict.number());
    match verdict.action() {
        Action::Drop => TC_ACT_SHOT,
        Action::Pass => TC_ACT_UNSPEC,
        Action::Tx => {
            ctx.redirect(ctx.ifindex());
            TC_ACT_REDIRECT
        }
        Action::Redirect => TC_ACT_REDIRECT,
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
    maps::count(outcome.into());
    let program = if LINK == 0 { sample::EGRESS_L3 } else { sample::EGRESS };
    sample::take(ctx, program, outcome.into());
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
