//! `Community`
use super::{
    condition::{self, Condition},
    object::object,
};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Two numbers of 16 bits, or `large:` and three of 32 bits.
pub(super) const IS_COMMUNITY: &str = "self.matches('^[0-9]{1,10}:[0-9]{1,10}$') \
    ? self.split(':').all(part, int(part) <= 65535) \
    : self.matches('^large:[0-9]{1,12}:[0-9]{1,12}:[0-9]{1,12}$') \
    && self.substring(6).split(':').all(part, int(part) <= 4294967295)";

/// What is said where that does not hold.
pub(super) const MUST_BE_COMMUNITY: &str = "must be a community such as 65000:100 (two numbers up \
    to 65535) or a large one such as large:65000:1:2 (three numbers up to 4294967295)";

fn value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [{ "rule": IS_COMMUNITY, "message": MUST_BE_COMMUNITY }],
    })
}

/// Names for communities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "Community",
    root = "CommunityDefinition",
    plural = "communities",
    namespaced,
    doc = "Names for BGP communities, for use in BGPAdvertisements.",
    status = "CommunityStatus",
    derive = "PartialEq"
)]
pub struct CommunitySpec {
    /// The names. Each may be given once only, in all Communities together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub communities: Vec<CommunityAlias>,
}

/// A name for a community.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommunityAlias {
    /// The name that BGPAdvertisements use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The community: 65000:100, or large:65000:1:2.
    #[schemars(schema_with = "value")]
    pub value: String,
}

/// Whether the names are in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommunityStatus {
    /// `Valid`: whether they are used, and what is wrong with them if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list")]
    pub conditions: Vec<Condition>,
}

object! {
    /// Names for BGP communities, for use in BGPAdvertisements.
    Community, CommunityDefinition, CommunitySpec, CommunityStatus
}
