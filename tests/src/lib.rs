//! Herald's laboratory: a LAN of network namespaces with nodes, pods and clients in
//! it, where the suites of `tests/` and the demo run the real agent against real frames;
//! and what the kernel suite needs to run the programs on crafted frames.
#![deny(unsafe_code)]

pub mod bench;
pub mod kernel;
pub mod lab;
pub mod soak;
pub mod suite;
#[expect(unsafe_code, reason = "namespaces, raw sockets and bpf(2) have no safe form in std")]
pub mod system;
pub mod wait;
