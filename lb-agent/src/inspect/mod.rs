//! What this node does, for people and scripts: `lb-agent status`, `explain`, `watch`, `maps`, `bundle`.
//!
//! All read what stands in the kernel, not what an agent believes, and need no agent; `status` and
//! `bundle` ask it for what the kernel does not know.
pub mod bundle;
pub mod capture;
pub mod columns;
pub mod commands;
pub mod explain;
pub mod flow;
pub mod maps;
pub mod pinned;
pub mod sample;
pub mod status;
pub mod watch;
