//! Puts a [`Plan`] together.
use super::{
    Notice, Plan, PlannedNode, PlannedVip, RowCache,
    endpoints::{Placement, SlicesByService, warning},
    owner::Election,
    service::{Planner, ServicePlan},
};
use crate::{
    ipam::pools::{Pool, Pools},
    membership::Alive,
    snapshot::{
        EndpointSlice, IpAddressPool, L2Advertisement, Node, ObjectName, Service, Snapshot,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

/// Who does the last step to the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Herald.
    #[default]
    Direct,
    /// kube-proxy, or what stands in for it.
    Kernel,
}

/// What an agent is told on its command line, as far as plans depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// `--delivery`
    pub delivery: Delivery,
    /// `--ignore-exclude-lb`: nodes labelled
    /// `node.kubernetes.io/exclude-from-external-load-balancers` announce all the same.
    pub ignore_exclude_label: bool,
    /// Addresses of this node's endpoints whose replies do not come by the egress program, and
    /// why: Services that send new flows to one are left to kube-proxy on this node.
    pub unseen: BTreeMap<IpAddr, String>,
}

/// What node `me` shall do.
pub fn plan(snapshot: &Snapshot, me: &str, alive: &Alive, options: &PlanOptions) -> Plan {
    plan_with(snapshot, me, alive, options, &mut PlanCache::default())
}

/// What an earlier plan computed: makes the next one quicker, never different, since it is
/// used only for what has the same inputs.
#[derive(Debug, Default)]
pub struct PlanCache {
    /// Rows, by endpoints.
    pub rows: RowCache,
    common: Common,
    services: HashMap<ObjectName, KnownService>,
    vips: HashMap<IpAddr, KnownVip>,
    round: u64,
}

/// What the plan of every Service depends on.
#[derive(Debug, Default, PartialEq)]
struct Common {
    me: String,
    options: PlanOptions,
    alive: Alive,
    nodes: BTreeMap<String, Node>,
    pools: BTreeMap<String, IpAddressPool>,
    advertisements: BTreeMap<String, L2Advertisement>,
}

impl Common {
    fn is(&self, snapshot: &Snapshot, me: &str, alive: &Alive, options: &PlanOptions) -> bool {
        self.me == me
            && self.options == *options
            && self.alive == *alive
            && self.nodes == snapshot.nodes
            && self.pools == snapshot.pools
            && self.advertisements == snapshot.l2_advertisements
    }
}

/// What else the plan of a Service depends on, and that plan.
#[derive(Debug)]
struct KnownService {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    plan: Arc<ServicePlan>,
    round: u64,
}

impl KnownService {
    fn is(&self, service: &Arc<Service>, slices: &[&Arc<EndpointSlice>]) -> bool {
        // What has not changed is the same allocation in the next snapshot, which `Arc` looks at first.
        self.service == *service && self.slices.iter().eq(slices.iter().copied())
    }
}

/// The Services of a VIP, and what was decided about it.
#[derive(Debug)]
struct KnownVip {
    services: Vec<ObjectName>,
    planned: Arc<PlannedVip>,
    notices: BTreeSet<Notice>,
    round: u64,
}

/// The same as [`plan()`], with what an earlier plan computed.
pub fn plan_with(
    snapshot: &Snapshot,
    me: &str,
    alive: &Alive,
    options: &PlanOptions,
    cache: &mut PlanCache,
) -> Plan {
    cache.begin(snapshot, me, alive, options);
    let nodes: Vec<_> = snapshot
        .nodes
        .iter()
        .map(|(name, node)| PlannedNode {
            name: name.clone(),
            addresses: node.internal_ips.clone(),
        })
        .collect();
    let positions = snapshot.nodes.keys().map(String::as_str).zip(0..).collect();
    let placement = Placement { snapshot, alive, positions: &positions, me };
    let slices = SlicesByService::new(snapshot);
    // An address in a Service's status counts while a pool of ours has it: whoever wrote
    // it there, and whether or not this agent is the one that allocates.
    let (pools, _) = Pools::new(snapshot);
    let mut plan = Plan { nodes, ..Plan::default() };
    let mut notices = BTreeSet::new();
    let mut local_notices = BTreeSet::new();
    let mut ports = Vec::new();
    let mut vips = Vec::new();
    for service in snapshot.services.values().filter(|service| service.wants_address) {
        let slices = slices.of(&service.name);
        let (planned, changed) = cache.service(service, slices, |rows| {
            Planner { placement, options, rows }.plan(service, slices, &pools)
        });
        let service: &Service = service;
        plan.local_endpoints.extend(&planned.local);
        notices.extend(planned.notices.iter().cloned());
        local_notices.extend(planned.local_notices.iter().cloned());
        ports.extend(planned.ports.iter().map(|(at, port)| (*at, service, Arc::clone(port))));
        vips.extend(planned.vips.iter().map(|vip| (*vip, service, changed)));
    }
    // Stable: of Services that want the same, the first by name has it.
    ports.sort_by_key(|(address, ..)| *address);
    ports.dedup_by(|(address, service, _), (taken, _, other)| {
        let conflict = address == taken;
        if conflict {
            let message = format!(
                "{} port {}/{} belongs to Service {}: give this Service another port or another \
                 address.",
                address.vip, address.port, address.protocol, other.service
            );
            notices.insert(warning(service, "PortConflict", message));
        }
        conflict
    });
    plan.services = ports.into_iter().map(|(address, _, port)| (address, port)).collect();

    let mut election = Election::new(snapshot, alive, options, &slices);
    vips.sort_by_key(|(vip, ..)| *vip);
    let mut decided = Vec::new();
    for group in vips.chunk_by(|a, b| a.0 == b.0) {
        let (vip, first, _) = group[0];
        let Some(pool) = pools.held(first, vip) else { continue };
        let services: Vec<_> = group.iter().map(|(_, service, _)| *service).collect();
        let changed = group.iter().any(|(.., changed)| *changed);
        let known =
            cache.vip(vip, &services, changed, || decide(&mut election, vip, pool, &services, me));
        notices.extend(known.notices.iter().cloned());
        decided.push((vip, Arc::clone(&known.planned)));
    }
    plan.vips = decided.into_iter().collect();
    let living = snapshot.nodes.keys().zip(0..).filter(|(name, _)| alive.contains_key(*name));
    plan.fragment_rows =
        cache.rows.fragments(living.map(|(name, position)| (name.clone(), position)).collect());
    cache.end();
    plan.notices = notices.into_iter().collect();
    plan.local_notices = local_notices.into_iter().collect();
    plan
}

