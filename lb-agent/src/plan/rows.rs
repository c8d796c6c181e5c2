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
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

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

/// Computes the rows of a list of endpoints.
///
/// `me` is the position of the node that [`PlannedRow::endpoint`] is for. The result
/// does not depend on the order of the list. Empty if no endpoint takes new flows.
pub fn rows(endpoints: &[RowEndpoint], me: Option<u16>) -> Vec<PlannedRow> {
    if !endpoints.iter().any(|e| e.takes_new) {
        return Vec::new();
    }
    // By address: whoever is looked at first wins where scores are equal.
    let mut sorted = endpoints.to_vec();
    sorted.sort_unstable();
    let mut computer = Computer::new(&sorted, me);
    (0..row_count(sorted.len())).map(|row| computer.row(row)).collect()
}

/// Of many endpoints, about so many per row are looked at closely.
const CLOSE: u64 = 8;

/// An endpoint in one row.
#[derive(Clone, Copy, Default)]
struct Candidate {
    /// Never 0, which stands for nobody: 0 itself is taken for 1.
    score: u64,
    node: u16,
    takes_new: bool,
}

/// Computes one row after the other. A table can have 65,536 rows of a hundred scores
/// each, so the inner loops do without branches that depend on a score.
struct Computer<'a> {
    endpoints: &'a [RowEndpoint],
    digests: Vec<u64>,
    /// Positions of this node's endpoints that take new flows.
    mine: Vec<usize>,
    /// How many of the nodes are to be found: four, unless there are fewer.
    wanted: usize,
    /// Only scores from here on are looked at closely; if that finds too few, all are.
    threshold: u64,
    scores: Vec<u64>,
    /// Of those that are looked at closely, the positions; and one more place.
    positions: Vec<u32>,
    close: Vec<Candidate>,
}

impl<'a> Computer<'a> {
    fn new(endpoints: &'a [RowEndpoint], me: Option<u16>) -> Self {
        let nodes: BTreeSet<_> = endpoints.iter().map(|e| e.node).collect();
        let count = endpoints.len();
        let mine = |(_, e): &(usize, &RowEndpoint)| e.takes_new && Some(e.node) == me;
        Self {
            endpoints,
            digests: endpoints.iter().map(|e| endpoint_digest(bytes(e.address.address))).collect(),
            mine: endpoints.iter().enumerate().filter(mine).map(|(i, _)| i).collect(),
            wanted: nodes.len().min(4),
            threshold: match count as u64 {
                0..=16 => 0,
                many => u64::MAX - u64::MAX / many * CLOSE,
            },
            scores: vec![0; count],
            positions: vec![0; count + 1],
            close: vec![Candidate::default(); count],
        }
    }

    fn row(&mut self, row: u32) -> PlannedRow {
        let found = self.collect(row, self.threshold);
        let (mut nodes, taker) = self.pick(found).unwrap_or_else(|| {
            let all = self.collect(row, 0);
            // With all of them there are enough nodes, and one takes new flows.
            self.pick(all).unwrap_or_default()
        });
        let first = nodes.iter().position(|n| *n == Some(taker)).unwrap_or_else(|| {
            nodes[3] = Some(taker);
            3
        });
        let mut best = 0;
        let mut endpoint = None;
        for &i in &self.mine {
            if self.scores[i].max(1) > best {
                (best, endpoint) = (self.scores[i].max(1), Some(self.endpoints[i].address));
            }
        }
        PlannedRow { nodes, first: first as u8, endpoint }
    }

    /// Computes all scores and gathers those from `threshold` on; returns how many.
    fn collect(&mut self, row: u32, threshold: u64) -> usize {
        for (digest, score) in self.digests.iter().zip(&mut self.scores) {
            *score = row_score(*digest, row);
        }
        let mut found = 0;
        for (i, score) in (0u32..).zip(&self.scores) {
            self.positions[found] = i;
            found += usize::from(*score >= threshold);
        }
        for (position, candidate) in self.positions[..found].iter().zip(&mut self.close) {
            let RowEndpoint { node, takes_new, .. } = self.endpoints[*position as usize];
            let score = self.scores[*position as usize].max(1);
            *candidate = Candidate { score, node, takes_new };
        }
        found
    }

    /// The first nodes among the candidates, and the node whose endpoint takes new flows;
    /// `None` if there are too few candidates to tell.
    fn pick(&mut self, found: usize) -> Option<([Option<u16>; 4], u16)> {
        let close = &mut self.close[..found];
        let mut taker = Candidate::default();
        for c in &*close {
            let better = c.takes_new & (c.score > taker.score);
            taker = if better { *c } else { taker };
        }
        let mut nodes = [None; 4];
        for place in &mut nodes[..self.wanted] {
            let mut best = Candidate::default();
            for c in &*close {
                best = if c.score > best.score { *c } else { best };
            }
            if best.score == 0 {
                return None;
            }
            *place = Some(best.node);
            for c in &mut *close {
                c.score = if c.node == best.node { 0 } else { c.score };
            }
        }
        (taker.score != 0).then_some((nodes, taker.node))
    }
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
