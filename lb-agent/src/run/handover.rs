//! VIP:ports that change hands between kube-proxy and Herald: connection tracking is kept
//! out of new connections' way ([`takeover`](crate::conntrack::takeover)).
use crate::{
    conntrack::{
        Conntrack, Entry, Sweeper, Swept,
        takeover::{Hands, Port},
    },
    datapath::{
        Error, address_bytes, address_from_bytes, apply::Datapath, flows::FlowMaps, state::Contents,
    },
    deadline::until,
    metrics::View,
    plan::{Plan, PlannedService, PlannedVip, ServiceAddress},
    resort::{FlowId, know::going_on},
    snapshot::Snapshot,
    system,
};
use imbl::ordmap::DiffItem;
use lb_common::maps::{SERVICE_KERNEL, ServiceKey};
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{sync::Notify, task::block_in_place};
use tracing::{debug, info, warn};

/// This node's endpoints of a VIP:port, whatever their conditions: flows to them go on.
pub(super) fn endpoints(plan: &Plan, address: &ServiceAddress) -> BTreeSet<SocketAddr> {
    let Some(service) = plan.services.get(address) else { return BTreeSet::new() };
    service.local.iter().map(|at| SocketAddr::new(at.address, at.port)).collect()
}

fn service_key(vip: IpAddr, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        vip: address_bytes(vip),
        port: port.to_be_bytes(),
        proto: protocol,
        pad: 0,
        pad2: 0,
    }
}

/// What a plan changes about who serves VIP:ports.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What is served in another way than before, or for the first time.
    hands: Vec<(Port, Hands)>,
    /// What is served for the first time, in whichever way, and may have been kube-proxy's before.
    pub(super) first: BTreeSet<ServiceKey>,
}

/// Which VIP:ports a plan serves in another way than what stands in the maps, or for the
/// first time. `before` is the snapshot of the last plan, if there was one.
pub(super) fn changes(plan: &Plan, before: Option<&Snapshot>, datapath: &Datapath) -> Changes {
    let mut changes = Changes::default();
    let contents = datapath.contents();
    // What stands as it is planned is served as it was.
    for item in datapath.standing().diff(&plan.services) {
        let (address, service) = match item {
            DiffItem::Add(address, service) => (address, service),
            DiffItem::Update { new, .. } => new,
            DiffItem::Remove(..) => continue,
        };
        let protocol = address.protocol.number();
        let key = service_key(address.vip, address.port, protocol);
        let kernel = service.kernel;
        let stands = contents.services.get(&key).map(|s| s.flags & SERVICE_KERNEL != 0);
        if stands.is_none() {
            if before.is_some_and(|before| !had(before, service, address)) {
                continue;
            }
            // An earlier version's programs serve it until they are replaced.
            if !datapath.is_upgrading() {
                changes.first.insert(key);
            }
        }
        // What Herald leaves to kube-proxy from the start, kube-proxy had before.
        if stands == Some(kernel) || stands.is_none() && kernel {
            continue;
        }
        let port = Port { vip: address.vip, port: address.port, protocol };
        let hands = if kernel { Hands::Kernel(endpoints(plan, address)) } else { Hands::Direct };
        changes.hands.push((port, hands));
    }
    changes
}

/// Whether a Service had an address and its port already, so that kube-proxy served it. One that
/// has just got them is served by both within the same few milliseconds, and announced by
/// nobody before; the table of connections, which takes milliseconds to go through, is spared
/// then. A connection that does begin in between is found by the last resort.
fn had(before: &Snapshot, service: &PlannedService, address: &ServiceAddress) -> bool {
    before.services.get(&service.service).is_some_and(|service| {
        let is_vip = |ip: &String| ip.parse() == Ok(address.vip);
        service.ingress.iter().any(|ingress| ingress.ip.as_ref().is_some_and(is_vip))
            && service
                .ports
                .iter()
                .any(|at| (at.port, at.protocol) == (address.port, address.protocol))
    })
}

/// The plan, but for the announcement of addresses that are not announced yet where kube-proxy's
/// connections are still to be looked up: what comes for those belongs to the node that announces
/// them so far.
pub(super) fn before_announcing(plan: &Plan, datapath: &Datapath) -> Plan {
    let announced: BTreeSet<IpAddr> = datapath.announced().map(|(vip, ..)| vip).collect();
    let mut plan = plan.clone();
    let early = |(vip, planned): &(&IpAddr, &Arc<PlannedVip>)| {
        planned.announce.is_some() && !announced.contains(*vip)
    };
    let early: Vec<_> = plan.vips.iter().filter(early).map(|(vip, _)| *vip).collect();
    for vip in early {
        if let Some(planned) = plan.vips.get_mut(&vip) {
            Arc::make_mut(planned).announce = None;
        }
    }
    plan
}

/// Follows what is served how.
pub(super) struct Handover {
    /// Where to read; none where the kernel tracks nothing.
    connections: Mutex<Option<Conntrack>>,
    /// What [`run`](Self::run) has not seen yet. It goes through the table meanwhile, and no plan
    /// waits for that. None once it has ended.
    changes: Mutex<Option<Vec<(Port, Hands)>>>,
    changed: Notify,
    flows: Arc<Mutex<FlowMaps>>,
    view: Arc<View>,
}

