//! Rendezvous hashing: which nodes the flows of one hash value go to.
//!
//! In every row the endpoints stand in the order of their scores. Since a score
//! depends on endpoint and row alone, the order of two endpoints never depends on who
//! else is there: a pod that appears or goes changes nothing but its own place.
use super::{EndpointAddress, PlannedRow};
use lb_common::{
    hash::{endpoint_digest, row_score},
    maps::mapped,
};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// An endpoint that has a place in the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowEndpoint {
    /// Where it is reached.
    pub address: EndpointAddress,
    /// Its node, as position in [`Plan::nodes`](super::Plan::nodes).
    pub node: u16,
    /// Whether new flows may go to it.
    pub takes_new: bool,
}

/// The number of rows for a number of endpoints: at least 256 for each, up to 65,536.
///
/// The classes are four apart, so that it rarely changes; and there is no hysteresis,
/// since that would be history, which a node that has just started does not have. Where
/// the class changes the lower rows stay, because scores do not depend on it.
pub const fn row_count(endpoints: usize) -> u32 {
    match endpoints {
        0 => 0,
        1 => 256,
        2..=4 => 1024,
        5..=16 => 4096,
        17..=64 => 16_384,
        _ => 65_536,
    }
}

/// An endpoint's best score among those looked at, and its rank by address, which
/// decides between equal scores.
#[derive(Clone, Copy)]
struct Best {
    score: u64,
    rank: u32,
}

impl Best {
    const NONE: Self = Self { score: 0, rank: u32::MAX };

    const fn beats(self, other: Self) -> bool {
        self.score > other.score || (self.score == other.score && self.rank < other.rank)
    }
}

/// The endpoints of one node, as a span of the digests.
struct Group {
    node: u16,
    /// From here on those that take new flows,
    start: u32,
    /// from here on those that do not,
    drained: u32,
    /// up to here.
    end: u32,
}

/// Computes the rows of a list of endpoints.
///
/// `me` is the position of the node that [`PlannedRow::endpoint`] is for. The result
/// does not depend on the order of the list, but for the repetition of an endpoint.
/// Empty if no endpoint takes new flows.
pub fn rows(endpoints: &[RowEndpoint], me: Option<u16>) -> Vec<PlannedRow> {
    if !endpoints.iter().any(|e| e.takes_new) {
        return Vec::new();
    }
    let mut sorted: Vec<_> = endpoints.to_vec();
    sorted.sort_unstable();
    let mut ranked: Vec<_> = (0u32..).zip(&sorted).collect();
    ranked.sort_by_key(|(_, e)| (e.node, !e.takes_new));
    let digests: Vec<(u64, u32)> =
        ranked.iter().map(|(rank, e)| (endpoint_digest(bytes(e.address.address)), *rank)).collect();
    let groups: Vec<Group> = ranked
        .chunk_by(|a, b| a.1.node == b.1.node)
        .scan(0u32, |start, group| {
            let new = group.iter().filter(|(_, e)| e.takes_new).count();
            let (drained, end) = (*start + new as u32, *start + group.len() as u32);
            let first = std::mem::replace(start, end);
            Some(Group { node: group[0].1.node, start: first, drained, end })
        })
        .collect();
    (0..row_count(sorted.len())).map(|row| one_row(row, &digests, &groups, &sorted, me)).collect()
}

fn one_row(
    row: u32,
    digests: &[(u64, u32)],
    groups: &[Group],
    sorted: &[RowEndpoint],
    me: Option<u16>,
) -> PlannedRow {
    let mut top = [(Best::NONE, 0u16); 4];
    let (mut newest, mut newest_node) = (Best::NONE, 0);
    let mut endpoint = None;
    for group in groups {
        let new = best_of(row, &digests[group.start as usize..group.drained as usize]);
        let drained = best_of(row, &digests[group.drained as usize..group.end as usize]);
        if new.beats(newest) {
            (newest, newest_node) = (new, group.node);
        }
        if Some(group.node) == me && new.rank != u32::MAX {
            endpoint = Some(sorted[new.rank as usize].address);
        }
        let best = if new.beats(drained) { new } else { drained };
        if best.beats(top[3].0) {
            top[3] = (best, group.node);
            for i in [3, 2, 1] {
                if top[i].0.beats(top[i - 1].0) {
                    top.swap(i, i - 1);
                }
            }
        }
    }
    let mut nodes = top.map(|(best, node)| (best.rank != u32::MAX).then_some(node));
    let first = nodes.iter().position(|n| *n == Some(newest_node)).unwrap_or_else(|| {
        nodes[3] = Some(newest_node);
        3
    });
    PlannedRow { nodes, first: first as u8, endpoint }
}

#[inline]
fn best_of(row: u32, digests: &[(u64, u32)]) -> Best {
    let mut best = Best::NONE;
    for (digest, rank) in digests {
        let offer = Best { score: row_score(*digest, row), rank: *rank };
        if offer.beats(best) {
            best = offer;
        }
    }
    best
}

const fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => mapped(a.octets()),
        IpAddr::V6(a) => a.octets(),
    }
}

type CacheKey = (Option<u16>, Vec<RowEndpoint>);

/// Rows already computed, so that equal endpoints share one allocation and endpoints
/// that have not changed cost nothing.
///
/// It cannot change what is computed: a key is everything that [`rows`] depends on.
#[derive(Debug, Default)]
pub struct RowCache {
    kept: HashMap<CacheKey, (u64, Arc<Vec<PlannedRow>>)>,
    round: u64,
}

impl RowCache {
    /// The rows of a sorted list of endpoints for node `me`.
    pub fn rows(&mut self, endpoints: Vec<RowEndpoint>, me: Option<u16>) -> Arc<Vec<PlannedRow>> {
        // Where none of the endpoints is its own, all nodes have the same rows.
        let me = me.filter(|me| endpoints.iter().any(|e| e.node == *me));
        let round = self.round;
        let entry = self
            .kept
            .entry((me, endpoints))
            .or_insert_with_key(|(me, endpoints)| (round, Arc::new(rows(endpoints, *me))));
        entry.0 = round;
        entry.1.clone()
    }

    /// Ends a plan: what it did not use is forgotten.
    pub fn sweep(&mut self) {
        let round = self.round;
        self.kept.retain(|_, (used, _)| *used == round);
        self.round += 1;
    }

    /// How many different tables are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
