//! Hosts that claim a VIP which this node announces: what is done about it, and what is told. No I/O
//! and no clock: `now` is an argument.
//!
//! A *claim* is a frame by which somebody who is no agent's node says that a VIP is at a link-layer
//! address; the kernel program tells of it. Claims may be forged, so whatever follows from them is
//! bounded: defences by the interval of RFC 5227, what is told by a rate, what is remembered by
//! a number, and by default no address is ever given up.
use super::pace::Pace;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// What is done about a host that claims a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Policy {
    /// The VIP stays, and is announced again, every ten seconds at most
    #[default]
    Defend,
    /// No node answers for the VIP on that link, until nobody else does
    Withdraw,
}

/// DEFEND_INTERVAL (RFC 5227 sections 1.1 and 2.4): between two announcements that answer claims.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// How long a claim stands before it counts. A node of ours may have a link-layer address that is not
/// known here yet, or have taken over what this one is about to give up.
const CONFIRM: Duration = Duration::from_secs(1);
/// After how much silence a conflict is over.
const QUIET: Duration = Duration::from_secs(600);
/// When a conflict that goes on is told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// For how long a VIP is withdrawn before it is asked for. Twice as long each time that it is claimed
/// again, up to [`LONGEST_HOLD`].
const HOLD: Duration = Duration::from_secs(30);
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// How long answers are waited for: longer than the last probe takes to go out.
const ANSWERS: Duration = Duration::from_millis(3500);
/// Conflicts that are remembered at a time. Others are counted only.
const MOST: usize = 1024;
/// What is told: ten at once, and then one in half a minute.
const TELLING: (Duration, u32) = (Duration::from_secs(30), 10);

