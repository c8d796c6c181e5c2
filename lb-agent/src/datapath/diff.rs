//! From a plan to the writes that bring the maps there: pure, differences only, and in
//! an order in which no reader ever finds an index that leads nowhere.
//!
//! What others point to is written first (endpoints, nodes, then rows, whole and where
//! nobody looks yet), then Services, VIPs and what is announced; the VIP filter comes
//! last. Removal goes the other way round. The reply filter goes with the endpoints: a
//! reply must be recognised before a flow can begin.
mod nodes;

use super::{
    address_bytes,
    ranges::{Exhausted, Range},
    reach::Reach,
    state::{
        EndpointKey, Filter, ReadRows, State, Write, empty_filter, prune, range, upsert,
        write_filter,
    },
    uplinks::Uplink,
};
use crate::{
    plan::{EndpointAddress, Interfaces, Plan, PlannedRow, PlannedService, ServiceAddress},
    snapshot::ObjectName,
};
use lb_common::{
    filter::{mac_bit, reply_bit, vip_bit},
    hash::row_mask,
    maps::{
        Announced, AnnouncedKey, ENDPOINT_PRESENT, Endpoint, MAX_ANNOUNCED, MAX_ENDPOINTS,
        MAX_SERVICES, MAX_UPLINKS, MAX_VIPS, NO_NODE, Row, SERVICE_CLIENT_IP, SERVICE_KERNEL,
        Service, ServiceKey, Vip, VipKey,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use nodes::{Positions, remove_nodes, write_node_macs, write_nodes};

/// All that decides what shall stand in the maps.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// This node's name.
    pub me: &'a str,
    /// The interfaces that carry the programs, [`MAX_UPLINKS`] at most.
    pub uplinks: &'a [Uplink],
    /// How other nodes are reached.
    pub reach: &'a Reach,
}

/// A VIP that this node announces on an interface from now on, or with another address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewlyAnnounced {
    /// The VIP.
    pub vip: IpAddr,
    /// The interface's index.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// Its link-layer address, which answers for the VIP.
    pub mac: [u8; 6],
}

/// Something of the plan that does not fit into the maps. The rest is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There are no free rows for these Services: those that had rows keep them, others have none.
    Rows {
        /// The Services, each once.
        services: BTreeSet<ObjectName>,
        /// Rows they need.
        needed: u32,
        /// Capacity of `ROWS`.
        capacity: u32,
    },
    /// A map is full.
    Full {
        /// The map.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
        /// How many entries found no room.
        left_out: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { services, needed, capacity } => {
                let names: Vec<_> = services.iter().take(3).map(ToString::to_string).collect();
                let names = names.join(", ");
                let more = match services.len().saturating_sub(3) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                write!(
                    f,
                    "no room for {needed} rows of {names}{more} among {capacity}: what was in force stays; start with a larger --row-capacity after `lb-agent unload`"
                )
            }
            Self::Full { map, capacity, left_out } => write!(
                f,
                "map {map} is full: {left_out} more than its {capacity} entries are not served"
            ),
        }
    }
}

/// What to do, and what to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be carried out in order.
    pub writes: Vec<Write>,
    /// What has to be made known on the link.
    pub newly_announced: Vec<NewlyAnnounced>,
    /// What does not fit.
    pub problems: Vec<Problem>,
    /// When (`CLOCK_MONOTONIC`, ns) room may come free for what does not fit.
    pub retry_at: Option<u64>,
}

impl Changes {
    fn full(&mut self, map: &'static str, capacity: u32, left_out: usize) {
        if left_out > 0 {
            self.problems.push(Problem::Full { map, capacity, left_out });
        }
    }
}

