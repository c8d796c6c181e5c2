//! What the maps say, as plain data, and the addresses that the suites use.
//!
//! Times are seconds relative to now, which is 0: what a suite sets lies so far from where
//! it would count differently that seconds may pass while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{frames::Mac, services};

pub use super::services::port;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// This node's link-layer address on the uplink.
pub const MY_MAC: Mac = [0x02, 0, 0, 0, 1, 1];
/// This node's link-layer address on its second uplink.
pub const MY_SECOND_MAC: Mac = [0x02, 0, 0, 0, 2, 1];
/// This node's link-layer address on the uplink's VLAN.
pub const MY_VLAN_MAC: Mac = [0x02, 0, 0, 0, 3, 1];
/// The gateway's.
pub const ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];
/// A neighbour's that is no node.
pub const NEIGHBOUR_MAC: Mac = [0x02, 0, 0, 0, 0, 0x21];
/// Of a host that has nothing to do with us.
pub const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x99];
/// Of the second node, on the same link.
pub const NODE_2_MAC: Mac = [0x02, 0, 0, 0, 1, 2];
/// Of the fourth node, on the second uplink.
pub const NODE_4_MAC: Mac = [0x02, 0, 0, 0, 2, 4];
/// Of the fifth node, on the uplink's VLAN.
pub const NODE_5_MAC: Mac = [0x02, 0, 0, 0, 3, 5];

/// The VLAN of the uplink on which VIP traffic arrives, too.
pub const VLAN: u16 = 100;

/// Index of the second node: on the same link, and it takes tunnels.
pub const NODE_2: u16 = 1;
/// Index of the third node: there is no way to it yet.
pub const NODE_3: u16 = 2;
/// Index of the fourth node: on the link of the second uplink, and it takes tunnels.
pub const NODE_4: u16 = 3;
/// Index of the fifth node: on the uplink's VLAN, and it takes tunnels.
pub const NODE_5: u16 = 4;
/// Index of the sixth node: behind the gateway, by tunnel over IPv4.
pub const NODE_6: u16 = 5;
/// Index of the seventh node: behind the second uplink's gateway, by tunnel over IPv6.
pub const NODE_7: u16 = 6;
/// Index of the eighth node: on the same link, but it takes no tunnels.
pub const NODE_8: u16 = 7;
/// Index of the ninth node: behind the gateway, by tunnel over a path that takes 600 bytes.
pub const NODE_9: u16 = 8;
/// In the first place of a row: nobody takes new flows.
pub const NOBODY: u16 = u16::MAX;

/// TCP, UDP and SCTP.
pub const PROTOCOLS: [u8; 3] = [6, 17, 132];

/// Longer ago than anything counts.
pub const LONG_AGO: i32 = -500;
/// Further ahead than anything lasts.
pub const FAR_AHEAD: i32 = 500;
/// What the suites set as all windows, in seconds.
pub const WINDOW: u32 = 200;
/// Seconds after which a UDP flow counts no more.
pub const UDP_IDLE: i32 = 300;

/// The nodes of a row, the row's node first; [`NOBODY`] stands in the first place only.
pub type Row = Vec<u16>;

/// A VIP:port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// None: no endpoint takes new flows.
    pub rows: Vec<Row>,
    /// The rows of before; none if they are not known.
    pub previous: Vec<Row>,
    /// This node's endpoint for new flows, by row: one for each, or one for all.
    pub endpoints: Vec<Option<u32>>,
    /// Mode `kernel`.
    pub kernel: bool,
    /// All flows of a client go by one row.
    pub client_ip: bool,
    /// This node may have flows of it.
    pub here: bool,
    /// kube-proxy served it until just now.
    pub taken_over: bool,
    /// The set of prefixes that are served.
    pub ranges: Option<u32>,
    /// When the rows changed.
    pub changed: i32,
    /// For how long a client keeps its endpoint.
    pub affinity: u32,
    /// Index of its statistics.
    pub stats: u32,
}

