//! What leaves the node: replies of a VIP's flows get the VIP back as their source.
//!
//! Packets are changed by the kernel's checksum helpers only: a reply may be one large
//! segment still to be cut, its checksum only begun.
//!
//! `LINK` is the length of the link-layer header that comes first: Ethernet's, or none on
//! interfaces without (tun, WireGuard).
use crate::maps::{
    FLOWS, PENDING, SETTINGS, address_bytes, address_words, mapped, may_be_endpoint, port_bytes,
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
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, Ports, TCP_ACK,
        TCP_SYN, Tcp, Udp,
        length::{IPV4, IPV6},
        protocol,
    },
};

mod fragment;
mod icmp;
mod mss;

#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<*const T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *const T)
}

/// Makes the packet's first bytes directly readable, `wanted` of them if it has so many.
///
/// They are but for a few senders of user space.
#[inline(always)]
fn pull(ctx: &TcContext, wanted: usize) -> Option<()> {
    let linear = ctx.data_end() - ctx.data();
    let length = ctx.len() as usize;
    if linear < wanted && length > linear {
        let wanted = if length < wanted { length } else { wanted };
        return ctx.pull_data(wanted as u32).ok();
    }
    Some(())
}

/// A packet on its way out.
#[inline(always)]
pub(crate) fn egress<const LINK: usize>(ctx: &TcContext) -> Outcome {
    // The headers that are read: IPv6 and TCP.
    if pull(ctx, LINK + IPV6 + size_of::<Tcp>()).is_none() {
        return Outcome::EgressPassed;
    }
    let ethertype = if LINK == 0 {
        ctx.skb.protocol() as u16
    } else {
        let Some(ethernet) = at::<Ethernet>(ctx, 0) else { return Outcome::EgressPassed };
        // SAFETY: `at` has checked the bounds.
        unsafe { (*ethernet).ethertype }
    };
    match ethertype {
        ETHERTYPE_IPV4 => v4::<LINK>(ctx),
        ETHERTYPE_IPV6 => v6::<LINK>(ctx),
        _ => None,
    }
    .unwrap_or(Outcome::EgressPassed)
}

#[inline(always)]
fn v4<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    let ip = at::<Ipv4>(ctx, LINK)?;
    // SAFETY: `at` has checked the bounds.
    let (header, fragment, proto, source, destination) = unsafe {
        ((*ip).version_ihl, (*ip).fragment, (*ip).protocol, (*ip).source, (*ip).destination)
    };
    if header != 0x45 {
        return None;
    }
    if fragment & IPV4_FRAGMENT_MASK != 0 {
        return decode(fragment::v4::<LINK>(ctx));
    }
    if proto == protocol::ICMP {
        return decode(icmp::v4::<LINK>(ctx));
    }
    let ports = ports_of(ctx, LINK + IPV4, proto)?;
    if !may_be_endpoint(reply_bit_v4(source, ports.source, proto)) {
        return None;
    }
    let flow = find(mapped(source), mapped(destination), ports, proto)?;
    let answers = proto == protocol::TCP && is_syn_ack(ctx, LINK + IPV4);
    let mut written = rewrite_v4::<LINK>(ctx, source, ports, &flow, proto);
    if answers && written.is_some() {
        let limit = SETTINGS.get(0).map_or(0, |settings| settings.mss_v4);
        written = mss::lower(ctx, LINK + IPV4, limit).then_some(());
    }
    Some(if written.is_some() { Outcome::Replied } else { Outcome::DropReply })
}

#[inline(always)]
fn v6<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    let ip = at::<Ipv6>(ctx, LINK)?;
    // SAFETY: `at` has checked the bounds.
    let (proto, source, destination) =
        unsafe { ((*ip).next_header, (*ip).source, (*ip).destination) };
    if proto == protocol::FRAGMENT {
        return decode(fragment::v6::<LINK>(ctx));
    }
    if proto == protocol::ICMPV6 {
        return decode(icmp::v6::<LINK>(ctx));
    }
    let ports = ports_of(ctx, LINK + IPV6, proto)?;
    if !may_be_endpoint(reply_bit_v6(source, ports.source, proto)) {
        return None;
    }
    let flow = find(address_bytes(source), address_bytes(destination), ports, proto)?;
    let answers = proto == protocol::TCP && is_syn_ack(ctx, LINK + IPV6);
    let mut written = rewrite_v6::<LINK>(ctx, LINK + IPV6, source, ports, &flow, proto);
    if answers && written.is_some() {
        let limit = SETTINGS.get(0).map_or(0, |settings| settings.mss_v6);
        written = mss::lower(ctx, LINK + IPV6, limit).then_some(());
    }
    Some(if written.is_some() { Outcome::Replied } else { Outcome::DropReply })
}