/// Works out the writes. `state` is afterwards what the maps hold once they are carried out.
pub fn changes(state: &mut State, inputs: Inputs<'_>, rows: &impl ReadRows, now: u64) -> Changes {
    let mut changes = Changes::default();
    write_uplinks(state, inputs.uplinks, &mut changes);
    let wanted_endpoints = write_endpoints(state, inputs.plan, &mut changes, now);
    let mut positions = write_nodes(state, inputs, &mut changes, now);
    write_node_macs(state, inputs, &positions, &mut changes);
    // Their bits at once, so that frames of new nodes are known before rows name them.
    let mut macs = empty_filter();
    for key in state.contents.node_macs.keys() {
        set_bit(&mut macs, mac_bit(&key.mac));
    }
    let both = union(&macs, &state.contents.ingress_filter);
    let filter = &mut state.contents.ingress_filter;
    write_filter(filter, &both, &mut changes.writes, Write::IngressFilter);

    let services = write_services(state, inputs.plan, &positions, rows, &mut changes, now);
    let vips = write_vips(state, inputs.plan, &mut changes);
    let announced = write_announced(state, inputs, &mut changes);

    let mut ingress_filter = macs;
    for key in vips.keys() {
        set_bit(&mut ingress_filter, vip_bit(&key.vip));
    }
    let writes = &mut changes.writes;
    write_filter(&mut state.contents.ingress_filter, &ingress_filter, writes, Write::IngressFilter);

    prune(&mut state.contents.announced, &announced, writes, |k| Write::Announced(k, None));
    prune(&mut state.contents.vips, &vips, writes, |k| Write::Vip(k, None));
    prune(&mut state.contents.services, &services.wanted, writes, |k| Write::Service(k, None));
    state.stats_slots.retain(now, |key, _| services.wanted.contains_key(key));
    release_ranges(state, &services.used_before, now);

    // Rows that stayed in force for want of room still point to these.
    let retained = Retained::of(&services.retained, rows);
    positions.slots.extend(retained.nodes);
    remove_endpoints(state, &wanted_endpoints, &retained.endpoints, &mut changes, now);
    remove_nodes(state, &positions, &mut changes, now);
    changes
}

fn set_bit(filter: &mut Filter, bit: u32) {
    filter[(bit >> 6) as usize] |= 1 << (bit & 63);
}

fn union(one: &Filter, other: &Filter) -> Filter {
    let mut both = one.clone();
    for (word, other) in both.iter_mut().zip(other.iter()) {
        *word |= other;
    }
    both
}

fn write_uplinks(state: &mut State, uplinks: &[Uplink], changes: &mut Changes) {
    let wanted: Vec<_> = uplinks
        .iter()
        .take(MAX_UPLINKS)
        .map(|u| lb_common::maps::Uplink { ifindex: u.ifindex, vlan: u.vlan, mac: u.mac })
        .collect();
    if state.contents.uplinks != wanted {
        state.contents.uplinks.clone_from(&wanted);
        changes.writes.push(Write::Uplinks(wanted));
    }
}

fn endpoint_key(endpoint: &EndpointAddress) -> EndpointKey {
    (address_bytes(endpoint.address), endpoint.port.to_be_bytes())
}

/// Writes new endpoints and the reply filter's new bits. Returns the filter that is
/// wanted in the end, and the endpoints.
fn write_endpoints(
    state: &mut State,
    plan: &Plan,
    changes: &mut Changes,
    now: u64,
) -> (Filter, BTreeSet<EndpointKey>) {
    let mut wanted = empty_filter();
    let mut keys = BTreeSet::new();
    let mut left_out = 0;
    for endpoint in &plan.local_endpoints {
        let key @ (address, port) = endpoint_key(endpoint);
        set_bit(&mut wanted, reply_bit(&address, port, endpoint.protocol.number()));
        if !keys.insert(key) {
            // The same port for another protocol.
            continue;
        }
        let Some(index) = state.endpoint_slots.get_or_allocate(&key, now) else {
            left_out += 1;
            continue;
        };
        let value = Endpoint { address, port, flags: ENDPOINT_PRESENT, pad: 0 };
        let map = &mut state.contents.endpoints;
        upsert(map, index, value, &mut changes.writes, Write::Endpoint);
    }
    changes.full("ENDPOINTS", MAX_ENDPOINTS, left_out);
    if left_out > 0 {
        // Rows that lack it now may have it next time.
        state.placed.forget();
    }
    let both = union(&wanted, &state.contents.egress_filter);
    let filter = &mut state.contents.egress_filter;
    write_filter(filter, &both, &mut changes.writes, Write::EgressFilter);
    (wanted, keys)
}

/// What became of the Services.
struct Services {
    /// All that have an entry.
    wanted: BTreeMap<ServiceKey, ()>,
    /// Ranges that were in use before.
    used_before: BTreeSet<Range>,
    /// Ranges that stay in force although the plan has others, for want of room.
    retained: BTreeSet<Range>,
}

fn service_key(address: &ServiceAddress) -> ServiceKey {
    ServiceKey {
        vip: address_bytes(address.vip),
        port: address.port.to_be_bytes(),
        proto: address.protocol.number(),
        pad: 0,
        pad2: 0,
    }
}

