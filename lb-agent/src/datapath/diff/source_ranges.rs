//! The prefixes that clients must be in: one set for each that differs.
use super::{
    super::{
        address_bytes,
        state::{Prefixes, RANGE_ID_BITS, SourceRange, State, Write},
    },
    Changes,
};
use crate::plan::{Plan, PlannedService};
use ipnet::IpNet;
use lb_common::maps::{MAX_SOURCE_RANGES, RangeKey};
use std::collections::BTreeSet;

/// Names a set that is never written: nobody is in it.
pub(super) const NOBODY: u32 = 0;

fn prefixes(ranges: &BTreeSet<IpNet>) -> Prefixes {
    // The length of an IPv4 prefix as it is mapped into IPv6 (RFC 4291 section 2.5.5.2).
    let bits = |net: &IpNet| match net {
        IpNet::V4(net) => 96 + u32::from(net.prefix_len()),
        IpNet::V6(net) => u32::from(net.prefix_len()),
    };
    ranges.iter().map(|net| (bits(net), address_bytes(net.addr()))).collect()
}

fn entries(id: u32, prefixes: &Prefixes) -> impl Iterator<Item = SourceRange> {
    prefixes.iter().map(move |(bits, client)| {
        (RANGE_ID_BITS + bits, RangeKey { ranges: id.to_be_bytes(), client: *client })
    })
}

/// Finds or writes the set of a Service's prefixes, and returns its number. Where there is no
/// room for it, nobody is served.
pub(super) fn place(
    state: &mut State,
    service: &PlannedService,
    changes: &mut Changes,
    now: u64,
) -> u32 {
    let Some(ranges) = service.source_ranges.as_ref().filter(|ranges| !ranges.is_empty()) else {
        return NOBODY;
    };
    let prefixes = prefixes(ranges);
    if let Some(id) = state.source_range_slots.get(&prefixes) {
        return id;
    }
    let room = (MAX_SOURCE_RANGES as usize).saturating_sub(state.contents.source_ranges.len());
    let id = state.source_range_slots.get_or_allocate(&prefixes, now);
    let Some(id) = id.filter(|_| prefixes.len() <= room) else {
        state.source_range_slots.release(&prefixes, now);
        changes.full("SOURCE_RANGES", MAX_SOURCE_RANGES, prefixes.len().max(1));
        return NOBODY;
    };
    for entry in entries(id, &prefixes) {
        state.contents.source_ranges.insert(entry);
        changes.writes.push(Write::SourceRange(entry, true));
    }
    id
}

/// Removes the sets that no Service names any more.
pub(super) fn prune(state: &mut State, plan: &Plan, changes: &mut Changes, now: u64) {
    let State { contents, source_range_slots, source_ranges_left, .. } = state;
    if !std::mem::take(source_ranges_left) || contents.source_ranges.is_empty() {
        return;
    }
    let wanted: BTreeSet<_> =
        plan.services.values().filter_map(|s| s.source_ranges.as_deref()).map(prefixes).collect();
    source_range_slots.retain(now, |set, _| wanted.contains(set));
    let owned: BTreeSet<_> =
        source_range_slots.iter().flat_map(|(set, id)| entries(id, set)).collect();
    contents.source_ranges.retain(|entry| {
        let keep = owned.contains(entry);
        if !keep {
            changes.writes.push(Write::SourceRange(*entry, false));
        }
        keep
    });
}
