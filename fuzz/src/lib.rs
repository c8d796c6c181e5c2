//! What Herald reads from outside, to be run on any bytes.
//!
//! One module for each target: `run` takes an input and panics where something is wrong beyond a
//! refusal; `seeds` makes inputs to begin with, by the same code that writes such bytes in
//! production or in the other tests. Fuzzing itself is libFuzzer's, in `targets/`.
//!
//! * [`frames`]: frames through the reference model of the kernel programs
//! * [`object`]: the same, and the production object in the kernel must agree (needs root)
//! * [`membership`], [`resort`]: datagrams of other agents
//! * [`conntrack`]: netlink messages of the kernel's connection tracking
//! * [`manifests`]: files of a folder of manifests
//! * [`api`]: objects of the Kubernetes API
//! * [`webhook`]: reviews that the API server sends
//! * [`bgp`], [`bfd`]: messages and packets of routers
#![forbid(unsafe_code)]

pub mod api;
pub mod bfd;
pub mod bgp;
pub mod conntrack;
mod dictionary;
pub mod frames;
pub mod manifests;
pub mod membership;
pub mod object;
pub mod resort;
mod samples;
pub mod webhook;

use std::{env, fs, io, path::Path, process};

/// The folder that a target only writes its seeds into, if it is told one: `corpus/` with one
/// file for each, and `words`, a dictionary of libFuzzer's.
pub const SEEDS: &str = "HERALD_FUZZ_SEEDS";

/// What a target does first: it writes its seeds and ends, if it is asked to.
pub fn begin(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = env::var_os(SEEDS) else { return };
    let folder = Path::new(&folder);
    if let Err(error) = write(folder, &seeds()) {
        eprintln!("{}: {error}", folder.display());
        process::exit(1);
    }
    process::exit(0);
}

fn write(folder: &Path, seeds: &[Vec<u8>]) -> io::Result<()> {
    let corpus = folder.join("corpus");
    if corpus.exists() {
        fs::remove_dir_all(&corpus)?;
    }
    fs::create_dir_all(&corpus)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(corpus.join(format!("{number:04}")), seed)?;
    }
    fs::write(folder.join("words"), dictionary::of(seeds))
}
