//! Kubernetes objects to begin with: of those that Kubernetes defines by hand, of Herald's own from
//! their definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::{Map, Value, json};

/// The namespace that pools and the like are read from.
pub(crate) const NAMESPACE: &str = "metallb-system";

/// An object of each kind that Herald reads, and some of them in another form.
pub(crate) fn objects() -> Vec<Value> {
    kubernetes().into_iter().chain(useful()).chain(configuration()).collect()
}

fn kubernetes() -> [Value; 6] {
    let labels = json!({"kubernetes.io/service-name": "web"});
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"a": "b"}}}),
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "a"}},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "Hostname", "address": "a"},
                ],
                "conditions": [{"type": "NetworkUnavailable", "status": "False"}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "2",
                "labels": {"app": "web"},
                "annotations": {"metallb.io/loadBalancerIPs": "198.51.100.1,2001:db8::1"},
            },
            "spec": {
                "type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
                "ports": [
                    {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"},
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
                    {"name": "s", "port": 5000, "protocol": "SCTP", "targetPort": 5000},
                ],
                "selector": {"app": "web"}, "externalTrafficPolicy": "Local",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                "loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8::/32"],
                "publishNotReadyAddresses": true,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "h"}]}},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "old", "namespace": "default",
                "annotations": {
                    "metallb.io/address-pool": "p", "metallb.io/allow-shared-ip": "k",
                    "metallb.universe.tf/ip-allocated-from-pool": "p",
                },
            },
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.2", "loadBalancerIP": "198.51.100.2",
                "loadBalancerClass": "herald", "ports": [{"port": 443}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns"}],
            "endpoints": [
                {"addresses": ["10.244.1.5"], "nodeName": "a", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.6"], "conditions": {"serving": true, "terminating": true}},
            ],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-2", "namespace": "shop", "labels": labels},
            "addressType": "IPv6", "endpoints": [{"addresses": ["fd00:244:1::5"]}],
        }),
    ]
}

fn ours(kind: &str, version: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": {
            "name": "p", "namespace": NAMESPACE, "generation": 1, "uid": "3",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"tier": "gold"},
        },
        "spec": spec,
    })
}

/// Some that can be used.
fn useful() -> [Value; 4] {
    let selector = json!({
        "matchLabels": {"tier": "gold"},
        "matchExpressions": [{"key": "k", "operator": "In", "values": ["1", "2"]}],
    });
    [
        ours(
            "IPAddressPool",
            "v1beta1",
            &json!({
                "addresses": ["198.51.100.0/24", "2001:db8:1::1-2001:db8:1::ff"],
                "autoAssign": false, "avoidBuggyIPs": true,
                "serviceAllocation": {
                    "priority": 5, "namespaces": ["shop"], "namespaceSelectors": [selector],
                    "serviceSelectors": [selector],
                },
            }),
        ),
        ours(
            "L2Advertisement",
            "v1beta1",
            &json!({
                "ipAddressPools": ["p"], "ipAddressPoolSelectors": [selector],
                "nodeSelectors": [selector], "interfaces": ["eth0"],
            }),
        ),
        ours(
            "BGPAdvertisement",
            "v1beta1",
            &json!({
                "aggregationLength": 32, "aggregationLengthV6": 128, "localPref": 100,
                "communities": ["65535:65282", "large:1:2:3", "alias"], "ipAddressPools": ["p"],
                "peers": ["p"], "nodeSelectors": [selector],
            }),
        ),
        ours(
            "BGPPeer",
            "v1beta2",
            &json!({
                "myASN": 64512, "peerASN": 4_200_000_000_u32, "peerAddress": "192.0.2.1",
                "sourceAddress": "192.0.2.2", "peerPort": 179, "holdTime": "1m30s",
                "keepaliveTime": "30s", "routerID": "192.0.2.3", "password": "secret",
                "bfdProfile": "p", "ebgpMultiHop": true, "nodeSelectors": [selector],
            }),
        ),
    ]
}

/// One of each of Herald's definitions, with every field.
fn configuration() -> Vec<Value> {
    let mut objects = Vec::new();
    for definition in lb_agent::api::crds() {
        let kind = definition.spec.names.kind;
        for version in definition.spec.versions {
            let schema = version.schema.and_then(|schema| schema.open_api_v3_schema);
            let spec = schema.and_then(|schema| schema.properties?.remove("spec"));
            let spec = spec.as_ref().map_or(Value::Null, value);
            objects.push(ours(&kind, &version.name, &spec));
        }
    }
    objects
}

/// A value that a schema allows, as far as its types go.
fn value(schema: &JSONSchemaProps) -> Value {
    if let Some(first) = schema.enum_.as_ref().and_then(|all| all.first()) {
        return first.0.clone();
    }
    if let Some(default) = &schema.default {
        return default.0.clone();
    }
    match schema.type_.as_deref() {
        Some("boolean") => true.into(),
        Some("integer" | "number") => json!(schema.minimum.unwrap_or(1.0) as i64),
        Some("string") => "a".into(),
        Some("array") => match &schema.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => json!([value(items)]),
            _ => json!([]),
        },
        _ => {
            let fields = schema.properties.iter().flatten();
            Value::Object(
                fields.map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>(),
            )
        }
    }
}
