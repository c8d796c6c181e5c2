//! What `lb-agent` tells about a node that serves, with its agent and without.
use anyhow::{Context as _, Result, bail, ensure};
use herald_tests::lab::{
    Host, Lab, command, probe,
    scenario::{self, Cluster, WEB_PORT},
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, process::Command, time::Duration};

/// The maps of docs/maps.md.
const MAPS: &str = include_str!("../../../docs/maps.md");

fn agent(node: &Host, arguments: &[&str]) -> Result<String> {
    command::run(node.namespace.command(command::sibling("lb-agent")?).args(arguments))
}

fn on_pins(lab: &Lab, node: &Host, arguments: &[&str]) -> Result<String> {
    let pins = lab.pin_directory(node).display().to_string();
    agent(node, &[arguments, &["--pin-dir", &pins]].concat())
}

/// What `lb-agent status` tells of a node.
pub(crate) fn status(lab: &Lab, node: &Host) -> Result<Value> {
    Ok(serde_json::from_str(&on_pins(lab, node, &["status", "-o", "json"])?)?)
}

/// All that is told of the node that announces is so; without an agent the kernel's part is still told.
pub(crate) fn status_with_and_without_agent(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
    let lab = &cluster.lab;
    scenario::spread(lab, probe::Over::Tcp, vip, 50)?;
    let node = lab.node(&owner)?;
    let told = status(lab, node)?;
    let running = &told["agent"];
    ensure!(running["state"] == "running", "{running}");
    ensure!(running["ready"] == true && running["healthy"] == true, "{running}");
    ensure!(running["nodes_alive"] == lab.nodes.len(), "{running}");
    ensure!(told["node"] == owner.as_str(), "{}", told["node"]);
    ensure!(told["announces_for_s"].as_u64().is_some_and(|s| (30..=60).contains(&s)), "{told}");
    let interface = &told["interfaces"][0];
    ensure!(interface["name"] == "eth0" && interface["mode"] == "native", "{interface}");
    let find = |told: &Value, list: &str, vip: &str| {
        let found = told[list].as_array().into_iter().flatten().find(|one| one["vip"] == vip);
        found.cloned().with_context(|| format!("no {vip} in {list}: {told}"))
    };
    let shown = find(&told, "vips", &vip.to_string())?;
    ensure!(shown["owner"] == owner.as_str() && shown["announced_on"][0] == "eth0", "{shown}");
    ensure!(shown["answered"].as_u64() > Some(0), "nothing was answered: {shown}");
    ensure!(shown["services"][0] == "default/web", "{shown}");
    let port = find(&told, "services", &vip.to_string())?;
    ensure!(port["service"] == "default/web" && port["port"] == WEB_PORT, "{port}");
    let shares = |port: &Value, of: &str| -> Vec<(String, f64)> {
        let shares = port[of].as_array().into_iter().flatten();
        shares
            .map(|s| {
                (
                    s["of"].as_str().unwrap_or_default().to_owned(),
                    s["percent"].as_f64().unwrap_or(0.0),
                )
            })
            .collect()
    };
    let nodes = shares(&port, "nodes");
    let names: BTreeSet<_> = nodes.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == scenario::node_names(lab).into_iter().collect(), "{nodes:?}");
    let all: f64 = nodes.iter().map(|(_, percent)| percent).sum();
    ensure!((99.0..=101.0).contains(&all), "the nodes have {all} %");
    pods_of_all_nodes(lab, &port, &nodes)?;
    ensure!(port["forwarded_packets"].as_u64() > Some(0), "{port}");
    // Earlier cases have cut links: nodes may still be held back for that.
    let why = shown["owner_why"]["message"].as_str().context("no reason")?;
    let (reason, others) = match shown["owner_why"]["reason"].as_str() {
        Some("LowestDigest") => ("its digest is the lowest of", ["HigherDigest", "HeldBack"]),
        Some("OthersHeldBack") => ("have lost their VIPs often of late", ["HeldBack"; 2]),
        _ => bail!("{shown}"),
    };
    ensure!(why.contains(reason), "{shown}");
    ensure!(shown["not_here"].is_null() && shown["bgp"].is_null(), "{shown}");
    let other = lab.nodes.iter().find(|node| node.name != owner).context("one node only")?;
    let elsewhere = find(&status(lab, other)?, "vips", &vip.to_string())?;
    ensure!(elsewhere["owner_why"] == shown["owner_why"], "{elsewhere}");
    let not_here = elsewhere["not_here"]["reason"].as_str().unwrap_or_default();
    ensure!(others.contains(&not_here), "{elsewhere}");
    let text = on_pins(lab, node, &["status"])?;
    let because = format!("{owner} owns it: {why}");
    for word in ["agent: ", "INTERFACE", "eth0", "OWNER", &because, "default/web", "SENT ON", "%"] {
        ensure!(text.contains(word), "no {word} in {text}");
    }

    let position = cluster.position(&owner)?;
    cluster.agents.remove(position).terminate(Duration::from_secs(10))?;
    let told = status(&cluster.lab, cluster.lab.node(&owner)?);
    cluster.start_agent(position)?;
    let told = told?;
    ensure!(told["agent"]["state"] == "not-running", "{}", told["agent"]);
    let shown = find(&told, "vips", &vip.to_string())?;
    ensure!(shown["owner"] == "this node" && shown["announced_on"][0] == "eth0", "{shown}");
    let port = find(&told, "services", &vip.to_string())?;
    ensure!(shares(&port, "nodes").len() == cluster.lab.nodes.len(), "{port}");
    // Of its own pods the kernel knows without an agent.
    let pods = port["pods"].as_array().context("no pods")?;
    ensure!(port["pods_of_all_nodes"] == false && pods.len() == 2, "{port}");
    cluster.await_all_serve()
}

