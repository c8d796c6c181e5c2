//! Builds `lb-ebpf` for BPF and leaves the object at `OUT_DIR/lb.bpf.o`, so that plain
//! `cargo build`, `test` and `clippy`, and an editor, need nothing else.
//!
//! * `LB_BPF_OBJECT=<file>` takes a ready object instead; `LB_BPF_OBJECT=none` makes an empty one,
//!   with which the agent compiles and is tested, but loads nothing.
//! * `LB_BPF_SYSROOT=<folder>` names the compiler.
//! * The feature `debug-object` builds the flavour that logs (`lb-ebpf`'s feature `log`).

#[path = "build/object.rs"]
mod object;

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    for name in ["LB_BPF_OBJECT", "LB_BPF_SYSROOT", "RUSTUP_HOME", "HERALD_CACHE", "XDG_CACHE_HOME"]
    {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for path in
        ["build.rs", "build", "../lb-ebpf", "../lb-common", "../Cargo.toml", "../Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={path}");
    }
    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_DEBUG_OBJECT").is_some() { &["log"] } else { &[] };
    let object = PathBuf::from(object::required("OUT_DIR")).join("lb.bpf.o");
    let result = match env::var("LB_BPF_OBJECT").unwrap_or_default().as_str() {
        "" => object::build("lb", features, &object),
        "none" => fs::write(&object, b"").map_err(|error| format!("{}: {error}", object.display())),
        ready => {
            println!("cargo:rerun-if-changed={ready}");
            fs::copy(ready, &object).map(drop).map_err(|error| {
                format!("LB_BPF_OBJECT names {ready}, which cannot be read: {error}")
            })
        }
    };
    if let Err(message) = result {
        // A panic would be shown with a backtrace hint and the place in this file.
        eprintln!("\n{message}");
        std::process::exit(1);
    }
}
