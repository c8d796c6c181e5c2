//! Kinds whose objects need no spec.

/// A kind whose `spec` may be left out.
///
/// Not the type that the derive makes: that one insists on a spec, and manifests written for
/// MetalLB commonly have none.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $definition:ident, $spec:ident, $status:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, kube::Resource,
        )]
        #[resource(inherit = $definition)]
        pub struct $name {
            /// Name, namespace, labels and the like.
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What is asked for.
            #[serde(default)]
            pub spec: $spec,
            /// What has become of it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub status: Option<$status>,
        }

        impl $name {
            /// The definition, with the spec not required.
            pub(super) fn crd() -> $crate::api::CustomResourceDefinition {
                let mut crd = <$definition as kube::CustomResourceExt>::crd();
                $crate::api::schemas(&mut crd).for_each(|schema| schema.required = None);
                crd
            }
        }
    };
}

pub(super) use object;
