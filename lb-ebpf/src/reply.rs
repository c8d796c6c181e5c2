//! What leaves the node: replies of a VIP's flows get the VIP back as their source.
//!
//! Packets are changed by the kernel's checksum helpers only: a reply may be one large
//! segment still to be cut, its checksum only begun.
//!
//! `LINK` is the length of the link-layer header that comes first: Ethernet's, or none on
//! interfaces without (tun, WireGuard).
use crate::{
    frame::{Frame, Transport, rewrite_v4, rewrite_v6},
    maps::{
        FLOWS, PENDING, SETTINGS, address_bytes, address_words, mapped, may_be_endpoint, port_bytes,
    },
    packet::at,
};
use aya_ebpf::programs::TcContext;
use core::mem::offset_of;
use lb_common::{
    filter::{reply_bit_v4, reply_bit_v6},
    maps::{Flow, FlowKey, TO_CLIENT},
    outcome::Outcome,
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, Ports, TCP_ACK,
        TCP_SYN, Tcp,
        length::{IPV4, IPV6},
        protocol,
    },
};

mod fragment;
mod icmp;
mod mss;

/// A packet on its way out.
#[inline(always)]
pub(crate) fn egress<const LINK: usize>(ctx: &TcContext) -> Outcome {
    // The headers that are read: IPv6 and TCP.
    if !ctx.gather(LINK + IPV6 + size_of::<Tcp>()) {
        return Outcome::EgressPassed;
    }
    let ethertype = if LINK == 0 {
        ctx.skb.protocol() as u16
    } else {
        let Some(ethernet) = at::<_, Ethernet>(ctx, 0) else { return Outcome::EgressPassed };
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
    let ip = at::<_, Ipv4>(ctx, LINK)?;
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
    let mut written = write_v4::<LINK>(ctx, source, ports, &flow, proto);
    if answers && written.is_some() {
        let limit = SETTINGS.get(0).map_or(0, |settings| settings.mss_v4);
        written = mss::lower(ctx, LINK + IPV4, limit).then_some(());
    }
    Some(if written.is_some() { Outcome::Replied } else { Outcome::DropReply })
}

#[inline(always)]
fn v6<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    let ip = at::<_, Ipv6>(ctx, LINK)?;
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
    let mut written = write_v6::<LINK>(ctx, LINK + IPV6, source, ports, &flow, proto);
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
    Some(unsafe { *at::<_, Ports>(ctx, transport)? })
}

#[inline(always)]
fn is_transport(proto: u8) -> bool {
    proto == protocol::TCP || proto == protocol::UDP || proto == protocol::SCTP
}

#[inline(always)]
fn is_syn_ack(ctx: &TcContext, transport: usize) -> bool {
    const BOTH: u8 = TCP_SYN | TCP_ACK;
    // SAFETY: `at` has checked the bounds.
    at::<_, Tcp>(ctx, transport).is_some_and(|tcp| unsafe { (*tcp).flags & BOTH == BOTH })
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

/// The transport header of a reply, into which the VIP's port and the client's own go back.
#[inline(always)]
fn transport(at: usize, ports: Ports, flow: &Flow, proto: u8) -> Transport {
    let new = Ports {
        source: u16::from_ne_bytes(flow.peer_port),
        destination: u16::from_ne_bytes(flow.client_port),
    };
    Transport { at, proto, old: ports, new }
}

/// Writes the VIP and the client's own port into a packet with a transport header.
#[inline(always)]
fn write_v4<const LINK: usize>(
    ctx: &TcContext,
    source: u32,
    ports: Ports,
    flow: &Flow,
    proto: u8,
) -> Option<()> {
    let vip = address_words(flow.peer)[3];
    let transport = transport(LINK + IPV4, ports, flow, proto);
    rewrite_v4(ctx, LINK, offset_of!(Ipv4, source), source, vip, &transport)
}

/// The same for IPv6, where the transport header may stand behind a fragment header.
#[inline(always)]
fn write_v6<const LINK: usize>(
    ctx: &TcContext,
    at: usize,
    source: [u32; 4],
    ports: Ports,
    flow: &Flow,
    proto: u8,
) -> Option<()> {
    let vip = address_words(flow.peer);
    let transport = transport(at, ports, flow, proto);
    rewrite_v6(ctx, LINK + offset_of!(Ipv6, source), source, vip, &transport)
}
