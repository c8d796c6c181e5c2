//! Herald agent: from the Kubernetes API to the kernel's maps.
#![deny(unsafe_code)]
pub mod cli;
pub mod datapath;
pub mod exit;
pub mod plan;
pub mod snapshot;
#[expect(unsafe_code, reason = "the one module that makes system calls no safe library offers")]
pub mod system;
