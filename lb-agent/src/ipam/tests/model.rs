//! What should come of a snapshot, decided slowly and obviously: address by address, without
//! cursors, indexes, promises or anything remembered. It shares no code with the allocator but
//! the reading of annotations.
use crate::snapshot::{
    ExternalTrafficPolicy, IpAddressPool, IpFamilyPolicy, ObjectName, Protocol, Service, Snapshot,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The addresses of a Service, IPv4 first.
pub(super) type Expected = BTreeMap<ObjectName, Vec<IpAddr>>;

/// A pool, all of whose addresses are listed.
struct Pool<'a> {
    name: &'a str,
    spec: &'a IpAddressPool,
    addresses: Vec<IpAddr>,
    bad: bool,
}

/// The addresses of an entry `a-b` or `a/n`; `None` where it is neither. They are few.
fn entry(text: &str) -> Option<Vec<IpAddr>> {
    let next = |ip: IpAddr| match ip {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + 1).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + 1).into()),
    };
    let (first, last) = match text.split_once('-') {
        Some((a, b)) => (a.parse().ok()?, b.parse().ok()?),
        None => {
            let net: ipnet::IpNet = text.parse().ok()?;
            (net.network(), net.broadcast())
        }
    };
    Some(std::iter::successors(Some(first), |ip| (*ip < last).then(|| next(*ip))).collect())
}

fn pools(snapshot: &Snapshot) -> Vec<Pool<'_>> {
    let mut pools: Vec<Pool<'_>> = Vec::new();
    for (name, spec) in &snapshot.pools {
        let (mut addresses, mut bad) = (Vec::new(), spec.addresses.is_empty());
        for text in &spec.addresses {
            let Some(of_entry) = entry(text) else {
                bad = true;
                continue;
            };
            let taken = |ip: &IpAddr| {
                addresses.contains(ip)
                    || pools.iter().any(|p: &Pool<'_>| !p.bad && p.addresses.contains(ip))
            };
            match of_entry.iter().any(taken) {
                true => bad = true,
                false => addresses.extend(of_entry),
            }
        }
        pools.push(Pool { name, spec, addresses, bad });
    }
    pools
}

/// What matters to sharing an address.
struct Tenant {
    key: Option<String>,
    backend: String,
    ports: BTreeSet<(Protocol, u16)>,
}

fn tenant(service: &Service) -> Tenant {
    let local = service.external_traffic_policy == ExternalTrafficPolicy::Local;
    Tenant {
        key: service.annotation("allow-shared-ip").filter(|k| !k.is_empty()).map(str::to_owned),
        // Policy Cluster is like Local with an empty selector.
        backend: if local {
            format!("{:?}", service.selector)
        } else {
            format!("{:?}", BTreeMap::<u8, u8>::new())
        },
        ports: service.ports.iter().map(|p| (p.protocol, p.port)).collect(),
    }
}

/// Whether two Services may have one address.
pub(super) fn may_share(a: &Service, b: &Service) -> bool {
    let (a, b) = (tenant(a), tenant(b));
    a.key.is_some() && a.key == b.key && a.backend == b.backend && a.ports.is_disjoint(&b.ports)
}

struct World<'a> {
    snapshot: &'a Snapshot,
    pools: Vec<Pool<'a>>,
    tenants: BTreeMap<IpAddr, Vec<&'a Service>>,
}

impl<'a> World<'a> {
    fn fits(&self, ip: IpAddr, service: &Service) -> bool {
        self.tenants.get(&ip).into_iter().flatten().all(|other| may_share(service, other))
    }

    fn admits(&self, pool: &Pool<'_>, service: &Service) -> bool {
        let Some(rule) = &pool.spec.service_allocation else { return true };
        let own = &service.name.namespace;
        let mut namespaces = rule.namespaces.clone();
        for (name, labels) in &self.snapshot.namespaces {
            if rule.namespace_selectors.iter().any(|s| s.matches(labels)) {
                namespaces.push(name.clone());
            }
        }
        let any_namespace = rule.namespaces.is_empty() && rule.namespace_selectors.is_empty();
        let any_service = rule.service_selectors.is_empty();
        (any_namespace || namespaces.iter().any(|n| **n == **own))
            && (any_service || rule.service_selectors.iter().any(|s| s.matches(&service.labels)))
    }

