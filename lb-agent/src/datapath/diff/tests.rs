//! Plans in any order against a model of the maps that checks, after every single write,
//! that no reader can be led astray.
use super::*;
use crate::{
    datapath::{
        address_from_bytes,
        neighbours::NextHops,
        ranges::REST_NS,
        state::{Contents, range},
    },
    plan::{PlannedNode, PlannedService, PlannedVip},
    snapshot::Protocol,
    testing::next_hop,
};
use lb_common::maps::{Node, THIS_NODE};
use proptest::prelude::*;

fn has(filter: &Filter, bit: u32) -> bool {
    filter[(bit >> 6) as usize] >> (bit & 63) & 1 != 0
}

/// The maps.
struct Model {
    contents: Contents,
    rows: Vec<Row>,
    /// When each row was last pointed to.
    pointed_to: Vec<Option<u64>>,
    now: u64,
    /// Whether rows stayed in force against the last plan.
    was_full: bool,
}

impl ReadRows for Model {
    fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index as usize).copied()
    }
}

const EMPTY: Row = Row { nodes: [NO_NODE; 4], endpoint: NO_ENDPOINT, first: 0, pad: [0; 3] };

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => assert!(map.remove(&key).is_some(), "removed what was not there"),
    }
}

impl Model {
    fn new(rows: u32) -> Self {
        Self {
            contents: Contents::empty(rows),
            rows: vec![EMPTY; rows as usize],
            pointed_to: vec![None; rows as usize],
            now: 0,
            was_full: false,
        }
    }

    fn write(&mut self, write: Write) {
        let c = &mut self.contents;
        match write {
            Write::Uplinks(uplinks) => c.uplinks = uplinks,
            Write::Endpoint(i, v) => {
                set(&mut c.endpoints, i, (v != Endpoint::default()).then_some(v));
            }
            Write::Node(i, v) => set(&mut c.nodes, i, (v != Node::default()).then_some(v)),
            Write::NodeMac(k, v) => set(&mut c.node_macs, k, v),
            Write::EgressFilter(i, v) => c.egress_filter[i as usize] = v,
            Write::Rows(start, rows) => {
                for (at, row) in (start as usize..).zip(rows) {
                    if let Some(last) = self.pointed_to[at] {
                        assert!(self.now >= last + REST_NS, "row {at} is written too soon");
                    }
                    self.rows[at] = row;
                }
            }
            Write::ClearStats(index) => {
                assert!(c.services.values().all(|s| s.stats != index), "cleared while in use");
            }
            Write::Service(k, v) => set(&mut c.services, k, v),
            Write::Vip(k, v) => set(&mut c.vips, k, v),
            Write::Announced(k, v) => set(&mut c.announced, k, v),
            Write::IngressFilter(i, v) => c.ingress_filter[i as usize] = v,
        }
        for range in self.contents.services.values().filter_map(range) {
            for at in range.start..range.start + range.len {
                self.pointed_to[at as usize] = Some(self.now);
            }
        }
    }

    /// What must hold at every moment. `retained`: some rows stay against the plan.
    fn check(&self, retained: bool) {
        let c = &self.contents;
        let mut stats = BTreeSet::new();
        for service in c.services.values() {
            assert!(stats.insert(service.stats), "two Services count in one place");
            for at in range(service).into_iter().flat_map(|r| r.start..r.start + r.len) {
                let row = self.rows[at as usize];
                for node in row.nodes {
                    assert!(
                        node == NO_NODE || node == THIS_NODE || c.nodes.contains_key(&node.into()),
                        "row {at} leads to no node"
                    );
                }
                if row.endpoint != NO_ENDPOINT && !retained {
                    let endpoint = &c.endpoints[&row.endpoint];
                    let known = [6, 17].iter().any(|proto| {
                        has(&c.egress_filter, reply_bit(&endpoint.address, endpoint.port, *proto))
                    });
                    assert!(known, "a reply would pass unseen");
                }
            }
        }
        for key in c.announced.keys() {
            assert!(c.vips.contains_key(&VipKey { vip: key.vip }), "announced, but no VIP");
        }
    }

    /// Applies and checks.
    fn apply(&mut self, state: &mut State, inputs: Inputs<'_>) -> Changes {
        let changes = changes(state, inputs, self, self.now);
        let full = !changes.problems.is_empty();
        for write in &changes.writes {
            self.write(write.clone());
            self.check(full || self.was_full);
        }
        self.was_full = full;
        changes
    }

