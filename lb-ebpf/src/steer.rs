//! From a packet to a VIP:port to the node of its row.
use crate::{
    deliver, forward,
    maps::{ROW_ENDPOINTS, ROWS, SERVICE_STATS, SERVICES, address_bytes, is_agent, port_bytes},
    packet::{Packet, at, is_for_us, length, transport_at},
};
use aya_ebpf::programs::XdpContext;
use lb_common::{
    hash::{flow_hash_v4, flow_hash_v6, row_index},
    maps::{
        FlowKey, NO_ENDPOINT, NO_RANGE, SERVICE_CLIENT_IP, Service, ServiceKey, THIS_NODE,
        TO_ENDPOINT,
    },
    outcome::Outcome,
    wire::{Ethernet, Ports, Tcp, Udp, protocol},
};

/// A TCP segment or UDP datagram to what may be a VIP.
#[inline(always)]
pub(crate) fn transport<const V6: bool>(
    ctx: &XdpContext,
    packet: &Packet,
) -> Result<Outcome, Outcome> {
    let offset = transport_at(V6);
    let Some(udp) = at::<Udp>(ctx, offset) else { return Err(Outcome::DropMalformed) };
    // SAFETY: `at` has checked the bounds. Both protocols begin with the ports.
    let (ports, udp_length) = unsafe {
        let ports = Ports { source: (*udp).source, destination: (*udp).destination };
        (ports, usize::from(u16::from_be((*udp).length)))
    };
    let (shortest, length, flags) = if packet.protocol == protocol::TCP {
        let Some(tcp) = at::<Tcp>(ctx, offset) else { return Err(Outcome::DropMalformed) };
        // SAFETY: `at` has checked the bounds.
        unsafe { (size_of::<Tcp>(), usize::from((*tcp).data_offset >> 4) * 4, (*tcp).flags) }
    } else {
        (size_of::<Udp>(), udp_length, 0)
    };
    if length < shortest || length > packet.payload {
        return Err(Outcome::DropMalformed);
    }
    steer::<V6>(ctx, packet, ports, flags)
}

#[inline(always)]
fn steer<const V6: bool>(
    ctx: &XdpContext,
    packet: &Packet,
    ports: Ports,
    flags: u8,
) -> Result<Outcome, Outcome> {
    let key = ServiceKey {
        vip: address_bytes(packet.destination),
        port: port_bytes(ports.destination),
        proto: packet.protocol,
        pad: 0,
        pad2: 0,
    };
    // SAFETY: the agent replaces an entry's value as a whole, and the fields used here
    // are copied at once.
    let Some(service) = (unsafe { SERVICES.get(key) }) else { return Err(Outcome::DropNoPort) };
    let service = *service;
    if !is_for_us(ctx) {
        return Err(Outcome::PassedOtherHost);
    }
    if service.rows == 0 {
        return Err(Outcome::DropNoEndpoint);
    }
    let (both, protocol) = if service.flags & SERVICE_CLIENT_IP == 0 {
        (u32::from(ports.source) | u32::from(ports.destination) << 16, packet.protocol)
    } else {
        (0, 0)
    };
    let hash = if V6 {
        flow_hash_v6(packet.source, packet.destination, both, protocol)
    } else {
        flow_hash_v4(packet.source[3], packet.destination[3], both, protocol)
    };
    let position = row_index(hash, service.rows, service.mask);
    let Some(row) = ROWS.get(service.rows_start.wrapping_add(position)) else {
        return Err(Outcome::DropNoEndpoint);
    };
    let node = row.nodes[0];
    let mut endpoint = service.endpoint;
    if service.endpoints_start != NO_RANGE
        && let Some(found) = ROW_ENDPOINTS.get(service.endpoints_start.wrapping_add(position))
    {
        endpoint = *found;
    }
    let outcome = if node == THIS_NODE || came_from_agent(ctx) {
        // A frame that another agent sent on is never sent on again, so that tables
        // that disagree for a moment cannot make a loop.
        if node != THIS_NODE && endpoint == NO_ENDPOINT {
            Outcome::DropHops
        } else {
            let key = FlowKey {
                client: address_bytes(packet.source),
                peer: address_bytes(packet.destination),
                client_port: port_bytes(ports.source),
                peer_port: port_bytes(ports.destination),
                proto: packet.protocol,
                direction: TO_ENDPOINT,
                pad: [0; 2],
            };
            deliver::deliver::<V6>(ctx, &key, flags, &service, endpoint)
        }
    } else {
        forward::forward::<V6>(ctx, node)
    };
    tally(ctx, &service, outcome);
    Ok(outcome)
}

#[inline(always)]
fn came_from_agent(ctx: &XdpContext) -> bool {
    // SAFETY: `at` has checked the bounds.
    at::<Ethernet>(ctx, 0).is_some_and(|ethernet| unsafe { is_agent((*ethernet).source) })
}

#[inline(always)]
fn tally(ctx: &XdpContext, service: &Service, outcome: Outcome) {
    let Some(stats) = SERVICE_STATS.get_ptr_mut(service.stats) else { return };
    let bytes = length(ctx) as u64;
    // SAFETY: the slot is this CPU's, and a program is not preempted by another on its CPU.
    unsafe {
        match outcome {
            Outcome::Delivered | Outcome::DeliveredKernel => {
                (*stats).delivered_packets += 1;
                (*stats).delivered_bytes += bytes;
            }
            Outcome::Forwarded | Outcome::Redirected => {
                (*stats).forwarded_packets += 1;
                (*stats).forwarded_bytes += bytes;
            }
            _ => {}
        }
    }
}
