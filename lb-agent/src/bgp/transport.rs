//! Connections to peers, as their BGPPeers want them.
use crate::system;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
};
use tokio::net::{TcpSocket, TcpStream};

/// RFC 5082 section 3: a peer that knows that it is one hop away may demand it. A peer that does not care takes
/// any.
pub(super) const ONE_HOP_TTL: u32 = 255;

/// A socket to speak to an address by: by a device, where one is given, and with a TTL or hop limit.
pub(super) fn socket(
    kind: Type,
    protocol: Option<Protocol>,
    to: IpAddr,
    device: Option<&str>,
    ttl: Option<u32>,
) -> io::Result<Socket> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), protocol)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    match ttl {
        Some(ttl) if to.is_ipv4() => socket.set_ttl_v4(ttl)?,
        Some(ttl) => socket.set_unicast_hops_v6(ttl)?,
        None => {}
    }
    Ok(socket)
}

/// The unspecified address of a family: any of this node's.
pub(super) fn any(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Whether two addresses are of the same host, whatever their ports are. A link-local one says so only with its
/// interface.
pub(super) fn is_same_host(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address: &SocketAddr| match address {
        SocketAddr::V6(address) if address.ip().is_unicast_link_local() => address.scope_id(),
        _ => 0,
    };
    one.ip() == other.ip() && scope(&one) == scope(&other)
}

/// How a peer is connected to.
#[derive(Clone, PartialEq, Eq)]
pub struct Way {
    /// Where it is.
    pub to: SocketAddr,
    /// The address to speak from.
    pub source: Option<IpAddr>,
    /// The interface to speak by, where the peer is named by one.
    pub interface: Option<String>,
    /// The VRF that it is in.
    pub vrf: Option<String>,
    /// The password of RFC 2385.
    pub password: Option<String>,
    /// It may be several hops away.
    pub multihop: bool,
    /// What comes from further away than one hop is not taken (RFC 5082).
    pub ttl_security: bool,
}

impl Way {
    /// What sockets are bound to. An interface in a VRF is in that VRF.
    pub fn device(&self) -> Option<&str> {
        self.interface.as_deref().or(self.vrf.as_deref())
    }

    /// What holds for a connection, whoever has made it.
    fn prepare(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if self.ttl_security {
            system::demand_ttl(socket.as_fd(), self.to.is_ipv6(), ONE_HOP_TTL)?;
        }
        Ok(())
    }

    /// Prepares a connection that the peer has made.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn accept(&self, stream: &TcpStream) -> io::Result<()> {
        self.prepare(&SockRef::from(stream))
    }

    /// Connects. How long that takes is the caller's business.
    ///
    /// # Errors
    ///
    /// Those of socket(7), tcp(7) and connect(2): `PermissionDenied` without `CAP_NET_RAW` for a device.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let ttl = (!self.multihop).then_some(ONE_HOP_TTL);
        let socket = socket(Type::STREAM, None, self.to.ip(), self.device(), ttl)?;
        if let Some(password) = &self.password {
            system::sign_with_md5(socket.as_fd(), self.to, password.as_bytes())?;
        }
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        self.prepare(&SockRef::from(&socket))?;
        let stream = TcpSocket::from_std_stream(socket.into()).connect(self.to).await?;
        Ok(stream)
    }
}
