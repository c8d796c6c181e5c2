//! The rounds, and what must hold in each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use lb_common::{
    maps::{DEFAULT_FLOWS, Flow, FlowKey, TO_ENDPOINT},
    outcome::{Counters, Outcome},
};

use super::{
    cases::{self, Case, Table},
    engine::{Client, Engine, Floor, Traffic},
    scale,
};
use crate::kernel::{
    acceptance::Direction,
    object::{DataPath, octets},
    world::{Family, MY_MAC, ROUTER_MAC},
};

/// Figures of one case, ns a packet.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// One for each round: the time with the program less that with an empty one.
    pub rounds: Vec<f64>,
    /// Of how many of the flows, or of the others that shall be there, the node knew the endpoint when
    /// measuring began, %.
    pub known: Option<f64>,
}

impl Figures {
    /// The middle one of the rounds.
    pub fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// The least.
    pub fn least(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The most.
    pub fn most(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// All figures, by the names of the cases.
pub type Results = BTreeMap<&'static str, Figures>;

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds, the cases taking turns in each.
    pub rounds: u32,
    /// Packets of a case in a round.
    pub packets: u32,
}

/// The loaded object, once for each size of its table of flows.
pub struct Paths {
    /// With the usual one.
    pub usual: DataPath,
    /// With the large one, if a case needs it.
    pub large: Option<DataPath>,
}

impl Paths {
    /// Loads the object as often as the cases that are wanted need it.
    ///
    /// # Errors
    /// Not root, or not enough memory for the maps.
    pub fn load(ifindex: u32, object: &[u8], wanted: Wanted<'_>) -> Result<Self> {
        let usual = scale::load(ifindex, object, DEFAULT_FLOWS)?;
        let large = |case: &Case| case.table == Table::Large && wanted(case.name);
        let large = { cases::all().iter().any(large) }
            .then(|| scale::load(ifindex, object, scale::LARGE_FLOWS))
            .transpose()?;
        Ok(Self { usual, large })
    }

    fn of(&self, table: Table) -> Result<&DataPath> {
        match table {
            Table::Usual => Ok(&self.usual),
            Table::Large => self.large.as_ref().context("the large table was not made"),
        }
    }
}

/// Whether a case is wanted, by its name.
pub type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// The floors, by name.
pub const FLOORS: [(&str, Floor); 4] = [
    ("floor: return XDP_TX", Floor::Tx),
    ("floor: MAC swap", Floor::Swap),
    ("floor: head moved, and back", Floor::Grow),
    ("floor: one hash lookup", Floor::Lookup),
];

/// The same packet by another way of measuring: one run a system call.
pub const ONE_BY_ONE: &str = "forward, IPv4, 1 flow, one run a call";

/// Measures everything; `progress` is told which round begins.
///
/// # Errors
/// A run did not do what its case says: the figures would be worth nothing.
pub fn all(
    paths: &Paths,
    engine: &mut Engine,
    effort: Effort,
    wanted: Wanted<'_>,
    progress: impl Fn(u32),
) -> Result<Results> {
    let cases = cases::all();
    let mut results = Results::new();
    for round in 0..effort.rounds {
        progress(round);
        for case in cases.iter().filter(|case| wanted(case.name)) {
            let figures = results.entry(case.name).or_default();
            let path = paths.of(case.table)?;
            one(path, engine, case, effort.packets, figures).context(case.name)?;
        }
        for (name, floor) in FLOORS.into_iter().filter(|(name, _)| wanted(name)) {
            let traffic = floor_traffic();
            let packets = effort.packets;
            let (_, null) = engine.run_floor(Floor::Null, Direction::Ingress, &traffic, packets)?;
            let (_, full) = engine.run_floor(floor, Direction::Ingress, &traffic, packets)?;
            let figures = results.entry(name).or_default();
            figures.rounds.push(nanoseconds(full) - nanoseconds(null));
        }
        if !wanted(ONE_BY_ONE) {
            continue;
        }
        let forward = cases.iter().find(|case| case.name == "forward, IPv4, 1 flow");
        let forward = forward.context("no forwarding case")?;
        let figures = results.entry(ONE_BY_ONE).or_default();
        figures.rounds.push(one_by_one(&paths.usual, engine, forward, effort.packets / 32)?);
    }
    Ok(results)
}

fn nanoseconds(duration: std::time::Duration) -> f64 {
    duration.as_nanos() as f64
}

/// 1,024 clients: their ports are the keys that the lookup looks for.
fn floor_traffic() -> Traffic {
    let link = crate::kernel::frames::Link { from: ROUTER_MAC, to: MY_MAC };
    let from = cases::client_number(Family::V4, 0);
    let to = std::net::SocketAddr::new(scale::vip(Family::V4, 0), scale::FORWARD);
    let mut frame = crate::kernel::frames::tcp(link, from, to, 64, 16);
    frame.resize(100, 0);
    Traffic { frame, client: Client::SourceV4, clients: 1024, first: 0, spread: false }
}

fn one(
    path: &DataPath,
    engine: &mut Engine,
    case: &Case,
    packets: u32,
    figures: &mut Figures,
) -> Result<()> {
    let target = match case.direction {
        Direction::Ingress => path.ingress_program()?.fd()?.try_clone()?,
        Direction::Egress => path.egress_program()?.fd()?.try_clone()?,
    };
    let mut openings = cases::openings(case);
    if case.table == Table::Large && figures.known.is_some() {
        // It forgets nothing from one round to the next.
        openings.clear();
    }
    if !openings.is_empty() {
        let ingress = path.ingress_program()?.fd()?.try_clone()?;
        for traffic in openings {
            let before = path.counters()?;
            engine.run(&ingress, Direction::Ingress, &traffic, traffic.clients)?;
            risen(path, &before, Outcome::Delivered, traffic.clients).context("opening flows")?;
        }
        figures.known = Some(known(path, case)?);
    }
    let (_, null) = engine.run_floor(Floor::Null, case.direction, &case.traffic, packets)?;
    let counters = path.counters()?;
    let service = case.service.map(|index| path.service_stats(index)).transpose()?;
    let (action, full) = engine.run(&target, case.direction, &case.traffic, packets)?;
    ensure!(action == case.action, "returned {action} instead of {}", case.action);
    risen(path, &counters, case.outcome, packets)?;
    if let (Some(index), Some(before)) = (case.service, service) {
        let after = path.service_stats(index)?;
        let rose = after.delivered_packets + after.forwarded_packets
            - before.delivered_packets
            - before.forwarded_packets;
        ensure!(rose == u64::from(packets), "its VIP port rose by {rose} instead of {packets}");
    }
    let mut bench = nanoseconds(null);
    if case.moved {
        // What moves the head back is no part of the empty run, and costs as much as moving it.
        let (_, grown) = engine.run_floor(Floor::Grow, case.direction, &case.traffic, packets)?;
        bench += (nanoseconds(grown) - nanoseconds(null)) / 2.0;
    }
    figures.rounds.push(nanoseconds(full) - bench);
    Ok(())
}

/// Fails unless each of so many packets had this outcome.
fn risen(path: &DataPath, before: &Counters, outcome: Outcome, packets: u32) -> Result<()> {
    let after = path.counters()?;
    let rose = |outcome: Outcome| after.get(outcome) - before.get(outcome);
    if rose(outcome) == u64::from(packets) {
        return Ok(());
    }
    let others = Outcome::ALL.iter().filter(|other| rose(**other) != 0);
    let all: Vec<_> = others.map(|other| format!("{} {}", rose(*other), other.name())).collect();
    bail!("of {packets} packets all should be {}, but: {}", outcome.name(), all.join(", "))
}

/// Of how many of 1,024 of a case's flows the node knows the endpoint, %.
fn known(path: &DataPath, case: &Case) -> Result<f64> {
    const SAMPLE: u32 = 1024;
    let (family, port) = match (case.traffic.frame[12], case.direction) {
        (0x08, Direction::Ingress) => (Family::V4, scale::DELIVER),
        (0x08, Direction::Egress) => (Family::V4, scale::DELIVER_TO_ONE),
        (_, Direction::Ingress) => (Family::V6, scale::DELIVER),
        (_, Direction::Egress) => (Family::V6, scale::DELIVER_TO_ONE),
    };
    let flows = path.read_hash::<FlowKey, Flow>("FLOWS")?;
    let sample = SAMPLE.min(case.traffic.clients);
    let step = case.traffic.clients / sample;
    let mut found = 0;
    for number in 0..sample {
        let number = case.traffic.first + number * step + number % step;
        let client = cases::client_number(family, number);
        let key = FlowKey {
            client: octets(client.ip()),
            peer: octets(scale::vip(family, 0)),
            client_port: client.port().to_be_bytes(),
            peer_port: port.to_be_bytes(),
            proto: 6,
            direction: TO_ENDPOINT,
            pad: [0; 2],
        };
        match flows.get(&key, 0) {
            Ok(_) => found += 1,
            Err(aya::maps::MapError::KeyNotFound) => {}
            Err(error) => bail!("FLOWS: {error}"),
        }
    }
    let known = 100.0 * f64::from(found) / f64::from(sample);
    // All cases' tables are large enough to forget nothing.
    ensure!(known >= 100.0, "only {known} % of flows known");
    Ok(known)
}

/// The production program called once a system call on a fresh copy of the packet, less an
/// empty program called the same way: slower caches, but nothing of the bench's between.
fn one_by_one(path: &DataPath, engine: &mut Engine, case: &Case, calls: u32) -> Result<f64> {
    let mut full = 0;
    let mut null = 0;
    for _ in 0..calls {
        full += path.ingress(&case.traffic.frame, engine.ifindex(), 1)?.duration.as_nanos();
        null += engine.null_once(&case.traffic.frame)?.as_nanos();
    }
    Ok((full as f64 - null as f64) / f64::from(calls))
}
