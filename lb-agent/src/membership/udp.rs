//! The sockets of the heartbeat.
//!
//! They run on a thread with a runtime of its own, so that no work elsewhere in the
//! agent delays a heartbeat.
use super::{
    Alive, Departure, Hearing, KnownNodes, Liveness, NodeCookies,
    cookies::Cookie,
    echo::{is_reply, request},
    heartbeat::{Heartbeats, Output, Timing},
    message::{self, MAX_LENGTH},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::UdpSocket,
    runtime,
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};
use tracing::{debug, info, warn};

/// Datagrams that may wait for the core; more are dropped, as by a full socket.
const QUEUE: usize = 1024;

/// How long to wait before binding is tried again.
const REBIND: Duration = Duration::from_secs(1);

/// Why the heartbeat cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or may not be used.
    #[error(
        "cannot listen for other agents on {address}/udp: {source}; end the program that uses the \
         port, or choose another one for all agents"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No thread or runtime for it.
    #[error("cannot start the heartbeat's thread: {0}")]
    Thread(#[from] io::Error),
}

/// What is told from outside.
#[derive(Clone, Debug, Default)]
struct Inputs {
    nodes: KnownNodes,
    interfaces: BTreeSet<String>,
    departure: Option<Departure>,
}

/// A datagram between agents that is no heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The other node: who sent it, by its source address, or whom to send it to.
    pub node: String,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// What the heartbeat carries to other nodes.
#[derive(Debug)]
enum Tell {
    Cookie(Cookie),
    Probe(IpAddr),
    Send(Datagram),
}

/// What else the heartbeat carries, and what shares its sockets.
#[derive(Clone, Debug)]
pub struct Exchange {
    tell: mpsc::Sender<Tell>,
    cookies: watch::Receiver<Arc<NodeCookies>>,
    hearing: watch::Receiver<Arc<Hearing>>,
}

impl Exchange {
    /// What the other nodes ask tunnelled packets to carry, now and as it changes.
    pub fn cookies(&self) -> watch::Receiver<Arc<NodeCookies>> {
        self.cookies.clone()
    }

    /// Which probe frames have arrived at others, now and as it changes.
    pub fn hearing(&self) -> watch::Receiver<Arc<Hearing>> {
        self.hearing.clone()
    }

    /// Tells the others what this node asks for, and already takes.
    pub async fn tell_cookie(&self, cookie: Cookie) {
        // Fails only once the heartbeat has ended.
        let _ended = self.tell.send(Tell::Cookie(cookie)).await;
    }

    /// Tells the agent with this address that its probe frame has arrived.
    pub fn heard_probe(&self, sender: IpAddr) {
        if self.tell.try_send(Tell::Probe(sender)).is_err() {
            debug!("a probe frame is not told of: there is too much to tell");
        }
    }

    /// Sends a datagram to another agent, as surely as UDP does. False if there is too
    /// much to send.
    pub fn send(&self, datagram: Datagram) -> bool {
        self.tell.try_send(Tell::Send(datagram)).is_ok()
    }
}

/// Liveness by UDP heartbeat. Ends when dropped.
#[derive(Debug)]
pub struct UdpLiveness {
    inputs: Option<watch::Sender<Inputs>>,
    alive: watch::Receiver<Arc<Alive>>,
    exchange: Exchange,
    datagrams: Option<mpsc::Receiver<Datagram>>,
    thread: Option<JoinHandle<()>>,
}

