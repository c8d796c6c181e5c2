//! Which addresses are taken, by whom, and which is the next one free.
//!
//! Finding the next free address costs nothing however large the pool: a cursor has passed
//! what is taken, and goes back only to what is given back.
use super::{
    pools::{Family, Pool, address, is_buggy, number},
    request::{SharingKey, Tenant},
};
use crate::snapshot::{ObjectName, Protocol};
use litemap::LiteMap;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// Where in a pool: the entry, and the address as an integer.
type Position = (usize, u128);

/// The addresses of a pool and family.
type Part = (Arc<str>, Family);

/// Cursors save time only: beyond so many sets of ports all begin anew.
const MOST_CURSORS: usize = 1000;

/// An address in use. There can be thousands.
struct Usage {
    part: Part,
    /// Which of the pool's. Absent where that has become unreadable.
    entry: Option<u32>,
    by: Holders,
}

/// Who has an address.
enum Holders {
    /// A Service that shares with nobody.
    One(ObjectName),
    /// Services with the same key.
    Sharing(Box<Sharers>),
}

struct Sharers {
    key: SharingKey,
    ports: LiteMap<(Protocol, u16), ObjectName>,
    tenants: LiteMap<ObjectName, ()>,
}

impl Usage {
    fn position(&self, address: IpAddr) -> Option<Position> {
        Some((self.entry? as usize, number(address)))
    }
}

impl Holders {
    fn first(&self) -> Option<&ObjectName> {
        match self {
            Self::One(name) => Some(name),
            Self::Sharing(sharers) => sharers.tenants.first().map(|(name, ())| name),
        }
    }
}

/// The addresses of one pool and family that Services with one sharing key use.
#[derive(Default)]
struct Shared {
    addresses: BTreeMap<Position, IpAddr>,
    /// By the ports that are asked for: everything before is known not to fit.
    cursors: HashMap<BTreeSet<(Protocol, u16)>, Position>,
}

impl Shared {
    /// From here on something may fit again.
    fn look_again(&mut self, from: Position) {
        for cursor in self.cursors.values_mut() {
            *cursor = from.min(*cursor);
        }
    }
}

/// The addresses that are taken.
#[derive(Default)]
pub struct Book {
    used: HashMap<IpAddr, Usage>,
    free: HashMap<Part, Position>,
    shared: HashMap<(Part, SharingKey), Shared>,
    counts: HashMap<Part, u64>,
}

impl Book {
    /// Whether a Service can have an address, and if not, why: the end of a sentence that
    /// begins with the address.
    ///
    /// # Errors
    /// It cannot.
    pub fn fits(&self, address: IpAddr, tenant: &Tenant) -> Result<(), String> {
        let Some(usage) = self.used.get(&address) else { return Ok(()) };
        let others = || usage.by.first().map(ToString::to_string).unwrap_or_default();
        let (Holders::Sharing(sharers), Some(ours)) = (&usage.by, &tenant.sharing) else {
            return Err(format!(
                "is used by Service {}: ask for another, or let both share it by the same \
                 annotation metallb.io/allow-shared-ip",
                others()
            ));
        };
        if sharers.key != **ours {
            return Err(format!(
                "is used by Service {} with another sharing key: to share it, both need the same \
                 metallb.io/allow-shared-ip and the same externalTrafficPolicy (if Local, also \
                 the same selector)",
                others()
            ));
        }
        match tenant.ports.iter().find_map(|port| Some((port, sharers.ports.get(port)?))) {
            None => Ok(()),
            Some(((protocol, port), other)) => Err(format!(
                "has its port {port}/{protocol} used by Service {other}: use another port or \
                 another address"
            )),
        }
    }

