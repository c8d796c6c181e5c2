//! What suites and demo do alike with a laboratory whose nodes run agents.
use super::{
    Host, Lab, Shape, addresses,
    agent::{Agent, Options, Source},
    command,
    control_plane::{ControlPlane, ProxyMode},
    frames, maps,
    probe::{self, Over, Spread},
};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use lb_common::outcome::Outcome;
use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a host is listened to for answers: a thousand times what one takes.
pub const LISTEN: Duration = Duration::from_millis(50);

/// How long clients may go without an answer when a node vanishes: it is missed within 130 ms, and the
/// goal is 250 ms for all that follows, too; the tests allow four times that, since the machine does other
/// things as well.
pub const TAKEOVER_LIMIT: Duration = Duration::from_millis(1000);

/// The same when an agent vanishes alone, which is missed within a second. Nothing is lost meanwhile.
pub const AGENT_LIMIT: Duration = Duration::from_secs(4);

/// How long agents may take to start, build their tables and announce, on a machine that does
/// other things as well.
pub const START_LIMIT: Duration = Duration::from_secs(20);

/// The Service's port in `examples/`.
pub const WEB_PORT: u16 = 80;

/// Copies `examples/` into the laboratory, with the objects that a cluster would have of itself,
/// and returns the folder. Tests may change it.
///
/// # Errors
/// The files are not there, or the disk is full.
pub fn manifests(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.directory.join("manifests");
    fs::create_dir_all(&folder)?;
    let examples = command::workspace().join("examples");
    for source in [examples.clone(), examples.join("manifests")] {
        let entries =
            fs::read_dir(&source).with_context(|| format!("reading {}", source.display()))?;
        for entry in entries {
            let path = entry?.path();
            if let Some(name) = path.file_name()
                && path.extension().is_some_and(|e| e == "yaml")
            {
                fs::copy(&path, folder.join(name))?;
            }
        }
    }
    // Nodes on another link have another address there.
    let file = folder.join("nodes.yaml");
    let mut text = fs::read_to_string(&file)?;
    for (i, node) in (1u8..).zip(&lab.nodes) {
        let (usual4, usual6, _) = addresses::node(i);
        text = text.replace(&usual4.to_string(), &node.ipv4.to_string());
        text = text.replace(&usual6.to_string(), &node.ipv6.to_string());
    }
    fs::write(&file, text)?;
    Ok(folder)
}

/// How agents on `examples/` are started.
///
/// # Errors
/// As [`manifests`].
pub fn on_manifests(lab: &Lab) -> Result<Options> {
    Ok(Options::new(Source::Manifests(manifests(lab)?)))
}

/// Starts an agent on every node.
///
/// # Errors
/// The agent is not built.
pub fn start_agents(lab: &Lab, options: &Options) -> Result<Vec<Agent>> {
    lab.nodes.iter().map(|node| lab.start_agent(node, options)).collect()
}

/// Waits until each agent has written its first tables: only then is what arrives at its node its
/// own, and no longer kube-proxy's.
///
/// # Errors
/// One has ended, or takes too long.
pub fn await_steering(agents: &mut [Agent]) -> Result<()> {
    for agent in agents {
        let what = format!("the agent of {} steers", agent.node);
        wait::until_true(START_LIMIT, &what, || {
            agent.check()?;
            Ok(maps::announce_until(&agent.pin_directory).is_ok_and(|until| until > 0))
        })?;
    }
    Ok(())
}

/// What a node's agent tells Prometheus.
///
/// # Errors
/// It does not answer.
pub fn metrics(node: &Host) -> Result<String> {
    node.namespace.output("curl", &["-s", "--fail", "http://127.0.0.1:9120/metrics"])
}

/// The value of a series in [`metrics`]; none if there is none.
///
/// # Errors
/// It is no whole number.
pub fn sample(metrics: &str, series: &str) -> Result<Option<u64>> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?)
}

/// Waits until a node's agent has a plan in force, and knows all nodes.
///
/// # Errors
/// It takes longer than `limit`.
pub fn await_known(lab: &Lab, node: &Host, limit: Duration) -> Result<()> {
    let all = lab.nodes.len() as u64;
    wait::until_true(limit, &format!("the agent of {} knows all nodes", node.name), || {
        let metrics = metrics(node)?;
        let told = |series: &str| sample(&metrics, series);
        Ok(told("herald_ready")? == Some(1) && told("herald_nodes_alive")? == Some(all))
    })
}

/// A laboratory whose nodes run agents.
pub struct Cluster {
    /// In the order of the nodes. Ended before the laboratory goes.
    pub agents: Vec<Agent>,
    /// How they are started.
    pub options: Options,
    /// The control plane, if the agents use one.
    pub control: Option<ControlPlane>,
    /// The Service's addresses, IPv4 first.
    pub vips: [IpAddr; 2],
    /// The laboratory.
    pub lab: Lab,
}

