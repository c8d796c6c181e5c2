//! Liveness by heartbeat, without sockets or a clock.
//!
//! Every interval (200 ms) a message goes to all InternalIPs of all nodes. An agent that
//! has not been heard for three intervals is dead and owns nothing any more. From half
//! way on its node is asked for ICMP echo: while that is answered the kernel lives, serves
//! its pods without an agent, and keeps its rows. Only what was once heard counts, by this
//! agent or by the one before it (whose rows name the node): a node that never had an
//! agent has no programs in its kernel either. Nor has one whose first agent is just being
//! started: it counts once that has told its uplinks, which it does when they carry the programs.
//! What would be sent there before came to kube-proxy, which would take packets of connections
//! that it does not know for new ones.
//!
//! Views that are more likely wrong than true change nothing:
//! * **Start.** Every known node counts as alive for the first three intervals, so that
//!   an agent that has just started does not take over what others own. To the others it
//!   counts once it tells its uplinks; if it was not missed at all, it stands as before.
//! * **Stall.** The time that this process itself was not running is nobody's silence.
//! * **Isolation.** Where at least four nodes were heard of late and fewer than half are
//!   left, this node is taken to be the one cut off: the last live set stays until half
//!   of it is back. Up to three nodes the view always follows: one of two may have died,
//!   and two of three, and the survivor must take over; if it was in fact cut off itself,
//!   then nobody sees its second claim, and any node can serve any VIP when the link is
//!   back.
use super::{
    Alive, AliveNode, Departure, Hearing, KnownNodes, NodeCookies,
    cookies::Cookie,
    message::{Malformed, Message},
    proofs::Heard,
};
use crate::plan::PLAN_VERSION;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How quickly a node is taken to be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub interval: Duration,
    /// So many may be missed.
    pub misses: u32,
    /// Losses within this time count as one when it comes to isolation.
    pub window: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { interval: Duration::from_millis(200), misses: 3, window: Duration::from_secs(5) }
    }
}

impl Timing {
    /// How long a node may be silent.
    pub fn timeout(&self) -> Duration {
        self.interval * self.misses
    }
}

/// Why a datagram was ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It is no heartbeat.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No Node has the name.
    #[error("heartbeat of {0:?}, which is no Node")]
    UnknownNode(String),
    /// The address is none of the node's.
    #[error("heartbeat of {node} from {from}, which is none of its InternalIPs")]
    ForeignAddress {
        /// Who claims to have sent it.
        node: String,
        /// Where it came from.
        from: IpAddr,
    },
    /// It was overtaken by a later one.
    #[error("heartbeat of {0} that is older than the last")]
    Old(String),
}

/// What is to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The heartbeats, and where to; none if it is not time for any.
    pub heartbeats: Vec<(IpAddr, Arc<[u8]>)>,
    /// Whom to send an ICMP echo request.
    pub echo: Vec<IpAddr>,
}

#[derive(Debug, Default)]
struct Peer {
    addresses: Vec<IpAddr>,
    /// Counts as alive until then though it has not been heard.
    assumed_until: Option<Instant>,
    heard: Option<Instant>,
    /// Which of its addresses was heard last.
    heard_from: Option<IpAddr>,
    /// When its kernel last answered an echo request.
    answered: Option<Instant>,
    incarnation: u64,
    sequence: u64,
    departure: Option<Departure>,
    plan_version: u32,
    interfaces: BTreeSet<String>,
    /// Its kernel has programs and tables: its agent has told uplinks since the kernel was last
    /// heard of, or rows of ours name it.
    serves: bool,
    /// What it asks tunnelled packets to carry. Its kernel goes on with it without its agent.
    cookie: Option<Cookie>,
    /// Those of our addresses whose probe frames it says have arrived.
    hears: BTreeSet<IpAddr>,
}

impl Peer {
    fn agent_until(&self, timeout: Duration) -> Option<Instant> {
        match (self.departure, self.heard) {
            (Some(_), _) => None,
            (None, Some(heard)) => Some(heard + timeout),
            (None, None) => self.assumed_until,
        }
    }

    /// The last sign of its kernel.
    fn seen(&self) -> Option<Instant> {
        match self.departure {
            Some(Departure::Unloading) => None,
            _ => self.heard.max(self.answered),
        }
    }

    fn kernel_until(&self, timeout: Duration) -> Option<Instant> {
        match self.seen() {
            Some(seen) => Some(seen + timeout),
            None => self.agent_until(timeout),
        }
    }

