//! What changes in a cluster's life.
use super::LIFE;
use crate::{
    kernel::random::Random,
    lab::{
        Cut, Pod,
        endpoints::{self, Condition},
        probe::{self, Over},
        scenario::{self, Cluster, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
    },
    wait,
};
use anyhow::{Result, ensure};
use std::{
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, Instant},
};

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Services that come and go together.
const SERVICES: usize = 5;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(5);

/// How long a link stays cut once others have taken over: connections to the pods behind it end.
const CUT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    PodReplaced,
    ServicesComeAndGo,
    PoolComesAndGoes,
    AgentKilled,
    AgentRestarted,
    AgentLeaves,
    NodeExcluded,
    LinkCut,
    ApiServerAway,
}

/// What a change may cost.
#[derive(Default)]
pub(super) struct Explained {
    /// Probes, until others take over.
    pub(super) cut: bool,
    /// The connections to these pods.
    pub(super) pods: Vec<String>,
}

impl Change {
    pub(super) const ALL: [Self; 9] = [
        Self::PodReplaced,
        Self::ServicesComeAndGo,
        Self::PoolComesAndGoes,
        Self::AgentKilled,
        Self::AgentRestarted,
        Self::AgentLeaves,
        Self::NodeExcluded,
        Self::LinkCut,
        Self::ApiServerAway,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PodReplaced => "a pod is replaced",
            Self::ServicesComeAndGo => "Services come and go",
            Self::PoolComesAndGoes => "a pool comes and goes",
            Self::AgentKilled => "an agent is killed",
            Self::AgentRestarted => "an agent restarts",
            Self::AgentLeaves => "an agent leaves",
            Self::NodeExcluded => "a node is excluded",
            Self::LinkCut => "a link is cut",
            Self::ApiServerAway => "the API server is away",
        }
    }

    /// Makes it, and undoes it; returns once all is as before.
    pub(super) fn make(self, cluster: &mut Cluster, random: &mut Random) -> Result<Explained> {
        // The last node's agent lives through everything, so that what it gathers is seen.
        let position = random.below(cluster.agents.len() - 1);
        let mut explained = Explained::default();
        match self {
            Self::PodReplaced => pod_replaced(cluster, random)?,
            Self::ServicesComeAndGo => services_come_and_go(cluster, "")?,
            Self::PoolComesAndGoes => pool_comes_and_goes(cluster)?,
            Self::AgentKilled => cluster.restart_agent(position)?,
            Self::AgentRestarted => {
                let status = cluster.agents.remove(position).terminate(START_LIMIT)?;
                ensure!(status.success(), "the agent ended with {status}");
                cluster.start_agent(position)?;
            }
            Self::AgentLeaves => {
                let status = cluster.agents.remove(position).interrupt(START_LIMIT)?;
                ensure!(status.success(), "the agent ended with {status}");
                cluster.start_agent(position)?;
            }
            Self::NodeExcluded => node_excluded(cluster, random)?,
            Self::LinkCut => {
                explained = Explained { cut: true, pods: link_cut(cluster, random)? };
            }
            Self::ApiServerAway => {
                if let Some(control) = cluster.control.as_mut() {
                    control.stop_api_server()?;
                    wait::sleep_until(Instant::now() + AWAY);
                    control.start_api_server()?;
                    control.await_ready()?;
                }
            }
        }
        cluster.await_all_serve()?;
        Ok(explained)
    }
}

/// A pod takes no more flows, serves those that it has to their end, is gone, and comes back.
fn pod_replaced(cluster: &Cluster, random: &mut Random) -> Result<()> {
    let lab = &cluster.lab;
    let chosen = random.below(lab.pods.len());
    let is = |condition: Option<Condition>| {
        let of = |(at, pod)| {
            let own = if at == chosen { condition } else { Some(Condition::Ready) };
            own.map(|own| (pod, own))
        };
        let pods: Vec<(&Pod, Condition)> = lab.pods.iter().enumerate().filter_map(of).collect();
        cluster.control()?.apply_text(&endpoints::slices(lab, "web", &pods)?)
    };
    is(Some(Condition::Terminating))?;
    wait::sleep_until(Instant::now() + LIFE + Duration::from_secs(1));
    is(None)?;
    let others = lab.pods.iter().enumerate().filter(|(at, _)| *at != chosen);
    let mut others: Vec<_> = others.map(|(_, pod)| pod.name.clone()).collect();
    others.sort();
    for vip in cluster.vips {
        await_served(cluster, vip, &others)?;
    }
    is(Some(Condition::Ready))
}