    /// That the maps say what the plan says.
    fn compare(&self, inputs: Inputs<'_>) {
        // A bit too many costs a lookup only, so this need not hold between two writes.
        let c = &self.contents;
        let mut bits: BTreeSet<_> = c.vips.keys().map(|key| vip_bit(&key.vip)).collect();
        bits.extend(c.node_macs.keys().map(|key| mac_bit(&key.mac)));
        let set: usize = c.ingress_filter.iter().map(|word| word.count_ones() as usize).sum();
        let right = bits.iter().filter(|bit| has(&c.ingress_filter, **bit)).count();
        assert_eq!(set, right, "a bit without a VIP or a node");
        assert_eq!(right, bits.len(), "a VIP or a node without its bit");
        let plan = inputs.plan;
        assert_eq!(self.contents.services.len(), plan.services.len());
        for (address, planned) in &plan.services {
            let service = self.contents.services[&service_key(address)];
            assert_eq!(service.flags & SERVICE_KERNEL != 0, planned.kernel);
            assert_eq!(service.flags & SERVICE_CLIENT_IP != 0, planned.client_ip_affinity);
            assert_eq!(service.rows as usize, planned.rows.len());
            for (at, wanted) in (service.rows_start..).zip(planned.rows.iter()) {
                let row = self.rows[at as usize];
                assert_eq!(row.first, wanted.first);
                for (node, wanted) in row.nodes.into_iter().zip(wanted.nodes) {
                    let wanted = wanted.map(|position| &plan.nodes[usize::from(position)]);
                    match wanted {
                        None => assert_eq!(node, NO_NODE),
                        Some(wanted) if wanted.name == inputs.me => assert_eq!(node, THIS_NODE),
                        Some(wanted) => {
                            let address = self.contents.nodes[&node.into()].address;
                            assert!(wanted.addresses.contains(&address_from_bytes(address)));
                        }
                    }
                }
                match wanted.endpoint {
                    None => assert_eq!(row.endpoint, NO_ENDPOINT),
                    Some(wanted) => {
                        let endpoint = self.contents.endpoints[&row.endpoint];
                        assert_eq!((endpoint.address, endpoint.port), endpoint_key(&wanted));
                        assert_eq!(endpoint.flags, ENDPOINT_PRESENT);
                    }
                }
            }
        }
        let vips: Vec<_> =
            self.contents.vips.keys().map(|key| address_from_bytes(key.vip)).collect();
        let wanted: BTreeSet<_> = plan.vips.keys().copied().collect();
        assert_eq!(vips.into_iter().collect::<BTreeSet<_>>(), wanted);
        assert_eq!(
            self.contents.endpoints.len(),
            plan.local_endpoints.iter().map(endpoint_key).collect::<BTreeSet<_>>().len()
        );
    }
}

/// Puts a model's maps into another agent's hands.
fn restarted(model: &Model) -> State {
    State::adopt(model.contents.clone())
}

fn uplinks() -> Vec<Uplink> {
    [(2, "eth0"), (3, "eth1")].map(|(ifindex, name)| crate::testing::uplink(ifindex, name)).into()
}

fn node_address(n: u16) -> IpAddr {
    IpAddr::from([10, 0, 0, n as u8])
}

fn endpoint(n: u16) -> EndpointAddress {
    let protocol = if n.is_multiple_of(3) { Protocol::Udp } else { Protocol::Tcp };
    EndpointAddress { address: IpAddr::from([10, 244, 0, n as u8]), port: 8080, protocol }
}

/// A plan of small numbers: which nodes and endpoints there are, and for each Service the
/// logarithm of its number of rows and what its rows are made from.
#[derive(Clone, Debug)]
struct Spec {
    nodes: BTreeSet<u16>,
    endpoints: BTreeSet<u16>,
    services: BTreeMap<u16, (u32, u16, bool)>,
    announced: BTreeSet<u16>,
    resolved: BTreeSet<u16>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let few = || prop::collection::btree_set(1u16..9, 0..8);
    let services = prop::collection::btree_map(0u16..12, (0u32..5, 0u16..6, any::<bool>()), 0..10);
    (few(), few(), services, few(), few()).prop_map(
        |(nodes, endpoints, services, announced, resolved)| Spec {
            nodes,
            endpoints,
            services,
            announced,
            resolved,
        },
    )
}

impl Spec {
    fn plan(&self) -> Plan {
        self.plan_with(&mut Vec::new())
    }

