//! From what the API says and who is alive to what shall stand in the kernel.
//!
//! [`plan()`] is a pure function: no I/O, no clock, no randomness, no history. Two
//! nodes with the same snapshot and the same view of who is alive make the same
//! rows, whatever either saw before.
pub mod build;
pub mod endpoints;
pub mod owner;
pub mod rows;

pub use build::{Delivery, PlanOptions, plan, plan_with};
pub use rows::RowCache;

use crate::snapshot::{ObjectName, Protocol};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// The version of everything that nodes must decide alike: the flow hash, the order of
/// a row, the number of rows and the owner of a VIP. Agents tell it each other.
pub const PLAN_VERSION: u32 = 1;

/// What one node shall do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Every node of the cluster, sorted by name. [`PlannedRow::nodes`] are positions
    /// here; they do not move with who is alive or who has an endpoint.
    pub nodes: Vec<PlannedNode>,
    /// All VIPs of the cluster.
    pub vips: BTreeMap<IpAddr, PlannedVip>,
    /// All VIP:port:protocol triples of the cluster.
    pub services: BTreeMap<ServiceAddress, PlannedService>,
    /// Every endpoint of this node that a Service lists, whatever its conditions: its
    /// flows live on while it is listed.
    pub local_endpoints: BTreeSet<EndpointAddress>,
    /// What users should be told.
    pub notices: Vec<Notice>,
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
    pub owner: Option<String>,
    /// Where this node announces it; absent where another node (or none) does.
    pub announce: Option<Interfaces>,
    /// The Services that have it, for status and Events.
    pub services: BTreeSet<ObjectName>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedService {
    /// The Service.
    pub service: ObjectName,
    /// Leave the last step to kube-proxy.
    pub kernel: bool,
    /// All flows of a client go by one row: what remembers the client's endpoint is a node's.
    pub client_ip_affinity: bool,
    /// Its rows; none if no endpoint takes new flows. Services with the same
    /// endpoints share one allocation (`Arc::ptr_eq`).
    pub rows: Arc<Vec<PlannedRow>>,
}

/// Where the flows of one hash value go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Up to four distinct nodes in rendezvous order, as positions in [`Plan::nodes`].
    pub nodes: [Option<u16>; 4],
    /// Position in `nodes` of the node whose endpoint takes the row's new flows: of all
    /// endpoints that take any, the one that stands first.
    pub first: u8,
    /// This node's endpoint for new flows of the row: the first of its own that takes any.
    pub endpoint: Option<EndpointAddress>,
}

/// Something that a user should know, to become an Event on a Service or on the
/// object it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    pub message: String,
}

#[cfg(test)]
mod tests;
