//! Why a VIP has the owner that it has, and why another node is not it.
//!
//! It is worked out when somebody asks, from what the election went by; nothing of it is kept.
use super::{Advertisement, Contest, EXCLUDE_LABEL, Election, has_interface, is_local};
use crate::{
    ipam::pools::Pool,
    membership::Alive,
    plan::PlanOptions,
    snapshot::{Service, any_matches},
};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
};

/// Why something is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// In one word, in CamelCase, for scripts.
    pub reason: Cow<'static, str>,
    /// In a sentence without a full stop.
    pub message: String,
}

impl Reason {
    /// A reason by its name.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

/// Why a VIP is announced on layer 2 by whom it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Why by its owner, of all nodes.
    pub owner: Reason,
    /// Why not by the node that asks; absent where it is the owner.
    pub not_here: Option<Reason>,
}

/// How many candidates stand how.
pub(super) type Standings = BTreeMap<Standing, usize>;

/// How a candidate stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// All that counts but the digest.
    score: i64,
    held_until_s: Option<i64>,
    misses: bool,
}

/// What keeps a candidate behind another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Carrier,
    Held,
    Preference,
    Digest,
}

impl Standing {
    fn behind(&self, owner: &Self) -> Behind {
        // None of several is held for less long than for ever.
        let held = |one: &Self| one.held_until_s.unwrap_or(i64::MIN);
        if self.score == owner.score {
            Behind::Digest
        } else if self.misses && !owner.misses {
            Behind::Carrier
        } else if held(self) > held(owner) {
            Behind::Held
        } else {
            Behind::Preference
        }
    }
}

impl<'a> Election<'a> {
    /// Why a VIP's owner is its owner, and `me` is not, if it is not. To be asked with what the owner
    /// was decided by; none if it was not by that.
    pub fn why(
        &mut self,
        (vip, pool): (IpAddr, &Pool),
        services: &[&Service],
        (owner, me): (&str, &str),
        alive: &Alive,
        options: &PlanOptions,
    ) -> Option<Ownership> {
        let contest = self.contest(vip, pool, services, &mut BTreeSet::new())?;
        let all = self.standings(&contest.advertisements);
        let first = self.standing(owner, &contest.advertisements)?;
        let alike = contest.alike();
        let eligible = if alike { BTreeSet::new() } else { self.eligible(&contest.asking) };
        let mut counts = [0; 4];
        if alike {
            for (other, count) in &*all {
                counts[other.behind(&first) as usize] += count;
            }
        } else {
            for node in &eligible {
                if let Some(other) = self.standing(node, &contest.advertisements) {
                    counts[other.behind(&first) as usize] += 1;
                }
            }
        }
        // The owner is among them.
        counts[Behind::Digest as usize] = counts[Behind::Digest as usize].checked_sub(1)?;
        let names = self.names(&contest);
        let not_here = (owner != me).then(|| {
            let here = self.standing(me, &contest.advertisements);
            match here.filter(|_| alike || eligible.contains(me)) {
                Some(here) => candidate(here.behind(&first), &names),
                None => self.why_not_eligible(me, &contest, alive, options),
            }
        });
        Some(Ownership { owner: chosen(counts, &names), not_here })
    }

    /// How a candidate of some advertisements stands.
    fn standing(&mut self, node: &str, advertisements: &[usize]) -> Option<Standing> {
        let score = *self.candidates(advertisements).get(node)?;
        let held_until_s = self.held.get(node).copied();
        let misses = advertisements.iter().any(|i| self.advertisements[*i].missing.contains(node));
        Some(Standing { score, held_until_s, misses })
    }

    /// How many of all candidates of some advertisements stand how.
    fn standings(&mut self, advertisements: &[usize]) -> Rc<Standings> {
        if let Some(known) = self.standings.get(advertisements) {
            return Rc::clone(known);
        }
        let mut standings = Standings::new();
        for node in self.candidates(advertisements).keys() {
            if let Some(standing) = self.standing(node, advertisements) {
                *standings.entry(standing).or_default() += 1;
            }
        }
        let standings = Rc::new(standings);
        self.standings.insert(advertisements.to_vec(), Rc::clone(&standings));
        standings
    }

