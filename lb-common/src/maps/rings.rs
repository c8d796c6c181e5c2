//! What the kernel programs tell: events for the agent, samples for whoever looks.
use super::FlowKey;

/// [`Event::kind`]: a flow is known to none of its row's nodes: ask the other agents.
/// `node` is the row's node.
pub const EVENT_UNKNOWN_FLOW: u32 = 1;
/// [`Event::kind`]: a probe frame of the agent at the address `flow.peer` has arrived over the
/// link that `ifindex` and `vlan` name: frames with foreign source addresses get through.
pub const EVENT_PROBE: u32 = 2;
/// [`Event::kind`]: a host that is no agent's node claims the VIP `flow.peer` for the link-layer
/// address `mac`. A hundred a second are told on each CPU.
pub const EVENT_CLAIM: u32 = 3;

/// What the ring `EVENTS` carries to the agent.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The flow, or what [`kind`](Self::kind) says of its fields; else zeros.
    pub flow: FlowKey,
    /// One of `EVENT_…`.
    pub kind: u32,
    /// Index in `NODES`, or [`NO_NODE`](super::NO_NODE).
    pub node: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// The VLAN; 0 is none.
    pub vlan: u16,
    /// A link-layer address.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: u32,
}

/// The one element of `SAMPLING`: whether frames are sampled. Whoever reads `SAMPLES` keeps moving
/// the deadline, so that sampling ends with its reader, however that ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// One in so many frames is sampled; 0 is none.
    pub one_in: u32,
    /// Until when: seconds of `CLOCK_MONOTONIC`.
    pub until_s: u32,
}

/// Bytes of a frame that a sample holds.
pub const SAMPLE_BYTES: usize = 128;

/// What the ring `SAMPLES` carries to `lb-agent watch`: a frame as it was left by the program,
/// and what became of it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When (`CLOCK_MONOTONIC`, ns).
    pub time_ns: u64,
    /// Index of the interface that it arrived on, or leaves by.
    pub ifindex: u32,
    /// The [`Outcome`](crate::outcome::Outcome), as a number.
    pub outcome: u32,
    /// Length of the frame, in bytes.
    pub length: u32,
    /// How many bytes of it follow.
    pub captured: u32,
    /// 0: ingress program, 1: egress program, 2: egress program on an interface without
    /// link-layer header, where the bytes begin with the IP header.
    pub program: u32,
    /// Always 0.
    pub pad: u32,
    /// Its first bytes.
    pub bytes: [u8; SAMPLE_BYTES],
}

no_padding! {
    Event { 40, 4, 4, 4, 2, 6, 4 },
    Sampling { 4, 4 },
    Sample { 8, 6 * 4, SAMPLE_BYTES },
}
