//! Who is alive.
use std::collections::{BTreeMap, BTreeSet};

/// The nodes that are alive, by name, the node itself always among them.
pub type Alive = BTreeMap<String, AliveNode>;

/// What is known of a node that is alive.
///
/// Two facts are told apart. A node that is listed has a kernel that serves: it keeps
/// its place in every row. Only while its [`agent`](Self::agent) lives too may it own a
/// VIP on layer 2, since somebody has to notice when it no longer should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveNode {
    /// Its uplinks. Empty means that it has not said yet, and counts as having any.
    pub interfaces: BTreeSet<String>,
    /// Its agent lives.
    pub agent: bool,
}

impl AliveNode {
    /// A node whose agent lives and has the given uplinks.
    pub fn new<I>(interfaces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { interfaces: interfaces.into_iter().map(Into::into).collect(), agent: true }
    }
}

impl Default for AliveNode {
    fn default() -> Self {
        Self { interfaces: BTreeSet::new(), agent: true }
    }
}
