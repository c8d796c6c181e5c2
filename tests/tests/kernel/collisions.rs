//! Addresses and endpoints that share a bit of a filter with ours are not ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use herald_tests::kernel::{
    acceptance::Direction,
    cases::Case,
    frames::{self, Arp, Link, tcp_flags},
    object::octets,
    rig::Rig,
    world::{self, Family, World, port},
};
use lb_common::filter::{reply_bit, vip_bit};

/// An address outside of our ranges that shares the VIP's bit.
fn twin(family: Family) -> IpAddr {
    let wanted = vip_bit(&octets(world::vip(family)));
    let candidates = (1..u32::MAX).map(|n| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(0x2d00_0000 + n)),
        Family::V6 => {
            let [high, low] = [(n >> 16) as u16, n as u16];
            IpAddr::V6(Ipv6Addr::new(0x2a00, 0x123, 0, 0, 0, 0, high, low))
        }
    });
    { candidates }.find(|&address| vip_bit(&octets(address)) == wanted).unwrap()
}

/// A port of the pod's node that shares the pod's bit but is no endpoint.
fn twin_of_pod(family: Family) -> SocketAddr {
    let pod = world::pod(family, 0);
    let wanted = reply_bit(&octets(pod.ip()), pod.port().to_be_bytes(), 6);
    let ports = (1..=u16::MAX).filter(|&port| port != pod.port());
    // With 65,535 ports for 65,536 bits one may be lacking at this address: try others.
    let mut all = (0..=255u8).flat_map(|last| {
        let address = match family {
            Family::V4 => IpAddr::from([10, 99, 1, last]),
            Family::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(last)).into(),
        };
        ports.clone().map(move |port| SocketAddr::new(address, port))
    });
    all.find(|at| reply_bit(&octets(at.ip()), at.port().to_be_bytes(), 6) == wanted).unwrap()
}

#[test]
fn a_shared_bit_makes_no_vip() {
    let mut rig = Rig::new().unwrap();
    let link = Link { from: world::ROUTER_MAC, to: world::MY_MAC };
    for family in [Family::V4, Family::V6] {
        let client = SocketAddr::new(world::client(family), 40_000);
        let to = SocketAddr::new(twin(family), port::DELIVER);
        let mut arrivals = vec![
            frames::tcp(link, client, to, 64, tcp_flags::SYN),
            frames::udp(link, client, to, 64),
            frames::echo_request(link, client.ip(), to.ip(), 64),
            frames::other_protocol(link, client.ip(), to.ip(), 64, 47),
        ];
        match (to.ip(), client.ip(), world::vip(family)) {
            (IpAddr::V4(twin), IpAddr::V4(sender), _) => {
                let tcp = &arrivals[0].clone();
                arrivals.push(frames::as_fragment_v4(tcp, 0, true));
                arrivals.push(frames::with_ipv4_options(tcp, 1));
                let (sender_mac, target_mac) = (link.from, [0; 6]);
                let arp = Arp { reply: false, sender_mac, sender, target_mac, target: twin };
                arrivals.push(frames::arp(link, arp));
                arrivals.push(frames::arp(link, Arp { sender: twin, target: sender, ..arp }));
            }
            (IpAddr::V6(twin), IpAddr::V6(from), IpAddr::V6(vip)) => {
                let tcp = &arrivals[0].clone();
                arrivals.push(frames::as_fragment_v6(tcp, 0, true));
                arrivals.push(frames::with_extension(tcp, 0, 8));
                let group = frames::solicited_node(twin);
                let option = frames::source_link_layer_option(link.from);
                for (to, target) in [(twin, twin), (group, twin), (twin, vip)] {
                    arrivals.push(frames::solicitation(link, from, to, target, 255, &option));
                }
                arrivals.push(frames::advertisement(link, twin, group, twin, &[]));
            }
            _ => unreachable!("one family at a time"),
        }
        for (number, frame) in arrivals.into_iter().enumerate() {
            let mut case = Case { world: rig.world(), frame };
            let title = format!("{family:?} twin, frame {number}");
            let verdict = rig.check(Direction::Ingress, &title, &mut case);
            assert_eq!(verdict.unwrap_or_else(|e| panic!("{e:#}")).counter, "passed", "{title}");
        }
    }
}

#[test]
fn a_shared_bit_makes_no_endpoint() {
    let mut rig = Rig::new().unwrap();
    let link = Link { from: world::MY_MAC, to: world::ROUTER_MAC };
    for family in [Family::V4, Family::V6] {
        let client = SocketAddr::new(world::client(family), 40_000);
        let vip = SocketAddr::new(world::vip(family), port::DELIVER);
        let pod = world::pod(family, 0);
        let mut world = rig.world();
        world.flows.extend(World::flow(client, vip, pod, world::pod_index(family, 0), 6));
        let frame = frames::tcp(link, twin_of_pod(family), client, 64, tcp_flags::ACK);
        let mut case = Case { world, frame };
        let title = format!("{family:?} twin of a pod");
        let verdict = rig.check(Direction::Egress, &title, &mut case);
        let counter = verdict.unwrap_or_else(|e| panic!("{e:#}")).counter;
        assert_eq!(counter, "egress_passed", "{title}");
    }
}
