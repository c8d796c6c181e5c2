//! The fuzz target `manifests`: see [`herald_fuzz::manifests`].
#![no_main]

use herald_fuzz::{begin, manifests};

libfuzzer_sys::fuzz_target!(init: begin(manifests::seeds), |data: &[u8]| manifests::run(data));
