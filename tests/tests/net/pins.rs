//! `lb-agent load` and `unload`, and what becomes of pins in all kinds of circumstances.
use anyhow::{Context as _, Result, ensure};
use herald_tests::lab::{
    Host, Lab, Shape, command,
    probe::{self, Connection},
    scenario::{self, AGENT_LIMIT, Cluster, TAKEOVER_LIMIT, WEB_PORT},
};
use lb_common::maps::{Row, SCHEMA_VERSION};
use serde_json::Value;
use std::{path::PathBuf, process::Command, time::Duration};

/// This machine cannot run it.
const ENVIRONMENT: i32 = 3;
/// An interface cannot be used.
const INTERFACE: i32 = 4;

/// A node of a laboratory and its pin directory.
struct Bench {
    lab: Lab,
    pins: PathBuf,
}

/// What a command said, and how it ended.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new(Shape { nodes: 2, pods_per_node: 1, ..Shape::default() })?;
        let pins = lab.pin_directory(&lab.nodes[0]);
        Ok(Self { lab, pins })
    }

    fn node(&self) -> &Host {
        &self.lab.nodes[0]
    }

    /// `lb-agent` in a node, with the first node's pin directory.
    fn agent_on(&self, node: &Host, arguments: &[&str]) -> Result<Said> {
        let agent = command::sibling("lb-agent")?;
        let mut command = node.namespace.command(agent);
        let output = command.args(arguments).arg("--pin-dir").arg(&self.pins).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(Said { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() })
    }

    fn agent(&self, arguments: &[&str]) -> Result<Said> {
        self.agent_on(self.node(), arguments)
    }

    fn ifindex(&self) -> Result<String> {
        let link = self.node().namespace.output("ip", &["-o", "link", "show", "dev", "eth0"])?;
        Ok(link.split(':').next().unwrap_or_default().to_owned())
    }

    /// `ip` says whether the interface carries an XDP program, and how.
    fn link(&self, interface: &str) -> Result<String> {
        self.node().namespace.output("ip", &["link", "show", "dev", interface])
    }

    /// Where this version's pins are.
    fn version(&self) -> PathBuf {
        self.pins.join(format!("v{SCHEMA_VERSION}"))
    }

    fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }
}

impl Said {
    fn ok(self, words: &[&str]) -> Result<String> {
        self.ended(Some(0), words)
    }

    fn refused(self, code: i32, words: &[&str]) -> Result<String> {
        self.ended(Some(code), words)
    }

    fn ended(self, code: Option<i32>, words: &[&str]) -> Result<String> {
        let Self { code: actual, text } = self;
        ensure!(actual == code, "ended with {actual:?}, not {code:?}: {text}");
        for word in words {
            ensure!(text.contains(word), "no {word:?} in: {text}");
        }
        Ok(text)
    }
}

/// Programs and maps are pinned, the commands that `load` prints work, loading again replaces
/// the programs, and `unload` leaves nothing.
pub(crate) fn load_and_unload() -> Result<()> {
    let bench = Bench::new()?;
    let said = bench.agent(&["load", "eth0"])?.ok(&["attached on eth0", "maps made"])?;
    let commands: Vec<_> =
        said.lines().map(str::trim).filter(|line| line.starts_with("bpftool ")).collect();
    ensure!(commands.len() >= 5, "{said}");
    for shown in commands {
        let output = bench.node().namespace.output("sh", &["-ec", shown])?;
        ensure!(!output.trim().is_empty(), "`{shown}` printed nothing");
    }
    let counters = bench
        .node()
        .namespace
        .output("bpftool", &["map", "dump", "pinned", &bench.map("COUNTERS").to_string_lossy()])?;
    ensure!(counters.contains("\"arp_answered\": 0"), "fields have no names: {counters}");
    bench.agent(&["load", "eth0"])?.ok(&["replaced, without a gap, on eth0", "maps adopted"])?;
    let link = bench.link("eth0")?;
    ensure!(link.contains("herald_ingress"), "{link}");

    bench.agent(&["unload", "eth0"])?.ok(&["detached from eth0"])?;
    ensure!(bench.map("VIPS").exists(), "maps went with the interface");
    bench.agent(&["unload"])?.ok(&["removed"])?;
    ensure!(!bench.pins.exists(), "{} is still there", bench.pins.display());
    let link = bench.link("eth0")?;
    ensure!(!link.contains("xdp"), "{link}");
    // Nothing to do is no failure.
    bench.agent(&["unload"])?.ok(&["nothing is pinned"]).map(drop)
}