/// How to reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Outer destination.
    pub address: IpAddr,
    /// Outer source.
    pub source: IpAddr,
    /// What the node wants to see in tunnelled packets.
    pub cookie: u64,
    /// The interface; 0 while there is no way.
    pub ifindex: u32,
    /// Whether rewriting link-layer addresses gets there.
    pub link: bool,
    /// Whether it takes tunnels.
    pub tunnel: bool,
    /// Link-layer address of the next hop.
    pub mac: Mac,
    /// Ours on that link.
    pub source_mac: Mac,
    /// The VLAN; 0 is none.
    pub vlan: u16,
    /// The largest IP packet that gets there.
    pub mtu: u16,
}

impl Node {
    /// No way at all: this node itself, or one that is not resolved.
    pub fn nowhere() -> Self {
        let address = Ipv4Addr::UNSPECIFIED.into();
        Self {
            address,
            source: address,
            cookie: 0,
            ifindex: 0,
            link: false,
            tunnel: false,
            mac: [0; 6],
            source_mac: [0; 6],
            vlan: 0,
            mtu: 0,
        }
    }
}

/// What answers of our own may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// All are sent.
    Unlimited,
    /// The limit has been reached, for the time of the test.
    Exhausted,
}

/// A flow's entry, as the maps hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What the destination (towards the endpoint) or the source (towards the client) becomes.
    pub peer: SocketAddr,
    /// What the client's port becomes.
    pub client_port: u16,
    /// Index of the endpoint; none for a flow of the kernel's.
    pub endpoint: Option<u32>,
    /// Whether FIN or RST was seen.
    pub closing: bool,
    /// The upper 24 bits of the FIN's sequence number, if they are known.
    pub closed_at: Option<u32>,
    /// When the client was last heard.
    pub seen: i32,
}

/// A flow's key, as the maps hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// The client.
    pub client: SocketAddr,
    /// The VIP or the endpoint.
    pub peer: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Whether `peer` is the endpoint.
    pub to_client: bool,
}

/// The key of a client's affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AffinityKey {
    /// The client.
    pub client: IpAddr,
    /// The VIP and port.
    pub vip: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
}

/// A client's affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The endpoint.
    pub at: SocketAddr,
    /// Its index.
    pub endpoint: u32,
    /// When the client was last heard.
    pub seen: i32,
}

/// What came of asking the other agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Asked,
    /// Nothing yet; nor had there been when they were asked before.
    AskedAgain,
    /// This node knows the flow.
    Node(u16),
    /// No node does.
    Nobody,
}

/// An [`Answer`], and until when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// What came of it.
    pub answer: Answer,
    /// Until when.
    pub until: i32,
}

/// A datagram that comes in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FragmentKey {
    /// Source as it arrives.
    pub source: IpAddr,
    /// Destination as it arrives.
    pub destination: IpAddr,
    /// Identification.
    pub id: [u8; 4],
    /// IANA protocol number.
    pub protocol: u8,
    /// Whether it is on its way to the client.
    pub to_client: bool,
}

/// What the first fragment said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmented {
    /// Source port, then destination port.
    pub ports: (u16, u16),
    /// When.
    pub seen: i32,
}

