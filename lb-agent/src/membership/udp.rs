//! The sockets by which agents tell who is alive.
//!
//! They are served by a thread with a runtime of its own, so that no work elsewhere in the
//! agent delays a probe or a hello. Whatever has arrived is taken in before anything is
//! concluded from what has not.
use super::{
    Alive, Departure, Hearing, KnownNodes, Liveness, NodeCookies,
    cookies::Cookie,
    envelope::Random,
    keys::Keyring,
    members::{Counts, Members, Output, Received, Timing},
    probing::{question, read_answer},
};
use crate::system;
use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime,
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{debug, info, warn};

mod sockets;

use sockets::{bind, drain, frames_received, readable, send_to, socket};

/// Datagrams that may wait to be sent or passed on; more are dropped, as by a full socket.
const QUEUE: usize = 1024;
/// How long to wait before binding is tried again.
const REBIND: Duration = Duration::from_secs(1);

/// Why the agents' sockets cannot be had.
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
    #[error("cannot start the thread that talks to other agents: {0}")]
    Thread(#[from] io::Error),
}

/// What it starts with.
#[derive(Debug)]
pub struct Setup {
    /// This node's name.
    pub me: String,
    /// The port of the agents on their InternalIPs, or on all addresses while those are not known
    /// (or not there).
    pub port: u16,
    /// The port on which kernel programs answer probes: that of the tunnels.
    pub tunnel_port: u16,
    /// How quickly a node is taken to be dead.
    pub timing: Timing,
    /// The nodes there are.
    pub nodes: KnownNodes,
    /// The nodes that rows name which an earlier agent left in the kernel.
    pub remembered: BTreeSet<String>,
    /// What agents know each other by, now and as it changes.
    pub keys: watch::Receiver<Keyring>,
}

/// What is told from outside.
#[derive(Clone, Debug, Default)]
struct Inputs {
    nodes: KnownNodes,
    interfaces: BTreeSet<String>,
    departure: Option<Departure>,
}

/// A datagram of another module between agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The other node: who sent it, by its source address, or whom to send it to.
    pub node: String,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// What is carried to other nodes.
#[derive(Debug)]
enum Tell {
    Cookie(Cookie),
    Probe(IpAddr),
    Send(Datagram),
}

/// What else agents tell each other, and what shares their sockets.
#[derive(Clone, Debug)]
pub struct Exchange {
    tell: mpsc::Sender<Tell>,
    cookies: watch::Receiver<Arc<NodeCookies>>,
    hearing: watch::Receiver<Arc<Hearing>>,
    counts: watch::Receiver<Counts>,
}

impl Exchange {
    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

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
        // Fails only once the thread has ended.
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

/// Liveness by probes and hellos over UDP. Ends when dropped.
#[derive(Debug)]
pub struct UdpLiveness {
    inputs: Option<watch::Sender<Inputs>>,
    alive: watch::Receiver<Arc<Alive>>,
    exchange: Exchange,
    datagrams: Option<mpsc::Receiver<Datagram>>,
    thread: Option<JoinHandle<()>>,
}

impl UdpLiveness {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// The port cannot be had, or there is no thread.
    pub fn start(setup: Setup) -> Result<Self, Error> {
        let Setup { me, port, tunnel_port, timing, nodes, remembered, mut keys } = setup;
        // So that a port that is taken is an error of the start, and not of the log.
        let own = own_addresses(&nodes, &me);
        let first = bind(&own, port)?;
        let incarnation = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let incarnation = u64::try_from(incarnation.as_micros()).unwrap_or(u64::MAX);
        let now = Instant::now();
        let ring = keys.borrow_and_update().clone();
        let mut core = Members::new(&*me, incarnation, timing, ring, random(), now);
        core.set_nodes(&nodes, now);
        core.remember(&remembered);
        let (publish, alive) = watch::channel(core.alive().clone());
        let (publish_cookies, cookies) = watch::channel(Arc::default());
        let (publish_hearing, hearing) = watch::channel(Arc::default());
        let (publish_counts, counts) = watch::channel(Counts::default());
        let (tell, told) = mpsc::channel(QUEUE);
        let (pass_on, datagrams) = mpsc::channel(QUEUE);
        let (inputs, changes) = watch::channel(Inputs { nodes, ..Inputs::default() });
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let mut shell = Shell {
            me,
            port,
            tunnel_port,
            core,
            agents: Vec::new(),
            probes: Vec::new(),
            evidence: None,
            interfaces: BTreeSet::new(),
            publish,
            publish_cookies,
            publish_hearing,
            publish_counts,
            pass_on,
        };
        // What is assumed at the start is there from the first moment.
        let output = shell.core.poll(now);
        shell.publish.send_replace(shell.core.alive().clone());
        let run = move || {
            if let Err(error) = system::hurry_this_thread() {
                debug!("the thread that talks to other agents has no priority: {error}");
            }
            runtime.block_on(shell.run((first, own), output, changes, told, keys));
        };
        let thread = std::thread::Builder::new().name("membership".to_owned()).spawn(run)?;
        Ok(Self {
            inputs: Some(inputs),
            alive,
            exchange: Exchange { tell, cookies, hearing, counts },
            datagrams: Some(datagrams),
            thread: Some(thread),
        })
    }

