//! A flow as it is written on the command line.
use crate::snapshot::Protocol;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// A VIP's port, written `VIP:PORT/PROTO`; without a protocol, TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipPort {
    /// Address and port.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
}

impl FromStr for VipPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("protocol {other:?}: expected TCP, UDP or SCTP")),
        };
        Ok(Self { address: client(address)?, protocol })
    }
}

/// Reads `ADDRESS:PORT`, IPv6 in brackets.
///
/// # Errors
///
/// What was expected.
pub fn client(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?}: expected ADDRESS:PORT, such as 192.0.2.1:40000 or [2001:db8::1]:40000")
    })
}

/// A flow from a client to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}

impl Flow {
    /// The flow of a client to a VIP's port.
    ///
    /// # Errors
    ///
    /// They are of different families.
    pub fn new(client: SocketAddr, vip: VipPort) -> Result<Self, String> {
        let VipPort { address: vip, protocol } = vip;
        if client.is_ipv4() != vip.is_ipv4() {
            return Err(format!("{client} and {vip} are of different families"));
        }
        Ok(Self { client, vip, protocol })
    }

    /// The hash by which the flow finds its row: over all of it, or over the addresses alone.
    pub fn hash(&self, addresses_only: bool) -> u32 {
        use lb_common::hash::{flow_hash_v4, flow_hash_v6};
        let wire = |port: u16| u32::from(u16::from_le_bytes(port.to_be_bytes()));
        let (ports, protocol) = if addresses_only {
            (0, 0)
        } else {
            let ports = wire(self.client.port()) | wire(self.vip.port()) << 16;
            (ports, self.protocol.number())
        };
        match (self.client.ip(), self.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => flow_hash_v4(
                u32::from_le_bytes(client.octets()),
                u32::from_le_bytes(vip.octets()),
                ports,
                protocol,
            ),
            (client, vip) => flow_hash_v6(words(client), words(vip), ports, protocol),
        }
    }
}

fn words(address: IpAddr) -> [u32; 4] {
    let bytes = crate::datapath::address_bytes(address);
    std::array::from_fn(|n| {
        u32::from_le_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]])
    })
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}/{}", self.client, self.vip, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<VipPort>();
        let tcp = read("10.0.0.1:80").unwrap();
        assert_eq!((tcp.address.port(), tcp.protocol), (80, Protocol::Tcp));
        assert_eq!(read("[2001:db8::1]:53/udp").unwrap().protocol, Protocol::Udp);
        assert!(read("10.0.0.1:80/quic").unwrap_err().contains("TCP, UDP or SCTP"));
        assert!(read("10.0.0.1").unwrap_err().contains("ADDRESS:PORT"));
        let six = read("[2001:db8::1]:53/UDP").unwrap();
        assert!(Flow::new("192.0.2.1:1".parse().unwrap(), six).unwrap_err().contains("families"));
    }

    /// The golden vectors of `lb_common::hash`.
    #[test]
    fn the_hash_is_the_kernel_programs() {
        let vip = "198.51.100.7:80/tcp".parse().unwrap();
        let flow = Flow::new("192.0.2.1:40000".parse().unwrap(), vip).unwrap();
        assert_eq!(flow.hash(false), 1_079_055_488);
        let vip = "[2001:db8::2]:80/udp".parse().unwrap();
        let flow = Flow::new("[2001:db8::1]:40000".parse().unwrap(), vip).unwrap();
        assert_eq!(flow.hash(false), 1_001_844_767);
        assert_ne!(flow.hash(true), flow.hash(false));
    }
}
