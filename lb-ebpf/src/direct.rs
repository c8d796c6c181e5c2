//! The direct way, for what most frames at a first hop are: a packet that nothing is special
//! about, and that goes to another node.
//!
//! It is read where it stands, without a [`Packet`](crate::packet::Packet), and changed only once
//! nothing can stand in the way any more. Everything else goes the way of [`ip`](crate::ip) and
//! [`steer`](crate::steer), which are told its Service. For a driver's buffers only: of the
//! kernel's there is more to know.
use crate::{
    frame::Frame,
    maps::{NODES, ROWS, SERVICES, address_bytes, mac_words, mapped, may_be_agent},
    packet::{is_for_us, linear_length},
    steer, tunnel,
    verdict::Verdict,
};
use lb_common::{
    checksum::Difference,
    hash::{addresses_v4, addresses_v6, row_index},
    maps::{
        NO_NODE, NODE_LINK, NODE_TUNNEL, SERVICE_HERE, SERVICE_RANGES, SERVICE_TAKEN_OVER, Service,
        THIS_NODE,
    },
    outcome::Outcome,
    wire::{
        Ethernet, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, Ports, Tcp, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

/// Of a Service's flags: each packet needs more than its row.
const NOT_PLAIN: u32 = SERVICE_HERE | SERVICE_RANGES | SERVICE_TAKEN_OVER;

/// What is read of a packet.
struct Plain {
    /// Bytes of the IP packet.
    length: u32,
    vip: [u8; 16],
    /// What the addresses bring to the hash.
    addresses: u64,
    ports: Ports,
    proto: u8,
}

/// Sends the packet on, if nothing is special about it; else leaves it as it is, and its
/// Service in `service`.
///
/// Not inlined, so that what it keeps on the stack is gone for what comes after it.
#[inline(never)]
pub(crate) fn forward<F: Frame, const V6: bool>(
    frame: &F,
    service: &mut Option<&Service>,
) -> Verdict {
    // The bounds are checked once, for all that is read and written here.
    let start = frame.data();
    if start + ETHERNET + if V6 { IPV6 } else { IPV4 } + size_of::<Tcp>() > frame.data_end() {
        return Verdict::NONE;
    }
    let whole = linear_length(frame) as u32;
    // SAFETY: the bounds are checked above, and nothing moves the frame here.
    let Some(plain) = (unsafe { read::<V6>(start, whole) }) else { return Verdict::NONE };
    let key = steer::service_key(plain.vip, plain.ports.destination, plain.proto);
    // SAFETY: the agent replaces an entry's value as a whole; one that is freed meanwhile
    // costs one packet.
    let Some(found) = (unsafe { SERVICES.get(key) }) else { return Verdict::NONE };
    *service = Some(found);
    let flags = found.flags;
    if flags & NOT_PLAIN != 0 || found.rows == 0 || !is_for_us(frame, 0) {
        return Verdict::NONE;
    }
    let ports = u32::from(plain.ports.source) | u32::from(plain.ports.destination) << 16;
    let hash = steer::hash(plain.addresses, ports, plain.proto, flags);
    let index = row_index(hash, found.rows, found.mask);
    let Some(row) = ROWS.get(found.rows_start.wrapping_add(index)) else { return Verdict::NONE };
    let first = row.nodes[0];
    if first == THIS_NODE || first == NO_NODE {
        return Verdict::NONE;
    }
    let Some(node) = NODES.get(u32::from(first)) else { return Verdict::NONE };
    let ifindex = node.ifindex;
    if ifindex == 0 || node.vlan != 0 {
        return Verdict::NONE;
    }
    let ethernet = start as *mut Ethernet;
    let by_link = node.flags & NODE_LINK != 0;
    // SAFETY: as above.
    unsafe {
        let can = if by_link {
            !may_be_agent((*ethernet).source)
        } else {
            node.flags & NODE_TUNNEL != 0 && plain.length <= tunnel::room(node)
        };
        if !can || !lower_ttl::<V6>(start) {
            return Verdict::NONE;
        }
        if by_link {
            (*ethernet).destination = mac_words(node.mac);
            (*ethernet).source = mac_words(node.source_mac);
        }
    }
    if !by_link && tunnel::send::<F, V6>(frame, hash, plain.length, node, 0) == 0 {
        return Outcome::DropNoNextHop.into();
    }
    let here = ifindex == frame.ifindex();
    if !here {
        frame.redirect(ifindex);
    }
    let verdict = match (by_link, here) {
        (true, true) => Outcome::Forwarded,
        (true, false) => Outcome::Redirected,
        (false, true) => Outcome::Tunnelled,
        (false, false) => Outcome::TunnelledRedirected,
    };
    steer::tally(found.stats, whole, verdict.into());
    verdict.into()
}

/// Reads the packet at `start`; nothing if it is not a plain one, all of it in the `linear`
/// bytes of the frame.
///
/// # Safety
/// There are as many bytes as the headers of TCP without options end at.
#[inline(always)]
unsafe fn read<const V6: bool>(start: usize, linear: u32) -> Option<Plain> {
    // SAFETY: as the caller promises.
    unsafe {
        let (vip, addresses, proto, length) = if V6 {
            let ip = (start + ETHERNET) as *const Ipv6;
            if (*ip).version_class_label.to_be() >> 28 != 6 {
                return None;
            }
            let length = u32::from(u16::from_be((*ip).payload_length)) + IPV6 as u32;
            let (source, destination) = ((*ip).source, (*ip).destination);
            let addresses = addresses_v6(source, destination);
            let vip = address_bytes(destination);
            (vip, addresses, (*ip).next_header, length)
        } else {
            let ip = (start + ETHERNET) as *const Ipv4;
            let length = u32::from(u16::from_be((*ip).total_length));
            if (*ip).version_ihl != 0x45
                || (*ip).fragment & IPV4_FRAGMENT_MASK != 0
                || length < IPV4 as u32
            {
                return None;
            }
            let (source, destination) = ((*ip).source, (*ip).destination);
            let addresses = addresses_v4(source, destination);
            (mapped(destination), addresses, (*ip).protocol, length)
        };
        let header = if V6 { IPV6 } else { IPV4 };
        let (transport, payload) = (ETHERNET + header, length - header as u32);
        if ETHERNET as u32 + length > linear {
            return None;
        }
        let (own, least) = match proto {
            protocol::TCP => {
                let tcp = (start + transport) as *const Tcp;
                (u32::from((*tcp).data_offset >> 4) * 4, size_of::<Tcp>() as u32)
            }
            protocol::UDP => {
                let udp = (start + transport) as *const Udp;
                (u32::from(u16::from_be((*udp).length)), size_of::<Udp>() as u32)
            }
            _ => return None,
        };
        if own < least || own > payload {
            return None;
        }
        let ports = (start + transport) as *const Ports;
        let ports = Ports { source: (*ports).source, destination: (*ports).destination };
        Some(Plain { length, vip, addresses, ports, proto })
    }
}

/// Lowers TTL or hop limit of the packet at `start` by one, if it is not used up. Returns whether
/// it was not.
///
/// # Safety
/// The IP header is there.
#[inline(always)]
unsafe fn lower_ttl<const V6: bool>(start: usize) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        if V6 {
            let ip = (start + ETHERNET) as *mut Ipv6;
            let ttl = (*ip).hop_limit;
            if ttl <= 1 {
                return false;
            }
            (*ip).hop_limit = ttl - 1;
        } else {
            let ip = (start + ETHERNET) as *mut Ipv4;
            let ttl = (*ip).ttl;
            if ttl <= 1 {
                return false;
            }
            let old = u16::from_ne_bytes([ttl, (*ip).protocol]);
            let new = u16::from_ne_bytes([ttl - 1, (*ip).protocol]);
            (*ip).check = Difference::new().word(old, new).apply((*ip).check);
            (*ip).ttl = ttl - 1;
        }
    }
    true
}
