//! The owner vanishes, in several ways.
use anyhow::{Context, Result, ensure};
use herald_tests::lab::{
    Cut,
    probe::Over,
    scenario::{self, AGENT_LIMIT, Cluster, TAKEOVER_LIMIT},
};

pub(crate) fn port_down(cluster: &mut Cluster) -> Result<()> {
    cut(cluster, Cut::Port)
}

pub(crate) fn silent(cluster: &mut Cluster) -> Result<()> {
    cut(cluster, Cut::Silent)
}

/// Others take over within the limit and serve alone; when the link is mended, all serve, and one
/// answers.
fn cut(cluster: &mut Cluster, how: Cut) -> Result<()> {
    for vip in cluster.vips {
        let lab = &cluster.lab;
        let owner = scenario::settled_owner(lab, vip)?;
        let taken = scenario::takeover(lab, vip, owner, &scenario::others(lab, owner), || {
            lab.cut(owner, how)
        })?;
        ensure!(
            taken.gap <= TAKEOVER_LIMIT,
            "{vip}: {} took over after {:?}, the limit is {TAKEOVER_LIMIT:?}",
            taken.owner.name,
            taken.gap
        );
        scenario::check_spread(lab, Over::Tcp, vip, &scenario::others(lab, owner), 300)?;
        lab.mend(owner)?;
        cluster.await_all_serve()?;
    }
    Ok(())
}

/// An agent that is asked to stop exits, and another node answers; its pods serve on, since
/// its kernel does, and the client misses nothing.
pub(crate) fn agent_stops(cluster: &mut Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(lab, vip)?;
    let position =
        lab.nodes.iter().position(|node| node.name == owner.name).context("the owner is a node")?;
    let agent = cluster.agents.remove(position);
    let taken = scenario::takeover(lab, vip, owner, &scenario::node_names(lab), || {
        let status = agent.terminate(AGENT_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    })?;
    ensure!(taken.lost == 0, "{vip}: {} probes lost, {:?} at the longest", taken.lost, taken.gap);
    let agent = cluster.lab.start_agent(&cluster.lab.nodes[position], &cluster.options)?;
    cluster.agents.insert(position, agent);
    cluster.await_all_serve()
}
