//! What is decided, Service by Service, and how that follows the snapshots.
//!
//! One change looks at the Services that have changed, and at those that wait if room may
//! have appeared. What could concern all looks at all: other pools, other labels of
//! namespaces, an address that two hold. Both come to the same decisions.
use super::{
    Assignment, Decision, PoolUsage, Promise,
    book::Book,
    case::{Case, Reading, is_written, notice},
    pools::{ALLOCATED_FROM, Family, Pools},
    request::Tenant,
    rules::{Loss, Rules, list},
};
use crate::{
    differences,
    plan::Notice,
    snapshot::{ObjectName, Service, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Decisions that the snapshot may not show yet. One for another version of the Service does not
/// count: the snapshot says what became of it.
#[derive(Default)]
pub(super) struct InFlight {
    /// Those that are being written.
    pub(super) sent: BTreeMap<ObjectName, Assignment>,
    /// Those that have been written, with the Services as they were before.
    pub(super) written: BTreeMap<ObjectName, (Arc<Service>, Assignment)>,
}

impl InFlight {
    /// What a Service of that version has, or will have.
    pub(super) fn of(&self, service: &Service) -> Option<&Assignment> {
        let written = || self.written.get(&service.name).map(|(_, assignment)| assignment);
        let newest = self.sent.get(&service.name).or_else(written)?;
        (newest.resource_version == service.resource_version).then_some(newest)
    }
}

/// What is decided about a Service.
pub(super) struct Entry {
    pub(super) service: Arc<Service>,
    /// What it shall have; absent: it is not our business.
    pub(super) decision: Option<Decision>,
    /// It might have more if there were room.
    waits: bool,
    /// What is told as long as it is so.
    pub(super) standing: Vec<Notice>,
    /// What becomes true once the decision is written.
    pub(super) done: Vec<Notice>,
}

/// What an update has touched.
pub(super) enum Touched {
    /// These Services, and no pool.
    Services(Vec<ObjectName>),
    /// Everything.
    All,
}

/// All decisions.
#[derive(Default)]
pub(super) struct Ledger {
    snapshot: Arc<Snapshot>,
    pools: Pools,
    /// What is wrong with the pools.
    pub(super) faults: Vec<Notice>,
    book: Book,
    pub(super) entries: BTreeMap<ObjectName, Box<Entry>>,
    waiting: BTreeSet<ObjectName>,
    /// Changed Services that are being written, to be looked at after that.
    deferred: BTreeSet<ObjectName>,
}

/// Two have the same address, or may have.
struct Conflict;

impl Ledger {
    /// Decides about everything in a snapshot, without anything known before.
    #[cfg(test)]
    pub(super) fn new(snapshot: Arc<Snapshot>, in_flight: &InFlight) -> Self {
        let mut ledger = Self { snapshot, ..Self::default() };
        ledger.rebuild(in_flight);
        ledger
    }

    /// Whether any Service might have more if there were room.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Goes on to a newer snapshot.
    pub(super) fn update(&mut self, snapshot: &Arc<Snapshot>, in_flight: &InFlight) -> Touched {
        let before = std::mem::replace(&mut self.snapshot, Arc::clone(snapshot));
        let by_label = || {
            let mut rules = snapshot.pools.values().filter_map(|p| p.service_allocation.as_ref());
            rules.any(|rule| !rule.namespace_selectors.is_empty())
        };
        if before.pools != snapshot.pools
            || (before.namespaces != snapshot.namespaces && by_label())
        {
            self.rebuild(in_flight);
            return Touched::All;
        }
        if !Arc::ptr_eq(&before, snapshot) {
            let changed = differences::keys(&before.services, &snapshot.services);
            self.deferred.extend(changed.cloned());
        }
        let changed = std::mem::take(&mut self.deferred);
        let (later, now) = changed.into_iter().partition(|n| in_flight.sent.contains_key(n));
        self.deferred = later;
        match self.reconsider(now) {
            Ok(touched) => Touched::Services(touched),
            Err(Conflict) => {
                self.rebuild(in_flight);
                Touched::All
            }
        }
    }

    /// Decides about the changed Services that were being written when they changed.
    pub(super) fn resume(&mut self, in_flight: &InFlight) -> Touched {
        let snapshot = Arc::clone(&self.snapshot);
        self.update(&snapshot, in_flight)
    }

    /// Decides about everything anew.
    pub(super) fn rebuild(&mut self, in_flight: &InFlight) {
        let (pools, faults) = Pools::new(&self.snapshot);
        (self.pools, self.faults, self.book) = (pools, faults, Book::default());
        self.waiting.clear();
        self.deferred.clear();
        let mut before = std::mem::take(&mut self.entries);
        let mut round = Round::default();
        for (name, service) in &self.snapshot.services {
            let own = before.remove(name).filter(|entry| entry.service == *service);
            let promise = match (own, in_flight.of(service)) {
                (own, Some(sent)) => Some(Promise {
                    addresses: sent.addresses.clone(),
                    done: own.map(|entry| entry.done).unwrap_or_default(),
                    unsent: false,
                }),
                (Some(entry), None) => entry.promise(),
                (None, None) => None,
            };
            round.read(service, promise, &self.pools);
        }
        // There is nothing that it could be in conflict with that would not be looked at.
        let _ = round.keep(self, true);
        round.complete(self);
        self.enter(round);
    }

    /// Decides about these Services anew, and about others as far as that concerns them.
    fn reconsider(&mut self, changed: BTreeSet<ObjectName>) -> Result<Vec<ObjectName>, Conflict> {
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut round = Round::default();
        let mut room = false;
        for name in &changed {
            let had = self.withdraw(name).and_then(|e| Some((e.decision?.addresses, e.service)));
            let had = had.filter(|(held, _)| !held.is_empty());
            let had = had.map(|(held, service)| (held, Tenant::of(&service)));
            if let Some(service) = self.snapshot.services.get(name) {
                round.read(service, None, &self.pools);
            }
            let same = |held, tenant: &Tenant| {
                let case = round.cases.last().filter(|case| case.service.name == *name);
                // With those who share, others may want to share.
                tenant.sharing.is_none()
                    && case.is_some_and(|case| case.held == held && case.tenant == *tenant)
            };
            room |= had.is_some_and(|(held, tenant)| !same(held, &tenant));
        }
        let mut touched = Vec::from_iter(changed);
        round.keep(self, false)?;
        room |= round.cases.iter().any(|c| !c.held.is_empty() || c.tenant.sharing.is_some());
        if room {
            let mut withdrawn = Vec::new();
            for name in self.waiting.clone() {
                let Some(entry) = self.withdraw(&name) else { continue };
                round.read(&entry.service, entry.promise(), &self.pools);
                withdrawn.push((name, entry));
            }
            if let Err(conflict) = round.keep(self, false) {
                self.entries.extend(withdrawn);
                return Err(conflict);
            }
            touched.extend(withdrawn.into_iter().map(|(name, _)| name));
        }
        round.complete(self);
        self.enter(round);
        Ok(touched)
    }

    /// Forgets what was decided about a Service, and returns that.
    fn withdraw(&mut self, name: &ObjectName) -> Option<Box<Entry>> {
        self.waiting.remove(name);
        let entry = self.entries.remove(name)?;
        if let Some(decision) = &entry.decision
            && !decision.addresses.is_empty()
        {
            // As which it has taken them.
            let tenant = Tenant::of(&entry.service);
            for ip in &decision.addresses {
                self.book.give_back(name, &tenant, *ip);
            }
        }
        Some(entry)
    }

    fn enter(&mut self, round: Round) {
        for (name, entry) in round.entries {
            if entry.waits {
                self.waiting.insert(name.clone());
            }
            self.entries.insert(name, entry);
        }
    }

    /// How full each pool is once all decisions are written.
    pub(super) fn usage(&self) -> BTreeMap<String, PoolUsage> {
        let saturating = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
        self.pools
            .iter()
            .map(|pool| {
                let count = |family| {
                    let used = u128::from(self.book.in_use(pool, family));
                    let free = if pool.refused { used } else { pool.capacity(family) };
                    (saturating(used), saturating(free.saturating_sub(used)))
                };
                let ((assigned_v4, available_v4), (assigned_v6, available_v6)) =
                    (count(Family::V4), count(Family::V6));
                let usage = PoolUsage { assigned_v4, assigned_v6, available_v4, available_v6 };
                (pool.name.to_string(), usage)
            })
            .collect()
    }
}

impl Entry {
    /// What is to be written, if the API does not say it already, nor will by what is in flight.
    pub(super) fn assignment(&self, in_flight: &InFlight) -> Option<Assignment> {
        let decision = self.decision.as_ref()?;
        let recorded = self.service.annotations.get(ALLOCATED_FROM);
        let assignment = Assignment {
            service: self.service.name.clone(),
            resource_version: self.service.resource_version.clone(),
            addresses: decision.addresses.clone(),
            pool: if decision.as_it_is { recorded } else { decision.pool.as_deref() }
                .map(str::to_owned),
        };
        let done = match in_flight.of(&self.service) {
            Some(sent) => *sent == assignment,
            None => is_written(&self.service, decision),
        };
        (!done).then_some(assignment)
    }

    /// What was decided and is not yet written.
    fn promise(&self) -> Option<Promise> {
        let decision = self.decision.as_ref()?;
        let written = is_written(&self.service, decision);
        let promise = Promise {
            addresses: decision.addresses.clone(),
            done: self.done.clone(),
            unsent: true,
        };
        (!written && !decision.addresses.is_empty()).then_some(promise)
    }
}

/// Services that are decided about together.
#[derive(Default)]
struct Round {
    /// Those that have not been decided about.
    cases: Vec<Case>,
    kept: Vec<Case>,
    entries: BTreeMap<ObjectName, Box<Entry>>,
}

impl Round {
    fn read(&mut self, service: &Arc<Service>, promise: Option<Promise>, pools: &Pools) {
        let mut standing = Vec::new();
        let decision = match Case::read(service, promise, pools, &mut standing) {
            Reading::Wants(case) => {
                self.cases.push(*case);
                None
            }
            Reading::WantsNone => Some(Decision::default()),
            Reading::Foreign => None,
        };
        let entry = Entry {
            service: Arc::clone(service),
            decision,
            waits: false,
            standing,
            done: Vec::new(),
        };
        self.entries.insert(service.name.clone(), Box::new(entry));
    }

    /// Lets Services keep what they hold, if they may. Unless all Services are here, an address
    /// that another has may be rightly this one's.
    fn keep(&mut self, ledger: &mut Ledger, all: bool) -> Result<(), Conflict> {
        let (mut holders, mut pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.cases)
            .into_iter()
            .partition(|case| !case.held.is_empty() && !case.odd);
        holders.sort_by_cached_key(Case::rank);
        for case in holders {
            let Ledger { snapshot, pools, book, .. } = ledger;
            let rules = Rules { pools, namespaces: &snapshot.namespaces, book };
            let Some(entry) = self.entries.get_mut(&case.service.name) else { continue };
            let why = match rules.may_keep(&case) {
                Ok(pool) => {
                    for ip in &case.held {
                        ledger.book.take(&case.service.name, &case.tenant, *ip, &pool);
                    }
                    entry.done = case.promised.clone().unwrap_or_default();
                    entry.decision = Some(Decision {
                        addresses: case.held.clone(),
                        pool: Some(Arc::clone(&pool.name)),
                        as_it_is: pool.refused,
                    });
                    self.kept.push(case);
                    continue;
                }
                Err(Loss::Taken(_)) if !all => return Err(Conflict),
                Err(Loss::Unfit(why) | Loss::Taken(why)) => why,
            };
            // What was promised only, nobody has seen.
            let held =
                if case.promised.is_some() { case.service.addresses() } else { case.held.clone() };
            if !held.is_empty() {
                let message = format!("gives up {}: {why}.", list(&held));
                entry.done.push(notice(&case.service, false, "ClearAssignment", message));
            }
            pending.push(case);
        }
        self.cases = pending;
        Ok(())
    }

    /// Gives Services what they lack, as far as it can be had: first those that ask for an
    /// address by name, then the others, both by namespace and name.
    fn complete(&mut self, ledger: &mut Ledger) {
        let mut cases: Vec<_> = self.cases.drain(..).map(|case| (case, false)).collect();
        cases.extend(self.kept.drain(..).map(|case| (case, true)));
        cases.sort_by(|(a, _), (b, _)| {
            let order = |case: &Case| case.asked.is_none();
            order(a).cmp(&order(b)).then_with(|| a.service.name.cmp(&b.service.name))
        });
        for (case, kept) in cases {
            let Some(entry) = self.entries.get_mut(&case.service.name) else { continue };
            if let Some(message) = &case.malformed {
                let warning = notice(&case.service, true, "LoadBalancerFailed", message.clone());
                entry.standing.push(warning);
            }
            if kept {
                add_second_family(ledger, &case, &case.held, entry);
            } else {
                give(ledger, &case, entry);
            }
        }
    }
}

fn give(ledger: &mut Ledger, case: &Case, entry: &mut Entry) {
    let (service, name) = (&case.service, &case.service.name);
    let Ledger { snapshot, pools, book, .. } = ledger;
    let mut rules = Rules { pools, namespaces: &snapshot.namespaces, book };
    let found = match (&case.malformed, &case.asked) {
        (Some(_), _) => None,
        (None, Some(asked)) => Some(rules.find_asked(case, asked)),
        (None, None) => Some(rules.find_any(case)),
    };
    entry.decision = Some(Decision::default());
    match found {
        Some(Ok((ips, pool))) => {
            let message = format!("assigned {} from IPAddressPool {}", list(&ips), pool.name);
            entry.done.push(notice(service, false, "IPAllocated", message));
            for ip in &ips {
                ledger.book.take(name, &case.tenant, *ip, &pool);
            }
            entry.decision = Some(Decision {
                addresses: ips.clone(),
                pool: Some(Arc::clone(&pool.name)),
                as_it_is: false,
            });
            add_second_family(ledger, case, &ips, entry);
        }
        Some(Err(why)) => {
            let message = format!("no address: {why}.");
            entry.standing.push(notice(service, true, "AllocationFailed", message));
            entry.waits = true;
        }
        None => {}
    }
}

/// A Service that prefers two families and holds one gets the other from the same pool.
fn add_second_family(ledger: &mut Ledger, case: &Case, held: &[IpAddr], entry: &mut Entry) {
    let service = &case.service;
    let Ledger { snapshot, pools, book, .. } = ledger;
    let mut rules = Rules { pools, namespaces: &snapshot.namespaces, book };
    match rules.find_second(case, held) {
        Ok(Some((ip, pool))) => {
            let message = format!("assigned {ip} from IPAddressPool {} as well", pool.name);
            entry.done.push(notice(service, false, "IPAllocated", message));
            ledger.book.take(&service.name, &case.tenant, ip, &pool);
            if let Some(decision) = &mut entry.decision {
                decision.addresses.push(ip);
                decision.addresses.sort();
            }
        }
        Ok(None) => {}
        Err(message) => {
            entry.standing.push(notice(service, false, "AdditionalAssignFailed", message));
            entry.waits = true;
        }
    }
}
