//! The fuzz target `webhook`: see [`herald_fuzz::webhook`].
#![no_main]

use herald_fuzz::{begin, webhook};

libfuzzer_sys::fuzz_target!(init: begin(webhook::seeds), |data: &[u8]| webhook::run(data));
