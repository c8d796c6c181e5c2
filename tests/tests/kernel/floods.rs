//! What an attacker can send as much as he likes of.

use std::net::{IpAddr, SocketAddr};

use herald_tests::kernel::{
    acceptance::Direction,
    cases::{CLIENT_PORT, Case},
    frames::{self, Link, tcp_flags},
    model,
    random::{Random, count},
    rig::{LOOPBACK, Rig},
    world::{self, Family, Node, World, port},
};
use lb_common::outcome::Outcome;

const LINK: Link = Link { from: world::ROUTER_MAC, to: world::MY_MAC };

/// SYNs and single datagrams from ever new clients push out each other and no flow that is
/// acknowledged.
#[test]
fn a_flood_pushes_out_no_acknowledged_flow() {
    let mut rig = Rig::new().unwrap();
    for family in [Family::V4, Family::V6] {
        let vip = SocketAddr::new(world::vip(family), port::DELIVER);
        let mut world = rig.world();
        for n in 0..200 {
            let client = SocketAddr::new(world::client(family), 1024 + n);
            let (pod, index) = (world::pod(family, 1), world::pod_index(family, 1));
            world.flows.extend(World::flow(client, vip, pod, index, 6));
        }
        let known = world.flows.clone();
        // The first frame by way of the comparison, which fills the maps.
        let client = SocketAddr::new(world::client(family), 1024);
        let frame = frames::tcp(LINK, client, vip, 64, tcp_flags::ACK);
        let mut case = Case { world, frame };
        rig.check(Direction::Ingress, "before the flood", &mut case).unwrap();
        // PENDING has room for 512 flows.
        for n in 0..20_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let address = match family {
                Family::V4 => IpAddr::from([45, a, b, c]),
                Family::V6 => IpAddr::from([0x2a00, 0, 0, 0, 0, 0, a.into(), (n & 0xffff) as u16]),
            };
            let from = SocketAddr::new(address, 4000);
            let frame = match n % 3 {
                0 => frames::udp(LINK, from, vip, 64),
                _ => frames::tcp(LINK, from, vip, 64, tcp_flags::SYN),
            };
            rig.data_path().ingress(&frame, LOOPBACK, 1).unwrap();
        }
        let (flows, pending) = rig.flows().unwrap();
        assert_eq!(flows.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>());
        assert!(pending.len() <= 1024, "{}", pending.len());
        rig.forget().unwrap();
    }
}

/// A datagram to the tunnels' port, like one of an agent's node but for something.
fn forged(random: &mut Random) -> Vec<u8> {
    let inner_family = random.pick(&[Family::V4, Family::V6]);
    let outer = random.pick(&[Family::V4, Family::V6]);
    let client = SocketAddr::new(world::client(inner_family), CLIENT_PORT);
    let vip = SocketAddr::new(world::vip(inner_family), port::DELIVER);
    let packet = frames::tcp(LINK, client, vip, 64, tcp_flags::SYN);
    let mut node = Node {
        address: world::node(outer, 0),
        source: world::node(outer, 1),
        cookie: world::MY_COOKIE,
        mac: world::MY_MAC,
        source_mac: world::ROUTER_MAC,
        ..Node::nowhere()
    };
    let protocol = if inner_family == Family::V4 { 4 } else { 41 };
    let position = random.below(4) as u8;
    let wrap = |node: &Node, protocol, position| {
        model::wrap(node, 6080, &packet[14..], protocol, position)
    };
    let gue = if outer == Family::V4 { 42 } else { 62 };
    match random.below(7) {
        0 => node.cookie ^= 1 << random.below(64),
        1 => node.cookie = random.next(),
        2 => node.cookie = node.cookie.swap_bytes(),
        3 => node.cookie = 0,
        4 => {
            // Everything right but one bit of the header.
            let mut frame = wrap(&node, protocol, position);
            let at = random.pick(&[0, 2, 3]);
            frame[gue + at] ^= 1 << random.below(8);
            return frame;
        }
        5 => {
            let position = 6 + random.below(249) as u8;
            return wrap(&node, protocol, position);
        }
        _ => {
            let other = random.pick(&[0, 1, 6, 17, 43, 47, 58, 59, 255]);
            return wrap(&node, other, position);
        }
    }
    wrap(&node, protocol, position)
}

#[test]
fn no_forged_tunnel_packet_gets_in() {
    let seed = Random::seed();
    println!("HERALD_SEED={seed}");
    let mut random = Random::new(seed ^ 0xf0);
    let mut rig = Rig::new().unwrap();
    // Fills the maps.
    let client = SocketAddr::new(world::client(Family::V4), CLIENT_PORT);
    let vip = SocketAddr::new(world::vip(Family::V4), port::NONE);
    let frame = frames::tcp(LINK, client, vip, 64, tcp_flags::RST);
    let mut case = Case { world: rig.world(), frame };
    rig.check(Direction::Ingress, "before", &mut case).unwrap();
    let before = rig.data_path().counters().unwrap();
    let number = count(50_000, 1_000_000);
    for _ in 0..number {
        let frame = forged(&mut random);
        let run = rig.data_path().ingress(&frame, LOOPBACK, 1).unwrap();
        assert_eq!(run.action, model::DROP, "HERALD_SEED={seed}: {frame:02x?}");
    }
    let after = rig.data_path().counters().unwrap();
    let risen = after.get(Outcome::DropTunnel) - before.get(Outcome::DropTunnel);
    assert_eq!(risen, u64::from(number), "all of them are dropped for their tunnel");
    println!("{number} forged packets, none accepted");
}
