//! The fuzz target `api`: see [`herald_fuzz::api`].
#![no_main]

use herald_fuzz::{api, begin};

libfuzzer_sys::fuzz_target!(init: begin(api::seeds), |data: &[u8]| api::run(data));
