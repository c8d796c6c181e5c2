//! 10,000 VIP ports with distinct random sets of 3 pods over 100 nodes: how long planning and
//! working out the writes take, how many rows there are, how even shares are.
//!
//! `cargo test --release -p lb-agent --lib scale -- --ignored --nocapture`
use super::{super::state::Contents, *};
use crate::{
    membership::{Alive, AliveNode},
    plan::{PlanCache, PlanOptions, plan_with},
    snapshot::{EndpointSlice, Snapshot},
    testing::{cluster, endpoint, holder, pool, slice},
};
use lb_common::maps::{NO_ENDPOINT, NO_NODE, Row};
use std::time::{Duration, Instant};

const PORTS: u32 = 10_000;
const NODES: u8 = 100;
/// 64 MiB of rows of eight bytes.
const ROWS: u32 = (64 << 20) / 8;

/// `ROWS` and `ROW_ENDPOINTS` in memory.
struct Tables {
    rows: Vec<Row>,
    endpoints: Vec<u32>,
}

impl ReadRows for Tables {
    fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index as usize).copied()
    }

    fn row_endpoint(&self, index: u32) -> Option<u32> {
        self.endpoints.get(index as usize).copied()
    }
}

impl Tables {
    fn carry_out(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Rows(start, rows) => {
                    let start = *start as usize;
                    self.rows[start..start + rows.len()].copy_from_slice(rows);
                }
                Write::RowEndpoints(start, endpoints) => {
                    let start = *start as usize;
                    self.endpoints[start..start + endpoints.len()].copy_from_slice(endpoints);
                }
                _ => {}
            }
        }
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn pods(number: u32, state: &mut u64) -> EndpointSlice {
    let mut nodes = BTreeSet::new();
    while nodes.len() < 3 {
        nodes.insert(random(state) % u64::from(NODES) + 1);
    }
    let pods = nodes.into_iter().enumerate().map(|(pod, node)| {
        let [_, _, a, b] = (number * 4 + pod as u32).to_be_bytes();
        endpoint(&format!("10.{node}.{a}.{b}"), &format!("n{node}"))
    });
    slice(&format!("s{number:05}"), pods.collect())
}

fn snapshot() -> Snapshot {
    let mut state = 1;
    let vip = |number: u32| format!("198.18.{}.{}", number >> 8, number & 0xff);
    let mut snapshot = cluster(NODES)
        .with_services((0..PORTS).map(|n| holder(&format!("s{n:05}"), "4", &[&vip(n)])))
        .with_slices((0..PORTS).map(|n| pods(n, &mut state)));
    snapshot.pools.insert("wide".to_owned(), pool(&["198.18.0.0/15"]));
    snapshot
}

#[test]
#[ignore = "a measurement, which only an optimised build can make"]
fn scale_of_tables() {
    let mut snapshot = snapshot();
    let alive: Alive =
        snapshot.nodes.keys().map(|n| (n.clone(), AliveNode::new(["eth0"]))).collect();
    let options = PlanOptions::default();
    let mut cache = PlanCache::default();
    let mut state = State::adopt(Contents::empty(ROWS, 1 << 19));
    let empty = Row { nodes: [NO_NODE; 4] };
    let mut tables =
        Tables { rows: vec![empty; ROWS as usize], endpoints: vec![NO_ENDPOINT; 1 << 19] };
    let (uplinks, neighbours) = (Vec::new(), Reach::default());
    let mut now = 1_000_000_000_000;
    let mut round = |snapshot: &Snapshot, label: &str| {
        let start = Instant::now();
        let plan = plan_with(snapshot, "n1", &alive, &options, &mut cache);
        let planned = start.elapsed();
        let inputs = Inputs { plan: &plan, me: "n1", uplinks: &uplinks, reach: &neighbours };
        let changes = changes(&mut state, inputs, &tables, now);
        let worked_out = start.elapsed() - planned;
        tables.carry_out(&changes.writes);
        now += 2_000_000_000;
        println!(
            "{label}: planned in {planned:?}, {} writes worked out in {worked_out:?}, {:?} in all",
            changes.writes.len(),
            start.elapsed()
        );
        assert_eq!(changes.problems, []);
        (plan, changes.writes.len(), start.elapsed())
    };
    let (plan, _, full) = round(&snapshot, "full build");
    let rows: usize = plan.services.values().map(|s| s.rows.len()).sum();
    println!("rows: {rows}, {} bytes", rows * size_of::<Row>());
    assert!(rows * size_of::<Row>() <= 64 << 20);
    assert!(full <= Duration::from_secs(2), "full build: {full:?}");

    let mut longest = Duration::ZERO;
    for number in [17usize, 4711, 9998, 5000, 1] {
        let slice = snapshot.endpoint_slices.values_mut().nth(number).unwrap();
        slice.endpoints[0].ready = !slice.endpoints[0].ready;
        let (_, writes, took) = round(&snapshot, "one endpoint's change");
        assert!((2..6).contains(&writes), "{writes}");
        longest = longest.max(took);
    }
    assert!(longest <= Duration::from_millis(10), "one endpoint's change: {longest:?}");

    let mut shares = Vec::new();
    for service in plan.services.values() {
        let mut wins = BTreeMap::<_, u32>::new();
        for row in service.rows.iter() {
            *wins.entry(row.first()).or_default() += 1;
        }
        shares.extend(wins.into_values().map(|wins| (f64::from(wins) / 256.0 - 1.0).abs()));
    }
    shares.sort_by(f64::total_cmp);
    let (most, worst) = (shares[shares.len() * 999 / 1000], shares[shares.len() - 1]);
    println!("{} pods: 99.9 % within {most:.3} of ideal, all within {worst:.3}", shares.len());
    assert!(shares.len() == 3 * PORTS as usize && most <= 0.12);
}
