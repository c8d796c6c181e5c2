//! The `metallb.io` resources: their schema, and their reduction to [`crate::snapshot`].
//!
//! Doc comments on the types below become the descriptions that `kubectl explain`
//! shows, so they speak to the operator. Everything that can be judged by looking at
//! one object alone is a rule of the schema: the API server then refuses it with a
//! sentence, before any agent sees it. Rules across objects (overlapping pools) are
//! the allocator's.
mod ip_address_pool;
mod l2_advertisement;
mod selector;

pub use ip_address_pool::{
    IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ServiceAllocation,
};
pub use l2_advertisement::{
    L2Advertisement, L2AdvertisementSpec, L2AdvertisementStatus, NodePreference,
};
pub use selector::{LabelSelector, LabelSelectorRequirement, Operator};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt;

/// The API group of all kinds here.
pub const GROUP: &str = "metallb.io";

/// All definitions, in the order in which they are printed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![IPAddressPool::crd(), l2_advertisement::crd()];
    // The title is the Rust type's name, which says nothing to anybody else.
    crds.iter_mut().flat_map(schemas).for_each(|schema| schema.title = None);
    crds
}

/// The schema of every version.
fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|v| v.schema.as_mut()?.open_api_v3_schema.as_mut())
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
