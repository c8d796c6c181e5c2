//! Tunnels: section 1, step 3, and the headers that a packet gets.

use std::net::IpAddr;

use super::{
    super::world::{Node, World},
    Dropped, Event, checksum,
    headers::{Ip, PACKET, addresses, number, put, v6, wire},
    is_for_us,
};

/// Neither a position nor a packet: a probe frame.
const PROBE: u8 = 255;
/// Whether the node serves: asked, and answered.
const QUESTION: u8 = 128;
const ANSWER: u8 = 129;
/// To the node of a fragment, from where it has yet to go to position 0.
pub(super) const FRAGMENT: u8 = 4;
/// From a node that is not the row's by its own tables, to the one that is.
pub(super) const END: u8 = 5;
/// UDP and GUE.
const HEADERS: usize = 8 + 16;

/// What came in a tunnel.
pub(super) enum Arrived {
    Dropped(Dropped),
    Probe(Event),
    /// A question, and the frame that answers it.
    Answered(Vec<u8>),
    /// The inner packet in a frame, and its position.
    Packet(Vec<u8>, u8),
}

/// Takes the tunnel's headers off; `None`: not to a tunnel.
pub(super) fn arrive(world: &World, frame: &[u8], vlan: u16) -> Option<Arrived> {
    let (_, destination) = addresses(frame)?;
    if !world.addresses.contains(&destination) {
        return None;
    }
    let (header, protocol, first) = match destination {
        IpAddr::V4(_) => {
            let first = number(frame, 20) & 0x1fff == 0;
            (usize::from(frame[14] & 15) * 4, frame[23], first)
        }
        IpAddr::V6(_) => (40, frame[20], true),
    };
    let udp = PACKET + header;
    if protocol != 17
        || !first
        || frame.len() < udp + 8
        || number(frame, udp + 2) != world.tunnel_port
    {
        return None;
    }
    Some(content(world, frame, vlan).unwrap_or_else(Arrived::Dropped))
}

fn content(world: &World, frame: &[u8], vlan: u16) -> Result<Arrived, Dropped> {
    let bad = "drop_tunnel";
    let v4 = number(frame, 12) == 0x0800;
    let (udp, payload, class) = if v4 {
        let unfragmented = number(frame, 20) & 0x3fff == 0;
        if frame[14] != 0x45 || !unfragmented {
            return Err(bad);
        }
        (34, usize::from(number(frame, 16)).checked_sub(20).ok_or(bad)?, frame[15])
    } else {
        if frame[14] >> 4 != 6 {
            return Err(bad);
        }
        (54, usize::from(number(frame, 18)), frame[14] << 4 | frame[15] >> 4)
    };
    let end = udp + payload;
    if !is_for_us(world, frame, vlan)
        || end > frame.len()
        || payload < HEADERS
        || usize::from(number(frame, udp + 4)) != payload
    {
        return Err(bad);
    }
    let gue = &frame[udp + 8..end];
    // Version 0, three words of private data; no flags.
    if gue[0] != 3 || gue[2..4] != [0, 0] {
        return Err(bad);
    }
    if gue[4] == QUESTION {
        if gue[1] != 59 || gue.len() != 24 || number(frame, udp + 6) != 0 {
            return Err(bad);
        }
        return Ok(Arrived::Answered(answered(world, frame, udp)));
    }
    let mut cookie = [0; 8];
    cookie.copy_from_slice(&gue[8..16]);
    let cookie = u64::from_le_bytes(cookie);
    if cookie == 0 || !world.cookies.contains(&cookie) {
        return Err(bad);
    }
    let (protocol, position) = (gue[1], gue[4]);
    if (position, protocol) == (PROBE, 59) {
        if gue.len() < 32 {
            return Err(bad);
        }
        let agent = IpAddr::from(v6(gue, 16)).to_canonical();
        return Ok(Arrived::Probe(Event::Probe(agent)));
    }
    let ethertype: [u8; 2] = match protocol {
        4 => [0x08, 0x00],
        41 => [0x86, 0xdd],
        _ => return Err(bad),
    };
    if position > END {
        return Err(bad);
    }
    // Ethernet's padding stays behind the packet.
    let mut inner = [&frame[..12], &ethertype, &frame[udp + HEADERS..]].concat();
    let (_, destination) = addresses(&inner).ok_or("drop_tunnel_inner")?;
    if !world.vips.contains(&destination) {
        return Err("drop_tunnel_inner");
    }
    if class & 3 == 3 {
        congested(&mut inner);
    }
    Ok(Arrived::Packet(inner, position))
}

