//! bpf-linker, built against the LLVM whose bitcode it will read.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Setup;
use super::packages::Apt;
use crate::process::{Step, output};
use crate::project;
use crate::toolchain::{self, BPF_LINKER_VERSION, Compiler};

/// The major versions of LLVM that this bpf-linker can be built against.
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = 21..=23;

/// Finds the linker that the build will find, or builds one into the cache.
pub(super) fn ensure(setup: &mut Setup, compiler: &Compiler) -> Result<()> {
    let looked = match toolchain::find_linker(compiler.llvm) {
        Ok(linker) => {
            setup.found(&format!("bpf-linker: {}", linker.display()));
            return Ok(());
        }
        Err(looked) => looked,
    };
    let began = Instant::now();
    let (llvm, prefix) = match llvm(&mut setup.apt, compiler.llvm) {
        Ok(found) => found,
        Err(reasons) => bail!(
            "no LLVM to build bpf-linker {BPF_LINKER_VERSION} for {compiler}. Looked for the linker \
             at:\n{looked}Tried to get LLVM:\n{reasons}\
             Not tried: other package managers, building LLVM, prebuilt linkers. With LLVM {} and \
             its headers: LLVM_PREFIX=<its folder> cargo xtask setup; with a bpf-linker of your \
             own: put it in PATH",
            compiler.llvm
        ),
    };
    let root = toolchain::cached_linker_root(llvm);
    let mut install = project::cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"])
        .args(["--no-default-features", &format!("--features=llvm-{llvm}"), "--root"])
        .arg(&root)
        // The first llvm-config in PATH is taken otherwise, whatever its version.
        .env("LLVM_PREFIX", &prefix);
    Step::new("build of bpf-linker")?.run(&mut install)?;
    setup.installed(
        &format!("bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm} in {}", root.display()),
        began,
    );
    Ok(())
}

/// An LLVM with headers that reads the bitcode of LLVM `wanted`: its version and its folder.
/// One that is on the machine is preferred to one that must be installed.
fn llvm(apt: &mut Apt, wanted: u32) -> Result<(u32, PathBuf), String> {
    let usable: Vec<u32> = LLVM_VERSIONS.filter(|version| *version >= wanted).collect();
    if usable.is_empty() {
        return Err(format!(
            "  bpf-linker {BPF_LINKER_VERSION} is made for LLVM {} to {}, the compiler has {wanted}: \
             name an older compiler by LB_BPF_SYSROOT\n",
            LLVM_VERSIONS.start(),
            LLVM_VERSIONS.end()
        ));
    }
    if let Some(found) = usable.iter().find_map(|version| Some((*version, prefix_of(*version)?))) {
        return Ok(found);
    }
    let mut reasons = String::new();
    for version in usable {
        let package = format!("llvm-{version}-dev");
        if apt.candidate(&package).is_none() {
            reasons += &format!("  apt-get: there is no package {package}\n");
            continue;
        }
        // LLVM's own link line names zlib and zstd.
        match apt.install(&[&package, "zlib1g-dev", "libzstd-dev"]) {
            Ok(()) => match prefix_of(version) {
                Some(prefix) => return Ok((version, prefix)),
                None => reasons += &format!("  {package} is there, but without llvm-config\n"),
            },
            Err(error) => reasons += &format!("  apt-get: {error:#}\n"),
        }
    }
    Err(reasons)
}

/// The folder of an installed LLVM of this major version that has headers.
fn prefix_of(version: u32) -> Option<PathBuf> {
    let asked = |config: PathBuf| -> Option<PathBuf> {
        let told = output(Command::new(&config).args(["--version", "--prefix", "--includedir"]))?;
        let mut lines = told.lines();
        let major = lines.next()?.split('.').next()?.parse::<u32>().ok()?;
        let prefix = PathBuf::from(lines.next()?);
        let headers = Path::new(lines.next()?).join("llvm-c/Core.h");
        (major == version && headers.exists()).then_some(prefix)
    };
    let named = env::var_os("LLVM_PREFIX").map(|prefix| Path::new(&prefix).join("bin/llvm-config"));
    named
        .into_iter()
        .chain([PathBuf::from(format!("/usr/lib/llvm-{version}/bin/llvm-config"))])
        .chain(project::find_program(&format!("llvm-config-{version}")))
        .chain(project::find_program("llvm-config"))
        .find_map(asked)
}
