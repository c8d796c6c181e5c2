//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 section 4).

/// Bytes of a request: header, and eight of data.
const LENGTH: usize = 16;

/// A request that a raw socket of the family can send. The kernel fills in the checksum
/// of ICMPv6 (RFC 3542 section 3.1), this function that of ICMP.
pub fn request(ipv6: bool, identifier: u16, cookie: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = if ipv6 { 128 } else { 8 };
    bytes[4..6].copy_from_slice(&identifier.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    if !ipv6 {
        let words = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let sum = words.sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        bytes[2..4].copy_from_slice(&(!sum).to_be_bytes());
    }
    bytes
}

/// Whether what a raw socket of the family has received is the reply to such a request.
/// ICMP comes with its IPv4 header, ICMPv6 without.
pub fn is_reply(ipv6: bool, received: &[u8], identifier: u16, cookie: u64) -> bool {
    let header = match received.first() {
        _ if ipv6 => 0,
        Some(first) => usize::from(first & 0xf) * 4,
        None => return false,
    };
    let Some(icmp) = received.get(header..) else { return false };
    let mut expected = request(ipv6, identifier, cookie);
    expected[0] = if ipv6 { 129 } else { 0 };
    icmp.len() == LENGTH && icmp[..2] == expected[..2] && icmp[4..] == expected[4..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn request_and_reply() {
        let four = request(false, 0x1234, 7);
        assert_eq!(ones_sum(&four), 0xffff, "RFC 1071: the sum over all is all ones");
        for ipv6 in [false, true] {
            let mut reply = request(ipv6, 0x1234, 7).to_vec();
            reply[0] = if ipv6 { 129 } else { 0 };
            reply[2..4].copy_from_slice(&[0xab, 0xcd]);
            if !ipv6 {
                let mut header = vec![0x46];
                header.resize(24, 0);
                reply = [header, reply].concat();
            }
            assert!(is_reply(ipv6, &reply, 0x1234, 7));
            assert!(!is_reply(ipv6, &reply, 0x1235, 7));
            assert!(!is_reply(ipv6, &reply, 0x1234, 8));
            assert!(!is_reply(ipv6, &request(ipv6, 0x1234, 7), 0x1234, 7), "a request");
        }
    }

    fn ones_sum(bytes: &[u8]) -> u32 {
        let sum: u32 = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        (sum & 0xffff) + (sum >> 16)
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_reply(ipv6: bool, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(!is_reply(ipv6, &bytes, 1, 0x0123_4567_89ab_cdef));
        }
    }
}