impl Handover {
    pub(super) fn new(flows: Arc<Mutex<FlowMaps>>, view: Arc<View>) -> Self {
        let connections =
            Conntrack::open().inspect_err(|error| debug!("no connection tracking: {error}")).ok();
        Self {
            connections: Mutex::new(connections),
            changes: Mutex::new(Some(Vec::new())),
            changed: Notify::new(),
            flows,
            view,
        }
    }

    /// To be called just after a plan was applied, be it in part, with what it should
    /// [change](changes) and what stands now. What is in the way of new connections is removed
    /// by [`run`](Self::run).
    pub(super) fn after(&self, changes: Changes, contents: &Contents) {
        let mut changes = changes.hands;
        // What did not come about is another plan's change.
        changes.retain(|(port, hands)| {
            let key = service_key(port.vip, port.port, port.protocol);
            let kernel = matches!(hands, Hands::Kernel(_));
            contents.services.get(&key).is_some_and(|s| (s.flags & SERVICE_KERNEL != 0) == kernel)
        });
        if changes.is_empty() {
            return;
        }
        let mut waiting = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = waiting.as_mut() else { return };
        info!(
            ports = changes.len(),
            "VIPs' ports change hands: finished connections are removed from connection tracking"
        );
        waiting.extend(changes);
        self.changed.notify_one();
    }

    /// Writes the connections that kube-proxy has of Services that were just taken over into the
    /// table of flows, so that they go on where they are.
    ///
    /// # Errors
    ///
    /// The kernel refuses a write: it is to be tried again. That connection tracking cannot
    /// be read is none, for then the last resort cannot either, and says so.
    pub(super) fn adopt(&self, datapath: &mut Datapath) -> Result<(), Error> {
        let taken_over: BTreeSet<ServiceKey> = datapath.taken_over().copied().collect();
        let vips = taken_over.iter().map(|key| address_from_bytes(key.vip)).collect();
        let now_s = u32::try_from(system::monotonic_ns() / 1_000_000_000).unwrap_or(u32::MAX);
        let mut flows = Vec::new();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = connections.as_mut() {
            let listed = connections.connections(&vips, |entry| {
                let to = entry.original;
                let key = service_key(to.destination, to.destination_port, to.protocol);
                if taken_over.contains(&key) {
                    flows.extend(going_on(&entry, now_s).map(|(id, flow)| (key, id, flow)));
                }
            });
            if let Err(error) = listed {
                debug!("connections of kube-proxy cannot be listed: {error}");
            }
        }
        drop(connections);
        let mut table = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, id, flow) in &flows {
            table.adopt(&id.key(), flow)?;
        }
        drop(table);
        if !flows.is_empty() {
            info!(connections = flows.len(), "kube-proxy's connections go on");
        }
        datapath.end_takeover(&flows.into_iter().map(|(key, ..)| key).collect())
    }

    /// Looks when it is time to, for as long as the agent runs.
    pub(super) async fn run(self: Arc<Self>) {
        if let Ok(mut sweeper) = Sweeper::open() {
            self.sweep_for_ever(&mut sweeper).await;
        }
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends when connection tracking cannot be changed.
    async fn sweep_for_ever(&self, sweeper: &mut Sweeper) {
        loop {
            let changes = {
                let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
                changes.as_mut().map(std::mem::take).unwrap_or_default()
            };
            let now = Instant::now();
            for (port, hands) in changes {
                sweeper.takeover.changes(port, hands, now);
            }
            let next = sweeper.takeover.next_deadline();
            tokio::select! {
                () = self.changed.notified() => {}
                () = until(next) => {
                    let swept = block_in_place(|| self.sweep(sweeper));
                    if swept.is_err() {
                        return;
                    }
                    // Here a runtime that has been shut down meanwhile ends the task, before
                    // it asks for a timer.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn sweep(&self, sweeper: &mut Sweeper) -> io::Result<()> {
        match sweeper.sweep() {
            Ok(Swept { removed, over }) => {
                if removed > 0 {
                    debug!(removed, "finished connections removed from connection tracking");
                }
                self.view.own.conntrack_deleted.add(removed);
                self.forget(&over);
                Ok(())
            }
            Err(error) => {
                // Without the module there is nothing to be in the way.
                if error.raw_os_error() != Some(libc::EINVAL) {
                    warn!(
                        "connection tracking cannot be changed ({error}; it needs CAP_NET_ADMIN): \
                         while VIP ports change hands, some new connections are slow"
                    );
                }
                Err(error)
            }
        }
    }

    /// The client's port may begin another flow, elsewhere: its packets must not find the one that
    /// kube-proxy had.
    fn forget(&self, over: &[Entry]) {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in over {
            let to = entry.original;
            let flow = FlowId {
                client: to.source,
                vip: to.destination,
                client_port: to.source_port,
                port: to.destination_port,
                protocol: to.protocol,
            };
            if let Err(error) = flows.end_kernels(&flow.key()) {
                warn!("{error}");
                return;
            }
        }
    }
}
