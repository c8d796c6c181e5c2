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
//! * [`bgp`]: from the creation of a Service to the route in a router, and thousands of routes
//! * [`cluster_size`], [`fleet`]: a large cluster on a real API server
//! * [`failover`]: what clients notice when links are cut and agents change
//! * [`api_server`]: what these have in common
//! * [`report`], [`picture`]: the results as text, as JSON and as a picture

pub mod allocation;
pub mod api_server;
pub mod bgp;
pub mod cases;
pub mod cluster_size;
pub mod engine;
pub mod failover;
pub mod first_answer;
pub mod fleet;
pub mod measure;
pub mod picture;
pub mod report;
pub mod scale;
pub mod tables;
pub mod wire;

use crate::lab::{Lab, Recording};
use anyhow::{Context as _, Result};

/// Does something in a laboratory of one node without pods; what is logged there stays if that fails.
fn in_laboratory<T>(body: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let lab = Lab::without_pods(1, Recording::None)?;
    let result = body(&lab);
    if result.is_err() {
        lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", lab.directory.display()))
}
