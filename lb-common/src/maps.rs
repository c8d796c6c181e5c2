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

use crate::closed::Mark;

/// Version of everything in this module; part of the pin directory's name.
pub const SCHEMA_VERSION: u32 = 4;

/// The first version of the schema in which the [`KEPT`] maps were as they are now.
pub const KEPT_SINCE: u32 = 3;

/// The maps that hold what no plan says, or what such refer to. An agent of another version takes
/// them over as they stand, unless they have changed since ([`KEPT_SINCE`]); all others it makes anew.
pub const KEPT: [&str; 5] = ["FLOWS", "PENDING", "AFFINITY", "FRAGMENTED", "ENDPOINTS"];

/// Most rows that all Services of a node can use together, unless the agent is told otherwise.
pub const DEFAULT_ROWS: u32 = 1 << 21;
/// Elements of `ROW_ENDPOINTS` unless the agent is told otherwise: only Services with
/// several endpoints on one node need any there.
pub const DEFAULT_ROW_ENDPOINTS: u32 = 1 << 19;
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
/// Most interfaces, or VLANs of interfaces, on which one node receives VIP traffic.
pub const MAX_UPLINKS: usize = 16;
/// Most clients whose endpoint a node remembers for `sessionAffinity: ClientIP`.
pub const MAX_AFFINITIES: u32 = 1 << 17;
/// Most flows of which a node remembers that another node, or none, knows them.
pub const MAX_ELSEWHERE: u32 = 1 << 16;
/// Most datagrams whose fragments a node follows at a time.
pub const MAX_FRAGMENTED: u32 = 1 << 14;
/// Most prefixes in `loadBalancerSourceRanges` of all Services together.
pub const MAX_SOURCE_RANGES: u32 = 1 << 17;
/// Bytes of the ring `EVENTS`.
pub const EVENTS_BYTES: u32 = 1 << 18;
/// Bytes of the ring `SAMPLES`.
pub const SAMPLES_BYTES: u32 = 1 << 20;

/// The index in `NODES` that stands for the node itself.
pub const THIS_NODE: u16 = 0;
/// No node, in [`Row::nodes`].
pub const NO_NODE: u16 = u16::MAX;
/// No endpoint, in [`Service::endpoint`] and in `ROW_ENDPOINTS`.
pub const NO_ENDPOINT: u32 = u32::MAX;
/// No range of `ROW_ENDPOINTS`, in [`Service::endpoints_start`].
pub const NO_RANGE: u32 = u32::MAX;
/// Most nodes that a row lists.
pub const ROW_NODES: usize = 4;

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
    /// The VLAN that the question is tagged with; 0 is none.
    pub vlan: u16,
    /// Always 0.
    pub pad: u16,
}

/// Value of `ANNOUNCED`: this node answers ARP or neighbour solicitations for the key.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Announced {
    /// The link-layer address to answer with.
    pub mac: [u8; 6],
    /// Always 0.
    pub pad: [u8; 2],
    /// How often it was answered for, since the agent wrote the entry. The program counts it.
    pub answered: u64,
}

/// What is counted is not part of what the agent says.
impl PartialEq for Announced {
    fn eq(&self, other: &Self) -> bool {
        self.mac == other.mac
    }
}

impl Eq for Announced {}

/// Key of `SERVICES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual IP address.
    pub vip: [u8; 16],
    /// The Service's port, network order.
    pub port: [u8; 2],
    /// IANA protocol number: 6 is TCP, 17 is UDP, 132 is SCTP.
    pub proto: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0.
    pub pad2: u32,
}

/// [`Service::flags`]: leave the destination alone, kube-proxy does the last step.
pub const SERVICE_KERNEL: u32 = 1;
/// [`Service::flags`]: all flows of a client go by one row and, while their affinity lasts,
/// to one endpoint (`sessionAffinity: ClientIP`).
pub const SERVICE_CLIENT_IP: u32 = 2;
/// [`Service::flags`]: this node may have flows of it, so those are looked at before the row.
pub const SERVICE_HERE: u32 = 4;
/// [`Service::flags`]: only clients in [`Service::ranges`] are served.
pub const SERVICE_RANGES: u32 = 8;
/// [`Service::flags`]: kube-proxy served it until just now, and the agent is still looking for
/// the connections that it has here. At a first hop all that is unknown is left to it, what begins
/// a flow, too, which then is the kernel's ([`FLOW_KERNEL`]).
pub const SERVICE_TAKEN_OVER: u32 = 16;

