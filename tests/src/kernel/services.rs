//! The Services of the suites: a port for each thing that can happen to a new flow.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::world::{
    Family, GONE_ENDPOINT, LONG_AGO, NOBODY, NODE_2, NODE_3, NODE_4, NODE_5, NODE_6, NODE_7,
    NODE_8, NODE_9, PROTOCOLS, Row, Service, WINDOW, client, pod, pod_address, pod_index,
};

/// Ports of our VIP, named after what becomes of a new flow.
pub mod port {
    /// Delivered here.
    pub const DELIVER: u16 = 80;
    /// Forwarded to the second node.
    pub const FORWARD: u16 = 81;
    /// To be forwarded to the third node, to which there is no way.
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
    /// The row's node is the second one; this node has flows of before.
    pub const DRAINING: u16 = 89;
    /// Rows of all kinds, but one for all flows of a client.
    pub const AFFINITY: u16 = 90;
    /// This node's, and others may know flows of before.
    pub const CHANGED: u16 = 91;
    /// The same, but the row has just changed.
    pub const UNSETTLED: u16 = 92;
    /// The row has just changed, but had the same first node before.
    pub const UNMOVED: u16 = 93;
    /// The fifth node's, on the uplink's VLAN.
    pub const VLAN: u16 = 94;
    /// The sixth node's, by tunnel.
    pub const TUNNEL: u16 = 95;
    /// The seventh node's, by tunnel over IPv6 and the second uplink.
    pub const TUNNEL_6: u16 = 96;
    /// The ninth node's, by a tunnel over a narrow path.
    pub const NARROW: u16 = 97;
    /// Nobody takes new flows, but the second node and this one may know old ones.
    pub const NOBODY_FIRST: u16 = 98;
    /// Nobody takes new flows, and nobody else is in the row.
    pub const NOBODY_AT_ALL: u16 = 99;
    /// This node's, for some clients; the client is one of them.
    pub const INSIDE: u16 = 100;
    /// This node's, for some clients; the client is none of them.
    pub const OUTSIDE: u16 = 101;
    /// The eighth node's, which takes no tunnels.
    pub const LINK_ONLY: u16 = 102;
    /// This node's, with affinity, the row just changed.
    pub const AFFINITY_UNSETTLED: u16 = 103;
    /// This node's, with affinity, settled.
    pub const AFFINITY_HERE: u16 = 104;
    /// The second node's; this one is its second and has no endpoint.
    pub const SECOND: u16 = 105;
    /// This node's second place, with an endpoint.
    pub const SECOND_TAKES: u16 = 106;
    /// Two endpoints on this node, by row.
    pub const ROWS: u16 = 107;
    /// This node's, next the seventh by IPv6.
    pub const CHANGED_6: u16 = 108;
    /// This node's, next the third, to which there is no way.
    pub const CHANGED_LOST: u16 = 109;
    /// This node's, the row changed, nobody else in it.
    pub const UNSETTLED_ALONE: u16 = 110;
    /// This node's, which has no endpoint for it.
    pub const UNTAKEN: u16 = 111;
    /// This node's; kube-proxy served it until just now.
    pub const TAKEN_OVER: u16 = 112;
    /// The second node's; kube-proxy served it until just now.
    pub const TAKEN_OVER_FORWARD: u16 = 113;
    /// No Service has it.
    pub const NONE: u16 = 4444;
    /// The endpoints'.
    pub const POD: u16 = 8080;
}

/// The ports that have a Service.
pub const SERVED: [u16; 34] = [
    port::DELIVER,
    port::FORWARD,
    port::UNRESOLVED,
    port::REDIRECT,
    port::KERNEL,
    port::EMPTY,
    port::MIXED,
    port::KERNEL_FORWARD,
    port::GONE,
    port::DRAINING,
    port::AFFINITY,
    port::CHANGED,
    port::UNSETTLED,
    port::UNMOVED,
    port::VLAN,
    port::TUNNEL,
    port::TUNNEL_6,
    port::NARROW,
    port::NOBODY_FIRST,
    port::NOBODY_AT_ALL,
    port::INSIDE,
    port::OUTSIDE,
    port::LINK_ONLY,
    port::AFFINITY_UNSETTLED,
    port::AFFINITY_HERE,
    port::SECOND,
    port::SECOND_TAKES,
    port::ROWS,
    port::CHANGED_6,
    port::CHANGED_LOST,
    port::UNSETTLED_ALONE,
    port::UNTAKEN,
    port::TAKEN_OVER,
    port::TAKEN_OVER_FORWARD,
];

const INSIDE: u32 = 1;
const OUTSIDE: u32 = 2;

/// The sets of prefixes: one has the clients' networks, the other does not.
pub fn ranges() -> BTreeMap<u32, Vec<(IpAddr, u8)>> {
    let other: [IpAddr; 2] = [[172, 16, 0, 0].into(), [0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0].into()];
    BTreeMap::from([
        (
            INSIDE,
            vec![
                (other[0], 12),
                (client(Family::V4), 24),
                (client(Family::V6), 64),
                (other[1], 48),
            ],
        ),
        (OUTSIDE, vec![(other[0], 12), (other[1], 48)]),
    ])
}

/// All endpoints: two pods of each family at one port; a free slot; and the same pods once
/// for each port, since SCTP's ports cannot be translated.
pub fn endpoints() -> Vec<Option<SocketAddr>> {
    let families = [Family::V4, Family::V6];
    let mut all: Vec<_> =
        families.iter().flat_map(|&family| [Some(pod(family, 0)), Some(pod(family, 1))]).collect();
    all.push(None);
    for family in families {
        for number in [0, 1] {
            let at = |port| Some(SocketAddr::new(pod_address(family, number), port));
            all.extend(SERVED.into_iter().map(at));
        }
    }
    all
}

