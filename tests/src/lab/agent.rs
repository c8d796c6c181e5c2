//! The agent of a node, as a process of its own.
use super::{Host, Lab, cleanup, command};
use crate::{system, wait};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// Where an agent takes the cluster's state from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server that a kubeconfig names.
    Kubeconfig(PathBuf),
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the cluster's state comes from.
    pub source: Source,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Whether they run on what others leave of the processors, which all nodes share here.
    pub yields: bool,
}

impl Options {
    /// With no further arguments, and as all others.
    pub fn new(source: Source) -> Self {
        Self { source, arguments: vec![], yields: false }
    }
}

/// A running agent. Dropping it kills it, as a crash would: what it pinned stays.
pub struct Agent {
    /// The node's name.
    pub node: String,
    /// What it prints.
    pub log: PathBuf,
    /// Where it pins.
    pub pin_directory: PathBuf,
    child: Child,
}

impl Agent {
    pub(super) fn start(lab: &Lab, node: &Host, options: &Options) -> Result<Self> {
        let pin_directory = lab.pin_directory(node);
        let log = lab.directory.join(format!("{}-agent.log", node.name));
        let mut agent = command(node, options)?;
        agent.arg("--pin-dir").arg(&pin_directory);
        agent.arg("--state-dir").arg(lab.directory.join(format!("{}-state", node.name)));
        // One after another writes to the same file.
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        agent.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = cleanup::spawn(&mut agent)?;
        Ok(Self { node: node.name.clone(), log, pin_directory, child })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// It has ended: with what status, and its last words.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the agent of {} has ended ({status}): {}", self.node, self.last_words());
        }
        Ok(())
    }

    /// All it has printed.
    ///
    /// # Errors
    /// The file is gone.
    pub fn printed(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// When it first printed a line with all these words, that time or later.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn printed_at(&self, words: &[&str], since: Timestamp) -> Result<Option<Timestamp>> {
        let log = self.printed()?;
        let lines = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        let mut times = lines.filter_map(|line| line.split_once(' ')?.0.parse().ok());
        Ok(times.find(|time| *time >= since))
    }

    fn last_words(&self) -> String {
        let text = self.printed().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// Asks it to stop, as whatever restarts it would, and waits for that.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn terminate(self, limit: Duration) -> Result<ExitStatus> {
        self.stop("-TERM", limit)
    }

    /// Asks it to stop for good, as somebody at a keyboard would, and waits for that.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn interrupt(self, limit: Duration) -> Result<ExitStatus> {
        self.stop("-INT", limit)
    }

    fn stop(mut self, signal: &str, limit: Duration) -> Result<ExitStatus> {
        command::run(Command::new("kill").args([signal, &self.pid().to_string()]))?;
        let what = format!("the agent of {} stops", self.node);
        wait::until(limit, &what, || Ok(self.child.try_wait()?))
    }

    /// Kills it without warning.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(mut self) -> Result<()> {
        self.check()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Gives up the process without ending it.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `lb-agent run` for a node, in its namespace, without a pin folder.
///
/// # Errors
/// The agent is not built.
pub fn command(node: &Host, options: &Options) -> Result<Command> {
    let mut agent = node.namespace.command(command::sibling("lb-agent")?);
    agent.args(["run", "--node-name", &node.name]);
    match &options.source {
        Source::Manifests(folder) => agent.arg("--manifests").arg(folder),
        Source::Kubeconfig(file) => {
            agent.args(["--namespace", "metallb-system", "--kubeconfig"]).arg(file)
        }
    };
    agent.args(&options.arguments);
    if options.yields {
        system::yield_to_others(&mut agent);
    }
    // What the tests' own environment says is not meant for it.
    for name in ["KUBECONFIG", "NODE_NAME", "METALLB_NODE_NAME", "POD_NAMESPACE"] {
        agent.env_remove(name);
    }
    Ok(agent)
}

/// Takes everything of an agent that has ended out of a node's kernel, as an operator would, and as
/// a reboot does.
///
/// # Errors
/// `lb-agent unload` refuses.
pub fn unload(lab: &Lab, node: &Host) -> Result<()> {
    let mut unload = node.namespace.command(command::sibling("lb-agent")?);
    unload.arg("unload").arg("--pin-dir").arg(lab.pin_directory(node));
    command::run(&mut unload).map(drop)
}
