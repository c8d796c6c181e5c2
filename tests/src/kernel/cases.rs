//! From a row's words to its frame, and to the flows that the node knows when it arrives.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, bail};

use super::{
    acceptance::{Direction, Row},
    frames::{self, Arp, BROADCAST, Link, Mac, tcp_flags},
    model, services,
    variants::{vary_all, vary_outer},
    world::{
        self, Affinity, AffinityKey, Answer, Budget, FAR_AHEAD, Family, FragmentKey, Fragmented,
        GONE_ENDPOINT, LONG_AGO, NODE_3, NODE_6, NODE_7, World, pod, port,
    },
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
/// The client's port at the pod, where that is another.
const TRANSLATED_PORT: u16 = 2000;

/// Builds a row's case in a world.
///
/// # Errors
/// The row uses a word that has no meaning.
pub fn build(row: &Row, world: &World) -> Result<Case> {
    let mut world = world.clone();
    let mut words = row.frame.split(", ");
    let kind = words.next().unwrap_or_default();
    let mut variants = Vec::new();
    for word in words {
        match word {
            "agent gone" => world.announcing = false,
            "not fresh" => world.fresh = false,
            "limit reached" => {
                (world.echo, world.refuse) = (Budget::Exhausted, Budget::Exhausted);
                world.claims = Budget::Exhausted;
            }
            "just started" => world.started = 0,
            "no cookies" => world.cookies = [0, 0],
            "fragments of the second" => world.fragment_rows = Arc::new(vec![vec![world::NODE_2]]),
            "fragments of the fourth" => world.fragment_rows = Arc::new(vec![vec![world::NODE_4]]),
            "fragments of the eighth" => world.fragment_rows = Arc::new(vec![vec![world::NODE_8]]),
            "fragments of nobody" => world.fragment_rows = Arc::new(vec![vec![world::NOBODY]]),
            "no fragments" => world.fragment_rows = Arc::new(vec![]),
            "no MSS set" => world.mss = (0, 0),
            variant => variants.push(variant),
        }
    }
    let (outer, inner): (Vec<&str>, Vec<&str>) =
        variants.iter().partition(|variant| variant.starts_with("outer "));
    let frame = match row.direction {
        Direction::Ingress => ingress(row, kind, &inner, &mut world)?,
        Direction::Egress => egress(row, kind, &inner, &mut world)?,
    };
    let frame = wrap(row, frame, &outer)?;
    Ok(Case { world, frame })
}

fn ingress(row: &Row, kind: &str, variants: &[&str], world: &mut World) -> Result<Vec<u8>> {
    let (address, service) = destination(&row.to, row.family)?;
    let at = SocketAddr::new(address, service);
    know(world, row, at)?;
    let hop = row.hop.strip_prefix("vlan ").unwrap_or(&row.hop);
    let frame = if kind.contains("ARP") {
        arp(kind, row, address)?
    } else if ["NS", "NA", "DAD"].iter().any(|word| kind.starts_with(word)) {
        neighbour_discovery(kind, variants.first().copied().unwrap_or(""), row, address)?
    } else if kind == "probe" {
        let IpAddr::V6(agent) = world::node(Family::V6, world::NODE_2) else { bail!("not IPv6") };
        return Ok([&[0; 14][..], &agent.octets()].concat());
    } else if kind == "question" {
        return Ok(vec![0; 14 + 8]);
    } else {
        let link = link(hop)?;
        let client = SocketAddr::new(world::client(row.family), CLIENT_PORT);
        packet(kind, link, client, at, true)?
    };
    vary_all(frame, variants)
}

fn egress(row: &Row, kind: &str, variants: &[&str], world: &mut World) -> Result<Vec<u8>> {
    let vip = SocketAddr::new(world::vip(row.family), port::DELIVER);
    know(world, row, vip)?;
    let sctp = protocol_of(&row.frame) == 132;
    let from = match row.to.as_str() {
        "pod" if sctp => SocketAddr::new(world::pod_address(row.family, 0), port::DELIVER),
        "pod" => pod(row.family, 0),
        "foreign" => SocketAddr::new(world::foreign(row.family), port::POD),
        word => bail!("no endpoint {word}"),
    };
    let link = Link { from: world::MY_MAC, to: world::ROUTER_MAC };
    let port = if row.known.contains("translated") { TRANSLATED_PORT } else { CLIENT_PORT };
    let to = SocketAddr::new(world::client(row.family), port);
    let frame = if kind == "ARP request" {
        arp(kind, row, from.ip())?
    } else {
        packet(kind, link, from, to, false)?
    };
    vary_all(frame, variants)
}

/// The protocol of the flow that a row is about.
fn protocol_of(frame: &str) -> u8 {
    match frame {
        _ if frame.contains("UDP") => 17,
        _ if frame.contains("SCTP") => 132,
        _ => 6,
    }
}

/// The port of a Service, by the word that acceptance.md has for it.
pub fn service_port(word: &str) -> Option<u16> {
    Some(match word {
        "deliver" => port::DELIVER,
        "forward" => port::FORWARD,
        "unresolved" => port::UNRESOLVED,
        "redirect" => port::REDIRECT,
        "kernel" => port::KERNEL,
        "kernel-forward" => port::KERNEL_FORWARD,
        "empty" => port::EMPTY,
        "gone" => port::GONE,
        "untaken" => port::UNTAKEN,
        "taken-over" => port::TAKEN_OVER,
        "taken-over-forward" => port::TAKEN_OVER_FORWARD,
        "draining" => port::DRAINING,
        "affinity" => port::AFFINITY_HERE,
        "affinity-unsettled" => port::AFFINITY_UNSETTLED,
        "none" => port::NONE,
        "changed" => port::CHANGED,
        "changed-6" => port::CHANGED_6,
        "changed-lost" => port::CHANGED_LOST,
        "unsettled" => port::UNSETTLED,
        "unsettled-alone" => port::UNSETTLED_ALONE,
        "unmoved" => port::UNMOVED,
        "vlan" => port::VLAN,
        "tunnel" => port::TUNNEL,
        "tunnel-6" => port::TUNNEL_6,
        "narrow" => port::NARROW,
        "nobody-first" => port::NOBODY_FIRST,
        "nobody" => port::NOBODY_AT_ALL,
        "inside" => port::INSIDE,
        "outside" => port::OUTSIDE,
        "link-only" => port::LINK_ONLY,
        "second" => port::SECOND,
        "second-takes" => port::SECOND_TAKES,
        _ => return None,
    })
}

/// The address and, for a VIP:port, the port that a row's `to` stands for.
fn destination(to: &str, family: Family) -> Result<(IpAddr, u16)> {
    match to {
        "announced" | "group" => return Ok((world::vip(family), 80)),
        "elsewhere" | "group elsewhere" => return Ok((world::vip_elsewhere(family), 80)),
        "foreign" => return Ok((world::foreign(family), 80)),
        "this node" => return Ok((world::node(family, 0), 6080)),
        _ => {}
    }
    let (word, vip) = match to.strip_suffix("-elsewhere") {
        Some(word) => (word, world::vip_elsewhere(family)),
        None => (to, world::vip(family)),
    };
    let service = service_port(word).with_context(|| format!("no destination {to}"))?;
    Ok((vip, service))
}

/// Gives the node what a row's `known` stands for.
fn know(world: &mut World, row: &Row, vip: SocketAddr) -> Result<()> {
    let protocol = protocol_of(&row.frame);
    let client = SocketAddr::new(world::client(row.family), CLIENT_PORT);
    // The second pod, where a new flow would go to the first.
    let number = u8::from(row.direction == Direction::Ingress);
    let all = world.endpoints.clone();
    let (index, pod) = services::endpoint(row.family, number, vip.port(), protocol, &all);
    let mut entries = World::flow(client, vip, pod, index, protocol);
    let key = entries[0].0;
    let affinity_key = AffinityKey { client: client.ip(), vip, protocol };
    let affinity = Affinity { at: pod, endpoint: index, seen: -100 };
    let answer = |answer, until| world::Elsewhere { answer, until };
    let noted = Fragmented { ports: (client.port(), vip.port()), seen: 0 };
    let to_client = row.direction == Direction::Egress;
    let (source, destination, noted) = if to_client {
        let translated = row.known.contains("translated");
        let port = if translated { TRANSLATED_PORT } else { client.port() };
        let ports = (entries[1].0.peer.port(), port);
        (entries[1].0.peer.ip(), client.ip(), Fragmented { ports, ..noted })
    } else {
        (client.ip(), vip.ip(), noted)
    };
    let id = if client.is_ipv4() { [0x1c, 0x46, 0, 0] } else { [0, 0, 0x1c, 0x46] };
    let fragment = FragmentKey { source, destination, id, protocol, to_client };
    for word in row.known.split(" + ") {
        match word {
            "-" => {}
            "flow" => world.flows.extend(entries),
            "old flow" => {
                entries.iter_mut().for_each(|(_, flow)| flow.seen = -100);
                world.flows.extend(entries);
            }
            "pending" => world.pending.extend(entries),
            "closed" => {
                entries.iter_mut().for_each(|(_, flow)| flow.closing = true);
                world.flows.extend(entries);
            }
            "closed long ago" => {
                entries.iter_mut().for_each(|(_, flow)| (flow.closing, flow.seen) = (true, -100));
                world.flows.extend(entries);
            }
            // The frames' number is just behind the FIN's, or another connection's.
            "closed before" | "another closed" => {
                let number =
                    frames::SEQUENCE.wrapping_sub(if word == "closed before" { 1 } else { 65_538 });
                let at = Some(number >> 8);
                entries
                    .iter_mut()
                    .for_each(|(_, flow)| (flow.closing, flow.closed_at) = (true, at));
                world.flows.extend(entries);
            }
            "stale" => {
                entries.iter_mut().for_each(|(_, flow)| flow.endpoint = Some(GONE_ENDPOINT));
                world.flows.extend(entries);
            }
            "idle" => {
                entries.iter_mut().for_each(|(_, flow)| flow.seen = world::LONG_AGO);
                world.flows.extend(entries);
            }
            "translated" => {
                // The pod sees the client at another port.
                let seen = TRANSLATED_PORT;
                entries[0].1.client_port = seen;
                entries[1].0.client.set_port(seen);
                world.flows.extend(entries);
            }
            "kernel flow" => world.flows.extend([World::kernel_flow(client, vip, protocol)]),
            "kernel pending" => world.pending.extend([World::kernel_flow(client, vip, protocol)]),
            "client" => _ = world.affinity.insert(affinity_key, affinity),
            "old client" => {
                let affinity = Affinity { seen: world::LONG_AGO, ..affinity };
                world.affinity.insert(affinity_key, affinity);
            }
            "stale client" => {
                let affinity = Affinity { endpoint: GONE_ENDPOINT, ..affinity };
                world.affinity.insert(affinity_key, affinity);
            }
            "asked" => _ = world.elsewhere.insert(key, answer(Answer::Asked, FAR_AHEAD)),
            "asked in vain" => _ = world.elsewhere.insert(key, answer(Answer::Asked, -30)),
            "asked again" => _ = world.elsewhere.insert(key, answer(Answer::AskedAgain, FAR_AHEAD)),
            "asked again in vain" => {
                world.elsewhere.insert(key, answer(Answer::AskedAgain, -30));
            }
            "asked again long ago" => {
                world.elsewhere.insert(key, answer(Answer::AskedAgain, LONG_AGO));
            }
            "here" => _ = world.elsewhere.insert(key, answer(Answer::Node(0), FAR_AHEAD)),
            "asked long ago" => _ = world.elsewhere.insert(key, answer(Answer::Asked, LONG_AGO)),
            "nobody" => _ = world.elsewhere.insert(key, answer(Answer::Nobody, FAR_AHEAD)),
            "nobody before" => _ = world.elsewhere.insert(key, answer(Answer::Nobody, 5)),
            "nobody long ago" => _ = world.elsewhere.insert(key, answer(Answer::Nobody, LONG_AGO)),
            "at the sixth" => {
                world.elsewhere.insert(key, answer(Answer::Node(NODE_6), FAR_AHEAD));
            }
            "at the seventh" => {
                world.elsewhere.insert(key, answer(Answer::Node(NODE_7), FAR_AHEAD));
            }
            "at the third" => {
                world.elsewhere.insert(key, answer(Answer::Node(NODE_3), FAR_AHEAD));
            }
            "first fragment" => _ = world.fragmented.insert(fragment, noted),
            "first fragment long ago" => {
                world.fragmented.insert(fragment, Fragmented { seen: LONG_AGO, ..noted });
            }
            word => bail!("no such knowledge: {word}"),
        }
    }
    Ok(())
}

fn link(hop: &str) -> Result<Link> {
    let (from, to) = match hop {
        "first" => (world::ROUTER_MAC, world::MY_MAC),
        "second" => (world::NODE_2_MAC, world::MY_MAC),
        "other host" => (world::ROUTER_MAC, world::OTHER_MAC),
        "broadcast" => (world::NEIGHBOUR_MAC, BROADCAST),
        "ourselves" => (world::MY_MAC, BROADCAST),
        "tagged" => (world::ROUTER_MAC, world::MY_VLAN_MAC),
        "tagged second" => (world::NODE_5_MAC, world::MY_VLAN_MAC),
        "tagged other host" => (world::ROUTER_MAC, world::MY_MAC),
        "tagged broadcast" => (world::NEIGHBOUR_MAC, BROADCAST),
        "other tag" | "tagged twice" => (world::ROUTER_MAC, world::MY_MAC),
        "tagged multicast" => (world::ROUTER_MAC, world::MY_VLAN_MAC),
        _ if hop.starts_with("tunnel") => (world::ROUTER_MAC, world::MY_MAC),
        _ => bail!("no hop {hop}"),
    };
    Ok(Link { from, to })
}

/// Puts a frame into its tunnel and its tag, by the row's hop.
fn wrap(row: &Row, mut frame: Vec<u8>, outer: &[&str]) -> Result<Vec<u8>> {
    if let Some(words) = row.hop.strip_prefix("tunnel") {
        let mut words = words.split(' ').skip(1);
        let position: u8 = words.next().context("no position")?.parse()?;
        let (family, tagged) = match words.next() {
            None => (Family::V4, false),
            Some("over") => (Family::V6, false),
            Some("tagged") => (Family::V4, true),
            Some(word) => bail!("no such tunnel: {word}"),
        };
        let mut node = world::Node {
            address: world::node(family, 0),
            source: world::node(family, world::NODE_2),
            cookie: world::MY_COOKIE,
            mac: if tagged { world::MY_VLAN_MAC } else { world::MY_MAC },
            source_mac: world::ROUTER_MAC,
            ..world::Node::nowhere()
        };
        let mut protocol = if row.family == Family::V4 { 4 } else { 41 };
        if row.frame.starts_with("probe") || row.frame.starts_with("question") {
            protocol = 59;
        }
        match outer.first() {
            Some(&"outer old cookie") => node.cookie = world::MY_OLD_COOKIE,
            Some(&"outer wrong cookie") => node.cookie ^= 1 << 37,
            Some(&"outer no cookie") => node.cookie = 0,
            Some(&"outer protocol 59") => protocol = 59,
            Some(&"outer protocol 97") => protocol = 97,
            _ => {}
        }
        frame = model::wrap(&node, 6080, &frame[14..], protocol, position);
        for variant in outer {
            frame = vary_outer(frame, variant)?;
        }
        if tagged {
            frame = frames::tagged(&frame, world::VLAN);
        }
        return Ok(frame);
    }
    Ok(match row.hop.as_str() {
        hop if hop.starts_with("tagged ") && hop.ends_with("twice") => {
            frames::tagged(&frames::tagged(&frame, world::VLAN), 7)
        }
        hop if hop.starts_with("tagged") => frames::tagged(&frame, 0x6000 | world::VLAN),
        "other tag" => frames::tagged(&frame, 200),
        _ => frame,
    })
}

/// Frames about neighbours come from a neighbour.
fn neighbour_link(row: &Row, group: Mac) -> Result<Link> {
    if row.hop == "multicast" {
        return Ok(Link { from: world::NEIGHBOUR_MAC, to: group });
    }
    let link = link(&row.hop)?;
    let agent = row.hop.ends_with("second") || row.hop == "ourselves";
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
            "ARP reply for the second" => {
                let (target, sender_mac) = (Ipv4Addr::new(198, 51, 100, 1), world::NODE_2_MAC);
                Arp { reply: true, sender_mac, sender: about, target, ..request }
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
        "NA claiming" | "NA for the second" | "NA" => {
            let all: Ipv6Addr = "ff02::1".parse()?;
            link.to = frames::multicast_mac(all);
            let of = if kind == "NA claiming" { link.from } else { world::NODE_2_MAC };
            let options = match more {
                "out option" => vec![],
                _ => frames::target_link_layer_option(of),
            };
            let mut frame = frames::advertisement(link, target, all, target, &options);
            if variant == "hop limit 254" {
                frame[21] = 254;
            }
            return Ok(frame);
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

fn packet(
    kind: &str,
    link: Link,
    from: SocketAddr,
    to: SocketAddr,
    ingress: bool,
) -> Result<Vec<u8>> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN};
    let tcp = |flags| frames::tcp(link, from, to, 64, flags);
    Ok(match kind {
        "TCP SYN" => tcp(SYN),
        "TCP SYN-ACK" => tcp(SYN | ACK),
        "TCP ACK" => tcp(ACK | PSH),
        "TCP FIN" => tcp(FIN | ACK),
        "TCP RST" => tcp(RST),
        "TCP without flags" => tcp(0),
        "TCP of 1300" => frames::long(link, from, to, true, 1300),
        "TCP of 1440" => frames::long(link, from, to, true, 1440),
        "TCP jumbo" => frames::long(link, from, to, true, 8000),
        "UDP of 1440" => frames::long(link, from, to, false, 1440),
        "UDP of 100" => frames::long(link, from, to, false, 100),
        "UDP jumbo" => frames::long(link, from, to, false, 8000),
        "UDP" => frames::udp(link, from, to, 64),
        "UDP without checksum" => frames::udp_without_checksum(link, from, to, 64),
        "SCTP INIT" => frames::sctp(link, from, to, 64, true),
        "SCTP DATA" => frames::sctp(link, from, to, 64, false),
        "echo request" => frames::echo_request(link, from.ip(), to.ip(), 57),
        "echo reply" => frames::echo_reply(link, from.ip(), to.ip(), 57),
        "EtherType 88cc" => {
            let mut frame = tcp(SYN);
            frame[12..14].copy_from_slice(&[0x88, 0xcc]);
            frame
        }
        _ if kind.contains(" about ") => icmp_error(kind, link, from, to, ingress)?,
        _ => {
            let number = kind.strip_prefix("protocol ").context("no such frame")?;
            frames::other_protocol(link, from.ip(), to.ip(), 64, number.parse()?)
        }
    })
}

/// An ICMP error about what the receiver has sent. To a VIP it comes from a router; to a client
/// it comes from the pod, or with "by a router" from this node.
fn icmp_error(
    kind: &str,
    link: Link,
    from: SocketAddr,
    to: SocketAddr,
    ingress: bool,
) -> Result<Vec<u8>> {
    let (error, about) = kind.split_once(" about ").context("about what?")?;
    let (about, foreign) = match about.strip_suffix(" of another host") {
        Some(about) => (about, true),
        None => (about, false),
    };
    let (about, by_router) = match about.strip_suffix(" by a router") {
        Some(about) => (about, true),
        None => (about, ingress),
    };
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let v4 = to.is_ipv4();
    let source = if foreign { SocketAddr::new(world::foreign(family), to.port()) } else { to };
    let inside = frames::Link { from: link.to, to: link.from };
    let quoted = match about {
        "TCP" => frames::tcp(inside, source, from, 60, tcp_flags::ACK | tcp_flags::PSH),
        "UDP" => frames::udp(inside, source, from, 60),
        "UDP without checksum" => frames::udp_without_checksum(inside, source, from, 60),
        "SCTP" => frames::sctp(inside, source, from, 60, false),
        "ICMP" => frames::echo_request(inside, source.ip(), from.ip(), 60),
        "a short TCP" => {
            let mut frame = frames::tcp(inside, source, from, 60, tcp_flags::ACK);
            frame.truncate(14 + if v4 { 28 } else { 48 });
            frame
        }
        "a cut TCP" => {
            let mut frame = frames::tcp(inside, source, from, 60, tcp_flags::ACK);
            frame.truncate(14 + if v4 { 27 } else { 47 });
            frame
        }
        "TCP with options" if v4 => {
            frames::with_ipv4_options(&frames::tcp(inside, source, from, 60, tcp_flags::ACK), 1)
        }
        "TCP with options" => {
            frames::with_extension(&frames::tcp(inside, source, from, 60, tcp_flags::ACK), 60, 8)
        }
        "a later fragment" if v4 => {
            frames::as_fragment_v4(&frames::udp(inside, source, from, 60), 3, false)
        }
        _ => bail!("no error about {about}"),
    };
    let (kind, code) = match (error, v4) {
        ("unreachable", true) => (3, 3),
        ("unreachable", false) => (1, 4),
        ("too big", true) => (3, 4),
        ("too big", false) => (2, 0),
        ("time exceeded", true) => (11, 0),
        ("time exceeded", false) => (3, 0),
        ("parameter problem", true) => (12, 0),
        ("parameter problem", false) => (4, 1),
        ("source quench", true) => (4, 0),
        ("redirect", true) => (5, 1),
        _ => bail!("no error {error}"),
    };
    let rest = if error == "too big" { [0, 0, 5, 0x14] } else { [0; 4] };
    let sender = if by_router { world::router(family) } else { from.ip() };
    Ok(frames::icmp(link, sender, to.ip(), 57, [kind, code], rest, &quoted[14..]))
}
