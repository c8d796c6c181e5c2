//! What is good, what is bad, and who says so.

/// Objects as MetalLB's documentation and samples have them: everybody lets them in.
pub(crate) const GOOD: &[(&str, &str)] = &[
    (
        "v1beta1 IPAddressPool",
        "{addresses: [192.168.10.0/24, 192.168.9.1-192.168.9.5, 'fc00:f853:0ccd:e799::/124']}",
    ),
    (
        "v1beta1 IPAddressPool",
        "{addresses: [192.168.20.0/24], avoidBuggyIPs: true, autoAssign: false, serviceAllocation: \
         {priority: 50, namespaces: [namespace-a, namespace-b], namespaceSelectors: [{matchLabels: \
         {foo: bar}}], serviceSelectors: [{matchExpressions: [{key: app, operator: In, values: \
         [bar]}]}]}}",
    ),
    ("v1beta1 L2Advertisement", "null"),
    ("v1beta1 L2Advertisement", "{ipAddressPools: [first-pool], interfaces: [eth0, eth1]}"),
    (
        "v1beta1 L2Advertisement",
        "{nodeSelectors: [{matchLabels: {kubernetes.io/hostname: a}}, {matchLabels: \
         {kubernetes.io/hostname: b}}], preferredNodeSelectors: [{weight: 100, preference: {}}], \
         serviceSelectors: [{matchExpressions: [{key: a, operator: Exists}]}]}",
    ),
    ("v1beta1 BGPAdvertisement", "null"),
    ("v1beta1 BGPAdvertisement", "{ipAddressPoolSelectors: [{matchLabels: {a: b}}], peers: [p]}"),
    (
        "v1beta1 BGPAdvertisement",
        "{communities: ['65535:65282', 'large:1:2:4294967295', NO_ADVERTISE], localPref: 150, \
         aggregationLength: 32, aggregationLengthV6: 128, ipAddressPools: [nowhere], \
         serviceSelectors: [{matchLabels: {a: b}}]}",
    ),
    ("v1beta1 Community", "{communities: [{name: NO_ADVERTISE, value: '65535:65282'}]}"),
    ("v1beta1 Community", "null"),
    ("v1beta1 BFDProfile", "{receiveInterval: 380, transmitInterval: 270}"),
    (
        "v1beta1 BFDProfile",
        "{detectMultiplier: 255, echoInterval: 10, echoMode: true, passiveMode: true, minimumTtl: \
         254}",
    ),
    ("v1beta2 BGPPeer", "{myASN: 64512, peerASN: 64512, peerAddress: 172.30.0.3}"),
    (
        "v1beta2 BGPPeer",
        "{myASN: 64512, peerASN: 64513, peerAddress: 'fc00:f853:ccd:e793::5', connectTime: 120s, \
         vrf: red, bfdProfile: later, ebgpMultiHop: true, enableGracefulRestart: true}",
    ),
    (
        "v1beta2 BGPPeer",
        "{holdTime: 9m0s, keepaliveTime: 0s, myASN: 64512, passwordSecret: {name: secretname}, \
         peerASN: 64512, peerAddress: 172.30.0.3, peerPort: 179}",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 64512, dynamicASN: external, interface: eth0, dualStackAddressFamily: true, \
         disableMP: true, localASN: 4294967295, routerID: 10.0.0.1, sourceAddress: 10.0.0.2}",
    ),
    (
        "v1beta1 BGPPeer",
        "{myASN: 64512, peerASN: 64513, peerAddress: 172.30.0.3, peerPort: 0, holdTime: 90s, \
         nodeSelectors: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}",
    ),
];

