//! How many live flows are at a node that their row does not name, while Deployments are
//! rolled (maxSurge and maxUnavailable 25 %, graceful termination) and scaled: those are left
//! to the last resort.
use crate::plan::{PlannedRow, rows::RowEndpoint};
use lb_common::{
    hash::{endpoint_digest, row_index, row_mask, row_score},
    maps::mapped,
};
use std::net::IpAddr;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

struct Pod {
    number: u32,
    node: u16,
    old: bool,
    ready_at: i32,
    /// When it began to end.
    ending: Option<i32>,
}

struct Flow {
    hash: u32,
    pod: u32,
    node: u16,
    until: i32,
}

const READY_AFTER: i32 = 5;
const GRACE: i32 = 30;
const LIFE: i32 = 60;

struct Cluster {
    random: Random,
    nodes: u16,
    pods: Vec<Pod>,
    made: u32,
}

impl Cluster {
    /// A pod on one of the nodes that have the fewest.
    fn create(&mut self, ready_at: i32, old: bool) {
        let load = |node| self.pods.iter().filter(|p| p.node == node && p.ending.is_none()).count();
        let least = (0..self.nodes).map(load).min().unwrap();
        let free: Vec<_> = (0..self.nodes).filter(|node| load(*node) == least).collect();
        let node = free[self.random.below(free.len())];
        self.made += 1;
        self.pods.push(Pod { number: self.made, node, old, ready_at, ending: None });
    }

    fn end(&mut self, count: usize, now: i32) {
        for _ in 0..count {
            let old: Vec<_> = (0..self.pods.len())
                .filter(|i| self.pods[*i].old && self.pods[*i].ending.is_none())
                .collect();
            if !old.is_empty() {
                self.pods[old[self.random.below(old.len())]].ending = Some(now);
            }
        }
    }

    /// What the Deployment's controller does; false once there is nothing left to do.
    fn roll(&mut self, wanted: usize, now: i32) -> bool {
        let (surge, unavailable) = (wanted.div_ceil(4), wanted / 4);
        let count = |of: &dyn Fn(&Pod) -> bool| self.pods.iter().filter(|p| of(p)).count();
        let there = count(&|p| p.ending.is_none());
        let new = count(&|p| p.ending.is_none() && !p.old);
        let ready = count(&|p| p.ending.is_none() && p.ready_at <= now);
        for _ in 0..(wanted + surge).saturating_sub(there).min(wanted.saturating_sub(new)) {
            let ready_at = now + READY_AFTER - 2 + self.random.below(5) as i32;
            self.create(ready_at, false);
        }
        self.end(ready.saturating_sub(wanted - unavailable), now);
        self.pods.iter().any(|p| p.old || p.ending.is_some() || p.ready_at > now)
    }
}

/// The share of live flows that are missed: at the worst moment, and on average. From `pods`
/// to `wanted`, or a roll if these are the same.
fn missed(seed: u64, nodes: u16, pods: usize, wanted: usize) -> (f64, f64) {
    let mut cluster = Cluster { random: Random(seed), nodes, pods: Vec::new(), made: 0 };
    (0..pods).for_each(|_| cluster.create(i32::MIN, true));
    let mut listed = Vec::new();
    let mut table: Vec<PlannedRow> = Vec::new();
    let mut flows: Vec<Flow> = Vec::new();
    let (mut worst, mut sum, mut moments) = (0f64, 0.0, 0);
    let mut more = true;
    let mut last = GRACE + LIFE;
    for now in -3 * LIFE.. {
        match wanted.cmp(&pods) {
            std::cmp::Ordering::Equal if now >= 0 => more = cluster.roll(wanted, now),
            std::cmp::Ordering::Greater if now == 0 => {
                (pods..wanted).for_each(|_| cluster.create(READY_AFTER, false));
            }
            std::cmp::Ordering::Less if now == 0 => cluster.end(pods - wanted, now),
            _ => more = pods == wanted,
        }
        last -= i32::from(now >= 0 && !more);
        if last == 0 {
            break;
        }
        cluster.pods.retain(|p| p.ending.is_none_or(|at| at + GRACE > now));
        let list: Vec<_> = cluster
            .pods
            .iter()
            .map(|p| {
                let [_, b, c, d] = p.number.to_be_bytes();
                let takes_new = p.ready_at <= now && p.ending.is_none();
                RowEndpoint { address: IpAddr::from([10, b, c, d]), node: p.node, takes_new }
            })
            .collect();
        if list != listed {
            table = super::rows::rows(&list);
            listed = list;
        }
        let count = table.len() as u32;
        let row = |hash| table[row_index(hash, count, row_mask(count)) as usize];
        flows.retain(|f| f.until > now && cluster.pods.iter().any(|p| p.number == f.pod));
        for _ in 0..20 {
            let hash = cluster.random.next() as u32;
            let Some(node) = row(hash).first() else { continue };
            // Which of the node's pods it is decides when the flow ends.
            let own: Vec<_> = (cluster.pods.iter())
                .filter(|p| p.node == node && p.ready_at <= now && p.ending.is_none())
                .map(|p| p.number)
                .collect();
            let at = row_index(hash, count, row_mask(count));
            let score = |pod: &u32| {
                let [_, b, c, d] = pod.to_be_bytes();
                row_score(endpoint_digest(mapped([10, b, c, d])), at)
            };
            let pod = own.into_iter().max_by_key(score).unwrap();
            let until = now + 1 + cluster.random.below(2 * LIFE as usize) as i32;
            flows.push(Flow { hash, pod, node, until });
        }
        if now >= 0 {
            let lost = flows.iter().filter(|f| !row(f.hash).nodes.contains(&f.node)).count();
            let share = lost as f64 / flows.len().max(1) as f64;
            worst = worst.max(share);
            sum += share;
            moments += 1;
        }
    }
    (worst, sum / f64::from(moments))
}

#[test]
fn rows_name_the_holders_of_most_flows_while_pods_change() {
    // Nodes, pods before and after; the most that may be missed at worst and on average.
    let cases = [
        (3, 6, 6, 0.0, 0.0),
        (10, 20, 20, 0.05, 0.015),
        (30, 60, 60, 0.10, 0.03),
        (12, 12, 12, 0.05, 0.015),
        (20, 8, 9, 0.0, 0.0),
        (20, 16, 17, 0.0, 0.0),
        // From one class to the next, and back.
        (8, 4, 5, 0.02, 0.01),
        (8, 5, 4, 0.02, 0.01),
        (8, 4, 4, 0.04, 0.01),
        (8, 5, 5, 0.10, 0.02),
    ];
    for (nodes, pods, wanted, most, mean) in cases {
        let runs = 2;
        let (mut worst, mut average) = (0.0, 0.0);
        for seed in 1..=runs {
            let (at_worst, on_average) = missed(seed, nodes, pods, wanted);
            worst += at_worst / runs as f64;
            average += on_average / runs as f64;
        }
        println!(
            "{nodes} nodes, {pods} pods to {wanted}: {:.1} % missed at worst, {:.1} % on average",
            100.0 * worst,
            100.0 * average
        );
        assert!(worst <= most && average <= mean, "{nodes} {pods} {wanted}: {worst} {average}");
    }
}
