//! Random histories: pools, Services and annotations change, others write into the status, writes
//! fail or get lost, allocators come and go. What comes of it is held against [`super::model`].
use super::model;
use crate::{
    ipam::{Allocator, Assignment, Outcome, pools::ALLOCATED_FROM},
    snapshot::{
        ExternalTrafficPolicy, Ingress, IpAddressPool, IpFamilyPolicy, LabelSelector, ObjectName,
        Protocol, Service, ServiceAllocation, ServicePort, Snapshot,
    },
    testing::{ip, labels, name},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Pool(u8, Option<Box<IpAddressPool>>),
    Service(u8, Option<Box<Service>>),
    /// Only these annotations change.
    Annotations(u8, Vec<(&'static str, Option<String>)>),
    /// Whether a namespace has a label.
    Namespace(u8, bool),
    /// Somebody else writes into the status.
    Status(u8, Vec<String>),
    /// The allocator sees how things are.
    Show,
    /// It sends what it can.
    Send,
    /// A write reaches the API, or not; the allocator hears of it, or that it has failed.
    Arrive(prop::sample::Index, bool, bool),
    /// Seconds pass.
    Pass(u16),
    /// Another becomes the allocator. Of the writes of the one before, those arrive that are named.
    Leader(u16),
    /// Everything comes to rest.
    Settle,
}

fn any_pool() -> impl Strategy<Value = IpAddressPool> {
    let entry = prop_oneof![
        6 => (0..12u8, 0..5u8).prop_map(|(a, n)| format!("192.0.2.{a}-192.0.2.{}", a + n)),
        4 => (0..12u8, 0..5u8).prop_map(|(a, n)| format!("2001:db8::{a:x}-2001:db8::{:x}", a + n)),
        1 => (252..=255u8).prop_map(|a| format!("192.0.2.{a}/31")),
        1 => Just("nonsense".to_owned()),
    ];
    let gold = LabelSelector { match_labels: labels(&[("tier", "gold")]), ..Default::default() };
    let red = LabelSelector { match_labels: labels(&[("team", "red")]), ..Default::default() };
    let rule = (0..4i32, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(priority, by_name, by_label, by_service)| ServiceAllocation {
            priority,
            namespaces: by_name.then(|| "n0".to_owned()).into_iter().collect(),
            namespace_selectors: by_label.then(|| red.clone()).into_iter().collect(),
            service_selectors: by_service.then(|| gold.clone()).into_iter().collect(),
        },
    );
    let rule = prop::option::weighted(0.3, rule);
    let entries = prop::collection::vec(entry, 1..4);
    (entries, prop::bool::weighted(0.8), prop::bool::weighted(0.2), rule).prop_map(
        |(addresses, auto_assign, avoid_buggy_ips, service_allocation)| IpAddressPool {
            created: 0,
            refused: false,
            labels: Default::default(),
            addresses,
            auto_assign,
            avoid_buggy_ips,
            service_allocation,
        },
    )
}

fn any_address() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0..16u8).prop_map(|a| format!("192.0.2.{a}")),
        4 => (0..16u8).prop_map(|a| format!("2001:db8::{a:x}")),
        1 => Just("nonsense".to_owned()),
    ]
}

fn any_annotations() -> impl Strategy<Value = Vec<(&'static str, Option<String>)>> {
    let addresses = prop_oneof![
        any_address(),
        (0..16u8, 0..16u8).prop_map(|(a, b)| format!("192.0.2.{a}, 2001:db8::{b:x}")),
    ];
    let prefix = prop::sample::select(vec![false, false, true]);
    prop_oneof![
        prop::option::of(prop::sample::select(vec!["p0", "p1", "p2", "p9"]))
            .prop_map(|p| vec![("metallb.io/address-pool", p.map(str::to_owned))]),
        (prop::option::of(addresses), prefix).prop_map(|(list, old)| match old {
            true => vec![("metallb.universe.tf/loadBalancerIPs", list)],
            false => vec![("metallb.io/loadBalancerIPs", list)],
        }),
        prop::option::weighted(0.8, prop::sample::select(vec!["k", "l", ""]))
            .prop_map(|key| vec![("metallb.io/allow-shared-ip", key.map(str::to_owned))]),
    ]
}

