//! What is measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::outcome::Outcome;

use super::{
    engine::{Client, Traffic},
    scale,
};
use crate::kernel::{
    acceptance::Direction,
    frames::{self, Arp, BROADCAST, Link, tcp_flags},
    model,
    world::{Family, MY_MAC, NEIGHBOUR_MAC, ROUTER_MAC},
};

/// What has to be in the maps before a case can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// Nothing.
    None,
    /// The case's clients have begun their flows and acknowledged.
    Known,
    /// The same clients have flows of another VIP:port, which the case's packets are none of.
    Others,
}

/// How large the table of flows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// As the agent makes it unless it is told otherwise.
    Usual,
    /// [`scale::LARGE_FLOWS`].
    Large,
}

/// What the figure is held against, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// At most so much.
    AtMost(u32),
    /// At most so much more than another case, and no more than so much.
    AtMostMoreThan(&'static str, u32),
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, in the results too.
    pub name: &'static str,
    /// Which program.
    pub direction: Direction,
    /// The packets.
    pub traffic: Traffic,
    /// What must be in the maps.
    pub flows: Flows,
    /// In tables of which size.
    pub table: Table,
    /// The return value of each run.
    pub action: u32,
    /// The counter that rises by one in each run.
    pub outcome: Outcome,
    /// Whether the packet gets or loses a tunnel's headers, so that the bench has to undo it.
    pub moved: bool,
    /// The statistics that rise by one in each run.
    pub service: Option<u32>,
    /// What it is held against.
    pub target: Option<Target>,
}

/// 64 Ki.
const SIXTY_FOUR_KI: u32 = 1 << 16;
/// 1 Mi.
const ONE_MI: u32 = 1 << 20;
/// More than any run has packets, so that no client comes twice.
const NEVER_AGAIN: u32 = 1 << 24;

/// The client whose last 16 bits of address and whose port the engine varies.
fn client(family: Family) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc11e, 0, 0, 0, 0, 0).into(),
    };
    SocketAddr::new(address, 1024)
}

/// The address and port of a client, by its number, as the engine writes them.
pub fn client_number(family: Family, number: u32) -> SocketAddr {
    let [low, high] = ((number >> 12) as u16).to_le_bytes();
    let address = match client(family).ip() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            IpAddr::from([a, b, low, high])
        }
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[14] = low;
            octets[15] = high;
            IpAddr::from(octets)
        }
    };
    SocketAddr::new(address, 1024 + (number & 0xfff) as u16)
}

fn source(family: Family, clients: u32) -> Client {
    match (clients, family) {
        (1, _) => Client::Fixed,
        (_, Family::V4) => Client::SourceV4,
        (_, Family::V6) => Client::SourceV6,
    }
}

/// A segment of 100 bytes or so from a client to a VIP:port.
fn segment(family: Family, port: u16, flags: u8) -> Vec<u8> {
    let link = Link { from: ROUTER_MAC, to: MY_MAC };
    let mut frame =
        frames::tcp(link, client(family), SocketAddr::new(scale::vip(family, 0), port), 64, flags);
    frame.resize(100, 0);
    frame
}

fn traffic(frame: Vec<u8>) -> Traffic {
    Traffic { frame, client: Client::Fixed, clients: 1, first: 0, spread: false }
}

fn from_clients(family: Family, port: u16, flags: u8, clients: u32) -> Traffic {
    let frame = segment(family, port, flags);
    Traffic { client: source(family, clients), clients, ..traffic(frame) }
}

fn ingress(name: &'static str, traffic: Traffic, outcome: Outcome) -> Case {
    Case {
        name,
        direction: Direction::Ingress,
        traffic,
        flows: Flows::None,
        table: Table::Usual,
        action: outcome.action() as u32,
        outcome,
        moved: false,
        service: None,
        target: None,
    }
}

