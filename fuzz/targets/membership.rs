//! The fuzz target `membership`: see [`herald_fuzz::membership`].
#![no_main]

use herald_fuzz::{begin, membership};

libfuzzer_sys::fuzz_target!(init: begin(membership::seeds), |data: &[u8]| membership::run(data));
