//! Who is alive.
//!
//! Two facts are told apart: whether a node's data plane answers ([`probing`]), and whether its agent is
//! heard. [`members`] decides by them, and by what the others say. All that agents send
//! each other is authenticated and cannot be replayed ([`envelope`]). [`udp`] does the sockets.
//!
//! Hellos also carry what tunnels need: each node's [cookie](cookies), and whose
//! [probe frames](proofs) have arrived. Other datagrams between agents, those of the
//! [last resort](crate::resort), share their sockets and their envelope.
pub mod cookies;
pub mod damping;
pub mod envelope;
pub mod keys;
pub mod members;
pub mod message;
pub mod probe;
pub mod probing;
pub mod proofs;
pub mod told;
pub mod udp;
pub mod watchers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tokio::sync::watch;

/// The nodes that are alive, by name, the node itself always among them.
pub type Alive = BTreeMap<String, AliveNode>;

/// What is known of a node that is alive.
///
/// Two facts are told apart. A node that is listed has a kernel that serves: it keeps
/// its place in every row (but see [`in_rows`](Self::in_rows)). Only while its [`agent`](Self::agent) lives too may it own a
/// VIP on layer 2, since somebody has to notice when it no longer should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveNode {
    /// The uplinks that it may announce on, or [`NO_INTERFACE`], and [what else](told) it tells of
    /// them. Empty means that it has not said yet, and counts as having any.
    pub interfaces: BTreeSet<String>,
    /// Its agent lives.
    pub agent: bool,
    /// Rows may name it. Not so where it is only assumed to be there, in this node's first second, and
    /// the rows that an earlier agent left in the kernel do without it.
    pub in_rows: bool,
    /// It has lost its VIPs often of late, and until then (seconds since 1970 by its own clock) owns
    /// one only where nobody else can ([`damping`]).
    pub held_until_s: Option<u64>,
}

impl AliveNode {
    /// A node whose agent lives and has the given uplinks.
    pub fn new<I>(interfaces: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let interfaces = interfaces.into_iter().map(Into::into).collect();
        Self { interfaces, ..Self::default() }
    }
}

impl Default for AliveNode {
    fn default() -> Self {
        Self { interfaces: BTreeSet::new(), agent: true, in_rows: true, held_until_s: None }
    }
}

/// What a node that has uplinks, but none that it may announce on, tells instead of their names.
/// Linux gives no interface this name (`dev_valid_name`).
pub const NO_INTERFACE: &str = ".";

/// The UDP port that agents listen on for each other, unless told otherwise. MetalLB's
/// speakers use 7946; both may run while one replaces the other.
pub const DEFAULT_PORT: u16 = 7947;

/// The nodes of the cluster by name, with their InternalIPs.
pub type KnownNodes = BTreeMap<String, Vec<IpAddr>>;

/// What other nodes ask tunnelled packets to carry, by name.
pub type NodeCookies = BTreeMap<String, cookies::Cookie>;

/// By the address of each node whose agent lives: of which of our addresses it says that
/// probe frames arrive.
pub type Hearing = BTreeMap<IpAddr, BTreeSet<IpAddr>>;

/// How an agent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The agent is started again soon. Its kernel goes on, and announces meanwhile: others leave its
    /// VIPs to it, until no more than half of the dead man's time is left.
    Restarting,
    /// The agent stops; its kernel goes on. Others take its VIPs over, and rows stay.
    Stopping,
    /// The kernel programs are removed too: nothing may be sent to the node any more.
    Unloading,
}

/// What tells who is alive.
pub trait Liveness: Send + Sync {
    /// Who is alive, now and as it changes.
    fn alive(&self) -> watch::Receiver<Arc<Alive>>;
    /// Says which nodes there are. Nobody else is listened to.
    fn set_nodes(&self, nodes: KnownNodes);
    /// Says which uplinks this node has, for the others to know.
    fn set_interfaces(&self, interfaces: BTreeSet<String>);
    /// Tells the others, repeatedly and from now on, that this agent goes. The node's
    /// own view says at once that its agent owns nothing any more.
    fn leave(&self, departure: Departure);
}
