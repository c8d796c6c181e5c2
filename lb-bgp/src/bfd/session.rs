//! A session in asynchronous mode (RFC 5880 section 6).
//!
//! Demand mode is never asked for, and honoured where the peer asks. Echo packets are neither sent nor
//! taken, and packets are not authenticated.
use super::{
    packet::{Diagnostic, Packet, State},
    timing::{Remote, SLOW, pause},
};
use crate::random::Random;
use std::{
    collections::VecDeque,
    num::NonZeroU8,
    time::{Duration, Instant},
};

/// How a session is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The least between two packets that are sent while the session is up. Not zero.
    pub desired_min_tx: Duration,
    /// The least between two packets that are received.
    pub required_min_rx: Duration,
    /// How many packets in a row the peer may miss.
    pub detect_multiplier: NonZeroU8,
    /// Nothing is sent before the peer is heard (section 6.1).
    pub passive: bool,
    /// The lowest TTL or hop limit that packets may arrive with: 255 over one hop (RFC 5881 section 5).
    pub minimum_ttl: u8,
}

/// The session's state has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why.
    pub diagnostic: Diagnostic,
    /// The peer has taken the session out of use: nothing is said of the way to it (RFC 5882
    /// section 4.1), and no BGP session should end.
    pub by_peer_admin: bool,
}

/// A packet that does not belong to this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// It came from further away than it may.
    #[error("the packet has a TTL of {0}: it comes from too far away")]
    Ttl(u8),
    /// It is for another session.
    #[error("the packet is for the session {0}")]
    Discriminator(u32),
}

/// A session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    random: Random,
    state: State,
    diagnostic: Diagnostic,
    /// `bfd.LocalDiscr`, not zero.
    local_discriminator: u32,
    /// `bfd.RemoteDiscr`; zero: not known.
    remote_discriminator: u32,
    remote_state: State,
    remote_demand: bool,
    remote: Option<Remote>,
    /// `bfd.DesiredMinTxInterval` as it is told. What is kept to is `tx_in_force`, until the peer has
    /// confirmed an increase.
    tx_told: Duration,
    tx_in_force: Duration,
    /// The same for `bfd.RequiredMinRxInterval`, until the peer has confirmed a decrease.
    rx_told: Duration,
    rx_in_force: Duration,
    /// A Poll Sequence is under way; with what has been told since it began.
    polling: bool,
    /// Another one is to follow: something changed while it was under way.
    poll_again: bool,
    final_due: bool,
    /// When the last packet was heard.
    heard: Option<Instant>,
    /// When the next regular packet goes. `None`: not at all.
    next_send: Option<Instant>,
    changes: VecDeque<Change>,
}

