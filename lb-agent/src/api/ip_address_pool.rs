//! `IPAddressPool`
use super::{
    condition::{self, Condition},
    selector::{LabelSelector, selectors},
};
use crate::{snapshot, validate::Entry};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An entry is a prefix, or two addresses with a hyphen between them. Written without
/// lists: the API server refuses rules that could be slow, and takes every string for
/// as long as it may be.
const IS_PREFIX_OR_RANGE: &str = "self.contains('/') ? isCIDR(self.trim()) \
    : self.contains('-') && isIP(self.substring(0, self.indexOf('-')).trim()) \
    && isIP(self.substring(self.indexOf('-') + 1).trim())";

/// What is no range is the other rule's matter.
const RANGE_IS_OF_ONE_FAMILY: &str = "!self.contains('-') \
    || self.substring(0, self.indexOf('-')).contains(':') \
    == self.substring(self.indexOf('-')).contains(':')";

fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 1024,
        "items": {
            "type": "string",
            // Two IPv6 addresses in full, and spaces.
            "maxLength": 100,
            "x-kubernetes-validations": [
                {
                    "rule": IS_PREFIX_OR_RANGE,
                    "message": "must be a prefix such as 192.0.2.0/24, or a range such as \
                        192.0.2.10-192.0.2.20; a single address is written 192.0.2.10/32",
                },
                {
                    "rule": RANGE_IS_OF_ONE_FAMILY,
                    "message": "both ends of a range must be of the same family, IPv4 or IPv6",
                },
            ],
        },
    })
}

/// What a pool offers, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    plural = "ipaddresspools",
    namespaced,
    doc = "Addresses that Services of type LoadBalancer are given.",
    status = "IPAddressPoolStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Auto Assign", "type": "boolean", "jsonPath": ".spec.autoAssign"}"#,
    printcolumn = r#"{"name": "Avoid Buggy IPs", "type": "boolean", "jsonPath": ".spec.avoidBuggyIPs"}"#,
    printcolumn = r#"{"name": "Addresses", "type": "string", "jsonPath": ".spec.addresses"}"#
)]
pub struct IPAddressPoolSpec {
    /// The addresses: each entry is a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20), IPv4 or IPv6. They are given out in the order in which they stand here. No address may be in two entries, in this or in any other pool.
    #[schemars(schema_with = "addresses")]
    pub addresses: Vec<String>,

    /// Whether Services that ask for no particular pool or address may be given one from here.
    #[serde(default = "auto_assign_default")]
    pub auto_assign: bool,

    /// Leave out IPv4 addresses that end in .0 or .255, which some old devices refuse to talk to.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,

    /// Which Services may be given addresses from here; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

fn auto_assign_default() -> bool {
    true
}

/// To whom a pool's addresses are given. A Service must fit the namespaces (by name or by selector) and the Service selectors, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Of several pools that fit, the one with the lowest number is tried first; 0 comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,

    /// Names of namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,

    /// Namespaces by their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<LabelSelector>,

    /// Services by their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
}

/// How full a pool is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolStatus {
    /// IPv4 addresses in use.
    #[serde(rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// IPv6 addresses in use.
    #[serde(rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// IPv4 addresses that are free.
    #[serde(rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// IPv6 addresses that are free; 9223372036854775807 stands for that many or more.
    #[serde(rename = "availableIPv6")]
    pub available_ipv6: i64,
    /// `Valid`: whether the pool is used, and what is wrong with it if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list")]
    pub conditions: Vec<Condition>,
}

impl Entry<IPAddressPoolSpec> {
    /// What the allocator uses of it.
    pub fn to_snapshot(&self, refused: bool) -> snapshot::IpAddressPool {
        let IPAddressPoolSpec { addresses, auto_assign, avoid_buggy_ips, service_allocation } =
            self.spec.clone();
        snapshot::IpAddressPool {
            created: self.created,
            refused,
            labels: self.labels.clone(),
            addresses,
            auto_assign,
            avoid_buggy_ips,
            service_allocation: service_allocation.map(Into::into),
        }
    }
}

impl From<ServiceAllocation> for snapshot::ServiceAllocation {
    fn from(allocation: ServiceAllocation) -> Self {
        let ServiceAllocation { priority, namespaces, namespace_selectors, service_selectors } =
            allocation;
        Self {
            priority: priority.unwrap_or_default(),
            namespaces,
            namespace_selectors: selectors(namespace_selectors),
            service_selectors: selectors(service_selectors),
        }
    }
}
