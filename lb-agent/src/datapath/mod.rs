//! From the plan to the kernel: programs, links, maps, neighbours, groups.
//!
//! The kernel carries traffic without the agent, so everything here is pinned or has a
//! life of its own in the kernel, and the agent adopts what it finds when it starts:
//!
//! * [`preflight`]: whether this machine can run it at all
//! * [`conflicts`]: which network plugin it runs beside
//! * [`pins`], [`object`], [`attach`]: the programs and maps, their pins, attaching to interfaces
//! * [`uplinks`], [`excluded`], [`neighbours`], [`multicast`]: what netlink tells and keeps for us
//! * [`reach`], [`tunnels`]: by which way packets are sent on, and what that asks of TCP
//! * [`diff`] (pure), [`state`], [`maps`], [`apply`]: the plan written into the maps
//! * [`replies`]: whether replies leave where they are seen
//! * [`stats`]: the counters
//! * [`check`], [`features`]: what an operator is told before
//! * [`events`], [`flows`]: what the program tells, and the tables of flows
pub mod apply;
pub mod attach;
pub mod check;
pub mod conflicts;
pub mod diff;
mod error;
pub mod events;
pub mod excluded;
pub mod features;
pub mod flows;
#[cfg(feature = "debug-object")]
mod frame_log;
pub mod maps;
pub mod multicast;
pub mod neighbours;
pub mod netlink;
pub mod object;
pub mod pins;
pub mod preflight;
pub mod ranges;
pub mod reach;
pub mod replies;
mod routes;
pub mod slots;
pub mod state;
pub mod stats;
pub mod tunnels;
pub mod uninstall;
pub mod uplinks;

pub use error::{Error, MapLayout};

use lb_common::maps::{DEFAULT_FLOWS, DEFAULT_ROWS, mapped};
use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

/// Where maps and links are pinned unless the agent is told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/herald";

/// The UDP port on which nodes take packets from each other, unless told otherwise.
pub const DEFAULT_TUNNEL_PORT: u16 = crate::membership::DEFAULT_PORT + 1;

/// How the ingress program may be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// Native where the interface takes it, else tcx
    #[default]
    Auto,
    /// In the driver, before the kernel allocates anything
    Native,
    /// After the driver. Slower, and all of the interface's traffic loses receive offload
    Generic,
    /// Not by XDP: at the beginning of the kernel's network stack
    Tcx,
}

/// How the ingress program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IngressMode {
    /// [`XdpMode::Native`]
    Native,
    /// [`XdpMode::Generic`]
    Generic,
    /// [`XdpMode::Tcx`]
    Tcx,
}

impl IngressMode {
    /// As operators write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
        }
    }
}

/// How programs and maps are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory for pins, on a BPF file system. One per network namespace.
    pub pin_dir: PathBuf,
    /// Capacity of `ROWS`, unless it is pinned already.
    pub rows: u32,
    /// Capacity of `FLOWS`, unless it is pinned already.
    pub flows: u32,
    /// How the ingress program may be attached.
    pub xdp_mode: XdpMode,
    /// UDP port on which nodes take packets from each other, the same on all.
    pub tunnel_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pin_dir: DEFAULT_PIN_DIR.into(),
            rows: DEFAULT_ROWS,
            flows: DEFAULT_FLOWS,
            xdp_mode: XdpMode::default(),
            tunnel_port: DEFAULT_TUNNEL_PORT,
        }
    }
}

/// An address as the maps hold it.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// An address that the maps hold.
pub fn address_from_bytes(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}