/// A VIP on an interface (its index).
pub type Place = (IpAddr, u32);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Announce it once more, at once.
    Defend(Place),
    /// Ask who else has it.
    Ask(Place),
    /// People are to know that this link-layer address claims it.
    Tell(Place, [u8; 6]),
    /// It is not announced there any more.
    Withdraw(Place),
    /// It is again, since nobody else answers for it.
    Restore(Place),
    /// It has not been claimed for long.
    Over(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It counts from then on.
    Suspected(Instant),
    /// It is announced all the same.
    Defended,
    /// It is not announced, and asked for then.
    Withdrawn(Instant),
    /// It is not announced, and was asked for: nobody else has it if no answer comes until then.
    Asked(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Conflict {
    mac: [u8; 6],
    /// The latest claim.
    last: Instant,
    defended: Option<Instant>,
    told: Option<Instant>,
    phase: Phase,
    /// How often it was withdrawn.
    holds: u32,
}

impl Conflict {
    fn is_withdrawn(&self) -> bool {
        matches!(self.phase, Phase::Withdrawn(_) | Phase::Asked(_))
    }

    fn withdraw(&mut self, now: Instant) {
        let hold = HOLD * 2u32.saturating_pow(self.holds.min(8));
        self.phase = Phase::Withdrawn(now + hold.min(LONGEST_HOLD));
        self.holds = self.holds.saturating_add(1);
    }

    /// When people are to hear of it, if they are.
    fn tell_at(&self) -> Option<Instant> {
        match (self.phase, self.told) {
            (Phase::Suspected(_), _) => None,
            (_, None) => Some(self.last),
            (_, Some(told)) => (told < self.last).then(|| self.last.max(told + TELL_AGAIN)),
        }
    }

    fn next(&self, telling: &Pace) -> Instant {
        let phase = match self.phase {
            Phase::Suspected(at) | Phase::Withdrawn(at) | Phase::Asked(at) => at,
            Phase::Defended => self.last + QUIET,
        };
        self.tell_at().map_or(phase, |at| phase.min(telling.from(at)))
    }
}

/// The conflicts of a node.
#[derive(Debug)]
pub struct Conflicts {
    policy: Policy,
    conflicts: BTreeMap<Place, Conflict>,
    telling: Pace,
}

impl Conflicts {
    /// None.
    pub fn new(policy: Policy) -> Self {
        let (every, burst) = TELLING;
        Self { policy, conflicts: BTreeMap::new(), telling: Pace::every(every, burst) }
    }

    /// Somebody who is no node of ours, as far as is known, claims a VIP that is this node's to
    /// announce there.
    pub fn claim(&mut self, now: Instant, place: Place, mac: [u8; 6]) -> Option<Action> {
        if !self.conflicts.contains_key(&place) && self.conflicts.len() >= MOST {
            return None;
        }
        let conflict = self.conflicts.entry(place).or_insert(Conflict {
            mac,
            last: now,
            defended: None,
            told: None,
            phase: Phase::Suspected(now + CONFIRM),
            holds: 0,
        });
        (conflict.mac, conflict.last) = (mac, now);
        match conflict.phase {
            // Somebody has it still.
            Phase::Asked(_) => conflict.withdraw(now),
            Phase::Defended if self.policy == Policy::Withdraw => {
                conflict.phase = Phase::Suspected(now + CONFIRM);
            }
            _ => {}
        }
        let due = conflict.defended.is_none_or(|at| now >= at + DEFEND_INTERVAL);
        if self.policy != Policy::Defend || !due {
            return None;
        }
        conflict.defended = Some(now);
        Some(Action::Defend(place))
    }

    /// What is to be done now. `is_node` knows the link-layer addresses of all nodes, this one among
    /// them; `is_ours` the VIPs that are this node's to announce.
    pub fn poll(
        &mut self,
        now: Instant,
        is_node: impl Fn([u8; 6]) -> bool,
        is_ours: impl Fn(Place) -> bool,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let Self { policy, conflicts, telling } = self;
        conflicts.retain(|&place, conflict| {
            if conflict.next(telling) > now {
                return true;
            }
            if !is_ours(place) {
                return false;
            }
            match conflict.phase {
                Phase::Suspected(at) if at <= now => {
                    if is_node(conflict.mac) {
                        return false;
                    }
                    match policy {
                        Policy::Defend => conflict.phase = Phase::Defended,
                        Policy::Withdraw => {
                            conflict.withdraw(now);
                            actions.push(Action::Withdraw(place));
                        }
                    }
                }
                Phase::Withdrawn(at) if at <= now => {
                    conflict.phase = Phase::Asked(now + ANSWERS);
                    actions.push(Action::Ask(place));
                }
                Phase::Asked(at) if at <= now => {
                    conflict.phase = Phase::Defended;
                    actions.push(Action::Restore(place));
                }
                Phase::Defended if conflict.last + QUIET <= now => {
                    actions.push(Action::Over(place));
                    return false;
                }
                _ => {}
            }
            if conflict.tell_at().is_some_and(|at| telling.from(at) <= now) {
                telling.sent(now, 1);
                conflict.told = Some(now);
                actions.push(Action::Tell(place, conflict.mac));
            }
            true
        });
        actions
    }

    /// When [`Conflicts::poll`] has something to do again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.conflicts.values().map(|conflict| conflict.next(&self.telling)).min()
    }

    /// What is not to be announced.
    pub fn withdrawn(&self) -> BTreeSet<Place> {
        let withdrawn = self.conflicts.iter().filter(|(_, conflict)| conflict.is_withdrawn());
        withdrawn.map(|(place, _)| *place).collect()
    }

    /// All that are known, and whether the VIP is withdrawn.
    pub fn standing(&self) -> impl Iterator<Item = (Place, bool)> {
        let counts = |conflict: &Conflict| !matches!(conflict.phase, Phase::Suspected(_));
        let standing = self.conflicts.iter().filter(move |(_, conflict)| counts(conflict));
        standing.map(|(place, conflict)| (*place, conflict.is_withdrawn()))
    }
}

#[cfg(test)]
mod tests;
