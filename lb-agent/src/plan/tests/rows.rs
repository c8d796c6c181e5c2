use crate::{
    plan::{
        EndpointAddress, LocalEndpoints, PLAN_VERSION, PlannedRow, RowCache, Rows,
        balance::{NOBODY, Taker, balance},
        rows::{RowEndpoint, fragment_rows, row_count, table},
    },
    snapshot::Protocol,
};
use lb_common::{
    hash::{endpoint_digest, row_before, row_score},
    maps::{NO_NODE, mapped},
};
use proptest::prelude::*;
use std::{cmp::Reverse, net::IpAddr, sync::Arc};

fn endpoint(n: u32, node: u16, takes_new: bool) -> RowEndpoint {
    let [_, b, c, d] = n.to_be_bytes();
    RowEndpoint { address: IpAddr::from([10, b, c, d]), node, takes_new }
}

fn at(address: IpAddr, port: u16) -> EndpointAddress {
    EndpointAddress { address, port, protocol: Protocol::Tcp }
}

pub(super) fn rows(endpoints: &[RowEndpoint]) -> Vec<PlannedRow> {
    let mut sorted = endpoints.to_vec();
    sorted.sort();
    table(
        &sorted,
        match sorted.iter().filter(|e| e.takes_new).count() {
            0 => sorted.len(),
            taking => taking,
        },
    )
}

fn score(address: IpAddr, row: u32) -> u64 {
    let IpAddr::V4(v4) = address else { unreachable!() };
    row_score(endpoint_digest(mapped(v4.octets())), row)
}

/// The rule as it is told.
fn told(endpoints: &[RowEndpoint]) -> Vec<PlannedRow> {
    let taking = endpoints.iter().filter(|e| e.takes_new).count();
    let taking = if taking == 0 { endpoints.len() } else { taking };
    let order = |row| {
        let mut order = endpoints.to_vec();
        order.sort_by_cached_key(|e| (Reverse(score(e.address, row)), *e));
        order
    };
    let position = |endpoint: Option<&RowEndpoint>| {
        let position = endpoints.iter().position(|e| Some(e) == endpoint);
        position.map_or(NOBODY, |position| position as u32)
    };
    let by_score = |row| {
        let order = order(row);
        let first = order.iter().find(|e| e.takes_new);
        let second = order.iter().find(|e| e.takes_new && Some(e.node) != first.map(|e| e.node));
        Taker { first: position(first), second: position(second) }
    };
    let node = |position: u32| endpoints.get(position as usize).map(|e| e.node);
    let mut takers: Vec<_> = (0..row_count(taking)).map(by_score).collect();
    balance(&mut takers, endpoints.len(), taking);
    let one = |(row, taker): (u32, Taker)| {
        let taker = node(taker.first);
        let mut list: Vec<u16> = taker.into_iter().collect();
        let others: Vec<_> =
            order(row).iter().map(|e| e.node).filter(|n| Some(*n) != taker).collect();
        let mut push = |node: Option<u16>| {
            list.extend(node.filter(|node| !list.contains(node)));
        };
        push(others.first().copied());
        if [5, 65].contains(&taking) {
            push(node(by_score(row_before(row, row_count(taking - 1))).first));
        }
        others.iter().for_each(|node| push(Some(*node)));
        let skip = usize::from(taker.is_none());
        let node = |i: usize| i.checked_sub(skip).and_then(|i| list.get(i)).copied();
        PlannedRow { nodes: std::array::from_fn(|i| node(i).unwrap_or(NO_NODE)) }
    };
    (0..).zip(takers).map(one).collect()
}

fn endpoints() -> impl Strategy<Value = Vec<RowEndpoint>> {
    let one = (0..8u16, prop::bool::weighted(0.6));
    prop::collection::btree_map(0..5000u32, one, 1..24)
        .prop_map(|map| map.into_iter().map(|(n, (node, new))| endpoint(n, node, new)).collect())
}

#[test]
fn classes() {
    let classes = [0, 1, 2, 3, 4, 5, 64, 65, 10_000].map(row_count);
    assert_eq!(classes, [0, 256, 512, 768, 768, 8192, 8192, 65_536, 65_536]);
}

/// Agents of different versions must agree: a change here is a new plan version.
#[test]
fn golden_rows() {
    let list: Vec<_> = (1..=6).map(|n| endpoint(n, n as u16, n != 3)).collect();
    let table = rows(&list);
    let shown = [0, 1, 2, 8191].map(|row: usize| table[row].nodes);
    assert_eq!(PLAN_VERSION, 4);
    assert_eq!(shown, GOLDEN);
}
const GOLDEN: [[u16; 4]; 4] = [[4, 5, 6, 3], [5, 4, 1, 2], [2, 4, 3, 1], [5, 4, 1, 2]];

#[test]
fn who_takes_nothing_new_still_has_a_place() {
    assert!(rows(&[]).is_empty());
    let table = rows(&[endpoint(1, 0, false), endpoint(2, 1, false)]);
    assert_eq!(table.len(), 512);
    for row in table {
        assert_eq!(row.first(), None);
        let mut others = row.nodes[1..3].to_vec();
        others.sort_unstable();
        assert_eq!((others, row.nodes[3]), (vec![0, 1], NO_NODE));
    }
}

