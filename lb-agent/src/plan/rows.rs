//! Rendezvous hashing: which nodes the flows of one hash value go to.
//!
//! In every row the endpoints stand in the order of their scores. Since a score
//! depends on endpoint and row alone, the order of two endpoints never depends on who
//! else is there: a pod that appears or goes changes nothing but its own place.
//!
//! A row names first the node of the endpoint that stands first among those that take new
//! flows; in some rows, of the one that stands second, so that shares are [even](super::balance).
//! Behind it come the nodes of the others in order, whether or not they take new
//! flows: whoever had the row before it came, or before it stopped taking new flows,
//! stands near.
use super::{
    EndpointAddress, PlannedRow,
    balance::{NOBODY, Taker, balance},
};
use lb_common::{
    hash::{BlockKey, FEW_ROWS, MORE_ROWS, endpoint_digest, row_before, row_score_in},
    maps::{NO_NODE, mapped},
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// An endpoint that has a place in the rows: an address, since all ports of a pod win the
/// same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its node, as position in [`Rows::nodes`].
    pub node: u16,
    /// Whether new flows may go to it.
    pub takes_new: bool,
}

/// Up to how many endpoints that take new flows a table has how many rows.
///
/// A table that gets another number of rows moves flows to rows with another order, where
/// they are found only if their node is among the four. So the number must not change while
/// a Deployment is rolled: it counts those that take new flows (the others come and go in a
/// roll, and outnumber them at times), and classes are few. By the defaults of a
/// Deployment their number stays between three quarters and a little more than all, so a
/// class should not begin just below a number of replicas that many have. Up to two
/// endpoints and their successors need four nodes, and any table has them all.
const CLASSES: [(usize, u32); 5] =
    [(1, 256), (2, 512), (4, FEW_ROWS), (64, MORE_ROWS), (usize::MAX, 65_536)];

/// The class of a number of endpoints that take new flows.
fn class(taking: usize) -> usize {
    CLASSES.iter().position(|(most, _)| taking <= *most).unwrap_or(CLASSES.len() - 1)
}

/// The number of rows for so many endpoints that take new flows (of all, if none does).
///
/// There is no hysteresis, since that would be history, which a node that has just started
/// does not have.
pub fn row_count(taking: usize) -> u32 {
    if taking == 0 { 0 } else { CLASSES[class(taking)].1 }
}

/// The number of rows before the table grew to hold this many endpoints, if it did so with
/// the last of them. Small tables are not meant: they list all nodes anyway.
fn grown_from(taking: usize) -> Option<u32> {
    let (most, rows) = *CLASSES.get(class(taking).checked_sub(1)?)?;
    (most >= 4 && taking == most + 1).then_some(rows)
}

/// The rows of a Service, as what they are computed from: a table of them takes a hundred times
/// the memory, and is of use only while it is written.
///
/// It names nodes, and not where those stand among all: one that comes or goes changes no rows but
/// its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Sorted, each once.
    nodes: Box<[Arc<str>]>,
    /// Sorted by address: whoever is looked at first wins where scores are equal.
    endpoints: Box<[RowEndpoint]>,
}

impl Rows {
    /// Those of endpoints, in whichever order: their addresses, their nodes, and whether new flows may
    /// go to them.
    pub fn new(list: impl IntoIterator<Item = (IpAddr, Arc<str>, bool)>) -> Self {
        let list: Vec<_> = list.into_iter().collect();
        let nodes: BTreeSet<Arc<str>> = list.iter().map(|(_, node, _)| Arc::clone(node)).collect();
        let nodes: Box<[_]> = nodes.into_iter().collect();
        let endpoint = |(address, node, takes_new)| {
            let node = nodes.binary_search(&node).map_or(NO_NODE, |position| position as u16);
            RowEndpoint { address, node, takes_new }
        };
        let mut endpoints: Vec<_> = list.into_iter().map(endpoint).collect();
        endpoints.sort_unstable();
        Self { nodes, endpoints: endpoints.into() }
    }

    /// The nodes that rows name by their positions here.
    pub fn nodes(&self) -> &[Arc<str>] {
        &self.nodes
    }

    fn taking(&self) -> usize {
        match self.endpoints.iter().filter(|e| e.takes_new).count() {
            0 => self.endpoints.len(),
            taking => taking,
        }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        row_count(self.taking())
    }

    /// There are none, since no endpoint is listed.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Computes them. They name [nodes](Self::nodes).
    pub fn table(&self) -> Vec<PlannedRow> {
        table(&self.endpoints, self.taking())
    }
}

