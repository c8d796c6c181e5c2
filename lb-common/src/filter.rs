//! Two bitmaps of 65,536 bits that answer "certainly not ours" with one memory access.
//!
//! `INGRESS_FILTER` has a bit for each VIP: a frame to any other address leaves the
//! ingress program after it, but for the few whose bit collides with one that is set
//! (0.2 % of all addresses with 100 VIPs). It also has a bit for each link-layer address
//! of another agent's node, so that a client's frame is known to be none of theirs.
//! `EGRESS_FILTER` has a bit for each endpoint of the node (address, port and protocol),
//! for the egress program. A collision costs a hash lookup and nothing else.

/// 64-bit words in a filter: 8 KiB, which stays in the first-level cache.
pub const WORDS: u32 = 1024;

const K: u32 = 0x9e37_79b1;

#[inline(always)]
const fn bit(folded: u32) -> u32 {
    folded.wrapping_mul(K) >> 16
}

/// The bit of an IPv4 address (its bytes on the wire as a little-endian integer).
#[inline(always)]
pub const fn vip_bit_v4(address: u32) -> u32 {
    bit(address)
}

/// The bit of an IPv6 address.
#[inline(always)]
pub const fn vip_bit_v6(a: [u32; 4]) -> u32 {
    bit(a[0].rotate_left(7) ^ a[1].rotate_left(13) ^ a[2].rotate_left(22) ^ a[3])
}

/// The bit of an endpoint; `port` as it stands on the wire, read as a little-endian integer.
#[inline(always)]
pub const fn reply_bit_v4(address: u32, port: u16, protocol: u8) -> u32 {
    bit(address ^ ((port as u32) << 16 | protocol as u32).wrapping_mul(K))
}

/// The bit of an IPv6 endpoint.
#[inline(always)]
pub const fn reply_bit_v6(a: [u32; 4], port: u16, protocol: u8) -> u32 {
    let folded = a[0].rotate_left(7) ^ a[1].rotate_left(13) ^ a[2].rotate_left(22) ^ a[3];
    reply_bit_v4(folded, port, protocol)
}

/// The bit of a link-layer address, as headers hold it.
#[inline(always)]
pub const fn mac_bit_words(mac: [u16; 3]) -> u32 {
    let high = mac[0] as u32 | (mac[1] as u32) << 16;
    bit(high.rotate_left(11) ^ (mac[2] as u32).wrapping_mul(K))
}

/// The bit of a link-layer address given as the maps hold it.
pub const fn mac_bit(mac: &[u8; 6]) -> u32 {
    mac_bit_words([
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ])
}

/// The four words of an address as the maps hold it.
const fn words(address: &[u8; 16]) -> [u32; 4] {
    let a = address;
    [
        u32::from_le_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_le_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_le_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_le_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// Whether the address is an IPv4 one (`::ffff:0:0/96`).
const fn is_mapped(w: [u32; 4]) -> bool {
    w[0] == 0 && w[1] == 0 && w[2] == 0xffff_0000
}

/// The bit of a VIP given as the maps hold it.
pub const fn vip_bit(address: &[u8; 16]) -> u32 {
    let w = words(address);
    if is_mapped(w) { vip_bit_v4(w[3]) } else { vip_bit_v6(w) }
}

/// The bit of an endpoint given as the maps hold it.
pub const fn reply_bit(address: &[u8; 16], port: [u8; 2], protocol: u8) -> u32 {
    let w = words(address);
    let port = u16::from_le_bytes(port);
    if is_mapped(w) { reply_bit_v4(w[3], port, protocol) } else { reply_bit_v6(w, port, protocol) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::mapped;

    #[test]
    fn both_sides_agree() {
        assert_eq!(vip_bit(&mapped([10, 1, 2, 3])), vip_bit_v4(u32::from_le_bytes([10, 1, 2, 3])));
        let mut six = [0; 16];
        six[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        six[15] = 9;
        let w = [u32::from_le_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, 9 << 24];
        assert_eq!(vip_bit(&six), vip_bit_v6(w));
        assert_eq!(
            reply_bit(&six, [0x1f, 0x90], 6),
            reply_bit_v6(w, u16::from_le_bytes([0x1f, 0x90]), 6)
        );
    }

    #[test]
    fn neighbouring_addresses_and_ports_get_bits_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for c in 0..4u8 {
            for d in 0..=255u8 {
                seen.insert(vip_bit(&mapped([10, 0, c, d])));
            }
        }
        // 1,024 balls in 65,536 bins: 1,016 distinct expected, were they random.
        assert!(seen.len() > 990, "{}", seen.len());
        seen.clear();
        for port in 0..1024u16 {
            seen.insert(reply_bit(&mapped([10, 0, 0, 1]), port.to_be_bytes(), 6));
        }
        assert!(seen.len() > 990, "{}", seen.len());
    }

    #[test]
    fn link_layer_addresses_of_one_maker_get_bits_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..1024u16 {
            let [high, low] = n.to_be_bytes();
            seen.insert(mac_bit(&[0x52, 0x54, 0, 0x12, high, low]));
        }
        assert!(seen.len() > 990, "{}", seen.len());
    }

    #[test]
    fn every_bit_is_inside_the_filter() {
        for n in 0..100_000u32 {
            assert!(vip_bit_v4(n.wrapping_mul(2_654_435_761)) < WORDS * 64);
        }
    }
}
