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
    flow_hash_of(addresses_v4(source, destination), ports, protocol)
}

/// What the addresses of an IPv4 flow bring to its hash.
#[inline(always)]
pub const fn addresses_v4(source: u32, destination: u32) -> u64 {
    mix(K1, source as u64 | (destination as u64) << 32)
}

/// What the addresses of an IPv6 flow bring to its hash.
#[inline(always)]
pub const fn addresses_v6(source: [u32; 4], destination: [u32; 4]) -> u64 {
    let h = mix(K1, source[0] as u64 | (source[1] as u64) << 32);
    let h = mix(h, source[2] as u64 | (source[3] as u64) << 32);
    let h = mix(h, destination[0] as u64 | (destination[1] as u64) << 32);
    mix(h, destination[2] as u64 | (destination[3] as u64) << 32)
}

/// The hash of a flow, given what its addresses bring to it.
#[inline(always)]
pub const fn flow_hash_of(addresses: u64, ports: u32, protocol: u8) -> u32 {
    let h = mix(addresses, ports as u64 | (protocol as u64) << 32);
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
    flow_hash_of(addresses_v6(source, destination), ports, protocol)
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

/// Rows of the tables of few endpoints: the rows from here on are split from those before.
pub const FEW_ROWS: u32 = 768;
/// Rows of the tables of more endpoints, the largest but one.
pub const MORE_ROWS: u32 = 8192;

/// The score of an endpoint in a row: the highest takes the row's flows.
///
/// It depends on nothing but the two, so the order of two endpoints in a row never
/// depends on who else is there (rendezvous hashing, Thaler and Ravishankar 1998).
/// It does not depend on the number of rows either: when a table grows, its lower rows stay
/// as they were.
///
/// The upper eight bits, the score's level, are a permutation of the endpoint's own over each block
/// of 256 rows: every endpoint gets every level exactly once in a block, which makes shares
/// more even than independent scores would (standard deviation with 3 endpoints and
/// 768 rows: 3.3 % instead of 5.3 %).
///
/// Of a row that was split from one of [`FEW_ROWS`] the level's upper two bits are those of that
/// row, of one that was split from one of [`MORE_ROWS`] the upper four. So both have mostly the same
/// endpoints in front: where a table gets another size, flows are still found along their rows.
#[inline]
pub const fn row_score(endpoint_digest: u64, row: u32) -> u64 {
    row_score_in(endpoint_digest, &BlockKey::new(endpoint_digest, row >> 8), row)
}

/// What all of an endpoint's scores in one block of 256 rows have in common (block 0 is
/// rows 0 to 255): to be computed once for all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockKey {
    own: u64,
    /// Of the block among [`FEW_ROWS`] that this one was split from.
    few: u64,
    /// Of that among [`MORE_ROWS`].
    more: u64,
}

impl BlockKey {
    /// That of an endpoint and a block.
    pub const fn new(endpoint_digest: u64, block: u32) -> Self {
        Self {
            own: block_key(endpoint_digest, block),
            few: block_key(endpoint_digest, row_before(block, FEW_ROWS >> 8)),
            more: block_key(endpoint_digest, row_before(block, MORE_ROWS >> 8)),
        }
    }

    const fn level(&self, row: u32) -> u8 {
        let own = permute(self.own, row as u8);
        if row < FEW_ROWS {
            return own;
        }
        let few = permute(self.few, row as u8) & 0xc0;
        if row < MORE_ROWS {
            return few | own & 0x3f;
        }
        let before = row_before(row, MORE_ROWS);
        let more = permute(self.more, row as u8);
        let more = if before < FEW_ROWS { more } else { few | more & 0x3f };
        more & 0xf0 | own & 0x0f
    }
}

const fn block_key(endpoint_digest: u64, block: u32) -> u64 {
    let block = mix(mix(endpoint_digest, block as u64 + 77), K2).wrapping_mul(K3);
    mix(block, K1)
}

/// [`row_score`] for whoever has the row's [`BlockKey`].
#[inline]
pub const fn row_score_in(endpoint_digest: u64, block_key: &BlockKey, row: u32) -> u64 {
    let h = mix(endpoint_digest, (row as u64).wrapping_mul(K1));
    let random = mix(h, K2).wrapping_mul(K3);
    (block_key.level(row) as u64) << 56 | random >> 8
}

