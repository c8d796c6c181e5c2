//! Keys and values of the BPF maps.
//!
//! Their layout is an interface: operators read it with `bpftool map dump`, and a
//! new agent adopts the maps of an old one. Every change of it raises
//! [`SCHEMA_VERSION`], which names the pin directory.
//!
//! Addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291
//! section 2.5.5.2). Ports are two bytes in network order, so that a dump shows
//! `[0, 80]` and not 20480. Padding is explicit, since the kernel compares keys
//! byte by byte.

/// Version of everything in this module; part of the pin directory's name.
pub const SCHEMA_VERSION: u32 = 1;

/// Most rows that all Services of a node can use together, unless the agent is told otherwise.
pub const DEFAULT_ROWS: u32 = 1 << 20;
/// Most VIP:port:protocol triples.
pub const MAX_SERVICES: u32 = 65_536;
/// Most VIPs.
pub const MAX_VIPS: u32 = 65_536;
/// Most pairs of VIP and interface that one node announces.
pub const MAX_ANNOUNCED: u32 = 65_536;
/// Most nodes of a cluster.
pub const MAX_NODES: u32 = 4_096;
/// Most endpoints on one node (an address and port each).
pub const MAX_ENDPOINTS: u32 = 65_536;
/// Most entries in the flow table unless the agent is told otherwise; a flow takes two.
pub const DEFAULT_FLOWS: u32 = 1 << 19;
/// Entries in the table of flows that have yet to prove themselves; a flow takes two.
pub const PENDING_FLOWS: u32 = 1 << 17;
/// Most interfaces on which one node receives VIP traffic.
pub const MAX_UPLINKS: usize = 16;

/// The index in `NODES` that stands for the node itself.
pub const THIS_NODE: u16 = 0;
/// No node, in [`Row::nodes`].
pub const NO_NODE: u16 = u16::MAX;
/// No endpoint, in [`Row::endpoint`].
pub const NO_ENDPOINT: u32 = u32::MAX;

/// Key of `VIPS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// The virtual IP address.
    pub vip: [u8; 16],
}

/// Value of `VIPS`: an address that belongs to Herald, whoever announces it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// None defined yet; always 0.
    pub flags: u32,
    /// How many `SERVICES` entries have this VIP.
    pub ports: u32,
}

/// Key of `ANNOUNCED`: a VIP on an interface.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnnouncedKey {
    /// The virtual IP address.
    pub vip: [u8; 16],
    /// Index of the interface that the question arrives on.
    pub ifindex: u32,
    /// Always 0.
    pub pad: u32,
}

/// Value of `ANNOUNCED`: this node answers ARP or neighbour solicitations for the key.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The link-layer address to answer with.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: [u8; 2],
}

/// Key of `SERVICES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual IP address.
    pub vip: [u8; 16],
    /// The Service's port, network order.
    pub port: [u8; 2],
    /// IANA protocol number: 6 is TCP, 17 is UDP.
    pub proto: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0.
    pub pad2: u32,
}

/// [`Service::flags`]: leave the destination alone, kube-proxy does the last step.
pub const SERVICE_KERNEL: u32 = 1;

/// [`Service::flags`]: all flows of a client go by one row (`sessionAffinity: ClientIP`).
pub const SERVICE_CLIENT_IP: u32 = 2;

/// Value of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Index in `ROWS` of the first row.
    pub rows_start: u32,
    /// Number of rows: 0 (no endpoint takes new flows) or a power of two.
    pub rows: u32,
    /// Index in `SERVICE_STATS`.
    pub stats: u32,
    /// Of [`SERVICE_KERNEL`] and [`SERVICE_CLIENT_IP`].
    pub flags: u32,
}

/// Element of `ROWS`: where flows of one hash value go.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Up to four distinct nodes in rendezvous order, as indices in `NODES`,
    /// [`THIS_NODE`] among them; then [`NO_NODE`].
    pub nodes: [u16; 4],
    /// This node's endpoint for new flows of the row, as index in `ENDPOINTS`, or [`NO_ENDPOINT`].
    pub endpoint: u32,
    /// Position in `nodes` of the row's node: the first with an endpoint that takes new flows.
    pub first: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// Element of `NODES`: how to reach a node. Index 0 is this node and stays empty.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's address, by which its link-layer address was resolved.
    pub address: [u8; 16],
    /// Its link-layer address on our link.
    pub mac: [u8; 6],
    /// Our own link-layer address on that link.
    pub source_mac: [u8; 6],
    /// The interface to send by; 0 while the node cannot be reached by rewriting link-layer addresses.
    pub ifindex: u32,
}

/// Key of `NODE_MACS`: a source link-layer address by which a frame is known to be an agent's.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacKey {
    /// The link-layer address.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: [u8; 2],
}

/// Value of `NODE_MACS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacOwner {
    /// Index in `NODES`.
    pub node: u32,
}

/// [`Endpoint::flags`]: the entry is in use.
pub const ENDPOINT_PRESENT: u16 = 1;