impl Session {
    /// A session that begins now. `local_discriminator` is not zero, and another one for each session
    /// of this node (section 6.3); `seed` should be, too.
    pub fn new(config: Config, local_discriminator: u32, seed: u64, now: Instant) -> Self {
        let tx = config.desired_min_tx.max(SLOW);
        let rx = config.required_min_rx;
        Self {
            config,
            random: Random::new(seed),
            state: State::Down,
            diagnostic: Diagnostic::None,
            local_discriminator,
            remote_discriminator: 0,
            remote_state: State::Down,
            remote_demand: false,
            remote: None,
            tx_told: tx,
            tx_in_force: tx,
            rx_told: rx,
            rx_in_force: rx,
            polling: false,
            poll_again: false,
            final_due: false,
            heard: None,
            next_send: (!config.passive).then_some(now),
            changes: VecDeque::new(),
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it last left Up.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// How long may pass without a packet of the peer's; `None` if nothing is expected.
    pub fn detection_time(&self) -> Option<Duration> {
        // Section 6.8.4. In demand mode of the peer's we still expect its packets: it is what we ask
        // for that counts, and we never ask for demand mode.
        self.remote.map(|remote| remote.detection_time(self.rx_in_force))
    }

    /// The next change of its state that has not been told yet.
    pub fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Takes it out of use, or back. Packets go on telling the peer so for as long as they are asked
    /// for; that should be for a detection time at least (section 6.8.16).
    pub fn set_admin_down(&mut self, down: bool, now: Instant) {
        if down == (self.state == State::AdminDown) {
            return;
        }
        if down {
            self.become_state(State::AdminDown, Diagnostic::AdministrativelyDown, false, now);
        } else {
            self.become_state(State::Down, Diagnostic::None, false, now);
        }
        // The peer is told at once.
        if self.sends_regularly() {
            self.next_send = Some(now);
        }
    }

    /// Runs it otherwise from now on (section 6.8.3).
    pub fn set_config(&mut self, config: Config, now: Instant) {
        self.config = config;
        self.tell_intervals(now);
        self.schedule_no_later(now);
    }

    /// A packet has come, with this TTL or hop limit (section 6.8.6). It was decoded, and came
    /// from the peer's address or is addressed to this session's discriminator.
    ///
    /// # Errors
    ///
    /// It is to be dropped.
    pub fn receive(&mut self, packet: &Packet, ttl: u8, now: Instant) -> Result<(), Discard> {
        if ttl < self.config.minimum_ttl {
            return Err(Discard::Ttl(ttl));
        }
        if packet.your_discriminator != 0 && packet.your_discriminator != self.local_discriminator {
            return Err(Discard::Discriminator(packet.your_discriminator));
        }
        self.remote_discriminator = packet.my_discriminator;
        self.remote_state = packet.state;
        self.remote_demand = packet.demand;
        let known = self.remote.replace(Remote::of(packet));
        self.heard = Some(now);
        if packet.is_final && self.polling {
            self.confirmed();
        }
        // Section 6.8.6: what comes then is of no consequence, but that it was heard.
        if self.state != State::AdminDown {
            self.follow(packet.state, now);
        }
        // Answered at once, whatever the intervals are (section 6.8.7).
        self.final_due |= packet.poll;
        if self.poll_again && !self.polling {
            self.poll_again = false;
            self.polling = true;
        }
        if !self.sends_regularly() {
            self.next_send = None;
        } else if self.next_send.is_none() {
            self.next_send = Some(now);
        } else if known != self.remote {
            self.schedule_no_later(now);
        }
        Ok(())
    }

    /// The state machine of section 6.2.
    fn follow(&mut self, remote: State, now: Instant) {
        let signaled = Diagnostic::NeighborSignaledDown;
        let (to, why, admin) = match (self.state, remote) {
            (State::Init | State::Up, State::AdminDown) => (State::Down, signaled, true),
            (State::Down, State::Down) => (State::Init, self.diagnostic, false),
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => {
                (State::Up, Diagnostic::None, false)
            }
            (State::Up, State::Down) => (State::Down, signaled, false),
            _ => return,
        };
        self.become_state(to, why, admin, now);
    }

    fn become_state(&mut self, to: State, why: Diagnostic, by_peer_admin: bool, now: Instant) {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return;
        }
        // What led away from Up is told until the session is up again.
        self.diagnostic = why;
        self.changes.push_back(Change { from, to, diagnostic: why, by_peer_admin });
        if from == State::Up || to == State::Up {
            self.tell_intervals(now);
        }
        if to != State::Up && from == State::Up {
            // The peer is told at once: the sooner it knows, the sooner it stops sending.
            self.next_send = self.sends_regularly().then_some(now);
        }
    }

    /// What the intervals are to be now, and whether the peer has to confirm them (section 6.8.3).
    fn tell_intervals(&mut self, now: Instant) {
        let up = self.state == State::Up;
        let tx = if up { self.config.desired_min_tx } else { self.config.desired_min_tx.max(SLOW) };
        let rx = self.config.required_min_rx;
        if (tx, rx) == (self.tx_told, self.rx_told) {
            return;
        }
        (self.tx_told, self.rx_told) = (tx, rx);
        if up {
            // An interval between packets that becomes longer, or a shorter time after which they are
            // missed, waits until the peer knows.
            self.tx_in_force = self.tx_in_force.min(tx);
            self.rx_in_force = self.rx_in_force.max(rx);
            self.poll_again = self.polling;
            self.polling = true;
        } else {
            (self.tx_in_force, self.rx_in_force) = (tx, rx);
            self.polling = false;
            self.poll_again = false;
        }
        self.schedule_no_later(now);
    }

    /// The peer has answered a poll: it knows what has been told.
    fn confirmed(&mut self) {
        self.polling = false;
        if !self.poll_again {
            (self.tx_in_force, self.rx_in_force) = (self.tx_told, self.rx_told);
        }
    }

    /// How often packets go (section 6.8.2).
    fn interval(&self) -> Duration {
        let required = self.remote.map_or(Duration::ZERO, |remote| remote.required_min_rx);
        self.tx_in_force.max(required)
    }

    /// Whether packets go without being asked for (section 6.8.7).
    fn sends_regularly(&self) -> bool {
        let silent = self.config.passive && self.remote_discriminator == 0;
        let unwanted = self.remote.is_some_and(|remote| remote.required_min_rx.is_zero());
        let demanded = self.remote_demand
            && self.state == State::Up
            && self.remote_state == State::Up
            && !self.polling;
        !silent && !unwanted && !demanded
    }

    /// A packet that is scheduled goes no later than it would if it were scheduled now.
    fn schedule_no_later(&mut self, now: Instant) {
        if self.sends_regularly() {
            let at = now + self.pause();
            self.next_send = Some(self.next_send.map_or(at, |next| next.min(at)));
        }
    }

    fn pause(&mut self) -> Duration {
        pause(self.interval(), self.config.detect_multiplier, &mut self.random)
    }

    /// Lets the detection time expire, and makes the next packet that is due. To be called at
    /// [`next_deadline`](Self::next_deadline) and after [`receive`](Self::receive), until it is `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Packet> {
        self.detect(now);
        if std::mem::take(&mut self.final_due) {
            return Some(self.packet(false, true));
        }
        if self.next_send.is_none_or(|at| at > now) {
            return None;
        }
        let sends = self.sends_regularly();
        let pause = self.pause();
        self.next_send = sends.then(|| now + pause);
        sends.then(|| self.packet(self.polling, false))
    }

    fn detect(&mut self, now: Instant) {
        if self.detected_at().is_none_or(|at| at > now) {
            return;
        }
        // Section 6.8.1: the peer may come back under another number.
        self.heard = None;
        self.remote_discriminator = 0;
        self.remote_state = State::Down;
        self.remote_demand = false;
        if matches!(self.state, State::Init | State::Up) {
            self.become_state(State::Down, Diagnostic::DetectionTimeExpired, false, now);
        }
        // Nothing is known of its intervals any more either.
        self.remote = None;
        self.next_send = self.sends_regularly().then(|| self.next_send.unwrap_or(now));
    }

    fn detected_at(&self) -> Option<Instant> {
        Some(self.heard? + self.detection_time()?)
    }

    /// When [`poll`](Self::poll) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.next_send, self.detected_at()].into_iter().flatten().min()
    }

    fn packet(&self, poll: bool, is_final: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            is_final,
            // The agent's own process is the control plane.
            control_plane_independent: false,
            demand: false,
            detect_multiplier: self.config.detect_multiplier,
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote_discriminator,
            desired_min_tx: self.tx_told,
            required_min_rx: self.rx_told,
            required_min_echo_rx: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
