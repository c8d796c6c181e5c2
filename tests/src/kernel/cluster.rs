//! Several nodes whose tables disagree: each has its own idea of rows, of who is alive and of how
//! to reach the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    frames::{self, Link, Mac, tcp_flags},
    model,
    random::Random,
    services::{self, SERVED},
    world::{
        self, Affinity, AffinityKey, Answer, Elsewhere, FAR_AHEAD, Family, FlowKey, LONG_AGO,
        NOBODY, Node, PROTOCOLS, Row, Service, WINDOW, World,
    },
};

/// The ports that the cluster's Services have.
const PORTS: usize = 5;
/// The clients' ports.
const CLIENTS: u16 = 6;

/// The nodes.
pub struct Cluster {
    /// What each node's maps say.
    pub worlds: Vec<World>,
    /// Which node each index in a node's `NODES` stands for.
    pub indices: Vec<Vec<usize>>,
}

fn mac(node: usize) -> Mac {
    [0x02, 0, 0, 0, 9, node as u8]
}

fn cookie(node: usize) -> u64 {
    0x0bad_cafe_0000_0001 + ((node as u64) << 33)
}

fn family(random: &mut Random) -> Family {
    random.pick(&[Family::V4, Family::V6])
}

fn client(random: &mut Random, family: Family) -> SocketAddr {
    SocketAddr::new(world::client(family), 30_000 + random.below(CLIENTS.into()) as u16)
}

fn service(random: &mut Random, family: Family) -> SocketAddr {
    SocketAddr::new(world::vip(family), SERVED[random.below(PORTS)])
}

impl Cluster {
    /// So many nodes, whose frames all arrive on `ifindex`.
    pub fn random(random: &mut Random, nodes: usize, ifindex: u32) -> Self {
        let mut cluster = Self { worlds: Vec::new(), indices: Vec::new() };
        for me in 0..nodes {
            let mut indices = vec![me];
            let mut others: Vec<usize> = (0..nodes).filter(|&node| node != me).collect();
            while !others.is_empty() {
                indices.push(others.swap_remove(random.below(others.len())));
            }
            cluster.worlds.push(world_of(random, me, &indices, ifindex));
            cluster.indices.push(indices);
        }
        cluster
    }

    /// A packet as it arrives at a node: from outside, from an agent's node, or in a tunnel.
    /// Also says whether it is a fragment.
    pub fn packet(&self, random: &mut Random, node: usize) -> (Vec<u8>, bool) {
        let family = family(random);
        let (from, to) = (client(random, family), service(random, family));
        let agent = random.one_in(4);
        let other = random.below(self.worlds.len());
        let source = if agent { mac(other) } else { world::ROUTER_MAC };
        let link = Link { from: source, to: mac(node) };
        let mut frame = packet(random, link, from, to);
        if random.one_in(8) {
            frames::set_ttl(&mut frame, random.below(6) as u8);
        }
        let udp = random.one_in(2);
        let fragment = random.one_in(6);
        if fragment {
            let whole = frames::long(link, from, to, !udp, 100);
            frame = match random.below(2) {
                0 => frames::part(&whole, 0, Some(4)),
                _ => frames::part(&whole, 4, None),
            };
        }
        if random.one_in(4) {
            let outer = random.pick(&[Family::V4, Family::V6]);
            let node = Node {
                address: world::node(outer, node as u16),
                source: world::node(outer, other as u16),
                cookie: cookie(node),
                mac: mac(node),
                source_mac: source,
                ..Node::nowhere()
            };
            let protocol = if family == Family::V4 { 4 } else { 41 };
            let position = random.below(6) as u8;
            frame = model::wrap(&node, 6080, &frame[14..], protocol, position);
        }
        (frame, fragment)
    }
}

fn packet(random: &mut Random, link: Link, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN};
    match random.below(5) {
        0 | 1 => {
            let flags = random.pick(&[SYN, SYN, ACK, ACK | PSH, FIN | ACK, RST, SYN | ACK]);
            frames::tcp(link, from, to, 64, flags)
        }
        2 => frames::udp(link, from, to, 64),
        3 => frames::sctp(link, from, to, 64, random.one_in(2)),
        _ => {
            let back = Link { from: link.to, to: link.from };
            let about = match random.below(3) {
                0 => frames::tcp(back, to, from, 60, ACK),
                1 => frames::udp(back, to, from, 60),
                _ => frames::sctp(back, to, from, 60, false),
            };
            let kind = if to.is_ipv4() { [3, 3] } else { [1, 4] };
            let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
            let router = world::router(family);
            frames::icmp(link, router, to.ip(), 60, kind, [0; 4], &about[14..])
        }
    }
}