fn forward(name: &'static str, family: Family, clients: u32) -> Case {
    Case {
        service: Some(scale::stats_index(family, 0, scale::FORWARD)),
        ..ingress(
            name,
            from_clients(family, scale::FORWARD, tcp_flags::ACK, clients),
            Outcome::Forwarded,
        )
    }
}

/// Sent on in some other way than by the link: `port` says which.
fn sent_on(name: &'static str, family: Family, port: u16, clients: u32, outcome: Outcome) -> Case {
    Case {
        service: Some(scale::stats_index(family, 0, port)),
        moved: outcome != Outcome::Forwarded,
        ..ingress(name, from_clients(family, port, tcp_flags::ACK, clients), outcome)
    }
}

/// A known flow's packet out of a tunnel.
fn from_tunnel(name: &'static str) -> Case {
    let inner = segment(Family::V4, scale::DELIVER, tcp_flags::ACK);
    // UDP, and the header of `lb_common::tunnel`: version and length, IPv4, position 1.
    let mut payload = [50_000, scale::TUNNEL_PORT, (8 + 16 + inner.len() - 14) as u16, 0]
        .map(u16::to_be_bytes)
        .concat();
    payload.extend([3, 4, 0, 0, 1, 0, 0, 0]);
    payload.extend(scale::COOKIE.to_ne_bytes());
    payload.extend(&inner[14..]);
    let link = Link { from: ROUTER_MAC, to: MY_MAC };
    let from = Ipv4Addr::new(198, 18, 254, 9).into();
    let to = scale::MY_ADDRESS.into();
    let frame = frames::with_payload(link, from, to, 64, 17, &payload);
    let traffic = traffic(frame);
    Case { traffic, moved: true, ..deliver(name, Family::V4, tcp_flags::ACK, 1) }
}

fn deliver(name: &'static str, family: Family, flags: u8, clients: u32) -> Case {
    Case {
        service: Some(scale::stats_index(family, 0, scale::DELIVER)),
        flows: if flags == tcp_flags::SYN { Flows::None } else { Flows::Known },
        ..ingress(name, from_clients(family, scale::DELIVER, flags, clients), Outcome::Delivered)
    }
}

fn egress(name: &'static str, traffic: Traffic, outcome: Outcome) -> Case {
    Case { direction: Direction::Egress, action: model::NEXT, ..ingress(name, traffic, outcome) }
}

fn reply(name: &'static str, family: Family, clients: u32) -> Case {
    let link = Link { from: MY_MAC, to: ROUTER_MAC };
    let pod = scale::endpoint(family, 0);
    let mut frame = frames::tcp(link, pod, client(family), 64, tcp_flags::ACK);
    frame.resize(100, 0);
    let client = match (clients, family) {
        (1, _) => Client::Fixed,
        (_, Family::V4) => Client::DestinationV4,
        (_, Family::V6) => Client::DestinationV6,
    };
    let traffic = Traffic { client, clients, ..traffic(frame) };
    Case { flows: Flows::Known, ..egress(name, traffic, Outcome::Replied) }
}

/// The segments that make this node know a case's flows: each client's SYN, then its
/// acknowledgment, in groups of 4 Ki clients. The table of flows that have yet to prove themselves
/// holds 64 Ki, but what has been looked up, the half of each group before, the kernel's LRU lists
/// evict last (`bpf_lru_list.c`): what is new may be evicted after a quarter as many.
pub fn openings(case: &Case) -> Vec<Traffic> {
    const GROUP: u32 = 1 << 12;
    let family = if case.traffic.frame[12] == 0x08 { Family::V4 } else { Family::V6 };
    let port = match (case.flows, case.direction) {
        (Flows::None, _) => return Vec::new(),
        (Flows::Known | Flows::Others, Direction::Ingress) => scale::DELIVER,
        (Flows::Known | Flows::Others, Direction::Egress) => scale::DELIVER_TO_ONE,
    };
    let group = GROUP.min(case.traffic.clients);
    let opening = |number, flags| {
        // One client's frame names it already.
        let first = case.traffic.first + number;
        Traffic { first, ..from_clients(family, port, flags, group) }
    };
    (0..case.traffic.clients)
        .step_by(group as usize)
        .flat_map(|first| [opening(first, tcp_flags::SYN), opening(first, tcp_flags::ACK)])
        .collect()
}

