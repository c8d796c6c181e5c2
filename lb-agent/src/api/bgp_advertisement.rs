//! `BGPAdvertisement`
use super::{
    community::{IS_COMMUNITY, MUST_BE_COMMUNITY},
    condition::{self, Condition},
    object::object,
    selector::LabelSelector,
};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Only an address as a whole belongs to one Service.
const SERVICES_ARE_NOT_AGGREGATED: &str = "!has(self.serviceSelectors) \
    || self.serviceSelectors.size() == 0 \
    || ((!has(self.aggregationLength) || self.aggregationLength == 32) \
    && (!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))";

fn communities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            // As long as the name of an object may be.
            "maxLength": 253,
            "x-kubernetes-validations": [{
                // What has no colon is a name from a Community.
                "rule": format!("!self.contains(':') || ({IS_COMMUNITY})"),
                "message": MUST_BE_COMMUNITY,
            }],
        },
    })
}

/// What is announced by BGP, how and to whom. Empty: all pools, from all nodes, to all peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": SERVICES_ARE_NOT_AGGREGATED,
    "message": "serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default aggregationLength (32) and aggregationLengthV6 (128)",
}]))]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BGPAdvertisement",
    root = "BGPAdvertisementDefinition",
    plural = "bgpadvertisements",
    namespaced,
    doc = "Announces the addresses of pools by BGP.",
    status = "BGPAdvertisementStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "IPAddressPools", "type": "string", "jsonPath": ".spec.ipAddressPools"}"#,
    printcolumn = r#"{"name": "IPAddressPool Selectors", "type": "string", "jsonPath": ".spec.ipAddressPoolSelectors"}"#,
    printcolumn = r#"{"name": "Peers", "type": "string", "jsonPath": ".spec.peers"}"#,
    printcolumn = r#"{"name": "Node Selectors", "type": "string", "jsonPath": ".spec.nodeSelectors", "priority": 10}"#
)]
pub struct BGPAdvertisementSpec {
    /// Length of the prefix that an IPv4 address is announced in.
    #[serde(default = "whole_v4")]
    #[schemars(range(min = 1, max = 32))]
    pub aggregation_length: i32,

    /// Length of the prefix that an IPv6 address is announced in.
    #[serde(default = "whole_v6", rename = "aggregationLengthV6")]
    #[schemars(range(min = 1, max = 128))]
    pub aggregation_length_v6: i32,

    /// LOCAL_PREF of the route, for peers of the same AS; a route with a higher one is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub local_pref: Option<i32>,

    /// Communities that the route carries: 65000:100, large:65000:1:2, or a name that a Community gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "communities")]
    pub communities: Vec<String>,

    /// Names of the pools to announce. Where this and ipAddressPoolSelectors are both empty: all pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ip_address_pools: Vec<String>,

    /// Pools to announce by their labels, in addition to those named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// Nodes that announce, by their labels; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,

    /// Names of the BGPPeers to announce to; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub peers: Vec<String>,

    /// Services whose addresses are announced, by their labels; empty: all. Only for addresses that are announced one by one, not in a larger prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
}

/// An address of its own.
fn whole_v4() -> i32 {
    32
}

/// An address of its own.
fn whole_v6() -> i32 {
    128
}

impl Default for BGPAdvertisementSpec {
    fn default() -> Self {
        Self {
            aggregation_length: whole_v4(),
            aggregation_length_v6: whole_v6(),
            local_pref: None,
            communities: Vec::new(),
            ip_address_pools: Vec::new(),
            ip_address_pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            peers: Vec::new(),
            service_selectors: Vec::new(),
        }
    }
}

/// Whether the advertisement is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPAdvertisementStatus {
    /// `Valid`: whether it is used, and what is wrong with it if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list")]
    pub conditions: Vec<Condition>,
}

object! {
    /// Announces the addresses of pools by BGP.
    BGPAdvertisement, BGPAdvertisementDefinition, BGPAdvertisementSpec, BGPAdvertisementStatus
}
