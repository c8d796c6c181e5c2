//! What the snapshot means for the node's links: which interfaces are uplinks, which
//! nodes' link-layer addresses are needed, and who is to be listened to.
use crate::{
    datapath::uplinks::{Selection, Uplink},
    membership::{KnownNodes, Liveness, NO_INTERFACE},
    snapshot::{L2Advertisement, Node, Snapshot},
};
use imbl::OrdMap;
use std::{collections::BTreeSet, net::IpAddr};
use tokio::sync::watch;

/// Passes on what the snapshot says, where it changes something.
pub(super) struct Network {
    node: String,
    chosen: Selection,
    selection: watch::Sender<Option<Selection>>,
    wanted: watch::Sender<Option<BTreeSet<IpAddr>>>,
    liveness: Box<dyn Liveness>,
    nodes: KnownNodes,
    interfaces: BTreeSet<String>,
    /// What was passed on last.
    seen: Option<(OrdMap<String, Node>, OrdMap<String, L2Advertisement>)>,
}

/// The nodes that a snapshot knows.
pub(super) fn known_nodes(snapshot: &Snapshot) -> KnownNodes {
    snapshot.nodes.iter().map(|(name, node)| (name.clone(), node.internal_ips.clone())).collect()
}

impl Network {
    /// `chosen` is what the command line says of interfaces; the snapshot says the rest.
    pub(super) fn new(
        node: String,
        chosen: Selection,
        selection: watch::Sender<Option<Selection>>,
        wanted: watch::Sender<Option<BTreeSet<IpAddr>>>,
        liveness: Box<dyn Liveness>,
        nodes: KnownNodes,
    ) -> Self {
        let interfaces = BTreeSet::new();
        Self { node, chosen, selection, wanted, liveness, nodes, interfaces, seen: None }
    }

    /// Takes a snapshot.
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let seen = (snapshot.nodes.clone(), snapshot.l2_advertisements.clone());
        if self.seen.as_ref() == Some(&seen) {
            return;
        }
        self.seen = Some(seen);
        let nodes = known_nodes(snapshot);
        let own = nodes.get(&self.node).cloned().unwrap_or_default();
        let others: BTreeSet<IpAddr> = nodes
            .iter()
            .filter(|(name, _)| **name != self.node)
            .flat_map(|(_, a)| a)
            .copied()
            .collect();
        let also = snapshot.l2_advertisements.values().flat_map(|a| a.interfaces.clone()).collect();
        let selection = Selection { internal_ips: own, also, ..self.chosen.clone() };
        replace(&self.selection, selection);
        replace(&self.wanted, others);
        if nodes != self.nodes {
            self.liveness.set_nodes(nodes.clone());
            self.nodes = nodes;
        }
    }

    /// Lets the other agents know on which uplinks this node announces.
    pub(super) fn tell_interfaces(&mut self, uplinks: &[Uplink]) {
        let announcing = uplinks.iter().filter(|uplink| uplink.announces);
        let mut interfaces: BTreeSet<_> = announcing.map(|uplink| uplink.name.clone()).collect();
        // None at all would read as not known yet.
        if interfaces.is_empty() && !uplinks.is_empty() {
            interfaces.insert(NO_INTERFACE.to_owned());
        }
        if interfaces != self.interfaces {
            self.liveness.set_interfaces(interfaces.clone());
            self.interfaces = interfaces;
        }
    }

    /// Who is alive.
    pub(super) fn liveness(&self) -> &dyn Liveness {
        &*self.liveness
    }
}

fn replace<T: PartialEq>(sender: &watch::Sender<Option<T>>, value: T) {
    sender.send_if_modified(|current| {
        let changes = current.as_ref() != Some(&value);
        if changes {
            *current = Some(value);
        }
        changes
    });
}
