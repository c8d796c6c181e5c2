//! `sessionAffinity: ClientIP`: section 2.

use super::{
    super::world::{Affinity, AffinityKey, Flow, World},
    Packet, flows,
    steer::Steering,
};

fn key(packet: &Packet) -> AffinityKey {
    AffinityKey { client: packet.client.ip(), vip: packet.vip, protocol: packet.protocol }
}

/// The endpoint that the client's connections go to.
pub(super) fn endpoint(world: &World, packet: &Packet, to: &Steering) -> Option<u32> {
    let affinity = world.affinity.get(&key(packet))?;
    let current = flows::present(world, affinity.endpoint) == Some(affinity.at);
    (current && -affinity.seen < to.service.affinity as i32).then_some(affinity.endpoint)
}

/// A client's packet was delivered.
pub(super) fn heard(world: &mut World, packet: &Packet, to: &Steering) {
    if to.service.client_ip
        && let Some(affinity) = world.affinity.get_mut(&key(packet))
    {
        affinity.seen = 0;
    }
}

/// A client's new flow goes to an endpoint.
pub(super) fn chosen(world: &mut World, packet: &Packet, to: &Steering, flow: &Flow) {
    if let Some(endpoint) = flow.endpoint
        && to.service.client_ip
    {
        let affinity = Affinity { at: flow.peer, endpoint, seen: 0 };
        world.affinity.insert(key(packet), affinity);
    }
}
