//! When to speak unasked. No I/O and no clock: `now` is an argument.
use super::{
    frame::{announcement, probe},
    pace::Pace,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// When a VIP that came here is announced, counted from its coming. Some hosts and switches
/// miss the first frames (a port that is just coming up, a full queue); most need one.
const ROUNDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// When it is asked who else has a VIP that was given just now (RFC 5227 section 1.1: three times,
/// one to two seconds apart).
const PROBES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_millis(2500)];

/// From then on each VIP is repeated after this time and up to as much again: caches and the tables
/// of switches age (300 s in most).
const REFRESH: Duration = Duration::from_secs(60);

/// A VIP on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    /// The VIP.
    pub vip: IpAddr,
    /// Index of the interface.
    pub ifindex: u32,
    /// The link-layer address that answers for it.
    pub mac: [u8; 6],
}

/// A frame to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Which VIP it announces, or asks for.
    pub vip: IpAddr,
    /// By which interface.
    pub ifindex: u32,
    /// It announces the VIP, rather than asking who has it.
    pub gratuitous: bool,
    /// The frame with its Ethernet header.
    pub frame: Bytes,
}

/// What is to be said, the most urgent first. Each has a rate of its own, so that none holds up
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Of what came just now, for the first time: each moment counts.
    First,
    /// Again, or since somebody else claims it.
    Repeat,
    /// Who else has it?
    Probe,
    /// As long as it stays.
    Refresh,
}

/// Its place in a queue: when it is due, and of those that are due together, the busiest first.
type Place = (Instant, u64, Announcement);

#[derive(Debug)]
struct Queue {
    waiting: BTreeSet<Place>,
    pace: Pace,
}

/// Where a VIP stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    lane: Lane,
    place: Place,
    /// How often it was said.
    round: u32,
    since: Instant,
}

/// Repeats announcements of what came here, at bounded rates, and asks who else has an address.
#[derive(Debug)]
pub struct Announcer {
    announced: BTreeSet<Announcement>,
    /// In the order of [`Lane`].
    queues: [Queue; 4],
    standing: BTreeMap<Announcement, Standing>,
    probing: BTreeMap<Announcement, Standing>,
}

impl Default for Announcer {
    /// Two hundred VIPs are told of within 40 ms, two frames each, and no switch has to hold more than
    /// 64 frames of ours at a time.
    fn default() -> Self {
        let queue = |rate, burst| Queue { waiting: BTreeSet::new(), pace: Pace::new(rate, burst) };
        Self {
            announced: BTreeSet::new(),
            queues: [queue(10_000, 64), queue(2000, 32), queue(1000, 16), queue(100, 4)],
            standing: BTreeMap::new(),
            probing: BTreeMap::new(),
        }
    }
}

impl Announcer {
    /// Takes what this node announces from now on. What is new is told, the `busy` ones first, by how
    /// much; of what is gone not a word more is said.
    pub fn update(
        &mut self,
        now: Instant,
        announced: BTreeSet<Announcement>,
        busy: &BTreeMap<IpAddr, u64>,
    ) {
        for gone in self.announced.difference(&announced) {
            for standing in [self.standing.remove(gone), self.probing.remove(gone)] {
                let Some(Standing { lane, place, .. }) = standing else { continue };
                self.queues[lane as usize].waiting.remove(&place);
            }
        }
        for new in announced.difference(&self.announced) {
            let rank = u64::MAX - busy.get(&new.vip).copied().unwrap_or_default();
            let place = (now, rank, *new);
            let standing = Standing { lane: Lane::First, place, round: 0, since: now };
            self.queues[Lane::First as usize].waiting.insert(place);
            self.standing.insert(*new, standing);
        }
        self.announced = announced;
    }

    /// The announcement of a VIP on an interface, if it is announced there.
    pub fn find(&self, (vip, ifindex): (IpAddr, u32)) -> Option<Announcement> {
        let from = Announcement { vip, ifindex, mac: [0; 6] };
        self.announced
            .range(from..)
            .next()
            .copied()
            .filter(|a| (a.vip, a.ifindex) == (vip, ifindex))
    }

    /// Says once more, now, that a VIP is here.
    pub fn repeat(&mut self, now: Instant, announcement: &Announcement) {
        let Some(standing) = self.standing.get_mut(announcement) else { return };
        // It is about to be said for the first time.
        if standing.lane == Lane::First {
            return;
        }
        self.queues[standing.lane as usize].waiting.remove(&standing.place);
        (standing.lane, standing.place.0) = (Lane::Repeat, now);
        self.queues[Lane::Repeat as usize].waiting.insert(standing.place);
    }

