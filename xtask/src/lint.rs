//! `cargo xtask lint`: what can be checked without running anything.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::CommandFactory as _;

use crate::process::{Ended, Step, output, shown};
use crate::{documents, manifests, project, setup};

/// Longer files hold more than one idea.
const LONGEST_FILE: usize = 600;

/// How long the database of advisories (some megabytes) may take to come.
const FETCH_LIMIT: Duration = Duration::from_mins(2);

/// How many checks had which result.
#[derive(Clone, Copy, Default)]
pub(crate) struct Checks {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Checks {
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        let began = Instant::now();
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("  passed   {name} ({})", shown(began.elapsed()));
            }
            Err(error) => {
                self.failed += 1;
                println!("  FAILED   {name}");
                eprintln!("{error:#}");
            }
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("  skipped  {name}: {reason}");
    }
}

/// `cargo xtask lint`: true if no check failed.
pub(crate) fn run() -> Result<bool> {
    setup::for_building()?;
    Ok(checks()?.failed == 0)
}

/// Runs all checks.
pub(crate) fn checks() -> Result<Checks> {
    let mut checks = Checks::default();
    checks.check("formatting", || {
        for (folder, all) in [("", &["--all"][..]), ("fuzz", &[])] {
            let mut format = project::cargo();
            format.current_dir(project::root().join(folder)).arg("fmt").args(all);
            step("cargo fmt", format.args(["--check", "--", "--color=never"]))
                .context("cargo fmt --all mends it, and in fuzz/ cargo fmt")?;
        }
        Ok(())
    });
    checks.check("lengths of files", lengths);
    checks.check("lock file of the fuzz targets", || {
        let mut tree = project::cargo();
        tree.current_dir(project::root().join("fuzz"));
        step("cargo tree", tree.args(["tree", "--locked", "--quiet", "--depth=0"]))
            .context("cargo update --workspace in fuzz/ mends it")
    });
    match setup::kubernetes::built_helm() {
        Ok(None) => checks.skip(
            "deploy/herald.yaml",
            "no Helm to render the chart with; cargo xtask manifests builds it (Go)",
        ),
        _ => checks.check("deploy/herald.yaml", manifests::check),
    }
    checks.check("links and commands in documents", || {
        let all = crate::Command::command();
        documents::check(&all.get_subcommands().map(|one| one.get_name().to_owned()).collect())
    });
    checks.check("clippy", || {
        let mut clippy = project::cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]);
        step("cargo clippy", &mut clippy)
    });
    checks.check("documentation", || {
        let mut doc = project::cargo();
        doc.args(["doc", "--workspace", "--exclude=lb-ebpf", "--no-deps"])
            .args(["--document-private-items"])
            .env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private_intra_doc_links");
        step("cargo doc", &mut doc)
    });
    let deny = setup::cargo_deny();
    checks.check("licences and sources of dependencies", || {
        let arguments = ["--all-features", "check", "bans", "licenses", "sources"];
        step("cargo deny", &mut cargo_deny(&deny, &arguments)?)
    });
    match fetch_advisories(&deny) {
        Ok(()) => checks.check("advisories about dependencies", || {
            for folder in [".", "fuzz"] {
                let arguments = ["--all-features", "check", "--disable-fetch", "advisories"];
                let mut command = cargo_deny(&deny, &arguments)?;
                step("cargo deny advisories", command.current_dir(project::root().join(folder)))?;
            }
            Ok(())
        }),
        Err(error) => {
            checks.skip("advisories about dependencies", &format!("no RustSec database: {error}"));
        }
    }
    Ok(checks)
}

fn cargo_deny(deny: &Result<PathBuf>, arguments: &[&str]) -> Result<Command> {
    let deny = deny.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let mut command = Command::new(deny);
    command.current_dir(project::root()).args(arguments);
    Ok(command)
}

/// Brings the database of advisories up to date: a Git repository, which not every network lets through.
fn fetch_advisories(deny: &Result<PathBuf>) -> Result<()> {
    let mut command = cargo_deny(deny, &["fetch", "db"])?;
    command.env("GIT_TERMINAL_PROMPT", "0");
    let mut told = String::new();
    let mut fetch = Step::new("fetch of advisories")?.limit(FETCH_LIMIT);
    let ended = fetch.watch(&mut command, |text| {
        told.push_str(text);
        "the RustSec database".to_owned()
    })?;
    match ended {
        Ended::Exited(status) if status.success() => Ok(()),
        Ended::Exited(_) => {
            let why = told.lines().find(|line| line.starts_with("fatal:"));
            bail!("{}", why.unwrap_or("target/logs/fetch-of-advisories.log says why"))
        }
        Ended::Overdue(limit) => bail!("not fetched within {}", shown(limit)),
    }
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    Step::new(name)?.run(command)
}

/// No Rust file is too long for one idea.
fn lengths() -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(project::root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]);
    let files = output(&mut git).context("git ls-files failed: is this a clone?")?;
    let mut long = Vec::new();
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        // A file that git still lists may have been removed just now.
        let Ok(text) = fs::read_to_string(project::root().join(file)) else { continue };
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            long.push(format!("{file}: {lines} lines"));
        }
    }
    ensure!(long.is_empty(), "longer than {LONGEST_FILE} lines, split:\n{}", long.join("\n"));
    Ok(())
}
