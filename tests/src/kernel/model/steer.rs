//! Steering: section 2.

use std::net::SocketAddr;

use super::{
    super::world::{NOBODY, Row, Service, World},
    Case, Dropped, Kind, Packet, Verdict, decide, deliver, flows,
    hash::flow_hash,
    headers::{Ip, number},
    refuse,
    send::{self, Way},
};

/// What a packet's Service says about it.
pub(super) struct Steering {
    pub(super) service: Service,
    /// The row's nodes, and this node's endpoint for it.
    pub(super) row: Row,
    pub(super) endpoint: Option<u32>,
    /// The first node of the row before.
    pub(super) before: Option<u16>,
    pub(super) hash: u32,
}

impl Steering {
    /// Whether this node is the row's.
    pub(super) fn is_here(&self) -> bool {
        self.row.first() == Some(&0)
    }

    /// The row's node, if it is another one.
    pub(super) fn first(&self) -> Option<u16> {
        self.row.first().copied().filter(|&node| node != NOBODY && node != 0)
    }

    /// The first place in the row, from the second on, whose node has not been asked about a packet that
    /// has come to this node at place `k`: who did not expect this node there has passed over
    /// somebody.
    pub(super) fn unasked(&self, k: u8) -> usize {
        let k = usize::from(k);
        let expected = self.row.iter().take(k + 1).skip(1).any(|&node| node == 0);
        if k > 0 && !expected { k } else { k + 1 }
    }

    /// The first of the nodes at places in the row that is another one, and its place.
    pub(super) fn next(&self, places: std::ops::Range<usize>) -> Option<(u16, u8)> {
        let others = self.row.iter().enumerate().take(places.end).skip(places.start);
        { others }.find(|(_, node)| **node != 0 && **node != NOBODY).map(|(at, n)| (*n, at as u8))
    }
}

/// A TCP segment, UDP datagram or SCTP packet with its header.
pub(super) fn transport(world: &mut World, case: &Case<'_>) -> Result<Verdict, Dropped> {
    let packet = read(case.frame, &case.ip)?;
    steer(world, case, &packet)
}

/// The least that a transport header has. Of SCTP, one chunk at least (RFC 9260 section 3).
pub(super) fn least(protocol: u8) -> usize {
    match protocol {
        6 => 20,
        17 => 8,
        _ => 16,
    }
}

/// The ports and what else the transport header says, if it is whole.
pub(super) fn read(frame: &[u8], ip: &Ip) -> Result<Packet, Dropped> {
    let (at, length) = (ip.upper, ip.end - ip.upper);
    let least = least(ip.protocol);
    if length < least {
        return Err("drop_malformed");
    }
    let wrong = match ip.protocol {
        6 => {
            let header = usize::from(frame[at + 12] >> 4) * 4;
            header < least || (header > length && ip.fragment.is_none())
        }
        17 => {
            let datagram = usize::from(number(frame, at + 4));
            // Of a fragment the rest is elsewhere.
            datagram < least || (datagram > length && ip.fragment.is_none())
        }
        _ => false,
    };
    if wrong {
        return Err("drop_malformed");
    }
    let (flags, sequence) = match ip.protocol {
        6 => {
            let upper = u32::from(number(frame, at + 4)) << 16;
            (frame[at + 13], upper | u32::from(number(frame, at + 6)))
        }
        _ => (0, 0),
    };
    let init = ip.protocol == 132 && frame[at + 12] == 1;
    Ok(Packet {
        client: SocketAddr::new(ip.source, number(frame, at)),
        vip: SocketAddr::new(ip.destination, number(frame, at + 2)),
        protocol: ip.protocol,
        kind: Kind::Whole { flags, sequence, init },
    })
}

