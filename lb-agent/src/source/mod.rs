//! Where the [`Snapshot`] comes from, and where what Herald decides is written down.
//!
//! Two sources do the same: the Kubernetes API and a folder of manifests. What both share is pure: [`convert`] checks and reduces one object,
//! [`index`] collects the reduced ones into a snapshot.
pub mod convert;
pub mod index;
pub mod kubernetes;
pub mod manifests;
pub mod notices;

pub use crate::ipam::{Assignment, pools::ALLOCATED_FROM};

use crate::{
    bgp::{self, speaker::Passwords},
    ipam::PoolUsage,
    plan::{Announcing, Notice},
    snapshot::{ObjectName, Snapshot},
};
use imbl::OrdMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::watch;

/// The component that Events name as their origin, and the manager of what it writes.
pub const COMPONENT: &str = "herald";

/// Why an [`Assignment`] was not written.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// The Service has changed since. Its newer state is in a snapshot soon, or already:
    /// decide anew on that.
    #[error("Service {0} has changed meanwhile")]
    Conflict(ObjectName),
    /// Another agent allocates now.
    #[error("another agent is the allocator now")]
    NotAllocator,
    /// It could not be written; to be tried again later.
    #[error("cannot write the addresses of Service {service}: {reason}")]
    Failed {
        /// The Service.
        service: ObjectName,
        /// What is the matter and what to do about it.
        reason: String,
    },
}

/// A source of snapshots, and the place where decisions are written down.
pub trait Source: Send + Sync + 'static {
    /// The newest snapshot. `None` until a complete one is there; from then on the last
    /// one stays in force, whatever happens to the source.
    fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>>;

    /// Whether the newest snapshot is what there is now: false while the source cannot be
    /// reached, or has not been heard of for some seconds.
    fn in_sync(&self) -> bool;

    /// Whether this agent is the one that allocates. It turns true only when the
    /// snapshot holds everything that an earlier allocator has written.
    fn may_allocate(&self) -> watch::Receiver<bool>;

    /// Writes the addresses of a Service, in one write. That it has been written shows
    /// in a later snapshot.
    ///
    /// # Errors
    /// See [`AssignError`]. Cancelling the future leaves open whether it was written.
    fn assign(
        &self,
        assignment: &Assignment,
    ) -> impl Future<Output = Result<(), AssignError>> + Send;

    /// What is asked for about BGP, as far as it is valid; now and as it changes.
    fn bgp(&self) -> watch::Receiver<Arc<bgp::Configuration>>;

    /// The passwords in the Secrets that BGPPeers name, as far as they have been read.
    fn passwords(&self) -> watch::Receiver<Arc<Passwords>>;

    /// Shows how full each pool is, by name. Called by the allocator after each pass; never
    /// waits for the API.
    fn report_usage(&self, usage: &BTreeMap<String, PoolUsage>);

    /// Shows of which Services this node announces an address. Never waits for the API.
    fn report_announced(&self, announced: &OrdMap<ObjectName, Arc<Announcing>>);

    /// Shows which Services this node announces by BGP, and to which BGPPeers. Never waits for the API.
    fn report_routed(&self, routed: &OrdMap<ObjectName, Arc<BTreeSet<String>>>);

    /// This node announces nothing by BGP any more, and its agent ends: takes back what says otherwise.
    /// Waits for the API, within bounds.
    fn forget_routed(&self) -> impl Future<Output = ()> + Send;

    /// Tells users something. Notices are meant for when something has changed: see
    /// [`notices::Standing`] for what is computed anew each time. The same notice again
    /// within a minute is left out in any case. Never waits for the API.
    fn notify(&self, notice: &Notice) -> impl Future<Output = ()> + Send;
}
