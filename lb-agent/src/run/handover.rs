//! VIP:ports that change hands between kube-proxy and Herald: connection tracking is kept
//! out of new connections' way ([`takeover`](crate::conntrack::takeover)).
use crate::{
    conntrack::{
        Conntrack,
        takeover::{Hands, Look, Port, Takeover},
    },
    datapath::{address_bytes, state::Contents},
    metrics::View,
    plan::{Plan, ServiceAddress},
};
use lb_common::maps::{SERVICE_KERNEL, ServiceKey};
use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{sync::Notify, task::block_in_place};
use tracing::{debug, info, warn};

/// This node's endpoints of a VIP:port that take new flows.
pub(super) fn endpoints(plan: &Plan, address: &ServiceAddress) -> BTreeSet<SocketAddr> {
    let Some(service) = plan.services.get(address) else { return BTreeSet::new() };
    let endpoints = service.rows.iter().filter_map(|row| row.endpoint);
    endpoints.map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port)).collect()
}

/// Follows what is served how.
pub(super) struct Handover {
    inner: Mutex<Inner>,
    changed: Notify,
    view: Arc<View>,
}

struct Inner {
    takeover: Takeover,
    /// None where the kernel tracks nothing.
    conntrack: Option<Conntrack>,
}

impl Handover {
    pub(super) fn new(view: Arc<View>) -> Self {
        let conntrack =
            Conntrack::open().inspect_err(|error| debug!("no connection tracking: {error}")).ok();
        let inner = Mutex::new(Inner { takeover: Takeover::default(), conntrack });
        Self { inner, changed: Notify::new(), view }
    }

    /// To be called just before a plan is applied, with what stands in the maps. What is in the
    /// way of its new connections is removed; what comes to be in their way later is
    /// by [`run`](Self::run).
    pub(super) fn before(&self, plan: &Plan, contents: &Contents) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.conntrack.is_none() {
            return;
        }
        let now = Instant::now();
        let mut changes = 0;
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
            let port =
                Port { vip: address.vip, port: address.port, protocol: address.protocol.number() };
            let hands =
                if kernel { Hands::Kernel(endpoints(plan, address)) } else { Hands::Direct };
            inner.takeover.changes(port, hands, now);
            changes += 1;
        }
        if changes > 0 {
            info!(
                changes,
                "VIP ports change hands: finished connections leave connection tracking"
            );
            self.look(&mut inner);
            self.changed.notify_one();
        }
    }

    /// Looks when it is time to, for as long as the agent runs.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let next = {
                let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.takeover.next_deadline()
            };
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = due => block_in_place(|| {
                    self.look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
                }),
            }
        }
    }

    fn look(&self, inner: &mut Inner) {
        match inner.look() {
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
                *inner = Inner { takeover: Takeover::default(), conntrack: None };
            }
        }
    }
}

impl Inner {
    fn look(&mut self) -> io::Result<usize> {
        let Self { takeover, conntrack: Some(conntrack) } = self else { return Ok(0) };
        let Some(mut pass) = takeover.begin(Instant::now()) else { return Ok(0) };
        for look in pass.looks.clone() {
            let (ipv6, to) = match look {
                Look::Family(ipv6) => (ipv6, None),
                Look::To(address) => (address.is_ipv6(), Some(address)),
            };
            conntrack.list(ipv6, to, |entry| takeover.see(&mut pass, &entry))?;
        }
        let entries = takeover.end(pass, Instant::now());
        conntrack.delete(&entries)
    }
}
