use super::*;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteType};

#[test]
fn patterns_match_whole_names() {
    for (pattern, name, expected) in [
        ("eth0", "eth0", true),
        ("eth0", "eth01", false),
        ("eth*", "eth01", true),
        ("eth*", "eth", true),
        ("eth?", "eth", false),
        ("*.100", "bond0.100", true),
        ("e*0", "enp3s0", true),
        ("e*0", "enp3s1", false),
        ("", "", true),
        ("*", "", true),
        ("**", "é", true),
        ("?", "é", true),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
}

fn link(
    index: u32,
    name: &str,
    controller: Option<u32>,
    kind: Option<InfoKind>,
) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
    ];
    message.attributes.extend(controller.map(LinkAttribute::Controller));
    message.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
    RouteNetlinkMessage::NewLink(message)
}

fn address(index: u32, address: &str) -> AddressMessage {
    let prefix: IpNet = address.parse().unwrap();
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix.prefix_len();
    message.attributes = vec![AddressAttribute::Address(prefix.addr())];
    message
}

fn default_route(index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.header.address_family = AddressFamily::Inet;
    message.attributes = vec![RouteAttribute::Oif(index)];
    message
}

/// eth0 with the node's address, eth1 with the default route, eth2 and eth3 in a bond,
/// eth4 in a VRF, a pod's veth.
fn node() -> Interfaces {
    let mut interfaces = Interfaces::default();
    for message in [
        link(2, "eth0", None, None),
        link(3, "eth1", None, None),
        link(4, "eth2", Some(6), None),
        link(5, "eth3", Some(6), None),
        link(6, "bond0", None, Some(InfoKind::Bond)),
        link(7, "eth4", Some(8), None),
        link(8, "blue", None, Some(InfoKind::Vrf)),
        link(9, "veth1234", None, Some(InfoKind::Veth)),
        RouteNetlinkMessage::NewAddress(address(2, "10.0.0.1/24")),
        RouteNetlinkMessage::NewAddress(address(2, "fd00::1/64")),
        RouteNetlinkMessage::NewAddress(address(3, "192.0.2.1/24")),
        RouteNetlinkMessage::NewAddress(address(2, "ff02::1:ff00:7/128")),
    ] {
        assert!(!interfaces.observe(&message));
    }
    interfaces.learn_route(&default_route(3));
    interfaces
}

fn names(interfaces: &Interfaces, selection: &Selection) -> Vec<String> {
    interfaces.uplinks(selection).into_iter().map(|uplink| uplink.name).collect()
}

fn internal(address: &str) -> Selection {
    Selection { internal_ips: vec![address.parse().unwrap()], ..Selection::default() }
}

