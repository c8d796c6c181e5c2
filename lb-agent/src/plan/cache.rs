//! The plan before, and how the next one follows from it.
//!
//! Each Service has a part of the plan that depends on it, on its EndpointSlices and on what is
//! [common](Common) to all. When that changes, all parts are made anew; else only those of the
//! Services that differ between two snapshots. A VIP or a port that several Services name is
//! decided about again when one of them changes.
use super::{
    Announcing, EndpointAddress, Interfaces, Notice, Plan, PlanOptions, PlannedNode,
    PlannedService, PlannedVip, RowCache, ServiceAddress,
    endpoints::{Placement, warning},
    lowest::Owners,
    owner::Election,
    service::{Planner, ServicePlan},
    tally::Tally,
};
use crate::{
    differences,
    ipam::pools::{Pool, Pools},
    membership::Alive,
    snapshot::{ObjectName, Service, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// The plan before, and what it was made of.
#[derive(Debug, Default)]
pub struct PlanCache {
    /// Rows, by endpoints.
    pub rows: RowCache,
    snapshot: Snapshot,
    common: Common,
    parts: HashMap<ObjectName, Box<Part>>,
    /// Services that want a port that another has.
    losers: BTreeSet<(ServiceAddress, ObjectName)>,
    /// What is told of a port, or of a VIP.
    of_ports: BTreeMap<ServiceAddress, Vec<Arc<Notice>>>,
    of_vips: HashMap<IpAddr, OfVip>,
    owners: Owners,
    notices: Tally<Arc<Notice>>,
    local_notices: Tally<Arc<Notice>>,
    local_endpoints: Tally<EndpointAddress>,
    plan: Plan,
}

/// What the plan of every Service depends on, besides nodes, pools and advertisements themselves.
#[derive(Debug, Default)]
struct Common {
    me: String,
    options: PlanOptions,
    alive: Alive,
    /// The names of all nodes.
    names: BTreeSet<Arc<str>>,
    /// An address in a Service's status counts while a pool of ours has it: whoever wrote
    /// it there, and whether or not this agent is the one that allocates.
    parsed: Pools,
}

impl Common {
    fn new(
        before: &Self,
        snapshot: &Snapshot,
        me: &str,
        alive: &Alive,
        options: &PlanOptions,
    ) -> Self {
        // Rows hold those that they name: they need not be there twice.
        let name = |name: &String| match before.names.get(name.as_str()) {
            Some(known) => Arc::clone(known),
            None => name.as_str().into(),
        };
        Self {
            me: me.to_owned(),
            options: options.clone(),
            alive: alive.clone(),
            names: snapshot.nodes.keys().map(name).collect(),
            parsed: Pools::new(snapshot).0,
        }
    }

    fn is(&self, me: &str, alive: &Alive, options: &PlanOptions) -> bool {
        self.me == me && self.options == *options && self.alive == *alive
    }
}

/// A Service's part of the plan.
#[derive(Debug, Default)]
struct Part {
    vips: Vec<IpAddr>,
    ports: Vec<(ServiceAddress, Arc<PlannedService>)>,
    local_endpoints: Vec<EndpointAddress>,
    notices: Vec<Arc<Notice>>,
    local_notices: Vec<Arc<Notice>>,
}

impl Part {
    fn port(&self, address: &ServiceAddress) -> Option<&Arc<PlannedService>> {
        self.ports.iter().find(|(at, _)| at == address).map(|(_, planned)| planned)
    }
}

/// What is told of a VIP.
#[derive(Debug, Default)]
struct OfVip {
    notices: Vec<Arc<Notice>>,
    local_notices: Vec<Arc<Notice>>,
}

/// What has to be decided about again, and because of which Services.
#[derive(Debug, Default)]
struct Touched {
    ports: BTreeMap<ServiceAddress, BTreeSet<ObjectName>>,
    vips: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
}

impl PlanCache {
    pub(super) fn plan(
        &mut self,
        snapshot: &Snapshot,
        me: &str,
        alive: &Alive,
        options: &PlanOptions,
    ) -> Plan {
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        let services = differences::keys(&before.services, &snapshot.services);
        let slices = differences::keys(&before.slices, &snapshot.slices);
        let mut changed: BTreeSet<_> = services.chain(slices).cloned().collect();
        let same = self.common.is(me, alive, options)
            && before.nodes == snapshot.nodes
            && before.pools == snapshot.pools
            && before.l2_advertisements == snapshot.l2_advertisements;
        if !same {
            self.common = Common::new(&self.common, snapshot, me, alive, options);
            self.plan_nodes(snapshot);
            changed.extend(self.parts.keys().chain(snapshot.services.keys()).cloned());
        }
        let mut touched = Touched::default();
        let count = changed.len();
        for name in changed {
            let service = snapshot.services.get(&name).filter(|service| service.wants_address);
            let part = service.map(|service| self.plan_service(snapshot, service));
            self.exchange(&name, part, &mut touched);
        }
        for (address, names) in touched.ports {
            self.settle_port(address, names, snapshot);
        }
        self.settle_vips(touched.vips, snapshot);
        self.rows.sweep(count);
        self.plan.local_endpoints = self.local_endpoints.set().clone();
        self.plan.notices = self.notices.set().clone();
        self.plan.local_notices = self.local_notices.set().clone();
        self.plan.clone()
    }

    /// What depends on nothing but what is common to all.
    fn plan_nodes(&mut self, snapshot: &Snapshot) {
        let nodes: Vec<_> = (snapshot.nodes.iter())
            .map(|(name, node)| PlannedNode {
                name: name.clone(),
                addresses: node.internal_ips.clone(),
            })
            .collect();
        if *self.plan.nodes != nodes {
            self.plan.nodes = Arc::new(nodes);
        }
        let living = snapshot.nodes.keys().zip(0..);
        let alive = &self.common.alive;
        let living = living.filter(|(name, _)| alive.get(*name).is_some_and(|node| node.in_rows));
        let living = living.map(|(name, position)| (name.clone(), position)).collect();
        self.plan.fragment_rows = self.rows.fragments(living);
    }

    fn plan_service(&mut self, snapshot: &Snapshot, service: &Service) -> ServicePlan {
        let Common { me, options, alive, names, parsed } = &self.common;
        let placement = Placement { nodes: &snapshot.nodes, alive, names, me };
        let planner = Planner { placement, options, rows: &mut self.rows };
        planner.plan(service, snapshot.slices_of(&service.name), parsed)
    }

    /// Puts a Service's part in the place of the one before.
    fn exchange(&mut self, name: &ObjectName, planned: Option<ServicePlan>, touched: &mut Touched) {
        let mut part = self.parts.remove(name).unwrap_or_default();
        let there = planned.is_some();
        let planned = planned.unwrap_or_default();
        let mut before = std::mem::take(&mut part.ports);
        part.ports.reserve_exact(planned.ports.len());
        for (address, planned) in planned.ports {
            // What is equal stays the same allocation: nobody has to look at it again.
            let known = before.iter().position(|(at, known)| *at == address && *known == planned);
            let port = match known {
                Some(known) => before.swap_remove(known),
                None => {
                    touched.ports.entry(address).or_default().insert(name.clone());
                    (address, planned)
                }
            };
            part.ports.push(port);
        }
        for (address, _) in before {
            touched.ports.entry(address).or_default().insert(name.clone());
        }
        for vip in part.vips.iter().chain(&planned.vips) {
            touched.vips.entry(*vip).or_default().insert(name.clone());
        }
        part.vips = planned.vips;
        self.local_endpoints.exchange(&mut part.local_endpoints, planned.local);
        self.notices.exchange(&mut part.notices, planned.notices.into_iter().map(Arc::new));
        let local_notices = planned.local_notices.into_iter().map(Arc::new);
        self.local_notices.exchange(&mut part.local_notices, local_notices);
        if there {
            self.parts.insert(name.clone(), part);
        }
    }

    /// Decides whose a port is: of Services that want the same, the first by name has it.
    fn settle_port(
        &mut self,
        address: ServiceAddress,
        mut names: BTreeSet<ObjectName>,
        snapshot: &Snapshot,
    ) {
        let lost = self.losers.range((address, ObjectName::default())..);
        let lost: Vec<_> = lost.take_while(|(at, _)| *at == address).cloned().collect();
        for loser in lost {
            self.losers.remove(&loser);
            names.insert(loser.1);
        }
        names.extend(self.plan.services.get(&address).map(|planned| planned.service.clone()));
        let wanting = |name: &ObjectName| Some(self.parts.get(name)?.port(&address)?.clone());
        let mut wanting = names.iter().filter_map(wanting);
        let Some(winner) = wanting.next() else {
            self.plan.services.remove(&address);
            self.tell_of_port(address, []);
            return;
        };
        let mut conflicts = Vec::new();
        for loser in wanting {
            self.losers.insert((address, loser.service.clone()));
            let Some(service) = snapshot.services.get(&loser.service) else { continue };
            let message = format!(
                "{} port {}/{} belongs to Service {}: give this Service another port or another \
                 address.",
                address.vip, address.port, address.protocol, winner.service
            );
            conflicts.push(warning(service, "PortConflict", message));
        }
        let stands = self.plan.services.get(&address);
        if stands.is_none_or(|stands| !Arc::ptr_eq(stands, &winner)) {
            self.plan.services.insert(address, winner);
        }
        self.tell_of_port(address, conflicts);
    }

    fn tell_of_port(&mut self, address: ServiceAddress, notices: impl IntoIterator<Item = Notice>) {
        let mut told = self.of_ports.remove(&address).unwrap_or_default();
        self.notices.exchange(&mut told, notices.into_iter().map(Arc::new));
        if !told.is_empty() {
            self.of_ports.insert(address, told);
        }
    }

    /// Decides who announces these VIPs.
    fn settle_vips(
        &mut self,
        touched: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
        snapshot: &Snapshot,
    ) {
        if touched.is_empty() {
            return;
        }
        let Common { alive, options, .. } = &self.common;
        let mut election = Election::new(snapshot, alive, options, &mut self.owners);
        let mut gone = Vec::new();
        let mut concerned = BTreeSet::new();
        for (vip, mut names) in touched {
            let before = self.plan.vips.get(&vip);
            names.extend(before.iter().flat_map(|planned| &planned.services).cloned());
            let has = |name: &&ObjectName| {
                self.parts.get(*name).is_some_and(|part| part.vips.contains(&vip))
            };
            let services = names.iter().filter(has).filter_map(|name| snapshot.services.get(name));
            let services: Vec<&Service> = services.map(|service| &**service).collect();
            let pool = services.first().and_then(|first| self.common.parsed.held(first, vip));
            let mut told = Told::default();
            match pool {
                Some(pool) => {
                    let me = &self.common.me;
                    let planned = decide(&mut election, vip, pool, &services, me, &mut told);
                    if before.is_none_or(|before| **before != planned) {
                        self.plan.vips.insert(vip, Arc::new(planned));
                    }
                }
                None => {
                    self.plan.vips.remove(&vip);
                    gone.push(vip);
                }
            }
            let mut of_vip = self.of_vips.remove(&vip).unwrap_or_default();
            let Told { notices, local_notices } = told;
            self.notices.exchange(&mut of_vip.notices, notices.into_iter().map(Arc::new));
            let local_notices = local_notices.into_iter().map(Arc::new);
            self.local_notices.exchange(&mut of_vip.local_notices, local_notices);
            if !of_vip.notices.is_empty() || !of_vip.local_notices.is_empty() {
                self.of_vips.insert(vip, of_vip);
            }
            concerned.extend(names);
        }
        for vip in gone {
            self.owners.forget(vip);
        }
        for name in concerned {
            self.settle_announcing(name);
        }
    }

    /// Works out what this node announces of a Service.
    fn settle_announcing(&mut self, name: ObjectName) {
        let Plan { vips, announcing, .. } = &mut self.plan;
        let of = self.parts.get(&name).map_or(&[][..], |part| &part.vips);
        let planned = || of.iter().filter_map(|vip| vips.get(vip));
        let interfaces: Vec<_> = planned().filter_map(|vip| vip.announce.as_ref()).collect();
        if interfaces.is_empty() {
            announcing.remove(&name);
            return;
        }
        let mut named = BTreeSet::new();
        for interfaces in &interfaces {
            if let Interfaces::Named(names) = interfaces {
                named.extend(names.iter().cloned());
            }
        }
        if interfaces.iter().any(|interfaces| **interfaces == Interfaces::All) {
            named.clear();
        }
        let owners = planned().filter_map(|vip| Some(vip.owner.as_deref()?.to_owned())).collect();
        let now = Announcing { interfaces: named, owners };
        if announcing.get(&name).is_none_or(|before| **before != now) {
            announcing.insert(name, Arc::new(now));
        }
    }
}

/// What there is to say about a decision.
#[derive(Default)]
struct Told {
    notices: BTreeSet<Notice>,
    local_notices: Vec<Notice>,
}

/// Who announces a VIP, and what there is to say about it.
fn decide(
    election: &mut Election<'_>,
    vip: IpAddr,
    pool: &Pool,
    services: &[&Service],
    me: &str,
    told: &mut Told,
) -> PlannedVip {
    let (owner, announce) = match election.decide(vip, pool, services, &mut told.notices) {
        Some((owner, interfaces)) => {
            let announce = (*owner == *me).then_some(interfaces);
            (Some(owner), announce)
        }
        None => (None, None),
    };
    if announce.is_some() {
        told.local_notices.extend(services.iter().map(|service| Notice {
            kind: "Service",
            object: service.name.clone(),
            warning: false,
            reason: "nodeAssigned",
            message: format!("announcing {vip} from node \"{me}\" with protocol \"layer2\"").into(),
        }));
    }
    let services = services.iter().map(|service| service.name.clone()).collect();
    PlannedVip { owner, announce, services }
}
