//! Reviews that the API server sends: of objects, and of their conversion.

use std::sync::OnceLock;

use lb_agent::{
    api::IPAddressPool,
    source::index::{Configuration, Index, Kind, Scope},
    webhook::fuzz,
};
use serde_json::{Value, json};

use crate::samples::{self, NAMESPACE};

/// Answers a request as either of the two reviews.
pub fn run(data: &[u8]) {
    for known in [None, Some(known())] {
        let answer = fuzz::review(data, NAMESPACE, known);
        assert_eq!(answer, fuzz::review(data, NAMESPACE, known));
        if let Ok(answer) = answer {
            let response = &answer["response"];
            // A refusal says why.
            let message = response["status"]["message"].as_str();
            let allowed = response["allowed"].as_bool().expect("an answer");
            assert!(allowed || message.is_some_and(|message| !message.is_empty()));
        }
    }
    if let Ok(answer) = fuzz::convert(data) {
        // What a review does not use is not looked into, and may be no text.
        let Ok(asked) = serde_json::from_slice::<Value>(data) else { return };
        let converted = answer["response"]["convertedObjects"].as_array().expect("objects");
        if answer["response"]["result"]["status"] == "Success" {
            let objects = asked["request"]["objects"].as_array().map_or(0, Vec::len);
            assert_eq!(converted.len(), objects);
            let version = &asked["request"]["desiredAPIVersion"];
            assert!(converted.iter().all(|object| object["apiVersion"] == *version));
        } else {
            assert!(converted.is_empty());
        }
    }
}

/// A pool that is in the way of others.
fn known() -> &'static Configuration {
    static KNOWN: OnceLock<Configuration> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let scope = Scope { namespace: NAMESPACE.to_owned(), ..Scope::default() };
        let pool = json!({
            "metadata": {"name": "first", "namespace": NAMESPACE},
            "spec": {"addresses": ["198.51.100.128/25", "2001:db8::/64"]},
        });
        let pool: IPAddressPool = serde_json::from_value(pool).expect("a pool");
        let mut index = Index::default();
        let reduced = pool.reduce(&scope).expect("it can be meant");
        index
            .set::<IPAddressPool>(lb_agent::snapshot::ObjectName::new(NAMESPACE, "first"), reduced);
        Configuration::clone(&index.configuration())
    })
}

/// Reviews of all objects, created, changed and deleted, and conversions of all of them.
pub fn seeds() -> Vec<Vec<u8>> {
    let objects = samples::objects();
    let mut seeds = Vec::new();
    for object in &objects {
        for operation in ["CREATE", "UPDATE", "DELETE"] {
            let gone = operation == "DELETE";
            seeds.push(json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "request": {
                    "uid": "u", "operation": operation, "namespace": NAMESPACE,
                    "name": object["metadata"]["name"],
                    "kind": {"group": "metallb.io", "version": "v1beta1", "kind": object["kind"]},
                    "object": if gone { &Value::Null } else { object },
                    "oldObject": if operation == "CREATE" { &Value::Null } else { object },
                },
            }));
        }
    }
    let peers: Vec<_> = objects.iter().filter(|object| object["kind"] == "BGPPeer").collect();
    for version in ["metallb.io/v1beta1", "metallb.io/v1beta2", "metallb.io/v9"] {
        for objects in [json!(peers), json!(objects)] {
            seeds.push(json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "request": {"uid": "u", "desiredAPIVersion": version, "objects": objects},
            }));
        }
    }
    seeds.iter().map(|seed| seed.to_string().into_bytes()).collect()
}
