//! The nodes' part: who has which index, how each is reached, whose frames are an agent's.
use super::{
    super::{
        address_bytes,
        state::{NodeOwner, State, Write, prune, upsert},
    },
    Changes, Inputs,
};
use crate::plan::PlannedNode;
use lb_common::maps::{MAX_NODES, MacKey, MacOwner, NO_NODE, NODE_LINK, Node, THIS_NODE};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Which index of `NODES` each node of the plan has.
pub(super) struct Positions {
    /// By position in the plan; [`NO_NODE`] where there was no room.
    pub(super) indices: Vec<u16>,
    /// All that are in use.
    pub(super) slots: BTreeSet<u32>,
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
    let mut positions = Positions { indices: Vec::new(), slots: BTreeSet::new() };
    let mut left_out = 0;
    for node in &inputs.plan.nodes {
        if node.name == inputs.me {
            positions.indices.push(THIS_NODE);
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
            positions.indices.push(NO_NODE);
            continue;
        };
        // Below MAX_NODES, which is far below NO_NODE.
        positions.indices.push(index as u16);
        positions.slots.insert(index);
        let value = node_value(node, inputs, state.contents.nodes.get(&index));
        upsert(&mut state.contents.nodes, index, value, &mut changes.writes, Write::Node);
    }
    changes.full("NODES", MAX_NODES, left_out);
    positions
}

/// How a node is reached: by the first of its addresses that is resolved on an uplink.
///
/// While none is, the last known way stays: the kernel forgets a neighbour that misses a
/// few answers, and a frame to where it was is at worst as lost as one that is dropped here.
fn node_value(node: &PlannedNode, inputs: Inputs<'_>, before: Option<&Node>) -> Node {
    let mac_of = |ifindex: u32| {
        inputs.uplinks.iter().find(|uplink| uplink.ifindex == ifindex).map(|uplink| uplink.mac)
    };
    let resolved = node.addresses.iter().find_map(|address| {
        let neighbour = inputs.neighbours.get(address)?;
        Some(Node {
            address: address_bytes(*address),
            mac: neighbour.mac,
            source_mac: mac_of(neighbour.ifindex)?,
            ifindex: neighbour.ifindex,
            flags: NODE_LINK,
            mtu: 1500,
            ..Node::default()
        })
    });
    let last_known = || {
        let before = before.filter(|before| {
            before.ifindex != 0
                && node.addresses.iter().any(|a| address_bytes(*a) == before.address)
        })?;
        Some(Node { source_mac: mac_of(before.ifindex)?, ..*before })
    };
    resolved.or_else(last_known).unwrap_or_else(|| Node {
        address: node.addresses.first().map_or([0; 16], |address| address_bytes(*address)),
        ..Node::default()
    })
}

/// All resolved addresses of all nodes: a node may send from another than we send to.
/// Unresolved ones keep the last known.
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
        let resolved =
            node.addresses.iter().filter_map(|a| inputs.neighbours.get(a)).map(|n| n.mac);
        let sent_to = state
            .contents
            .nodes
            .get(&u32::from(index))
            .filter(|node| node.ifindex != 0)
            .map(|node| node.mac);
        for mac in resolved.chain(sent_to) {
            wanted.entry(MacKey { mac, vlan: 0 }).or_insert(MacOwner { node: u32::from(index) });
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
