//! Which addresses are taken, by whom, and which is the next one free.
//!
//! Within one allocation addresses are only ever taken, never given back. So what a
//! cursor has passed stays passed, and finding the next free address costs nothing
//! however large the pool.
use super::{
    pools::{Family, Pool, address, is_buggy, number},
    request::{SharingKey, Tenant},
};
use crate::snapshot::{ObjectName, Protocol};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// Where in a pool: the entry, and the address as an integer.
type Position = (usize, u128);

/// An address in use.
struct Usage<'a> {
    sharing: Option<SharingKey>,
    ports: BTreeMap<(Protocol, u16), &'a ObjectName>,
    first: &'a ObjectName,
}

/// The addresses of one pool and family that Services with one sharing key use.
#[derive(Default)]
struct Shared {
    addresses: BTreeMap<Position, IpAddr>,
    /// By the ports that are asked for: everything before is known not to fit.
    cursors: HashMap<BTreeSet<(Protocol, u16)>, Position>,
}

/// The addresses that are taken.
#[derive(Default)]
pub struct Book<'a> {
    used: HashMap<IpAddr, Usage<'a>>,
    free: HashMap<(&'a str, Family), Position>,
    shared: HashMap<(&'a str, Family, SharingKey), Shared>,
}

impl<'a> Book<'a> {
    /// Whether a Service can have an address, and if not, why: the end of a sentence that
    /// begins with the address.
    pub fn fits(&self, address: IpAddr, tenant: &Tenant) -> Result<(), String> {
        let Some(usage) = self.used.get(&address) else { return Ok(()) };
        let first = usage.first;
        let shared = match (&usage.sharing, &tenant.sharing) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => {
                return Err(format!(
                    "is used by Service {first}: ask for another, or let both share it by the \
                     same annotation metallb.io/allow-shared-ip"
                ));
            }
        };
        if !shared {
            return Err(format!(
                "is used by Service {first} with another sharing key: to share it, both need the \
                 same metallb.io/allow-shared-ip and the same externalTrafficPolicy (if Local, \
                 also the same selector)"
            ));
        }
        match tenant.ports.iter().find_map(|port| Some((port, usage.ports.get(port)?))) {
            None => Ok(()),
            Some(((protocol, port), other)) => Err(format!(
                "has its port {port}/{protocol} used by Service {other}: use another port or \
                 another address"
            )),
        }
    }

    /// Notes that a Service has an address, which must [fit](Self::fits).
    pub fn take(
        &mut self,
        service: &'a ObjectName,
        tenant: &Tenant,
        address: IpAddr,
        pool: &Pool<'a>,
    ) {
        let opened = !self.used.contains_key(&address);
        let usage = self.used.entry(address).or_insert_with(|| Usage {
            sharing: tenant.sharing.clone(),
            ports: BTreeMap::new(),
            first: service,
        });
        usage.ports.extend(tenant.ports.iter().map(|port| (*port, service)));
        let entry = pool.ranges.iter().position(|range| range.contains(address));
        if let (true, Some(key), Some(entry)) = (opened, &tenant.sharing, entry) {
            let position = (entry, number(address));
            let key = (pool.name, Family::of(address), key.clone());
            let shared = self.shared.entry(key).or_default();
            shared.addresses.insert(position, address);
            for cursor in shared.cursors.values_mut() {
                *cursor = position.min(*cursor);
            }
        }
    }

    /// The first address of a pool that a Service can have: free, or shared with others.
    pub fn first(&mut self, pool: &Pool<'a>, family: Family, tenant: &Tenant) -> Option<IpAddr> {
        let free = self.first_free(pool, family);
        let joined = self.first_shared(pool, family, tenant);
        match (free, joined) {
            (Some(free), Some(joined)) => Some(free.min(joined)),
            (free, joined) => free.or(joined),
        }
        .map(|(_, n)| address(family, n))
    }

    fn first_free(&mut self, pool: &Pool<'a>, family: Family) -> Option<Position> {
        let cursor = self.free.entry((pool.name, family)).or_default();
        while let Some(range) = pool.ranges.get(cursor.0) {
            let n = cursor.1.max(range.first);
            if range.family != family || n > range.last {
                *cursor = (cursor.0 + 1, 0);
                continue;
            }
            let candidate = address(family, n);
            let avoid = pool.spec.avoid_buggy_ips && is_buggy(candidate);
            if !avoid && !self.used.contains_key(&candidate) {
                *cursor = (cursor.0, n);
                return Some(*cursor);
            }
            *cursor = n.checked_add(1).map_or((cursor.0 + 1, 0), |next| (cursor.0, next));
        }
        None
    }

    fn first_shared(
        &mut self,
        pool: &Pool<'a>,
        family: Family,
        tenant: &Tenant,
    ) -> Option<Position> {
        let key = (pool.name, family, tenant.sharing.clone()?);
        let shared = self.shared.get_mut(&key)?;
        let from = shared.cursors.get(&tenant.ports).copied().unwrap_or_default();
        let used = &self.used;
        let fits = |ip: &IpAddr| {
            let ports = used.get(ip).map(|usage| &usage.ports);
            ports.is_none_or(|taken| tenant.ports.iter().all(|port| !taken.contains_key(port)))
        };
        let avoid = |ip: &IpAddr| pool.spec.avoid_buggy_ips && is_buggy(*ip);
        let mut candidates = shared.addresses.range(from..);
        let found = candidates.find(|(_, ip)| !avoid(ip) && fits(ip)).map(|(p, _)| *p);
        let next = found.unwrap_or((usize::MAX, u128::MAX));
        shared.cursors.insert(tenant.ports.clone(), next);
        found
    }

    /// How many addresses of each pool and family are used. An address shared counts once.
    pub fn in_use(&self, pools: &super::pools::Pools<'_>) -> BTreeMap<(String, Family), u64> {
        let mut counts = BTreeMap::new();
        for ip in self.used.keys() {
            if let Some(pool) = pools.of(*ip) {
                *counts.entry((pool.name.to_owned(), Family::of(*ip))).or_default() += 1;
            }
        }
        counts
    }
}
