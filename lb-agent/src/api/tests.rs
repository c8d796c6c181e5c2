//! The schema as users of MetalLB know it, and the checked-in copy of it.
use super::*;
use crate::{snapshot, validate::Entry};
use std::{env, fs, path::PathBuf};

/// `deploy/crds` must be what the types say. `HERALD_WRITE_CRDS=1 cargo test -p lb-agent crds`
/// writes the files anew.
#[test]
fn checked_in_crds_are_those_of_the_types() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    for (name, text) in crd_files().unwrap() {
        let path = folder.join(name);
        if env::var_os("HERALD_WRITE_CRDS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let on_disk = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            on_disk == text,
            "{} is stale: HERALD_WRITE_CRDS=1 cargo test -p lb-agent crds writes it anew",
            path.display()
        );
    }
}

fn schema(kind: &str) -> serde_json::Value {
    let crd = crds().into_iter().find(|c| c.spec.names.kind == kind).unwrap();
    serde_json::to_value(&crd.spec.versions[0]).unwrap()
}

#[test]
fn schema_has_every_field_that_metallb_has() {
    let pool = schema("IPAddressPool");
    let properties = &pool["schema"]["openAPIV3Schema"]["properties"];
    let spec = &properties["spec"]["properties"];
    for field in ["addresses", "autoAssign", "avoidBuggyIPs", "serviceAllocation"] {
        assert!(spec[field].is_object(), "{field}");
    }
    assert_eq!(spec["autoAssign"]["default"], true);
    assert_eq!(spec["avoidBuggyIPs"]["default"], false);
    assert_eq!(properties["spec"]["required"], serde_json::json!(["addresses"]));
    let allocation = &spec["serviceAllocation"]["properties"];
    for field in ["priority", "namespaces", "namespaceSelectors", "serviceSelectors"] {
        assert!(allocation[field].is_object(), "{field}");
        assert!(
            allocation[field].get("default").is_none(),
            "{field} must stay absent if not given"
        );
    }
    for field in ["assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"] {
        assert_eq!(properties["status"]["properties"][field]["type"], "integer", "{field}");
    }
    assert_eq!(pool["subresources"], serde_json::json!({"status": {}}));

    let l2 = schema("L2Advertisement");
    let spec = &l2["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    for field in [
        "ipAddressPools",
        "ipAddressPoolSelectors",
        "nodeSelectors",
        "interfaces",
        "serviceSelectors",
        "preferredNodeSelectors",
    ] {
        assert!(spec[field].is_object(), "{field}");
        assert!(spec[field].get("default").is_none(), "{field} must stay absent if not given");
    }
    let preference = &spec["preferredNodeSelectors"]["items"];
    assert_eq!(preference["required"], serde_json::json!(["preference", "weight"]));
    assert_eq!(preference["properties"]["weight"]["minimum"], 1.0);
    assert_eq!(preference["properties"]["weight"]["maximum"], 100.0);
    assert_eq!(l2["subresources"], serde_json::json!({"status": {}}));
}

