//! Who is told what: a function of the configuration and of what the API says.
//!
//! A node announces an address if a BGPAdvertisement of its pool covers the node and matches the
//! Service, the node may announce at all, and the Service has an endpoint that can serve: under
//! externalTrafficPolicy Local, one on the node. Who is alive does not matter: a node that is not has no
//! session.
pub mod silence;

use super::configuration::{Advertisement, Configuration, Peer};
use crate::{
    differences,
    ipam::pools::{Pool, Pools},
    plan::{endpoints::can_serve, owner::EXCLUDE_LABEL},
    snapshot::{
        Endpoint, ExternalTrafficPolicy, Labels, Node, ObjectName, Service, Snapshot, any_matches,
    },
};
use imbl::OrdMap;
use ipnet::IpNet;
use lb_bgp::{Family, Route, attribute::ExtendedCommunity, session};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// The bandwidth that is told for each endpoint, in octets a second: 1 Gbit/s. Routers go by how nodes
/// compare.
const BANDWIDTH: f32 = 125e6;
/// For how many endpoints a node counts that has none: it takes any traffic, and only passes it on.
const WITHOUT_ENDPOINT: f32 = 0.01;

/// What this node is to tell whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The peers that this node speaks to, by the names of their BGPPeers.
    pub peers: BTreeMap<String, PlannedPeer>,
    /// Each Service with an address of ours.
    pub services: Services,
}

/// The routes for a peer.
pub type Routes = OrdMap<IpNet, Arc<Route>>;

/// What becomes of Services.
pub type Services = OrdMap<ObjectName, Arc<Announced>>;

/// What becomes of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Its addresses that are announced.
    pub addresses: BTreeSet<IpAddr>,
    /// The names of the peers that one of them is announced to.
    pub peers: BTreeSet<String>,
    /// Its addresses that are announced to none, and why.
    pub silent: BTreeMap<IpAddr, Silence>,
}

/// A peer, and what it is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPeer {
    /// The peer.
    pub peer: Arc<Peer>,
    /// The session with it.
    pub session: session::Config,
    /// The routes that it should have of this node.
    pub routes: Routes,
}

/// Why a node announces an address to nobody. They are called as in MetalLB's logs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// No BGPAdvertisement of its pool covers the node.
    NotOwner,
    /// None of those matches the Service.
    NoMatchingAdvertisement,
    /// These two give different preferences to the same prefix for the same peer.
    ConflictingAdvertisements(String, String),
    /// The node's network is not set up.
    NodeNetworkUnavailable,
    /// The node's label keeps it from announcing.
    NodeLabeledExcludeBalancers,
    /// It has no endpoint on the node, and needs one.
    NoLocalEndpoints,
    /// It has none at all.
    NoEndpoints,
    /// The node speaks to none of the peers that are to be told, or not of the address's family.
    NoPeer,
}

/// Makes plans, each from the one before: what no change touches stays, however many Services there are.
#[derive(Debug, Default)]
pub struct Planning {
    configuration: Configuration,
    snapshot: Snapshot,
    of: Option<Of>,
    pools: Pools,
    parts: HashMap<ObjectName, Vec<Told>>,
    /// The Services that a prefix is announced for.
    reasons: BTreeMap<IpNet, BTreeSet<ObjectName>>,
    plan: Plan,
}

/// What the plan of every Service depends on, besides configuration and pools.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Of {
    me: String,
    ignore_exclude_label: bool,
    node: Option<Node>,
}

/// A prefix that is announced for an address of a Service.
#[derive(Clone, Copy, Debug)]
struct Told {
    prefix: IpNet,
    /// The position of the advertisement among those that cover the node.
    advertisement: usize,
    /// How many endpoints of the Service the node has, of the address's family.
    here: usize,
}