fn world_of(random: &mut Random, me: usize, indices: &[usize], ifindex: u32) -> World {
    let mut world = World::new(ifindex, ifindex + 1);
    world.uplinks = BTreeMap::from([((ifindex, 0), mac(me))]);
    world.addresses = BTreeSet::from([Family::V4, Family::V6].map(|f| world::node(f, me as u16)));
    world.cookies = [cookie(me), 0];
    world.fresh = !random.one_in(3);
    world.started = random.pick(&[0, LONG_AGO, LONG_AGO]);
    let nodes = indices.iter().enumerate().map(|(index, &node)| {
        if index == 0 || random.one_in(20) {
            return Node::nowhere();
        }
        let outer = random.pick(&[Family::V4, Family::V6]);
        let link = random.one_in(2);
        Node {
            address: world::node(outer, node as u16),
            source: world::node(outer, me as u16),
            // Sometimes one that counts no more.
            cookie: if random.one_in(15) { 7 } else { cookie(node) },
            ifindex,
            link,
            tunnel: !random.one_in(15),
            mac: mac(node),
            source_mac: mac(me),
            vlan: 0,
            mtu: 1500,
        }
    });
    world.nodes = Arc::new(nodes.collect());
    // All of them: what comes by link from a node that is not known would be taken for a client's.
    let macs = (1..indices.len()).map(|index| ((mac(indices[index]), 0), index as u16));
    world.node_macs = Arc::new(macs.collect());
    let count = indices.len();
    let rows = 1 << random.below(3);
    world.fragment_rows = Arc::new((0..rows).map(|_| row(random, count)).collect());
    world.services = Arc::new(services(random, &world, count));
    learn(random, &mut world, count);
    world
}

/// Some nodes in any order, perhaps behind nobody.
fn row(random: &mut Random, nodes: usize) -> Row {
    let mut left: Vec<u16> = (0..nodes as u16).collect();
    let mut row = Vec::new();
    for _ in 0..=random.below(4.min(nodes)) {
        row.push(left.swap_remove(random.below(left.len())));
    }
    if random.one_in(10) {
        row[0] = NOBODY;
    }
    row
}

fn services(
    random: &mut Random,
    world: &World,
    nodes: usize,
) -> BTreeMap<(SocketAddr, u8), Service> {
    let mut services = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        for port in &SERVED[..PORTS] {
            for protocol in PROTOCOLS {
                let count = random.below(6);
                let rows: Vec<Row> = (0..count).map(|_| row(random, nodes)).collect();
                let mut endpoint = |here: bool| {
                    if random.one_in(if here { 12 } else { 2 }) {
                        return None;
                    }
                    let number = random.below(2) as u8;
                    Some(services::endpoint(family, number, *port, protocol, &world.endpoints).0)
                };
                let endpoints = match count {
                    0 => vec![None],
                    _ => rows.iter().map(|row| endpoint(row[0] == 0)).collect(),
                };
                let previous = (0..random.below(3)).map(|_| row(random, nodes)).collect();
                let here = endpoints.iter().any(Option::is_some) || random.one_in(2);
                let service = Service {
                    previous,
                    kernel: random.one_in(8),
                    client_ip: random.one_in(4),
                    here,
                    taken_over: false,
                    rows,
                    endpoints,
                    ranges: None,
                    changed: random.pick(&[0, LONG_AGO]),
                    affinity: WINDOW,
                    stats: services.len() as u32,
                };
                let vip = world::vip(family);
                services.insert((SocketAddr::new(vip, *port), protocol), service);
            }
        }
    }
    services
}

/// Flows, affinities and answers of before.
fn learn(random: &mut Random, world: &mut World, nodes: usize) {
    for _ in 0..20 {
        let family = family(random);
        let (client, vip) = (client(random, family), service(random, family));
        let protocol = random.pick(&PROTOCOLS);
        let number = random.below(2) as u8;
        let (index, pod) =
            services::endpoint(family, number, vip.port(), protocol, &world.endpoints);
        match random.below(5) {
            0 | 1 => world.flows.extend(World::flow(client, vip, pod, index, protocol)),
            2 => world.pending.extend(World::flow(client, vip, pod, index, protocol)),
            3 => {
                let key = AffinityKey { client: client.ip(), vip, protocol };
                world.affinity.insert(key, Affinity { at: pod, endpoint: index, seen: 0 });
            }
            _ => {
                let key = FlowKey { client, peer: vip, protocol, to_client: false };
                let node = random.below(nodes) as u16;
                let answers =
                    [Answer::Node(node), Answer::Nobody, Answer::Asked, Answer::AskedAgain];
                let answer = random.pick(&answers);
                world.elsewhere.insert(key, Elsewhere { answer, until: FAR_AHEAD });
            }
        }
    }
}
