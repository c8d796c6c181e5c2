//! Maps of production size: 10,000 VIP ports, 100 nodes, half a million rows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_common::{
    filter,
    hash::row_mask,
    maps::{
        Announced, AnnouncedKey, ENDPOINT_PRESENT, Endpoint, MacKey, MacOwner, NO_ENDPOINT,
        NO_NODE, NO_RANGE, NODE_LINK, NODE_TUNNEL, Node, Row, SERVICE_HERE, Service, Settings,
        THIS_NODE, Uplink, Vip, VipKey,
    },
};

use crate::kernel::{
    frames::Mac,
    object::{Capacity, DataPath, octets, service_key},
    random::Random,
    world::{Family, MY_MAC},
};

/// Entries of the large table of flows: three times 1 Mi flows are in it, each with two entries, and
/// no more than three quarters of it are used, so that it forgets none.
pub const LARGE_FLOWS: u32 = 1 << 23;

/// VIPs of each family.
pub const VIPS: u8 = 100;
/// Ports of each VIP.
pub const PORTS: u16 = 50;
/// The first port.
pub const FIRST_PORT: u16 = 1000;
/// A port whose rows all name other nodes.
pub const FORWARD: u16 = FIRST_PORT;
/// A port whose rows name the 30 endpoints of this node.
pub const DELIVER: u16 = FIRST_PORT + 40;
/// A port with one endpoint, so that replies can be made for any client.
pub const DELIVER_TO_ONE: u16 = FIRST_PORT + 41;
/// A port whose rows all name nodes that only a tunnel leads to.
pub const TUNNEL: u16 = FIRST_PORT + 42;
/// A port whose rows name this node, and then nodes behind a tunnel.
pub const SECOND_CHANCE: u16 = FIRST_PORT + 43;
/// A port whose rows all name other nodes, while this one may have flows of it.
pub const FORWARD_HERE: u16 = FIRST_PORT + 44;

/// Rows of a placement: what 32 endpoints have.
const RANGE: u32 = 8192;
/// Placements that services share.
const RANGES: u32 = 64;
/// The first placements are delivered here: all endpoints and one, of IPv4 and of IPv6.
const DELIVERED: u32 = 4;
/// The placement whose nodes are behind tunnels.
const TUNNELLED: u32 = 4;
/// The placement that begins with this node and goes on behind tunnels.
const CHAINED: u32 = 5;
/// The first of the placements on other nodes of this link.
const FORWARDED: u32 = 6;
const NODES: u16 = 100;
/// The nodes from here on stand behind tunnels.
const FAR_NODES: u16 = 80;
/// UDP port of the tunnels.
pub const TUNNEL_PORT: u16 = 7948;
/// What tunnelled packets to this node carry.
pub const COOKIE: u64 = 0x0123_4567_89ab_cdef;
/// This node's address, to which packets are tunnelled.
pub const MY_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 1);
const ENDPOINTS: u32 = 30;

/// A VIP.
pub fn vip(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xfeed, 0, 0, 0, 0, number.into()).into(),
    }
}

/// An endpoint of this node.
pub fn endpoint(family: Family, number: u32) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::from([10, 244, 1, 10 + number as u8]),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 10 + number as u16).into(),
    };
    SocketAddr::new(address, 8080)
}

fn node_mac(node: u16) -> Mac {
    [0x02, 0, 1, 0, 0, node as u8]
}

