//! Prefixes as messages list them (RFC 4271 section 4.3, RFC 4760 section 5): a length in bits, and as
//! many octets as these take.
use crate::{family::Family, wire::Reader};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Appends a prefix.
pub(crate) fn encode(prefix: &IpNet, bytes: &mut Vec<u8>) {
    let octets = length(prefix) - 1;
    bytes.push(prefix.prefix_len());
    match prefix {
        IpNet::V4(net) => bytes.extend_from_slice(&net.network().octets()[..octets]),
        IpNet::V6(net) => bytes.extend_from_slice(&net.network().octets()[..octets]),
    }
}

/// Octets that a prefix takes in a list.
pub(crate) fn length(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

/// Reads a list of prefixes. `None` if a length is beyond the family's, or beyond the list (RFC 7606
/// section 5.3). Bits behind the prefix say nothing (RFC 4271 section 4.3).
pub(crate) fn decode_list(family: Family, bytes: &[u8]) -> Option<Vec<IpNet>> {
    let mut reader = Reader::new(bytes);
    let mut prefixes = Vec::new();
    while !reader.is_empty() {
        let bits = reader.u8()?;
        let octets = reader.take(usize::from(bits).div_ceil(8))?;
        let prefix = match family {
            Family::Ipv4Unicast => {
                let mut address = [0; 4];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                Ipv4Net::new(address.into(), bits).ok().map(IpNet::from)
            }
            Family::Ipv6Unicast => {
                let mut address = [0; 16];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                Ipv6Net::new(address.into(), bits).ok().map(IpNet::from)
            }
        };
        prefixes.push(prefix?.trunc());
    }
    Some(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_listed_in_as_few_octets_as_they_take() {
        for (text, expected) in [
            ("0.0.0.0/0", &[0][..]),
            ("10.0.0.0/8", &[8, 10]),
            ("192.0.2.1/32", &[32, 192, 0, 2, 1]),
            ("192.0.2.128/25", &[25, 192, 0, 2, 128]),
            ("2001:db8::/32", &[32, 0x20, 1, 0xd, 0xb8]),
            ("::/0", &[0]),
        ] {
            let prefix: IpNet = text.parse().unwrap();
            let mut bytes = Vec::new();
            encode(&prefix, &mut bytes);
            assert_eq!(bytes, expected, "{text}");
            assert_eq!(bytes.len(), length(&prefix), "{text}");
            assert_eq!(decode_list(Family::of(&prefix), &bytes), Some(vec![prefix]), "{text}");
        }
    }

    #[test]
    fn bits_behind_the_prefix_say_nothing() {
        let expected = "192.0.2.0/25".parse().unwrap();
        assert_eq!(decode_list(Family::Ipv4Unicast, &[25, 192, 0, 2, 0x7f]), Some(vec![expected]));
    }

    #[test]
    fn lists_that_do_not_add_up_are_refused() {
        for (family, bytes) in [
            (Family::Ipv4Unicast, &[33, 1, 2, 3, 4, 5][..]),
            (Family::Ipv4Unicast, &[24, 1, 2]),
            (Family::Ipv4Unicast, &[255]),
            (Family::Ipv6Unicast, &[129]),
            (Family::Ipv6Unicast, &[64, 1]),
        ] {
            assert_eq!(decode_list(family, bytes), None, "{bytes:?}");
        }
    }
}
