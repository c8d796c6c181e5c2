//! The flows that a node remembers.

use std::net::SocketAddr;

use super::{
    super::world::{Flow, FlowKey, World},
    hash::flow_hash,
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A packet from a client to a VIP:port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) protocol: u8,
    /// TCP's; 0 for UDP.
    pub(super) flags: u8,
}

impl Packet {
    /// SYN alone begins a connection.
    fn begins(&self) -> bool {
        self.flags & SYN != 0 && self.flags & ACK == 0
    }

    fn ends(&self) -> bool {
        self.flags & (FIN | RST) != 0
    }

    fn forth(&self) -> FlowKey {
        let Self { client, vip: peer, protocol, flags: _ } = *self;
        FlowKey { client, peer, protocol, to_client: false }
    }

    /// The key of the way back from an endpoint that sees the client at `client_port`.
    fn back(&self, pod: SocketAddr, client_port: u16) -> FlowKey {
        let client = SocketAddr::new(self.client.ip(), client_port);
        FlowKey { client, peer: pod, protocol: self.protocol, to_client: true }
    }

    /// What a reply's addresses become.
    fn reply(&self, endpoint: u32) -> Flow {
        Flow { peer: self.vip, client_port: self.client.port(), endpoint, closing: false }
    }
}

/// The endpoint of a packet's flow, and the client's port there: the known one, or else
/// that of its row, remembered from now on.
pub(super) fn endpoint(
    world: &mut World,
    packet: &Packet,
    of_row: Option<u32>,
) -> Result<(u16, SocketAddr), &'static str> {
    let forth = packet.forth();
    if let Some(&flow) = world.flows.get(&forth) {
        // A new connection may reuse the client's port after the old one has ended.
        if is_current(world, &flow) && !(packet.begins() && flow.closing) {
            if let Some(flow) = world.flows.get_mut(&forth) {
                flow.closing |= packet.ends();
            }
            return Ok((flow.client_port, flow.peer));
        }
        world.flows.remove(&forth);
        world.flows.remove(&packet.back(flow.peer, flow.client_port));
    } else if let Some(&flow) = world.pending.get(&forth)
        && is_current(world, &flow)
    {
        // The client's second packet proves that it is there.
        if !packet.begins() {
            let known = Flow { closing: flow.closing || packet.ends(), ..flow };
            world.flows.insert(forth, known);
            let back = packet.back(flow.peer, flow.client_port);
            world.flows.insert(back, packet.reply(flow.endpoint));
        }
        return Ok((flow.client_port, flow.peer));
    }
    begin(world, packet, of_row)
}

/// A flow is good while its endpoint's index stands for the same address and port.
fn is_current(world: &World, flow: &Flow) -> bool {
    world.endpoints.get(flow.endpoint as usize) == Some(&Some(flow.peer))
}

fn begin(
    world: &mut World,
    packet: &Packet,
    of_row: Option<u32>,
) -> Result<(u16, SocketAddr), &'static str> {
    let index = of_row.ok_or("drop_no_endpoint")?;
    let pod = world.endpoints.get(index as usize).copied().flatten().ok_or("drop_no_endpoint")?;
    let reply = packet.reply(index);
    let free = |port: &u16| {
        let back = packet.back(pod, *port);
        let taken = world.flows.get(&back).or_else(|| world.pending.get(&back));
        taken.is_none_or(|flow| (flow.peer, flow.client_port) == (reply.peer, reply.client_port))
    };
    let ports = (0..5).map(|attempt| client_port(packet, attempt));
    let port = { ports }.find(free).ok_or("drop_flow_table")?;
    let flow = Flow { peer: pod, client_port: port, endpoint: index, closing: false };
    world.pending.insert(packet.forth(), flow);
    world.pending.insert(packet.back(pod, port), reply);
    Ok((port, pod))
}

/// The client's own port first; then ports from 1024 on that a hash of the flow names.
fn client_port(packet: &Packet, attempt: u16) -> u16 {
    if attempt == 0 {
        return packet.client.port();
    }
    // The hash takes both addresses in 16 bytes, and the attempt in the place of the
    // VIP's port, its low byte first.
    let wide = |at: SocketAddr| match at.ip() {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        std::net::IpAddr::V6(v6) => v6,
    };
    let client = SocketAddr::new(wide(packet.client).into(), packet.client.port());
    let vip = SocketAddr::new(wide(packet.vip).into(), attempt.swap_bytes());
    let hash = flow_hash(client, vip, packet.protocol);
    1024 + (hash & 0x7fff) as u16
}
