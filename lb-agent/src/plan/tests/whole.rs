//! Whole plans: no history, agreement between nodes, cost.
use super::all_alive;
use crate::{
    membership::{Alive, AliveNode},
    plan::{Plan, PlanCache, PlanOptions, Rows, plan, plan_with},
    snapshot::{Endpoint, ExternalTrafficPolicy, L2Advertisement, Snapshot},
    testing::{cluster, endpoint, holder, name, slice},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Something that happens in a cluster. Each is about a place, and the last about a place stands.
#[derive(Clone, Debug)]
enum Event {
    Service { service: u8, vip: u8, there: bool, local: bool },
    Endpoint { service: u8, pod: u8, node: u8, state: Option<(bool, bool)> },
    Node { node: u8, there: bool },
    Alive { node: u8, alive: Option<bool> },
    Advertised { there: bool, interface: bool },
}

impl Event {
    /// What the event is about.
    fn place(&self) -> (u8, u8, u8) {
        match *self {
            Self::Service { service, .. } => (0, service, 0),
            Self::Endpoint { service, pod, .. } => (1, service, pod),
            Self::Node { node, .. } => (2, node, 0),
            Self::Alive { node, .. } => (3, node, 0),
            Self::Advertised { .. } => (4, 0, 0),
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop::option::weighted(0.8, (any::<bool>(), any::<bool>()));
    prop_oneof![
        1 => (0..3u8, 0..3u8, any::<bool>(), any::<bool>())
            .prop_map(|(service, vip, there, local)| Event::Service { service, vip, there, local }),
        4 => (0..3u8, 0..8u8, 1..7u8, state)
            .prop_map(|(service, pod, node, state)| Event::Endpoint { service, pod, node, state }),
        1 => (1..7u8, any::<bool>()).prop_map(|(node, there)| Event::Node { node, there }),
        1 => (1..7u8, prop::option::weighted(0.8, any::<bool>()))
            .prop_map(|(node, alive)| Event::Alive { node, alive }),
        1 => (prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(there, interface)| Event::Advertised { there, interface }),
    ]
}

/// What a node knows: everything it saw, in the order it saw it.
struct World {
    snapshot: Snapshot,
    alive: Alive,
    endpoints: BTreeMap<(u8, u8), Endpoint>,
}

impl World {
    fn new() -> Self {
        let snapshot = cluster(6);
        Self { alive: all_alive(&snapshot), snapshot, endpoints: BTreeMap::new() }
    }

    fn see(&mut self, event: &Event) {
        match *event {
            // Several may hold one address, and then want the same port of it.
            Event::Service { service, vip, there, local } => {
                let mut s = holder(&format!("s{service}"), "4", &[&format!("192.0.2.{vip}")]);
                if local {
                    s.external_traffic_policy = ExternalTrafficPolicy::Local;
                }
                s.wants_address = there;
                self.snapshot.services.insert(s.name.clone(), Arc::new(s));
            }
            Event::Endpoint { service, pod, node, state } => {
                match state {
                    None => self.endpoints.remove(&(service, pod)),
                    Some((ready, terminating)) => {
                        let address = format!("10.1.{service}.{pod}");
                        let e = endpoint(&address, &format!("n{node}"));
                        let e =
                            Endpoint { ready, serving: ready || pod % 2 == 0, terminating, ..e };
                        self.endpoints.insert((service, pod), e)
                    }
                };
                // Slices list endpoints in the order in which they came, if only to show
                // that it does not matter.
                let of = self.endpoints.range((service, 0)..=(service, 255));
                let mut list: Vec<_> = of.map(|(_, e)| e.clone()).collect();
                let by = usize::from(pod) % list.len().max(1);
                list.rotate_left(by);
                let slice = slice(&format!("s{service}"), list);
                self.snapshot.add_slice(Arc::new(slice));
            }
            Event::Node { node, there } => {
                let name = format!("n{node}");
                if there {
                    let all = cluster(6).nodes;
                    self.snapshot.nodes.insert(name.clone(), all[&name].clone());
                } else {
                    self.snapshot.nodes.remove(&name);
                }
            }
            Event::Alive { node, alive } => {
                let name = format!("n{node}");
                match alive {
                    Some(agent) => {
                        self.alive.insert(name, AliveNode { agent, ..AliveNode::new(["eth0"]) })
                    }
                    None => self.alive.remove(&name),
                };
            }
            Event::Advertised { there, interface } => {
                let all = &mut self.snapshot.l2_advertisements;
                if there {
                    let interfaces = interface.then(|| "eth0".to_owned()).into_iter().collect();
                    let spec = L2Advertisement { interfaces, ..Default::default() };
                    all.insert("all".to_owned(), spec);
                } else {
                    all.remove("all");
                }
            }
        }
    }
}

/// Everything of a plan that all nodes must agree on.
fn common(plan: &Plan) -> impl PartialEq + use<> {
    let rows = |rows: &Rows| rows.table().iter().map(|r| r.nodes).collect::<Vec<_>>();
    (
        plan.nodes.clone(),
        plan.vips.iter().map(|(ip, v)| (*ip, v.owner.clone())).collect::<Vec<_>>(),
        plan.services.iter().map(|(k, s)| (*k, s.kernel, rows(&s.rows))).collect::<Vec<_>>(),
        plan.notices.clone(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..Default::default() })]

    /// A veteran that saw every event, planning after each with the rows it remembers; a
    /// node that saw them in another order; and one that has just started and sees only
    /// how things stand: the same plan.
    #[test]
    fn there_is_no_history(
        (events, shuffled) in prop::collection::vec(event(), 1..60).prop_flat_map(|events| {
            // Only the last event about a place counts, in whichever order places come.
            let mut last = BTreeMap::new();
            for event in &events {
                last.insert(event.place(), event.clone());
            }
            let last: Vec<_> = last.into_values().collect();
            (Just(events), Just(last).prop_shuffle())
        })
    ) {
        let options = PlanOptions::default();
        let mut veteran = World::new();
        let mut cache = PlanCache::default();
        let mut latest = BTreeMap::new();
        for (i, event) in events.iter().enumerate() {
            veteran.see(event);
            for me in ["n1", "n4"] {
                if i % 7 == 0 || i + 1 == events.len() {
                    let plan = plan_with(&veteran.snapshot, me, &veteran.alive, &options, &mut cache);
                    latest.insert(me, plan);
                }
            }
        }
        let mut newcomer = World::new();
        for event in &shuffled {
            newcomer.see(event);
        }
        let mut all = Vec::new();
        for node in 1..=6 {
            let me = format!("n{node}");
            let fresh = plan(&newcomer.snapshot, &me, &newcomer.alive, &options);
            if let Some(remembered) = latest.get(me.as_str()) {
                prop_assert!(*remembered == fresh, "{} remembers more than it should", me);
            }
            all.push((me, fresh));
        }
        // All nodes agree, each VIP has at most one announcer, and rows lead to endpoints.
        for (me, plan) in &all {
            prop_assert!(common(plan) == common(&all[0].1), "{} and n1 differ", me);
            for vip in plan.vips.values() {
                prop_assert_eq!(vip.announce.is_some(), vip.owner.as_deref() == Some(me.as_str()));
            }
            for service in plan.services.values() {
                let mine = service.rows.nodes().iter().position(|name| **name == **me);
                let mine = mine.map(|position| position as u16);
                let of_row = service.endpoints.by_row();
                for (at, row) in service.rows.table().iter().enumerate() {
                    let endpoint = of_row(at);
                    prop_assert!(row.first() != mine || row.first().is_none() || endpoint.is_some());
                    prop_assert!(endpoint.is_none_or(|e| plan.local_endpoints.contains(&e)));
                }
            }
        }
    }
}

/// `services` with `endpoints` endpoints each, all different.
fn many(services: u32, endpoints: u32) -> Snapshot {
    let list = (0..services).map(|s| {
        let [_, _, a, b] = s.to_be_bytes();
        let of = format!("s{s:05}");
        let pods = (0..endpoints)
            .map(|e| endpoint(&format!("10.{a}.{b}.{e}"), &format!("n{}", (s + e) % 10 + 1)));
        (holder(&of, "4", &[&format!("198.18.{a}.{b}")]), slice(&of, pods.collect()))
    });
    let (services, slices): (Vec<_>, Vec<_>) = list.unzip();
    let mut snapshot = cluster(10).with_services(services).with_slices(slices);
    snapshot.pools.insert("wide".to_owned(), crate::testing::pool(&["198.18.0.0/15"]));
    snapshot
}

#[test]
fn unchanged_services_cost_nothing() {
    let mut snapshot = many(300, 3);
    let alive = all_alive(&snapshot);
    let options = PlanOptions::default();
    let mut cache = PlanCache::default();
    let start = Instant::now();
    let before = plan_with(&snapshot, "n1", &alive, &options, &mut cache);
    let first = start.elapsed();
    let mut slice = Arc::clone(&snapshot.slices_of(&name("s00000"))[0]);
    Arc::make_mut(&mut slice).endpoints[0].ready = false;
    snapshot.add_slice(slice);
    let start = Instant::now();
    let after = plan_with(&snapshot, "n1", &alive, &options, &mut cache);
    println!("300 Services of 3: first plan {first:?}, next {:?}", start.elapsed());
    let changed =
        before.services.iter().filter(|(k, s)| !Arc::ptr_eq(&s.rows, &after.services[*k].rows));
    assert_eq!(changed.count(), 1);
    assert_eq!(
        cache.rows.len(),
        301,
        "and the former rows of the one, which the former plan holds"
    );
    assert_eq!(after, plan(&snapshot, "n1", &alive, &options));
}

#[test]
fn services_of_the_same_pods_share_rows() {
    let pods = || vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    let list = (0..50).map(|s| holder(&format!("s{s}"), "4", &[&format!("192.0.2.{s}")]));
    let snapshot = cluster(2)
        .with_services(list)
        .with_slices((0..50).map(|s| slice(&format!("s{s}"), pods())));
    let plan = super::plan_all_alive(&snapshot, "n1");
    let first = &plan.services.values().next().unwrap().rows;
    assert_eq!(plan.services.len(), 50);
    assert!(plan.services.values().all(|s| Arc::ptr_eq(&s.rows, first)));
    assert!(plan.vips.values().any(|v| v.services.contains(&name("s7"))));
}