/// What is not ours: the same segment between addresses that no VIP or endpoint has.
fn foreign(family: Family, egress: bool) -> Traffic {
    let to = match family {
        Family::V4 => IpAddr::from([203, 0, 113, 5]),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 5).into(),
    };
    let (from, to) = (client(family), SocketAddr::new(to, 443));
    let link = Link { from: ROUTER_MAC, to: MY_MAC };
    let (link, from, to) =
        if egress { (Link { from: link.to, to: link.from }, to, from) } else { (link, from, to) };
    let mut frame = frames::tcp(link, from, to, 64, tcp_flags::ACK);
    frame.resize(100, 0);
    traffic(frame)
}

fn arp_request() -> Traffic {
    let link = Link { from: NEIGHBOUR_MAC, to: BROADCAST };
    let IpAddr::V4(target) = scale::vip(Family::V4, 0) else { unreachable!("an IPv4 VIP") };
    let sender = Ipv4Addr::new(198, 18, 0, 200);
    let arp = Arp { reply: false, sender_mac: link.from, sender, target_mac: [0; 6], target };
    let mut frame = frames::arp(link, arp);
    frame.resize(100, 0);
    traffic(frame)
}

fn solicitation() -> Traffic {
    let IpAddr::V6(target) = scale::vip(Family::V6, 0) else { unreachable!("an IPv6 VIP") };
    let group = frames::solicited_node(target);
    let link = Link { from: NEIGHBOUR_MAC, to: frames::multicast_mac(group) };
    let from = Ipv6Addr::new(0x2001, 0xdb8, 0xfeed, 0, 0, 0, 1, 0);
    let option = frames::source_link_layer_option(link.from);
    traffic(frames::solicitation(link, from, group, target, 255, &option))
}

fn echo(family: Family) -> Traffic {
    let link = Link { from: ROUTER_MAC, to: MY_MAC };
    let mut frame = frames::echo_request(link, client(family).ip(), scale::vip(family, 0), 64);
    frame.resize(100, 0);
    traffic(frame)
}

