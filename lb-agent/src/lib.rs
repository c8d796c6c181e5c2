//! Herald agent: from the Kubernetes API to the kernel's maps.
#![forbid(unsafe_code)]
pub mod ipam;
pub mod membership;
pub mod plan;
pub mod snapshot;
#[cfg(test)]
mod testing;
