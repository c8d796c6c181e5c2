//! What leaves the node: replies of a VIP's flows get the VIP back as their source.
//!
//! Packets are changed by the kernel's checksum helpers only: a reply may be one large
//! segment still to be cut, its checksum only begun.
use crate::maps::{
    FLOWS, PENDING, address_bytes, address_words, mapped, may_be_endpoint, port_bytes,
};
use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::bpf_csum_diff,
    programs::TcContext,
};
use core::mem::offset_of;
use lb_common::{
    filter::{reply_bit_v4, reply_bit_v6},
    maps::{Flow, FlowKey, TO_CLIENT},
    outcome::Outcome,
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, Ports, Tcp, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// The headers that are read: Ethernet, IPv6 and the ports, with room.
const HEADERS: usize = ETHERNET + IPV6 + 8;

#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<*const T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *const T)
}

/// A packet on its way out.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> Outcome {
    let linear = ctx.data_end() - ctx.data();
    // Headers lie in the linear part but for a few senders of user space.
    if linear < HEADERS && (ctx.len() as usize) > linear {
        let wanted = if (ctx.len() as usize) < HEADERS { ctx.len() } else { HEADERS as u32 };
        if ctx.pull_data(wanted).is_err() {
            return Outcome::EgressPassed;
        }
    }
    let Some(ethernet) = at::<Ethernet>(ctx, 0) else { return Outcome::EgressPassed };
    // SAFETY: `at` has checked the bounds.
    match unsafe { (*ethernet).ethertype } {
        ETHERTYPE_IPV4 => v4(ctx),
        ETHERTYPE_IPV6 => v6(ctx),
        _ => None,
    }
    .unwrap_or(Outcome::EgressPassed)
}

#[inline(always)]
fn v4(ctx: &TcContext) -> Option<Outcome> {
    let ip = at::<Ipv4>(ctx, ETHERNET)?;
    let ports = at::<Ports>(ctx, ETHERNET + IPV4)?;
    // SAFETY: `at` has checked the bounds.
    let (header, fragment, proto, source, destination, source_port, destination_port) = unsafe {
        (
            (*ip).version_ihl,
            (*ip).fragment,
            (*ip).protocol,
            (*ip).source,
            (*ip).destination,
            (*ports).source,
            (*ports).destination,
        )
    };
    if header != 0x45
        || fragment & IPV4_FRAGMENT_MASK != 0
        || !is_transport(proto)
        || !may_be_endpoint(reply_bit_v4(source, source_port, proto))
    {
        return None;
    }
    let ports = Ports { source: source_port, destination: destination_port };
    let flow = find(mapped(source), mapped(destination), ports, proto)?;
    let vip = address_words(flow.peer)[3];
    let change = || {
        let check = ETHERNET + IPV4 + check_offset(proto);
        let flags = check_flags(proto);
        ctx.skb.l4_csum_replace(check, source.into(), vip.into(), flags | PSEUDO | 4).ok()?;
        rewrite_ports(ctx, ETHERNET + IPV4, source_port, destination_port, &flow, proto)?;
        let header_check = ETHERNET + offset_of!(Ipv4, check);
        ctx.skb.l3_csum_replace(header_check, source.into(), vip.into(), 4).ok()?;
        ctx.skb.store(ETHERNET + offset_of!(Ipv4, source), &vip, 0).ok()
    };
    Some(if change().is_some() { Outcome::Replied } else { Outcome::DropReply })
}

#[inline(always)]
fn v6(ctx: &TcContext) -> Option<Outcome> {
    let ip = at::<Ipv6>(ctx, ETHERNET)?;
    let ports = at::<Ports>(ctx, ETHERNET + IPV6)?;
    // SAFETY: `at` has checked the bounds.
    let (proto, mut source, destination, source_port, destination_port) = unsafe {
        ((*ip).next_header, (*ip).source, (*ip).destination, (*ports).source, (*ports).destination)
    };
    if !is_transport(proto) || !may_be_endpoint(reply_bit_v6(source, source_port, proto)) {
        return None;
    }
    let ports = Ports { source: source_port, destination: destination_port };
    let flow = find(address_bytes(source), address_bytes(destination), ports, proto)?;
    let mut vip = address_words(flow.peer);
    // SAFETY: both are 16 bytes on the stack.
    let difference = unsafe { bpf_csum_diff(source.as_mut_ptr(), 16, vip.as_mut_ptr(), 16, 0) };
    let change = || {
        let check = ETHERNET + IPV6 + check_offset(proto);
        let flags = check_flags(proto);
        ctx.skb.l4_csum_replace(check, 0, difference as u64, flags | PSEUDO).ok()?;
        rewrite_ports(ctx, ETHERNET + IPV6, source_port, destination_port, &flow, proto)?;
        ctx.skb.store(ETHERNET + offset_of!(Ipv6, source), &vip, 0).ok()
    };
    Some(if change().is_some() { Outcome::Replied } else { Outcome::DropReply })
}

const PSEUDO: u64 = BPF_F_PSEUDO_HDR as u64;

#[inline(always)]
fn is_transport(proto: u8) -> bool {
    proto == protocol::TCP || proto == protocol::UDP
}

#[inline(always)]
fn check_offset(proto: u8) -> usize {
    if proto == protocol::TCP { offset_of!(Tcp, check) } else { offset_of!(Udp, check) }
}

/// A UDP checksum of 0 is none and stays so (RFC 768).
#[inline(always)]
fn check_flags(proto: u8) -> u64 {
    if proto == protocol::TCP { 0 } else { u64::from(BPF_F_MARK_MANGLED_0) }
}

/// The flow that a packet from `endpoint` to `client` belongs to.
#[inline(always)]
fn find(endpoint: [u8; 16], client: [u8; 16], ports: Ports, proto: u8) -> Option<Flow> {
    let key = &FlowKey {
        client,
        peer: endpoint,
        client_port: port_bytes(ports.destination),
        peer_port: port_bytes(ports.source),
        proto,
        direction: TO_CLIENT,
        pad: [0; 2],
    };
    // SAFETY: copied at once; an entry of an LRU map that is reused at that moment
    // gives one packet a wrong source, which its client refuses.
    unsafe { FLOWS.get(key).or_else(|| PENDING.get(key)).copied() }
}

/// Writes the VIP's port and the client's own back.
#[inline(always)]
fn rewrite_ports(
    ctx: &TcContext,
    transport: usize,
    source: u16,
    destination: u16,
    flow: &Flow,
    proto: u8,
) -> Option<()> {
    let new = Ports {
        source: u16::from_ne_bytes(flow.peer_port),
        destination: u16::from_ne_bytes(flow.client_port),
    };
    if new.source == source && new.destination == destination {
        return Some(());
    }
    let word = |source: u16, destination: u16| u64::from(source) | u64::from(destination) << 16;
    let check = transport + check_offset(proto);
    ctx.skb
        .l4_csum_replace(
            check,
            word(source, destination),
            word(new.source, new.destination),
            check_flags(proto) | 4,
        )
        .ok()?;
    ctx.skb.store(transport, &new, 0).ok()
}
