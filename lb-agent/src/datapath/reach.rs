//! All that decides by which way a packet is sent on to another node.
use super::neighbours::NextHops;
use crate::membership::NodeCookies;
use std::{collections::BTreeMap, net::IpAddr};

/// How packets reach other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Forward {
    /// By rewriting link-layer addresses where that gets through, else by tunnel
    #[default]
    Auto,
    /// By rewriting link-layer addresses wherever there is a common link, without proof that it
    /// lets foreign source addresses through; second chances go by tunnel all the same
    Link,
    /// By tunnel only
    Tunnel,
}

/// What probe frames have shown of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkProof {
    /// Frames with foreign source addresses get through.
    Proven,
    /// They were sent, for long enough, and none arrived.
    Disproved,
}

/// What is known of the links to other nodes, by InternalIP. Nothing is known (yet) of those that
/// are not listed.
pub type LinkProofs = BTreeMap<IpAddr, LinkProof>;

/// What other nodes' agents have told about the ways to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// What tunnelled packets to a node must carry, by its name.
    pub cookies: NodeCookies,
    /// Which links let foreign source addresses through.
    pub proofs: LinkProofs,
}

/// How other nodes are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// By their InternalIPs.
    pub next_hops: NextHops,
    /// What they say.
    pub peers: Peers,
    /// What the operator says.
    pub forward: Forward,
}

impl Reach {
    /// Whether packets may be sent to this address by rewriting link-layer addresses. A link of
    /// which nothing is known is taken to be good: that is what nearly all are, and a node
    /// whose agent does not answer (yet) has no other way.
    pub(super) fn by_link(&self, address: IpAddr) -> bool {
        self.next_hops.get(&address).is_some_and(|hop| hop.on_link) && self.may_link(address)
    }

    /// The same for an address that is known to be on a link.
    pub(super) fn may_link(&self, address: IpAddr) -> bool {
        match self.forward {
            Forward::Auto => self.peers.proofs.get(&address) != Some(&LinkProof::Disproved),
            Forward::Link => true,
            Forward::Tunnel => false,
        }
    }
}
