//! What the agents tell about Services in objects of MetalLB's kinds.
use crate::objects::LIMIT;
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
    // Told to stop, not killed: it hands over before it ends, and its kernel answers no more.
    cluster.agents.remove(position).terminate(LIMIT)?;
    let lab = &cluster.lab;
    let others = scenario::others(lab, &lab.nodes[position]);
    scenario::await_owner_among(lab, &others, vip, 2 * scenario::TAKEOVER_LIMIT)?;
    told_as_it_is(cluster).context("the owner's agent has left")?;
    let agent = cluster.lab.start_agent(&cluster.lab.nodes[position], &cluster.options)?;
    cluster.agents.insert(position, agent);
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
    let labels = "metallb.io/service-name=web,metallb.io/service-namespace=default";
    let arguments =
        ["get", "servicel2statuses", "-n", "metallb-system", "-l", labels, "-o", "json"];
    let list: Value = serde_json::from_str(&control.kubectl(&arguments)?)?;
    let items = list["items"].as_array().context("a list has items")?;
    let mut nodes = Vec::new();
    for item in items {
        let node = item["status"]["node"].as_str().context("no status yet")?;
        ensure!(item["metadata"]["labels"]["metallb.io/node"] == node, "{item}");
        ensure!(item["status"]["serviceName"] == "web", "{item}");
        nodes.push(node.to_owned());
    }
    nodes.sort_unstable();
    Ok(nodes)
}