impl Cluster {
    /// Three nodes on `examples/`; returns once all pods serve on both addresses.
    ///
    /// # Errors
    /// That does not come about.
    pub fn on_manifests(arguments: &[&str]) -> Result<Self> {
        Self::on_manifests_and(Shape::default(), arguments, |_, _| Ok(()))
    }

    /// The same in another shape, and with what `prepare` does to the laboratory and the folder.
    ///
    /// # Errors
    /// That does not come about.
    pub fn on_manifests_and(
        shape: Shape,
        arguments: &[&str],
        prepare: impl FnOnce(&Lab, &Path) -> Result<()>,
    ) -> Result<Self> {
        let lab = Lab::new(shape)?;
        let folder = manifests(&lab)?;
        prepare(&lab, &folder)?;
        let mut options = Options::new(Source::Manifests(folder));
        options.arguments.extend(arguments.iter().map(ToString::to_string));
        let agents = start_agents(&lab, &options)?;
        // A folder has no status to read them from: the first of the pool.
        let vips = addresses::both(addresses::FIRST_VIPS);
        let mut cluster = Self { agents, options, control: None, vips, lab };
        match cluster.await_all_serve() {
            Ok(()) => Ok(cluster),
            Err(error) => Err(cluster.failed(error)),
        }
    }

    /// The same on a control plane, under the rules of `deploy/`, with kube-proxy on each node.
    ///
    /// # Errors
    /// That does not come about.
    pub fn on_kubernetes(arguments: &[&str]) -> Result<Self> {
        Self::beside(Lab::new(Shape::default())?, |lab| {
            let (control, mut options) = control_plane(lab)?;
            options.arguments.extend(arguments.iter().map(ToString::to_string));
            Ok((control, options))
        })
    }

    /// Agents on what `prepare` makes of a laboratory.
    pub(super) fn beside(
        mut lab: Lab,
        prepare: impl FnOnce(&mut Lab) -> Result<(ControlPlane, Options)>,
    ) -> Result<Self> {
        let result = (|| -> Result<_> {
            let (control, options) = prepare(&mut lab)?;
            let mut agents = start_agents(&lab, &options)?;
            let vips = external_addresses(&control, &mut agents)?;
            Ok((control, options, agents, vips))
        })();
        match result {
            Ok((control, options, agents, vips)) => {
                let mut cluster = Self { agents, options, control: Some(control), vips, lab };
                match cluster.await_all_serve() {
                    Ok(()) => Ok(cluster),
                    Err(error) => Err(cluster.failed(error)),
                }
            }
            Err(error) => Err(lab.failed(error)),
        }
    }

    /// The folder that the agents read.
    ///
    /// # Errors
    /// They ask an API server.
    pub fn folder(&self) -> Result<PathBuf> {
        match &self.options.source {
            Source::Manifests(folder) => Ok(folder.clone()),
            Source::Kubeconfig(_) => bail!("these agents have no folder"),
        }
    }

    /// The control plane.
    ///
    /// # Errors
    /// There is none.
    pub fn control(&self) -> Result<&ControlPlane> {
        self.control.as_ref().context("these agents read a folder")
    }

    /// The position of a node, which is that of its agent.
    ///
    /// # Errors
    /// There is no such node.
    pub fn position(&self, node: &str) -> Result<usize> {
        self.lab
            .nodes
            .iter()
            .position(|n| n.name == node)
            .with_context(|| format!("no node {node}"))
    }

    /// Waits until all pods serve on both addresses.
    ///
    /// # Errors
    /// They do not, or an agent has ended.
    pub fn await_all_serve(&mut self) -> Result<()> {
        await_steering(&mut self.agents)?;
        for vip in self.vips {
            await_owner(&self.lab, &mut self.agents, vip, START_LIMIT)?;
        }
        self.vips
            .into_iter()
            .try_for_each(|vip| await_serving(&self.lab, vip, &node_names(&self.lab), START_LIMIT))
    }

