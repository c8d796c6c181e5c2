//! The status page, in a browser.
use crate::command_line;
use anyhow::{Context as _, Result, ensure};
use herald_tests::lab::{
    command,
    probe::{self, Over},
    scenario::{Cluster, WEB_PORT},
};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, process::Command};

/// For how long the page's own time goes on: two rounds of it, so that rates are shown.
const BUDGET_MS: u32 = 5_000;

/// It shows what the node serves, without an error, and loads nothing from elsewhere.
pub(crate) fn shows_the_node(cluster: &Cluster) -> Result<()> {
    let (lab, node) = (&cluster.lab, &cluster.lab.nodes[0]);
    for vip in cluster.vips {
        probe::spread(&lab.client.namespace, Over::Tcp, (vip, WEB_PORT).into(), 60)?;
    }
    let folder = lab.directory.join("browser");
    let mut chromium = node.namespace.command(command::find("chromium")?);
    chromium
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
        .args(["--enable-logging=stderr", "--log-level=0", "--window-size=1100,1300"])
        .arg(format!("--user-data-dir={}", folder.display()))
        .arg(format!("--virtual-time-budget={BUDGET_MS}"));
    if let Some(file) = std::env::var_os("HERALD_SCREENSHOT") {
        chromium.arg(format!("--screenshot={}", PathBuf::from(file).display()));
    }
    let before = reasons(cluster)?;
    let (page, log) = shown(chromium.args(["--dump-dom", "http://127.0.0.1:9120/"]))?;
    let after = reasons(cluster)?;
    let mistakes = log.lines().filter(|line| line.contains("CONSOLE"));
    let mistakes: Vec<_> = mistakes.collect();
    ensure!(mistakes.is_empty(), "the browser complains: {}", mistakes.join("; "));
    let mut wanted: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();
    wanted.extend(cluster.vips.map(|vip| vip.to_string()));
    wanted.extend(
        ["default/web", "eth0", "packets/s to pods of this node", "arp_", "ready"]
            .map(str::to_owned),
    );
    wanted.extend(
        lab.pods.iter().map(|pod| format!("{}:8080 ({})", pod.ipv4, lab.nodes[pod.node].name)),
    );
    for text in &wanted {
        ensure!(page.contains(text.as_str()), "the page does not show {text}: {page}");
    }
    // Which reason it is depends on what earlier cases did to the nodes, and may change meanwhile.
    for (vip, was) in &before {
        let is = after.get(vip).with_context(|| format!("{vip} has no reason any more"))?;
        ensure!(
            page.contains(was.as_str()) || page.contains(is.as_str()),
            "the page does not show why {vip} has its owner, {was} or {is}: {page}"
        );
    }
    ensure!(!page.contains("does not answer"), "{page}");
    Ok(())
}

/// Why each VIP has its owner, as the command line of the node that is shown tells it.
fn reasons(cluster: &Cluster) -> Result<BTreeMap<IpAddr, String>> {
    let told = command_line::status(&cluster.lab, &cluster.lab.nodes[0])?;
    let vips = told["vips"].as_array().context("no VIPs")?;
    let reason = |vip: IpAddr| {
        let entry = vips.iter().find(|entry| entry["vip"] == vip.to_string());
        let message = entry.and_then(|entry| entry["owner_why"]["message"].as_str());
        Ok((vip, message.with_context(|| format!("no reason for {vip}: {told}"))?.to_owned()))
    };
    cluster.vips.into_iter().map(reason).collect()
}

/// What a browser makes of a page, and what it says about it.
fn shown(browser: &mut Command) -> Result<(String, String)> {
    let done = browser.output().context("the browser does not start")?;
    let log = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "the browser ended with {}: {log}", done.status);
    Ok((String::from_utf8(done.stdout)?, log))
}
