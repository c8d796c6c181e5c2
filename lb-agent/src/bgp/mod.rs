//! BGP: which routers this node speaks to, which routes it tells them, and speaking to them.
//!
//! [`configuration`] reads the resources; [`plan`] decides, as a function of them and of what the
//! API says. The sessions themselves are [`lb_bgp`]'s; [`speaker`] runs them, a task for each
//! [`peer`], over [connections](transport) of the kernel's, also those that peers [make](listener), and [`bfd`] beside them. [`unnumbered`] finds peers that
//! have no address.
pub mod bfd;
pub mod configuration;
mod connection;
pub mod listener;
pub mod peer;
pub mod plan;
pub mod router_advertisement;
pub mod speaker;
pub mod transport;
pub mod unnumbered;

pub use configuration::Configuration;
pub use plan::Plan;
