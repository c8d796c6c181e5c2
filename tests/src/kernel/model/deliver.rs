//! Delivering: section 3.

use super::{
    super::world::{Flow, World},
    Case, Dropped, Kind, PASS, Packet, Tally, Verdict, affinity, checksum, flows,
    headers::{put, set_address},
    icmp_error,
    steer::Steering,
};

/// Whether this node has an endpoint for new flows of the row. The kernel does its own choosing.
pub(super) fn has_endpoint(to: &Steering) -> bool {
    to.endpoint.is_some() || (to.service.kernel && to.is_here())
}

/// A packet of a flow that is known here.
pub(super) fn known(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
) -> Result<Verdict, Dropped> {
    let flow = flows::known(world, packet).ok_or("drop_flow_table")?;
    if packet.kind == Kind::Error {
        // Anybody on the way can send one: it says nothing about the client.
        return Ok(icmp_error::deliver(case, packet, &flow, to.service.stats));
    }
    // Once in a second, and not by what ends the flow.
    let moved = !packet.resets() && (flow.seen < 0 || !world.flows.contains_key(&packet.forth()));
    let flow = flows::heard(world, packet)?;
    if moved {
        affinity::heard(world, packet, to);
    }
    Ok(hand_over(case, packet, &flow, to))
}

/// A packet that begins a flow here.
pub(super) fn new(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
    endpoint: Option<u32>,
) -> Result<Verdict, Dropped> {
    let flow = flows::begin(world, packet, endpoint, to.service.kernel)?;
    affinity::chosen(world, packet, to, &flow);
    Ok(hand_over(case, packet, &flow, to))
}

fn hand_over(case: &Case<'_>, packet: &Packet, flow: &Flow, to: &Steering) -> Verdict {
    let Case { frame, ip, .. } = case;
    let mut delivered = frame.to_vec();
    let mut counter = "delivered_kernel";
    if flow.endpoint.is_some() {
        counter = "delivered";
        set_address(&mut delivered, false, flow.peer.ip());
        if packet.kind != Kind::Later && packet.protocol != 132 {
            put(&mut delivered, ip.upper, flow.client_port);
            put(&mut delivered, ip.upper + 2, flow.peer.port());
        }
        checksum::renew(frame, &mut delivered, ip);
    }
    let service = Some(Tally::Delivered(to.service.stats));
    Verdict { service, ..Verdict::new(PASS, counter, delivered) }
}
