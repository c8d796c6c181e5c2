//! A session with one peer: RFC 4271 section 8, without sockets and clocks.
//!
//! Whoever owns a [`Session`] does what its [`Output`]s say, tells it what happens, and asks it for
//! bytes whenever a connection can take some. All methods take the time; [`Session::advance`] is to
//! be called at [`Session::next_deadline`].
//!
//! Both speakers may connect at once. So there are two state machines, one for the connection that we
//! make and one for the peer's; of two that come as far as `OpenConfirm`, one is kept (section 6.8).
mod apply;
mod config;
mod connection;
mod messages;
mod reason;
mod state;
#[cfg(test)]
mod tests;

pub use config::{Config, Endpoint, HoldTime, Negotiated, RemoteAs};
pub use connection::Link;
pub use reason::{Reason, Stop};
pub use state::{Action, Event, State};

use crate::{attribute::Fault, message, random::Random, rib::AdjRibOut};
use bytes::Bytes;
use connection::{Connection, Role};
use ipnet::IpNet;
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// A session that was up so long is no longer one that flaps.
const STABLE: Duration = Duration::from_mins(1);
/// A peer that connects anew so soon after a session is up has not restarted: both have connected
/// at the same time.
const YOUNG: Duration = Duration::from_secs(5);
/// What is handed to the transport at once, in octets, but for a last message.
const CHUNK: usize = 16 * 1024;

/// What is to be done, or has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the peer; then [`Session::connected`] or [`Session::connect_failed`].
    Connect(Link),
    /// Close this connection, or give the attempt up. Nothing more is asked about it.
    Close {
        /// Which one.
        link: Link,
        /// Its last message. It is to be written after what is being written, but not waited for.
        last: Option<Bytes>,
    },
    /// The session is up: routes are told.
    Up(Box<Negotiated>),
    /// A connection, or an attempt, came to its end.
    Down {
        /// How far it had come. The session was up if it is Established.
        state: State,
        /// Why it ended.
        reason: Reason,
    },
    /// The first fault in what the peer announces, since the session is up; others are counted.
    Fault(Fault),
}

/// Why a connection of the peer's is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No session is wanted.
    #[error("the session is stopped")]
    Stopped,
    /// The session is up already.
    #[error("the session is up by another connection")]
    Established,
    /// It has failed too often of late.
    #[error("the session has failed often; the next attempt is in a while")]
    Damped,
}

/// What has been counted since the session was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "messages by their names")]
pub struct Counters {
    pub opens_sent: u64,
    pub opens_received: u64,
    pub updates_sent: u64,
    pub updates_received: u64,
    pub keepalives_sent: u64,
    pub keepalives_received: u64,
    pub notifications_sent: u64,
    pub notifications_received: u64,
    pub refreshes_sent: u64,
    pub refreshes_received: u64,
    /// Prefixes that the peer has announced, each as often as it was.
    pub prefixes_announced: u64,
    /// Prefixes that it has withdrawn, or that count as withdrawn.
    pub prefixes_withdrawn: u64,
    /// Faults in what it has announced that did not end the session (RFC 7606).
    pub faults: u64,
    /// How often the session came up.
    pub ups: u64,
}

/// A session with one peer.
#[derive(Debug)]
pub struct Session {
    config: Config,
    random: Random,
    rib: AdjRibOut,
    outgoing: Connection,
    incoming: Connection,
    enabled: bool,
    /// `ConnectRetryCounter`.
    failures: u32,
    /// Until when peers are told that this speaker has just restarted.
    restarting: Option<Instant>,
    /// Whether the kernel has gone on forwarding since the peer last had routes of us (F bit, RFC 4724
    /// section 4.1): it carries traffic without the agent, but does not survive the node.
    forwarding: bool,
    links: u64,
    outputs: VecDeque<Output>,
    counters: Counters,
    /// What the peer announces, where that is limited.
    received: BTreeSet<IpNet>,
    faulty: bool,
}

