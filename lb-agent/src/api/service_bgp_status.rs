//! `ServiceBGPStatus`
use super::{object::object, service_l2_status::immutable};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing: this kind only tells.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, JsonSchema,
)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceBGPStatus",
    root = "ServiceBGPStatusDefinition",
    plural = "servicebgpstatuses",
    namespaced,
    doc = "To which BGP peers a node is to announce a Service's address. Written by the agents.",
    status = "MetalLBServiceBGPStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".status.node"}"#,
    printcolumn = r#"{"name": "Service Name", "type": "string", "jsonPath": ".status.serviceName"}"#,
    printcolumn = r#"{"name": "Service Namespace", "type": "string", "jsonPath": ".status.serviceNamespace"}"#
)]
pub struct ServiceBGPStatusSpec {}

/// Who announces what, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetalLBServiceBGPStatus {
    /// The node that announces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "immutable")]
    pub node: Option<String>,
    /// The Service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "immutable")]
    pub service_name: Option<String>,
    /// The Service's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "immutable")]
    pub service_namespace: Option<String>,
    /// Names of the BGPPeers that it is to be announced to; whether it is depends on the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

object! {
    /// To which BGP peers a node is to announce a Service's address.
    ServiceBGPStatus, ServiceBGPStatusDefinition, ServiceBGPStatusSpec, MetalLBServiceBGPStatus
}
