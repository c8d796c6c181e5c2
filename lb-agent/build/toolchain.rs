//! Where the compiler and the linker for the kernel program come from.
//!
//! Included by `build.rs` and by `xtask`, so that what `cargo xtask setup` installs is what the
//! build looks for. Uses the standard library only.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of bpf-linker that the build is made for.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// A compiler that can build `core` for BPF.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// Who named it, for messages.
    pub(crate) origin: &'static str,
    /// The folder with `bin/rustc` and `lib/rustlib/src`.
    pub(crate) sysroot: PathBuf,
    /// `rustc`'s version.
    pub(crate) version: String,
    /// The major version of the LLVM that writes its bitcode.
    pub(crate) llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, sysroot, version, llvm } = self;
        write!(f, "rustc {version} (LLVM {llvm}) of {origin} in {}", sysroot.display())
    }
}

/// The first compiler that can build the kernel program, or what was tried, a line each.
///
/// `core` is built from source, so the compiler's sysroot must hold rust-src; a stable one will
/// do, since the build sets `RUSTC_BOOTSTRAP`. `this_rustc` is the compiler that builds the agent.
///
/// # Errors
/// None qualifies, or the one that `LB_BPF_SYSROOT` names does not: whoever names one gets no
/// silent second choice.
pub(crate) fn find_compiler(this_rustc: &OsStr, at_least: &str) -> Result<Compiler, String> {
    let mut tried = String::new();
    if let Some(named) = env::var_os("LB_BPF_SYSROOT").filter(|value| !value.is_empty()) {
        return qualify("LB_BPF_SYSROOT", PathBuf::from(named), at_least, &mut tried).ok_or(tried);
    }
    let sysroot_of = |rustc: &OsStr| output(rustc, &["--print=sysroot"]).map(PathBuf::from);
    qualify_some("the compiler in use", sysroot_of(this_rustc), at_least, &mut tried)
        .or_else(|| qualify_some("rustup's nightly", nightly_sysroot(), at_least, &mut tried))
        .or_else(|| qualify("the distribution", PathBuf::from("/usr"), at_least, &mut tried))
        .ok_or(tried)
}

/// Flags by which what a compiler writes does not depend on whose machine it runs on: `root`, this project,
/// is called `name` in it, and crates and the source of the standard library have one name everywhere. Crates
/// have to be fetched before.
pub(crate) fn remapped(root: &Path, name: &str, sysroot: &Path) -> Vec<String> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cargo"))
    });
    // Of several that match rustc takes the last.
    let mut names = vec![(root.to_owned(), name.to_owned())];
    names.extend(home.iter().map(|home| (home.clone(), "/cargo".to_owned())));
    // Their names tell which mirror they came from.
    let registries = home.iter().filter_map(|home| fs::read_dir(home.join("registry/src")).ok());
    let mut registries: Vec<_> = registries.flatten().flatten().map(|entry| entry.path()).collect();
    registries.sort();
    names.extend(registries.into_iter().map(|folder| (folder, "/cargo/registry".to_owned())));
    names.push((sysroot.join("lib/rustlib/src/rust"), "/rustc".to_owned()));
    let flag =
        |(from, to): (PathBuf, String)| format!("--remap-path-prefix={}={to}", from.display());
    names.into_iter().map(flag).collect()
}

/// The sysroot of rustup's `nightly`, if rustup and a nightly are installed.
pub(crate) fn nightly_sysroot() -> Option<PathBuf> {
    let rustc = output("rustup".as_ref(), &["which", "--toolchain=nightly", "rustc"])?;
    Some(Path::new(&rustc).parent()?.parent()?.to_path_buf())
}

fn qualify_some(
    origin: &'static str,
    sysroot: Option<PathBuf>,
    at_least: &str,
    tried: &mut String,
) -> Option<Compiler> {
    let Some(sysroot) = sysroot else {
        *tried += &format!("  {origin}: not installed\n");
        return None;
    };
    qualify(origin, sysroot, at_least, tried)
}

fn qualify(
    origin: &'static str,
    sysroot: PathBuf,
    at_least: &str,
    tried: &mut String,
) -> Option<Compiler> {
    let shown = sysroot.display().to_string();
    match examine(origin, sysroot, at_least) {
        Ok(compiler) => Some(compiler),
        Err(reason) => {
            *tried += &format!("  {origin} ({shown}): {reason}\n");
            None
        }
    }
}

fn examine(origin: &'static str, sysroot: PathBuf, at_least: &str) -> Result<Compiler, String> {
    let rustc = sysroot.join("bin/rustc");
    if !rustc.exists() {
        return Err("has no bin/rustc".into());
    }
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return Err("has no rust-src (the source of the standard library)".into());
    }
    let told = output(rustc.as_os_str(), &["-vV"]).ok_or("bin/rustc does not run")?;
    let field = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = field("release:").ok_or("bin/rustc -vV tells no release")?.to_owned();
    let llvm = field("LLVM version:")
        .and_then(|llvm| llvm.split('.').next()?.parse().ok())
        .ok_or("bin/rustc -vV tells no LLVM version")?;
    if numbers(&version) < numbers(at_least) {
        return Err(format!("is {version}, older than {at_least}"));
    }
    Ok(Compiler { origin, sysroot, version, llvm })
}

/// `1.97.0-nightly` -> `[1, 97, 0]`.
fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

fn output(program: &OsStr, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Herald's cache: `$HERALD_CACHE`, else `$XDG_CACHE_HOME/herald`, else `~/.cache/herald`.
pub(crate) fn cache_dir() -> PathBuf {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("HERALD_CACHE")
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("herald")))
        .or_else(|| Some(named("HOME")?.join(".cache/herald")))
        .unwrap_or_else(|| env::temp_dir().join("herald-cache"))
}

/// Where `cargo xtask setup` puts the bpf-linker for one LLVM.
pub(crate) fn cached_linker_root(llvm: u32) -> PathBuf {
    cache_dir().join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm{llvm}"))
}

/// The bpf-linker for bitcode of LLVM `llvm`, or what was tried, a line each.
///
/// A linker reads the bitcode of its own LLVM and of older ones. The one that setup built for
/// exactly this LLVM comes first; then what stands in `PATH`, whose LLVM cannot be asked for; then
/// cached ones of later LLVMs.
///
/// # Errors
/// There is none.
pub(crate) fn find_linker(llvm: u32) -> Result<PathBuf, String> {
    let exact = cached_linker_root(llvm).join("bin/bpf-linker");
    if exact.exists() {
        return Ok(exact);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(found) =
        env::split_paths(&path).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
    {
        return Ok(found);
    }
    let prefix = format!("bpf-linker-{BPF_LINKER_VERSION}-llvm");
    let later = fs::read_dir(cache_dir()).ok().and_then(|entries| {
        entries
            .flatten()
            .filter_map(|entry| {
                let major: u32 = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
                let file = entry.path().join("bin/bpf-linker");
                (major > llvm && file.exists()).then_some((major, file))
            })
            .min()
    });
    later.map(|(_, file)| file).ok_or_else(|| {
        format!(
            "  {}: not there\n  PATH: no bpf-linker\n  {}: none for a later LLVM\n",
            exact.display(),
            cache_dir().display()
        )
    })
}
