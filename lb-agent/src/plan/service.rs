//! The part of a [`Plan`](super::Plan) that depends on one Service alone.
use super::{
    EndpointAddress, Notice, PlannedService, RowCache, ServiceAddress,
    build::{Delivery, PlanOptions},
    endpoints::{Placement, PortEndpoints, warning},
};
use crate::{
    ipam::pools::{Family, Pools},
    snapshot::{EndpointSlice, Protocol, Service, ServicePort},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// One Service's part.
#[derive(Debug, Default)]
pub(super) struct ServicePlan {
    /// Its addresses that are ours.
    pub(super) vips: Vec<IpAddr>,
    /// Its ports on each of them.
    pub(super) ports: Vec<(ServiceAddress, Arc<PlannedService>)>,
    /// This node's endpoints of it.
    pub(super) local: BTreeSet<EndpointAddress>,
    pub(super) notices: BTreeSet<Notice>,
    pub(super) local_notices: BTreeSet<Notice>,
}

/// What Services are planned by.
pub(super) struct Planner<'a> {
    pub(super) placement: Placement<'a>,
    pub(super) options: &'a PlanOptions,
    pub(super) rows: &'a mut RowCache,
}

impl Planner<'_> {
    pub(super) fn plan(
        self,
        service: &Service,
        slices: &[Arc<EndpointSlice>],
        pools: &Pools,
    ) -> ServicePlan {
        let vips: BTreeSet<_> = service.addresses().into_iter().collect();
        let vips: Vec<_> =
            vips.into_iter().filter(|vip| pools.held(service, *vip).is_some()).collect();
        let mut plan = ServicePlan { vips: vips.clone(), ..ServicePlan::default() };
        let ranges = source_ranges(service, &vips, &mut plan.notices);
        // What only kube-proxy can do, and what to change about it.
        let mut reasons = BTreeMap::new();
        for vip in vips {
            let family = Family::of(vip);
            for port in &service.ports {
                let found = self.placement.of_port(service, slices, port, family);
                let sctp = port.protocol == Protocol::Sctp && found.translated;
                if sctp {
                    reasons.insert(port.port, "SCTP, whose checksum covers the ports");
                }
                let unseen = self.unseen(service, port, &found, &mut plan.local_notices);
                let rows = self.rows.rows(found.rows);
                let planned = PlannedService {
                    service: service.name.clone(),
                    kernel: self.options.delivery == Delivery::Kernel || sctp || unseen,
                    here: !found.local.is_empty(),
                    local: BTreeSet::from_iter(found.local.iter().copied()).into_iter().collect(),
                    affinity_s: service.client_ip_affinity,
                    source_ranges: ranges.as_ref().map(|all| {
                        let own = |net: &&IpNet| Family::of(net.addr()) == family;
                        Box::new(all.iter().filter(own).copied().collect())
                    }),
                    endpoints: self.rows.local(found.taking, rows.len()),
                    rows,
                };
                plan.notices.extend(found.notices);
                plan.local.extend(found.local);
                let address = ServiceAddress { vip, port: port.port, protocol: port.protocol };
                if plan.ports.iter().any(|(at, _)| *at == address) {
                    let message = format!(
                        "spec.ports lists {}/{} twice: remove one.",
                        port.port, port.protocol
                    );
                    plan.notices.insert(warning(service, "PortConflict", message));
                    continue;
                }
                plan.ports.push((address, Arc::new(planned)));
            }
        }
        if !reasons.is_empty() && self.options.delivery == Delivery::Direct {
            let which: Vec<_> =
                reasons.iter().map(|(port, reason)| format!("port {port} ({reason})")).collect();
            let message = format!(
                "kube-proxy delivers {}: under externalTrafficPolicy Cluster the pods do not see \
                 the client's address, and connections do not outlive a change of the node that \
                 receives them. Let port and targetPort be equal for direct delivery.",
                which.join(", ")
            );
            let notice = warning(service, "KernelDelivery", message);
            plan.notices.insert(Notice { warning: false, ..notice });
        }
        plan
    }

    /// Whether new flows would go to an endpoint whose replies do not pass the egress program:
    /// they would leave with the pod's own address. Any one is enough, since rows, and with
    /// them who gets a flow, are the same on all nodes.
    fn unseen(
        &self,
        service: &Service,
        port: &ServicePort,
        found: &PortEndpoints,
        notices: &mut BTreeSet<Notice>,
    ) -> bool {
        let unseen: Vec<_> = (found.taking.iter())
            .map(|endpoint| endpoint.address)
            .filter_map(|address| self.options.unseen.get_key_value(&address))
            .map(|(address, reason)| format!("{address} ({reason})"))
            .collect();
        if !unseen.is_empty() && self.options.delivery == Delivery::Direct {
            let message = format!(
                "kube-proxy on node {} delivers port {}: replies of {} do not leave by an \
                 interface that Herald sees, so that it could not put the address of the Service \
                 back. See that the pods' traffic to clients leaves by the host's routes.",
                self.placement.me,
                port.port,
                unseen.join(", ")
            );
            notices.insert(warning(service, "RepliesUnseen", message));
        }
        !unseen.is_empty()
    }
}

/// The prefixes of a Service's clients; `None` if all are served.
///
/// The API server has checked them. What is malformed all the same (in a manifest) admits
/// nobody: a slip must not open what was meant to be closed.
fn source_ranges(
    service: &Service,
    vips: &[IpAddr],
    notices: &mut BTreeSet<Notice>,
) -> Option<BTreeSet<IpNet>> {
    if service.source_ranges.is_empty() {
        return None;
    }
    let mut ranges = BTreeSet::new();
    for text in &service.source_ranges {
        match text.trim().parse::<IpNet>() {
            Ok(net) => drop(ranges.insert(net.trunc())),
            Err(_) => {
                let message = format!(
                    "spec.loadBalancerSourceRanges: {text:?} is not a prefix such as \
                     192.0.2.0/24, and admits no client: correct or remove it."
                );
                notices.insert(warning(service, "SourceRangeMalformed", message));
            }
        }
    }
    let families: BTreeSet<_> = vips.iter().copied().map(Family::of).collect();
    for family in families {
        if !ranges.iter().any(|net| Family::of(net.addr()) == family) {
            let message = format!(
                "spec.loadBalancerSourceRanges has no {family} prefix, so that no {family} client \
                 is served: add those that shall be."
            );
            notices.insert(warning(service, "SourceRangeFamily", message));
        }
    }
    Some(ranges)
}
