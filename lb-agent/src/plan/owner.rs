//! Who announces a VIP on layer 2.
//!
//! Per address: of the nodes that may, those with the highest sum of preferences, and
//! of these the one with the lowest SHA-256 of `node#ip`. Every node computes it alike.
//! It goes by addresses and not by Services so that Services that share one never
//! disagree; a node announces a shared address only if it may for each of them (of
//! those that have an endpoint and an advertisement at all). A node that is held back
//! ([`crate::membership::damping`]) comes behind all that are not, whatever its preference; and behind
//! those one that has no carrier where the VIP is to be announced, too, though it has another interface.
pub mod why;

use super::{
    Interfaces, Notice, PlanOptions,
    endpoints::{can_serve, warning},
    lowest::{Nodes, Owners},
};
use crate::{
    ipam::pools::Pool,
    membership::{Alive, AliveNode, NO_INTERFACE},
    snapshot::{ExternalTrafficPolicy, L2Advertisement, Service, Snapshot, any_matches},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

/// A node with this label, whatever its value, announces nothing.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The reason of notices about addresses that no advertisement is for.
pub const NO_ADVERTISEMENT: &str = "NoAdvertisement";

/// Nodes that may announce, and the sum of their preferences.
type Candidates<'a> = BTreeMap<&'a str, i64>;

/// Added for a node that is held back: all preferences of all advertisements together come to less.
const HELD: i64 = i64::MIN / 4;
/// Added for a node that has no carrier on an interface of the advertisements: less than for any that
/// is held.
const MISSES: i64 = i64::MIN / 2;
/// What each second is worth that it is held longer: of several, the one that has been there longest
/// owns, so that a VIP stays even where all have come and gone.
const SECOND: i64 = 1 << 20;

/// An advertisement and the nodes that it covers.
struct Advertisement<'a> {
    name: &'a str,
    spec: &'a L2Advertisement,
    /// With the weight that this advertisement gives them. Only nodes with a matching interface.
    nodes: Candidates<'a>,
    /// Those that have no carrier on one of its interfaces.
    missing: BTreeSet<&'a str>,
    /// It selects nodes that are fit to announce, but none has one of its interfaces.
    interface_missing: bool,
}

/// Where the endpoints of a Service are that can serve.
struct Serving<'a> {
    anywhere: bool,
    nodes: BTreeSet<&'a str>,
}

/// A Service for which a VIP is to be announced, its advertisements (positions), and where it is served.
type Asking<'a, 's> = (&'s Service, Vec<usize>, Serving<'a>);

/// The Services for which a VIP is to be announced.
struct Contest<'a, 's> {
    /// At least one.
    asking: Vec<Asking<'a, 's>>,
    /// The advertisements of all of them (positions), sorted.
    advertisements: Vec<usize>,
}

impl Contest<'_, '_> {
    /// All candidates of the advertisements may announce.
    fn alike(&self) -> bool {
        self.asking
            .iter()
            .all(|(service, own, _)| !is_local(service) && *own == self.advertisements)
    }
}

fn is_local(service: &Service) -> bool {
    service.external_traffic_policy == ExternalTrafficPolicy::Local
}

/// Elects the owners of a snapshot's VIPs.
pub struct Election<'a> {
    advertisements: Vec<Advertisement<'a>>,
    snapshot: &'a Snapshot,
    /// Those that are held back, and until when.
    held: BTreeMap<&'a str, i64>,
    /// Candidates by the advertisements (positions) that are looked at together.
    candidates: HashMap<Vec<usize>, Rc<Candidates<'a>>>,
    /// Of these, those with the highest sum of preferences.
    preferred: HashMap<Vec<usize>, Nodes>,
    owners: &'a mut Owners,
    /// How many of the candidates stand how, by advertisements: for [`why`](Self::why) alone.
    standings: HashMap<Vec<usize>, Rc<why::Standings>>,
    /// Pools whose addresses are announced by BGP.
    routed_pools: &'a BTreeSet<String>,
}

