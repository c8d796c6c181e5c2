//! [`allocate`] itself.
use super::{
    Allocation, Assignment, PoolUsage,
    book::Book,
    pools::{ALLOCATED_FROM, Family, Pool, Pools, is_buggy},
    request::{Tenant, Want, addresses, deprecated_annotations},
};
use crate::{
    plan::Notice,
    snapshot::{ObjectName, Service, Snapshot},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Decides who keeps, gets, changes or loses an address.
///
/// `in_flight` are earlier decisions that the snapshot may not show yet. One whose
/// `resource_version` is still the Service's counts as if it were written; any other is
/// ignored, since the snapshot says what became of it. Without them a Service that
/// appears in between could be given the same address.
pub fn allocate(snapshot: &Snapshot, in_flight: &BTreeMap<ObjectName, Assignment>) -> Allocation {
    let (pools, notices) = Pools::new(snapshot);
    let mut allocator = Allocator {
        snapshot,
        pools: &pools,
        book: Book::default(),
        notices,
        decided: BTreeMap::new(),
    };
    let mut cases: Vec<_> = (snapshot.services.values())
        .map(|service| Case::new(service, in_flight.get(&service.name)))
        .collect();
    cases.retain_mut(|case| allocator.admit(case));

    let mut holders: Vec<_> = cases.iter().filter(|c| !c.held.is_empty() && !c.odd).collect();
    holders.sort_by_key(|c| (Reverse(c.held.len()), c.age(), &c.service.name));
    for case in holders {
        allocator.keep(case);
    }
    let (asking, others): (Vec<_>, Vec<_>) = cases.iter().partition(|c| c.asked.is_some());
    for case in asking.into_iter().chain(others) {
        allocator.complete(case);
    }
    allocator.finish(in_flight)
}

/// A Service, and what it has and wants.
struct Case<'a> {
    service: &'a Service,
    /// The addresses in its status, IPv4 first.
    held: Vec<IpAddr>,
    /// Its status has something else than one address per family.
    odd: bool,
    want: Want,
    tenant: Tenant,
    asked: Option<BTreeSet<IpAddr>>,
    /// What is wrong with what it asks for.
    malformed: Option<String>,
}

impl<'a> Case<'a> {
    fn new(service: &'a Service, in_flight: Option<&Assignment>) -> Self {
        let mut held = current(service, in_flight);
        held.sort();
        let families: BTreeSet<_> = held.iter().map(|ip| Family::of(*ip)).collect();
        let written = service.ingress.iter().filter(|i| i.ip.is_some()).count();
        let unreadable = !in_force(service, in_flight) && written != held.len();
        Self {
            service,
            odd: unreadable || families.len() != held.len(),
            held,
            want: Want::Both,
            tenant: Tenant::of(service),
            asked: None,
            malformed: None,
        }
    }

    /// Older changes are lower. Versions that are no numbers are all as old.
    fn age(&self) -> u64 {
        self.service.resource_version.parse().unwrap_or(0)
    }
}

fn in_force(service: &Service, in_flight: Option<&Assignment>) -> bool {
    in_flight.is_some_and(|a| a.resource_version == service.resource_version)
}

/// The addresses that a Service has, or will have once the decision in flight is written.
fn current(service: &Service, in_flight: Option<&Assignment>) -> Vec<IpAddr> {
    match in_flight {
        Some(a) if in_force(service, in_flight) => a.addresses.clone(),
        _ => service.addresses(),
    }
}

/// What a Service shall have.
#[derive(Default)]
struct Decision {
    addresses: Vec<IpAddr>,
    pool: Option<String>,
    /// Leave the annotation as it is: it may be all that is known of a pool that is refused.
    as_it_is: bool,
}

struct Allocator<'p, 'a> {
    snapshot: &'a Snapshot,
    pools: &'p Pools<'a>,
    book: Book<'a>,
    notices: Vec<Notice>,
    decided: BTreeMap<&'a ObjectName, Decision>,
}

