//! What the data path has to make of a frame, written down a second time.
//!
//! It shares no code with the kernel program or with `lb-common`: it has its own
//! header parsing, works on `std::net` addresses, and sums checksums over the whole
//! packet where the data path adjusts them by what changed. It follows
//! `docs/data-path.md`, whose sections its files name, and the RFCs named at each rule.
//!
//! Frames are worked on without their VLAN tag; [`ingress()`] takes it off and puts it back.

mod affinity;
mod checksum;
mod decide;
mod deliver;
mod egress;
mod flows;
mod fragments;
mod hash;
mod headers;
mod icmp_error;
mod ingress;
mod neighbours;
mod refuse;
mod send;
mod steer;
mod tunnel;

use super::{
    frames::Mac,
    world::{FlowKey, World},
};
use std::net::{IpAddr, SocketAddr};

pub use checksum::is_valid as checksums_are_valid;
pub use egress::egress;
pub use ingress::ingress;
pub use tunnel::wrap;

/// XDP_DROP
pub const DROP: u32 = 1;
/// XDP_PASS
pub const PASS: u32 = 2;
/// XDP_TX
pub const TX: u32 = 3;
/// XDP_REDIRECT
pub const REDIRECT: u32 = 4;
/// TCX_NEXT
pub const NEXT: u32 = u32::MAX;
/// TCX_DROP
pub const SHOT: u32 = 2;

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The program's return value.
    pub action: u32,
    /// The counter that rises by one.
    pub counter: &'static str,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The Service whose statistics rise by one packet.
    pub service: Option<Tally>,
    /// What the agent is told.
    pub event: Option<Event>,
    /// Where it is sent on to.
    pub sent: Option<Sent>,
}

/// Which statistics of a Service a frame adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Delivered here; the index of the statistics.
    Delivered(u32),
    /// Sent on; the index of the statistics.
    Forwarded(u32),
}

/// What the agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nobody in the row knows the flow; its row's node.
    Unknown(FlowKey, u16),
    /// A probe frame of the agent with this address has arrived.
    Probe(IpAddr),
    /// Somebody who is no agent's node claims a VIP: the address, and the frame's source.
    Claim(IpAddr, Mac),
}

/// Where a packet is sent on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    /// Index of the node.
    pub node: u16,
    /// By tunnel, at this position; none is by link.
    pub position: Option<u8>,
}

impl Verdict {
    fn new(action: u32, counter: &'static str, frame: Vec<u8>) -> Self {
        Self { action, counter, frame, service: None, event: None, sent: None }
    }

    fn untouched(action: u32, counter: &'static str, frame: &[u8]) -> Self {
        Self::new(action, counter, frame.to_vec())
    }
}

/// How a packet arrived.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    /// By a frame from an agent's node.
    agent: bool,
    /// In a tunnel, at this position.
    tunnel: Option<u8>,
}

/// A packet of a flow, from its client or about it.
#[derive(Clone, Copy, Debug)]
struct Packet {
    client: SocketAddr,
    vip: SocketAddr,
    protocol: u8,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With its transport header: TCP's flags and sequence number, or whether it is an SCTP INIT.
    Whole { flags: u8, sequence: u32, init: bool },
    /// A fragment without.
    Later,
    /// An ICMP error about the flow.
    Error,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Packet {
    fn flags(&self) -> u8 {
        match self.kind {
            Kind::Whole { flags, .. } => flags,
            Kind::Later | Kind::Error => 0,
        }
    }

    /// SYN alone begins a connection, INIT an association.
    fn begins(&self) -> bool {
        let init = matches!(self.kind, Kind::Whole { init: true, .. });
        init || (self.flags() & SYN != 0 && self.flags() & ACK == 0)
    }

    fn ends(&self) -> bool {
        !self.begins() && self.flags() & (FIN | RST) != 0
    }

    /// Nothing comes after a reset.
    fn resets(&self) -> bool {
        !self.begins() && self.flags() & RST != 0
    }

    /// Where a connection that this packet ends has ended: its sequence number's upper 24 bits.
    fn closes_at(&self) -> Option<u32> {
        match self.kind {
            Kind::Whole { sequence, .. } if self.ends() => Some(sequence >> 8),
            _ => None,
        }
    }

    fn forth(&self) -> FlowKey {
        let Self { client, vip: peer, protocol, .. } = *self;
        FlowKey { client, peer, protocol, to_client: false }
    }
}

/// What steps further down the way need of a packet.
struct Case<'a> {
    /// The frame as it is now, untagged and out of its tunnel.
    frame: &'a [u8],
    ip: headers::Ip,
    arrival: Arrival,
}

/// A reason to drop: its counter.
type Dropped = &'static str;

fn is_for_us(world: &World, frame: &[u8], vlan: u16) -> bool {
    world.uplinks.get(&(world.ifindex, vlan)).is_some_and(|mac| frame[..6] == mac[..])
}