    /// With equal rows that an earlier plan made, if there are any, as the planner does it.
    fn plan_with(&self, cache: &mut Vec<Arc<Vec<PlannedRow>>>) -> Plan {
        let mut plan = Plan::default();
        plan.nodes.push(PlannedNode { name: "me".into(), addresses: vec![node_address(100)] });
        for &n in &self.nodes {
            plan.nodes
                .push(PlannedNode { name: format!("n{n}"), addresses: vec![node_address(n)] });
        }
        plan.local_endpoints = self.endpoints.iter().map(|n| endpoint(*n)).collect();
        let mut shared: HashMap<(u32, u16), Arc<Vec<PlannedRow>>> = HashMap::new();
        for (&n, &(order, seed, kernel)) in &self.services {
            let vip = IpAddr::from([192, 0, 2, (n / 2) as u8]);
            let rows = shared.entry((order, seed)).or_insert_with(|| {
                // Order 0 stands for no rows at all.
                let len = if order == 0 { 0 } else { 1u16 << order };
                let rows: Vec<_> = (0..len).map(|row| self.row(seed * 7 + row)).collect();
                if let Some(known) = cache.iter().find(|known| ***known == rows) {
                    return Arc::clone(known);
                }
                cache.push(Arc::new(rows));
                Arc::clone(&cache[cache.len() - 1])
            });
            plan.services.insert(
                ServiceAddress { vip, port: 80 + n, protocol: Protocol::Tcp },
                PlannedService {
                    service: ObjectName::new("default", format!("s{n}")),
                    kernel,
                    client_ip_affinity: n % 2 == 1,
                    rows: Arc::clone(rows),
                },
            );
            let announce = self.announced.contains(&n).then_some(match n % 3 {
                0 => Interfaces::Named(["eth1".to_owned()].into()),
                _ => Interfaces::All,
            });
            plan.vips.insert(vip, PlannedVip { owner: None, announce, services: BTreeSet::new() });
        }
        plan
    }

    fn row(&self, seed: u16) -> PlannedRow {
        let count = self.nodes.len() as u16 + 1;
        let mut nodes = [None; 4];
        for (k, node) in nodes.iter_mut().enumerate().take(usize::from(count.min(4))) {
            *node = Some((seed + k as u16) % count);
        }
        let endpoints: Vec<_> = self.endpoints.iter().collect();
        PlannedRow {
            nodes,
            first: (seed % 2).min(count - 1) as u8,
            endpoint: (!endpoints.is_empty())
                .then(|| endpoint(*endpoints[usize::from(seed) % endpoints.len()])),
        }
    }

