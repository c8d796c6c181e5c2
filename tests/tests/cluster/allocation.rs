//! Which address a Service gets, and keeps.
use crate::objects::{LIMIT, Service, await_event};
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        control_plane::NAMESPACE,
        scenario::{self, Cluster, START_LIMIT},
    },
    wait,
};

const POOLS: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: small, namespace: metallb-system}
spec: {addresses: [10.77.0.245/32], autoAssign: false}
";

/// An address by annotation or field, and a pool by annotation.
pub(crate) fn requested(cluster: &Cluster) -> Result<()> {
    cluster.control()?.apply_text(POOLS)?;
    for (name, annotations, spec, expected) in [
        ("by-address", &["metallb.io/loadBalancerIPs: 10.77.0.230"][..], &[][..], "10.77.0.230"),
        ("by-field", &[], &["loadBalancerIP: 10.77.0.231"], "10.77.0.231"),
        ("by-pool", &["metallb.io/address-pool: small"], &[], "10.77.0.245"),
        ("by-old-name", &["metallb.universe.tf/loadBalancerIPs: 10.77.0.232"], &[], "10.77.0.232"),
    ] {
        let service = Service { name, annotations, spec };
        service.create(cluster)?;
        let vip = service.await_address(cluster)?;
        ensure!(vip.to_string() == expected, "{name}: {vip} instead of {expected}");
        service.await_served(cluster, vip)?;
        service.delete(cluster)?;
    }
    Ok(())
}

/// The second Service of a pool with one address is told why it has none, and gets the address
/// once it is free.
pub(crate) fn pool_exhausted(cluster: &Cluster) -> Result<()> {
    cluster.control()?.apply_text(POOLS)?;
    let annotations = &["metallb.io/address-pool: small"][..];
    let first = Service { name: "first", annotations, ..Service::default() };
    let second = Service { name: "waiting", annotations, ..Service::default() };
    first.create(cluster)?;
    first.await_address(cluster)?;
    second.create(cluster)?;
    let message = await_event(cluster.control()?, "waiting", "AllocationFailed")?;
    ensure!(message.contains("small"), "the Event does not name the pool: {message}");
    ensure!(second.addresses(cluster)?.is_empty(), "two Services share an address");
    first.delete(cluster)?;
    let vip = second.await_address(cluster)?;
    ensure!(vip.to_string() == "10.77.0.245", "{vip}");
    second.delete(cluster)
}

/// All agents are killed and started again: addresses stay, and nothing is written anew.
pub(crate) fn survives_restarts(cluster: &mut Cluster) -> Result<()> {
    let version = |cluster: &Cluster| {
        let path = "jsonpath={.metadata.resourceVersion}";
        cluster.control()?.kubectl(&["get", "service", "web", "-o", path])
    };
    let before = version(cluster)?;
    for position in 0..cluster.agents.len() {
        cluster.restart_agent(position)?;
    }
    cluster.await_all_serve()?;
    // A new Service shows that somebody allocates again, and has looked at all others.
    let service = Service { name: "newcomer", ..Service::default() };
    service.create(cluster)?;
    let vip = wait::until(2 * START_LIMIT, "somebody allocates again", || {
        Ok(service.addresses(cluster)?.first().copied())
    })?;
    ensure!(!cluster.vips.contains(&vip), "{vip} was given away twice");
    let vips = cluster.control()?.ingress("default", "web")?;
    ensure!(vips == cluster.vips, "the addresses changed: {vips:?}");
    ensure!(version(cluster)? == before, "the Service was written without need");
    service.delete(cluster)
}

/// Another agent takes over the Lease and allocates.
pub(crate) fn leader_killed(cluster: &mut Cluster) -> Result<()> {
    let holder = |cluster: &Cluster| {
        let path = "jsonpath={.spec.holderIdentity}";
        let lease = "herald-allocator";
        cluster.control()?.kubectl(&["get", "lease", "-n", NAMESPACE, lease, "-o", path])
    };
    let first = holder(cluster)?;
    let node = scenario::node_names(&cluster.lab)
        .into_iter()
        .find(|node| first.contains(node))
        .with_context(|| format!("the allocator {first:?} is none of the nodes"))?;
    let position = cluster.position(node)?;
    cluster.agents.remove(position).kill()?;
    let service = Service { name: "orphan", ..Service::default() };
    service.create(cluster)?;
    let vip = wait::until(4 * LIMIT, "another agent allocates", || {
        Ok(service.addresses(cluster)?.first().copied())
    })?;
    ensure!(holder(cluster)? != first, "{first} is still the allocator");
    ensure!(!cluster.vips.contains(&vip), "{vip} was given away twice");
    let agent = cluster.lab.start_agent(&cluster.lab.nodes[position], &cluster.options)?;
    cluster.agents.insert(position, agent);
    cluster.await_all_serve()?;
    service.await_served(cluster, vip)?;
    service.delete(cluster)
}
