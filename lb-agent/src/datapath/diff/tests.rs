//! Plans in any order against a model of the maps that checks, after every single write,
//! that no reader can be led astray.
use super::services::service_key;
mod windows;

use super::*;
use crate::{
    datapath::{
        address_from_bytes,
        neighbours::NextHops,
        ranges::{REST_NS, Range, UNIT},
        state::{Contents, endpoint_range, kernel_endpoints, kernel_rows, previous_range, range},
    },
    plan::{
        Interfaces, LocalEndpoints, PerRow, PlannedNode, PlannedRow, PlannedService, PlannedVip,
        Rows, ServiceAddress,
    },
    snapshot::Protocol,
    testing::next_hop,
};
use lb_common::maps::{
    NO_ENDPOINT, NO_NODE, NO_RANGE, Node, Row, SERVICE_CLIENT_IP, SERVICE_HERE, SERVICE_KERNEL,
    SERVICE_RANGES, THIS_NODE, VipKey,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

fn has(filter: &Filter, bit: u32) -> bool {
    filter[(bit >> 6) as usize] >> (bit & 63) & 1 != 0
}

/// The maps.
struct Model {
    contents: Contents,
    rows: Vec<Row>,
    row_endpoints: Vec<u32>,
    /// When each block of rows was last pointed to, and of endpoints by row.
    pointed_to: [Vec<Option<u64>>; 2],
    now: u64,
    /// Whether rows stayed in force against the last plan.
    was_full: bool,
}

impl ReadRows for Model {
    fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index as usize).copied()
    }

    fn row_endpoint(&self, index: u32) -> Option<u32> {
        self.row_endpoints.get(index as usize).copied()
    }
}

const EMPTY: Row = Row { nodes: [NO_NODE; 4] };

fn blocks(range: Range) -> std::ops::Range<usize> {
    (range.start / UNIT) as usize..((range.start + range.len) / UNIT) as usize
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => assert!(map.remove(&key).is_some(), "removed what was not there"),
    }
}

impl Model {
    fn new(rows: u32) -> Self {
        Self {
            contents: Contents::empty(rows, rows),
            rows: vec![EMPTY; rows as usize],
            row_endpoints: vec![NO_ENDPOINT; rows as usize],
            pointed_to: [(); 2].map(|()| vec![None; (rows / UNIT) as usize]),
            // An hour after the machine started.
            now: 3_600_000_000_000,
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
            Write::Rows(start, rows, nodes) => {
                self.write(Write::RowsForFragments(start, kernel_rows(&rows, &nodes)));
            }
            Write::RowsForFragments(start, rows) => {
                self.rested(0, Range { start, len: rows.len() as u32 });
                let start = start as usize;
                self.rows[start..start + rows.len()].copy_from_slice(&rows);
            }
            Write::RowEndpoints(start, table, endpoints) => {
                let endpoints = kernel_endpoints(&table, &endpoints);
                self.rested(1, Range { start, len: endpoints.len() as u32 });
                let start = start as usize;
                self.row_endpoints[start..start + endpoints.len()].copy_from_slice(&endpoints);
            }
            Write::FragmentRows(range) => c.fragment_rows = range,
            Write::SourceRange(entry, there) => {
                let changed = if there {
                    c.source_ranges.insert(entry)
                } else {
                    c.source_ranges.remove(&entry)
                };
                assert!(changed, "a prefix is written or removed twice");
            }
            Write::ClearStats(index) => {
                assert!(c.services.values().all(|s| s.stats != index), "cleared while in use");
            }
            Write::Service(k, v) => set(&mut c.services, k, v),
            Write::Vip(k, v) => set(&mut c.vips, k, v),
            Write::Announced(k, v) => set(&mut c.announced, k, v),
            Write::IngressFilter(i, v) => c.ingress_filter[i as usize] = v,
        }
        let (rows, endpoints) = self.ranges();
        for (which, range) in
            rows.into_iter().map(|r| (0, r)).chain(endpoints.into_iter().map(|r| (1, r)))
        {
            self.pointed_to[which][blocks(range)].fill(Some(self.now));
        }
    }

    /// All ranges that something points to, each once.
    fn ranges(&self) -> (BTreeSet<Range>, BTreeSet<Range>) {
        let services = || self.contents.services.values();
        let rows = services().filter_map(range).chain(services().filter_map(previous_range));
        let rows = rows.chain(self.contents.fragment_rows).collect();
        (rows, services().filter_map(endpoint_range).collect())
    }

