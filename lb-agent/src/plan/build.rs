//! Puts a [`Plan`] together.
use super::{
    Interfaces, Notice, Plan, PlannedNode, PlannedService, PlannedVip, RowCache, ServiceAddress,
    endpoints::{Placement, SlicesByService, warning},
    owner::Election,
};
use crate::{
    ipam::pools::{Family, Pool, Pools},
    membership::Alive,
    snapshot::{Protocol, Service, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
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
}

/// What node `me` shall do.
pub fn plan(snapshot: &Snapshot, me: &str, alive: &Alive, options: &PlanOptions) -> Plan {
    plan_with(snapshot, me, alive, options, &mut RowCache::default())
}

/// The same, with rows that an earlier plan computed: quicker, never different.
pub fn plan_with(
    snapshot: &Snapshot,
    me: &str,
    alive: &Alive,
    options: &PlanOptions,
    cache: &mut RowCache,
) -> Plan {
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
    let mut builder = Builder {
        placement,
        slices: SlicesByService::new(snapshot),
        me: positions.get(me).copied(),
        options,
        cache,
        plan: Plan { nodes, ..Plan::default() },
        notices: BTreeSet::new(),
    };
    // An address in a Service's status counts while a pool of ours has it: whoever wrote
    // it there, and whether or not this agent is the one that allocates.
    let (pools, _) = Pools::new(snapshot);
    let mut vips = BTreeMap::<IpAddr, (&Pool<'_>, Vec<&Service>)>::new();
    for service in snapshot.services.values().filter(|s| s.wants_address) {
        let held: BTreeMap<_, _> = (service.addresses().into_iter())
            .filter_map(|vip| Some((vip, pools.held(service, vip)?)))
            .collect();
        for vip in held.keys() {
            builder.service(service, *vip);
        }
        if !held.is_empty() {
            builder.unserved(service);
        }
        for (vip, pool) in held {
            vips.entry(vip).or_insert((pool, Vec::new())).1.push(service);
        }
    }
    let mut election = Election::new(snapshot, alive, options, &builder.slices);
    for (vip, (pool, services)) in vips {
        let ownership = election.decide(vip, pool, &services, &mut builder.notices);
        let mine = |owner: &str| owner == me;
        let (owner, announce): (Option<String>, Option<Interfaces>) = match ownership {
            Some((owner, interfaces)) if mine(owner) => (Some(owner.to_owned()), Some(interfaces)),
            Some((owner, _)) => (Some(owner.to_owned()), None),
            None => (None, None),
        };
        let services = services.iter().map(|s| s.name.clone()).collect();
        builder.plan.vips.insert(vip, PlannedVip { owner, announce, services });
    }
    builder.cache.sweep();
    builder.plan.notices = builder.notices.into_iter().collect();
    builder.plan
}

struct Builder<'a> {
    placement: Placement<'a>,
    slices: SlicesByService<'a>,
    me: Option<u16>,
    options: &'a PlanOptions,
    cache: &'a mut RowCache,
    plan: Plan,
    notices: BTreeSet<Notice>,
}

impl Builder<'_> {
    /// Plans the ports of a Service on one of its addresses.
    fn service(&mut self, service: &Service, vip: IpAddr) {
        for port in service.ports.iter().filter(|p| p.protocol != Protocol::Sctp) {
            let slices = self.slices.of(&service.name);
            let found = self.placement.of_port(service, slices, port, Family::of(vip));
            self.notices.extend(found.notices);
            self.plan.local_endpoints.extend(found.local);
            let address = ServiceAddress { vip, port: port.port, protocol: port.protocol };
            match self.plan.services.entry(address) {
                Entry::Vacant(vacant) => {
                    vacant.insert(PlannedService {
                        service: service.name.clone(),
                        kernel: self.options.delivery == Delivery::Kernel
                            || !needs_kernel(service).is_empty(),
                        client_ip_affinity: service.client_ip_affinity,
                        rows: self.cache.rows(found.rows, self.me),
                    });
                }
                Entry::Occupied(other) => {
                    let message = format!(
                        "{vip} port {}/{} belongs to Service {}: give this Service another port \
                         or another address.",
                        port.port,
                        port.protocol,
                        other.get().service
                    );
                    self.notices.insert(warning(service, "PortConflict", message));
                }
            }
        }
    }

    /// Says what of a Service is not served as written.
    fn unserved(&mut self, service: &Service) {
        let sctp: Vec<_> = (service.ports.iter())
            .filter(|p| p.protocol == Protocol::Sctp)
            .map(|p| p.port.to_string())
            .collect();
        if !sctp.is_empty() {
            let message = format!(
                "SCTP is not served yet: what arrives for port {} is dropped. Use a NodePort for \
                 it, or TCP or UDP.",
                sctp.join(", ")
            );
            self.notices.insert(warning(service, "UnsupportedProtocol", message));
        }
        let fields = needs_kernel(service);
        if !fields.is_empty() && self.options.delivery == Delivery::Direct {
            let message = format!(
                "delivered by kube-proxy because of {}: under externalTrafficPolicy Cluster the \
                 pods do not see the client's address, and connections do not outlive a change \
                 of the node that receives them. Remove the field for direct delivery.",
                fields.join(" and ")
            );
            let notice = warning(service, "KernelDelivery", message);
            self.notices.insert(Notice { warning: false, ..notice });
        }
    }
}

/// The fields of a Service that only kube-proxy serves so far.
fn needs_kernel(service: &Service) -> Vec<&'static str> {
    let ranges = (!service.source_ranges.is_empty()).then_some("spec.loadBalancerSourceRanges");
    let affinity = service.client_ip_affinity.then_some("spec.sessionAffinity ClientIP");
    ranges.into_iter().chain(affinity).collect()
}
