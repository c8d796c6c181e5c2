//! What stands in the maps, as the agent knows it: read once when it starts, and from
//! then on changed in step with what it writes.
use super::{
    ranges::{Exhausted, Range, Ranges},
    slots::{Indices, Slots},
    uplinks,
};
use crate::plan::{
    EndpointAddress, PerRow, PlannedRow, PlannedService, PlannedVip, Rows, ServiceAddress,
};
use imbl::{OrdMap, OrdSet};
use lb_common::{
    filter,
    maps::{
        Announced, AnnouncedKey, Endpoint, MAX_ENDPOINTS, MAX_NODES, MAX_SERVICES,
        MAX_SOURCE_RANGES, MacKey, MacOwner, NO_ENDPOINT, NO_NODE, NO_RANGE, Node, RangeKey, Row,
        SERVICE_TAKEN_OVER, Service, ServiceKey, Uplink, Vip, VipKey,
    },
};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
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
    /// Rows of `ROWS` that nothing points to yet: a Service's, to be computed as they are written,
    /// so that those of many need not be held at once; and the indices of the nodes that they name.
    Rows(u32, Arc<Rows>, Box<[u16]>),
    /// The same of the rows for fragments.
    RowsForFragments(u32, Vec<Row>),
    /// Elements of `ROW_ENDPOINTS` that nothing points to yet, and the indices of endpoints by
    /// position.
    RowEndpoints(u32, Arc<PerRow>, Box<[u32]>),
    /// Where the rows for fragments stand, in `SETTINGS`; none serves no fragments.
    FragmentRows(Option<Range>),
    /// An entry of `SOURCE_RANGES`; false removes it.
    SourceRange(SourceRange, bool),
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

/// An entry of `SOURCE_RANGES`: the length of the prefix in bits (the set's number
/// included), and which set and prefix it is.
pub type SourceRange = (u32, RangeKey);

/// A planned row as it stands in `ROWS`, given the indices of the nodes that it names.
pub(crate) fn kernel_row(row: &PlannedRow, nodes: &[u16]) -> Row {
    // NO_NODE is no position, and stays what it is.
    let index = |node: u16| nodes.get(usize::from(node)).copied().unwrap_or(NO_NODE);
    Row { nodes: row.nodes.map(index) }
}

/// A Service's rows as they stand in `ROWS`.
pub(crate) fn kernel_rows(rows: &Rows, nodes: &[u16]) -> Vec<Row> {
    rows.table().iter().map(|row| kernel_row(row, nodes)).collect()
}

/// This node's endpoints by row as they stand in `ROW_ENDPOINTS`, given their indices by position.
pub(crate) fn kernel_endpoints(table: &PerRow, endpoints: &[u32]) -> Vec<u32> {
    let index = |at: &u16| endpoints.get(usize::from(*at)).copied().unwrap_or(NO_ENDPOINT);
    table.table().iter().map(index).collect()
}

/// Reads `ROWS` and `ROW_ENDPOINTS`.
pub trait ReadRows {
    /// A row, if the index is inside.
    fn row(&self, index: u32) -> Option<Row>;
    /// An element of `ROW_ENDPOINTS`, if the index is inside.
    fn row_endpoint(&self, index: u32) -> Option<u32>;
}