    fn rested(&self, which: usize, range: Range) {
        for last in self.pointed_to[which][blocks(range)].iter().flatten() {
            assert!(self.now >= last + REST_NS, "{range:?} is written too soon");
        }
    }

    /// What must hold at every moment. `retained`: some rows stay against the plan.
    fn check(&self, retained: bool) {
        let c = &self.contents;
        let mut stats = BTreeSet::new();
        for service in c.services.values() {
            assert!(stats.insert(service.stats), "two Services count in one place");
            let single = (service.rows > 0).then_some(service.endpoint);
            single.into_iter().for_each(|endpoint| self.check_endpoint(endpoint, retained));
            if service.flags & SERVICE_RANGES != 0 && service.ranges != 0 {
                let id = service.ranges.to_be_bytes();
                assert!(c.source_ranges.iter().any(|(_, key)| key.ranges == id), "no such set");
            }
        }
        let (rows, endpoints) = self.ranges();
        for range in rows {
            for row in &self.rows[range.start as usize..(range.start + range.len) as usize] {
                for node in row.nodes {
                    assert!(
                        node == NO_NODE || node == THIS_NODE || c.nodes.contains_key(&node.into()),
                        "a row in {range:?} leads to no node"
                    );
                }
            }
        }
        for range in endpoints {
            let named =
                &self.row_endpoints[range.start as usize..(range.start + range.len) as usize];
            for endpoint in named.iter().collect::<BTreeSet<_>>() {
                self.check_endpoint(*endpoint, retained);
            }
        }
        for key in c.announced.keys() {
            assert!(c.vips.contains_key(&VipKey { vip: key.vip }), "announced, but no VIP");
        }
    }

