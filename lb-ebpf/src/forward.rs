//! On to another node: by rewriting link-layer addresses where it stands on one of our links,
//! else in a tunnel.
use crate::{
    frame::Frame,
    maps::{NODES, is_agent, mac_words},
    packet::{BY_FRAME, Packet, at},
    refuse,
    step::Step,
    tunnel,
    verdict::Verdict,
};
use lb_common::{
    checksum::Difference,
    maps::{NODE_LINK, NODE_TUNNEL},
    outcome::Outcome,
    tunnel::FRAGMENT,
    wire::{Ethernet, Ipv4, Ipv6, Tcp, Udp, length::ETHERNET, protocol},
};

/// Sends the packet on. TTL or hop limit goes down by one, as at any hop (RFC 1812
/// section 5.3.1, RFC 8200 section 3).
#[inline(always)]
pub(crate) fn forward<F: Frame, const V6: bool>(frame: &F, packet: &Packet, step: Step) -> Verdict {
    let Some(node) = NODES.get(u32::from(step.node())) else {
        return Outcome::DropNoNextHop.into();
    };
    if node.ifindex == 0 {
        return Outcome::DropNoNextHop.into();
    }
    let by_link = step.position() == 0
        && node.flags & NODE_LINK != 0
        && packet.arrived == BY_FRAME
        && !came_from_agent(frame, packet);
    if !by_link && node.flags & NODE_TUNNEL == 0 {
        return Outcome::DropNoNextHop.into();
    }
    let Some(ttl) = ttl::<F, V6>(frame) else { return Outcome::DropMalformed.into() };
    if ttl <= 1 {
        return Outcome::DropTtl.into();
    }
    if !by_link && largest(frame, packet) > tunnel::room(node) {
        return refuse::too_big::<F, V6>(frame, packet, tunnel::room(node));
    }
    lower_ttl::<F, V6>(frame);
    if by_link {
        let Some(ethernet) = at::<_, Ethernet>(frame, 0) else {
            return Outcome::DropMalformed.into();
        };
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*ethernet).destination = mac_words(node.mac);
            (*ethernet).source = mac_words(node.source_mac);
        }
    } else {
        let (hash, length, position) = (packet.hash, packet.ip_length(), step.position().into());
        if tunnel::send::<F, V6>(frame, hash, length, node, position) == 0 {
            return Outcome::DropNoNextHop.into();
        }
    }
    if !frame.set_vlan(node.vlan) {
        return Outcome::DropNoNextHop.into();
    }
    let here = node.ifindex == frame.ifindex();
    if !here {
        frame.redirect(node.ifindex);
    }
    let outcome = match (step.is_elsewhere(), step.position(), by_link, here) {
        (true, _, _, true) => Outcome::Elsewhere,
        (true, _, _, false) => Outcome::ElsewhereRedirected,
        (_, 0, true, true) => Outcome::Forwarded,
        (_, 0, true, false) => Outcome::Redirected,
        (_, 0 | FRAGMENT, _, true) => Outcome::Tunnelled,
        (_, 0 | FRAGMENT, _, false) => Outcome::TunnelledRedirected,
        (_, _, _, true) => Outcome::SecondChance,
        (_, _, _, false) => Outcome::SecondChanceRedirected,
    };
    outcome.into()
}

#[inline(always)]
pub(crate) fn came_from_agent<F: Frame>(frame: &F, packet: &Packet) -> bool {
    at::<_, Ethernet>(frame, 0)
        // SAFETY: `at` has checked the bounds.
        .is_some_and(|ethernet| unsafe { is_agent((*ethernet).source, packet.vlan()) })
}

#[inline(always)]
fn ttl<F: Frame, const V6: bool>(frame: &F) -> Option<u8> {
    // SAFETY: `at` has checked the bounds.
    unsafe {
        Some(if V6 {
            (*at::<_, Ipv6>(frame, ETHERNET)?).hop_limit
        } else {
            (*at::<_, Ipv4>(frame, ETHERNET)?).ttl
        })
    }
}

#[inline(always)]
fn lower_ttl<F: Frame, const V6: bool>(frame: &F) {
    // SAFETY: `at` has checked the bounds.
    unsafe {
        if V6 {
            if let Some(ip) = at::<_, Ipv6>(frame, ETHERNET) {
                let old = u16::from_ne_bytes([(*ip).next_header, (*ip).hop_limit]);
                (*ip).hop_limit = (*ip).hop_limit.wrapping_sub(1);
                let new = u16::from_ne_bytes([(*ip).next_header, (*ip).hop_limit]);
                frame.was_changed(Difference::new().word(old, new));
            }
        } else if let Some(ip) = at::<_, Ipv4>(frame, ETHERNET) {
            let ttl = (*ip).ttl;
            let old = u16::from_ne_bytes([ttl, (*ip).protocol]);
            let new = u16::from_ne_bytes([ttl.wrapping_sub(1), (*ip).protocol]);
            (*ip).check = Difference::new().word(old, new).apply((*ip).check);
            (*ip).ttl = ttl.wrapping_sub(1);
        }
    }
}

/// The length of the largest IP packet that leaves: where the kernel has joined several into
/// one, it takes them apart again.
#[inline(always)]
fn largest<F: Frame>(frame: &F, packet: &Packet) -> u32 {
    let segment = frame.segment();
    if segment == 0 {
        return packet.ip_length();
    }
    let header = if packet.flow.proto == protocol::TCP {
        let Some(tcp) = at::<_, Tcp>(frame, packet.transport_at()) else {
            return packet.ip_length();
        };
        // SAFETY: `at` has checked the bounds.
        unsafe { u32::from((*tcp).data_offset >> 4) * 4 }
    } else {
        size_of::<Udp>() as u32
    };
    packet.transport - ETHERNET as u32 + header + segment
}
