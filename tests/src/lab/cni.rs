//! A real CNI in place of the laboratory's routes: flannel on each node, which learns the
//! others' pod prefixes from the API server, and the plugins that a kubelet would call for
//! each pod.
use super::{
    Host, Lab, POD_PORT, Pod, Recording, addresses as fixed, agent, cleanup, command,
    control_plane::{ControlPlane, ProxyMode, program},
    namespace::Namespace,
    scenario::{self, Cluster},
};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

/// How packets between pods of different nodes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In UDP, from the interface `flannel.1`.
    Vxlan,
    /// As they are, by routes over the nodes' addresses.
    HostGw,
}

impl Backend {
    /// As flannel's configuration names it.
    fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// What agents run beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbourhood {
    /// flannel's way between nodes.
    pub backend: Backend,
    /// kube-proxy's, and flannel's, way of writing rules.
    pub rules: ProxyMode,
}

/// The bridge that the pods of a node are plugged into.
pub const POD_BRIDGE: &str = "cni0";

/// The port of each node that the CNI forwards to the node's first pod: the same as the
/// Service's, so that the two could be taken for each other.
pub const HOST_PORT: u16 = 80;

const PODS_PER_NODE: usize = 2;
const START_LIMIT: Duration = Duration::from_secs(60);

/// What flannel's own manifests let it do.
const RIGHTS: &str = "apiVersion: v1
kind: Namespace
metadata: {name: kube-flannel}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: flannel, namespace: kube-flannel}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flannel}
rules:
- {apiGroups: [''], resources: [pods, nodes, namespaces], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [nodes/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flannel}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel}
subjects: [{kind: ServiceAccount, name: flannel, namespace: kube-flannel}]
";

/// Checks that flannel and the plugins are there.
///
/// # Errors
/// Names the first that is not, and how to build it.
pub fn check_programs() -> Result<()> {
    ["flanneld", "bridge", "host-local", "loopback", "portmap"]
        .iter()
        .try_for_each(|name| program(name).map(drop))
}

/// Three nodes with real pods on a control plane, kube-proxy and agents on each; returns once all
/// pods serve on both addresses.
///
/// # Errors
/// That does not come about.
pub fn cluster(neighbourhood: Neighbourhood) -> Result<Cluster> {
    check_programs()?;
    Cluster::beside(Lab::without_pods(3, Recording::Latest)?, |lab| prepare(lab, neighbourhood))
}

fn prepare(lab: &mut Lab, neighbourhood: Neighbourhood) -> Result<(ControlPlane, agent::Options)> {
    let (control, options) = scenario::api_with(lab, &scenario::EXAMPLES)?;
    control.apply_text(RIGHTS)?;
    let kubeconfig = control.kubeconfig_of("flannel", "kube-flannel", "flannel")?;
    let folder = lab.directory.join("cni");
    fs::create_dir_all(&folder)?;
    let config = folder.join("net-conf.json");
    fs::write(&config, network(neighbourhood).to_string())?;
    let mut flannels = vec![];
    for node in &lab.nodes {
        flannels.push(Flannel::start(&control, node, &folder, &kubeconfig, &config)?);
    }
    for (position, flannel) in flannels.iter_mut().enumerate() {
        let subnet = flannel.subnet()?;
        for j in 0..PODS_PER_NODE {
            let name = format!("web-{}", lab.pods.len() + 1);
            let plugins = Plugins { node: &lab.nodes[position], folder: &folder, neighbourhood };
            let host_port = (j == 0).then_some(HOST_PORT);
            let pod = plugins.add(&lab.prefix, position, &name, &subnet, host_port)?;
            lab.serve(&pod)?;
            lab.pods.push(pod);
        }
    }
    lab.pods.iter().try_for_each(|pod| lab.await_pod(pod))?;
    for node in &lab.nodes {
        control.start_kube_proxy(node, neighbourhood.rules)?;
    }
    Ok((control, options))
}

/// flannel's configuration of the whole network.
fn network(Neighbourhood { backend, rules }: Neighbourhood) -> Value {
    let (ipv4, ipv6) = fixed::ALL_PODS;
    json!({
        "Network": ipv4,
        "EnableIPv6": true,
        "IPv6Network": ipv6,
        "EnableNFTables": rules == ProxyMode::Nftables,
        "Backend": {"Type": backend.name()},
    })
}