impl Session {
    /// A session that is stopped.
    ///
    /// `restarted`: the agent was there a moment ago, and the kernel has gone on forwarding for its
    /// routes. Peers that have kept them are told so, until all routes have been told again (RFC 4724
    /// section 4.1). `seed` should be another one for each session.
    pub fn new(config: Config, restarted: bool, seed: u64, now: Instant) -> Self {
        let restart_time = config.graceful_restart.filter(|_| restarted);
        let restarting = restart_time.map(|seconds| now + Duration::from_secs(seconds.into()));
        Self {
            config,
            random: Random::new(seed),
            rib: AdjRibOut::default(),
            outgoing: Connection::default(),
            incoming: Connection::default(),
            enabled: false,
            failures: 0,
            restarting,
            forwarding: restarted,
            links: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            received: BTreeSet::new(),
            faulty: false,
        }
    }

    /// The session is wanted from now on.
    pub fn start(&mut self, now: Instant) {
        self.enabled = true;
        if !self.config.passive {
            self.fire(Role::Outgoing, Event::Start, None, now);
        }
        self.fire(Role::Incoming, Event::StartPassive, None, now);
    }

    /// The session is not wanted any more.
    pub fn stop(&mut self, stop: &Stop, now: Instant) {
        self.enabled = false;
        for role in Role::BOTH {
            let negotiated = self.connection(role).negotiated.as_ref();
            let keeps = negotiated.is_some_and(|one| one.graceful_restart.is_some());
            let keeps_notified = negotiated.is_some_and(|one| one.notification);
            let reason = stop.reason(keeps, keeps_notified);
            self.fire(role, Event::ManualStop, Some(reason), now);
        }
    }

    /// BFD had found the peer, and finds it no longer. Not to be called where BFD was told by the peer
    /// to be out of use: that says nothing of the peer (RFC 5882 section 4.1).
    pub fn bfd_down(&mut self, now: Instant) {
        for role in Role::BOTH {
            if self.connection(role).state >= State::OpenSent {
                self.fire(role, Event::AutomaticStop, Some(Reason::BfdDown), now);
            }
        }
    }

    /// The peer was connected to, as [`Output::Connect`] asked for.
    pub fn connected(&mut self, link: Link, endpoint: Endpoint, now: Instant) {
        if self.role(link) == Some(Role::Outgoing) && self.outgoing.state == State::Connect {
            self.outgoing.endpoint = Some(endpoint);
            self.fire(Role::Outgoing, Event::TcpConnected, None, now);
        }
    }

    /// The peer could not be connected to.
    pub fn connect_failed(&mut self, link: Link, why: &str, now: Instant) {
        if self.role(link) == Some(Role::Outgoing) && self.outgoing.state == State::Connect {
            let reason = Reason::NotConnected(why.to_owned());
            self.fire(Role::Outgoing, Event::TcpFails, Some(reason), now);
        }
    }

    /// The peer has connected. If the connection is taken, how it is called from now on.
    ///
    /// # Errors
    ///
    /// It is to be closed.
    pub fn accepted(&mut self, endpoint: Endpoint, now: Instant) -> Result<Link, Refusal> {
        if !self.enabled {
            return Err(Refusal::Stopped);
        }
        let up = Role::BOTH.into_iter().find(|role| self.connection(*role).is_established());
        if let Some(role) = up {
            // RFC 4724 section 4.2: a peer that keeps our routes over its restarts has restarted.
            if !self.connection(role).is_superseded(now) {
                return Err(Refusal::Established);
            }
            self.fire(role, Event::TcpFails, Some(Reason::Restarted), now);
            self.fire(Role::Incoming, Event::IdleHoldExpiresPassive, None, now);
        }
        if self.incoming.state >= State::OpenSent {
            // It would not connect again if it still had the other one.
            let reason = Reason::Closed("the peer connects anew".to_owned());
            self.fire(Role::Incoming, Event::TcpFails, Some(reason), now);
            self.fire(Role::Incoming, Event::IdleHoldExpiresPassive, None, now);
        }
        if self.incoming.state != State::Active {
            return Err(Refusal::Damped);
        }
        let link = self.new_link();
        self.incoming.link = Some(link);
        self.incoming.endpoint = Some(endpoint);
        self.fire(Role::Incoming, Event::TcpConnected, None, now);
        Ok(link)
    }

    /// A connection has ended.
    pub fn closed(&mut self, link: Link, why: &str, now: Instant) {
        if let Some(role) = self.role(link) {
            self.fire(role, Event::TcpFails, Some(Reason::Closed(why.to_owned())), now);
        }
    }

