//! What membership costs, and how soon it notices, in clusters of all sizes. Run by hand: the largest takes
//! minutes, and only in release mode.
use super::simulation::*;
use std::{fs, time::Duration};

/// Nodes that are cut, one after another; of a cluster in which each has a thousand witnesses, fewer.
const CUTS: usize = 20;
const CUTS_OF_MANY: usize = 5;
/// For how long the traffic of a calm cluster is counted.
const CALM_S: u64 = 10;

/// Processor time of this thread so far, whatever else the machine does (`Documentation/scheduler/sched-stats.rst`).
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn measure(count: usize) -> String {
    let mut lab = Lab::empty(count, 7);
    lab.faults = Faults {
        loss: 1000,
        doubled: 1000,
        trip: (Duration::from_micros(50), Duration::from_micros(500)),
    };
    lab.watched = false;
    if count > 100 {
        lab.together = Duration::from_millis(2);
    }
    for at in 0..count {
        lab.start(at);
    }
    let knows_all =
        |lab: &Lab| lab.agents.iter().flatten().all(|agent| agent.alive().len() == count);
    let mut seconds = 2;
    lab.run(2000);
    while !knows_all(&lab) {
        assert!(seconds < 60, "{count}: not all know all after a minute");
        lab.run(1000);
        seconds += 1;
    }
    println!("{count} nodes that start together know each other within {seconds} s");
    lab.run(3000);
    lab.traffic.iter_mut().for_each(|traffic| *traffic = Traffic::default());
    let before = processor_time();
    lab.run(CALM_S * 1000);
    let busy = (processor_time() - before) / count as u32 / CALM_S as u32;
    let most = lab.traffic.iter().map(|t| t.datagrams).max().unwrap_or_default() / CALM_S;
    let mean =
        |of: fn(&Traffic) -> u64| lab.traffic.iter().map(of).sum::<u64>() / count as u64 / CALM_S;
    let (datagrams, bytes) = (mean(|t| t.datagrams), mean(|t| t.bytes));

    let mut noticed = Vec::new();
    println!("{datagrams} datagrams/s of a node, {:.1} ms/s of CPU", busy.as_secs_f64() * 1e3);
    for cut in 0..if count > 100 { CUTS_OF_MANY } else { CUTS } {
        let at = cut * 37 % count;
        let phase = lab.random() % 30;
        lab.run(phase);
        lab.watched = true;
        let began = lab.time();
        let name = lab.names[at].clone();
        lab.cut(at);
        lab.run(1000);
        for of in (0..count).filter(|of| *of != at) {
            let mut views = lab.seen.iter().filter(|(when, n, _)| *n == of && *when > began);
            let (when, ..) = views.find(|(.., view)| !view.contains_key(&name)).unwrap();
            noticed.push(*when - began);
        }
        lab.cut.clear();
        (lab.watched, lab.seen) = (false, Vec::new());
        // Each has a minute to be forgiven.
        lab.run(if count > 20 { 1500 } else { 70_000 });
    }
    noticed.sort();
    let percentile = |of: usize| noticed[(noticed.len() * of).div_ceil(1000) - 1].as_millis();
    format!(
        "| {count} | {} | {} | {} | {datagrams} ({most}) | {} | {:.1} |",
        percentile(500),
        percentile(990),
        percentile(1000),
        bytes / 1000,
        busy.as_secs_f64() * 1e3
    )
}

#[test]
#[ignore = "takes minutes; its figures stand in docs/design.md"]
fn costs() {
    println!(
        "| nodes | noticed, ms: p50 | p99 | last | datagrams/s of a node (most) | kB/s of a node | CPU of a node, ms/s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for count in [3, 6, 20, 100, 1000] {
        println!("{}", measure(count));
    }
}
