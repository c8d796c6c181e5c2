//! What the agent is told of at once. A ring that is full loses events: each of them comes again.
use crate::{
    budget,
    frame::Frame,
    maps::{CLAIM_BUDGET, EVENTS, mac_bytes},
    packet::at,
};
use lb_common::{
    maps::{EVENT_CLAIM, EVENT_PROBE, EVENT_UNKNOWN_FLOW, Event, FlowKey, NO_NODE, VipKey},
    wire::Ethernet,
};

const NO_MAC: [u8; 6] = [0; 6];

/// What a claim of a VIP uses of a CPU's budget: a hundred a second are told, so that nobody on the
/// link keeps the agent busy, or the ring from what else it is for.
const CLAIM_INTERVAL_NS: u64 = 10_000_000;

#[inline(always)]
const fn about(address: [u8; 16]) -> FlowKey {
    FlowKey {
        client: [0; 16],
        peer: address,
        client_port: [0; 2],
        peer_port: [0; 2],
        proto: 0,
        direction: 0,
        pad: [0; 2],
    }
}

#[inline(always)]
fn submit(event: Event) {
    if let Some(mut entry) = EVENTS.reserve(0) {
        entry.write(event);
        entry.submit(0);
    }
}

#[inline(always)]
fn submit_from<F: Frame>(frame: &F, kind: u32, address: &VipKey, mac: [u8; 6], vlan: u16) {
    submit(Event {
        flow: about(address.vip),
        kind,
        node: u32::from(NO_NODE),
        ifindex: frame.ifindex(),
        vlan,
        mac,
        pad: 0,
    });
}

/// A host that is no agent's node claims a VIP for a link-layer address.
#[inline(never)]
pub(crate) fn claim<F: Frame>(frame: &F, vip: &VipKey, claimed: &[u16; 3], vlan: u16) {
    if budget::allows(&CLAIM_BUDGET, CLAIM_INTERVAL_NS) {
        submit_from(frame, EVENT_CLAIM, vip, mac_bytes(*claimed), vlan);
    }
}

/// A probe frame of the agent at this address has arrived.
#[inline(never)]
pub(crate) fn probe<F: Frame>(frame: &F, agent: &VipKey, vlan: u16) {
    let Some(ethernet) = at::<_, Ethernet>(frame, 0) else { return };
    // SAFETY: `at` has checked the bounds.
    let mac = mac_bytes(unsafe { (*ethernet).source });
    submit_from(frame, EVENT_PROBE, agent, mac, vlan);
}

/// No node of its row knows the flow. `node` is the row's node.
#[inline(always)]
pub(crate) fn unknown_flow(flow: &FlowKey, node: u16) {
    submit(Event {
        flow: *flow,
        kind: EVENT_UNKNOWN_FLOW,
        node: u32::from(node),
        ifindex: 0,
        vlan: 0,
        mac: NO_MAC,
        pad: 0,
    });
}
