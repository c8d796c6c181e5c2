//! The node's flows: which endpoint each has, and the way back.
//!
//! A new flow stands in `PENDING`, a small table that a flood may churn; the client's
//! second packet moves it to `FLOWS`. Each flow has two entries, one for either
//! direction; one that the kernel delivers has the client's only.
//!
//! The two functions here are not inlined, so that this code exists once and not in the way
//! of packets that are only sent on.
use crate::{
    elsewhere,
    maps::{ENDPOINTS, FLOWS, PENDING, address_words, now_ns, now_s},
    packet::{LATER, Packet},
};
use aya_ebpf::btf_maps::LruHashMap;
use lb_common::{
    closed,
    hash::flow_hash_v6,
    maps::{
        ENDPOINT_PRESENT, FLOW_CLOSED_AT, FLOW_CLOSING, FLOW_KERNEL, Flow, FlowKey, NO_ENDPOINT,
        TO_CLIENT, UDP_IDLE_S,
    },
    wire::{TCP_FIN, TCP_RST, protocol},
};

/// Where a flow goes. Aligned, because BPF code copies byte by byte what may not be.
#[repr(C, align(8))]
pub(crate) struct Target {
    /// The endpoint's address, as the maps hold it.
    pub(crate) address: [u8; 16],
    /// The endpoint's port.
    pub(crate) port: [u8; 2],
    /// The client's port as the endpoint sees it.
    pub(crate) client_port: [u8; 2],
    /// Index of the endpoint, or [`NO_ENDPOINT`].
    pub(crate) endpoint: u32,
}

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;
/// How many client ports are tried before a flow is refused.
const PORT_ATTEMPTS: u32 = 5;
const SECOND_NS: u64 = 1_000_000_000;
/// For how long a client that has closed is silent before its port may be taken for another
/// connection's: two seconds at least, since only seconds are noted.
const DOUBT_NS: u64 = 3 * SECOND_NS;

/// [`Flow::state`] of a flow whose client's FIN was seen.
const CLOSED: u8 = FLOW_CLOSING | FLOW_CLOSED_AT;

/// Of [`find`]: there is no such flow.
pub(crate) const UNKNOWN: u32 = 0;
/// Of [`find`]: there is none any more, but what was there is to be removed.
pub(crate) const STALE: u32 = 1;
/// Of both: the target is the flow's endpoint.
pub(crate) const KNOWN: u32 = 2;
/// Of both: the kernel delivers the flow's packets.
pub(crate) const KERNEL: u32 = 3;
/// Of both: the table would not take the flow.
pub(crate) const FULL: u32 = 4;
/// Of [`create`]: the endpoint is gone.
pub(crate) const GONE: u32 = 5;
/// Of [`find`], beside [`KNOWN`] and [`KERNEL`]: it is the first packet in this second.
pub(crate) const HEARD: u32 = 0x100;

/// Finds the flow of a packet and notes that the client has been heard. A closing flow is none
/// for a packet that begins one, and none for others if its client was silent since or they look
/// like another connection's, until the agents have said that it is here all the same: the
/// client's port may have begun another connection at another node. What an ICMP error is about
/// is only looked at.
///
/// With [`STALE`] the target is what the flow had.
#[inline(never)]
pub(crate) fn find(packet: &Packet, target: &mut Target) -> u32 {
    let key = &packet.flow;
    // What begins a flow ends none, whatever else it says.
    let ends = !packet.begins && packet.flags & (TCP_FIN | TCP_RST) != 0;
    let resets = ends && packet.flags & TCP_RST != 0 && !packet.is_error;
    let now = now_ns();
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        // SAFETY: entries of an LRU map may be reused while they are read; the worst
        // that comes of it is one packet to another flow's endpoint, whose stack
        // refuses it.
        unsafe {
            target.set(&*flow);
            let state = (*flow).state;
            let age = age_ns(now, (*flow).seen_s);
            if !is_valid(target, state, key.proto, age)
                || packet.begins && state & FLOW_CLOSING != 0
            {
                return STALE;
            }
            if state & FLOW_CLOSING != 0
                && key.proto == protocol::TCP
                && !packet.is_error
                && (age >= DOUBT_NS || is_another(&*flow, packet))
                && elsewhere::is_known_here(key) == 0
            {
                return UNKNOWN;
            }
            let mut found = known(state);
            if resets {
                end(key);
                return found;
            }
            if !packet.is_error {
                if ends && state & FLOW_CLOSED_AT == 0 {
                    (*flow).closed_at = closed::mark(packet.sequence);
                    (*flow).state = state | CLOSED;
                }
                if age >= SECOND_NS {
                    (*flow).seen_s = (now / SECOND_NS) as u32;
                    found |= HEARD;
                }
            }
            return found;
        }
    }
    let Some(flow) = PENDING.get_ptr_mut(key) else { return UNKNOWN };
    // SAFETY: as above.
    unsafe {
        target.set(&*flow);
        let state = (*flow).state;
        let age = age_ns(now, (*flow).seen_s);
        if !is_valid(target, state, key.proto, age) {
            return UNKNOWN;
        }
        if packet.is_error {
            return known(state);
        }
        if resets {
            end(key);
            return known(state);
        }
        if packet.begins {
            (*flow).seen_s = (now / SECOND_NS) as u32;
            return known(state) | HEARD;
        }
        // The client has answered, so it is there: its flow moves to the main table.
        let state = if ends { state | CLOSED } else { state };
        if store(&FLOWS, packet, &reply_key(key, target), target, state) {
            known(state) | HEARD
        } else {
            FULL
        }
    }
}

