//! Addresses that no node announces, though advertisements have them announced: what users are told.
//!
//! Nodes that all advertisements and peers treat alike are judged together, so that it costs little
//! in a cluster of many.
use super::{Advertisement, Configuration, Peer, Planner, Silence, barred, is_for, is_told};
use crate::{
    ipam::pools::{Pool, Pools},
    plan::{Notice, Reason, endpoints::warning, owner::EXCLUDE_LABEL},
    snapshot::{Service, Snapshot, any_matches},
};
use imbl::OrdSet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Names of the pools that an advertisement is for, whatever nodes, peers and Services it selects.
pub fn pools(configuration: &Configuration, snapshot: &Snapshot) -> BTreeSet<String> {
    let pools = snapshot.pools.iter().filter(|(name, pool)| {
        configuration.advertisements.values().any(|one| is_for(one, name, &pool.labels))
    });
    pools.map(|(name, _)| name.clone()).collect()
}

/// What users should be told about addresses that BGP announces from no node, and why. All agents see
/// the same, so one of them tells it.
pub fn notices(
    configuration: &Configuration,
    snapshot: &Snapshot,
    pools: &Pools,
    ignore_exclude_label: bool,
) -> OrdSet<Arc<Notice>> {
    let all = Groups::new(configuration, snapshot, pools, ignore_exclude_label);
    let mut notices = OrdSet::new();
    for service in snapshot.services.values().filter(|service| service.wants_address) {
        for vip in BTreeSet::from_iter(service.addresses()) {
            let Some(pool) = pools.held(service, vip) else { continue };
            let is_for = |one: &Advertisement| is_for(one, &pool.name, &pool.spec.labels);
            // A pool that no advertisement is for is not meant to be announced by BGP.
            if configuration.advertisements.values().any(is_for)
                && let Some(why) = all.why_silent(service, vip, pool)
            {
                notices.insert(Arc::new(notice(service, vip, &why)));
            }
        }
    }
    notices
}

/// Nodes that are covered by the same advertisements, speak to the same peers and are barred alike.
struct Group<'a> {
    planner: Planner<'a>,
    peers: Vec<(&'a String, &'a Peer)>,
}

struct Groups<'a>(Vec<Group<'a>>);

impl<'a> Groups<'a> {
    fn new(
        configuration: &'a Configuration,
        snapshot: &'a Snapshot,
        pools: &'a Pools,
        ignore_exclude_label: bool,
    ) -> Self {
        let mut alike: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
        for (name, node) in &snapshot.nodes {
            let covering = configuration.advertisements.iter();
            let covering =
                covering.filter(|(_, one)| any_matches(&one.node_selectors, &node.labels));
            let peers = configuration.peers.iter();
            let peers = peers.filter(|(_, peer)| any_matches(&peer.node_selectors, &node.labels));
            let covering: Vec<_> = covering.map(|(name, _)| name).collect();
            let peers: Vec<_> = peers.map(|(name, _)| name).collect();
            let key = (covering, peers, barred(node, ignore_exclude_label));
            alike.entry(key).or_default().insert(name);
        }
        let group = |((covering, peers, barred), nodes): ((Vec<&'a String>, Vec<_>, _), _)| {
            let covering = covering.into_iter();
            let covering = covering.map(|name| (name, &configuration.advertisements[name]));
            let covering = covering.collect();
            let peers = peers.into_iter().map(|name| (name, &*configuration.peers[name])).collect();
            Group { planner: Planner { snapshot, pools, nodes, barred, covering }, peers }
        };
        Self(alike.into_iter().map(group).collect())
    }

    /// Why no node announces an address; of several reasons the one that is closest to announcing it.
    fn why_silent(&self, service: &Service, vip: IpAddr, pool: &Pool) -> Option<Silence> {
        let mut why = Silence::NotOwner;
        for Group { planner, peers } in &self.0 {
            let told = |one: &Advertisement| {
                peers.iter().any(|(name, peer)| is_told(one, name, peer, vip))
            };
            match planner.advertisements(service, vip, pool) {
                Ok(advertisements) if advertisements.iter().any(|(_, one)| told(one)) => {
                    return None;
                }
                Ok(_) => why = why.max(Silence::NoPeer),
                Err(silence) => why = why.max(silence),
            }
        }
        Some(why)
    }
}

impl Silence {
    /// Why this node announces it to nobody.
    pub fn here(&self) -> Reason {
        let (reason, message) = match self {
            Self::NotOwner => (
                "NotOwner",
                "spec.nodeSelectors of no BGPAdvertisement of its IPAddressPool match the node's labels",
            ),
            Self::NoMatchingAdvertisement => (
                "NoMatchingAdvertisement",
                "spec.serviceSelectors of no BGPAdvertisement for the node match the Service's labels",
            ),
            Self::ConflictingAdvertisements(one, other) => {
                let message = format!(
                    "the BGPAdvertisements {one} and {other} give different localPref to the same prefix"
                );
                return Reason::new("ConflictingAdvertisements", message);
            }
            Self::NodeNetworkUnavailable => {
                ("NodeNetworkUnavailable", "the node's condition NetworkUnavailable is True")
            }
            Self::NodeLabeledExcludeBalancers => {
                let message = format!("the node has the label {EXCLUDE_LABEL}");
                return Reason::new("NodeLabeledExcludeBalancers", message);
            }
            Self::NoLocalEndpoints => (
                "NoLocalEndpoints",
                "externalTrafficPolicy is Local, and no endpoint on the node can serve",
            ),
            Self::NoEndpoints => ("NoEndpoints", "no endpoint is ready or still serving"),
            Self::NoPeer => (
                "NoPeer",
                "the node speaks to no BGPPeer that is to be told and carries the address's family",
            ),
        };
        Reason::new(reason, message)
    }
}

fn notice(service: &Service, vip: IpAddr, why: &Silence) -> Notice {
    let (reason, text) = match why {
        Silence::NotOwner => (
            "NoEligibleNode",
            "spec.nodeSelectors of no BGPAdvertisement of its IPAddressPool match a node's labels: change either"
                .to_owned(),
        ),
        Silence::NoMatchingAdvertisement => (
            "NoAdvertisement",
            "spec.serviceSelectors of no BGPAdvertisement of its IPAddressPool match the Service's labels: change either"
                .to_owned(),
        ),
        Silence::ConflictingAdvertisements(one, other) => (
            "ConflictingAdvertisements",
            format!(
                "the BGPAdvertisements {one} and {other} give different localPref to the same prefix: give both the same, or let them differ in aggregation or peers"
            ),
        ),
        Silence::NodeNetworkUnavailable => (
            "NoEligibleNode",
            "the condition NetworkUnavailable of the nodes that BGPAdvertisements select is True: look after the cluster's network"
                .to_owned(),
        ),
        Silence::NodeLabeledExcludeBalancers => (
            "NoEligibleNode",
            format!(
                "the nodes that BGPAdvertisements select have the label {EXCLUDE_LABEL}: remove it from one"
            ),
        ),
        Silence::NoLocalEndpoints => (
            "NoEndpoints",
            "externalTrafficPolicy is Local, and no endpoint on a node that BGPAdvertisements select is ready or still serving"
                .to_owned(),
        ),
        // In the words of layer 2, so that it is told once where an address is announced by both.
        Silence::NoEndpoints => {
            let message = format!(
                "nobody announces {vip}: no endpoint is ready or still serving. Check that the selector finds pods and that they are ready."
            );
            return Notice { warning: false, ..warning(service, "NoEndpoints", message) };
        }
        Silence::NoPeer => (
            "NoBGPPeer",
            "no node speaks to a BGPPeer that is to be told and carries the address's family: check spec.peers of the BGPAdvertisement, and spec.nodeSelectors and spec.dualStackAddressFamily of the BGPPeers"
                .to_owned(),
        ),
    };
    let message = format!("nobody announces {vip} by BGP: {text}.");
    let notice = warning(service, reason, message);
    Notice { warning: *why != Silence::NoLocalEndpoints, ..notice }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bgp::plan::tests::{ALL, configuration, snapshot},
        testing::{labels, pool},
    };