/// Value of `SERVICES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Index in `ROWS` of the first row.
    pub rows_start: u32,
    /// Number of rows; 0 while it has no endpoint at all.
    pub rows: u32,
    /// The lowest power of two that is not below `rows`, less one:
    /// [`row_index`](crate::hash::row_index) needs it.
    pub mask: u32,
    /// Of the flags `SERVICE_…`.
    pub flags: u32,
    /// Index in `SERVICE_STATS`.
    pub stats: u32,
    /// Index in `ENDPOINTS` of this node's only endpoint for new flows, or [`NO_ENDPOINT`].
    /// Does not count while `endpoints_start` says otherwise.
    pub endpoint: u32,
    /// Index in `ROW_ENDPOINTS` of the first row's endpoint (as many as rows follow), where this
    /// node has several for new flows; else [`NO_RANGE`].
    pub endpoints_start: u32,
    /// When the rows last changed: seconds of `CLOCK_MONOTONIC`.
    pub changed_s: u32,
    /// The rows that stood before they changed, as `rows_start`; kept for a while.
    pub previous_start: u32,
    /// Their number; 0 where they are not known.
    pub previous_rows: u32,
    /// Their mask.
    pub previous_mask: u32,
    /// For how many seconds a client keeps its endpoint after its last packet
    /// (`sessionAffinityConfig.clientIP.timeoutSeconds`).
    pub affinity_s: u32,
    /// [`RangeKey::ranges`] of the client prefixes that are served.
    pub ranges: u32,
    /// Always 0.
    pub pad: u32,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            rows_start: 0,
            rows: 0,
            mask: 0,
            flags: 0,
            stats: 0,
            endpoint: NO_ENDPOINT,
            endpoints_start: NO_RANGE,
            changed_s: 0,
            previous_start: 0,
            previous_rows: 0,
            previous_mask: 0,
            affinity_s: 0,
            ranges: 0,
            pad: 0,
        }
    }
}

/// Element of `ROWS`: where flows of one hash value go.
///
/// The first is the row's node: new flows go there. [`NO_NODE`] in the first place means
/// that nobody takes new flows. Behind it stand, without repetition, those that may know
/// flows of before, the likeliest first; then [`NO_NODE`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Indices in `NODES`, [`THIS_NODE`] among them.
    pub nodes: [u16; ROW_NODES],
}

/// [`Node::flags`]: it stands on a link of ours that lets through what other hosts' addresses
/// are the source of, so that a first hop may rewrite link-layer addresses only.
pub const NODE_LINK: u32 = 1;
/// [`Node::flags`]: it takes tunnelled packets that carry [`Node::cookie`].
pub const NODE_TUNNEL: u32 = 2;

/// Element of `NODES`: how to reach a node. Index 0 is this node and stays empty.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's address: the outer destination of what is tunnelled to it.
    pub address: [u8; 16],
    /// Our address towards it: the outer source. Of the same family.
    pub source: [u8; 16],
    /// What a tunnelled packet proves by that it comes from an agent's node; the node chose it.
    pub cookie: u64,
    /// Index of the interface to send by; 0 while the node cannot be reached.
    pub ifindex: u32,
    /// Of the flags `NODE_…`.
    pub flags: u32,
    /// Link-layer address of the next hop: the node's own with [`NODE_LINK`], else perhaps a
    /// gateway's.
    pub mac: [u8; 6],
    /// Our own link-layer address on that link.
    pub source_mac: [u8; 6],
    /// The VLAN to tag frames with; 0 is none.
    pub vlan: u16,
    /// Largest IP packet, in bytes, that gets to the node whole.
    pub mtu: u16,
}