    /// Bytes have come. What the transport has is to be read before timers are looked at.
    pub fn received(&mut self, link: Link, bytes: &[u8], now: Instant) {
        let Some(role) = self.role(link) else { return };
        self.connection_mut(role).stream.push(bytes);
        // A message may end the connection, and what stands behind it.
        while self.connection(role).link == Some(link) {
            match self.connection_mut(role).stream.next_message() {
                Ok(Some((kind, body))) => self.message(role, kind, &body, now),
                Ok(None) => break,
                Err(error) => {
                    let (notification, why) = (error.notification(), error.to_string());
                    let reason = Reason::Refused { notification, why };
                    self.fire(role, Event::HeaderError, Some(reason), now);
                }
            }
        }
    }

    /// What to send over a connection next: some whole messages. To be asked for whenever the
    /// transport has taken all that was handed over before, for that it has is concluded from it.
    pub fn transmit(&mut self, link: Link, now: Instant) -> Option<Bytes> {
        let role = self.role(link)?;
        let connection = self.connection_mut(role);
        connection.handed = None;
        let mut bytes = Vec::new();
        if let Some(open) = connection.open_due.take() {
            bytes.extend_from_slice(&open);
            self.counters.opens_sent += 1;
        }
        let keepalive = std::mem::take(&mut self.connection_mut(role).keepalive_due);
        if keepalive {
            bytes.extend_from_slice(&message::keepalive());
            self.counters.keepalives_sent += 1;
        }
        let updates = self.counters.updates_sent;
        if self.connection(role).is_established() {
            while bytes.len() < CHUNK
                && let Some(made) = self.rib.next_message()
            {
                bytes.extend_from_slice(&made.bytes);
                self.counters.updates_sent += u64::from(made.is_update);
                self.counters.refreshes_sent += u64::from(!made.is_update);
            }
            if self.rib.is_flushed() {
                self.restarting = None;
            }
        }
        if bytes.is_empty() {
            return None;
        }
        // RFC 4271 section 8.2.2: UPDATEs do what KEEPALIVEs do.
        if keepalive || updates != self.counters.updates_sent {
            self.restart_keepalive(role, now);
        }
        self.connection_mut(role).handed = Some(now);
        Some(bytes.into())
    }

    /// Lets timers expire.
    pub fn advance(&mut self, now: Instant) {
        for role in Role::BOTH {
            self.expire(role, now);
        }
    }

    /// When [`advance`](Self::advance) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        [&self.outgoing, &self.incoming].into_iter().filter_map(Connection::next_deadline).min()
    }

    /// What is to be done next, or has happened.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The routes for the peer.
    pub fn routes(&self) -> &AdjRibOut {
        &self.rib
    }

    /// The routes for the peer, to be changed. What comes of it is sent as
    /// [`transmit`](Self::transmit) is asked for bytes: so ask, after changes.
    pub fn routes_mut(&mut self) -> &mut AdjRibOut {
        &mut self.rib
    }

    /// How far the session has come, by the connection that has come further.
    pub fn state(&self) -> State {
        self.outgoing.state.max(self.incoming.state)
    }

    /// What was agreed on, while the session is up.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        let up = [&self.outgoing, &self.incoming].into_iter().find(|one| one.is_established());
        up?.negotiated.as_ref()
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the session was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn connection(&self, role: Role) -> &Connection {
        match role {
            Role::Outgoing => &self.outgoing,
            Role::Incoming => &self.incoming,
        }
    }

    fn connection_mut(&mut self, role: Role) -> &mut Connection {
        match role {
            Role::Outgoing => &mut self.outgoing,
            Role::Incoming => &mut self.incoming,
        }
    }

    fn role(&self, link: Link) -> Option<Role> {
        Role::BOTH.into_iter().find(|role| self.connection(*role).link == Some(link))
    }

    fn new_link(&mut self) -> Link {
        self.links += 1;
        Link(self.links)
    }
}

impl Connection {
    fn is_established(&self) -> bool {
        self.state == State::Established
    }

    fn is_superseded(&self, now: Instant) -> bool {
        let keeps = self.negotiated.as_ref().is_some_and(|one| one.graceful_restart.is_some());
        keeps && self.established.is_some_and(|since| now >= since + YOUNG)
    }
}
