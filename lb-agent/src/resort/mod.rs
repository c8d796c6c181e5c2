//! The last resort: a flow that no node of its row knows.
//!
//! A row names four nodes, and nearly every flow is at one of them. A flow may be elsewhere
//! after many changes in a row, after a table of flows has evicted it, or because kube-proxy
//! began it when the VIP was another load balancer's. So the kernel program tells the agent
//! ([`EVENT_UNKNOWN_FLOW`](lb_common::maps::EVENT_UNKNOWN_FLOW)), which looks into its own
//! node's tables and its kernel's connection tracking ([`know`]), and asks all other agents
//! to do the same ([`ask`], [`message`]). Who knows the flow sees to it that its kernel program
//! does, and says so; packets go there from then on. Only what every living node denies to
//! know may be refused.
pub mod ask;
pub mod know;
pub mod message;
pub mod rate;

pub use message::{FlowId, Found, Knowledge};

/// For how many seconds a node is taken to know a flow that it said it knows. Then it is asked
/// again.
pub const KNOWN_S: u32 = 60;