#[test]
fn the_only_one_that_takes_new_flows_stands_first_and_the_others_behind() {
    let mut list: Vec<_> = (0..7).map(|n| endpoint(n, n as u16, false)).collect();
    list.push(endpoint(7, 7, true));
    for row in rows(&list) {
        assert_eq!(row.first(), Some(7));
        assert!(row.nodes.iter().all(|node| *node != NO_NODE));
    }
}

#[test]
fn every_endpoint_gets_an_equal_share() {
    for count in [1u32, 2, 3, 4, 5, 16, 17, 64, 65, 200] {
        // Endpoints crowd on few nodes: the share goes by endpoint, not by node.
        let list: Vec<_> = (0..count).map(|n| endpoint(n, (n * n % 3) as u16, true)).collect();
        let table = rows(&list);
        let mean = table.len() as f64 / f64::from(count);
        let mut sum = 0;
        for node in 0..3 {
            let own: Vec<_> = list.iter().filter(|e| e.node == node).collect();
            let local = own.iter().map(|e| at(e.address, 8080)).collect();
            let local = RowCache::default().local(local, table.len() as u32);
            let of_row = local.by_row();
            for e in own {
                let won = |(row, planned): &(usize, &PlannedRow)| {
                    planned.first() == Some(node) && of_row(*row) == Some(at(e.address, 8080))
                };
                let share = table.iter().enumerate().filter(won).count();
                sum += share;
                // Where no two on different nodes stand next to each other often enough, chance is
                // left: five standard deviations of a binomial distribution.
                let chance = 5.0 * (mean * (1.0 - 1.0 / f64::from(count))).sqrt();
                let limit = if count < 100 { mean / 8.0 } else { chance };
                assert!((share as f64 - mean).abs() <= limit, "{count}: {share} of {mean}");
            }
        }
        assert_eq!(sum, table.len(), "every row has one endpoint");
    }
}

#[test]
fn ports_of_one_address_share_what_it_wins() {
    let address = IpAddr::from([10, 0, 0, 1]);
    let both = vec![at(address, 8080), at(address, 8081)];
    let LocalEndpoints::PerRow(table) = RowCache::default().local(both, 768) else {
        panic!("two have a table");
    };
    let second = table.table().iter().filter(|row| **row == 1).count();
    assert!((300..468).contains(&second), "{second}");
}

#[test]
fn equal_lists_share_rows_and_the_cache_forgets_what_nobody_uses() {
    let [one, two] =
        [1, 2].map(|n| (IpAddr::from([10, 0, 0, n]), Arc::from(format!("n{n}")), true));
    let list = Rows::new([two, one.clone()]);
    assert_eq!((list.nodes().len(), list.len()), (2, 512));
    let mut cache = RowCache::default();
    let a = cache.rows(list.clone());
    assert!(Arc::ptr_eq(&a, &cache.rows(list.clone())));
    cache.rows(Rows::new([one]));
    cache.sweep(1);
    cache.sweep(1);
    assert!(Arc::ptr_eq(&a, &cache.rows(list)), "held by somebody");
    assert_eq!(cache.len(), 1);
    drop(a);
    cache.sweep(1);
    cache.sweep(1);
    assert!(cache.is_empty());
}

#[test]
fn fragments_are_spread_over_the_nodes_and_move_only_with_their_own() {
    let names = ["a", "b", "c", "node-with-a-long-name"];
    let all = fragment_rows(names.into_iter().zip(0..));
    let fewer = fragment_rows(names.into_iter().zip(0..).filter(|(name, _)| *name != "b"));
    assert_eq!((all.len(), fewer.len()), (256, 256));
    for node in 0..4 {
        let share = all.iter().filter(|row| row.first() == Some(node)).count();
        assert!((40..90).contains(&share), "{share}");
    }
    for (before, after) in all.iter().zip(&fewer) {
        assert!(before.first() == Some(1) || before == after);
    }
    assert!(fragment_rows(std::iter::empty()).is_empty());
}

/// Not a measurement (`cargo test` does not optimise), but a guard against scanning
/// where selecting would do: run in release it reports the time.
#[test]
fn a_hundred_endpoints() {
    let list: Vec<_> = (0..100).map(|n| endpoint(n, (n % 30) as u16, true)).collect();
    let start = std::time::Instant::now();
    let table = rows(&list);
    println!("100 endpoints on 30 nodes, {} rows: {:?}", table.len(), start.elapsed());
    assert_eq!(table.len(), 65_536);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..Default::default() })]

    #[test]
    fn rows_are_as_the_rule_tells(list in endpoints()) {
        let table = rows(&list);
        let taking = list.iter().filter(|e| e.takes_new).count();
        let taking = if taking == 0 { list.len() } else { taking };
        prop_assert_eq!(table.len() as u32, row_count(taking));
        let told = told(&list);
        for (row, (planned, told)) in table.iter().zip(&told).enumerate() {
            prop_assert_eq!(planned, told, "row {}", row);
        }
    }

    #[test]
    fn order_of_the_list_is_of_no_account(list in endpoints().prop_shuffle()) {
        let mut sorted = list.clone();
        sorted.sort();
        prop_assert_eq!(rows(&list), rows(&sorted));
    }
}
