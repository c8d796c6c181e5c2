//! The nodes' part: who has which index, how each is reached, whose frames are an agent's.
use super::{
    super::{
        address_bytes, address_from_bytes,
        state::{NodeOwner, State, Write, prune, upsert},
    },
    Changes, Inputs,
};
use crate::plan::{Plan, PlannedNode};
use lb_common::maps::{
    MAX_NODES, MacKey, MacOwner, NO_NODE, NODE_LINK, NODE_TUNNEL, Node, THIS_NODE,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// Which index of `NODES` each node of the plan has.
pub(super) struct Positions {
    /// By position in the plan; [`NO_NODE`] where there was no room.
    pub(super) indices: Vec<u16>,
    /// All that are in use.
    pub(super) slots: BTreeSet<u32>,
}

impl Positions {
    /// The same by name.
    pub(super) fn by_name(&self, plan: &Plan) -> BTreeMap<String, u16> {
        let names = plan.nodes.iter().map(|node| node.name.clone());
        names.zip(self.indices.iter().copied()).collect()
    }
}

pub(super) fn write_nodes(
    state: &mut State,
    inputs: Inputs<'_>,
    changes: &mut Changes,
    now: u64,
) -> Positions {
    // Elements that an earlier agent made belong to the node that has their address.
    let found: HashMap<_, _> = state
        .node_slots
        .iter()
        .filter_map(|(owner, _)| match owner {
            NodeOwner::Found(address, _) => Some((*address, owner.clone())),
            NodeOwner::Named(_) => None,
        })
        .collect();
    let mut indices = Vec::new();
    let mut slots = BTreeSet::new();
    let mut left_out = 0;
    for node in inputs.plan.nodes.iter() {
        if node.name == inputs.me {
            indices.push(THIS_NODE);
            continue;
        }
        let owner = NodeOwner::Named(node.name.clone());
        if state.node_slots.get(&owner).is_none()
            && let Some(found) =
                node.addresses.iter().find_map(|address| found.get(&address_bytes(*address)))
        {
            state.node_slots.rename(found, owner.clone());
        }
        let Some(index) = state.node_slots.get_or_allocate(&owner, now) else {
            left_out += 1;
            indices.push(NO_NODE);
            continue;
        };
        // Below MAX_NODES, which is far below NO_NODE.
        indices.push(index as u16);
        slots.insert(index);
        let value = node_value(node, inputs, state.contents.nodes.get(&index));
        upsert(&mut state.contents.nodes, index, value, &mut changes.writes, Write::Node);
    }
    changes.full("NODES", MAX_NODES, left_out);
    Positions { indices, slots }
}

/// How a node is reached: by the first of its addresses that a frame gets to without a router,
/// else by the first that is reached by one.
///
/// While none is, the last known way stays: the kernel forgets a neighbour that misses a
/// few answers, and a frame to where it was is at worst as lost as one that is dropped here.
/// A cookie stays until the node tells another: its kernel goes on without its agent.
fn node_value(node: &PlannedNode, inputs: Inputs<'_>, before: Option<&Node>) -> Node {
    let Inputs { uplinks, reach, .. } = inputs;
    let before =
        before.filter(|before| node.addresses.iter().any(|a| address_bytes(*a) == before.address));
    let cookie = reach.peers.cookies.get(&node.name).map(|cookie| cookie.get());
    let cookie = cookie.or(before.map(|before| before.cookie)).unwrap_or(0);
    let of_link = |on_link: bool| {
        node.addresses.iter().find_map(|address| {
            let hop = reach.next_hops.get(address).filter(|hop| hop.on_link == on_link)?;
            let uplink = uplinks.iter().find(|uplink| uplink.device == hop.device)?;
            Some((*address, hop, uplink))
        })
    };
    let flags = |by_link: bool| {
        let of = |set: bool, flag: u32| if set { flag } else { 0 };
        of(by_link, NODE_LINK) | of(cookie != 0, NODE_TUNNEL)
    };
    if let Some((address, hop, uplink)) = of_link(true).or_else(|| of_link(false)) {
        return Node {
            address: address_bytes(address),
            source: address_bytes(hop.source),
            cookie,
            ifindex: uplink.ifindex,
            flags: flags(reach.by_link(address)),
            mac: hop.mac,
            source_mac: uplink.mac,
            vlan: uplink.vlan,
            mtu: hop.mtu,
        };
    }
    let last_known = || {
        let before = before.filter(|before| before.ifindex != 0)?;
        let uplink =
            uplinks.iter().find(|u| (u.ifindex, u.vlan) == (before.ifindex, before.vlan))?;
        let by_link = before.flags & NODE_LINK != 0 && reach.may_link(address(before));
        Some(Node { source_mac: uplink.mac, cookie, flags: flags(by_link), ..*before })
    };
    last_known().unwrap_or_else(|| Node {
        address: node.addresses.first().map_or([0; 16], |address| address_bytes(*address)),
        cookie,
        ..Node::default()
    })
}

fn address(node: &Node) -> IpAddr {
    address_from_bytes(node.address)
}

/// The link-layer addresses of all nodes on our links: a node may send from another address than
/// we send to. Those that cannot be resolved now keep the last known. A router's is never among
/// them, since it brings clients' frames as well.
pub(super) fn write_node_macs(
    state: &mut State,
    inputs: Inputs<'_>,
    positions: &Positions,
    changes: &mut Changes,
) {
    let mut wanted = BTreeMap::new();
    for (node, &index) in inputs.plan.nodes.iter().zip(&positions.indices) {
        if index == THIS_NODE || index == NO_NODE {
            continue;
        }
        let resolved = node.addresses.iter().filter_map(|address| {
            let hop = inputs.reach.next_hops.get(address).filter(|hop| hop.on_link)?;
            let uplink = inputs.uplinks.iter().find(|uplink| uplink.device == hop.device)?;
            Some(MacKey { mac: hop.mac, vlan: uplink.vlan })
        });
        let sent_to = state
            .contents
            .nodes
            .get(&u32::from(index))
            .filter(|node| node.ifindex != 0 && node.flags & NODE_LINK != 0)
            .map(|node| MacKey { mac: node.mac, vlan: node.vlan });
        for key in resolved.chain(sent_to) {
            wanted.entry(key).or_insert(MacOwner { node: u32::from(index) });
        }
    }
    let mut left_out = wanted.len().saturating_sub(MAX_NODES as usize);
    changes.full("NODE_MACS", MAX_NODES, left_out);
    while left_out > 0 {
        wanted.pop_last();
        left_out -= 1;
    }
    // Old ones first, since the map may have no room for both. Without its entry a frame
    // of that node is taken for a client's for a moment, which changes no table.
    let map = &mut state.contents.node_macs;
    prune(map, &wanted, &mut changes.writes, |key| Write::NodeMac(key, None));
    for (key, owner) in wanted {
        upsert(map, key, owner, &mut changes.writes, |k, v| Write::NodeMac(k, Some(v)));
    }
}

pub(super) fn remove_nodes(
    state: &mut State,
    positions: &Positions,
    changes: &mut Changes,
    now: u64,
) {
    let State { contents, node_slots, .. } = state;
    node_slots.retain(now, |_, index| positions.slots.contains(&index));
    contents.nodes.retain(|index, _| {
        let keep = positions.slots.contains(index);
        if !keep {
            changes.writes.push(Write::Node(*index, Node::default()));
        }
        keep
    });
}

#[cfg(test)]
mod tests;
