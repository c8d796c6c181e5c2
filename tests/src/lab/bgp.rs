//! BGP between the nodes and the router, by real BIRDs: each node announces the VIPs, and the
//! router's kernel spreads over the nodes that do.
use super::{Host, Lab, cleanup, command, namespace::Namespace};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// The router's AS, and that of all nodes.
pub const ROUTER_AS: u32 = 64_513;
/// See [`ROUTER_AS`].
pub const NODES_AS: u32 = 64_512;

/// A BFDProfile `fast`, three packets at 50 ms, and a Community that names 64512:80 `web`.
pub const FAST_AND_WEB: &str = "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: fast, namespace: \
     metallb-system}\nspec: {receiveInterval: 50, transmitInterval: 50, detectMultiplier: 3}\n---\n\
     apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {name: names, namespace: \
     metallb-system}\nspec: {communities: [{name: web, value: '64512:80'}]}\n";

/// Until a session is up, or its end has reached the router's kernel, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Sessions come back soon; and a node that vanishes is noticed by BFD after a second, long
/// before the hold time is over.
const TIMES: &str = "hold time 30; keepalive time 10; connect delay time 1; connect retry time 1;\n \
                     error wait time 1, 2; bfd on;";
const BFD: &str = "protocol device { scan time 10; }\n\
                   protocol bfd { interface \"*\" { interval 100 ms; multiplier 10; }; }\n";

/// A running BIRD.
pub struct Bird {
    /// What it listens on for commands.
    socket: PathBuf,
    log: PathBuf,
    namespace: Namespace,
}

impl Bird {
    /// Starts it in a namespace. Returns once it takes commands.
    ///
    /// # Errors
    /// It is not installed, or ends at once: says why.
    pub fn start(lab: &Lab, namespace: &Namespace, name: &str, config: &str) -> Result<Self> {
        let file = |extension| lab.directory.join(format!("{name}.bird.{extension}"));
        let (socket, log) = (file("ctl"), file("log"));
        fs::write(file("conf"), format!("log \"{}\" all;\n{config}", log.display()))?;
        let mut bird = namespace.command(find("bird")?);
        bird.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(&socket);
        let output = fs::File::create(file("out"))?;
        bird.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = cleanup::spawn(&mut bird)?;
        let bird = Self { socket, log, namespace: namespace.clone() };
        wait::until_true(LIMIT, &format!("BIRD of {name} takes commands"), || {
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(file("out"))?;
                return Err(anyhow::anyhow!("it ended ({status}): {}", said.trim()));
            }
            bird.tell("show status").map(|_| true)
        })?;
        Ok(bird)
    }

    /// What it logs.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Gives it a command, as an operator would.
    ///
    /// # Errors
    /// It does not understand it.
    pub fn tell(&self, words: &str) -> Result<String> {
        let mut birdc = self.namespace.command(find("birdc")?);
        let answer = command::run(birdc.arg("-s").arg(&self.socket).args(words.split(' ')))?;
        // It exits with 0 whatever the answer is.
        ensure!(!answer.contains("syntax error"), "BIRD does not understand `{words}`: {answer}");
        Ok(answer)
    }
}

/// Where one of BIRD's programs lies.
fn find(program: &str) -> Result<PathBuf> {
    command::find(program).context("BIRD 2 plays the router (Debian's package bird2)")
}

/// The sessions between the router and the nodes.
pub struct Bgp {
    router: Bird,
    router_namespace: Namespace,
    nodes: Vec<Bird>,
    vips: Vec<IpAddr>,
}

impl Bgp {
    /// Starts all BIRDs; every node announces `vips`. Returns once the router's kernel spreads over
    /// all nodes.
    ///
    /// # Errors
    /// The laboratory has no router, BIRD is not installed, or that does not come about.
    pub fn start(lab: &Lab, vips: &[IpAddr]) -> Result<Self> {
        Self::begin(lab, vips, "", true)
    }

