//! What the Kubernetes API (or a folder of manifests) says, reduced to what Herald uses.
//!
//! Plain data without I/O and without Kubernetes' types: the allocator and the
//! planner are functions of it. Maps are ordered, so that iterating one gives the
//! same order on every node. Values a user wrote and that may be malformed (address
//! ranges, requested addresses) stay text here: who uses them reports what is wrong.
mod labels;
mod name;

pub use labels::Labels;
pub use name::ObjectName;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::IpAddr, ops::Deref, sync::Arc};

/// Everything, as last seen.
///
/// The maps are persistent: one that follows another shares with it all that has not changed. So
/// a snapshot costs what has changed since the last one, and so does finding that out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All Services of `type: LoadBalancer` of our class, and those that still carry
    /// an address of ours (see [`Service::wants_address`]).
    pub services: OrdMap<ObjectName, Arc<Service>>,
    /// EndpointSlices by Service; none is empty.
    pub slices: OrdMap<ObjectName, Slices>,
    /// Nodes by name.
    pub nodes: OrdMap<String, Node>,
    /// Labels of each namespace.
    pub namespaces: OrdMap<String, Labels>,
    /// `IPAddressPool`s by name (all from Herald's own namespace).
    pub pools: OrdMap<String, IpAddressPool>,
    /// `L2Advertisement`s by name (all from Herald's own namespace).
    pub l2_advertisements: OrdMap<String, L2Advertisement>,
}

impl Snapshot {
    /// The EndpointSlices of a Service.
    pub fn slices_of(&self, service: &ObjectName) -> &[Arc<EndpointSlice>] {
        self.slices.get(service).map_or(&[], |slices| slices)
    }

    /// Adds an EndpointSlice to those of its Service, or replaces the one of its name there.
    pub fn add_slice(&mut self, slice: Arc<EndpointSlice>) {
        self.slices.entry(slice.owner()).or_default().set(slice);
    }
}

/// The EndpointSlices of a Service, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices(Arc<Vec<Arc<EndpointSlice>>>);

impl Slices {
    /// Adds a slice, or replaces the one of its name.
    pub fn set(&mut self, slice: Arc<EndpointSlice>) {
        let slices = Arc::make_mut(&mut self.0);
        match slices.binary_search_by(|known| known.name.cmp(&slice.name)) {
            Ok(at) => slices[at] = slice,
            Err(at) => slices.insert(at, slice),
        }
    }

    /// Removes a slice by its name.
    pub fn remove(&mut self, name: &ObjectName) {
        if let Ok(at) = self.0.binary_search_by(|known| known.name.cmp(name)) {
            Arc::make_mut(&mut self.0).remove(at);
        }
    }
}

impl Deref for Slices {
    type Target = [Arc<EndpointSlice>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// TCP, UDP or SCTP.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Protocol {
    /// IANA 6
    #[default]
    Tcp,
    /// IANA 17
    Udp,
    /// IANA 132
    Sctp,
}

impl Protocol {
    /// The IANA number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.ipFamilyPolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamilyPolicy {
    /// One family.
    #[default]
    SingleStack,
    /// Both where the cluster has both.
    PreferDualStack,
    /// Both or none.
    RequireDualStack,
}

/// `spec.externalTrafficPolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExternalTrafficPolicy {
    /// Any node.
    #[default]
    Cluster,
    /// Nodes with an endpoint.
    Local,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where there is only one. An EndpointSlice's port has the same.
    pub name: String,
    /// The port on the VIP.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// `ip`, as written there.
    pub ip: Option<String>,
    /// `hostname`: somebody else's, to be left alone.
    pub hostname: Option<String>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.uid`; empty in manifests.
    pub uid: String,
    /// `metadata.resourceVersion`; empty in manifests. Writes carry it.
    pub resource_version: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// `type: LoadBalancer`, a class of ours, and not being deleted. Where false the
    /// Service is here only so that its address can be taken back.
    pub wants_address: bool,
    /// `spec.clusterIPs`, unparsable ones left out. Empty or `None` for headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether the first of `spec.ipFamilies` is IPv6.
    pub ipv6_first: bool,
    /// `spec.ipFamilyPolicy`
    pub ip_family_policy: IpFamilyPolicy,
    /// `spec.loadBalancerIP`, as written.
    pub load_balancer_ip: Option<String>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.selector`
    pub selector: Labels,
    /// `spec.externalTrafficPolicy`
    pub external_traffic_policy: ExternalTrafficPolicy,
    /// `spec.sessionAffinity: ClientIP`, and `spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub client_ip_affinity: Option<u32>,
    /// `spec.loadBalancerSourceRanges`, as written.
    pub source_ranges: Vec<String>,
    /// `spec.publishNotReadyAddresses`
    pub publish_not_ready: bool,
    /// `status.loadBalancer.ingress`
    pub ingress: Vec<Ingress>,
    /// The same as written, if some entry has more than an address or a hostname.
    pub ingress_as_written: Option<Arc<[serde_json::Value]>>,
}

