//! What the maps say, as plain data, and the addresses that the suites use.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::frames::Mac;

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

/// Index of the second node: on the same link.
pub const NODE_2: u16 = 1;
/// Index of the third node: its link-layer address is not known.
pub const NODE_3: u16 = 2;
/// Index of the fourth node: behind the second uplink.
pub const NODE_4: u16 = 3;

/// Ports of our VIP, named after what becomes of a new flow.
pub mod port {
    /// Delivered here.
    pub const DELIVER: u16 = 80;
    /// Forwarded to the second node.
    pub const FORWARD: u16 = 81;
    /// To be forwarded to the third node, whose link-layer address is not known.
    pub const UNRESOLVED: u16 = 82;
    /// Forwarded to the fourth node, by the second uplink.
    pub const REDIRECT: u16 = 83;
    /// Left to this node's kernel.
    pub const KERNEL: u16 = 84;
    /// No endpoint takes new flows.
    pub const EMPTY: u16 = 85;
    /// Rows of all kinds.
    pub const MIXED: u16 = 86;
    /// Mode `kernel`, on the second node.
    pub const KERNEL_FORWARD: u16 = 87;
    /// The row says this node, but its endpoint has just gone.
    pub const GONE: u16 = 88;
    /// The row's node is the second one; this node drains and stands before it.
    pub const DRAINING: u16 = 89;
    /// Rows of all kinds, but one for all flows of a client.
    pub const AFFINITY: u16 = 90;
    /// No Service has it.
    pub const NONE: u16 = 4444;
    /// The endpoints'.
    pub const POD: u16 = 8080;
}

/// TCP and UDP.
pub const PROTOCOLS: [u8; 2] = [6, 17];

/// A row of a Service, without indices that stand for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Nodes in order, as indices; 0 is this node.
    pub nodes: Vec<u16>,
    /// This node's endpoint for new flows.
    pub endpoint: Option<u32>,
    /// Position of the row's node.
    pub first: u8,
}

/// A VIP:port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// None: no endpoint takes new flows.
    pub rows: Vec<Row>,
    /// Mode `kernel`.
    pub kernel: bool,
    /// All flows of a client go by one row.
    pub client_ip: bool,
    /// Index of its statistics.
    pub stats: u32,
}

/// How to reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its link-layer address.
    pub mac: Mac,
    /// Ours on that link.
    pub source_mac: Mac,
    /// The interface; 0 while unresolved.
    pub ifindex: u32,
}

/// What echo requests may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// All are answered.
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
    /// Index of the endpoint.
    pub endpoint: u32,
    /// Whether FIN or RST was seen.
    pub closing: bool,
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

/// Everything that decides what becomes of a frame.
#[derive(Clone, Debug)]
pub struct World {
    /// The interface that frames arrive on.
    pub ifindex: u32,
    /// Our link-layer address on it.
    pub mac: Mac,
    /// Whether the agent's deadline lies ahead.
    pub announcing: bool,
    /// The rate limit of echo answers.
    pub echo: Echo,
    /// All VIPs, whoever announces them.
    pub vips: BTreeSet<IpAddr>,
    /// VIPs announced here, by interface, and the answer.
    pub announced: BTreeMap<(IpAddr, u32), Mac>,
    /// Services by VIP:port and protocol; shared, since each case has a world of its own.
    pub services: Arc<BTreeMap<(SocketAddr, u8), Service>>,
    /// Nodes by index; the first is this one.
    pub nodes: Vec<Node>,
    /// Link-layer addresses of agents' nodes.
    pub node_macs: BTreeSet<Mac>,
    /// This node's endpoints by index.
    pub endpoints: Vec<Option<SocketAddr>>,
    /// Flows whose client has acknowledged.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// Flows whose client has yet to acknowledge.
    pub pending: BTreeMap<FlowKey, Flow>,
}

/// The VIP that this node announces.
pub fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 10).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10).into(),
    }
}

/// A VIP that another node announces.
pub fn vip_elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 20).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x20).into(),
    }
}

/// An address that is not Herald's.
pub fn foreign(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 5).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 5).into(),
    }
}

/// A client outside of the cluster.
pub fn client(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 33).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x33).into(),
    }
}

/// A neighbour on the link, who asks for link-layer addresses.
pub fn neighbour(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 33).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x33).into(),
    }
}

/// This node's endpoints: two pods of each family.
pub fn pod(family: Family, number: u8) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::from([10, 244, 1, 5 + number]),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 5 + u16::from(number)).into(),
    };
    SocketAddr::new(address, port::POD)
}

