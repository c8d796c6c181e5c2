//! The egress program: section 7.

use std::net::SocketAddr;

use super::{
    super::world::{Flow, FlowKey, Fragmented, World},
    ACK, NEXT, SHOT, SYN, Verdict, checksum, fragments,
    headers::{Ip, addresses, ip, number, put, set_address},
    icmp_error,
};

/// What becomes of a frame that is about to leave.
pub fn egress(world: &mut World, frame: &[u8]) -> Verdict {
    rewritten(world, frame).unwrap_or_else(|| Verdict::untouched(NEXT, "egress_passed", frame))
}

fn rewritten(world: &mut World, frame: &[u8]) -> Option<Verdict> {
    addresses(frame)?;
    // Pods send no options and no extension headers but for fragments.
    let plain = if number(frame, 12) == 0x0800 {
        frame[14] == 0x45
    } else {
        matches!(frame[20], 6 | 17 | 132 | 58 | 44)
    };
    if !plain {
        return None;
    }
    let ip = lenient(frame)?;
    if matches!(ip.protocol, 1 | 58) {
        return error(world, frame, &ip);
    }
    if !matches!(ip.protocol, 6 | 17 | 132) {
        return None;
    }
    let at = ip.upper;
    let (pod_port, client_port) = if ip.is_later_fragment() {
        fragments::ports(world, &fragments::key(&ip, true)?)?
    } else {
        if frame.len() < at + 4 {
            return None;
        }
        (number(frame, at), number(frame, at + 2))
    };
    let client = SocketAddr::new(ip.destination, client_port);
    let pod = SocketAddr::new(ip.source, pod_port);
    let flow = find(world, client, pod, ip.protocol)?;
    if ip.fragment.is_some_and(|fragment| fragment.first) {
        let noted = Fragmented { ports: (pod_port, client_port), seen: 0 };
        world.fragmented.insert(fragments::key(&ip, true)?, noted);
    }
    let mut reply = frame.to_vec();
    if !ip.is_later_fragment() && ip.protocol != 132 {
        // Without the checksum's field nothing can be changed.
        if frame.len() < at + if ip.protocol == 6 { 18 } else { 8 } {
            return Some(Verdict::untouched(SHOT, "drop_reply", frame));
        }
        put(&mut reply, at, flow.peer.port());
        put(&mut reply, at + 2, flow.client_port);
        if ip.protocol == 6 {
            lower_mss(world, &mut reply, &ip);
        }
    }
    set_address(&mut reply, true, flow.peer.ip());
    checksum::renew(frame, &mut reply, &ip);
    Some(Verdict::new(NEXT, "replied", reply))
}

/// The headers, whatever the packet says of its length and version: the kernel has seen to that.
fn lenient(frame: &[u8]) -> Option<Ip> {
    let mut whole = frame.to_vec();
    let v4 = number(frame, 12) == 0x0800;
    let at = if v4 { 16 } else { 18 };
    whole[14] = whole[14] & 15 | if v4 { 0x40 } else { 0x60 };
    let length = (frame.len() - if at == 16 { 14 } else { 54 }) as u16;
    put(&mut whole, at, length);
    ip(&whole).ok()
}

/// The flow that a packet from an endpoint to a client belongs to.
fn find(world: &World, client: SocketAddr, pod: SocketAddr, protocol: u8) -> Option<Flow> {
    // Only what an endpoint of this node sends can be a reply.
    if !world.endpoints.contains(&Some(pod)) {
        return None;
    }
    let key = FlowKey { client, peer: pod, protocol, to_client: true };
    world.flows.get(&key).or_else(|| world.pending.get(&key)).copied()
}

/// A SYN-ACK's largest segment is one that gets through a tunnel.
fn lower_mss(world: &World, frame: &mut [u8], ip: &Ip) {
    let at = ip.upper;
    let most = if ip.is_v4() { world.mss.0 } else { world.mss.1 };
    if most == 0 || frame.len() < at + 20 || frame[at + 13] & (SYN | ACK) != SYN | ACK {
        return;
    }
    let end = (at + usize::from(frame[at + 12] >> 4) * 4).min(frame.len());
    let mut option = at + 20;
    while option < end {
        match frame[option] {
            0 => return,
            1 => option += 1,
            kind => {
                let Some(&length) = frame[..end].get(option + 1) else { return };
                let length = usize::from(length);
                if length < 2 || option + length > end {
                    return;
                }
                if kind == 2 && length == 4 {
                    if number(frame, option + 2) > most {
                        put(frame, option + 2, most);
                    }
                    return;
                }
                option += length;
            }
        }
    }
}

/// An ICMP error to a client, about a packet that it sent to an endpoint.
fn error(world: &World, frame: &[u8], ip: &Ip) -> Option<Verdict> {
    if ip.fragment.is_some() || ip.options || ip.end < ip.upper + 8 {
        return None;
    }
    let kind = frame[ip.upper];
    let is_error = if ip.is_v4() { matches!(kind, 3 | 4 | 11 | 12) } else { (1..=4).contains(&kind) };
    if !is_error {
        return None;
    }
    let quoted = icmp_error::quoted(frame, ip)?;
    if quoted.source.ip() != ip.destination {
        return None;
    }
    let flow = find(world, quoted.source, quoted.destination, quoted.protocol)?;
    let mut reply = frame.to_vec();
    let destination_at = quoted.at + if ip.is_v4() { 16 } else { 24 };
    icmp_error::set(&mut reply, destination_at, flow.peer.ip());
    if quoted.protocol != 132 {
        put(&mut reply, quoted.upper, flow.client_port);
        put(&mut reply, quoted.upper + 2, flow.peer.port());
    }
    checksum::renew_quoted(frame, &mut reply, quoted.at, ip.end, quoted.protocol);
    set_address(&mut reply, true, flow.peer.ip());
    checksum::renew(frame, &mut reply, ip);
    Some(Verdict::new(NEXT, "replied_icmp", reply))
}