/// Each pod of the cluster has its share, and those of a node come to the node's, which is counted in
/// the kernel's rows.
fn pods_of_all_nodes(lab: &Lab, port: &Value, nodes: &[(String, f64)]) -> Result<()> {
    ensure!(port["pods_of_all_nodes"] == true, "{port}");
    let pods = port["pods"].as_array().context("no pods")?;
    ensure!(pods.len() == lab.pods.len(), "{} pods instead of {}", pods.len(), lab.pods.len());
    for (node, percent) in nodes {
        let own = pods.iter().filter(|pod| pod["node"] == node.as_str());
        let of_pods: f64 = own.filter_map(|pod| pod["percent"].as_f64()).sum();
        ensure!((of_pods - percent).abs() < 0.5, "pods of {node} have {of_pods}, it {percent} %");
    }
    for pod in &lab.pods {
        let address = format!("{}:8080", pod.ipv4);
        let found = pods.iter().find(|one| one["pod"] == address.as_str());
        let found = found.with_context(|| format!("{address} is not in {port}"))?;
        ensure!(found["node"] == lab.nodes[pod.node].name.as_str(), "{found}");
    }
    Ok(())
}

/// Every map that is documented is listed, with what prints it, and no other; those that have
/// entries say how many.
pub(crate) fn maps(cluster: &Cluster) -> Result<()> {
    let (lab, node) = (&cluster.lab, &cluster.lab.nodes[0]);
    let listed: Value = serde_json::from_str(&on_pins(lab, node, &["maps", "-o", "json"])?)?;
    let listed = listed.as_array().context("no list")?;
    for map in listed {
        let name = map["name"].as_str().context("no name")?;
        ensure!(MAPS.contains(name), "{name} is not in docs/maps.md");
        // That one allocates its entries one by one, and has none here.
        ensure!(name == "SOURCE_RANGES" || map["memory"].as_u64() > Some(0), "{map}");
        if let Some(dump) = map["dump"].as_str() {
            let mut words = dump.split(' ');
            let program = command::find(words.next().unwrap_or_default())?;
            // Large ones take a while, and print the same way.
            if map["capacity"].as_u64() < Some(10_000) {
                command::run(Command::new(program).args(words))?;
            }
        }
    }
    let entries = |name: &str| {
        let map = listed.iter().find(|map| map["name"] == name);
        map.and_then(|map| map["entries"].as_u64()).with_context(|| format!("no {name}"))
    };
    ensure!(entries("VIPS")? == 2 && entries("SERVICES")? == 4, "{listed:?}");
    entries("FLOWS")?;
    let text = on_pins(lab, node, &["maps"])?;
    ensure!(text.contains("bpftool map dump pinned") && text.contains("MiB"), "{text}");
    Ok(())
}

/// The file has all of it, and nothing secret.
pub(crate) fn bundle(cluster: &Cluster) -> Result<()> {
    let (lab, node) = (&cluster.lab, &cluster.lab.nodes[0]);
    let file = lab.directory.join("bundle.tar");
    let name = file.display().to_string();
    on_pins(lab, node, &["bundle", &name])?;
    let folder = lab.directory.join("bundle");
    fs::create_dir_all(&folder)?;
    command::run(Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&folder))?;
    let read = |name: &str| {
        let path = folder.join("herald").join(name);
        fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))
    };
    for (name, word) in [
        ("README.txt", "kubectl logs"),
        ("status.txt", "default/web"),
        ("check.txt", "eth0"),
        ("maps.txt", "FLOWS"),
        ("metrics.txt", "herald_ready 1"),
    ] {
        let text = read(name)?;
        ensure!(text.contains(word), "no {word} in {name}: {text}");
    }
    for name in ["status.json", "check.json", "maps.json"] {
        serde_json::from_str::<Value>(&read(name)?).with_context(|| name.to_owned())?;
    }
    // A tunnel's cookie would be the only secret that stands in the maps.
    let all = fs::read(&file)?;
    ensure!(!String::from_utf8_lossy(&all).contains("cookies\":"), "cookies are in it");
    let again = on_pins(lab, node, &["bundle", &name]);
    ensure!(again.is_err(), "a file that is there was written over");
    Ok(())
}

/// They are made of the command line itself.
pub(crate) fn completion_and_manual(cluster: &Cluster) -> Result<()> {
    let node = &cluster.lab.nodes[0];
    for shell in ["bash", "zsh", "fish"] {
        let text = agent(node, &["completion", shell])?;
        for word in ["uninstall", "pin-dir", "lb-agent"] {
            ensure!(text.contains(word), "no {word} for {shell}");
        }
    }
    let folder = cluster.lab.directory.join("man");
    agent(node, &["man", &folder.display().to_string()])?;
    let help = agent(node, &["--help"])?;
    let commands = help.split_once("Commands:").context("no commands")?.1;
    let (commands, _) = commands.split_once("Options:").context("no options")?;
    for line in commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        let page = folder.join(format!("lb-agent-{name}.1"));
        ensure!(name == "help" || page.is_file(), "no {}", page.display());
    }
    ensure!(folder.join("lb-agent.1").is_file(), "no page for all");
    Ok(())
}
