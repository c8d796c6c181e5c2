//! An agent and a real router connect to each other at the same moment: of two connections, one stays, the
//! session is up by it, and the other is no failure.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Host, Lab, Shape, addresses,
        bgp::{Bird, NODES_AS, ROUTER_AS},
        scenario::{self, Cluster, START_LIMIT},
    },
    suite, wait,
};
use std::{
    fs,
    time::{Duration, Instant},
};

/// How long a session is watched that has come up.
const WATCHED: Duration = Duration::from_secs(3);
/// Holds back what connections carry, but not that they come up: both sides say OPEN by both, and neither hears the
/// other.
const HELD_BACK: &str = "table inet held {\n chain out {\n type filter hook output priority 0;\n tcp sport 179 tcp \
                         flags & psh == psh drop\n tcp dport 179 tcp flags & psh == psh drop\n }\n}\n";

/// The router's identifiers: the agent's, 10.77.0.11, is higher than the one and lower than the other.
const IDENTIFIERS: [&str; 2] = ["10.77.0.1", "10.77.0.100"];

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Beginner {
    Agent,
    Router,
}

/// How often each.
fn repetitions() -> usize {
    if suite::full() { 5 } else { 2 }
}

pub(crate) fn both_connect() -> Result<()> {
    for id in IDENTIFIERS {
        let lab = Lab::new(Shape { nodes: 1, ..Shape::default() })?;
        let (mut cluster, bird) = begin(lab, id)?;
        let result = (0..repetitions()).try_for_each(|_| collide(&mut cluster, &bird));
        result.map_err(|error| cluster.failed(error.context(format!("the router has {id}"))))?;
    }
    Ok(())
}

fn begin(lab: Lab, id: &str) -> Result<(Cluster, Bird)> {
    let begun = (|| {
        let mut options = scenario::on_manifests(&lab)?;
        options.arguments = ["--bgp-listen-port", "179"].map(str::to_owned).into();
        let (node, router) = (&lab.nodes[0], &lab.client);
        let manifests = format!(
            "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: all, namespace: \
             metallb-system}}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: router, \
             namespace: metallb-system}}\nspec: {{myASN: {NODES_AS}, peerASN: {ROUTER_AS}, peerAddress: \
             {}, connectTime: 1s}}\n",
            router.ipv4
        );
        fs::write(lab.directory.join("manifests/bgp.yaml"), manifests)?;
        let config = format!(
            "router id {id};\nprotocol device {{ scan time 10; }}\nprotocol bgp node {{\n debug {{ events, \
             states }};\n local {} as {ROUTER_AS}; neighbor {} as {NODES_AS}; direct; connect delay time 1; \
             connect retry time 1; error wait time 1, 2;\n ipv4 {{ import all; export none; }};\n}}\n",
            router.ipv4, node.ipv4
        );
        let bird = Bird::start(&lab, &router.namespace, "router", &config)?;
        Ok((bird, scenario::start_agents(&lab, &options)?, options))
    })();
    match begun {
        Ok((bird, agents, options)) => {
            let vips = addresses::both(addresses::FIRST_VIPS);
            Ok((Cluster { agents, options, control: None, vips, lab }, bird))
        }
        Err(error) => Err(lab.failed(error)),
    }
}

/// The node's connections of BGP that are up, by who has begun them.
fn connections(node: &Host) -> Result<Vec<Beginner>> {
    let ports = "( sport = :179 or dport = :179 )";
    let all = node.namespace.output("ss", &["-Htn", "state", "established", ports])?;
    let beginner = |line: &str| {
        let local = line.split_whitespace().nth(2).context("an address")?;
        Ok(if local.ends_with(":179") { Beginner::Router } else { Beginner::Agent })
    };
    let mut all = all.lines().map(beginner).collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    Ok(all)
}

fn is_up(bird: &Bird) -> Result<bool> {
    Ok(bird.tell("show protocols node")?.contains("Established"))
}

/// Has both connect before either hears the other. Which connection stays is decided by the identifiers where both
/// are in OpenConfirm, and else by which is up first (RFC 4271 section 6.8): the two are repeated at their own times.
fn collide(cluster: &mut Cluster, bird: &Bird) -> Result<()> {
    let (node, router) = (&cluster.lab.nodes[0], &cluster.lab.client);
    wait::until_true(3 * START_LIMIT, "the session is up", || is_up(bird))?;
    bird.tell("disable node")?;
    wait::until_true(START_LIMIT, "nothing is connected", || Ok(connections(node)?.is_empty()))?;
    let hosts = [node, router];
    for host in hosts {
        host.namespace.feed("nft", &["-f", "-"], HELD_BACK)?;
    }
    bird.tell("enable node")?;
    let both = wait::until_true(3 * START_LIMIT, "both have connected", || {
        let all = connections(node)?;
        ensure!(all == [Beginner::Agent, Beginner::Router], "{all:?}");
        Ok(true)
    });
    let told = cluster.agents[0].printed()?.len();
    for host in hosts {
        host.namespace.output("nft", &["delete", "table", "inet", "held"])?;
    }
    both?;
    let stays = wait::until(START_LIMIT, "the session is up by one connection", || {
        let all = connections(node)?;
        ensure!(all.len() == 1 && is_up(bird)?, "connections of {all:?}");
        Ok(all.first().copied())
    })?;
    println!("that of the {stays:?} stays");
    let until = Instant::now() + WATCHED;
    while Instant::now() < until {
        wait::sleep_until(Instant::now() + WATCHED / 10);
        let all = connections(node)?;
        ensure!(all == [stays] && is_up(bird)?, "connections of {all:?}");
    }
    let printed = cluster.agents[0].printed()?;
    let printed = printed.get(told..).unwrap_or_default();
    // One that is up at one end already may still be given up by the other, which is told.
    ensure!(!printed.contains("does not come up"), "told of trouble: {printed}");
    Ok(())
}
