//! From Kubernetes' types to those of [`crate::snapshot`], checked.
//!
//! The API server has checked its objects already; a manifest has been checked by
//! nobody. Both go through here, and what cannot be meant is named with its field.
use crate::snapshot::{self, ExternalTrafficPolicy, Ingress, IpFamilyPolicy, Labels, ObjectName};
use k8s_openapi::{
    api::{
        core::v1::{LoadBalancerIngress, Namespace, Node, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use std::{collections::BTreeMap, sync::Arc};

/// The label by which an EndpointSlice says whose it is.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Prefixes of the annotations that Herald reads. All others are dropped: kubectl's
/// copy of the whole manifest is often larger than the object.
const OUR_ANNOTATIONS: [&str; 3] = ["metallb.io/", "metallb.universe.tf/", "herald-lb.io/"];

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field, as a path.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl Invalid {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Namespace and name.
pub fn object_name(meta: &ObjectMeta) -> Result<ObjectName, Invalid> {
    let name = meta.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(Invalid::new("metadata.name", "is missing"));
    }
    Ok(ObjectName::new(meta.namespace.as_deref().unwrap_or_default(), name))
}

/// A Service. `None` where it is a load balancer of another class.
pub fn service(object: Service, class: Option<&str>) -> Result<Option<snapshot::Service>, Invalid> {
    let name = object_name(&object.metadata)?;
    let meta = object.metadata;
    let spec = object.spec.unwrap_or_default();
    let ingress = object.status.and_then(|s| s.load_balancer?.ingress).unwrap_or_default();
    let ingress_as_written = as_written(&ingress);
    let ingress = ingress.into_iter().map(|i| Ingress { ip: i.ip, hostname: i.hostname });
    let ingress = exact(ingress.collect());

    let load_balancer = match spec.type_.as_deref() {
        Some("LoadBalancer") => true,
        None | Some("ClusterIP" | "NodePort" | "ExternalName") => false,
        Some(other) => return Err(unknown("spec.type", other, &["LoadBalancer", "ClusterIP"])),
    };
    if load_balancer && spec.load_balancer_class.as_deref() != class {
        return Ok(None);
    }
    let wants_address = load_balancer && meta.deletion_timestamp.is_none();

    let cluster_ips = match spec.cluster_ips {
        Some(list) if !list.is_empty() => list,
        _ => spec.cluster_ip.into_iter().collect(),
    };
    Ok(Some(snapshot::Service {
        name,
        uid: meta.uid.unwrap_or_default(),
        resource_version: meta.resource_version.unwrap_or_default(),
        labels: meta.labels.unwrap_or_default().into(),
        annotations: ours(meta.annotations.unwrap_or_default()),
        wants_address,
        cluster_ips: exact(cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect()),
        ipv6_first: match spec.ip_families.iter().flatten().next().map(String::as_str) {
            None | Some("IPv4") => false,
            Some("IPv6") => true,
            Some(other) => return Err(unknown("spec.ipFamilies[0]", other, &["IPv4", "IPv6"])),
        },
        ip_family_policy: match spec.ip_family_policy.as_deref() {
            None | Some("SingleStack") => IpFamilyPolicy::SingleStack,
            Some("PreferDualStack") => IpFamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => IpFamilyPolicy::RequireDualStack,
            Some(other) => {
                let known = ["SingleStack", "PreferDualStack", "RequireDualStack"];
                return Err(unknown("spec.ipFamilyPolicy", other, &known));
            }
        },
        load_balancer_ip: spec.load_balancer_ip.filter(|ip| !ip.is_empty()),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(i, port)| service_port(port, i))
            .collect::<Result<_, _>>()
            .map(exact)?,
        selector: spec.selector.unwrap_or_default().into(),
        external_traffic_policy: match spec.external_traffic_policy.as_deref() {
            None | Some("" | "Cluster") => ExternalTrafficPolicy::Cluster,
            Some("Local") => ExternalTrafficPolicy::Local,
            Some(other) => {
                return Err(unknown("spec.externalTrafficPolicy", other, &["Cluster", "Local"]));
            }
        },
        client_ip_affinity: match spec.session_affinity.as_deref() {
            None | Some("" | "None") => None,
            Some("ClientIP") => Some(affinity_timeout(
                spec.session_affinity_config.and_then(|c| c.client_ip?.timeout_seconds),
            )?),
            Some(other) => {
                return Err(unknown("spec.sessionAffinity", other, &["None", "ClientIP"]));
            }
        },
        source_ranges: spec.load_balancer_source_ranges.unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        ingress,
        ingress_as_written,
    }))
}

/// The list in no more memory than it needs. One that is collected from the API's own otherwise
/// keeps that one's memory: for two ports of a Service half a kilobyte.
fn exact<T>(mut list: Vec<T>) -> Vec<T> {
    list.shrink_to_fit();
    list
}

/// The entries, if one has more than the API itself gives each address.
fn as_written(ingress: &[LoadBalancerIngress]) -> Option<Arc<[serde_json::Value]>> {
    let plain = |entry: &LoadBalancerIngress| {
        entry.ports.is_none() && matches!(entry.ip_mode.as_deref(), None | Some("VIP"))
    };
    if ingress.iter().all(plain) {
        return None;
    }
    // Everything in them can be written as JSON: it came so.
    ingress.iter().map(|entry| serde_json::to_value(entry).ok()).collect()
}

/// For how long a client keeps its endpoint, in seconds: three hours unless said otherwise,
/// and a day at most, as the API server has it.
fn affinity_timeout(seconds: Option<i32>) -> Result<u32, Invalid> {
    let seconds = seconds.unwrap_or(10_800);
    u32::try_from(seconds).ok().filter(|s| (1..=86_400).contains(s)).ok_or_else(|| {
        Invalid::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is not in the range of 1 to 86400"),
        )
    })
}

fn service_port(object: ServicePort, index: usize) -> Result<snapshot::ServicePort, Invalid> {
    if let Some(IntOrString::Int(target)) = object.target_port {
        port(target, || format!("spec.ports[{index}].targetPort"))?;
    }
    Ok(snapshot::ServicePort {
        name: object.name.unwrap_or_default(),
        port: port(object.port, || format!("spec.ports[{index}].port"))?,
        protocol: protocol(object.protocol.as_deref(), || format!("spec.ports[{index}].protocol"))?,
    })
}

/// An EndpointSlice. `None` where it belongs to no Service, or holds no IP addresses.
pub fn endpoint_slice(object: EndpointSlice) -> Result<Option<snapshot::EndpointSlice>, Invalid> {
    let name = object_name(&object.metadata)?;
    let Some(service) = object.metadata.labels.and_then(|mut l| l.remove(SERVICE_NAME)) else {
        return Ok(None);
    };
    let v6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => return Err(unknown("addressType", other, &["IPv4", "IPv6"])),
    };
    let objects = object.endpoints.unwrap_or_default();
    let mut endpoints = Vec::with_capacity(objects.len());
    for (i, object) in objects.into_iter().enumerate() {
        endpoints.extend(endpoint(object, i, v6)?);
    }
    let ports = object.ports.unwrap_or_default().into_iter().enumerate();
    Ok(Some(snapshot::EndpointSlice {
        name,
        service,
        ports: ports
            .map(|(i, port)| endpoint_port(port, i))
            .collect::<Result<_, _>>()
            .map(exact)?,
        endpoints: exact(endpoints),
    }))
}

