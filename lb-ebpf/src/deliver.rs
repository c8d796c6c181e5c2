//! To an endpoint of this node: the destination becomes the pod's, and the kernel's
//! own stack (routes, CNI policy) takes the packet from there.
use crate::{
    flows::Target,
    frame::{Frame, Rewrite},
    icmp_error,
    maps::address_words,
    packet::{LATER, Packet},
    verdict::Verdict,
};
use lb_common::{outcome::Outcome, wire::Ports};

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
    // A later fragment has no ports, and the first one's checksum covers the new addresses.
    let proto = if packet.fragment == LATER { 0 } else { flow.proto };
    frame.rewrite::<V6>(&Rewrite {
        old: address_words(flow.peer),
        new: address_words(target.address),
        transport: packet.transport_at(),
        proto,
        old_ports: Ports {
            source: u16::from_ne_bytes(flow.client_port),
            destination: u16::from_ne_bytes(flow.peer_port),
        },
        new_ports: Ports {
            source: u16::from_ne_bytes(target.client_port),
            destination: u16::from_ne_bytes(target.port),
        },
    })?;
    Some(Outcome::Delivered)
}