    fn buggy(pool: &Pool<'_>, ip: IpAddr) -> bool {
        let text = ip.to_string();
        pool.spec.avoid_buggy_ips
            && ip.is_ipv4()
            && (text.ends_with(".0") || text.ends_with(".255"))
    }

    /// By position: the pool that gives an address.
    fn giver(&self, ip: IpAddr) -> Option<usize> {
        self.pools.iter().position(|p| !p.bad && p.addresses.contains(&ip))
    }

    /// The pool that a Service holds an address of.
    fn holder(&self, service: &Service, ip: IpAddr) -> Option<usize> {
        let recorded = service.annotations.get("metallb.io/ip-allocated-from-pool");
        self.giver(ip)
            .or_else(|| self.pools.iter().position(|p| p.bad && Some(p.name) == recorded))
            .or_else(|| self.pools.iter().position(|p| p.bad && p.addresses.contains(&ip)))
    }

    fn take(&mut self, ips: &[IpAddr], service: &'a Service) {
        for ip in ips {
            self.tenants.entry(*ip).or_default().push(service);
        }
    }

    fn may_keep(&self, service: &Service, held: &[IpAddr], asked: Option<&Vec<IpAddr>>) -> bool {
        let of: BTreeSet<_> = held.iter().map(|ip| self.holder(service, *ip)).collect();
        let [Some(pool)] = Vec::from_iter(of)[..] else { return false };
        let pool = &self.pools[pool];
        wanted(service).iter().any(|families| *families == families_of(held))
            && service.annotation("address-pool").is_none_or(|name| name == pool.name)
            && asked.is_none_or(|asked| asked == held)
            && (pool.bad
                || (self.admits(pool, service) && !held.iter().any(|ip| Self::buggy(pool, *ip))))
            && held.iter().all(|ip| self.fits(*ip, service))
    }

    fn asked(&self, service: &Service, asked: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let of: BTreeSet<_> = asked.iter().map(|ip| self.giver(*ip)).collect();
        let [Some(pool)] = Vec::from_iter(of)[..] else { return None };
        let pool = &self.pools[pool];
        let lawful = service.annotation("address-pool").is_none_or(|name| name == pool.name)
            && self.admits(pool, service)
            && asked.iter().all(|ip| !Self::buggy(pool, *ip) && self.fits(*ip, service));
        lawful.then(|| asked.to_vec())
    }

    fn first(&self, pool: &Pool<'_>, six: bool, service: &Service) -> Option<IpAddr> {
        let mut of_family = pool.addresses.iter().filter(|ip| ip.is_ipv6() == six);
        of_family.find(|ip| !Self::buggy(pool, **ip) && self.fits(**ip, service)).copied()
    }

    fn any(&self, service: &Service) -> Option<Vec<IpAddr>> {
        let named = service.annotation("address-pool");
        let usable = |p: &&Pool<'_>| {
            let chosen = named.map_or(p.spec.auto_assign, |name| name == p.name);
            !p.bad && chosen && self.admits(p, service)
        };
        let (mut scoped, general): (Vec<_>, Vec<_>) =
            self.pools.iter().filter(usable).partition(|p| p.spec.service_allocation.is_some());
        scoped.sort_by_key(|p| {
            let priority = p.spec.service_allocation.as_ref().map_or(0, |rule| rule.priority);
            (priority == 0, priority, p.name)
        });
        for pools in [scoped, general] {
            for families in wanted(service) {
                for pool in &pools {
                    let ips = families.iter().map(|six| self.first(pool, *six, service));
                    if let Some(ips) = ips.collect::<Option<Vec<_>>>() {
                        return Some(ips);
                    }
                }
            }
        }
        None
    }
}

fn families_of(ips: &[IpAddr]) -> Vec<bool> {
    ips.iter().map(IpAddr::is_ipv6).collect()
}

/// The families that a Service may have addresses of, best first; none for one that can have
/// none.
fn wanted(service: &Service) -> Vec<Vec<bool>> {
    let families: BTreeSet<_> = service.cluster_ips.iter().map(IpAddr::is_ipv6).collect();
    let families = Vec::from_iter(families);
    let first = service.ipv6_first;
    match (families.len(), service.ip_family_policy) {
        (0, _) | (1, IpFamilyPolicy::RequireDualStack) => vec![],
        (2, IpFamilyPolicy::PreferDualStack) => vec![families, vec![first], vec![!first]],
        _ => vec![families],
    }
}

