//! BFD beside the sessions, over real sockets.
use super::transport::{self, any, socket};
use crate::{deadline::until, system};
use lb_bgp::bfd::{
    self, Change, Config, MULTIHOP_PORT, PORT, Packet, Session, State, TTL, packet::LENGTH,
};
use socket2::Type;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};
use tracing::debug;

/// Source ports (RFC 5881 section 4).
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Until sockets are tried again that could not be opened.
const AGAIN: Duration = Duration::from_secs(1);
/// Larger than any packet without authentication; more is none of ours.
const BUFFER: usize = 256;

/// What a session is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Where its packets go: the peer's address, with the interface's index if it is link-local, and the port.
    pub to: SocketAddr,
    /// The address to speak from.
    pub source: Option<IpAddr>,
    /// The interface to speak by, where the peer is named by one.
    pub interface: Option<String>,
    /// The VRF that it is in.
    pub vrf: Option<String>,
    /// It may be several hops away.
    pub multihop: bool,
    /// The session itself.
    pub config: Config,
}

impl Setup {
    /// Whether what has come to a receiver from an address is the peer's. Two VRFs may have the same
    /// addresses, and two links the same link-local ones.
    fn is_of(&self, place: &Place, from: SocketAddr) -> bool {
        *place == self.place() && transport::is_same_host(self.to, from)
    }

    /// Where its packets come to.
    fn place(&self) -> Place {
        Place { vrf: self.vrf.clone(), ipv6: self.to.is_ipv6(), multihop: self.multihop }
    }
}

/// Says that a session has changed, by the name of its peer.
pub type Changes = mpsc::UnboundedSender<(String, Change)>;