/// Element of `ENDPOINTS`: a pod of this node.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's address.
    pub address: [u8; 16],
    /// The pod's port, network order.
    pub port: [u8; 2],
    /// [`ENDPOINT_PRESENT`], or 0 for a free slot.
    pub flags: u16,
    /// Always 0.
    pub pad: u32,
}

/// [`FlowKey::direction`]: from the client to the VIP; `peer` is the VIP.
pub const TO_ENDPOINT: u8 = 0;
/// [`FlowKey::direction`]: from the endpoint to the client; `peer` is the endpoint.
pub const TO_CLIENT: u8 = 1;

/// Key of `FLOWS` and `PENDING`: a packet's addresses as it arrives.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The client's address.
    pub client: [u8; 16],
    /// The other side's address: the VIP or the endpoint, by `direction`.
    pub peer: [u8; 16],
    /// The client's port, network order (as the other side sees it).
    pub client_port: [u8; 2],
    /// The other side's port, network order.
    pub peer_port: [u8; 2],
    /// IANA protocol number.
    pub proto: u8,
    /// [`TO_ENDPOINT`] or [`TO_CLIENT`].
    pub direction: u8,
    /// Always 0.
    pub pad: [u8; 2],
}

/// [`Flow::state`]: the client has sent FIN or RST; a new SYN begins a new flow.
pub const FLOW_CLOSING: u8 = 1;

/// Value of `FLOWS` and `PENDING`: what the packet's addresses become.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The endpoint's address (towards the endpoint) or the VIP (towards the client).
    pub peer: [u8; 16],
    /// The port that belongs to `peer`, network order.
    pub peer_port: [u8; 2],
    /// The client's port on the far side, network order. It differs from the key's
    /// only where one client port talks to one endpoint through two VIPs.
    pub client_port: [u8; 2],
    /// Index in `ENDPOINTS`; the flow is valid while that entry is its endpoint.
    pub endpoint: u32,
    /// [`FLOW_CLOSING`] or 0.
    pub state: u8,
    /// Always 0.
    pub pad: [u8; 7],
}

/// Element of `UPLINKS`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Index of an interface that the program is attached to; 0 ends the list.
    pub ifindex: u32,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: [u8; 2],
}

/// The one element of `SETTINGS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Until when (`CLOCK_MONOTONIC`, ns) VIPs are announced; the agent keeps moving it. Once it
    /// has passed, the agent is taken to be gone for good, and another node may announce them.
    pub announce_until_ns: u64,
    /// Nanoseconds that each answered echo request uses of a CPU's budget; 0 answers all.
    pub echo_interval_ns: u64,
    /// The interfaces on which VIP traffic arrives.
    pub uplinks: [Uplink; MAX_UPLINKS],
}

/// The one element (per CPU) of `ECHO_BUDGET`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EchoBudget {
    /// The theoretical arrival time of the next conforming request
    /// (generic cell rate algorithm, ITU-T I.371), ns.
    pub next_ns: u64,
}

/// Element (per CPU) of `SERVICE_STATS`: packets and bytes of one VIP:port on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Packets handed to an endpoint of this node or, in mode `kernel`, to its kernel.
    pub delivered_packets: u64,
    /// Their lengths from the link layer up.
    pub delivered_bytes: u64,
    /// Packets sent on to the node of their row.
    pub forwarded_packets: u64,
    /// Their lengths from the link layer up.
    pub forwarded_bytes: u64,
}

/// Checks at compile time that a type has no padding of the compiler's own.
macro_rules! no_padding {
    ($($t:ident { $($size:expr),* }),* $(,)?) => {
        $( const _: () = assert!(size_of::<$t>() == 0 $(+ $size)*); )*
        #[cfg(feature = "user")]
        mod pod {
            use super::*;
            $(
                // SAFETY: `repr(C)`, Copy, valid for every byte pattern, and free of
                // padding (asserted above), so that it may be read as plain bytes.
                unsafe impl aya::Pod for $t {}
            )*
        }
    };
}
no_padding! {
    VipKey { 16 },
    Vip { 4, 4 },
    AnnouncedKey { 16, 4, 4 },
    Announced { 6, 2 },
    ServiceKey { 16, 2, 1, 1, 4 },
    Service { 4, 4, 4, 4 },
    Row { 8, 4, 1, 3 },
    Node { 16, 6, 6, 4 },
    MacKey { 6, 2 },
    MacOwner { 4 },
    Endpoint { 16, 2, 2, 4 },
    FlowKey { 16, 16, 2, 2, 1, 1, 2 },
    Flow { 16, 2, 2, 4, 1, 7 },
    Uplink { 4, 6, 2 },
    Settings { 8, 8, MAX_UPLINKS * 12 },
    EchoBudget { 8 },
    ServiceStats { 8, 8, 8, 8 },
}

/// An IPv4 address as the maps hold it: `::ffff:a.b.c.d`.
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
