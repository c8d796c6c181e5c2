//! What the pinned maps say, for people: `lb-agent explain` and `lb-agent watch`.
//!
//! Both read what stands in the kernel, not what an agent believes, and need no agent.
pub mod capture;
pub mod commands;
pub mod explain;
pub mod flow;
pub mod pinned;
pub mod sample;
pub mod watch;
