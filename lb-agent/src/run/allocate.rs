//! Gives Services their addresses while this agent is the allocator.
use crate::{
    ipam::{Allocator, Assignment, Outcome},
    metrics::View,
    source::{AssignError, Source},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use std::{sync::Arc, time::Instant};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Runs until cancelled.
pub(super) async fn run<S: Source>(source: Arc<S>, view: Arc<View>, cancel: CancellationToken) {
    let mut permission = source.may_allocate();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            permitted = permission.wait_for(|permitted| *permitted) => {
                if permitted.is_err() {
                    return;
                }
            }
        }
        view.allocates(true);
        let ended = tokio::select! {
            () = cancel.cancelled() => return,
            ended = permission.wait_for(|permitted| !*permitted) => ended.map(drop),
            () = allocate(&*source, &view) => return,
        };
        // Another agent may write now: what this one knows of its own writes gets old.
        view.allocates(false);
        view.pools(None);
        if ended.is_err() {
            return;
        }
    }
}

/// Allocates until there are no more snapshots.
async fn allocate<S: Source>(source: &S, view: &View) {
    let mut snapshots = source.snapshots();
    snapshots.mark_changed();
    let mut allocator = Allocator::default();
    let mut writes = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        let notices = allocator.take_notices();
        for notice in &notices {
            source.notify(notice).await;
        }
        while let Some(assignment) = allocator.next_write(now) {
            writes.push(write(source, assignment));
        }
        let deadline = allocator.next_deadline();
        tokio::select! {
            Some((assignment, outcome)) = writes.next(), if !writes.is_empty() => {
                allocator.ended(Instant::now(), assignment, outcome);
            }
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
                allocator.update(Instant::now(), &snapshot);
                let usage = allocator.usage();
                source.report_usage(&usage);
                view.pools(Some(usage));
            }
            () = sleep_until(deadline.unwrap_or(now).into()), if deadline.is_some() => {
                allocator.tick(Instant::now());
            }
        }
    }
}

async fn write<S: Source>(source: &S, assignment: Assignment) -> (Assignment, Outcome) {
    let outcome = match source.assign(&assignment).await {
        Ok(()) => {
            let Assignment { service, addresses, .. } = &assignment;
            debug!(%service, ?addresses, "addresses written");
            Outcome::Written
        }
        // The newer state comes with a later snapshot.
        Err(AssignError::Conflict(_)) => Outcome::Changed,
        // This is soon over.
        Err(AssignError::NotAllocator) => Outcome::Failed,
        Err(error @ AssignError::Failed { .. }) => {
            warn!("{error}");
            Outcome::Failed
        }
    };
    (assignment, outcome)
}
