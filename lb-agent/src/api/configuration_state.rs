//! `ConfigurationState`
use super::{
    condition::{self, Condition},
    object::object,
};
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
    kind = "ConfigurationState",
    root = "ConfigurationStateDefinition",
    plural = "configurationstates",
    namespaced,
    doc = "What is wrong with the configuration, as an agent sees it. `controller` is that of the agent that allocates, speaker-NODE that of each node. Written by the agents.",
    status = "ConfigurationStateStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Result", "type": "string", "jsonPath": ".status.result"}"#,
    printcolumn = r#"{"name": "ErrorSummary", "type": "string", "jsonPath": ".status.errorSummary"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct ConfigurationStateSpec {}

/// What is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// Whether the whole configuration is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ConfigurationResult>,
    /// What is wrong, a line for each thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_summary: Option<String>,
    /// The same by the part of the agent that found it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list")]
    pub conditions: Vec<Condition>,
}

/// Whether a configuration is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigurationResult {
    /// All of it.
    Valid,
    /// All but what is named.
    Invalid,
    /// It has not been looked at.
    Unknown,
}

object! {
    /// What is wrong with the configuration, as an agent sees it.
    ConfigurationState, ConfigurationStateDefinition, ConfigurationStateSpec,
    ConfigurationStateStatus
}
