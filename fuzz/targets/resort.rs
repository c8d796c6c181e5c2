//! The fuzz target `resort`: see [`herald_fuzz::resort`].
#![no_main]

use herald_fuzz::{begin, resort};

libfuzzer_sys::fuzz_target!(init: begin(resort::seeds), |data: &[u8]| resort::run(data));
