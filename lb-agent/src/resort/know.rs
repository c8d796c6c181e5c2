//! Whether this node knows a flow: by its tables, or by its kernel's connection tracking.
use super::message::{FlowId, Knowledge};
use crate::{
    conntrack::{Entry, Phase, Tuple},
    datapath::address_bytes,
};
use lb_common::{
    maps::{FLOW_CLOSING, FLOW_KERNEL, Flow, FlowKey, NO_ENDPOINT, TO_CLIENT, UDP_IDLE_S},
    wire::protocol,
};
use std::net::SocketAddr;

/// A flow that was seen within so many seconds is a lively one.
const LIVELY_S: u32 = 60;

/// What is looked at.
pub trait Tables {
    /// The entry of `FLOWS`, or else of `PENDING`.
    fn flow(&mut self, key: &FlowKey) -> Option<Flow>;
    /// Writes an entry of `FLOWS`. False if the kernel refuses it.
    fn write(&mut self, key: &FlowKey, flow: &Flow) -> bool;
    /// Whether this element of `ENDPOINTS` is this endpoint.
    fn is_endpoint(&self, index: u32, address: [u8; 16], port: [u8; 2]) -> bool;
    /// This node's endpoints of the flow's Service, with their indices in `ENDPOINTS`.
    fn endpoints(&mut self, flow: &FlowId) -> Vec<(u32, SocketAddr)>;
    /// The connection that began with packets of this tuple.
    fn connection(&mut self, tuple: &Tuple) -> Option<Entry>;
}

/// Looks for a flow. One that the kernel tracks is known to its program, too, afterwards.
/// `now_s` are seconds of `CLOCK_MONOTONIC`.
pub fn know(tables: &mut impl Tables, flow: &FlowId, now_s: u32) -> Knowledge {
    if let Some(known) = tables.flow(&flow.key()).filter(|known| is_valid(tables, known)) {
        let idle = now_s.saturating_sub(known.seen_s);
        return match () {
            () if known.state & FLOW_CLOSING != 0 || idle >= UDP_IDLE_S => Knowledge::ended(idle),
            () if idle >= LIVELY_S => Knowledge::Open,
            () => Knowledge::Lively,
        };
    }
    let knowledge = proxied(tables, flow, now_s);
    if knowledge != Knowledge::Nothing { knowledge } else { evicted(tables, flow, now_s) }
}

fn is_valid(tables: &impl Tables, flow: &Flow) -> bool {
    flow.state & FLOW_KERNEL != 0 || tables.is_endpoint(flow.endpoint, flow.peer, flow.peer_port)
}

fn to(flow: &FlowId, destination: SocketAddr) -> Tuple {
    Tuple {
        source: flow.client,
        destination: destination.ip(),
        source_port: flow.client_port,
        destination_port: destination.port(),
        protocol: flow.protocol,
    }
}

/// How well a tracked connection is known. One that only its client has spoken in, or that was
/// reset, may have come of a single stray packet.
fn worth(entry: &Entry) -> Knowledge {
    match entry.phase {
        _ if !entry.seen_reply || entry.zoned => Knowledge::Nothing,
        Phase::Reset => Knowledge::Nothing,
        // When its client was heard last is not known.
        Phase::Over | Phase::Closing => Knowledge::ended(LIVELY_S),
        Phase::Opening | Phase::Open => Knowledge::Open,
    }
}

fn is_translated(entry: &Entry) -> bool {
    (entry.original.destination, entry.original.destination_port)
        != (entry.reply.source, entry.reply.source_port)
}

/// What a tracked connection's flow has as its state, beside what else it is. One that is ending is
/// marked, so that its client may begin another.
fn closing(entry: &Entry) -> u8 {
    if matches!(entry.phase, Phase::Closing | Phase::Over) { FLOW_CLOSING } else { 0 }
}

/// The flow of a connection that kube-proxy serves on this node.
fn kernels_flow(flow: &FlowId, entry: &Entry, seen_s: u32) -> Flow {
    Flow {
        peer: address_bytes(flow.vip),
        peer_port: flow.port.to_be_bytes(),
        client_port: flow.client_port.to_be_bytes(),
        endpoint: NO_ENDPOINT,
        seen_s,
        state: FLOW_KERNEL | closing(entry),
        closed_at: [0; 3],
    }
}

/// When the client of a tracked connection that is looked up now was heard. One that has ended was
/// not of late: its port may be another connection's, which this node's program must ask about
/// before it takes its packets for this one's.
fn heard_s(knowledge: Knowledge, now_s: u32) -> u32 {
    if knowledge.is_doubtful() { now_s.saturating_sub(LIVELY_S) } else { now_s }
}

