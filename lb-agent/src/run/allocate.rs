//! Gives Services their addresses while this agent is the allocator.
use crate::{
    ipam::{self, Assignment},
    metrics::View,
    snapshot::{ObjectName, Snapshot},
    source::{AssignError, Source, notices::Standing},
};
use futures::{StreamExt as _, stream};
use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How many writes are under way at once: enough to keep an API server busy, few enough
/// to leave it room for others.
const WRITES: usize = 16;
/// When a write that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Reasons of notices that become true only when the Service is written.
const DONE: [&str; 2] = ["IPAllocated", "ClearAssignment"];

/// Writes that have been accepted but that no snapshot shows yet.
type InFlight = BTreeMap<ObjectName, Assignment>;

/// Forgets the writes that show in the snapshot: their Services have another version.
fn forget_seen(in_flight: &mut InFlight, snapshot: &Snapshot) {
    in_flight.retain(|name, written| {
        let service = snapshot.services.get(name);
        service.is_some_and(|service| service.resource_version == written.resource_version)
    });
}

/// Runs until cancelled.
pub(super) async fn run<S: Source>(source: Arc<S>, view: Arc<View>, cancel: CancellationToken) {
    let mut snapshots = source.snapshots();
    let mut permission = source.may_allocate();
    let mut in_flight = InFlight::new();
    let mut standing = Standing::default();
    let mut retry = false;
    loop {
        let permitted = *permission.borrow_and_update();
        view.allocates(permitted);
        let snapshot = snapshots.borrow_and_update().clone();
        if let (true, Some(snapshot)) = (permitted, snapshot) {
            retry = decide(&*source, &snapshot, &mut in_flight, &mut standing).await;
        } else {
            // Another agent may write now: what this one knows of its own writes gets old.
            in_flight.clear();
            standing = Standing::default();
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            changed = permission.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_AFTER), if retry => {}
        }
    }
}

/// One pass. Returns whether something is to be tried again without anything changing.
async fn decide<S: Source>(
    source: &S,
    snapshot: &Arc<Snapshot>,
    in_flight: &mut InFlight,
    standing: &mut Standing,
) -> bool {
    forget_seen(in_flight, snapshot);
    let allocation = ipam::allocate(snapshot, in_flight);
    source.report_usage(&allocation.usage);
    let (done, standing_now): (Vec<_>, Vec<_>) =
        allocation.notices.into_iter().partition(|notice| DONE.contains(&notice.reason));
    for notice in standing.update(standing_now) {
        source.notify(&notice).await;
    }
    // Who gives an address up is written before who gets it, one after the other; those
    // that have none yet can only get what is free, in any order.
    let holds = |change: &Assignment| {
        let service = snapshot.services.get(&change.service);
        service.is_some_and(|service| !service.ingress.is_empty())
    };
    let (movers, newcomers): (Vec<_>, Vec<_>) = allocation.changes.into_iter().partition(holds);
    let write = |change: Assignment| async move {
        let result = source.assign(&change).await;
        (change, result)
    };
    let movers = stream::iter(movers).then(write);
    let newcomers = stream::iter(newcomers).map(write).buffer_unordered(WRITES);
    let mut writes = pin!(movers.chain(newcomers));
    let mut written = Vec::new();
    let mut retry = false;
    while let Some((change, result)) = writes.next().await {
        match result {
            Ok(()) => {
                info!(service = %change.service, addresses = ?change.addresses, "addresses written");
                for notice in done.iter().filter(|notice| notice.object == change.service) {
                    source.notify(notice).await;
                }
                written.push(change);
            }
            // The newer state comes with a later snapshot.
            Err(AssignError::Conflict(_) | AssignError::NotAllocator) => {}
            Err(error @ AssignError::Failed { .. }) => {
                warn!("{error}");
                retry = true;
            }
        }
    }
    // Manifests have no versions; their source shows a write at once.
    let unseen = written.into_iter().filter(|change| !change.resource_version.is_empty());
    in_flight.extend(unseen.map(|change| (change.service.clone(), change)));
    retry
}
