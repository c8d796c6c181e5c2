//! `cargo xtask fuzz`: fuzzes what is read from outside, target by target, for a while each.
//!
//! The targets are the programs of `fuzz/`, a workspace of its own. What libFuzzer has found worth
//! keeping stays in `target/fuzz/corpus` for the next run, and with `--keep` the least of it in
//! `fuzz/corpus` for everybody; inputs that go wrong are in `target/fuzz/found`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process::{Ended, Step, become_program, shown};
use crate::{project, setup};

/// What to fuzz.
#[derive(Args)]
pub(crate) struct Options {
    /// Targets (files in fuzz/targets; all if none is named)
    targets: Vec<String>,
    /// For how long each
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Then add to fuzz/corpus the inputs that reach code which nothing there reaches
    #[arg(long)]
    keep: bool,
    /// Run this one input instead, which a target that is named was found to go wrong with
    #[arg(long, value_name = "FILE")]
    reproduce: Option<PathBuf>,
}

/// The target that runs the production object.
const NEEDS_ROOT: &str = "object";
/// Has a target write its seeds into this folder, and nothing else.
const SEEDS: &str = "HERALD_FUZZ_SEEDS";
/// An input that takes longer is one that goes wrong, in seconds.
const SLOWEST: u32 = 10;
/// Beyond a target's own time: a last input, and the end of the program.
const GRACE: Duration = Duration::from_secs(60);

/// Fuzzes; true if nothing went wrong.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let known = targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!("there is no target {unknown}; there are {}", known.join(", "));
    }
    if options.targets.iter().any(|name| name == NEEDS_ROOT) {
        project::require_root(&format!("the target {NEEDS_ROOT}"))?;
    }
    if let Some(input) = &options.reproduce {
        let [target] = options.targets.as_slice() else {
            bail!("name the one target that {} is for", input.display());
        };
        let input = fs::canonicalize(input).with_context(|| input.display().to_string())?;
        build()?;
        return become_program(Command::new(program(target)).arg(input));
    }
    build()?;
    let chosen = if options.targets.is_empty() { &known } else { &options.targets };
    let mut failed = 0;
    for target in chosen {
        if target == NEEDS_ROOT && !project::is_root() {
            println!("  skipped  {target}: needs root");
            continue;
        }
        let fuzzed = fuzz(target, options.seconds).and_then(|mut done| {
            if options.keep {
                done += &format!(", {} inputs kept", keep(target)?);
            }
            Ok(done)
        });
        match fuzzed {
            Ok(done) => println!("  passed   {target}: {done}"),
            Err(error) => {
                failed += 1;
                println!("  FAILED   {target}");
                eprintln!("{error:#}");
            }
        }
    }
    Ok(failed == 0)
}

