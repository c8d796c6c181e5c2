//! A LAN with nodes, pods and clients, each a network namespace of its own.
//!
//! ```text
//!   pods ── veth ── node1 ─┐
//!   pods ── veth ── node2 ─┼─ bridge (namespace "lan") ── client, control
//!   pods ── veth ── node3 ─┘        ┊
//!                                router ── remote     (where Shape::router asks for them)
//! ```
//! A "CNI" is a few routes: each node routes the others' pod prefixes to their addresses, and hides its
//! pods behind its own address, as most CNIs do. A laboratory without these leaves that to a real one ([`cni`]).
pub mod addresses;
pub mod agent;
pub mod api;
pub mod bgp;
mod cables;
mod capture;
pub mod cleanup;
pub mod cni;
pub mod command;
pub mod connections;
pub mod container;
pub mod control_plane;
pub mod datagrams;
pub mod endpoints;
pub mod frames;
pub mod frr;
pub mod gobgp;
pub mod kubelet;
pub mod maps;
pub mod namespace;
pub mod openings;
pub mod pod;
mod ports;
pub mod probe;
mod ready;
mod recorder;
pub(crate) mod remains;
pub mod routed;
pub mod router;
pub mod scenario;
mod shape;
pub mod traffic;

pub use recorder::Recording;
pub use shape::{Outside, Shape};

use crate::{system, wait};
use agent::Agent;
use anyhow::{Context, Result, bail, ensure};
use capture::Capture;
use command::run;
use namespace::Namespace;
use recorder::Recorder;
use remains::Remains;
use router::Router;
use std::{
    cell::Cell,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A host of the LAN: a node, a client, or the machine of the control plane.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub namespace: Namespace,
    /// Address on `eth0`.
    pub ipv4: Ipv4Addr,
    /// Address on `eth0`.
    pub ipv6: Ipv6Addr,
    /// Link-layer address of `eth0`.
    pub mac: [u8; 6],
    /// The switch's port that it is plugged into.
    pub port: String,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Position in [`Lab::nodes`] of the node it runs on.
    pub node: usize,
    /// Where it lives.
    pub namespace: Namespace,
    /// Address.
    pub ipv4: Ipv4Addr,
    /// Address.
    pub ipv6: Ipv6Addr,
}

/// A pod that can be ended.
pub struct RunningPod {
    /// The pod.
    pub pod: Pod,
    server: Child,
}

/// How a node's link is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The switch's port goes down: the node sees its carrier go.
    Port,
    /// The port stays up and lets nothing through: the node sees nothing.
    Silent,
}

/// The laboratory. Dropping it removes everything that belongs to it.
pub struct Lab {
    /// Its namespaces' prefix.
    pub prefix: String,
    /// Logs, captures and manifests; kept when something failed.
    pub directory: PathBuf,
    /// The switch.
    pub lan: Namespace,
    /// The nodes.
    pub nodes: Vec<Host>,
    /// The pods, in order of nodes.
    pub pods: Vec<Pod>,
    /// A host outside the cluster.
    pub client: Host,
    /// The LAN's way out, if the shape has one.
    pub router: Option<Router>,
    failed: Cell<bool>,
    kept: Cell<bool>,
    recorders: Vec<Recorder>,
    capture: Option<Capture>,
}

/// The switch's bridge. Recording on it shows the frames of all ports.
pub const BRIDGE: &str = "br0";
/// The bridge of the last node's own link ([`Outside::RouterAndNode`]).
pub const FAR_BRIDGE: &str = "br1";
const XDP_PASS: i32 = 2;
/// The port a pod serves on.
pub const POD_PORT: u16 = 8080;

impl Lab {
    /// Builds one, with a pod server in every pod.
    ///
    /// # Errors
    /// Not root, a program is missing (each named), or the kernel lacks what is needed.
    pub fn new(shape: Shape) -> Result<Self> {
        let lab = Self::build(shape, true)?;
        for pod in &lab.pods {
            lab.serve(pod)?;
        }
        lab.pods.iter().try_for_each(|pod| lab.await_pod(pod))?;
        Ok(lab)
    }