/// The same frame on its way back, with the milliseconds for which VIPs are announced: the suites
/// know only "for ever" and "not any more".
fn answered(world: &World, frame: &[u8], udp: usize) -> Vec<u8> {
    let mut answer = frame.to_vec();
    let swap = |answer: &mut Vec<u8>, at: usize, length: usize| {
        answer[at..at + length].copy_from_slice(&frame[at + length..at + 2 * length]);
        answer[at + length..at + 2 * length].copy_from_slice(&frame[at..at + length]);
    };
    swap(&mut answer, 0, 6);
    swap(&mut answer, udp, 2);
    if number(frame, 12) == 0x0800 {
        swap(&mut answer, 26, 4);
        answer[22] = 64;
        checksum::renew_header(frame, &mut answer, PACKET);
    } else {
        swap(&mut answer, 22, 16);
        answer[21] = 64;
    }
    let gue = udp + 8;
    answer[gue + 4] = ANSWER;
    let announces = if world.announcing { u32::MAX } else { 0 };
    answer[gue + 16..gue + 20].copy_from_slice(&announces.to_be_bytes());
    answer
}

/// RFC 6040 section 4.2: what was marked on the way shows to the receiver, if it can tell.
fn congested(frame: &mut [u8]) {
    let before = frame.to_vec();
    if number(frame, 12) == 0x0800 {
        if frame[15] & 3 != 0 {
            frame[15] |= 3;
            if usize::from(frame[14] & 15) * 4 + PACKET <= frame.len() {
                checksum::renew_header(&before, frame, PACKET);
            }
        }
    } else if frame[15] & 0x30 != 0 {
        frame[15] |= 0x30;
    }
}

/// What a tunnel to a node adds to a packet.
pub(super) fn overhead(node: &Node) -> usize {
    HEADERS + if node.address.is_ipv4() { 20 } else { 40 }
}

/// The frame that carries a packet to a node.
pub(super) fn outer(
    world: &World,
    node: &Node,
    frame: &[u8],
    ip: &Ip,
    hash: u32,
    position: u8,
) -> Vec<u8> {
    let protocol = if ip.is_v4() { 4 } else { 41 };
    let port = 0xc000 | (hash as u16 ^ (hash >> 16) as u16) & 0x3fff;
    let packet = Inner {
        bytes: &frame[PACKET..],
        length: ip.length(),
        class: ip.class,
        protocol,
        hash,
        port,
    };
    packet.wrap(node, world.tunnel_port, position)
}

/// A frame that carries `packet` to a node's tunnel, as an agent's node would send it.
pub fn wrap(node: &Node, port: u16, packet: &[u8], protocol: u8, position: u8) -> Vec<u8> {
    let class = match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet[1],
        Some(6) => packet[0] << 4 | packet[1] >> 4,
        _ => 0,
    };
    let length = packet.len();
    let inner = Inner { bytes: packet, length, class, protocol, hash: 0x1234_5678, port: 0xc123 };
    inner.wrap(node, port, position)
}

struct Inner<'a> {
    bytes: &'a [u8],
    length: usize,
    class: u8,
    protocol: u8,
    hash: u32,
    port: u16,
}

impl Inner<'_> {
    /// draft-ietf-intarea-gue-09 in UDP without checksum (RFC 6935 for IPv6).
    fn wrap(&self, node: &Node, port: u16, position: u8) -> Vec<u8> {
        let mut sent = Vec::new();
        sent.extend(node.mac);
        sent.extend(node.source_mac);
        let datagram = (HEADERS + self.length) as u16;
        if node.address.is_ipv4() {
            sent.extend([0x08, 0x00, 0x45, self.class]);
            sent.extend((20 + datagram).to_be_bytes());
            // Identification 0, not to be fragmented (RFC 6864 section 4.1).
            sent.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        } else {
            sent.extend([0x86, 0xdd]);
            // The flow label spreads over paths (RFC 6438).
            let label = self.hash & 0x000f_ffff;
            sent.extend((6 << 28 | u32::from(self.class) << 20 | label).to_be_bytes());
            sent.extend(datagram.to_be_bytes());
            sent.extend([17, 64]);
        }
        sent.extend(wire(node.source));
        sent.extend(wire(node.address));
        if node.address.is_ipv4() {
            let check = checksum::completing(checksum::sum(&sent[PACKET..]), 0);
            put(&mut sent, 24, check);
        }
        sent.extend(self.port.to_be_bytes());
        sent.extend(port.to_be_bytes());
        sent.extend(datagram.to_be_bytes());
        sent.extend([0, 0]);
        sent.extend([3, self.protocol, 0, 0, position, 0, 0, 0]);
        sent.extend(node.cookie.to_le_bytes());
        sent.extend(self.bytes);
        sent
    }
}