/// On with a packet that has ports.
pub(super) fn steer(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
) -> Result<Verdict, Dropped> {
    let Some(service) = world.services.get(&(packet.vip, packet.protocol)).cloned() else {
        return refuse::refuse(world, case, packet, "drop_no_port");
    };
    if let Some(set) = service.ranges
        && !world.ranges.get(&set).is_some_and(|prefixes| {
            prefixes.iter().any(|&(address, length)| is_inside(packet.client.ip(), address, length))
        })
    {
        return Err("drop_source_range");
    }
    if service.rows.is_empty() {
        if !world.fresh && packet.kind != Kind::Error && case.arrival.tunnel.is_none() {
            return Ok(Verdict::untouched(super::PASS, "delivered_kernel", case.frame));
        }
        return refuse::refuse(world, case, packet, "drop_no_endpoint");
    }
    let to = find(service, packet);
    let tunnel = case.arrival.tunnel;
    let begins = packet.begins();
    let at_first_hop = (to.service.here || to.service.taken_over) && tunnel.is_none();
    // A SYN repeated, or a port used again.
    let looked_at = to.is_here() || at_first_hop || (tunnel.is_some() && !begins);
    if looked_at && flows::known(world, packet).is_some() {
        return deliver::known(world, case, packet, &to);
    }
    if to.service.taken_over && tunnel.is_none() && !case.arrival.agent && packet.protocol != 17 {
        if begins {
            flows::begin(world, packet, None, true)?;
        } else {
            flows::ending(world, packet);
        }
        return Ok(Verdict::untouched(super::PASS, "delivered_kernel", case.frame));
    }
    if begins && at_first_hop && !to.is_here() {
        let forth = packet.forth();
        world.flows.remove(&forth);
        world.pending.remove(&forth);
    }
    match tunnel {
        None => first_hop(world, case, packet, &to),
        Some(position) => decide::decide(world, case, packet, &to, position),
    }
}

fn first_hop(
    world: &mut World,
    case: &Case<'_>,
    packet: &Packet,
    to: &Steering,
) -> Result<Verdict, Dropped> {
    if to.is_here() {
        return decide::decide(world, case, packet, to, 0);
    }
    if let Some(node) = to.first() {
        return send::on(world, case, packet, to, node, Way::Position(0));
    }
    // Nobody takes new flows.
    if packet.begins() {
        return refuse::refuse(world, case, packet, "drop_no_endpoint");
    }
    let udp = packet.protocol == 17 && packet.kind != Kind::Error;
    if let Some((node, place)) = to.next(1..if udp { 3 } else { 4 }) {
        return send::on(world, case, packet, to, node, Way::Position(place));
    }
    if udp {
        return Err("drop_no_endpoint");
    }
    decide::last_resort(world, case, packet, to, 0)
}

/// A packet's row.
fn find(service: Service, packet: &Packet) -> Steering {
    // sessionAffinity ClientIP: nothing but the two addresses counts.
    let hash = if service.client_ip {
        let address = |at: SocketAddr| SocketAddr::new(at.ip(), 0);
        flow_hash(address(packet.client), address(packet.vip), 0)
    } else {
        flow_hash(packet.client, packet.vip, packet.protocol)
    };
    let index = index(hash, service.rows.len());
    let endpoint = match service.endpoints[..] {
        [one] => one,
        _ => service.endpoints[index],
    };
    let before = (!service.previous.is_empty())
        .then(|| service.previous[self::index(hash, service.previous.len())][0]);
    Steering { row: service.rows[index].clone(), endpoint, before, hash, service }
}

/// Linear hashing (Litwin 1980): as many low bits as are needed, one fewer where there are
/// not so many rows.
fn index(hash: u32, rows: usize) -> usize {
    let mut modulus = 1;
    while modulus < rows {
        modulus *= 2;
    }
    let index = hash as usize % modulus;
    if index < rows { index } else { index % (modulus / 2) }
}

/// Whether an address lies in a prefix.
fn is_inside(address: std::net::IpAddr, prefix: std::net::IpAddr, length: u8) -> bool {
    let bits = |address| match address {
        std::net::IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, true),
        std::net::IpAddr::V6(v6) => (u128::from(v6), false),
    };
    let ((a, a_v4), (b, b_v4)) = (bits(address), bits(prefix));
    a_v4 == b_v4 && (length == 0 || (a ^ b) >> (128 - u32::from(length)) == 0)
}