/// All maps' contents but flows, rows and counters. Array elements that are all zeros are left out.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Capacity of `ROWS`.
    pub row_capacity: u32,
    /// Capacity of `ROW_ENDPOINTS`.
    pub row_endpoint_capacity: u32,
    /// Where the rows for fragments stand, from `SETTINGS`.
    pub fragment_rows: Option<Range>,
    /// `SOURCE_RANGES`
    pub source_ranges: BTreeSet<SourceRange>,
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
    pub fn empty(row_capacity: u32, row_endpoint_capacity: u32) -> Self {
        Self {
            row_capacity,
            row_endpoint_capacity,
            fragment_rows: None,
            source_ranges: BTreeSet::new(),
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

/// Prefixes that clients must be in, without their set's number: length in bits (of 128) and
/// address.
pub(crate) type Prefixes = BTreeSet<(u32, [u8; 16])>;

/// What stands in the maps, and who owns which of their elements.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) contents: Contents,
    pub(crate) ranges: Shared,
    pub(crate) endpoint_ranges: Shared,
    pub(crate) node_slots: Slots<NodeOwner>,
    pub(crate) endpoint_slots: Slots<EndpointKey>,
    /// Each Service's entry says which is its own.
    pub(crate) stats: Indices,
    pub(crate) source_range_slots: Slots<Prefixes>,
    pub(crate) placed: Placed,
    /// The plan of each Service whose entry says what it says: they need not be looked at
    /// until it is another.
    pub(crate) standing: OrdMap<ServiceAddress, Arc<PlannedService>>,
    /// What the entries of VIPs, and of what is announced, were made of; none if some found no
    /// room, or are an earlier agent's.
    pub(crate) wanted: Option<Wanted>,
    /// The bits of the VIPs that are wanted.
    pub(crate) vip_filter: Filter,
    /// The endpoints that `ENDPOINTS` holds; none if it holds fewer, or others besides.
    pub(crate) local_endpoints: Option<OrdSet<EndpointAddress>>,
    /// Some sets of source ranges may not be named by any Service any more.
    pub(crate) source_ranges_left: bool,
    /// Services whose previous rows are named, and when (`CLOCK_MONOTONIC`, s) that ends.
    pub(crate) windows: BTreeMap<ServiceKey, u32>,
    /// Services whose connections with kube-proxy are still being looked up.
    pub(crate) taken_over: BTreeSet<ServiceKey>,
    /// Services that kube-proxy had connections of on this node. An agent that starts anew does not
    /// know, and has them looked for by the last resort.
    pub(crate) proxied: BTreeSet<ServiceKey>,
}

/// What the maps should say of VIPs.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) vips: OrdMap<IpAddr, Arc<PlannedVip>>,
    pub(crate) uplinks: Vec<uplinks::Uplink>,
}

/// Ranges of an array map, and how many refer to each.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    ranges: Ranges,
    used: BTreeMap<Range, Used>,
    /// How many were ever allocated.
    count: u64,
    /// How many were set free since what stands in them was [swept](Placed::sweep).
    freed: usize,
}

/// A range in use: how many refer to it, and the how many-th allocation it is. Another that is
/// made at the same place later is another one.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    users: u32,
    allocation: u64,
}

impl Shared {
    fn new(capacity: u32) -> Self {
        Self { ranges: Ranges::new(capacity), used: BTreeMap::new(), count: 0, freed: 0 }
    }

    /// A new range, which is to be [used](Self::use_of).
    pub(crate) fn allocate(&mut self, len: u32, now: u64) -> Result<Range, Exhausted> {
        let range = self.ranges.allocate(len, now)?;
        self.take(range);
        Ok(range)
    }

    fn take(&mut self, range: Range) {
        self.count += 1;
        self.used.insert(range, Used { users: 0, allocation: self.count });
    }

    /// Somebody refers to a range that was allocated, or that others refer to already.
    pub(crate) fn use_of(&mut self, range: Range) {
        self.used.entry(range).or_default().users += 1;
    }

    /// A range that was found in a map: false if it makes no sense.
    #[must_use]
    fn adopt(&mut self, range: Range) -> bool {
        if !self.used.contains_key(&range) {
            if !self.ranges.reserve(range) {
                return false;
            }
            self.take(range);
        }
        self.use_of(range);
        true
    }

    /// Somebody does not refer to it any more; who was the last sets it free.
    pub(crate) fn end_of_use(&mut self, range: Range, now: u64) {
        let Some(used) = self.used.get_mut(&range) else { return };
        used.users -= 1;
        if used.users == 0 {
            self.used.remove(&range);
            self.ranges.release(range, now);
            self.freed += 1;
        }
    }

