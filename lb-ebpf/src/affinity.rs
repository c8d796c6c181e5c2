//! `sessionAffinity: ClientIP`: which endpoint a client's connections go to.
use crate::{
    flows::{Target, is_present},
    maps::{AFFINITY, now_s},
    packet::Packet,
};
use lb_common::maps::{Affinity, AffinityKey, NO_ENDPOINT};

/// `BPF_ANY` (`linux/bpf.h`).
const ANY: u64 = 0;

#[inline(always)]
const fn key(packet: &Packet) -> AffinityKey {
    AffinityKey {
        client: packet.flow.client,
        vip: packet.flow.peer,
        port: packet.flow.peer_port,
        proto: packet.flow.proto,
        pad: [0; 5],
    }
}

/// Index of the client's endpoint, if it has one that still is there; else [`NO_ENDPOINT`].
#[inline(never)]
pub(crate) fn find(packet: &Packet, lifetime_s: u32) -> u32 {
    let Some(affinity) = AFFINITY.get_ptr(key(packet)) else { return NO_ENDPOINT };
    // SAFETY: entries of an LRU map may be reused while they are read; the worst that comes of
    // it is one connection to another endpoint.
    unsafe {
        let counts = now_s().saturating_sub((*affinity).seen_s) < lifetime_s
            && is_present((*affinity).endpoint, &(*affinity).address, (*affinity).port);
        if counts { (*affinity).endpoint } else { NO_ENDPOINT }
    }
}

/// The client has been heard.
#[inline(never)]
pub(crate) fn touch(packet: &Packet) -> u32 {
    if let Some(affinity) = AFFINITY.get_ptr_mut(key(packet)) {
        // SAFETY: as above.
        unsafe { (*affinity).seen_s = now_s() };
    }
    0
}

/// The client's connections go to this endpoint from now on.
#[inline(never)]
pub(crate) fn note(packet: &Packet, target: &Target) -> u32 {
    let affinity = Affinity {
        address: target.address,
        port: target.port,
        pad: [0; 2],
        endpoint: target.endpoint,
        seen_s: now_s(),
        pad2: 0,
    };
    let _ = AFFINITY.insert(key(packet), &affinity, ANY);
    0
}