/// `check` tells about the machine, the uplinks and what runs beside, and touches nothing.
pub(crate) fn check() -> Result<()> {
    let bench = Bench::new()?;
    let arguments = ["check", "--interfaces", "eth0"];
    let said = bench.agent(&arguments)?.ok(&["machine", "eth0: native", "has native XDP"])?;
    ensure!(!said.contains("beside"), "{said}");
    let others = "link add flannel.1 type bridge\nlink add kube-ipvs0 type bridge\n";
    bench.node().namespace.ip(others)?;
    let said = bench.agent(&arguments)?.ok(&["beside", "flannel", "IPVS", "strictARP"])?;
    ensure!(said.lines().any(|line| line.starts_with("  ok       flannel")), "{said}");
    let json = bench.agent(&[&arguments[..], &["--output", "json"]].concat())?.ok(&[])?;
    let report: Value = serde_json::from_str(&json)?;
    let beside = report["beside"].as_array().context("nothing beside")?;
    let names: Vec<_> = beside.iter().filter_map(|finding| finding["what"].as_str()).collect();
    ensure!(names == ["flannel", "IPVS"], "{names:?}");
    ensure!(!bench.pins.exists(), "{} was made", bench.pins.display());
    Ok(())
}

/// A pinned map with another layout is not adopted, but for its capacity where that is the
/// operator's choice.
pub(crate) fn other_layouts() -> Result<()> {
    let bench = Bench::new()?;
    let make = |name: &str, layout: &str| {
        std::fs::create_dir_all(bench.version().join("maps"))?;
        let pin = bench.map(name);
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["map", "create"]).arg(&pin).args(layout.split(' ')).args(["name", name]);
        command::run(&mut bpftool)?;
        anyhow::Ok(pin)
    };
    let row = size_of::<Row>();
    for (name, layout) in [
        ("VIPS", "type hash key 8 value 8 entries 65536".to_owned()),
        ("VIPS", "type hash key 16 value 8 entries 1024".to_owned()),
        ("VIPS", "type lru_hash key 16 value 8 entries 65536".to_owned()),
        ("ROWS", format!("type array key 4 value {row} entries 1048576")),
        ("ROWS", format!("type array key 4 value {} entries 1048576 flags 1024", 2 * row)),
    ] {
        let pin = make(name, &layout)?;
        bench
            .agent(&["load", "eth0"])?
            .refused(ENVIRONMENT, &[name, "lb-agent unload", "--pin-dir"])?;
        std::fs::remove_file(pin)?;
    }
    make("ROWS", &format!("type array key 4 value {row} entries 4096 flags 1024"))?;
    bench.agent(&["load", "eth0"])?.ok(&["attached on eth0"])?;
    bench.agent(&["unload"])?.ok(&[]).map(drop)
}

/// Pins belong to one network namespace: an interface that has the same index in another is
/// not mistaken for the pinned one.
pub(crate) fn other_namespace() -> Result<()> {
    let bench = Bench::new()?;
    bench.agent(&["load", "eth0"])?.ok(&[])?;
    let before = bench.link("eth0")?;
    let other = &bench.lab.nodes[1];
    let same = with_index(other, &bench.ifindex()?)?;
    bench
        .agent_on(other, &["load", &same])?
        .refused(INTERFACE, &["another network namespace", "--pin-dir"])?;
    ensure!(bench.link("eth0")? == before, "the program on eth0 was replaced");
    bench.agent(&["unload"])?.ok(&[]).map(drop)
}

