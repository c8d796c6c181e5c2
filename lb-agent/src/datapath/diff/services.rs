//! The Services' part: rows, this node's endpoints by row, and the entries that name them.
//!
//! Only Services whose plan is another than the one that stands are looked at. What their
//! entry says besides the plan comes from the entry that it replaces: when rows last
//! changed, and which stood before.
use super::{
    super::{
        address_bytes,
        ranges::{Exhausted, Range},
        state::{
            NO_STATS, ReadRows, State, UDP_WINDOW_S, Write, endpoint_range, kernel_endpoints,
            kernel_row, kernel_rows, previous_range, range, upsert,
        },
    },
    Changes, Problem, endpoint_key,
    nodes::Positions,
    source_ranges,
};
use crate::{
    plan::{LocalEndpoints, PerRow, Plan, PlannedService, Rows, ServiceAddress},
    snapshot::{ObjectName, Protocol},
};
use imbl::ordmap::DiffItem;
use lb_common::{
    hash::{row_index, row_mask},
    maps::{
        MAX_SERVICES, NO_ENDPOINT, NO_RANGE, SERVICE_CLIENT_IP, SERVICE_HERE, SERVICE_KERNEL,
        SERVICE_RANGES, SERVICE_TAKEN_OVER, Service, ServiceKey,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub(super) fn service_key(address: &ServiceAddress) -> ServiceKey {
    ServiceKey {
        vip: address_bytes(address.vip),
        port: address.port.to_be_bytes(),
        proto: address.protocol.number(),
        pad: 0,
        pad2: 0,
    }
}

fn seconds(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000_000).unwrap_or(u32::MAX)
}

/// What came of writing the Services.
pub(super) struct Written {
    /// Those that keep rows, or endpoints by row, which the plan does not have, for want of room.
    pub(super) kept: Vec<ServiceKey>,
    /// VIPs that may have more or fewer ports than before.
    pub(super) vips: BTreeSet<IpAddr>,
    /// Those that the plan does not have any more.
    pub(super) gone: Vec<ServiceAddress>,
    /// All others are as planned.
    whole: bool,
}

/// Writes the Services whose plan is new.
pub(super) fn write(
    state: &mut State,
    plan: &Plan,
    rows: &impl ReadRows,
    changes: &mut Changes,
    now: u64,
) -> Written {
    end_windows(state, changes, now);
    let mut new = Vec::new();
    let mut vips = BTreeSet::new();
    let mut gone = Vec::new();
    for item in state.standing.diff(&plan.services) {
        match item {
            DiffItem::Add(address, planned) => {
                vips.insert(address.vip);
                new.push((address, planned));
            }
            DiffItem::Update { new: changed, .. } => new.push(changed),
            DiffItem::Remove(address, _) => {
                vips.insert(address.vip);
                gone.push(*address);
            }
        }
    }
    let mut writer = Writer { state, rows, changes, now };
    // Rows that stand already, before those that share them are looked at.
    for (address, planned) in &new {
        writer.find(address, planned);
    }
    let mut kept = Vec::new();
    let mut left_out = 0;
    let mut whole = true;
    let mut wanting = BTreeMap::new();
    for (address, planned) in new {
        let written = writer.service(address, planned);
        whole &= written.is_ok();
        match written {
            Ok(()) => {
                writer.state.standing.insert(*address, Arc::clone(planned));
            }
            Err(Unwritten::Services) => left_out += 1,
            // It has been said; there may be room next time.
            Err(Unwritten::SourceRanges) => {}
            Err(Unwritten::Rows(map)) => {
                kept.push(service_key(address));
                let (services, needed) =
                    wanting.entry(map).or_insert((BTreeSet::<ObjectName>::new(), 0));
                services.insert(planned.service.clone());
                *needed = planned.rows.len().max(*needed);
            }
        }
    }
    changes.full("SERVICES", MAX_SERVICES, left_out);
    for (map, (services, needed)) in wanting {
        let capacity = match map {
            "ROWS" => state.contents.row_capacity,
            _ => state.contents.row_endpoint_capacity,
        };
        changes.problems.push(Problem::Rows { map, services, needed, capacity });
    }
    if let Some(end) = state.windows.values().min() {
        changes.again_at(Some(u64::from(*end) * 1_000_000_000));
    }
    state.placed.sweep(&mut state.ranges, &mut state.endpoint_ranges);
    Written { kept, vips, gone, whole }
}

impl Written {
    /// To be called in the end: what stands is the plan itself then, and the next one is told from it
    /// by what they do not share.
    pub(super) fn note(&self, state: &mut State, plan: &Plan) {
        if self.whole {
            state.standing = plan.services.clone();
        }
    }
}

/// Why a Service's entry is not what the plan says.
enum Unwritten {
    /// `SERVICES` is full.
    Services,
    /// `SOURCE_RANGES` is.
    SourceRanges,
    /// This map is; what was in force stays.
    Rows(&'static str),
}

/// Forgets previous rows that do not matter any more.
fn end_windows(state: &mut State, changes: &mut Changes, now: u64) {
    let ended: Vec<_> =
        state.windows.iter().filter(|(_, end)| **end <= seconds(now)).map(|(k, _)| *k).collect();
    for key in ended {
        forget_previous(state, key, changes, now);
    }
}

fn forget_previous(state: &mut State, key: ServiceKey, changes: &mut Changes, now: u64) {
    state.windows.remove(&key);
    let Some(service) = state.contents.services.get_mut(&key) else { return };
    let Some(previous) = previous_range(service) else { return };
    (service.previous_start, service.previous_rows, service.previous_mask) = (0, 0, 0);
    changes.writes.push(Write::Service(key, Some(*service)));
    state.ranges.end_of_use(previous, now);
}

struct Writer<'a, R> {
    state: &'a mut State,
    rows: &'a R,
    changes: &'a mut Changes,
    now: u64,
}

impl<R: ReadRows> Writer<'_, R> {
    /// Notes the rows, and the endpoints by row, that stand as the plan has them, though no plan is
    /// known that they were written for.
    fn find(&mut self, address: &ServiceAddress, planned: &PlannedService) {
        if self.state.standing.contains_key(address) {
            return;
        }
        let services = &self.state.contents.services;
        let Some(service) = services.get(&service_key(address)).copied() else { return };
        if let Some(range) = range(&service)
            && range.len == planned.rows.len()
            && self.placed_rows(&planned.rows).is_none()
        {
            let wanted = kernel_rows(&planned.rows, &self.state.placed.indices(&planned.rows));
            if (range.start..).zip(wanted).all(|(at, row)| self.rows.row(at) == Some(row)) {
                self.note_rows(range, &planned.rows);
            }
        }
        if let LocalEndpoints::PerRow(table) = &planned.endpoints
            && let Some(range) = endpoint_range(&service)
            && range.len == table.rows
            && self.placed_endpoints(table).is_none()
        {
            let wanted = kernel_endpoints(table, &self.indices(table));
            if (range.start..).zip(wanted).all(|(at, e)| self.rows.row_endpoint(at) == Some(e)) {
                self.note_endpoints(range, table);
            }
        }
    }

    fn placed_rows(&self, rows: &Arc<Rows>) -> Option<Range> {
        self.state.placed.rows(rows, &self.state.ranges)
    }

    fn note_rows(&mut self, range: Range, rows: &Arc<Rows>) {
        self.state.placed.note_rows(range, rows, &self.state.ranges);
    }

    fn placed_endpoints(&self, table: &Arc<PerRow>) -> Option<Range> {
        self.state.placed.endpoints(table, &self.state.endpoint_ranges)
    }

    fn note_endpoints(&mut self, range: Range, table: &Arc<PerRow>) {
        self.state.placed.note_endpoints(range, table, &self.state.endpoint_ranges);
    }

    /// The indices of this node's endpoints.
    fn indices(&self, table: &PerRow) -> Box<[u32]> {
        let slots = &self.state.endpoint_slots;
        let index = |e| slots.get(&endpoint_key(e)).unwrap_or(NO_ENDPOINT);
        table.endpoints.iter().map(index).collect()
    }

    fn service(
        &mut self,
        address: &ServiceAddress,
        planned: &PlannedService,
    ) -> Result<(), Unwritten> {
        let key = service_key(address);
        let before = self.state.contents.services.get(&key).copied();
        let stats = match before.map(|service| service.stats).filter(|stats| *stats != NO_STATS) {
            Some(stats) => stats,
            None => {
                let stats = self.state.stats.allocate(self.now).ok_or(Unwritten::Services)?;
                self.changes.writes.push(Write::ClearStats(stats));
                stats
            }
        };
        let (rows, mut missing) = match self.place_rows(&planned.rows) {
            Ok(range) => (range, None),
            Err(full) => (before.as_ref().and_then(range), Some(full)),
        };
        // Endpoints by row go with the rows: with those that stay, they stay too.
        let kept = before.unwrap_or_default();
        let (endpoint, by_row) = match &planned.endpoints {
            _ if missing.is_some() => (kept.endpoint, endpoint_range(&kept)),
            LocalEndpoints::None => (NO_ENDPOINT, None),
            LocalEndpoints::One(endpoint) => {
                let index = self.state.endpoint_slots.get(&endpoint_key(endpoint));
                (index.unwrap_or(NO_ENDPOINT), None)
            }
            LocalEndpoints::PerRow(table) => match self.place_endpoints(table) {
                Ok(range) => (NO_ENDPOINT, Some(range)),
                Err(full) => {
                    missing = Some(full);
                    // One of them for all rows is better than none.
                    let first = table.endpoints.first().map(endpoint_key);
                    let index = first.and_then(|first| self.state.endpoint_slots.get(&first));
                    (index.unwrap_or(NO_ENDPOINT), None)
                }
            },
        };
        let ranges = source_ranges::place(self.state, planned, self.changes, self.now);
        let mut value = Service {
            rows_start: rows.map_or(0, |range| range.start),
            rows: rows.map_or(0, |range| range.len),
            mask: row_mask(rows.map_or(0, |range| range.len)),
            flags: flags(planned) | taken_over(self.state, &key),
            stats,
            endpoint,
            endpoints_start: by_row.map_or(NO_RANGE, |range| range.start),
            affinity_s: planned.affinity_s.unwrap_or(0),
            ranges,
            ..Service::default()
        };
        self.history(address.protocol, planned, before.as_ref(), &mut value);
        self.publish(key, before.as_ref(), value);
        if ranges == source_ranges::NOBODY
            && planned.source_ranges.as_ref().is_some_and(|r| !r.is_empty())
        {
            return Err(Unwritten::SourceRanges);
        }
        missing.map_or(Ok(()), |map| Err(Unwritten::Rows(map)))
    }

    /// When the rows changed last, and which stood before.
    ///
    /// The kernel takes a row for settled whose node was the same before. So that this holds
    /// for all that has been in between, previous rows are named only if those stood for a
    /// whole window, and as long as no later table disagreed about a row on which the
    /// first and the last agree.
    fn history(
        &self,
        protocol: Protocol,
        planned: &PlannedService,
        before: Option<&Service>,
        value: &mut Service,
    ) {
        let now = seconds(self.now);
        let Some(before) = before.filter(|before| before.flags != u32::MAX) else {
            value.changed_s = now;
            return;
        };
        let ended = now.saturating_sub(before.changed_s) >= UDP_WINDOW_S;
        let changed = range(before) != range(value);
        value.changed_s = if changed { now } else { before.changed_s };
        let kept = if !changed {
            previous_range(before).filter(|_| !ended)
        } else if ended {
            range(before)
        } else {
            previous_range(before).filter(|previous| {
                range(before).is_some_and(|between| self.agree(*previous, between, &planned.rows))
            })
        };
        // TCP and SCTP say themselves what begins; affinity lasts longer than any window.
        let of_use = protocol == Protocol::Udp && planned.affinity_s.is_none();
        if let Some(previous) = kept.filter(|_| of_use && value.rows != 0) {
            value.previous_start = previous.start;
            value.previous_rows = previous.len;
            value.previous_mask = row_mask(previous.len);
        }
    }

    /// Whether, for every hash whose node is the same in the first table and in the rows that
    /// are planned now, it is so in the one between.
    fn agree(&self, first: Range, between: Range, planned: &Rows) -> bool {
        let node = |range: Range, hash: u32| {
            let at = range.start + row_index(hash, range.len, row_mask(range.len));
            self.rows.row(at).map(|row| row.nodes[0])
        };
        let rows = planned.len();
        let planned = kernel_rows(planned, &self.state.placed.indices(planned));
        let hashes = [first.len, between.len, rows].map(row_mask).into_iter().max();
        (0..=hashes.unwrap_or(0)).all(|hash| {
            let row = planned.get(row_index(hash, rows, row_mask(rows)) as usize);
            let now = row.map(|row| row.nodes[0]);
            node(first, hash) != now || node(between, hash) == now
        })
    }

    /// Makes an entry what it shall be, and counts who refers to which range.
    fn publish(&mut self, key: ServiceKey, before: Option<&Service>, value: Service) {
        self.state.source_ranges_left |= before.is_some_and(|before| before.ranges != value.ranges);
        let State { contents, ranges, endpoint_ranges, windows, .. } = &mut *self.state;
        for used in [range(&value), previous_range(&value)].into_iter().flatten() {
            ranges.use_of(used);
        }
        if let Some(used) = endpoint_range(&value) {
            endpoint_ranges.use_of(used);
        }
        let writes = &mut self.changes.writes;
        upsert(&mut contents.services, key, value, writes, |k, v| Write::Service(k, Some(v)));
        for unused in [before.and_then(range), before.and_then(previous_range)] {
            unused.into_iter().for_each(|range| ranges.end_of_use(range, self.now));
        }
        if let Some(unused) = before.and_then(endpoint_range) {
            endpoint_ranges.end_of_use(unused, self.now);
        }
        if value.previous_rows == 0 {
            windows.remove(&key);
        } else {
            windows.insert(key, value.changed_s.saturating_add(UDP_WINDOW_S));
        }
    }

    /// Finds or writes rows; `None` if there are none.
    fn place_rows(&mut self, planned: &Arc<Rows>) -> Result<Option<Range>, &'static str> {
        if planned.is_empty() {
            return Ok(None);
        }
        if let Some(range) = self.placed_rows(planned) {
            return Ok(Some(range));
        }
        let range = self.allocate_rows(planned.len()).map_err(|full| {
            self.changes.again_at(full.retry_at);
            "ROWS"
        })?;
        let nodes = self.state.placed.indices(planned);
        self.changes.writes.push(Write::Rows(range.start, Arc::clone(planned), nodes));
        self.note_rows(range, planned);
        Ok(Some(range))
    }

    /// Where there is no room, previous rows make place: they have to rest before.
    fn allocate_rows(&mut self, len: u32) -> Result<Range, Exhausted> {
        let allocated = self.state.ranges.allocate(len, self.now);
        if allocated.is_ok() || self.state.windows.is_empty() {
            return allocated;
        }
        let keys: Vec<_> = self.state.windows.keys().copied().collect();
        for key in keys {
            forget_previous(self.state, key, self.changes, self.now);
        }
        self.state.ranges.allocate(len, self.now)
    }

    fn place_endpoints(&mut self, table: &Arc<PerRow>) -> Result<Range, &'static str> {
        if let Some(range) = self.placed_endpoints(table) {
            return Ok(range);
        }
        let ranges = &mut self.state.endpoint_ranges;
        let range = ranges.allocate(table.rows, self.now).map_err(|full| {
            self.changes.again_at(full.retry_at);
            "ROW_ENDPOINTS"
        })?;
        let indices = self.indices(table);
        self.changes.writes.push(Write::RowEndpoints(range.start, Arc::clone(table), indices));
        self.note_endpoints(range, table);
        Ok(range)
    }
}