/// Index of a pod among the endpoints.
pub fn pod_index(family: Family, number: u8) -> u32 {
    u32::from(number) + if family == Family::V4 { 0 } else { 2 }
}

/// The first index of no endpoint.
pub const GONE_ENDPOINT: u32 = 4;

impl World {
    /// Three other nodes, two VIPs of each family, and a port for each thing that can happen.
    pub fn new(ifindex: u32, second_ifindex: u32) -> Self {
        let node = |mac, source_mac, ifindex| Node { mac, source_mac, ifindex };
        let mut world = Self {
            ifindex,
            mac: MY_MAC,
            announcing: true,
            echo: Echo::Unlimited,
            vips: BTreeSet::new(),
            announced: BTreeMap::new(),
            services: Arc::default(),
            nodes: vec![
                node([0; 6], [0; 6], 0),
                node(NODE_2_MAC, MY_MAC, ifindex),
                node([0; 6], [0; 6], 0),
                node(NODE_4_MAC, MY_SECOND_MAC, second_ifindex),
            ],
            node_macs: BTreeSet::from([NODE_2_MAC, NODE_4_MAC]),
            endpoints: Vec::new(),
            flows: BTreeMap::new(),
            pending: BTreeMap::new(),
        };
        for family in [Family::V4, Family::V6] {
            world.vips.extend([vip(family), vip_elsewhere(family)]);
            world.announced.insert((vip(family), ifindex), MY_MAC);
            // Announced, but on the other link.
            world.announced.insert((vip_elsewhere(family), second_ifindex), MY_SECOND_MAC);
            world.endpoints.extend([Some(pod(family, 0)), Some(pod(family, 1))]);
        }
        world.endpoints.push(None);
        let mut services = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            add_services(&mut services, vip(family), family);
            add_services(&mut services, vip_elsewhere(family), family);
        }
        world.services = Arc::new(services);
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
        let flow = |peer| Flow { peer, client_port: client.port(), endpoint, closing: false };
        let key = |peer, to_client| FlowKey { client, peer, protocol, to_client };
        [(key(vip, false), flow(pod)), (key(pod, true), flow(vip))]
    }
}

fn add_services(services: &mut BTreeMap<(SocketAddr, u8), Service>, vip: IpAddr, family: Family) {
    let row = |nodes: &[u16], endpoint, first| Row { nodes: nodes.to_vec(), endpoint, first };
    let here = pod_index(family, 0);
    let mixed = (0..256u32).map(|n| match n % 8 {
        0 | 1 => row(&[0, NODE_2], Some(pod_index(family, (n % 2) as u8)), 0),
        2 => row(&[NODE_2, 0], Some(here), 0),
        3 => row(&[NODE_3, NODE_2, 0], Some(here), 0),
        4 => row(&[NODE_4], None, 0),
        5 => row(&[NODE_2, 0, NODE_4], Some(pod_index(family, 1)), 1),
        6 => row(&[0, NODE_4, NODE_2, NODE_3], None, 1),
        _ => row(&[0], Some(GONE_ENDPOINT), 0),
    });
    let mixed: Vec<Row> = mixed.collect();
    let kinds: [(u16, Vec<Row>, bool); 11] = [
        (port::DELIVER, vec![row(&[0, NODE_2], Some(here), 0)], false),
        (port::FORWARD, vec![row(&[NODE_2, 0], Some(here), 0)], false),
        (port::UNRESOLVED, vec![row(&[NODE_3], None, 0)], false),
        (port::REDIRECT, vec![row(&[NODE_4], None, 0)], false),
        (port::KERNEL, vec![row(&[0, NODE_2], Some(here), 0)], true),
        (port::EMPTY, vec![], false),
        (port::MIXED, mixed.clone(), false),
        (port::AFFINITY, mixed, false),
        (port::KERNEL_FORWARD, vec![row(&[NODE_2, 0], None, 0)], true),
        (port::GONE, vec![row(&[0], Some(GONE_ENDPOINT), 0)], false),
        (port::DRAINING, vec![row(&[0, NODE_2], None, 1)], false),
    ];
    for (port, rows, kernel) in kinds {
        for protocol in PROTOCOLS {
            let stats = services.len() as u32;
            let client_ip = port == port::AFFINITY;
            let service = Service { rows: rows.clone(), kernel, client_ip, stats };
            services.insert((SocketAddr::new(vip, port), protocol), service);
        }
    }
}
