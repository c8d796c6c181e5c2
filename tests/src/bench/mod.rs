//! `cargo xtask bench`: what the production object costs.
//!
//! * [`engine`]: runs a production program many times, each time on a fresh packet
//! * [`scale`]: maps of production size
//! * [`cases`]: what is measured
//! * [`measure`]: the rounds, and what must hold in each
//! * [`wire`]: ARP over a veth, next to the kernel's own
//! * [`tables`]: tables of a large cluster
//! * [`allocation`]: addresses for thousands of Services on a real API server
//! * [`report`], [`picture`]: the results as text, as JSON and as a picture

pub mod allocation;
pub mod cases;
pub mod engine;
pub mod measure;
pub mod picture;
pub mod report;
pub mod scale;
pub mod tables;
pub mod wire;
