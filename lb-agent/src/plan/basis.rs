//! What a plan was made of: for whoever asks why it is as it is.
use super::{
    EndpointAddress, Plan, PlanOptions, Rows, ServiceAddress,
    endpoints::Placement,
    lowest::Owners,
    owner::{
        Election,
        why::{Ownership, Reason},
    },
    rows::PerRow,
};
use crate::{
    bgp::plan::{Services, Silence},
    ipam::pools::{Family, Pools},
    membership::Alive,
    snapshot::{Service, Snapshot},
};
use lb_common::hash::{row_mask, row_weight};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// The reason that says to which peers an address is announced.
pub const ANNOUNCED: &str = "Announced";

/// What a plan was made of.
#[derive(Clone, Debug)]
pub struct Basis {
    /// What the API said.
    pub snapshot: Arc<Snapshot>,
    /// Who was alive.
    pub alive: Arc<Alive>,
    /// What the agent was told.
    pub options: PlanOptions,
    /// The node that it was made for.
    pub me: String,
}

/// Why a VIP is announced by whom it is, in each way of announcing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcers {
    /// On layer 2; none if no node does.
    pub layer2: Option<Ownership>,
    /// By BGP from this node: to whom, or why to nobody; none if BGP is not for its pool.
    pub bgp: Option<Reason>,
}

/// Endpoints that take new flows, by their nodes.
type Taking = BTreeMap<Arc<str>, Vec<EndpointAddress>>;

/// Which part of new flows an endpoint takes.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointShare {
    /// The endpoint.
    pub endpoint: EndpointAddress,
    /// Its node.
    pub node: Arc<str>,
    /// Of 100.
    pub percent: f64,
}

/// The shares of the endpoints of all nodes, as last computed: that takes the time of a table of rows
/// for each port that has changed.
#[derive(Debug, Default)]
pub struct EndpointShares {
    known: HashMap<ServiceAddress, Known>,
}

/// Shares, and what they are computed from.
#[derive(Debug)]
struct Known {
    rows: Arc<Rows>,
    taking: Taking,
    shares: Arc<[EndpointShare]>,
}

impl Basis {
    /// Why each VIP of the plan is announced by whom it is. `routed`: what this node announces by BGP.
    pub fn announcers(&self, plan: &Plan, routed: &Services) -> BTreeMap<IpAddr, Announcers> {
        let (pools, mut owners) = (Pools::new(&self.snapshot).0, Owners::default());
        let mut election = Election::new(&self.snapshot, &self.alive, &self.options, &mut owners);
        let mut all = BTreeMap::new();
        for (vip, planned) in &plan.vips {
            let services = planned.services.iter();
            let services: Vec<&Service> =
                services.filter_map(|name| Some(&**self.snapshot.services.get(name)?)).collect();
            let Some(pool) = services.first().and_then(|first| pools.held(first, *vip)) else {
                continue;
            };
            let layer2 = planned.owner.as_deref().and_then(|owner| {
                let nodes = (owner, &*self.me);
                election.why((*vip, pool), &services, nodes, &self.alive, &self.options)
            });
            let bgp = self.options.routed_pools.contains(&*pool.name);
            let bgp = bgp.then(|| by_bgp(*vip, &services, routed)).flatten();
            all.insert(*vip, Announcers { layer2, bgp });
        }
        all
    }
}

/// To which peers an address is announced, or why to none.
fn by_bgp(vip: IpAddr, services: &[&Service], routed: &Services) -> Option<Reason> {
    let all = || services.iter().filter_map(|service| routed.get(&service.name));
    let peers: BTreeSet<_> = all()
        .filter(|announced| announced.addresses.contains(&vip))
        .flat_map(|announced| &announced.peers)
        .cloned()
        .collect();
    if !peers.is_empty() {
        let peers = peers.into_iter().collect::<Vec<_>>().join(", ");
        return Some(Reason::new(ANNOUNCED, format!("to BGPPeer {peers}")));
    }
    // The one that is closest to announcing it.
    all().filter_map(|announced| announced.silent.get(&vip)).max().map(Silence::here)
}

impl EndpointShares {
    /// The shares of each port's endpoints, of all nodes. What has not been computed before is so while
    /// `more` says that there is time; ports that there was none for are missing.
    pub fn of(
        &mut self,
        basis: &Basis,
        plan: &Plan,
        mut more: impl FnMut() -> bool,
    ) -> HashMap<ServiceAddress, Arc<[EndpointShare]>> {
        let Basis { snapshot, alive, me, .. } = basis;
        let names = snapshot.nodes.keys().map(|name| name.as_str().into()).collect();
        let placement = Placement { nodes: &snapshot.nodes, alive, names: &names, me };
        let mut tables = HashMap::new();
        let mut before = std::mem::take(&mut self.known);
        for (address, planned) in &plan.services {
            let Some(service) = snapshot.services.get(&planned.service) else { continue };
            let same = |port: &&crate::snapshot::ServicePort| {
                (port.port, port.protocol) == (address.port, address.protocol)
            };
            let Some(port) = service.ports.iter().find(same) else { continue };
            let slices = snapshot.slices_of(&service.name);
            let taking = placement.taking(service, slices, port, Family::of(address.vip));
            let known = before.remove(address);
            let known = known
                .filter(|known| Arc::ptr_eq(&known.rows, &planned.rows) && known.taking == taking);
            let known = known.or_else(|| {
                more().then(|| {
                    let rows = Arc::clone(&planned.rows);
                    let table = tables.entry(Arc::as_ptr(&rows)).or_insert_with(|| weights(&rows));
                    let shares = shares(&rows, table, &taking);
                    Known { rows, taking, shares }
                })
            });
            self.known.extend(known.map(|known| (*address, known)));
        }
        self.known.iter().map(|(at, known)| (*at, Arc::clone(&known.shares))).collect()
    }
}

/// Each node's rows, with the part of all flows that each of them has; and of how many.
fn weights(rows: &Rows) -> BTreeMap<Arc<str>, Vec<(usize, u32)>> {
    let mut weights = BTreeMap::<_, Vec<_>>::new();
    for ((row, at), planned) in (0..).zip(0..).zip(rows.table()) {
        let node = planned.first().and_then(|first| rows.nodes().get(usize::from(first)));
        if let Some(node) = node {
            let weight = row_weight(at, rows.len());
            weights.entry(Arc::clone(node)).or_default().push((row, weight));
        }
    }
    weights
}

/// Each node deals its rows out among its own endpoints, and needs nobody else's for it.
fn shares(
    rows: &Rows,
    weights: &BTreeMap<Arc<str>, Vec<(usize, u32)>>,
    taking: &Taking,
) -> Arc<[EndpointShare]> {
    let all = f64::from(row_mask(rows.len())) + 1.0;
    let mut shares = Vec::new();
    for (node, endpoints) in taking {
        let own = weights.get(node).map_or(&[][..], Vec::as_slice);
        let mut taken = vec![0u32; endpoints.len()];
        match &mut taken[..] {
            [one] => *one = own.iter().map(|(_, weight)| weight).sum(),
            several => {
                let table = PerRow { endpoints: endpoints.clone(), rows: rows.len() }.table();
                for (row, weight) in own {
                    let of = table.get(*row).and_then(|of| several.get_mut(usize::from(*of)));
                    of.into_iter().for_each(|taken| *taken += weight);
                }
            }
        }
        shares.extend(endpoints.iter().zip(taken).map(|(endpoint, taken)| EndpointShare {
            endpoint: *endpoint,
            node: Arc::clone(node),
            percent: 100.0 * f64::from(taken) / all,
        }));
    }
    shares.into()
}