fn flags(service: &PlannedService) -> u32 {
    let of = |set: bool, flag: u32| if set { flag } else { 0 };
    of(service.kernel, SERVICE_KERNEL)
        | of(service.affinity_s.is_some(), SERVICE_CLIENT_IP)
        | of(service.here || service.kernel, SERVICE_HERE)
        | of(service.source_ranges.is_some(), SERVICE_RANGES)
}

/// What else is said of a Service that kube-proxy served before.
fn taken_over(state: &State, key: &ServiceKey) -> u32 {
    let of = |keys: &BTreeSet<ServiceKey>, flag: u32| if keys.contains(key) { flag } else { 0 };
    of(&state.taken_over, SERVICE_TAKEN_OVER) | of(&state.proxied, SERVICE_HERE)
}

/// Removes the entries of Services that the plan does not have: those that stood and are gone, and
/// an earlier agent's.
pub(super) fn prune(
    state: &mut State,
    plan: &Plan,
    gone: &[ServiceAddress],
    changes: &mut Changes,
    now: u64,
) {
    for address in gone {
        state.standing.remove(address);
        remove(state, service_key(address), changes, now);
    }
    if state.contents.services.len() == plan.services.len() {
        return;
    }
    // An earlier agent left some.
    let wanted: BTreeSet<_> = plan.services.keys().map(service_key).collect();
    let unwanted = state.contents.services.keys().filter(|key| !wanted.contains(*key));
    for key in unwanted.copied().collect::<Vec<_>>() {
        remove(state, key, changes, now);
    }
}

