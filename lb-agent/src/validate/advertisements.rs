//! Advertisements and the names of communities.
use super::{
    Entry, Fault, Kind, Objects, Verdict,
    annotations::{self, LINK_BANDWIDTH},
    by_age, duplicates, in_range, pools, selectors, values,
};
use crate::{
    api::{BGPAdvertisementSpec, IPAddressPoolSpec, L2AdvertisementSpec},
    ipam::pools::Family,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with an L2Advertisement.
pub(super) fn l2(spec: &L2AdvertisementSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(duplicates("spec.ipAddressPools", &spec.ip_address_pools));
    for (field, list) in [
        ("spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
        ("spec.nodeSelectors", &spec.node_selectors),
        ("spec.serviceSelectors", &spec.service_selectors),
    ] {
        faults.extend(selectors::check(field, list));
    }
    for (i, preference) in spec.preferred_node_selectors.iter().enumerate() {
        let field = format!("spec.preferredNodeSelectors[{i}]");
        faults.extend(in_range(&format!("{field}.weight"), preference.weight.into(), 1..=100));
        let selector = &preference.preference;
        faults.extend(selectors::check_one(&format!("{field}.preference"), selector));
    }
    faults
}

/// Judges all Communities. Returns the names that can be used, and in which object they are.
pub(super) fn communities<'a>(
    objects: &'a Objects,
    verdict: &mut Verdict,
) -> BTreeMap<&'a str, &'a str> {
    let mut aliases: BTreeMap<&str, &str> = BTreeMap::new();
    for (object, entry) in by_age(&objects.communities) {
        let mut faults = Vec::new();
        let mut own = BTreeSet::new();
        for (i, alias) in entry.spec.communities.iter().enumerate() {
            let field = format!("spec.communities[{i}]");
            faults.extend(bad_community(&format!("{field}.value"), &alias.value));
            let problem = if !own.insert(alias.name.as_str()) {
                Some("is given twice in this object".to_owned())
            } else {
                aliases
                    .get(alias.name.as_str())
                    .map(|other| format!("is given by the Community {other}, too, which is older"))
            };
            faults.extend(problem.map(|problem| {
                let field = format!("{field}.name");
                Fault::new(field, &alias.name, problem, "choose another name for one of the two")
            }));
        }
        if faults.is_empty() {
            aliases.extend(own.into_iter().map(|name| (name, object)));
        }
        verdict.add(Kind::Community, object, faults);
    }
    aliases
}

fn bad_community(field: &str, text: &str) -> Option<Fault> {
    values::community(text).is_none().then(|| {
        Fault::new(
            field,
            text,
            "is no community",
            "write two numbers up to 65535 (65000:100), or large: and three up to 4294967295 \
             (large:65000:1:2)",
        )
    })
}

/// Judges all BGPAdvertisements.
pub(super) fn bgp(objects: &Objects, aliases: &BTreeMap<&str, &str>, verdict: &mut Verdict) {
    let mut in_force: Vec<(&str, &BGPAdvertisementSpec)> = Vec::new();
    for (name, entry) in by_age(&objects.bgp_advertisements) {
        let spec = &entry.spec;
        let mut faults = bgp_alone(spec, aliases);
        faults.extend(annotations::one_value(entry, LINK_BANDWIDTH, "endpoints"));
        for (pool, entry) in pools_of(objects, spec) {
            if !verdict.is_valid(Kind::Pool, pool) {
                continue;
            }
            faults.extend(too_short(spec, pool, entry));
            let other = in_force.iter().find(|(_, other)| {
                pools_of(objects, other).any(|(name, _)| name == pool)
                    && !agree(objects, spec, other, entry)
            });
            faults.extend(other.map(|(other, _)| {
                Fault::new(
                    "spec.localPref",
                    spec.local_pref.unwrap_or_default(),
                    format!(
                        "differs from that of the BGPAdvertisement {other}, which is older and \
                         announces the same prefixes of the IPAddressPool {pool} from the same \
                         nodes to the same peers"
                    ),
                    "give both the same, or let them differ in pools, aggregation, nodes or peers",
                )
            }));
        }
        if faults.is_empty() {
            in_force.push((name, spec));
        }
        verdict.add(Kind::BgpAdvertisement, name, faults);
    }
}

fn bgp_alone(spec: &BGPAdvertisementSpec, aliases: &BTreeMap<&str, &str>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (v4, v6) = (spec.aggregation_length, spec.aggregation_length_v6);
    faults.extend(in_range("spec.aggregationLength", v4.into(), 1..=32));
    faults.extend(in_range("spec.aggregationLengthV6", v6.into(), 1..=128));
    let local_pref = spec.local_pref.unwrap_or_default();
    faults.extend(in_range("spec.localPref", local_pref.into(), 0..=i32::MAX.into()));
    faults.extend(duplicates("spec.ipAddressPools", &spec.ip_address_pools));
    faults.extend(duplicates("spec.peers", &spec.peers));
    faults.extend(duplicates("spec.communities", &spec.communities));
    for (field, list) in [
        ("spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
        ("spec.nodeSelectors", &spec.node_selectors),
        ("spec.serviceSelectors", &spec.service_selectors),
    ] {
        faults.extend(selectors::check(field, list));
    }
    if !spec.service_selectors.is_empty() {
        for (field, length, whole) in
            [("spec.aggregationLength", v4, 32), ("spec.aggregationLengthV6", v6, 128)]
        {
            if length != whole {
                faults.push(Fault::new(
                    field,
                    length,
                    "and serviceSelectors exclude each other",
                    format!("leave it at {whole}, or remove the serviceSelectors"),
                ));
            }
        }
    }
    for (i, community) in spec.communities.iter().enumerate() {
        let field = format!("spec.communities[{i}]");
        if community.contains(':') {
            faults.extend(bad_community(&field, community));
        } else if !aliases.contains_key(community.as_str()) {
            let fault = Fault::new(
                field,
                community,
                "is neither a community nor the name that a Community gives to one",
                "correct it, or create a Community with that name",
            );
            faults.push(fault.may_pass());
        }
    }
    faults
}

/// The pools that an advertisement is about. Names of pools that are not there are left out.
pub(super) fn pools_of<'a>(
    objects: &'a Objects,
    spec: &'a BGPAdvertisementSpec,
) -> impl Iterator<Item = (&'a str, &'a Entry<IPAddressPoolSpec>)> {
    let all = spec.ip_address_pools.is_empty() && spec.ip_address_pool_selectors.is_empty();
    let pools = objects.pools.iter().map(|(name, entry)| (name.as_str(), entry));
    pools.filter(move |(name, entry)| {
        all || spec.ip_address_pools.iter().any(|n| n == name)
            || selectors::some_matches(&spec.ip_address_pool_selectors, &entry.labels)
    })
}

/// An aggregate must not reach beyond the pool: no shorter than the largest block of an entry.
fn too_short(
    spec: &BGPAdvertisementSpec,
    pool: &str,
    entry: &Entry<IPAddressPoolSpec>,
) -> Option<Fault> {
    pools::ranges(entry).find_map(|(text, range)| {
        let (field, length) = match range.family {
            Family::V4 => ("spec.aggregationLength", spec.aggregation_length),
            Family::V6 => ("spec.aggregationLengthV6", spec.aggregation_length_v6),
        };
        let shortest = pools::shortest_prefix(&range);
        (i64::from(length) < i64::from(shortest)).then(|| {
            Fault::new(
                field,
                length,
                format!("reaches beyond {text} of the IPAddressPool {pool}"),
                format!("give at least {shortest}"),
            )
        })
    })
}

/// Whether two advertisements of a pool give the same preference to the same route. Those with
/// serviceSelectors meet only where a Service does, which is not known here.
fn agree(
    objects: &Objects,
    a: &BGPAdvertisementSpec,
    b: &BGPAdvertisementSpec,
    pool: &Entry<IPAddressPoolSpec>,
) -> bool {
    let (v4, v6) = pools::families(pool);
    let other_v4 = a.aggregation_length != b.aggregation_length;
    let other_v6 = a.aggregation_length_v6 != b.aggregation_length_v6;
    let other_prefixes = (!v4 || other_v4) && (!v6 || other_v6);
    let other_peers = !a.peers.is_empty()
        && !b.peers.is_empty()
        && !a.peers.iter().any(|peer| b.peers.contains(peer));
    let shares_node = || {
        objects.nodes.values().any(|labels| {
            selectors::any_matches(&a.node_selectors, labels)
                && selectors::any_matches(&b.node_selectors, labels)
        })
    };
    a.local_pref.unwrap_or_default() == b.local_pref.unwrap_or_default()
        || !a.service_selectors.is_empty()
        || !b.service_selectors.is_empty()
        || other_prefixes
        || other_peers
        || !shares_node()
}
