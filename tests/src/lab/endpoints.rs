//! The endpoints of the Service in `examples/`, written as a control plane would.
use super::{Lab, Pod};
use anyhow::Result;
use std::{fmt::Write as _, fs, path::Path};

/// What an EndpointSlice says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It serves, and takes new flows.
    Ready,
    /// It is on its way out, and still serves.
    Terminating,
    /// It does not serve (yet).
    NotReady,
}

/// EndpointSlices of both families for a Service with exactly these endpoints.
///
/// # Errors
/// None: writing to memory does not fail.
pub fn slices(lab: &Lab, service: &str, pods: &[(&Pod, Condition)]) -> Result<String> {
    let mut text = String::new();
    for family in ["IPv4", "IPv6"] {
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: \
             {service}-{}\n  namespace: default\n  labels: {{kubernetes.io/service-name: \
             {service}}}\naddressType: {family}\nports:\n- {{name: http, protocol: TCP, port: \
             8080}}\n- {{name: probe, protocol: UDP, port: 8080}}\nendpoints:\n",
            family.to_lowercase()
        )?;
        for (pod, condition) in pods {
            let address =
                if family == "IPv4" { pod.ipv4.to_string() } else { pod.ipv6.to_string() };
            let conditions = match condition {
                Condition::Ready => "ready: true, serving: true, terminating: false",
                Condition::Terminating => "ready: false, serving: true, terminating: true",
                Condition::NotReady => "ready: false, serving: false, terminating: false",
            };
            let node = &lab.nodes[pod.node].name;
            writeln!(
                text,
                "- {{addresses: [\"{address}\"], nodeName: {node}, conditions: {{{conditions}}}}}"
            )?;
        }
    }
    Ok(text)
}

/// Puts them into a folder of manifests, in place of those from `examples/`.
///
/// # Errors
/// The folder cannot be written.
pub fn write(lab: &Lab, folder: &Path, pods: &[(&Pod, Condition)]) -> Result<()> {
    replace(&folder.join("web-endpoints.yaml"), &slices(lab, "web", pods)?)
}

/// Writes a file so that nobody reads half of it.
///
/// # Errors
/// The folder cannot be written.
pub fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}
