//! Where a packet goes that this node does not know and that has arrived at a place of its row:
//! the table of docs/data-path.md, section 2.
use crate::{
    affinity, elsewhere,
    maps::{ROW_ENDPOINTS, ROWS, SETTINGS, now_s},
    packet::Packet,
    step::Step,
};
use lb_common::{
    hash::row_index,
    maps::{
        NO_ENDPOINT, NO_NODE, NO_RANGE, ROW_NODES, Row, SERVICE_CLIENT_IP, SERVICE_KERNEL, Service,
        THIS_NODE,
    },
    outcome::Outcome,
    tunnel::{END, LAST},
    wire::protocol,
};

/// Decides about a packet of an unknown flow, or one that begins a flow. `index` is that of
/// the row among the Service's.
#[inline(always)]
pub(crate) fn decide(packet: &Packet, service: &Service, row: &Row, index: u32) -> Step {
    // SAFETY: references are good.
    Step::from_number(unsafe { herald_decide(packet, service, row, index) })
}

/// A global function: the verifier looks at it once, and does not follow each of the ways that it
/// ends through all that comes after.
///
/// # Safety
/// Each pointer is null (which the verifier wants to be looked at) or good.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn herald_decide(
    packet: *const Packet,
    service: *const Service,
    row: *const Row,
    index: u32,
) -> u64 {
    // SAFETY: as the caller promises.
    let all = unsafe { (packet.as_ref(), service.as_ref(), row.as_ref()) };
    let (Some(packet), Some(service), Some(row)) = all else {
        return Step::done(Outcome::DropNoEndpoint).number();
    };
    choose(packet, service, row, index).number()
}

#[inline(always)]
fn choose(packet: &Packet, service: &Service, row: &Row, index: u32) -> Step {
    // Copied, so that all below is about the same row.
    let row = *row;
    let first = row.nodes[0];
    let here = first == THIS_NODE;
    let udp = packet.flow.proto == protocol::UDP && !packet.is_error;
    if !here && !packet.is_from_tunnel() && first == NO_NODE {
        return leaderless(packet, service, &row, udp);
    }
    let at = if packet.is_from_tunnel() { packet.arrived } else { 0 };
    let by_client = service.flags & SERVICE_CLIENT_IP != 0;
    let begins = packet.begins && !packet.is_error;
    if by_client && (begins || udp) {
        let endpoint = affinity::find(packet, service.affinity_s);
        if endpoint != NO_ENDPOINT {
            return Step::deliver_new(endpoint);
        }
    }
    if udp || begins && by_client {
        return look_for(packet, service, &row, index, at, begins);
    }
    if begins {
        let endpoint = endpoint_of(service, index);
        if takes_new(service, endpoint, here) {
            return Step::deliver_new(endpoint);
        }
        if !here && first != NO_NODE && at < LAST {
            return Step::send(first, at + 1);
        }
        return Step::refuse(Outcome::DropNoEndpoint);
    }
    if here && at < LAST {
        let step = elsewhere::answer(packet, service);
        if !step.is_none() {
            return step;
        }
    }
    let next = next(&row, from(&row, at), at + 1, ROW_NODES as u8);
    if !next.is_none() {
        return next;
    }
    elsewhere::last_resort(packet, service, at, first)
}

/// Nobody takes new flows of the row.
#[inline(always)]
fn leaderless(packet: &Packet, service: &Service, row: &Row, udp: bool) -> Step {
    if packet.begins && !packet.is_error {
        return Step::refuse(Outcome::DropNoEndpoint);
    }
    let next = next(row, 1, 1, if udp { LAST } else { ROW_NODES as u8 });
    if !next.is_none() {
        return next;
    }
    if udp {
        return Step::done(Outcome::DropNoEndpoint);
    }
    elsewhere::last_resort(packet, service, 0, NO_NODE)
}

