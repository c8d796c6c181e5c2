//! From a row's words to its frame, and to the flows that the node knows when it arrives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};

use super::{
    acceptance::{Direction, Row},
    frames::{self, Arp, BROADCAST, Link, Mac, tcp_flags},
    world::{self, Echo, Family, World, pod, port},
};

/// A frame and the state of the node that it meets.
#[derive(Clone, Debug)]
pub struct Case {
    /// What the maps say.
    pub world: World,
    /// The frame.
    pub frame: Vec<u8>,
}

/// The client's port in all cases.
pub const CLIENT_PORT: u16 = 40_001;

/// Builds a row's case in a world.
///
/// # Errors
/// The row uses a word that has no meaning.
pub fn build(row: &Row, world: &World) -> Result<Case> {
    let mut world = world.clone();
    let (kind, variant) = row.frame.split_once(", ").unwrap_or((&row.frame, ""));
    match variant {
        "agent gone" => world.announcing = false,
        "limit reached" => world.echo = Echo::Exhausted,
        _ => {}
    }
    let frame = match row.direction {
        Direction::Ingress => {
            let (address, service) = destination(&row.to, row.family)?;
            let at = SocketAddr::new(address, service);
            know(&mut world, row, at)?;
            let frame = if kind.contains("ARP") {
                arp(kind, row, address)?
            } else if ["NS", "NA", "DAD"].iter().any(|word| kind.starts_with(word)) {
                neighbour_discovery(kind, variant, row, address)?
            } else {
                let link = link(&row.hop)?;
                let from = SocketAddr::new(world::client(row.family), CLIENT_PORT);
                packet(kind, link, from, at)?
            };
            vary(frame, variant)?
        }
        Direction::Egress => {
            let vip = SocketAddr::new(world::vip(row.family), port::DELIVER);
            know(&mut world, row, vip)?;
            let from = match row.to.as_str() {
                "pod" => pod(row.family, 0),
                "foreign" => SocketAddr::new(world::foreign(row.family), port::POD),
                word => bail!("no endpoint {word}"),
            };
            let link = Link { from: world::MY_MAC, to: world::ROUTER_MAC };
            let to = SocketAddr::new(world::client(row.family), CLIENT_PORT);
            let frame = if kind == "ARP request" {
                arp(kind, row, from.ip())?
            } else {
                packet(kind, link, from, to)?
            };
            vary(frame, variant)?
        }
    };
    Ok(Case { world, frame })
}

/// The address and, for a VIP:port, the port that a row's `to` stands for.
fn destination(to: &str, family: Family) -> Result<(IpAddr, u16)> {
    let (word, elsewhere) = match to.strip_suffix("-elsewhere") {
        Some(word) => (word, true),
        None => (to, false),
    };
    let vip = if elsewhere { world::vip_elsewhere(family) } else { world::vip(family) };
    let service = match word {
        "announced" | "group" => return Ok((vip, 80)),
        "elsewhere" | "group elsewhere" => return Ok((world::vip_elsewhere(family), 80)),
        "foreign" => return Ok((world::foreign(family), 80)),
        "deliver" => port::DELIVER,
        "forward" => port::FORWARD,
        "unresolved" => port::UNRESOLVED,
        "redirect" => port::REDIRECT,
        "kernel" => port::KERNEL,
        "kernel-forward" => port::KERNEL_FORWARD,
        "empty" => port::EMPTY,
        "gone" => port::GONE,
        "draining" => port::DRAINING,
        "affinity" => port::AFFINITY,
        "none" => port::NONE,
        _ => bail!("no destination {to}"),
    };
    Ok((vip, service))
}

/// Gives the node the flows that a row's `known` stands for.
fn know(world: &mut World, row: &Row, vip: SocketAddr) -> Result<()> {
    let protocol = if row.frame.starts_with("UDP") { 17 } else { 6 };
    let client = SocketAddr::new(world::client(row.family), CLIENT_PORT);
    // The second pod, where a new flow would go to the first.
    let number = u8::from(row.direction == Direction::Ingress);
    let index = world::pod_index(row.family, number);
    let mut entries = World::flow(client, vip, pod(row.family, number), index, protocol);
    match row.known.as_str() {
        "-" => {}
        "flow" => world.flows.extend(entries),
        "pending" => world.pending.extend(entries),
        "closed" => {
            entries.iter_mut().for_each(|(_, flow)| flow.closing = true);
            world.flows.extend(entries);
        }
        "stale" => {
            entries.iter_mut().for_each(|(_, flow)| flow.endpoint = world::GONE_ENDPOINT);
            world.flows.extend(entries);
        }
        word => bail!("no such knowledge: {word}"),
    }
    Ok(())
}

