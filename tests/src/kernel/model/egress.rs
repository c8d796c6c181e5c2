//! The egress program.

use std::net::SocketAddr;

use super::{
    super::world::{FlowKey, World},
    NEXT, SHOT, Verdict, checksum,
    headers::{ip, number, set_address},
};

/// What becomes of a frame that is about to leave.
pub fn egress(world: &World, frame: &[u8]) -> Verdict {
    rewritten(world, frame).unwrap_or_else(|| Verdict::untouched(NEXT, "egress_passed", frame))
}

fn rewritten(world: &World, frame: &[u8]) -> Option<Verdict> {
    let ip = ip(frame)?;
    let at = ip.upper;
    if !matches!(ip.protocol, 6 | 17) || frame.len() < at + 4 {
        return None;
    }
    if ip.source.is_ipv4() && (frame[14] != 0x45 || number(frame, 20) & 0x3fff != 0) {
        return None;
    }
    let client = SocketAddr::new(ip.destination, number(frame, at + 2));
    let pod = SocketAddr::new(ip.source, number(frame, at));
    // Only what an endpoint of this node sends can be a reply.
    if !world.endpoints.contains(&Some(pod)) {
        return None;
    }
    let key = FlowKey { client, peer: pod, protocol: ip.protocol, to_client: true };
    let flow = world.flows.get(&key).or_else(|| world.pending.get(&key))?;
    // Without the checksum's field nothing can be changed.
    if frame.len() < at + if ip.protocol == 6 { 18 } else { 8 } {
        return Some(Verdict::untouched(SHOT, "drop_reply", frame));
    }
    let mut reply = frame.to_vec();
    set_address(&mut reply, true, flow.peer.ip());
    reply[at..at + 2].copy_from_slice(&flow.peer.port().to_be_bytes());
    reply[at + 2..at + 4].copy_from_slice(&flow.client_port.to_be_bytes());
    checksum::renew(frame, &mut reply);
    Some(Verdict { action: NEXT, counter: "replied", frame: reply, service: None })
}