    fn allocation(&self, range: Range) -> Option<u64> {
        self.used.get(&range).map(|used| used.allocation)
    }
}

/// Which allocation of planned rows stands in which range, so that rows that have not
/// changed need not be looked at one by one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placed {
    /// By address in memory. Holds each allocation, so that no other can have its address.
    rows: HashMap<usize, (Place, Arc<Rows>)>,
    endpoints: HashMap<usize, (Place, Arc<PerRow>)>,
    /// The indices of nodes, by name, that they were translated with.
    nodes: BTreeMap<String, u16>,
}

/// A range, and the allocation of it that is meant.
#[derive(Clone, Copy, Debug)]
struct Place {
    range: Range,
    allocation: u64,
}

impl Place {
    fn new(range: Range, shared: &Shared) -> Self {
        Self { range, allocation: shared.allocation(range).unwrap_or_default() }
    }

    /// Whether it has been in use ever since.
    fn stands(self, shared: &Shared) -> bool {
        shared.allocation(self.range) == Some(self.allocation)
    }
}

impl Placed {
    /// Notes the indices of nodes, and forgets rows that name one which has none any more: it may
    /// come back with another. True, and everything is forgotten, if one has another than before.
    pub(crate) fn translate_with(&mut self, nodes: BTreeMap<String, u16>) -> bool {
        let changed = nodes
            .iter()
            .any(|(name, index)| self.nodes.get(name).is_some_and(|before| before != index));
        let gone = self.nodes.keys().any(|name| !nodes.contains_key(name));
        self.nodes = nodes;
        if changed {
            self.forget();
        } else if gone {
            let known = |name: &Arc<str>| self.nodes.contains_key(&**name);
            self.rows.retain(|_, (_, rows)| rows.nodes().iter().all(known));
        }
        changed
    }

    /// The indices of the nodes that rows name.
    pub(crate) fn indices(&self, rows: &Rows) -> Box<[u16]> {
        let index = |name: &Arc<str>| self.nodes.get(&**name).copied().unwrap_or(NO_NODE);
        rows.nodes().iter().map(index).collect()
    }

    pub(crate) fn forget(&mut self) {
        self.rows.clear();
        self.endpoints.clear();
    }

    pub(crate) fn rows(&self, rows: &Arc<Rows>, shared: &Shared) -> Option<Range> {
        let (place, _) = self.rows.get(&Arc::as_ptr(rows).addr())?;
        place.stands(shared).then_some(place.range)
    }

    pub(crate) fn note_rows(&mut self, range: Range, rows: &Arc<Rows>, shared: &Shared) {
        let place = Place::new(range, shared);
        self.rows.insert(Arc::as_ptr(rows).addr(), (place, Arc::clone(rows)));
    }

    pub(crate) fn endpoints(&self, table: &Arc<PerRow>, shared: &Shared) -> Option<Range> {
        let (place, _) = self.endpoints.get(&Arc::as_ptr(table).addr())?;
        place.stands(shared).then_some(place.range)
    }

    pub(crate) fn note_endpoints(&mut self, range: Range, table: &Arc<PerRow>, shared: &Shared) {
        let place = Place::new(range, shared);
        self.endpoints.insert(Arc::as_ptr(table).addr(), (place, Arc::clone(table)));
    }

    /// Forgets what stood in ranges that were set free, once they are a part of all.
    pub(crate) fn sweep(&mut self, rows: &mut Shared, endpoints: &mut Shared) {
        if rows.freed * SWEPT_PART > self.rows.len() {
            self.rows.retain(|_, (place, _)| place.stands(rows));
            rows.freed = 0;
        }
        if endpoints.freed * SWEPT_PART > self.endpoints.len() {
            self.endpoints.retain(|_, (place, _)| place.stands(endpoints));
            endpoints.freed = 0;
        }
    }
}