/// The rows of a sorted list of endpoints, `taking` of which take new flows (or none does).
pub(super) fn table(sorted: &[RowEndpoint], taking: usize) -> Vec<PlannedRow> {
    let count = row_count(taking);
    let mut computer = Computer::new(sorted);
    let (mut takers, orders): (Vec<_>, Vec<_>) = (0..count).map(|row| computer.row(row)).unzip();
    let node = |endpoint: u32| sorted.get(endpoint as usize).map_or(NO_NODE, |e| e.node);
    // Of the rows by their scores alone: the smaller table had others evened.
    let parents: Vec<u16> = match grown_from(taking) {
        Some(smaller) => {
            let parent = |row| takers.get(row_before(row, smaller) as usize);
            (0..count).map(|row| parent(row).map_or(NO_NODE, |parent| node(parent.first))).collect()
        }
        None => Vec::new(),
    };
    balance(&mut takers, sorted.len(), taking);
    let rows = takers.iter().zip(orders).enumerate();
    let parent = |row: usize| parents.get(row).copied().unwrap_or(NO_NODE);
    rows.map(|(row, (taker, order))| arrange(node(taker.first), order, parent(row))).collect()
}

/// The row's node, the next in order, the node that had the row which this one was split
/// from, and the others in order; none twice.
fn arrange(taker: u16, order: [u16; 4], parent: u16) -> PlannedRow {
    let mut nodes = [taker, NO_NODE, NO_NODE, NO_NODE];
    let mut next = 1;
    let mut push = |node: u16| {
        if next < nodes.len() && node != NO_NODE && !nodes.contains(&node) {
            nodes[next] = node;
            next += 1;
            return true;
        }
        false
    };
    let mut order = order.into_iter();
    while order.next().is_some_and(|node| node != NO_NODE && !push(node)) {}
    push(parent);
    for node in order {
        push(node);
    }
    PlannedRow { nodes }
}

/// Of many endpoints, about so many per row are looked at closely.
const CLOSE: u64 = 8;

/// An endpoint in one row.
#[derive(Clone, Copy, Default)]
struct Candidate {
    /// Never 0, which stands for nobody: 0 itself is taken for 1.
    score: u64,
    position: u32,
    node: u16,
    takes_new: bool,
}

/// Computes one row after the other. A table can have 65,536 rows of a hundred scores
/// each, so the inner loops do without branches that depend on a score.
struct Computer<'a> {
    endpoints: &'a [RowEndpoint],
    digests: Vec<u64>,
    /// Of the block that the last row was in.
    block_keys: Vec<BlockKey>,
    /// How many of the nodes are to be found: four, unless there are fewer.
    wanted: usize,
    /// On how many nodes there are endpoints that take new flows.
    taking_nodes: usize,
    /// Only scores from here on are looked at closely; if that finds too few, all are.
    threshold: u64,
    scores: Vec<u64>,
    /// Of those that are looked at closely, the positions; and one more place.
    positions: Vec<u32>,
    close: Vec<Candidate>,
}

impl<'a> Computer<'a> {
    fn new(endpoints: &'a [RowEndpoint]) -> Self {
        let nodes: BTreeSet<_> = endpoints.iter().map(|e| e.node).collect();
        let taking: BTreeSet<_> =
            endpoints.iter().filter(|e| e.takes_new).map(|e| e.node).collect();
        let count = endpoints.len();
        Self {
            endpoints,
            digests: endpoints.iter().map(|e| endpoint_digest(bytes(e.address))).collect(),
            block_keys: vec![BlockKey::default(); count],
            wanted: nodes.len().min(4),
            taking_nodes: taking.len(),
            threshold: match count as u64 {
                0..=16 => 0,
                many => u64::MAX - u64::MAX / many * CLOSE,
            },
            scores: vec![0; count],
            positions: vec![0; count + 1],
            close: vec![Candidate::default(); count],
        }
    }

    /// The endpoints that may take new flows, and the first nodes in order. To be called
    /// for consecutive rows, from 0.
    fn row(&mut self, row: u32) -> (Taker, [u16; 4]) {
        if row & 0xff == 0 {
            for (digest, key) in self.digests.iter().zip(&mut self.block_keys) {
                *key = BlockKey::new(*digest, row >> 8);
            }
        }
        let found = self.collect(row, self.threshold);
        self.pick(found).unwrap_or_else(|| {
            let all = self.collect(row, 0);
            // With all of them there are enough nodes, and one takes new flows if any does.
            let nobody = Taker { first: NOBODY, second: NOBODY };
            self.pick(all).unwrap_or((nobody, [NO_NODE; 4]))
        })
    }

    /// Computes all scores and gathers those from `threshold` on; returns how many.
    fn collect(&mut self, row: u32, threshold: u64) -> usize {
        let keyed = self.digests.iter().zip(&self.block_keys);
        for ((digest, key), score) in keyed.zip(&mut self.scores) {
            *score = row_score_in(*digest, key, row);
        }
        let mut found = 0;
        for (i, score) in (0u32..).zip(&self.scores) {
            self.positions[found] = i;
            found += usize::from(*score >= threshold);
        }
        for (position, candidate) in self.positions[..found].iter().zip(&mut self.close) {
            let RowEndpoint { node, takes_new, .. } = self.endpoints[*position as usize];
            let score = self.scores[*position as usize].max(1);
            *candidate = Candidate { score, position: *position, node, takes_new };
        }
        found
    }

