//! How full the address pools are, under MetalLB's names.
use crate::ipam::PoolUsage;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
};
use std::{collections::BTreeMap, fmt};

type Count = fn(&PoolUsage) -> i64;

/// Name, help and value. Counts end at [`i64::MAX`], as they do in the pools' status.
const GAUGES: [(&str, &str, Count); 6] = [
    ("metallb_allocator_addresses_total", "Usable addresses of a pool", |u| {
        total_v4(u).saturating_add(total_v6(u))
    }),
    (
        "metallb_allocator_addresses_in_use_total",
        "Addresses of a pool that Services have; one that several share counts once",
        |u| u.assigned_v4.saturating_add(u.assigned_v6),
    ),
    ("metallb_allocator_ipv4_addresses_total", "Usable IPv4 addresses of a pool", total_v4),
    (
        "metallb_allocator_ipv4_addresses_in_use_total",
        "IPv4 addresses of a pool that Services have",
        |u| u.assigned_v4,
    ),
    ("metallb_allocator_ipv6_addresses_total", "Usable IPv6 addresses of a pool", total_v6),
    (
        "metallb_allocator_ipv6_addresses_in_use_total",
        "IPv6 addresses of a pool that Services have",
        |u| u.assigned_v6,
    ),
];

fn total_v4(usage: &PoolUsage) -> i64 {
    usage.assigned_v4.saturating_add(usage.available_v4)
}

fn total_v6(usage: &PoolUsage) -> i64 {
    usage.assigned_v6.saturating_add(usage.available_v6)
}

/// Only the allocator knows them, so that each is told once in a cluster.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    pools: &BTreeMap<String, PoolUsage>,
) -> fmt::Result {
    if pools.is_empty() {
        return Ok(());
    }
    for (name, help, count) in GAUGES {
        let kind = ConstGauge::new(0i64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (pool, usage) in pools {
            let gauge = ConstGauge::new(count(usage));
            gauge.encode(family.encode_family(&[("pool", pool.as_str())])?)?;
        }
    }
    Ok(())
}
