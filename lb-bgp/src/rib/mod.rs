//! Adj-RIB-Out: what the peer should know, what it knows, and the UPDATEs between the two (RFC 4271
//! sections 3.2 and 9.2).
//!
//! Nothing waits in a queue: a message is made when the transport takes one, of what is true then. So
//! a route that came and went meanwhile costs nothing, and a slow peer costs no memory.
mod outgoing;
#[cfg(test)]
mod tests;

pub(crate) use outgoing::{NextHops, Peer};

use crate::{
    family::{Families, Family},
    message::{RefreshKind, RouteRefresh},
    route::Route,
};
use bytes::Bytes;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// The routes for one peer.
#[derive(Debug, Default)]
pub struct AdjRibOut {
    desired: BTreeMap<IpNet, Arc<Route>>,
    /// Whether `desired` is all that there is, and not only what is known yet.
    whole: bool,
    /// The session that is up, and what it has been told.
    session: Option<Told>,
}

/// What a session has been told, and what it has yet to be.
#[derive(Debug)]
struct Told {
    peer: Peer,
    /// What the peer has of us; `None` if it asked for it to be sent again.
    known: BTreeMap<IpNet, Option<Arc<Route>>>,
    withdraw: BTreeMap<Family, BTreeSet<IpNet>>,
    announce: BTreeMap<Family, BTreeMap<Arc<Route>, BTreeSet<IpNet>>>,
    /// Attributes that fill a message by themselves.
    too_large: BTreeSet<IpNet>,
    /// Families whose end has yet to be told (RFC 4724 section 2).
    ends: Families,
    /// Refreshes of RFC 7313 that have begun and not ended.
    refreshing: Families,
    markers: VecDeque<RouteRefresh>,
}

/// A message that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) bytes: Bytes,
    /// Whether it is an UPDATE, and no marker of RFC 7313.
    pub(crate) is_update: bool,
}

/// How many routes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Routes that the peer should know.
    pub desired: usize,
    /// Those that it has been sent.
    pub announced: usize,
    /// Changes that it has not been sent yet.
    pub pending: usize,
    /// Routes of families that the session does not carry, or has no next hop for.
    pub not_carried: usize,
    /// Routes whose attributes are too large for a message.
    pub too_large: usize,
}

impl AdjRibOut {
    /// Announces a route, or changes it.
    pub fn announce(&mut self, prefix: IpNet, route: Arc<Route>) {
        let prefix = prefix.trunc();
        if self.desired.get(&prefix) == Some(&route) {
            return;
        }
        let old = self.desired.insert(prefix, route.clone());
        if let Some(told) = &mut self.session {
            told.change(prefix, old.as_ref(), Some(route));
        }
    }

    /// Withdraws a route.
    pub fn withdraw(&mut self, prefix: &IpNet) {
        let prefix = prefix.trunc();
        if let Some(old) = self.desired.remove(&prefix)
            && let Some(told) = &mut self.session
        {
            told.change(prefix, Some(&old), None);
        }
    }

    /// Announces these routes and no others.
    pub fn replace(&mut self, routes: BTreeMap<IpNet, Arc<Route>>) {
        let gone: Vec<_> =
            self.desired.keys().filter(|prefix| !routes.contains_key(prefix)).copied().collect();
        gone.iter().for_each(|prefix| self.withdraw(prefix));
        for (prefix, route) in routes {
            self.announce(prefix, route);
        }
    }

    /// Says that the routes are all that there are: only then are peers told so, and drop what they
    /// have kept of an agent that has restarted (RFC 4724 section 4.1).
    pub fn set_whole(&mut self) {
        self.whole = true;
    }

    /// Whether everything has been sent: routes, withdrawals, and the ends of families.
    pub fn is_flushed(&self) -> bool {
        self.session.as_ref().is_none_or(|told| told.is_flushed() && told.ends.is_empty())
    }

    /// How many routes there are.
    pub fn counts(&self) -> RouteCounts {
        let mut counts = RouteCounts { desired: self.desired.len(), ..RouteCounts::default() };
        let Some(told) = &self.session else { return counts };
        let withdrawals: usize = told.withdraw.values().map(BTreeSet::len).sum();
        let groups = told.announce.values().flat_map(BTreeMap::values);
        counts.pending = withdrawals + groups.map(BTreeSet::len).sum::<usize>();
        counts.announced = told.known.len();
        let carried = |prefix: &&IpNet| told.peer.next_hop(Family::of(prefix)).is_none();
        counts.not_carried = self.desired.keys().filter(carried).count();
        counts.too_large = told.too_large.len();
        counts
    }

    /// A session is up, which knows nothing yet.
    pub(crate) fn begin(&mut self, peer: Peer) {
        let ends = peer.families().collect();
        let mut told = Told {
            peer,
            known: BTreeMap::new(),
            withdraw: BTreeMap::new(),
            announce: BTreeMap::new(),
            too_large: BTreeSet::new(),
            ends,
            refreshing: Families::new(),
            markers: VecDeque::new(),
        };
        for (prefix, route) in &self.desired {
            told.change(*prefix, None, Some(route.clone()));
        }
        self.session = Some(told);
    }

