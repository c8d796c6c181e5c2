//! `cargo xtask bench`: what the production object costs.
//!
//! * [`engine`]: runs a production program many times, each time on a fresh packet
//! * [`scale`]: maps of production size
//! * [`cases`]: what is measured
//! * [`measure`]: the rounds, and what must hold in each
//! * [`wire`]: ARP over a veth, next to the kernel's own
//! * [`tables`]: tables of a large cluster
//! * [`allocation`]: addresses for thousands of Services on a real API server
//! * [`first_answer`]: from the creation of a Service to the first answer on the wire
//! * [`cluster_size`], [`fleet`]: a large cluster on a real API server
//! * [`api_server`]: what these have in common
//! * [`report`], [`picture`]: the results as text, as JSON and as a picture

pub mod allocation;
pub mod api_server;
pub mod cases;
pub mod cluster_size;
pub mod engine;
pub mod first_answer;
pub mod fleet;
pub mod measure;
pub mod picture;
pub mod report;
pub mod scale;
pub mod tables;
pub mod wire;
