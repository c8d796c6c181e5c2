//! Tunnels between nodes: Generic UDP Encapsulation, see [`lb_common::tunnel`].
use crate::{
    events,
    frame::Frame,
    liveness,
    maps::{SETTINGS, address_words, is_vip, mac_words, mapped},
    packet::{at, is_for_us, linear_length},
};
use lb_common::{
    checksum::{Difference, fold},
    maps::{Node, VipKey},
    outcome::Outcome,
    tunnel::{END, GUE_VERSION_LENGTH, Gue, PROBE, QUESTION, cookie_words, overhead, source_port},
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV4_DONT_FRAGMENT, IPV4_FRAGMENT_MASK, Ipv4,
        Ipv6, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// [`receive`]: not to a tunnel, though to its port.
pub(crate) const NOT_A_TUNNEL: u32 = 1 << 30;
/// [`receive`]: the inner packet goes on; the position stands in the lowest bits.
pub(crate) const INNER_V4: u32 = 1 << 29;
/// [`receive`]: the same, and it is IPv6.
pub(crate) const INNER_V6: u32 = 1 << 28;

const CE: u8 = 3;
const ECN: u8 = 3;
const TTL: u8 = 64;
const UDP: usize = size_of::<Udp>();
const GUE: usize = size_of::<Gue>();

/// Whether a UDP datagram whose header is at an offset goes to the port of the tunnels.
#[inline(always)]
pub(crate) fn is_port<F: Frame>(frame: &F, offset: usize) -> bool {
    let Some(udp) = at::<_, Udp>(frame, offset) else { return false };
    // SAFETY: `at` has checked the bounds.
    let port = unsafe { (*udp).destination };
    SETTINGS
        .get(0)
        .is_some_and(|settings| port != 0 && u16::from_ne_bytes(settings.tunnel_port) == port)
}

/// Takes the outer headers off a packet to the port of the tunnels.
///
/// Returns [`NOT_A_TUNNEL`] for one to a VIP, [`INNER_V4`] or [`INNER_V6`] with the position,
/// or the outcome.
#[inline(never)]
pub(crate) fn receive<F: Frame, const V6: bool>(frame: &F, vlan: u16) -> u32 {
    let Some((gue, tos, to_vip)) = outer::<F, V6>(frame) else {
        return Outcome::DropTunnel as u32;
    };
    if to_vip {
        return NOT_A_TUNNEL;
    }
    let Some(gue) = gue else { return Outcome::DropTunnel as u32 };
    if !is_for_us(frame, vlan) {
        return Outcome::DropTunnel as u32;
    }
    if gue.position == QUESTION {
        return match liveness::answer::<F, V6>(frame, &gue) {
            Some(()) => Outcome::LivenessAnswered as u32,
            None => Outcome::DropTunnel as u32,
        };
    }
    if !is_ours(&gue) {
        return Outcome::DropTunnel as u32;
    }
    if gue.position == PROBE && gue.protocol == protocol::NO_NEXT_HEADER {
        return probe::<F, V6>(frame, vlan) as u32;
    }
    if gue.position > END
        || gue.protocol != protocol::IPV4 && gue.protocol != protocol::IPV6
        || !frame.decapsulate(overhead(V6), gue.protocol == protocol::IPV6)
    {
        return Outcome::DropTunnel as u32;
    }
    let Some(ethernet) = at::<_, Ethernet>(frame, 0) else { return Outcome::DropTunnel as u32 };
    let congested = tos & ECN == CE;
    let position = u32::from(gue.position);
    // SAFETY: `at` has checked the bounds.
    unsafe {
        if gue.protocol == protocol::IPV4 {
            (*ethernet).ethertype = ETHERTYPE_IPV4;
            if congested && let Some(ip) = at::<_, Ipv4>(frame, ETHERNET) {
                mark_v4(ip);
            }
            INNER_V4 | position
        } else {
            (*ethernet).ethertype = ETHERTYPE_IPV6;
            if congested && let Some(ip) = at::<_, Ipv6>(frame, ETHERNET) {
                frame.was_changed(mark_v6(ip));
            }
            INNER_V6 | position
        }
    }
}

/// The header behind UDP, if all before it is sound; the outer DSCP and ECN; whether the
/// packet is to a VIP.
#[inline(always)]
fn outer<F: Frame, const V6: bool>(frame: &F) -> Option<(Option<Gue>, u8, bool)> {
    let length = linear_length(frame);
    let (sound, tos, payload, vip, transport) = if V6 {
        let ip = at::<_, Ipv6>(frame, ETHERNET)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            let payload = usize::from(u16::from_be((*ip).payload_length));
            let first = (*ip).version_class_label.to_be();
            let vip = crate::maps::address_bytes((*ip).destination);
            (first >> 28 == 6, (first >> 20) as u8, payload, vip, ETHERNET + IPV6)
        }
    } else {
        let ip = at::<_, Ipv4>(frame, ETHERNET)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            let total = usize::from(u16::from_be((*ip).total_length));
            let sound = (*ip).version_ihl == 0x45
                && (*ip).fragment & IPV4_FRAGMENT_MASK == 0
                && total >= IPV4;
            (sound, (*ip).tos, total.wrapping_sub(IPV4), mapped((*ip).destination), ETHERNET + IPV4)
        }
    };
    if is_vip(vip) {
        return Some((None, 0, true));
    }
    // What is longer than its linear part lies there with all its headers.
    if !sound
        || payload < UDP + GUE
        || transport + payload > length && transport + payload > frame.whole_length()
    {
        return None;
    }
    let udp = at::<_, Udp>(frame, transport)?;
    let gue = at::<_, Gue>(frame, transport + UDP)?;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        if usize::from(u16::from_be((*udp).length)) != payload {
            return None;
        }
        Some((Some(*gue), tos, false))
    }
}