    /// The endpoints that may take new flows and the first nodes among the candidates;
    /// `None` if there are too few candidates to tell.
    fn pick(&mut self, found: usize) -> Option<(Taker, [u16; 4])> {
        let close = &mut self.close[..found];
        let mut first = Candidate { position: NOBODY, node: NO_NODE, ..Candidate::default() };
        for c in &*close {
            let better = c.takes_new & (c.score > first.score);
            first = if better { *c } else { first };
        }
        let mut second = Candidate { position: NOBODY, ..Candidate::default() };
        for c in &*close {
            let better = c.takes_new & (c.score > second.score) & (c.node != first.node);
            second = if better { *c } else { second };
        }
        let taking = usize::from(first.score != 0) + usize::from(second.score != 0);
        if taking < self.taking_nodes.min(2) {
            return None;
        }
        let taker = Taker { first: first.position, second: second.position };
        let mut nodes = [NO_NODE; 4];
        for place in &mut nodes[..self.wanted] {
            let mut best = Candidate::default();
            for c in &*close {
                best = if c.score > best.score { *c } else { best };
            }
            if best.score == 0 {
                return None;
            }
            *place = best.node;
            for c in &mut *close {
                c.score = if c.node == best.node { 0 } else { c.score };
            }
        }
        Some((taker, nodes))
    }
}

/// Several endpoints of this node that take new flows of a VIP's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PerRow {
    /// The endpoints, sorted.
    pub endpoints: Vec<EndpointAddress>,
    /// How many rows there are.
    pub rows: u32,
}

impl PerRow {
    /// Which of them is a row's, row by row, as a position in [`endpoints`](Self::endpoints): that whose
    /// address stands first. Of one address with several ports, each port has its share.
    pub fn table(&self) -> Vec<u16> {
        endpoint_by_row(&self.endpoints, self.rows)
    }
}

fn endpoint_by_row(endpoints: &[EndpointAddress], rows: u32) -> Vec<u16> {
    let by_address: Vec<_> = endpoints.iter().map(|e| endpoint_digest(bytes(e.address))).collect();
    let by_port: Vec<_> = endpoints
        .iter()
        .zip(&by_address)
        .map(|(e, digest)| {
            endpoint_digest((u128::from(*digest) << 16 | u128::from(e.port)).to_be_bytes())
        })
        .collect();
    let mut keys = vec![<(BlockKey, BlockKey)>::default(); endpoints.len()];
    let best = |row: u32| {
        if row & 0xff == 0 {
            for ((key, address), port) in keys.iter_mut().zip(&by_address).zip(&by_port) {
                *key = (BlockKey::new(*address, row >> 8), BlockKey::new(*port, row >> 8));
            }
        }
        let mut best = (0, 0, 0);
        for (i, key) in (0u16..).zip(&keys) {
            let at = usize::from(i);
            let score = row_score_in(by_address[at], &key.0, row);
            if score < best.0 {
                continue;
            }
            let score = (score, row_score_in(by_port[at], &key.1, row), i);
            if i == 0 || (score.0, score.1) > (best.0, best.1) {
                best = score;
            }
        }
        best.2
    };
    (0..rows).map(best).collect()
}

/// The rows by which fragments find a node: 256, each with the node that stands first, so
/// that a node which goes or comes changes only its own. By name, since positions move.
pub fn fragment_rows<'a>(nodes: impl Iterator<Item = (&'a str, u16)>) -> Vec<PlannedRow> {
    const ROWS: u32 = 256;
    let nodes: Vec<(u64, u16)> =
        nodes.map(|(name, position)| (name_digest(name), position)).collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let keys: Vec<_> = nodes.iter().map(|(digest, _)| BlockKey::new(*digest, 0)).collect();
    let row = |row| {
        let scored = nodes.iter().zip(&keys);
        let best = scored.max_by_key(|((digest, node), key)| {
            (row_score_in(*digest, key, row), std::cmp::Reverse(*node))
        });
        let node = best.map_or(NO_NODE, |((_, node), _)| *node);
        PlannedRow { nodes: [node, NO_NODE, NO_NODE, NO_NODE] }
    };
    (0..ROWS).map(row).collect()
}

/// A digest of a node's name: its bytes, sixteen at a time, each with what came before.
fn name_digest(name: &str) -> u64 {
    name.as_bytes().chunks(8).fold(name.len() as u64, |digest, chunk| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&digest.to_be_bytes());
        bytes[8..8 + chunk.len()].copy_from_slice(chunk);
        endpoint_digest(bytes)
    })
}

const fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => mapped(a.octets()),
        IpAddr::V6(a) => a.octets(),
    }
}
