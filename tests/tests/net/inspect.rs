//! `lb-agent explain` and `lb-agent watch` on what stands in a node's kernel.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Host, Lab, cleanup, command,
        probe::{self, Connection},
        scenario::{self, Cluster, WEB_PORT},
    },
    wait,
};
use serde_json::Value;
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(2);
/// The client's ports of the flows that are explained: below those that the kernel chooses from.
const PORTS: std::ops::Range<u16> = 21_000..21_012;
const SAMPLES: usize = 400;

fn agent(lab: &Lab, node: &Host, arguments: &[&str]) -> Result<Command> {
    let mut agent = node.namespace.command(command::sibling("lb-agent")?);
    agent.args(arguments).arg("--pin-dir").arg(lab.pin_directory(node));
    Ok(agent)
}

/// What a node says about a flow: its row's nodes in order, and all of the answer.
pub(crate) fn explained(
    lab: &Lab,
    node: &Host,
    client: SocketAddr,
    vip: SocketAddr,
) -> Result<(Vec<String>, Value)> {
    let (client, to) = (client.to_string(), format!("{vip}/TCP"));
    let text =
        command::run(&mut agent(lab, node, &["explain", &client, &to, "--output", "json"])?)?;
    let answer: Value = serde_json::from_str(&text)?;
    let served = answer["fate"]["served"].clone();
    let nodes = served["nodes"].as_array().with_context(|| format!("no row: {text}"))?;
    let name = |stop: &Value| {
        let Some(address) = stop["address"].as_str() else { return Ok(node.name.clone()) };
        let address: IpAddr = address.parse()?;
        let is = |n: &&Host| IpAddr::from(n.ipv4) == address || IpAddr::from(n.ipv6) == address;
        Ok(lab.nodes.iter().find(is).with_context(|| format!("{address} is no node"))?.name.clone())
    };
    Ok((nodes.iter().map(name).collect::<Result<_>>()?, served))
}

/// Every node names the same nodes in the same order, the first of them names the pod, and that
/// pod serves; afterwards it knows the flow, and no other node does.
pub(crate) fn explain(cluster: &Cluster) -> Result<()> {
    let lab = &cluster.lab;
    for vip in cluster.vips {
        let to = SocketAddr::from((vip, WEB_PORT));
        for port in PORTS {
            let from = SocketAddr::from((scenario::client_address(lab, vip), port));
            let said = |node: &Host| explained(lab, node, from, to);
            let (row, _) = said(&lab.nodes[0])?;
            for node in &lab.nodes {
                let (same, served) = said(node)?;
                ensure!(same == row, "{from}: {} says {same:?}, not {row:?}", node.name);
                ensure!(served["known"].is_null(), "{from} is known on {}", node.name);
            }
            let first = lab.node(row.first().context("an empty row")?)?;
            let (_, served) = said(first)?;
            let endpoint: SocketAddr =
                served["endpoint"].as_str().with_context(|| served.to_string())?.parse()?;
            let mut connection = Connection::open_from(&lab.client.namespace, from, to, LIMIT)?;
            let answer = connection.request()?;
            let pod = lab.pods.iter().find(|pod| pod.name == answer.pod).context("which pod?")?;
            ensure!(answer.node == first.name, "{from}: {} serves, not {row:?}", answer.node);
            ensure!(
                [IpAddr::from(pod.ipv4), pod.ipv6.into()].contains(&endpoint.ip()),
                "{from}: {} serves, not {endpoint}",
                pod.name
            );
            for node in &lab.nodes {
                let known = said(node)?.1["known"].clone();
                let expected = (node.name == first.name).then(|| endpoint.to_string());
                ensure!(
                    known["endpoint"].as_str() == expected.as_deref(),
                    "{from}: {} knows {known}, not {expected:?}",
                    node.name
                );
            }
        }
        let client = SocketAddr::from((scenario::client_address(lab, vip), PORTS.start));
        let (client, to) = (client.to_string(), format!("{to}/TCP"));
        let text = command::run(&mut agent(lab, &lab.nodes[0], &["explain", &client, &to])?)?;
        for word in [client.as_str(), "row ", "new flows ", "endpoint ", "known here "] {
            ensure!(text.contains(word), "no {word:?} in: {text}");
        }
    }
    Ok(())
}

/// Samples of frames that are sent on and delivered are printed, and stand in a file that tcpdump
/// reads.
pub(crate) fn watch(cluster: &Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(lab, vip)?;
    let (file, printed) = (lab.directory.join("watch.pcapng"), lab.directory.join("watch.txt"));
    let count = SAMPLES.to_string();
    let mut watch = agent(lab, owner, &["watch", "--count", &count])?;
    watch.arg("--pcap").arg(&file).stdin(Stdio::null()).stdout(fs::File::create(&printed)?);
    let mut watch = cleanup::spawn(&mut watch)?;
    let ended = wait::until(Duration::from_secs(20), "as many samples as are asked for", || {
        let ended = watch.try_wait()?;
        if ended.is_none() {
            probe::http(&lab.client.namespace, vip, WEB_PORT)?;
        }
        Ok(ended)
    });
    if ended.is_err() {
        watch.kill()?;
        watch.wait()?;
    }
    let status = ended?;
    ensure!(status.success(), "it ended with {status}");
    let text = fs::read_to_string(&printed)?;
    ensure!(text.lines().count() == SAMPLES, "{} lines", text.lines().count());
    let outcomes = ["forwarded", "delivered", "replied"];
    for outcome in outcomes {
        let says = |line: &str| line.split_whitespace().any(|word| word == outcome);
        ensure!(text.lines().any(says), "nothing was {outcome}: {text}");
    }
    let read = command::run(Command::new(command::find("tcpdump")?).arg("-nr").arg(&file))?;
    ensure!(read.lines().count() == SAMPLES, "tcpdump reads {} frames", read.lines().count());
    let to = format!("{vip}.{WEB_PORT}:");
    ensure!(read.lines().any(|line| line.contains(&to)), "none to {to} in: {read}");
    let raw = fs::read(&file)?;
    for outcome in outcomes {
        let comment = format!("{outcome} (");
        ensure!(
            raw.windows(comment.len()).any(|bytes| bytes == comment.as_bytes()),
            "no comment says {outcome}"
        );
    }
    Ok(())
}