/// The flow that a tracked connection to a VIP is, if kube-proxy serves it and it may go on: those
/// that are just being opened count, too, those that are over do not.
pub fn going_on(entry: &Entry, now_s: u32) -> Option<(FlowId, Flow)> {
    let stream = matches!(entry.original.protocol, protocol::TCP | protocol::SCTP);
    let lives = match entry.phase {
        Phase::Opening => true,
        Phase::Open | Phase::Closing => entry.seen_reply,
        Phase::Over | Phase::Reset => false,
    };
    if !stream || !lives || entry.zoned || !is_translated(entry) {
        return None;
    }
    let Tuple { source, destination, source_port, destination_port, protocol } = entry.original;
    let (client, client_port) = (source, source_port);
    let flow = FlowId { client, vip: destination, client_port, port: destination_port, protocol };
    Some((flow, kernels_flow(&flow, entry, now_s)))
}

/// A connection to the VIP that kube-proxy serves on this node.
fn proxied(tables: &mut impl Tables, flow: &FlowId, now_s: u32) -> Knowledge {
    let tuple = to(flow, SocketAddr::new(flow.vip, flow.port));
    let Some(entry) = tables.connection(&tuple).filter(is_translated) else {
        return Knowledge::Nothing;
    };
    let knowledge = worth(&entry);
    let kernel = kernels_flow(flow, &entry, heard_s(knowledge, now_s));
    if knowledge != Knowledge::Nothing && tables.write(&flow.key(), &kernel) {
        knowledge
    } else {
        Knowledge::Nothing
    }
}

