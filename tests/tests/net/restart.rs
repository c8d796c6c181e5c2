//! The kernel carries traffic without the agent.
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        probe::{self, Connection},
        scenario::{Cluster, START_LIMIT, WEB_PORT},
    },
    suite, wait,
};
use lb_common::maps::SCHEMA_VERSION;
use std::{
    fs,
    time::{Duration, Instant},
};

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
    let lost = gaps.sent - gaps.answered.len();
    ensure!(lost == 0, "{lost} of {} datagrams of new flows were lost", gaps.sent);
    Ok(())
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
