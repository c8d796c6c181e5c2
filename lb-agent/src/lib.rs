//! Herald agent: from the Kubernetes API to the kernel's maps.
#![forbid(unsafe_code)]
pub mod api;
pub mod plan;
pub mod snapshot;
pub mod source;