/// Whether the header is one that this node asked for.
#[inline(always)]
fn is_ours(gue: &Gue) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    let matches = |cookie: u64| {
        let words = cookie_words(cookie);
        cookie != 0 && words[0] == gue.cookie[0] && words[1] == gue.cookie[1]
    };
    gue.version_length == GUE_VERSION_LENGTH
        && gue.flags == 0
        && (matches(settings.cookies[0]) || matches(settings.cookies[1]))
}

#[inline(always)]
fn probe<F: Frame, const V6: bool>(frame: &F, vlan: u16) -> Outcome {
    let offset = ETHERNET + overhead(V6);
    let Some(address) = at::<_, [u32; 4]>(frame, offset) else { return Outcome::DropTunnel };
    // SAFETY: `at` has checked the bounds.
    let agent = VipKey { vip: crate::maps::address_bytes(unsafe { *address }) };
    events::probe(frame, &agent, vlan);
    Outcome::ProbeReceived
}

/// Congestion on the way between the nodes shows in the inner packet (RFC 6040 section 4.2).
///
/// # Safety
/// The pointer is good.
#[inline(always)]
unsafe fn mark_v4(ip: *mut Ipv4) {
    // SAFETY: as the caller promises.
    unsafe {
        let tos = (*ip).tos;
        if tos & ECN != 0 {
            let old = u16::from_ne_bytes([(*ip).version_ihl, tos]);
            let new = u16::from_ne_bytes([(*ip).version_ihl, tos | CE]);
            (*ip).check = Difference::new().word(old, new).apply((*ip).check);
            (*ip).tos = tos | CE;
        }
    }
}

/// The same, without a checksum to make up for it.
///
/// # Safety
/// The pointer is good.
#[inline(always)]
unsafe fn mark_v6(ip: *mut Ipv6) -> Difference {
    // SAFETY: as the caller promises.
    unsafe {
        let old = (*ip).version_class_label;
        let mut new = old;
        if old.to_be() >> 20 & u32::from(ECN) != 0 {
            new = (old.to_be() | u32::from(CE) << 20).to_be();
        }
        (*ip).version_class_label = new;
        Difference::new().words(old, new)
    }
}

/// Whether the outer addresses of a way to a node are IPv6.
#[inline(always)]
pub(crate) fn is_over_v6(node: &Node) -> bool {
    let address = address_words(node.address);
    address[0] != 0 || address[1] != 0 || address[2] != 0xffff_u32.to_be()
}

/// The largest packet that the tunnel to a node takes.
#[inline(always)]
pub(crate) fn room(node: &Node) -> u32 {
    u32::from(node.mtu).saturating_sub(overhead(is_over_v6(node)) as u32)
}

/// Puts a packet of `length` bytes into a tunnel to a node. Returns 0 if there is no space for the headers.
///
/// DSCP and ECN are copied (RFC 6040 section 4.1). The checksum of UDP is 0, over IPv6 too
/// (RFC 6935): the inner packet has its own.
#[inline(never)]
pub(crate) fn send<F: Frame, const V6: bool>(
    frame: &F,
    hash: u32,
    length: u32,
    node: &Node,
    position: u32,
) -> u32 {
    let tos = if V6 {
        at::<_, Ipv6>(frame, ETHERNET)
            // SAFETY: `at` has checked the bounds.
            .map(|ip| unsafe { ((*ip).version_class_label.to_be() >> 20) as u8 })
    } else {
        // SAFETY: `at` has checked the bounds.
        at::<_, Ipv4>(frame, ETHERNET).map(|ip| unsafe { (*ip).tos })
    };
    let Some(tos) = tos else { return 0 };
    let inner_protocol = lb_common::tunnel::inner_protocol(V6);
    let length = length as u16;
    let done = if is_over_v6(node) {
        over_v6(frame, hash, node, length, tos, inner_protocol, position as u8)
    } else {
        over_v4(frame, hash, node, length, tos, inner_protocol, position as u8)
    };
    u32::from(done.is_some())
}

