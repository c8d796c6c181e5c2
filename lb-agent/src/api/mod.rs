//! The `metallb.io` resources: their schema, and their reduction to [`crate::snapshot`].
//!
//! Doc comments on the types below become the descriptions that `kubectl explain`
//! shows, so they speak to the operator. Everything that can be judged by looking at
//! one object alone is a rule of the schema: the API server then refuses it with a
//! sentence, before any agent sees it. Rules across objects (overlapping pools) are
//! the allocator's.
mod bfd_profile;
mod bgp_advertisement;
mod bgp_peer;
pub mod bgp_peer_v1beta1;
mod community;
mod condition;
mod configuration_state;
mod ip_address_pool;
mod l2_advertisement;
mod object;
mod selector;
mod service_bgp_status;
mod service_l2_status;

pub use bfd_profile::{BFDProfile, BFDProfileSpec, BFDProfileStatus};
pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec, BGPAdvertisementStatus};
pub use bgp_peer::{BGPPeer, BGPPeerSpec, BGPPeerStatus, DynamicAsn, SecretReference};
pub use community::{Community, CommunityAlias, CommunitySpec, CommunityStatus};
pub use condition::Condition;
pub use configuration_state::{
    ConfigurationResult, ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus,
};
pub use ip_address_pool::{
    IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ServiceAllocation,
};
pub use l2_advertisement::{
    L2Advertisement, L2AdvertisementSpec, L2AdvertisementStatus, NodePreference,
};
pub use selector::{LabelSelector, LabelSelectorRequirement, Operator};
pub use service_bgp_status::{MetalLBServiceBGPStatus, ServiceBGPStatus, ServiceBGPStatusSpec};
pub use service_l2_status::{
    InterfaceInfo, MetalLBServiceL2Status, ServiceL2Status, ServiceL2StatusSpec,
};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::CustomResourceExt;

/// The API group of all kinds here.
pub const GROUP: &str = "metallb.io";

/// All definitions, in the order in which they are printed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        IPAddressPool::crd(),
        L2Advertisement::crd(),
        bgp_peer(),
        BGPAdvertisement::crd(),
        BFDProfile::crd(),
        Community::crd(),
        ServiceL2Status::crd(),
        ServiceBGPStatus::crd(),
        ConfigurationState::crd(),
    ];
    crds.iter_mut().flat_map(schemas).for_each(tidy);
    crds
}

/// Both versions of `BGPPeer`. The API server converts between them without asking anybody: see
/// [`bgp_peer_v1beta1`].
fn bgp_peer() -> CustomResourceDefinition {
    let mut crd = BGPPeer::crd();
    let mut versions = bgp_peer_v1beta1::BGPPeer::crd().spec.versions;
    versions.append(&mut crd.spec.versions);
    crd.spec.versions = versions;
    crd
}

/// The schema of every version.
fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|v| v.schema.as_mut()?.open_api_v3_schema.as_mut())
}

/// Takes out what says something about the Rust types only: their names, and that absent
/// fields may be written as null (the API server drops null wherever it is not allowed).
fn tidy(schema: &mut JSONSchemaProps) {
    schema.title = None;
    schema.nullable = None;
    schema.properties.iter_mut().flatten().for_each(|(_, property)| tidy(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
}

/// When an object was created, in seconds since 1970; 0 in manifests. Of two objects that are in
/// each other's way, the older stays in force.
pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// The file under `deploy/crds` that holds a definition, and its text.
///
/// # Errors
/// None in practice: the definitions hold nothing that YAML cannot express.
pub fn crd_files() -> Result<Vec<(String, String)>, serde_yaml_ng::Error> {
    crds()
        .iter()
        .map(|crd| {
            let name = format!("{GROUP}_{}.yaml", crd.spec.names.plural);
            Ok((name, format!("---\n{}", serde_yaml_ng::to_string(crd)?)))
        })
        .collect()
}

/// What `lb-agent crds` prints: all definitions as one stream that `kubectl apply -f -` takes.
///
/// # Errors
/// As [`crd_files`].
pub fn crds_yaml() -> Result<String, serde_yaml_ng::Error> {
    Ok(crd_files()?.into_iter().map(|(_, text)| text).collect())
}

#[cfg(test)]
mod tests;