impl UdpLiveness {
    /// Starts the heartbeat of node `me` on `port` of its InternalIPs, or of all its
    /// addresses while those are not known (or not there).
    ///
    /// `remembered` are the nodes that rows name which an earlier agent left in the kernel.
    pub fn start(
        me: &str,
        port: u16,
        timing: Timing,
        nodes: KnownNodes,
        remembered: &BTreeSet<String>,
    ) -> Result<Self, Error> {
        // So that a port that is taken is an error of the start, and not of the log.
        let first = bind(&own_addresses(&nodes, me), port)?;
        let incarnation = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let incarnation = u64::try_from(incarnation.as_micros()).unwrap_or(u64::MAX);
        let now = Instant::now();
        let mut core = Heartbeats::new(me, incarnation, timing, now);
        core.set_nodes(&nodes, now);
        core.remember(remembered, now);
        core.poll(now);
        let (publish, alive) = watch::channel(core.alive().clone());
        let (publish_cookies, cookies) = watch::channel(Arc::default());
        let (publish_hearing, hearing) = watch::channel(Arc::default());
        let (tell, told) = mpsc::channel(QUEUE);
        let (pass_on, datagrams) = mpsc::channel(QUEUE);
        let (inputs, changes) = watch::channel(Inputs { nodes, ..Inputs::default() });
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let me = me.to_owned();
        let shell = Shell { me, port, core, publish, publish_cookies, publish_hearing, pass_on };
        let run = move || runtime.block_on(shell.run(first, changes, told));
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(run)?;
        Ok(Self {
            inputs: Some(inputs),
            alive,
            exchange: Exchange { tell, cookies, hearing },
            datagrams: Some(datagrams),
            thread: Some(thread),
        })
    }

    /// What else the heartbeat carries.
    pub fn exchange(&self) -> Exchange {
        self.exchange.clone()
    }

    /// The datagrams of other nodes that are no heartbeats; once.
    pub fn take_datagrams(&mut self) -> Option<mpsc::Receiver<Datagram>> {
        self.datagrams.take()
    }

    fn edit(&self, change: impl FnOnce(&mut Inputs)) {
        if let Some(inputs) = &self.inputs {
            inputs.send_modify(change);
        }
    }
}

impl Liveness for UdpLiveness {
    fn alive(&self) -> watch::Receiver<Arc<Alive>> {
        self.alive.clone()
    }

    fn set_nodes(&self, nodes: KnownNodes) {
        self.edit(|inputs| inputs.nodes = nodes);
    }

    fn set_interfaces(&self, interfaces: BTreeSet<String>) {
        self.edit(|inputs| inputs.interfaces = interfaces);
    }

    fn leave(&self, departure: Departure) {
        self.edit(|inputs| inputs.departure = Some(departure));
    }
}

impl Drop for UdpLiveness {
    fn drop(&mut self) {
        // The thread ends when nobody can tell it anything any more.
        self.inputs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the heartbeat's thread has panicked");
        }
    }
}

/// What came in.
enum Received {
    Datagram(IpAddr, Vec<u8>),
    EchoReply(IpAddr),
}

struct Shell {
    me: String,
    port: u16,
    core: Heartbeats,
    publish: watch::Sender<Arc<Alive>>,
    publish_cookies: watch::Sender<Arc<NodeCookies>>,
    publish_hearing: watch::Sender<Arc<Hearing>>,
    pass_on: mpsc::Sender<Datagram>,
}