    fn of<'e>(
        &'e self,
        contest: &'e Contest<'a, '_>,
    ) -> impl Iterator<Item = &'e Advertisement<'a>> {
        contest.advertisements.iter().map(|position| &self.advertisements[*position])
    }

    fn names(&self, contest: &Contest<'a, '_>) -> String {
        self.of(contest).map(|one| one.name).collect::<Vec<_>>().join(", ")
    }

    /// Why a node is none of those that may announce.
    fn why_not_eligible(
        &mut self,
        node: &str,
        contest: &Contest<'a, '_>,
        alive: &Alive,
        options: &PlanOptions,
    ) -> Reason {
        let Some(known) = self.snapshot.nodes.get(node) else {
            return Reason::new("UnknownNode", format!("the API does not know node {node}"));
        };
        if known.network_unavailable {
            let message = "the node's condition NetworkUnavailable is True";
            return Reason::new("NetworkUnavailable", message);
        }
        if !options.ignore_exclude_label && known.labels.contains_key(EXCLUDE_LABEL) {
            return Reason::new("Excluded", format!("the node has the label {EXCLUDE_LABEL}"));
        }
        let Some(uplinks) = alive.get(node).filter(|alive| alive.agent) else {
            return Reason::new("NotAlive", format!("the agent of node {node} does not answer"));
        };
        for (service, own, serving) in &contest.asking {
            if self.candidates(own).contains_key(node) {
                if is_local(service) && !serving.nodes.contains(node) {
                    let message = format!(
                        "externalTrafficPolicy of Service {} is Local, and none of its endpoints on \
                         the node can serve",
                        service.name
                    );
                    return Reason::new("NoLocalEndpoint", message);
                }
                continue;
            }
            let own: Vec<_> = own.iter().map(|position| &self.advertisements[*position]).collect();
            let names = own.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
            let selects =
                |one: &&&Advertisement<'_>| any_matches(&one.spec.node_selectors, &known.labels);
            let selecting: Vec<_> = own.iter().filter(selects).collect();
            if selecting.is_empty() {
                let message = format!(
                    "spec.nodeSelectors of L2Advertisement {names} do not match the node's labels"
                );
                return Reason::new("NotSelected", message);
            }
            if selecting.iter().all(|one| !has_interface(uplinks, &one.spec.interfaces)) {
                let wanted: BTreeSet<_> =
                    selecting.iter().flat_map(|one| &one.spec.interfaces).cloned().collect();
                let wanted = wanted.into_iter().collect::<Vec<_>>().join(", ");
                let message = if wanted.is_empty() {
                    "all uplinks of the node are excluded, or without carrier".to_owned()
                } else {
                    format!(
                        "the node has no uplink named {wanted} with a carrier, as spec.interfaces \
                         of L2Advertisement {names} ask for"
                    )
                };
                return Reason::new("NoInterface", message);
            }
        }
        Reason::new("NotEligible", "it may not for each of the Services that share the address")
    }
}

/// Why the owner was chosen, by how many others stand behind it because of what.
fn chosen(counts: [usize; 4], advertisements: &str) -> Reason {
    let count = |behind: Behind| counts[behind as usize];
    let mut others = Vec::new();
    if count(Behind::Preference) > 0 {
        let less = count(Behind::Preference);
        others.push(format!("L2Advertisement {advertisements} prefers it to {less}"));
    }
    if count(Behind::Held) > 0 {
        let held = count(Behind::Held);
        others.push(format!("{held} have lost their VIPs often of late and are held back"));
    }
    if count(Behind::Carrier) > 0 {
        others.push(format!("{} have an uplink without carrier", count(Behind::Carrier)));
    }
    let all = 1 + counts.iter().sum::<usize>();
    let equal = 1 + count(Behind::Digest);
    let behind = others.join(", ");
    match (all, equal) {
        (1, _) => Reason::new("OnlyCandidate", "no other node may announce it"),
        (_, 1) => {
            let reason = if count(Behind::Preference) > 0 {
                "Preferred"
            } else if count(Behind::Held) > 0 {
                "OthersHeldBack"
            } else {
                "OthersWithoutCarrier"
            };
            Reason::new(reason, format!("of {all} nodes that may announce it, {behind}"))
        }
        _ if equal == all => {
            let message =
                format!("its digest is the lowest of the {all} nodes that may announce it");
            Reason::new("LowestDigest", message)
        }
        _ => {
            let message = format!(
                "its digest is the lowest of {equal} alike; of {all} nodes that may announce it, {behind}"
            );
            Reason::new("LowestDigest", message)
        }
    }
}

/// Why a node that may announce does not.
fn candidate(behind: Behind, advertisements: &str) -> Reason {
    match behind {
        Behind::Digest => Reason::new("HigherDigest", "it may, too, but its digest is higher"),
        Behind::Preference => Reason::new(
            "LessPreferred",
            format!("it may, too, but L2Advertisement {advertisements} prefers others"),
        ),
        Behind::Held => Reason::new(
            "HeldBack",
            "it may, too, but has lost its VIPs often of late and is held back",
        ),
        Behind::Carrier => Reason::new(
            "NoCarrier",
            "it may, too, but one of its uplinks there has no carrier, or had none just now",
        ),
    }
}
