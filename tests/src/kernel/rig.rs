//! A case run through the object and the model, and compared.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use lb_common::{
    maps::{EVENT_CLAIM, EVENT_PROBE, EVENT_UNKNOWN_FLOW, Event, ServiceStats},
    outcome::{Counters, Outcome},
};

use super::{
    acceptance::Direction,
    cases::Case,
    fields,
    frames::Mac,
    model::{self, Tally, Verdict},
    object::{Capacity, DataPath, Run},
    pcap,
    tables::{Clock, Learnt, monotonic_s, plain_key},
    world::{self, Flow, FlowKey, World},
};

/// The index of `lo` in a new network namespace.
pub const LOOPBACK: u32 = 1;
/// An interface that is only redirected to in a test run, where nothing is sent.
pub const SECOND_UPLINK: u32 = 77;
/// Seconds after which the maps are written anew, so that nothing in them comes to count
/// differently.
const RENEWAL: u32 = 60;
/// Of a classifier (`linux/pkt_cls.h`).
const TC_ACT_REDIRECT: u32 = 7;
/// A machine that has just started has no times that lie far enough back.
const YOUNGEST: u32 = 600;

/// The loaded object, its maps filled, in a network namespace of the calling thread's own.
pub struct Rig {
    path: DataPath,
    start: World,
    /// What the maps hold at the moment.
    installed: Option<World>,
    clock: Clock,
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
        Self::here()
    }

    /// The same in the calling thread's namespace, for a further node.
    ///
    /// # Errors
    /// As above.
    pub fn here() -> Result<Self> {
        while monotonic_s() < YOUNGEST {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        let mut path = DataPath::load(Capacity::SMALL)?;
        // Further nodes in the same namespace do without, and take longer.
        let _taken = path.hold(LOOPBACK);
        let counters = path.counters()?;
        let start = World::new(LOOPBACK, SECOND_UPLINK);
        let clock = Clock { base: monotonic_s() };
        Ok(Self { path, start, installed: None, clock, counters })
    }

    /// The world that cases start from: no flows, the agent alive.
    pub fn world(&self) -> World {
        self.start.clone()
    }

    /// The object itself.
    pub fn data_path(&mut self) -> &mut DataPath {
        &mut self.path
    }

    /// What `FLOWS` and `PENDING` hold.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn flows(&self) -> Result<(BTreeMap<FlowKey, Flow>, BTreeMap<FlowKey, Flow>)> {
        let learnt = self.path.learnt(self.clock)?;
        Ok((learnt.flows, learnt.pending))
    }

    /// The maps were written to by others: the next case writes all of them.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn forget(&mut self) -> Result<()> {
        self.installed = None;
        self.counters = self.path.counters()?;
        Ok(())
    }

    /// What the model makes of a case; `case` then holds what the world has learnt.
    pub fn expect(direction: Direction, case: &mut Case) -> Verdict {
        match direction {
            Direction::Ingress => model::ingress(&mut case.world, &case.frame),
            Direction::Egress => model::egress(&mut case.world, &case.frame),
        }
    }

    /// Runs a case through both and compares verdict, bytes, counters, statistics, events and
    /// what was learnt. Returns the model's verdict; `case` then holds the world as it is
    /// afterwards.
    ///
    /// # Errors
    /// They differ: the message tells how, and names a capture of the frame as it came,
    /// as it was expected and as it was.
    pub fn check(&mut self, direction: Direction, title: &str, case: &mut Case) -> Result<Verdict> {
        self.compare(direction, false, title, case)
    }

    /// The same for the ingress program of TCX.
    ///
    /// # Errors
    /// As above.
    pub fn check_tcx(&mut self, title: &str, case: &mut Case) -> Result<Verdict> {
        self.compare(Direction::Ingress, true, title, case)
    }

    fn compare(
        &mut self,
        direction: Direction,
        tcx: bool,
        title: &str,
        case: &mut Case,
    ) -> Result<Verdict> {
        self.prepare(&case.world)?;
        let mut expected = Self::expect(direction, case);
        if tcx {
            // The kernel has the tag stand beside the frame.
            expected.frame = fields::untagged(&expected.frame).0;
        }
        if matches!(expected.event, Some(model::Event::Claim(..))) {
            // Those before have used some of it.
            self.path.allow_claims(case.world.claims)?;
        }
        let stats_before = self.stats(&expected)?;
        let run = match direction {
            Direction::Ingress if tcx => self.path.ingress_tc(&case.frame).map(|run| Run {
                action: match run.action {
                    model::NEXT => model::PASS,
                    model::SHOT => model::DROP,
                    // Both ways of sending are one.
                    TC_ACT_REDIRECT if expected.action == model::TX => model::TX,
                    TC_ACT_REDIRECT => model::REDIRECT,
                    other => other,
                },
                ..run
            }),
            Direction::Ingress => self.path.ingress(&case.frame, case.world.ifindex, 1),
            Direction::Egress => self.path.egress(&case.frame, 1),
        }
        .with_context(|| format!("{title}: the kernel does not run it"))?;
        let learnt = self.path.learnt(self.clock)?;
        let counters = self.path.counters()?;
        let mut wrong = compare(direction, &expected, &run);
        let rose = risen(&self.counters, &counters);
        if rose != [(expected.counter, 1)] {
            let _ = writeln!(wrong, "  counters: expected {} by 1, got {rose:?}", expected.counter);
        }
        let stats = delta(&stats_before, &self.stats(&expected)?);
        let wanted = tally(&expected, case.frame.len() as u64);
        if !same_stats(&stats, &wanted, plain(&case.frame)) {
            let _ = writeln!(wrong, "  statistics: expected {wanted:?}, got {stats:?}");
        }
        let events: Vec<_> = self.path.events()?.iter().map(event).collect();
        let told: Vec<_> = expected.event.map(Told::from).into_iter().collect();
        if told != events {
            let _ = writeln!(wrong, "  events: expected {told:?}, got {events:?}");
        }
        compare_learnt(&mut wrong, &case.world, &learnt);
        self.counters = counters;
        case.world = World {
            flows: learnt.flows,
            pending: learnt.pending,
            affinity: learnt.affinity,
            elsewhere: learnt.elsewhere,
            fragmented: learnt.fragmented,
            ..case.world.clone()
        };
        self.installed = Some(case.world.clone());
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
        let age = monotonic_s() - self.clock.base;
        let Some(now) =
            self.installed.take().filter(|now| age < RENEWAL && same_tables(now, world))
        else {
            self.clock = Clock { base: monotonic_s() };
            self.path.install(world, self.clock)?;
            self.path.events()?;
            return Ok(());
        };
        let switches = |w: &World| (w.announcing, w.fresh, w.echo, w.refuse, w.claims, w.sample);
        let numbers = |w: &World| (w.started, w.udp_window, w.settle, w.mss, w.tunnel_port);
        let same = switches(world) == switches(&now) && numbers(world) == numbers(&now);
        if !same || world.cookies != now.cookies {
            self.path.configure(world, self.clock)?;
        }
        let learnt = Learnt::of(world);
        // These count for seconds only.
        let closing = world.flows.values().any(|flow| flow.closing && flow.seen == 0);
        let fleeting = closing || !world.fragmented.is_empty() || !world.elsewhere.is_empty();
        if fleeting || learnt != Learnt::of(&now) {
            self.path.set_learnt(&learnt, self.clock)?;
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

/// Whether the kernel's test run takes a frame.
pub fn runs(direction: Direction, frame: &[u8]) -> bool {
    let shortest = match (direction, frame.get(12..14)) {
        (Direction::Egress, Some([0x08, 0x00])) => 34,
        (Direction::Egress, Some([0x86, 0xdd])) => 54,
        _ => 15,
    };
    frame.len() >= shortest
}

/// Whether checksums that were right when the frame arrived are right in what is sent of it.
pub fn checksums_are_kept(direction: Direction, arrived: &[u8], verdict: &Verdict) -> bool {
    let sent = verdict.action != model::DROP || direction == Direction::Egress;
    // What a question between agents carries is no packet, and its answer is none in a tunnel.
    let whole = verdict.counter == "liveness_answered";
    let right = |frame: &[u8]| {
        let bare = (!whole).then(|| fields::bare(frame));
        model::checksums_are_valid(bare.as_deref().unwrap_or(frame))
    };
    // What leaves has no padding yet: the kernel's own stack takes it off.
    let padded = direction == Direction::Egress && fields::is_padded(arrived);
    !sent || padded || !right(arrived) || right(&verdict.frame)
}

/// Whether two worlds differ at most in what is written quickly.
fn same_tables(a: &World, b: &World) -> bool {
    let shared = Arc::ptr_eq(&a.services, &b.services) || a.services == b.services;
    shared
        && a.vips == b.vips
        && a.addresses == b.addresses
        && a.announced == b.announced
        && a.nodes == b.nodes
        && a.node_macs == b.node_macs
        && a.endpoints == b.endpoints
        && a.ranges == b.ranges
        && a.fragment_rows == b.fragment_rows
        && a.uplinks == b.uplinks
}

/// Neither tagged nor in a tunnel, so that there is but one length to count.
fn plain(frame: &[u8]) -> bool {
    frame.get(12..14) != Some(&[0x81, 0]) && frame.len() < 100
}

fn same_stats(a: &ServiceStats, b: &ServiceStats, bytes: bool) -> bool {
    (a.delivered_packets, a.forwarded_packets) == (b.delivered_packets, b.forwarded_packets)
        && (!bytes
            || (a.delivered_bytes, a.forwarded_bytes) == (b.delivered_bytes, b.forwarded_bytes))
}

/// What an event says, as far as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Unknown(FlowKey, u32),
    Probe(IpAddr),
    Claim(IpAddr, Mac),
    Other(u32),
}

impl From<model::Event> for Told {
    fn from(event: model::Event) -> Self {
        match event {
            model::Event::Unknown(key, node) => Self::Unknown(key, node.into()),
            model::Event::Probe(address) => Self::Probe(address),
            model::Event::Claim(vip, mac) => Self::Claim(vip, mac),
        }
    }
}

fn event(event: &Event) -> Told {
    let key = plain_key(&event.flow);
    match event.kind {
        EVENT_UNKNOWN_FLOW => Told::Unknown(key, event.node),
        EVENT_PROBE => Told::Probe(key.peer.ip()),
        EVENT_CLAIM => Told::Claim(key.peer.ip(), event.mac),
        kind => Told::Other(kind),
    }
}

fn compare_learnt(wrong: &mut String, world: &World, got: &Learnt) {
    // When a flow of the small table was heard, or the way back was used, decides nothing; and
    // what is no flow any more may be cleared away or not.
    let counting = |flows: &BTreeMap<FlowKey, Flow>, seen: bool| -> BTreeMap<FlowKey, Flow> {
        let valid = |key: &FlowKey, flow: &Flow| {
            let pod = if key.to_client { key.peer } else { flow.peer };
            let index = flow.endpoint.map(|index| world.endpoints.get(index as usize).copied());
            let present = index.is_none_or(|at| at == Some(Some(pod)));
            present && (key.protocol != 17 || -flow.seen < world::UDP_IDLE)
        };
        let plain = |key: &FlowKey, flow: &Flow| {
            let keep = seen && !key.to_client;
            Flow { seen: if keep { flow.seen } else { 0 }, ..*flow }
        };
        let all = flows.iter().filter(|(key, flow)| valid(key, flow));
        all.map(|(key, flow)| (*key, plain(key, flow))).collect()
    };
    differ(wrong, "FLOWS", &counting(&world.flows, true), &counting(&got.flows, true));
    differ(wrong, "PENDING", &counting(&world.pending, false), &counting(&got.pending, false));
    differ(wrong, "AFFINITY", &world.affinity, &got.affinity);
    let elsewhere = |map: &BTreeMap<FlowKey, world::Elsewhere>| -> BTreeMap<_, _> {
        let counts = map.iter().filter(|(_, entry)| entry.until >= 0);
        counts.map(|(key, entry)| (*key, entry.answer)).collect()
    };
    differ(wrong, "ELSEWHERE", &elsewhere(&world.elsewhere), &elsewhere(&got.elsewhere));
    differ(wrong, "FRAGMENTED", &world.fragmented, &got.fragmented);
}

/// Lists the entries in which two maps differ.
fn differ<K: Ord + Debug, V: PartialEq + Debug>(
    wrong: &mut String,
    name: &str,
    expected: &BTreeMap<K, V>,
    got: &BTreeMap<K, V>,
) {
    for key in expected.keys().chain(got.keys().filter(|key| !expected.contains_key(key))) {
        let (expected, got) = (expected.get(key), got.get(key));
        if expected != got {
            let _ = writeln!(wrong, "  {name} {key:?}: expected {expected:?}, got {got:?}");
        }
    }
}

fn compare(direction: Direction, expected: &Verdict, run: &Run) -> String {
    let mut wrong = String::new();
    if expected.action != run.action {
        let _ = writeln!(wrong, "  verdict: expected {}, got {}", expected.action, run.action);
    }
    // What a frame looks like that nobody gets does not matter.
    let dropped = match direction {
        Direction::Ingress => model::DROP,
        Direction::Egress => model::SHOT,
    };
    if expected.action == dropped && run.action == dropped {
        return wrong;
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
