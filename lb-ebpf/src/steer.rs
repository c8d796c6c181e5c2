//! From a packet to a VIP:port to the node of its row.
use crate::{
    affinity, chain, deliver,
    flows::{self, Target},
    forward,
    frame::Frame,
    ip,
    maps::{ROWS, SERVICE_STATS, SERVICES, address_words, halves, joined},
    packet::{NO_STATS, Packet, is_for_us},
    ranges, refuse, step,
    step::Step,
    takeover,
    verdict::Verdict,
};
use lb_common::{
    hash::{addresses_v4, addresses_v6, flow_hash_of, row_index},
    maps::{
        NO_ENDPOINT, NO_NODE, SERVICE_CLIENT_IP, SERVICE_HERE, SERVICE_KERNEL, SERVICE_RANGES,
        SERVICE_TAKEN_OVER, Service, ServiceKey, THIS_NODE,
    },
    outcome::Outcome,
};

/// What is found on the way to a step, and needed for it.
struct Way {
    /// What [`flows::find`] said, or [`flows::UNKNOWN`].
    found: u32,
    /// Of the Service's.
    flags: u32,
    target: Target,
}

/// Steers a packet with ports, unless its step is settled already. Its Service may be known.
#[inline(always)]
pub(crate) fn steer<F: Frame, const V6: bool>(
    frame: &F,
    packet: &mut Packet,
    settled: Step,
    service: Option<&Service>,
) -> Verdict {
    let mut way = Way { found: flows::UNKNOWN, flags: 0, target: Target::new() };
    let step =
        if settled.is_none() { choose::<F, V6>(frame, packet, service, &mut way) } else { settled };
    let verdict = take::<F, V6>(frame, packet, step, &mut way);
    tally(packet.stats, packet.length, verdict);
    verdict
}

/// The key of a Service.
#[inline(always)]
pub(crate) const fn service_key(vip: [u8; 16], port: u16, proto: u8) -> ServiceKey {
    let [low, high] = halves(vip);
    let [a, b] = port.to_ne_bytes();
    let rest = joined(u32::from_ne_bytes([a, b, proto, 0]), 0);
    // SAFETY: same size, and every byte pattern is valid for the key.
    unsafe { core::mem::transmute::<[u64; 3], ServiceKey>([low, high, rest]) }
}

/// Goes a step that nothing stands in the way of.
#[inline(always)]
fn take<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    step: Step,
    way: &mut Way,
) -> Verdict {
    match step.kind() {
        step::SEND => forward::forward::<F, V6>(frame, packet, step),
        step::KNOWN => arrive::<F, V6>(frame, packet, way.found, &way.target),
        step::NEW => {
            let kernel = way.flags & SERVICE_KERNEL != 0;
            let made = flows::create(packet, step.value(), kernel, way.found, &mut way.target);
            if made == flows::KNOWN && way.flags & SERVICE_CLIENT_IP != 0 {
                affinity::note(packet, &way.target);
            }
            arrive::<F, V6>(frame, packet, made, &way.target)
        }
        step::REFUSE => refuse::refuse::<F, V6>(frame, packet, step.verdict()),
        _ => step.verdict(),
    }
}

/// Delivers a packet whose flow is known by now.
#[inline(always)]
fn arrive<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    found: u32,
    target: &Target,
) -> Verdict {
    match found {
        flows::KNOWN => deliver::deliver::<F, V6>(frame, packet, target),
        flows::KERNEL => Outcome::DeliveredKernel.into(),
        flows::GONE => Outcome::DropNoEndpoint.into(),
        _ => Outcome::DropFlowTable.into(),
    }
}

