//! Replies in fragments: only the first has ports, which the later ones are told by
//! `FRAGMENTED`.
use super::{find, is_transport, ports_of, write_v4, write_v6};
use crate::{
    frame::{Frame, write_address_v4, write_address_v6},
    maps::{FRAGMENTED, address_bytes, address_words, mapped, may_be_endpoint, now_s, port_bytes},
    packet::at,
};
use aya_ebpf::programs::TcContext;
use core::mem::offset_of;
use lb_common::{
    filter::{reply_bit_v4, reply_bit_v6},
    maps::{FragmentKey, Fragmented, TO_CLIENT},
    outcome::Outcome,
    wire::{
        Fragment, IPV4_OFFSET_MASK, IPV6_OFFSET_MASK, Ipv4, Ipv6, Ports, Tcp,
        length::{IPV4, IPV6},
    },
};

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;
const PASSED: u32 = Outcome::EgressPassed as u32;

/// An IPv4 fragment without options. Returns the outcome as a number.
#[inline(never)]
pub(super) fn v4<const LINK: usize>(ctx: &TcContext) -> u32 {
    handle_v4::<LINK>(ctx).map_or(PASSED, |outcome| outcome as u32)
}

/// An IPv6 packet that begins with a fragment header. Returns the outcome as a number.
#[inline(never)]
pub(super) fn v6<const LINK: usize>(ctx: &TcContext) -> u32 {
    handle_v6::<LINK>(ctx).map_or(PASSED, |outcome| outcome as u32)
}

#[inline(always)]
fn handle_v4<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    let ip = at::<_, Ipv4>(ctx, LINK)?;
    // SAFETY: `at` has checked the bounds.
    let (id, offset, proto, source, destination) = unsafe {
        (
            (*ip).id,
            (*ip).fragment & IPV4_OFFSET_MASK,
            (*ip).protocol,
            (*ip).source,
            (*ip).destination,
        )
    };
    let [high, low] = id.to_ne_bytes();
    let key = FragmentKey {
        source: mapped(source),
        destination: mapped(destination),
        id: [high, low, 0, 0],
        proto,
        direction: TO_CLIENT,
        pad: [0; 2],
    };
    let first = offset == 0;
    let ports = if first { ports_of(ctx, LINK + IPV4, proto)? } else { known(&key)? };
    if !may_be_endpoint(reply_bit_v4(source, ports.source, proto)) {
        return None;
    }
    let flow = find(key.source, key.destination, ports, proto)?;
    let written = if first {
        note(&key, ports);
        write_v4::<LINK>(ctx, source, ports, &flow, proto)
    } else {
        write_address_v4(ctx, LINK, offset_of!(Ipv4, source), source, address_words(flow.peer)[3])
    };
    Some(if written.is_some() { Outcome::Replied } else { Outcome::DropReply })
}

#[inline(always)]
fn handle_v6<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    const TRANSPORT: usize = IPV6 + size_of::<Fragment>();
    if !ctx.gather(LINK + TRANSPORT + size_of::<Tcp>()) {
        return None;
    }
    let ip = at::<_, Ipv6>(ctx, LINK)?;
    let fragment = at::<_, Fragment>(ctx, LINK + IPV6)?;
    // SAFETY: `at` has checked the bounds.
    let (source, destination, proto, first, id) = unsafe {
        (
            (*ip).source,
            (*ip).destination,
            (*fragment).next_header,
            (*fragment).offset & IPV6_OFFSET_MASK == 0,
            (*fragment).id,
        )
    };
    let key = FragmentKey {
        source: address_bytes(source),
        destination: address_bytes(destination),
        id: id.to_ne_bytes(),
        proto,
        direction: TO_CLIENT,
        pad: [0; 2],
    };
    let ports = if first { ports_of(ctx, LINK + TRANSPORT, proto)? } else { known(&key)? };
    if !may_be_endpoint(reply_bit_v6(source, ports.source, proto)) {
        return None;
    }
    let flow = find(key.source, key.destination, ports, proto)?;
    let written = if first {
        note(&key, ports);
        write_v6::<LINK>(ctx, LINK + TRANSPORT, source, ports, &flow, proto)
    } else {
        write_address_v6(ctx, LINK + offset_of!(Ipv6, source), address_words(flow.peer))
    };
    Some(if written.is_some() { Outcome::Replied } else { Outcome::DropReply })
}

/// Tells the later fragments what the first one said.
#[inline(always)]
fn note(key: &FragmentKey, ports: Ports) {
    let value = Fragmented {
        source_port: port_bytes(ports.source),
        destination_port: port_bytes(ports.destination),
        seen_s: now_s(),
    };
    // If there is no room the later ones leave as they are, and the client drops them.
    let _ = FRAGMENTED.insert(key, value, ANY);
}

/// What the first fragment said, for as long as it counts.
#[inline(always)]
fn known(key: &FragmentKey) -> Option<Ports> {
    if !is_transport(key.proto) {
        return None;
    }
    // SAFETY: copied at once; an entry of an LRU map that is reused at that moment gives one
    // fragment a wrong source, which its client drops.
    let said = unsafe { FRAGMENTED.get(key).copied() }?;
    (now_s().wrapping_sub(said.seen_s) <= 1).then_some(Ports {
        source: u16::from_ne_bytes(said.source_port),
        destination: u16::from_ne_bytes(said.destination_port),
    })
}
