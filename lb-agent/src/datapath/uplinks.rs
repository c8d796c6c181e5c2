//! uplinks
use ipnet::IpNet;

/// An interface on which VIP traffic arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Its addresses, with their prefix lengths.
    pub addresses: Vec<IpNet>,
}