/// A reset is the last that comes of a flow, and so is what its client begins after it. Were it
/// kept, the client's port could begin another one elsewhere, whose packets this node would then
/// give to the endpoint of the old one. The way back stays for what the endpoint has under way.
#[inline(always)]
pub(crate) fn end(key: &FlowKey) {
    let _ = FLOWS.remove(key);
    let _ = PENDING.remove(key);
}

/// Notes that a flow which the kernel delivers, and which is not known, is ending with this packet.
#[inline(never)]
pub(crate) fn note_ending(packet: &Packet) -> u32 {
    let key = &packet.flow;
    let flow = Flow {
        peer: key.peer,
        peer_port: key.peer_port,
        client_port: key.client_port,
        endpoint: NO_ENDPOINT,
        seen_s: now_s(),
        state: FLOW_KERNEL | CLOSED,
        closed_at: closed::mark(packet.sequence),
    };
    u32::from(FLOWS.insert(key, flow, ANY).is_ok())
}

/// Notes a new flow: to the endpoint with this index or, if `kernel`, to wherever the kernel
/// delivers it. `found` is what [`find`] said, and the target what it left.
#[inline(never)]
pub(crate) fn create(
    packet: &Packet,
    endpoint: u32,
    kernel: bool,
    found: u32,
    target: &mut Target,
) -> u32 {
    let key = &packet.flow;
    // One key for all that is done with the way back: the stack is small.
    let mut back = reply_key(key, target);
    if found == STALE {
        // Where its way back was evicted, another VIP's flow may have that place.
        if !is_taken(key, &back) {
            let _ = FLOWS.remove(back);
        }
        let _ = FLOWS.remove(key);
    }
    if kernel {
        target.address = key.peer;
        target.port = key.peer_port;
        target.client_port = key.client_port;
        target.endpoint = NO_ENDPOINT;
        return if store(&PENDING, packet, &back, target, FLOW_KERNEL) { KERNEL } else { FULL };
    }
    let Some(present) = ENDPOINTS.get(endpoint) else { return GONE };
    if present.flags & ENDPOINT_PRESENT == 0 {
        return GONE;
    }
    target.address = present.address;
    target.port = present.port;
    target.client_port = key.client_port;
    target.endpoint = endpoint;
    // A checksum that covers the ports could not be changed in step.
    let sctp = key.proto == protocol::SCTP;
    if sctp && u16::from_ne_bytes(target.port) != u16::from_ne_bytes(key.peer_port) {
        return FULL;
    }
    back.peer = target.address;
    back.peer_port = target.port;
    back.client_port = target.client_port;
    let mut attempt = 0;
    while attempt < PORT_ATTEMPTS {
        if !is_taken(key, &back) {
            target.client_port = back.client_port;
            return if store(&PENDING, packet, &back, target, 0) { KNOWN } else { FULL };
        }
        if sctp {
            return FULL;
        }
        attempt += 1;
        back.client_port = other_port(key, attempt);
    }
    FULL
}

impl Target {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self { address: [0; 16], port: [0; 2], client_port: [0; 2], endpoint: NO_ENDPOINT }
    }

    #[inline(always)]
    fn set(&mut self, flow: &Flow) {
        self.address = flow.peer;
        self.port = flow.peer_port;
        self.client_port = flow.client_port;
        self.endpoint = flow.endpoint;
    }
}

