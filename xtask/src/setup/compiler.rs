//! A compiler that can build the kernel program.

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Setup;
use super::packages::Apt;
use crate::process::Step;
use crate::project;
use crate::toolchain::{self, Compiler};

/// The Debian packages that bring such a compiler: rustc, cargo, rust-src. Stable releases of
/// Debian carry a recent one under the first names, for their browsers.
const PACKAGES: [[&str; 3]; 2] =
    [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// Longer than any download of rust-src takes, shorter than a person's patience with a network
/// that swallows packets.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Tries to install what is missing, or says why that cannot be.
type Way = fn(&mut Apt) -> Result<(), String>;

const NOTHING_NEW: &str = "says that it succeeded, but there is still none";

/// Finds the compiler that the build will find, or installs one.
pub(super) fn ensure(setup: &mut Setup) -> Result<Compiler> {
    let tried = match find() {
        Ok(compiler) => {
            setup.found(&compiler.to_string());
            return Ok(compiler);
        }
        Err(tried) => tried,
    };
    if env::var_os("LB_BPF_SYSROOT").is_some_and(|named| !named.is_empty()) {
        bail!("LB_BPF_SYSROOT names a folder without a compiler for the kernel program:\n{tried}");
    }
    let began = Instant::now();
    let mut reasons = Vec::new();
    let ways: [(&str, Way); 2] =
        [("rustup component add rust-src --toolchain nightly", by_rustup), ("apt-get", by_apt)];
    for (way, install) in ways {
        match install(&mut setup.apt).and_then(|()| find().map_err(|_| NOTHING_NEW.into())) {
            Ok(compiler) => {
                setup.installed(&compiler.to_string(), began);
                return Ok(compiler);
            }
            Err(reason) => reasons.push(format!("  {way}: {}", reason.trim())),
        }
    }
    bail!(
        "no compiler that can build the kernel program. Looked at:\n{tried}Tried to install:\n{}\n\
         Not tried: installing a whole toolchain (rustup toolchain install nightly --component \
         rust-src), rustc with rust-src from other package managers (then set \
         LB_BPF_SYSROOT=<folder with bin/rustc>, if it is not /usr), building rustc",
        reasons.join("\n")
    )
}

fn find() -> Result<Compiler, String> {
    toolchain::find_compiler(&project::rustc(), project::RUST_VERSION)
}

fn by_rustup(_: &mut Apt) -> Result<(), String> {
    if toolchain::nightly_sysroot().is_none() {
        return Err("rustup has no nightly toolchain".into());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    Step::new("rustup component add rust-src")
        .and_then(|step| step.limit(RUSTUP_LIMIT).run(&mut rustup))
        .map_err(|error| error.to_string())
}

fn by_apt(apt: &mut Apt) -> Result<(), String> {
    let mut reasons = Vec::new();
    for packages in PACKAGES {
        let [rustc, ..] = packages;
        match apt.candidate(rustc) {
            None => reasons.push(format!("there is no package {rustc}")),
            Some(version) if !recent(&version) => {
                reasons.push(format!("{rustc} is {version}, older than {}", project::RUST_VERSION));
            }
            Some(_) => return apt.install(&packages).map_err(|error| error.to_string()),
        }
    }
    Err(reasons.join("; "))
}

/// Whether a Debian version such as `1.96.0+dfsg1-1~deb12u2` is not older than the oldest
/// compiler that builds Herald.
fn recent(version: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).take(2).map_while(|n| n.parse().ok()).collect()
    };
    numbers(version) >= numbers(project::RUST_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_are_compared_as_numbers() {
        assert!(recent("1.96.0+dfsg1-1~deb12u2"));
        assert!(recent("1.100.0+dfsg1-1"));
        assert!(!recent("1.85.0+dfsg3-1~deb12u3"));
        assert!(!recent("1.9.0-1"));
    }
}