fn remove(state: &mut State, key: ServiceKey, changes: &mut Changes, now: u64) {
    let State { contents, ranges, endpoint_ranges, windows, stats, .. } = state;
    let Some(service) = contents.services.remove(&key) else { return };
    changes.writes.push(Write::Service(key, None));
    state.source_ranges_left |= service.ranges != 0;
    windows.remove(&key);
    for unused in [range(&service), previous_range(&service)].into_iter().flatten() {
        ranges.end_of_use(unused, now);
    }
    if let Some(unused) = endpoint_range(&service) {
        endpoint_ranges.end_of_use(unused, now);
    }
    if service.stats != NO_STATS {
        stats.release(service.stats, now);
    }
    state.taken_over.remove(&key);
    state.proxied.remove(&key);
}

/// Writes the rows by which fragments find their node, and says where they stand. Returns
/// the old ones if they stay for want of room.
pub(super) fn write_fragment_rows(
    state: &mut State,
    plan: &Plan,
    positions: &Positions,
    rows: &impl ReadRows,
    changes: &mut Changes,
    now: u64,
) -> Option<Range> {
    let before = state.contents.fragment_rows;
    let wanted: Vec<_> =
        plan.fragment_rows.iter().map(|row| kernel_row(row, &positions.indices)).collect();
    let stands = before.is_some_and(|range| {
        range.len as usize == wanted.len()
            && (range.start..).zip(&wanted).all(|(at, row)| rows.row(at).as_ref() == Some(row))
    });
    if stands || (before.is_none() && wanted.is_empty()) {
        return None;
    }
    let range = if wanted.is_empty() {
        None
    } else {
        match state.ranges.allocate(wanted.len() as u32, now) {
            Ok(range) => Some(range),
            Err(full) => {
                // The old ones stay: at worst they name a node that is gone.
                changes.again_at(full.retry_at);
                changes.problems.push(Problem::Rows {
                    map: "ROWS",
                    services: BTreeSet::new(),
                    needed: wanted.len() as u32,
                    capacity: state.contents.row_capacity,
                });
                return before;
            }
        }
    };
    if let Some(range) = range {
        state.ranges.use_of(range);
        changes.writes.push(Write::RowsForFragments(range.start, wanted));
    }
    changes.writes.push(Write::FragmentRows(range));
    state.contents.fragment_rows = range;
    if let Some(before) = before {
        state.ranges.end_of_use(before, now);
    }
    None
}

