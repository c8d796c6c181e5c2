//! From a plan to the writes that bring the maps there: pure, differences only, and in
//! an order in which no reader ever finds an index that leads nowhere.
//!
//! What others point to is written first (endpoints, nodes, then rows, whole and where
//! nobody looks yet), then Services, VIPs and what is announced; the VIP filter comes
//! last. Removal goes the other way round. The reply filter goes with the endpoints: a
//! reply must be recognised before a flow can begin.
mod nodes;
mod services;
mod source_ranges;
mod vips;

use super::{
    address_bytes,
    reach::Reach,
    state::{EndpointKey, Filter, ReadRows, State, Write, empty_filter, upsert, write_filter},
    uplinks::Uplink,
};
use crate::{
    plan::{EndpointAddress, Plan},
    snapshot::ObjectName,
};
use lb_common::{
    filter::{mac_bit, reply_bit, vip_bit},
    maps::{ENDPOINT_PRESENT, Endpoint, MAX_ENDPOINTS, MAX_UPLINKS},
};
use std::{collections::BTreeSet, fmt, net::IpAddr};

use nodes::{remove_nodes, write_node_macs, write_nodes};
use vips::Touched;

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
    /// There is no room for the rows of these Services, or for this node's endpoints by row:
    /// what was in force for them stays.
    Rows {
        /// `ROWS` or `ROW_ENDPOINTS`.
        map: &'static str,
        /// The Services, each once.
        services: BTreeSet<ObjectName>,
        /// Rows they need.
        needed: u32,
        /// Capacity of the map.
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
            Self::Rows { map, services, needed, capacity } => {
                let names: Vec<_> = services.iter().take(3).map(ToString::to_string).collect();
                let names = match names.join(", ") {
                    none if none.is_empty() => "fragments".to_owned(),
                    names => names,
                };
                let more = match services.len().saturating_sub(3) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                write!(
                    f,
                    "no room in {map} for {needed} rows of {names}{more} among {capacity}: what was in force stays; start with a larger --row-capacity after `lb-agent unload`"
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
    /// When (`CLOCK_MONOTONIC`, ns) to apply the plan again: room may come free then for what
    /// does not fit, or it is time to forget which rows stood before.
    pub retry_at: Option<u64>,
}

impl Changes {
    /// Asks to be called again at that time at the latest.
    fn again_at(&mut self, at: Option<u64>) {
        self.retry_at = [self.retry_at, at].into_iter().flatten().min();
    }

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
    let endpoints = write_endpoints(state, inputs.plan, &mut changes, now);
    let mut positions = write_nodes(state, inputs, &mut changes, now);
    write_node_macs(state, inputs, &positions, &mut changes);
    // Their bits at once, so that frames of new nodes are known before rows name them.
    let mut others = empty_filter();
    for key in state.contents.node_macs.keys() {
        set_bit(&mut others, mac_bit(&key.mac));
    }
    // What is tunnelled to this node is to one of its own addresses.
    let mine = inputs.plan.nodes.iter().filter(|node| node.name == inputs.me);
    for address in mine.flat_map(|node| &node.addresses) {
        set_bit(&mut others, vip_bit(&address_bytes(*address)));
    }
    let both = union(&others, &state.contents.ingress_filter);
    let filter = &mut state.contents.ingress_filter;
    write_filter(filter, &both, &mut changes.writes, Write::IngressFilter);

    if state.placed.translate_with(positions.by_name(inputs.plan)) {
        state.standing.clear();
    }
    let fragments =
        services::write_fragment_rows(state, inputs.plan, &positions, rows, &mut changes, now);
    let mut written = services::write(state, inputs.plan, rows, &mut changes, now);
    let touched = Touched::new(state, inputs, std::mem::take(&mut written.vips));
    let gone = vips::write(state, inputs, &touched, &mut changes);

    let writes = &mut changes.writes;
    let ingress_filter = union(&others, &state.vip_filter);
    write_filter(&mut state.contents.ingress_filter, &ingress_filter, writes, Write::IngressFilter);

    vips::remove(state, gone, &mut changes);
    services::prune(state, inputs.plan, &written.gone, &mut changes, now);
    written.note(state, inputs.plan);
    source_ranges::prune(state, inputs.plan, &mut changes, now);

    // Rows that are in force against the plan, or were before, still point to these.
    let retained = services::Retained::of(state, &written.kept, fragments, &positions, rows);
    positions.slots.extend(retained.nodes);
    remove_endpoints(state, endpoints, &retained.endpoints, &mut changes, now);
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

/// Which endpoints are wanted in the end, and the filter for them.
struct WantedEndpoints {
    filter: Filter,
    keys: BTreeSet<EndpointKey>,
}

/// Writes new endpoints and the reply filter's new bits. Returns what is wanted in the end;
/// `None` if that is what is there.
fn write_endpoints(
    state: &mut State,
    plan: &Plan,
    changes: &mut Changes,
    now: u64,
) -> Option<WantedEndpoints> {
    if state.local_endpoints.as_ref() == Some(&plan.local_endpoints) {
        return None;
    }
    let mut filter = empty_filter();
    let mut keys = BTreeSet::new();
    let mut left_out = 0;
    for endpoint in &plan.local_endpoints {
        let key @ (address, port) = endpoint_key(endpoint);
        set_bit(&mut filter, reply_bit(&address, port, endpoint.protocol.number()));
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
    state.local_endpoints = (left_out == 0).then(|| plan.local_endpoints.clone());
    if left_out > 0 {
        // Rows that lack it now may have it next time.
        state.placed.forget();
        state.standing.clear();
    }
    let both = union(&filter, &state.contents.egress_filter);
    let stands = &mut state.contents.egress_filter;
    write_filter(stands, &both, &mut changes.writes, Write::EgressFilter);
    Some(WantedEndpoints { filter, keys })
}

fn remove_endpoints(
    state: &mut State,
    wanted: Option<WantedEndpoints>,
    retained: &BTreeSet<u32>,
    changes: &mut Changes,
    now: u64,
) {
    let Some(WantedEndpoints { filter, keys }) = wanted else { return };
    if !retained.is_empty() {
        // They are not wanted, and to be removed as soon as nothing points to them any more.
        state.local_endpoints = None;
    }
    let State { contents, endpoint_slots, .. } = state;
    write_filter(&mut contents.egress_filter, &filter, &mut changes.writes, Write::EgressFilter);
    // An endpoint that is gone takes nothing, whoever points to it; but its element must
    // not become another's.
    // A table that stands and names it does so against the plan, which knows it no more.
    endpoint_slots.retain(now, |key, index| keys.contains(key) || retained.contains(&index));
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

#[cfg(test)]
mod tests;
