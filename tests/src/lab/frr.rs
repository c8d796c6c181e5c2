//! Routers that run FRR.
use super::{Host, Lab, cleanup, command};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Until its daemons take commands, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Where Debian has the daemons, which are not meant to be found by name.
const DAEMONS: &str = "/usr/lib/frr";

/// Whether routes get into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// They do, and BFD is spoken: what a router does.
    Routes,
    /// They do not: BGP alone.
    Untouched,
}

/// A running FRR.
pub struct Frr {
    directory: PathBuf,
}

/// Checks that FRR is installed.
///
/// # Errors
/// It is not.
pub fn check_programs() -> Result<()> {
    command::find("vtysh")?;
    for daemon in ["zebra", "bgpd", "bfdd"] {
        let there = Path::new(DAEMONS).join(daemon).is_file();
        ensure!(there, "{DAEMONS}/{daemon} is not installed: `cargo xtask setup` installs it");
    }
    Ok(())
}

impl Frr {
    /// Starts it on a host, with the configuration of its bgpd. Returns once it takes commands.
    ///
    /// # Errors
    /// It is not installed, or ends at once: its log says why.
    pub fn start(lab: &Lab, host: &Host, kernel: Kernel, bgp: &str) -> Result<Self> {
        check_programs()?;
        let frr = Self { directory: lab.directory.join(format!("{}-frr", host.name)) };
        fs::create_dir_all(&frr.directory)?;
        // They give up root, and make sockets.
        command::run(Command::new("chown").arg("frr:frr").arg(&frr.directory))?;
        let mut running = Vec::new();
        if kernel == Kernel::Routes {
            running.push(frr.daemon(host, "zebra", "ip nht resolve-via-default\n", &[])?);
            let control = frr.path("bfdd.sock");
            running.push(frr.daemon(host, "bfdd", "", &["--bfdctl", &control])?);
            running.push(frr.daemon(host, "bgpd", bgp, &[])?);
        } else {
            running.push(frr.daemon(host, "bgpd", bgp, &["-Z"])?);
        }
        wait::until_true(LIMIT, &format!("FRR of {} takes commands", host.name), || {
            for (name, child) in &mut running {
                if let Some(status) = child.try_wait()? {
                    let said = fs::read_to_string(frr.path(&format!("{name}.out")))?;
                    return Err(anyhow::anyhow!("{name} ended ({status}): {}", said.trim()));
                }
            }
            let there =
                |(name, _): &(&str, Child)| Path::new(&frr.path(&format!("{name}.vty"))).exists();
            Ok(running.iter().all(there) && frr.tell("show bgp summary").is_ok())
        })?;
        Ok(frr)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn daemon(
        &self,
        host: &Host,
        name: &'static str,
        config: &str,
        arguments: &[&str],
    ) -> Result<(&'static str, Child)> {
        let [file, log, out, pid] =
            ["conf", "log", "out", "pid"].map(|kind| self.path(&format!("{name}.{kind}")));
        fs::write(&file, config)?;
        let mut daemon = host.namespace.command(Path::new(DAEMONS).join(name));
        let (log, zebra) = (format!("file:{log}"), self.path("zserv.api"));
        daemon.args(["-f", &file, "--log", &log, "-i", &pid, "-z", &zebra]);
        daemon.args(["--vty_socket", &self.directory.display().to_string(), "-P", "0"]);
        daemon.args(arguments);
        let output = fs::File::create(out)?;
        daemon.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok((name, cleanup::spawn(&mut daemon)?))
    }

    /// Gives it commands, as an operator would.
    ///
    /// # Errors
    /// It does not understand one.
    pub fn tell(&self, words: &str) -> Result<String> {
        self.tell_all(&[words])
    }

    /// The same, one after another: `configure terminal` and what follows.
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub fn tell_all(&self, commands: &[&str]) -> Result<String> {
        let mut vtysh = Command::new(command::find("vtysh")?);
        vtysh.arg("--vty_socket").arg(&self.directory);
        for words in commands {
            vtysh.args(["-c", words]);
        }
        let answer = command::run(&mut vtysh)?;
        ensure!(
            !answer.contains("% Unknown command"),
            "FRR does not understand {commands:?}: {answer}"
        );
        Ok(answer)
    }

    /// What it says to a command that ends with `json`.
    ///
    /// # Errors
    /// As [`Self::tell`], or that is none.
    pub fn json(&self, words: &str) -> Result<Value> {
        let text = self.tell(words)?;
        serde_json::from_str(&text).with_context(|| format!("{words}: {text}"))
    }
}
