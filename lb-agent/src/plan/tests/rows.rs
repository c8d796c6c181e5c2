use crate::{
    plan::{
        EndpointAddress, PLAN_VERSION, PlannedRow, RowCache,
        rows::{RowEndpoint, row_count, rows},
    },
    snapshot::Protocol,
};
use lb_common::{
    hash::{endpoint_digest, row_score},
    maps::mapped,
};
use proptest::prelude::*;
use std::{cmp::Reverse, net::IpAddr, sync::Arc};

fn endpoint(n: u32, node: u16, takes_new: bool) -> RowEndpoint {
    let [_, b, c, d] = n.to_be_bytes();
    let address = IpAddr::from([10, b, c, d]);
    let address = EndpointAddress { address, port: 8080, protocol: Protocol::Tcp };
    RowEndpoint { address, node, takes_new }
}

/// The rule as it is told: sort all by score, reduce to nodes, take four.
fn told(row: u32, endpoints: &[RowEndpoint], me: Option<u16>) -> PlannedRow {
    let mut order = endpoints.to_vec();
    order.sort_by_key(|e| {
        let IpAddr::V4(v4) = e.address.address else { unreachable!() };
        (Reverse(row_score(endpoint_digest(mapped(v4.octets())), row)), e.address)
    });
    let mut list: Vec<u16> = Vec::new();
    for e in &order {
        if !list.contains(&e.node) {
            list.push(e.node);
        }
    }
    let takes = order.iter().find(|e| e.takes_new).unwrap().node;
    list.truncate(4);
    if !list.contains(&takes) {
        list[3] = takes;
    }
    let mine = order.iter().find(|e| Some(e.node) == me && e.takes_new);
    PlannedRow {
        nodes: std::array::from_fn(|i| list.get(i).copied()),
        first: list.iter().position(|n| *n == takes).unwrap() as u8,
        endpoint: mine.map(|e| e.address),
    }
}

fn endpoints() -> impl Strategy<Value = Vec<RowEndpoint>> {
    let one = (0..8u16, prop::bool::weighted(0.6));
    prop::collection::btree_map(0..5000u32, one, 1..24)
        .prop_map(|map| map.into_iter().map(|(n, (node, new))| endpoint(n, node, new)).collect())
}

#[test]
fn classes() {
    let classes = [0, 1, 2, 4, 5, 16, 17, 64, 65, 10_000].map(row_count);
    assert_eq!(classes, [0, 256, 1024, 1024, 4096, 4096, 16_384, 16_384, 65_536, 65_536]);
    for n in 1..=256 {
        assert!(row_count(n).is_power_of_two() && row_count(n) >= 256 * n.min(256) as u32);
    }
}

/// Agents of different versions must agree: a change here is a new plan version.
#[test]
fn golden_rows() {
    let list: Vec<_> = (1..=6).map(|n| endpoint(n, n as u16, n != 3)).collect();
    let table = rows(&list, None);
    let shown = [0, 1, 2, 4095].map(|row: usize| {
        let nodes = table[row].nodes.map(Option::unwrap_or_default);
        (nodes, table[row].first)
    });
    assert_eq!(PLAN_VERSION, 1);
    assert_eq!(shown, GOLDEN);
}
const GOLDEN: [([u16; 4], u8); 4] =
    [([3, 6, 4, 5], 1), ([1, 5, 6, 3], 0), ([1, 5, 2, 6], 0), ([2, 6, 1, 4], 0)];

#[test]
fn none_for_new_flows_none_at_all() {
    assert!(rows(&[], None).is_empty());
    assert!(rows(&[endpoint(1, 0, false), endpoint(2, 1, false)], Some(0)).is_empty());
}

#[test]
fn a_node_that_takes_new_flows_is_among_the_four_even_if_it_stands_last() {
    let mut list: Vec<_> = (0..7).map(|n| endpoint(n, n as u16, false)).collect();
    list.push(endpoint(7, 7, true));
    for row in rows(&list, Some(7)) {
        assert_eq!(row.nodes[usize::from(row.first)], Some(7));
        assert_eq!(row.endpoint, Some(list[7].address));
    }
    assert!(rows(&list, None).iter().any(|r| r.first == 3));
}