/// Loads an object with maps as large as the agent makes them, but for the flows' table with so many
/// entries, and fills them.
///
/// # Errors
/// Not root, or not enough memory for the maps.
pub fn load(ifindex: u32, object: &[u8], flows: u32) -> Result<DataPath> {
    let mut path = DataPath::load_object(object, Capacity { flows, ..Capacity::PRODUCTION })?;
    rows(&mut path)?;
    let mut bits = vec![0u64; filter::WORDS as usize];
    let mut stats = 0;
    for family in [Family::V4, Family::V6] {
        for number in 0..VIPS {
            let vip = vip(family, number);
            let key = VipKey { vip: octets(vip) };
            path.hash("VIPS")?.insert(key, Vip { flags: 0, ports: PORTS.into() }, 0)?;
            let bit = filter::vip_bit(&key.vip);
            bits[bit as usize / 64] |= 1 << (bit % 64);
            let key = AnnouncedKey { vip: octets(vip), ifindex, vlan: 0, pad: 0 };
            path.hash("ANNOUNCED")?.insert(
                key,
                Announced { mac: MY_MAC, ..Announced::default() },
                0,
            )?;
            for port in FIRST_PORT..FIRST_PORT + PORTS {
                let range = range_of(family, port, stats);
                let here = range < DELIVERED;
                let value = Service {
                    rows_start: range * RANGE,
                    rows: RANGE,
                    mask: row_mask(RANGE),
                    stats,
                    flags: if here || range == CHAINED || port == FORWARD_HERE {
                        SERVICE_HERE
                    } else {
                        0
                    },
                    endpoint: if here { range / 2 * ENDPOINTS } else { NO_ENDPOINT },
                    endpoints_start: if here { range * RANGE } else { NO_RANGE },
                    ..Service::default()
                };
                let key = service_key(SocketAddr::new(vip, port), 6);
                path.hash("SERVICES")?.insert(key, value, 0)?;
                stats += 1;
            }
        }
    }
    for node in 1..NODES {
        let mac = node_mac(node);
        let value = Node {
            mac,
            source_mac: MY_MAC,
            ifindex,
            flags: if node < FAR_NODES { NODE_LINK } else { NODE_TUNNEL },
            address: octets(Ipv4Addr::new(198, 18, 254, node as u8).into()),
            source: octets(MY_ADDRESS.into()),
            cookie: !COOKIE,
            mtu: 1500,
            vlan: 0,
        };
        path.array("NODES")?.set(node.into(), value, 0)?;
        let owner = MacOwner { node: node.into() };
        path.hash("NODE_MACS")?.insert(MacKey { mac, vlan: 0 }, owner, 0)?;
        let bit = filter::mac_bit(&mac);
        bits[bit as usize / 64] |= 1 << (bit % 64);
    }
    // Where tunnels to this node end.
    let bit = filter::vip_bit(&octets(MY_ADDRESS.into()));
    bits[bit as usize / 64] |= 1 << (bit % 64);
    path.write_filter("INGRESS_FILTER", &bits)?;
    endpoints(&mut path)?;
    let mut settings = Settings {
        announce_until_ns: u64::MAX,
        echo_interval_ns: 0,
        tunnel_port: TUNNEL_PORT.to_be_bytes(),
        cookies: [COOKIE, 0],
        ..Settings::default()
    };
    settings.uplinks[0] = Uplink { ifindex, vlan: 0, mac: MY_MAC };
    path.array("SETTINGS")?.set(0, settings, 0)?;
    Ok(path)
}

/// The placement of a service.
fn range_of(family: Family, port: u16, service: u32) -> u32 {
    let six = if family == Family::V6 { 2 } else { 0 };
    match port {
        DELIVER => six,
        DELIVER_TO_ONE => six + 1,
        TUNNEL => TUNNELLED,
        SECOND_CHANCE => CHAINED,
        _ => FORWARDED + service % (RANGES - FORWARDED),
    }
}

/// The index of a service's statistics.
pub fn stats_index(family: Family, number: u8, port: u16) -> u32 {
    let vip = u32::from(number) + if family == Family::V6 { u32::from(VIPS) } else { 0 };
    vip * u32::from(PORTS) + u32::from(port - FIRST_PORT)
}

fn rows(path: &mut DataPath) -> Result<()> {
    let mut random = Random::new(1);
    let mut among = |from: u16, to: u16| from + random.below(usize::from(to - from)) as u16;
    let row = |nodes| Row { nodes };
    for range in 0..RANGES {
        let rows: Vec<Row> = (0..RANGE)
            .map(|_| match range {
                0 | 2 => row([THIS_NODE, among(1, FAR_NODES), NO_NODE, NO_NODE]),
                1 | 3 => row([THIS_NODE, NO_NODE, NO_NODE, NO_NODE]),
                TUNNELLED => row([among(FAR_NODES, NODES), NO_NODE, NO_NODE, NO_NODE]),
                CHAINED => row([THIS_NODE, among(FAR_NODES, NODES), NO_NODE, NO_NODE]),
                _ => {
                    let [a, b, c] = std::array::from_fn(|_| among(1, FAR_NODES));
                    row([a, b, c, THIS_NODE])
                }
            })
            .collect();
        path.write_rows(range * RANGE, &rows)?;
    }
    let mut endpoints = path.array::<u32>("ROW_ENDPOINTS")?;
    for range in 0..DELIVERED {
        for n in 0..RANGE {
            let all = range % 2 == 0;
            let endpoint = range / 2 * ENDPOINTS + if all { n % ENDPOINTS } else { 0 };
            endpoints.set(range * RANGE + n, endpoint, 0)?;
        }
    }
    Ok(())
}

fn endpoints(path: &mut DataPath) -> Result<()> {
    let mut bits = vec![0u64; filter::WORDS as usize];
    for (start, family) in [(0, Family::V4), (ENDPOINTS, Family::V6)] {
        for number in 0..ENDPOINTS {
            let at = endpoint(family, number);
            let (address, port) = (octets(at.ip()), at.port().to_be_bytes());
            let value = Endpoint { address, port, flags: ENDPOINT_PRESENT, pad: 0 };
            path.array("ENDPOINTS")?.set(start + number, value, 0)?;
            let bit = filter::reply_bit(&address, port, 6);
            bits[bit as usize / 64] |= 1 << (bit % 64);
        }
    }
    path.write_filter("EGRESS_FILTER", &bits)
}
