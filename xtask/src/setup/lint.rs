//! cargo-deny, which `cargo xtask lint` uses where it is there.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::Setup;
use crate::process::Step;
use crate::{project, toolchain};

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

fn root() -> PathBuf {
    toolchain::cache_dir().join(format!("cargo-deny-{VERSION}"))
}

/// cargo-deny in the cache or in `PATH`.
pub(crate) fn cargo_deny() -> Option<PathBuf> {
    let cached = root().join("bin/cargo-deny");
    if cached.exists() { Some(cached) } else { project::find_program("cargo-deny") }
}

/// Builds cargo-deny into the cache, unless it is there.
pub(super) fn install(setup: &Setup) -> Result<()> {
    if let Some(path) = cargo_deny() {
        setup.found(&format!("cargo-deny: {}", path.display()));
        return Ok(());
    }
    let began = Instant::now();
    let mut install = project::cargo();
    install.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--root"]).arg(root());
    Step::new("build of cargo-deny")?.run(&mut install)?;
    setup.installed(&format!("cargo-deny {VERSION} in {}", root().display()), began);
    Ok(())
}