fn write_services(
    state: &mut State,
    plan: &Plan,
    positions: &Positions,
    rows: &impl ReadRows,
    changes: &mut Changes,
    now: u64,
) -> Services {
    let mut result = Services {
        wanted: BTreeMap::new(),
        used_before: state.contents.services.values().filter_map(range).collect(),
        retained: BTreeSet::new(),
    };
    // Services with the same allocation of rows share a range. In the plan's order, not
    // that of addresses in memory, so that equal agents do equal things.
    let mut groups: Vec<(&Arc<Vec<PlannedRow>>, Vec<&ServiceAddress>)> = Vec::new();
    let mut group_of = HashMap::new();
    for (address, service) in &plan.services {
        let group = *group_of.entry(Arc::as_ptr(&service.rows)).or_insert_with(|| {
            groups.push((&service.rows, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(address);
    }
    state.placed.translate_with(&positions.indices);
    let mut left_out = 0;
    for (planned, members) in groups {
        let place = place_rows(state, planned, &members, positions, rows, changes, now);
        if let Err(Exhausted { retry_at }) = place {
            changes.retry_at = [changes.retry_at, retry_at].into_iter().flatten().min();
            changes.problems.push(Problem::Rows {
                services: members.iter().map(|m| plan.services[*m].service.clone()).collect(),
                needed: planned.len() as u32,
                capacity: state.ranges.capacity(),
            });
        }
        for address in members {
            let key = service_key(address);
            let before = state.contents.services.get(&key).copied();
            let fresh = state.stats_slots.get(&key).is_none();
            let Some(stats) = state.stats_slots.get_or_allocate(&key, now) else {
                left_out += 1;
                continue;
            };
            if fresh {
                changes.writes.push(Write::ClearStats(stats));
            }
            let range = place.unwrap_or_else(|_| {
                let kept = before.as_ref().and_then(range);
                result.retained.extend(kept);
                kept
            });
            let value = Service {
                rows_start: range.map_or(0, |range| range.start),
                rows: range.map_or(0, |range| range.len),
                mask: row_mask(range.map_or(0, |range| range.len)),
                stats,
                flags: flags(&plan.services[address]),
                endpoint: planned
                    .iter()
                    .find_map(|row| state.endpoint_slots.get(&endpoint_key(&row.endpoint?)))
                    .unwrap_or(lb_common::maps::NO_ENDPOINT),
                ..Service::default()
            };
            let map = &mut state.contents.services;
            upsert(map, key, value, &mut changes.writes, |k, v| Write::Service(k, Some(v)));
            result.wanted.insert(key, ());
        }
    }
    changes.full("SERVICES", MAX_SERVICES, left_out);
    result
}

/// Finds or writes the rows of Services that share them; `None` if there are none.
fn place_rows(
    state: &mut State,
    planned: &Arc<Vec<PlannedRow>>,
    members: &[&ServiceAddress],
    positions: &Positions,
    rows: &impl ReadRows,
    changes: &mut Changes,
    now: u64,
) -> Result<Option<Range>, Exhausted> {
    if planned.is_empty() {
        return Ok(None);
    }
    let candidates: BTreeSet<_> = members
        .iter()
        .filter_map(|member| range(state.contents.services.get(&service_key(member))?))
        .filter(|range| range.len as usize == planned.len())
        .collect();
    if let Some(range) = candidates.iter().find(|range| state.placed.is(**range, planned)) {
        return Ok(Some(*range));
    }
    let wanted: Vec<Row> = planned.iter().map(|row| kernel_row(row, positions, state)).collect();
    let stands_in = |range: &&Range| {
        wanted.iter().zip(range.start..).all(|(row, at)| rows.row(at).as_ref() == Some(row))
    };
    let range = if let Some(range) = candidates.iter().find(stands_in) {
        *range
    } else {
        // A number that is no power of two cannot be: the kernel masks the hash with it.
        let len = u32::try_from(wanted.len()).ok().filter(|len| len.is_power_of_two());
        let range = state.ranges.allocate(len.ok_or(Exhausted { retry_at: None })?, now)?;
        changes.writes.push(Write::Rows(range.start, wanted));
        range
    };
    state.placed.note(range, planned);
    Ok(Some(range))
}

fn kernel_row(row: &PlannedRow, positions: &Positions, _state: &State) -> Row {
    let index = |node: Option<u16>| {
        node.and_then(|position| positions.indices.get(usize::from(position)))
            .copied()
            .unwrap_or(NO_NODE)
    };
    let mut nodes = row.nodes;
    nodes[..=usize::from(row.first)].rotate_right(1);
    Row { nodes: nodes.map(index) }
}

fn write_vips(state: &mut State, plan: &Plan, changes: &mut Changes) -> BTreeMap<VipKey, Vip> {
    let mut ports: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for address in plan.services.keys() {
        *ports.entry(address.vip).or_default() += 1;
    }
    let wanted: BTreeMap<_, _> = plan
        .vips
        .keys()
        .take(MAX_VIPS as usize)
        .map(|vip| {
            let ports = ports.get(vip).copied().unwrap_or(0);
            (VipKey { vip: address_bytes(*vip) }, Vip { flags: 0, ports })
        })
        .collect();
    changes.full("VIPS", MAX_VIPS, plan.vips.len().saturating_sub(MAX_VIPS as usize));
    for (key, value) in &wanted {
        let map = &mut state.contents.vips;
        upsert(map, *key, *value, &mut changes.writes, |k, v| Write::Vip(k, Some(v)));
    }
    wanted
}

fn write_announced(
    state: &mut State,
    inputs: Inputs<'_>,
    changes: &mut Changes,
) -> BTreeMap<AnnouncedKey, ()> {
    let mut wanted = BTreeMap::new();
    let mut left_out = 0;
    for (vip, planned) in &inputs.plan.vips {
        let Some(interfaces) = &planned.announce else { continue };
        let matches = |uplink: &&Uplink| match interfaces {
            Interfaces::All => true,
            Interfaces::Named(names) => names.contains(&uplink.name),
        };
        for uplink in inputs.uplinks.iter().take(MAX_UPLINKS).filter(matches) {
            if wanted.len() >= MAX_ANNOUNCED as usize {
                left_out += 1;
                continue;
            }
            let Uplink { ifindex, vlan, .. } = *uplink;
            let key = AnnouncedKey { vip: address_bytes(*vip), ifindex, vlan, pad: 0 };
            let value = Announced { mac: uplink.mac, pad: [0; 2] };
            let map = &mut state.contents.announced;
            if upsert(map, key, value, &mut changes.writes, |k, v| Write::Announced(k, Some(v))) {
                changes.newly_announced.push(NewlyAnnounced {
                    vip: *vip,
                    ifindex: uplink.device,
                    interface: uplink.name.clone(),
                    mac: uplink.mac,
                });
            }
            wanted.insert(key, ());
        }
    }
    changes.full("ANNOUNCED", MAX_ANNOUNCED, left_out);
    wanted
}

fn release_ranges(state: &mut State, used_before: &BTreeSet<Range>, now: u64) {
    let used: BTreeSet<_> = state.contents.services.values().filter_map(range).collect();
    for range in used_before.difference(&used) {
        state.ranges.release(*range, now);
    }
    state.placed.retain(&used);
}

/// What rows point to that stay in force against the plan.
struct Retained {
    nodes: BTreeSet<u32>,
    endpoints: BTreeSet<u32>,
}

impl Retained {
    fn of(ranges: &BTreeSet<Range>, rows: &impl ReadRows) -> Self {
        let all = || {
            ranges
                .iter()
                .flat_map(|range| range.start..range.start.saturating_add(range.len))
                .filter_map(|index| rows.row(index))
        };
        Self {
            nodes: all().flat_map(|row| row.nodes).map(u32::from).collect(),
            endpoints: BTreeSet::new(),
        }
    }
}

fn remove_endpoints(
    state: &mut State,
    (filter, keys): &(Filter, BTreeSet<EndpointKey>),
    retained: &BTreeSet<u32>,
    changes: &mut Changes,
    now: u64,
) {
    let State { contents, endpoint_slots, placed, .. } = state;
    write_filter(&mut contents.egress_filter, filter, &mut changes.writes, Write::EgressFilter);
    // An endpoint that is gone takes nothing, whoever points to it; but its element must
    // not become another's.
    if endpoint_slots.retain(now, |key, index| keys.contains(key) || retained.contains(&index)) > 0
    {
        placed.forget();
    }
    let owned: BTreeSet<_> =
        endpoint_slots.iter().filter(|(key, _)| keys.contains(key)).map(|(_, i)| i).collect();
    contents.endpoints.retain(|index, _| {
        let keep = owned.contains(index);
        if !keep {
            changes.writes.push(Write::Endpoint(*index, Endpoint::default()));
        }
        keep
    });
}

fn flags(service: &PlannedService) -> u32 {
    let of = |set: bool, flag: u32| if set { flag } else { 0 };
    of(service.kernel, SERVICE_KERNEL) | of(service.client_ip_affinity, SERVICE_CLIENT_IP)
}

#[cfg(test)]
mod tests;
