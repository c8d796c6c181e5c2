//! The ingress program: section 1.

use std::net::IpAddr;

use super::{
    super::world::{Budget, World},
    Arrival, Case, DROP, Dropped, PASS, TX, Verdict, checksum, fragments,
    headers::{self, Ip, addresses, mac, set_address, tagged, untagged},
    icmp_error, is_for_us, neighbours, steer, tunnel,
};

/// What becomes of a frame that arrives, and of what the world has learnt.
pub fn ingress(world: &mut World, frame: &[u8]) -> Verdict {
    let (bare, tag) = untagged(frame);
    let vlan = tag.map_or(0, |control| control & 0x0fff);
    let mut verdict = bare_frame(world, &bare, vlan);
    // What is sent on has the tag of the node that it goes to, or none.
    if let Some(control) = tag
        && verdict.sent.is_none()
    {
        verdict.frame = tagged(&verdict.frame, control);
    }
    verdict
}

fn bare_frame(world: &mut World, frame: &[u8], vlan: u16) -> Verdict {
    if frame.get(12..14) == Some(&[0x08, 0x06]) {
        return neighbours::arp(world, frame, vlan);
    }
    let passed = || Verdict::untouched(PASS, "passed", frame);
    let Some((_, destination)) = addresses(frame) else { return passed() };
    let agent = world.node_macs.contains_key(&(mac(frame, 6), vlan));
    let arrival = Arrival { agent, tunnel: None };
    let vip = world.vips.contains(&destination);
    if destination.is_ipv6()
        && (destination.is_multicast() || vip)
        && let Some(verdict) = neighbours::discovery(world, frame, vlan)
    {
        return verdict;
    }
    if !vip {
        return match tunnel::arrive(world, frame, vlan) {
            None => passed(),
            Some(tunnel::Arrived::Dropped(counter)) => Verdict::untouched(DROP, counter, frame),
            Some(tunnel::Arrived::Probe(event)) => {
                Verdict { event: Some(event), ..Verdict::untouched(DROP, "probe_received", frame) }
            }
            Some(tunnel::Arrived::Answered(answer)) => {
                Verdict::untouched(TX, "liveness_answered", &answer)
            }
            Some(tunnel::Arrived::Packet(inner, position)) => {
                let arrival = Arrival { tunnel: Some(position), ..arrival };
                packet(world, &inner, arrival)
                    .unwrap_or_else(|counter| Verdict::untouched(DROP, counter, &inner))
            }
        };
    }
    if !is_for_us(world, frame, vlan) {
        return Verdict::untouched(PASS, "passed_other_host", frame);
    }
    packet(world, frame, arrival).unwrap_or_else(|counter| Verdict::untouched(DROP, counter, frame))
}

/// A packet to a VIP, in a frame for this node.
fn packet(world: &mut World, frame: &[u8], arrival: Arrival) -> Result<Verdict, Dropped> {
    let ip = headers::ip(frame)?;
    // Only a fragment goes to a fragment's node.
    if arrival.tunnel == Some(tunnel::FRAGMENT) && ip.fragment.is_none() {
        return Err("drop_tunnel");
    }
    let case = Case { frame, ip, arrival };
    match (ip.protocol, ip.destination) {
        (6 | 17 | 132, _) if ip.fragment.is_some() => fragments::arrive(world, &case),
        (6 | 17 | 132, _) => steer::transport(world, &case),
        (1 | 58, _) if ip.fragment.is_some() => Err("drop_fragment"),
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => icmp(world, &case),
        _ => Err("drop_protocol"),
    }
}

fn icmp(world: &mut World, case: &Case<'_>) -> Result<Verdict, Dropped> {
    let Case { frame, ip, arrival } = case;
    if frame.len() < ip.upper + 4 {
        return Err("drop_malformed");
    }
    let kind = frame[ip.upper];
    let error = if ip.is_v4() { matches!(kind, 3 | 4 | 11 | 12) } else { (1..=4).contains(&kind) };
    if error {
        return icmp_error::arrive(world, case);
    }
    let request = if ip.is_v4() { 8 } else { 128 };
    if arrival.tunnel.is_some() {
        return Err("drop_icmp");
    }
    // The answer would have to reverse source routes and the like (RFC 1122 section 3.2.2.6).
    if ip.options {
        return Err("drop_options");
    }
    if ip.end - ip.upper < 8 {
        return Err("drop_malformed");
    }
    if frame[ip.upper..ip.upper + 2] != [request, 0] {
        return Err("drop_icmp");
    }
    echo(world, frame, ip)
}

/// RFC 792, RFC 4443 section 4.2.
fn echo(world: &World, frame: &[u8], ip: &Ip) -> Result<Verdict, Dropped> {
    if world.echo == Budget::Exhausted {
        return Err("echo_limited");
    }
    let mut answer = frame.to_vec();
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&frame[..6]);
    set_address(&mut answer, true, ip.destination);
    set_address(&mut answer, false, ip.source);
    answer[ip.ttl_at()] = 64;
    answer[ip.upper] = if ip.is_v4() { 0 } else { 129 };
    checksum::renew(frame, &mut answer, ip);
    Ok(Verdict::new(TX, "echo_answered", answer))
}