/// Objects that the schema refuses, and what it says of them.
pub(crate) const REFUSED_BY_SCHEMA: &[(&str, &str, &str)] = &[
    ("v1beta1 IPAddressPool", "{}", "spec.addresses: Required"),
    ("v1beta1 IPAddressPool", "{addresses: []}", "at least 1 items"),
    ("v1beta1 IPAddressPool", "{addresses: [10.0.0.1]}", "10.0.0.1\": must be a prefix"),
    ("v1beta1 IPAddressPool", "{addresses: [10.0.0.0/33]}", "must be a prefix"),
    ("v1beta1 IPAddressPool", "{addresses: ['10.0.0.1-fd00::1']}", "same family"),
    (
        "v1beta1 IPAddressPool",
        "{addresses: [10.0.0.0/24], serviceAllocation: {namespaces: [a, a]}}",
        "Duplicate value",
    ),
    ("v1beta1 L2Advertisement", "{ipAddressPools: [a, a]}", "Duplicate value"),
    (
        "v1beta1 L2Advertisement",
        "{preferredNodeSelectors: [{weight: 101, preference: {}}]}",
        "less than or equal to 100",
    ),
    ("v1beta1 L2Advertisement", "{preferredNodeSelectors: [{weight: 1}]}", "preference: Required"),
    (
        "v1beta1 L2Advertisement",
        "{nodeSelectors: [{matchExpressions: [{key: a, operator: Like}]}]}",
        "Unsupported value: \"Like\"",
    ),
    ("v1beta1 BGPAdvertisement", "{aggregationLength: 33}", "less than or equal to 32"),
    ("v1beta1 BGPAdvertisement", "{aggregationLength: 0}", "greater than or equal to 1"),
    ("v1beta1 BGPAdvertisement", "{aggregationLengthV6: 129}", "less than or equal to 128"),
    ("v1beta1 BGPAdvertisement", "{localPref: -1}", "greater than or equal to 0"),
    ("v1beta1 BGPAdvertisement", "{peers: [a, a]}", "Duplicate value"),
    ("v1beta1 BGPAdvertisement", "{communities: ['1:2', '1:2']}", "Duplicate value"),
    ("v1beta1 BGPAdvertisement", "{communities: ['65536:2']}", "must be a community"),
    ("v1beta1 BGPAdvertisement", "{communities: ['1:2:3']}", "must be a community"),
    (
        "v1beta1 BGPAdvertisement",
        "{serviceSelectors: [{}], aggregationLength: 24}",
        "serviceSelectors and aggregationLength are mutually exclusive",
    ),
    ("v1beta1 Community", "{communities: [{name: a, value: '7'}]}", "must be a community"),
    ("v1beta1 Community", "{communities: [{name: a, value: 'large:1:2:4294967296'}]}", "must be"),
    ("v1beta1 BFDProfile", "{detectMultiplier: 1}", "greater than or equal to 2"),
    ("v1beta1 BFDProfile", "{receiveInterval: 60001}", "less than or equal to 60000"),
    ("v1beta1 BFDProfile", "{minimumTtl: 255}", "less than or equal to 254"),
    ("v1beta2 BGPPeer", "{peerASN: 1, peerAddress: 10.0.0.1}", "spec.myASN: Required"),
    ("v1beta2 BGPPeer", "{myASN: 0, peerASN: 1, peerAddress: 10.0.0.1}", "or equal to 1"),
    ("v1beta2 BGPPeer", "{myASN: 1, peerAddress: 10.0.0.1}", "give either peerASN or dynamicASN"),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, dynamicASN: internal, peerAddress: 10.0.0.1}",
        "give either peerASN or dynamicASN",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, dynamicASN: other, peerAddress: 10.0.0.1}",
        "Unsupported value: \"other\"",
    ),
    ("v1beta2 BGPPeer", "{myASN: 1, peerASN: 2}", "give either peerAddress or interface"),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, interface: eth0}",
        "give either peerAddress or interface",
    ),
    ("v1beta2 BGPPeer", "{myASN: 1, peerASN: 2, peerAddress: ten}", "must be an IP address"),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 1, peerAddress: 10.0.0.1, ebgpMultiHop: true}",
        "ebgpMultiHop is for peers of another AS",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, password: p, passwordSecret: {name: s}}",
        "give either password or passwordSecret",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, holdTime: 2s}",
        "must be 0 or at least 3s",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, holdTime: soon}",
        "must be a duration",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, holdTime: 9s, keepaliveTime: 10s}",
        "keepaliveTime must not be longer than holdTime",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, connectTime: 1500ms}",
        "whole number of seconds",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, connectTime: 0s}",
        "between 1 seconds to 65535",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, peerPort: 16385}",
        "less than or equal to 16384",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, localASN: 0}",
        "greater than or equal to 1",
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, routerID: '::1'}",
        "form of an IPv4 address",
    ),
    ("v1beta1 BGPPeer", "{myASN: 1, peerASN: 2}", "spec.peerAddress: Required"),
];

/// Objects that only the webhook refuses, and what it says of them. There are the pool
/// `10.77.9.0/24` and the name `TAKEN` already.
pub(crate) const REFUSED_BY_WEBHOOK: &[(&str, &str, &[&str])] = &[
    (
        "v1beta1 IPAddressPool",
        "{addresses: [10.77.9.128/25]}",
        &["spec.addresses[0]: \"10.77.9.128/25\"", "standing", "take"],
    ),
    (
        "v1beta1 IPAddressPool",
        "{addresses: [10.77.8.9-10.77.8.1]}",
        &["spec.addresses[0]", "ends before it starts"],
    ),
    (
        "v1beta1 IPAddressPool",
        "{addresses: [10.77.8.0/24, 10.77.8.0/25]}",
        &["spec.addresses[1]", "overlaps spec.addresses[0]"],
    ),
    (
        "v1beta1 L2Advertisement",
        "{nodeSelectors: [{matchLabels: {a: b}}, {matchLabels: {a: b}}]}",
        &["spec.nodeSelectors[1]", "remove one"],
    ),
    (
        "v1beta1 L2Advertisement",
        "{serviceSelectors: [{matchExpressions: [{key: a, operator: In}]}]}",
        &["spec.serviceSelectors[0].matchExpressions[0].values", "at least one"],
    ),
    (
        "v1beta1 BGPAdvertisement",
        "{aggregationLength: 20, ipAddressPools: [standing]}",
        &["spec.aggregationLength: \"20\"", "10.77.9.0/24", "at least 24"],
    ),
    (
        "v1beta1 Community",
        "{communities: [{name: TAKEN, value: '1:2'}]}",
        &["spec.communities[0].name: \"TAKEN\"", "Community standing"],
    ),
    (
        "v1beta2 BGPPeer",
        "{myASN: 64999, peerASN: 1, peerAddress: 10.77.0.200}",
        &["spec.myASN: \"64999\"", "BGPPeer standing"],
    ),
    (
        "v1beta1 BGPPeer",
        "{myASN: 64512, peerASN: 64513, peerAddress: 10.77.0.201}",
        &["spec.peerAddress: \"10.77.0.201\"", "BGPPeer standing"],
    ),
];
