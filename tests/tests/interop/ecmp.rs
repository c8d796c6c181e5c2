//! The router's set of nodes changes, and the nodes themselves.
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Cut, agent,
        connections::Load,
        endpoints::Condition,
        maps,
        routed::Routed,
        scenario::{self, START_LIMIT},
        traffic::{Outcome, Traffic},
    },
    suite, wait,
};
use lb_common::maps::{Service, ServiceKey};
use std::{ops::Range, time::Duration};

/// UDP flows to each address.
const FLOWS: usize = 40;

/// Rounds of requests after a change: each connection's packets have gone the new way by then.
const SETTLED: u64 = 4;

/// How often the changes are repeated.
fn repetitions() -> usize {
    if suite::full() { 10 } else { 1 }
}

/// The nodes that something happens to.
fn affected(routed: &Routed) -> Range<usize> {
    0..if suite::full() { routed.lab().nodes.len() } else { 1 }
}

/// Traffic in both families while `change` happens; nothing of it may break.
pub(crate) fn nothing_breaks(
    routed: &mut Routed,
    change: impl FnOnce(&mut Routed, &Traffic) -> Result<()>,
) -> Result<Outcome> {
    let traffic = routed.traffic(Load::default(), FLOWS)?;
    traffic.settle(2)?;
    change(routed, &traffic)?;
    traffic.settle(SETTLED)?;
    let outcome = traffic.stop()?;
    outcome.check()?;
    Ok(outcome)
}

/// A healthy node leaves the ECMP set: a third of all packets come to other nodes than before.
pub(crate) fn node_leaves(routed: &mut Routed) -> Result<()> {
    for _ in 0..repetitions() {
        for position in affected(routed) {
            nothing_breaks(routed, |routed, _| routed.bgp.leave(routed.lab(), position))?;
            routed.bgp.join(routed.lab(), position)?;
        }
    }
    Ok(())
}

/// It joins again.
pub(crate) fn node_joins(routed: &mut Routed) -> Result<()> {
    for _ in 0..repetitions() {
        for position in affected(routed) {
            routed.bgp.leave(routed.lab(), position)?;
            nothing_breaks(routed, |routed, _| routed.bgp.join(routed.lab(), position))?;
        }
    }
    Ok(())
}

/// Nodes leave and join one after another, endpoints come and go and agents are restarted, under
/// the same connections.
pub(crate) fn several_changes(routed: &mut Routed) -> Result<()> {
    let outcome = nothing_breaks(routed, |routed, traffic| {
        for _ in 0..repetitions() {
            for position in 0..routed.lab().nodes.len() {
                let next = (position + 1) % routed.lab().nodes.len();
                routed.bgp.leave(routed.lab(), position)?;
                traffic.settle(1)?;
                routed.cluster.restart_agent(next)?;
                let lab = routed.lab();
                let states: Vec<_> = lab
                    .pods
                    .iter()
                    .map(|pod| {
                        let draining = pod.node == position;
                        (pod, if draining { Condition::Terminating } else { Condition::Ready })
                    })
                    .collect();
                routed.set_endpoints(&states)?;
                traffic.settle(1)?;
                routed.bgp.join(routed.lab(), position)?;
                let lab = routed.lab();
                let ready: Vec<_> = lab.pods.iter().map(|pod| (pod, Condition::Ready)).collect();
                routed.set_endpoints(&ready)?;
                traffic.settle(1)?;
            }
        }
        Ok(())
    })?;
    ensure!(outcome.tcp.iter().all(|(_, report)| report.pods.len() == routed.lab().pods.len()));
    routed.await_all_serve()
}

/// Agents are replaced on one node after another, once in order and once by SIGKILL.
pub(crate) fn agents_upgraded(routed: &mut Routed) -> Result<()> {
    nothing_breaks(routed, |routed, traffic| {
        for _ in 0..repetitions() {
            for position in 0..routed.cluster.agents.len() {
                let agent = routed.cluster.agents.remove(position);
                let pins = agent.pin_directory.clone();
                let status = agent.terminate(START_LIMIT)?;
                ensure!(status.success(), "the agent ended with {status}");
                let before = maps::announce_until(&pins)?;
                let node = &routed.cluster.lab.nodes[position];
                let agent = routed.cluster.lab.start_agent(node, &routed.cluster.options)?;
                routed.cluster.agents.insert(position, agent);
                await_adopted(routed, position, before)?;
                traffic.settle(1)?;
                let before = maps::announce_until(&pins)?;
                routed.cluster.restart_agent(position)?;
                await_adopted(routed, position, before)?;
            }
        }
        Ok(())
    })?;
    routed.await_all_serve()
}