    /// Says that something failed: logs, captures and what the kernels have counted stay, and the
    /// error names their folder.
    pub fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        self.lab.mark_failed();
        for agent in &self.agents {
            // Where there is nothing to count or no room for it, the error says more.
            let Ok(counters) = maps::counters(&agent.pin_directory) else { continue };
            let mut text = String::new();
            for outcome in Outcome::ALL {
                let count = counters.get(*outcome);
                if count > 0 {
                    let _ = writeln!(text, "{count:>9} {}", outcome.name());
                }
            }
            let file = self.lab.directory.join(format!("{}-counters.txt", agent.node));
            let _ = fs::write(file, text);
        }
        error.context(format!("logs are in {}", self.lab.directory.display()))
    }

    /// Starts the agent of a node that has none, and waits until its tables are in force.
    ///
    /// # Errors
    /// It has ended, or takes too long.
    pub fn start_agent(&mut self, position: usize) -> Result<()> {
        let Self { lab, options, agents, .. } = self;
        let node = &lab.nodes[position];
        // What an agent before it has left; there is nothing pinned before the first one.
        let deadline = || maps::announce_until(&lab.pin_directory(node));
        let before = deadline().unwrap_or_default();
        let mut agent = lab.start_agent(node, options)?;
        wait::until_true(3 * START_LIMIT, &format!("the agent of {} steers", node.name), || {
            agent.check()?;
            Ok(deadline().is_ok_and(|now| now > before))
        })?;
        agents.insert(position, agent);
        Ok(())
    }

    /// Kills a node's agent without warning and starts another at once.
    ///
    /// # Errors
    /// It had ended before.
    pub fn restart_agent(&mut self, position: usize) -> Result<()> {
        self.agents.remove(position).kill()?;
        let agent = self.lab.start_agent(&self.lab.nodes[position], &self.options)?;
        self.agents.insert(position, agent);
        Ok(())
    }
}

/// A control plane with `deploy/` and `examples/` in it, and kube-proxy on each node. Returns
/// how agents are started on it.
///
/// # Errors
/// A program is missing or does not start, or the API server refuses something.
pub fn control_plane(lab: &Lab) -> Result<(ControlPlane, Options)> {
    control_plane_with(lab, &EXAMPLES)
}

/// What the objects of `examples/` are, those that a cluster has of itself among them.
pub(super) const EXAMPLES: [&str; 4] =
    ["manifests/nodes.yaml", "manifests/web-endpoints.yaml", "pool.yaml", "web.yaml"];

/// The same with these files of `examples/` only.
///
/// # Errors
/// As [`control_plane`].
pub fn control_plane_with(lab: &Lab, examples: &[&str]) -> Result<(ControlPlane, Options)> {
    let (control, options) = api_with(lab, examples)?;
    for node in &lab.nodes {
        control.start_kube_proxy(node, ProxyMode::Nftables)?;
    }
    Ok((control, options))
}

/// An API server with `deploy/` and these files of `examples/` in it.
pub(super) fn api_with(lab: &Lab, examples: &[&str]) -> Result<(ControlPlane, Options)> {
    let control = ControlPlane::start(lab)?;
    let options = control.install()?;
    for objects in examples {
        control.apply(&command::workspace().join("examples").join(objects))?;
    }
    Ok((control, options))
}

/// The addresses that the status of the Service in `examples/` shows, once there are two; IPv4
/// first, as its families are.
///
/// # Errors
/// There are not, or an agent has ended.
pub fn external_addresses(control: &ControlPlane, agents: &mut [Agent]) -> Result<[IpAddr; 2]> {
    wait::until(START_LIMIT, "Service web has an address of each family", || {
        for agent in agents.iter_mut() {
            agent.check()?;
        }
        Ok(control.ingress("default", "web")?.try_into().ok())
    })
}

/// Everybody who answers the client's question for an address.
///
/// # Errors
/// The laboratory is gone.
pub fn answers(lab: &Lab, vip: IpAddr) -> Result<Vec<frames::Resolved>> {
    match vip {
        IpAddr::V4(vip) => frames::arp_from(&lab.client, vip, LISTEN),
        IpAddr::V6(vip) => frames::ndp_from(&lab.client, vip, LISTEN),
    }
}

/// The node that answers for an address, if exactly one does, and with its own link-layer
/// address.
///
/// # Errors
/// Several answer, or somebody who is no node.
pub fn owner(lab: &Lab, vip: IpAddr) -> Result<Option<&Host>> {
    let answers = answers(lab, vip)?;
    let Some(first) = answers.first() else { return Ok(None) };
    ensure!(answers.len() == 1, "{} answers for {vip}: {answers:?}", answers.len());
    ensure!(first.mac == first.frame_source, "an answer in another's name: {first:?}");
    lab.node_by_mac(first.mac)
        .with_context(|| format!("{} is no node's", addresses::mac_text(first.mac)))
        .map(Some)
}

/// Waits until exactly one node answers for an address. The agents are looked after meanwhile.
///
/// # Errors
/// None does, or an agent has ended.
pub fn await_owner<'a>(
    lab: &'a Lab,
    agents: &mut [Agent],
    vip: IpAddr,
    limit: Duration,
) -> Result<&'a Host> {
    wait::until(limit, &format!("a node answers for {vip}"), || {
        // One that has ended will not answer any more: no need to wait.
        if let Some(ended) = agents.iter_mut().find_map(|agent| agent.check().err()) {
            return Ok(Some(Err(ended)));
        }
        Ok(owner(lab, vip)?.map(Ok))
    })?
}