fn link(hop: &str) -> Result<Link> {
    let (from, to) = match hop {
        "first" => (world::ROUTER_MAC, world::MY_MAC),
        "second" => (world::NODE_2_MAC, world::MY_MAC),
        "other host" => (world::ROUTER_MAC, world::OTHER_MAC),
        "broadcast" => (world::NEIGHBOUR_MAC, BROADCAST),
        _ => bail!("no hop {hop}"),
    };
    Ok(Link { from, to })
}

/// Frames about neighbours come from a neighbour.
fn neighbour_link(row: &Row, group: Mac) -> Result<Link> {
    if row.hop == "multicast" {
        return Ok(Link { from: world::NEIGHBOUR_MAC, to: group });
    }
    let link = link(&row.hop)?;
    let agent = row.hop == "second";
    Ok(Link { from: if agent { link.from } else { world::NEIGHBOUR_MAC }, to: link.to })
}

fn arp(kind: &str, row: &Row, about: IpAddr) -> Result<Vec<u8>> {
    let IpAddr::V4(about) = about else { bail!("ARP is IPv4's") };
    let IpAddr::V4(neighbour) = world::neighbour(Family::V4) else { bail!("not IPv4") };
    let link = match row.direction {
        Direction::Ingress => neighbour_link(row, BROADCAST)?,
        Direction::Egress => Link { from: world::MY_MAC, to: BROADCAST },
    };
    let request = Arp {
        reply: false,
        sender_mac: link.from,
        sender: neighbour,
        target_mac: [0; 6],
        target: about,
    };
    Ok(frames::arp(
        link,
        match kind {
            "ARP request" => request,
            "ARP probe" => Arp { sender: Ipv4Addr::UNSPECIFIED, ..request },
            "ARP reply" | "ARP reply claiming" => {
                let target = Ipv4Addr::new(198, 51, 100, 1);
                Arp { reply: true, sender: about, target_mac: link.to, target, ..request }
            }
            "gratuitous ARP request" => Arp { sender: about, ..request },
            _ => bail!("no frame {kind}"),
        },
    ))
}

fn neighbour_discovery(kind: &str, variant: &str, row: &Row, about: IpAddr) -> Result<Vec<u8>> {
    let IpAddr::V6(target) = about else { bail!("neighbour discovery is IPv6's") };
    let IpAddr::V6(neighbour) = world::neighbour(Family::V6) else { bail!("not IPv6") };
    let group = frames::solicited_node(target);
    let mut link = neighbour_link(row, frames::multicast_mac(group))?;
    let (kind, more) = match kind.split_once(" with") {
        Some((kind, more)) => (kind, more),
        None => (kind, ""),
    };
    let from = match kind {
        "NA claiming" => {
            let all: Ipv6Addr = "ff02::1".parse()?;
            link.to = frames::multicast_mac(all);
            return Ok(frames::advertisement(link, target, all, target));
        }
        "NS" => neighbour,
        "DAD probe" | "DAD probe to the address" => Ipv6Addr::UNSPECIFIED,
        _ => bail!("no frame {kind}"),
    };
    let to = if row.hop == "multicast" { group } else { target };
    let address = frames::source_link_layer_option(link.from);
    let mut options = match (kind, more) {
        ("NS", "") | (_, " link-layer option") => address,
        ("NS", " nonce") => [&address[..], &frames::NONCE_OPTION[..]].concat(),
        (_, " nonce") => frames::NONCE_OPTION.to_vec(),
        (_, "out link-layer option") | ("DAD probe" | "DAD probe to the address", "") => vec![],
        _ => bail!("no option {more}"),
    };
    if variant == "option of length 0" {
        options[1] = 0;
    }
    let hop_limit = if variant == "hop limit 254" { 254 } else { 255 };
    Ok(frames::solicitation(link, from, to, target, hop_limit, &options))
}

