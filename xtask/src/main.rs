//! Herald's own commands: `cargo xtask <command>`.
//!
//! Only what cargo cannot do itself stands here. The kernel program is built by the agent's build
//! script, so `cargo build`, `cargo test` and `cargo clippy` work plainly once
//! `cargo xtask setup` has run.
#![forbid(unsafe_code)]

mod agent;
mod documents;
mod fuzz;
mod image;
mod lint;
mod manifests;
mod process;
mod project;
mod setup;
mod test;
#[path = "../../lb-agent/build/toolchain.rs"]
mod toolchain;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Herald's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version, disable_help_subcommand = true)]
enum Command {
    /// Find or install what building and testing need; does nothing the second time
    Setup {
        /// Also build the pinned Kubernetes programs into the cache (about 8 minutes, once)
        #[arg(long)]
        kubernetes: bool,
        /// Also build cargo-deny into the cache, which `cargo xtask lint` else does (a minute, once)
        #[arg(long)]
        lint: bool,
    },
    /// Build the agent with the kernel program inside
    Build(agent::Flavour),
    /// Build the agent and write a container image of it, an OCI archive
    Image(image::Options),
    /// Build, then load the programs on an interface and pin them (needs root)
    Load {
        #[command(flatten)]
        flavour: agent::Flavour,
        /// The interface, for example eth0
        interface: OsString,
        /// Further arguments for `lb-agent load`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build, then take the programs off an interface, or off all and remove the pins (needs root)
    Unload {
        #[command(flatten)]
        flavour: agent::Flavour,
        /// The interface, and further arguments for `lb-agent unload`
        #[arg(value_name = "INTERFACE", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show Herald at work on three nodes in network namespaces (needs root)
    Demo {
        /// On a real API server with kube-proxy on each node, instead of a folder of manifests
        #[arg(long)]
        kubernetes: bool,
        /// Leave everything up at the end, and say how to look around
        #[arg(long)]
        keep: bool,
        /// Remove what an earlier `--keep` left
        #[arg(long)]
        remove: bool,
        /// Further arguments for the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the test suites, or parts of them (all but `unit` and `lint` need root)
    Test(test::Options),
    /// Measure the data path, and print the results next to their targets (needs root)
    Bench {
        /// Arguments for the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Change a cluster at random under load, and look for losses and leaks (needs root)
    Soak {
        /// Arguments for the soak: `--minutes N`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fuzz what is read from outside, for a short time each
    Fuzz(fuzz::Options),
    /// Render deploy/herald.yaml from the chart (the first time, this builds Helm)
    Manifests,
    /// Check formatting, lints, documentation, licences, file lengths and generated files
    Lint,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the command succeeded; those that become another program return only on failure.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Setup { kubernetes, lint } => {
            setup::everything(kubernetes, lint)?;
            Ok(true)
        }
        Command::Build(flavour) => {
            let binary = agent::build(flavour)?;
            println!("{}", binary.display());
            Ok(true)
        }
        Command::Image(options) => {
            image::write(&options)?;
            Ok(true)
        }
        Command::Load { flavour, interface, args } => {
            agent::become_agent(flavour, "load", Some(&interface), &args)
        }
        Command::Unload { flavour, args } => agent::become_agent(flavour, "unload", None, &args),
        Command::Demo { kubernetes, keep, remove, args } => {
            let flags = [("--kubernetes", kubernetes), ("--keep", keep), ("--remove", remove)];
            let given = flags.iter().filter(|(_, given)| *given).map(|(flag, _)| flag.into());
            agent::become_demo(kubernetes, given.chain(args))
        }
        Command::Test(options) => test::run(&options),
        Command::Bench { args } => agent::become_bench(&args),
        Command::Soak { args } => agent::become_soak(&args),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Manifests => {
            manifests::write()?;
            Ok(true)
        }
        Command::Lint => lint::run(),
    }
}
