//! `cargo xtask test`: the suites one after another, and one closing line.

mod summary;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::process::{Ended, Step, shown};
use crate::{lint, project, setup, toolchain};
use summary::{Counts, Reader};

/// What to test.
#[derive(Args)]
pub(crate) struct Options {
    /// Suites (unit, kernel, net, interop, cluster, lint; all if none is named) and parts of tests' names
    filters: Vec<String>,
    /// The large counts: hours instead of minutes
    #[arg(long)]
    full: bool,
}

const UNIT: &str = "unit";
/// What property tests begin with: proptest's own variable.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";
const LINT: &str = "lint";
const CLUSTER: &str = "cluster";
const INTEROP: &str = "interop";

/// The order of the suites in the laboratory: the quick ones first. Others follow by name.
const ORDER: [&str; 4] = ["kernel", "net", INTEROP, CLUSTER];

/// The laboratory's crate; its integration tests are suites of their own.
const LABORATORY: &str = "tests";

/// A suite that takes longer hangs: it is stopped, and the test that ran is named.
const LIMIT: Duration = Duration::from_mins(30);
const FULL_LIMIT: Duration = Duration::from_hours(4);

/// Runs the suites; true if something was tested and nothing failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let choice = Choice::of(&options.filters, &suites());
    require_rights(&choice)?;
    let began = Instant::now();
    let mut report = Report::default();
    if let Err(error) = prepare(&choice) {
        report.broken("preparation", began.elapsed(), &format!("{error:#}"));
        return Ok(report.close());
    }
    report.time("preparation", began.elapsed());
    for suite in &choice.suites {
        let began = Instant::now();
        match run_suite(suite, &choice.names, options.full) {
            Ok(counts) => report.suite(suite, began.elapsed(), counts),
            Err(error) => report.broken(suite, began.elapsed(), &format!("{error:#}")),
        }
    }
    Ok(report.close())
}

/// What the filters select.
struct Choice {
    suites: Vec<String>,
    /// Parts of tests' names; none selects all tests.
    names: Vec<String>,
}

impl Choice {
    fn of(filters: &[String], known: &[String]) -> Self {
        let (named, names): (Vec<_>, Vec<_>) =
            filters.iter().cloned().partition(|filter| known.contains(filter));
        let suites = known
            .iter()
            .filter(|suite| {
                if named.is_empty() {
                    // Checks have no names that a part of could be meant.
                    names.is_empty() || *suite != LINT
                } else {
                    named.contains(suite)
                }
            })
            .cloned()
            .collect();
        Self { suites, names }
    }

    fn has(&self, suite: &str) -> bool {
        self.suites.iter().any(|chosen| chosen == suite)
    }

    fn has_laboratory(&self) -> bool {
        self.suites.iter().any(|suite| suite != UNIT && suite != LINT)
    }
}

/// All suites, in the order in which they run.
fn suites() -> Vec<String> {
    let mut laboratory: Vec<String> = integration_tests(LABORATORY).into_iter().collect();
    laboratory.sort_by_key(|suite| ORDER.iter().position(|known| known == suite).unwrap_or(9));
    let mut all = vec![UNIT.to_owned()];
    all.extend(laboratory);
    all.push(LINT.to_owned());
    all
}

