//! What the agents tell about Services in objects of MetalLB's kinds.
use crate::objects::{LIMIT, await_event};
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        control_plane::ControlPlane,
        scenario::{self, Cluster},
    },
    wait,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// The node that answers for an address says so in a ServiceL2Status; whoever takes the address
/// over says it instead, and removes what the node that is gone has said.
pub(crate) fn l2_status(cluster: &mut Cluster) -> Result<()> {
    told_as_it_is(cluster)?;
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
    let position = cluster.position(&owner)?;
    // Told to stop on a node that is cordoned, as one that is drained is: it hands over before it
    // ends, and its kernel answers no more.
    cluster.control()?.kubectl(&["cordon", &owner])?;
    let agent = cluster.agents.remove(position);
    wait::until_true(LIMIT, "the agent sees that its node is cordoned", || {
        Ok(agent.printed()?.contains("reason=is cordoned"))
    })?;
    agent.terminate(LIMIT)?;
    let lab = &cluster.lab;
    let others = scenario::others(lab, &lab.nodes[position]);
    scenario::await_owner_among(lab, &others, vip, 2 * scenario::TAKEOVER_LIMIT)?;
    told_as_it_is(cluster).context("the owner's agent has left")?;
    cluster.control()?.kubectl(&["uncordon", &owner])?;
    cluster.start_agent(position)?;
    cluster.await_all_serve()?;
    told_as_it_is(cluster).context("it was started again")
}

/// Waits until the nodes named are those that answer.
fn told_as_it_is(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    let what = "ServiceL2Status objects of Service web name its owners";
    wait::until_true(2 * LIMIT, what, || {
        let mut owners = BTreeSet::new();
        for vip in cluster.vips {
            owners.insert(scenario::settled_owner(&cluster.lab, vip)?.name.clone());
        }
        let told = told(control)?;
        ensure!(told.iter().eq(&owners), "told: {told:?}, answering: {owners:?}");
        Ok(true)
    })
}

/// The nodes that the objects about Service web name, each once.
fn told(control: &ControlPlane) -> Result<Vec<String>> {
    let mut nodes = Vec::new();
    for item in objects(control, "servicel2statuses")? {
        let node = item["status"]["node"].as_str().context("no status yet")?;
        ensure!(item["metadata"]["labels"]["metallb.io/node"] == node, "{item}");
        ensure!(item["status"]["serviceName"] == "web", "{item}");
        nodes.push(node.to_owned());
    }
    nodes.sort_unstable();
    Ok(nodes)
}

/// The objects of a kind that are about Service web.
fn objects(control: &ControlPlane, kind: &str) -> Result<Vec<Value>> {
    let labels = "metallb.io/service-name=web,metallb.io/service-namespace=default";
    let arguments = ["get", kind, "-n", "metallb-system", "-l", labels, "-o", "json"];
    let list: Value = serde_json::from_str(&control.kubectl(&arguments)?)?;
    list["items"].as_array().cloned().context("a list has items")
}

/// Nobody listens there: the objects tell what is meant.
const SILENT_PEER: &str = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: silent, namespace: \
                           metallb-system}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: 10.77.0.99}\n";
const ADVERTISEMENT: &str = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: \
                             all, namespace: metallb-system}\n";

/// Waits until exactly these nodes have an object that says that they announce Service web to the peer.
fn await_announcing(control: &ControlPlane, expected: &[&str]) -> Result<()> {
    let what = format!("ServiceBGPStatus objects of {expected:?} are about Service web");
    wait::until_true(3 * LIMIT, &what, || {
        let objects = objects(control, "servicebgpstatuses")?;
        let mut nodes = BTreeSet::new();
        for object in &objects {
            let node = object["status"]["node"].as_str().context("no status yet")?;
            ensure!(object["metadata"]["labels"]["metallb.io/node"] == node, "{object}");
            ensure!(object["status"]["peers"] == serde_json::json!(["silent"]), "{object}");
            nodes.insert(node);
        }
        let as_expected = nodes.iter().copied().eq(expected.iter().copied());
        ensure!(objects.len() == expected.len() && as_expected, "{objects:?}");
        Ok(true)
    })
}

/// Each node says in a ServiceBGPStatus to whom it announces a Service, until that is true no more; and an
/// address that nobody could be told of is told to the Service's owner.
pub(crate) fn bgp_status(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    control.apply_text(ADVERTISEMENT)?;
    // IPv4 and IPv6 both.
    await_event(control, "web", "NoBGPPeer")?;
    control.apply_text(SILENT_PEER)?;
    await_announcing(control, &scenario::node_names(&cluster.lab))?;
    let delete = |kind, name| control.kubectl(&["delete", "-n", "metallb-system", kind, name]);
    delete("bgpadvertisements", "all")?;
    await_announcing(control, &[])?;
    delete("bgppeers", "silent").map(drop)
}

/// What an agent has said of Services goes with it: it removes it if it leaves, told by somebody or since its node
/// is drained; if it is killed for good, it goes with its Node. One that restarts leaves it there.
pub(crate) fn bgp_status_of_the_gone() -> Result<()> {
    let mut cluster = Cluster::on_kubernetes(&[])?;
    let result = gone(&mut cluster);
    result.map_err(|error| cluster.failed(error))
}

fn gone(cluster: &mut Cluster) -> Result<()> {
    cluster.control()?.start_controllers(&["garbage-collector-controller"])?;
    cluster.control()?.apply_text(&format!("{ADVERTISEMENT}---\n{SILENT_PEER}"))?;
    let names: Vec<_> = cluster.lab.nodes.iter().map(|node| node.name.clone()).collect();
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    let others = &all[1..];
    let await_nodes =
        |cluster: &Cluster, nodes: &[&str]| await_announcing(cluster.control()?, nodes);
    await_nodes(cluster, &all)?;
    cluster.agents.remove(0).interrupt(LIMIT)?;
    await_nodes(cluster, others).context("one was told to leave")?;
    cluster.start_agent(0)?;
    await_nodes(cluster, &all)?;
    cluster.control()?.kubectl(&["cordon", all[0]])?;
    let agent = cluster.agents.remove(0);
    wait::until_true(LIMIT, "the agent sees that its node is cordoned", || {
        Ok(agent.printed()?.contains("reason=is cordoned"))
    })?;
    agent.terminate(LIMIT)?;
    await_nodes(cluster, others).context("its node is drained")?;
    cluster.control()?.kubectl(&["uncordon", all[0]])?;
    cluster.start_agent(0)?;
    await_nodes(cluster, &all)?;
    cluster.agents.remove(0).terminate(LIMIT)?;
    await_nodes(cluster, &all).context("it restarts")?;
    cluster.start_agent(0)?;
    cluster.agents.remove(0).kill()?;
    await_nodes(cluster, &all).context("it was killed, and may come back")?;
    cluster.control()?.kubectl(&["delete", "node", all[0]])?;
    await_nodes(cluster, others).context("its Node is gone")
}
