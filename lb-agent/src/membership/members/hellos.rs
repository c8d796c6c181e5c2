//! Hellos, in and out.
use super::{BTreeSet, Duration, Instant, IpAddr, Members, Moves, Peer, Received, Report};
use crate::membership::{
    damping::Move,
    envelope::{self, Kind, Opened, Refused},
    message::{Hello, Malformed, Moved},
};

/// Why a datagram was ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It is none of an agent of this cluster, or an old one.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its content is wrong.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No Node has the name.
    #[error("a datagram of {0:?}, which is no Node")]
    UnknownNode(String),
    /// The address is none of the node's.
    #[error("a datagram of {node} from {from}, which is none of its InternalIPs")]
    ForeignAddress {
        /// Who claims to have sent it.
        node: String,
        /// Where it came from.
        from: IpAddr,
    },
    /// Its report is another node's.
    #[error("a hello of {0} with the report of another node")]
    ForeignReport(String),
}

/// Those that do not watch this node are written to one after another, so far apart.
const TURN: Duration = Duration::from_millis(20);
/// Who has not been heard of at all may have lost what it was sent: it is written to again after so long, then
/// after twice as long, and so on up to its turn.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How long what is new is repeated.
const NEWS: Duration = Duration::from_secs(2);
/// Most reports that are added to a hello.
const TOGETHER: usize = 16;
/// Most datagrams that are sent at once, so that sockets keep up; and the pause before the next.
const BURST: usize = 400;
pub(super) const PAUSE: Duration = Duration::from_millis(5);