    /// Builds one whose nodes have no pods, and no way to the others' pods.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn without_pods(nodes: u8, recording: Recording) -> Result<Self> {
        let router = Outside::None;
        Self::build(Shape { nodes, pods_per_node: 0, router, recording }, false)
    }

    fn build(shape: Shape, routes: bool) -> Result<Self> {
        ensure!(
            system::is_root(),
            "needs root: network namespaces and XDP programs are made here (try sudo)"
        );
        for program in ["ip", "nsenter", "ethtool", "nft", "mount", "kill"] {
            command::find(program)?;
        }
        cleanup::sweep()?;
        mount_bpf_file_system()?;
        let prefix = cleanup::begin()?;
        let directory = cleanup::directory(&prefix);
        fs::create_dir_all(&directory)?;
        // From here on a failure removes what there is.
        let guard = Guard(&prefix);
        let lan = Namespace::create(&prefix, "lan")?;
        lan.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        // A switch is no firewall. A kernel without br_netfilter has no such parameters.
        for rules in ["iptables", "ip6tables", "arptables"] {
            let _ = lan.sysctl(&format!("net/bridge/bridge-nf-call-{rules}"), "0");
        }
        for bridge in [BRIDGE, FAR_BRIDGE] {
            lan.ip(&format!(
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {bridge} up\n"
            ))?;
        }
        let recorded: &[_] = match (shape.recording, shape.router) {
            (Recording::None, _) => &[],
            (Recording::Latest, Outside::RouterAndNode) => &[BRIDGE, FAR_BRIDGE],
            (Recording::Latest, _) => &[BRIDGE],
        };
        let recorders = recorded
            .iter()
            .map(|bridge| Recorder::start(&lan, bridge))
            .collect::<Result<Vec<_>>>()?;
        let capture = Capture::if_asked(&directory, &lan, BRIDGE)?;
        system::pin_constant_xdp_program("lab_pass", XDP_PASS, &pass_pin(&prefix))
            .context("pinning the laboratory's pass program")?;
        let switch = Switch { prefix: &prefix, lan: &lan, bridge: BRIDGE };
        let client = switch.plug("client", addresses::CLIENT, false)?;
        let nodes = (1..=shape.nodes)
            .map(|i| {
                let name = format!("node{i}");
                if shape.router == Outside::RouterAndNode && i == shape.nodes {
                    let far = Switch { bridge: FAR_BRIDGE, ..switch };
                    far.plug(&name, addresses::far_node(i), true)
                } else {
                    switch.plug(&name, addresses::node(i), true)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let router = match shape.router {
            Outside::None => None,
            Outside::Router | Outside::RouterAndNode => Some(Router::new(&switch)?),
        };
        if routes {
            route_pods(&nodes, router.as_ref())?;
        }
        let mut pods = vec![];
        for (position, node) in nodes.iter().enumerate() {
            for j in 1..=shape.pods_per_node {
                let name = format!("web-{}", pods.len() + 1);
                pods.push(pod(&prefix, node, position, &name, j)?);
            }
        }
        std::mem::forget(guard);
        Ok(Self {
            prefix,
            directory,
            lan,
            nodes,
            pods,
            client,
            router,
            failed: Cell::new(false),
            kept: Cell::new(false),
            recorders,
            capture,
        })
    }

    /// A further host on the LAN.
    ///
    /// # Errors
    /// The name or the address is taken.
    pub fn add_host(&self, name: &str, address: addresses::OnLan) -> Result<Host> {
        Switch { prefix: &self.prefix, lan: &self.lan, bridge: BRIDGE }.plug(name, address, false)
    }

    /// A further pod, which serves once this returns. It is not one of [`Lab::pods`].
    ///
    /// # Errors
    /// The name or the number is taken.
    pub fn add_pod(&self, node: usize, name: &str, number: u8) -> Result<RunningPod> {
        let pod = pod(&self.prefix, &self.nodes[node], node, name, number)?;
        let server = self.serve(&pod)?;
        self.await_pod(&pod)?;
        Ok(RunningPod { pod, server })
    }

    /// Ends a pod as a kubelet does at the end of the grace period: its processes are killed, and
    /// its addresses are gone.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn remove_pod(&self, mut running: RunningPod) -> Result<()> {
        running.server.kill()?;
        running.server.wait()?;
        let RunningPod { pod, .. } = running;
        self.nodes[pod.node].namespace.ip(&format!("link del {}\n", pod.name))?;
        pod.namespace.remove()
    }

    /// Starts a pod's server.
    fn serve(&self, pod: &Pod) -> Result<Child> {
        let mut server = pod.namespace.command(&command::sibling("lab-pod")?);
        server.args(["--name", &pod.name, "--node", &self.nodes[pod.node].name]);
        server.args(["--port", &POD_PORT.to_string()]);
        let log = fs::File::create(self.directory.join(format!("{}.log", pod.name)))?;
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        cleanup::spawn(&mut server).context("starting a pod's server")
    }

    /// Waits until a pod answers its own node.
    fn await_pod(&self, pod: &Pod) -> Result<()> {
        let node = &self.nodes[pod.node].namespace;
        for address in [pod.ipv4.into(), pod.ipv6.into()] {
            wait::until_true(
                Duration::from_secs(5),
                &format!("{} serves on {address}", pod.name),
                || Ok(probe::http(node, address, POD_PORT)?.pod == pod.name),
            )?;
        }
        Ok(())
    }

    /// The node of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Host> {
        self.nodes
            .iter()
            .find(|n| n.name == name)
            .with_context(|| format!("no node {name} in this laboratory"))
    }

    /// The node with that link-layer address.
    pub fn node_by_mac(&self, mac: [u8; 6]) -> Option<&Host> {
        self.nodes.iter().find(|n| n.mac == mac)
    }

    /// The folder of a node's pins.
    pub fn pin_directory(&self, node: &Host) -> PathBuf {
        cleanup::pin_directory(&self.prefix, &node.name)
    }

    /// The pin of an XDP program that passes everything.
    pub fn pass_program(&self) -> PathBuf {
        pass_pin(&self.prefix)
    }

    /// Breaks a node's link at the switch.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn cut(&self, node: &Host, how: Cut) -> Result<()> {
        let port = &node.port;
        self.lan.ip(&match how {
            Cut::Port => format!("link set {port} down\n"),
            Cut::Silent => format!("link set {port} nomaster\n"),
        })
    }

    /// Mends a node's link.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn mend(&self, node: &Host) -> Result<()> {
        let port = &node.port;
        let bridge = if addresses::is_far(node.ipv4) { FAR_BRIDGE } else { BRIDGE };
        self.lan.ip(&format!("link set {port} master {bridge}\nlink set {port} up\n"))
    }

    /// Says that something failed: logs and captures stay.
    pub fn mark_failed(&self) {
        self.failed.set(true);
    }

    /// Keeps the logs because of an error, and says in it where they are.
    pub fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        self.mark_failed();
        error.context(format!("logs are in {}", self.directory.display()))
    }

    /// Leaves everything standing when this is dropped.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn keep(&self) -> Result<()> {
        cleanup::keep(&self.prefix)?;
        self.kept.set(true);
        Ok(())
    }

    /// Starts an agent on a node.
    ///
    /// # Errors
    /// The agent is not built.
    pub fn start_agent(&self, node: &Host, options: &agent::Options) -> Result<Agent> {
        Agent::start(self, node, options)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept.get() {
            return;
        }
        self.capture.take().into_iter().for_each(Capture::stop);
        let recorders = std::mem::take(&mut self.recorders);
        let remains = Remains { prefix: self.prefix.clone(), recorders };
        if self.failed.get() || std::thread::panicking() {
            remains.keep();
            return;
        }
        cleanup::take_down(&self.prefix);
        if let Some(remains) = remains::undecided(remains) {
            remains.remove();
        }
    }
}

