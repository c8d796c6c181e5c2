//! VIP:ports that change hands between kube-proxy and Herald: connection tracking is kept
//! out of new connections' way ([`takeover`](crate::conntrack::takeover)).
use crate::{
    conntrack::{
        Sweeper,
        takeover::{Hands, Port},
    },
    datapath::{address_bytes, state::Contents},
    metrics::View,
    plan::{Plan, ServiceAddress},
};
use lb_common::maps::{SERVICE_KERNEL, ServiceKey};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{sync::Notify, task::block_in_place};
use tracing::{debug, info, warn};

/// This node's endpoints of a VIP:port that take new flows.
pub(super) fn endpoints(plan: &Plan, address: &ServiceAddress) -> BTreeSet<SocketAddr> {
    let Some(service) = plan.services.get(address) else { return BTreeSet::new() };
    service.endpoints.all().iter().map(|at| SocketAddr::new(at.address, at.port)).collect()
}

/// Which VIP:ports a plan serves in another way than what stands in the maps, or for the
/// first time.
pub(super) fn changes(plan: &Plan, contents: &Contents) -> Vec<(Port, Hands)> {
    let mut changes = Vec::new();
    for (address, service) in &plan.services {
        let key = ServiceKey {
            vip: address_bytes(address.vip),
            port: address.port.to_be_bytes(),
            proto: address.protocol.number(),
            pad: 0,
            pad2: 0,
        };
        let kernel = service.kernel;
        let before = contents.services.get(&key).map(|s| s.flags & SERVICE_KERNEL != 0);
        // What Herald leaves to kube-proxy from the start, kube-proxy had before.
        if before == Some(kernel) || before.is_none() && kernel {
            continue;
        }
        let protocol = address.protocol.number();
        let port = Port { vip: address.vip, port: address.port, protocol };
        let hands = if kernel { Hands::Kernel(endpoints(plan, address)) } else { Hands::Direct };
        changes.push((port, hands));
    }
    changes
}

/// Follows what is served how.
pub(super) struct Handover {
    /// None where the kernel tracks nothing.
    sweeper: Mutex<Option<Sweeper>>,
    changed: Notify,
    view: Arc<View>,
}

impl Handover {
    pub(super) fn new(view: Arc<View>) -> Self {
        let sweeper =
            Sweeper::open().inspect_err(|error| debug!("no connection tracking: {error}")).ok();
        Self { sweeper: Mutex::new(sweeper), changed: Notify::new(), view }
    }

    /// To be called just after a plan was applied, with what it [changed](changes). What is in
    /// the way of its new connections is removed by [`run`](Self::run).
    pub(super) fn after(&self, changes: Vec<(Port, Hands)>) {
        if changes.is_empty() {
            return;
        }
        let mut sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sweeper) = sweeper.as_mut() else { return };
        info!(
            ports = changes.len(),
            "VIPs' ports change hands: finished connections are removed from connection tracking"
        );
        let now = Instant::now();
        for (port, hands) in changes {
            sweeper.takeover.changes(port, hands, now);
        }
        self.changed.notify_one();
    }

    /// Looks when it is time to, for as long as the agent runs.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let next = {
                let sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
                sweeper.as_ref().and_then(|sweeper| sweeper.takeover.next_deadline())
            };
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = due => {
                    block_in_place(|| {
                        let mut slot = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
                        self.sweep(&mut slot);
                    });
                    // Here a runtime that has been shut down meanwhile ends the task, before
                    // it asks for a timer.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn sweep(&self, slot: &mut Option<Sweeper>) {
        let Some(sweeper) = slot else { return };
        match sweeper.sweep() {
            Ok(deleted) => {
                if deleted > 0 {
                    debug!(deleted, "finished connections removed from connection tracking");
                }
                self.view.own.conntrack_deleted.add(deleted);
            }
            Err(error) => {
                // Without the module there is nothing to be in the way.
                if error.raw_os_error() != Some(libc::EINVAL) {
                    warn!(
                        "connection tracking cannot be changed ({error}; it needs CAP_NET_ADMIN): \
                         while VIP ports change hands, some new connections are slow"
                    );
                }
                *slot = None;
            }
        }
    }
}