#[test]
fn columns_are_those_that_metallb_users_know() {
    let columns = |kind| {
        schema(kind)["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(columns("IPAddressPool"), ["Auto Assign", "Avoid Buggy IPs", "Addresses"]);
    assert_eq!(
        columns("L2Advertisement"),
        ["IPAddressPools", "IPAddressPool Selectors", "Interfaces", "Node Selectors"]
    );
}

/// Kind, version, part, and the fields that MetalLB has there.
const FIELDS: [(&str, &str, &str, &str); 8] = [
    (
        "BGPPeer",
        "v1beta2",
        "spec",
        "bfdProfile connectTime disableMP dualStackAddressFamily dynamicASN ebgpMultiHop \
         enableGracefulRestart holdTime interface keepaliveTime localASN myASN nodeSelectors \
         password passwordSecret peerASN peerAddress peerPort routerID sourceAddress vrf",
    ),
    (
        "BGPPeer",
        "v1beta1",
        "spec",
        "bfdProfile ebgpMultiHop holdTime keepaliveTime myASN nodeSelectors password peerASN \
         peerAddress peerPort routerID sourceAddress",
    ),
    (
        "BGPAdvertisement",
        "v1beta1",
        "spec",
        "aggregationLength aggregationLengthV6 communities ipAddressPoolSelectors ipAddressPools \
         localPref nodeSelectors peers serviceSelectors",
    ),
    (
        "BFDProfile",
        "v1beta1",
        "spec",
        "detectMultiplier echoInterval echoMode minimumTtl passiveMode receiveInterval \
         transmitInterval",
    ),
    ("Community", "v1beta1", "spec", "communities"),
    ("ServiceL2Status", "v1beta1", "status", "interfaces node serviceName serviceNamespace"),
    ("ServiceBGPStatus", "v1beta1", "status", "node peers serviceName serviceNamespace"),
    ("ConfigurationState", "v1beta1", "status", "conditions errorSummary result"),
];

#[test]
fn the_other_kinds_have_metallb_s_fields_and_no_others() {
    for (kind, version, part, expected) in FIELDS {
        let crd = crds().into_iter().find(|c| c.spec.names.kind == kind).unwrap();
        let version = crd.spec.versions.iter().find(|v| v.name == version).unwrap();
        assert!(version.served && version.subresources.is_some(), "{kind}");
        let version = serde_json::to_value(version).unwrap();
        let part = &version["schema"]["openAPIV3Schema"]["properties"][part]["properties"];
        let names: Vec<_> = part.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: Vec<_> = expected.split_whitespace().collect();
        assert_eq!(names, expected, "{kind}");
    }
    let peer = crds().into_iter().find(|c| c.spec.names.kind == "BGPPeer").unwrap();
    let stored: Vec<_> = peer.spec.versions.iter().map(|v| (&*v.name, v.storage)).collect();
    assert_eq!(stored, [("v1beta1", false), ("v1beta2", true)]);
    assert!(peer.spec.conversion.is_none());
}

#[test]
fn an_advertisement_needs_no_spec() {
    let l2 = schema("L2Advertisement");
    assert!(l2["schema"]["openAPIV3Schema"].get("required").is_none());
    let advertisement: L2Advertisement = serde_yaml_ng::from_str(
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: all}\n",
    )
    .unwrap();
    let reduced = snapshot::L2Advertisement::from(advertisement.spec);
    assert_eq!(reduced, snapshot::L2Advertisement::default());
}

#[test]
fn every_field_reaches_the_snapshot() {
    let pool: IPAddressPool = serde_yaml_ng::from_str(
        "
metadata: {name: a, labels: {tier: gold}}
spec:
  addresses: [192.0.2.0/28, '2001:db8::1-2001:db8::9']
  autoAssign: false
  avoidBuggyIPs: true
  serviceAllocation:
    priority: 7
    namespaces: [x, y]
    namespaceSelectors: [{matchLabels: {team: a}}]
    serviceSelectors:
    - matchExpressions: [{key: app, operator: NotIn, values: [b, a, b]}]
",
    )
    .unwrap();
    let pool = Entry::new(pool.metadata, pool.spec, Vec::new()).to_snapshot(false);
    assert_eq!(pool.labels.get("tier").unwrap(), "gold");
    assert_eq!(pool.addresses, ["192.0.2.0/28", "2001:db8::1-2001:db8::9"]);
    assert!(!pool.auto_assign && pool.avoid_buggy_ips);
    let allocation = pool.service_allocation.unwrap();
    assert_eq!((allocation.priority, allocation.namespaces.len()), (7, 2));
    assert_eq!(allocation.namespace_selectors[0].match_labels.get("team").unwrap(), "a");
    let requirement = &allocation.service_selectors[0].match_expressions[0];
    assert_eq!(requirement.operator, snapshot::Operator::NotIn);
    assert_eq!(Vec::from_iter(&requirement.values), ["a", "b"]);

    let l2: L2Advertisement = serde_yaml_ng::from_str(
        "
metadata: {name: a}
spec:
  ipAddressPools: [p]
  ipAddressPoolSelectors: [{matchLabels: {a: b}}]
  nodeSelectors: [{matchExpressions: [{key: n, operator: Exists}]}]
  interfaces: [eth1]
  serviceSelectors: [{}]
  preferredNodeSelectors: [{weight: 5, preference: {}}]
",
    )
    .unwrap();
    let l2 = snapshot::L2Advertisement::from(l2.spec);
    assert_eq!(l2.ip_address_pools, ["p"]);
    assert_eq!(l2.ip_address_pool_selectors[0].match_labels.get("a").unwrap(), "b");
    assert_eq!(l2.node_selectors[0].match_expressions[0].operator, snapshot::Operator::Exists);
    assert_eq!(l2.interfaces, ["eth1"]);
    assert_eq!(l2.service_selectors, [snapshot::LabelSelector::default()]);
    assert_eq!(l2.preferred_node_selectors[0].weight, 5);
}

#[test]
fn an_unknown_operator_is_refused() {
    let result: Result<LabelSelector, _> =
        serde_yaml_ng::from_str("matchExpressions: [{key: a, operator: Like}]");
    assert!(result.unwrap_err().to_string().contains("unknown variant `Like`"));
}