#[test]
fn every_endpoint_gets_an_equal_share() {
    for count in [1u32, 2, 3, 4, 5, 16, 17, 64, 65, 200] {
        // Endpoints crowd on few nodes: the share goes by endpoint, not by node.
        let list: Vec<_> = (0..count).map(|n| endpoint(n, (n * n % 3) as u16, true)).collect();
        let total = rows(&list, None).len() as f64;
        let mean = total / f64::from(count);
        let mut sum = 0;
        for node in 0..3 {
            let table = rows(&list, Some(node));
            for e in list.iter().filter(|e| e.node == node) {
                let won = |r: &&PlannedRow| {
                    r.endpoint == Some(e.address) && r.nodes[usize::from(r.first)] == Some(node)
                };
                let share = table.iter().filter(won).count();
                sum += share;
                // Five standard deviations of a binomial distribution.
                let limit = 5.0 * (mean * (1.0 - 1.0 / f64::from(count))).sqrt();
                assert!((share as f64 - mean).abs() <= limit, "{count}: {share} of {total}");
            }
        }
        assert_eq!(sum as f64, total, "every row has one endpoint");
    }
}

#[test]
fn equal_lists_share_rows_and_the_cache_forgets_what_a_plan_did_not_use() {
    let list = vec![endpoint(1, 0, true), endpoint(2, 1, true)];
    let mut cache = RowCache::default();
    let a = cache.rows(list.clone(), Some(0));
    assert!(Arc::ptr_eq(&a, &cache.rows(list.clone(), Some(0))));
    let b = cache.rows(list.clone(), Some(1));
    assert_ne!(a, b, "each node has its own endpoint");
    let c = cache.rows(list.clone(), Some(5));
    assert!(Arc::ptr_eq(&c, &cache.rows(list.clone(), None)), "no endpoint on either");
    cache.sweep();
    assert!(Arc::ptr_eq(&a, &cache.rows(list, Some(0))));
    cache.sweep();
    assert_eq!(cache.len(), 1);
}

/// Not a measurement (`cargo test` does not optimise), but a guard against scanning
/// where selecting would do: run in release it reports the time.
#[test]
fn a_hundred_endpoints() {
    let list: Vec<_> = (0..100).map(|n| endpoint(n, (n % 30) as u16, true)).collect();
    let start = std::time::Instant::now();
    let table = rows(&list, Some(0));
    println!("100 endpoints on 30 nodes, {} rows: {:?}", table.len(), start.elapsed());
    assert_eq!(table.len(), 65_536);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..Default::default() })]

    #[test]
    fn rows_are_as_the_rule_tells(list in endpoints(), me in 0..9u16) {
        let table = rows(&list, Some(me));
        if list.iter().any(|e| e.takes_new) {
            prop_assert_eq!(table.len() as u32, row_count(list.len()));
            for (row, planned) in (0..).zip(&table) {
                prop_assert_eq!(*planned, told(row, &list, Some(me)));
            }
        } else {
            prop_assert!(table.is_empty());
        }
    }

    #[test]
    fn order_of_the_list_is_of_no_account(list in endpoints().prop_shuffle()) {
        let mut sorted = list.clone();
        sorted.sort();
        prop_assert_eq!(rows(&list, Some(1)), rows(&sorted, Some(1)));
    }

    /// Removing an endpoint changes only the rows where it stood among the four, and
    /// leaves the order of the others.
    #[test]
    fn removing_one_changes_only_its_own_rows(list in endpoints(), which in any::<prop::sample::Index>()) {
        let gone = *which.get(&list);
        let rest: Vec<_> = list.iter().copied().filter(|e| *e != gone).collect();
        let (before, after) = (rows(&list, None), rows(&rest, None));
        for (row, (old, new)) in before.iter().zip(&after).enumerate() {
            let shared = list.iter().any(|e| e.node == gone.node && *e != gone);
            if !old.nodes.contains(&Some(gone.node)) {
                prop_assert_eq!(old, new, "row {}", row);
            } else if old.first != 3 && new.first != 3 && !shared {
                let left: Vec<_> =
                    old.nodes.iter().flatten().filter(|n| **n != gone.node).collect();
                let kept: Vec<_> = new.nodes.iter().flatten().take(left.len()).collect();
                prop_assert_eq!(left, kept, "row {}", row);
            }
        }
    }

    /// Whether an endpoint takes new flows does not move it in the order for old flows.
    #[test]
    fn draining_keeps_the_order(list in endpoints(), which in any::<prop::sample::Index>()) {
        let mut drained = list.clone();
        which.get_mut(&mut drained).takes_new = false;
        for (old, new) in rows(&list, None).iter().zip(&rows(&drained, None)) {
            prop_assert_eq!(&old.nodes[..3], &new.nodes[..3]);
        }
    }
}
