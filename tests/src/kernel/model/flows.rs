//! The flows that a node remembers: section 3.

use std::net::{IpAddr, SocketAddr};

use super::{
    super::world::{Answer, Elsewhere, Flow, FlowKey, UDP_IDLE, World},
    Dropped, FIN, Kind, Packet, RST,
    hash::flow_hash,
};

impl Packet {
    /// The key of the way back from an endpoint that sees the client at `client_port`.
    fn back(&self, pod: SocketAddr, client_port: u16) -> FlowKey {
        let client = SocketAddr::new(self.client.ip(), client_port);
        FlowKey { client, peer: pod, protocol: self.protocol, to_client: true }
    }

    /// What a reply's addresses become.
    fn reply(&self, endpoint: u32) -> Flow {
        Flow {
            peer: self.vip,
            client_port: self.client.port(),
            endpoint: Some(endpoint),
            closing: false,
            closed_at: None,
            seen: 0,
        }
    }
}

/// The endpoint with an index.
pub(super) fn present(world: &World, index: u32) -> Option<SocketAddr> {
    world.endpoints.get(index as usize).copied().flatten()
}

/// Whether an entry of a flow still is one.
pub(in super::super) fn is_valid(world: &World, flow: &Flow, protocol: u8) -> bool {
    let idle = protocol == 17 && -flow.seen >= UDP_IDLE;
    !idle && flow.endpoint.is_none_or(|index| present(world, index) == Some(flow.peer))
}

/// The packet's flow, if this node has it. A new connection may use the client's port again
/// after the old one has ended.
pub(super) fn known(world: &World, packet: &Packet) -> Option<Flow> {
    let forth = packet.forth();
    let valid = |flow: &&Flow| {
        let ended = flow.closing
            && (packet.begins() || (is_doubtful(packet, flow) && !is_known_here(world, packet)));
        is_valid(world, flow, packet.protocol) && !ended
    };
    if let Some(flow) = world.flows.get(&forth) {
        return Some(flow).filter(valid).copied();
    }
    let flow = world.pending.get(&forth)?;
    is_valid(world, flow, packet.protocol).then_some(*flow)
}

/// Whether the client's port may have begun another connection, at another node, since it closed
/// this one: after seconds, and where the packet is beyond this one's end, or far before it.
fn is_doubtful(packet: &Packet, flow: &Flow) -> bool {
    let another = match (packet.kind, flow.closed_at) {
        (Kind::Whole { sequence, .. }, Some(closed_at)) => {
            // Numbers wrap: seen from 16 MiB before the end, 16 MiB and 32 KiB are its own.
            let from = (closed_at << 8).wrapping_sub(16 << 20);
            sequence.wrapping_sub(from) > (16 << 20) + (32 << 10)
        }
        _ => false,
    };
    packet.protocol == 6 && packet.kind != Kind::Error && (another || -flow.seen >= 3)
}

/// Whether the agents have said that the flow is here, or have not answered when they were asked twice.
fn is_known_here(world: &World, packet: &Packet) -> bool {
    world.elsewhere.get(&packet.forth()).is_some_and(|entry| match entry.answer {
        Answer::Node(node) => node == 0 && entry.until >= 0,
        Answer::AskedAgain => is_unanswered(entry),
        Answer::Asked | Answer::Nobody => false,
    })
}

/// Whether the agents were asked a while ago, and did not answer.
pub(super) fn is_unanswered(entry: &Elsewhere) -> bool {
    let asked = matches!(entry.answer, Answer::Asked | Answer::AskedAgain);
    asked && entry.until < 0 && -entry.until < 60
}

/// The client of a known flow was heard.
pub(super) fn heard(world: &mut World, packet: &Packet) -> Result<Flow, Dropped> {
    let forth = packet.forth();
    let flow = known(world, packet).ok_or("drop_flow_table")?;
    if packet.resets() {
        world.flows.remove(&forth);
        world.pending.remove(&forth);
        return Ok(flow);
    }
    if let Some(flow) = world.flows.get_mut(&forth) {
        flow.seen = 0;
        flow.closing |= packet.ends();
        flow.closed_at = flow.closed_at.or(packet.closes_at());
        return Ok(*flow);
    }
    // The client's second packet proves that it is there.
    if !packet.begins() {
        let (closing, closed_at) = (packet.ends(), packet.closes_at());
        let moved = Flow { closing, closed_at, seen: 0, ..flow };
        world.flows.insert(forth, moved);
        if let Some(endpoint) = flow.endpoint {
            let back = packet.back(flow.peer, flow.client_port);
            world.flows.insert(back, packet.reply(endpoint));
        }
    }
    Ok(flow)
}

/// A flow that the kernel delivers.
fn kernels(packet: &Packet) -> Flow {
    let client_port = packet.client.port();
    let (closing, closed_at) = (false, None);
    Flow { peer: packet.vip, client_port, endpoint: None, closing, closed_at, seen: 0 }
}

/// The kernel's connection of a packet that nobody knows ends.
pub(super) fn ending(world: &mut World, packet: &Packet) {
    if packet.protocol == 6 && packet.flags() & (FIN | RST) == FIN {
        let flow = Flow { closing: true, closed_at: packet.closes_at(), ..kernels(packet) };
        world.flows.insert(packet.forth(), flow);
    }
}

/// Notes a new flow to an endpoint, or to the kernel.
pub(super) fn begin(
    world: &mut World,
    packet: &Packet,
    endpoint: Option<u32>,
    kernel: bool,
) -> Result<Flow, Dropped> {
    let forth = packet.forth();
    // What was there before has ended.
    if let Some(old) = world.flows.remove(&forth) {
        let back = packet.back(old.peer, old.client_port);
        let own = (packet.vip, packet.client.port());
        if world.flows.get(&back).is_some_and(|flow| (flow.peer, flow.client_port) == own) {
            world.flows.remove(&back);
        }
    }
    if kernel {
        let flow = kernels(packet);
        world.pending.insert(forth, flow);
        return Ok(flow);
    }
    let index = endpoint.ok_or("drop_no_endpoint")?;
    let pod = present(world, index).ok_or("drop_no_endpoint")?;
    let reply = packet.reply(index);
    let free = |port: &u16| {
        let back = packet.back(pod, *port);
        let taken = world.flows.get(&back).or_else(|| world.pending.get(&back));
        taken.is_none_or(|flow| (flow.peer, flow.client_port) == (reply.peer, reply.client_port))
    };
    // SCTP's checksum covers the ports, and is no sum.
    let attempts = if packet.protocol == 132 { 1 } else { 5 };
    let ports = (0..attempts).map(|attempt| client_port(packet, attempt));
    let port = { ports }.find(free).ok_or("drop_flow_table")?;
    let endpoint = Some(index);
    let flow = Flow { peer: pod, client_port: port, endpoint, ..kernels(packet) };
    world.pending.insert(forth, flow);
    world.pending.insert(packet.back(pod, port), reply);
    Ok(flow)
}

/// The client's own port first; then ports from 1024 on that a hash of the flow names.
fn client_port(packet: &Packet, attempt: u16) -> u16 {
    if attempt == 0 {
        return packet.client.port();
    }
    // The hash takes both addresses in 16 bytes, and the attempt in the place of the
    // VIP's port, its low byte first.
    let wide = |at: SocketAddr| match at.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let client = SocketAddr::new(wide(packet.client).into(), packet.client.port());
    let vip = SocketAddr::new(wide(packet.vip).into(), attempt.swap_bytes());
    let hash = flow_hash(client, vip, packet.protocol);
    1024 + (hash & 0x7fff) as u16
}