/// What a Service asks for by name: `Err` for what cannot be meant.
fn request(service: &Service) -> Result<Option<Vec<IpAddr>>, ()> {
    let list = match (&service.load_balancer_ip, service.annotation("loadBalancerIPs")) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(()),
        (Some(one), None) => one.as_str(),
        (None, Some(list)) => list,
    };
    let mut ips = Vec::new();
    for text in list.split(',') {
        ips.push(text.trim().parse::<IpAddr>().map_err(drop)?);
    }
    ips.sort();
    // The families of the ClusterIPs, neither more nor less.
    let all = wanted(service).into_iter().next();
    if all == Some(families_of(&ips)) { Ok(Some(ips)) } else { Err(()) }
}

/// What each Service has in the end. Those that are not named keep what they have.
pub(super) fn expected(snapshot: &Snapshot) -> Expected {
    let mut world = World { snapshot, pools: pools(snapshot), tenants: BTreeMap::new() };
    let mut result = Expected::new();
    let mut holders = Vec::new();
    let mut others = Vec::new();
    for service in snapshot.services.values() {
        let mut held = service.addresses();
        held.sort();
        let recorded = service.annotations.contains_key("metallb.io/ip-allocated-from-pool");
        if !service.wants_address {
            if recorded || held.iter().any(|ip| world.holder(service, *ip).is_some()) {
                result.insert(service.name.clone(), Vec::new());
            }
            continue;
        }
        result.insert(service.name.clone(), Vec::new());
        if wanted(service).is_empty() {
            continue;
        }
        let whole = service.ingress.iter().filter(|i| i.ip.is_some()).count() == held.len();
        match whole && !held.is_empty() {
            true => holders.push((service.resource_version.parse::<u64>().unwrap(), service, held)),
            false => others.push(service),
        }
    }
    holders.sort_by_key(|(version, ..)| *version);
    for (_, service, held) in holders {
        let asked = request(service).ok().flatten();
        if world.may_keep(service, &held, asked.as_ref()) {
            world.take(&held, service);
            result.insert(service.name.clone(), held);
        }
        others.push(service);
    }
    others.sort_by_key(|service| (!matches!(request(service), Ok(Some(_))), &service.name));
    for service in others {
        let has = result[&service.name].clone();
        let found = match (&has[..], request(service)) {
            ([one], _) if wanted(service).len() > 1 => {
                // The other family, of the same pool.
                let second = world
                    .giver(*one)
                    .and_then(|pool| world.first(&world.pools[pool], !one.is_ipv6(), service));
                let mut both = vec![*one];
                both.extend(second);
                both.sort();
                world.take(&both[..], service);
                result.insert(service.name.clone(), both);
                continue;
            }
            ([], Ok(Some(asked))) => world.asked(service, &asked),
            ([], Ok(None)) => world.any(service),
            _ => None,
        };
        if let Some(found) = found {
            world.take(&found, service);
            result.insert(service.name.clone(), found);
        }
    }
    result
}

/// The pool that gives an address.
pub(super) fn pool_of(snapshot: &Snapshot, ip: IpAddr) -> Option<String> {
    let mut pools = pools(snapshot).into_iter().filter(|pool| !pool.bad);
    pools.find(|pool| pool.addresses.contains(&ip)).map(|pool| pool.name.to_owned())
}

/// The pools' usable and used addresses, by pool and family (whether IPv6).
pub(super) fn usage(snapshot: &Snapshot, have: &Expected) -> BTreeMap<(String, bool), (i64, i64)> {
    let world = World { snapshot, pools: pools(snapshot), tenants: BTreeMap::new() };
    let mut counts = BTreeMap::new();
    for (position, pool) in world.pools.iter().enumerate() {
        for six in [false, true] {
            let of_family = |ip: &&IpAddr| ip.is_ipv6() == six;
            let mut used = BTreeSet::<IpAddr>::new();
            for (name, ips) in have {
                let service = &snapshot.services[name];
                let own = |ip: &&IpAddr| world.holder(service, **ip) == Some(position);
                used.extend(ips.iter().filter(of_family).filter(own));
            }
            let usable = pool.addresses.iter().filter(of_family);
            let usable = usable.filter(|ip| !World::buggy(pool, **ip)).count();
            let free = if pool.bad { 0 } else { usable - used.len() };
            counts.insert((pool.name.to_owned(), six), (used.len() as i64, free as i64));
        }
    }
    counts
}