/// Removes what a constructor that fails has made so far.
struct Guard<'a>(&'a str);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        cleanup::remove(self.0, false);
    }
}

fn pass_pin(prefix: &str) -> PathBuf {
    cleanup::pin_directory(prefix, "pass")
}

fn mount_bpf_file_system() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let there = mounts.lines().any(|l| {
        l.split(' ').nth(4) == Some("/sys/fs/bpf")
            && l.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("bpf "))
    });
    if !there {
        run(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
    }
    Ok(())
}

/// A bridge that hosts are plugged into.
#[derive(Clone, Copy)]
struct Switch<'a> {
    prefix: &'a str,
    lan: &'a Namespace,
    bridge: &'a str,
}

impl Switch<'_> {
    /// A namespace plugged into it, whose default routes lead to the gateway. One that forwards is
    /// a node.
    fn plug(&self, name: &str, address: addresses::OnLan, forwards: bool) -> Result<Host> {
        let host = self.plug_without_routes(name, address, forwards)?;
        if forwards {
            attach(self.lan, &host.port, &pass_pin(self.prefix))?;
        }
        let (gateway4, gateway6) = addresses::gateway(address.0);
        host.namespace.ip(&format!(
            "route add default via {gateway4}\nroute add ::/0 via {gateway6} dev eth0\n"
        ))?;
        Ok(host)
    }

    fn plug_without_routes(
        &self,
        name: &str,
        address: addresses::OnLan,
        forwards: bool,
    ) -> Result<Host> {
        let namespace = Namespace::create(self.prefix, name)?;
        // Duplicate address detection would only delay every start by a second.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        if forwards {
            namespace.sysctl("net/ipv4/ip_forward", "1")?;
            namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        namespace.ip("link set lo up\n")?;
        self.connect(&namespace, name, "eth0", address)
    }

    /// A cable from an interface of a namespace to this switch.
    fn connect(
        &self,
        namespace: &Namespace,
        name: &str,
        interface: &str,
        (ipv4, ipv6, mac): addresses::OnLan,
    ) -> Result<Host> {
        let Self { lan, bridge, .. } = self;
        let mut port = format!("p-{name}");
        if interface != "eth0" {
            port = format!("{port}-{interface}");
        }
        let mac_text = addresses::mac_text(mac);
        lan.ip(&format!(
            "link add {port} type veth peer name {interface} address {mac_text} netns {}\n\
             link set {port} master {bridge}\n\
             link set {port} up\n",
            namespace.name
        ))?;
        namespace.ip(&format!(
            "link set {interface} up\n\
             addr add {ipv4}/24 brd + dev {interface}\n\
             addr add {ipv6}/64 dev {interface} nodad\n"
        ))?;
        // A frame that a program turns around keeps its partial checksum, which no
        // network card would have sent (a veth does).
        namespace.output("ethtool", &["-K", interface, "tx", "off"])?;
        Ok(Host { name: name.into(), namespace: namespace.clone(), ipv4, ipv6, mac, port })
    }
}