impl Shell {
    async fn run(
        mut self,
        first: Vec<StdUdpSocket>,
        mut inputs: watch::Receiver<Inputs>,
        mut told: mpsc::Receiver<Tell>,
    ) {
        let (queue, mut received) = mpsc::channel(QUEUE);
        let mut addresses = own_addresses(&inputs.borrow().nodes, &self.me);
        let mut sockets = Sockets::new(first, &queue);
        let pings = Pings::new(&queue);
        let mut rebind = None;
        loop {
            if rebind.is_some_and(|at| at <= Instant::now()) {
                match bind(&addresses, self.port) {
                    Ok(bound) => (sockets, rebind) = (Sockets::new(bound, &queue), None),
                    Err(error) => {
                        warn!("{error}");
                        rebind = Some(Instant::now() + REBIND);
                    }
                }
            }
            let output = self.core.poll(Instant::now());
            self.publish.send_if_modified(|published| {
                let changed = !Arc::ptr_eq(published, self.core.alive());
                if changed {
                    published.clone_from(self.core.alive());
                    info!(alive = ?published, "who is alive has changed");
                }
                changed
            });
            replace(&self.publish_cookies, self.core.cookies());
            replace(&self.publish_hearing, self.core.hearing());
            sockets.send(&output, self.port);
            pings.send(&output);
            tokio::select! {
                changed = inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let inputs = inputs.borrow_and_update().clone();
                    let now = Instant::now();
                    self.core.set_nodes(&inputs.nodes, now);
                    self.core.set_interfaces(inputs.interfaces, now);
                    if let Some(departure) = inputs.departure {
                        self.core.leave(departure, now);
                    }
                    let own = own_addresses(&inputs.nodes, &self.me);
                    if own != addresses {
                        addresses = own;
                        // The old ones hold the port until they are gone.
                        sockets.close().await;
                        rebind = Some(now);
                    }
                }
                Some(first) = received.recv() => {
                    self.take_in(first);
                    while let Ok(more) = received.try_recv() {
                        self.take_in(more);
                    }
                }
                Some(first) = told.recv() => {
                    self.tell(first, &sockets);
                    while let Ok(more) = told.try_recv() {
                        self.tell(more, &sockets);
                    }
                }
                () = sleep_until(self.core.next_deadline().into()) => {}
            }
        }
    }

    fn tell(&mut self, tell: Tell, sockets: &Sockets) {
        let now = Instant::now();
        match tell {
            Tell::Cookie(cookie) => self.core.set_cookie(cookie, now),
            Tell::Probe(sender) => self.core.heard_probe(sender, now),
            Tell::Send(Datagram { node, bytes }) => {
                if let Some(to) = self.core.address_of(&node) {
                    sockets.send_to(to, &bytes, self.port);
                }
            }
        }
    }

    fn take_in(&mut self, received: Received) {
        let now = Instant::now();
        match received {
            Received::EchoReply(from) => self.core.echoed(from, now),
            Received::Datagram(from, bytes) if !message::begins_as_one(&bytes) => {
                let Some(node) = self.core.node_of(from) else {
                    debug!(%from, "ignored: a datagram of no node");
                    return;
                };
                // Nobody waits: what is not taken in is lost, as by a full socket.
                let _lost = self.pass_on.try_send(Datagram { node: node.to_owned(), bytes });
            }
            Received::Datagram(from, bytes) => {
                if let Err(ignored) = self.core.receive(from, &bytes, now) {
                    debug!(%from, "ignored: {ignored}");
                }
            }
        }
    }
}

fn replace<T>(published: &watch::Sender<Arc<T>>, current: &Arc<T>) {
    published.send_if_modified(|published| {
        let changed = !Arc::ptr_eq(published, current);
        if changed {
            published.clone_from(current);
        }
        changed
    });
}

fn own_addresses(nodes: &KnownNodes, me: &str) -> Vec<IpAddr> {
    nodes.get(me).cloned().unwrap_or_default()
}

