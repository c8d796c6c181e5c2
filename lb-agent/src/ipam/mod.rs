//! Who gets which address.
//!
//! [`allocate`] is a pure function of the snapshot. Its only memory is the Services'
//! status: who holds an address there keeps it while it may. So an allocator that has
//! just been elected decides as its predecessor would have.
//!
//! Holders come first; then Services that ask for an address by name; then the rest, by
//! namespace and name. Where two hold what only one can have, the one that holds more
//! addresses keeps it, then the one whose last change is older (its `resourceVersion` is
//! lower): so who adds a port that collides moves, and not who was there.
mod assign;
pub mod book;
pub mod pools;
pub mod request;

pub use assign::allocate;

use crate::{plan::Notice, snapshot::ObjectName};
use std::{collections::BTreeMap, net::IpAddr};

/// What a Service's status shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The Service.
    pub service: ObjectName,
    /// Its version that the decision was made for. A write must fail if it has another by then.
    pub resource_version: String,
    /// All addresses it shall have, IPv4 first; none to take back what it has.
    pub addresses: Vec<IpAddr>,
    /// The pool they are from, for the annotation `metallb.io/ip-allocated-from-pool`;
    /// absent where there are none.
    pub pool: Option<String>,
}

/// What [`allocate`] decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// The Services to be changed, in the order in which they should be written: those
    /// that give an address up come before those that may get it.
    pub changes: Vec<Assignment>,
    /// What users should be told. Those with reason `IPAllocated` and `ClearAssignment`
    /// become true when the Service is written.
    pub notices: Vec<Notice>,
    /// How full each pool is once the changes are written.
    pub usage: BTreeMap<String, PoolUsage>,
}

/// How full a pool is, in distinct addresses. Counts end at [`i64::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// IPv4 addresses in use.
    pub assigned_v4: i64,
    /// IPv6 addresses in use.
    pub assigned_v6: i64,
    /// IPv4 addresses free.
    pub available_v4: i64,
    /// IPv6 addresses free.
    pub available_v6: i64,
}

#[cfg(test)]
mod tests;
