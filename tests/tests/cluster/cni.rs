//! Agents beside a real CNI and kube-proxy: pods that flannel and the CNI's plugins plug in.
use crate::service;
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Cut, Lab, Pod,
        cni::{self, Backend, HOST_PORT, Neighbourhood},
        control_plane::ProxyMode,
        namespace::Namespace,
        probe::{self, Connection, Over},
        scenario::{self, Cluster, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
    },
    suite, wait,
};
use std::{net::IpAddr, time::Duration};

/// flannel's VXLAN, rules by iptables.
pub(crate) fn flannel_vxlan_iptables() -> Result<()> {
    beside(Backend::Vxlan, ProxyMode::Iptables)
}

/// flannel's host-gw, rules by nftables.
pub(crate) fn flannel_host_gw_nftables() -> Result<()> {
    beside(Backend::HostGw, ProxyMode::Nftables)
}

/// flannel's VXLAN, rules by nftables.
pub(crate) fn flannel_vxlan_nftables() -> Result<()> {
    beside(Backend::Vxlan, ProxyMode::Nftables)
}

/// flannel's host-gw, rules by iptables.
pub(crate) fn flannel_host_gw_iptables() -> Result<()> {
    beside(Backend::HostGw, ProxyMode::Iptables)
}

fn beside(backend: Backend, rules: ProxyMode) -> Result<()> {
    let mut cluster = cni::cluster(Neighbourhood { backend, rules })?;
    let result = (|| {
        network_is_the_cnis(&cluster, backend).context("the CNI's own work")?;
        all_pods_serve(&cluster).context("clients to all pods")?;
        service::kube_proxy_serves_the_cluster_address(&cluster)
            .context("nodes and pods to cluster address and VIP")?;
        restart_keeps_connections(&mut cluster).context("the owner's agent restarts")?;
        node_fails(&mut cluster).context("the owner's link is cut")
    })();
    result.map_err(|error| cluster.failed(error))
}

/// Pods reach each other the way that the backend goes, the world sees their node's address, and
/// the port that the CNI forwards leads to its pod.
fn network_is_the_cnis(cluster: &Cluster, backend: Backend) -> Result<()> {
    let lab = &cluster.lab;
    cni::check_endpoints(lab, cluster.control()?)?;
    for from in &lab.pods {
        for to in &lab.pods {
            for address in [to.ipv4.into(), to.ipv6.into()] {
                // Routes to the other nodes come as flannel learns of them.
                let what = format!("{} reaches {} at {address}", from.name, to.name);
                wait::until_true(START_LIMIT, &what, || {
                    let answer =
                        probe::http(&from.namespace, address, herald_tests::lab::POD_PORT)?;
                    Ok(answer.pod == to.name)
                })?;
            }
        }
    }
    let (first, last) = (&lab.nodes[0], &lab.pods[lab.pods.len() - 1]);
    let route = first.namespace.output("ip", &["route", "get", &last.ipv4.to_string()])?;
    let device = match backend {
        Backend::Vxlan => "dev flannel.1",
        Backend::HostGw => "dev eth0",
    };
    ensure!(route.contains(device), "{backend:?} goes another way: {route}");
    for pod in &lab.pods {
        masqueraded(lab, pod)?;
    }
    for node in &lab.nodes {
        let answer = probe::http(&lab.client.namespace, node.ipv4.into(), HOST_PORT)
            .with_context(|| format!("port {HOST_PORT} of {}", node.name))?;
        ensure!(answer.node == node.name, "{} answers for {}", answer.node, node.name);
    }
    Ok(())
}

/// What a pod begins towards the world comes from its node's address: the rule that would rewrite
/// the replies to clients as well if it were asked.
fn masqueraded(lab: &Lab, pod: &Pod) -> Result<()> {
    let node = &lab.nodes[pod.node];
    for (client, expected) in [
        (IpAddr::from(lab.client.ipv4), IpAddr::from(node.ipv4)),
        (lab.client.ipv6.into(), node.ipv6.into()),
    ] {
        let seen = source_seen(&lab.client.namespace, client, &pod.namespace)?;
        ensure!(seen == expected, "the client sees {} as {seen}, not as {expected}", pod.name);
    }
    Ok(())
}