/// Everything that decides what becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The interface that frames arrive on.
    pub ifindex: u32,
    /// Our link-layer addresses, by interface and VLAN.
    pub uplinks: BTreeMap<(u32, u16), Mac>,
    /// Whether the agent's deadline lies ahead.
    pub announcing: bool,
    /// Whether the tables are fresh.
    pub fresh: bool,
    /// The rate limit of echo answers.
    pub echo: Budget,
    /// Of claims of VIPs that are told.
    pub claims: Budget,
    /// The rate limit of refusals.
    pub refuse: Budget,
    /// When this node's maps were made.
    pub started: i32,
    /// For how long UDP flows are looked for after a change.
    pub udp_window: u32,
    /// For how long nothing is refused after a change.
    pub settle: u32,
    /// What tunnelled packets to this node must carry; 0 is none.
    pub cookies: [u64; 2],
    /// This node's addresses, to which tunnels come.
    pub addresses: BTreeSet<IpAddr>,
    /// The tunnels' UDP port.
    pub tunnel_port: u16,
    /// Largest segments that fit a tunnel, over IPv4 and IPv6; 0 changes nothing.
    pub mss: (u16, u16),
    /// Whether every frame is sampled.
    pub sample: bool,
    /// The rows by which fragments find their node: as many as a power of two, or none.
    pub fragment_rows: Arc<Vec<Row>>,
    /// All VIPs, whoever announces them.
    pub vips: BTreeSet<IpAddr>,
    /// VIPs announced here, by interface and VLAN, and the answer.
    pub announced: BTreeMap<(IpAddr, u32, u16), Mac>,
    /// Services by VIP:port and protocol; shared, since each case has a world of its own.
    pub services: Arc<BTreeMap<(SocketAddr, u8), Service>>,
    /// Client prefixes by the number of their set.
    pub ranges: Arc<BTreeMap<u32, Vec<(IpAddr, u8)>>>,
    /// Nodes by index; the first is this one.
    pub nodes: Arc<Vec<Node>>,
    /// Link-layer addresses of agents' nodes, with the VLAN.
    pub node_macs: Arc<BTreeMap<(Mac, u16), u16>>,
    /// This node's endpoints by index.
    pub endpoints: Arc<Vec<Option<SocketAddr>>>,
    /// Flows whose client has acknowledged.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// Flows whose client has yet to acknowledge.
    pub pending: BTreeMap<FlowKey, Flow>,
    /// Clients' affinities.
    pub affinity: BTreeMap<AffinityKey, Affinity>,
    /// Flows that others know, or nobody.
    pub elsewhere: BTreeMap<FlowKey, Elsewhere>,
    /// Datagrams that come in fragments.
    pub fragmented: BTreeMap<FragmentKey, Fragmented>,
}

fn address(family: Family, v4: [u8; 4], v6: [u16; 2]) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(v4).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, v6[0], 0, 0, 0, 0, v6[1]).into(),
    }
}

/// The VIP that this node announces.
pub fn vip(family: Family) -> IpAddr {
    address(family, [198, 51, 100, 10], [1, 0x10])
}

/// A VIP that another node announces.
pub fn vip_elsewhere(family: Family) -> IpAddr {
    address(family, [198, 51, 100, 20], [1, 0x20])
}

/// An address that is not Herald's.
pub fn foreign(family: Family) -> IpAddr {
    address(family, [203, 0, 113, 5], [2, 5])
}

/// A client outside of the cluster.
pub fn client(family: Family) -> IpAddr {
    address(family, [192, 0, 2, 33], [9, 0x33])
}

/// A router between the client and us, that ICMP errors come from.
pub fn router(family: Family) -> IpAddr {
    address(family, [203, 0, 113, 77], [7, 0x77])
}

/// A neighbour on the link, who asks for link-layer addresses.
pub fn neighbour(family: Family) -> IpAddr {
    address(family, [198, 51, 100, 33], [1, 0x33])
}

/// A node's own address, by its index; 0 is this node.
pub fn node(family: Family, index: u16) -> IpAddr {
    address(family, [10, 7, 0, 1 + index as u8], [0x77, 1 + index])
}

/// The address of one of this node's two pods of each family.
pub fn pod_address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 244, 1, 5 + number]),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 5 + u16::from(number)).into(),
    }
}

/// This node's endpoints: two pods of each family.
pub fn pod(family: Family, number: u8) -> SocketAddr {
    SocketAddr::new(pod_address(family, number), port::POD)
}

/// Index of a pod among the endpoints.
pub fn pod_index(family: Family, number: u8) -> u32 {
    u32::from(number) + if family == Family::V4 { 0 } else { 2 }
}

/// The first index of no endpoint.
pub const GONE_ENDPOINT: u32 = 4;

/// The cookie of this node that it hands out now.
pub const MY_COOKIE: u64 = 0x1122_3344_5566_7788;
/// The one before it.
pub const MY_OLD_COOKIE: u64 = 0x99aa_bbcc_ddee_ff01;