/// Who announces a VIP, and what there is to say about it.
fn decide(
    election: &mut Election<'_>,
    vip: IpAddr,
    pool: &Pool,
    services: &[&Service],
    me: &str,
) -> (PlannedVip, BTreeSet<Notice>) {
    let mut notices = BTreeSet::new();
    let (owner, announce) = match election.decide(vip, pool, services, &mut notices) {
        Some((owner, interfaces)) => (Some(owner.to_owned()), (owner == me).then_some(interfaces)),
        None => (None, None),
    };
    let services = services.iter().map(|s| s.name.clone()).collect();
    (PlannedVip { owner, announce, services }, notices)
}

impl PlanCache {
    fn begin(&mut self, snapshot: &Snapshot, me: &str, alive: &Alive, options: &PlanOptions) {
        self.round += 1;
        if !self.common.is(snapshot, me, alive, options) {
            self.services.clear();
            self.vips.clear();
            self.common = Common {
                me: me.to_owned(),
                options: options.clone(),
                alive: alive.clone(),
                nodes: snapshot.nodes.clone(),
                pools: snapshot.pools.clone(),
                advertisements: snapshot.l2_advertisements.clone(),
            };
        }
    }

    /// The plan of a Service, and whether it is a new one.
    fn service(
        &mut self,
        service: &Arc<Service>,
        slices: &[&Arc<EndpointSlice>],
        plan: impl FnOnce(&mut RowCache) -> ServicePlan,
    ) -> (Arc<ServicePlan>, bool) {
        let round = self.round;
        if let Some(known) = self.services.get_mut(&service.name)
            && known.is(service, slices)
        {
            known.round = round;
            return (Arc::clone(&known.plan), false);
        }
        let plan = Arc::new(plan(&mut self.rows));
        let known = KnownService {
            service: Arc::clone(service),
            slices: slices.iter().map(|slice| Arc::clone(slice)).collect(),
            plan: Arc::clone(&plan),
            round,
        };
        self.services.insert(service.name.clone(), known);
        (plan, true)
    }

    fn vip(
        &mut self,
        vip: IpAddr,
        services: &[&Service],
        changed: bool,
        decide: impl FnOnce() -> (PlannedVip, BTreeSet<Notice>),
    ) -> &KnownVip {
        let round = self.round;
        let same = |known: &KnownVip| {
            !changed && known.services.iter().eq(services.iter().map(|service| &service.name))
        };
        let anew = || {
            let (planned, notices) = decide();
            let services = services.iter().map(|service| service.name.clone()).collect();
            KnownVip { services, planned: Arc::new(planned), notices, round }
        };
        match self.vips.entry(vip) {
            Entry::Vacant(vacant) => vacant.insert(anew()),
            Entry::Occupied(occupied) => {
                let known = occupied.into_mut();
                if same(known) {
                    known.round = round;
                } else {
                    *known = anew();
                }
                known
            }
        }
    }

    /// Ends a plan: what it did not use is forgotten.
    fn end(&mut self) {
        let round = self.round;
        self.services.retain(|_, known| known.round == round);
        self.vips.retain(|_, known| known.round == round);
        self.rows.sweep();
    }
}
