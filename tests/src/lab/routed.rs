//! A cluster behind a router that spreads over its nodes.
use super::{
    Host, Lab, Outside, Pod, Shape, addresses,
    agent::{self, Source},
    bgp::Bgp,
    connections::Load,
    endpoints::{self, Condition},
    maps,
    probe::{self, Over},
    router::Router,
    scenario::{self, Cluster, START_LIMIT, WEB_PORT},
    traffic::Traffic,
};
use crate::wait;
use anyhow::{Context, Result};
use lb_common::{
    maps::{Service, ServiceKey},
    outcome::Outcome,
};
use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

/// From a change of a manifest to what comes of it on all nodes, on a machine that does other
/// things as well.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// Agents on manifests, and a router with BGP sessions to the nodes.
pub struct Routed {
    /// The sessions.
    pub bgp: Bgp,
    /// The nodes with their agents.
    pub cluster: Cluster,
}

impl Routed {
    /// Builds it, with an agent on each node; returns once the client behind the router is served
    /// by all pods.
    ///
    /// # Errors
    /// That does not come about, or BIRD is not installed.
    pub fn new(shape: Shape, arguments: &[&str]) -> Result<Self> {
        Self::prepared(shape, arguments, |_, _| Ok(()))
    }

    /// The same, after `prepare` has changed the folder of manifests or the network.
    ///
    /// # Errors
    /// As [`Self::new`], or what `prepare` returns.
    pub fn prepared(
        shape: Shape,
        arguments: &[&str],
        prepare: impl FnOnce(&Lab, &Path) -> Result<()>,
    ) -> Result<Self> {
        Self::made(shape, arguments, prepare, Bgp::start)
    }

    /// The same, where the agents themselves speak to the router, as the manifests that `prepare` writes
    /// have it. `router` is further options of its sessions.
    ///
    /// # Errors
    /// As [`Self::prepared`].
    pub fn speaking(
        shape: Shape,
        router: &str,
        prepare: impl FnOnce(&Lab, &Path) -> Result<()>,
    ) -> Result<Self> {
        Self::made(shape, &[], prepare, |lab, vips| Bgp::with_agents(lab, vips, router))
    }

    fn made(
        shape: Shape,
        arguments: &[&str],
        prepare: impl FnOnce(&Lab, &Path) -> Result<()>,
        speak: impl FnOnce(&Lab, &[IpAddr]) -> Result<Bgp>,
    ) -> Result<Self> {
        let lab = Lab::new(shape)?;
        let mut options = scenario::on_manifests(&lab)?;
        options.arguments.extend(arguments.iter().map(ToString::to_string));
        let vips = addresses::both(addresses::FIRST_VIPS);
        let result = (|| {
            let Source::Manifests(folder) = &options.source else { return Ok(vec![]) };
            prepare(&lab, folder)?;
            scenario::start_agents(&lab, &options)
        })();
        let agents = match result {
            Ok(agents) => agents,
            Err(error) => return Err(lab.failed(error)),
        };
        let cluster = Cluster { agents, options, control: None, vips, lab };
        match speak(&cluster.lab, &vips) {
            Ok(bgp) => {
                let mut routed = Self { bgp, cluster };
                match routed.await_all_serve() {
                    Ok(()) => Ok(routed),
                    Err(error) => Err(routed.failed(error)),
                }
            }
            Err(error) => Err(cluster.failed(error)),
        }
    }

    /// The same on a control plane with these files of `examples/` and kube-proxy on the nodes; the
    /// Service has its addresses already, as from another load balancer, and the nodes announce them.
    /// There are no agents yet.
    ///
    /// # Errors
    /// That does not come about.
    pub fn on_kubernetes(shape: Shape, examples: &[&str]) -> Result<Self> {
        let lab = Lab::new(shape)?;
        let vips = addresses::both(addresses::FIRST_VIPS);
        let result = (|| {
            let (control, options) = scenario::control_plane_with(&lab, examples)?;
            control.set_ingress("web", &vips)?;
            Ok((control, options, Bgp::start(&lab, &vips)?))
        })();
        match result {
            Ok((control, options, bgp)) => {
                let control = Some(control);
                let cluster = Cluster { agents: vec![], options, control, vips, lab };
                Ok(Self { bgp, cluster })
            }
            Err(error) => Err(lab.failed(error)),
        }
    }

