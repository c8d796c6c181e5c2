//! Which packets go by the same row, seen by where they go.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use herald_tests::kernel::{
    acceptance::Direction,
    cases::Case,
    frames::{self, Link, tcp_flags},
    model::Sent,
    rig::Rig,
    world::{self, Family, port},
};

/// What tells one row from another: the counter, the node that the packet is sent to and, of
/// what is delivered, the pod.
type Way = (&'static str, Option<Sent>, BTreeSet<Option<u32>>);

fn way(rig: &mut Rig, client: SocketAddr, vip: SocketAddr, protocol: u8) -> Way {
    let link = Link { from: world::ROUTER_MAC, to: world::MY_MAC };
    let frame = match protocol {
        6 => frames::tcp(link, client, vip, 64, tcp_flags::SYN),
        _ => frames::udp(link, client, vip, 64),
    };
    let mut case = Case { world: rig.world(), frame };
    let title = format!("{client} to {vip}, protocol {protocol}");
    let verdict = rig.check(Direction::Ingress, &title, &mut case);
    let verdict = verdict.unwrap_or_else(|error| panic!("{error:#}"));
    let pods = case.world.pending.values().map(|flow| flow.endpoint).collect();
    (verdict.counter, verdict.sent, pods)
}

/// The clients' addresses: of one network, side by side.
fn client(family: Family, number: u8) -> IpAddr {
    match world::client(family) {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, number])
        }
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[15] = number;
            IpAddr::from(octets)
        }
    }
}

/// The ways of a client's flows from 64 ports.
fn ways_of(rig: &mut Rig, from: IpAddr, vip: SocketAddr, protocol: u8) -> BTreeSet<Way> {
    (0..64).map(|n| way(rig, SocketAddr::new(from, 20_000 + n), vip, protocol)).collect()
}

#[test]
fn with_affinity_a_client_has_one_row_and_clients_have_many() {
    let mut rig = Rig::new().unwrap();
    for family in [Family::V4, Family::V6] {
        let vip = SocketAddr::new(world::vip(family), port::AFFINITY);
        let mut all = BTreeSet::new();
        for number in 1..=32 {
            let from = client(family, number);
            let tcp = ways_of(&mut rig, from, vip, 6);
            assert_eq!(tcp.len(), 1, "{from} goes by several rows");
            // Not even the protocol counts: the Service is one.
            assert_eq!(ways_of(&mut rig, from, vip, 17), tcp, "{from}, UDP");
            all.extend(tcp);
        }
        // The rows differ in seven ways; 32 clients are enough to see most of them.
        assert!(all.len() >= 4, "{all:?}");
    }
}

#[test]
fn without_affinity_a_clients_flows_spread() {
    let mut rig = Rig::new().unwrap();
    for family in [Family::V4, Family::V6] {
        let vip = SocketAddr::new(world::vip(family), port::MIXED);
        let ways = ways_of(&mut rig, client(family, 1), vip, 6);
        assert!(ways.len() >= 4, "{ways:?}");
    }
}

/// Rule 1 of the design: whichever node a client's packets are sent on by, they go to one
/// endpoint while its affinity lasts.
#[test]
fn affinity_survives_a_second_hop() {
    let mut rig = Rig::new().unwrap();
    let link = Link { from: world::NODE_2_MAC, to: world::MY_MAC };
    for family in [Family::V4, Family::V6] {
        let vip = SocketAddr::new(world::vip(family), port::AFFINITY);
        for number in 1..=32 {
            let mut seen = BTreeSet::new();
            let mut world = rig.world();
            for port in [20_000, 20_001, 54_321] {
                let from = SocketAddr::new(client(family, number), port);
                let frame = frames::tcp(link, from, vip, 64, tcp_flags::SYN);
                let mut case = Case { world, frame };
                let verdict = rig.check(Direction::Ingress, "second hop", &mut case);
                let verdict = verdict.unwrap_or_else(|error| panic!("{error:#}"));
                world = case.world;
                let pods: BTreeSet<_> = world.pending.values().map(|flow| flow.endpoint).collect();
                seen.insert((verdict.counter, verdict.sent, pods));
                assert!(!["forwarded", "redirected"].contains(&verdict.counter), "not by link");
            }
            assert_eq!(seen.len(), 1, "{seen:?}");
        }
    }
}