fn endpoint_port(object: EndpointPort, index: usize) -> Result<snapshot::EndpointPort, Invalid> {
    let number = object.port.map(|p| port(p, || format!("ports[{index}].port")));
    Ok(snapshot::EndpointPort {
        name: object.name.unwrap_or_default(),
        port: number.transpose()?,
        protocol: protocol(object.protocol.as_deref(), || format!("ports[{index}].protocol"))?,
    })
}

fn endpoint(
    object: Endpoint,
    index: usize,
    v6: bool,
) -> Result<Option<snapshot::Endpoint>, Invalid> {
    let Some(text) = object.addresses.into_iter().next() else { return Ok(None) };
    let address: std::net::IpAddr = text.parse().map_err(|_| {
        Invalid::new(
            format!("endpoints[{index}].addresses[0]"),
            format!("{text:?} is not an IP address"),
        )
    })?;
    if address.is_ipv6() != v6 {
        return Err(Invalid::new(
            format!("endpoints[{index}].addresses[0]"),
            format!("{text} is not of the slice's addressType"),
        ));
    }
    let conditions = object.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    Ok(Some(snapshot::Endpoint {
        address,
        node: object.node_name.filter(|n| !n.is_empty()),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
    }))
}

/// A Node.
pub fn node(object: Node) -> Result<snapshot::Node, Invalid> {
    object_name(&object.metadata)?;
    let leaving = leaving(&object).map(str::to_owned);
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let internal = status.addresses.into_iter().flatten().filter(|a| a.type_ == "InternalIP");
    let internal_ips = internal
        .map(|a| {
            a.address.parse().map_err(|_| {
                Invalid::new("status.addresses", format!("{:?} is not an IP address", a.address))
            })
        })
        .collect::<Result<_, _>>()?;
    let pod_cidrs = match spec.pod_cidrs {
        Some(list) if !list.is_empty() => list,
        _ => spec.pod_cidr.into_iter().filter(|cidr| !cidr.is_empty()).collect(),
    };
    Ok(snapshot::Node {
        labels: object.metadata.labels.unwrap_or_default().into(),
        internal_ips,
        leaving,
        network_unavailable: status
            .conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "NetworkUnavailable" && c.status == "True"),
        pod_cidrs: pod_cidrs
            .iter()
            .map(|cidr| {
                cidr.parse()
                    .map_err(|_| Invalid::new("spec.podCIDRs", format!("{cidr:?} is not a prefix")))
            })
            .collect::<Result<_, _>>()?,
    })
}