fn any_service() -> impl Strategy<Value = Service> {
    let families = prop::sample::select(vec!["4", "4", "6", "46", "46", ""]);
    let policy = prop::sample::select(vec![
        IpFamilyPolicy::SingleStack,
        IpFamilyPolicy::PreferDualStack,
        IpFamilyPolicy::RequireDualStack,
    ]);
    let ports = prop::collection::btree_set((0..2u8, 80..83u16), 0..3);
    let by_field = prop::option::weighted(0.1, any_address());
    let kind = (prop::bool::weighted(0.85), any::<bool>(), any::<bool>(), 0..2u8, any::<bool>());
    let annotations = prop::collection::vec(any_annotations(), 0..3);
    (families, policy, ports, by_field, kind, annotations).prop_map(
        |(families, policy, ports, by_field, kind, annotations)| {
            let (wants_address, local, gold, app, ipv6_first) = kind;
            let cluster = |f| if f == '4' { ip("10.96.0.1") } else { ip("fd00:96::1") };
            let policy_local = [ExternalTrafficPolicy::Cluster, ExternalTrafficPolicy::Local];
            let port = |(udp, port): (u8, u16)| ServicePort {
                port,
                protocol: [Protocol::Tcp, Protocol::Udp][usize::from(udp)],
                ..Default::default()
            };
            let changes = annotations.into_iter().flatten();
            Service {
                wants_address,
                cluster_ips: families.chars().map(cluster).collect(),
                ip_family_policy: policy,
                ipv6_first,
                ports: ports.into_iter().map(port).collect(),
                load_balancer_ip: by_field,
                external_traffic_policy: policy_local[usize::from(local)],
                selector: labels(&[("app", ["x", "y"][usize::from(app)])]),
                labels: if gold { labels(&[("tier", "gold")]) } else { labels(&[]) },
                annotations: changes.filter_map(|(k, v)| Some((k.to_owned(), v?))).collect(),
                ..Default::default()
            }
        },
    )
}

const SERVICES: u8 = 9;

fn any_step() -> impl Strategy<Value = Step> {
    let pool = prop::option::weighted(0.85, any_pool().prop_map(Box::new));
    let of = prop::option::weighted(0.8, any_service().prop_map(Box::new));
    let status = prop::collection::vec(any_address(), 0..3);
    prop_oneof![
        3 => (0..3u8, pool).prop_map(|(i, p)| Step::Pool(i, p)),
        8 => (0..SERVICES, of).prop_map(|(i, s)| Step::Service(i, s)),
        5 => (0..SERVICES, any_annotations()).prop_map(|(i, a)| Step::Annotations(i, a)),
        1 => (0..2u8, any::<bool>()).prop_map(|(i, on)| Step::Namespace(i, on)),
        1 => (0..SERVICES, status).prop_map(|(i, s)| Step::Status(i, s)),
        6 => Just(Step::Show),
        6 => Just(Step::Send),
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.85), prop::bool::weighted(0.85))
            .prop_map(|(i, reaches, heard)| Step::Arrive(i, reaches, heard)),
        1 => (0..120u16).prop_map(Step::Pass),
        1 => any::<u16>().prop_map(Step::Leader),
        3 => Just(Step::Settle),
    ]
}

/// What was true when everything was at rest.
struct Rest {
    /// The objects then.
    api: Snapshot,
    /// Since then only Services have changed, and these.
    changed: Option<BTreeSet<ObjectName>>,
}

struct World {
    api: Snapshot,
    version: u64,
    now: Instant,
    allocator: Allocator,
    /// Warnings that this allocator has told.
    told: BTreeSet<ObjectName>,
    sent: Vec<Assignment>,
    /// Services that users have changed since the allocator last decided with nothing under way.
    meddled: BTreeSet<ObjectName>,
    rest: Option<Rest>,
    /// Steps since everything was at rest.
    steps: usize,
}

fn of(service: u8) -> ObjectName {
    name(&format!("n{}/s{service}", service % 2))
}

impl World {
    fn new() -> Self {
        Self {
            api: Snapshot::default(),
            version: 1,
            now: Instant::now(),
            allocator: Allocator::default(),
            told: BTreeSet::new(),
            sent: Vec::new(),
            meddled: BTreeSet::new(),
            rest: None,
            steps: 0,
        }
    }

    fn touch(&mut self, service: &ObjectName, change: impl FnOnce(&mut Service)) {
        self.version += 1;
        let Some(found) = self.api.services.get_mut(service) else { return };
        let found = Arc::make_mut(found);
        change(found);
        found.resource_version = self.version.to_string();
        self.meddled.insert(service.clone());
        if let Some(changed) = self.rest.as_mut().and_then(|rest| rest.changed.as_mut()) {
            changed.insert(service.clone());
        }
    }