impl<'a> Election<'a> {
    /// Looks up which nodes each advertisement covers.
    pub fn new(
        snapshot: &'a Snapshot,
        alive: &Alive,
        options: &'a PlanOptions,
        owners: &'a mut Owners,
    ) -> Self {
        let fit: Vec<_> = snapshot
            .nodes
            .iter()
            .filter(|(_, node)| {
                let excluded = node.labels.contains_key(EXCLUDE_LABEL);
                !node.network_unavailable && (options.ignore_exclude_label || !excluded)
            })
            .filter_map(|(name, node)| Some((name.as_str(), node, alive.get(name)?)))
            .filter(|(.., alive)| alive.agent)
            .collect();
        let cover = |(name, spec): (&'a String, &'a L2Advertisement)| {
            let selected = fit.iter().filter(|f| any_matches(&spec.node_selectors, &f.1.labels));
            let selected: Vec<_> = selected.collect();
            let missing = selected.iter().filter(|(.., alive)| alive.misses(&spec.interfaces));
            let missing = missing.map(|(name, ..)| *name).collect();
            let (matching, others): (Vec<_>, Vec<_>) = selected
                .into_iter()
                .partition(|(.., alive)| has_interface(alive, &spec.interfaces));
            let weight = |labels| {
                let terms = spec.preferred_node_selectors.iter();
                let matching = terms.filter(|term| term.preference.matches(labels));
                matching.map(|term| i64::from(term.weight)).sum()
            };
            Advertisement {
                name,
                spec,
                interface_missing: matching.is_empty() && !others.is_empty(),
                missing,
                nodes: matching
                    .iter()
                    .map(|(name, node, _)| (*name, weight(&node.labels)))
                    .collect(),
            }
        };
        let advertisements = snapshot.l2_advertisements.iter().map(cover).collect();
        let until = |alive: &AliveNode| Some(alive.held_until_s?.min(1 << 40) as i64);
        let held = fit.iter().filter_map(|(name, _, alive)| Some((*name, until(alive)?))).collect();
        Self {
            advertisements,
            snapshot,
            held,
            candidates: HashMap::new(),
            preferred: HashMap::new(),
            owners,
            standings: HashMap::new(),
            routed_pools: &options.routed_pools,
        }
    }

    /// The owner of a VIP and the interfaces it announces it on, if anybody may.
    pub fn decide(
        &mut self,
        vip: IpAddr,
        pool: &Pool,
        services: &[&Service],
        notices: &mut BTreeSet<Notice>,
    ) -> Option<(Arc<str>, Interfaces)> {
        let contest = self.contest(vip, pool, services, notices)?;
        let Contest { asking, advertisements } = &contest;
        let best = if contest.alike() {
            self.preferred(advertisements)
        } else {
            let eligible = self.eligible(asking);
            Nodes::new(highest(&self.candidates(advertisements), eligible.into_iter()))
        };
        let Some(owner) = self.owners.lowest(&best, vip) else {
            for (service, ..) in asking {
                notices.insert(self.nobody(vip, service, advertisements));
            }
            return None;
        };
        let covering = (advertisements.iter())
            .map(|i| &self.advertisements[*i])
            .filter(|a| a.nodes.contains_key(&*owner));
        let mut named = BTreeSet::new();
        for advertisement in covering {
            if advertisement.spec.interfaces.is_empty() {
                return Some((owner, Interfaces::All));
            }
            named.extend(advertisement.spec.interfaces.iter().cloned());
        }
        Some((owner, Interfaces::Named(named)))
    }

