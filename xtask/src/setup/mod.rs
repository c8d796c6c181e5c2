//! Finding or installing what building and testing need.
//!
//! Each step looks first and acts only on what is missing, so a second run does nothing. The
//! commands that need something call the part they need themselves.

mod compiler;
pub(crate) mod kubernetes;
mod linker;
mod lint;
mod packages;
mod system;

use std::time::Instant;

use anyhow::Result;

use crate::process::shown;

pub(crate) use lint::cargo_deny;

/// What one run of the setup has done so far.
struct Setup {
    /// Whether to tell of what was there already, too.
    verbose: bool,
    apt: packages::Apt,
}

impl Setup {
    fn new(verbose: bool) -> Self {
        Self { verbose, apt: packages::Apt::default() }
    }

    fn found(&self, what: &str) {
        if self.verbose {
            println!("  found      {what}");
        }
    }

    /// `since` is when the work began.
    fn installed(&self, what: &str, since: Instant) {
        println!("  installed  {what} ({})", shown(since.elapsed()));
    }

    fn missing(&self, what: &str) {
        println!("  missing    {what}");
    }
}

/// `cargo xtask setup`.
pub(crate) fn everything(with_kubernetes: bool, with_lint: bool) -> Result<()> {
    let began = Instant::now();
    let mut setup = Setup::new(true);
    system::kernel(&setup);
    build_tools(&mut setup)?;
    packages::programs(&mut setup)?;
    system::bpffs(&setup)?;
    if with_kubernetes {
        kubernetes::programs(&setup)?;
    }
    if with_lint {
        lint::install(&setup)?;
    }
    println!("ready after {}", shown(began.elapsed()));
    Ok(())
}

/// What building needs: a compiler and a linker for the kernel program.
pub(crate) fn for_building() -> Result<()> {
    build_tools(&mut Setup::new(false))
}

/// What the suites in network namespaces and the demo need.
pub(crate) fn for_laboratory(with_kubernetes: bool) -> Result<()> {
    let mut setup = Setup::new(false);
    build_tools(&mut setup)?;
    packages::programs(&mut setup)?;
    system::bpffs(&setup)?;
    if with_kubernetes {
        kubernetes::programs(&setup)?;
    }
    Ok(())
}

/// Mounts the BPF filesystem if it is not.
pub(crate) fn bpffs() -> Result<()> {
    system::bpffs(&Setup::new(false))
}

fn build_tools(setup: &mut Setup) -> Result<()> {
    let compiler = compiler::ensure(setup)?;
    linker::ensure(setup, &compiler)
}