    /// Says all of it again, as if it had just come, but behind what has: somebody may have heard
    /// another node announce it meanwhile.
    pub fn repeat_all(&mut self, now: Instant) {
        for standing in self.standing.values_mut().filter(|at| at.lane == Lane::Refresh) {
            self.queues[Lane::Refresh as usize].waiting.remove(&standing.place);
            (standing.lane, standing.place.0) = (Lane::Repeat, now);
            (standing.round, standing.since) = (0, now);
            self.queues[Lane::Repeat as usize].waiting.insert(standing.place);
        }
    }

    /// Asks who else has a VIP, wherever it is announced.
    pub fn probe_everywhere(&mut self, now: Instant, vip: IpAddr) {
        let from = Announcement { vip, ifindex: 0, mac: [0; 6] };
        let everywhere: Vec<_> =
            self.announced.range(from..).take_while(|a| a.vip == vip).copied().collect();
        everywhere.into_iter().for_each(|announcement| self.probe(now, announcement));
    }

    /// Asks who else has a VIP, by one interface, announced there or not.
    pub fn probe(&mut self, now: Instant, announcement: Announcement) {
        let place = (now, 0, announcement);
        let standing = Standing { lane: Lane::Probe, place, round: 0, since: now };
        if let Some(before) = self.probing.insert(announcement, standing) {
            self.queues[Lane::Probe as usize].waiting.remove(&before.place);
        }
        self.queues[Lane::Probe as usize].waiting.insert(place);
    }

    /// The frames that are due, as far as the rates allow.
    pub fn poll(&mut self, now: Instant) -> Vec<Outgoing> {
        let mut out = Vec::new();
        for lane in [Lane::First, Lane::Repeat, Lane::Probe, Lane::Refresh] {
            while let Some((_, _, Announcement { vip, ifindex, mac })) = self.take_due(lane, now) {
                let frames = match lane {
                    Lane::Probe => vec![probe(vip, mac)],
                    Lane::First | Lane::Repeat => announcement(vip, mac),
                    Lane::Refresh => announcement(vip, mac).into_iter().take(1).collect(),
                };
                self.queues[lane as usize].pace.sent(now, frames.len());
                let gratuitous = lane != Lane::Probe;
                out.extend(frames.into_iter().map(|frame| Outgoing {
                    vip,
                    ifindex,
                    gratuitous,
                    frame,
                }));
            }
        }
        out
    }

    /// When [`Announcer::poll`] has something to say again.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = |queue: &Queue| Some(queue.pace.from(queue.waiting.first()?.0));
        self.queues.iter().filter_map(next).min()
    }

    /// Takes what is due, and puts it where it is due next.
    fn take_due(&mut self, lane: Lane, now: Instant) -> Option<Place> {
        let queue = &mut self.queues[lane as usize];
        let place = *queue.waiting.first().filter(|(due, ..)| queue.pace.from(*due) <= now)?;
        queue.waiting.remove(&place);
        let announcement = place.2;
        let chain = if lane == Lane::Probe { &mut self.probing } else { &mut self.standing };
        let Some(standing) = chain.get_mut(&announcement) else { return Some(place) };
        standing.round = standing.round.saturating_add(1);
        let rounds: &[Duration] = if lane == Lane::Probe { &PROBES } else { &ROUNDS };
        match rounds.get(standing.round as usize) {
            Some(offset) => {
                standing.place.0 = standing.since + *offset;
                if lane != Lane::Probe {
                    standing.lane = Lane::Repeat;
                }
            }
            None if lane == Lane::Probe => {
                self.probing.remove(&announcement);
                return Some(place);
            }
            None => {
                standing.place.0 = now + REFRESH + jitter(&announcement, standing.round, REFRESH);
                standing.lane = Lane::Refresh;
            }
        }
        self.queues[standing.lane as usize].waiting.insert(standing.place);
        Some(place)
    }
}

/// At most `most`, another for each VIP, node and round: so VIPs that came together are not
/// repeated together for ever. FNV-1a, and the upper half of its product with a large odd number.
fn jitter(announcement: &Announcement, round: u32, most: Duration) -> Duration {
    let octets = match announcement.vip {
        IpAddr::V4(vip) => vip.to_ipv6_mapped().octets(),
        IpAddr::V6(vip) => vip.octets(),
    };
    let bytes = octets.into_iter().chain(announcement.mac).chain(round.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let part = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    most.mul_f64(part as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