impl Service {
    /// An annotation of ours: `metallb.io/NAME`, or else the deprecated `metallb.universe.tf/NAME`.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        ["metallb.io/", "metallb.universe.tf/"]
            .into_iter()
            .find_map(|prefix| self.annotations.get(&format!("{prefix}{name}")))
    }

    /// The addresses in its status, in order, unparsable ones left out.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ingress.iter().filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
    }
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The Service port's name.
    pub name: String,
    /// The port on the endpoints; absent means any port (not served by Herald).
    pub port: Option<u16>,
    /// Its protocol.
    pub protocol: Protocol,
}

/// An endpoint of a slice: a pod, usually.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses[0]`: the API promises that all are interchangeable.
    pub address: IpAddr,
    /// `nodeName`
    pub node: Option<String>,
    /// `conditions.ready`, absent read as true.
    pub ready: bool,
    /// `conditions.serving`, absent read as `ready`.
    pub serving: bool,
    /// `conditions.terminating`
    pub terminating: bool,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its own name.
    pub name: ObjectName,
    /// The Service it belongs to (label `kubernetes.io/service-name`, same namespace).
    pub service: String,
    /// `ports`
    pub ports: Vec<EndpointPort>,
    /// `endpoints`, those without a parsable address left out.
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// The Service it belongs to.
    pub fn owner(&self) -> ObjectName {
        self.name.beside(&self.service)
    }
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Labels.
    pub labels: Labels,
    /// `status.addresses` of type InternalIP, in order.
    pub internal_ips: Vec<IpAddr>,
    /// By what it is seen to be on its way out (`is cordoned`): its agent, once stopped, is not
    /// expected back soon.
    #[serde(default)]
    pub leaving: Option<String>,
    /// Condition `NetworkUnavailable` is True.
    pub network_unavailable: bool,
    /// `spec.podCIDRs`
    pub pod_cidrs: Vec<IpNet>,
}

/// `operator` of a label selector requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label's value is among `values`.
    In,
    /// It is not, or the label is absent.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// A requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: BTreeSet<String>,
}

/// A `metav1.LabelSelector`. Empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelSelector {
    /// All must be there.
    pub match_labels: Labels,
    /// All must hold.
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// Whether the labels satisfy the selector.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|r| {
                let value = labels.get(&r.key);
                match r.operator {
                    Operator::In => value.is_some_and(|v| r.values.contains(v)),
                    Operator::NotIn => value.is_none_or(|v| !r.values.contains(v)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Whether any selector of a list matches; an empty list matches everything
/// (MetalLB's rule for every list of selectors but a pool's own).
pub fn any_matches(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || selectors.iter().any(|s| s.matches(labels))
}

/// `spec.serviceAllocation` of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAllocation {
    /// Lower is tried earlier, 0 last.
    pub priority: i32,
    /// Exact names of namespaces.
    pub namespaces: Vec<String>,
    /// On namespaces' labels.
    pub namespace_selectors: Vec<LabelSelector>,
    /// On Services' labels.
    pub service_selectors: Vec<LabelSelector>,
}

/// An `IPAddressPool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpAddressPool {
    /// When it was created, in seconds since 1970; 0 in manifests. Of two pools that overlap, the
    /// older is used, and of two of the same age the first by name.
    pub created: i64,
    /// It is not what a pool must be, and gives no new addresses.
    pub refused: bool,
    /// Labels, which advertisements select by.
    pub labels: Labels,
    /// `spec.addresses`, as written.
    pub addresses: Vec<String>,
    /// `spec.autoAssign`
    pub auto_assign: bool,
    /// `spec.avoidBuggyIPs`
    pub avoid_buggy_ips: bool,
    /// `spec.serviceAllocation`
    pub service_allocation: Option<ServiceAllocation>,
}

/// One of `spec.preferredNodeSelectors` of an L2Advertisement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePreference {
    /// 1 to 100.
    pub weight: i32,
    /// On nodes' labels.
    pub preference: LabelSelector,
}

/// An `L2Advertisement`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct L2Advertisement {
    /// Names of pools.
    pub ip_address_pools: Vec<String>,
    /// On pools' labels. Both empty: all pools.
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// On nodes' labels: who may announce.
    pub node_selectors: Vec<LabelSelector>,
    /// Names of interfaces to announce on; empty: all uplinks.
    pub interfaces: Vec<String>,
    /// On Services' labels.
    pub service_selectors: Vec<LabelSelector>,
    /// Who had better announce.
    pub preferred_node_selectors: Vec<NodePreference>,
}
