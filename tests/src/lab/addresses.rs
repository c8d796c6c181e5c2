//! The laboratory's addresses. `examples/` names the same ones, so they are fixed.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses and link-layer address of a host on the LAN.
pub type OnLan = (Ipv4Addr, Ipv6Addr, [u8; 6]);

/// Both families' addresses of something.
pub type Pair = (Ipv4Addr, Ipv6Addr);

/// The client.
pub const CLIENT: OnLan = host(100);
/// The machine of the control plane.
pub const CONTROL: OnLan = host(5);
/// What stands for the nodes of a large cluster, and for the router to them.
pub const FLEET: OnLan = host(6);
/// Where default routes lead: to nobody, unless a test puts a router there.
pub const GATEWAY: OnLan = host(254);
/// The router on the last node's own link.
pub const FAR_GATEWAY: OnLan = far(254);
/// The client behind the router.
pub const REMOTE: Pair =
    (Ipv4Addr::new(198, 51, 100, 10), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10));
/// The router on that client's link.
pub const REMOTE_GATEWAY: Pair =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1));
/// The prefixes that all pods' addresses come from.
pub const ALL_PODS: (&str, &str) = ("10.244.0.0/16", "fd77:244::/32");
/// The first addresses of the pool in `examples/`, which the first Service gets.
pub const FIRST_VIPS: Pair =
    (Ipv4Addr::new(10, 77, 0, 200), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x200));

/// The host whose IPv4 address ends with `last`: `10.77.0.LAST`, and the same digits
/// after `fd77::` and `02:77:00:00:`.
pub const fn host(last: u8) -> OnLan {
    (
        Ipv4Addr::new(10, 77, 0, last),
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits_as_hex(last)),
        mac(digits_as_hex(last)),
    )
}

/// A host on the last node's own link: `10.78.0.LAST`, and the same digits after `fd78::` and
/// `02:78:00:00:`.
const fn far(last: u8) -> OnLan {
    let (_, _, mut mac) = host(last);
    mac[1] = 0x78;
    (
        Ipv4Addr::new(10, 78, 0, last),
        Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, digits_as_hex(last)),
        mac,
    )
}

/// The node of that number on a link of its own: `10.78.0.11` and so on.
pub const fn far_node(i: u8) -> OnLan {
    far(10 + i)
}

/// Whether an address is on the last node's own link.
pub fn is_far(address: Ipv4Addr) -> bool {
    address.octets()[1] == FAR_GATEWAY.0.octets()[1]
}

/// The router's addresses on the link of a host.
pub fn gateway(host: Ipv4Addr) -> Pair {
    let (v4, v6, _) = if is_far(host) { FAR_GATEWAY } else { GATEWAY };
    (v4, v6)
}

/// The node of that number, counted from 1: `10.77.0.11` and so on.
pub const fn node(i: u8) -> OnLan {
    host(10 + i)
}

/// The prefixes of a node's pods.
pub fn pod_prefixes(node: u8) -> (String, String) {
    (format!("10.244.{node}.0/24"), format!("fd77:244:{node}::/64"))
}

/// The addresses of the `j`-th pod of a node (both counted from 1) and of its gateway.
/// `None` for more than 99.
pub fn pod(node: u8, j: u8) -> Option<(Pair, Pair)> {
    let at = |last: u8| {
        (
            Ipv4Addr::new(10, 244, node, last),
            Ipv6Addr::new(0xfd77, 0x244, node.into(), 0, 0, 0, 0, last.into()),
        )
    };
    (1..=99).contains(&j).then(|| (at(j + 1), at(1)))
}

/// 12 becomes 0x12, so that both families' addresses look alike.
const fn digits_as_hex(n: u8) -> u16 {
    (n / 100) as u16 * 0x100 + (n / 10 % 10) as u16 * 0x10 + (n % 10) as u16
}

const fn mac(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [0x02, 0x77, 0, 0, high, low]
}

/// As people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Both of a pair, IPv4 first.
pub fn both((v4, v6): Pair) -> [IpAddr; 2] {
    [v4.into(), v6.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_look_alike() {
        let (v4, v6, mac) = node(2);
        assert_eq!(v4.to_string(), "10.77.0.12");
        assert_eq!(v6.to_string(), "fd77::12");
        assert_eq!(mac_text(mac), "02:77:00:00:00:12");
        assert_eq!(CLIENT.1.to_string(), "fd77::100");
        assert_eq!(pod(3, 2).unwrap().0.0.to_string(), "10.244.3.3");
        assert_eq!(pod(3, 2).unwrap().0.1.to_string(), "fd77:244:3::3");
        assert!(pod(1, 100).is_none());
        assert_eq!(far_node(3).0.to_string(), "10.78.0.13");
        assert_eq!(far_node(3).1.to_string(), "fd78::13");
        assert_eq!(mac_text(far_node(3).2), "02:78:00:00:00:13");
        assert_eq!(gateway(far_node(3).0).1.to_string(), "fd78::254");
    }
}
