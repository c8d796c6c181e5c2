//! ARP and neighbour discovery.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    super::{
        frames::Mac,
        world::{Budget, World},
    },
    DROP, Event, PASS, TX, Verdict, checksum,
    headers::{addresses, mac, number, v4, v6},
};

/// Our link-layer address for a VIP on the interface and VLAN of the frame, while the agent lives.
fn announced(world: &World, vip: IpAddr, vlan: u16) -> Option<Mac> {
    let key = (vip, world.ifindex, vlan);
    world.announced.get(&key).filter(|_| world.announcing).copied()
}

/// Whoever speaks for a VIP, and says at which link-layer address it is: an agent's node does so
/// rightly, and so does who repeats what it or this node says.
fn claim(world: &World, frame: &[u8], vlan: u16, vip: IpAddr, claimed: Mac) -> Verdict {
    let ours = |mac: Mac| {
        world.node_macs.contains_key(&(mac, vlan)) || world.uplinks.values().any(|own| *own == mac)
    };
    if ours(mac(frame, 6)) || ours(claimed) {
        Verdict::untouched(PASS, "passed", frame)
    } else {
        let told = world.claims == Budget::Unlimited;
        let event = told.then_some(Event::Claim(vip, claimed));
        Verdict { event, ..Verdict::untouched(PASS, "passed_claim", frame) }
    }
}

/// RFC 826, RFC 5227.
pub(super) fn arp(world: &World, frame: &[u8], vlan: u16) -> Verdict {
    let passed = Verdict::untouched(PASS, "passed", frame);
    // Ethernet, IPv4, addresses of 6 and 4 bytes.
    if frame.len() < 42 || frame[14..20] != [0, 1, 8, 0, 6, 4] {
        return passed;
    }
    let (operation, sender, target) = (number(frame, 20), v4(frame, 28), v4(frame, 38));
    if world.vips.contains(&sender.into()) && (operation == 1 || operation == 2) {
        return claim(world, frame, vlan, sender.into(), mac(frame, 22));
    }
    if operation != 1 || !world.vips.contains(&target.into()) {
        return passed;
    }
    let Some(ours) = announced(world, target.into(), vlan) else {
        return Verdict::untouched(DROP, "arp_not_announced", frame);
    };
    if mac(frame, 0) != [0xff; 6] && mac(frame, 0) != ours {
        return Verdict::untouched(PASS, "passed_other_host", frame);
    }
    let mut answer = Vec::new();
    answer.extend(mac(frame, 6));
    answer.extend(ours);
    answer.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer.extend(ours);
    answer.extend(target.octets());
    answer.extend(mac(frame, 22));
    answer.extend(sender.octets());
    // Ethernet's padding.
    answer.extend(&frame[42..]);
    Verdict::new(TX, "arp_answered", answer)
}

/// A solicitation for a VIP or an advertisement of one (RFC 4861).
pub(super) fn discovery(world: &World, frame: &[u8], vlan: u16) -> Option<Verdict> {
    let kind = *frame.get(54)?;
    if frame[20] != 58 || frame.len() < 78 || !(135..=136).contains(&kind) {
        return None;
    }
    let target = v6(frame, 62);
    if !world.vips.contains(&target.into()) {
        return None;
    }
    if !is_valid(frame) {
        return Some(Verdict::untouched(DROP, "ndp_invalid", frame));
    }
    if kind == 136 {
        // The first option, if it is the target's link-layer address.
        let has_option = number(frame, 18) > 24 && frame[78..80] == [2, 1];
        let claimed = if has_option { mac(frame, 80) } else { mac(frame, 6) };
        return Some(claim(world, frame, vlan, target.into(), claimed));
    }
    let Some(ours) = announced(world, target.into(), vlan) else {
        return Some(Verdict::untouched(DROP, "ndp_not_announced", frame));
    };
    let group = frame[0] & 1 != 0;
    if !group && mac(frame, 0) != ours {
        return Some(Verdict::untouched(PASS, "passed_other_host", frame));
    }
    Some(advertisement(frame, target, ours))
}

/// RFC 4861 sections 7.1.1 and 7.1.2. More than 64 bytes of options are not looked at: only secure
/// neighbour discovery has them.
fn is_valid(frame: &[u8]) -> bool {
    let length = number(frame, 18);
    if frame[14] >> 4 != 6 || frame[21] != 255 || frame[55] != 0 || !(24..=88).contains(&length) {
        return false;
    }
    if !checksum::icmpv6_is_right(frame, length) {
        return false;
    }
    let mut options = &frame[78..54 + usize::from(length)];
    let mut has_source = false;
    while let [kind, units, ..] = *options {
        let Some(rest) = options.get(usize::from(units) * 8..).filter(|_| units != 0) else {
            return false;
        };
        has_source |= kind == 1;
        options = rest;
    }
    if !options.is_empty() {
        return false;
    }
    let (source, destination) = (v6(frame, 22), v6(frame, 38));
    let solicited_node =
        destination.segments()[..6] == [0xff02, 0, 0, 0, 0, 1] && destination.octets()[12] == 0xff;
    let probe = source.is_unspecified();
    !probe || (solicited_node && !has_source)
}

/// RFC 4861 section 7.2.4, from scratch: 32 bytes whatever was asked with.
fn advertisement(frame: &[u8], vip: Ipv6Addr, ours: Mac) -> Verdict {
    let all_nodes: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (destination, link, solicited) = match addresses(frame) {
        Some((IpAddr::V6(source), _)) if !source.is_unspecified() => (source, mac(frame, 6), 0x40),
        _ => (all_nodes, [0x33, 0x33, 0, 0, 0, 1], 0),
    };
    let mut answer = Vec::new();
    answer.extend(link);
    answer.extend(ours);
    answer.extend([0x86, 0xdd]);
    // Version, traffic class and flow label as asked with.
    answer.extend(&frame[14..18]);
    answer.extend([0, 32, 58, 255]);
    answer.extend(vip.octets());
    answer.extend(destination.octets());
    answer.extend([136, 0, 0, 0, solicited | 0x20, 0, 0, 0]);
    answer.extend(vip.octets());
    answer.extend([2, 1]);
    answer.extend(ours);
    checksum::write(&mut answer);
    Verdict::new(TX, "ndp_answered", answer)
}
