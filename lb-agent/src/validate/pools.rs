//! Pools.
use super::{Entry, Fault, Kind, Objects, Verdict, by_age, duplicates, selectors};
use crate::{
    api::IPAddressPoolSpec,
    ipam::pools::{Family, Range},
};

/// Judges all pools: an older one keeps what a younger one also lists.
pub(super) fn judge(objects: &Objects, verdict: &mut Verdict) {
    let mut taken: Vec<(&str, Range)> = Vec::new();
    for (name, entry) in by_age(&objects.pools) {
        let (ranges, mut faults) = own(&entry.spec);
        for (i, range) in &ranges {
            if let Some((other, _)) = taken.iter().find(|(_, other)| overlap(other, range)) {
                faults.push(Fault::new(
                    format!("spec.addresses[{i}]"),
                    &entry.spec.addresses[*i],
                    format!("overlaps the IPAddressPool {other}, which is older"),
                    "take the common addresses out of one of the two",
                ));
            }
        }
        if faults.is_empty() {
            taken.extend(ranges.into_iter().map(|(_, range)| (name, range)));
        }
        verdict.add(Kind::Pool, name, faults);
    }
}

/// What a pool's entries are, and what is wrong with it by itself.
fn own(spec: &IPAddressPoolSpec) -> (Vec<(usize, Range)>, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut ranges: Vec<(usize, Range)> = Vec::new();
    if spec.addresses.is_empty() {
        faults.push(Fault::new(
            "spec.addresses",
            "",
            "is empty",
            "list a prefix such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20",
        ));
    }
    for (i, entry) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        match Range::parse(entry) {
            Err(why) => {
                let problem = format!("cannot be used, since {why}");
                faults.push(Fault::new(field, entry, problem, "correct or remove it"));
            }
            Ok(range) => match ranges.iter().find(|(_, other)| overlap(other, &range)) {
                Some((j, _)) => faults.push(Fault::new(
                    field,
                    entry,
                    format!("overlaps spec.addresses[{j}]"),
                    "take the common addresses out of one of the two",
                )),
                None => ranges.push((i, range)),
            },
        }
    }
    if let Some(allocation) = &spec.service_allocation {
        let field = "spec.serviceAllocation";
        faults.extend(duplicates(&format!("{field}.namespaces"), &allocation.namespaces));
        let namespaces = &allocation.namespace_selectors;
        faults.extend(selectors::check(&format!("{field}.namespaceSelectors"), namespaces));
        let services = &allocation.service_selectors;
        faults.extend(selectors::check(&format!("{field}.serviceSelectors"), services));
    }
    (ranges, faults)
}

fn overlap(a: &Range, b: &Range) -> bool {
    a.family == b.family && a.first <= b.last && b.first <= a.last
}

/// The entries of a pool that can be used, with their text.
pub(super) fn ranges(entry: &Entry<IPAddressPoolSpec>) -> impl Iterator<Item = (&str, Range)> {
    let addresses = entry.spec.addresses.iter();
    addresses.filter_map(|text| Some((text.as_str(), Range::parse(text).ok()?)))
}

/// The families that a pool has addresses of: IPv4, IPv6.
pub(super) fn families(entry: &Entry<IPAddressPoolSpec>) -> (bool, bool) {
    ranges(entry).fold((false, false), |(v4, v6), (_, range)| match range.family {
        Family::V4 => (true, v6),
        Family::V6 => (v4, true),
    })
}

/// The length of the shortest prefix that lies in a range: that of its largest aligned block.
pub(super) fn shortest_prefix(range: &Range) -> u32 {
    let bits = match range.family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    (0..=bits).find(|length| has_block(range, bits - length)).unwrap_or(bits)
}

/// Whether a range holds an aligned block of 2^`size` addresses.
fn has_block(range: &Range, size: u32) -> bool {
    let Some(block) = 1_u128.checked_shl(size) else {
        return range.first == 0 && range.last == u128::MAX;
    };
    let Some(start) = range.first.checked_next_multiple_of(block) else { return false };
    start.checked_add(block - 1).is_some_and(|end| end <= range.last)
}
