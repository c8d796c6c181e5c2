//! The API server goes away, and agents may do no more than they need.
use crate::{bgp::Router, objects::Service};
use anyhow::{Result, ensure};
use herald_tests::lab::{
    control_plane::{NAMESPACE, SERVICE_ACCOUNT},
    probe::{self, Over},
    scenario::{self, Cluster, START_LIMIT, TAKEOVER_LIMIT, WEB_PORT},
};
use herald_tests::{suite, wait};
use std::time::{Duration, Instant};

/// For how long the API server is away: every timeout of watches and leases has had its say. In full, what is
/// looked at once in a while has, too.
const AWAY: Duration = Duration::from_secs(20);
const LONG_AWAY: Duration = Duration::from_secs(3600);

/// How long it is watched what the agents ask of it when it is back.
const RETURN: Duration = Duration::from_secs(10);

/// Traffic goes on without it, agents restarted meanwhile and their BGP sessions included; back again, it is
/// followed, and asked for no more than has to be read once.
pub(crate) fn api_server_away(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let vips = cluster.vips;
    let owner_names = |cluster: &Cluster| -> Result<Vec<String>> {
        let owner = |vip| Ok(scenario::settled_owner(&cluster.lab, vip)?.name.clone());
        vips.into_iter().map(owner).collect()
    };
    let owners = owner_names(cluster)?;
    let router = Router::start(cluster)?;
    // What was last asked for is written down each five seconds.
    let kept = cluster.lab.directory.join("node1-state/bgp.json");
    wait::until_true(START_LIMIT, "the session's password is kept", || {
        Ok(std::fs::read_to_string(&kept)?.contains("\"router\":\"in a Secret\""))
    })?;
    let client = cluster.lab.client.namespace.clone();
    let flow = probe::watch_flow(&client, (vip, WEB_PORT).into(), Duration::from_millis(5));
    let gaps = probe::watch_gaps(&client, (vip, WEB_PORT).into(), Duration::from_millis(10));
    let Some(control) = cluster.control.as_mut() else { anyhow::bail!("no control plane") };
    control.stop_api_server()?;
    let (away, pause) =
        if suite::full() { (LONG_AWAY, Duration::from_secs(10)) } else { (AWAY, Duration::ZERO) };
    let until = Instant::now() + away;
    while Instant::now() < until {
        for vip in vips {
            let nodes = scenario::node_names(&cluster.lab);
            scenario::check_spread(&cluster.lab, Over::Tcp, vip, &nodes, 600)?;
        }
        for agent in &mut cluster.agents {
            agent.check()?;
        }
        wait::sleep_until(Instant::now() + pause);
    }
    // An agent that starts now has what is pinned, and what the one before has seen.
    let session = router.await_session(None)?;
    cluster.restart_agent(0)?;
    // What was last seen is in force, and all nodes are known.
    scenario::await_known(&cluster.lab, &cluster.lab.nodes[0], 3 * START_LIMIT)?;
    cluster.agents[0].check()?;
    router.await_session(Some(&session))?;
    wait::sleep_until(Instant::now() + TAKEOVER_LIMIT);
    if let Some(control) = cluster.control.as_mut() {
        control.start_api_server()?;
        control.await_ready()?;
    }
    let back = Instant::now();
    // Each reads each kind once, and is answered by a watch from then on.
    let asked = wait::until(3 * START_LIMIT, "all agents follow it again", || {
        let asked = Asked::count(cluster)?;
        Ok((asked.watches >= cluster.agents.len()).then_some(asked))
    })?;
    wait::sleep_until(back + RETURN);
    let asked_since = Asked::count(cluster)?;
    println!("asked of it once it is back: {asked:?}, then {asked_since:?}");
    // The agent that allocates from now on tells how full the pools are, and an agent what it could not tell
    // before.
    let most = 3 * cluster.agents.len();
    ensure!(asked_since.lists <= most && asked_since.writes <= most, "{asked_since:?}");
    ensure!(owner_names(cluster)? == owners, "VIPs have moved from {owners:?}");
    let flow = flow.stop()?;
    ensure!(flow.lost() == 0, "{} of {} datagrams lost", flow.lost(), flow.sent);
    let gaps = gaps.stop()?;
    let lost = gaps.lost();
    ensure!(lost == 0, "{lost} of {} datagrams of new flows lost", gaps.sent);
    println!("{} datagrams of new flows and {} of one, none lost", gaps.sent, flow.sent);
    let service = Service { name: "afterwards", ..Service::default() };
    service.create(cluster)?;
    let vip = wait::until(3 * START_LIMIT, "the API server is followed again", || {
        Ok(service.addresses(cluster)?.first().copied())
    })?;
    service.await_served(cluster, vip)?;
    service.delete(cluster)?;
    router.remove(cluster)?;
    cluster.await_all_serve()
}

/// What only agents ask of an API server, since it started: pools, and what they write about Services.
#[derive(Debug, Default)]
struct Asked {
    lists: usize,
    watches: usize,
    writes: usize,
}

impl Asked {
    fn count(cluster: &Cluster) -> Result<Self> {
        let metrics = cluster.control()?.kubectl(&["get", "--raw", "/metrics"])?;
        let mut asked = Self::default();
        // Watches are counted when they end; those that last are told by another metric.
        for line in metrics.lines() {
            let Some((name, count)) = line.rsplit_once(' ') else { continue };
            let count = || count.parse::<f64>().map(|count| count as usize);
            let pools = name.contains("resource=\"ipaddresspools\"");
            if pools && name.starts_with("apiserver_longrunning_requests{") {
                asked.watches += count()?;
            }
            if !name.starts_with("apiserver_request_total{") {
                continue;
            }
            if pools && name.contains("verb=\"LIST\"") {
                asked.lists += count()?;
            }
            let ours = name.contains("group=\"metallb.io\"")
                || name.contains("resource=\"services\"")
                    && name.contains("subresource=\"status\"");
            if ours
                && ["POST", "PUT", "PATCH", "APPLY", "DELETE"]
                    .iter()
                    .any(|verb| name.contains(&format!("verb=\"{verb}\"")))
            {
                asked.writes += count()?;
            }
        }
        Ok(asked)
    }
}

/// The agents run as the service account that `deploy/herald.yaml` binds, which is no
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