/// flannel on one node.
struct Flannel {
    node: String,
    child: Child,
    /// Where it writes which prefixes are the node's.
    subnet_file: PathBuf,
}

impl Flannel {
    fn start(
        control: &ControlPlane,
        node: &Host,
        folder: &Path,
        kubeconfig: &Path,
        config: &Path,
    ) -> Result<Self> {
        let subnet_file = folder.join(format!("{}-subnet.env", node.name));
        let mut flanneld = node.namespace.command(program("flanneld")?);
        flanneld.args(["--kube-subnet-mgr", "--ip-masq", "--iface=eth0"]);
        flanneld.arg("--kubeconfig-file").arg(kubeconfig);
        flanneld.arg("--net-config-path").arg(config);
        flanneld.arg("--subnet-file").arg(&subnet_file);
        flanneld.env("NODE_NAME", &node.name);
        let child = control.spawn(flanneld, &format!("{}-flanneld", node.name))?;
        Ok(Self { node: node.name.clone(), child, subnet_file })
    }

    /// What it has written, once it has.
    fn subnet(&mut self) -> Result<BTreeMap<String, String>> {
        let what = format!("flannel of {} is ready", self.node);
        wait::until(START_LIMIT, &what, || {
            if let Some(status) = self.child.try_wait()? {
                // Said at once: it will not come back.
                return Ok(Some(Err(anyhow::anyhow!(
                    "flanneld of {} has ended ({status})",
                    self.node
                ))));
            }
            Ok(fs::read_to_string(&self.subnet_file).ok().map(|text| Ok(variables(&text))))
        })?
    }
}

/// The lines `NAME=VALUE` of a file.
fn variables(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().into(), value.trim().into()))
        .collect()
}

/// What a kubelet does to plug a pod in.
struct Plugins<'a> {
    node: &'a Host,
    /// Where the plugins remember which addresses are taken.
    folder: &'a Path,
    neighbourhood: Neighbourhood,
}

impl Plugins<'_> {
    /// Makes a pod's namespace and plugs it in: by the plugins and settings that flannel's CNI plugin
    /// delegates to.
    fn add(
        &self,
        prefix: &str,
        position: usize,
        name: &str,
        subnet: &BTreeMap<String, String>,
        host_port: Option<u16>,
    ) -> Result<Pod> {
        let namespace = Namespace::create(prefix, name)?;
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        let value = |name: &str| {
            subnet.get(name).with_context(|| format!("flannel's subnet file has no {name}"))
        };
        self.call(&namespace, "lo", json!({"type": "loopback"}), None)?;
        let bridge = json!({
            "type": "bridge",
            "bridge": POD_BRIDGE,
            "isDefaultGateway": true,
            "hairpinMode": true,
            "ipMasq": value("FLANNEL_IPMASQ")? == "false",
            "mtu": value("FLANNEL_MTU")?.parse::<u32>()?,
            "ipam": {
                "type": "host-local",
                "dataDir": self.folder.join(&self.node.name),
                "ranges": [
                    [{"subnet": network_of(value("FLANNEL_SUBNET")?)?}],
                    [{"subnet": network_of(value("FLANNEL_IPV6_SUBNET")?)?}],
                ],
                "routes": [
                    {"dst": value("FLANNEL_NETWORK")?},
                    {"dst": value("FLANNEL_IPV6_NETWORK")?},
                ],
            },
        });
        let result = self.call(&namespace, "eth0", bridge, None)?;
        let mappings: Vec<_> = host_port
            .into_iter()
            .map(|port| json!({"hostPort": port, "containerPort": POD_PORT, "protocol": "tcp"}))
            .collect();
        let portmap = json!({
            "type": "portmap",
            "capabilities": {"portMappings": true},
            "runtimeConfig": {"portMappings": mappings},
            "backend": match self.neighbourhood.rules {
                ProxyMode::Iptables => "iptables",
                ProxyMode::Nftables => "nftables",
            },
        });
        let result = self.call(&namespace, "eth0", portmap, Some(result))?;
        let (ipv4, ipv6) = addresses(&result)?;
        Ok(Pod { name: name.into(), node: position, namespace, ipv4, ipv6 })
    }

    /// Calls a plugin with `ADD` (CNI specification 1.0.0, sections 2 and 5) and returns its result.
    fn call(
        &self,
        namespace: &Namespace,
        interface: &str,
        mut config: Value,
        previous: Option<Value>,
    ) -> Result<Value> {
        let kind = config["type"].as_str().context("a plugin without a type")?.to_owned();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = "cbr0".into();
        if let Some(previous) = previous {
            config["prevResult"] = previous;
        }
        let binary = program(&kind)?;
        let folder = binary.parent().context("a program without a folder")?;
        let mut plugin = self.node.namespace.command(&binary);
        plugin
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &namespace.name)
            .env("CNI_NETNS", namespace.path())
            .env("CNI_IFNAME", interface)
            .env("CNI_PATH", folder);
        let text =
            cleanup::unless_ending(|| command::run_with_input(&mut plugin, &config.to_string()))
                .with_context(|| format!("plugging {} in: {kind}", namespace.name))?;
        serde_json::from_str(&text).with_context(|| format!("{kind} answered: {text}"))
    }
}

