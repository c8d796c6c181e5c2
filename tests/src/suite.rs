//! Runs the cases of a suite one after another in one process: they share a machine, and
//! some a laboratory.
use crate::{
    lab::{cleanup, remains},
    system,
};
use anyhow::Result;
use std::{
    cell::RefCell,
    env,
    io::{self, Write as _},
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

/// Something that costs much to make and serves several cases. A case that fails leaves it in an
/// unknown state: the next one gets a new one.
pub struct Shared<T> {
    make: Box<dyn Fn() -> Result<T>>,
    failed: fn(&T, anyhow::Error) -> anyhow::Error,
    made: RefCell<Option<T>>,
}

impl<T> Shared<T> {
    /// Made when first needed. `failed` adds to a case's error where to look.
    pub fn new(
        make: impl Fn() -> Result<T> + 'static,
        failed: fn(&T, anyhow::Error) -> anyhow::Error,
    ) -> Self {
        Self { make: Box::new(make), failed, made: RefCell::new(None) }
    }

    /// Runs a case with it.
    ///
    /// # Errors
    /// The case's, or it could not be made.
    pub fn with(&self, run: impl FnOnce(&mut T) -> Result<()>) -> Result<()> {
        // Taken out, so that a panic loses it.
        let mut made = match self.made.take() {
            Some(made) => made,
            None => (self.make)()?,
        };
        match run(&mut made) {
            Ok(()) => {
                self.made.replace(Some(made));
                Ok(())
            }
            Err(error) => Err((self.failed)(&made, error)),
        }
    }
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
/// at Ctrl-C.
pub fn begin() -> Request {
    let mut request = Request::default();
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--list" => request.list = true,
            // The rest of libtest's flags say how to print.
            flag if flag.starts_with('-') => {}
            filter => request.filters.push(filter.into()),
        }
    }
    if !request.list && system::is_root() {
        cleanup::on_interrupt();
    }
    request
}

/// Runs the cases that are wanted and prints as libtest does. Without root, or for another
/// reason that `obstacle` gives, none is run: `cargo test` is for everyone, and
/// `cargo xtask test` insists on what is needed.
pub fn run(request: &Request, obstacle: Option<String>, cases: Vec<Case<'_>>) -> ExitCode {
    if request.list {
        for case in cases {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let obstacle = if system::is_root() { obstacle } else { Some("needs root".into()) };
    let start = Instant::now();
    let (wanted, others): (Vec<_>, Vec<_>) =
        cases.into_iter().partition(|case| request.wants(case.name));
    println!("\nrunning {} tests", wanted.len());
    let (mut passed, mut ignored) = (0, 0);
    let mut failures = vec![];
    for case in wanted {
        print!("test {} ... ", case.name);
        // The line is all that shows what takes so long.
        let _ = io::stdout().flush();
        if let Some(obstacle) = &obstacle {
            println!("ignored, {obstacle}");
            ignored += 1;
            continue;
        }
        let begun = Instant::now();
        remains::begin_case();
        let result = catch_unwind(AssertUnwindSafe(case.run));
        let seconds = begun.elapsed().as_secs_f64();
        let left = remains::end_case(!matches!(result, Ok(Ok(()))));
        match result {
            Ok(Ok(())) => {
                println!("ok ({seconds:.1} s)");
                passed += 1;
            }
            Ok(Err(error)) => {
                println!("FAILED");
                println!("    {error:#} (after {seconds:.1} s)");
                failures.push(case.name);
            }
            Err(_) => {
                println!("FAILED");
                println!("    panicked, see above (after {seconds:.1} s)");
                failures.push(case.name);
            }
        }
        for directory in left {
            println!("    logs are in {}", directory.display());
        }
    }
    if !failures.is_empty() {
        println!("\nfailures:\n    {}", failures.join("\n    "));
    }
    let result = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {} \
         filtered out; finished in {:.2}s\n",
        failures.len(),
        others.len(),
        start.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
