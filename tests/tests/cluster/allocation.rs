//! Which address a Service gets, and keeps.
use crate::objects::{LIMIT, Service, await_event};
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        control_plane::{ControlPlane, NAMESPACE},
        scenario::{self, Cluster, START_LIMIT},
    },
    wait,
};
use std::{collections::BTreeSet, fmt::Write as _};

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
    cluster.start_agent(position)?;
    cluster.await_all_serve()?;
    service.await_served(cluster, vip)?;
    service.delete(cluster)
}

/// A pool for namespaces with a label: it is there for who has it, goes when the label goes, and
/// the pool's status counts both.
pub(crate) fn pool_of_labelled_namespaces(cluster: &Cluster) -> Result<()> {
    const POOL: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: red, namespace: metallb-system}
spec:
  addresses: [10.77.0.246/32]
  serviceAllocation: {priority: 1, namespaceSelectors: [{matchLabels: {team: red}}]}
";
    let control = cluster.control()?;
    control.apply_text(POOL)?;
    let label = |label| control.kubectl(&["label", "namespace", "default", "--overwrite", label]);
    let assigned = |count: &str| {
        wait::until_true(LIMIT, &format!("the pool's status counts {count}"), || {
            let path = "jsonpath={.status.assignedIPv4}/{.status.availableIPv4}";
            let pool = ["get", "ipaddresspool", "red", "-n", NAMESPACE, "-o", path];
            Ok(control.kubectl(&pool)? == count)
        })
    };
    assigned("0/1")?;
    label("team=red")?;
    let service = Service { name: "of-red", ..Service::default() };
    service.create(cluster)?;
    let vip = service.await_address(cluster)?;
    ensure!(vip.to_string() == "10.77.0.246", "{vip} instead of the pool's with a priority");
    assigned("1/0")?;
    label("team-")?;
    let moved = wait::until(LIMIT, "the Service has moved", || {
        Ok(service.addresses(cluster)?.first().copied().filter(|ip| *ip != vip))
    })?;
    ensure!(!cluster.vips.contains(&moved), "{moved} was given away twice");
    let message = await_event(control, "of-red", "ClearAssignment")?;
    ensure!(message.contains("red") && message.contains("default"), "{message}");
    assigned("0/1")?;
    service.delete(cluster)?;
    control.kubectl(&["delete", "ipaddresspool", "red", "-n", NAMESPACE]).map(drop)
}

/// What somebody else has written into the status stays beside the address, as it is. When the type changes,
/// the address is given back and nothing of ours is left behind.
pub(crate) fn type_changes_beside_a_hostname(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    let get = |path: &str| control.kubectl(&["get", "service", "typed", "-o", path]);
    let annotation = r"jsonpath={.metadata.annotations.metallb\.io/ip-allocated-from-pool}";
    let service = Service { name: "typed", ..Service::default() };
    service.create(cluster)?;
    let vip = service.await_address(cluster)?;
    ensure!(!get(annotation)?.is_empty(), "the annotation does not say where {vip} is from");
    let ports = r#"[{"error":"lb.example/Down","port":80,"protocol":"TCP"}]"#;
    let hostname = format!(
        r#"{{"status": {{"loadBalancer": {{"ingress": [
            {{"hostname": "lb.example", "ports": {ports}}}]}}}}}}"#
    );
    control.kubectl(&[
        "patch",
        "service",
        "typed",
        "--subresource=status",
        "--type=merge",
        "-p",
        &hostname,
    ])?;
    let again = service.await_address(cluster)?;
    let other = r#"jsonpath={.status.loadBalancer.ingress[?(@.hostname=="lb.example")].ports}"#;
    ensure!(get(other)? == ports, "somebody else's entry is now {}", get(other)?);
    let type_is = |name: &str| {
        let patch = format!(r#"{{"spec": {{"type": "{name}"}}}}"#);
        control.kubectl(&["patch", "service", "typed", "-p", &patch])
    };
    type_is("ClusterIP")?;
    wait::until_true(LIMIT, "nothing of ours is left", || {
        Ok(get(annotation)?.is_empty() && service.addresses(cluster)?.is_empty())
    })?;
    // Another may have it now.
    let other = Service { name: "untyped", ..Service::default() };
    other.create(cluster)?;
    ensure!(other.await_address(cluster)? == again, "{again} was not given back");
    type_is("LoadBalancer")?;
    ensure!(service.await_address(cluster)? != again, "{again} was given twice");
    other.delete(cluster)?;
    service.delete(cluster)
}

/// Allocators come and go while Services are created: no two get the same address, and none is
/// left without.
pub(crate) fn allocators_change_while_services_come(cluster: &mut Cluster) -> Result<()> {
    const MANY: usize = 90;
    let control = cluster.control()?;
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {name: many, namespace: metallb-system}\n\
         spec: {addresses: [10.77.1.0/24], autoAssign: false}\n",
    )?;
    let create = |control: &ControlPlane, numbers: std::ops::Range<usize>| {
        let mut text = String::new();
        for number in numbers {
            write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: many-{number:02}\n  labels: \
                 {{test: many}}\n  annotations: {{metallb.io/address-pool: many}}\nspec:\n  type: \
                 LoadBalancer\n  ports: [{{port: 80}}]\n"
            )?;
        }
        control.apply_text(&text)
    };
    for round in 0..3 {
        create(cluster.control()?, round * MANY / 3..(round + 1) * MANY / 3)?;
        // Whichever it is: its Lease is free again soon, or runs out.
        for position in 0..cluster.agents.len() {
            cluster.restart_agent(position)?;
        }
    }
    let control = cluster.control()?;
    let path = "jsonpath={.items[*].status.loadBalancer.ingress[*].ip}";
    let all = || {
        let text = control.kubectl(&["get", "services", "-l", "test=many", "-o", path])?;
        let list: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        let distinct = BTreeSet::from_iter(list.iter().cloned());
        ensure!(distinct.len() == list.len(), "an address was given twice: {list:?}");
        Ok(distinct)
    };
    wait::until_true(4 * LIMIT, "all have an address", || Ok(all()?.len() == MANY))?;
    control.kubectl(&["delete", "services", "-l", "test=many"])?;
    control.kubectl(&["delete", "ipaddresspool", "many", "-n", NAMESPACE])?;
    cluster.await_all_serve()
}
