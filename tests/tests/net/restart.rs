//! The kernel carries traffic without the agent.
use crate::services;
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Cut,
        probe::{self, Connection},
        scenario::{self, Cluster, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
    },
    suite, wait,
};
use lb_common::maps::SCHEMA_VERSION;
use std::{
    fs,
    time::{Duration, Instant},
};

/// For how long at most an agent that starts assumes who lives.
const ASSUMED: Duration = Duration::from_secs(1);

/// Between two hellos of an agent.
const HELLO: Duration = Duration::from_millis(200);

/// Agents are killed and started again, on one node after another, under running flows of both
/// families (500 datagrams/s each) and ever new ones (another 100/s): not one is lost, and a
/// connection goes on.
pub(crate) fn killed_agents_lose_nothing(cluster: &mut Cluster) -> Result<()> {
    let restarts = if suite::full() { 20 } else { 3 };
    let client = &cluster.lab.client.namespace.clone();
    let vips = cluster.vips;
    let flows =
        vips.map(|vip| probe::watch_flow(client, (vip, WEB_PORT).into(), Duration::from_millis(2)));
    let gaps = probe::watch_gaps(client, (vips[0], WEB_PORT).into(), Duration::from_millis(10));
    let mut connection = Connection::open(client, vips[0], WEB_PORT)?;
    let pod = connection.request()?.pod;
    let nodes = cluster.agents.len();
    for position in 0..nodes {
        for _ in (position..restarts).step_by(nodes) {
            cluster.restart_agent(position)?;
            await_adopted(cluster, position)?;
            ensure!(connection.request()?.pod == pod, "the connection moved to another pod");
        }
        // An agent that has just started must have heard of the others once: only then can it
        // tell a dead agent from a dead node.
        wait::sleep_until(Instant::now() + 2 * HELLO);
    }
    for (vip, flow) in vips.into_iter().zip(flows) {
        let flow = flow.stop()?;
        ensure!(flow.sent > 100 * restarts, "{vip}: only {} datagrams were sent", flow.sent);
        ensure!(
            flow.lost() == 0 && flow.pods.len() == 1,
            "{vip}: {} of {} datagrams lost at {restarts} restarts, answered by {:?}",
            flow.lost(),
            flow.sent,
            flow.pods
        );
    }
    let gaps = gaps.stop()?;
    let lost = gaps.lost();
    ensure!(lost == 0, "{lost} of {} datagrams of new flows were lost", gaps.sent);
    Ok(())
}

/// A node is dead, and the agent of the one that took its VIP over is killed and started again: nothing
/// is sent to the dead one again, and nobody waits for it to answer for the VIP.
pub(crate) fn beside_a_dead_node(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let (lab, dead) = (&cluster.lab, scenario::settled_owner(&cluster.lab, vip)?.clone());
    lab.cut(&dead, Cut::Silent)?;
    let result = (|| {
        let others = scenario::others(&cluster.lab, &dead).into_iter().map(str::to_owned);
        let others: Vec<_> = others.collect();
        let others: Vec<_> = others.iter().map(String::as_str).collect();
        scenario::await_owner_among(&cluster.lab, &others, vip, TAKEOVER_LIMIT)?;
        scenario::await_serving(&cluster.lab, vip, &others, TAKEOVER_LIMIT)?;
        let owner = scenario::await_owner_among(&cluster.lab, &others, vip, TAKEOVER_LIMIT)?;
        let position = cluster.position(&owner.name)?;
        let client = &cluster.lab.client.namespace.clone();
        let every = Duration::from_millis(2);
        let gaps = probe::watch_gaps(client, (vip, WEB_PORT).into(), every);
        cluster.restart_agent(position)?;
        await_adopted(cluster, position)?;
        // For as long as it may assume who lives.
        wait::sleep_until(Instant::now() + ASSUMED);
        let gaps = gaps.stop()?;
        ensure!(gaps.sent > 500, "only {} datagrams were sent", gaps.sent);
        let lost = gaps.lost();
        ensure!(lost == 0, "{lost} of {} lost, {:?}", gaps.sent, gaps.longest());
        Ok(())
    })();
    cluster.lab.mend(&dead)?;
    result?;
    cluster.await_all_serve()
}

/// Waits until the new agent has written to the maps: its deadline moves on only then.
fn await_adopted(cluster: &mut Cluster, position: usize) -> Result<()> {
    let directory = cluster.agents[position].pin_directory.clone();
    let start = herald_tests::lab::maps::announce_until(&directory)?;
    wait::until_true(START_LIMIT, "the new agent moves its deadline", || {
        cluster.agents[position].check()?;
        Ok(herald_tests::lab::maps::announce_until(&directory)? > start)
    })?;
    // Links are pinned once, and adopted after that: never a second one.
    let links = fs::read_dir(directory.join(format!("v{SCHEMA_VERSION}/links")))?.count();
    ensure!(links == 2, "{links} links are pinned, not one each for ingress and egress");
    Ok(())
}

/// An agent whose tables are of another version than what an earlier one has pinned takes over while the
/// earlier programs go on, with the flows that only the flow table knows: those of a pod that
/// terminates. Nothing is lost, and nothing of the other version stays.
pub(crate) fn another_version_loses_nothing(cluster: &mut Cluster) -> Result<()> {
    services::with_endpoints(cluster, |cluster| {
        let client = &cluster.lab.client.namespace.clone();
        let vips = cluster.vips;
        let mut draining = Vec::new();
        for vip in vips {
            draining.push(services::connection_to(cluster, vip, &cluster.lab.pods[0].name)?);
        }
        services::terminate_first(cluster)?;
        let every = Duration::from_millis(2);
        let gaps = vips.map(|vip| probe::watch_gaps(client, (vip, WEB_PORT).into(), every));
        for position in 0..cluster.agents.len() {
            let agent = cluster.agents.remove(position);
            let directory = agent.pin_directory.clone();
            let status = agent.terminate(START_LIMIT)?;
            ensure!(status.success(), "the agent ended with {status}");
            let now = directory.join(format!("v{SCHEMA_VERSION}"));
            fs::rename(&now, directory.join(format!("v{}", SCHEMA_VERSION - 1)))?;
            cluster.start_agent(position)?;
            wait::until_true(START_LIMIT, "only the new version is pinned", || {
                Ok(fs::read_dir(&directory)?.count() == 1 && now.exists())
            })?;
            for connection in &mut draining {
                connection.request()?;
            }
        }
        for (vip, gaps) in vips.into_iter().zip(gaps) {
            let gaps = gaps.stop()?;
            let lost = gaps.lost();
            ensure!(gaps.sent > 1000, "{vip}: only {} datagrams were sent", gaps.sent);
            ensure!(lost == 0, "{vip}: {lost} of {} lost, {:?}", gaps.sent, gaps.longest());
        }
        Ok(())
    })
}
