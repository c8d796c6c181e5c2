//! Programs from the distribution's packages.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Setup;
use crate::process::{Step, output};
use crate::project;

/// What the tests and the demo call, with the Debian package of each.
const PROGRAMS: [(&str, &str); 20] = [
    ("arping", "iputils-arping"),
    ("bird", "bird2"),
    ("bpftool", "bpftool"),
    ("cc", "gcc"),
    ("chromium", "chromium"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("gobgpd", "gobgpd"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("jq", "jq"),
    ("ndisc6", "ndisc6"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("promtool", "prometheus"),
    ("runc", "runc"),
    ("tcpdump", "tcpdump"),
    // It stands for FRR's daemons, which are in no folder of programs.
    ("vtysh", "frr"),
];

/// Installs the programs that are not there.
pub(super) fn programs(setup: &mut Setup) -> Result<()> {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| project::find_program(program).is_none()).collect();
    if missing.is_empty() {
        setup.found(&format!("{} test programs", PROGRAMS.len()));
        return Ok(());
    }
    let names = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    let began = Instant::now();
    if let Err(error) = setup.apt.install(&packages) {
        bail!(
            "these programs are missing: {names}.\n\
             Tried: apt-get: {error:#}\n\
             Not tried: other package managers; install the programs with yours"
        );
    }
    setup.installed(&names, began);
    Ok(())
}

/// Debian's package manager. Its lists are brought up to date once, when first needed.
#[derive(Default)]
pub(super) struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs packages, or says why that cannot be.
    pub(super) fn install(&mut self, packages: &[&str]) -> Result<()> {
        let wanted = packages.join(" ");
        if project::find_program("apt-get").is_none() {
            bail!("there is no apt-get on this machine (wanted: {wanted})");
        }
        if !project::is_root() {
            bail!("needs root: sudo apt-get install {wanted}");
        }
        self.update()?;
        Step::new("apt-get install")?
            .run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))
    }

    /// The version of a package that could be installed.
    pub(super) fn candidate(&mut self, package: &str) -> Option<String> {
        self.update().ok()?;
        let told = output(Command::new("apt-cache").args(["policy", package]))?;
        let version = told.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
        (version != "(none)").then(|| version.to_owned())
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated && project::is_root() && project::find_program("apt-get").is_some() {
            // One stale source must not stop the rest: what is missing is told at installation.
            let _ = Step::new("apt-get update")?.run(apt_get().arg("update"));
            self.updated = true;
        }
        Ok(())
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another package manager at work, as on a machine that has just started, is waited for.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}
