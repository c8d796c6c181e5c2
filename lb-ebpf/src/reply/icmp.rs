//! ICMP errors about a VIP's flow that the pod, or the node on its behalf, sends to the client.
//!
//! They speak of the packet as the pod saw it: the client knows it by the VIP, the VIP's port
//! and its own.
use super::{find, is_transport};
use crate::{
    frame::{Frame, PSEUDO, difference, write_address_v4, write_address_v6},
    maps::{address_bytes, address_words, mapped, may_be_endpoint},
    packet::at,
};
use aya_ebpf::programs::TcContext;
use core::mem::offset_of;
use lb_common::{
    checksum::Difference,
    filter::{reply_bit_v4, reply_bit_v6},
    outcome::Outcome,
    wire::{
        IPV4_OFFSET_MASK, Icmp, IcmpError, Ipv4, Ipv6, Ports, Tcp, Udp,
        length::{IPV4, IPV6},
        protocol,
    },
};

const PASSED: u32 = Outcome::EgressPassed as u32;
const ERROR: usize = size_of::<IcmpError>();
/// What of the quoted transport header is looked at: up to a TCP checksum.
const QUOTED: usize = size_of::<Tcp>();

/// An ICMP message. Returns the outcome as a number.
#[inline(never)]
pub(super) fn v4<const LINK: usize>(ctx: &TcContext) -> u32 {
    handle_v4::<LINK>(ctx).map_or(PASSED, |outcome| outcome as u32)
}

/// An ICMPv6 message. Returns the outcome as a number.
#[inline(never)]
pub(super) fn v6<const LINK: usize>(ctx: &TcContext) -> u32 {
    handle_v6::<LINK>(ctx).map_or(PASSED, |outcome| outcome as u32)
}

/// The ports at the beginning of a quoted transport header, and its checksum where that is
/// quoted, too.
struct Quote {
    ports: Ports,
    check: Option<u16>,
}

impl Quote {
    #[inline(always)]
    fn read(ctx: &TcContext, transport: usize, proto: u8) -> Option<Self> {
        if !is_transport(proto) {
            return None;
        }
        // Eight bytes are the least that is quoted (RFC 792).
        let first = at::<_, [u16; 4]>(ctx, transport)?;
        // SAFETY: `at` has checked the bounds.
        let [source, destination, _, udp_check] = unsafe { *first };
        let ports = Ports { source, destination };
        let check = match proto {
            protocol::TCP => {
                // SAFETY: `at` has checked the bounds.
                let read = |check: *mut u16| unsafe { *check };
                at(ctx, transport + offset_of!(Tcp, check)).map(read)
            }
            protocol::UDP => Some(udp_check),
            _ => None,
        };
        Some(Self { ports, check })
    }

    /// Writes other ports; `change` is what the addresses change in the checksum. Returns what
    /// all this changes in the sum over the message.
    #[inline(always)]
    fn rewrite(
        &self,
        ctx: &TcContext,
        transport: usize,
        proto: u8,
        ports: Ports,
        change: Difference,
    ) -> Option<Difference> {
        let written = Difference::new()
            .word(self.ports.source, ports.source)
            .word(self.ports.destination, ports.destination);
        ctx.skb.store(transport, &ports, 0).ok()?;
        let Some(old) = self.check else { return Some(written) };
        let change = change.and(written);
        let (offset, new) = if proto == protocol::TCP {
            (offset_of!(Tcp, check), change.apply(old))
        } else {
            (offset_of!(Udp, check), change.apply_udp(old))
        };
        ctx.skb.store(transport + offset, &new, 0).ok()?;
        Some(written.word(old, new))
    }
}