    fn check_endpoint(&self, endpoint: u32, retained: bool) {
        if endpoint == NO_ENDPOINT || retained {
            return;
        }
        let endpoint = &self.contents.endpoints[&endpoint];
        let known = [6, 17].iter().any(|proto| {
            let bit = reply_bit(&endpoint.address, endpoint.port, *proto);
            has(&self.contents.egress_filter, bit)
        });
        assert!(known, "a reply would pass unseen");
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
        let mine = inputs.plan.nodes.iter().filter(|node| node.name == inputs.me);
        bits.extend(mine.flat_map(|n| &n.addresses).map(|a| vip_bit(&address_bytes(*a))));
        let set: usize = c.ingress_filter.iter().map(|word| word.count_ones() as usize).sum();
        let right = bits.iter().filter(|bit| has(&c.ingress_filter, **bit)).count();
        assert_eq!(set, right, "a bit without a VIP or a node");
        assert_eq!(right, bits.len(), "a VIP or a node without its bit");
        let plan = inputs.plan;
        assert_eq!(self.contents.services.len(), plan.services.len());
        for (address, planned) in &plan.services {
            let service = self.contents.services[&service_key(address)];
            assert_eq!(service.flags & SERVICE_KERNEL != 0, planned.kernel);
            assert_eq!(service.flags & SERVICE_CLIENT_IP != 0, planned.affinity_s.is_some());
            assert_eq!(service.flags & SERVICE_RANGES != 0, planned.source_ranges.is_some());
            assert_eq!(service.flags & SERVICE_HERE != 0, planned.here || planned.kernel);
            assert_eq!(service.affinity_s, planned.affinity_s.unwrap_or(0));
            let prefixes = planned.source_ranges.as_deref().map_or(0, BTreeSet::len);
            let id = service.ranges.to_be_bytes();
            let written = c.source_ranges.iter().filter(|(_, key)| key.ranges == id).count();
            assert_eq!(prefixes, written);
            let planned_rows = planned.rows.table();
            let names: Vec<&str> = planned.rows.nodes().iter().map(|name| &**name).collect();
            self.compare_rows(inputs, service.rows_start, &names, service.rows, &planned_rows);
            let of_row = planned.endpoints.by_row();
            let several = service.endpoints_start != NO_RANGE;
            assert_eq!(several, matches!(planned.endpoints, LocalEndpoints::PerRow(_)));
            for row in 0..service.rows as usize {
                let index = match service.endpoints_start {
                    NO_RANGE => service.endpoint,
                    start => self.row_endpoints[start as usize + row],
                };
                let endpoint = c.endpoints.get(&index).map(|e| (e.address, e.port));
                assert_eq!(endpoint, of_row(row).as_ref().map(endpoint_key));
            }
        }
        let fragments = c.fragment_rows.unwrap_or(Range { start: 0, len: 0 });
        let names: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
        self.compare_rows(inputs, fragments.start, &names, fragments.len, &plan.fragment_rows);
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

impl Model {
    fn compare_rows(
        &self,
        inputs: Inputs<'_>,
        start: u32,
        names: &[&str],
        len: u32,
        planned: &[PlannedRow],
    ) {
        assert_eq!(len as usize, planned.len());
        for (at, wanted) in (start as usize..).zip(planned) {
            for (node, wanted) in self.rows[at].nodes.into_iter().zip(wanted.nodes) {
                let name = names.get(usize::from(wanted));
                let wanted =
                    name.and_then(|name| inputs.plan.nodes.iter().find(|node| node.name == **name));
                match wanted {
                    None => assert_eq!(node, NO_NODE),
                    Some(wanted) if wanted.name == inputs.me => assert_eq!(node, THIS_NODE),
                    Some(wanted) => {
                        let address = self.contents.nodes[&node.into()].address;
                        assert!(wanted.addresses.contains(&address_from_bytes(address)));
                    }
                }
            }
        }
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

/// A plan of small numbers: which nodes and endpoints there are, and for each Service how many
/// blocks of rows it has, what they are made from, and what else there is to it.
#[derive(Clone, Debug)]
struct Spec {
    nodes: BTreeSet<u16>,
    endpoints: BTreeSet<u16>,
    services: BTreeMap<u16, (u32, u16, u8)>,
    announced: BTreeSet<u16>,
    resolved: BTreeSet<u16>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let few = || prop::collection::btree_set(1u16..9, 0..8);
    let services = prop::collection::btree_map(0u16..12, (0u32..4, 0u16..5, any::<u8>()), 0..8);
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

/// What an earlier plan made, as the planner's cache has it.
#[derive(Default)]
struct Made {
    fragments: Vec<Arc<Vec<PlannedRow>>>,
    rows: Vec<Arc<Rows>>,
    tables: Vec<Arc<PerRow>>,
}

fn shared<T: PartialEq>(made: &mut Vec<Arc<T>>, wanted: T) -> Arc<T> {
    if let Some(known) = made.iter().find(|known| ***known == wanted) {
        return Arc::clone(known);
    }
    made.push(Arc::new(wanted));
    Arc::clone(&made[made.len() - 1])
}

impl Spec {
    fn plan(&self) -> Plan {
        self.plan_with(&mut Made::default())
    }

    fn plan_with(&self, made: &mut Made) -> Plan {
        let mut plan = Plan::default();
        let node = |name: String, n| PlannedNode { name, addresses: vec![node_address(n)] };
        let others = self.nodes.iter().map(|n| node(format!("n{n}"), *n));
        plan.nodes = Arc::new([node("me".to_owned(), 100)].into_iter().chain(others).collect());
        plan.local_endpoints = self.endpoints.iter().map(|n| endpoint(*n)).collect();
        plan.fragment_rows =
            shared(&mut made.fragments, (0..UNIT as u16).map(|row| self.row(row)).collect());
        for (&n, &(blocks, seed, more)) in &self.services {
            let vip = IpAddr::from([192, 0, 2, (n / 2) as u8]);
            let rows = shared(&mut made.rows, self.rows(blocks, seed));
            assert_eq!(rows.len(), blocks * UNIT);
            let has = |bit: u8| more >> bit & 1 != 0;
            let local: Vec<_> = self.endpoints.iter().map(|n| endpoint(*n)).collect();
            let endpoints = match local[..] {
                _ if rows.is_empty() => LocalEndpoints::None,
                [] => LocalEndpoints::None,
                [first, ..] if has(0) => LocalEndpoints::One(first),
                _ => {
                    let table = PerRow { rows: rows.len(), endpoints: local.clone() };
                    LocalEndpoints::PerRow(shared(&mut made.tables, table))
                }
            };
            let ranges = [["10.0.0.0/8", "192.0.2.0/24"], ["10.0.0.0/8", "0.0.0.0/0"]];
            let ranges = ranges[usize::from(has(2))].iter().take(usize::from(more >> 4 & 3));
            let protocol = if has(7) { Protocol::Udp } else { Protocol::Tcp };
            plan.services.insert(
                ServiceAddress { vip, port: 80 + n, protocol },
                Arc::new(PlannedService {
                    service: ObjectName::new("default", format!("s{n}")),
                    kernel: has(6),
                    here: !local.is_empty(),
                    local: Box::default(),
                    affinity_s: (n % 4 == 1).then_some(n.into()),
                    source_ranges: has(3)
                        .then(|| Box::new(ranges.map(|r| r.parse().unwrap()).collect())),
                    rows,
                    endpoints,
                }),
            );
            let announce = self.announced.contains(&n).then_some(match n % 3 {
                0 => Interfaces::Named(["eth1".to_owned()].into()),
                _ => Interfaces::All,
            });
            let planned = PlannedVip { owner: None, announce, services: Box::default() };
            plan.vips.insert(vip, Arc::new(planned));
        }
        plan
    }

    fn row(&self, row: u16) -> PlannedRow {
        let node = row % (self.nodes.len() as u16 + 1);
        PlannedRow { nodes: [node, NO_NODE, NO_NODE, NO_NODE] }
    }

    /// Those of so many endpoints that take new flows, or that none takes any more.
    fn rows(&self, blocks: u32, seed: u16) -> Rows {
        let names: Vec<Arc<str>> = (["me".into()].into_iter())
            .chain(self.nodes.iter().map(|n| format!("n{n}").into()))
            .collect();
        let endpoint = |n: u16, takes_new| {
            let name = &names[usize::from(seed + n) % names.len()];
            (IpAddr::from([10, 9, seed as u8, n as u8]), Arc::clone(name), takes_new)
        };
        let takes_new = seed != 3;
        let more = (takes_new && blocks > 0 && seed > 1).then(|| endpoint(9, false));
        Rows::new((0..blocks as u16).map(|n| endpoint(n, takes_new)).chain(more))
    }

    fn reach(&self) -> Reach {
        let next_hops: NextHops =
            self.resolved.iter().map(|n| (node_address(*n), next_hop(2, *n as u8))).collect();
        Reach { next_hops, ..Reach::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Plans one after another, with an agent that is started anew now and then.
    #[test]
    fn no_reader_is_led_astray(
        specs in prop::collection::vec((spec(), any::<bool>(), prop_oneof![0u64..3, 50u64..70]), 1..10),
    ) {
        let mut model = Model::new(UNIT * 96);
        let mut state = restarted(&model);
        let mut cache = Made::default();
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
            let adopted = model.apply(&mut restarted(&model), inputs);
            prop_assert_eq!((adopted.writes, adopted.problems), (vec![], vec![]));
        }
        // And everything can be taken away again.
        let uplinks = uplinks();
        let (plan, reach) = (Plan::default(), Reach::default());
        let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
        model.apply(&mut state, inputs);
        let left = &model.contents;
        prop_assert!(left.services.is_empty() && left.vips.is_empty() && left.nodes.is_empty());
        prop_assert!(left.source_ranges.is_empty() && left.fragment_rows.is_none());
        prop_assert!(left.endpoints.is_empty() && left.node_macs.is_empty() && left.announced.is_empty());
        prop_assert!(left.ingress_filter.iter().chain(left.egress_filter.iter()).all(|word| *word == 0));
    }

    /// With too few rows for everything, what was in force stays, and what it points to.
    #[test]
    fn want_of_room_leaves_the_old_in_force(
        specs in prop::collection::vec(spec(), 2..10),
    ) {
        let mut model = Model::new(UNIT * 9);
        let mut state = restarted(&model);
        let mut cache = Made::default();
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

fn one_service(blocks: u32) -> Spec {
    Spec {
        nodes: [1, 2].into(),
        endpoints: [1].into(),
        services: [(1, (blocks, 0, 1))].into(),
        announced: [1].into(),
        resolved: [1].into(),
    }
}

#[test]
fn takeover_is_told_once_and_again_when_the_address_changes() {
    let mut model = Model::new(UNIT * 64);
    let mut state = restarted(&model);
    let spec = one_service(2);
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
    let mut model = Model::new(UNIT * 64);
    let mut state = restarted(&model);
    let spec = one_service(2);
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
    let mut model = Model::new(UNIT * 64);
    let mut state = restarted(&model);
    let mut spec = one_service(2);
    spec.services = [(1, (2, 0, 1)), (2, (2, 0, 65)), (3, (2, 1, 1))].into();
    let (plan, uplinks, reach) = (spec.plan(), uplinks(), spec.reach());
    let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
    model.apply(&mut state, inputs);
    let starts: Vec<_> = model.contents.services.values().map(|s| s.rows_start).collect();
    assert_eq!(starts.iter().collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(starts[0], starts[1]);
}

#[test]
fn overlapping_rows_of_an_earlier_agent_are_written_anew() {
    let mut model = Model::new(UNIT * 64);
    let mut state = restarted(&model);
    let mut spec = one_service(2);
    spec.services.insert(5, (3, 2, 1));
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