/// Binds the port on each address; on all addresses of a family where one cannot be had
/// because no interface has it (yet), or none is known.
fn bind(addresses: &[IpAddr], port: u16) -> Result<Vec<StdUdpSocket>, Error> {
    let mut bound = Vec::new();
    let mut wild = BTreeSet::new();
    let open = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        socket(address).map_err(|source| Error::Bind { address, source })
    };
    for address in addresses {
        match open(*address) {
            Err(Error::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrNotAvailable => {
                warn!("no interface has the InternalIP {address}: listening on all addresses");
                wild.insert(address.is_ipv6());
            }
            other => bound.push((*address, other?)),
        }
    }
    if addresses.is_empty() {
        wild = [false, true].into();
    }
    for ipv6 in wild {
        let any = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        bound.retain(|(address, _)| address.is_ipv6() != ipv6);
        match open(any) {
            Ok(socket) => bound.push((any, socket)),
            // A machine without IPv6.
            Err(Error::Bind { source, .. })
                if ipv6 && source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bound.into_iter().map(|(_, socket)| socket).collect())
}

fn socket(address: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The UDP sockets, each read by a task.
struct Sockets {
    open: Vec<Arc<UdpSocket>>,
    tasks: JoinSet<()>,
}

impl Sockets {
    fn new(bound: Vec<StdUdpSocket>, queue: &mpsc::Sender<Received>) -> Self {
        let mut sockets = Self { open: Vec::new(), tasks: JoinSet::new() };
        for socket in bound {
            match UdpSocket::from_std(socket) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    sockets.tasks.spawn(read(socket.clone(), queue.clone(), |from, bytes| {
                        Some(Received::Datagram(from, bytes.to_vec()))
                    }));
                    sockets.open.push(socket);
                }
                Err(error) => warn!("cannot use a heartbeat socket: {error}"),
            }
        }
        sockets
    }

    async fn close(&mut self) {
        self.open.clear();
        self.tasks.shutdown().await;
    }

    fn send(&self, output: &Output, port: u16) {
        for (to, message) in &output.heartbeats {
            self.send_to(*to, message, port);
        }
    }

    fn send_to(&self, to: IpAddr, message: &[u8], port: u16) {
        let fits =
            |s: &&Arc<UdpSocket>| s.local_addr().is_ok_and(|local| local.is_ipv6() == to.is_ipv6());
        if let Some(socket) = self.open.iter().find(fits) {
            // The kernel's buffer takes it or it is lost: another follows soon.
            if let Err(error) = socket.try_send_to(message, SocketAddr::new(to, port)) {
                debug!(%to, "datagram not sent: {error}");
            }
        }
    }
}

/// Sockets for ICMP echo; none where the process may not have them.
struct Pings {
    open: Vec<(bool, Arc<UdpSocket>)>,
    identifier: u16,
    cookie: u64,
    _tasks: JoinSet<()>,
}

impl Pings {
    fn new(queue: &mpsc::Sender<Received>) -> Self {
        let cookie = RandomState::new().hash_one(std::process::id());
        let identifier = cookie as u16;
        let mut tasks = JoinSet::new();
        let mut open = Vec::new();
        for (ipv6, domain, protocol) in
            [(false, Domain::IPV4, Protocol::ICMPV4), (true, Domain::IPV6, Protocol::ICMPV6)]
        {
            match raw_socket(domain, protocol) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let reply = move |from: IpAddr, bytes: &[u8]| {
                        is_reply(ipv6, bytes, identifier, cookie)
                            .then_some(Received::EchoReply(from))
                    };
                    tasks.spawn(read(socket.clone(), queue.clone(), reply));
                    open.push((ipv6, socket));
                }
                Err(error) => warn!(
                    "no raw socket for {} ({error}; it needs CAP_NET_RAW): a node whose agent \
                     dies is taken to be dead itself",
                    if ipv6 { "ICMPv6" } else { "ICMP" }
                ),
            }
        }
        Self { open, identifier, cookie, _tasks: tasks }
    }

    fn send(&self, output: &Output) {
        for to in &output.echo {
            let socket = self.open.iter().find(|(ipv6, _)| *ipv6 == to.is_ipv6());
            if let Some((ipv6, socket)) = socket {
                let request = request(*ipv6, self.identifier, self.cookie);
                if let Err(error) = socket.try_send_to(&request, SocketAddr::new(*to, 0)) {
                    debug!(%to, "echo request not sent: {error}");
                }
            }
        }
    }
}

/// A raw socket, which sends and receives like one for UDP.
fn raw_socket(domain: Domain, protocol: Protocol) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Hands what a socket receives to the core, as `sort` has it.
async fn read(
    socket: Arc<UdpSocket>,
    queue: mpsc::Sender<Received>,
    sort: impl Fn(IpAddr, &[u8]) -> Option<Received>,
) {
    let mut buffer = [0; MAX_LENGTH + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                if let Some(received) = sort(from.ip().to_canonical(), &buffer[..length])
                    && queue.send(received).await.is_err()
                {
                    return;
                }
            }
            // Errors of earlier sends, such as an unreachable port, come in here.
            Err(error) => debug!("heartbeat socket: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