    fn told(text: &str, snapshot: &Snapshot) -> Vec<String> {
        let notices = notices(&configuration(text), snapshot, &Pools::new(snapshot).0, false);
        notices.iter().map(|notice| format!("{} {}", notice.reason, notice.message)).collect()
    }

    #[test]
    fn what_one_node_announces_is_not_silent() {
        assert_eq!(told(ALL, &snapshot()), [""; 0]);
        // The endpoint is on n1, and n2 does not announce.
        let mut local = snapshot();
        local.edit_services(|service| {
            service.external_traffic_policy = crate::snapshot::ExternalTrafficPolicy::Local;
        });
        assert_eq!(told(ALL, &local), [""; 0]);
        local.nodes.get_mut("n1").unwrap().network_unavailable = true;
        let told = told(ALL, &local);
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("NoEndpoints nobody announces 192.0.2.1 by BGP: external"));
    }

    #[test]
    fn the_reason_closest_to_announcing_is_told_of_each_address() {
        let mut excluded = snapshot();
        excluded.nodes.get_mut("n1").unwrap().labels = labels(&[(EXCLUDE_LABEL, "")]);
        let only_n1 = ALL.replace(
            "spec: {}",
            "spec: {nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n1}}]}",
        );
        let no_peer = ALL.replace("spec: {}", "spec: {peers: [r3]}");
        let one_family = ALL.replace(", dualStackAddressFamily: true", "");
        for (text, snapshot, reason, count) in [
            (no_peer.as_str(), snapshot(), "NoBGPPeer", 2),
            (one_family.as_str(), snapshot(), "NoBGPPeer", 1),
            (only_n1.as_str(), snapshot(), "NoEligibleNode", 2),
            (ALL, excluded, "", 0),
        ] {
            let told = told(text, &snapshot);
            assert_eq!(told.len(), count, "{told:?}");
            assert!(told.iter().all(|told| told.starts_with(reason)), "{told:?}");
        }
    }

    #[test]
    fn pools_that_no_advertisement_is_for_are_none_of_its_business() {
        let other = ALL.replace("spec: {}", "spec: {ipAddressPools: [other]}");
        assert_eq!(told(&other, &snapshot()), [""; 0]);
        let mut both = snapshot();
        both.pools.insert("other".into(), pool(&["198.51.100.0/24"]));
        assert_eq!(pools(&configuration(&other), &both), ["other".to_owned()].into());
        assert_eq!(pools(&configuration(ALL), &both).len(), 2);
    }
}
