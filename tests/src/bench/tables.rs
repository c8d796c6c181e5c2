//! Tables of a large cluster: 10,000 VIP ports with distinct random sets of 3 pods over 100 nodes,
//! planned and written into real maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_agent::{
    datapath::{Options, apply::Datapath, reach::Reach, uplinks::Links},
    membership::{Alive, AliveNode},
    plan::{Plan, PlanCache, PlanOptions, plan_with},
    snapshot::{
        Endpoint, EndpointPort, EndpointSlice, Ingress, IpAddressPool, L2Advertisement, Node,
        ObjectName, Service, ServicePort, Snapshot,
    },
};
use lb_common::maps::Row;

use super::report::Judged;
use crate::{kernel::random::Random, lab::cleanup::Pins};

const PORTS: u32 = 10_000;
const NODES: u8 = 100;
const PODS: usize = 3;
/// As many rows as fit into 64 MiB.
const ROWS: u32 = (64 << 20) / size_of::<Row>() as u32;
/// Single changes that are timed.
const CHANGES: usize = 25;

/// What was found out.
#[derive(Clone, Debug)]
pub struct Tables {
    full: Duration,
    bytes: usize,
    /// Sorted.
    changes: Vec<Duration>,
    /// How far each pod's share is from the ideal, in parts of it; sorted.
    deviations: Vec<f64>,
}

/// Plans and writes everything, then one endpoint's change after the other.
///
/// # Errors
/// Not root, or the maps cannot be made: they take 64 MiB and more.
pub fn measure() -> Result<Tables> {
    let pins = Pins::new()?;
    let options = Options { pin_dir: pins.directory(), rows: ROWS, ..Options::default() };
    let mut datapath = Datapath::open(&options)?;
    let mut snapshot = snapshot();
    let alive: Alive =
        snapshot.nodes.keys().map(|name| (name.clone(), AliveNode::new(["eth0"]))).collect();
    let mut cache = PlanCache::default();
    let mut round = |snapshot: &Snapshot| -> Result<(Plan, usize, Duration)> {
        let start = Instant::now();
        let plan = plan_with(snapshot, "n1", &alive, &PlanOptions::default(), &mut cache);
        let applied = datapath.apply(&plan, "n1", &Links::default(), &Reach::default())?;
        let took = start.elapsed();
        ensure!(applied.problems.is_empty(), "{:?}", applied.problems);
        Ok((plan, applied.writes, took))
    };
    let (plan, _, full) = round(&snapshot)?;
    let rows: u32 = plan.services.values().map(|service| service.rows.len()).sum();
    ensure!(plan.services.len() == PORTS as usize, "{} ports", plan.services.len());

    let mut changes = Vec::new();
    let mut random = Random::new(7);
    for _ in 0..CHANGES {
        let number = random.below(PORTS as usize);
        let slices = snapshot.slices.values().nth(number).context("a Service's slices")?;
        let mut slice = EndpointSlice::clone(&slices[0]);
        slice.endpoints[0].ready = !slice.endpoints[0].ready;
        snapshot.add_slice(Arc::new(slice));
        let (_, writes, took) = round(&snapshot)?;
        ensure!((1..20).contains(&writes), "one endpoint's change took {writes} writes");
        changes.push(took);
    }
    changes.sort_unstable();
    let bytes = rows as usize * size_of::<Row>();
    Ok(Tables { full, bytes, changes, deviations: deviations(&plan) })
}

impl Tables {
    /// The figures, held against their targets.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { full, bytes, changes, deviations } = self;
        let figure = |name: &str, figure: f64, between, unit, most: f64| Judged {
            name: name.to_owned(),
            figure,
            between,
            unit,
            target: Some(format!("≤ {most}")),
            met: Some(figure <= most),
            note: String::new(),
        };
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let changes: Vec<_> = changes.iter().copied().map(ms).collect();
        let percent = |part: f64| 100.0 * deviations[(deviations.len() - 1) * 999 / 1000] * part;
        let worst = 100.0 * deviations[deviations.len() - 1];
        vec![
            figure("rows of all ports", *bytes as f64 / f64::from(1 << 20), None, "MiB", 64.0),
            figure("planned and written from nothing", ms(*full), None, "ms", 2000.0),
            figure(
                "one endpoint's change planned and written",
                changes[changes.len() / 2],
                Some((changes[0], changes[changes.len() - 1])),
                "ms",
                10.0,
            ),
            Judged {
                note: format!("of 30,000 pods; all within {worst:.0} %"),
                ..figure("99.9 % of pods' shares deviate by at most", percent(1.0), None, "%", 12.0)
            },
        ]
    }
}

/// How far the pods' shares of the rows are from a third, sorted.
fn deviations(plan: &Plan) -> Vec<f64> {
    let mut deviations = Vec::new();
    for service in plan.services.values() {
        // Rows of a table that is no power of two do not all have the same weight.
        let count = service.rows.len();
        let table = service.rows.table();
        let mask = lb_common::hash::row_mask(count);
        let mut wins = BTreeMap::<_, u32>::new();
        for hash in 0..=mask {
            let row = lb_common::hash::row_index(hash, count, mask);
            *wins.entry(table[row as usize].first()).or_default() += 1;
        }
        let ideal = f64::from(mask + 1) / wins.len() as f64;
        deviations.extend(wins.into_values().map(|wins| (f64::from(wins) / ideal - 1.0).abs()));
    }
    deviations.sort_by(f64::total_cmp);
    deviations
}

fn snapshot() -> Snapshot {
    let mut random = Random::new(1);
    let node = |n: u8| {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
        (format!("n{n}"), Node { internal_ips: vec![address], ..Node::default() })
    };
    let pool = IpAddressPool {
        addresses: vec!["198.18.0.0/15".into()],
        auto_assign: true,
        ..IpAddressPool::default()
    };
    let mut snapshot = Snapshot {
        nodes: (1..=NODES).map(node).collect(),
        pools: [("wide".to_owned(), pool)].into_iter().collect(),
        l2_advertisements: [("all".to_owned(), L2Advertisement::default())].into_iter().collect(),
        ..Snapshot::default()
    };
    for number in 0..PORTS {
        let (service, slice) = (service(number), slice(number, &mut random));
        snapshot.services.insert(service.name.clone(), Arc::new(service));
        snapshot.add_slice(Arc::new(slice));
    }
    snapshot
}

fn service(number: u32) -> Service {
    let [.., a, b] = number.to_be_bytes();
    let vip = Ipv4Addr::new(198, 18, a, b);
    Service {
        name: ObjectName::new("default", format!("s{number:05}")),
        wants_address: true,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1).into()],
        ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
        ingress: vec![Ingress { ip: Some(vip.to_string()), hostname: None }],
        ..Service::default()
    }
}

fn slice(number: u32, random: &mut Random) -> EndpointSlice {
    let mut nodes = BTreeSet::new();
    while nodes.len() < PODS {
        nodes.insert(1 + random.below(usize::from(NODES)) as u8);
    }
    let [.., a, b] = number.to_be_bytes();
    let pod = |node: u8| Endpoint {
        address: Ipv4Addr::new(10, node, a, b).into(),
        node: Some(format!("n{node}")),
        ready: true,
        serving: true,
        terminating: false,
    };
    EndpointSlice {
        name: ObjectName::new("default", format!("s{number:05}-abc")),
        service: format!("s{number:05}"),
        ports: vec![EndpointPort { port: Some(8080), ..EndpointPort::default() }],
        endpoints: nodes.into_iter().map(pod).collect(),
    }
}
