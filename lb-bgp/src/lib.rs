//! Herald's BGP speaker and its BFD, as far as they need neither sockets nor clocks.
//!
//! - [`session`] is a session with one peer: give it what happens and the time, do what it says.
//! - [`rib`] is what a peer should know, and the UPDATEs that tell it.
//! - [`message`] and [`attribute`] are what stands in messages.
//! - [`bfd`] is a session of Bidirectional Forwarding Detection beside it.
//!
//! The speaker announces routes of its own and takes none: what peers announce is checked, counted and
//! dropped. `docs/bgp.md` says what it supports, and why it decides as it does.
#![forbid(unsafe_code)]

pub mod attribute;
pub mod bfd;
mod family;
pub mod message;
#[cfg(test)]
mod oracle;
mod prefix;
mod random;
pub mod rib;
mod route;
pub mod session;
#[cfg(test)]
mod testing;
mod wire;

pub use family::{AfiSafi, Families, Family};
pub use random::Random;
pub use route::{DEFAULT_LOCAL_PREF, Route};
