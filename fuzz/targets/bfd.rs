//! The fuzz target `bfd`: see [`herald_fuzz::bfd`].
#![no_main]

use herald_fuzz::{begin, bfd};

libfuzzer_sys::fuzz_target!(init: begin(bfd::seeds), |data: &[u8]| bfd::run(data));
