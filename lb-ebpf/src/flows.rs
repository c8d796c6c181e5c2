//! The node's flows: which endpoint each has, and the way back.
//!
//! A new flow stands in `PENDING`, a small table that a flood may churn; the client's
//! second packet moves it to `FLOWS`. Each flow has two entries, one for either
//! direction.
use crate::maps::{ENDPOINTS, FLOWS, PENDING, address_words};
use aya_ebpf::btf_maps::LruHashMap;
use lb_common::{
    hash::flow_hash_v6,
    maps::{ENDPOINT_PRESENT, FLOW_CLOSING, Flow, FlowKey, TO_CLIENT},
    outcome::Outcome,
    wire::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
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
}

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;
/// How many client ports are tried before a flow is refused.
const PORT_ATTEMPTS: u32 = 5;

/// Finds the endpoint of the flow `key`: the one it has, or else the one with the index
/// `endpoint` from now on. `flags` are the packet's TCP flags.
///
/// Not inlined, so that this code exists once and not in the way of packets that are
/// only sent on. The verifier lets such a function return a number only: 0, or 1 plus
/// the outcome that refuses the packet.
#[inline(never)]
pub(crate) fn find_or_create(key: &FlowKey, flags: u8, endpoint: u32, target: &mut Target) -> u32 {
    match find(key, flags, endpoint, target) {
        Ok(()) => 0,
        Err(outcome) => 1 + outcome as u32,
    }
}

#[inline(always)]
fn find(key: &FlowKey, flags: u8, endpoint: u32, target: &mut Target) -> Result<(), Outcome> {
    // A segment with SYN and ACK begins nothing on this side.
    let begins = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    let ends = flags & (TCP_FIN | TCP_RST) != 0;
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        // SAFETY: entries of an LRU map may be reused while they are read; the worst
        // that comes of it is one packet to another flow's endpoint, whose stack
        // refuses it.
        unsafe {
            target.set(&*flow);
            let closing = (*flow).state & FLOW_CLOSING != 0;
            if is_present((*flow).endpoint, target) && !(begins && closing) {
                if ends {
                    (*flow).state |= FLOW_CLOSING;
                }
                return Ok(());
            }
        }
        // Ended, or its endpoint is gone: this begins another.
        let _ = FLOWS.remove(reply_key(key, target));
        let _ = FLOWS.remove(key);
    } else if let Some(flow) = PENDING.get_ptr(key) {
        // SAFETY: as above.
        let index = unsafe {
            target.set(&*flow);
            (*flow).endpoint
        };
        if is_present(index, target) {
            if begins {
                return Ok(());
            }
            // The client has answered, so it is there: its flow moves to the main table.
            let state = if ends { FLOW_CLOSING } else { 0 };
            return store(&FLOWS, key, target, index, state);
        }
    }
    create(key, endpoint, target)
}

impl Target {
    #[inline(always)]
    fn set(&mut self, flow: &Flow) {
        self.address = flow.peer;
        self.port = flow.peer_port;
        self.client_port = flow.client_port;
    }
}

/// Whether the endpoint that a flow remembers is still this node's.
#[inline(always)]
fn is_present(index: u32, target: &Target) -> bool {
    ENDPOINTS.get(index).is_some_and(|endpoint| {
        endpoint.flags & ENDPOINT_PRESENT != 0
            && u128::from_ne_bytes(endpoint.address) == u128::from_ne_bytes(target.address)
            && u16::from_ne_bytes(endpoint.port) == u16::from_ne_bytes(target.port)
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

/// Writes both entries of a flow.
#[inline(always)]
fn store<const SIZE: usize>(
    flows: &Flows<SIZE>,
    key: &FlowKey,
    target: &Target,
    endpoint: u32,
    state: u8,
) -> Result<(), Outcome> {
    let mut flow = Flow {
        peer: key.peer,
        peer_port: key.peer_port,
        client_port: key.client_port,
        endpoint,
        seen_s: 0,
        state: 0,
        pad: [0; 3],
    };
    // The way back first: a reply must not find a flow that it cannot leave.
    if flows.insert(reply_key(key, target), flow, ANY).is_err() {
        return Err(Outcome::DropFlowTable);
    }
    flow.peer = target.address;
    flow.peer_port = target.port;
    flow.client_port = target.client_port;
    flow.state = state;
    flows.insert(key, flow, ANY).map_err(|_| Outcome::DropFlowTable)
}

/// Notes a new flow to an endpoint.
#[inline(always)]
fn create(key: &FlowKey, index: u32, target: &mut Target) -> Result<(), Outcome> {
    let Some(endpoint) = ENDPOINTS.get(index) else { return Err(Outcome::DropNoEndpoint) };
    if endpoint.flags & ENDPOINT_PRESENT == 0 {
        return Err(Outcome::DropNoEndpoint);
    }
    target.address = endpoint.address;
    target.port = endpoint.port;
    target.client_port = key.client_port;
    let mut attempt = 0;
    while attempt < PORT_ATTEMPTS {
        if !is_taken(key, target) {
            return store(&PENDING, key, target, index, 0);
        }
        attempt += 1;
        target.client_port = other_port(key, attempt);
    }
    Err(Outcome::DropFlowTable)
}

/// Whether the endpoint already has a flow with that client port through another VIP.
#[inline(always)]
fn is_taken(key: &FlowKey, target: &Target) -> bool {
    let back = reply_key(key, target);
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