#[inline(always)]
fn over_v4<F: Frame>(
    frame: &F,
    hash: u32,
    node: &Node,
    length: u16,
    tos: u8,
    inner: u8,
    position: u8,
) -> Option<()> {
    let port = SETTINGS.get(0)?.tunnel_port;
    if !frame.encapsulate(overhead(false), false) {
        return None;
    }
    // The bounds are checked once, for all that is written.
    let start = at::<_, [u8; ETHERNET + overhead(false)]>(frame, 0)?.cast::<u8>();
    let total = length.wrapping_add(overhead(false) as u16).to_be();
    let source = address_words(node.source)[3];
    let destination = address_words(node.address)[3];
    let sum = u64::from(u16::from_ne_bytes([0x45, tos]))
        + u64::from(total)
        + u64::from(IPV4_DONT_FRAGMENT)
        + u64::from(u16::from_ne_bytes([TTL, protocol::UDP]))
        + u64::from(source)
        + u64::from(destination);
    // SAFETY: the bounds are checked above.
    unsafe {
        let ip = start.add(ETHERNET).cast::<Ipv4>();
        (*ip).version_ihl = 0x45;
        (*ip).tos = tos;
        (*ip).total_length = total;
        // One that may not be fragmented needs none (RFC 6864 section 4.1).
        (*ip).id = 0;
        (*ip).fragment = IPV4_DONT_FRAGMENT;
        (*ip).ttl = TTL;
        (*ip).protocol = protocol::UDP;
        (*ip).check = !fold(sum);
        (*ip).source = source;
        (*ip).destination = destination;
        write_link(start, node, ETHERTYPE_IPV4);
        write_transport(start.add(ETHERNET + IPV4), hash, node, port, length, inner, position);
    }
    Some(())
}

#[inline(always)]
fn over_v6<F: Frame>(
    frame: &F,
    hash: u32,
    node: &Node,
    length: u16,
    tos: u8,
    inner: u8,
    position: u8,
) -> Option<()> {
    let port = SETTINGS.get(0)?.tunnel_port;
    if !frame.encapsulate(overhead(true), true) {
        return None;
    }
    let start = at::<_, [u8; ETHERNET + overhead(true)]>(frame, 0)?.cast::<u8>();
    // The flow label spreads over paths (RFC 6438).
    let first = 6 << 28 | u32::from(tos) << 20 | hash & 0xf_ffff;
    // SAFETY: the bounds are checked above.
    unsafe {
        let ip = start.add(ETHERNET).cast::<Ipv6>();
        (*ip).version_class_label = first.to_be();
        (*ip).payload_length = length.wrapping_add((UDP + GUE) as u16).to_be();
        (*ip).next_header = protocol::UDP;
        (*ip).hop_limit = TTL;
        (*ip).source = address_words(node.source);
        (*ip).destination = address_words(node.address);
        write_link(start, node, ETHERTYPE_IPV6);
        write_transport(start.add(ETHERNET + IPV6), hash, node, port, length, inner, position);
    }
    Some(())
}

/// Writes the link-layer header.
///
/// # Safety
/// `start` has room for it.
#[inline(always)]
unsafe fn write_link(start: *mut u8, node: &Node, ethertype: u16) {
    let ethernet = start.cast::<Ethernet>();
    // SAFETY: as the caller promises.
    unsafe {
        (*ethernet).destination = mac_words(node.mac);
        (*ethernet).source = mac_words(node.source_mac);
        (*ethernet).ethertype = ethertype;
    }
}

/// Writes what stands between the outer IP header and the inner packet.
///
/// # Safety
/// `start` has room for it.
#[inline(always)]
unsafe fn write_transport(
    start: *mut u8,
    hash: u32,
    node: &Node,
    port: [u8; 2],
    length: u16,
    inner: u8,
    position: u8,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let (udp, gue) = (start.cast::<Udp>(), start.add(UDP).cast::<Gue>());
        (*udp).source = source_port(hash).to_be();
        (*udp).destination = u16::from_ne_bytes(port);
        (*udp).length = length.wrapping_add((UDP + GUE) as u16).to_be();
        (*udp).check = 0;
        (*gue).version_length = GUE_VERSION_LENGTH;
        (*gue).protocol = inner;
        (*gue).flags = 0;
        (*gue).position = position;
        (*gue).reserved = [0; 3];
        (*gue).cookie = cookie_words(node.cookie);
    }
}