/// Waits until one of `nodes` answers for an address.
///
/// # Errors
/// None of them does.
pub fn await_owner_among<'a>(
    lab: &'a Lab,
    nodes: &[&str],
    vip: IpAddr,
    limit: Duration,
) -> Result<&'a Host> {
    let what = format!("one of {} answers for {vip}", nodes.join(", "));
    wait::until(limit, &what, || {
        Ok(owner(lab, vip)?.filter(|owner| nodes.contains(&owner.name.as_str())))
    })
}

/// The one node that answers for an address. Two may for a moment, after an agent's restart or
/// a false alarm, until each has heard the other.
///
/// # Errors
/// It does not come to one.
pub fn settled_owner(lab: &Lab, vip: IpAddr) -> Result<&Host> {
    await_owner_among(lab, &node_names(lab), vip, 2 * AGENT_LIMIT)
}

/// Waits until requests to an address are answered by exactly these nodes' pods.
///
/// # Errors
/// They are not.
pub fn await_serving(lab: &Lab, vip: IpAddr, nodes: &[&str], limit: Duration) -> Result<()> {
    let pods = pods_of(lab, nodes);
    wait::until_true(limit, &format!("all pods of {} serve {vip}", nodes.join(", ")), || {
        // Few are enough to see whether all pods take part: chances are 1 in 10^8 to miss one.
        let (from, to) = (&lab.client.namespace, (vip, WEB_PORT).into());
        let spread = probe::try_spread(from, Over::Udp, to, 20 * pods.len())?;
        Ok(spread.failed == 0 && spread.pods.keys().eq(&pods))
    })
}

/// The names of these nodes' pods, in order.
pub fn pods_of(lab: &Lab, nodes: &[&str]) -> Vec<String> {
    let mut pods: Vec<_> = lab
        .pods
        .iter()
        .filter(|pod| nodes.contains(&lab.nodes[pod.node].name.as_str()))
        .map(|pod| pod.name.clone())
        .collect();
    pods.sort_unstable();
    pods
}

/// The names of all nodes.
pub fn node_names(lab: &Lab) -> Vec<&str> {
    lab.nodes.iter().map(|node| node.name.as_str()).collect()
}

/// The names of all nodes but one.
pub fn others<'a>(lab: &'a Lab, node: &Host) -> Vec<&'a str> {
    node_names(lab).into_iter().filter(|name| *name != node.name).collect()
}

/// The client's requests to the Service's port.
///
/// # Errors
/// The laboratory is gone.
pub fn spread(lab: &Lab, over: Over, vip: IpAddr, count: usize) -> Result<Spread> {
    probe::spread(&lab.client.namespace, over, (vip, WEB_PORT).into(), count)
}

/// The client's own address of a family.
pub fn client_address(lab: &Lab, vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { lab.client.ipv4.into() } else { lab.client.ipv6.into() }
}

/// Sends requests and checks that these nodes' pods all get their share, and see the client.
///
/// # Errors
/// Says what does not hold.
pub fn check_spread(
    lab: &Lab,
    over: Over,
    vip: IpAddr,
    nodes: &[&str],
    count: usize,
) -> Result<Spread> {
    let spread = spread(lab, over, vip, count)?;
    let pods = pods_of(lab, nodes);
    let pods: Vec<_> = pods.iter().map(String::as_str).collect();
    spread.check(&pods, client_address(lab, vip)).with_context(|| format!("{over:?} to {vip}"))?;
    Ok(spread)
}

/// What a takeover looked like to a client.
#[derive(Clone, Debug)]
pub struct Takeover<'a> {
    /// Who answers now.
    pub owner: &'a Host,
    /// The longest time between two answered probes (one every 2 ms).
    pub gap: Duration,
    /// Probes that were not answered.
    pub lost: usize,
}

/// Probes an address while `action` takes it from `owner`, until another node answers for it
/// and the pods of the nodes `serving`, and no others, serve it.
///
/// # Errors
/// Nobody takes over.
pub fn takeover<'a>(
    lab: &'a Lab,
    vip: IpAddr,
    owner: &Host,
    serving: &[&str],
    action: impl FnOnce() -> Result<()>,
) -> Result<Takeover<'a>> {
    let others = others(lab, owner);
    let interval = Duration::from_millis(2);
    let probing = probe::watch_gaps(&lab.client.namespace, (vip, WEB_PORT).into(), interval);
    // What is before the cut shows that probes are answered at all.
    wait::sleep_until(Instant::now() + Duration::from_millis(200));
    action()?;
    let new = await_owner_among(lab, &others, vip, AGENT_LIMIT)?;
    await_serving(lab, vip, serving, AGENT_LIMIT)?;
    let gaps = probing.stop()?;
    ensure!(gaps.answered.len() > 50, "only {} probes were answered", gaps.answered.len());
    Ok(Takeover { owner: new, gap: gaps.longest(), lost: gaps.lost() })
}