impl Planning {
    /// What node `me` is to tell whom. `ignore_exclude_label`: `--ignore-exclude-lb`.
    pub fn plan(
        &mut self,
        configuration: &Configuration,
        snapshot: &Snapshot,
        me: &str,
        ignore_exclude_label: bool,
    ) -> Plan {
        let node = snapshot.nodes.get(me);
        let of = Of { me: me.to_owned(), ignore_exclude_label, node: node.cloned() };
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        // A node that the API does not know selects nothing, and announces nothing.
        let Some(node) = node else {
            *self = Self::default();
            return Plan::default();
        };
        let same = self.of.as_ref() == Some(&of)
            && self.configuration == *configuration
            && before.pools == snapshot.pools;
        let changed: BTreeSet<ObjectName> = if same {
            let services = differences::keys(&before.services, &snapshot.services);
            services.chain(differences::keys(&before.slices, &snapshot.slices)).cloned().collect()
        } else {
            self.begin(configuration, snapshot, of, node);
            snapshot.services.keys().cloned().collect()
        };
        let covering = configuration.advertisements.iter();
        let covering =
            covering.filter(|(_, one)| any_matches(&one.node_selectors, &node.labels)).collect();
        let barred = barred(node, ignore_exclude_label);
        let pools = std::mem::take(&mut self.pools);
        let planner = Planner { snapshot, pools: &pools, nodes: [me].into(), barred, covering };
        let mut touched = BTreeSet::new();
        for name in changed {
            let service = snapshot.services.get(&name).filter(|service| service.wants_address);
            let part = service.map(|service| planner.announce(service, &self.plan.peers));
            self.exchange(&name, part.unwrap_or_default(), &mut touched);
        }
        touched.into_iter().for_each(|prefix| self.settle(prefix, &planner.covering));
        self.pools = pools;
        self.plan.clone()
    }

    /// Forgets what was planned: something has changed that concerns all Services.
    fn begin(&mut self, configuration: &Configuration, snapshot: &Snapshot, of: Of, node: &Node) {
        let selected = configuration
            .peers
            .iter()
            .filter(|(_, peer)| any_matches(&peer.node_selectors, &node.labels));
        let peers = selected.map(|(name, peer)| {
            let session = peer.session(peer.router_id.unwrap_or_else(|| router_id(&of.me, node)));
            (name.clone(), PlannedPeer { peer: peer.clone(), session, routes: OrdMap::new() })
        });
        let plan = Plan { peers: peers.collect(), services: Services::new() };
        *self = Self {
            configuration: configuration.clone(),
            snapshot: snapshot.clone(),
            of: Some(of),
            pools: Pools::new(snapshot).0,
            plan,
            ..Self::default()
        };
    }

    /// Puts what becomes of a Service in the place of what became of it before.
    fn exchange(
        &mut self,
        name: &ObjectName,
        (announced, told): (Announced, Vec<Told>),
        touched: &mut BTreeSet<IpNet>,
    ) {
        for Told { prefix, .. } in self.parts.remove(name).unwrap_or_default() {
            if let Some(reasons) = self.reasons.get_mut(&prefix) {
                reasons.remove(name);
            }
            touched.insert(prefix);
        }
        for Told { prefix, .. } in &told {
            self.reasons.entry(*prefix).or_default().insert(name.clone());
            touched.insert(*prefix);
        }
        if !told.is_empty() {
            self.parts.insert(name.clone(), told);
        }
        let services = &mut self.plan.services;
        if announced == Announced::default() {
            services.remove(name);
        } else if services.get(name).is_none_or(|known| **known != announced) {
            services.insert(name.clone(), Arc::new(announced));
        }
    }

    /// Decides again what each peer is told of a prefix.
    fn settle(&mut self, prefix: IpNet, covering: &[(&String, &Advertisement)]) {
        if self.reasons.get(&prefix).is_some_and(BTreeSet::is_empty) {
            self.reasons.remove(&prefix);
        }
        let reasons = self.reasons.get(&prefix).into_iter().flatten();
        let told = reasons.filter_map(|name| self.parts.get(name)).flatten();
        let told: Vec<_> = told.filter(|one| one.prefix == prefix).collect();
        for (name, planned) in &mut self.plan.peers {
            let mut route: Option<Route> = None;
            let mut endpoints: Option<usize> = None;
            for Told { advertisement, here, .. } in &told {
                let Some((_, advertisement)) = covering.get(*advertisement) else { continue };
                if is_told(advertisement, name, &planned.peer, prefix.addr()) {
                    add(route.get_or_insert_default(), &advertisement.route);
                    if advertisement.link_bandwidth {
                        *endpoints.get_or_insert_default() += here;
                    }
                }
            }
            match route {
                Some(mut route) => {
                    endpoints.into_iter().for_each(|count| planned.weigh(&mut route, count));
                    if planned.routes.get(&prefix).is_none_or(|known| **known != route) {
                        planned.routes.insert(prefix, Arc::new(route));
                    }
                }
                None => drop(planned.routes.remove(&prefix)),
            }
        }
    }
}