/// What nobody uses any more is this part of all at most.
const SWEPT_PART: usize = 8;

impl State {
    /// Takes over what an earlier agent left, and works out who owns what. What makes no
    /// sense (two Services with overlapping rows, say) will be written anew.
    pub fn adopt(mut contents: Contents) -> Self {
        let mut ranges = Shared::new(contents.row_capacity);
        let mut endpoint_ranges = Shared::new(contents.row_endpoint_capacity);
        let mut stats = Indices::new(0, MAX_SERVICES);
        if contents.fragment_rows.is_some_and(|range| !ranges.adopt(range)) {
            contents.fragment_rows = None;
        }
        for service in contents.services.values_mut() {
            // What was given up here is like no Service that is ever wanted, so that it is
            // written or removed.
            if range(service).is_some_and(|range| !ranges.adopt(range)) {
                *service = Service { rows_start: u32::MAX, rows: 0, flags: u32::MAX, ..*service };
            }
            if endpoint_range(service).is_some_and(|range| !endpoint_ranges.adopt(range)) {
                *service = Service { endpoints_start: NO_RANGE, flags: u32::MAX, ..*service };
            }
            if previous_range(service).is_some_and(|range| !ranges.adopt(range)) {
                *service = Service { previous_rows: 0, flags: u32::MAX, ..*service };
            }
            if !stats.adopt(service.stats) {
                *service = Service { stats: NO_STATS, flags: u32::MAX, ..*service };
            }
        }
        let windows = contents.services.iter().filter(|(_, service)| service.previous_rows != 0);
        let windows =
            windows.map(|(key, s)| (*key, s.changed_s.saturating_add(UDP_WINDOW_S))).collect();
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
        let mut sets = BTreeMap::<u32, Prefixes>::new();
        for (bits, key) in &contents.source_ranges {
            let prefixes = sets.entry(u32::from_be_bytes(key.ranges)).or_default();
            prefixes.insert((bits.saturating_sub(RANGE_ID_BITS), key.client));
        }
        let mut source_range_slots = Slots::new(1, MAX_SOURCE_RANGES);
        for (id, prefixes) in sets {
            // The second of two equal sets has no owner, and is removed with the next change.
            let _: bool = source_range_slots.adopt(prefixes, id);
        }
        let taken_over = (contents.services.iter())
            .filter(|(_, service)| service.flags & SERVICE_TAKEN_OVER != 0)
            .map(|(key, _)| *key)
            .collect();
        Self {
            contents,
            ranges,
            endpoint_ranges,
            node_slots,
            endpoint_slots,
            stats,
            source_range_slots,
            placed: Placed::default(),
            standing: OrdMap::new(),
            wanted: None,
            vip_filter: empty_filter(),
            local_endpoints: None,
            source_ranges_left: true,
            windows,
            taken_over,
            proxied: BTreeSet::new(),
        }
    }

    /// What stands in the maps.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }
}

/// For how many seconds after a change of rows UDP flows are looked for at the nodes of before:
/// as long as conntrack keeps one that was answered once.
pub const UDP_WINDOW_S: u32 = 120;

/// The element of `SERVICE_STATS` of a Service that was found with another's.
pub(crate) const NO_STATS: u32 = u32::MAX;

/// Bits of a set's number before the prefix in a key of `SOURCE_RANGES`.
pub(crate) const RANGE_ID_BITS: u32 = 32;

/// This node's endpoints of a Service's rows, if it has several.
pub(crate) fn endpoint_range(service: &Service) -> Option<Range> {
    (service.endpoints_start != NO_RANGE && service.rows != 0)
        .then_some(Range { start: service.endpoints_start, len: service.rows })
}

/// The rows of a Service before they changed, if they are named.
pub(crate) fn previous_range(service: &Service) -> Option<Range> {
    (service.previous_rows != 0)
        .then_some(Range { start: service.previous_start, len: service.previous_rows })
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
