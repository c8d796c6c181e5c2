//! What a Service may ask for, and what becomes of it with its endpoints.
use crate::{
    inspect::explained,
    manifests::CHANGE_LIMIT,
    traffic::{check_refused, counted},
};
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Cut, Host, Lab, addresses,
        endpoints::{self, Condition, replace},
        probe::{Connection, Over},
        scenario::{self, AGENT_LIMIT, Cluster, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
    },
    wait,
};
use lb_common::outcome::Outcome;
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// A further address of the client of each family, which it takes only where it is told to.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, 99)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x99)),
];
const SILENCE: Duration = Duration::from_millis(300);

/// Runs `check` while Service web has these lines in its specification, too.
fn with_lines(
    cluster: &mut Cluster,
    lines: &str,
    check: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let file = cluster.folder()?.join("web.yaml");
    let usual = fs::read_to_string(&file)?;
    let changed =
        usual.replace("  type: LoadBalancer\n", &format!("  type: LoadBalancer\n{lines}"));
    ensure!(changed != usual, "examples/web.yaml has another form");
    replace(&file, &changed)?;
    let result = check(cluster);
    replace(&file, &usual)?;
    result?;
    cluster.await_all_serve()
}

fn pod(cluster: &Cluster, from: IpAddr, vip: IpAddr) -> Result<String> {
    let (from, to) = (SocketAddr::from((from, 0)), SocketAddr::from((vip, WEB_PORT)));
    let mut connection = Connection::open_from(&cluster.lab.client.namespace, from, to, SILENCE)?;
    Ok(connection.request()?.pod)
}

/// `loadBalancerSourceRanges`: clients of these are served, others are dropped and counted.
pub(crate) fn source_ranges(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.lab.client.clone();
    let [v4, v6] = OUTSIDE;
    client.namespace.ip(&format!(
        "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad preferred_lft 0\n"
    ))?;
    let lines =
        format!("  loadBalancerSourceRanges: [{}/32, \"{}/128\"]\n", client.ipv4, client.ipv6);
    let result = with_lines(cluster, &lines, |cluster| {
        for (vip, outside) in cluster.vips.into_iter().zip(OUTSIDE) {
            wait::until_true(CHANGE_LIMIT, &format!("{outside} is not served"), || {
                Ok((0..5).all(|_| pod(cluster, outside, vip).is_err()))
            })?;
            // A connection that was served just before may still be repeating its FIN meanwhile.
            wait::until_true(CHANGE_LIMIT, &format!("{outside} is counted once"), || {
                let before = counted(cluster, Outcome::DropSourceRange)?;
                ensure!(pod(cluster, outside, vip).is_err(), "{outside} is served");
                Ok(counted(cluster, Outcome::DropSourceRange)? - before == 1)
            })?;
            let nodes = scenario::node_names(&cluster.lab);
            for over in [Over::Tcp, Over::Udp] {
                scenario::check_spread(&cluster.lab, over, vip, &nodes, 300)?;
            }
        }
        Ok(())
    });
    result?;
    for (vip, outside) in cluster.vips.into_iter().zip(OUTSIDE) {
        wait::until_true(CHANGE_LIMIT, &format!("{outside} is served again"), || {
            Ok(pod(cluster, outside, vip).is_ok())
        })?;
    }
    client.namespace.ip(&format!("addr del {v4}/24 dev eth0\naddr del {v6}/64 dev eth0\n"))
}

/// The one pod and node that serve all of some new connections and datagrams, of both kinds.
fn one_pod(cluster: &Cluster, vip: IpAddr) -> Result<(String, String)> {
    // Not UDP: a port that an earlier case used keeps the pod that it had then for five minutes.
    let spread = scenario::spread(&cluster.lab, Over::Tcp, vip, 50)?;
    ensure!(spread.failed == 0, "{vip}: {:?}", spread.first_failure);
    let mut pods: BTreeSet<_> = spread.pods.into_keys().collect();
    let mut nodes: BTreeSet<_> = spread.nodes.into_keys().collect();
    ensure!(pods.len() == 1, "{vip}: one client is served by {pods:?}");
    Ok((pods.pop_first().unwrap_or_default(), nodes.pop_first().unwrap_or_default()))
}

