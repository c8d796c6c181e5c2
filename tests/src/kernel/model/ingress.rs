//! The ingress program.

use std::net::{IpAddr, SocketAddr};

use super::{
    super::world::{Echo, Row, Service, World},
    DROP, PASS, REDIRECT, TX, Tally, Verdict, checksum, flows,
    hash::flow_hash,
    headers::{Ip, ip, number, set_address, ttl_at},
    neighbours,
};

/// What becomes of a frame that arrives, and of the flows that the world knows.
pub fn ingress(world: &mut World, frame: &[u8]) -> Verdict {
    if frame.get(12..14) == Some(&[0x08, 0x06]) {
        return neighbours::arp(world, frame);
    }
    let Some(ip) = ip(frame) else { return Verdict::untouched(PASS, "passed", frame) };
    let multicast = ip.destination.is_multicast() && ip.destination.is_ipv6();
    let vip = world.vips.contains(&ip.destination);
    if ip.destination.is_ipv6()
        && (multicast || vip)
        && let Some(verdict) = neighbours::discovery(world, frame, &ip)
    {
        return verdict;
    }
    if !vip {
        return Verdict::untouched(PASS, "passed", frame);
    }
    if frame[..6] != world.mac {
        return Verdict::untouched(PASS, "passed_other_host", frame);
    }
    let refused = |counter| Verdict::untouched(DROP, counter, frame);
    let length = match upper_length(frame, &ip) {
        Ok(length) => length,
        Err(counter) => return refused(counter),
    };
    match (ip.protocol, ip.destination) {
        (6 | 17, _) => transport(world, frame, &ip, length).unwrap_or_else(refused),
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => {
            echo(world, frame, &ip, length).unwrap_or_else(refused)
        }
        (44, IpAddr::V6(_)) => refused("drop_fragment"),
        // Hop-by-hop, routing, authentication, destination options, mobility.
        (0 | 43 | 51 | 60 | 135, IpAddr::V6(_)) => refused("drop_options"),
        _ => refused("drop_protocol"),
    }
}

/// The length of the upper layer, or the counter of the reason to refuse the packet.
fn upper_length(frame: &[u8], ip: &Ip) -> Result<usize, &'static str> {
    let available = frame.len() - ip.upper;
    if ip.destination.is_ipv6() {
        let length = usize::from(number(frame, 18));
        return if frame[14] >> 4 != 6 || length > available {
            Err("drop_malformed")
        } else {
            Ok(length)
        };
    }
    let (version, words) = (frame[14] >> 4, frame[14] & 15);
    if version != 4 || words < 5 {
        return Err("drop_malformed");
    }
    if words > 5 {
        return Err("drop_options");
    }
    let length = usize::from(number(frame, 16)).checked_sub(20);
    let length = length.filter(|&length| length <= available).ok_or("drop_malformed")?;
    // More fragments, or an offset.
    if number(frame, 20) & 0x3fff != 0 {
        return Err("drop_fragment");
    }
    Ok(length)
}

/// RFC 792, RFC 4443 section 4.2.
fn echo(world: &World, frame: &[u8], ip: &Ip, length: usize) -> Result<Verdict, &'static str> {
    if length < 8 {
        return Err("drop_malformed");
    }
    let (request, reply) = if ip.destination.is_ipv4() { (8, 0) } else { (128, 129) };
    if frame[ip.upper..ip.upper + 2] != [request, 0] {
        return Err("drop_icmp");
    }
    if world.echo == Echo::Exhausted {
        return Err("echo_limited");
    }
    let mut answer = frame.to_vec();
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&frame[..6]);
    set_address(&mut answer, true, ip.destination);
    set_address(&mut answer, false, ip.source);
    answer[ttl_at(ip)] = 64;
    answer[ip.upper] = reply;
    checksum::renew(frame, &mut answer);
    Ok(Verdict { action: TX, counter: "echo_answered", frame: answer, service: None })
}

