//! Runs the cases of a suite one after another in one process: they share a machine, and
//! some a laboratory.
use crate::{lab::cleanup, system};
use anyhow::Result;
use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

/// A case: its name and what it does.
pub struct Case<'a> {
    name: &'static str,
    run: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// A case of that name.
pub fn case<'a>(name: &'static str, run: impl FnOnce() -> Result<()> + 'a) -> Case<'a> {
    Case { name, run: Box::new(run) }
}

/// What the command line asks for.
#[derive(Debug, Default)]
pub struct Request {
    filters: Vec<String>,
    list: bool,
}

impl Request {
    /// Whether a case is wanted: some filter is part of its name, or there is no filter.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f.as_str()))
    }
}

/// Whether the large counts are wanted (`cargo xtask test --full` sets `HERALD_FULL=1`).
pub fn full() -> bool {
    env::var("HERALD_FULL").is_ok_and(|v| v == "1")
}

/// Reads the command line as `cargo test` gives it, and makes sure that everything is removed
/// at Ctrl-C. `None`: there is nothing to run, and why has been said.
pub fn begin(suite: &str) -> Result<Request, ExitCode> {
    let mut request = Request::default();
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--list" => request.list = true,
            // The rest of libtest's flags say how to print.
            flag if flag.starts_with('-') => {}
            filter => request.filters.push(filter.into()),
        }
    }
    if request.list {
        return Ok(request);
    }
    if !system::is_root() {
        // `cargo test` is for everyone; `cargo xtask test` insists.
        let insists = env::var("HERALD_TEST_ALL").is_ok_and(|v| v == "1");
        eprintln!("{suite}: {}: needs root", if insists { "failed" } else { "not run" });
        return Err(if insists { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    cleanup::on_interrupt();
    Ok(request)
}

/// Runs the cases that are wanted and says how each ended.
pub fn run(suite: &str, request: &Request, cases: Vec<Case<'_>>) -> ExitCode {
    if request.list {
        for case in cases {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let (mut passed, mut failed, mut filtered) = (0, vec![], 0);
    for case in cases {
        if !request.wants(case.name) {
            filtered += 1;
            continue;
        }
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(case.run));
        let seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok(Ok(())) => {
                println!("{suite}: {} ... ok ({seconds:.1} s)", case.name);
                passed += 1;
            }
            Ok(Err(error)) => {
                println!("{suite}: {} ... FAILED ({seconds:.1} s)\n    {error:#}", case.name);
                failed.push(case.name);
            }
            // The panic's message is on standard error already.
            Err(_) => {
                println!("{suite}: {} ... FAILED ({seconds:.1} s)\n    panicked", case.name);
                failed.push(case.name);
            }
        }
    }
    println!(
        "{suite}: {passed} passed, {} failed, {filtered} left out, {:.1} s",
        failed.len(),
        start.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("{suite}: failed: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}
