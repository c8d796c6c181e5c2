//! A router that runs GoBGP.
use super::{Host, Lab, cleanup, command, namespace::Namespace};
use crate::wait;
use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use std::{fs, process::Stdio, time::Duration};

/// Until it takes commands, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A running GoBGP.
pub struct GoBgp {
    namespace: Namespace,
}

/// Checks that GoBGP is installed.
///
/// # Errors
/// It is not.
pub fn check_programs() -> Result<()> {
    ["gobgpd", "gobgp"].iter().try_for_each(|program| command::find(program).map(drop))
}

impl GoBgp {
    /// Starts it on a host, with a configuration in TOML. Returns once it takes commands.
    ///
    /// # Errors
    /// It is not installed, or ends at once.
    pub fn start(lab: &Lab, host: &Host, config: &str) -> Result<Self> {
        let file = |kind| lab.directory.join(format!("{}-gobgp.{kind}", host.name));
        fs::write(file("toml"), config)?;
        let mut daemon = host.namespace.command(command::find("gobgpd")?);
        daemon.arg("-f").arg(file("toml")).args(["--api-hosts", "127.0.0.1:50051"]);
        daemon.arg("--pprof-disable");
        let output = fs::File::create(file("log"))?;
        daemon.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = cleanup::spawn(&mut daemon)?;
        let gobgp = Self { namespace: host.namespace.clone() };
        wait::until_true(LIMIT, &format!("GoBGP of {} takes commands", host.name), || {
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(file("log"))?;
                return Err(anyhow!("it ended ({status}): {}", said.trim()));
            }
            gobgp.json(&["neighbor"]).map(|_| true)
        })?;
        Ok(gobgp)
    }

    /// What it says to a command.
    ///
    /// # Errors
    /// It does not understand it.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let mut gobgp = self.namespace.command(command::find("gobgp")?);
        let text = command::run(gobgp.args(["-u", "127.0.0.1", "-j"]).args(words))?;
        serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))
    }
}
