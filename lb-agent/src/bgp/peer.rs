//! A peer: its session, driven over real connections.
use super::{
    connection::{Connection, Happening},
    plan::Routes,
    transport::Way,
};
use crate::{deadline::until, differences, system};
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use lb_bgp::{
    rib::RouteCounts,
    session::{Config, Counters, Endpoint, Link, Negotiated, Output, Reason, Session, State, Stop},
};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tracing::debug;

/// Happenings that may wait to be taken in: then no more is read.
const WAITING: usize = 64;
/// How long a peer is given to take what it is told last.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(2);

/// What a session is made of.
#[derive(Clone, PartialEq, Eq)]
pub struct Setup {
    /// The session itself.
    pub session: Config,
    /// How the peer is connected to.
    pub way: Way,
    /// This node's addresses, for routes of the family that the connection is not of: where the interface with the
    /// connection's address has others of that family, one of them.
    pub own: (Option<Ipv4Addr>, Option<Ipv6Addr>),
}

/// What is to be done.
#[derive(Debug)]
pub enum Order {
    /// These are all routes that the peer should have.
    Routes(Routes),
    /// The peer has connected.
    Accepted(TcpStream),
    /// BFD finds the peer no longer.
    BfdDown,
    /// Withdraw all, wait until the peer has taken that, then end.
    Leave(String),
    /// End.
    Stop(Stop),
}

/// What has happened, for people.
#[derive(Clone, Debug)]
pub enum News {
    /// The session is up.
    Up(Box<Negotiated>),
    /// A session that was up, or an attempt, has ended.
    Down {
        /// It was up.
        was_up: bool,
        /// Why.
        reason: Reason,
    },
    /// What the peer announces has a fault.
    Fault(String),
}

/// How a session is, at this moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// How far it has come.
    pub state: State,
    /// Its routes.
    pub routes: RouteCounts,
    /// What was counted.
    pub counters: Counters,
}

/// A peer that is spoken to.
pub struct Peer {
    /// What it was made of.
    pub setup: Setup,
    orders: mpsc::UnboundedSender<Order>,
    status: Arc<Mutex<Option<Status>>>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Begins to speak to a peer. `restarted`: as for [`Session::new`]. `news` gets the name with each.
    pub fn start(
        name: String,
        setup: Setup,
        restarted: bool,
        news: mpsc::UnboundedSender<(String, News)>,
    ) -> Self {
        let (orders, to_do) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(None));
        let (happenings, happened) = mpsc::channel(WAITING);
        let seed = rand_seed(&name);
        let session = Session::new(setup.session.clone(), restarted, seed, Instant::now());
        let task = Task {
            name,
            setup: setup.clone(),
            session,
            routes: Routes::new(),
            connections: HashMap::new(),
            connecting: FuturesUnordered::new(),
            attempts: HashMap::new(),
            happenings,
            news,
            status: Arc::clone(&status),
        };
        let task = tokio::spawn(task.run(to_do, happened));
        Self { setup, orders, status, task }
    }

    /// Tells it what to do. One that has ended does nothing.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// How its session is.
    pub fn status(&self) -> Option<Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has ended, after an order that ends it.
    pub async fn ended(self) {
        drop(self.orders);
        let _ = self.task.await;
    }
}

/// The node's addresses by which a peer reaches it that is beyond the interface with these: the node's own, unless
/// the interface has none of them but others.
fn beside(
    (ipv4, ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
    all: &[IpAddr],
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let there_v4 = all.iter().find_map(|one| match one {
        IpAddr::V4(one) if !one.is_link_local() => Some(*one),
        _ => None,
    });
    let there_v6 = all.iter().find_map(|one| match one {
        IpAddr::V6(one) if !one.is_unicast_link_local() => Some(*one),
        _ => None,
    });
    (
        ipv4.filter(|own| all.contains(&IpAddr::V4(*own))).or(there_v4).or(ipv4),
        ipv6.filter(|own| all.contains(&IpAddr::V6(*own))).or(there_v6).or(ipv6),
    )
}

/// Jitter needs no secret: only that nodes and sessions differ.
fn rand_seed(name: &str) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(name)
}