/// The interface that has this index, made if there is none.
fn with_index(host: &Host, index: &str) -> Result<String> {
    let links = host.namespace.output("ip", &["-o", "link"])?;
    let found = links.lines().find_map(|line| line.strip_prefix(&format!("{index}: ")));
    if let Some(line) = found {
        let name = line.split([':', '@']).next().unwrap_or_default();
        return Ok(name.to_owned());
    }
    host.namespace.ip(&format!("link add name same0 index {index} type veth peer name same1\n"))?;
    Ok("same0".into())
}

/// The link to an interface that is gone is dead: it is removed, and the new interface gets
/// the programs, even if it has the old one's index.
pub(crate) fn interface_made_anew() -> Result<()> {
    let bench = Bench::new()?;
    bench.agent(&["load", "eth0"])?.ok(&["attached on eth0"])?;
    let index = bench.ifindex()?;
    bench.node().namespace.ip(&format!(
        "link del eth0\nlink add name eth0 index {index} type veth peer name eth1\n"
    ))?;
    bench.agent(&["load", "eth0"])?.ok(&["attached on eth0", "maps adopted"])?;
    let link = bench.link("eth0")?;
    ensure!(link.contains("herald_ingress"), "{link}");
    let links = std::fs::read_dir(bench.version().join("links"))?.count();
    ensure!(links == 2, "{links} links");
    bench.agent(&["unload"])?.ok(&[]).map(drop)
}

/// A device without native XDP is refused with the way out, and takes generic XDP.
pub(crate) fn generic_mode() -> Result<()> {
    let bench = Bench::new()?;
    bench
        .agent(&["load", "lo", "--xdp-mode", "native"])?
        .refused(INTERFACE, &["lo", "--xdp-mode auto or generic"])?;
    ensure!(!bench.pins.exists(), "what was made for nothing is still there");
    bench
        .agent(&["load", "lo"])?
        .ok(&["attached on lo", "by tcx, since lo does not take native"])?;
    bench.agent(&["unload"])?.ok(&["removed 2 links"])?;
    bench.agent(&["load", "lo", "--xdp-mode", "generic"])?.ok(&["attached on lo"])?;
    let link = bench.link("lo")?;
    ensure!(link.contains("xdpgeneric"), "{link}");
    // And back, where both are possible.
    bench.agent(&["load", "eth0", "--xdp-mode", "generic"])?.ok(&["attached on eth0"])?;
    bench.agent(&["load", "eth0"])?.ok(&["attached on eth0"])?;
    let link = bench.link("eth0")?;
    ensure!(link.contains("herald_ingress") && !link.contains("xdpgeneric"), "{link}");
    bench.agent(&["unload"])?.ok(&["removed 4 links"]).map(drop)
}

/// Without the agent the kernel keeps other nodes resolved and stays in the groups of the VIPs
/// that it announces; `unload` takes both away, and nothing that is not Herald's.
pub(crate) fn what_outlives_the_agent() -> Result<()> {
    let mut cluster = Cluster::on_manifests(&[])?;
    let outcome = outlives(&mut cluster);
    outcome.map_err(|error| cluster.failed(error))
}

