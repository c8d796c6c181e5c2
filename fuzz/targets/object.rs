//! The fuzz target `object`: see [`herald_fuzz::object`].
#![no_main]

use herald_fuzz::{begin, frames, object};

libfuzzer_sys::fuzz_target!(init: begin(frames::seeds), |data: &[u8]| object::run(data));