fn packet(kind: &str, link: Link, from: SocketAddr, to: SocketAddr) -> Result<Vec<u8>> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN};
    let tcp = |flags| frames::tcp(link, from, to, 64, flags);
    Ok(match kind {
        "TCP SYN" => tcp(SYN),
        "TCP SYN-ACK" => tcp(SYN | ACK),
        "TCP ACK" => tcp(ACK | PSH),
        "TCP FIN" => tcp(FIN | ACK),
        "TCP RST" => tcp(RST),
        "UDP" => frames::udp(link, from, to, 64),
        "UDP without checksum" => frames::udp_without_checksum(link, from, to, 64),
        "echo request" => frames::echo_request(link, from.ip(), to.ip(), 57),
        "echo reply" => frames::echo_reply(link, from.ip(), to.ip(), 57),
        "port unreachable" => {
            let about = frames::udp(link, to, from, 60);
            frames::icmp_error(link, from.ip(), to.ip(), 57, &about[14..])
        }
        "EtherType 88cc" => {
            let mut frame = tcp(SYN);
            frame[12..14].copy_from_slice(&[0x88, 0xcc]);
            frame
        }
        _ => {
            let number = kind.strip_prefix("protocol ").context("no such frame")?;
            frames::other_protocol(link, from.ip(), to.ip(), 64, number.parse()?)
        }
    })
}

/// Changes a frame as the words behind its name say.
fn vary(mut frame: Vec<u8>, variant: &str) -> Result<Vec<u8>> {
    let v4 = frame[12..14] == [0x08, 0x00];
    let length_at = if v4 { 16 } else { 18 };
    match variant {
        "" | "agent gone" | "limit reached" | "hop limit 254" | "option of length 0" => {}
        "tagged" => frame = frames::tagged(&frame, 100),
        "other hardware" => frame[15] = 6,
        "other lengths" => frame[18..20].copy_from_slice(&[8, 4]),
        "bad checksum" => frame[56] ^= 0x40,
        "code 1" => {
            // The checksum stays right: the target's neighbour word makes up for it.
            frame[55] = 1;
            let sum = u16::from_be_bytes([frame[56], frame[57]]);
            frame[56..58].copy_from_slice(&(sum - 1).to_be_bytes());
        }
        "IPv4 options" => frame = frames::with_ipv4_options(&frame),
        "hop-by-hop options" => frame = frames::with_extension(&frame, 0),
        "routing header" => frame = frames::with_extension(&frame, 43),
        "destination options" => frame = frames::with_extension(&frame, 60),
        "first fragment" | "fragment" if v4 => frame = frames::as_fragment_v4(&frame, 0, true),
        "first fragment" | "fragment" => frame = frames::as_fragment_v6(&frame, 0, true),
        "later fragment" if v4 => frame = frames::as_fragment_v4(&frame, 185, false),
        "later fragment" => frame = frames::as_fragment_v6(&frame, 185, false),
        "length beyond the frame" => {
            let length = u16::try_from(frame.len())? + 1;
            frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            if v4 {
                frames::refresh_ipv4(&mut frame);
            }
        }
        "length short of the header" => {
            let length: u16 = if v4 { 39 } else { 19 };
            frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            if v4 {
                frames::refresh_ipv4(&mut frame);
            }
        }
        "data offset 4" => set_data_offset(&mut frame, 4),
        "data offset beyond the packet" => set_data_offset(&mut frame, 15),
        "UDP length 7" => set_udp_length(&mut frame, 7),
        "UDP length beyond the packet" => set_udp_length(&mut frame, 32),
        "version 5" => {
            frame[14] = 0x55;
            frames::refresh_ipv4(&mut frame);
        }
        _ => {
            let ttl = variant.strip_prefix("TTL ").context("no such variant")?;
            frames::set_ttl(&mut frame, ttl.parse()?);
        }
    }
    Ok(frame)
}

fn set_udp_length(frame: &mut [u8], length: u16) {
    let at = frames::l4_offset(frame) + 4;
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// In units of four bytes.
fn set_data_offset(frame: &mut [u8], words: u8) {
    let at = frames::l4_offset(frame) + 12;
    frame[at] = words << 4;
}
