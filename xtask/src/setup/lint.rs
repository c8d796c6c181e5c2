//! cargo-deny, by which `cargo xtask lint` looks at dependencies.

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
fn found() -> Option<PathBuf> {
    let cached = root().join("bin/cargo-deny");
    if cached.exists() { Some(cached) } else { project::find_program("cargo-deny") }
}

/// cargo-deny, built if it is missing.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    install(&Setup::new(false))
}

/// Builds cargo-deny into the cache, unless it is there.
pub(super) fn install(setup: &Setup) -> Result<PathBuf> {
    if let Some(path) = found() {
        setup.found(&format!("cargo-deny: {}", path.display()));
        return Ok(path);
    }
    let began = Instant::now();
    let mut install = project::cargo();
    install.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--root"]).arg(root());
    // It reads some hundred manifests: optimising it would take ten times as long as it then runs.
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    Step::new("build of cargo-deny")?.run(&mut install)?;
    setup.installed(&format!("cargo-deny {VERSION} in {}", root().display()), began);
    Ok(root().join("bin/cargo-deny"))
}