/// What rows point to that stay in force against the plan, or are named as the previous ones.
pub(super) struct Retained {
    pub(super) nodes: BTreeSet<u32>,
    pub(super) endpoints: BTreeSet<u32>,
}

impl Retained {
    pub(super) fn of(
        state: &State,
        kept: &[ServiceKey],
        fragments: Option<Range>,
        positions: &Positions,
        rows: &impl ReadRows,
    ) -> Self {
        let mut retained = Self { nodes: BTreeSet::new(), endpoints: BTreeSet::new() };
        let services = || kept.iter().filter_map(|key| state.contents.services.get(key));
        for service in services() {
            retained.endpoints.insert(service.endpoint);
            if let Some(range) = endpoint_range(service) {
                let indices = range.start..range.start.saturating_add(range.len);
                retained.endpoints.extend(indices.filter_map(|at| rows.row_endpoint(at)));
            }
        }
        // Nodes are rarely removed: only then do the rows need to be read.
        if state.node_slots.iter().all(|(_, index)| positions.slots.contains(&index)) {
            return retained;
        }
        let previous = state.windows.keys().filter_map(|key| state.contents.services.get(key));
        let ranges = services().filter_map(range).chain(previous.filter_map(previous_range));
        let ranges = ranges.chain(fragments);
        for range in ranges.collect::<BTreeSet<_>>() {
            let named = (range.start..range.start.saturating_add(range.len))
                .filter_map(|at| rows.row(at))
                .flat_map(|row| row.nodes);
            retained.nodes.extend(named.map(u32::from));
        }
        retained
    }
}
