//! Herald's agent: from the Kubernetes API to the kernel's maps.
#![deny(unsafe_code)]
pub mod api;
pub mod bgp;
mod bytes;
pub mod cli;
pub mod conntrack;
pub mod datapath;
mod deadline;
mod differences;
mod duty_cycle;
pub mod exit;
pub mod http;
pub mod inspect;
pub mod ipam;
pub mod l2;
pub mod membership;
pub mod metrics;
pub mod plan;
pub mod reference;
pub mod resort;
pub mod run;
pub mod running;
pub mod snapshot;
pub mod source;
#[expect(unsafe_code, reason = "the one module that makes system calls no safe library offers")]
pub mod system;
#[cfg(test)]
mod testing;
pub mod validate;
pub mod webhook;

pub use datapath::object::OBJECT;
