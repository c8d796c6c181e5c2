//! From an IP header to what handles it.
use crate::{
    echo,
    maps::{address_bytes, is_vip, mapped, may_be_vip},
    ndp,
    packet::{Packet, at, is_for_us, length},
    steer,
};
use aya_ebpf::programs::XdpContext;
use lb_common::{
    filter::{vip_bit_v4, vip_bit_v6},
    maps::VipKey,
    outcome::Outcome,
    wire::{
        IPV4_FRAGMENT_MASK, Ipv4, Ipv6,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// An IPv4 packet.
#[inline(always)]
pub(crate) fn v4(ctx: &XdpContext) -> Outcome {
    let Some(ip) = at::<Ipv4>(ctx, ETHERNET) else { return Outcome::Passed };
    // SAFETY: `at` has checked the bounds.
    let destination = unsafe { (*ip).destination };
    if !may_be_vip(vip_bit_v4(destination)) {
        return Outcome::Passed;
    }
    match parse_v4(ctx, ip).and_then(|packet| handle::<false>(ctx, &packet)) {
        Ok(outcome) => outcome,
        Err(reason) => refuse(ctx, mapped(destination), reason),
    }
}

/// An IPv6 packet.
#[inline(always)]
pub(crate) fn v6(ctx: &XdpContext) -> Outcome {
    let Some(ip) = at::<Ipv6>(ctx, ETHERNET) else { return Outcome::Passed };
    // SAFETY: `at` has checked the bounds.
    let (destination, next_header) = unsafe { ((*ip).destination, (*ip).next_header) };
    let to_vip = may_be_vip(vip_bit_v6(destination));
    // Solicitations go to a group of the VIP or to itself, advertisements to all nodes.
    let to_group = destination[0].to_be() >> 24 == 0xff;
    // `is_vip` keeps the answer from depending on which addresses share a bit of the filter.
    if next_header == protocol::ICMPV6
        && (to_group || to_vip && is_vip(address_bytes(destination)))
        && let Some(outcome) = ndp::handle(ctx)
    {
        return outcome;
    }
    if !to_vip {
        return Outcome::Passed;
    }
    match parse_v6(ctx, ip).and_then(|packet| handle::<true>(ctx, &packet)) {
        Ok(outcome) => outcome,
        Err(reason) => refuse(ctx, address_bytes(destination), reason),
    }
}

#[inline(always)]
fn handle<const V6: bool>(ctx: &XdpContext, packet: &Packet) -> Result<Outcome, Outcome> {
    match packet.protocol {
        protocol::TCP | protocol::UDP => steer::transport::<V6>(ctx, packet),
        protocol::ICMP if !V6 => echo::v4(ctx, packet),
        protocol::ICMPV6 if V6 => echo::v6(ctx, packet),
        protocol::FRAGMENT if V6 => Err(Outcome::DropFragment),
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::DESTINATION_OPTIONS
        | protocol::AUTHENTICATION
        | protocol::MOBILITY
            if V6 =>
        {
            Err(Outcome::DropOptions)
        }
        _ => Err(Outcome::DropProtocol),
    }
}

#[inline(always)]
fn parse_v4(ctx: &XdpContext, ip: *const Ipv4) -> Result<Packet, Outcome> {
    // SAFETY: the caller has checked the bounds.
    unsafe {
        match (*ip).version_ihl {
            0x45 => {}
            0x46..=0x4f => return Err(Outcome::DropOptions),
            _ => return Err(Outcome::DropMalformed),
        }
        let total = usize::from(u16::from_be((*ip).total_length));
        if total < IPV4 || total > length(ctx) - ETHERNET {
            return Err(Outcome::DropMalformed);
        }
        if (*ip).fragment & IPV4_FRAGMENT_MASK != 0 {
            return Err(Outcome::DropFragment);
        }
        let prefix = 0xffff_u32.to_be();
        Ok(Packet {
            source: [0, 0, prefix, (*ip).source],
            destination: [0, 0, prefix, (*ip).destination],
            protocol: (*ip).protocol,
            payload: total - IPV4,
        })
    }
}

#[inline(always)]
fn parse_v6(ctx: &XdpContext, ip: *const Ipv6) -> Result<Packet, Outcome> {
    // SAFETY: the caller has checked the bounds.
    unsafe {
        let payload = usize::from(u16::from_be((*ip).payload_length));
        if (*ip).version_class_label.to_be() >> 28 != 6 || ETHERNET + IPV6 + payload > length(ctx) {
            return Err(Outcome::DropMalformed);
        }
        Ok(Packet {
            source: (*ip).source,
            destination: (*ip).destination,
            protocol: (*ip).next_header,
            payload,
        })
    }
}

/// Drops for a reason what is sent to a VIP, and lets through what merely looked so.
#[inline(always)]
fn refuse(ctx: &XdpContext, destination: [u8; 16], reason: Outcome) -> Outcome {
    match whose(ctx, &VipKey { vip: destination }) {
        VIP_FOR_US => reason,
        VIP_FOR_ANOTHER_HOST => Outcome::PassedOtherHost,
        _ => Outcome::Passed,
    }
}

const NOT_A_VIP: u32 = 0;
const VIP_FOR_ANOTHER_HOST: u32 = 1;
const VIP_FOR_US: u32 = 2;

/// Whether a destination is a VIP, and the frame for us. Not inlined, since many paths
/// end here and none of them is hot.
#[inline(never)]
fn whose(ctx: &XdpContext, destination: &VipKey) -> u32 {
    if !is_vip(destination.vip) {
        NOT_A_VIP
    } else if !is_for_us(ctx) {
        VIP_FOR_ANOTHER_HOST
    } else {
        VIP_FOR_US
    }
}
