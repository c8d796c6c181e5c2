//! What the kernel's routes say: by which interface they leave, and how an address is reached.
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
    },
};
use rtnetlink::RouteMessageBuilder;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

/// What a route leads to; a default route has the prefix of length 0.
pub(super) fn destination(route: &RouteMessage) -> Option<IpNet> {
    let named = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(destination) => Some(address(destination)),
        _ => None,
    });
    let base = match (named, route.header.address_family) {
        (Some(named), _) => named?,
        (None, AddressFamily::Inet) => Ipv4Addr::UNSPECIFIED.into(),
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(base, route.header.destination_prefix_length).ok()
}

/// The table, which has its own attribute where its number is above 255.
fn table(route: &RouteMessage) -> u32 {
    let named = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    named.unwrap_or(route.header.table.into())
}

/// A default route of the main table.
pub(super) fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && table(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// The interfaces by which a route leaves.
pub(super) fn devices(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    devices
}

/// Whether a route leads to other hosts: by a gateway, or to a prefix that is on the link.
/// A route to a single address without a gateway leads to a pod; link-local prefixes stand
/// on pods' interfaces too, and no client of a VIP has such an address.
pub(super) fn leaves(route: &RouteMessage) -> bool {
    if route.header.kind != RouteType::Unicast
        || table(route) != u32::from(RouteHeader::RT_TABLE_MAIN)
    {
        return false;
    }
    let by_gateway = route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => true,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| {
            hop.attributes
                .iter()
                .any(|a| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)))
        }),
        _ => false,
    });
    let Some(destination) = destination(route) else { return false };
    let link_local = match destination.addr() {
        IpAddr::V4(a) => a.is_link_local() || a.is_multicast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_multicast(),
    };
    !link_local && (by_gateway || destination.prefix_len() < destination.max_prefix_len())
}

/// How the kernel reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// The interface it leaves by.
    pub(super) device: u32,
    /// The router, if there is one.
    pub(super) gateway: Option<IpAddr>,
    /// The source address that the kernel takes.
    pub(super) source: Option<IpAddr>,
    /// The route's MTU, or what the kernel has learned of the path's; else the interface's holds.
    pub(super) mtu: Option<u32>,
}

impl Path {
    /// From the answer to [`lookup`]; none if the address is not to be sent to.
    pub(super) fn parse(route: &RouteMessage) -> Option<Self> {
        if route.header.kind != RouteType::Unicast {
            return None;
        }
        let (mut device, mut gateway, mut source, mut mtu) = (None, None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::Gateway(a) => gateway = Some(address(a)?),
                RouteAttribute::Via(RouteVia::Inet(a)) => gateway = Some(IpAddr::V4(*a)),
                RouteAttribute::Via(RouteVia::Inet6(a)) => gateway = Some(IpAddr::V6(*a)),
                // A next hop of another kind cannot be resolved.
                RouteAttribute::Via(_) => return None,
                RouteAttribute::PrefSource(a) => source = address(a),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self { device: device?, gateway, source, mtu })
    }
}

/// The question how an address is reached.
pub(super) fn lookup(address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(a) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(a, 32).build(),
        IpAddr::V6(a) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(a, 128).build(),
    }
}

/// The question by which interface a packet leaves that comes in by one (as from a pod), or is
/// sent by this node itself.
pub(super) fn lookup_reply(source: IpAddr, client: IpAddr, from: Option<u32>) -> RouteMessage {
    let mut request = lookup(client);
    let (source, length) = match source {
        IpAddr::V4(a) => (RouteAddress::Inet(a), 32),
        IpAddr::V6(a) => (RouteAddress::Inet6(a), 128),
    };
    request.header.source_prefix_length = length;
    request.attributes.push(RouteAttribute::Source(source));
    request.attributes.extend(from.map(RouteAttribute::Iif));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let prefix: IpNet = prefix.parse().unwrap();
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.destination_prefix_length = prefix.prefix_len();
        route.header.address_family =
            if prefix.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        route.attributes = attributes;
        if prefix.prefix_len() != 0 {
            route.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
        }
        route
    }

    fn gateway(address: &str) -> RouteAttribute {
        RouteAttribute::Gateway(address.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn routes_to_other_hosts_are_told_from_those_to_pods() {
        for (prefix, by, expected) in [
            ("0.0.0.0/0", Some("10.0.0.1"), true),
            ("10.0.0.0/24", None, true),
            ("10.244.3.0/24", Some("10.0.0.3"), true),
            ("10.244.1.7/32", None, false),
            ("10.244.1.7/32", Some("10.0.0.3"), true),
            ("fe80::/64", None, false),
            ("169.254.0.0/16", None, false),
            ("ff00::/8", None, false),
            ("fd00::/64", None, true),
            ("fd00::7/128", None, false),
        ] {
            let attributes = by.map(gateway).into_iter().chain([RouteAttribute::Oif(4)]);
            let message = route(prefix, attributes.collect());
            assert_eq!(leaves(&message), expected, "{prefix} by {by:?}");
            assert_eq!(destination(&message), Some(prefix.parse().unwrap()));
            assert_eq!(devices(&message), [4]);
        }
        let mut other = route("10.0.0.0/24", vec![RouteAttribute::Table(1000)]);
        other.header.table = 252;
        assert!(!leaves(&other), "another table");
        other = route("10.0.0.0/24", Vec::new());
        other.header.kind = RouteType::BlackHole;
        assert!(!leaves(&other));
    }

    #[test]
    fn a_path_has_gateway_source_and_mtu() {
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let mut message = route(
            "10.1.0.2/32",
            vec![
                RouteAttribute::Oif(4),
                RouteAttribute::PrefSource(source.into()),
                RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)]),
            ],
        );
        let mut expected = Path { device: 4, gateway: None, source: Some(source), mtu: Some(1400) };
        assert_eq!(Path::parse(&message), Some(expected));
        message.attributes.push(gateway("10.0.0.254"));
        expected.gateway = Some("10.0.0.254".parse().unwrap());
        assert_eq!(Path::parse(&message), Some(expected));
        // RFC 5549: an IPv4 route by an IPv6 router.
        message.attributes.pop();
        message.attributes.push(RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())));
        expected.gateway = Some("fe80::1".parse().unwrap());
        assert_eq!(Path::parse(&message), Some(expected));
        message.header.kind = RouteType::Local;
        assert_eq!(Path::parse(&message), None);
        message.header.kind = RouteType::Unicast;
        message.attributes.clear();
        assert_eq!(Path::parse(&message), None);
    }
}
