//! What agents and kernels have in use.
use crate::lab::{Host, agent::Agent, scenario::Cluster};
use anyhow::{Context as _, Result, ensure};
use std::{fmt, fs, path::Path};

/// An agent's process may vary by so many descriptors and threads: connections to the API server come and go.
const DESCRIPTORS: usize = 6;
const THREADS: usize = 4;
/// Neighbours are remembered for a while, and forgotten when the kernel likes.
const NEIGHBOURS: usize = 24;
/// Who announces the VIPs is in the groups of their solicitations (RFC 4291 section 2.7.1).
const GROUPS: usize = 4;
/// Memory may grow by an eighth and this much, KiB: allocators keep what they may need again.
const MEMORY_KIB: usize = 4096;

/// Of each node.
pub(super) struct Resources(Vec<OfNode>);

struct OfNode {
    node: String,
    /// The agent's process; another one has other memory.
    pid: u32,
    /// What is its own, KiB (`RssAnon` of proc_pid_status(5)).
    memory_kib: usize,
    descriptors: usize,
    threads: usize,
    pins: usize,
    neighbours: usize,
    multicast: usize,
    links: usize,
}

/// What is in use now.
pub(super) fn of(cluster: &Cluster) -> Result<Resources> {
    let nodes = cluster.agents.iter().map(|agent| {
        let node = cluster.lab.node(&agent.node)?;
        of_node(node, agent).with_context(|| agent.node.clone())
    });
    Ok(Resources(nodes.collect::<Result<_>>()?))
}

fn of_node(node: &Host, agent: &Agent) -> Result<OfNode> {
    let pid = agent.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<usize> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().next());
        Ok(value.with_context(|| format!("no {name} in the status of {pid}"))?.parse()?)
    };
    let lines = |kind: &str| -> Result<usize> {
        Ok(node.namespace.output("ip", &["-o", kind, "show"])?.lines().count())
    };
    Ok(OfNode {
        node: agent.node.clone(),
        pid,
        memory_kib: field("RssAnon:")?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        threads: field("Threads:")?,
        pins: files(&agent.pin_directory)?,
        neighbours: lines("neigh")?,
        multicast: lines("maddr")?,
        links: lines("link")?,
    })
}

/// How many files are in a folder and those in it.
fn files(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

impl Resources {
    /// Checks that nothing has become more since then.
    pub(super) fn check(&self, then: &Self) -> Result<()> {
        self.0.iter().zip(&then.0).try_for_each(|(now, then)| {
            now.check(then).with_context(|| format!("{}: {now}, was {then}", now.node))
        })
    }
}

impl OfNode {
    fn check(&self, then: &Self) -> Result<()> {
        ensure!(self.descriptors <= then.descriptors + DESCRIPTORS, "file descriptors leak");
        ensure!(self.threads <= then.threads + THREADS, "threads leak");
        ensure!(self.pins <= then.pins, "pins leak");
        ensure!(self.neighbours <= then.neighbours + NEIGHBOURS, "neighbours leak");
        ensure!(self.multicast <= then.multicast + GROUPS, "multicast memberships leak");
        ensure!(self.links <= then.links, "links leak");
        let most = then.memory_kib + then.memory_kib / 8 + MEMORY_KIB;
        ensure!(self.pid != then.pid || self.memory_kib <= most, "memory leaks");
        Ok(())
    }
}

impl fmt::Display for OfNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, memory_kib, descriptors, threads, pins, .. } = self;
        let Self { neighbours, multicast, links, .. } = self;
        write!(
            f,
            "process {pid}: {:.1} MiB of its own, {descriptors} descriptors, {threads} threads; \
             {pins} pins, {neighbours} neighbours, {multicast} multicast memberships, {links} links",
            *memory_kib as f64 / 1024.0
        )
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|of| writeln!(f, "  {}: {of}", of.node))
    }
}
