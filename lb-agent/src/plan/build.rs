//! What a [`Plan`] is made of.
use super::{Plan, PlanCache};
use crate::{membership::Alive, snapshot::Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Who does the last step to the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Herald.
    #[default]
    Direct,
    /// kube-proxy, or what stands in for it.
    Kernel,
}

/// What an agent is told on its command line, as far as plans depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// `--delivery`
    pub delivery: Delivery,
    /// `--ignore-exclude-lb`: nodes labelled
    /// `node.kubernetes.io/exclude-from-external-load-balancers` announce all the same.
    pub ignore_exclude_label: bool,
    /// Addresses of this node's endpoints whose replies do not come by the egress program, and
    /// why: Services that send new flows to one are left to kube-proxy on this node.
    pub unseen: BTreeMap<IpAddr, String>,
    /// Names of the pools whose addresses BGP announces: that layer 2 does not is no trouble.
    pub routed_pools: BTreeSet<String>,
}

/// What node `me` shall do.
pub fn plan(snapshot: &Snapshot, me: &str, alive: &Alive, options: &PlanOptions) -> Plan {
    plan_with(snapshot, me, alive, options, &mut PlanCache::default())
}

/// The same as [`plan()`], by what has changed since the plan before.
///
/// It is quicker, never different: what is kept in the cache is used only where all that it
/// depends on is the same.
pub fn plan_with(
    snapshot: &Snapshot,
    me: &str,
    alive: &Alive,
    options: &PlanOptions,
    cache: &mut PlanCache,
) -> Plan {
    cache.plan(snapshot, me, alive, options)
}
