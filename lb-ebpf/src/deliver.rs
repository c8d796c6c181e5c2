//! To an endpoint of this node: the destination becomes the pod's, and the kernel's
//! own stack (routes, CNI policy) takes the packet from there.
use crate::{
    flows::{self, Target},
    maps::address_words,
    packet::{at, transport_at},
};
use aya_ebpf::programs::XdpContext;
use lb_common::{
    checksum::Difference,
    maps::{FlowKey, SERVICE_KERNEL, Service},
    outcome::Outcome,
    wire::{Ipv4, Ipv6, Tcp, Udp, length::ETHERNET, protocol},
};

/// Delivers a packet of the flow `key` to the flow's endpoint, or of its row if it has none yet.
#[inline(always)]
pub(crate) fn deliver<const V6: bool>(
    ctx: &XdpContext,
    key: &FlowKey,
    flags: u8,
    service: &Service,
    endpoint: u32,
) -> Outcome {
    if service.flags & SERVICE_KERNEL != 0 {
        return Outcome::DeliveredKernel;
    }
    let mut target = Target { address: [0; 16], port: [0; 2], client_port: [0; 2] };
    match flows::find_or_create(key, flags, endpoint, &mut target) {
        0 => rewrite::<V6>(ctx, key, &target).unwrap_or(Outcome::DropMalformed),
        code if code == 1 + Outcome::DropNoEndpoint as u32 => Outcome::DropNoEndpoint,
        _ => Outcome::DropFlowTable,
    }
}

#[inline(always)]
fn rewrite<const V6: bool>(ctx: &XdpContext, key: &FlowKey, target: &Target) -> Option<Outcome> {
    let new_source = u16::from_ne_bytes(target.client_port);
    let new_destination = u16::from_ne_bytes(target.port);
    let address = address_words(target.address);
    let old = address_words(key.peer);
    let mut change = Difference::new()
        .word(u16::from_ne_bytes(key.client_port), new_source)
        .word(u16::from_ne_bytes(key.peer_port), new_destination);
    if V6 {
        let ip = at::<Ipv6>(ctx, ETHERNET)?;
        change = change.address(old, address);
        // SAFETY: `at` has checked the bounds.
        unsafe { (*ip).destination = address };
    } else {
        let ip = at::<Ipv4>(ctx, ETHERNET)?;
        change = change.words(old[3], address[3]);
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*ip).check = Difference::new().words(old[3], address[3]).apply((*ip).check);
            (*ip).destination = address[3];
        }
    }
    if key.proto == protocol::TCP {
        let tcp = at::<Tcp>(ctx, transport_at(V6))?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*tcp).source = new_source;
            (*tcp).destination = new_destination;
            (*tcp).check = change.apply((*tcp).check);
        }
    } else {
        let udp = at::<Udp>(ctx, transport_at(V6))?;
        // SAFETY: `at` has checked the bounds.
        unsafe {
            (*udp).source = new_source;
            (*udp).destination = new_destination;
            (*udp).check = change.apply_udp((*udp).check);
        }
    }
    Some(Outcome::Delivered)
}
