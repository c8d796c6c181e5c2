//! `loadBalancerSourceRanges`: which clients a Service serves.
use crate::{
    maps::{SOURCE_RANGES, address_words},
    packet::Packet,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use lb_common::maps::RangeKey;

/// Bits of a whole [`RangeKey`].
const BITS: u32 = 8 * size_of::<RangeKey>() as u32;

/// Whether the client is in one of the prefixes of a set: 0 or 1.
#[inline(never)]
pub(crate) fn serves(packet: &Packet, ranges: u32) -> u32 {
    let client = address_words(packet.flow.client);
    // In words, because the map's own type of key is packed and would be written byte by byte.
    let key: [u32; 6] = [BITS, ranges.to_be(), client[0], client[1], client[2], client[3]];
    const { assert!(size_of::<Key<RangeKey>>() == size_of::<[u32; 6]>()) };
    // SAFETY: same size, and every byte pattern is valid for the key.
    let key = unsafe { &*key.as_ptr().cast::<Key<RangeKey>>() };
    u32::from(SOURCE_RANGES.get(key).is_some())
}