impl PlannedPeer {
    /// Adds to a route how much the node is to get.
    fn weigh(&self, route: &mut Route, endpoints: usize) {
        let share = if endpoints == 0 { WITHOUT_ENDPOINT } else { endpoints as f32 };
        let community = ExtendedCommunity::link_bandwidth(self.session.local_as, share * BANDWIDTH);
        route.extended_communities.insert(community);
    }
}

/// What keeps a node from announcing anything.
fn barred(node: &Node, ignore_exclude_label: bool) -> Option<Silence> {
    if node.network_unavailable {
        return Some(Silence::NodeNetworkUnavailable);
    }
    let excluded = !ignore_exclude_label && node.labels.contains_key(EXCLUDE_LABEL);
    excluded.then_some(Silence::NodeLabeledExcludeBalancers)
}

/// A node's identifier: its first IPv4 address, else a number made of its name, so that it stays
/// the same over restarts.
fn router_id(me: &str, node: &Node) -> Ipv4Addr {
    let own = node.internal_ips.iter().find_map(|address| match address {
        IpAddr::V4(address) if !address.is_unspecified() => Some(*address),
        _ => None,
    });
    own.unwrap_or_else(|| {
        let [first, second, third, last, ..] = <[u8; 32]>::from(Sha256::digest(me));
        // Not zero (RFC 6286 section 2.1).
        Ipv4Addr::new(first, second, third, last.max(1))
    })
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    pools: &'a Pools,
    /// The nodes that it is decided for: what follows is the same for all of them.
    nodes: BTreeSet<&'a str>,
    /// Why they may announce nothing.
    barred: Option<Silence>,
    /// The advertisements that cover them.
    covering: Vec<(&'a String, &'a Advertisement)>,
}