/// The names of a crate's integration tests: `tests/NAME.rs` and `tests/NAME/main.rs`.
fn integration_tests(package: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(project::root().join(package).join("tests"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let is_test = path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").exists();
            is_test.then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect()
}

fn require_rights(choice: &Choice) -> Result<()> {
    if choice.has_laboratory() && !project::is_root() {
        let suites = choice.suites.iter().filter(|suite| *suite != UNIT && *suite != LINT);
        bail!(
            "the suites {} need root (network namespaces and BPF): sudo --preserve-env=HOME,PATH \
             cargo xtask test; without root: cargo xtask test {UNIT} {LINT}",
            suites.cloned().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// Installs what is missing and compiles everything, so that the suites' times are their own.
fn prepare(choice: &Choice) -> Result<()> {
    if choice.has_laboratory() {
        setup::for_laboratory(choice.has(CLUSTER) || choice.has(INTEROP))?;
    } else {
        setup::for_building()?;
    }
    if choice.has(LINT) {
        // Where that fails the check says so, and all others run.
        let _ = setup::cargo_deny();
    }
    if choice.suites.iter().any(|suite| suite != LINT) {
        // Not `cargo test --no-run`, which leaves out the agent that the laboratory starts; and not
        // one call for each, which would build some dependencies twice, with other features.
        let mut build = project::cargo();
        build.arg("build").args(project::PACKAGES).args(["--lib", "--bins", "--tests"]);
        let mut step = Step::new("build of the tests")?;
        step.run(&mut build)?;
        println!("built the agent and the tests in {}", shown(step.elapsed()));
    }
    Ok(())
}

fn run_suite(suite: &str, names: &[String], full: bool) -> Result<Counts> {
    if suite == LINT {
        return lint::checks().map(|checks| Counts {
            passed: checks.passed,
            failed: checks.failed,
            skipped: checks.skipped,
        });
    }
    let limit = if full { FULL_LIMIT } else { LIMIT };
    let mut step = Step::new(&format!("test {suite}"))?.limit(limit);
    let mut reader = Reader::default();
    for mut command in commands(suite) {
        command.args(names);
        if full {
            command.env("HERALD_FULL", "1");
        } else if suite == UNIT && std::env::var_os(PROPERTY_SEED).is_none() {
            // What a change did is not mixed up with luck; full runs try something else each time.
            command.env(PROPERTY_SEED, "1");
        }
        reader.begin();
        match step.watch(&mut command, |text| reader.read(text))? {
            Ended::Exited(status) => {
                if reader.end(status.success()) {
                    eprintln!("{suite}: ended without a result ({status}){}", step.tail(40));
                }
            }
            Ended::Overdue(limit) => {
                let running = reader.running().unwrap_or("no test");
                eprintln!("{suite}: stopped after {} in: {running}{}", shown(limit), step.tail(20));
                reader.end(false);
            }
        }
    }
    if !reader.failures().is_empty() {
        eprintln!("{suite}: failed: {}{}", reader.failures().join(", "), step.tail(80));
    }
    Ok(reader.counts())
}

/// What a suite runs, up to the tests' names.
fn commands(suite: &str) -> Vec<Command> {
    let test = |targets: &[String]| {
        let mut command = project::cargo();
        command.args(["test", "--no-fail-fast"]).args(project::PACKAGES).args(targets).arg("--");
        command
    };
    if suite == UNIT {
        let mut targets = vec!["--lib".to_owned(), "--bins".to_owned()];
        let small = ["lb-common", "lb-agent", "xtask"];
        let others = small.iter().flat_map(|package| integration_tests(package));
        targets.extend(others.map(|name| format!("--test={name}")));
        return vec![test(&targets), test(&["--doc".to_owned()])];
    }
    let mut command = test(&[format!("--test={suite}")]);
    command.arg("--test-threads=1");
    // Who calls it this way wants it to run: not having the rights is then a failure.
    command.env("HERALD_TEST_ALL", "1").env("HERALD_CACHE", toolchain::cache_dir());
    vec![command]
}

/// What is told as the suites end, and at the end.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    total: Counts,
}

impl Report {
    fn time(&mut self, what: &str, took: Duration) {
        self.lines.push(format!("  {what:<12} {:>5.1} min", took.as_secs_f64() / 60.0));
    }

    fn suite(&mut self, suite: &str, took: Duration, counts: Counts) {
        println!("{suite}: {counts} in {}", shown(took));
        self.time(suite, took);
        if let Some(line) = self.lines.last_mut() {
            *line += &format!("   {counts}");
        }
        self.total += counts;
    }

    /// A suite that did not get as far as to count its tests is one failure.
    fn broken(&mut self, suite: &str, took: Duration, message: &str) {
        eprintln!("{suite}: {message}");
        self.suite(suite, took, Counts { failed: 1, ..Counts::default() });
    }

    /// Prints the closing lines; true if something was tested and nothing failed.
    fn close(self) -> bool {
        println!("\n{}\n", self.lines.join("\n"));
        let ran = self.total.passed + self.total.failed > 0;
        if !ran {
            eprintln!("no test matches");
        }
        println!("{}", self.total);
        ran && self.total.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(filters: &[&str]) -> (Vec<String>, Vec<String>) {
        let known = ["unit", "kernel", "net", "lint"].map(str::to_owned);
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let Choice { suites, names } = Choice::of(&filters, &known);
        (suites, names)
    }

    #[test]
    fn no_filter_selects_every_suite() {
        assert_eq!(chosen(&[]).0, ["unit", "kernel", "net", "lint"]);
    }

    #[test]
    fn suites_are_told_from_parts_of_names() {
        let (suites, names) = chosen(&["net", "arp", "kernel"]);
        assert_eq!(suites, ["kernel", "net"]);
        assert_eq!(names, ["arp"]);
    }

    #[test]
    fn a_part_of_a_name_alone_is_looked_for_in_all_tests() {
        let (suites, names) = chosen(&["arp"]);
        assert_eq!(suites, ["unit", "kernel", "net"]);
        assert_eq!(names, ["arp"]);
    }
}