/// Attaches a pinned program to an interface in native mode. The kernel keeps it until
/// the interface goes.
///
/// # Errors
/// Another program is there.
pub fn attach(namespace: &Namespace, interface: &str, pin: &Path) -> Result<()> {
    let pin = pin.display().to_string();
    namespace.output("ip", &["link", "set", "dev", interface, "xdpdrv", "pinned", &pin]).map(|_| ())
}

/// Each node learns the way to the others' pods, and hides its own from the world. To pods on
/// another link the way leads through the router, which knows them all.
fn route_pods(nodes: &[Host], router: Option<&Router>) -> Result<()> {
    let numbered = || (1u8..).zip(nodes);
    if let Some(router) = router {
        let mut routes = String::new();
        for (i, node) in numbered() {
            let (prefix4, prefix6) = addresses::pod_prefixes(i);
            writeln!(routes, "route add {prefix4} via {}", node.ipv4)?;
            writeln!(routes, "route add {prefix6} via {}", node.ipv6)?;
        }
        router.host.namespace.ip(&routes)?;
    }
    for node in nodes {
        let mut routes = String::new();
        for (i, other) in numbered() {
            let on_link = addresses::gateway(other.ipv4) == addresses::gateway(node.ipv4);
            if other.name != node.name && on_link {
                let (prefix4, prefix6) = addresses::pod_prefixes(i);
                writeln!(routes, "route add {prefix4} via {}", other.ipv4)?;
                writeln!(routes, "route add {prefix6} via {}", other.ipv6)?;
            }
        }
        node.namespace.ip(&routes)?;
        let (all4, all6) = (addresses::ALL_PODS.0, addresses::ALL_PODS.1);
        node.namespace.feed(
            "nft",
            &["-f", "-"],
            &format!(
                "table inet lab_cni {{\n chain postrouting {{\n\
                 type nat hook postrouting priority srcnat;\n\
                 ip saddr {all4} ip daddr != {all4} masquerade\n\
                 ip6 saddr {all6} ip6 daddr != {all6} masquerade\n }}\n}}\n"
            ),
        )?;
    }
    Ok(())
}

/// A namespace behind a veth of its node.
fn pod(prefix: &str, node: &Host, position: usize, name: &str, j: u8) -> Result<Pod> {
    let i = u8::try_from(position)? + 1;
    let Some(((ipv4, ipv6), (gateway4, gateway6))) = addresses::pod(i, j) else {
        bail!("{name}: a node has room for 99 pods")
    };
    let namespace = Namespace::create(prefix, name)?;
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
    }
    node.namespace.ip(&format!(
        "link add {name} type veth peer name eth0 netns {}\n\
         addr add {gateway4}/32 dev {name}\n\
         addr add {gateway6}/128 dev {name} nodad\n\
         link set {name} up\n\
         route add {ipv4} dev {name}\n\
         route add {ipv6} dev {name}\n",
        namespace.name
    ))?;
    namespace.ip(&format!(
        "link set lo up\n\
         link set eth0 up\n\
         addr add {ipv4}/32 dev eth0\n\
         addr add {ipv6}/128 dev eth0 nodad\n\
         route add {gateway4} dev eth0\n\
         route add default via {gateway4}\n\
         route add {gateway6} dev eth0\n\
         route add ::/0 via {gateway6} dev eth0\n"
    ))?;
    Ok(Pod { name: name.into(), node: position, namespace, ipv4, ipv6 })
}