    fn kernel_lives(&self, now: Instant, timeout: Duration) -> bool {
        self.kernel_until(timeout).is_some_and(|until| now < until)
    }

    /// Whether packets may be sent to it.
    fn takes_packets(&self, now: Instant, timeout: Duration) -> bool {
        self.kernel_lives(now, timeout) && (self.serves || self.seen().is_none())
    }

    fn node(&self, now: Instant, timeout: Duration) -> AliveNode {
        // One that has been heard but has no uplink (yet) cannot announce anything.
        let ready = self.heard.is_none() || !self.interfaces.is_empty();
        let agent = ready && self.agent_until(timeout).is_some_and(|until| now < until);
        AliveNode { interfaces: self.interfaces.clone(), agent }
    }
}

/// Who is alive, by heartbeat.
#[derive(Debug)]
pub struct Heartbeats {
    me: String,
    timing: Timing,
    incarnation: u64,
    sequence: u64,
    interfaces: BTreeSet<String>,
    departure: Option<Departure>,
    started: Instant,
    peers: BTreeMap<String, Peer>,
    /// The peers' names by their addresses.
    names: BTreeMap<IpAddr, String>,
    next_send: Instant,
    polled: Instant,
    /// The nodes whose loss was not believed.
    frozen: Option<BTreeSet<String>>,
    alive: Arc<Alive>,
    cookie: Option<Cookie>,
    heard: Heard,
    cookies: Arc<NodeCookies>,
    hearing: Arc<Hearing>,
}

impl Heartbeats {
    /// An agent that starts now on node `me`. `incarnation` must be larger than at its
    /// last start: the time of day serves.
    pub fn new(me: impl Into<String>, incarnation: u64, timing: Timing, now: Instant) -> Self {
        let me = me.into();
        let alive = Arc::new([(me.clone(), AliveNode::default())].into());
        Self {
            me,
            timing,
            incarnation,
            sequence: 0,
            interfaces: BTreeSet::new(),
            departure: None,
            started: now,
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            next_send: now,
            polled: now,
            frozen: None,
            alive,
            cookie: None,
            heard: Heard::default(),
            cookies: Arc::default(),
            hearing: Arc::default(),
        }
    }

    /// Who is alive, as of the last [`poll`](Self::poll). Replaced, not changed, when it changes.
    pub fn alive(&self) -> &Arc<Alive> {
        &self.alive
    }

    /// What the other nodes ask tunnelled packets to carry, as of the last
    /// [`poll`](Self::poll). Replaced, not changed, when it changes.
    pub fn cookies(&self) -> &Arc<NodeCookies> {
        &self.cookies
    }

    /// Whose agents live, and which of our addresses each says it has received probe frames
    /// of, as of the last [`poll`](Self::poll). Replaced, not changed, when it changes.
    pub fn hearing(&self) -> &Arc<Hearing> {
        &self.hearing
    }

    /// Says what this node asks tunnelled packets to carry. It does so already.
    pub fn set_cookie(&mut self, cookie: Cookie, now: Instant) {
        if self.cookie != Some(cookie) {
            self.cookie = Some(cookie);
            self.next_send = self.next_send.min(now);
        }
    }

    /// Notes that a probe frame of the agent with this address has arrived.
    pub fn heard_probe(&mut self, sender: IpAddr, now: Instant) {
        if !self.heard.lately(&sender, now) {
            self.next_send = self.next_send.min(now);
        }
        self.heard.note(sender, now);
    }

    /// The node with this address, if it is another's.
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    /// Where to write to another node: where it was heard last, or else its first address.
    pub fn address_of(&self, node: &str) -> Option<IpAddr> {
        let peer = self.peers.get(node)?;
        let known = peer.heard_from.filter(|address| peer.addresses.contains(address));
        known.or_else(|| peer.addresses.first().copied())
    }

    /// The lowest plan version among the agents that live.
    pub fn plan_version(&self) -> u32 {
        let timeout = self.timing.timeout();
        let lives = |peer: &&Peer| {
            peer.heard.is_some() && peer.agent_until(timeout).is_some_and(|u| self.polled < u)
        };
        self.peers.values().filter(lives).map(|peer| peer.plan_version).fold(PLAN_VERSION, u32::min)
    }

