//! What stands in the maps, as the agent knows it: read once when it starts, and from
//! then on changed in step with what it writes.
use super::{
    ranges::{Range, Ranges},
    slots::Slots,
};
use crate::plan::PlannedRow;
use lb_common::{
    filter,
    maps::{
        Announced, AnnouncedKey, Endpoint, MAX_ENDPOINTS, MAX_NODES, MAX_SERVICES, MacKey,
        MacOwner, Node, Row, Service, ServiceKey, Uplink, Vip, VipKey,
    },
};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The words of a filter.
pub type Filter = Box<[u64; filter::WORDS as usize]>;

/// An empty filter.
pub fn empty_filter() -> Filter {
    Box::new([0; filter::WORDS as usize])
}

/// One change of one map. A list of them is carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The uplinks in `SETTINGS`.
    Uplinks(Vec<Uplink>),
    /// An element of `ENDPOINTS`.
    Endpoint(u32, Endpoint),
    /// An element of `NODES`.
    Node(u32, Node),
    /// An entry of `NODE_MACS`; none removes it.
    NodeMac(MacKey, Option<MacOwner>),
    /// A word of `EGRESS_FILTER`.
    EgressFilter(u32, u64),
    /// Rows of `ROWS` that nothing points to yet.
    Rows(u32, Vec<Row>),
    /// An element of `SERVICE_STATS` back to zero.
    ClearStats(u32),
    /// An entry of `SERVICES`; none removes it.
    Service(ServiceKey, Option<Service>),
    /// An entry of `VIPS`; none removes it.
    Vip(VipKey, Option<Vip>),
    /// An entry of `ANNOUNCED`; none removes it.
    Announced(AnnouncedKey, Option<Announced>),
    /// A word of `INGRESS_FILTER`.
    IngressFilter(u32, u64),
}

/// Reads `ROWS`.
pub trait ReadRows {
    /// A row, if the index is inside.
    fn row(&self, index: u32) -> Option<Row>;
}

impl ReadRows for crate::system::MappedRows {
    fn row(&self, index: u32) -> Option<Row> {
        self.get(index)
    }
}

/// All maps' contents but flows, rows and counters. Array elements that are all zeros are left out.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Capacity of `ROWS`.
    pub row_capacity: u32,
    /// The uplinks in `SETTINGS`, without the empty rest.
    pub uplinks: Vec<Uplink>,
    /// `VIPS`
    pub vips: BTreeMap<VipKey, Vip>,
    /// `ANNOUNCED`
    pub announced: BTreeMap<AnnouncedKey, Announced>,
    /// `SERVICES`
    pub services: BTreeMap<ServiceKey, Service>,
    /// `NODES`
    pub nodes: BTreeMap<u32, Node>,
    /// `NODE_MACS`
    pub node_macs: BTreeMap<MacKey, MacOwner>,
    /// `ENDPOINTS`
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// `INGRESS_FILTER`
    pub ingress_filter: Filter,
    /// `EGRESS_FILTER`
    pub egress_filter: Filter,
}

impl Contents {
    /// Of maps that were just made.
    pub fn empty(row_capacity: u32) -> Self {
        Self {
            row_capacity,
            uplinks: Vec::new(),
            vips: BTreeMap::new(),
            announced: BTreeMap::new(),
            services: BTreeMap::new(),
            nodes: BTreeMap::new(),
            node_macs: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            ingress_filter: empty_filter(),
            egress_filter: empty_filter(),
        }
    }
}

/// An endpoint as `ENDPOINTS` tells them apart: address and port.
pub(crate) type EndpointKey = ([u8; 16], [u8; 2]);

/// Who owns an element of `NODES`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeOwner {
    /// A node of the plan.
    Named(String),
    /// Found when the agent started, by an address; not yet matched with a name.
    Found([u8; 16], u32),
}

/// What stands in the maps, and who owns which of their elements.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) contents: Contents,
    pub(crate) ranges: Ranges,
    pub(crate) node_slots: Slots<NodeOwner>,
    pub(crate) endpoint_slots: Slots<EndpointKey>,
    pub(crate) stats_slots: Slots<ServiceKey>,
    pub(crate) placed: Placed,
}

