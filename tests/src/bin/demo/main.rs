//! `cargo xtask demo`: Herald at work on a LAN of three nodes, with real figures.
//!
//! Fails unless all pods get their share, see the client's address, and another node takes
//! over when the owner is cut off.
mod keep;
mod story;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use herald_tests::{
    lab::{Lab, Recording, Shape, cleanup, control_plane},
    system,
};
use std::process::ExitCode;
use story::Story;

/// Herald at work on three nodes in network namespaces.
#[derive(Parser)]
#[command(bin_name = "cargo xtask demo")]
struct Arguments {
    /// On a real API server with kube-proxy on each node, instead of a folder of manifests
    #[arg(long)]
    kubernetes: bool,
    /// Leave everything up at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Remove what was kept
    #[arg(long, conflicts_with_all = ["kubernetes", "keep"])]
    remove: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cleanup::on_interrupt();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(system::is_root(), "the demo needs root: it makes network namespaces (try sudo)");
    if arguments.remove {
        return keep::remove();
    }
    if arguments.kubernetes {
        control_plane::check_programs()?;
    }
    let lab = Lab::new(Shape { recording: Recording::None, ..Shape::default() })?;
    let told = Story::begin(&lab, arguments.kubernetes).and_then(|mut story| {
        story.tell()?;
        Ok(story)
    });
    let story = told.inspect_err(|_| lab.mark_failed()).with_context(|| {
        format!("it does not work as it shall; logs are in {}", lab.directory.display())
    })?;
    if arguments.keep {
        keep::keep(&lab, story)?;
    }
    Ok(())
}
