//! From what the API says and who is alive to what shall stand in the kernel.
//!
//! [`plan()`] is a pure function: no I/O, no clock, no randomness, no history. Two
//! nodes with the same snapshot and the same view of who is alive make the same
//! rows, whatever either saw before.
//!
//! [`plan_with`] comes to the same by what has changed since the plan before. Its maps are
//! persistent, and what stays is the same allocation, so that those who follow plans find out
//! cheaply what has changed.
mod balance;
mod basis;
pub mod build;
mod cache;
pub mod endpoints;
pub mod lowest;
pub mod owner;
mod row_cache;
pub mod rows;
mod service;
mod tally;

pub use basis::{ANNOUNCED, Announcers, Basis, EndpointShare, EndpointShares};
pub use build::{Delivery, PlanOptions, plan, plan_with};
pub use cache::PlanCache;
pub use endpoints::NODE_WITHOUT_AGENT;
pub use owner::why::{Ownership, Reason};
pub use row_cache::RowCache;
pub use rows::{PerRow, Rows};

use crate::snapshot::{ObjectName, Protocol};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use lb_common::maps::NO_NODE;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// The version of everything that nodes must decide alike: the flow hash, the order of
/// a row, the number of rows and the owner of a VIP. Agents tell it each other.
pub const PLAN_VERSION: u32 = 4;

/// What one node shall do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Every node of the cluster, sorted by name. [`PlannedRow::nodes`] are positions
    /// here; they do not move with who is alive or who has an endpoint.
    pub nodes: Arc<Vec<PlannedNode>>,
    /// All VIPs of the cluster.
    pub vips: OrdMap<IpAddr, Arc<PlannedVip>>,
    /// All VIP:port:protocol triples of the cluster.
    pub services: OrdMap<ServiceAddress, Arc<PlannedService>>,
    /// By which node fragments are put together: 256 rows over all nodes that are alive, the
    /// same on all of them; none if there is no such node.
    pub fragment_rows: Arc<Vec<PlannedRow>>,
    /// Every endpoint of this node that a Service lists, whatever its conditions: its
    /// flows live on while it is listed.
    pub local_endpoints: OrdSet<EndpointAddress>,
    /// The Services that this node announces an address of.
    pub announcing: OrdMap<ObjectName, Arc<Announcing>>,
    /// What users should be told. All nodes see the same, so one of them tells it.
    pub notices: OrdSet<Arc<Notice>>,
    /// What users should be told of this node: nobody else knows.
    pub local_notices: OrdSet<Arc<Notice>>,
}

/// What a node announces of a Service on layer 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcing {
    /// On which interfaces; empty: on all.
    pub interfaces: BTreeSet<String>,
    /// All nodes that announce one of the Service's addresses, this one among them.
    pub owners: BTreeSet<String>,
}

/// A node that traffic can be sent on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    /// Its name.
    pub name: String,
    /// Its InternalIPs in the API's order: the first that is on a link of ours is used.
    pub addresses: Vec<IpAddr>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVip {
    /// The node that announces it on layer 2, if any.
    pub owner: Option<Arc<str>>,
    /// Where this node announces it; absent where another node (or none) does.
    pub announce: Option<Interfaces>,
    /// The Services that have it, for status and Events; sorted.
    pub services: Box<[ObjectName]>,
}

/// Which of a node's uplinks are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// All.
    All,
    /// Those with one of these names.
    Named(BTreeSet<String>),
}

/// A VIP's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// The VIP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// An endpoint's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointAddress {
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// How a VIP's port is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedService {
    /// The Service.
    pub service: ObjectName,
    /// Leave the last step to kube-proxy.
    pub kernel: bool,
    /// An endpoint of it is listed on this node, whatever its conditions: flows may be here.
    pub here: bool,
    /// Which these are, sorted.
    pub local: Box<[EndpointAddress]>,
    /// `sessionAffinity: ClientIP`: for how many seconds a client keeps its endpoint after
    /// its last packet.
    pub affinity_s: Option<u32>,
    /// Only clients in these are served; none of them, if it is empty. `None` serves all.
    pub source_ranges: Option<Box<BTreeSet<IpNet>>>,
    /// Its rows; none if no endpoint is listed. Services with the same pods share one
    /// allocation (`Arc::ptr_eq`).
    pub rows: Arc<Rows>,
    /// This node's endpoints for new flows.
    pub endpoints: LocalEndpoints,
}

/// A node's endpoints for new flows of a VIP's port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalEndpoints {
    /// It has none.
    #[default]
    None,
    /// One, for all rows.
    One(EndpointAddress),
    /// Several. Those that are equal share one allocation.
    PerRow(Arc<PerRow>),
}

impl LocalEndpoints {
    /// The endpoint of each row.
    #[cfg(test)]
    pub(crate) fn by_row(&self) -> impl Fn(usize) -> Option<EndpointAddress> {
        let all = self.all();
        let table = match self {
            Self::PerRow(table) => table.table(),
            Self::None | Self::One(_) => Vec::new(),
        };
        move |row| match all {
            [one] => Some(*one),
            all => all.get(usize::from(*table.get(row)?)).copied(),
        }
    }

    /// All of them.
    pub fn all(&self) -> &[EndpointAddress] {
        match self {
            Self::None => &[],
            Self::One(endpoint) => std::slice::from_ref(endpoint),
            Self::PerRow(table) => &table.endpoints,
        }
    }
}

/// Where the flows of one hash value go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Positions in [`Rows::nodes`], or for fragments in [`Plan::nodes`]: first the node whose endpoint takes the row's new flows,
    /// [`NO_NODE`] if none does; then, without repetition, those that may have flows of
    /// before, the likeliest first; then [`NO_NODE`].
    pub nodes: [u16; 4],
}

impl PlannedRow {
    /// The row's node, which takes its new flows.
    pub fn first(&self) -> Option<u16> {
        Some(self.nodes[0]).filter(|node| *node != NO_NODE)
    }
}

/// Something that a user should know, to become an Event on a Service or on the
/// object it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notice {
    /// The kind of the object it is about: `Service`, `IPAddressPool`, `L2Advertisement`.
    pub kind: &'static str,
    /// The object.
    pub object: ObjectName,
    /// Warning or Normal.
    pub warning: bool,
    /// The reason, in CamelCase.
    pub reason: &'static str,
    /// What is the matter and what to do about it.
    pub message: Box<str>,
}

#[cfg(test)]
mod tests;
