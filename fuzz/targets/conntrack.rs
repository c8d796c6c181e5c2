//! The fuzz target `conntrack`: see [`herald_fuzz::conntrack`].
#![no_main]

use herald_fuzz::{begin, conntrack};

libfuzzer_sys::fuzz_target!(init: begin(conntrack::seeds), |data: &[u8]| conntrack::run(data));