/// The endpoint of a pod for a Service's port.
pub fn endpoint(
    family: Family,
    number: u8,
    port: u16,
    protocol: u8,
    endpoints: &[Option<SocketAddr>],
) -> (u32, SocketAddr) {
    if protocol != 132 {
        return (pod_index(family, number), pod(family, number));
    }
    let at = SocketAddr::new(pod_address(family, number), port);
    let index = endpoints.iter().position(|&endpoint| endpoint == Some(at));
    (index.map_or(GONE_ENDPOINT, |index| index as u32), at)
}

/// The rows of a port, and this node's endpoints for them by their number.
fn rows(port: u16) -> (Vec<Row>, Vec<Option<u8>>) {
    let one = |nodes: &[u16], endpoint| (vec![nodes.to_vec()], vec![endpoint]);
    match port {
        port::DELIVER
        | port::KERNEL
        | port::CHANGED
        | port::TAKEN_OVER
        | port::UNSETTLED
        | port::UNMOVED
        | port::INSIDE
        | port::OUTSIDE
        | port::AFFINITY_UNSETTLED
        | port::AFFINITY_HERE => one(&[0, NODE_2, NODE_6, NODE_5], Some(0)),
        port::ROWS => ((0..4).map(|_| vec![0]).collect(), vec![Some(0), Some(1), None, Some(1)]),
        port::UNSETTLED_ALONE => one(&[0], Some(0)),
        port::FORWARD => one(&[NODE_2, 0], None),
        port::KERNEL_FORWARD => one(&[NODE_2, 0], None),
        port::SECOND_TAKES => one(&[NODE_2, 0, NODE_6], Some(0)),
        port::SECOND => one(&[NODE_2, 0, NODE_6, NODE_7], None),
        port::DRAINING => one(&[NODE_2, 0], None),
        port::UNRESOLVED => one(&[NODE_3], None),
        port::REDIRECT => one(&[NODE_4], None),
        port::VLAN => one(&[NODE_5], None),
        port::TAKEN_OVER_FORWARD => one(&[NODE_2], None),
        port::TUNNEL => one(&[NODE_6], None),
        port::TUNNEL_6 => one(&[NODE_7], None),
        port::NARROW => one(&[NODE_9], None),
        port::NOBODY_FIRST => one(&[NOBODY, NODE_2, 0, NODE_6], None),
        port::NOBODY_AT_ALL => one(&[NOBODY], None),
        port::LINK_ONLY => one(&[NODE_8], None),
        port::CHANGED_6 => one(&[0, NODE_7], Some(0)),
        port::CHANGED_LOST => one(&[0, NODE_3, NODE_2], Some(0)),
        port::GONE | port::UNTAKEN => one(&[0], None),
        port::MIXED | port::AFFINITY => mixed(),
        _ => (vec![], vec![None]),
    }
}

fn mixed() -> (Vec<Row>, Vec<Option<u8>>) {
    let kind = |n: u32| -> (Row, Option<u8>) {
        match n % 8 {
            0 | 1 => (vec![0, NODE_2], Some((n % 2) as u8)),
            2 => (vec![NODE_2, 0], Some(0)),
            3 => (vec![NODE_6, NODE_2, 0], Some(0)),
            4 => (vec![NODE_4], None),
            5 => (vec![NODE_2, 0, NODE_4], Some(1)),
            6 => (vec![NODE_7, 0, NODE_2, NODE_5], None),
            _ => (vec![NODE_5, NODE_7], None),
        }
    };
    // No power of two, so that rows split.
    (0..200).map(kind).unzip()
}

/// The Services of a VIP.
pub fn add(
    services: &mut BTreeMap<(SocketAddr, u8), Service>,
    vip: IpAddr,
    family: Family,
    all: &[Option<SocketAddr>],
) {
    for port in SERVED {
        for protocol in PROTOCOLS {
            let (rows, numbers) = rows(port);
            let index = |number: Option<u8>| {
                number.map(|number| endpoint(family, number, port, protocol, all).0)
            };
            let mut endpoints: Vec<_> = numbers.into_iter().map(index).collect();
            if port == port::GONE {
                endpoints = vec![Some(GONE_ENDPOINT)];
            }
            let changed =
                [port::UNSETTLED, port::UNMOVED, port::AFFINITY_UNSETTLED, port::UNSETTLED_ALONE];
            let previous = match port {
                port::UNMOVED => vec![vec![0, NODE_6]],
                port::UNSETTLED => vec![vec![NODE_2, 0]; 2],
                // What was before does not count for affinity.
                port::AFFINITY_UNSETTLED => rows.clone(),
                _ => vec![],
            };
            let service = Service {
                previous,
                kernel: matches!(port, port::KERNEL | port::KERNEL_FORWARD),
                client_ip: matches!(
                    port,
                    port::AFFINITY | port::AFFINITY_UNSETTLED | port::AFFINITY_HERE
                ),
                here: rows.iter().any(|row| row.contains(&0)),
                taken_over: matches!(port, port::TAKEN_OVER | port::TAKEN_OVER_FORWARD),
                rows,
                endpoints,
                ranges: match port {
                    port::INSIDE => Some(INSIDE),
                    port::OUTSIDE => Some(OUTSIDE),
                    _ => None,
                },
                changed: if changed.contains(&port) { 0 } else { LONG_AGO },
                affinity: WINDOW,
                stats: services.len() as u32,
            };
            services.insert((SocketAddr::new(vip, port), protocol), service);
        }
    }
}