#[test]
fn by_default_the_nodes_address_and_the_default_route_decide() {
    let interfaces = node();
    assert_eq!(names(&interfaces, &internal("10.0.0.1")), ["eth0", "eth1"]);
    assert_eq!(names(&interfaces, &internal("192.0.2.1")), ["eth1"]);
    let uplinks = interfaces.uplinks(&internal("fd00::1"));
    let prefixes: Vec<_> = uplinks[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!((prefixes, uplinks[0].mac[5]), (vec!["10.0.0.1/24".into(), "fd00::1/64".into()], 2));
}

#[test]
fn named_ones_replace_the_defaults_and_ports_stand_for_their_bond() {
    let interfaces = node();
    let only = |pattern: &str| Selection { only: vec![pattern.into()], ..internal("10.0.0.1") };
    assert_eq!(names(&interfaces, &only("eth1")), ["eth1"]);
    assert_eq!(names(&interfaces, &only("eth?")), ["eth0", "eth1", "bond0", "eth4"]);
    assert!(names(&interfaces, &only("nope")).is_empty());
    let also = Selection { also: ["eth3".to_owned()].into(), ..internal("10.0.0.1") };
    assert_eq!(names(&interfaces, &also), ["eth0", "eth1", "bond0"]);
    let both = Selection { also: ["bond0".to_owned()].into(), ..only("eth0") };
    assert_eq!(names(&interfaces, &both), ["eth0", "bond0"]);
}

#[test]
fn changes_are_followed() {
    let mut interfaces = node();
    let selection = internal("10.0.0.1");
    // Down is no uplink; routes have to be read again where there was a default route.
    let RouteNetlinkMessage::NewLink(mut down) = link(3, "eth1", None, None) else {
        unreachable!()
    };
    down.header.flags = LinkFlags::empty();
    assert!(interfaces.observe(&RouteNetlinkMessage::NewLink(down)));
    assert_eq!(names(&interfaces, &selection), ["eth0"]);
    // A bridge speaks of its ports in its own family.
    let mut port = LinkMessage::default();
    port.header.index = 2;
    port.header.interface_family = AddressFamily::Bridge;
    assert!(!interfaces.observe(&RouteNetlinkMessage::DelLink(port.clone())));
    assert_eq!(names(&interfaces, &selection), ["eth0"]);
    interfaces.observe(&RouteNetlinkMessage::DelAddress(address(2, "10.0.0.1/24")));
    assert!(names(&interfaces, &selection).is_empty());
    interfaces.observe(&RouteNetlinkMessage::NewAddress(address(9, "10.0.0.1/24")));
    assert_eq!(names(&interfaces, &selection), ["veth1234"]);
    port.header.index = 9;
    port.header.interface_family = AddressFamily::Unspec;
    interfaces.observe(&RouteNetlinkMessage::DelLink(port));
    assert!(names(&interfaces, &selection).is_empty());
    assert!(interfaces.observe(&RouteNetlinkMessage::NewRoute(default_route(2))));
}

/// eth0.100 on eth0 with the node's address.
fn vlan(index: u32, lower: u32, data: Vec<InfoVlan>) -> RouteNetlinkMessage {
    let RouteNetlinkMessage::NewLink(mut message) = link(index, "eth0.100", None, None) else {
        unreachable!()
    };
    message.attributes.push(LinkAttribute::Link(lower));
    message.attributes.push(LinkAttribute::Mtu(1496));
    let info = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    RouteNetlinkMessage::NewLink(message)
}

#[test]
fn a_vlan_is_served_on_the_device_below() {
    let mut interfaces = node();
    let of_vlan = |interfaces: &Interfaces| {
        let uplinks = interfaces.uplinks(&internal("10.1.0.1"));
        uplinks.into_iter().find(|uplink| uplink.name == "eth0.100").unwrap()
    };
    interfaces.observe(&vlan(12, 2, vec![InfoVlan::Id(100)]));
    interfaces.observe(&RouteNetlinkMessage::NewAddress(address(12, "10.1.0.1/24")));
    let uplink = of_vlan(&interfaces);
    assert_eq!((uplink.ifindex, uplink.vlan, uplink.device), (2, 100, 12));
    assert_eq!((uplink.lower.as_str(), uplink.mtu, uplink.mac[5]), ("eth0", 1496, 12));
    assert!(!uplink.without_driver);

    // A bond's frames arrive on its ports, whose cards may take tags off.
    interfaces.observe(&vlan(12, 6, vec![InfoVlan::Id(100)]));
    let uplink = of_vlan(&interfaces);
    assert_eq!(
        (uplink.lower.as_str(), uplink.ports),
        ("bond0", vec!["eth2".into(), "eth3".into()])
    );

    // Frames with two tags, or another's, are not looked into; nor is what a bridge passes up.
    interfaces.observe(&link(20, "br0", None, Some(InfoKind::Bridge)));
    interfaces.observe(&vlan(21, 2, vec![InfoVlan::Id(7)]));
    for (lower, data) in [
        (20, vec![InfoVlan::Id(100)]),
        (21, vec![InfoVlan::Id(100)]),
        (99, vec![InfoVlan::Id(100)]),
        (2, vec![InfoVlan::Id(100), InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)]),
        (2, vec![]),
    ] {
        interfaces.observe(&vlan(12, lower, data));
        let uplink = of_vlan(&interfaces);
        assert_eq!((uplink.ifindex, uplink.vlan, uplink.without_driver), (12, 0, true), "{lower}");
    }
}

#[test]
fn replies_leave_by_all_interfaces_with_routes_to_other_hosts() {
    let mut interfaces = node();
    let egress = |interfaces: &Interfaces| {
        let links = interfaces.links(&internal("10.0.0.1"));
        links.egress.into_iter().map(|e| (e.name, e.bare)).collect::<Vec<_>>()
    };
    let named = |names: &[(&str, bool)]| {
        names.iter().map(|(name, bare)| ((*name).to_owned(), *bare)).collect::<Vec<_>>()
    };
    assert_eq!(egress(&interfaces), named(&[("eth0", false), ("eth1", false)]));
    let RouteNetlinkMessage::NewLink(mut tunnel) = link(30, "tunl0", None, None) else {
        unreachable!()
    };
    tunnel.header.link_layer_type = LinkLayerType::Tunnel;
    tunnel.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::Address(_)));
    interfaces.observe(&RouteNetlinkMessage::NewLink(tunnel.clone()));
    let route = |index: u32, destination: &str| {
        let prefix: IpNet = destination.parse().unwrap();
        let mut route = default_route(index);
        route.header.destination_prefix_length = prefix.prefix_len();
        route.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
        route
    };
    let of_pods = route(30, "10.244.3.0/24");
    // A pod's veth has a route to the pod alone.
    for route in [of_pods.clone(), route(9, "10.244.1.7/32")] {
        assert!(!interfaces.observe(&RouteNetlinkMessage::NewRoute(route)));
    }
    let three = named(&[("eth0", false), ("eth1", false), ("tunl0", true)]);
    assert_eq!(egress(&interfaces), three);
    // One route less may leave others: they are counted later.
    assert!(!interfaces.observe(&RouteNetlinkMessage::DelRoute(of_pods)));
    assert!(interfaces.routes_changed);
    assert_eq!(egress(&interfaces), three);
    tunnel.header.flags = LinkFlags::empty();
    assert!(interfaces.observe(&RouteNetlinkMessage::NewLink(tunnel)), "it may have lost routes");
    assert_eq!(egress(&interfaces), named(&[("eth0", false), ("eth1", false)]));
}

#[test]
fn what_is_excluded_is_an_uplink_that_announces_nothing() {
    let excluded = Excluded::parse("announcedInterfacesToExclude: [^eth0$]").unwrap();
    let selection = Selection { excluded, ..internal("10.0.0.1") };
    let uplinks = node().uplinks(&selection);
    let announcing: Vec<_> = uplinks.iter().map(|u| (u.name.as_str(), u.announces)).collect();
    assert_eq!(announcing, [("eth0", false), ("eth1", true)]);
}
