//! What the snapshot means for the node's links: which interfaces are uplinks, which
//! nodes' link-layer addresses are needed, and who is to be listened to.
use crate::{
    datapath::uplinks::{Selection, Uplink},
    membership::{KnownNodes, Liveness, NO_INTERFACE, told},
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
    /// Uplinks that the command line names and that have been there.
    named: BTreeSet<String>,
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
        let (interfaces, named) = (BTreeSet::new(), BTreeSet::new());
        Self { node, chosen, selection, wanted, liveness, nodes, interfaces, named, seen: None }
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
        // Named by a pattern, or a port of something, they may go unnoticed.
        let named = uplinks.iter().filter(|uplink| self.chosen.only.contains(&uplink.name));
        self.named.extend(named.map(|uplink| uplink.name.clone()));
        let interfaces = told_of(uplinks, &self.named);
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

/// What others are told of this node's uplinks; `named` are those that there should be.
fn told_of(uplinks: &[Uplink], named: &BTreeSet<String>) -> BTreeSet<String> {
    // Without any there is nothing that packets could be sent to.
    if uplinks.is_empty() {
        return BTreeSet::new();
    }
    let announcing = uplinks.iter().filter(|uplink| uplink.announces);
    let announcing: Vec<_> = announcing.collect();
    let up = announcing.iter().filter(|uplink| uplink.carrier);
    let mut told: BTreeSet<_> = up.map(|uplink| uplink.name.clone()).collect();
    // None at all would read as not known yet.
    if told.is_empty() {
        told.insert(NO_INTERFACE.to_owned());
    }
    told.extend(uplinks.iter().map(|uplink| told::mac(uplink.mac)));
    // One that has just come back is named in both ways: better announced there than nowhere.
    let down = announcing.iter().filter(|uplink| !(uplink.carrier && uplink.settled));
    told.extend(down.map(|uplink| told::down(&uplink.name)));
    // What is asked for by its name and is not there was removed, renamed or is switched off.
    let is = |uplink: &Uplink, name: &String| uplink.name == *name || uplink.ports.contains(name);
    let missing = named.iter().filter(|name| !uplinks.iter().any(|uplink| is(uplink, name)));
    told.extend(missing.map(|name| told::down(name)));
    told
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uplink;

    #[test]
    fn others_are_told_what_is_there_and_what_is_missing() {
        let named = ["eth0", "eth1"].map(str::to_owned).into();
        let told = |uplinks: &[Uplink]| told_of(uplinks, &named).into_iter().collect::<Vec<_>>();
        let (eth0, eth1) = (uplink(2, "eth0"), uplink(3, "eth1"));
        let macs = ["/mac/020000000002", "/mac/020000000003"];
        assert_eq!(told(&[]), [""; 0]);
        let both = told(&[eth0.clone(), eth1.clone()]);
        assert_eq!(both, [macs[0], macs[1], "eth0", "eth1"]);
        assert_eq!(told(std::slice::from_ref(&eth0)), ["/down/eth1", macs[0], "eth0"]);
        let back = Uplink { settled: false, ..eth1.clone() };
        assert_eq!(told(&[eth0.clone(), back]), ["/down/eth1", macs[0], macs[1], "eth0", "eth1"]);
        let unplugged = Uplink { carrier: false, settled: false, ..eth1.clone() };
        let lost = told(&[eth0.clone(), unplugged.clone()]);
        assert_eq!(lost, ["/down/eth1", macs[0], macs[1], "eth0"]);
        let bond = Uplink { ports: vec!["eth0".into(), "eth1".into()], ..uplink(2, "bond0") };
        assert_eq!(told(&[bond]), [macs[0], "bond0"]);
        let excluded = Uplink { announces: false, ..eth0 };
        assert_eq!(told(&[excluded.clone(), eth1]), [macs[0], macs[1], "eth1"]);
        let none = told(&[excluded, unplugged]);
        assert_eq!(none, [".", "/down/eth1", macs[0], macs[1]]);
    }
}
