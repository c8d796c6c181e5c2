//! Builds a program of `lb-ebpf` for BPF.
//!
//! Included by the build scripts of the agent and of the bench. Uses the standard library only.

#[path = "debug.rs"]
mod debug;
#[path = "toolchain.rs"]
mod toolchain;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A variable that cargo sets for build scripts.
pub(crate) fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

const WAYS_OUT: &str = "\
Ways out:
  cargo xtask setup                                  finds or installs both
  rustup toolchain install nightly -c rust-src       a compiler, by hand
  cargo install bpf-linker --version 0.13.0 --locked a linker, by hand
  LB_BPF_SYSROOT=<folder with bin/rustc>             names a compiler
  LB_BPF_OBJECT=<lb.bpf.o>                           takes a ready object
  LB_BPF_OBJECT=none                                 builds an agent that can load nothing";

/// Builds `lb-ebpf`'s program `bin` with its features and leaves the object, without
/// debug information, at `object`.
///
/// # Errors
/// What was tried and the ways out, or what the compiler said.
pub(crate) fn build(bin: &str, features: &[&str], object: &Path) -> Result<(), String> {
    let compiler = toolchain::find_compiler(
        required("RUSTC").as_ref(),
        &required("CARGO_PKG_RUST_VERSION"),
    )
    .map_err(|tried| {
        format!(
            "No Rust compiler that can build the kernel program was found. Tried:\n{tried}{WAYS_OUT}"
        )
    })?;
    let linker = toolchain::find_linker(compiler.llvm).map_err(|tried| {
        format!("No bpf-linker for {compiler} was found. Tried:\n{tried}{WAYS_OUT}")
    })?;

    let endian = if required("CARGO_CFG_TARGET_ENDIAN") == "big" { "bpfeb" } else { "bpfel" };
    let target = format!("{endian}-unknown-none");
    let target_dir = target_dir();
    // The cargo that came with the compiler, if one did, knows best how to build its `core`.
    let own_cargo = Some(compiler.sysroot.join("bin/cargo")).filter(|cargo| cargo.exists());
    let mut command = Command::new(own_cargo.unwrap_or_else(|| required("CARGO").into()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the agent is no folder")?;
    // The lines of the program are found by the names of its files, which are read from here.
    let flags = FLAGS.map(str::to_owned).into_iter();
    let flags: Vec<_> = flags.chain(toolchain::remapped(root, ".", &compiler.sysroot)).collect();
    command
        .current_dir(root)
        .args(["build", "--package=lb-ebpf", "--profile=ebpf", "-Zbuild-std=core"])
        .arg(format!("--bin={bin}"))
        .arg(format!("--features={}", features.join(",")))
        .arg(format!("--target={target}"))
        .arg("--target-dir")
        .arg(&target_dir);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_the_outer_build) {
            command.env_remove(name);
        }
    }
    command
        .env("RUSTC", compiler.sysroot.join("bin/rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !done.status.success() {
        return Err(format!(
            "The kernel program was not built by {compiler} with {}:\n{}",
            linker.display(),
            String::from_utf8_lossy(&done.stderr)
        ));
    }
    let built = target_dir.join(target).join("ebpf").join(bin);
    let linked = fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    let stripped = debug::without(&linked)
        .ok_or_else(|| format!("{} is not an object as bpf-linker writes it", built.display()))?;
    fs::write(object, stripped).map_err(|error| format!("{}: {error}", object.display()))
}

/// `v3` has 32-bit jumps and is understood by every kernel that Herald runs on. Without the last
/// flag each small copy becomes a call of a byte loop, which doubles the cost of a packet.
const FLAGS: [&str; 3] =
    ["-Ctarget-cpu=v3", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order"];

/// One folder for all profiles of the agent: in `OUT_DIR` each profile would build `core` again,
/// and the agent's own target folder is locked by the cargo that runs this script.
fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
        .join("bpf")
}

/// Whether a variable was set by the outer cargo, rustup or clippy for the host's compiler.
/// `CARGO_MAKEFLAGS` stays: both builds share one job server.
fn belongs_to_the_outer_build(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    const PREFIXES: [&str; 5] =
        ["CARGO_BUILD_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
