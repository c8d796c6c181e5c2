//! Fragments (docs/data-path.md, section 4): all of a datagram meet at one node, which knows
//! the ports from the first.
use crate::{
    frame::Frame,
    ip,
    maps::{FRAGMENTED, ROWS, SETTINGS, address_words, now_s},
    packet::{BY_AGENT, BY_FRAME, FIRST, LATER, Packet, at},
    step::Step,
};
use lb_common::{
    hash::{flow_hash_v4, flow_hash_v6},
    maps::{FragmentKey, Fragmented, NO_NODE, THIS_NODE, TO_ENDPOINT},
    outcome::Outcome,
    tunnel::FRAGMENT as FRAGMENT_NODE,
    wire::{Ports, protocol},
};

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;
/// For how many seconds the first fragment's ports count.
const LIFETIME_S: u32 = 1;

/// Finds a fragment's node and, if that is this one, its ports.
///
/// [`Step::NONE`] if the fragment goes on like a packet.
#[inline(never)]
pub(crate) fn place<F: Frame, const V6: bool>(frame: &F, packet: &mut Packet) -> Step {
    let ours = ip::verify(frame, packet);
    if !ours.is_none() {
        return Step::from_verdict(ours);
    }
    match packet.flow.proto {
        protocol::TCP | protocol::UDP | protocol::SCTP => {}
        protocol::ICMP | protocol::ICMPV6 => return Step::done(Outcome::DropFragment),
        _ => return Step::done(Outcome::DropProtocol),
    }
    let client = address_words(packet.flow.client);
    let vip = address_words(packet.flow.peer);
    let hash = if V6 {
        flow_hash_v6(client, vip, packet.fragment_id, packet.flow.proto)
    } else {
        flow_hash_v4(client[3], vip[3], packet.fragment_id, packet.flow.proto)
    };
    packet.hash = hash;
    let node = node(hash);
    if packet.arrived == BY_FRAME {
        packet.arrived = BY_AGENT;
        if node == NO_NODE {
            return Step::done(Outcome::DropFragment);
        }
        if node != THIS_NODE {
            return Step::send(node, FRAGMENT_NODE);
        }
    } else if packet.arrived == FRAGMENT_NODE {
        // Whatever this node's tables say about that: so it cannot go round.
        packet.arrived = BY_AGENT;
    }
    ports(frame, packet)
}

/// The node of a datagram's fragments.
#[inline(always)]
fn node(hash: u32) -> u16 {
    let Some(settings) = SETTINGS.get(0) else { return NO_NODE };
    if settings.fragment_rows == 0 {
        return NO_NODE;
    }
    let row = hash & (settings.fragment_rows - 1);
    ROWS.get(settings.fragment_rows_start.wrapping_add(row)).map_or(NO_NODE, |row| row.nodes[0])
}

/// Notes the ports that the first fragment has, or gives a later one those.
#[inline(always)]
fn ports<F: Frame>(frame: &F, packet: &mut Packet) -> Step {
    let key = FragmentKey {
        source: packet.flow.client,
        destination: packet.flow.peer,
        id: packet.fragment_id.to_ne_bytes(),
        proto: packet.flow.proto,
        direction: TO_ENDPOINT,
        pad: [0; 2],
    };
    if packet.fragment == FIRST {
        let Some(ports) = at::<_, Ports>(frame, packet.transport_at()) else {
            return Step::done(Outcome::DropMalformed);
        };
        if packet.payload < ip::shortest(packet.flow.proto) {
            return Step::done(Outcome::DropMalformed);
        }
        // SAFETY: `at` has checked the bounds.
        let value = unsafe {
            Fragmented {
                source_port: (*ports).source.to_ne_bytes(),
                destination_port: (*ports).destination.to_ne_bytes(),
                seen_s: now_s(),
            }
        };
        let _ = FRAGMENTED.insert(&key, &value, ANY);
        return Step::NONE;
    }
    debug_assert!(packet.fragment == LATER);
    // SAFETY: copied at once; an entry of an LRU map that is reused at that moment leads one
    // fragment astray, whose datagram its receiver then drops.
    let Some(first) = (unsafe { FRAGMENTED.get(&key) }) else {
        return Step::done(Outcome::DropFragment);
    };
    if now_s().wrapping_sub(first.seen_s) > LIFETIME_S {
        return Step::done(Outcome::DropFragment);
    }
    packet.flow.client_port = first.source_port;
    packet.flow.peer_port = first.destination_port;
    Step::NONE
}