/// All sessions of this node. Dropped, they end without a word.
#[derive(Debug)]
pub struct Bfd {
    orders: mpsc::UnboundedSender<Order>,
    states: Arc<Mutex<BTreeMap<String, State>>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Order {
    Set(BTreeMap<String, Setup>),
    AdminDown,
}

impl Bfd {
    /// Opens the sockets that packets come to.
    ///
    /// # Errors
    ///
    /// The ports are taken, by another BFD mostly.
    pub fn start(changes: Changes) -> io::Result<Self> {
        let mut receivers = Vec::new();
        for multihop in [false, true] {
            for ipv6 in [false, true] {
                match Receiver::open(Place { vrf: None, ipv6, multihop }) {
                    Ok(receiver) => receivers.push(receiver),
                    // A kernel without IPv6 has no peers of it.
                    Err(error) if ipv6 && error.kind() == io::ErrorKind::Unsupported => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let (orders, to_do) = mpsc::unbounded_channel();
        let states = Arc::default();
        let task = Task {
            receivers,
            sessions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            again: None,
            next_discriminator: 1,
            changes,
            states: Arc::clone(&states),
        };
        Ok(Self { orders, states, task: tokio::spawn(task.run(to_do)) })
    }

    /// These are all sessions that are wanted, by the names of their peers.
    pub fn set(&self, sessions: BTreeMap<String, Setup>) {
        let _ = self.orders.send(Order::Set(sessions));
    }

    /// Tells all peers that the sessions are taken out of use: BGP goes on without them.
    pub fn admin_down(&self) {
        let _ = self.orders.send(Order::AdminDown);
    }

    /// How each session is.
    pub fn states(&self) -> BTreeMap<String, State> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a receiving socket is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    vrf: Option<String>,
    ipv6: bool,
    multihop: bool,
}

struct Receiver {
    socket: AsyncFd<UdpSocket>,
    place: Place,
}

impl Receiver {
    fn open(place: Place) -> io::Result<Self> {
        let any = any(place.ipv6);
        let socket = socket(Type::DGRAM, None, any, place.vrf.as_deref(), None)?;
        if place.ipv6 {
            socket.set_only_v6(true)?;
        }
        system::tell_ttl(socket.as_fd(), place.ipv6)?;
        // What is bound to no device is there beside those that are, if both say so; and first of all alone, so that
        // it is noticed where somebody else has the port.
        socket.set_reuse_address(place.vrf.is_some())?;
        socket.bind(&SocketAddr::new(any, port(place.multihop)).into())?;
        socket.set_reuse_address(true)?;
        Ok(Self { socket: system::await_datagrams(socket.into())?, place })
    }
}

/// The port that packets go to.
pub fn port(multihop: bool) -> u16 {
    if multihop { MULTIHOP_PORT } else { PORT }
}

struct Running {
    setup: Setup,
    session: Session,
    discriminator: u32,
    sender: UdpSocket,
}

/// The socket that a session's packets go by, from a port that stays the same.
fn sender(setup: &Setup, discriminator: u32) -> io::Result<UdpSocket> {
    let device = setup.interface.as_deref().or(setup.vrf.as_deref());
    let socket = socket(Type::DGRAM, None, setup.to.ip(), device, Some(TTL.into()))?;
    let from = setup.source.unwrap_or(any(setup.to.is_ipv6()));
    let count = u32::from(PORTS.end() - PORTS.start()) + 1;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    // Some may be taken by others.
    for attempt in 0..64 {
        let port = PORTS.start() + ((discriminator.wrapping_mul(61) + attempt) % count) as u16;
        match socket.bind(&SocketAddr::new(from, port).into()) {
            Ok(()) => return Ok(socket.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits until something has come to a socket, and says to which.
async fn arrived(receivers: &[Receiver]) -> usize {
    let waiting = receivers.iter().map(|receiver| Box::pin(receiver.socket.readable()));
    let (ready, at, _) = futures::future::select_all(waiting).await;
    if let Ok(mut ready) = ready {
        ready.clear_ready();
    }
    at
}

struct Task {
    receivers: Vec<Receiver>,
    sessions: BTreeMap<String, Running>,
    /// Those that there are no sockets for yet.
    waiting: BTreeMap<String, Setup>,
    /// When they are tried again.
    again: Option<Instant>,
    next_discriminator: u32,
    changes: Changes,
    states: Arc<Mutex<BTreeMap<String, State>>>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            self.poll();
            let next = self.sessions.values().filter_map(|one| one.session.next_deadline()).min();
            let again = self.again.filter(|_| !self.waiting.is_empty());
            tokio::select! {
                // What has come is taken in before silence is concluded.
                biased;
                at = arrived(&self.receivers) => self.receive(at),
                order = orders.recv() => match order {
                    Some(Order::Set(wanted)) => self.set(wanted),
                    Some(Order::AdminDown) => {
                        let now = Instant::now();
                        self.sessions.values_mut().for_each(|one| one.session.set_admin_down(true, now));
                    }
                    None => return,
                },
                () = until(next) => {}
                () = until(again) => {
                    for (name, setup) in std::mem::take(&mut self.waiting) {
                        self.begin(name, setup);
                    }
                }
            }
        }
    }

    fn set(&mut self, mut wanted: BTreeMap<String, Setup>) {
        self.sessions.retain(|name, running| wanted.get(name) == Some(&running.setup));
        self.receivers.retain(|receiver| {
            let place = &receiver.place;
            place.vrf.is_none() || wanted.values().any(|setup| setup.place() == *place)
        });
        wanted.retain(|name, _| !self.sessions.contains_key(name));
        self.waiting.clear();
        for (name, setup) in wanted {
            self.begin(name, setup);
        }
    }

    /// Begins a session, or has it wait: the VRF or the source address may be there later.
    fn begin(&mut self, name: String, setup: Setup) {
        let discriminator = self.next_discriminator;
        self.next_discriminator = self.next_discriminator.wrapping_add(1).max(1);
        match self.sockets(&setup, discriminator) {
            Ok(sender) => {
                let (now, seed) = (Instant::now(), u64::from(discriminator));
                let session = Session::new(setup.config, discriminator, seed, now);
                self.sessions.insert(name, Running { setup, session, discriminator, sender });
            }
            Err(error) => {
                debug!(peer = name, %error, "no socket for BFD");
                self.waiting.insert(name, setup);
                self.again = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// The socket that a session sends by, once there is one that it receives by.
    fn sockets(&mut self, setup: &Setup, discriminator: u32) -> io::Result<UdpSocket> {
        let place = setup.place();
        if !self.receivers.iter().any(|receiver| receiver.place == place) {
            self.receivers.push(Receiver::open(place)?);
        }
        sender(setup, discriminator)
    }

    /// Takes in what waits at a socket.
    fn receive(&mut self, at: usize) {
        let receiver = &self.receivers[at];
        let mut buffer = [0; BUFFER];
        loop {
            let socket = receiver.socket.get_ref().as_fd();
            let Ok((length, from, ttl)) = system::receive_with_ttl(socket, &mut buffer) else {
                return;
            };
            let packet = buffer.get(..length).filter(|bytes| bytes.len() >= LENGTH);
            let Some(packet) = packet.and_then(|bytes| Packet::decode(bytes).ok()) else {
                continue;
            };
            // RFC 5880 section 6.8.6: by our discriminator, once the peer knows it; else by who it is.
            let its = |running: &&mut Running| {
                running.setup.is_of(&receiver.place, from)
                    && [0, running.discriminator].contains(&packet.your_discriminator)
            };
            if let (Some(running), Some(ttl)) = (self.sessions.values_mut().find(its), ttl)
                && let Err(discard) = running.session.receive(&packet, ttl, Instant::now())
            {
                debug!(%from, "{discard}");
            }
        }
    }

    /// Sends what is due, and says what has changed.
    fn poll(&mut self) {
        let now = Instant::now();
        for (name, running) in &mut self.sessions {
            while let Some(packet) = running.session.poll(now) {
                // One that is not sent is missed by the peer, which is what it is for.
                let _ = running.sender.send_to(&packet.encode(), running.setup.to);
            }
            while let Some(change) = running.session.next_change() {
                let _ = self.changes.send((name.clone(), change));
            }
        }
        let states = self.sessions.iter().map(|(name, one)| (name.clone(), one.session.state()));
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states.collect();
    }
}

/// Whether a change says that the peer is gone.
pub fn is_loss(change: &Change) -> bool {
    change.from == bfd::State::Up && change.to != bfd::State::Up && !change.by_peer_admin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(to: &str, vrf: Option<&str>) -> Setup {
        let config = Config {
            desired_min_tx: Duration::from_millis(50),
            required_min_rx: Duration::from_millis(50),
            detect_multiplier: std::num::NonZeroU8::MIN,
            passive: false,
            minimum_ttl: TTL,
        };
        let vrf = vrf.map(str::to_owned);
        Setup {
            to: to.parse().unwrap(),
            source: None,
            interface: None,
            vrf,
            multihop: false,
            config,
        }
    }

    #[test]
    fn packets_are_of_the_peer_on_their_link_and_in_their_vrf() {
        let is_of = |setup: &Setup, vrf: Option<&str>, from: &str| {
            let from: SocketAddr = from.parse().unwrap();
            let place =
                Place { vrf: vrf.map(str::to_owned), ipv6: from.is_ipv6(), multihop: false };
            setup.is_of(&place, from)
        };
        let first = setup("[fe80::1%3]:3784", None);
        assert!(is_of(&first, None, "[fe80::1%3]:50000"));
        assert!(!is_of(&first, None, "[fe80::1%4]:50000"), "another link");
        assert!(!is_of(&first, None, "[fe80::2%3]:50000"), "another host");
        let blue = setup("10.0.0.1:3784", Some("blue"));
        assert!(is_of(&blue, Some("blue"), "10.0.0.1:50000"));
        assert!(!is_of(&blue, None, "10.0.0.1:50000"), "outside of VRFs");
        assert!(!is_of(&blue, Some("red"), "10.0.0.1:50000"));
        let far = Setup { multihop: true, ..blue };
        assert!(!is_of(&far, Some("blue"), "10.0.0.1:50000"), "to the port of one hop");
    }
}
