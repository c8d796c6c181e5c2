//! Finds the routers that peers without an address name by an interface: by their router
//! advertisements, as FRR does, which in turn takes a connection only from whom it has heard so.
use super::{
    router_advertisement::{
        ADVERTISEMENT, HOP_LIMIT, Heard, Routers, SOLICITATION, advertisement, read, solicitation,
    },
    transport::socket,
};
use crate::system;
use socket2::{Protocol, SockAddr, Type};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};
use tokio::{
    io::unix::AsyncFd,
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

/// Between two advertisements: FRR's, where it is asked for unnumbered peers.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same until a router is heard.
const EAGER: Duration = Duration::from_secs(1);
/// After so long without a router on the interface, that is told.
const PATIENCE: Duration = Duration::from_secs(30);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Larger than any advertisement that matters; what is cut off are options.
const BUFFER: usize = 1500;

/// What is known of the router on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Router {
    /// It may be heard any moment.
    Awaited,
    /// It is there.
    At {
        /// Its link-local address.
        address: Ipv6Addr,
        /// The interface's index.
        scope: u32,
    },
    /// There is none: what to do about it.
    Missing(String),
}

/// By interfaces' names.
pub type Found = BTreeMap<String, Router>;

/// Looks for routers on interfaces. Dropped, it ends.
#[derive(Debug)]
pub struct Discovery {
    tasks: BTreeMap<String, JoinHandle<()>>,
    found: watch::Sender<Found>,
}

impl Discovery {
    /// Looks on no interface yet.
    pub fn new(found: watch::Sender<Found>) -> Self {
        Self { tasks: BTreeMap::new(), found }
    }

    /// Looks on exactly these interfaces.
    pub fn set(&mut self, interfaces: &BTreeSet<String>) {
        self.tasks.retain(|name, task| {
            let wanted = interfaces.contains(name);
            if !wanted {
                task.abort();
                self.found.send_modify(|found| drop(found.remove(name)));
            }
            wanted
        });
        for name in interfaces {
            self.tasks.entry(name.clone()).or_insert_with(|| {
                self.found.send_modify(|found| drop(found.insert(name.clone(), Router::Awaited)));
                tokio::spawn(look(name.clone(), self.found.clone()))
            });
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

/// The interface as it is now, and a socket on it.
struct Link {
    scope: u32,
    socket: AsyncFd<UdpSocket>,
}

impl Link {
    fn open(name: &str) -> io::Result<Self> {
        let scope = system::interface_index(name)?;
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let socket = socket(Type::RAW, Some(Protocol::ICMPV6), any, Some(name), None)?;
        socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
        socket.set_multicast_loop_v6(false)?;
        socket.join_multicast_v6(&ALL_ROUTERS, scope)?;
        system::tell_ttl(socket.as_fd(), true)?;
        system::only_icmpv6(socket.as_fd(), &[SOLICITATION, ADVERTISEMENT])?;
        Ok(Self { scope, socket: system::await_datagrams(socket.into())? })
    }

    fn send(&self, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
        let to = SockAddr::from(SocketAddrV6::new(to, 0, 0, self.scope));
        socket2::SockRef::from(self.socket.get_ref()).send_to(message, &to).map(drop)
    }

    /// What waits at the socket.
    fn receive(&self) -> Option<Option<Heard>> {
        let mut buffer = [0; BUFFER];
        let received = system::receive_with_ttl(self.socket.get_ref().as_fd(), &mut buffer);
        let (length, from, hop_limit) = received.ok()?;
        let IpAddr::V6(from) = from.ip() else { return Some(None) };
        Some(read(buffer.get(..length)?, from, hop_limit))
    }
}

/// Looks for the router on an interface for ever, and tells that this node is there.
async fn look(name: String, found: watch::Sender<Found>) {
    let began = Instant::now();
    let mut link: Option<Link> = None;
    let mut routers = Routers::default();
    let mut several = None;
    let mut turn = interval(EAGER);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_at: Option<Instant> = None;
    loop {
        let arrived = async {
            match &link {
                Some(link) => {
                    if let Ok(mut ready) = link.socket.readable().await {
                        ready.clear_ready();
                    }
                }
                None => std::future::pending().await,
            }
        };
        let mut trouble = None;
        tokio::select! {
            () = arrived => {
                while let Some(heard) = link.as_ref().and_then(Link::receive) {
                    match heard {
                        Some(Heard::Advertisement(router, lifetime)) => {
                            routers.heard(router, lifetime, Instant::now());
                        }
                        Some(Heard::Solicitation) => told_at = None,
                        None => {}
                    }
                }
            }
            _ = turn.tick() => {
                // It may have been made anew under the same name.
                let index = system::interface_index(&name);
                if link.as_ref().map(|link| link.scope) != index.as_ref().ok().copied() {
                    (link, routers) = (None, Routers::default());
                }
                if link.is_none() {
                    match index.and_then(|_| Link::open(&name)) {
                        Ok(open) => (link, told_at) = (Some(open), None),
                        Err(error) => trouble = Some(format!("interface {name}: {error}")),
                    }
                }
                routers.expire(Instant::now());
            }
        }
        if let Some(link) = &link
            && told_at.is_none_or(|at| {
                at.elapsed() >= INTERVAL || routers.known().is_none() && at.elapsed() >= EAGER
            })
        {
            told_at = Some(Instant::now());
            // What is not sent now, while the link is down, is sent with the next turn.
            let _ = link.send(ALL_NODES, &advertisement());
            if routers.known().is_none() {
                let _ = link.send(ALL_ROUTERS, &solicitation());
            }
        }
        if several != routers.other() {
            several = routers.other();
            if let (Some(other), Some(known)) = (several, routers.known()) {
                warn!(interface = name, %other, "a second router is heard, where one is expected: {known} is spoken to");
            }
        }
        let scope = link.as_ref().map(|link| link.scope);
        let now = match (routers.known(), scope, trouble) {
            (Some(address), Some(scope), _) => Router::At { address, scope },
            (_, _, Some(trouble)) => Router::Missing(trouble),
            _ if began.elapsed() < PATIENCE => Router::Awaited,
            _ => Router::Missing(format!(
                "no router advertisement has been heard on interface {name}: have the router send them there, or name its address in spec.peerAddress"
            )),
        };
        found.send_if_modified(|found| {
            let entry = found.get_mut(&name);
            entry.is_some_and(|entry| {
                let changed = *entry != now;
                *entry = now;
                changed
            })
        });
    }
}
