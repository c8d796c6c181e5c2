//! Herald's kernel programs.
//!
//! * [`herald_ingress`] (XDP, on each uplink) answers ARP, neighbour solicitations and
//!   echo requests for VIPs and steers their TCP, UDP and SCTP traffic;
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

mod affinity;
mod answer;
mod arp;
mod budget;
mod chain;
mod deliver;
mod echo;
mod elsewhere;
mod events;
mod extension;
mod flows;
mod forward;
mod fragment;
mod frame;
mod icmp_error;
mod ip;
mod maps;
mod ndp;
mod packet;
mod ranges;
mod refuse;
mod reply;
mod sample;
mod steer;
mod step;
mod tunnel;
mod verdict;
mod vlan;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use frame::Frame;
use lb_common::{
    outcome::{Action, Outcome},
    wire::{
        ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Ethernet, length::ETHERNET,
    },
};
use verdict::Verdict;

/// The ingress program.
#[xdp(frags)]
pub fn herald_ingress(ctx: XdpContext) -> u32 {
    let verdict = ingress(&ctx);
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

#[inline(always)]
fn ethertype<F: Frame>(frame: &F) -> Option<u16> {
    // SAFETY: `at` has checked the bounds.
    packet::at::<_, Ethernet>(frame, 0).map(|ethernet| unsafe { (*ethernet).ethertype })
}

#[inline(always)]
fn ingress<F: Frame>(frame: &F) -> Verdict {
    let Some(mut kind) = ethertype(frame) else { return Outcome::Passed.into() };
    let mut tag = 0;
    if kind == ETHERTYPE_VLAN {
        tag = vlan::take(frame);
        kind = match ethertype(frame) {
            Some(inner) if tag != 0 => inner,
            _ => return Outcome::Passed.into(),
        };
    }
    let verdict = dispatch(frame, kind, tag);
    if tag == 0 { verdict } else { vlan::put_back(frame, tag, verdict) }
}

/// Handles a frame without a tag, or whose tag has been taken off.
#[inline(always)]
fn dispatch<F: Frame>(frame: &F, kind: u16, tag: u32) -> Verdict {
    let vlan = packet::vlan_of(tag);
    let mut v6 = kind == ETHERTYPE_IPV6;
    let mut look = match kind {
        ETHERTYPE_IPV4 => ip::look_v4(frame),
        ETHERTYPE_IPV6 => ip::look_v6(frame, vlan),
        ETHERTYPE_ARP => arp::handle(frame, vlan) as u32,
        _ => Outcome::Passed as u32,
    };
    let mut arrived = packet::BY_FRAME;
    if look == ip::TO_TUNNEL {
        look = if v6 {
            tunnel::receive::<F, true>(frame, vlan)
        } else {
            tunnel::receive::<F, false>(frame, vlan)
        };
        if look & (tunnel::INNER_V4 | tunnel::INNER_V6) != 0 {
            v6 = look & tunnel::INNER_V6 != 0;
            arrived = look as u8;
        }
    }
    if look < ip::TO_VIP {
        return Verdict::from_number(look);
    }
    if v6 {
        ip::handle::<F, true>(frame, tag, arrived)
    } else {
        ip::handle::<F, false>(frame, tag, arrived)
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
    sample::take(ctx, sample::EGRESS, outcome.into());
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
