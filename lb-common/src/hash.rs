//! The flow hash and the rendezvous scores.
//!
//! Every node computes these alike, whatever it remembers: that is what lets any
//! node take any packet of a VIP. They are therefore fixed: a change is a new
//! version of the protocol between nodes. The golden vectors below hold them still.
//! Words of a packet are taken as little-endian integers of the bytes on the wire.

/// From xxHash and SplitMix64: odd constants whose multiples spread over all bits.
const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xbf58_476d_1ce4_e5b9;
const K3: u64 = 0x94d0_49bb_1331_11eb;

#[inline(always)]
const fn mix(mut h: u64, word: u64) -> u64 {
    h = (h ^ word).wrapping_mul(K2);
    h ^ (h >> 32)
}

/// Hash of an IPv4 flow. `ports` is source port then destination port, `protocol` the IANA number.
#[inline(always)]
pub const fn flow_hash_v4(source: u32, destination: u32, ports: u32, protocol: u8) -> u32 {
    let h = mix(K1, source as u64 | (destination as u64) << 32);
    let h = mix(h, ports as u64 | (protocol as u64) << 32);
    (h.wrapping_mul(K3) >> 32) as u32
}

/// Hash of an IPv6 flow.
#[inline(always)]
pub const fn flow_hash_v6(
    source: [u32; 4],
    destination: [u32; 4],
    ports: u32,
    protocol: u8,
) -> u32 {
    let h = mix(K1, source[0] as u64 | (source[1] as u64) << 32);
    let h = mix(h, source[2] as u64 | (source[3] as u64) << 32);
    let h = mix(h, destination[0] as u64 | (destination[1] as u64) << 32);
    let h = mix(h, destination[2] as u64 | (destination[3] as u64) << 32);
    let h = mix(h, ports as u64 | (protocol as u64) << 32);
    (h.wrapping_mul(K3) >> 32) as u32
}

/// What an endpoint brings to its scores: a digest of its address (16 bytes, IPv4 mapped).
///
/// The port is left out on purpose, so that all ports of a pod win the same rows.
pub const fn endpoint_digest(address: [u8; 16]) -> u64 {
    let mut low = [0; 8];
    let mut high = [0; 8];
    let mut i = 0;
    while i < 8 {
        low[i] = address[i];
        high[i] = address[i + 8];
        i += 1;
    }
    let h = mix(K1, u64::from_le_bytes(low));
    mix(h, u64::from_le_bytes(high)).wrapping_mul(K3)
}

/// The score of an endpoint in a row: the highest takes the row's flows.
///
/// It depends on nothing but the two, so the order of two endpoints in a row never
/// depends on who else is there (rendezvous hashing, Thaler and Ravishankar 1998).
/// It does not depend on the number of rows either: when a table doubles, its lower
/// half stays as it was.
#[inline]
pub const fn row_score(endpoint_digest: u64, row: u32) -> u64 {
    let h = mix(endpoint_digest, (row as u64).wrapping_mul(K1));
    mix(h, K2).wrapping_mul(K3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vectors() {
        let client = u32::from_le_bytes([192, 0, 2, 1]);
        let vip = u32::from_le_bytes([198, 51, 100, 7]);
        let ports = u32::from_le_bytes([0x9c, 0x40, 0, 80]);
        let six = |last| {
            [u32::from_le_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, u32::from_le_bytes([0, 0, 0, last])]
        };
        let digest = endpoint_digest(crate::maps::mapped([10, 244, 1, 5]));
        assert_eq!(
            (
                flow_hash_v4(client, vip, ports, 6),
                flow_hash_v6(six(1), six(2), ports, 17),
                digest,
                row_score(digest, 0),
                row_score(digest, 255),
            ),
            GOLDEN
        );
    }
    const GOLDEN: (u32, u32, u64, u64, u64) = (
        1_079_055_488,
        1_001_844_767,
        3_710_491_078_416_808_341,
        17_835_597_111_169_983_238,
        17_102_029_079_822_320_393,
    );

    /// Largest deviation of a bucket from the mean, in parts of the mean.
    fn spread(counts: &[u32]) -> f64 {
        let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        counts.iter().map(|&c| (f64::from(c) - mean).abs() / mean).fold(0.0, f64::max)
    }

    #[test]
    fn consecutive_client_ports_and_addresses_spread_over_the_rows() {
        let vip = u32::from_le_bytes([198, 51, 100, 7]);
        let mut by_port = [0; 64];
        let mut by_address = [0; 64];
        let mut by_address_v6 = [0; 64];
        for n in 0..64 * 500u32 {
            let [a, b] = (n as u16).to_be_bytes();
            let port = u32::from_le_bytes([a, b, 0, 80]);
            by_port[flow_hash_v4(0x0100_000a, vip, port, 6) as usize % 64] += 1;
            let address = u32::from_le_bytes([10, 1, a, b]);
            by_address[flow_hash_v4(address, vip, 0x5000_409c, 6) as usize % 64] += 1;
            let hash = flow_hash_v6([1, 0, 0, address], [2, 0, 0, 9], 0x5000_409c, 6);
            by_address_v6[hash as usize % 64] += 1;
        }
        // 500 expected in each of 64 buckets: five standard deviations are 22 %.
        for counts in [by_port, by_address, by_address_v6] {
            assert!(spread(&counts) < 0.22, "{counts:?}");
        }
    }

    #[test]
    fn endpoints_with_neighbouring_addresses_win_equal_shares() {
        let digests: Vec<_> =
            (1..=5).map(|n| endpoint_digest(crate::maps::mapped([10, 244, 0, n]))).collect();
        let mut wins = [0; 5];
        for row in 0..16_384 {
            let best = (0..5).max_by_key(|&e| row_score(digests[e], row)).unwrap();
            wins[best] += 1;
        }
        assert!(spread(&wins) < 0.1, "{wins:?}");
    }
}