    /// Notes that a Service has an address, which must [fit](Self::fits).
    pub fn take(&mut self, service: &ObjectName, tenant: &Tenant, address: IpAddr, pool: &Pool) {
        let part = (Arc::clone(&pool.name), Family::of(address));
        let entry = pool.ranges.iter().position(|range| range.contains(address));
        let entry = entry.and_then(|entry| u32::try_from(entry).ok());
        let usage = self.used.entry(address).or_insert_with(|| {
            *self.counts.entry(part.clone()).or_default() += 1;
            let by = match &tenant.sharing {
                None => Holders::One(service.clone()),
                Some(key) => Holders::Sharing(Box::new(Sharers {
                    key: SharingKey::clone(key),
                    ports: LiteMap::new(),
                    tenants: LiteMap::new(),
                })),
            };
            let usage = Usage { part, entry, by };
            if let (Some(key), Some(position)) = (&tenant.sharing, usage.position(address)) {
                let key = (usage.part.clone(), SharingKey::clone(key));
                let shared = self.shared.entry(key).or_default();
                shared.addresses.insert(position, address);
                shared.look_again(position);
            }
            usage
        });
        if let Holders::Sharing(sharers) = &mut usage.by {
            sharers.ports.extend(tenant.ports.iter().map(|port| (*port, service.clone())));
            sharers.tenants.insert(service.clone(), ());
        }
    }

    /// Notes that a Service has an address no more, which it has taken as this tenant.
    pub fn give_back(&mut self, service: &ObjectName, tenant: &Tenant, address: IpAddr) {
        let Some(usage) = self.used.get_mut(&address) else { return };
        let position = usage.position(address);
        let empty = match &mut usage.by {
            Holders::One(holder) if holder == service => true,
            Holders::One(_) => return,
            Holders::Sharing(sharers) => {
                if sharers.tenants.remove(service).is_none() {
                    return;
                }
                for port in &tenant.ports {
                    if sharers.ports.get(port) == Some(service) {
                        sharers.ports.remove(port);
                    }
                }
                let empty = sharers.tenants.is_empty();
                let key = (usage.part.clone(), sharers.key.clone());
                if let (Some(position), Some(shared)) = (position, self.shared.get_mut(&key)) {
                    shared.look_again(position);
                    if empty {
                        shared.addresses.remove(&position);
                    }
                    if shared.addresses.is_empty() {
                        self.shared.remove(&key);
                    }
                }
                empty
            }
        };
        if !empty {
            return;
        }
        if let (Some(cursor), Some(position)) = (self.free.get_mut(&usage.part), position) {
            *cursor = position.min(*cursor);
        }
        if let Some(count) = self.counts.get_mut(&usage.part) {
            *count = count.saturating_sub(1);
        }
        self.used.remove(&address);
    }

    /// The first address of a pool that a Service can have: free, or shared with others.
    pub fn first(&mut self, pool: &Pool, family: Family, tenant: &Tenant) -> Option<IpAddr> {
        let free = self.first_free(pool, family);
        let joined = self.first_shared(pool, family, tenant);
        match (free, joined) {
            (Some(free), Some(joined)) => Some(free.min(joined)),
            (free, joined) => free.or(joined),
        }
        .map(|(_, n)| address(family, n))
    }

    fn first_free(&mut self, pool: &Pool, family: Family) -> Option<Position> {
        let cursor = self.free.entry((Arc::clone(&pool.name), family)).or_default();
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

    fn first_shared(&mut self, pool: &Pool, family: Family, tenant: &Tenant) -> Option<Position> {
        let key = ((Arc::clone(&pool.name), family), SharingKey::clone(tenant.sharing.as_ref()?));
        let shared = self.shared.get_mut(&key)?;
        let from = shared.cursors.get(&tenant.ports).copied().unwrap_or_default();
        let used = &self.used;
        let fits = |ip: &IpAddr| {
            let Some(Holders::Sharing(sharers)) = used.get(ip).map(|usage| &usage.by) else {
                return true;
            };
            tenant.ports.iter().all(|port| !sharers.ports.contains_key(port))
        };
        let avoid = |ip: &IpAddr| pool.spec.avoid_buggy_ips && is_buggy(*ip);
        let mut candidates = shared.addresses.range(from..);
        let found = candidates.find(|(_, ip)| !avoid(ip) && fits(ip)).map(|(p, _)| *p);
        let next = found.unwrap_or((usize::MAX, u128::MAX));
        if shared.cursors.len() >= MOST_CURSORS {
            shared.cursors.clear();
        }
        shared.cursors.insert(tenant.ports.clone(), next);
        found
    }

    /// How many addresses of a pool and family are used. An address shared counts once.
    pub fn in_use(&self, pool: &Pool, family: Family) -> u64 {
        self.counts.get(&(Arc::clone(&pool.name), family)).copied().unwrap_or(0)
    }
}