/// Waits until a new agent has written to the maps: its deadline moves on only then.
fn await_adopted(routed: &mut Routed, position: usize, before: u64) -> Result<()> {
    let agent = &mut routed.cluster.agents[position];
    wait::until_true(START_LIMIT, "the new agent moves its deadline", || {
        agent.check()?;
        Ok(maps::announce_until(&agent.pin_directory)? > before)
    })
}

/// A node comes back with empty maps: first it only passes packets on, then its pods win rows whose
/// connections are elsewhere.
pub(crate) fn node_reboots(routed: &mut Routed) -> Result<()> {
    for _ in 0..repetitions() {
        for position in affected(routed) {
            reboot(routed, position)?;
        }
    }
    Ok(())
}

fn reboot(routed: &mut Routed, position: usize) -> Result<()> {
    // Its pods are gone before it goes down.
    routed.bgp.leave(routed.lab(), position)?;
    let lab = routed.lab();
    let elsewhere: Vec<_> = lab
        .pods
        .iter()
        .filter(|pod| pod.node != position)
        .map(|pod| (pod, Condition::Ready))
        .collect();
    routed.set_endpoints(&elsewhere)?;
    let status = routed.cluster.agents.remove(position).terminate(START_LIMIT)?;
    ensure!(status.success(), "the agent ended with {status}");
    agent::unload(routed.lab(), &routed.lab().nodes[position])?;
    nothing_breaks(routed, |routed, traffic| {
        let lab = &routed.cluster.lab;
        let agent = lab.start_agent(&lab.nodes[position], &routed.cluster.options)?;
        routed.cluster.agents.insert(position, agent);
        await_tables(routed, position)?;
        routed.bgp.join(routed.lab(), position)?;
        traffic.settle(SETTLED)?;
        let lab = routed.lab();
        let all: Vec<_> = lab.pods.iter().map(|pod| (pod, Condition::Ready)).collect();
        routed.set_endpoints(&all)
    })?;
    routed.await_all_serve()
}

/// Waits until an agent that began with nothing has its tables.
fn await_tables(routed: &mut Routed, position: usize) -> Result<()> {
    let agent = &mut routed.cluster.agents[position];
    wait::until_true(START_LIMIT, "the new agent has tables", || {
        agent.check()?;
        let services = maps::entries::<ServiceKey, Service>(&agent.pin_directory, "SERVICES")?;
        Ok(!services.is_empty() && services.iter().all(|(_, service)| service.rows > 0))
    })
}

/// A node's link is cut: it takes the connections to its own pods with it, and no others.
pub(crate) fn node_dies(routed: &mut Routed) -> Result<()> {
    for position in affected(routed) {
        // Those that came by way of it are lost until the router notices, and TCP repeats.
        let patience = Duration::from_secs(4);
        let traffic = routed.traffic(Load { patience, ..Load::default() }, 0)?;
        traffic.settle(2)?;
        let node = &routed.lab().nodes[position];
        let name = node.name.clone();
        let pods = scenario::pods_of(routed.lab(), &[&name]);
        let pods: Vec<_> = pods.iter().map(String::as_str).collect();
        routed.lab().cut(node, Cut::Silent)?;
        routed.bgp.await_gone(node)?;
        traffic.connections().try_for_each(|c| c.await_silence(&pods))?;
        let outcome = traffic.stop()?;
        let result = outcome.check_tcp(&pods);
        routed.lab().mend(&routed.lab().nodes[position])?;
        result.with_context(|| format!("{name} died"))?;
        for (vip, report) in &outcome.tcp {
            ensure!(!report.failures.is_empty(), "{vip}: no connection was on {name}");
        }
        let nodes: Vec<_> = routed.lab().nodes.iter().collect();
        routed.bgp.await_next_hops(&nodes)?;
        routed.await_all_serve()?;
    }
    Ok(())
}