/// Taints of nodes that are about to be shut down or taken away: by the cluster autoscaler, by a cloud's
/// node controller, and by hand (KEP 2268).
const LAST_TAINTS: [&str; 3] = [
    "ToBeDeletedByClusterAutoscaler",
    "node.cloudprovider.kubernetes.io/shutdown",
    "node.kubernetes.io/out-of-service",
];

/// By what a node is seen to be on its way out, if it is.
fn leaving(node: &Node) -> Option<&'static str> {
    if node.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted");
    }
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        return Some("is cordoned");
    }
    let mut taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    if taints.any(|taint| LAST_TAINTS.contains(&taint.key.as_str())) {
        return Some("is marked to be shut down or taken away");
    }
    // What the kubelet says of itself while it ends its pods (KEP 2000).
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let shutting_down = conditions.into_iter().flatten().any(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        condition.type_ == "Ready"
            && condition.status == "False"
            && message.contains("node is shutting down")
    });
    shutting_down.then_some("is shutting down")
}

/// The labels of a Namespace.
pub fn namespace(object: Namespace) -> Result<Labels, Invalid> {
    object_name(&object.metadata)?;
    Ok(object.metadata.labels.unwrap_or_default().into())
}

fn ours(annotations: BTreeMap<String, String>) -> Labels {
    let is_ours = |key: &str| OUR_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix));
    annotations.into_iter().filter(|(key, _)| is_ours(key)).collect()
}

fn port(number: i32, field: impl Fn() -> String) -> Result<u16, Invalid> {
    u16::try_from(number)
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| Invalid::new(field(), format!("{number} is not a port (1 to 65535)")))
}

fn protocol(name: Option<&str>, field: impl Fn() -> String) -> Result<snapshot::Protocol, Invalid> {
    match name {
        None | Some("" | "TCP") => Ok(snapshot::Protocol::Tcp),
        Some("UDP") => Ok(snapshot::Protocol::Udp),
        Some("SCTP") => Ok(snapshot::Protocol::Sctp),
        Some(other) => Err(unknown(&field(), other, &["TCP", "UDP", "SCTP"])),
    }
}

fn unknown(field: &str, value: &str, known: &[&str]) -> Invalid {
    Invalid::new(field, format!("{value:?} is unknown; known are {}", known.join(", ")))
}

#[cfg(test)]
mod tests;