    /// The Services for which a VIP is to be announced; none if there is no such Service.
    fn contest<'s>(
        &self,
        vip: IpAddr,
        pool: &Pool,
        services: &[&'s Service],
        notices: &mut BTreeSet<Notice>,
    ) -> Option<Contest<'a, 's>> {
        let mut asking = Vec::new();
        for service in services {
            let Some(own) = self.advertisements_of(vip, pool, service, notices) else { continue };
            let serving = self.serving(service);
            if !serving.anywhere {
                let message = format!(
                    "nobody announces {vip}: no endpoint is ready or still serving. Check that \
                     the selector finds pods and that they are ready."
                );
                let notice = warning(service, "NoEndpoints", message);
                notices.insert(Notice { warning: false, ..notice });
                continue;
            }
            asking.push((*service, own, serving));
        }
        let advertisements: BTreeSet<_> = asking.iter().flat_map(|(_, own, _)| own).collect();
        let advertisements: Vec<_> = advertisements.into_iter().copied().collect();
        (!asking.is_empty()).then_some(Contest { asking, advertisements })
    }

    /// The nodes that may announce a VIP for all of these Services.
    fn eligible(&mut self, asking: &[Asking<'a, '_>]) -> BTreeSet<&'a str> {
        let mut together: Option<BTreeSet<&'a str>> = None;
        for (service, own, serving) in asking {
            let nodes: BTreeSet<_> = (self.candidates(own).keys().copied())
                .filter(|node| !is_local(service) || serving.nodes.contains(node))
                .filter(|node| together.as_ref().is_none_or(|t| t.contains(node)))
                .collect();
            together = Some(nodes);
        }
        together.unwrap_or_default()
    }

    /// The advertisements (positions) that are for a Service's address; `None`, and why, if
    /// there are none or they may not be used.
    fn advertisements_of(
        &self,
        vip: IpAddr,
        pool: &Pool,
        service: &Service,
        notices: &mut BTreeSet<Notice>,
    ) -> Option<Vec<usize>> {
        let of_pool = (self.advertisements.iter().enumerate()).filter(|(_, a)| {
            let (names, selectors) = (&a.spec.ip_address_pools, &a.spec.ip_address_pool_selectors);
            (names.is_empty() && selectors.is_empty())
                || names.iter().any(|name| **name == *pool.name)
                || selectors.iter().any(|s| s.matches(&pool.spec.labels))
        });
        let of_pool: Vec<_> = of_pool.collect();
        let own: Vec<_> = (of_pool.iter())
            .filter(|(_, a)| any_matches(&a.spec.service_selectors, &service.labels))
            .collect();
        if own.is_empty() {
            if self.routed_pools.contains(&*pool.name) {
                return None;
            }
            let message = if of_pool.is_empty() {
                format!(
                    "nobody announces {vip}: no L2Advertisement selects IPAddressPool {0}. Create \
                     one, or add {0} to spec.ipAddressPools of one.",
                    pool.name
                )
            } else {
                let names: Vec<_> = of_pool.iter().map(|(_, a)| a.name).collect();
                format!(
                    "nobody announces {vip}: spec.serviceSelectors of L2Advertisement {} do not \
                     match the Service's labels. Change either.",
                    names.join(", ")
                )
            };
            notices.insert(warning(service, NO_ADVERTISEMENT, message));
            return None;
        }
        let shared = service.annotation("allow-shared-ip").is_some_and(|key| !key.is_empty());
        let selecting = own.iter().find(|(_, a)| !a.spec.service_selectors.is_empty());
        if let (true, Some((_, selecting))) = (shared, selecting) {
            let message = format!(
                "nobody announces {vip}: L2Advertisement {} selects Services, which cannot be \
                 combined with the annotation metallb.io/allow-shared-ip. Remove its \
                 spec.serviceSelectors or the annotation.",
                selecting.name
            );
            notices.insert(warning(service, "SharedIPWithServiceSelector", message));
            return None;
        }
        Some(own.iter().map(|(i, _)| *i).collect())
    }

    fn candidates(&mut self, advertisements: &[usize]) -> Rc<Candidates<'a>> {
        if let Some(known) = self.candidates.get(advertisements) {
            return known.clone();
        }
        let mut sums = Candidates::new();
        for (node, weight) in advertisements.iter().flat_map(|i| &self.advertisements[*i].nodes) {
            *sums.entry(node).or_default() += weight;
        }
        for (node, sum) in &mut sums {
            if let Some(until) = self.held.get(node) {
                *sum = sum.saturating_add(HELD - until * SECOND);
            }
            if advertisements.iter().any(|i| self.advertisements[*i].missing.contains(node)) {
                *sum = sum.saturating_add(MISSES);
            }
        }
        let sums = Rc::new(sums);
        self.candidates.insert(advertisements.to_vec(), sums.clone());
        sums
    }

    /// The candidates of these advertisements with the highest sum of preferences.
    fn preferred(&mut self, advertisements: &[usize]) -> Nodes {
        if let Some(known) = self.preferred.get(advertisements) {
            return Nodes::clone(known);
        }
        let candidates = self.candidates(advertisements);
        let nodes = highest(&candidates, candidates.keys().copied());
        let nodes = self.owners.list(advertisements, nodes);
        self.preferred.insert(advertisements.to_vec(), Nodes::clone(&nodes));
        nodes
    }

    fn serving(&self, service: &Service) -> Serving<'a> {
        let slices = self.snapshot.slices_of(&service.name);
        let mut serving = Serving { anywhere: false, nodes: BTreeSet::new() };
        for endpoint in slices.iter().flat_map(|s| &s.endpoints) {
            if can_serve(service, endpoint) {
                serving.anywhere = true;
                serving.nodes.extend(endpoint.node.as_deref());
            }
        }
        serving
    }

    /// Why no node announces a VIP that has endpoints and advertisements.
    fn nobody(&self, vip: IpAddr, service: &Service, advertisements: &[usize]) -> Notice {
        let own: Vec<_> = advertisements.iter().map(|i| &self.advertisements[*i]).collect();
        let names = own.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
        if own.iter().all(|a| a.interface_missing) {
            let interfaces: BTreeSet<_> = own.iter().flat_map(|a| &a.spec.interfaces).collect();
            let interfaces = interfaces.into_iter().cloned().collect::<Vec<_>>().join(", ");
            if own.iter().any(|a| !a.missing.is_empty()) {
                let of = if interfaces.is_empty() { "any uplink" } else { &*interfaces };
                let message = format!(
                    "nobody announces {vip}: no node that L2Advertisement {names} selects has a \
                     carrier on {of}. Look after cables and switches."
                );
                return warning(service, "announceFailed", message);
            }
            if interfaces.is_empty() {
                let message = format!(
                    "nobody announces {vip}: every uplink of the nodes that L2Advertisement \
                     {names} selects is excluded. Correct the agents' --excluded-interfaces \
                     (MetalLB's ConfigMap metallb-excludel2)."
                );
                return warning(service, "announceFailed", message);
            }
            let message = format!(
                "nobody announces {vip}: no node that L2Advertisement {names} selects has an \
                 uplink named {interfaces}. Correct spec.interfaces, or add it to the agents' \
                 --interfaces."
            );
            return warning(service, "announceFailed", message);
        }
        let local = match service.external_traffic_policy {
            ExternalTrafficPolicy::Local => " and has an endpoint (externalTrafficPolicy Local)",
            ExternalTrafficPolicy::Cluster => "",
        };
        let message = format!(
            "nobody announces {vip}: no node is alive, is selected by L2Advertisement {names}, \
             has its network available, is without the label {EXCLUDE_LABEL}{local}."
        );
        warning(service, "NoEligibleNode", message)
    }
}

fn has_interface(alive: &AliveNode, wanted: &[String]) -> bool {
    if wanted.is_empty() {
        return !alive.interfaces.contains(NO_INTERFACE);
    }
    alive.interfaces.is_empty() || wanted.iter().any(|name| alive.interfaces.contains(name))
}

/// Of some nodes, sorted, those with the highest score.
fn highest<'a>(scores: &Candidates<'a>, nodes: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
    let scored: Vec<_> = nodes.map(|node| (scores.get(node), node)).collect();
    let best = scored.iter().map(|(score, _)| *score).max();
    let best = scored.into_iter().filter(|(score, _)| Some(*score) == best);
    best.map(|(_, node)| node.into()).collect()
}
