//! To an endpoint of this node: the destination becomes the pod's, and the kernel's
//! own stack (routes, CNI policy) takes the packet from there.
use crate::{
    flows::Target,
    frame::Frame,
    icmp_error,
    maps::address_words,
    packet::{LATER, Packet, at},
    verdict::Verdict,
};
use lb_common::{
    checksum::Difference,
    outcome::Outcome,
    wire::{Ipv4, Ipv6, Tcp, Udp, length::ETHERNET, protocol},
};

/// Delivers a packet to the endpoint of its flow.
#[inline(always)]
pub(crate) fn deliver<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    target: &Target,
) -> Verdict {
    if packet.is_error {
        return icmp_error::deliver::<F, V6>(frame, packet, target);
    }
    rewrite::<F, V6>(frame, packet, target).unwrap_or(Outcome::DropMalformed).into()
}

#[inline(always)]
fn rewrite<F: Frame, const V6: bool>(
    frame: &F,
    packet: &Packet,
    target: &Target,
) -> Option<Outcome> {
    let flow = &packet.flow;
    let new_source = u16::from_ne_bytes(target.client_port);
    let new_destination = u16::from_ne_bytes(target.port);
    let address = address_words(target.address);
    let old = address_words(flow.peer);
    let mut change = Difference::new()
        .word(u16::from_ne_bytes(flow.client_port), new_source)
        .word(u16::from_ne_bytes(flow.peer_port), new_destination);
    if V6 {
        let ip = at::<_, Ipv6>(frame, ETHERNET)?;
        change = change.address(old, address);
        // SAFETY: `at` has checked the bounds.
        unsafe { (*ip).destination = address };
    } else {
        let ip = at::<_, Ipv4>(frame, ETHERNET)?;
        change = change.words(old[3], address[3]);
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*ip).check = Difference::new().words(old[3], address[3]).apply((*ip).check);
            (*ip).destination = address[3];
        }
    }
    if packet.fragment == LATER {
        // The first one's checksum covers the new addresses.
        return Some(Outcome::Delivered);
    }
    match flow.proto {
        protocol::TCP => {
            let tcp = at::<_, Tcp>(frame, packet.transport_at())?;
            // SAFETY: `at` has checked the bounds.
            unsafe {
                (*tcp).source = new_source;
                (*tcp).destination = new_destination;
                (*tcp).check = change.apply((*tcp).check);
            }
        }
        protocol::UDP => {
            let udp = at::<_, Udp>(frame, packet.transport_at())?;
            // SAFETY: `at` has checked the bounds.
            unsafe {
                (*udp).source = new_source;
                (*udp).destination = new_destination;
                (*udp).check = change.apply_udp((*udp).check);
            }
        }
        // SCTP's ports are never changed, and its checksum covers no address.
        _ => {}
    }
    Some(Outcome::Delivered)
}