/// A flow of an endpoint of this node that the table has evicted: both entries are made again.
fn evicted(tables: &mut impl Tables, flow: &FlowId, now_s: u32) -> Knowledge {
    let (vip, port) = (address_bytes(flow.vip), flow.port.to_be_bytes());
    let client_port = flow.client_port.to_be_bytes();
    for (endpoint, at) in tables.endpoints(flow) {
        let Some(entry) = tables.connection(&to(flow, at)) else { continue };
        let knowledge = worth(&entry);
        if knowledge == Knowledge::Nothing || is_translated(&entry) {
            continue;
        }
        let back = FlowKey {
            peer: address_bytes(at.ip()),
            peer_port: at.port().to_be_bytes(),
            direction: TO_CLIENT,
            ..flow.key()
        };
        // The connection may be that of another VIP with the same endpoint.
        let others =
            tables.flow(&back).is_some_and(|back| (back.peer, back.peer_port) != (vip, port));
        if others {
            continue;
        }
        let to_client = Flow {
            peer: vip,
            peer_port: port,
            client_port,
            endpoint,
            seen_s: heard_s(knowledge, now_s),
            ..Flow::default()
        };
        let state = closing(&entry);
        let to_endpoint = Flow { peer: back.peer, peer_port: back.peer_port, state, ..to_client };
        // The way back first: a packet that is delivered is answered.
        if tables.write(&back, &to_client) && tables.write(&flow.key(), &to_endpoint) {
            return knowledge;
        }
    }
    Knowledge::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;
    use std::collections::BTreeMap;

    const POD: ([u8; 4], u16) = ([10, 244, 1, 5], 8080);
    const NOW: u32 = 10_000;

    #[derive(Default)]
    struct Fake {
        flows: BTreeMap<FlowKey, Flow>,
        connections: Vec<Entry>,
    }

    fn pod() -> SocketAddr {
        POD.into()
    }

    impl Tables for Fake {
        fn flow(&mut self, key: &FlowKey) -> Option<Flow> {
            self.flows.get(key).copied()
        }
        fn write(&mut self, key: &FlowKey, flow: &Flow) -> bool {
            self.flows.insert(*key, *flow);
            true
        }
        fn is_endpoint(&self, index: u32, address: [u8; 16], port: [u8; 2]) -> bool {
            (index, address, port) == (3, address_bytes(pod().ip()), pod().port().to_be_bytes())
        }
        fn endpoints(&mut self, _: &FlowId) -> Vec<(u32, SocketAddr)> {
            vec![(3, pod())]
        }
        fn connection(&mut self, tuple: &Tuple) -> Option<Entry> {
            self.connections.iter().find(|entry| entry.original == *tuple).copied()
        }
    }

    fn flow() -> FlowId {
        let (client, vip) = (ip("10.9.9.9"), ip("192.0.2.10"));
        FlowId { client, vip, client_port: 40_000, port: 80, protocol: 6 }
    }

    fn entry(destination: SocketAddr, phase: Phase) -> Entry {
        let reply = Tuple {
            source: pod().ip(),
            destination: flow().client,
            source_port: pod().port(),
            destination_port: 40_000,
            protocol: 6,
        };
        let original = to(&flow(), destination);
        Entry { original, reply, seen_reply: true, phase, id: None, zoned: false }
    }

    fn vip() -> SocketAddr {
        SocketAddr::new(flow().vip, 80)
    }

    #[test]
    fn flows_of_the_table_while_their_endpoint_is_there() {
        let mut fake = Fake::default();
        assert_eq!(know(&mut fake, &flow(), NOW), Knowledge::Nothing);
        let (peer, peer_port) = (address_bytes(pod().ip()), pod().port().to_be_bytes());
        let mut known = Flow { peer, peer_port, endpoint: 3, seen_s: NOW - 5, ..Flow::default() };
        let mut knowledge = |known: Flow| {
            fake.flows.insert(flow().key(), known);
            know(&mut fake, &flow(), NOW)
        };
        assert_eq!(knowledge(known), Knowledge::Lively);
        known.seen_s = NOW - 100;
        assert_eq!(knowledge(known), Knowledge::Open);
        known.state = FLOW_CLOSING;
        assert_eq!(knowledge(known), Knowledge::ended(100));
        known.endpoint = 4;
        assert_eq!(knowledge(known), Knowledge::Nothing);
        known.state = FLOW_KERNEL;
        assert_eq!(knowledge(known), Knowledge::Open);
    }

    #[test]
    fn connections_of_kube_proxy_become_the_kernels_flows() {
        for (phase, knowledge) in [
            (Phase::Open, Knowledge::Open),
            (Phase::Closing, Knowledge::ended(60)),
            (Phase::Over, Knowledge::ended(60)),
            (Phase::Reset, Knowledge::Nothing),
        ] {
            let mut fake = Fake { connections: vec![entry(vip(), phase)], ..Fake::default() };
            assert_eq!(know(&mut fake, &flow(), NOW), knowledge, "{phase:?}");
            let written = fake.flows.get(&flow().key());
            assert_eq!(written.is_some(), knowledge != Knowledge::Nothing);
            let ends = if knowledge == Knowledge::ended(60) { FLOW_CLOSING } else { 0 };
            let state = FLOW_KERNEL | ends;
            let seen_s = if knowledge == Knowledge::ended(60) { NOW - 60 } else { NOW };
            assert!(written.is_none_or(|f| (f.state, f.endpoint) == (state, NO_ENDPOINT)));
            assert!(written.is_none_or(|f| f.seen_s == seen_s));
            let going_on = going_on(&entry(vip(), phase), NOW);
            let expected = written.filter(|_| phase != Phase::Over);
            let expected = expected.map(|written| (flow(), Flow { seen_s: NOW, ..*written }));
            assert_eq!(going_on, expected, "{phase:?}");
        }
        // The kernel has picked up a stray packet.
        let mut stray = entry(vip(), Phase::Open);
        stray.seen_reply = false;
        assert_eq!(going_on(&stray, NOW), None);
        let mut fake = Fake { connections: vec![stray], ..Fake::default() };
        assert_eq!(know(&mut fake, &flow(), NOW), Knowledge::Nothing);
        // It waits for the pod's first word.
        assert!(going_on(&Entry { phase: Phase::Opening, ..stray }, NOW).is_some());
        // Nobody has translated it: it is a host's own.
        assert_eq!(going_on(&entry(pod(), Phase::Open), NOW), None);
    }

    #[test]
    fn an_evicted_flow_is_made_again_from_its_connection() {
        let mut fake = Fake { connections: vec![entry(pod(), Phase::Open)], ..Fake::default() };
        assert_eq!(know(&mut fake, &flow(), NOW), Knowledge::Open);
        let there = fake.flows[&flow().key()];
        assert_eq!((there.peer, there.endpoint), (address_bytes(pod().ip()), 3));
        let (key, back) = fake.flows.iter().find(|(key, _)| key.direction == TO_CLIENT).unwrap();
        assert_eq!((key.peer, back.peer), (there.peer, address_bytes(flow().vip)));
        assert_eq!(know(&mut fake, &flow(), NOW), Knowledge::Lively);

        // The same connection is no other VIP's.
        let other = FlowId { vip: ip("192.0.2.11"), ..flow() };
        assert_eq!(know(&mut fake, &other, NOW), Knowledge::Nothing);
    }

    #[test]
    fn an_evicted_flow_that_has_ended_is_made_again_as_such() {
        for phase in [Phase::Closing, Phase::Over] {
            let mut fake = Fake { connections: vec![entry(pod(), phase)], ..Fake::default() };
            assert_eq!(know(&mut fake, &flow(), NOW), Knowledge::ended(60), "{phase:?}");
            let there = fake.flows[&flow().key()];
            assert_eq!((there.state, there.seen_s), (FLOW_CLOSING, NOW - 60), "{phase:?}");
            assert_eq!(know(&mut fake, &flow(), NOW), Knowledge::ended(60), "{phase:?}");
        }
    }
}
