use super::*;
use crate::{
    datapath::{
        neighbours::NextHop,
        reach::{Forward, LinkProof, Reach},
        state::Contents,
        uplinks::Uplink,
    },
    membership::cookies::Cookie,
    plan::Plan,
    testing::{ip, next_hop, uplink},
};
use std::sync::Arc;

const FAR: NextHopOf = NextHopOf { last: 3, on_link: false };

/// A node with one address on our link and one behind a router.
fn node() -> PlannedNode {
    PlannedNode { name: "n2".into(), addresses: vec![ip("10.1.0.2"), ip("10.0.0.2")] }
}

struct NextHopOf {
    last: u8,
    on_link: bool,
}

impl NextHopOf {
    fn hop(&self) -> NextHop {
        NextHop { on_link: self.on_link, mtu: 1400, ..next_hop(2, self.last) }
    }
}

fn cookie(value: u64) -> Cookie {
    Cookie::new(value).unwrap()
}

fn value(uplinks: &[Uplink], reach: &Reach, before: Option<&Node>) -> Node {
    let plan = Plan::default();
    node_value(&node(), Inputs { plan: &plan, me: "n1", uplinks, reach }, before)
}

#[test]
fn a_common_link_goes_before_a_router() {
    let uplinks = [uplink(2, "eth0")];
    let mut reach = Reach::default();
    let unknown = value(&uplinks, &reach, None);
    assert_eq!((unknown.ifindex, unknown.flags), (0, 0));
    assert_eq!(address(&unknown), ip("10.1.0.2"));

    reach.next_hops.insert(ip("10.1.0.2"), FAR.hop());
    let far = value(&uplinks, &reach, None);
    assert_eq!((far.ifindex, far.flags, far.mac[5], far.mtu), (2, 0, 3, 1400));
    assert_eq!(address_from_bytes(far.source), ip("10.0.0.1"));

    reach.peers.cookies.insert("n2".into(), cookie(7));
    let far = value(&uplinks, &reach, None);
    assert_eq!((far.flags, far.cookie), (NODE_TUNNEL, 7));

    reach.next_hops.insert(ip("10.0.0.2"), next_hop(2, 2));
    let near = value(&uplinks, &reach, None);
    assert_eq!((near.flags, near.mac[5], near.mtu), (NODE_LINK | NODE_TUNNEL, 2, 1500));
    assert_eq!(address(&near), ip("10.0.0.2"));
}

#[test]
fn a_link_that_is_disproved_is_left_alone() {
    let uplinks = [uplink(2, "eth0")];
    let mut reach = Reach::default();
    reach.next_hops.insert(ip("10.0.0.2"), next_hop(2, 2));
    reach.peers.cookies.insert("n2".into(), cookie(7));
    let flags = |reach: &Reach| value(&uplinks, reach, None).flags;
    for (forward, proof, expected) in [
        (Forward::Auto, None, NODE_LINK | NODE_TUNNEL),
        (Forward::Auto, Some(LinkProof::Proven), NODE_LINK | NODE_TUNNEL),
        (Forward::Auto, Some(LinkProof::Disproved), NODE_TUNNEL),
        (Forward::Link, Some(LinkProof::Disproved), NODE_LINK | NODE_TUNNEL),
        (Forward::Tunnel, Some(LinkProof::Proven), NODE_TUNNEL),
    ] {
        reach.forward = forward;
        reach.peers.proofs = proof.map(|proof| (ip("10.0.0.2"), proof)).into_iter().collect();
        assert_eq!(flags(&reach), expected, "{forward:?} {proof:?}");
        // The same while the kernel cannot resolve it.
        let last = Node { flags: NODE_LINK, ..value(&uplinks, &reach, None) };
        let gone = Reach { next_hops: BTreeMap::new(), ..reach.clone() };
        assert_eq!(value(&uplinks, &gone, Some(&last)).flags, expected);
    }
}

#[test]
fn what_a_node_said_last_stays_in_force() {
    let uplinks = [uplink(2, "eth0")];
    let mut reach = Reach::default();
    reach.next_hops.insert(ip("10.0.0.2"), next_hop(2, 2));
    reach.peers.cookies.insert("n2".into(), cookie(7));
    let before = value(&uplinks, &reach, None);
    // An agent that has just started has not heard of the node yet.
    reach.peers.cookies.clear();
    assert_eq!(value(&uplinks, &reach, Some(&before)), before);
    reach.peers.cookies.insert("n2".into(), cookie(8));
    assert_eq!(value(&uplinks, &reach, Some(&before)).cookie, 8);
    // An entry of another node that had this index is nothing to go by.
    let other = Node { address: address_bytes(ip("10.0.0.9")), ..before };
    let reach = Reach::default();
    assert_eq!(value(&uplinks, &reach, Some(&other)).cookie, 0);
    assert_eq!(value(&[], &reach, Some(&before)).ifindex, 0, "no uplink any more");
}

#[test]
fn a_vlan_is_known_by_its_lower_device_and_tag() {
    let vlan = Uplink { vlan: 100, device: 9, ..uplink(2, "eth0.100") };
    let mut reach = Reach::default();
    reach.next_hops.insert(ip("10.0.0.2"), NextHop { device: 9, ..next_hop(2, 2) });
    let by_tag = value(&[uplink(2, "eth0"), vlan.clone()], &reach, None);
    assert_eq!((by_tag.ifindex, by_tag.vlan), (2, 100));
    // Where TCX carries the program, the VLAN's device is what packets are sent by.
    let by_device = value(&[Uplink { ifindex: 9, vlan: 0, ..vlan }], &reach, None);
    assert_eq!((by_device.ifindex, by_device.vlan), (9, 0));
}

#[test]
fn a_routers_address_is_no_nodes() {
    let plan = Plan { nodes: Arc::new(vec![node()]), ..Plan::default() };
    let uplinks = [uplink(2, "eth0")];
    let mut state = State::adopt(Contents::empty(1, 1));
    let mut macs = |reach: &Reach| {
        let inputs = Inputs { plan: &plan, me: "n1", uplinks: &uplinks, reach };
        let mut changes = Changes::default();
        let positions = write_nodes(&mut state, inputs, &mut changes, 0);
        write_node_macs(&mut state, inputs, &positions, &mut changes);
        state.contents.node_macs.keys().map(|key| key.mac[5]).collect::<Vec<_>>()
    };
    let mut reach = Reach::default();
    reach.next_hops.insert(ip("10.1.0.2"), FAR.hop());
    assert!(macs(&reach).is_empty());
    reach.next_hops.insert(ip("10.0.0.2"), next_hop(2, 2));
    assert_eq!(macs(&reach), [2]);
    // Disproved or not: its frames are an agent's.
    reach.peers.proofs.insert(ip("10.0.0.2"), LinkProof::Disproved);
    assert_eq!(macs(&reach), [2]);
}