/// `sessionAffinity: ClientIP`: a client keeps its pod when another node announces the VIP and when
/// a node's link is cut that is not the pod's, and gets one other pod when it is.
pub(crate) fn client_ip_affinity(cluster: &mut Cluster) -> Result<()> {
    with_lines(cluster, "  sessionAffinity: ClientIP\n", |cluster| {
        for vip in cluster.vips {
            let client = SocketAddr::from((scenario::client_address(&cluster.lab, vip), 40_000));
            let to = SocketAddr::from((vip, WEB_PORT));
            for node in &cluster.lab.nodes {
                wait::until_true(CHANGE_LIMIT, &format!("{} has affinity", node.name), || {
                    let (_, served) = explained(&cluster.lab, node, client, to)?;
                    Ok(served["client_ip_affinity"] == true)
                })?;
            }
            let (pod, node) = one_pod(cluster, vip)?;
            owner_changes(cluster, vip, &pod)?;
            let now = one_pod(cluster, vip)?.0;
            ensure!(now == pod, "{vip}: {now} serves, not {pod}, since another node announces");
            let lab = &cluster.lab;
            let other = lab.node(scenario::others(lab, lab.node(&node)?)[0])?;
            cut(cluster, vip, other, |cluster| {
                let now = one_pod(cluster, vip)?.0;
                ensure!(now == pod, "{vip}: {now} serves, not {pod}, without {}", other.name);
                Ok(())
            })?;
            cut(cluster, vip, lab.node(&node)?, |cluster| {
                let (now, on) = one_pod(cluster, vip)?;
                ensure!(now != pod && on != node, "{vip}: {now} on {on} cannot serve");
                Ok(())
            })?;
            await_agreement(cluster)?;
            one_pod(cluster, vip)?;
        }
        Ok(())
    })
}

/// The owner's agent stops, and starts again once another node announces.
fn owner_changes(cluster: &mut Cluster, vip: IpAddr, pod: &str) -> Result<()> {
    let owner = scenario::settled_owner(&cluster.lab, vip)?.clone();
    let position = cluster.position(&owner.name)?;
    cluster.agents.remove(position).interrupt(AGENT_LIMIT)?;
    let others = scenario::others(&cluster.lab, &owner);
    let result = scenario::await_owner_among(&cluster.lab, &others, vip, TAKEOVER_LIMIT).map(drop);
    let during = result.and_then(|()| one_pod(cluster, vip));
    cluster.start_agent(position)?;
    let now = during?.0;
    ensure!(now == pod, "{vip}: {now} serves, not {pod}, while {} announces no more", owner.name);
    await_agreement(cluster)
}

fn cut(
    cluster: &Cluster,
    vip: IpAddr,
    node: &Host,
    check: impl FnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    let lab = &cluster.lab;
    lab.cut(node, Cut::Silent)?;
    let result = (|| {
        scenario::await_owner_among(lab, &scenario::others(lab, node), vip, TAKEOVER_LIMIT)?;
        wait::until_true(2 * TAKEOVER_LIMIT, "others serve", || Ok(one_pod(cluster, vip).is_ok()))?;
        check(cluster)
    })();
    lab.mend(node)?;
    result?;
    await_agreement(cluster)
}

/// Waits until exactly one node announces each VIP, and all nodes have the same row for the client,
/// with all nodes in it: where one is missing, the client is another's in the meantime.
fn await_agreement(cluster: &Cluster) -> Result<()> {
    let lab = &cluster.lab;
    for vip in cluster.vips {
        let client = SocketAddr::from((scenario::client_address(lab, vip), 40_000));
        let to = SocketAddr::from((vip, WEB_PORT));
        wait::until_true(START_LIMIT, &format!("all nodes agree on {vip}"), || {
            let rows: BTreeSet<_> = (lab.nodes.iter())
                .map(|node| Ok(explained(lab, node, client, to)?.0))
                .collect::<Result<_>>()?;
            Ok(rows.len() == 1
                && rows.iter().all(|row| row.len() == lab.nodes.len())
                && scenario::owner(lab, vip)?.is_some())
        })?;
    }
    Ok(())
}

/// Runs `check` with changed endpoints; those of before are written again after it.
pub(crate) fn with_endpoints(
    cluster: &mut Cluster,
    check: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let file = cluster.folder()?.join("web-endpoints.yaml");
    let usual = fs::read_to_string(&file)?;
    let result = check(cluster);
    replace(&file, &usual)?;
    result?;
    cluster.await_all_serve()
}

/// A connection to an address that this pod has.
pub(crate) fn connection_to(cluster: &Cluster, vip: IpAddr, pod: &str) -> Result<Connection> {
    let connection = (0..500).find_map(|_| {
        let mut connection = Connection::open(&cluster.lab.client.namespace, vip, WEB_PORT).ok()?;
        (connection.request().ok()?.pod == pod).then_some(connection)
    });
    connection.with_context(|| format!("{pod} gets nothing"))
}

/// Has the first pod terminate, and waits until new flows go to the others.
pub(crate) fn terminate_first(cluster: &Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let rest: BTreeSet<_> = lab.pods[1..].iter().map(|pod| pod.name.clone()).collect();
    let first = (&lab.pods[0], Condition::Terminating);
    let others = lab.pods[1..].iter().map(|pod| (pod, Condition::Ready));
    let states: Vec<_> = [first].into_iter().chain(others).collect();
    endpoints::write(lab, &cluster.folder()?, &states)?;
    await_tcp_to(lab, cluster.vips, &rest)
}

