//! The answer to a `ConversionReview`, without I/O.
//!
//! The definitions that Herald ships need none: see [`crate::api::bgp_peer_v1beta1`]. Those of
//! MetalLB, where they still stand, ask here.
use crate::api::GROUP;
use serde::Deserialize;
use serde_json::{Value, json};

/// The fields of a BGPPeer's spec that v1beta1 knows. v1beta2 has all of them, with the same
/// meaning.
const V1BETA1: [&str; 12] = [
    "myASN",
    "peerASN",
    "peerAddress",
    "sourceAddress",
    "peerPort",
    "holdTime",
    "keepaliveTime",
    "routerID",
    "nodeSelectors",
    "password",
    "bfdProfile",
    "ebgpMultiHop",
];

#[derive(Deserialize)]
struct Review {
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired: String,
    #[serde(default)]
    objects: Vec<Value>,
}

/// Answers a review.
///
/// # Errors
/// What is wrong with the review itself.
pub(super) fn answer(body: &[u8]) -> Result<Value, String> {
    let Review { request } =
        serde_json::from_slice(body).map_err(|e| format!("this is no ConversionReview: {e}"))?;
    let Request { uid, desired, objects } = request;
    let converted: Result<Vec<_>, _> =
        objects.into_iter().map(|object| convert(object, &desired)).collect();
    let response = match converted {
        Ok(objects) => json!({
            "uid": uid,
            "result": { "status": "Success" },
            "convertedObjects": objects,
        }),
        Err(message) => json!({
            "uid": uid,
            "result": { "status": "Failed", "message": message },
            "convertedObjects": [],
        }),
    };
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "response": response,
    }))
}

/// The object in another version.
fn convert(mut object: Value, desired: &str) -> Result<Value, String> {
    if object["kind"] != "BGPPeer" {
        return Err(format!("{} has one version only: nothing is converted", object["kind"]));
    }
    let version = |version: &str| version.strip_prefix(GROUP)?.strip_prefix('/').map(str::to_owned);
    let Some(fields) = object.as_object_mut() else { return Err("this is no object".to_owned()) };
    let spec = fields.get_mut("spec").and_then(Value::as_object_mut);
    match version(desired).as_deref() {
        Some("v1beta1") => {
            if let Some(spec) = spec {
                spec.retain(|field, _| V1BETA1.contains(&field.as_str()));
            }
        }
        Some("v1beta2") => {
            if let Some(spec) = spec
                && spec.get("peerPort").is_some_and(|port| *port == 0)
            {
                // The usual one, which v1beta2 knows as absent only.
                spec.remove("peerPort");
            }
        }
        _ => return Err(format!("there is no BGPPeer {desired}: use v1beta1 or v1beta2")),
    }
    fields.insert("apiVersion".to_owned(), desired.into());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BGPPeer, bgp_peer_v1beta1};

    fn review(object: &Value, desired: &str) -> Value {
        let body = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "ConversionReview",
            "request": { "uid": "u", "desiredAPIVersion": desired, "objects": [object] },
        });
        answer(body.to_string().as_bytes()).unwrap()["response"].clone()
    }

    fn old() -> Value {
        json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "BGPPeer",
            "metadata": { "name": "a", "namespace": "metallb-system", "uid": "1", "labels": {"a": "b"} },
            "spec": {
                "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1",
                "sourceAddress": "192.0.2.2", "peerPort": 180, "holdTime": "1m30s",
                "keepaliveTime": "30s", "routerID": "192.0.2.3", "password": "p",
                "bfdProfile": "f", "ebgpMultiHop": true,
                "nodeSelectors": [{
                    "matchLabels": {"x": "y"},
                    "matchExpressions": [{"key": "k", "operator": "In", "values": ["1", "2"]}],
                }],
            },
        })
    }

    #[test]
    fn nothing_of_v1beta1_is_lost_on_the_way_to_v1beta2_and_back() {
        let new = review(&old(), "metallb.io/v1beta2");
        assert_eq!(new["uid"], "u");
        assert_eq!(new["result"]["status"], "Success");
        let new = &new["convertedObjects"][0];
        assert_eq!(new["apiVersion"], "metallb.io/v1beta2");
        let peer: BGPPeer = serde_json::from_value(new.clone()).unwrap();
        assert_eq!(serde_json::to_value(&peer.spec).unwrap()["holdTime"], "1m30s");
        let back = review(new, "metallb.io/v1beta1");
        assert_eq!(back["convertedObjects"][0], old());
    }

    /// So the API server's own conversion, which changes `apiVersion` only, loses nothing either.
    #[test]
    fn each_field_of_v1beta1_is_one_of_v1beta2() {
        let schema = |crd: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition, version| {
            let version = crd.spec.versions.iter().find(|v| v.name == version).unwrap();
            serde_json::to_value(&version.schema).unwrap()["openAPIV3Schema"]["properties"]["spec"]["properties"].clone()
        };
        let crds = crate::api::crds();
        let crd = crds.iter().find(|crd| crd.spec.names.kind == "BGPPeer").unwrap();
        let (old, new) = (schema(crd, "v1beta1"), schema(crd, "v1beta2"));
        let names: Vec<_> = old.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = V1BETA1;
        expected.sort_unstable();
        assert_eq!(names, expected);
        for name in names {
            assert_eq!(old[name]["type"], new[name]["type"], "{name}");
        }
        let old: bgp_peer_v1beta1::BGPPeer = serde_json::from_value(super::tests::old()).unwrap();
        let new: BGPPeer = serde_json::from_value(super::tests::old()).unwrap();
        let mut as_new = serde_json::to_value(&new.spec).unwrap();
        as_new.as_object_mut().unwrap().retain(|name, _| V1BETA1.contains(&name.as_str()));
        assert_eq!(serde_json::to_value(&old.spec).unwrap(), as_new);
    }

    #[test]
    fn timers_that_are_absent_stay_absent_and_port_0_becomes_the_usual_one() {
        let mut object = old();
        let spec = object["spec"].as_object_mut().unwrap();
        spec.retain(|name, _| ["myASN", "peerASN", "peerAddress"].contains(&name.as_str()));
        spec.insert("peerPort".to_owned(), 0.into());
        let new = review(&object, "metallb.io/v1beta2");
        let spec = new["convertedObjects"][0]["spec"].as_object().unwrap();
        assert_eq!(Vec::from_iter(spec.keys()), ["myASN", "peerASN", "peerAddress"]);
    }

    #[test]
    fn what_v1beta1_does_not_know_is_left_out() {
        let mut object = old();
        object["apiVersion"] = "metallb.io/v1beta2".into();
        object["spec"]["vrf"] = "red".into();
        object["spec"]["connectTime"] = "10s".into();
        let back = review(&object, "metallb.io/v1beta1");
        assert_eq!(back["convertedObjects"][0], old());
    }

    #[test]
    fn what_cannot_be_converted_is_said() {
        let other = json!({ "kind": "Community", "apiVersion": "metallb.io/v1beta1" });
        for (object, desired) in [(&other, "metallb.io/v1beta2"), (&old(), "metallb.io/v9")] {
            let answer = review(object, desired);
            assert_eq!(answer["result"]["status"], "Failed");
            assert_ne!(answer["result"]["message"], "");
        }
        assert!(answer(b"nonsense").is_err());
    }
}
