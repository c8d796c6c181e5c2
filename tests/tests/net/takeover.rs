//! The owner vanishes, in several ways.
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Cut,
        probe::{self, Over},
        scenario::{self, AGENT_LIMIT, Cluster, TAKEOVER_LIMIT, WEB_PORT},
    },
    wait,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a node announces without its agent.
const DEAD_MAN: Duration = Duration::from_secs(60);

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

/// An agent that is to stop for good exits, and another node answers; its pods serve on, since
/// its kernel does, and the client misses nothing.
pub(crate) fn agent_leaves(cluster: &mut Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(lab, vip)?;
    let position = cluster.position(&owner.name)?;
    let agent = cluster.agents.remove(position);
    let taken = scenario::takeover(lab, vip, owner, &scenario::node_names(lab), || {
        let status = agent.interrupt(AGENT_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    })?;
    ensure!(taken.lost == 0, "{vip}: {} probes lost, {:?} at the longest", taken.lost, taken.gap);
    start_again(cluster, position)
}

/// An agent that is told to stop and comes back, as in an upgrade, keeps its VIPs however long
/// that takes up to half a minute; one that does not loses them then. The client misses nothing.
///
/// On nodes of which none has lost its VIPs of late: where all have, they come in the order of that.
pub(crate) fn agent_restarts() -> Result<()> {
    let mut cluster = Cluster::on_manifests(&[])?;
    let result = restarts(&mut cluster);
    result.map_err(|error| cluster.failed(error))
}

fn restarts(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let to = SocketAddr::from((vip, WEB_PORT));
    let client = cluster.lab.client.namespace.clone();
    let owner = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
    let position = cluster.position(&owner)?;
    let probing = probe::watch_gaps(&client, to, Duration::from_millis(2));
    let away = Instant::now();
    let status = cluster.agents.remove(position).terminate(AGENT_LIMIT)?;
    ensure!(status.success(), "the agent ended with {status}");
    // Longer than the silence by which a dead agent is known.
    while away.elapsed() < 2 * AGENT_LIMIT {
        let now = scenario::owner(&cluster.lab, vip)?.map(|node| node.name.clone());
        ensure!(now.as_ref() == Some(&owner), "{vip}: {now:?} answers, not {owner}");
    }
    start_again(cluster, position)?;
    let now = &scenario::settled_owner(&cluster.lab, vip)?.name;
    ensure!(*now == owner, "{vip}: {now} answers, not {owner}, since its agent is back");

    let away = Instant::now();
    cluster.agents.remove(position).terminate(AGENT_LIMIT)?;
    let others = scenario::others(&cluster.lab, &cluster.lab.nodes[position]);
    wait::until_true(DEAD_MAN, "another node takes over from one whose agent stays away", || {
        let answers = scenario::answers(&cluster.lab, vip)?;
        let by =
            |mac| cluster.lab.node_by_mac(mac).is_some_and(|n| others.contains(&n.name.as_str()));
        Ok(answers.iter().any(|answer| by(answer.mac)))
    })?;
    let after = away.elapsed();
    ensure!(after > DEAD_MAN / 3, "{vip}: taken over after {after:?} already");
    let gaps = probing.stop()?;
    let lost = gaps.lost();
    ensure!(lost == 0, "{lost} of {} probes lost, {:?} at the longest", gaps.sent, gaps.longest());
    start_again(cluster, position)
}

fn start_again(cluster: &mut Cluster, position: usize) -> Result<()> {
    cluster.start_agent(position)?;
    cluster.await_all_serve()
}
