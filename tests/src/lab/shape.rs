//! What a laboratory has.
use super::Recording;

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many nodes (1 to 9).
    pub nodes: u8,
    /// How many pods on each (0 to 99).
    pub pods_per_node: u8,
    /// Whether the LAN has a way out.
    pub router: Outside,
    /// Whether its frames are recorded.
    pub recording: Recording,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 3, pods_per_node: 2, router: Outside::None, recording: Recording::Latest }
    }
}

/// What is beyond the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Nothing: default routes lead to nobody.
    None,
    /// A router, and a client behind it.
    Router,
    /// The same, and the last node is on a link of its own at that router.
    RouterAndNode,
}