/// The network of an address with its prefix length: flannel writes the gateway's.
fn network_of(gateway: &str) -> Result<String> {
    let (address, length) = gateway.split_once('/').context("a prefix without a length")?;
    let length: u32 = length.parse()?;
    let network: IpAddr = match address.parse()? {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(length)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(length)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    };
    Ok(format!("{network}/{length}"))
}

/// The pod's addresses in a plugin's result.
fn addresses(result: &Value) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let (mut ipv4, mut ipv6) = (None, None);
    for entry in result["ips"].as_array().into_iter().flatten() {
        let text = entry["address"].as_str().unwrap_or_default();
        match text.split('/').next().unwrap_or_default().parse() {
            Ok(IpAddr::V4(address)) => ipv4 = Some(address),
            Ok(IpAddr::V6(address)) => ipv6 = Some(address),
            Err(_) => {}
        }
    }
    ipv4.zip(ipv6).with_context(|| format!("not an address of each family: {result}"))
}

/// Whether the API server's EndpointSlices, which `examples/` brings, name the pods that there are.
///
/// # Errors
/// They do not: the CNI gave other addresses.
pub fn check_endpoints(lab: &Lab, control: &ControlPlane) -> Result<()> {
    let path = "jsonpath={.items[*].endpoints[*].addresses[*]}";
    let selector = "kubernetes.io/service-name=web";
    let text = control.kubectl(&["get", "endpointslices", "-l", selector, "-o", path])?;
    let mut named: Vec<IpAddr> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let mut there: Vec<IpAddr> =
        lab.pods.iter().flat_map(|pod| [pod.ipv4.into(), pod.ipv6.into()]).collect();
    named.sort_unstable();
    there.sort_unstable();
    ensure!(named == there, "pods have {there:?}, the EndpointSlices {named:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_network_is_found() {
        assert_eq!(network_of("10.244.1.1/24").unwrap(), "10.244.1.0/24");
        assert_eq!(network_of("fd77:244:3::1/64").unwrap(), "fd77:244:3::/64");
        assert_eq!(network_of("10.1.2.3/0").unwrap(), "0.0.0.0/0");
        assert!(network_of("10.1.2.3").is_err());
    }

    #[test]
    fn a_result_has_an_address_of_each_family() {
        let result = json!({"ips": [
            {"address": "fd77:244:1::2/64", "gateway": "fd77:244:1::1"},
            {"address": "10.244.1.2/24"},
        ]});
        let expected = (Ipv4Addr::new(10, 244, 1, 2), "fd77:244:1::2".parse().unwrap());
        assert_eq!(addresses(&result).unwrap(), expected);
        assert!(addresses(&json!({"ips": [{"address": "10.0.0.1/8"}]})).is_err());
        assert!(addresses(&json!("nonsense")).is_err());
    }
}
