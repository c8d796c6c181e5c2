//! The fuzz target `frames`: see [`herald_fuzz::frames`].
#![no_main]

use herald_fuzz::{begin, frames};

libfuzzer_sys::fuzz_target!(init: begin(frames::seeds), |data: &[u8]| frames::run(data));