    /// Says which nodes there are. This node itself may be among them.
    pub fn set_nodes(&mut self, nodes: &KnownNodes, now: Instant) {
        let others = || nodes.iter().filter(|(name, _)| **name != self.me);
        self.peers.retain(|name, _| nodes.contains_key(name));
        let starting = self.started + self.timing.timeout();
        for (name, addresses) in others() {
            let peer = self.peers.entry(name.clone()).or_insert_with(|| Peer {
                // A node that comes later owns nothing yet: no need to assume.
                assumed_until: (now < starting).then_some(starting),
                ..Peer::default()
            });
            peer.addresses.clone_from(addresses);
        }
        let names = others().flat_map(|(name, all)| all.iter().map(|a| (*a, name.clone())));
        self.names = names.collect();
    }

    /// Says which nodes the rows name that an earlier agent left in the kernel: they had
    /// an agent then, so their kernels have programs. Each is asked for a sign of life,
    /// rather than forgotten because its agent, too, is just being started again.
    pub fn remember(&mut self, nodes: &BTreeSet<String>, now: Instant) {
        for (_, peer) in self.peers.iter_mut().filter(|(name, _)| nodes.contains(*name)) {
            if peer.heard.is_none() {
                peer.answered = Some(now);
            }
            peer.serves = true;
        }
    }

    /// Says which uplinks this node has.
    pub fn set_interfaces(&mut self, interfaces: BTreeSet<String>, now: Instant) {
        if self.interfaces != interfaces {
            self.interfaces = interfaces;
            self.next_send = self.next_send.min(now);
        }
    }

    /// Says that this agent goes.
    pub fn leave(&mut self, departure: Departure, now: Instant) {
        self.departure = Some(departure);
        self.next_send = self.next_send.min(now);
    }

    /// Takes in a datagram. [`poll`](Self::poll) after it.
    pub fn receive(&mut self, from: IpAddr, bytes: &[u8], now: Instant) -> Result<(), Ignored> {
        let message = Message::parse(bytes)?;
        let timeout = self.timing.timeout();
        let Some(peer) = self.peers.get_mut(&message.node) else {
            return Err(Ignored::UnknownNode(message.node));
        };
        if !peer.addresses.contains(&from) {
            return Err(Ignored::ForeignAddress { node: message.node, from });
        }
        // A clock that was set back makes a lower incarnation, which must not lock a
        // node out for ever: it is taken when the former one has fallen silent.
        let lives = peer.heard.is_some_and(|heard| now < heard + timeout);
        let newer = (message.incarnation, message.sequence) > (peer.incarnation, peer.sequence);
        if !newer && (lives || message.incarnation == peer.incarnation) {
            return Err(Ignored::Old(message.node));
        }
        // An agent that starts does not know its uplinks yet. If it was not missed, its
        // kernel still announces on those of before.
        let unmissed = lives && peer.departure.is_none();
        // A kernel that was gone is a new one, and has no programs yet.
        peer.serves &= peer.kernel_lives(now, timeout);
        peer.serves |= !message.interfaces.is_empty();
        if !(unmissed && message.interfaces.is_empty()) {
            peer.interfaces = message.interfaces;
        }
        peer.heard = Some(now);
        peer.heard_from = Some(from);
        peer.incarnation = message.incarnation;
        peer.sequence = message.sequence;
        peer.departure = message.departure;
        peer.plan_version = message.plan_version;
        // An agent that starts may not have read it yet; its kernel still asks for it.
        peer.cookie = message.cookie.or(peer.cookie);
        peer.hears = message.heard;
        Ok(())
    }

    /// Notes that an address answered an ICMP echo request.
    pub fn echoed(&mut self, from: IpAddr, now: Instant) {
        let timeout = self.timing.timeout();
        for peer in self.peers.values_mut().filter(|peer| peer.addresses.contains(&from)) {
            // A kernel that answers again after a silence has been started anew, and has
            // no programs until its agent says so.
            if peer.kernel_lives(now, timeout) {
                peer.answered = Some(now);
            }
        }
    }

    /// Brings [`alive`](Self::alive) up to date and says what is to be sent.
    pub fn poll(&mut self, now: Instant) -> Output {
        self.forgive_stall(now);
        let output = if now >= self.next_send { self.send(now) } else { Output::default() };
        let view = self.view(now);
        if view != *self.alive {
            self.alive = Arc::new(view);
        }
        self.publish(now);
        output
    }

