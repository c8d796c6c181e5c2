//! `cargo xtask bench`: measures the production object and writes the results down.
//!
//! Ends with 0 whatever the figures are: they are reported as met or missed. Only a run
//! that did not do what it should, so that its figures are worth nothing, is a failure.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use herald_tests::{
    bench::{
        allocation, bgp,
        cluster_size::{self, Size},
        engine::Engine,
        failover, first_answer,
        measure::{self, Effort, Paths},
        picture,
        report::Report,
        tables, wire,
    },
    kernel::object::program,
    lab::cleanup,
    system,
};
use nix::sched::{CloneFlags, unshare};

/// Measures what the production object costs, ns a packet, and how fast it answers ARP.
#[derive(Parser)]
struct Arguments {
    /// Rounds, the cases taking turns in each [default: 9, or 3 with --quick]
    #[arg(long)]
    rounds: Option<u32>,
    /// How many times a node's link is cut [default: 100, or 4 with --quick]
    #[arg(long)]
    cuts: Option<usize>,
    /// Fewer packets and rounds: for a look, not for the record
    #[arg(long)]
    quick: bool,
    /// Only the cases that have this, or one of these, in their names, and nothing on the wire
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Another object than the agent's, with the same maps
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Where the results go [default: docs/bench, or nowhere with --quick or --only]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// The index of `lo` in a new network namespace.
const LOOPBACK: u32 = 1;

fn main() -> Result<()> {
    let Arguments { rounds, cuts, quick, only, object, output } = Arguments::parse();
    ensure!(system::is_root(), "the bench loads kernel programs: run it as root");
    let rounds = rounds.unwrap_or(if quick { 3 } else { 9 });
    ensure!(rounds > 0, "--rounds 0 measures nothing: name 1 or more");
    // Before any thread is started.
    cleanup::on_interrupt();
    // The frames arrive on `lo` of a namespace that is this thread's own.
    unshare(CloneFlags::CLONE_NEWNET).context("no new network namespace")?;
    let date = command("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");

    eprintln!("filling maps of production size");
    let wanted =
        |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text.as_str()));
    let paths = match object {
        Some(file) => {
            let object = fs::read(&file).with_context(|| file.display().to_string())?;
            Paths::load(LOOPBACK, &object, &wanted)?
        }
        None => Paths::load(LOOPBACK, lb_agent::OBJECT, &wanted)?,
    };
    let mut engine = Engine::load(LOOPBACK)?;
    let effort = Effort { rounds, packets: if quick { 1 << 17 } else { 1 << 20 } };
    let results = measure::all(&paths, &mut engine, effort, &wanted, |round| {
        eprintln!("round {} of {rounds}", round + 1);
    })?;
    let wire = if only.is_empty() {
        eprintln!("ARP on the wire");
        let (single, flood) = if quick { (2_000, 20_000) } else { (10_000, 100_000) };
        Some(wire::measure(wire::Effort { rounds, single, flood })?)
    } else {
        None
    };

    let tables = if wanted("tables") {
        eprintln!("tables of a large cluster");
        Some(tables::measure()?)
    } else {
        None
    };

    let allocation = if wanted("allocation") && allocation::can_run() {
        eprintln!("addresses on a real API server");
        let (services, all) = if quick { (500, 1_000) } else { (4_000, 10_000) };
        Some(allocation::measure(services, all)?)
    } else {
        None
    };

    let first_answer = if wanted("first-answer") && allocation::can_run() {
        eprintln!("from a Service's creation to the first answer");
        let (samples, others) = if quick { (20, 100) } else { (100, 1_000) };
        Some(first_answer::measure(samples, others)?)
    } else {
        None
    };

    let bgp = if wanted("bgp") && allocation::can_run() {
        eprintln!("routes to a real router");
        let (samples, routes) = if quick { (20, 1_000) } else { (100, 10_000) };
        Some(bgp::measure(samples, routes)?)
    } else {
        None
    };

    let failover = if wanted("failover") {
        eprintln!("cut links and planned stops");
        Some(failover::measure(cuts.unwrap_or(if quick { 4 } else { 100 }))?)
    } else {
        None
    };

    let cluster_size = if wanted("cluster-size") && allocation::can_run() {
        eprintln!("a large cluster on a real API server");
        let size = if quick {
            Size { nodes: 100, services: 500, changes: 10 }
        } else {
            Size { nodes: 1_000, services: 10_000, changes: 40 }
        };
        Some(cluster_size::measure(size)?)
    } else {
        None
    };

    let mut sizes = Vec::new();
    for name in [program::INGRESS, program::INGRESS_TC, program::EGRESS] {
        let (verified, jited) = paths.usual.size(name)?;
        sizes.push((name, verified, jited));
    }
    let machine = machine()?;
    let report = Report {
        date,
        machine,
        effort,
        load,
        sizes,
        results,
        wire,
        tables,
        allocation,
        first_answer,
        bgp,
        failover,
        cluster_size,
    };
    print!("{}", report.markdown());
    let output =
        output.or_else(|| (!quick && only.is_empty()).then(|| workspace().join("docs/bench")));
    if let Some(folder) = output {
        write(&report, &folder).with_context(|| format!("writing to {}", folder.display()))?;
        eprintln!("written to {}", folder.display());
    }
    Ok(())
}

fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("results.md"), report.markdown())?;
    fs::write(folder.join("results.json"), report.json()? + "\n")?;
    let caption = format!("{}, {}", report.machine, report.date);
    fs::write(folder.join("results.svg"), picture::svg(&report.figures(), &caption))?;
    if let Some(failover) = &report.failover {
        fs::write(folder.join("failover.svg"), picture::gaps(&failover.gaps(), &caption))?;
    }
    Ok(())
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cpus = processors.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = command("uname", &["-srm"])?;
    Ok(format!("{cpus} × {}, {kernel}", model.unwrap_or("an unnamed processor").trim()))
}

fn command(name: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(name).args(arguments).output().with_context(|| name.to_owned())?;
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