    /// What else agents tell each other.
    pub fn exchange(&self) -> Exchange {
        self.exchange.clone()
    }

    /// The datagrams of other modules on other nodes; once.
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
            warn!("the thread that talks to other agents has panicked");
        }
    }
}

struct Shell {
    me: String,
    port: u16,
    tunnel_port: u16,
    core: Members,
    agents: Vec<AsyncFd<UdpSocket>>,
    probes: Vec<AsyncFd<UdpSocket>>,
    /// Frames that had been received when it was first asked whether there are any.
    evidence: Option<u64>,
    interfaces: BTreeSet<String>,
    publish: watch::Sender<Arc<Alive>>,
    publish_cookies: watch::Sender<Arc<NodeCookies>>,
    publish_hearing: watch::Sender<Arc<Hearing>>,
    publish_counts: watch::Sender<Counts>,
    pass_on: mpsc::Sender<Datagram>,
}

impl Shell {
    async fn run(
        mut self,
        (first, mut addresses): (Vec<UdpSocket>, Vec<IpAddr>),
        mut output: Output,
        mut inputs: watch::Receiver<Inputs>,
        mut told: mpsc::Receiver<Tell>,
        mut keys: watch::Receiver<Keyring>,
    ) {
        self.listen(first, &addresses);
        let mut rebind = None;
        let mut keys_change = true;
        loop {
            if rebind.is_some_and(|at| at <= Instant::now()) {
                match bind(&addresses, self.port) {
                    Ok(bound) => {
                        self.listen(bound, &addresses);
                        rebind = None;
                    }
                    Err(error) => {
                        warn!("{error}");
                        rebind = Some(Instant::now() + REBIND);
                    }
                }
            }
            self.send(&output);
            self.tell_others();
            let deadline = self.core.next_deadline();
            let deadline = rebind.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                changed = inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let inputs = inputs.borrow_and_update().clone();
                    self.core.set_nodes(&inputs.nodes, Instant::now());
                    self.core.set_interfaces(inputs.interfaces.clone());
                    if self.interfaces != inputs.interfaces {
                        // Others' counters are other numbers.
                        self.evidence = None;
                        self.interfaces = inputs.interfaces;
                    }
                    if let Some(departure) = inputs.departure {
                        self.core.leave(departure);
                    }
                    let own = own_addresses(&inputs.nodes, &self.me);
                    if own != addresses {
                        addresses = own;
                        // The old ones hold the port until they are gone.
                        self.agents.clear();
                        rebind = Some(Instant::now());
                    }
                }
                Some(first) = told.recv() => {
                    self.tell(first);
                    while let Ok(more) = told.try_recv() {
                        self.tell(more);
                    }
                }
                changed = keys.changed(), if keys_change => {
                    keys_change = changed.is_ok();
                    self.core.set_keys(keys.borrow_and_update().clone());
                }
                () = readable(&self.agents, &self.probes) => {}
                () = sleep_until(deadline.into()) => {}
            }
            // What comes after this moment can wait until the next turn; all before it is heard.
            let now = Instant::now();
            self.take_in(now);
            self.look_for_frames();
            output = self.core.poll(now);
            // From now on, if it asks.
            self.look_for_frames();
        }
    }

    /// Serves these sockets from now on, and asks from these addresses.
    fn listen(&mut self, bound: Vec<UdpSocket>, addresses: &[IpAddr]) {
        let serve = |socket| {
            system::await_datagrams(socket)
                .inspect_err(|error| warn!("cannot use a socket: {error}"))
                .ok()
        };
        self.agents = bound.into_iter().filter_map(serve).collect();
        let mut probes = Vec::new();
        for ipv6 in [false, true] {
            let own = addresses.iter().find(|address| address.is_ipv6() == ipv6).copied();
            let any =
                if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let from = |address| socket(SocketAddr::new(address, 0));
            match from(own.unwrap_or(any)).or_else(|_| from(any)) {
                Ok(socket) => {
                    if let Err(error) = system::without_checksums(socket.as_fd(), ipv6) {
                        warn!("probes cannot be sent without checksums: {error}");
                    }
                    probes.push(socket);
                }
                Err(error) => debug!(ipv6, "no probes over this family: {error}"),
            }
        }
        self.probes = probes.into_iter().filter_map(serve).collect();
    }

    fn tell(&mut self, tell: Tell) {
        let now = Instant::now();
        match tell {
            Tell::Cookie(cookie) => self.core.set_cookie(cookie),
            Tell::Probe(sender) => self.core.heard_probe(sender, now),
            Tell::Send(Datagram { node, bytes }) => {
                if let Some((to, bytes)) = self.core.wrap(&node, &bytes, now) {
                    send_to(&self.agents, SocketAddr::new(to, self.port), &bytes);
                }
            }
        }
    }

    /// Takes in all that has arrived.
    fn take_in(&mut self, now: Instant) {
        let core = &mut self.core;
        for socket in &self.probes {
            drain(socket, |from, bytes| {
                if from.port() == self.tunnel_port
                    && let Some((number, answer)) = read_answer(bytes)
                {
                    core.answered(from.ip().to_canonical(), number, answer, now);
                }
            });
        }
        for socket in &self.agents {
            drain(socket, |from, bytes| {
                let from = from.ip().to_canonical();
                match core.receive(from, bytes, now) {
                    Ok(Received::Ours) => {}
                    // Nobody waits: what is not taken in is lost, as by a full socket.
                    Ok(Received::Other(node, bytes)) => {
                        let _lost = self.pass_on.try_send(Datagram { node, bytes });
                    }
                    Err(ignored) => debug!(%from, "ignored: {ignored}"),
                }
            });
        }
    }

    /// Finds out whether this node still receives any frames, if that is asked.
    fn look_for_frames(&mut self) {
        if !self.core.wants_evidence() {
            self.evidence = None;
            return;
        }
        let received = frames_received(&self.interfaces);
        match (received, self.evidence) {
            (Some(received), None) => self.evidence = Some(received),
            (Some(received), Some(before)) if received == before => {}
            _ => self.core.frames_arrived(Instant::now()),
        }
    }

    fn send(&self, output: &Output) {
        for (to, number) in &output.probes {
            send_to(&self.probes, SocketAddr::new(*to, self.tunnel_port), &question(*number));
        }
        for (to, bytes) in &output.datagrams {
            send_to(&self.agents, SocketAddr::new(*to, self.port), bytes);
        }
    }

    fn tell_others(&self) {
        self.publish.send_if_modified(|published| {
            let changed = !Arc::ptr_eq(published, self.core.alive());
            if changed {
                published.clone_from(self.core.alive());
                info!(alive = %Names(published), "who is alive has changed");
            }
            changed
        });
        replace(&self.publish_cookies, self.core.cookies());
        replace(&self.publish_hearing, self.core.hearing());
        self.publish_counts.send_replace(self.core.counts());
    }
}

/// Names of nodes: those without an agent in brackets, those that are held with a star.
struct Names<'a>(&'a Alive);

impl std::fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (name, node)) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match node {
                node if !node.agent => write!(f, "{space}({name})")?,
                node if node.held_until_s.is_some() => write!(f, "{space}{name}*")?,
                _ => write!(f, "{space}{name}")?,
            }
        }
        Ok(())
    }
}

/// Random numbers of the operating system.
fn random() -> Random {
    let fallback = RandomState::new();
    let mut count = 0u64;
    Random::new(move || {
        count += 1;
        // It has none only while a machine is being started; its own hashing's is as good then.
        getrandom::u64().unwrap_or_else(|_| fallback.hash_one(count))
    })
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

#[cfg(test)]
mod tests;