    fn publish(&mut self, now: Instant) {
        let of = |(name, peer): (&String, &Peer)| Some((name.clone(), peer.cookie?));
        let cookies: NodeCookies = self.peers.iter().filter_map(of).collect();
        if cookies != *self.cookies {
            self.cookies = Arc::new(cookies);
        }
        let timeout = self.timing.timeout();
        let lives = |peer: &&Peer| {
            peer.heard.is_some() && peer.agent_until(timeout).is_some_and(|until| now < until)
        };
        let peers = self.peers.values().filter(lives);
        let hearing: Hearing =
            peers.flat_map(|p| p.addresses.iter().map(|a| (*a, p.hears.clone()))).collect();
        if hearing != *self.hearing {
            self.hearing = Arc::new(hearing);
        }
    }

    /// When [`poll`](Self::poll) is due again, if nothing is received before.
    pub fn next_deadline(&self) -> Instant {
        let timeout = self.timing.timeout();
        let ends = self.peers.values().flat_map(|peer| {
            [peer.agent_until(timeout), peer.kernel_until(timeout)].into_iter().flatten()
        });
        ends.filter(|end| *end > self.polled).fold(self.next_send, Instant::min)
    }

    /// Nobody is to blame for what was not heard while this process did not run.
    fn forgive_stall(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.polled);
        self.polled = now;
        // A poll is due every interval; one and a half are allowed for.
        let Some(stalled) = since.checked_sub(self.timing.interval * 3 / 2) else { return };
        for peer in self.peers.values_mut() {
            for sign in [&mut peer.heard, &mut peer.answered].into_iter().flatten() {
                *sign = (*sign + stalled).min(now);
            }
            peer.assumed_until = peer.assumed_until.map(|until| until + stalled);
        }
    }

    fn send(&mut self, now: Instant) -> Output {
        self.sequence += 1;
        self.next_send = now + self.timing.interval;
        self.heard.expire(now);
        let mut message = Message {
            node: self.me.clone(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            departure: self.departure,
            plan_version: PLAN_VERSION,
            interfaces: self.interfaces.clone(),
            cookie: self.cookie,
            heard: BTreeSet::new(),
        };
        // Each is told of its own probe frames only.
        let mut heartbeats = Vec::new();
        for peer in self.peers.values() {
            let lately = |address: &&IpAddr| self.heard.lately(address, now);
            message.heard = peer.addresses.iter().filter(lately).copied().collect();
            let bytes: Arc<[u8]> = message.encode().into();
            heartbeats.extend(peer.addresses.iter().map(|to| (*to, Arc::clone(&bytes))));
        }
        let timeout = self.timing.timeout();
        let silent = |peer: &&Peer| {
            let overdue = |heard| now > heard + self.timing.interval * 3 / 2;
            let remembered = peer.heard.is_none() && peer.answered.is_some();
            (peer.departure.is_some() || remembered || peer.heard.is_some_and(overdue))
                && peer.kernel_lives(now, timeout)
        };
        Output {
            heartbeats,
            echo: self.peers.values().filter(silent).flat_map(|p| p.addresses.clone()).collect(),
        }
    }

    fn view(&mut self, now: Instant) -> Alive {
        let timeout = self.timing.timeout();
        let lives = |peer: &Peer| peer.takes_packets(now, timeout);
        let mut live: BTreeSet<_> =
            self.peers.iter().filter(|(_, p)| lives(p)).map(|(name, _)| name.clone()).collect();

        // Isolation. This node counts in both sets.
        let window = self.timing.window;
        let seen = |p: &Peer| p.serves && p.seen().is_some_and(|seen| now < seen + window);
        let lately = self.peers.iter().filter(|(_, p)| seen(p)).map(|(name, _)| name.clone());
        let mut reference = self.frozen.take().unwrap_or_default();
        reference.extend(lately);
        reference.retain(|name| {
            self.peers.get(name).is_some_and(|p| p.departure != Some(Departure::Unloading))
        });
        let left = 1 + live.intersection(&reference).count();
        if reference.len() + 1 >= 4 && left * 2 < reference.len() + 1 {
            live.extend(reference.iter().cloned());
            self.frozen = Some(reference);
        }

        let node = |name: &String| {
            let peer = &self.peers[name];
            let mut node = peer.node(now, timeout);
            if self.frozen.as_ref().is_some_and(|f| f.contains(name)) && !lives(peer) {
                // As it was when it was last seen.
                node.agent = peer.departure.is_none()
                    && self.alive.get(name).is_none_or(|known| known.agent);
            }
            (name.clone(), node)
        };
        let mut view: Alive = live.iter().map(node).collect();
        let agent = self.departure.is_none();
        view.insert(self.me.clone(), AliveNode { interfaces: self.interfaces.clone(), agent });
        view
    }
}

#[cfg(test)]
mod tests;
