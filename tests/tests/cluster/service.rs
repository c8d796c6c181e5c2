//! From a Service to a client outside that reaches it.
use crate::objects::{LIMIT, Service};
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        addresses::{self, FIRST_VIPS},
        probe::{self, Over},
        scenario::{self, Cluster, WEB_PORT},
    },
    wait,
};
use std::{net::IpAddr, time::Duration};

/// The Service has the first addresses of the pool, kubectl shows them, all pods get their
/// share and see the client's own address.
pub(crate) fn external_address_serves(cluster: &Cluster) -> Result<()> {
    ensure!(
        cluster.vips == addresses::both(FIRST_VIPS),
        "not the first of the pool: {:?}",
        cluster.vips
    );
    let table = cluster.control()?.kubectl(&["get", "service", "-A"])?;
    let row = table.lines().find(|l| l.contains(" web ")).context("kubectl shows no web")?;
    let [v4, v6] = cluster.vips;
    ensure!(row.contains(&format!(" {v4},{v6} ")), "no EXTERNAL-IP: {row}");
    let nodes = scenario::node_names(&cluster.lab);
    for over in [Over::Tcp, Over::Udp] {
        for vip in cluster.vips {
            scenario::check_spread(&cluster.lab, over, vip, &nodes, 300)?;
        }
    }
    Ok(())
}

/// Nodes and pods use the cluster address and the VIP as before: that is kube-proxy's.
pub(crate) fn kube_proxy_serves_the_cluster_address(cluster: &Cluster) -> Result<()> {
    let path = "jsonpath={.spec.clusterIPs[*]}";
    let text = cluster.control()?.kubectl(&["get", "service", "web", "-o", path])?;
    let cluster_ips =
        text.split_whitespace().map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
    ensure!(cluster_ips.len() == 2, "not one of each family: {text}");
    let hosts = cluster.lab.nodes.iter().map(|node| &node.namespace);
    for namespace in hosts.chain(cluster.lab.pods.iter().map(|pod| &pod.namespace)) {
        for &address in cluster_ips.iter().chain(&cluster.vips) {
            wait::until_true(LIMIT, &format!("{} reaches {address}", namespace.name), || {
                Ok(probe::http(namespace, address, WEB_PORT)?.pod.starts_with("web-"))
            })?;
        }
    }
    Ok(())
}

/// What direct delivery does not serve is left to kube-proxy: all of a client's connections go
/// to one pod.
pub(crate) fn client_ip_affinity(cluster: &Cluster) -> Result<()> {
    let service =
        Service { name: "affine", spec: &["sessionAffinity: ClientIP"], ..Service::default() };
    service.create(cluster)?;
    let vip = service.await_address(cluster)?;
    let client = &cluster.lab.client.namespace;
    wait::until_true(LIMIT, &format!("{vip} is served"), || {
        Ok(probe::try_spread(client, Over::Tcp, (vip, WEB_PORT).into(), 20)?.failed == 0)
    })?;
    let spread = probe::spread(client, Over::Tcp, (vip, WEB_PORT).into(), 60)?;
    ensure!(spread.failed == 0 && spread.pods.len() == 1, "no affinity: {spread:?}");
    service.delete(cluster)
}

/// With `--delivery kernel` kube-proxy does the last step for all Services; under policy Local it
/// hands packets to the node's own pods and keeps the client's address.
pub(crate) fn delivery_by_the_kernel() -> Result<()> {
    let cluster = Cluster::on_kubernetes(&["--delivery", "kernel"])?;
    let result = (|| {
        let lab = &cluster.lab;
        let patch = r#"{"spec": {"externalTrafficPolicy": "Local"}}"#;
        cluster.control()?.kubectl(&["patch", "service", "web", "-p", patch])?;
        let client = std::collections::BTreeSet::from([lab.client.ipv4.into()]);
        wait::until_true(LIMIT, "kube-proxy keeps the client's address", || {
            let to = (cluster.vips[0], WEB_PORT).into();
            let spread = probe::try_spread(&lab.client.namespace, Over::Tcp, to, 120)?;
            Ok(spread.failed == 0 && spread.clients == client)
        })?;
        for node in &lab.nodes {
            // A UDP port that is used again within half a minute is still masqueraded.
            node.namespace.output("conntrack", &["-F"])?;
        }
        for over in [Over::Tcp, Over::Udp] {
            for vip in cluster.vips {
                scenario::check_spread(lab, over, vip, &scenario::node_names(lab), 300)?;
            }
        }
        Ok(())
    })();
    result.map_err(|error| cluster.failed(error))
}

/// A Service of another class is not ours.
pub(crate) fn other_class(cluster: &Cluster) -> Result<()> {
    let other = Service {
        name: "foreign",
        spec: &["loadBalancerClass: example.com/other"],
        ..Service::default()
    };
    other.create(cluster)?;
    // One that comes after it is served: its turn was there, and let pass.
    let ours = Service { name: "after", ..Service::default() };
    ours.create(cluster)?;
    ours.await_address(cluster)?;
    ensure!(other.addresses(cluster)?.is_empty(), "a Service of another class got an address");
    ours.delete(cluster)?;
    other.delete(cluster)
}

/// Its address is no longer answered for, and is free for others.
pub(crate) fn deleted(cluster: &Cluster) -> Result<()> {
    let service = Service { name: "short", ..Service::default() };
    service.create(cluster)?;
    let vip = service.await_address(cluster)?;
    service.await_served(cluster, vip)?;
    service.delete(cluster)?;
    wait::until_true(LIMIT, &format!("nobody answers for {vip}"), || {
        Ok(scenario::answers(&cluster.lab, vip)?.is_empty())
    })?;
    // The client still knows the node, whose kube-proxy has rules for a moment longer.
    wait::until_true(LIMIT, &format!("{vip} is served no more"), || {
        let client = &cluster.lab.client.namespace;
        Ok(client.connect((vip, WEB_PORT).into(), Duration::from_millis(300)).is_err())
    })?;
    let next = Service { name: "next", ..Service::default() };
    next.create(cluster)?;
    let again = next.await_address(cluster)?;
    ensure!(again == vip, "the address was not free again: {again} instead of {vip}");
    next.delete(cluster)
}