/// A packet of which nobody can say whether it is of a known flow (UDP) or client: it is looked
/// for along the row while the tables are young, and comes back to the row's node at the last
/// position.
#[inline(always)]
fn look_for(
    packet: &Packet,
    service: &Service,
    row: &Row,
    index: u32,
    at: u8,
    begins: bool,
) -> Step {
    let first = row.nodes[0];
    let here = first == THIS_NODE;
    let endpoint = endpoint_of(service, index);
    let takes = takes_new(service, endpoint, here);
    if at < LAST && !(here && at == 0 && is_settled(packet, service, first)) {
        let is_other = !here && first != NO_NODE;
        if at == 0 && is_other {
            return Step::send(first, 1);
        }
        let next = next_sought(row, at);
        if !next.is_none() {
            if at == 0 && here && service.flags & SERVICE_CLIENT_IP == 0 {
                elsewhere::note_sought(packet);
            }
            return next;
        }
        if is_other {
            return Step::send(first, LAST);
        }
    }
    if takes {
        Step::deliver_new(endpoint)
    } else if at == LAST && !here && first != NO_NODE {
        // Others have tables in which it ends here.
        Step::send(first, END)
    } else if begins {
        Step::refuse(Outcome::DropNoEndpoint)
    } else {
        Step::done(Outcome::DropNoEndpoint)
    }
}

/// On to the node where a packet is looked for next that has arrived at place `at`.
///
/// One that did not arrive at this node's own place comes from a node with another table, older
/// or newer. Where this node stands further back here than there, or first, it stands there in the
/// place of somebody who has not been asked. (Its own place is passed over anyway.)
#[inline(always)]
const fn next_sought(row: &Row, at: u8) -> Step {
    let [_, second, third, _] = row.nodes;
    if at <= 1 && second != THIS_NODE && second != NO_NODE {
        Step::send(second, at + 1)
    } else if (at <= 1 || second != THIS_NODE) && third != THIS_NODE && third != NO_NODE {
        // Third or, from there, last.
        Step::send(third, 2 + (at >> 1))
    } else {
        Step::NONE
    }
}

/// Whether an unknown packet at the row's node can only begin a flow: the tables are not young, and
/// it is of no flow that was found elsewhere while they were.
#[inline(always)]
fn is_settled(packet: &Packet, service: &Service, first: u16) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return true };
    let by_client = service.flags & SERVICE_CLIENT_IP != 0;
    let window = if by_client { service.affinity_s } else { settings.udp_window_s };
    let now = now_s();
    if now.saturating_sub(settings.started_s) < window {
        return false;
    }
    if now.saturating_sub(service.changed_s) < window
        && (by_client || service.previous_rows == 0 || !is_as_before(packet, service, first))
    {
        return false;
    }
    by_client || elsewhere::is_sought(packet) == 0
}

/// Whether the row had the same first node before.
#[inline(always)]
fn is_as_before(packet: &Packet, service: &Service, first: u16) -> bool {
    let before = row_index(packet.hash, service.previous_rows, service.previous_mask);
    ROWS.get(service.previous_start.wrapping_add(before))
        .is_some_and(|before| before.nodes[0] == first)
}

/// This node's endpoint for new flows of a row, or [`NO_ENDPOINT`].
#[inline(always)]
fn endpoint_of(service: &Service, index: u32) -> u32 {
    if service.endpoints_start == NO_RANGE {
        return service.endpoint;
    }
    ROW_ENDPOINTS
        .get(service.endpoints_start.wrapping_add(index))
        .map_or(NO_ENDPOINT, |endpoint| *endpoint)
}

/// Whether this node takes new flows of the row. The kernel does its own choosing.
#[inline(always)]
const fn takes_new(service: &Service, endpoint: u32, here: bool) -> bool {
    endpoint != NO_ENDPOINT || here && service.flags & SERVICE_KERNEL != 0
}

/// From which place of the row on a packet is looked for that has arrived at place `at`, as for
/// [`next_sought`]: who stands at that place itself has not been asked unless that is this node, or
/// this node stands before it.
#[inline(always)]
const fn from(row: &Row, at: u8) -> u8 {
    let mut place = 1;
    while place < ROW_NODES as u8 {
        if place <= at && row.nodes[place as usize] == THIS_NODE {
            return at + 1;
        }
        place += 1;
    }
    if at == 0 { 1 } else { at }
}

/// On to the first other node from a place of the row on, at its own place or at `least`, whichever
/// is more.
#[inline(always)]
fn next(row: &Row, from: u8, least: u8, end: u8) -> Step {
    let mut place = 1;
    while place < ROW_NODES as u8 {
        let node = row.nodes[place as usize];
        if place >= from
            && place < end
            && node != THIS_NODE
            && node != NO_NODE
            && least < ROW_NODES as u8
        {
            return Step::send(node, if place < least { least } else { place });
        }
        place += 1;
    }
    Step::NONE
}
