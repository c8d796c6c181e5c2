//! Telling the network that a VIP has moved here.
//!
//! Questions are answered in the kernel. What is left to the agent is to speak
//! unasked, so that caches and switches that know the former owner learn of the new one.
pub mod announcer;
pub mod conflicts;
pub mod frame;
pub mod pace;

pub use announcer::{Announcement, Announcer, Outgoing};