/// Which allocation of planned rows stands in which range, so that rows that have not
/// changed need not be looked at one by one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placed {
    /// Holds each allocation, so that no other can have its address.
    rows: BTreeMap<Range, Arc<Vec<PlannedRow>>>,
    /// The indices of nodes that they were translated with.
    nodes: Vec<u16>,
}

impl Placed {
    /// Forgets everything if nodes have other indices than before.
    pub(crate) fn translate_with(&mut self, nodes: &[u16]) {
        if self.nodes != nodes {
            self.nodes = nodes.to_vec();
            self.rows.clear();
        }
    }

    /// An endpoint's index may become another's: forgets everything.
    pub(crate) fn forget(&mut self) {
        self.rows.clear();
    }

    /// Whether these rows stand in that range.
    pub(crate) fn is(&self, range: Range, rows: &Arc<Vec<PlannedRow>>) -> bool {
        self.rows.get(&range).is_some_and(|placed| Arc::ptr_eq(placed, rows))
    }

    /// Notes that they do.
    pub(crate) fn note(&mut self, range: Range, rows: &Arc<Vec<PlannedRow>>) {
        self.rows.insert(range, Arc::clone(rows));
    }

    /// Forgets all ranges but these.
    pub(crate) fn retain(&mut self, used: &BTreeSet<Range>) {
        self.rows.retain(|range, _| used.contains(range));
    }
}

impl State {
    /// Takes over what an earlier agent left, and works out who owns what. What makes no
    /// sense (two Services with overlapping rows, say) will be written anew.
    pub fn adopt(mut contents: Contents) -> Self {
        let mut ranges = Ranges::new(contents.row_capacity);
        let mut stats_slots = Slots::new(0, MAX_SERVICES);
        let mut adopted = BTreeSet::new();
        for (key, service) in &mut contents.services {
            let range = range(service);
            let sound = range.is_none_or(|range| {
                adopted.contains(&range) || (ranges.reserve(range) && adopted.insert(range))
            });
            let counts = stats_slots.adopt(*key, service.stats);
            if !(sound && counts) {
                // Like no Service that is ever wanted, so that it is written or removed.
                *service = Service { rows_start: u32::MAX, rows: 0, flags: u32::MAX, ..*service };
            }
        }
        let mut node_slots = Slots::new(1, MAX_NODES);
        for (&index, node) in &contents.nodes {
            // Index 0 is refused: it is not ours to give out.
            let _: bool = node_slots.adopt(NodeOwner::Found(node.address, index), index);
        }
        let mut endpoint_slots = Slots::new(0, MAX_ENDPOINTS);
        for (&index, endpoint) in &contents.endpoints {
            // A second element for the same endpoint is refused, and cleared with the next change.
            let _: bool = endpoint_slots.adopt((endpoint.address, endpoint.port), index);
        }
        Self {
            contents,
            ranges,
            node_slots,
            endpoint_slots,
            stats_slots,
            placed: Placed::default(),
        }
    }

    /// What stands in the maps.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }
}

/// The rows of a Service, if it has any.
pub(crate) fn range(service: &Service) -> Option<Range> {
    (service.rows != 0).then_some(Range { start: service.rows_start, len: service.rows })
}

/// Notes a value and writes it, unless it stands there already.
pub(crate) fn upsert<K: Ord + Copy, V: PartialEq + Copy>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    writes: &mut Vec<Write>,
    write: impl FnOnce(K, V) -> Write,
) -> bool {
    let changed = map.get(&key) != Some(&value);
    if changed {
        map.insert(key, value);
        writes.push(write(key, value));
    }
    changed
}

/// Removes what is not wanted.
pub(crate) fn prune<K: Ord + Copy, V, W>(
    map: &mut BTreeMap<K, V>,
    wanted: &BTreeMap<K, W>,
    writes: &mut Vec<Write>,
    write: impl Fn(K) -> Write,
) {
    map.retain(|key, _| {
        let keep = wanted.contains_key(key.borrow());
        if !keep {
            writes.push(write(*key));
        }
        keep
    });
}

/// Writes the words of a filter that differ.
pub(crate) fn write_filter(
    filter: &mut Filter,
    wanted: &Filter,
    writes: &mut Vec<Write>,
    write: impl Fn(u32, u64) -> Write,
) {
    for (position, (word, wanted)) in filter.iter_mut().zip(wanted.iter()).enumerate() {
        if word != wanted {
            *word = *wanted;
            writes.push(write(position as u32, *wanted));
        }
    }
}
