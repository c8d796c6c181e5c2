//! Herald agent: from the Kubernetes API to the kernel's maps.
#![forbid(unsafe_code)]
mod object_bytes;
pub mod plan;
pub mod snapshot;

pub use object_bytes::OBJECT;
