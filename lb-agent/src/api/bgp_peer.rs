//! `BGPPeer`, in the version that is stored.
use super::{
    condition::{self, Condition},
    selector::LabelSelector,
};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A session with one router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(has(self.peerASN) && self.peerASN != 0) != has(self.dynamicASN)",
        "message": "give either peerASN or dynamicASN",
    },
    {
        "rule": "(has(self.peerAddress) && self.peerAddress != '') \
            != (has(self.interface) && self.interface != '')",
        "message": "give either peerAddress or interface",
    },
    {
        "rule": "!(has(self.ebgpMultiHop) && self.ebgpMultiHop \
            && has(self.peerASN) && self.peerASN == self.myASN)",
        "message": "ebgpMultiHop is for peers of another AS: leave it out, or correct peerASN or myASN",
    },
    {
        "rule": "!(has(self.password) && self.password != '' && has(self.passwordSecret) \
            && has(self.passwordSecret.name) && self.passwordSecret.name != '')",
        "message": "give either password or passwordSecret",
    },
    {
        "rule": "!has(self.holdTime) || !has(self.keepaliveTime) \
            || duration(self.keepaliveTime) <= duration(self.holdTime)",
        "message": "keepaliveTime must not be longer than holdTime",
    },
    {
        "rule": "!has(self.keepaliveTime) || has(self.holdTime) \
            || duration(self.keepaliveTime) < duration('334ms') \
            || duration(self.keepaliveTime) >= duration('1s')",
        "message": "without a holdTime, keepaliveTime must be 0 or at least 1s: the hold time is three times as long",
    },
]))]
#[kube(
    group = "metallb.io",
    version = "v1beta2",
    kind = "BGPPeer",
    plural = "bgppeers",
    namespaced,
    doc = "A router that addresses are announced to by BGP.",
    status = "BGPPeerStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".spec.peerAddress"}"#,
    printcolumn = r#"{"name": "ASN", "type": "string", "jsonPath": ".spec.peerASN"}"#,
    printcolumn = r#"{"name": "BFD Profile", "type": "string", "jsonPath": ".spec.bfdProfile"}"#,
    printcolumn = r#"{"name": "Multi Hops", "type": "string", "jsonPath": ".spec.ebgpMultiHop"}"#
)]
pub struct BGPPeerSpec {
    /// The nodes' AS number in this session.
    #[serde(rename = "myASN")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub my_asn: i64,

    /// The peer's AS number. This or dynamicASN must be given.
    #[serde(default, rename = "peerASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub peer_asn: Option<i64>,

    /// Take any AS number of the peer that is the same as myASN (internal), or any that is another (external).
    #[serde(default, rename = "dynamicASN", skip_serializing_if = "Option::is_none")]
    pub dynamic_asn: Option<DynamicAsn>,

    /// The AS number to show to this peer instead of myASN.
    #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub local_asn: Option<i64>,

    /// The peer's address. This or interface must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "address")]
    pub peer_address: Option<String>,

    /// The nodes' interface on which the peer is the only other router, for a session without a given address (unnumbered).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,

    /// The address that the nodes speak from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "address")]
    pub source_address: Option<String>,

    /// The peer's TCP port.
    #[serde(default = "bgp_port")]
    #[schemars(range(min = 1, max = 16_384))]
    pub peer_port: i32,

    /// After how long without a message the session is down: 0 for never, else at least 3s. If absent, three times keepaliveTime, or 90s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "hold_time")]
    pub hold_time: Option<String>,

    /// How often a message is sent at least. If absent, a third of holdTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration")]
    pub keepalive_time: Option<String>,

    /// How long to wait between attempts to connect: whole seconds, 1s to 65535s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "connect_time")]
    pub connect_time: Option<String>,

    /// The nodes' BGP identifier, in the form of an IPv4 address. If absent, each node takes its own address.
    #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "router_id")]
    pub router_id: Option<String>,

    /// Nodes that speak to this peer, by their labels; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,

    /// The password of the session (TCP MD5, RFC 2385). Better kept in a Secret: see passwordSecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,

    /// The Secret that holds the password of the session: of type kubernetes.io/basic-auth, in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretReference>,

    /// Name of the BFDProfile for a BFD session beside this one; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_profile: Option<String>,

    /// Whether the peer is asked to keep routes while a node's session restarts (RFC 4724). Cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "EnableGracefulRestart cannot be changed after creation",
    }]))]
    pub enable_graceful_restart: Option<bool>,

    /// Whether the peer is several hops away. For peers of another AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebgp_multi_hop: Option<bool>,

    /// The nodes' VRF that the peer is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,

    /// Whether the session carries IPv4 and IPv6, not only the family of its addresses.
    #[serde(default)]
    pub dual_stack_address_family: bool,

    /// Without effect, and deprecated: a session carries the family of its addresses only, unless dualStackAddressFamily is set.
    #[serde(default, rename = "disableMP")]
    pub disable_mp: bool,
}

/// The port that IANA has for BGP.
fn bgp_port() -> i32 {
    179
}

/// The AS numbers that a peer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DynamicAsn {
    /// The same as ours.
    Internal,
    /// Any that is not ours.
    External,
}

/// A Secret by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretReference {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Whether the peer is in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPPeerStatus {
    /// `Valid`: whether it is used, and what is wrong with it if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition::list")]
    pub conditions: Vec<Condition>,
}

/// A string that satisfies rules. Limited, since what rules may cost is reckoned by it.
fn text(max_length: u32, rules: &serde_json::Value) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": max_length,
        "x-kubernetes-validations": rules,
    })
}

/// Empty counts as absent, as everywhere in MetalLB.
fn address(_: &mut SchemaGenerator) -> Schema {
    let rule = "self == '' || isIP(self)";
    text(64, &serde_json::json!([{ "rule": rule, "message": "must be an IP address" }]))
}

fn router_id(_: &mut SchemaGenerator) -> Schema {
    let rule = "self == '' || (isIP(self) && ip(self).family() == 4)";
    let message = "must have the form of an IPv4 address, such as 192.0.2.1";
    text(64, &serde_json::json!([{ "rule": rule, "message": message }]))
}

/// As Go's `time.ParseDuration` reads it, without a sign.
pub(super) const IS_DURATION: &str =
    "self.matches('^(0|([0-9]+[.]?[0-9]*|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+$')";
const MUST_BE_DURATION: &str = "must be a duration such as 90s or 1m30s";

pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    text(64, &serde_json::json!([{ "rule": IS_DURATION, "message": MUST_BE_DURATION }]))
}

/// RFC 4271, section 4.2: zero, or at least three seconds.
pub(super) fn hold_time(_: &mut SchemaGenerator) -> Schema {
    let rule = "duration(self).getSeconds() == 0 || duration(self).getSeconds() >= 3";
    text(
        64,
        &serde_json::json!([
            { "rule": IS_DURATION, "message": MUST_BE_DURATION },
            { "rule": rule, "message": "must be 0 or at least 3s" },
        ]),
    )
}

fn connect_time(_: &mut SchemaGenerator) -> Schema {
    let in_range = "duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535";
    text(
        64,
        &serde_json::json!([
            { "rule": IS_DURATION, "message": MUST_BE_DURATION },
            { "rule": in_range, "message": "connect time should be between 1 seconds to 65535" },
            {
                "rule": "duration(self).getMilliseconds() % 1000 == 0",
                "message": "connect time should contain a whole number of seconds",
            },
        ]),
    )
}