fn nodes(ifindex: u32, second: u32) -> Vec<Node> {
    let node = |index, outer, ifindex, mac, source_mac| Node {
        address: node(outer, index),
        source: node(outer, 0),
        cookie: 0xc00c_1e00_0000_0000 | u64::from(index) << 40 | u64::from(index),
        ifindex,
        link: false,
        tunnel: true,
        mac,
        source_mac,
        vlan: 0,
        mtu: 1500,
    };
    use Family::{V4, V6};
    vec![
        Node::nowhere(),
        Node { link: true, ..node(NODE_2, V4, ifindex, NODE_2_MAC, MY_MAC) },
        Node::nowhere(),
        Node { link: true, ..node(NODE_4, V6, second, NODE_4_MAC, MY_SECOND_MAC) },
        Node { link: true, vlan: VLAN, ..node(NODE_5, V4, ifindex, NODE_5_MAC, MY_VLAN_MAC) },
        node(NODE_6, V4, ifindex, ROUTER_MAC, MY_MAC),
        node(NODE_7, V6, second, [0x02, 0, 0, 0, 2, 0xfe], MY_SECOND_MAC),
        Node {
            link: true,
            tunnel: false,
            ..node(NODE_8, V4, ifindex, [0x02, 0, 0, 0, 1, 8], MY_MAC)
        },
        Node { mtu: 600, ..node(NODE_9, V6, ifindex, ROUTER_MAC, MY_MAC) },
    ]
}

impl World {
    /// Eight other nodes, two VIPs of each family, and a port for each thing that can happen.
    pub fn new(ifindex: u32, second_ifindex: u32) -> Self {
        let endpoints = services::endpoints();
        let mut world = Self {
            ifindex,
            uplinks: BTreeMap::from([((ifindex, 0), MY_MAC), ((ifindex, VLAN), MY_VLAN_MAC)]),
            announcing: true,
            fresh: true,
            echo: Budget::Unlimited,
            claims: Budget::Unlimited,
            refuse: Budget::Unlimited,
            started: LONG_AGO,
            udp_window: WINDOW,
            settle: WINDOW,
            cookies: [MY_COOKIE, MY_OLD_COOKIE],
            addresses: BTreeSet::from([node(Family::V4, 0), node(Family::V6, 0)]),
            tunnel_port: 6080,
            mss: (1400, 1380),
            sample: false,
            fragment_rows: Arc::new(vec![vec![0, NODE_2]]),
            vips: BTreeSet::new(),
            announced: BTreeMap::new(),
            services: Arc::default(),
            ranges: Arc::new(services::ranges()),
            nodes: Arc::new(nodes(ifindex, second_ifindex)),
            node_macs: Arc::new(BTreeMap::from([
                ((NODE_2_MAC, 0), NODE_2),
                ((NODE_4_MAC, 0), NODE_4),
                ((NODE_5_MAC, VLAN), NODE_5),
            ])),
            flows: BTreeMap::new(),
            pending: BTreeMap::new(),
            affinity: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            fragmented: BTreeMap::new(),
            endpoints: Arc::default(),
        };
        let mut table = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            world.vips.extend([vip(family), vip_elsewhere(family)]);
            world.announced.insert((vip(family), ifindex, 0), MY_MAC);
            world.announced.insert((vip(family), ifindex, VLAN), MY_VLAN_MAC);
            // Announced, but on the other link.
            let elsewhere = vip_elsewhere(family);
            world.announced.insert((elsewhere, second_ifindex, 0), MY_SECOND_MAC);
            for vip in [vip(family), elsewhere] {
                services::add(&mut table, vip, family, &endpoints);
            }
        }
        world.services = Arc::new(table);
        world.endpoints = Arc::new(endpoints);
        world
    }

    /// The entries of a flow of this node, in both directions.
    pub fn flow(
        client: SocketAddr,
        vip: SocketAddr,
        pod: SocketAddr,
        endpoint: u32,
        protocol: u8,
    ) -> [(FlowKey, Flow); 2] {
        let flow = |peer| Flow {
            peer,
            client_port: client.port(),
            endpoint: Some(endpoint),
            closing: false,
            closed_at: None,
            seen: 0,
        };
        let key = |peer, to_client| FlowKey { client, peer, protocol, to_client };
        [(key(vip, false), flow(pod)), (key(pod, true), flow(vip))]
    }

    /// The entry of a flow whose last step the kernel does.
    pub fn kernel_flow(client: SocketAddr, vip: SocketAddr, protocol: u8) -> (FlowKey, Flow) {
        let key = FlowKey { client, peer: vip, protocol, to_client: false };
        let client_port = client.port();
        let (peer, closing, closed_at) = (vip, false, None);
        (key, Flow { peer, client_port, endpoint: None, closing, closed_at, seen: 0 })
    }
}
