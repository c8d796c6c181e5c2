//! ICMP errors about a VIP's flow (docs/data-path.md, section 6).
//!
//! Checksums are kept in step by arithmetic even in the kernel's buffers: the changes of a
//! message cancel in the sum over it, so that what the card has summed stays true.
use crate::{
    flows::Target,
    frame::Frame,
    maps::{address_bytes, address_words, mapped, port_bytes},
    packet::{Packet, WHOLE, at},
    verdict::Verdict,
};
use core::mem::offset_of;
use lb_common::{
    checksum::Difference,
    maps::{FlowKey, TO_ENDPOINT},
    outcome::Outcome,
    wire::{
        IPV4_OFFSET_MASK, Icmp, IcmpError, Ipv4, Ipv6, Ports, Tcp, Udp,
        length::{ETHERNET, IPV4, IPV6},
        protocol,
    },
};

const ERROR: usize = size_of::<IcmpError>();
/// The least that is quoted of a transport header (RFC 792): the ports, and UDP's checksum.
const LEAST: usize = 8;
/// How far a transport header must be quoted for TCP's checksum to be among it.
const TCP_CHECK_END: usize = offset_of!(Tcp, check) + size_of::<u16>();

/// Length of the quoted IP header, which has no options.
#[inline(always)]
const fn header(v6: bool) -> usize {
    if v6 { IPV6 } else { IPV4 }
}

/// Reads the packet that an ICMP error to a VIP quotes. `packet` is the error: its protocol is
/// ICMP or ICMPv6, its ports are 0.
///
/// With [`Verdict::NONE`], `packet.flow` has become the flow that the error is about and
/// `packet.is_error` is set: it is steered from here like a packet of that flow.
#[inline(never)]
pub(crate) fn read<F: Frame, const V6: bool>(frame: &F, packet: &mut Packet) -> Verdict {
    match about::<F, V6>(frame, packet) {
        Some(flow) => {
            packet.flow = flow;
            packet.is_error = true;
            Verdict::NONE
        }
        None => Outcome::DropIcmp.into(),
    }
}

/// The flow that the quoted packet, which the VIP sent, belongs to.
#[inline(always)]
fn about<F: Frame, const V6: bool>(frame: &F, packet: &Packet) -> Option<FlowKey> {
    let message = packet.transport_at();
    let quoted = message + ERROR;
    let icmp = at::<F, Icmp>(frame, message)?;
    // SAFETY: `at` has checked the bounds.
    let kind = unsafe { (*icmp).kind };
    let is_error = if V6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 11 | 12) };
    if !is_error
        || packet.fragment != WHOLE
        || (packet.payload as usize) < ERROR + header(V6) + LEAST
    {
        return None;
    }
    let (proto, source, client) = if V6 {
        let ip = at::<F, Ipv6>(frame, quoted)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            if (*ip).version_class_label.to_be() >> 28 != 6 {
                return None;
            }
            let (source, destination) = ((*ip).source, (*ip).destination);
            ((*ip).next_header, address_bytes(source), address_bytes(destination))
        }
    } else {
        let ip = at::<F, Ipv4>(frame, quoted)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            if (*ip).version_ihl != 0x45 || (*ip).fragment & IPV4_OFFSET_MASK != 0 {
                return None;
            }
            ((*ip).protocol, mapped((*ip).source), mapped((*ip).destination))
        }
    };
    let is_transport = matches!(proto, protocol::TCP | protocol::UDP | protocol::SCTP);
    if !is_transport || u128::from_ne_bytes(source) != u128::from_ne_bytes(packet.flow.peer) {
        return None;
    }
    let ports = at::<F, [u16; LEAST / 2]>(frame, quoted + header(V6))?;
    // SAFETY: `at` has checked the bounds.
    let [port, client_port, ..] = unsafe { *ports };
    Some(FlowKey {
        client,
        peer: packet.flow.peer,
        client_port: port_bytes(client_port),
        peer_port: port_bytes(port),
        proto,
        direction: TO_ENDPOINT,
        pad: [0; 2],
    })
}

/// Rewrites an ICMP error, that `read` has read, to be about the flow as its endpoint knows it.
#[inline(never)]
pub(crate) fn deliver<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    target: &Target,
) -> Verdict {
    match translate::<F, V6>(frame, packet, target) {
        Some(()) => Outcome::DeliveredIcmp.into(),
        None => Outcome::DropIcmp.into(),
    }
}

#[inline(always)]
fn translate<F: Frame, const V6: bool>(frame: &F, packet: &Packet, target: &Target) -> Option<()> {
    let message = packet.transport_at();
    let quoted = message + ERROR;
    let vip = address_words(packet.flow.peer);
    let endpoint = address_words(target.address);
    let address = if V6 {
        Difference::new().address(vip, endpoint)
    } else {
        Difference::new().words(vip[3], endpoint[3])
    };
    // The transport header first: if its checksum is quoted, it covers the addresses, too.
    let mut change = transport::<F, V6>(frame, packet, target, address)?.and(address);
    if V6 {
        let ip = at::<F, Ipv6>(frame, quoted)?;
        let outer = at::<F, Ipv6>(frame, ETHERNET)?;
        // ICMPv6's checksum covers the outer addresses, too (RFC 4443 section 2.3).
        change = change.and(address);
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*ip).source = endpoint;
            (*outer).destination = endpoint;
        }
    } else {
        let ip = at::<F, Ipv4>(frame, quoted)?;
        let outer = at::<F, Ipv4>(frame, ETHERNET)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            let old = (*ip).check;
            let new = address.apply(old);
            change = change.word(old, new);
            (*ip).check = new;
            (*ip).source = endpoint[3];
            (*outer).check = address.apply((*outer).check);
            (*outer).destination = endpoint[3];
        }
    }
    let icmp = at::<F, Icmp>(frame, message)?;
    // SAFETY: `at` has checked the bounds.
    unsafe { (*icmp).check = change.apply((*icmp).check) };
    Some(())
}

/// Rewrites the quoted ports and, where it is quoted, the checksum, in which `address` changes
/// as well. Returns what that changes in the sum over the message.
#[inline(always)]
fn transport<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    target: &Target,
    address: Difference,
) -> Option<Difference> {
    let proto = packet.flow.proto;
    let quoted = packet.transport_at() + ERROR + header(V6);
    let new = Ports {
        source: u16::from_ne_bytes(target.port),
        destination: u16::from_ne_bytes(target.client_port),
    };
    let ports = at::<F, Ports>(frame, quoted)?;
    // SAFETY: `at` has checked the bounds.
    let old = unsafe { *ports };
    let written =
        Difference::new().word(old.source, new.source).word(old.destination, new.destination);
    // SAFETY: `at` has checked the bounds.
    unsafe { *ports = new };
    let change = address.and(written);
    if proto == protocol::UDP {
        let udp = at::<F, Udp>(frame, quoted)?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            let old = (*udp).check;
            let new = change.apply_udp(old);
            (*udp).check = new;
            return Some(written.word(old, new));
        }
    }
    let is_quoted = packet.payload as usize >= ERROR + header(V6) + TCP_CHECK_END;
    if proto == protocol::TCP
        && is_quoted
        && let Some(check) = at::<F, u16>(frame, quoted + offset_of!(Tcp, check))
    {
        // SAFETY: `at` has checked the bounds.
        unsafe {
            let old = *check;
            let new = change.apply(old);
            *check = new;
            return Some(written.word(old, new));
        }
    }
    Some(written)
}
