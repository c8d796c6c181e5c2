//! The fuzz target `bgp`: see [`herald_fuzz::bgp`].
#![no_main]

use herald_fuzz::{begin, bgp};

libfuzzer_sys::fuzz_target!(init: begin(bgp::seeds), |data: &[u8]| bgp::run(data));