/// All cases, in the order of the results.
pub fn all() -> Vec<Case> {
    use Family::{V4, V6};
    use tcp_flags::{ACK, SYN};
    let at_most = |ns, case: Case| Case { target: Some(Target::AtMost(ns)), ..case };
    let more_than =
        |name, case: Case| Case { target: Some(Target::AtMostMoreThan(name, 15)), ..case };
    vec![
        at_most(20, ingress("pass, IPv4", foreign(V4, false), Outcome::Passed)),
        at_most(20, ingress("pass, IPv6", foreign(V6, false), Outcome::Passed)),
        at_most(45, ingress("ARP answer", arp_request(), Outcome::ArpAnswered)),
        ingress("NDP answer", solicitation(), Outcome::NdpAnswered),
        ingress("echo answer, IPv4", echo(V4), Outcome::EchoAnswered),
        ingress("echo answer, IPv6", echo(V6), Outcome::EchoAnswered),
        at_most(75, forward("forward, IPv4, 1 flow", V4, 1)),
        at_most(75, forward("forward, IPv4, 64 Ki flows", V4, SIXTY_FOUR_KI)),
        more_than("forward, IPv4, 1 flow", forward("forward, IPv4, 1 Mi flows", V4, ONE_MI)),
        spread("forward, IPv4, 1 Mi flows to 2,048 VIP ports"),
        at_most(75, forward("forward, IPv6, 1 flow", V6, 1)),
        at_most(75, forward("forward, IPv6, 64 Ki flows", V6, SIXTY_FOUR_KI)),
        more_than("forward, IPv6, 1 flow", forward("forward, IPv6, 1 Mi flows", V6, ONE_MI)),
        sent_on(
            "forward past the flow table, IPv4",
            V4,
            scale::FORWARD_HERE,
            1,
            Outcome::Forwarded,
        ),
        at_most(100, sent_on("tunnel, IPv4, 1 flow", V4, scale::TUNNEL, 1, Outcome::Tunnelled)),
        at_most(
            100,
            sent_on(
                "tunnel, IPv4, 64 Ki flows",
                V4,
                scale::TUNNEL,
                SIXTY_FOUR_KI,
                Outcome::Tunnelled,
            ),
        ),
        more_than(
            "tunnel, IPv4, 1 flow",
            sent_on("tunnel, IPv4, 1 Mi flows", V4, scale::TUNNEL, ONE_MI, Outcome::Tunnelled),
        ),
        at_most(100, sent_on("tunnel, IPv6, 1 flow", V6, scale::TUNNEL, 1, Outcome::Tunnelled)),
        sent_on("second chance, IPv4, 1 flow", V4, scale::SECOND_CHANCE, 1, Outcome::SecondChance),
        sent_on(
            "second chance, IPv4, 64 Ki flows",
            V4,
            scale::SECOND_CHANCE,
            SIXTY_FOUR_KI,
            Outcome::SecondChance,
        ),
        second_chance_among_many("second chance, IPv4, 1 Mi flows"),
        from_tunnel("deliver out of a tunnel, IPv4, 1 flow"),
        deliver("deliver, IPv4, 1 flow", V4, ACK, 1),
        deliver("deliver, IPv4, 64 Ki flows", V4, ACK, SIXTY_FOUR_KI),
        in_large_table(deliver("deliver, IPv4, 1 Mi flows", V4, ACK, ONE_MI)),
        deliver("deliver, IPv6, 1 flow", V6, ACK, 1),
        deliver("deliver, IPv6, 64 Ki flows", V6, ACK, SIXTY_FOUR_KI),
        in_large_table(deliver("deliver, IPv6, 1 Mi flows", V6, ACK, ONE_MI)),
        deliver("deliver, IPv4, each packet a new flow", V4, SYN, NEVER_AGAIN),
        reply("reply, IPv4, 1 flow", V4, 1),
        reply("reply, IPv4, 64 Ki flows", V4, SIXTY_FOUR_KI),
        reply_among_many("reply, IPv4, 1 Mi flows"),
        reply("reply, IPv6, 1 flow", V6, 1),
        at_most(20, egress("foreign egress, IPv4", foreign(V4, true), Outcome::EgressPassed)),
        at_most(20, egress("foreign egress, IPv6", foreign(V6, true), Outcome::EgressPassed)),
    ]
}

/// A case of as many flows as the usual table does not hold, since each has two entries.
fn in_large_table(case: Case) -> Case {
    Case { table: Table::Large, ..case }
}

/// Replies to as many clients, who are none of those that have flows to the same endpoint by another
/// VIP:port: else some would need another port there, and not every one finds one.
fn reply_among_many(name: &'static str) -> Case {
    let case = reply(name, Family::V4, ONE_MI);
    let traffic = Traffic { first: ONE_MI, ..case.traffic };
    in_large_table(Case { traffic, ..case })
}

/// Unknown packets of as many clients, where the table is full of these clients' other flows.
fn second_chance_among_many(name: &'static str) -> Case {
    let port = scale::SECOND_CHANCE;
    let case = sent_on(name, Family::V4, port, ONE_MI, Outcome::SecondChance);
    in_large_table(Case { flows: Flows::Others, ..case })
}

/// Forwarding with the destination varied as well, so that services and rows are spread
/// over memory; their statistics are too, and not asserted one by one.
fn spread(name: &'static str) -> Case {
    let case = forward(name, Family::V4, ONE_MI);
    let traffic = Traffic { spread: true, ..case.traffic };
    Case { traffic, service: None, ..case }
}