/// The files in `fuzz/targets`.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("targets");
    let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<String> = files
        .flatten()
        .filter_map(|file| file.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn folder() -> PathBuf {
    project::root().join("fuzz")
}

/// Where all of it is built and kept.
fn target_dir() -> PathBuf {
    project::target_dir().join("fuzz")
}

fn program(name: &str) -> PathBuf {
    target_dir().join("release").join(name)
}

/// Cargo, for the workspace of the targets. Our own crates are built to be fuzzed: the wrapper adds
/// to the compiler's arguments what takes no nightly compiler.
fn build() -> Result<()> {
    setup::for_building()?;
    ensure!(
        project::find_program("c++").is_some(),
        "libFuzzer is built from C++, and there is no c++: install g++ or clang"
    );
    let mut command = project::cargo();
    command
        .current_dir(folder())
        .args(["build", "--release", "--locked", "--bins", "--target-dir"])
        .arg(target_dir())
        .env("RUSTC_WRAPPER", folder().join("rustc-wrapper"));
    let mut step = Step::new("build of the fuzz targets")?;
    step.run(&mut command)?;
    eprintln!("built the fuzz targets in {}", shown(step.elapsed()));
    Ok(())
}

/// Fuzzes one target; what was done.
fn fuzz(target: &str, seconds: u32) -> Result<String> {
    let (kept, found) = (made("corpus", target)?, made("found", target)?);
    let seeds = target_dir().join("seeds").join(target);
    let written = Command::new(program(target)).env(SEEDS, &seeds).output()?.status;
    ensure!(written.success(), "no seeds for {target}");
    let words = seeds.join("words");
    let mut command = Command::new(program(target));
    command
        .args([
            format!("-max_total_time={seconds}"),
            format!("-timeout={SLOWEST}"),
            format!("-artifact_prefix={}/", found.display()),
            "-print_final_stats=1".to_owned(),
        ])
        // libFuzzer takes no empty one: messages that are no text have no words.
        .args(
            words
                .metadata()
                .is_ok_and(|file| file.len() > 0)
                .then(|| format!("-dict={}", words.display())),
        )
        .args([kept, seeds.join("corpus")])
        .args(Some(committed(target)).filter(|folder| folder.is_dir()));
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    let mut step = Step::new(&format!("fuzzing of {target}"))?.limit(limit);
    let mut status = Status::default();
    let ended = step.watch(&mut command, |text| {
        status.read(text);
        status.shown()
    })?;
    match ended {
        Ended::Exited(code) if code.success() => {
            Ok(format!("{} in {}", status.shown(), shown(step.elapsed())))
        }
        Ended::Exited(_) => bail!("{}{}", how_to_reproduce(target, &status, &found), step.tail(60)),
        Ended::Overdue(limit) => bail!("{target} did not end in {}{}", shown(limit), step.tail(60)),
    }
}

/// Inputs that were found before and are kept with the sources, so that each run begins where others came to.
fn committed(target: &str) -> PathBuf {
    folder().join("corpus").join(target)
}

/// Adds to the committed inputs those found that reach what neither they nor the seeds do; how many.
fn keep(target: &str) -> Result<usize> {
    let (committed, seeds) = (committed(target), target_dir().join("seeds").join(target));
    let known = made("known", target)?;
    fs::remove_dir_all(&known)?;
    fs::create_dir_all(&known)?;
    fs::create_dir_all(&committed)?;
    for folder in [&committed, &seeds.join("corpus")] {
        for file in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let file = file?;
            fs::copy(file.path(), known.join(file.file_name()))?;
        }
    }
    let before: BTreeSet<_> = names(&known)?;
    let mut command = Command::new(program(target));
    // Edges alone: how often each is taken would keep ten times as many.
    command.args(["-merge=1", "-use_counters=0"]).arg(format!("-timeout={SLOWEST}"));
    command.arg(&known).arg(made("corpus", target)?);
    Step::new(&format!("choice of inputs of {target}"))?.run(&mut command)?;
    let new: Vec<_> = names(&known)?.difference(&before).cloned().collect();
    for name in &new {
        fs::copy(known.join(name), committed.join(name))?;
    }
    Ok(new.len())
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    let files = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(files.map(|file| file.map(|file| file.file_name())).collect::<Result<_, _>>()?)
}

/// A folder of a target's, made where it is missing.
fn made(kind: &str, target: &str) -> Result<PathBuf> {
    let folder = target_dir().join(kind).join(target);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

fn how_to_reproduce(target: &str, status: &Status, found: &Path) -> String {
    match &status.found {
        Some(input) => format!(
            "{target} goes wrong with an input that was found\n  \
             again:  cargo xtask fuzz {target} --reproduce {input}\n  \
             mended: make it a case of the tests of what reads it"
        ),
        None => format!("{target} failed; inputs that were found are in {}", found.display()),
    }
}

/// What libFuzzer has said so far.
#[derive(Debug, Default)]
struct Status {
    executions: u64,
    covered: u64,
    found: Option<String>,
    /// The last line, which may go on.
    rest: String,
}

impl Status {
    fn read(&mut self, text: &str) {
        self.rest.push_str(text);
        let all = std::mem::take(&mut self.rest);
        let (whole, rest) = all.rsplit_once('\n').unwrap_or(("", &all));
        whole.lines().for_each(|line| self.line(line));
        self.rest = rest.to_owned();
    }

    /// `#4096 pulse  cov: 123 ft: 456 corp: … exec/s: …`, and at the end
    /// `stat::number_of_executed_units: 5000`.
    fn line(&mut self, line: &str) {
        let number = |text: Option<&str>| text?.split_whitespace().next()?.parse().ok();
        if let Some(executions) = number(line.strip_prefix('#')) {
            self.executions = executions;
            self.covered =
                number(line.split_once(" cov: ").map(|(_, text)| text)).unwrap_or(self.covered);
        }
        if let Some(executions) = number(line.strip_prefix("stat::number_of_executed_units:")) {
            self.executions = executions;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.found = Some(path.trim().to_owned());
        }
    }

    fn shown(&self) -> String {
        format!("{} executions, {} edges covered", self.executions, self.covered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood_in_pieces() {
        let mut status = Status::default();
        let text = "INFO: Seed: 1\n#2\tINITED cov: 4 ft: 5 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #4096\tpulse  cov: 1234 ft: 2000 corp: 9/99b exec/s: 2048 rss: 31Mb\n\
                    artifact_prefix='x/'; Test unit written to x/crash-0a\n\
                    stat::number_of_executed_units: 5000\n";
        for piece in text.as_bytes().chunks(7) {
            status.read(std::str::from_utf8(piece).unwrap());
        }
        assert_eq!(status.shown(), "5000 executions, 1234 edges covered");
        assert_eq!(status.found.as_deref(), Some("x/crash-0a"));
    }

    #[test]
    fn each_target_is_a_program() {
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        for name in targets().unwrap() {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
        }
    }
}
