//! The answer to an `AdmissionReview`, without I/O.
use crate::{
    api::{
        BFDProfile, BGPAdvertisement, BGPPeer, Community, GROUP, IPAddressPool, L2Advertisement,
    },
    source::index::Configuration,
    validate::{self, Entries, Entry, Kind, Objects, Verdict},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An Admission API's request (`admission.k8s.io/v1`), as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: GroupKind,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Debug, Deserialize)]
struct GroupKind {
    #[serde(default)]
    group: String,
    kind: String,
}

#[derive(Deserialize)]
struct Review {
    request: Request,
}

/// What is answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// Why the object is refused, if it is.
    refusal: Option<String>,
    warnings: Vec<String>,
}

/// Answers a review by what is known of the configuration; `None` while nothing is.
///
/// # Errors
/// What is wrong with the review itself.
pub(super) fn answer(
    body: &[u8],
    namespace: &str,
    known: Option<&Configuration>,
) -> Result<Value, String> {
    let Review { request } =
        serde_json::from_slice(body).map_err(|e| format!("this is no AdmissionReview: {e}"))?;
    let Answer { refusal, warnings } = judge(&request, namespace, known);
    let mut response = json!({ "uid": request.uid, "allowed": refusal.is_none() });
    if let Some(message) = refusal {
        response["status"] =
            json!({ "status": "Failure", "reason": "Forbidden", "code": 403, "message": message });
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    Ok(json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    }))
}

fn judge(request: &Request, namespace: &str, known: Option<&Configuration>) -> Answer {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == request.kind.kind);
    let Some(kind) = kind.filter(|_| request.kind.group == GROUP) else {
        return Answer::default();
    };
    match request.operation.as_str() {
        "DELETE" => Answer { refusal: in_use(kind, request, namespace, known), warnings: vec![] },
        "CREATE" if request.namespace != namespace => refused(format!(
            "{} {}: metadata.namespace: {:?} is not looked into: create it in {namespace:?}",
            kind.name(),
            request.name,
            request.namespace
        )),
        "CREATE" | "UPDATE" if request.namespace == namespace => changed(kind, request, known),
        _ => Answer::default(),
    }
}

fn refused(message: String) -> Answer {
    Answer { refusal: Some(message), warnings: vec![] }
}

/// A BFDProfile stays as long as a peer uses it.
fn in_use(
    kind: Kind,
    request: &Request,
    namespace: &str,
    known: Option<&Configuration>,
) -> Option<String> {
    let ours = kind == Kind::BfdProfile && request.namespace == namespace;
    let peer = known.filter(|_| ours)?.objects.user_of_bfd_profile(&request.name)?;
    Some(format!(
        "BFDProfile {}: is used by the BGPPeer {peer}: remove spec.bfdProfile there first",
        request.name
    ))
}

/// What is the matter with an object that is new or changes.
fn changed(kind: Kind, request: &Request, known: Option<&Configuration>) -> Answer {
    let matters = |object: &Value| (object["spec"].clone(), object["metadata"]["labels"].clone());
    let leaving = !request.object["metadata"]["deletionTimestamp"].is_null();
    if leaving
        || request.operation == "UPDATE" && matters(&request.object) == matters(&request.old_object)
    {
        // What stands there is known already, and must not be in the way of finalizers.
        return Answer::default();
    }
    let objects = known.map(|known| known.objects.clone()).unwrap_or_default();
    let candidate = match insert(kind, request, objects) {
        Ok(objects) => objects,
        Err(why) => return refused(format!("{} {}: {why}", kind.name(), request.name)),
    };
    let verdict = validate::judge(&candidate);
    let about = |kind: Kind, name: &str, fault: &validate::Fault| {
        format!("{} {name}: {fault}", kind.name())
    };
    let name = &request.name;
    let (later, now): (Vec<_>, Vec<_>) =
        verdict.faults(kind, name).iter().partition(|fault| fault.may_pass);
    if !now.is_empty() {
        let all: Vec<_> = now.into_iter().map(|fault| about(kind, name, fault)).collect();
        return refused(all.join("\n"));
    }
    let mut warnings = Vec::new();
    if known.is_none() {
        warnings.push(
            "not compared with other objects, since this agent does not know them yet".to_owned(),
        );
    } else {
        warnings.extend(later.into_iter().map(|fault| about(kind, name, fault)));
        warnings.extend(broken(kind, name, known.map(|known| &known.verdict), &verdict));
    }
    if kind == Kind::Peer && request.object["spec"]["disableMP"] == true {
        warnings.push("spec.disableMP is deprecated and has no effect: remove it".to_owned());
    }
    Answer { refusal: None, warnings }
}

/// Others that could be used, and cannot any more.
fn broken<'a>(
    kind: Kind,
    name: &'a str,
    before: Option<&'a Verdict>,
    after: &'a Verdict,
) -> impl Iterator<Item = String> + 'a {
    let was =
        BTreeSet::from_iter(before.into_iter().flat_map(Verdict::iter).map(|(k, n, _)| (k, n)));
    after.iter().filter(move |(k, n, _)| (*k, *n) != (kind, name) && !was.contains(&(*k, *n))).map(
        |(kind, name, faults)| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            format!("this takes the {} {name} out of force: {}", kind.name(), faults.join("; "))
        },
    )
}

/// The configuration with the object in it, as the youngest of all: where it is in the way of
/// another, it is the one that is refused, however old it is.
fn insert(kind: Kind, request: &Request, mut objects: Objects) -> Result<Objects, String> {
    macro_rules! insert {
        ($object:ty, $entries:expr) => {{
            let object: $object = read(&request.object)?;
            put(&request.name, Entry::new(object.metadata, object.spec, vec![]), $entries);
        }};
    }
    match kind {
        Kind::Pool => insert!(IPAddressPool, &mut objects.pools),
        Kind::L2Advertisement => insert!(L2Advertisement, &mut objects.l2_advertisements),
        Kind::BgpAdvertisement => insert!(BGPAdvertisement, &mut objects.bgp_advertisements),
        Kind::Peer => insert!(BGPPeer, &mut objects.peers),
        Kind::BfdProfile => insert!(BFDProfile, &mut objects.bfd_profiles),
        Kind::Community => insert!(Community, &mut objects.communities),
    }
    Ok(objects)
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    T::deserialize(object).map_err(|e| format!("cannot be read: {e}"))
}

fn put<S>(name: &str, entry: Entry<S>, entries: &mut Entries<S>) {
    entries.insert(name.to_owned(), Entry { created: i64::MAX, ..entry });
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
