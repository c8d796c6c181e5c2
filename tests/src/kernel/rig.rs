//! A case run through the object and the model, and compared.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use lb_common::{maps::ServiceStats, outcome::Counters, outcome::Outcome};

use super::{
    acceptance::Direction,
    cases::Case,
    model::{self, Tally, Verdict},
    object::{Capacity, DataPath, Run},
    pcap,
    world::World,
};

/// The index of `lo` in a new network namespace.
const LOOPBACK: u32 = 1;
/// An interface that is only redirected to in a test run, where nothing is sent.
const SECOND_UPLINK: u32 = 77;

/// The loaded object, its maps filled, in a network namespace of the calling thread's own.
pub struct Rig {
    path: DataPath,
    /// What the maps hold at the moment.
    installed: World,
    counters: Counters,
}

impl Rig {
    /// Moves the calling thread to a new network namespace, where the frames arrive on
    /// `lo`, and loads the object.
    ///
    /// # Errors
    /// Not root, or the kernel does not take the object.
    pub fn new() -> Result<Self> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .context("no new network namespace (this suite needs root)")?;
        let world = World::new(LOOPBACK, SECOND_UPLINK);
        let mut path = DataPath::load(Capacity::SMALL)?;
        path.install(&world)?;
        let counters = path.counters()?;
        Ok(Self { path, installed: world, counters })
    }

    /// The world that cases start from: no flows, the agent alive.
    pub fn world(&self) -> World {
        World::new(LOOPBACK, SECOND_UPLINK)
    }

    /// The object itself.
    pub fn data_path(&self) -> &DataPath {
        &self.path
    }

    /// What the model makes of a case; `case` then holds the flows as they are afterwards.
    pub fn expect(direction: Direction, case: &mut Case) -> Verdict {
        match direction {
            Direction::Ingress => model::ingress(&mut case.world, &case.frame),
            Direction::Egress => model::egress(&case.world, &case.frame),
        }
    }

    /// Runs a case through both and compares verdict, bytes, counters, statistics and flows.
    /// Returns the model's verdict; `case` then holds the flows as they are afterwards.
    ///
    /// # Errors
    /// They differ: the message tells how, and names a capture of the frame as it came,
    /// as it was expected and as it was.
    pub fn check(&mut self, direction: Direction, title: &str, case: &mut Case) -> Result<Verdict> {
        self.prepare(&case.world)?;
        let expected = Self::expect(direction, case);
        let stats_before = self.stats(&expected)?;
        let run = match direction {
            Direction::Ingress => self.path.ingress(&case.frame, case.world.ifindex, 1),
            Direction::Egress => self.path.egress(&case.frame, 1),
        }
        .with_context(|| format!("{title}: the kernel does not run it"))?;
        let flows = self.path.flows()?;
        let counters = self.path.counters()?;
        let mut wrong = compare(&expected, &run);
        let rose = risen(&self.counters, &counters);
        if rose != [(expected.counter, 1)] {
            let _ = writeln!(wrong, "  counters: expected {} by 1, got {rose:?}", expected.counter);
        }
        let stats = delta(&stats_before, &self.stats(&expected)?);
        let wanted = tally(&expected, case.frame.len() as u64);
        if stats != wanted {
            let _ = writeln!(wrong, "  statistics: expected {wanted:?}, got {stats:?}");
        }
        let after = [&case.world.flows, &case.world.pending];
        for ((name, expected), got) in ["FLOWS", "PENDING"].iter().zip(after).zip(&flows) {
            if expected != got {
                let _ = writeln!(wrong, "  {name}: expected {expected:#?}\n  got {got:#?}");
            }
        }
        self.counters = counters;
        let [flows, pending] = flows;
        self.installed = World { flows, pending, ..case.world.clone() };
        if wrong.is_empty() {
            return Ok(expected);
        }
        let frames = [&case.frame[..], &expected.frame, &run.frame];
        let capture = pcap::write(title, frames)?;
        bail!(
            "{title} ({} bytes)\n{wrong}  frames (arrived, expected, got): {}",
            case.frame.len(),
            capture.display()
        )
    }

    /// Writes to the maps what of a case's world they do not hold.
    fn prepare(&mut self, world: &World) -> Result<()> {
        let now = &self.installed;
        if (world.announcing, world.echo) != (now.announcing, now.echo) {
            self.path.configure(world)?;
        }
        if world.flows != now.flows || world.pending != now.pending {
            self.path.set_flows(world)?;
        }
        Ok(())
    }

    fn stats(&self, expected: &Verdict) -> Result<ServiceStats> {
        match expected.service {
            Some(Tally::Delivered(index) | Tally::Forwarded(index)) => {
                self.path.service_stats(index)
            }
            None => Ok(ServiceStats::default()),
        }
    }
}

fn compare(expected: &Verdict, run: &Run) -> String {
    let mut wrong = String::new();
    if expected.action != run.action {
        let _ = writeln!(wrong, "  verdict: expected {}, got {}", expected.action, run.action);
    }
    if expected.frame.len() != run.frame.len() {
        let (expected, got) = (expected.frame.len(), run.frame.len());
        let _ = writeln!(wrong, "  length: expected {expected}, got {got}");
    }
    let both = expected.frame.iter().zip(&run.frame);
    for (at, (expected, got)) in both.enumerate().filter(|(_, (a, b))| a != b) {
        let _ = writeln!(wrong, "  byte {at}: expected {expected:02x}, got {got:02x}");
    }
    wrong
}

/// The outcomes whose counters differ, and by how much.
fn risen(before: &Counters, after: &Counters) -> Vec<(&'static str, u64)> {
    let deltas = Outcome::ALL.iter().map(|&o| (o.name(), after.get(o) - before.get(o)));
    deltas.filter(|&(_, delta)| delta != 0).collect()
}

fn delta(before: &ServiceStats, after: &ServiceStats) -> ServiceStats {
    ServiceStats {
        delivered_packets: after.delivered_packets - before.delivered_packets,
        delivered_bytes: after.delivered_bytes - before.delivered_bytes,
        forwarded_packets: after.forwarded_packets - before.forwarded_packets,
        forwarded_bytes: after.forwarded_bytes - before.forwarded_bytes,
    }
}

fn tally(expected: &Verdict, bytes: u64) -> ServiceStats {
    let none = ServiceStats::default();
    match expected.service {
        Some(Tally::Delivered(_)) => {
            ServiceStats { delivered_packets: 1, delivered_bytes: bytes, ..none }
        }
        Some(Tally::Forwarded(_)) => {
            ServiceStats { forwarded_packets: 1, forwarded_bytes: bytes, ..none }
        }
        None => none,
    }
}