/// Waits until new connections go to exactly these nodes' pods.
fn await_tcp(lab: &Lab, vips: [IpAddr; 2], nodes: &[&str]) -> Result<()> {
    await_tcp_to(lab, vips, &scenario::pods_of(lab, nodes).into_iter().collect())
}

/// The same for pods. Not by UDP: a port that an earlier case used keeps the pod that it had then.
fn await_tcp_to(lab: &Lab, vips: [IpAddr; 2], pods: &BTreeSet<String>) -> Result<()> {
    for vip in vips {
        wait::until_true(CHANGE_LIMIT, "new flows go elsewhere", || {
            let spread = scenario::spread(lab, Over::Tcp, vip, 120)?;
            Ok(spread.failed == 0 && spread.pods.keys().eq(pods))
        })?;
    }
    Ok(())
}

/// A pod that terminates keeps its connections to the end, and new ones go elsewhere.
pub(crate) fn terminating_endpoint(cluster: &mut Cluster) -> Result<()> {
    with_endpoints(cluster, |cluster| {
        let leaving = &cluster.lab.pods[0].name;
        let open = |vip| connection_to(cluster, vip, leaving);
        let kept = cluster.vips.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        terminate_first(cluster)?;
        for (mut connection, vip) in kept.into_iter().zip(cluster.vips) {
            for _ in 0..20 {
                let pod = connection.request().with_context(|| format!("kept to {vip}"))?.pod;
                ensure!(pod == *leaving, "the connection went over to {pod}");
            }
        }
        Ok(())
    })
}

/// Without endpoints nobody announces the VIP; a client that still sends to a node (or whose router
/// does) is refused at once, and counted.
pub(crate) fn last_endpoint_gone(cluster: &mut Cluster) -> Result<()> {
    with_endpoints(cluster, |cluster| {
        let lab = &cluster.lab;
        let client = &lab.client.namespace;
        let mac = addresses::mac_text(lab.nodes[0].mac);
        endpoints::write(lab, &cluster.folder()?, &[])?;
        let result = (|| {
            for vip in cluster.vips {
                client.ip(&format!("neigh replace {vip} lladdr {mac} nud permanent dev eth0\n"))?;
                let to = SocketAddr::from((vip, WEB_PORT));
                wait::until_true(CHANGE_LIMIT, &format!("{to} is refused"), || {
                    Ok(client.connect(to, SILENCE).is_err()
                        && scenario::answers(lab, vip)?.is_empty())
                })?;
                check_refused(cluster, to)?;
            }
            Ok(())
        })();
        for vip in cluster.vips {
            // Where it was not made, there is none to remove.
            let _ = client.ip(&format!("neigh del {vip} dev eth0\n"));
        }
        result
    })
}

/// Pods that come on a node whose agent is away, and which had none before, get nothing until it is back:
/// its kernel does not know them. Whoever is sent there is served elsewhere.
pub(crate) fn endpoints_come_without_agent(cluster: &mut Cluster) -> Result<()> {
    with_endpoints(cluster, |cluster| {
        let folder = cluster.folder()?;
        let node = cluster.lab.pods[0].node;
        let write = |cluster: &Cluster, with: bool| {
            let pods = cluster.lab.pods.iter().filter(|pod| with || pod.node != node);
            let all: Vec<_> = pods.map(|pod| (pod, Condition::Ready)).collect();
            endpoints::write(&cluster.lab, &folder, &all)
        };
        let lab = &cluster.lab;
        let others = scenario::others(lab, &lab.nodes[node]);
        write(cluster, false)?;
        await_tcp(lab, cluster.vips, &others)?;
        let name = lab.nodes[node].name.clone();
        cluster.agents.remove(node).kill()?;
        write(cluster, true)?;
        for (node, vip) in cluster.lab.nodes.iter().zip(cluster.vips.into_iter().cycle()) {
            if node.name == name {
                continue;
            }
            let client = SocketAddr::from((scenario::client_address(&cluster.lab, vip), 40_000));
            wait::until_true(CHANGE_LIMIT, "rows name the node again", || {
                let to = SocketAddr::from((vip, WEB_PORT));
                Ok(explained(&cluster.lab, node, client, to)?.0.contains(&name))
            })?;
        }
        for vip in cluster.vips {
            for over in [Over::Tcp, Over::Udp] {
                let spread = scenario::spread(&cluster.lab, over, vip, 300)?;
                ensure!(spread.failed == 0, "{vip} over {over:?}: {spread:?}");
            }
        }
        cluster.start_agent(node)
    })
}