    fn reach(&self) -> Reach {
        let next_hops: NextHops =
            self.resolved.iter().map(|n| (node_address(*n), next_hop(2, *n as u8))).collect();
        Reach { next_hops, ..Reach::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Plans one after another, with an agent that is started anew now and then.
    #[test]
    fn no_reader_is_led_astray(
        specs in prop::collection::vec((spec(), any::<bool>(), 0u64..3), 1..12),
    ) {
        let mut model = Model::new(1024);
        let mut state = restarted(&model);
        let mut cache = Vec::new();
        for (spec, restart, seconds) in specs {
            model.now += seconds * REST_NS + REST_NS / 2;
            if restart {
                state = restarted(&model);
                // Which knows nothing of what is at rest: as after a second.
                model.now += REST_NS;
            }
            let plan = spec.plan_with(&mut cache);
            let (reach, uplinks) = (spec.reach(), uplinks());
            let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
            let changes = model.apply(&mut state, inputs);
            prop_assert_eq!(changes.problems, vec![]);
            model.compare(inputs);
            // Nothing is left to do, for this agent or for one that starts now, even if its
            // allocations of rows lie elsewhere in memory.
            let again = spec.plan();
            let inputs = Inputs { plan: &again, ..inputs };
            prop_assert_eq!(model.apply(&mut state, inputs).writes, vec![]);
            prop_assert_eq!(model.apply(&mut restarted(&model), inputs), Changes::default());
        }
        // And everything can be taken away again.
        let uplinks = uplinks();
        let (plan, reach) = (Plan::default(), Reach::default());
        let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
        model.apply(&mut state, inputs);
        let left = &model.contents;
        prop_assert!(left.services.is_empty() && left.vips.is_empty() && left.nodes.is_empty());
        prop_assert!(left.endpoints.is_empty() && left.node_macs.is_empty() && left.announced.is_empty());
        prop_assert!(left.ingress_filter.iter().chain(left.egress_filter.iter()).all(|word| *word == 0));
    }

    /// With too few rows for everything, what was in force stays, and what it points to.
    #[test]
    fn want_of_room_leaves_the_old_in_force(
        specs in prop::collection::vec(spec(), 2..10),
    ) {
        let mut model = Model::new(24);
        let mut state = restarted(&model);
        let mut cache = Vec::new();
        for spec in specs {
            model.now += REST_NS / 2;
            let plan = spec.plan_with(&mut cache);
            let (reach, uplinks) = (spec.reach(), uplinks());
            let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
            // Checks after each write.
            let changes = model.apply(&mut state, inputs);
            for problem in &changes.problems {
                prop_assert!(problem.to_string().contains("--row-capacity"), "{}", problem);
            }
            if changes.problems.is_empty() {
                model.compare(inputs);
            }
        }
    }
}

fn one_service(rows: u32) -> Spec {
    Spec {
        nodes: [1, 2].into(),
        endpoints: [1].into(),
        services: [(1, (rows.trailing_zeros(), 0, false))].into(),
        announced: [1].into(),
        resolved: [1].into(),
    }
}

#[test]
fn takeover_is_told_once_and_again_when_the_address_changes() {
    let mut model = Model::new(64);
    let mut state = restarted(&model);
    let spec = one_service(8);
    let (plan, reach, mut uplinks) = (spec.plan(), spec.reach(), uplinks());
    let mut apply = |uplinks: &[Uplink]| {
        let inputs = Inputs { plan: &plan, me: "me", uplinks, reach: &reach };
        let told = model.apply(&mut state, inputs).newly_announced;
        told.into_iter().map(|a| (a.vip.to_string(), a.interface, a.mac[5])).collect::<Vec<_>>()
    };
    let vip = || "192.0.2.0".to_owned();
    let both = [(vip(), "eth0".to_owned(), 2), (vip(), "eth1".to_owned(), 3)];
    assert_eq!(apply(&uplinks), both);
    assert_eq!(apply(&uplinks), []);
    uplinks[1].mac[5] = 99;
    assert_eq!(apply(&uplinks), [(vip(), "eth1".to_owned(), 99)]);
    uplinks.pop();
    assert_eq!(apply(&uplinks), []);
}

#[test]
fn a_node_whose_address_is_forgotten_keeps_its_last() {
    let mut model = Model::new(64);
    let mut state = restarted(&model);
    let spec = one_service(8);
    let (plan, uplinks) = (spec.plan(), uplinks());
    let resolved = spec.reach();
    let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &resolved };
    model.apply(&mut state, inputs);
    let before = model.contents.nodes.clone();
    assert_eq!(before.values().filter(|node| node.ifindex != 0).count(), 1);
    assert_eq!(model.contents.node_macs.len(), 1);
    let none = Reach::default();
    let changes = model.apply(&mut state, Inputs { reach: &none, ..inputs });
    assert_eq!(changes.writes, []);
    // But not by an interface that is no uplink any more.
    model.apply(&mut state, Inputs { reach: &none, uplinks: &uplinks[1..], ..inputs });
    assert!(model.contents.nodes.values().all(|node| node.ifindex == 0));
    assert!(model.contents.node_macs.is_empty());
}

#[test]
fn services_with_equal_placements_share_rows_and_unequal_ones_do_not() {
    let mut model = Model::new(64);
    let mut state = restarted(&model);
    let mut spec = one_service(8);
    spec.services = [(1, (3, 0, false)), (2, (3, 0, true)), (3, (3, 1, false))].into();
    let (plan, uplinks, reach) = (spec.plan(), uplinks(), spec.reach());
    let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
    model.apply(&mut state, inputs);
    let starts: Vec<_> = model.contents.services.values().map(|s| s.rows_start).collect();
    assert_eq!(starts.iter().collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(starts[0], starts[1]);
}

#[test]
fn overlapping_rows_of_an_earlier_agent_are_written_anew() {
    let mut model = Model::new(64);
    let mut state = restarted(&model);
    let mut spec = one_service(8);
    spec.services.insert(5, (4, 2, false));
    let (plan, uplinks, reach) = (spec.plan(), uplinks(), spec.reach());
    let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
    model.apply(&mut state, inputs);
    // As if by a fault: one points into the other's rows.
    let [first, second] = [0, 1].map(|n| *model.contents.services.keys().nth(n).unwrap());
    let start = model.contents.services[&first].rows_start;
    model.contents.services.get_mut(&second).unwrap().rows_start = start;
    model.now += 2 * REST_NS;
    let mut state = restarted(&model);
    model.apply(&mut state, inputs);
    model.compare(inputs);
}
