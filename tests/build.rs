//! Builds the bench's kernel programs (`lb-ebpf`'s program `bench`) and leaves the object at
//! `OUT_DIR/bench.bpf.o`; an empty one where `LB_BPF_OBJECT=none` says that none is wanted.

#[path = "../lb-agent/build/object.rs"]
mod object;

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=LB_BPF_OBJECT");
    println!("cargo:rerun-if-env-changed=LB_BPF_SYSROOT");
    for path in ["build.rs", "../lb-agent/build", "../lb-ebpf", "../Cargo.toml", "../Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let path = PathBuf::from(object::required("OUT_DIR")).join("bench.bpf.o");
    let result = if env::var("LB_BPF_OBJECT").is_ok_and(|value| value == "none") {
        fs::write(&path, b"").map_err(|error| format!("{}: {error}", path.display()))
    } else {
        object::build("bench", &[], &path)
    };
    if let Err(message) = result {
        eprintln!("\n{message}");
        std::process::exit(1);
    }
}