/// Waits until these pods serve an address, in the order of their names, and no other does.
fn await_served(cluster: &Cluster, vip: IpAddr, pods: &[String]) -> Result<()> {
    let client = &cluster.lab.client.namespace;
    wait::until_true(START_LIMIT, &format!("{} pods serve {vip}", pods.len()), || {
        let to = (vip, WEB_PORT).into();
        let spread = probe::try_spread(client, Over::Tcp, to, 20 * pods.len())?;
        Ok(spread.failed == 0 && spread.pods.keys().eq(pods))
    })
}

fn services_come_and_go(cluster: &Cluster, annotations: &str) -> Result<()> {
    let (control, lab) = (cluster.control()?, &cluster.lab);
    let names: Vec<_> = (0..SERVICES).map(|n| format!("soak-{n}")).collect();
    let pods: Vec<_> = lab.pods.iter().map(|pod| (pod, Condition::Ready)).collect();
    let mut text = String::new();
    for name in &names {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n  \
             annotations: {{{annotations}}}\nspec:\n  type: LoadBalancer\n  ports: [{{name: http, \
             port: 80, targetPort: 8080}}]\n"
        )?;
        text += &endpoints::slices(lab, name, &pods)?;
    }
    control.apply_text(&text)?;
    let all = scenario::pods_of(lab, &scenario::node_names(lab));
    for name in &names {
        let vip = wait::until(START_LIMIT, &format!("Service {name} has an address"), || {
            Ok(control.ingress("default", name)?.first().copied())
        })?;
        await_served(cluster, vip, &all)?;
    }
    for kind in ["services", "endpointslices"] {
        let names: Vec<_> = match kind {
            "services" => names.clone(),
            _ => names.iter().flat_map(|n| [format!("{n}-ipv4"), format!("{n}-ipv6")]).collect(),
        };
        let mut arguments = vec!["delete", kind, "--namespace", "default"];
        arguments.extend(names.iter().map(String::as_str));
        control.kubectl(&arguments)?;
    }
    Ok(())
}

fn pool_comes_and_goes(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata:\n  name: soak\n  namespace: \
         metallb-system\nspec:\n  addresses: [10.77.0.180-10.77.0.189]\n  autoAssign: false\n",
    )?;
    services_come_and_go(cluster, "metallb.io/address-pool: soak")?;
    let delete = ["delete", "ipaddresspool", "soak", "--namespace", "metallb-system"];
    control.kubectl(&delete).map(drop)
}

/// A node's label keeps it from announcing; its pods serve on.
fn node_excluded(cluster: &mut Cluster, random: &mut Random) -> Result<()> {
    let node = random.below(cluster.lab.nodes.len());
    let name = cluster.lab.nodes[node].name.clone();
    cluster.control()?.kubectl(&["label", "node", &name, &format!("{EXCLUDE}=")])?;
    for vip in cluster.vips {
        let others = scenario::others(&cluster.lab, &cluster.lab.nodes[node]);
        scenario::await_owner_among(&cluster.lab, &others, vip, START_LIMIT)?;
    }
    cluster.control()?.kubectl(&["label", "node", &name, &format!("{EXCLUDE}-")]).map(drop)
}

/// The owner of a VIP has no link for a while. Returns its pods.
fn link_cut(cluster: &mut Cluster, random: &mut Random) -> Result<Vec<String>> {
    let vip = random.pick(&cluster.vips);
    let name = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
    let node = cluster.lab.node(&name)?.clone();
    let how = if random.one_in(2) { Cut::Port } else { Cut::Silent };
    cluster.lab.cut(&node, how)?;
    let others = scenario::others(&cluster.lab, &node);
    let taken = cluster.vips.into_iter().try_for_each(|vip| {
        scenario::await_owner_among(&cluster.lab, &others, vip, TAKEOVER_LIMIT).map(drop)
    });
    if taken.is_ok() {
        wait::sleep_until(Instant::now() + CUT);
    }
    cluster.lab.mend(&node)?;
    taken?;
    Ok(scenario::pods_of(&cluster.lab, &[&name]))
}
