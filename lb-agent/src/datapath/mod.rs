//! From the plan to the kernel: programs, links, maps, neighbours, groups.
//!
//! The kernel carries traffic without the agent, so everything here is pinned or has a
//! life of its own in the kernel, and the agent adopts what it finds when it starts:
//!
//! * [`preflight`]: whether this machine can run it at all
//! * [`conflicts`]: which network plugin it runs beside
//! * [`pins`], [`object`]: the programs and maps, their pins, attaching to interfaces
//! * [`uplinks`], [`neighbours`], [`multicast`]: what netlink tells and keeps for us
//! * [`diff`] (pure), [`state`], [`maps`], [`apply`]: the plan written into the maps
//! * [`stats`]: the counters
pub mod apply;
pub mod conflicts;
pub mod diff;
mod error;
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
pub mod slots;
pub mod state;
pub mod stats;
pub mod uplinks;

pub use error::{Error, MapLayout};

use lb_common::maps::{DEFAULT_FLOWS, DEFAULT_ROWS, mapped};
use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

/// Where maps and links are pinned unless the agent is told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/herald";

/// How the ingress program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// In the driver, before the kernel allocates anything.
    #[default]
    Native,
    /// After the driver: for interfaces without native XDP. Slower, and all of the
    /// interface's traffic loses receive offload.
    Generic,
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
    /// How the ingress program is attached.
    pub xdp_mode: XdpMode,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pin_dir: DEFAULT_PIN_DIR.into(),
            rows: DEFAULT_ROWS,
            flows: DEFAULT_FLOWS,
            xdp_mode: XdpMode::default(),
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
