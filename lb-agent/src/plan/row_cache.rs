//! Rows in use, each kept once.
use super::{
    EndpointAddress, LocalEndpoints, PlannedRow,
    rows::{PerRow, Rows, fragment_rows},
};
use std::{collections::HashMap, hash::Hash, sync::Arc};

/// The nodes that are alive, by name, with their positions.
type Nodes = Vec<(String, u16)>;

/// Unused tables are this part of all at most.
const SWEPT_PART: usize = 8;

/// The rows that are in use, so that equal ones share one allocation, and one place in the kernel.
#[derive(Debug, Default)]
pub struct RowCache {
    /// Each with the round in which it was used last.
    rows: HashMap<Arc<Rows>, u64>,
    local: HashMap<Arc<PerRow>, u64>,
    /// And what they were computed from.
    fragments: Option<(Nodes, Arc<Vec<PlannedRow>>)>,
    round: u64,
    /// How many Services have changed since it was last looked what is used.
    changed: usize,
}

impl RowCache {
    /// The one allocation of these rows.
    pub fn rows(&mut self, rows: Rows) -> Arc<Rows> {
        shared(&mut self.rows, rows, self.round)
    }

    /// Which of this node's endpoints that take new flows (sorted) is a row's, for so many rows.
    pub fn local(&mut self, mut endpoints: Vec<EndpointAddress>, rows: u32) -> LocalEndpoints {
        if rows == 0 {
            return LocalEndpoints::None;
        }
        if endpoints.len() < 2 {
            return endpoints.pop().map_or(LocalEndpoints::None, LocalEndpoints::One);
        }
        let wanted = PerRow { endpoints, rows };
        LocalEndpoints::PerRow(shared(&mut self.local, wanted, self.round))
    }

    /// The rows for fragments among these nodes.
    pub fn fragments(&mut self, nodes: Nodes) -> Arc<Vec<PlannedRow>> {
        if let Some((_, rows)) = self.fragments.as_ref().filter(|(of, _)| *of == nodes) {
            return Arc::clone(rows);
        }
        let by_name = nodes.iter().map(|(name, position)| (name.as_str(), *position));
        let rows = Arc::new(fragment_rows(by_name));
        self.fragments = Some((nodes, Arc::clone(&rows)));
        rows
    }

    /// Ends a plan in which so many Services have changed: what nobody uses any more is forgotten.
    /// So that one change does not look at everything, that waits until there are enough of them.
    pub fn sweep(&mut self, changed: usize) {
        let round = self.round;
        self.round += 1;
        self.changed += changed;
        if self.changed * SWEPT_PART < self.rows.len() {
            return;
        }
        self.changed = 0;
        // What was not asked for may still be held by a Service that has not changed.
        fn used<T>(round: u64) -> impl Fn(&Arc<T>, &mut u64) -> bool {
            move |held, last| *last == round || Arc::strong_count(held) > 1
        }
        self.rows.retain(used(round));
        self.local.retain(used(round));
        self.rows.shrink_to(2 * self.rows.len());
        self.local.shrink_to(2 * self.local.len());
    }

    /// How many different tables of rows are kept.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

fn shared<T: Eq + Hash>(known: &mut HashMap<Arc<T>, u64>, wanted: T, round: u64) -> Arc<T> {
    let kept = match known.get_key_value(&wanted) {
        Some((kept, _)) => Arc::clone(kept),
        None => Arc::new(wanted),
    };
    known.insert(Arc::clone(&kept), round);
    kept
}
