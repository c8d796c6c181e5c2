//! On to another node of the same link, by rewriting link-layer addresses.
use crate::{
    maps::{NODES, mac_words},
    packet::at,
};
use aya_ebpf::{helpers::bpf_redirect, programs::XdpContext};
use lb_common::{
    checksum::Difference,
    outcome::Outcome,
    wire::{Ethernet, Ipv4, Ipv6, length::ETHERNET},
};

/// Sends the frame on. TTL or hop limit goes down by one, as at any hop (RFC 1812
/// section 5.3.1, RFC 8200 section 3).
#[inline(always)]
pub(crate) fn forward<const V6: bool>(ctx: &XdpContext, node: u16) -> Outcome {
    let Some(node) = NODES.get(u32::from(node)) else { return Outcome::DropNoNextHop };
    if node.ifindex == 0 {
        return Outcome::DropNoNextHop;
    }
    let Some(ethernet) = at::<Ethernet>(ctx, 0) else { return Outcome::DropMalformed };
    if V6 {
        let Some(ip) = at::<Ipv6>(ctx, ETHERNET) else { return Outcome::DropMalformed };
        // SAFETY: `at` has checked the bounds.
        unsafe {
            if (*ip).hop_limit <= 1 {
                return Outcome::DropTtl;
            }
            (*ip).hop_limit -= 1;
        }
    } else {
        let Some(ip) = at::<Ipv4>(ctx, ETHERNET) else { return Outcome::DropMalformed };
        // SAFETY: `at` has checked the bounds.
        unsafe {
            let ttl = (*ip).ttl;
            if ttl <= 1 {
                return Outcome::DropTtl;
            }
            let old = u16::from_ne_bytes([ttl, (*ip).protocol]);
            let new = u16::from_ne_bytes([ttl - 1, (*ip).protocol]);
            (*ip).check = Difference::new().word(old, new).apply((*ip).check);
            (*ip).ttl = ttl - 1;
        }
    }
    // SAFETY: `at` has checked the bounds.
    unsafe {
        (*ethernet).destination = mac_words(node.mac);
        (*ethernet).source = mac_words(node.source_mac);
    }
    if node.ifindex == ctx.ingress_ifindex() as u32 {
        return Outcome::Forwarded;
    }
    // With flags 0 the helper answers XDP_REDIRECT whatever the index.
    // SAFETY: plain helper.
    unsafe { bpf_redirect(node.ifindex, 0) };
    Outcome::Redirected
}
