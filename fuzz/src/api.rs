//! Objects of the Kubernetes API: read, reduced, judged, and made into a snapshot.

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::Resource;
use lb_agent::{
    api::{BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement},
    source::{
        convert::object_name,
        index::{Index, Kind, Scope},
    },
    validate,
};
use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};

use crate::samples::{self, NAMESPACE};

/// Reads objects, one behind the other, as they would come from the API.
pub fn run(data: &[u8]) {
    let scope = Scope { namespace: NAMESPACE.to_owned(), ..Scope::default() };
    let mut index = Index::default();
    for object in Deserializer::from_slice(data).into_iter::<Value>() {
        let Ok(object) = object else { break };
        take(&mut index, object, &scope);
    }
    let configuration = index.configuration();
    assert_eq!(validate::judge(&configuration.objects), configuration.verdict);
    for (kind, name, faults) in configuration.verdict.iter() {
        assert!(!configuration.verdict.is_valid(kind, name));
        for fault in faults {
            assert!(!fault.to_string().is_empty());
        }
    }
    let snapshot = index.snapshot();
    assert_eq!(snapshot, index.snapshot());
}

fn take(index: &mut Index, object: Value, scope: &Scope) {
    match object.get("kind").and_then(Value::as_str) {
        Some("Service") => set::<Service>(index, object, scope),
        Some("EndpointSlice") => set::<EndpointSlice>(index, object, scope),
        Some("Node") => set::<Node>(index, object, scope),
        Some("Namespace") => set::<Namespace>(index, object, scope),
        Some("IPAddressPool") => set::<IPAddressPool>(index, object, scope),
        Some("L2Advertisement") => set::<L2Advertisement>(index, object, scope),
        Some("BGPAdvertisement") => set::<BGPAdvertisement>(index, object, scope),
        Some("BGPPeer") => set::<BGPPeer>(index, object, scope),
        Some("BFDProfile") => set::<BFDProfile>(index, object, scope),
        Some("Community") => set::<Community>(index, object, scope),
        _ => {}
    }
}

fn set<K: Kind + Resource<DynamicType = ()> + DeserializeOwned>(
    index: &mut Index,
    object: Value,
    scope: &Scope,
) {
    let Ok(object) = serde_json::from_value::<K>(object) else { return };
    let Ok(name) = object_name(object.meta()) else { return };
    match object.reduce(scope) {
        Ok(reduced) => {
            index.set::<K>(name, reduced);
        }
        Err(invalid) => assert!(!invalid.to_string().is_empty()),
    }
}

/// Objects one by one, and all behind each other.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts: Vec<String> = samples::objects().iter().map(Value::to_string).collect();
    let all = texts.join("\n");
    texts.into_iter().chain([all]).map(String::into_bytes).collect()
}
