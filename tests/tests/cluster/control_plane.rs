//! The API server goes away, and agents may do no more than they need.
use crate::objects::Service;
use anyhow::{Result, ensure};
use herald_tests::lab::{
    control_plane::{NAMESPACE, SERVICE_ACCOUNT},
    probe::{self, Over},
    scenario::{self, Cluster, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
};
use herald_tests::wait;
use std::time::Duration;

/// Traffic goes on without it, agents restarted meanwhile included; back again, it is followed.
pub(crate) fn api_server_away(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let client = cluster.lab.client.namespace.clone();
    let flow = probe::watch_flow(&client, (vip, WEB_PORT).into(), Duration::from_millis(5));
    let gaps = probe::watch_gaps(&client, (vip, WEB_PORT).into(), Duration::from_millis(10));
    let Some(control) = cluster.control.as_mut() else { anyhow::bail!("no control plane") };
    control.stop_api_server()?;
    // Long enough for every timeout of watches and leases to have its say.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < until {
        for vip in cluster.vips {
            let nodes = scenario::node_names(&cluster.lab);
            scenario::check_spread(&cluster.lab, Over::Tcp, vip, &nodes, 600)?;
        }
        for agent in &mut cluster.agents {
            agent.check()?;
        }
    }
    // An agent that starts now has what is pinned, and what the one before has seen.
    cluster.restart_agent(0)?;
    wait::until_true(
        3 * START_LIMIT,
        "what was last seen is in force, and all nodes are known",
        || {
            cluster.agents[0].check()?;
            let url = "http://127.0.0.1:9120/metrics";
            let metrics = cluster.lab.nodes[0].namespace.output("curl", &["-s", "--fail", url]);
            let metrics = metrics.unwrap_or_default();
            let alive = format!("herald_nodes_alive {}", cluster.lab.nodes.len());
            Ok(["herald_ready 1", &alive]
                .iter()
                .all(|told| metrics.lines().any(|line| line == *told)))
        },
    )?;
    wait::sleep_until(std::time::Instant::now() + TAKEOVER_LIMIT);
    let flow = flow.stop()?;
    ensure!(flow.lost() == 0, "{} of {} datagrams lost", flow.lost(), flow.sent);
    let gaps = gaps.stop()?;
    let lost = gaps.sent - gaps.answered.len();
    ensure!(lost == 0, "{lost} of {} datagrams of new flows lost", gaps.sent);
    if let Some(control) = cluster.control.as_mut() {
        control.start_api_server()?;
        control.await_ready()?;
    }
    let service = Service { name: "afterwards", ..Service::default() };
    service.create(cluster)?;
    let vip = wait::until(3 * START_LIMIT, "the API server is followed again", || {
        Ok(service.addresses(cluster)?.first().copied())
    })?;
    service.await_served(cluster, vip)?;
    service.delete(cluster)?;
    cluster.await_all_serve()
}

/// The agents run as the service account that `deploy/rbac.yaml` binds, which is no
/// administrator, and lack nothing.
pub(crate) fn nothing_was_forbidden(cluster: &Cluster) -> Result<()> {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}");
    let may = |verb: &str, kind: &str| -> Result<bool> {
        // It exits with 1 where the answer is no.
        let answer = cluster.control()?.kubectl(&["auth", "can-i", verb, kind, &account, "-A"]);
        Ok(answer.is_ok_and(|text| text.trim() == "yes"))
    };
    ensure!(may("watch", "services")?, "the account is not bound");
    for (verb, kind) in [("*", "*"), ("get", "secrets"), ("create", "pods"), ("delete", "nodes")] {
        ensure!(!may(verb, kind)?, "agents may {verb} {kind}");
    }
    // Those that BGPPeers name are read by name.
    let list = ["auth", "can-i", "list", "secrets", &account, "--namespace", NAMESPACE];
    ensure!(cluster.control()?.kubectl(&list).is_err(), "agents may list Secrets");
    for agent in &cluster.agents {
        let printed = agent.printed()?;
        let forbidden = printed.lines().find(|line| line.to_lowercase().contains("forbidden"));
        ensure!(forbidden.is_none(), "{}: {}", agent.node, forbidden.unwrap_or_default());
    }
    Ok(())
}