fn transport(
    world: &mut World,
    frame: &[u8],
    ip: &Ip,
    length: usize,
) -> Result<Verdict, &'static str> {
    let at = ip.upper;
    let tcp = ip.protocol == 6;
    if frame.len() - at < if tcp { 20 } else { 8 } {
        return Err("drop_malformed");
    }
    let (shortest, claimed) = if tcp {
        (20, usize::from(frame[at + 12] >> 4) * 4)
    } else {
        (8, usize::from(number(frame, at + 4)))
    };
    if claimed < shortest || claimed > length {
        return Err("drop_malformed");
    }
    let client = SocketAddr::new(ip.source, number(frame, at));
    let vip = SocketAddr::new(ip.destination, number(frame, at + 2));
    let service = world.services.get(&(vip, ip.protocol)).ok_or("drop_no_port")?.clone();
    if service.rows.is_empty() {
        return Err("drop_no_endpoint");
    }
    // sessionAffinity ClientIP: nothing but the two addresses counts.
    let hash = if service.client_ip {
        let address = |at: SocketAddr| SocketAddr::new(at.ip(), 0);
        flow_hash(address(client), address(vip), 0) as usize
    } else {
        flow_hash(client, vip, ip.protocol) as usize
    };
    let row = &service.rows[hash % service.rows.len()];
    let node = row.nodes.get(usize::from(row.first)).copied();
    let from_agent = world.node_macs.iter().any(|mac| frame[6..12] == mac[..]);
    let flags = if tcp { frame[at + 13] } else { 0 };
    if node == Some(0) || (from_agent && row.endpoint.is_some()) {
        let flow = flows::Packet { client, vip, protocol: ip.protocol, flags };
        deliver(world, frame, ip, &service, row, &flow)
    } else if from_agent {
        Err("drop_second_hop")
    } else {
        forward(world, frame, ip, node, service.stats)
    }
}

fn deliver(
    world: &mut World,
    frame: &[u8],
    ip: &Ip,
    service: &Service,
    row: &Row,
    flow: &flows::Packet,
) -> Result<Verdict, &'static str> {
    let mut delivered = frame.to_vec();
    let mut counter = "delivered_kernel";
    if !service.kernel {
        counter = "delivered";
        let (client_port, pod) = flows::endpoint(world, flow, row.endpoint)?;
        set_address(&mut delivered, false, pod.ip());
        delivered[ip.upper..ip.upper + 2].copy_from_slice(&client_port.to_be_bytes());
        delivered[ip.upper + 2..ip.upper + 4].copy_from_slice(&pod.port().to_be_bytes());
        checksum::renew(frame, &mut delivered);
    }
    let service = Some(Tally::Delivered(service.stats));
    Ok(Verdict { action: PASS, counter, frame: delivered, service })
}

fn forward(
    world: &World,
    frame: &[u8],
    ip: &Ip,
    node: Option<u16>,
    stats: u32,
) -> Result<Verdict, &'static str> {
    let node = node.and_then(|node| world.nodes.get(usize::from(node)));
    let node = node.filter(|node| node.ifindex != 0).ok_or("drop_no_next_hop")?;
    // RFC 1812 section 5.3.1: a packet whose TTL would come to 0 is not forwarded.
    if ip.ttl <= 1 {
        return Err("drop_ttl");
    }
    let mut sent = frame.to_vec();
    sent[..6].copy_from_slice(&node.mac);
    sent[6..12].copy_from_slice(&node.source_mac);
    sent[ttl_at(ip)] = ip.ttl - 1;
    checksum::renew(frame, &mut sent);
    let (action, counter) =
        if node.ifindex == world.ifindex { (TX, "forwarded") } else { (REDIRECT, "redirected") };
    Ok(Verdict { action, counter, frame: sent, service: Some(Tally::Forwarded(stats)) })
}
