use super::*;

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
    message.header.flags = LinkFlags::Up;
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
    interfaces.set_default_routes(&[default_route(3)]);
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