impl<'a> Allocator<'_, 'a> {
    /// Completes a case; false if the Service shall have no address.
    fn admit(&mut self, case: &mut Case<'a>) -> bool {
        let service = case.service;
        if !service.wants_address {
            let ours = service.annotations.contains_key(ALLOCATED_FROM)
                || case.held.iter().any(|ip| self.pools.held(service, *ip).is_some());
            if ours {
                self.decided.insert(&service.name, Decision::default());
            }
            return false;
        }
        for message in deprecated_annotations(service) {
            self.say(service, true, "deprecatedAnnotation", message);
        }
        match Want::of(service) {
            Ok(want) => case.want = want,
            Err(why) => {
                if let Some((reason, message)) = why {
                    self.say(service, true, reason, message);
                }
                self.decided.insert(&service.name, Decision::default());
                return false;
            }
        }
        match addresses(service, case.want) {
            Ok(asked) => case.asked = asked,
            Err(message) => case.malformed = Some(message),
        }
        if case.odd {
            let message = "status.loadBalancer.ingress has something else than one address per \
                           family: it is written anew.";
            self.say(service, true, "nolbIPsIPFamily", message.to_owned());
        }
        true
    }

    /// Lets a Service keep what it holds, if it may.
    fn keep(&mut self, case: &Case<'a>) {
        match self.may_keep(case) {
            Ok(pool) => {
                for ip in &case.held {
                    self.book.take(&case.service.name, &case.tenant, *ip, &pool);
                }
                self.decide(case, case.held.clone(), &pool);
            }
            Err(why) => {
                let message = format!("gives up {}: {why}.", list(&case.held));
                self.say(case.service, false, "ClearAssignment", message);
            }
        }
    }

    fn may_keep(&self, case: &Case<'a>) -> Result<Pool<'a>, String> {
        let Case { service, held, .. } = case;
        let families: BTreeSet<_> = held.iter().map(|ip| Family::of(*ip)).collect();
        if !case.want.allows(&families) {
            return Err("its ClusterIPs are of other families".to_owned());
        }
        let mut pool: Option<&Pool<'a>> = None;
        for ip in held {
            let of = self.pools.held(service, *ip);
            let of = of.ok_or_else(|| format!("{ip} is in no IPAddressPool"))?;
            if pool.is_some_and(|pool| pool.name != of.name) {
                return Err("the two are in different IPAddressPools".to_owned());
            }
            pool = Some(of);
        }
        let pool = pool.ok_or("it holds none")?;
        let wanted = service.annotation("address-pool").filter(|wanted| *wanted != pool.name);
        if let Some(wanted) = wanted {
            return Err(format!("its annotation now asks for IPAddressPool {wanted}"));
        }
        if case.asked.as_ref().is_some_and(|asked| !asked.iter().eq(held)) {
            return Err("it now asks for another address".to_owned());
        }
        if !pool.refused {
            self.usable(case, pool, held)?;
        }
        held.iter().try_for_each(|ip| {
            self.book.fits(*ip, &case.tenant).map_err(|why| format!("{ip} {why}"))
        })?;
        Ok(pool.clone())
    }

    /// Whether a pool's rules let a Service have these addresses of it.
    fn usable(&self, case: &Case<'a>, pool: &Pool<'a>, ips: &[IpAddr]) -> Result<(), String> {
        if !pool.admits(case.service, &self.snapshot.namespaces) {
            return Err(format!(
                "spec.serviceAllocation of IPAddressPool {} does not admit this Service",
                pool.name
            ));
        }
        match ips.iter().find(|ip| pool.spec.avoid_buggy_ips && is_buggy(**ip)) {
            Some(ip) => {
                Err(format!("{ip} ends in 0 or 255, which IPAddressPool {} avoids", pool.name))
            }
            None => Ok(()),
        }
    }

    /// Gives a Service what it lacks, if it can be had.
    fn complete(&mut self, case: &Case<'a>) {
        let service = case.service;
        if let Some(message) = &case.malformed {
            self.say(service, true, "LoadBalancerFailed", message.clone());
        }
        if self.decided.contains_key(&service.name) {
            self.add_second_family(case);
            return;
        }
        let found = match (&case.malformed, &case.asked) {
            (Some(_), _) => None,
            (None, Some(asked)) => Some(self.take_asked(case, asked)),
            (None, None) => Some(self.take_any(case)),
        };
        match found {
            Some(Ok((ips, pool))) => {
                let message = format!("assigned {} from IPAddressPool {}", list(&ips), pool.name);
                self.say(service, false, "IPAllocated", message);
                for ip in &ips {
                    self.book.take(&service.name, &case.tenant, *ip, &pool);
                }
                self.decide(case, ips, &pool);
            }
            Some(Err(why)) => {
                self.say(service, true, "AllocationFailed", format!("no address: {why}."));
                self.decided.insert(&service.name, Decision::default());
            }
            None => {
                self.decided.insert(&service.name, Decision::default());
            }
        }
    }

    fn take_asked(
        &self,
        case: &Case<'a>,
        asked: &BTreeSet<IpAddr>,
    ) -> Result<(Vec<IpAddr>, Pool<'a>), String> {
        let ips: Vec<_> = asked.iter().copied().collect();
        let mut pool: Option<&Pool<'a>> = None;
        for ip in &ips {
            let of = self.pools.of(*ip).ok_or_else(|| match self.pools.held(case.service, *ip) {
                Some(refused) => format!(
                    "{ip} is asked for, but IPAddressPool {} has entries that cannot be used (see \
                     its Events)",
                    refused.name
                ),
                None => format!(
                    "{ip} is asked for, which is in no IPAddressPool: ask for another, or add it \
                     to spec.addresses of one"
                ),
            })?;
            if let Some(other) = pool.filter(|pool| pool.name != of.name) {
                return Err(format!(
                    "the addresses asked for are in different IPAddressPools ({} and {}): ask for \
                     two of one pool",
                    other.name, of.name
                ));
            }
            pool = Some(of);
        }
        let pool = pool.ok_or("none is asked for")?;
        let annotated = case.service.annotation("address-pool");
        if let Some(wanted) = annotated.filter(|wanted| *wanted != pool.name) {
            return Err(format!(
                "{} is asked for, which is in IPAddressPool {}, but the annotation \
                 metallb.io/address-pool says {wanted}: change either",
                list(&ips),
                pool.name
            ));
        }
        self.usable(case, pool, &ips)?;
        for ip in &ips {
            let fits = self.book.fits(*ip, &case.tenant);
            fits.map_err(|why| format!("{ip} is asked for, but {why}"))?;
        }
        Ok((ips, pool.clone()))
    }

    fn take_any(&mut self, case: &Case<'a>) -> Result<(Vec<IpAddr>, Pool<'a>), String> {
        let pools = self.pools;
        if let Some(name) = case.service.annotation("address-pool") {
            let pool = pools.get(name).ok_or_else(|| {
                format!(
                    "the annotation metallb.io/address-pool names {name:?}, but there is no such \
                     IPAddressPool: correct the name or create the pool"
                )
            })?;
            if pool.refused {
                return Err(format!(
                    "IPAddressPool {name} has entries that cannot be used (see its Events)"
                ));
            }
            self.usable(case, pool, &[])?;
            let found = self.search(case, &[pool]);
            return found.ok_or_else(|| exhausted(case.want, &[pool]));
        }
        if pools.is_empty() {
            return Err("there is no IPAddressPool: create one".to_owned());
        }
        let (mut scoped, general): (Vec<_>, Vec<_>) = pools
            .iter()
            .filter(|pool| pool.spec.auto_assign && !pool.refused)
            .filter(|pool| pool.admits(case.service, &self.snapshot.namespaces))
            .partition(|pool| pool.spec.service_allocation.is_some());
        // Priority 0 stands for none and comes last.
        let priority = |pool: &&Pool<'_>| {
            let rule = pool.spec.service_allocation.as_ref();
            rule.map(|r| r.priority).filter(|p| *p != 0).map_or((1, 0), |p| (0, p))
        };
        scoped.sort_by_key(|pool| (priority(pool), pool.name));
        let found = self.search(case, &scoped).or_else(|| self.search(case, &general));
        found.ok_or_else(|| {
            let all: Vec<_> = scoped.into_iter().chain(general).collect();
            if all.is_empty() {
                "no IPAddressPool in force has spec.autoAssign and admits this Service by \
                 spec.serviceAllocation: create one, or name a pool by the annotation \
                 metallb.io/address-pool"
                    .to_owned()
            } else {
                exhausted(case.want, &all)
            }
        })
    }

    /// The first addresses of the first of these pools that has what is wanted.
    fn search(&mut self, case: &Case<'a>, pools: &[&Pool<'a>]) -> Option<(Vec<IpAddr>, Pool<'a>)> {
        let alternatives: &[&[Family]] = match case.want {
            Want::One(Family::V4) => &[&[Family::V4]],
            Want::One(Family::V6) => &[&[Family::V6]],
            Want::Both => &[&[Family::V4, Family::V6]],
            Want::Prefer(Family::V4) => &[&[Family::V4, Family::V6], &[Family::V4], &[Family::V6]],
            Want::Prefer(Family::V6) => &[&[Family::V4, Family::V6], &[Family::V6], &[Family::V4]],
        };
        alternatives.iter().find_map(|families| {
            pools.iter().find_map(|pool| {
                let first = |family: &Family| self.book.first(pool, *family, &case.tenant);
                let ips: Option<Vec<_>> = families.iter().map(first).collect();
                Some((ips?, (*pool).clone()))
            })
        })
    }

    /// A Service that prefers two families and holds one gets the other from the same pool.
    fn add_second_family(&mut self, case: &Case<'a>) {
        let ([held], Want::Prefer(_)) = (case.held.as_slice(), case.want) else { return };
        let (held, family) = (*held, Family::of(*held).other());
        let Some(pool) = self.pools.of(held) else { return };
        match self.book.first(pool, family, &case.tenant) {
            Some(ip) => {
                self.book.take(&case.service.name, &case.tenant, ip, pool);
                let message = format!("assigned {ip} from IPAddressPool {} as well", pool.name);
                self.say(case.service, false, "IPAllocated", message);
                let mut both = vec![held, ip];
                both.sort();
                self.decide(case, both, pool);
            }
            None if pool.has(family) => {
                let message = format!(
                    "IPAddressPool {} has no free {family} address for the second family: add \
                     some to it.",
                    pool.name
                );
                self.say(case.service, false, "AdditionalAssignFailed", message);
            }
            None => {}
        }
    }

    fn decide(&mut self, case: &Case<'a>, addresses: Vec<IpAddr>, pool: &Pool<'a>) {
        let decision =
            Decision { addresses, pool: Some(pool.name.to_owned()), as_it_is: pool.refused };
        self.decided.insert(&case.service.name, decision);
    }

    fn say(&mut self, service: &Service, warning: bool, reason: &'static str, message: String) {
        let object = service.name.clone();
        self.notices.push(Notice { kind: "Service", object, warning, reason, message });
    }

    fn finish(self, in_flight: &BTreeMap<ObjectName, Assignment>) -> Allocation {
        let usage = usage(self.pools, &self.book);
        let mut allocation = Allocation { notices: self.notices, usage, ..Allocation::default() };
        let mut taking = Vec::new();
        for (name, decision) in self.decided {
            let Some(service) = self.snapshot.services.get(name) else { continue };
            let before = in_flight.get(name);
            let mut held = current(service, before);
            held.sort();
            let recorded = match before {
                Some(a) if in_force(service, before) => a.pool.clone(),
                _ => service.annotations.get(ALLOCATED_FROM).cloned(),
            };
            let unreadable = !in_force(service, before)
                && service.ingress.iter().filter(|i| i.ip.is_some()).count() != held.len();
            let same_pool = decision.as_it_is || recorded == decision.pool;
            if held == decision.addresses && same_pool && !unreadable {
                continue;
            }
            let gives_up = held.iter().any(|ip| !decision.addresses.contains(ip));
            let change = Assignment {
                service: name.clone(),
                resource_version: service.resource_version.clone(),
                pool: if decision.as_it_is { recorded } else { decision.pool },
                addresses: decision.addresses,
            };
            if gives_up {
                allocation.changes.push(change);
            } else {
                taking.push(change);
            }
        }
        allocation.changes.extend(taking);
        allocation
    }
}