/// The step of a packet to what may be a Service.
#[inline(always)]
fn choose<F: Frame, const V6: bool>(
    frame: &F,
    packet: &mut Packet,
    service: Option<&Service>,
    way: &mut Way,
) -> Step {
    let port = u16::from_ne_bytes(packet.flow.peer_port);
    let key = service_key(packet.flow.peer, port, packet.flow.proto);
    // SAFETY: the agent replaces an entry's value as a whole; one that is freed meanwhile
    // costs one packet.
    let Some(service) = service.or_else(|| unsafe { SERVICES.get(key) }) else {
        let ours = ip::verify(frame, packet);
        if ours.is_none() {
            return Step::refuse(Outcome::DropNoPort);
        }
        return Step::from_verdict(ours);
    };
    if !packet.is_from_tunnel() && !is_for_us(frame, packet.vlan()) {
        return Step::done(Outcome::PassedOtherHost);
    }
    let flags = service.flags;
    if flags & SERVICE_RANGES != 0 && ranges::serves(packet, service.ranges) == 0 {
        return Step::done(Outcome::DropSourceRange);
    }
    if service.rows == 0 {
        // While an agent starts it may not have heard of the nodes that have them.
        if !packet.is_from_tunnel() && !packet.is_error && !refuse::is_fresh() {
            return Step::done(Outcome::DeliveredKernel);
        }
        return Step::refuse(Outcome::DropNoEndpoint);
    }
    packet.stats = service.stats;
    way.flags = flags;
    let flow = &packet.flow;
    let source = u16::from_ne_bytes(flow.client_port);
    let ports = u32::from(source) | u32::from(port) << 16;
    let (client, vip) = (address_words(flow.client), address_words(flow.peer));
    let addresses = if V6 { addresses_v6(client, vip) } else { addresses_v4(client[3], vip[3]) };
    packet.hash = hash(addresses, ports, flow.proto, flags);
    let index = row_index(packet.hash, service.rows, service.mask);
    let Some(row) = ROWS.get(service.rows_start.wrapping_add(index)) else {
        return Step::done(Outcome::DropNoEndpoint);
    };
    let first = row.nodes[0];
    let here = first == THIS_NODE;
    let arrived = here || packet.is_from_tunnel();
    if arrived || flags & (SERVICE_HERE | SERVICE_TAKEN_OVER) != 0 {
        let found = flows::find(packet, &mut way.target);
        let plain = found & !flows::HEARD;
        way.found = plain;
        if plain >= flows::KNOWN {
            if here || !packet.begins || !arrived {
                if found & flows::HEARD != 0 && flags & SERVICE_CLIENT_IP != 0 {
                    affinity::touch(packet);
                }
                return Step::deliver_known();
            }
            way.found = flows::STALE;
        } else if plain == flows::STALE && packet.begins && !arrived {
            // What follows comes this way, too, and must not find it.
            flows::end(&packet.flow);
        }
    }
    if takeover::is_proxied(frame, packet, service) {
        if packet.begins && !packet.is_error {
            way.flags |= SERVICE_KERNEL;
            return Step::deliver_new(NO_ENDPOINT);
        }
        takeover::note_end(packet);
        return Step::done(Outcome::DeliveredKernel);
    }
    if !arrived && first != NO_NODE {
        return Step::send(first, 0);
    }
    chain::decide(packet, service, row, index)
}

/// The hash by which a packet of a Service with these flags finds its row, of what its addresses
/// bring to it, and its ports as they stand on the wire.
#[inline(always)]
pub(crate) const fn hash(addresses: u64, ports: u32, proto: u8, flags: u32) -> u32 {
    if flags & SERVICE_CLIENT_IP == 0 {
        flow_hash_of(addresses, ports, proto)
    } else {
        flow_hash_of(addresses, 0, 0)
    }
}

/// Counts a packet of `length` bytes for the Service with this index in `SERVICE_STATS`.
#[inline(always)]
pub(crate) fn tally(stats: u32, length: u32, verdict: Verdict) {
    let delivered = verdict.is(Outcome::Delivered) || verdict.is(Outcome::DeliveredKernel);
    if stats == NO_STATS || !delivered && !verdict.is_sent_on() {
        return;
    }
    let Some(stats) = SERVICE_STATS.get_ptr_mut(stats) else { return };
    let bytes = u64::from(length);
    // SAFETY: the slot is this CPU's, and a program is not preempted by another on its CPU.
    unsafe {
        if delivered {
            (*stats).delivered_packets += 1;
            (*stats).delivered_bytes += bytes;
        } else {
            (*stats).forwarded_packets += 1;
            (*stats).forwarded_bytes += bytes;
        }
    }
}