#[inline(always)]
fn handle_v4<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    let message = LINK + IPV4;
    let quoted = message + ERROR;
    let transport = quoted + IPV4;
    let icmp = at::<_, Icmp>(ctx, message)?;
    // SAFETY: `at` has checked the bounds.
    if !matches!(unsafe { (*icmp).kind }, 3 | 4 | 11 | 12) {
        return None;
    }
    if !ctx.gather(transport + QUOTED) {
        return None;
    }
    let ip = at::<_, Ipv4>(ctx, LINK)?;
    let about = at::<_, Ipv4>(ctx, quoted)?;
    // SAFETY: `at` has checked the bounds.
    let (source, destination, header, fragment, proto, check, client, endpoint) = unsafe {
        (
            (*ip).source,
            (*ip).destination,
            (*about).version_ihl,
            (*about).fragment,
            (*about).protocol,
            (*about).check,
            (*about).source,
            (*about).destination,
        )
    };
    if header != 0x45 || fragment & IPV4_OFFSET_MASK != 0 || client != destination {
        return None;
    }
    let quote = Quote::read(ctx, transport, proto)?;
    if !may_be_endpoint(reply_bit_v4(endpoint, quote.ports.destination, proto)) {
        return None;
    }
    let reversed = Ports { source: quote.ports.destination, destination: quote.ports.source };
    let flow = find(mapped(endpoint), mapped(client), reversed, proto)?;
    let vip = address_words(flow.peer)[3];
    let ports = Ports {
        source: u16::from_ne_bytes(flow.client_port),
        destination: u16::from_ne_bytes(flow.peer_port),
    };
    let write = || {
        let address = Difference::new().words(endpoint, vip);
        let new_check = address.apply(check);
        let change = quote.rewrite(ctx, transport, proto, ports, address)?;
        let change = change.and(address).word(check, new_check);
        ctx.skb.store(quoted + offset_of!(Ipv4, check), &new_check, 0).ok()?;
        ctx.skb.store(quoted + offset_of!(Ipv4, destination), &vip, 0).ok()?;
        let check = message + offset_of!(Icmp, check);
        ctx.skb.l4_csum_replace(check, 0, change.folded().into(), 0).ok()?;
        write_address_v4(ctx, LINK, offset_of!(Ipv4, source), source, vip)
    };
    Some(if write().is_some() { Outcome::RepliedIcmp } else { Outcome::DropReply })
}

#[inline(always)]
fn handle_v6<const LINK: usize>(ctx: &TcContext) -> Option<Outcome> {
    let message = LINK + IPV6;
    let quoted = message + ERROR;
    let transport = quoted + IPV6;
    let icmp = at::<_, Icmp>(ctx, message)?;
    // SAFETY: `at` has checked the bounds.
    if !matches!(unsafe { (*icmp).kind }, 1..=4) {
        return None;
    }
    if !ctx.gather(transport + QUOTED) {
        return None;
    }
    let ip = at::<_, Ipv6>(ctx, LINK)?;
    let about = at::<_, Ipv6>(ctx, quoted)?;
    // SAFETY: `at` has checked the bounds.
    let (source, destination, version, proto, client, endpoint) = unsafe {
        (
            (*ip).source,
            (*ip).destination,
            (*about).version_class_label.to_be() >> 28,
            (*about).next_header,
            (*about).source,
            (*about).destination,
        )
    };
    let same = u128::from_ne_bytes(address_bytes(client))
        == u128::from_ne_bytes(address_bytes(destination));
    if version != 6 || !same {
        return None;
    }
    let quote = Quote::read(ctx, transport, proto)?;
    if !may_be_endpoint(reply_bit_v6(endpoint, quote.ports.destination, proto)) {
        return None;
    }
    let reversed = Ports { source: quote.ports.destination, destination: quote.ports.source };
    let flow = find(address_bytes(endpoint), address_bytes(client), reversed, proto)?;
    let vip = address_words(flow.peer);
    let ports = Ports {
        source: u16::from_ne_bytes(flow.client_port),
        destination: u16::from_ne_bytes(flow.peer_port),
    };
    let write = || {
        let address = Difference::new().address(endpoint, vip);
        let change = quote.rewrite(ctx, transport, proto, ports, address)?.and(address);
        ctx.skb.store(quoted + offset_of!(Ipv6, destination), &vip, 0).ok()?;
        let check = message + offset_of!(Icmp, check);
        ctx.skb.l4_csum_replace(check, 0, change.folded().into(), 0).ok()?;
        // Unlike ICMP's, the checksum covers the addresses (RFC 4443 section 2.3).
        ctx.skb.l4_csum_replace(check, 0, difference(source, vip), PSEUDO).ok()?;
        write_address_v6(ctx, LINK + offset_of!(Ipv6, source), vip)
    };
    Some(if write().is_some() { Outcome::RepliedIcmp } else { Outcome::DropReply })
}
