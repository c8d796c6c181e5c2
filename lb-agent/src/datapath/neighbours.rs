//! neighbours
use std::{collections::BTreeMap, net::IpAddr};

/// How an address is reached on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// The uplink.
    pub ifindex: u32,
}

/// Resolved addresses of nodes.
pub type Neighbours = BTreeMap<IpAddr, Neighbour>;