fn outlives(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[1];
    let owner = scenario::settled_owner(&cluster.lab, vip)?.clone();
    let others = scenario::others(&cluster.lab, &owner).len();
    let entries = || -> Result<Vec<String>> {
        let all = owner.namespace.output("ip", &["-d", "neigh", "show", "dev", "eth0"])?;
        Ok(all.lines().filter(|line| line.contains("proto 72")).map(str::to_owned).collect())
    };
    let addresses = || owner.namespace.output("ip", &["-6", "address", "show", "dev", "eth0"]);
    let position = cluster.position(&owner.name)?;
    cluster.agents.remove(position).kill()?;

    let kept = entries()?;
    let managed = |line: &&String| line.contains("managed") && line.contains("lladdr");
    ensure!(kept.iter().filter(managed).count() == 2 * others, "{kept:#?}");
    // The group of fd77::200 (RFC 4291 section 2.7.1).
    let group = "ff02::1:ff00:200/128";
    let joined = addresses()?;
    ensure!(joined.contains(group) && joined.contains("autojoin"), "{joined}");
    let mut connection = Connection::open(&cluster.lab.client.namespace, vip, WEB_PORT)?;
    connection.request()?;

    // Somebody else's entry.
    owner.namespace.ip("neigh add 10.77.0.250 lladdr 02:00:00:00:00:01 dev eth0\n")?;
    let pins = cluster.lab.pin_directory(&owner);
    let agent = command::sibling("lb-agent")?;
    command::run(owner.namespace.command(agent).arg("unload").arg("--pin-dir").arg(pins))?;
    let left = entries()?;
    ensure!(left.is_empty(), "{left:#?}");
    let addresses = addresses()?;
    ensure!(!addresses.contains("ff02:") && addresses.contains("fd77::"), "{addresses}");
    let neighbours = owner.namespace.output("ip", &["neigh", "show", "10.77.0.250"])?;
    ensure!(neighbours.contains("02:00:00:00:00:01"), "somebody else's entry is gone");
    Ok(())
}

/// `uninstall` takes Herald off the node that announces while clients ask: those whose pods are on
/// other nodes miss nothing, and nothing of it stays on the node.
pub(crate) fn uninstall() -> Result<()> {
    let mut cluster = Cluster::on_manifests(&[])?;
    let outcome = uninstalled(&mut cluster);
    outcome.map_err(|error| cluster.failed(error))
}

fn uninstalled(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(&cluster.lab, vip)?.clone();
    let pins = cluster.lab.pin_directory(&owner);
    let state = cluster.lab.directory.join(format!("{}-state", owner.name));
    let run = || {
        let mut uninstall = owner.namespace.command(command::sibling("lb-agent")?);
        uninstall.arg("uninstall").arg("--pin-dir").arg(&pins).arg("--state-dir").arg(&state);
        anyhow::Ok(uninstall.output()?)
    };
    let refused = run()?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && text.contains("agent"), "while the agent runs: {text}");

    let client = cluster.lab.client.namespace.clone();
    let to = (vip, WEB_PORT).into();
    let probing = probe::watch_gaps(&client, to, Duration::from_millis(2));
    let position = cluster.position(&owner.name)?;
    cluster.agents.remove(position).terminate(AGENT_LIMIT)?;
    let done = run()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let others = scenario::others(&cluster.lab, &owner);
    scenario::await_owner_among(&cluster.lab, &others, vip, TAKEOVER_LIMIT)?;
    scenario::await_serving(&cluster.lab, vip, &others, AGENT_LIMIT)?;
    let gaps = probing.stop()?;
    let lost = gaps.lost();
    ensure!(lost == 0, "{lost} of {} probes lost, {:?} at the longest", gaps.sent, gaps.longest());

    ensure!(!pins.exists() && !state.exists(), "{} or {} stays", pins.display(), state.display());
    let link = owner.namespace.output("ip", &["-d", "link", "show", "dev", "eth0"])?;
    ensure!(!link.contains("xdp"), "{link}");
    let entries = owner.namespace.output("ip", &["-d", "neigh", "show"])?;
    ensure!(!entries.contains("proto 72") && !entries.contains("managed"), "{entries}");
    let addresses = owner.namespace.output("ip", &["-6", "address", "show"])?;
    ensure!(!addresses.contains("ff02:"), "{addresses}");
    let again = run()?;
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    ensure!(again.status.success() && text.contains("nothing is pinned"), "{text}");
    Ok(())
}