/// Why none of these pools has what is wanted.
fn exhausted(want: Want, pools: &[&Pool<'_>]) -> String {
    let names = pools.iter().map(|pool| pool.name).collect::<Vec<_>>().join(", ");
    let wanted = match want {
        Want::One(family) => format!("{family} address"),
        Want::Both => "pair of an IPv4 and an IPv6 address".to_owned(),
        Want::Prefer(_) => "address".to_owned(),
    };
    format!("no free {wanted} in IPAddressPool {names}: add addresses to it or create another pool")
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn usage(pools: &Pools<'_>, book: &Book<'_>) -> BTreeMap<String, PoolUsage> {
    let in_use = book.in_use(pools);
    let saturating = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
    pools
        .iter()
        .map(|pool| {
            let count = |family| {
                let used = in_use.get(&(pool.name.to_owned(), family)).copied().unwrap_or(0);
                let free = if pool.refused { 0 } else { pool.capacity(family) };
                (saturating(u128::from(used)), saturating(free.saturating_sub(u128::from(used))))
            };
            let ((assigned_v4, available_v4), (assigned_v6, available_v6)) =
                (count(Family::V4), count(Family::V6));
            let usage = PoolUsage { assigned_v4, assigned_v6, available_v4, available_v6 };
            (pool.name.to_owned(), usage)
        })
        .collect()
}