/// Key of `NODE_MACS`: a source link-layer address by which a frame is known to be an agent's.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacKey {
    /// The link-layer address.
    pub mac: [u8; 6],
    /// The VLAN that its frames are tagged with; 0 is none.
    pub vlan: u16,
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
/// [`Flow::state`]: this node's kernel does the last step (mode `kernel`, or a connection that
/// kube-proxy began). There is no entry for the way back, and `peer` is the VIP itself.
pub const FLOW_KERNEL: u8 = 2;
/// [`Flow::state`], beside [`FLOW_CLOSING`]: [`Flow::closed_at`] says where.
pub const FLOW_CLOSED_AT: u8 = 4;

/// Seconds after which a silent UDP flow is none any more: as long as conntrack keeps one that
/// has been answered, and more.
pub const UDP_IDLE_S: u32 = 300;

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
    /// [`NO_ENDPOINT`] with [`FLOW_KERNEL`].
    pub endpoint: u32,
    /// When the client was last heard: seconds of `CLOCK_MONOTONIC`.
    pub seen_s: u32,
    /// Of the flags `FLOW_…`.
    pub state: u8,
    /// With [`FLOW_CLOSED_AT`]: of the client's FIN, by which another connection's packets are
    /// [told apart](crate::closed). Else 0.
    pub closed_at: Mark,
}

/// Key of `AFFINITY`: a client of a Service's port with `sessionAffinity: ClientIP`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityKey {
    /// The client's address.
    pub client: [u8; 16],
    /// The virtual IP address.
    pub vip: [u8; 16],
    /// The Service's port, network order.
    pub port: [u8; 2],
    /// IANA protocol number.
    pub proto: u8,
    /// Always 0.
    pub pad: [u8; 5],
}

/// Value of `AFFINITY`: the endpoint that the client's connections go to.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// The endpoint's address; the entry is valid while its index is this endpoint.
    pub address: [u8; 16],
    /// The endpoint's port, network order.
    pub port: [u8; 2],
    /// Always 0.
    pub pad: [u8; 2],
    /// Index in `ENDPOINTS`.
    pub endpoint: u32,
    /// When the client was last heard: seconds of `CLOCK_MONOTONIC`.
    pub seen_s: u32,
    /// Always 0.
    pub pad2: u32,
}

/// [`Elsewhere::verdict`]: the other agents are being asked; nothing is to be done meanwhile. UDP is
/// never asked about: it is looked for along its row, for as long as it goes on.
pub const ELSEWHERE_ASKED: u16 = 0;
/// [`Elsewhere::verdict`]: the node with index [`Elsewhere::node`] knows the flow. [`THIS_NODE`]: so
/// does nobody better, although its client has closed it.
pub const ELSEWHERE_NODE: u16 = 1;
/// [`Elsewhere::verdict`]: nobody knows the flow: it may be refused. It does not count if the row has
/// changed since: who has come into it may not have been asked.
pub const ELSEWHERE_NOBODY: u16 = 2;
/// For how many seconds after it was found out [`ELSEWHERE_NOBODY`] counts.
pub const ELSEWHERE_NOBODY_S: u32 = 10;
/// [`Elsewhere::verdict`]: the other agents are being asked again, since nobody answered the first
/// time.
pub const ELSEWHERE_ASKED_AGAIN: u16 = 3;

/// Value of `ELSEWHERE` (key: [`FlowKey`], towards the endpoint): what came of asking the other
/// agents about a flow that no node of its row knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Index in `NODES`.
    pub node: u16,
    /// One of `ELSEWHERE_…`.
    pub verdict: u16,
    /// Until when it counts: seconds of `CLOCK_MONOTONIC`.
    pub until_s: u32,
}

/// Key of `FRAGMENTED`: a datagram that comes in fragments (RFC 791 section 3.2, RFC 8200
/// section 4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey {
    /// Its source as it arrives.
    pub source: [u8; 16],
    /// Its destination as it arrives.
    pub destination: [u8; 16],
    /// Its identification, network order; IPv4's in the first two bytes.
    pub id: [u8; 4],
    /// IANA protocol number of the datagram.
    pub proto: u8,
    /// [`TO_ENDPOINT`] or [`TO_CLIENT`].
    pub direction: u8,
    /// Always 0.
    pub pad: [u8; 2],
}

/// Value of `FRAGMENTED`: what the first fragment said.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragmented {
    /// The source port, network order.
    pub source_port: [u8; 2],
    /// The destination port, network order.
    pub destination_port: [u8; 2],
    /// When: seconds of `CLOCK_MONOTONIC`. It counts for a second, rounded up.
    pub seen_s: u32,
}