/// A permutation of the 256 bytes, chosen by a key: each step can be undone.
#[inline]
const fn permute(mut key: u64, byte: u8) -> u8 {
    let mut x = byte;
    let mut round = 0;
    while round < 4 {
        x = x.wrapping_add(key as u8);
        // Odd numbers have inverses modulo 256.
        x = x.wrapping_mul((key >> 8) as u8 | 1);
        x ^= x >> 4;
        x ^= x >> 3;
        key >>= 16;
        round += 1;
    }
    x
}

/// The row of a flow among `rows`, where `mask` is the lowest power of two that is not
/// below `rows`, less one (linear hashing, Litwin 1980).
///
/// A table that grows splits its lower rows one after the other, so that few flows
/// change their row, and those from a row that is still there: see [`row_before`].
#[inline(always)]
pub const fn row_index(hash: u32, rows: u32, mask: u32) -> u32 {
    let row = hash & mask;
    if row >= rows { row & (mask >> 1) } else { row }
}

/// The mask that goes with a number of rows; 0 for none.
pub const fn row_mask(rows: u32) -> u32 {
    if rows == 0 { 0 } else { rows.next_power_of_two() - 1 }
}

/// How many of the hash values that differ in their lowest bits (up to the mask) fall to a row among
/// `rows`: two for those that would be split next.
pub const fn row_weight(row: u32, rows: u32) -> u32 {
    let half = row_mask(rows).div_ceil(2);
    1 + (row < half && row + half >= rows) as u32
}

/// The row in a smaller table from which the flows of `row` come when the table grows.
pub const fn row_before(row: u32, smaller: u32) -> u32 {
    let mut row = row;
    while row >= smaller {
        // Without its highest bit.
        row ^= 1 << row.ilog2();
    }
    row
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
        2_519_628_498_505_057_571,
        7_776_967_363_151_345_091,
    );

    #[test]
    fn every_endpoint_has_every_level_of_score_once_in_a_block() {
        for n in 0..50 {
            let digest = endpoint_digest(crate::maps::mapped([10, 244, 7, n]));
            for block in 0..3 {
                let mut levels: Vec<_> = (0..256)
                    .map(|row| (row_score(digest, block * 256 + row) >> 56) as u8)
                    .collect();
                levels.sort_unstable();
                assert!(levels.iter().enumerate().all(|(i, level)| i == usize::from(*level)));
            }
        }
    }

    #[test]
    fn a_row_that_was_split_has_much_the_same_order() {
        for n in 0..4 {
            let digest = endpoint_digest(crate::maps::mapped([10, 244, 7, n]));
            let level = |row| row_score(digest, row) >> 56;
            for row in FEW_ROWS..MORE_ROWS {
                assert_eq!(level(row) >> 6, level(row_before(row, FEW_ROWS)) >> 6);
            }
            for row in MORE_ROWS..65_536 {
                assert_eq!(level(row) >> 4, level(row_before(row, MORE_ROWS)) >> 4);
            }
        }
    }

    #[test]
    fn a_table_that_grows_takes_flows_from_the_rows_that_it_splits() {
        for (small, large) in [(256, 512), (512, 768), (768, 1024), (768, 1536), (3072, 4096)] {
            let mut moved = 0;
            for n in 0..65_536u32 {
                let hash = n.wrapping_mul(0x9e37_79b1);
                let before = row_index(hash, small, row_mask(small));
                let after = row_index(hash, large, row_mask(large));
                assert!(before < small && after < large);
                assert_eq!(row_before(after, small), before, "{small} {large} {after}");
                moved += u32::from(before != after);
            }
            assert!(moved <= 65_536 * (large - small) / large + 6554, "{small} {large} {moved}");
        }
        assert_eq!((row_mask(0), row_mask(1), row_mask(768)), (0, 0, 1023));
    }

    #[test]
    fn the_weight_of_a_row_is_how_many_hash_values_fall_to_it() {
        for rows in [1, 2, 3, 256, 512, 768, 1280, 8192] {
            let mut found = vec![0; rows as usize];
            (0..=row_mask(rows))
                .for_each(|h| found[row_index(h, rows, row_mask(rows)) as usize] += 1);
            let told: Vec<_> = (0..rows).map(|row| row_weight(row, rows)).collect();
            assert_eq!(found, told, "{rows}");
        }
    }

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