/// The address that a datagram of `from` has when it arrives at `to`.
fn source_seen(to: &Namespace, address: IpAddr, from: &Namespace) -> Result<IpAddr> {
    let receiver = to.enter(|| Ok(std::net::UdpSocket::bind((address, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    let sender = from.udp(receiver.local_addr()?)?;
    wait::until(TAKEOVER_LIMIT, "a pod's datagram reaches the client", || {
        sender.send(b"hello")?;
        let (_, source) = receiver.recv_from(&mut [0; 16])?;
        Ok(Some(source.ip()))
    })
}

/// Each pod has its share of both protocols and families, and sees the client's own address; the
/// client is answered by the VIP, or it would not know the answer.
fn all_pods_serve(cluster: &Cluster) -> Result<()> {
    let count = if suite::full() { 1200 } else { 300 };
    let nodes = scenario::node_names(&cluster.lab);
    for over in [Over::Tcp, Over::Udp] {
        for vip in cluster.vips {
            scenario::check_spread(&cluster.lab, over, vip, &nodes, count)?;
        }
    }
    Ok(())
}

/// A connection to each address, and what it was answered by first.
fn connections(cluster: &Cluster, count: usize) -> Result<Vec<(Connection, String, String)>> {
    let client = &cluster.lab.client.namespace;
    (0..count)
        .map(|i| {
            let mut connection = Connection::open(client, cluster.vips[i % 2], WEB_PORT)?;
            let answer = connection.request()?;
            Ok((connection, answer.pod, answer.node))
        })
        .collect()
}

/// The agents of the nodes that answer are killed and started again; connections go on with
/// their pods, large answers included, and no datagram is lost.
fn restart_keeps_connections(cluster: &mut Cluster) -> Result<()> {
    let mut open = connections(cluster, 24)?;
    let client = cluster.lab.client.namespace.clone();
    let flow =
        probe::watch_flow(&client, (cluster.vips[0], WEB_PORT).into(), Duration::from_millis(5));
    for vip in cluster.vips {
        let owner = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
        let position = cluster.position(&owner)?;
        cluster.restart_agent(position)?;
        for (connection, pod, _) in &mut open {
            let answer = connection.exchange(3000, 100_000)?;
            ensure!(answer.pod == *pod, "a connection moved from {pod} to {}", answer.pod);
        }
    }
    cluster.await_all_serve()?;
    let flow = flow.stop()?;
    ensure!(flow.lost() == 0, "{} of {} datagrams lost", flow.lost(), flow.sent);
    ensure!(flow.pods.len() == 1, "a flow moved: {:?}", flow.pods);
    for (connection, pod, _) in &mut open {
        ensure!(connection.request()?.pod == *pod, "a connection moved from {pod}");
    }
    Ok(())
}

/// Another node takes over; connections to the pods of the others go on; the node comes back.
fn node_fails(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let lost = scenario::settled_owner(&cluster.lab, vip)?.clone();
    let mut open = connections(cluster, 24)?;
    let lab = &cluster.lab;
    let others = scenario::others(lab, &lost);
    let takeover = scenario::takeover(lab, vip, &lost, &others, || lab.cut(&lost, Cut::Silent))?;
    ensure!(
        takeover.gap <= TAKEOVER_LIMIT,
        "{} took over after {:?}, the limit is {TAKEOVER_LIMIT:?}",
        takeover.owner.name,
        takeover.gap
    );
    for vip in cluster.vips {
        scenario::await_serving(lab, vip, &others, 2 * TAKEOVER_LIMIT)?;
        scenario::check_spread(lab, Over::Tcp, vip, &others, 200)?;
    }
    open.retain(|(_, _, node)| *node != lost.name);
    ensure!(!open.is_empty(), "no connection to the nodes that remain");
    for (connection, pod, _) in &mut open {
        ensure!(connection.request()?.pod == *pod, "a connection moved from {pod}");
    }
    lab.mend(&lost)?;
    cluster.await_all_serve()?;
    // A pod on another node is reached as before, too.
    let lab = &cluster.lab;
    for pod in lab.pods.iter().filter(|pod| lab.nodes[pod.node].name == lost.name) {
        let from = &lab.pods.iter().find(|other| other.node != pod.node).context("one node")?;
        let answer = probe::http(&from.namespace, pod.ipv4.into(), herald_tests::lab::POD_PORT)?;
        ensure!(answer.pod == pod.name, "{} answers for {}", answer.pod, pod.name);
    }
    Ok(())
}
