//! `cargo xtask soak`: changes a cluster in random order under load, and looks for losses and leaks.

use anyhow::{Result, ensure};
use clap::Parser;
use herald_tests::{
    kernel::random::Random,
    lab::{cleanup, control_plane},
    soak::{self, Options},
    system,
};
use std::time::Duration;

/// Changes everything that a cluster's life changes, in random order and under load: pods, Services, pools,
/// agents, nodes, links, the API server. Ends with 1 if a packet is lost that a change does not explain, or
/// anything leaks.
#[derive(Parser)]
#[command(name = "soak", bin_name = "cargo xtask soak")]
struct Arguments {
    /// For how many minutes at least; two laps of all changes in any case
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Only the changes that have this, or one of these, in their names
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

fn main() -> Result<()> {
    let Arguments { minutes, only } = Arguments::parse();
    ensure!(system::is_root(), "the soak makes network namespaces: run it as root");
    control_plane::check_programs()?;
    // Before any thread is started.
    cleanup::on_interrupt();
    let lasts = Duration::from_secs(60 * minutes);
    soak::run(&Options { lasts, only, seed: Random::any_seed() })
}
