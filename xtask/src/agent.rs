//! Building the agent, and the commands that become one of the project's own programs.
//!
//! These replace this process: Ctrl-C then reaches the program alone, which cleans up before the
//! shell prompts again, and its exit code is the command's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::process::{Step, become_program, shown};
use crate::{project, setup, toolchain};

/// Which agent to build.
#[derive(Args, Clone, Copy)]
pub(crate) struct Flavour {
    /// With optimisation; the default
    #[arg(long, conflicts_with = "dev")]
    release: bool,
    /// Without optimisation of the agent (the kernel program is always optimised)
    #[arg(long)]
    dev: bool,
    /// With the kernel program that logs each frame, for debugging only
    #[arg(long)]
    debug_object: bool,
}

/// Builds the agent and says where it is.
pub(crate) fn build(flavour: Flavour) -> Result<PathBuf> {
    setup::for_building()?;
    let folder = if flavour.dev { "debug" } else { "release" };
    let mut command = project::cargo();
    command.args(["build", "--package=lb-agent"]);
    if !flavour.dev {
        command.arg("--release");
    }
    if flavour.debug_object {
        command.arg("--features=debug-object");
    }
    let mut step = Step::new("build of the agent")?;
    step.run(&mut command)?;
    eprintln!("built the agent in {}", shown(step.elapsed()));
    Ok(project::target_dir().join(folder).join("lb-agent"))
}

/// Builds, then becomes `lb-agent <command> [interface] [args]`.
pub(crate) fn become_agent(
    flavour: Flavour,
    command: &str,
    interface: Option<&OsString>,
    args: &[OsString],
) -> Result<bool> {
    project::require_root(command)?;
    let agent = build(flavour)?;
    setup::bpffs()?;
    become_program(Command::new(agent).arg(command).args(interface).args(args))
}

/// Builds, then becomes the demo.
pub(crate) fn become_demo(
    kubernetes: bool,
    args: impl IntoIterator<Item = OsString>,
) -> Result<bool> {
    project::require_root("the demo")?;
    setup::for_laboratory(kubernetes)?;
    become_program(laboratory_program("demo", false)?.args(args))
}

/// Becomes the bench, built with optimisation.
pub(crate) fn become_bench(args: &[OsString]) -> Result<bool> {
    project::require_root("the bench")?;
    setup::for_laboratory(false)?;
    become_program(laboratory_program("bench", true)?.args(args))
}

/// Builds, then becomes the soak.
pub(crate) fn become_soak(args: &[OsString]) -> Result<bool> {
    project::require_root("the soak")?;
    setup::for_laboratory(true)?;
    become_program(laboratory_program("soak", false)?.args(args))
}

/// Builds the agent and the laboratory's programs, which look for each other in their own folder,
/// and gives one of them.
fn laboratory_program(name: &str, release: bool) -> Result<Command> {
    let mut command = project::cargo();
    command.args(["build", "--bins"]).args(project::PACKAGES);
    if release {
        command.arg("--release");
    }
    let mut step = Step::new(&format!("build of the {name}"))?;
    step.run(&mut command)?;
    eprintln!("built the agent and the {name} in {}", shown(step.elapsed()));
    let folder = if release { "release" } else { "debug" };
    let mut program = Command::new(project::target_dir().join(folder).join(name));
    program.current_dir(project::root()).env("HERALD_CACHE", toolchain::cache_dir());
    Ok(program)
}
