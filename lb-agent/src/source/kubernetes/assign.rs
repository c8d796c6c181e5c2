//! Writing a Service's addresses.
use crate::{
    snapshot::{Ingress, Service},
    source::{ALLOCATED_FROM, Assignment, COMPONENT},
};
use kube::{
    Client,
    api::{Patch, PatchParams},
    core::Request,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// Of the answer nobody reads anything: it shall be short.
const ACCEPT: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json";

/// Writes it.
///
/// # Errors
/// Those of the API; 409 where the Service has changed since.
pub(super) async fn write(
    client: &Client,
    current: &Service,
    assignment: &Assignment,
) -> Result<(), kube::Error> {
    let Assignment { service, .. } = assignment;
    let path = format!("/api/v1/namespaces/{}/services", service.namespace);
    let params =
        PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(patch(current, assignment));
    let mut request = Request::new(path)
        .patch_subresource("status", &service.name, &params, &patch)
        .map_err(kube::Error::BuildRequest)?;
    if let Ok(accept) = ACCEPT.parse() {
        request.headers_mut().insert("accept", accept);
    }
    client.request::<IgnoredAny>(request).await.map(drop)
}

/// The one merge patch of `services/status` that writes addresses and pool, and fails if
/// the Service is not the one that was decided on.
///
/// Entries without an address are others' and stay. What others have added to that of an address
/// stays with it; else `ipMode` is left to the API's default.
fn patch(current: &Service, assignment: &Assignment) -> Value {
    let written = |i: usize| current.ingress_as_written.as_ref()?.get(i).cloned();
    let all = || current.ingress.iter().enumerate();
    let ips = assignment.addresses.iter().map(|ip| {
        let is_it = |entry: &Ingress| entry.ip.as_ref().and_then(|i| i.parse().ok()) == Some(*ip);
        let stands = all().find(|(_, entry)| is_it(entry)).and_then(|(i, _)| written(i));
        stands.unwrap_or_else(|| json!({ "ip": ip }))
    });
    let others = all().filter(|(_, entry)| entry.ip.is_none()).filter_map(|(i, entry)| {
        written(i).or_else(|| entry.hostname.as_ref().map(|name| json!({ "hostname": name })))
    });
    let ingress: Vec<_> = ips.chain(others).collect();
    json!({
        "metadata": {
            "resourceVersion": assignment.resource_version,
            "annotations": { ALLOCATED_FROM: assignment.pool },
        },
        "status": {
            "loadBalancer": { "ingress": if ingress.is_empty() { Value::Null } else { ingress.into() } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ObjectName;

    #[test]
    fn patches() {
        let mut current = Service::default();
        let mut assignment = Assignment {
            service: ObjectName::new("d", "web"),
            resource_version: "7".to_owned(),
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            pool: Some("p".to_owned()),
        };
        let text = patch(&current, &assignment);
        assert_eq!(text["metadata"]["resourceVersion"], "7");
        assert_eq!(text["metadata"]["annotations"], json!({ ALLOCATED_FROM: "p" }));
        let ingress = &text["status"]["loadBalancer"]["ingress"];
        assert_eq!(*ingress, json!([{ "ip": "192.0.2.1" }, { "ip": "2001:db8::1" }]));

        (assignment.addresses, assignment.pool) = (Vec::new(), None);
        let text = patch(&current, &assignment);
        assert_eq!(text["metadata"]["annotations"], json!({ ALLOCATED_FROM: null }));
        assert_eq!(text["status"]["loadBalancer"], json!({ "ingress": null }));

        current.ingress = vec![
            Ingress { ip: Some("192.0.2.1".to_owned()), hostname: None },
            Ingress { ip: None, hostname: Some("a.example".to_owned()) },
        ];
        let text = patch(&current, &assignment);
        let ingress = &text["status"]["loadBalancer"]["ingress"];
        assert_eq!(*ingress, json!([{ "hostname": "a.example" }]));

        let ports = json!([{ "port": 80, "protocol": "TCP", "error": "b.example/Down" }]);
        let written = [
            json!({ "ip": "192.0.2.1", "ipMode": "Proxy" }),
            json!({ "hostname": "a.example", "ports": ports }),
        ];
        current.ingress_as_written = Some(written.clone().into());
        assignment.addresses = ["2001:db8::1", "192.0.2.1"].map(|ip| ip.parse().unwrap()).into();
        let text = patch(&current, &assignment);
        let ingress = &text["status"]["loadBalancer"]["ingress"];
        let [kept, other] = written;
        assert_eq!(*ingress, json!([{ "ip": "2001:db8::1" }, kept, other]));
        assignment.addresses = vec!["192.0.2.9".parse().unwrap()];
        let text = patch(&current, &assignment);
        let ingress = &text["status"]["loadBalancer"]["ingress"];
        assert_eq!(*ingress, json!([{ "ip": "192.0.2.9" }, other]), "another address is plain");
    }
}
