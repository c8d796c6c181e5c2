//! What is to be written, in which order, and when again if it fails.
//!
//! An address changes hands by two writes, and the one that takes it goes out only after the
//! one that gives it up has been accepted. Where two Services want what the other has, one of
//! them gives up first, which takes it a write more.
use super::{
    Assignment, PoolUsage,
    ledger::{InFlight, Ledger, Touched},
};
use crate::{
    plan::Notice,
    snapshot::{ObjectName, Service, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How many writes are under way at once: enough to keep an API server busy, few enough
/// to leave it room for others.
const AT_ONCE: usize = 16;

/// When a write that failed is tried again at first; each time it fails, the pause doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// So many failures in a row are the API's and not the Service's: all writes pause.
const IN_A_ROW: u32 = AT_ONCE as u32;

/// A Service that has changed is decided about once the snapshot shows how. Should it never
/// do, the write is tried again after that time.
const UNSEEN: Duration = Duration::from_secs(10);

/// While Services wait for an address, everything is looked at again this often, whatever is heard
/// of changes.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands in the API.
    Written,
    /// The Service has changed since it was decided on.
    Changed,
    /// It could not be written, or it is not known whether it was.
    Failed,
}

/// A Service that could not be written.
struct Rest {
    /// As it was.
    service: Arc<Service>,
    /// Absent once that time has come.
    until: Option<Instant>,
    failures: u32,
    /// Whatever came of it, the Service may have these.
    doubtful: Vec<IpAddr>,
}

/// The allocator, for as long as this agent is it.
#[derive(Default)]
pub struct Allocator {
    ledger: Ledger,
    in_flight: InFlight,
    /// What is told when a write that is under way succeeds.
    done: BTreeMap<ObjectName, Vec<Notice>>,
    /// What can be written now: who gives an address up before who only takes some.
    ready: BTreeSet<(bool, ObjectName)>,
    /// Who waits for an address to be given up by another.
    blocked: BTreeMap<ObjectName, IpAddr>,
    blocked_by: HashMap<IpAddr, BTreeSet<ObjectName>>,
    /// Who still has an address in the API that it shall not have any more.
    leaving: BTreeMap<ObjectName, Vec<IpAddr>>,
    left_by: HashMap<IpAddr, BTreeSet<ObjectName>>,
    resting: BTreeMap<ObjectName, Rest>,
    failures: u32,
    paused_until: Option<Instant>,
    look_again: Option<Instant>,
    /// What was told of each object and is still so.
    told: BTreeMap<ObjectName, Vec<Notice>>,
    told_of_pools: BTreeSet<Notice>,
    notices: Vec<Notice>,
}

impl Allocator {
    /// Takes a newer snapshot into account. The first one must be one that was read after this
    /// agent has become the allocator.
    pub fn update(&mut self, now: Instant, snapshot: &Arc<Snapshot>) {
        let unchanged = |name: &ObjectName, service: &Arc<Service>| {
            snapshot.services.get(name) == Some(service)
        };
        self.in_flight.written.retain(|name, (service, _)| unchanged(name, service));
        self.resting.retain(|name, rest| unchanged(name, &rest.service));
        let touched = self.ledger.update(snapshot, &self.in_flight);
        self.follow(now, touched);
    }

    /// What to write next; `None` where nothing can be written for now. To be asked again after
    /// each of the other calls.
    pub fn next_write(&mut self, now: Instant) -> Option<Assignment> {
        let paused = self.paused_until.is_some_and(|until| now < until);
        if paused || self.in_flight.sent.len() >= AT_ONCE {
            return None;
        }
        while let Some((_, name)) = self.ready.pop_first() {
            if let Some(entry) = self.ledger.entries.get_mut(&name)
                && let Some(assignment) = entry.assignment(&self.in_flight)
            {
                self.done.insert(name.clone(), mem::take(&mut entry.done));
                self.in_flight.sent.insert(name, assignment.clone());
                return Some(assignment);
            }
        }
        let pending = !self.in_flight.sent.is_empty() || !self.in_flight.written.is_empty();
        if pending { None } else { self.break_circle() }
    }

    /// Of Services that wait for each other in a circle, one gives up what it shall not have.
    fn break_circle(&mut self) -> Option<Assignment> {
        let name = self.blocked.keys().find(|name| self.waits_for_itself(name))?.clone();
        let entry = self.ledger.entries.get_mut(&name)?;
        let mut assignment = entry.assignment(&self.in_flight)?;
        let has = entry.service.addresses();
        assignment.addresses.retain(|ip| has.contains(ip));
        if assignment.addresses.is_empty() {
            assignment.pool = None;
        }
        let gives_up = |notice: &mut Notice| notice.reason == "ClearAssignment";
        self.done.insert(name.clone(), entry.done.extract_if(.., gives_up).collect());
        self.unblock(&name);
        self.in_flight.sent.insert(name, assignment.clone());
        Some(assignment)
    }

    fn waits_for_itself(&self, name: &ObjectName) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![name];
        while let Some(current) = next.pop() {
            let waits_for = self.blocked.get(current).and_then(|ip| self.left_by.get(ip));
            for other in waits_for.into_iter().flatten().filter(|other| *other != current) {
                if other == name {
                    return true;
                }
                if seen.insert(other) {
                    next.push(other);
                }
            }
        }
        false
    }

    /// Takes into account what came of a write.
    pub fn ended(&mut self, now: Instant, assignment: Assignment, outcome: Outcome) {
        let name = assignment.service.clone();
        self.in_flight.sent.remove(&name);
        let done = self.done.remove(&name).unwrap_or_default();
        let before = self.resting.remove(&name);
        match outcome {
            Outcome::Written => {
                (self.failures, self.paused_until) = (0, None);
                self.notices.extend(done);
                if let Some(entry) = self.ledger.entries.get(&name) {
                    let service = Arc::clone(&entry.service);
                    self.in_flight.written.insert(name.clone(), (service, assignment));
                }
            }
            Outcome::Changed | Outcome::Failed => {
                let failures = before.map_or(0, |rest| rest.failures).saturating_add(1);
                let failed = outcome == Outcome::Failed;
                if failed {
                    self.failures = self.failures.saturating_add(1);
                    if self.failures >= IN_A_ROW {
                        self.paused_until = Some(now + pause(self.failures / IN_A_ROW));
                    }
                }
                if let Some(entry) = self.ledger.entries.get_mut(&name) {
                    entry.done.splice(0..0, done);
                    let again = entry.assignment(&self.in_flight).as_ref() == Some(&assignment);
                    let rest = if failed { pause(failures) } else { UNSEEN };
                    // Who is to have something else now must not, for all that is known, have this.
                    let rest = if again { rest } else { rest.max(UNSEEN) };
                    let (service, until) = (Arc::clone(&entry.service), Some(now + rest));
                    let doubtful = if failed { assignment.addresses } else { Vec::new() };
                    let rest = Rest { service, until, failures, doubtful };
                    self.resting.insert(name.clone(), rest);
                }
            }
        }
        // What was seen of it meanwhile, the write itself perhaps.
        let touched = self.ledger.resume(&self.in_flight);
        let now_is = self.ledger.entries.get(&name).map(|entry| &entry.service);
        if self.in_flight.written.get(&name).is_some_and(|(was, _)| Some(was) != now_is) {
            self.in_flight.written.remove(&name);
        }
        self.follow(now, touched);
        self.place(&[name]);
    }

    /// When to call [`Allocator::tick`], at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let paused = self.paused_until.filter(|_| !self.ready.is_empty());
        let rested = self.resting.values().filter_map(|rest| rest.until);
        rested.chain(paused).chain(self.look_again).min()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let mut rested = Vec::new();
        for (name, rest) in &mut self.resting {
            if rest.until.take_if(|until| *until <= now).is_some() {
                rested.push(name.clone());
            }
        }
        for name in &rested {
            let entry = self.ledger.entries.get(name);
            if entry.is_none_or(|entry| entry.assignment(&self.in_flight).is_none()) {
                self.resting.remove(name);
            }
        }
        self.place(&rested);
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            self.ledger.rebuild(&self.in_flight);
            self.follow(now, Touched::All);
        }
    }

    /// How full each pool is, by name, once everything is written.
    pub fn usage(&self) -> BTreeMap<String, PoolUsage> {
        self.ledger.usage()
    }

    /// What there is to tell since the last call: each notice once for as long as it stays true.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        mem::take(&mut self.notices)
    }

    /// Brings everything else to where the ledger is.
    fn follow(&mut self, now: Instant, touched: Touched) {
        let names = match touched {
            Touched::Services(names) => names,
            Touched::All => {
                let faults = BTreeSet::from_iter(self.ledger.faults.iter().cloned());
                self.notices.extend(faults.difference(&self.told_of_pools).cloned());
                self.told_of_pools = faults;
                let known = self.told.keys().chain(self.leaving.keys()).chain(self.blocked.keys());
                let mut names = BTreeSet::from_iter(known.cloned());
                names.extend(self.ready.iter().map(|(_, name)| name.clone()));
                names.extend(self.resting.keys().cloned());
                names.extend(self.ledger.entries.keys().cloned());
                Vec::from_iter(names)
            }
        };
        for name in &names {
            self.tell(name);
        }
        self.place(&names);
        self.look_again = match self.look_again {
            Some(at) if self.ledger.waits() => Some(at),
            None if self.ledger.waits() => Some(now + LOOK_AGAIN),
            _ => None,
        };
    }

    /// Notes what is new of what is to be told of a Service.
    fn tell(&mut self, name: &ObjectName) {
        let standing = self.ledger.entries.get(name).map_or(&[][..], |entry| &entry.standing);
        let told = self.told.get(name).map_or(&[][..], Vec::as_slice);
        if standing == told {
            return;
        }
        self.notices.extend(standing.iter().filter(|notice| !told.contains(notice)).cloned());
        if standing.is_empty() {
            self.told.remove(name);
        } else {
            let standing = standing.to_vec();
            self.told.insert(name.clone(), standing);
        }
    }

    /// Puts Services where they belong: among those that can be written, or those that wait.
    fn place(&mut self, names: &[ObjectName]) {
        let mut freed = Vec::new();
        for name in names {
            self.ready.remove(&(false, name.clone()));
            self.ready.remove(&(true, name.clone()));
            self.unblock(name);
            freed.extend(self.settle_leaving(name));
        }
        // Only now it is known which addresses are still to be left by whom.
        for name in names {
            self.classify(name);
        }
        for address in freed {
            for other in self.blocked_by.remove(&address).unwrap_or_default() {
                self.blocked.remove(&other);
                self.classify(&other);
            }
        }
    }

    fn unblock(&mut self, name: &ObjectName) {
        if let Some(address) = self.blocked.remove(name)
            && let Some(names) = self.blocked_by.get_mut(&address)
        {
            names.remove(name);
            if names.is_empty() {
                self.blocked_by.remove(&address);
            }
        }
    }

    /// Notes which addresses a Service may still have in the API and shall not. Returns those
    /// that it had been the last to leave.
    fn settle_leaving(&mut self, name: &ObjectName) -> Vec<IpAddr> {
        let mut leaving = Vec::new();
        let service = self.ledger.entries.get(name).map(|entry| &entry.service);
        if self.resting.get(name).is_some_and(|rest| Some(&rest.service) != service) {
            // What came of earlier writes is known.
            self.resting.remove(name);
        }
        if let Some(entry) = self.ledger.entries.get(name)
            && let Some(decision) = &entry.decision
        {
            let written = self.in_flight.written.get(name);
            leaving = match written {
                Some((_, assignment)) => assignment.addresses.clone(),
                None => entry.service.addresses(),
            };
            leaving.extend(self.in_flight.sent.get(name).iter().flat_map(|a| &a.addresses));
            leaving.extend(self.resting.get(name).iter().flat_map(|rest| &rest.doubtful));
            leaving.retain(|ip| !decision.addresses.contains(ip));
            leaving.sort();
            leaving.dedup();
        }
        let before = match leaving.is_empty() {
            true => self.leaving.remove(name),
            false => self.leaving.insert(name.clone(), leaving.clone()),
        };
        for address in &leaving {
            self.left_by.entry(*address).or_default().insert(name.clone());
        }
        let mut freed = Vec::new();
        for address in before.unwrap_or_default().into_iter().filter(|ip| !leaving.contains(ip)) {
            if let Some(names) = self.left_by.get_mut(&address) {
                names.remove(name);
                if names.is_empty() {
                    self.left_by.remove(&address);
                    freed.push(address);
                }
            }
        }
        freed
    }

    fn classify(&mut self, name: &ObjectName) {
        let Some(entry) = self.ledger.entries.get(name) else { return };
        if self.in_flight.sent.contains_key(name) {
            return;
        }
        let Some(assignment) = entry.assignment(&self.in_flight) else { return };
        // What has been written must be seen first: another write would be for an old version.
        let unseen = self.in_flight.written.contains_key(name);
        if unseen || self.resting.get(name).is_some_and(|rest| rest.until.is_some()) {
            return;
        }
        let has = entry.service.addresses();
        let mut taken = assignment.addresses.iter().filter(|ip| !has.contains(ip));
        let others = |ip: &&IpAddr| {
            self.left_by.get(*ip).is_some_and(|names| names.iter().any(|other| other != name))
        };
        if let Some(address) = taken.find(others) {
            self.blocked.insert(name.clone(), *address);
            self.blocked_by.entry(*address).or_default().insert(name.clone());
            return;
        }
        let only_takes = has.iter().all(|ip| assignment.addresses.contains(ip));
        self.ready.insert((only_takes, name.clone()));
    }
}

fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}