    /// At no moment does a write give away what another Service has in the API, unless users
    /// have changed that behind the allocator's back.
    fn gives_nothing_away(&self, assignment: &Assignment) {
        let service = &self.api.services[&assignment.service];
        let has = service.addresses();
        for ip in assignment.addresses.iter().filter(|ip| !has.contains(ip)) {
            let others = self.api.services.values().filter(|other| other.name != service.name);
            for other in others.filter(|other| other.addresses().contains(ip)) {
                let meddled = [service, other].iter().any(|s| self.meddled.contains(&s.name));
                assert!(
                    meddled || model::may_share(service, other),
                    "{ip} is given to {} while {} has it",
                    service.name,
                    other.name
                );
            }
        }
    }

    fn pools_changed(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.changed = None;
        }
    }

    fn step(&mut self, step: Step) {
        self.steps += 1;
        match step {
            Step::Pool(i, pool) => {
                let name = format!("p{i}");
                match pool {
                    Some(pool) => self.api.pools.insert(name, *pool),
                    None => self.api.pools.remove(&name),
                };
                self.pools_changed();
            }
            Step::Namespace(i, red) => {
                let labels = if red { labels(&[("team", "red")]) } else { labels(&[]) };
                self.api.namespaces.insert(format!("n{i}"), labels);
                self.pools_changed();
            }
            Step::Service(i, None) => {
                self.api.services.remove(&of(i));
            }
            Step::Service(i, Some(new)) => {
                let service = of(i);
                self.api.services.entry(service.clone()).or_insert_with(|| {
                    Arc::new(Service { name: service.clone(), ..Default::default() })
                });
                self.touch(&service, |old| {
                    let recorded = old.annotations.remove(ALLOCATED_FROM);
                    let ingress = std::mem::take(&mut old.ingress);
                    *old = Service { name: old.name.clone(), ..*new };
                    old.annotations.extend(recorded.map(|p| (ALLOCATED_FROM.to_owned(), p)));
                    if old.wants_address {
                        // The API server empties the status of what is no load balancer.
                        old.ingress = ingress;
                    }
                });
            }
            Step::Annotations(i, changes) => self.touch(&of(i), |service| {
                for (key, value) in changes {
                    match value {
                        Some(value) => service.annotations.insert(key.to_owned(), value),
                        None => service.annotations.remove(key),
                    };
                }
            }),
            Step::Status(i, ips) => self.touch(&of(i), |service| {
                service.ingress =
                    ips.into_iter().map(|ip| Ingress { ip: Some(ip), hostname: None }).collect();
            }),
            Step::Show => self.show(),
            Step::Send => self.send(),
            Step::Arrive(_, _, _) if self.sent.is_empty() => {}
            Step::Arrive(i, reaches, heard) => {
                let assignment = self.sent.remove(i.index(self.sent.len()));
                let outcome = if reaches { self.arrive(&assignment) } else { Outcome::Failed };
                let outcome = if heard { outcome } else { Outcome::Failed };
                self.allocator.ended(self.now, assignment, outcome);
            }
            Step::Pass(seconds) => self.pass(seconds.into()),
            Step::Leader(which) => {
                for (i, assignment) in std::mem::take(&mut self.sent).into_iter().enumerate() {
                    if which & 1 << i != 0 {
                        self.arrive(&assignment);
                    }
                }
                self.allocator = Allocator::default();
                self.told.clear();
                self.show();
            }
            Step::Settle => self.settle(),
        }
    }

    fn show(&mut self) {
        if self.sent.is_empty() {
            self.meddled.clear();
        }
        self.allocator.update(self.now, &Arc::new(self.api.clone()));
        self.listen();
    }

    fn listen(&mut self) {
        let notices = self.allocator.take_notices();
        self.told.extend(notices.into_iter().filter(|n| n.warning).map(|n| n.object));
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.allocator.tick(self.now);
        self.listen();
    }

    fn send(&mut self) {
        while let Some(assignment) = self.allocator.next_write(self.now) {
            let again = self.sent.iter().any(|a| a.service == assignment.service);
            assert!(!again, "two writes of one Service at once");
            self.sent.push(assignment);
        }
    }

    /// The API takes a write, if it is for the Service as it is.
    fn arrive(&mut self, assignment: &Assignment) -> Outcome {
        let current = self.api.services.get(&assignment.service);
        if current.is_none_or(|s| s.resource_version != assignment.resource_version) {
            return Outcome::Changed;
        }
        self.gives_nothing_away(assignment);
        let (changed, meddled) =
            (self.rest.as_ref().and_then(|rest| rest.changed.clone()), self.meddled.clone());
        super::write(&mut self.api, std::slice::from_ref(assignment));
        self.touch(&assignment.service, |_| {});
        // The allocator's own writes are no cause.
        self.meddled = meddled;
        if let Some(rest) = &mut self.rest {
            rest.changed = changed;
        }
        Outcome::Written
    }

    fn have(&self) -> model::Expected {
        let sorted = |s: &Arc<Service>| {
            let mut ips = s.addresses();
            ips.sort();
            ips
        };
        self.api.services.iter().map(|(name, s)| (name.clone(), sorted(s))).collect()
    }

    fn settle(&mut self) {
        // From rest, or with a new allocator, what comes is known exactly.
        let expected =
            (self.steps <= 2 && self.sent.is_empty()).then(|| model::expected(&self.api));
        for round in 0.. {
            assert!(round < 500, "it never comes to rest");
            self.show();
            self.send();
            if self.sent.is_empty() {
                match self.allocator.next_deadline() {
                    Some(at) if round < 400 && at - self.now < Duration::from_secs(60) => {
                        self.pass((at - self.now).as_secs() + 1);
                        continue;
                    }
                    _ => break,
                }
            }
            for assignment in std::mem::take(&mut self.sent) {
                let outcome = self.arrive(&assignment);
                self.allocator.ended(self.now, assignment, outcome);
            }
        }
        let have = self.have();
        if let Some(expected) = expected {
            for (name, ips) in expected {
                assert_eq!(have[&name], ips, "{name} has what it should not");
            }
        }
        self.check(&have);
        let changed = Some(BTreeSet::new());
        self.rest = Some(Rest { api: self.api.clone(), changed });
        self.steps = 0;
    }

    fn check(&self, have: &model::Expected) {
        // Nothing is left to do: another allocator would change nothing.
        for (name, ips) in model::expected(&self.api) {
            assert_eq!(have[&name], ips, "{name} is not settled");
        }
        // No address twice, unless sharing allows it.
        let mut tenants = BTreeMap::<IpAddr, Vec<&Service>>::new();
        for service in self.api.services.values().filter(|s| s.wants_address) {
            for ip in service.addresses() {
                tenants.entry(ip).or_default().push(service);
            }
        }
        for (ip, sharers) in &tenants {
            for (i, a) in sharers.iter().enumerate() {
                for b in &sharers[i + 1..] {
                    let key = |s: &Service| s.annotation("allow-shared-ip").map(str::to_owned);
                    assert!(key(a).is_some_and(|k| !k.is_empty()), "{ip} is given twice");
                    assert_eq!(key(a), key(b), "{ip} is given twice");
                    assert!(!a.ports.iter().any(|p| b.ports.contains(p)), "{ip} has a port twice");
                }
            }
        }
        for (name, service) in &self.api.services {
            let ips = &have[name];
            let lacks = service.wants_address && ips.is_empty() && !service.cluster_ips.is_empty();
            assert!(!lacks || self.told.contains(name), "{name} does not know why it has nothing");
            // The annotation says where it is from, and is not there otherwise. Of a pool that
            // cannot be used it stays as it is.
            let recorded = service.annotations.get(ALLOCATED_FROM);
            match ips.first().map(|ip| model::pool_of(&self.api, *ip)) {
                None => assert_eq!(recorded, None, "{name}"),
                Some(Some(pool)) if service.wants_address => {
                    assert_eq!(recorded, Some(&*pool), "{name}");
                }
                Some(_) => {}
            }
            // Nothing moves without cause.
            let before = self.rest.as_ref().filter(|rest| {
                rest.changed.as_ref().is_some_and(|changed| !changed.contains(name))
            });
            if let Some(before) = before.and_then(|rest| rest.api.services.get(name)) {
                let kept = before.addresses().iter().all(|ip| ips.contains(ip));
                assert!(kept, "{name} has lost an address, and nothing about it has changed");
            }
        }
        let usage = self.allocator.usage();
        for ((pool, six), counts) in model::usage(&self.api, have) {
            let of = usage[&pool];
            let told = match six {
                false => (of.assigned_v4, of.available_v4),
                true => (of.assigned_v6, of.available_v6),
            };
            assert_eq!(told, counts, "{pool}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
    ))]

    #[test]
    fn a_history_ends_where_the_model_says(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