/// Key of `SOURCE_RANGES` behind the length of the prefix (in bits, these fields included).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeKey {
    /// Which set of prefixes, network order, since prefixes are matched byte by byte.
    pub ranges: [u8; 4],
    /// The client's address.
    pub client: [u8; 16],
}

/// Element of [`Settings::uplinks`].
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Index of an interface that the program is attached to; 0 ends the list.
    pub ifindex: u32,
    /// The VLAN whose tagged frames are meant; 0 is those without a tag.
    pub vlan: u16,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

/// The one element of `SETTINGS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Until when (`CLOCK_MONOTONIC`, ns) VIPs are announced; the agent keeps moving it. Once it
    /// has passed, the agent is taken to be gone for good, and another node may announce them.
    pub announce_until_ns: u64,
    /// Until when (`CLOCK_MONOTONIC`, ns) the tables are taken to be what the cluster is now:
    /// only then is anything refused, else it is dropped without an answer.
    pub fresh_until_ns: u64,
    /// Nanoseconds that each answered echo request uses of a CPU's budget; 0 answers all.
    pub echo_interval_ns: u64,
    /// Nanoseconds that each refusal (TCP RST, ICMP error) uses of a CPU's budget; 0 sends all.
    pub refuse_interval_ns: u64,
    /// What tunnelled packets to this node must carry: the one that is handed out now, and the
    /// one before it. 0 accepts none.
    pub cookies: [u64; 2],
    /// When this node's maps were made: seconds of `CLOCK_MONOTONIC`.
    pub started_s: u32,
    /// For how many seconds after a change UDP flows are looked for at the nodes of before.
    pub udp_window_s: u32,
    /// For how many seconds after a change nothing is refused.
    pub settle_s: u32,
    /// Index in `ROWS` of the rows by which fragments find their node.
    pub fragment_rows_start: u32,
    /// Their number, a power of two; 0 serves no fragments.
    pub fragment_rows: u32,
    /// Largest TCP payload over IPv4 that leaves room for a tunnel's headers; 0 changes no SYN-ACK.
    pub mss_v4: u16,
    /// The same over IPv6.
    pub mss_v6: u16,
    /// UDP port of the tunnels, network order.
    pub tunnel_port: [u8; 2],
    /// Not 0 while the programs are about to be taken off: whether this node serves is not answered
    /// any more, so that the others send it nothing by the time it does not.
    pub withdrawn: u8,
    /// Always 0.
    pub pad: [u8; 5],
    /// The interfaces on which VIP traffic arrives.
    pub uplinks: [Uplink; MAX_UPLINKS],
}

/// The one element (per CPU) of `ECHO_BUDGET`, of `REFUSE_BUDGET` and of `CLAIM_BUDGET`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
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

mod debug;
mod rings;
pub use rings::*;

no_padding! {
    VipKey { 16 },
    Vip { 4, 4 },
    AnnouncedKey { 16, 4, 2, 2 },
    Announced { 6, 2, 8 },
    ServiceKey { 16, 2, 1, 1, 4 },
    Service { 14 * 4 },
    Row { 8 },
    Node { 16, 16, 8, 4, 4, 6, 6, 2, 2 },
    MacKey { 6, 2 },
    MacOwner { 4 },
    Endpoint { 16, 2, 2, 4 },
    FlowKey { 16, 16, 2, 2, 1, 1, 2 },
    Flow { 16, 2, 2, 4, 4, 1, 3 },
    AffinityKey { 16, 16, 2, 1, 5 },
    Affinity { 16, 2, 2, 4, 4, 4 },
    Elsewhere { 2, 2, 4 },
    FragmentKey { 16, 16, 4, 1, 1, 2 },
    Fragmented { 2, 2, 4 },
    RangeKey { 4, 16 },
    Uplink { 4, 2, 6 },
    Settings { 4 * 8, 2 * 8, 5 * 4, 3 * 2 + 6, MAX_UPLINKS * 12 },
    Budget { 8 },
    ServiceStats { 8, 8, 8, 8 },
}

/// An IPv4 address as the maps hold it: `::ffff:a.b.c.d`.
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