/// What a function that is not inlined may return, which is a number, as an outcome.
#[inline(always)]
fn decode(code: u32) -> Option<Outcome> {
    const REPLIED: u32 = Outcome::Replied as u32;
    const REPLIED_ICMP: u32 = Outcome::RepliedIcmp as u32;
    const DROP: u32 = Outcome::DropReply as u32;
    match code {
        REPLIED => Some(Outcome::Replied),
        REPLIED_ICMP => Some(Outcome::RepliedIcmp),
        DROP => Some(Outcome::DropReply),
        _ => None,
    }
}

/// The ports at the beginning of a transport header, if the protocol is one of ours.
#[inline(always)]
fn ports_of(ctx: &TcContext, transport: usize, proto: u8) -> Option<Ports> {
    if !is_transport(proto) {
        return None;
    }
    // SAFETY: `at` has checked the bounds.
    Some(unsafe { *at::<Ports>(ctx, transport)? })
}

#[inline(always)]
fn is_transport(proto: u8) -> bool {
    proto == protocol::TCP || proto == protocol::UDP || proto == protocol::SCTP
}

#[inline(always)]
fn is_syn_ack(ctx: &TcContext, transport: usize) -> bool {
    const BOTH: u8 = TCP_SYN | TCP_ACK;
    // SAFETY: `at` has checked the bounds.
    at::<Tcp>(ctx, transport).is_some_and(|tcp| unsafe { (*tcp).flags & BOTH == BOTH })
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

const PSEUDO: u64 = BPF_F_PSEUDO_HDR as u64;

/// Writes the VIP and the client's own port into a packet with a transport header.
#[inline(always)]
fn rewrite_v4<const LINK: usize>(
    ctx: &TcContext,
    source: u32,
    ports: Ports,
    flow: &Flow,
    proto: u8,
) -> Option<()> {
    let vip = address_words(flow.peer)[3];
    // SCTP's CRC32c covers no address (RFC 9260 section 6.8), and its ports are as they were.
    if proto != protocol::SCTP {
        let check = LINK + IPV4 + check_offset(proto);
        let flags = check_flags(proto) | PSEUDO | 4;
        ctx.skb.l4_csum_replace(check, source.into(), vip.into(), flags).ok()?;
        rewrite_ports(ctx, LINK + IPV4, ports, flow, proto)?;
    }
    write_source_v4::<LINK>(ctx, source, vip)
}

/// The same for IPv6, where the transport header may stand behind a fragment header.
#[inline(always)]
fn rewrite_v6<const LINK: usize>(
    ctx: &TcContext,
    transport: usize,
    source: [u32; 4],
    ports: Ports,
    flow: &Flow,
    proto: u8,
) -> Option<()> {
    let vip = address_words(flow.peer);
    if proto != protocol::SCTP {
        let flags = check_flags(proto) | PSEUDO;
        let change = difference(source, vip);
        ctx.skb.l4_csum_replace(transport + check_offset(proto), 0, change, flags).ok()?;
        rewrite_ports(ctx, transport, ports, flow, proto)?;
    }
    write_source_v6::<LINK>(ctx, vip)
}

/// Puts another source into an IPv4 header, which has a checksum of its own.
#[inline(always)]
fn write_source_v4<const LINK: usize>(ctx: &TcContext, old: u32, new: u32) -> Option<()> {
    ctx.skb.l3_csum_replace(LINK + offset_of!(Ipv4, check), old.into(), new.into(), 4).ok()?;
    ctx.skb.store(LINK + offset_of!(Ipv4, source), &new, 0).ok()
}

/// Puts another source into an IPv6 header.
#[inline(always)]
fn write_source_v6<const LINK: usize>(ctx: &TcContext, new: [u32; 4]) -> Option<()> {
    ctx.skb.store(LINK + offset_of!(Ipv6, source), &new, 0).ok()
}

/// What another address makes of a checksum, as `bpf_l4_csum_replace` takes it.
#[inline(always)]
fn difference(mut old: [u32; 4], mut new: [u32; 4]) -> u64 {
    // SAFETY: both are 16 bytes on the stack.
    let difference = unsafe { bpf_csum_diff(old.as_mut_ptr(), 16, new.as_mut_ptr(), 16, 0) };
    difference as u64
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

/// Writes the VIP's port and the client's own back.
#[inline(always)]
fn rewrite_ports(
    ctx: &TcContext,
    transport: usize,
    old: Ports,
    flow: &Flow,
    proto: u8,
) -> Option<()> {
    let new = Ports {
        source: u16::from_ne_bytes(flow.peer_port),
        destination: u16::from_ne_bytes(flow.client_port),
    };
    if new.source == old.source && new.destination == old.destination {
        return Some(());
    }
    let word = |ports: Ports| u64::from(ports.source) | u64::from(ports.destination) << 16;
    let check = transport + check_offset(proto);
    ctx.skb.l4_csum_replace(check, word(old), word(new), check_flags(proto) | 4).ok()?;
    ctx.skb.store(transport, &new, 0).ok()
}