    /// Starts the router's BIRD, whose sessions wait for the nodes' agents, with further `options`. Returns
    /// once its kernel spreads over all nodes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with_agents(lab: &Lab, vips: &[IpAddr], options: &str) -> Result<Self> {
        Self::begin(lab, vips, &format!("passive; {options}"), false)
    }

    fn begin(lab: &Lab, vips: &[IpAddr], options: &str, birds: bool) -> Result<Self> {
        let router = lab.router.as_ref().context("this laboratory has no router")?;
        let mut config = format!("router id {};\n{BFD}", router.host.ipv4);
        for family in ["ipv4", "ipv6"] {
            write!(
                config,
                "protocol kernel kernel_{family} {{\n {family} {{ import none; export where source \
                 = RTS_BGP; }};\n merge paths on; }}\n"
            )?;
        }
        for node in &lab.nodes {
            for family in ["ipv4", "ipv6"] {
                let address = address(node, family);
                write!(
                    config,
                    "protocol bgp {}_{family} {{\n local as {ROUTER_AS}; neighbor {address} as \
                     {NODES_AS}; direct; {TIMES} {options}\n {family} {{ import all; export none; }};\n}}\n",
                    node.name
                )?;
            }
        }
        let namespace = router.host.namespace.clone();
        let router = Bird::start(lab, &namespace, "router", &config)?;
        let nodes = lab
            .nodes
            .iter()
            .filter(|_| birds)
            .map(|node| Bird::start(lab, &node.namespace, &node.name, &node_config(node, vips)?))
            .collect::<Result<_>>()?;
        let bgp = Self { router, router_namespace: namespace, nodes, vips: vips.to_vec() };
        bgp.await_next_hops(&lab.nodes.iter().collect::<Vec<_>>())?;
        Ok(bgp)
    }

    /// What the router says to a command of `birdc`.
    ///
    /// # Errors
    /// It does not understand it.
    pub fn tell_router(&self, words: &str) -> Result<String> {
        self.router.tell(words)
    }

    /// The nodes that the router's kernel spreads an address's traffic over.
    ///
    /// # Errors
    /// `ip` fails, or a next hop is no node.
    pub fn next_hops(&self, lab: &Lab, vip: IpAddr) -> Result<BTreeSet<String>> {
        gateways(&self.router_namespace, vip)?
            .into_iter()
            .map(|gateway| {
                let node = lab.nodes.iter().find(|node| is_of(node, gateway));
                Ok(node.with_context(|| format!("{gateway} is no node's"))?.name.clone())
            })
            .collect()
    }

    /// Withdraws a healthy node's routes; returns once the router's kernel has it no more.
    ///
    /// # Errors
    /// BIRD refuses, or the kernel's routes do not change.
    pub fn leave(&self, lab: &Lab, position: usize) -> Result<()> {
        self.nodes[position].tell("disable router_ipv4")?;
        self.nodes[position].tell("disable router_ipv6")?;
        self.await_gone(&lab.nodes[position])
    }

    /// Announces from a node again; returns once the router's kernel has it.
    ///
    /// # Errors
    /// BIRD refuses, or the kernel's routes do not change.
    pub fn join(&self, lab: &Lab, position: usize) -> Result<()> {
        self.nodes[position].tell("enable router_ipv4")?;
        self.nodes[position].tell("enable router_ipv6")?;
        let node = &lab.nodes[position];
        self.await_routes(&format!("the router has {}", node.name), |gateways| {
            gateways.iter().any(|&gateway| is_of(node, gateway))
        })
    }

    /// Waits until the router has noticed that a node is gone.
    ///
    /// # Errors
    /// It does not.
    pub fn await_gone(&self, node: &Host) -> Result<()> {
        self.await_routes(&format!("the router has {} no more", node.name), |gateways| {
            !gateways.iter().any(|&gateway| is_of(node, gateway))
        })
    }

    /// Waits until the router spreads over exactly these nodes.
    ///
    /// # Errors
    /// It does not.
    pub fn await_next_hops(&self, nodes: &[&Host]) -> Result<()> {
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        self.await_routes(&format!("the router spreads over {}", names.join(", ")), |gateways| {
            gateways.len() == nodes.len()
                && nodes.iter().all(|node| gateways.iter().any(|&g| is_of(node, g)))
        })
    }

    fn await_routes(&self, what: &str, wanted: impl Fn(&BTreeSet<IpAddr>) -> bool) -> Result<()> {
        for &vip in &self.vips {
            let result = wait::until_true(LIMIT, &format!("{what} for {vip}"), || {
                Ok(wanted(&gateways(&self.router_namespace, vip)?))
            });
            if let Err(error) = result {
                let state = self.router.tell("show protocols").unwrap_or_default();
                return Err(error.context(format!("BIRD says:\n{state}")));
            }
        }
        Ok(())
    }
}

