//! `L2Advertisement`
use super::{
    condition::{self, Condition},
    object::object,
    selector::{LabelSelector, selectors},
};
use crate::snapshot;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is announced on layer 2, from where. Empty: all pools, from any node, on all uplinks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "L2Advertisement",
    root = "L2AdvertisementDefinition",
    plural = "l2advertisements",
    namespaced,
    doc = "Announces the addresses of pools on layer 2, by ARP and NDP.",
    status = "L2AdvertisementStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "IPAddressPools", "type": "string", "jsonPath": ".spec.ipAddressPools"}"#,
    printcolumn = r#"{"name": "IPAddressPool Selectors", "type": "string", "jsonPath": ".spec.ipAddressPoolSelectors"}"#,
    printcolumn = r#"{"name": "Interfaces", "type": "string", "jsonPath": ".spec.interfaces"}"#,
    printcolumn = r#"{"name": "Node Selectors", "type": "string", "jsonPath": ".spec.nodeSelectors", "priority": 10}"#
)]
pub struct L2AdvertisementSpec {
    /// Names of the pools to announce. Where this and ipAddressPoolSelectors are both empty: all pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ip_address_pools: Vec<String>,

    /// Pools to announce by their labels, in addition to those named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,

    /// Nodes that may announce, by their labels; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,

    /// Names of the interfaces to announce on; empty: all uplinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,

    /// Services whose addresses are announced, by their labels; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,

    /// Nodes that had better announce, among those that may: the weights of all that match a node are added up, and the node with the highest sum announces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_node_selectors: Vec<NodePreference>,
}

/// A preference for nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePreference {
    /// How much a node that matches is preferred.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// Nodes by their labels; empty: every node.
    pub preference: LabelSelector,
}

/// Whether the advertisement is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct L2AdvertisementStatus {
    /// `Valid`: whether it is used, and what is wrong with it if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list")]
    pub conditions: Vec<Condition>,
}

object! {
    /// Announces the addresses of pools on layer 2, by ARP and NDP.
    L2Advertisement, L2AdvertisementDefinition, L2AdvertisementSpec, L2AdvertisementStatus
}

impl From<L2AdvertisementSpec> for snapshot::L2Advertisement {
    fn from(spec: L2AdvertisementSpec) -> Self {
        let L2AdvertisementSpec {
            ip_address_pools,
            ip_address_pool_selectors,
            node_selectors,
            interfaces,
            service_selectors,
            preferred_node_selectors,
        } = spec;
        Self {
            ip_address_pools,
            ip_address_pool_selectors: selectors(ip_address_pool_selectors),
            node_selectors: selectors(node_selectors),
            interfaces,
            service_selectors: selectors(service_selectors),
            preferred_node_selectors: preferred_node_selectors
                .into_iter()
                .map(|NodePreference { weight, preference }| snapshot::NodePreference {
                    weight,
                    preference: preference.into(),
                })
                .collect(),
        }
    }
}