impl Members {
    /// Takes in a datagram. [`poll`](Self::poll) after it.
    ///
    /// # Errors
    ///
    /// It is to be ignored.
    pub fn receive(
        &mut self,
        from: IpAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Received, Ignored> {
        let result = self.take(from, bytes, now);
        match &result {
            Ok(_) => self.counts.received += 1,
            Err(Ignored::Refused(Refused::Old | Refused::Unproven)) => self.counts.old += 1,
            Err(_) => self.counts.forged += 1,
        }
        result
    }

    fn take(&mut self, from: IpAddr, bytes: &[u8], now: Instant) -> Result<Received, Ignored> {
        let name = envelope::sender(bytes)?;
        let at = self.position(name).filter(|at| *at != self.mine);
        let Some(at) = at else { return Err(Ignored::UnknownNode(name.to_owned())) };
        if !self.peers[at].addresses.contains(&from) {
            return Err(Ignored::ForeignAddress { node: name.to_owned(), from });
        }
        let (kind, body, new_session) = match self.envelopes.open(bytes, &mut self.random, now)? {
            Opened::Challenge(challenge) => {
                self.outbox.push((from, challenge));
                return Ok(Received::Ours);
            }
            // It did not take what it was told at first.
            Opened::Challenged => {
                self.introduce(at);
                return Ok(Received::Ours);
            }
            Opened::Message { kind, body, new_session } => (kind, body, new_session),
        };
        let peer = &mut self.peers[at];
        self.sign = Some(now);
        peer.heard = Some(now);
        peer.heard_from = Some(from);
        if new_session {
            self.introduce(at);
        }
        if kind == Kind::Other {
            return Ok(Received::Other(self.peers[at].name.clone(), body.to_vec()));
        }
        let hello = Hello::parse(body)?;
        let peer = &mut self.peers[at];
        if hello.report.node != peer.name {
            return Err(Ignored::ForeignReport(peer.name.clone()));
        }
        if hello.answer {
            (peer.greet, self.greeting) = (true, true);
        }
        self.stale |= peer.hears != hello.heard;
        peer.hears = hello.heard;
        let moves = hello
            .moves
            .iter()
            .filter_map(|moved| Some(Move { at: now.checked_sub(moved.age)?, lost: moved.lost }));
        let tells = Moves::new(moves);
        if let Some(last) = tells.lately(now).last()
            && last.lost
            && peer.tells.lately(now).count() < tells.lately(now).count()
            && peer.standing.agent
        {
            self.counts.lost += 1;
        }
        self.told |= !tells.is_empty();
        peer.tells = tells;
        // An agent that has started with an earlier time of day learns what is known of it.
        if peer.report.as_ref().is_some_and(|known| known.order() > hello.report.order()) {
            peer.owed.insert(peer.name.clone());
            (peer.greet, self.greeting) = (true, true);
        }
        self.merge(hello.report, now);
        for report in hello.news {
            self.merge(report, now);
        }
        Ok(Received::Ours)
    }

    /// What an agent that has just started cannot be told by those whom it is about.
    fn introduce(&mut self, at: usize) {
        let silent = self.others().filter(|(_, peer)| {
            let Some(report) = &peer.report else { return false };
            !peer.standing.agent || report.departure.is_some()
        });
        let owed: BTreeSet<_> = silent.map(|(_, peer)| peer.name.clone()).collect();
        let peer = &mut self.peers[at];
        peer.owed.extend(owed);
        self.greet(at);
    }

    /// Has a node written to now.
    pub(super) fn greet(&mut self, at: usize) {
        self.peers[at].greet = true;
        self.greeting = true;
    }

    fn merge(&mut self, mut report: Report, now: Instant) {
        if report.node == self.me {
            if report.order() > self.report.order() && report.incarnation >= self.report.incarnation
            {
                self.report.incarnation = report.incarnation.saturating_add(1);
                self.changed = true;
            }
            return;
        }
        let Some(at) = self.position(&report.node) else { return };
        let peer = &mut self.peers[at];
        // No uplinks are said by an agent that does not know them yet, or that has lost all.
        let mut lost = false;
        let mut restarted = true;
        if let Some(known) = &peer.report {
            if known.order() >= report.order() {
                return;
            }
            restarted = known.incarnation < report.incarnation;
            lost = !restarted && !known.interfaces.is_empty();
            // An agent that starts may not have read it yet; its kernel still asks for it.
            report.cookie = report.cookie.or(known.cookie);
            // Nor has it been told how often it was lost.
            if report.interfaces.is_empty() {
                report.held_until_s = report.held_until_s.or(known.held_until_s);
            }
        }
        if !report.interfaces.is_empty() {
            peer.interfaces.clone_from(&report.interfaces);
            (peer.ready, peer.serves) = (true, true);
        } else if lost || restarted && !peer.standing.agent {
            // If it was not missed, its kernel still announces on those of before. A kernel that
            // was gone is a new one, and has no programs yet.
            peer.interfaces.clear();
            peer.ready = false;
            peer.serves &= peer.standing.kernel;
        }
        self.stale |= peer.report.as_ref().is_none_or(|known| known.cookie != report.cookie);
        peer.report = Some(report);
        let name = peer.name.clone();
        self.news.retain(|(of, until)| *of != name && now < *until);
        self.news.push_front((name, now + NEWS));
        self.refresh = true;
    }

    /// Where to write to a node: where it was heard last, or to each of its addresses in turn.
    fn address(&mut self, at: usize, now: Instant) -> Option<IpAddr> {
        let silence = self.timing.silence;
        let peer = &mut self.peers[at];
        let lately = peer.heard.is_some_and(|heard| now < heard + silence);
        let known = peer.heard_from.filter(|address| lately && peer.addresses.contains(address));
        if known.is_none() {
            peer.turn = peer.turn.wrapping_add(1);
        }
        known.or_else(|| peer.addresses.get(peer.turn % peer.addresses.len().max(1)).copied())
    }

    /// Wraps a datagram of another module for a node's agent.
    pub fn wrap(&mut self, node: &str, bytes: &[u8], now: Instant) -> Option<(IpAddr, Vec<u8>)> {
        let at = self.position(node).filter(|at| *at != self.mine)?;
        let to = self.address(at, now)?;
        Some((to, self.envelopes.seal(node, Kind::Other, bytes, now)))
    }

    /// Writes to whom it is time to.
    pub(super) fn say_hello(&mut self, now: Instant) {
        self.heard.expire(now);
        while self.news.back().is_some_and(|(_, until)| *until <= now) {
            self.news.pop_back();
        }
        if !self.greeting && now < self.hello_due {
            return;
        }
        let count = self.peers.len();
        let far = self.timing.hello.max(TURN * u32::try_from(count).unwrap_or(u32::MAX));
        for at in 0..count {
            let peer = &self.peers[at];
            let due = peer.greet || peer.next_hello.is_none_or(|next| next <= now);
            if at == self.mine || !due {
                continue;
            }
            if self.outbox.len() >= BURST {
                // What is left is due soon.
                (self.greeting, self.hello_due) = (true, now + PAUSE);
                return;
            }
            let interval = match &peer.report {
                _ if peer.close => self.timing.hello,
                None => far.min(UNKNOWN * (1 << peer.turn.min(8))),
                Some(_) => far,
            };
            // The first time, so that they do not all come together.
            let spread = if peer.next_hello.is_none() { at as u32 % 16 } else { 15 };
            let Some(to) = self.address(at, now) else {
                self.peers[at].next_hello = Some(now + interval);
                continue;
            };
            let hello = self.hello(at, now);
            let (body, told) = hello.encode();
            let bytes = self.envelopes.seal(&self.peers[at].name, Kind::Hello, &body, now);
            self.outbox.push((to, bytes));
            let peer = &mut self.peers[at];
            peer.next_hello = Some(now + interval * (spread + 1) / 16);
            (peer.greet, peer.ask) = (false, false);
            for report in &hello.news[..told] {
                peer.owed.remove(&report.node);
            }
        }
        self.greeting = false;
        let others = self.others();
        let next = others.filter_map(|(_, peer)| peer.next_hello).min();
        self.hello_due = next.unwrap_or(now + self.timing.hello);
    }

    fn hello(&self, at: usize, now: Instant) -> Hello {
        let peer = &self.peers[at];
        let lately = |address: &&IpAddr| self.heard.lately(address, now);
        let moves = peer.moves.lately(now);
        let moves = moves.map(|m| Moved { age: now.saturating_duration_since(m.at), lost: m.lost });
        let news = self.news.iter().map(|(name, _)| name).filter(|name| **name != peer.name);
        let told: Vec<&String> = peer.owed.iter().chain(news).take(TOGETHER).collect();
        let report = |name: &&String| self.peers[self.position(name)?].report.clone();
        Hello {
            // What it wrote may have been lost: it does not know that it was not heard.
            answer: peer.ask || peer.report.is_none() && peer.turn > 1,
            heard: peer.addresses.iter().filter(lately).copied().collect(),
            moves: moves.collect(),
            report: self.report.clone(),
            news: told.iter().filter_map(report).collect(),
        }
    }
}

impl Peer {
    /// Whether it is written to often.
    pub(super) fn set_close(&mut self, close: bool, hello: Duration, now: Instant) {
        if close && !self.close {
            self.next_hello = self.next_hello.map(|next| next.min(now + hello));
        }
        self.close = close;
    }
}