struct Open {
    connection: Connection,
    /// Something is being written.
    writes: bool,
}

/// `None` if it was given up.
type Attempt = BoxFuture<'static, (Link, Option<io::Result<TcpStream>>)>;

struct Task {
    name: String,
    setup: Setup,
    session: Session,
    /// Those that the session knows.
    routes: Routes,
    connections: HashMap<Link, Open>,
    connecting: FuturesUnordered<Attempt>,
    attempts: HashMap<Link, AbortHandle>,
    happenings: mpsc::Sender<(Link, Happening)>,
    news: mpsc::UnboundedSender<(String, News)>,
    status: Arc<Mutex<Option<Status>>>,
}

impl Task {
    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut happened: mpsc::Receiver<(Link, Happening)>,
    ) {
        self.session.start(Instant::now());
        let mut leaving: Option<(Instant, String)> = None;
        loop {
            let closing = self.drive();
            closing.await;
            if let Some((by, why)) = &leaving
                && (self.session.routes().is_flushed() || *by <= Instant::now())
            {
                self.session.stop(&Stop::Shutdown(why.clone()), Instant::now());
                self.drive().await;
                return;
            }
            let next = [self.session.next_deadline(), leaving.as_ref().map(|(by, _)| *by)];
            let next = next.into_iter().flatten().min();
            tokio::select! {
                // What has come is read before timers are looked at.
                biased;
                Some((link, happening)) = happened.recv() => self.take(link, happening),
                Some((link, result)) = self.connecting.next() => self.connected(link, result),
                order = orders.recv() => match order {
                    Some(Order::Routes(routes)) => self.set_routes(routes),
                    Some(Order::Accepted(stream)) => self.accepted(stream),
                    Some(Order::BfdDown) => self.session.bfd_down(Instant::now()),
                    Some(Order::Leave(why)) => {
                        self.set_routes(Routes::new());
                        leaving = Some((Instant::now() + FLUSH, why));
                    }
                    Some(Order::Stop(stop)) => {
                        self.session.stop(&stop, Instant::now());
                        self.drive().await;
                        return;
                    }
                    None => return,
                },
                () = until(next) => self.session.advance(Instant::now()),
            }
        }
    }

    /// Announces these routes and no others; what both share is not looked at.
    fn set_routes(&mut self, routes: Routes) {
        let rib = self.session.routes_mut();
        for prefix in differences::keys(&self.routes, &routes) {
            match routes.get(prefix) {
                Some(route) => rib.announce(*prefix, Arc::clone(route)),
                None => rib.withdraw(prefix),
            }
        }
        rib.set_whole();
        self.routes = routes;
    }

    /// Does what the session says; what is returned waits for last messages to be written.
    fn drive(&mut self) -> BoxFuture<'static, ()> {
        let mut closing = Vec::new();
        let now = Instant::now();
        loop {
            while let Some(output) = self.session.next_output() {
                match output {
                    Output::Connect(link) => {
                        let way = self.setup.way.clone();
                        let (abort, aborted) = AbortHandle::new_pair();
                        self.attempts.insert(link, abort);
                        let attempt = Abortable::new(async move { way.connect().await }, aborted);
                        self.connecting.push(attempt.map(move |it| (link, it.ok())).boxed());
                    }
                    Output::Close { link, last } => closing.extend(self.close(link, last)),
                    Output::Up(negotiated) => self.tell(News::Up(negotiated)),
                    Output::Down { state, reason } => {
                        let was_up = state == State::Established;
                        // Of two connections one ends as it should; what becomes of the other is told.
                        if was_up || !reason.is_collision() {
                            self.tell(News::Down { was_up, reason });
                        }
                    }
                    Output::Fault(fault) => self.tell(News::Fault(fault.to_string())),
                }
            }
            let mut more = false;
            for (link, open) in self.connections.iter_mut().filter(|(_, open)| !open.writes) {
                if let Some(bytes) = self.session.transmit(*link, now) {
                    open.connection.write(bytes);
                    (open.writes, more) = (true, true);
                }
            }
            if !more {
                break;
            }
        }
        let status = Status {
            state: self.session.state(),
            routes: self.session.routes().counts(),
            counters: *self.session.counters(),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        async move {
            for close in closing {
                close.await;
            }
        }
        .boxed()
    }

    fn close(&mut self, link: Link, last: Option<Bytes>) -> Option<BoxFuture<'static, ()>> {
        if let Some(attempt) = self.attempts.remove(&link) {
            attempt.abort();
        }
        let open = self.connections.remove(&link)?;
        let closing = open.connection.close(last);
        Some(closing.boxed())
    }

    fn tell(&self, news: News) {
        // Whoever listened has ended before.
        let _ = self.news.send((self.name.clone(), news));
    }

    fn connected(&mut self, link: Link, result: Option<io::Result<TcpStream>>) {
        let now = Instant::now();
        // One that was given up just as it succeeded is closed here.
        let (Some(result), Some(_)) = (result, self.attempts.remove(&link)) else { return };
        match result.and_then(|stream| Ok((self.endpoint(&stream)?, stream))) {
            Ok((endpoint, stream)) => {
                self.open(link, stream);
                self.session.connected(link, endpoint, now);
            }
            Err(error) => self.session.connect_failed(link, &error.to_string(), now),
        }
    }

    /// The peer has connected; where that is not wanted, its connection is closed.
    fn accepted(&mut self, stream: TcpStream) {
        let endpoint = self.setup.way.accept(&stream).and_then(|()| self.endpoint(&stream));
        match endpoint {
            Ok(endpoint) => match self.session.accepted(endpoint, Instant::now()) {
                Ok(link) => self.open(link, stream),
                Err(refusal) => debug!(peer = self.name, %refusal, "its connection is not taken"),
            },
            Err(error) => debug!(peer = self.name, %error, "its connection is gone"),
        }
    }

    fn open(&mut self, link: Link, stream: TcpStream) {
        let connection = Connection::start(link, stream, self.happenings.clone());
        self.connections.insert(link, Open { connection, writes: false });
    }

    /// This end of a connection.
    fn endpoint(&self, stream: &TcpStream) -> io::Result<Endpoint> {
        let local = stream.local_addr()?.ip().to_canonical();
        let link_local = match local {
            IpAddr::V6(local) if local.is_unicast_link_local() => Some(local),
            _ => None,
        };
        let (ipv4, ipv6) = match link_local {
            Some(_) => self.setup.own,
            None => beside(self.setup.own, &system::addresses_beside(local)?),
        };
        Ok(Endpoint { local, ipv4, ipv6, link_local })
    }

    fn take(&mut self, link: Link, happening: Happening) {
        let now = Instant::now();
        let Some(open) = self.connections.get_mut(&link) else { return };
        match happening {
            Happening::Received(bytes) => self.session.received(link, &bytes, now),
            Happening::Written => open.writes = false,
            Happening::Closed(why) => {
                self.connections.remove(&link);
                self.session.closed(link, &why, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;

    #[test]
    fn the_other_familys_next_hop_is_on_the_same_interface() {
        let own = (Some(Ipv4Addr::new(10, 0, 0, 1)), Some("fd00::1".parse().unwrap()));
        let of = |all: &[&str]| beside(own, &all.iter().map(|one| ip(one)).collect::<Vec<_>>());
        assert_eq!(of(&[]), own);
        assert_eq!(of(&["10.0.0.1", "fe80::1"]), own, "there is no other");
        assert_eq!(of(&["fd00::7", "10.0.0.1", "fd00::1"]), own, "the node's own first");
        let other = (Some(Ipv4Addr::new(10, 9, 0, 1)), Some("fd09::1".parse().unwrap()));
        assert_eq!(of(&["fe80::1", "10.9.0.1", "fd09::1"]), other);
        assert_eq!(beside((None, None), &[ip("10.9.0.1")]).0, other.0, "one without an InternalIP");
    }

    #[test]
    fn the_addresses_of_an_interface_are_found() {
        let all = system::addresses_beside(ip("127.0.0.1")).unwrap();
        assert!(all.contains(&ip("127.0.0.1")), "{all:?}");
        assert_eq!(system::addresses_beside(ip("192.0.2.1")).unwrap(), [] as [IpAddr; 0]);
    }
}
