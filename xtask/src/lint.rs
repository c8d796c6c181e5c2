//! `cargo xtask lint`: what can be checked without running anything.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::process::{Step, output, shown};
use crate::{project, setup};

/// Longer files hold more than one idea.
const LONGEST_FILE: usize = 600;

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
    match setup::cargo_deny() {
        Some(deny) => checks.check("licences and sources of dependencies", || {
            let mut command = Command::new(deny);
            command.current_dir(project::root()).args([
                "--all-features",
                "check",
                "bans",
                "licenses",
                "sources",
            ]);
            step("cargo deny", &mut command)
        }),
        None => checks.skip(
            "licences and sources of dependencies",
            "no cargo-deny; cargo xtask setup --lint installs it",
        ),
    }
    Ok(checks)
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