    /// Says that something failed: logs and captures stay, and the error names their folder.
    pub fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        self.cluster.failed(error)
    }

    /// The laboratory.
    pub fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    /// The router.
    ///
    /// # Errors
    /// None: such a laboratory has one.
    pub fn router(&self) -> Result<&Router> {
        router(self.lab())
    }

    /// The client behind the router.
    ///
    /// # Errors
    /// As [`Self::router`].
    pub fn remote(&self) -> Result<&Host> {
        Ok(&self.router()?.remote)
    }

    /// How many frames of all nodes had one of these outcomes, by the counters' names.
    ///
    /// # Errors
    /// They are not pinned, or there is no such counter.
    pub fn counted(&self, names: &[&str]) -> Result<u64> {
        let known = |name: &&&str| Outcome::ALL.iter().any(|outcome| outcome.name() == **name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            anyhow::bail!("there is no counter {unknown}");
        }
        let mut sum = 0;
        for agent in &self.cluster.agents {
            let counters = maps::counters(&agent.pin_directory)?;
            let wanted = Outcome::ALL.iter().filter(|outcome| names.contains(&outcome.name()));
            sum += wanted.map(|&outcome| counters.get(outcome)).sum::<u64>();
        }
        Ok(sum)
    }

    /// Waits until all pods serve the client behind the router.
    ///
    /// # Errors
    /// They do not, or an agent has ended.
    pub fn await_all_serve(&mut self) -> Result<()> {
        let pods: BTreeSet<_> = self.lab().pods.iter().map(|pod| pod.name.clone()).collect();
        self.await_serving(&pods)
    }

    /// Waits until exactly these pods serve the client behind the router.
    ///
    /// # Errors
    /// They do not, or an agent has ended.
    pub fn await_serving(&mut self, pods: &BTreeSet<String>) -> Result<()> {
        for vip in self.cluster.vips {
            await_serving(&self.cluster.lab, vip, pods, &mut self.cluster.agents)?;
        }
        Ok(())
    }

    /// Writes the Service's endpoints, and waits until every running agent has taken them up.
    ///
    /// # Errors
    /// They do not.
    pub fn set_endpoints(&self, pods: &[(&Pod, Condition)]) -> Result<()> {
        self.after_change(|folder| endpoints::write(self.lab(), folder, pods))
    }

    /// Changes the manifests so that the Service's rows change, and waits until every running
    /// agent has put them into force.
    ///
    /// # Errors
    /// It does not.
    pub fn after_change(&self, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let ranges = |agent: &agent::Agent| -> Result<BTreeSet<u32>> {
            let services = maps::entries::<ServiceKey, Service>(&agent.pin_directory, "SERVICES")?;
            Ok(services.into_iter().map(|(_, service)| service.rows_start).collect())
        };
        let agents = &self.cluster.agents;
        let before = agents.iter().map(ranges).collect::<Result<Vec<_>>>()?;
        change(&self.cluster.folder()?)?;
        // Rows are never changed where they are: new ones have another place.
        for (agent, before) in agents.iter().zip(&before) {
            wait::until_true(CHANGE_LIMIT, &format!("{} has new rows", agent.node), || {
                Ok(ranges(agent)?.is_disjoint(before))
            })?;
        }
        Ok(())
    }

    /// Opens connections and flows to both addresses from the client behind the router.
    ///
    /// # Errors
    /// Some cannot be opened.
    pub fn traffic(&self, load: Load, flows: usize) -> Result<Traffic> {
        Traffic::begin(&self.remote()?.namespace, &self.cluster.vips, load, flows)
    }
}

/// The laboratory's router.
///
/// # Errors
/// It has none.
pub fn router(lab: &Lab) -> Result<&Router> {
    lab.router.as_ref().context("this laboratory has no router")
}

/// Waits until exactly these pods serve the client behind the router.
///
/// # Errors
/// They do not, or an agent has ended.
pub fn await_serving(
    lab: &Lab,
    vip: IpAddr,
    pods: &BTreeSet<String>,
    agents: &mut [agent::Agent],
) -> Result<()> {
    let remote = &router(lab)?.remote.namespace;
    wait::until(START_LIMIT, &format!("all pods serve {vip} behind the router"), || {
        // One that has ended will serve no more: no need to wait.
        if let Some(ended) = agents.iter_mut().find_map(|agent| agent.check().err()) {
            return Ok(Some(Err(ended)));
        }
        let to = (vip, WEB_PORT).into();
        let spread = probe::try_spread(remote, Over::Tcp, to, 20 * pods.len())?;
        Ok((spread.failed == 0 && spread.pods.keys().eq(pods)).then_some(Ok(())))
    })?
}

impl Shape {
    /// Three nodes with two pods each, behind a router.
    pub fn routed() -> Self {
        Self { router: Outside::Router, ..Self::default() }
    }
}