fn node_config(node: &Host, vips: &[IpAddr]) -> Result<String> {
    let mut config = format!("router id {};\n{BFD}", node.ipv4);
    for family in ["ipv4", "ipv6"] {
        // Nothing of this gets into the node's kernel: there is no protocol that would put it there.
        write!(config, "protocol static vips_{family} {{\n {family};\n")?;
        for vip in vips.iter().filter(|vip| vip.is_ipv4() == (family == "ipv4")) {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            writeln!(config, " route {vip}/{length} blackhole;")?;
        }
        let (gateway4, gateway6) = super::addresses::gateway(node.ipv4);
        let router: IpAddr = if family == "ipv4" { gateway4.into() } else { gateway6.into() };
        write!(
            config,
            "}}\nprotocol bgp router_{family} {{\n local as {NODES_AS}; neighbor {router} as \
             {ROUTER_AS}; direct; {TIMES}\n {family} {{ import none; export where proto = \
             \"vips_{family}\"; next hop self; }};\n}}\n"
        )?;
    }
    Ok(config)
}

fn address(node: &Host, family: &str) -> IpAddr {
    if family == "ipv4" { node.ipv4.into() } else { node.ipv6.into() }
}

/// Whether an address is the node's, its link-local one included.
fn is_of(node: &Host, address: IpAddr) -> bool {
    let [a, b, c, d, e, f] = node.mac;
    // RFC 4291 appendix A: the interface's identifier from its link-layer address.
    let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    address == node.ipv4 || address == node.ipv6 || address == Ipv6Addr::from(local)
}

/// A route as `ip -j route` shows it.
#[derive(Deserialize)]
struct Route {
    gateway: Option<IpAddr>,
    #[serde(default)]
    nexthops: Vec<NextHop>,
}

#[derive(Deserialize)]
struct NextHop {
    gateway: IpAddr,
}

/// The next hops of a namespace's route to exactly this address.
fn gateways(namespace: &Namespace, address: IpAddr) -> Result<BTreeSet<IpAddr>> {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let length = if address.is_ipv4() { 32 } else { 128 };
    let target = format!("{address}/{length}");
    let mut ip = Command::new("ip");
    ip.args(["-n", &namespace.name, family, "-j", "route", "show", "exact", &target]);
    let text = command::run(&mut ip)?;
    // Without a route some versions print nothing at all.
    let text = if text.trim().is_empty() { "[]" } else { &text };
    let routes: Vec<Route> =
        serde_json::from_str(text).with_context(|| format!("reading {text}"))?;
    let all = routes.into_iter().flat_map(|route| {
        route.gateway.into_iter().chain(route.nexthops.into_iter().map(|hop| hop.gateway))
    });
    Ok(all.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_recognised() {
        let route: Vec<Route> = serde_json::from_str(
            r#"[{"dst":"10.77.0.200","protocol":"bird","metric":32,"flags":[],"nexthops":[
                {"gateway":"10.77.0.11","dev":"eth0","weight":1,"flags":[]},
                {"gateway":"10.77.0.12","dev":"eth0","weight":1,"flags":[]}]}]"#,
        )
        .unwrap();
        assert!(route[0].gateway.is_none());
        assert_eq!(route[0].nexthops.len(), 2);
    }
}
