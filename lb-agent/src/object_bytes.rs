//! The kernel programs as the build script left them.

/// The ELF object of `lb-ebpf`, aligned as its parser needs it; empty when the agent was
/// built with `LB_BPF_OBJECT=none`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.bpf.o"));
