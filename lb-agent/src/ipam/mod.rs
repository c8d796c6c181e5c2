//! Who gets which address.
//!
//! Decisions are a function of the snapshot. Their only memory is the Services' status: who
//! holds an address there keeps it while it may. So an allocator that has just been elected
//! decides as its predecessor would have.
//!
//! Holders come first; then Services that ask for an address by name; then the rest, by
//! namespace and name. Where two hold what only one can have, the one whose last change is
//! older keeps it (its `resourceVersion` is lower): so who adds a port that collides moves,
//! and not who was there.
//!
//! An [`Allocator`] follows the snapshots for as long as this agent is the one that allocates,
//! and says what to write, in which order. It is sans-I/O.
mod allocator;
pub mod book;
mod case;
mod ledger;
pub mod pools;
pub mod request;
mod rules;

pub use allocator::{Allocator, Outcome};

use crate::{plan::Notice, snapshot::ObjectName};
use std::{net::IpAddr, sync::Arc};

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

/// What a Service shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Decision {
    /// IPv4 first.
    addresses: Vec<IpAddr>,
    pool: Option<Arc<str>>,
    /// Leave the annotation as it is: it may be all that is known of a pool that is refused.
    as_it_is: bool,
}

/// What a Service will have once a decision is written.
struct Promise {
    addresses: Vec<IpAddr>,
    /// What is told then.
    done: Vec<Notice>,
    /// The write has not gone out yet.
    unsent: bool,
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