    /// The session is down.
    pub(crate) fn end(&mut self) {
        self.session = None;
    }

    /// The peer asks for all routes of a family (RFC 2918 section 4). With `marked`, beginning and
    /// end are told, too (RFC 7313 section 4).
    pub(crate) fn refresh(&mut self, family: Family, marked: bool) {
        let Some(told) = &mut self.session else { return };
        if told.peer.next_hop(family).is_none() {
            return;
        }
        if marked && told.refreshing.insert(family) {
            told.markers
                .push_back(RouteRefresh { family: family.wire(), kind: RefreshKind::Begin });
        }
        let again: Vec<_> =
            told.known.keys().filter(|prefix| Family::of(prefix) == family).copied().collect();
        for prefix in again {
            told.known.insert(prefix, None);
            if let Some(route) = self.desired.get(&prefix) {
                told.change(prefix, None, Some(route.clone()));
            }
        }
    }

    /// The next message: withdrawals first, since what is withdrawn may lead nowhere.
    pub(crate) fn next_message(&mut self) -> Option<Made> {
        let told = self.session.as_mut()?;
        if let Some(marker) = told.markers.pop_front() {
            return Some(Made { bytes: marker.encode(), is_update: false });
        }
        if let Some(bytes) = told.withdrawal().or_else(|| told.announcement()) {
            return Some(Made { bytes, is_update: true });
        }
        if let Some(family) = told.refreshing.pop_first() {
            let end = RouteRefresh { family: family.wire(), kind: RefreshKind::End };
            return Some(Made { bytes: end.encode(), is_update: false });
        }
        let family = if self.whole { told.ends.pop_first()? } else { return None };
        Some(Made { bytes: outgoing::end_of_rib(family), is_update: true })
    }
}

impl Told {
    fn is_flushed(&self) -> bool {
        self.markers.is_empty()
            && self.withdraw.is_empty()
            && self.announce.is_empty()
            && self.refreshing.is_empty()
    }

    /// Notes what is to be sent now that a route is another one, `old` being what it was until now.
    fn change(&mut self, prefix: IpNet, old: Option<&Arc<Route>>, new: Option<Arc<Route>>) {
        let family = Family::of(&prefix);
        if self.peer.next_hop(family).is_none() {
            return;
        }
        self.too_large.remove(&prefix);
        remove(&mut self.withdraw, family, |set| {
            set.remove(&prefix);
            set.is_empty()
        });
        if let Some(old) = old {
            remove(&mut self.announce, family, |groups| {
                remove(groups, old, |set| {
                    set.remove(&prefix);
                    set.is_empty()
                });
                groups.is_empty()
            });
        }
        match (self.known.get(&prefix), new) {
            (Some(Some(known)), Some(new)) if *known == new => {}
            (_, Some(new)) => {
                let groups = self.announce.entry(family).or_default();
                groups.entry(new).or_default().insert(prefix);
            }
            (Some(_), None) => {
                self.withdraw.entry(family).or_default().insert(prefix);
            }
            (None, None) => {}
        }
    }

    fn withdrawal(&mut self) -> Option<Bytes> {
        let mut entry = self.withdraw.first_entry()?;
        let (family, waiting) = (*entry.key(), entry.get_mut());
        let (bytes, taken) = self.peer.withdrawal(family, waiting.iter().copied());
        for prefix in &taken {
            waiting.remove(prefix);
            self.known.remove(prefix);
        }
        // Never the case: a withdrawal always has room. It must not be tried for ever, though.
        if waiting.is_empty() || taken.is_empty() {
            entry.remove();
        }
        Some(bytes)
    }

    fn announcement(&mut self) -> Option<Bytes> {
        while let Some(mut entry) = self.announce.first_entry() {
            let family = *entry.key();
            let Some(mut group) = entry.get_mut().first_entry() else {
                entry.remove();
                continue;
            };
            let route = group.key().clone();
            let waiting = group.get_mut();
            let made = self.peer.announcement(family, &route, waiting.iter().copied());
            let bytes = match made {
                Some((bytes, taken)) => {
                    for prefix in taken {
                        waiting.remove(&prefix);
                        self.known.insert(prefix, Some(route.clone()));
                    }
                    Some(bytes)
                }
                None => {
                    // What the peer had before does not stay either.
                    for prefix in std::mem::take(waiting) {
                        if self.known.contains_key(&prefix) {
                            self.withdraw.entry(family).or_default().insert(prefix);
                        }
                        self.too_large.insert(prefix);
                    }
                    None
                }
            };
            if waiting.is_empty() {
                group.remove();
            }
            if entry.get().is_empty() {
                entry.remove();
            }
            if bytes.is_some() {
                return bytes;
            }
            if let Some(bytes) = self.withdrawal() {
                return Some(bytes);
            }
        }
        None
    }
}

/// Changes an entry of a map, and removes it if `then_empty` says that nothing is left of it.
fn remove<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: impl std::borrow::Borrow<K>,
    then_empty: impl FnOnce(&mut V) -> bool,
) {
    if map.get_mut(key.borrow()).is_some_and(then_empty) {
        map.remove(key.borrow());
    }
}
