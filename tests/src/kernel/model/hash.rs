//! The flow hash, from bytes.

use std::net::{IpAddr, SocketAddr};

/// Takes in eight bytes, the first the least significant.
fn absorb(state: u64, bytes: [u8; 8]) -> u64 {
    let state = (state ^ u64::from_le_bytes(bytes)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state ^ state >> 32
}

/// The hash of a flow: addresses, ports and protocol as on the wire, in steps of eight
/// bytes, the last one filled up with zeros.
pub(super) fn flow_hash(client: SocketAddr, vip: SocketAddr, protocol: u8) -> u32 {
    let mut wire = Vec::new();
    for address in [client.ip(), vip.ip()] {
        match address {
            IpAddr::V4(v4) => wire.extend(v4.octets()),
            IpAddr::V6(v6) => wire.extend(v6.octets()),
        }
    }
    wire.extend(client.port().to_be_bytes());
    wire.extend(vip.port().to_be_bytes());
    wire.push(protocol);
    let state = wire.chunks(8).fold(0x9e37_79b9_7f4a_7c15, |state, chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        absorb(state, bytes)
    });
    (state.wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::flow_hash;

    /// The golden vectors that every version of the data path holds to.
    #[test]
    fn golden_vectors() {
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(flow_hash(at("192.0.2.1:40000"), at("198.51.100.7:80"), 6), 1_079_055_488);
        let (client, vip) = ("[2001:db8::1]:40000", "[2001:db8::2]:80");
        assert_eq!(flow_hash(at(client), at(vip), 17), 1_001_844_767);
    }
}