impl Planner<'_> {
    /// What becomes of a Service, and the prefixes that are announced for it.
    fn announce(
        &self,
        service: &Service,
        peers: &BTreeMap<String, PlannedPeer>,
    ) -> (Announced, Vec<Told>) {
        let (mut announced, mut told) = (Announced::default(), Vec::new());
        for vip in BTreeSet::from_iter(service.addresses()) {
            let Some(pool) = self.pools.held(service, vip) else { continue };
            let advertisements = match self.advertisements(service, vip, pool) {
                Ok(advertisements) => advertisements,
                Err(why) => {
                    announced.silent.insert(vip, why);
                    continue;
                }
            };
            let here = self.endpoints_here(service, vip);
            let mut heard = BTreeSet::new();
            for (advertisement, one) in advertisements {
                let its =
                    peers.iter().filter(|(name, planned)| is_told(one, name, &planned.peer, vip));
                let its: Vec<_> = its.map(|(name, _)| name.clone()).collect();
                if !its.is_empty()
                    && let Ok(prefix) = IpNet::new(vip, length(one, vip))
                {
                    told.push(Told { prefix: prefix.trunc(), advertisement, here });
                }
                heard.extend(its);
            }
            if heard.is_empty() {
                announced.silent.insert(vip, Silence::NoPeer);
            } else {
                announced.addresses.insert(vip);
                announced.peers.extend(heard);
            }
        }
        (announced, told)
    }

    /// The advertisements that an address of a Service is announced by, or why it is not.
    fn advertisements(
        &self,
        service: &Service,
        vip: IpAddr,
        pool: &Pool,
    ) -> Result<Vec<(usize, &Advertisement)>, Silence> {
        let covering = self.covering.iter().enumerate();
        let covering = covering.filter(|(_, (_, one))| is_for(one, &pool.name, &pool.spec.labels));
        let covering: Vec<_> = covering.collect();
        if covering.is_empty() {
            return Err(Silence::NotOwner);
        }
        let matching = covering.into_iter();
        let matching =
            matching.filter(|(_, (_, one))| any_matches(&one.service_selectors, &service.labels));
        let matching: Vec<_> = matching.map(|(at, (name, one))| (at, *name, *one)).collect();
        if matching.is_empty() {
            return Err(Silence::NoMatchingAdvertisement);
        }
        for (at, (_, name, one)) in matching.iter().enumerate() {
            let earlier = matching[..at].iter().find(|(_, _, other)| clash(one, other, vip));
            if let Some((_, other, _)) = earlier {
                let (other, name) = (other.to_string(), name.to_string());
                return Err(Silence::ConflictingAdvertisements(other, name));
            }
        }
        if let Some(barred) = &self.barred {
            return Err(barred.clone());
        }
        self.has_endpoint(service)?;
        Ok(matching.into_iter().map(|(at, _, one)| (at, one)).collect())
    }

    /// The endpoints of a Service that carry flows or end doing so.
    fn serving(&self, service: &Service) -> impl Iterator<Item = &Endpoint> {
        let slices = self.snapshot.slices_of(&service.name);
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        endpoints.filter(move |endpoint| can_serve(service, endpoint))
    }

    fn is_here(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_deref().is_some_and(|node| self.nodes.contains(node))
    }

    fn has_endpoint(&self, service: &Service) -> Result<(), Silence> {
        let mut serving = self.serving(service);
        match service.external_traffic_policy {
            ExternalTrafficPolicy::Local => serving
                .any(|endpoint| self.is_here(endpoint))
                .then_some(())
                .ok_or(Silence::NoLocalEndpoints),
            ExternalTrafficPolicy::Cluster => serving.next().map(drop).ok_or(Silence::NoEndpoints),
        }
    }

    /// How many endpoints of an address's family the nodes have.
    fn endpoints_here(&self, service: &Service, vip: IpAddr) -> usize {
        let here = self.serving(service).filter(|endpoint| self.is_here(endpoint));
        let addresses = here.map(|endpoint| endpoint.address);
        let same = addresses.filter(|address| address.is_ipv4() == vip.is_ipv4());
        BTreeSet::from_iter(same).len()
    }
}

fn is_for(advertisement: &Advertisement, pool: &str, labels: &Labels) -> bool {
    let (names, selectors) = (&advertisement.pools, &advertisement.pool_selectors);
    (names.is_empty() && selectors.is_empty())
        || names.contains(pool)
        || selectors.iter().any(|selector| selector.matches(labels))
}

fn length(advertisement: &Advertisement, vip: IpAddr) -> u8 {
    match vip {
        IpAddr::V4(_) => advertisement.aggregation_length,
        IpAddr::V6(_) => advertisement.aggregation_length_v6,
    }
}

/// Whether two advertisements give different preferences to the same route.
fn clash(one: &Advertisement, other: &Advertisement, vip: IpAddr) -> bool {
    let share_a_peer =
        one.peers.is_empty() || other.peers.is_empty() || !one.peers.is_disjoint(&other.peers);
    one.local_pref != other.local_pref && length(one, vip) == length(other, vip) && share_a_peer
}

/// Whether a peer is told of an address by an advertisement.
fn is_told(advertisement: &Advertisement, name: &str, peer: &Peer, vip: IpAddr) -> bool {
    (advertisement.peers.is_empty() || advertisement.peers.contains(name))
        && peer.carries(Family::of(&vip.into()))
}

/// A prefix that is announced for several reasons has the communities of all, and the highest
/// preference. (That they differ for one Service is refused before; but two Services in one aggregate may
/// have other advertisements.)
fn add(route: &mut Route, other: &Route) {
    let Route { local_pref, communities, large_communities, extended_communities } = other;
    route.local_pref = route.local_pref.max(*local_pref);
    route.communities.extend(communities);
    route.large_communities.extend(large_communities);
    route.extended_communities.extend(extended_communities);
}

#[cfg(test)]
mod tests;