/// Whether a packet is another connection's than the one that its client has closed.
#[inline(always)]
fn is_another(flow: &Flow, packet: &Packet) -> bool {
    flow.state & FLOW_CLOSED_AT != 0
        && packet.fragment != LATER
        && closed::is_another(flow.closed_at, packet.sequence)
}

#[inline(always)]
const fn known(state: u8) -> u32 {
    if state & FLOW_KERNEL != 0 { KERNEL } else { KNOWN }
}

/// Nanoseconds since the beginning of the second in which a client was last heard.
#[inline(always)]
const fn age_ns(now: u64, seen_s: u32) -> u64 {
    now.saturating_sub(seen_s as u64 * SECOND_NS)
}

/// Whether a flow's endpoint still is there and, where nothing ends a flow, it has not been
/// silent for long.
#[inline(always)]
fn is_valid(target: &Target, state: u8, proto: u8, age: u64) -> bool {
    if proto == protocol::UDP && age >= u64::from(UDP_IDLE_S) * SECOND_NS {
        return false;
    }
    state & FLOW_KERNEL != 0 || is_present(target.endpoint, &target.address, target.port)
}

/// Whether the endpoint that is remembered by its index still is this node's.
#[inline(always)]
pub(crate) fn is_present(index: u32, address: &[u8; 16], port: [u8; 2]) -> bool {
    ENDPOINTS.get(index).is_some_and(|endpoint| {
        endpoint.flags & ENDPOINT_PRESENT != 0
            && u128::from_ne_bytes(endpoint.address) == u128::from_ne_bytes(*address)
            && u16::from_ne_bytes(endpoint.port) == u16::from_ne_bytes(port)
    })
}

/// The key under which the endpoint's packets are found.
#[inline(always)]
fn reply_key(key: &FlowKey, target: &Target) -> FlowKey {
    FlowKey {
        client: key.client,
        peer: target.address,
        client_port: target.client_port,
        peer_port: target.port,
        proto: key.proto,
        direction: TO_CLIENT,
        pad: [0; 2],
    }
}

type Flows<const SIZE: usize> = LruHashMap<FlowKey, Flow, SIZE>;

/// Writes the entries of a packet's flow, the endpoint's under the key `back`. Returns whether the table took them.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value it would be copied on the stack, which is small"
)]
#[inline(always)]
fn store<const SIZE: usize>(
    flows: &Flows<SIZE>,
    packet: &Packet,
    back: &FlowKey,
    target: &Target,
    state: u8,
) -> bool {
    let key = &packet.flow;
    let mut flow = Flow {
        peer: key.peer,
        peer_port: key.peer_port,
        client_port: key.client_port,
        endpoint: target.endpoint,
        seen_s: now_s(),
        state: 0,
        closed_at: [0; 3],
    };
    // The way back first: a reply must not find a flow that it cannot leave.
    if state & FLOW_KERNEL == 0 && flows.insert(back, &flow, ANY).is_err() {
        return false;
    }
    flow.peer = target.address;
    flow.peer_port = target.port;
    flow.client_port = target.client_port;
    flow.state = state;
    if state & FLOW_CLOSED_AT != 0 {
        flow.closed_at = closed::mark(packet.sequence);
    }
    flows.insert(key, &flow, ANY).is_ok()
}

/// Whether the endpoint already has another flow with that client port, through another VIP.
#[inline(always)]
fn is_taken(key: &FlowKey, back: &FlowKey) -> bool {
    let mut found = FLOWS.get_ptr(back);
    if found.is_none() {
        found = PENDING.get_ptr(back);
    }
    let Some(flow) = found else { return false };
    // SAFETY: only compared; an entry reused meanwhile costs one more attempt.
    unsafe {
        u128::from_ne_bytes((*flow).peer) != u128::from_ne_bytes(key.peer)
            || (*flow).peer_port != key.peer_port
            || (*flow).client_port != key.client_port
    }
}

/// Another client port, from the whole flow, outside the system ports.
#[inline(always)]
fn other_port(key: &FlowKey, attempt: u32) -> [u8; 2] {
    let ports = u32::from(u16::from_ne_bytes(key.client_port)) | attempt << 16;
    let hash = flow_hash_v6(address_words(key.client), address_words(key.peer), ports, key.proto);
    (1024 + (hash & 0x7fff) as u16).to_be_bytes()
}
