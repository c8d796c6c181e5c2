//! Takes connections of peers: of those that are configured, by their addresses, and signed where there
//! is a password.
use super::transport::{ONE_HOP_TTL, Way, any, is_same_host, socket};
use crate::system;
use socket2::Type;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, sleep},
};
use tracing::{debug, warn};

/// Connections that may wait to be taken by the kernel.
const BACKLOG: i32 = 128;
/// Connections that may wait to be looked at.
pub const WAITING: usize = 16;
/// After a failure to take a connection, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that somebody has made.
#[derive(Debug)]
pub struct Accepted {
    /// Who.
    pub from: SocketAddr,
    /// In which VRF.
    pub vrf: Option<String>,
    /// The connection.
    pub stream: TcpStream,
}

impl Accepted {
    /// Whether it is from the peer that is connected to that way.
    pub fn is_from(&self, way: &Way) -> bool {
        is_same_host(self.from, way.to) && self.vrf == way.vrf
    }
}

/// The listening sockets. Dropped, they are closed.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    accepted: mpsc::Sender<Accepted>,
    /// By VRF, IPv4 and IPv6.
    sockets: BTreeMap<(Option<String>, bool), Socket>,
}

#[derive(Debug)]
struct Socket {
    listener: Arc<TcpListener>,
    /// The passwords by peers' addresses, as the kernel has them.
    passwords: BTreeMap<IpAddr, String>,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Listens outside of VRFs.
    ///
    /// # Errors
    ///
    /// Those of socket(7) and bind(2): the port is taken, or needs `CAP_NET_BIND_SERVICE`.
    pub fn open(port: u16, accepted: mpsc::Sender<Accepted>) -> io::Result<Self> {
        let mut listener = Self { port, accepted, sockets: BTreeMap::new() };
        for ipv6 in [false, true] {
            match listener.add(None, ipv6) {
                // A kernel without IPv6 has no peers of it.
                Err(error) if ipv6 && error.kind() == io::ErrorKind::Unsupported => {}
                opened => opened?,
            }
        }
        Ok(listener)
    }

    fn add(&mut self, vrf: Option<String>, ipv6: bool) -> io::Result<()> {
        let any = any(ipv6);
        // What answers a connection's first packet has it as well, as a neighbour may demand.
        let ttl = Some(ONE_HOP_TTL);
        let socket = socket(Type::STREAM, None, any, vrf.as_deref(), ttl)?;
        if ipv6 {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, self.port).into())?;
        socket.listen(BACKLOG)?;
        let listener = Arc::new(TcpListener::from_std(socket.into())?);
        let task = accept(Arc::clone(&listener), vrf.clone(), self.accepted.clone());
        let socket = Socket { listener, passwords: BTreeMap::new(), task: tokio::spawn(task) };
        self.sockets.insert((vrf, ipv6), socket);
        Ok(())
    }

    /// These are all peers, as they are connected to.
    pub fn set(&mut self, ways: &[&Way]) {
        let wanted: BTreeSet<_> =
            ways.iter().map(|way| (way.vrf.clone(), way.to.is_ipv6())).collect();
        self.sockets.retain(|place, _| place.0.is_none() || wanted.contains(place));
        for (vrf, ipv6) in wanted {
            let place = (vrf.clone(), ipv6);
            if !self.sockets.contains_key(&place)
                && let Err(error) = self.add(vrf, ipv6)
            {
                warn!(vrf = place.0, ipv6, port = self.port, %error, "peers cannot be listened to");
            }
        }
        for ((vrf, ipv6), socket) in &mut self.sockets {
            let its = ways.iter().filter(|way| way.to.is_ipv6() == *ipv6 && way.vrf == *vrf);
            let passwords = its.filter_map(|way| Some((way.to.ip(), way.password.clone()?)));
            socket.sign(passwords.collect());
        }
    }
}

impl Socket {
    /// Demands signatures of those peers that have passwords, and no others.
    fn sign(&mut self, passwords: BTreeMap<IpAddr, String>) {
        let gone = self.passwords.keys().filter(|peer| !passwords.contains_key(peer));
        let gone = gone.map(|peer| (*peer, ""));
        let new = passwords.iter().filter(|(peer, one)| self.passwords.get(peer) != Some(one));
        let new = new.map(|(peer, password)| (*peer, password.as_str()));
        for (peer, password) in gone.chain(new) {
            let to = SocketAddr::new(peer, 0);
            if let Err(error) =
                system::sign_with_md5(self.listener.as_fd(), to, password.as_bytes())
            {
                warn!(%peer, %error, "the password of connections that it makes cannot be set");
            }
        }
        self.passwords = passwords;
    }
}

async fn accept(listener: Arc<TcpListener>, vrf: Option<String>, accepted: mpsc::Sender<Accepted>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let connection = Accepted { from, vrf: vrf.clone(), stream };
                // Who connects faster than that is no peer.
                if accepted.try_send(connection).is_err() {
                    debug!(%from, "too many connect at once");
                }
            }
            Err(error) => {
                debug!(%error, "no connection taken");
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(to: &str, interface: Option<&str>, vrf: Option<&str>) -> Way {
        Way {
            to: to.parse().unwrap(),
            source: None,
            interface: interface.map(str::to_owned),
            vrf: vrf.map(str::to_owned),
            password: None,
            multihop: false,
            ttl_security: false,
        }
    }

    #[tokio::test]
    async fn connections_are_known_by_address_scope_and_vrf() {
        let (accepted, mut incoming) = mpsc::channel(1);
        // Any free port.
        let mut listener = Listener::open(0, accepted).unwrap();
        let socket = &listener.sockets[&(None, false)];
        let at = SocketAddr::from(([127, 0, 0, 1], socket.listener.local_addr().unwrap().port()));
        let connecting = TcpStream::connect(at).await.unwrap();
        let connection = incoming.recv().await.unwrap();
        assert_eq!(connection.from, connecting.local_addr().unwrap());
        assert!(connection.is_from(&way("127.0.0.1:179", None, None)), "its port does not matter");
        assert!(!connection.is_from(&way("127.0.0.2:179", None, None)));
        assert!(!connection.is_from(&way("127.0.0.1:179", None, Some("blue"))));
        let local = Accepted { from: "[fe80::1%3]:50000".parse().unwrap(), ..connection };
        assert!(local.is_from(&way("[fe80::1%3]:179", Some("eth0"), None)));
        assert!(!local.is_from(&way("[fe80::1%4]:179", Some("eth1"), None)), "another interface");
        assert!(!local.is_from(&way("[fe80::1%3]:179", Some("eth0"), Some("blue"))), "in a VRF");
        listener.set(&[]);
        assert_eq!(listener.sockets.len(), 2, "outside of VRFs it is always listened");
    }
}
