//! Who is alive, without sockets or a clock.
//!
//! Two facts are kept of each node. *Its data plane answers*: its watchers [probe](super::probing) its
//! kernel program. *Its agent lives*: it is heard. Each watcher tells everybody what it finds amiss
//! (the *troubles* in its [report](super::message::Report)), at once and directly, and what the most of a
//! node's [watchers](super::watchers) say is so. In a small cluster everybody is a watcher of
//! everybody. One that has lost its way to a node changes nothing, and a node to which most
//! have lost the way is gone for all at the same moment.
//!
//! An agent writes to its watchers every 200 ms, and to the others in turn, 50 a second; to whom it
//! has never heard of after one second, two, four, until that is its turn. What has
//! changed within the last two seconds is repeated to whomever is written to, so that a datagram that is
//! lost does not matter.
//!
//! A node counts once its agent has told its uplinks, which it does when they carry the programs
//! and their tables: what would be sent there before came to kube-proxy, which takes packets of
//! connections that it does not know for new ones. Where the agent has died, what
//! others know of it counts on, and so does what an earlier agent of this node left in its rows.
//!
//! Views that are more likely wrong than true change nothing:
//! * **Start.** Every known node counts as alive for the first second, so that an agent that
//!   has just started does not take over what others own. To the others it
//!   counts once it tells its uplinks; if it was not missed at all, it stands as before.
//! * **Stall.** The time that this process itself was not running is nobody's silence.
//! * **Opinion.** Who has just begun to watch a node does not vote on it yet.
//! * **Deafness.** Who neither answers this node nor is heard by it does not vote here.
//! * **Isolation.** Where at least four nodes were there of late and fewer than half are
//!   left, this node is taken to be the one cut off: the last live set stays until half
//!   of it is back. Up to three nodes the view follows: one of two may have died,
//!   and two of three, and the survivor must take over. But one that has lost all others at a time
//!   waits until any frame arrives: whom nobody can reach had better claim nothing, and soon
//!   own nothing, either.
//! * **Restart.** The silence of an agent that has said that it will be back means nothing as long as its
//!   kernel goes on announcing for half a minute.
//! * **Accusation.** A node owns nothing while most of its watchers find it amiss, though it
//!   hears them: its own frames may be what is lost.
use super::{
    Alive, AliveNode, Departure, Hearing, KnownNodes, NodeCookies,
    cookies::Cookie,
    damping::Moves,
    envelope::{Envelopes, Random},
    keys::Keyring,
    message::{Report, Trouble},
    probing::{Answer, Pace, Probing},
    proofs::Heard,
    watchers::Orders,
};
use crate::plan::PLAN_VERSION;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

mod counts;
mod hellos;
mod view;

pub use counts::Counts;
pub use hellos::Ignored;

/// How quickly a node is taken to be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Of probes.
    pub pace: Pace,
    /// Between two hellos to the same watcher.
    pub hello: Duration,
    /// How long an agent may be silent.
    pub silence: Duration,
    /// Losses within this time count as one when it comes to isolation.
    pub window: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            hello: Duration::from_millis(200),
            silence: Duration::from_millis(800),
            window: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// How long an agent that starts does not know who is alive.
    pub fn starting(&self) -> Duration {
        self.silence + self.hello
    }
}

/// An agent whose kernel would announce without it for no longer than this has not moved its
/// deadline, a minute ahead every five seconds, for half a minute: it hangs, or has not come back.
const HANGS: Duration = Duration::from_secs(30);
/// A wake-up that is later than this was a stall.
const LATE: Duration = Duration::from_millis(15);
/// How often it is looked whether any frame has arrived.
const LOOK: Duration = Duration::from_millis(5);

/// What is to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Datagrams to agents.
    pub datagrams: Vec<(IpAddr, Vec<u8>)>,
    /// Probes of data planes, by their number.
    pub probes: Vec<(IpAddr, u64)>,
}

/// A node that this one watches.
#[derive(Debug)]
struct Watch {
    since: Instant,
    probing: Probing,
    trouble: Trouble,
    /// When its agent was last asked to answer.
    asked: Option<Instant>,
}

/// What is taken to be so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    kernel: bool,
    agent: bool,
}

#[derive(Debug, Default)]
struct Peer {
    name: String,
    addresses: Vec<IpAddr>,
    /// Counts as alive until then though nothing has been heard of it.
    assumed_until: Option<Instant>,
    /// An earlier agent's rows do without it.
    left_out: bool,
    /// When it was heard last, directly, and from which of its addresses.
    heard: Option<Instant>,
    heard_from: Option<IpAddr>,
    report: Option<Report>,
    watch: Option<Watch>,
    /// The uplinks that it may announce on.
    interfaces: BTreeSet<String>,
    /// Its agent has told them, or was not missed since.
    ready: bool,
    /// Its kernel has programs and tables: its agent has told uplinks since the kernel was last
    /// heard of, or rows of ours name it.
    serves: bool,
    standing: Standing,
    /// When its data plane was last taken to be gone.
    left: Option<Instant>,
    /// The view has it as one that may own VIPs.
    may_own: bool,
    /// It owned VIPs, or would have, when that was last looked at; `None` before it ever did.
    owning: Option<bool>,
    moves: Moves,
    /// What it says of our own VIPs' moves.
    tells: Moves,
    /// Those of our addresses whose probe frames it says have arrived.
    hears: BTreeSet<IpAddr>,
    /// It watches us.
    close: bool,
    next_hello: Option<Instant>,
    /// It is to be written to now, perhaps for an answer.
    greet: bool,
    ask: bool,
    /// Whose reports it lacks.
    owed: BTreeSet<String>,
    turn: usize,
}

impl Peer {
    /// Neither does it answer, nor is it heard: what it may say does not arrive here.
    fn is_deaf(&self) -> bool {
        let Some(watch) = &self.watch else { return false };
        watch.probing.is_unseen()
            && watch
                .probing
                .unanswered_since()
                .is_some_and(|since| self.heard.is_none_or(|heard| heard < since))
    }
}

/// Who is alive.
#[derive(Debug)]
pub struct Members {
    me: String,
    mine: usize,
    timing: Timing,
    random: Random,
    envelopes: Envelopes,
    /// What this node says; to be told if it has changed.
    report: Report,
    changed: bool,
    began: Instant,
    /// The same, without the time that it did not run.
    started: Instant,
    /// All known nodes, by name; this one among them.
    peers: Vec<Peer>,
    addresses: HashMap<IpAddr, usize>,
    orders: Orders,
    polled: Instant,
    /// When the next poll was asked for.
    promised: Instant,
    /// Something has changed that standings depend on.
    refresh: bool,
    /// Those that this node watches.
    watched: Vec<usize>,
    /// Whose word counted when it was last said who watches whom; empty if that is to be said anew.
    fit: Vec<bool>,
    /// When the next hello is due, and whether anybody is to be written to now.
    hello_due: Instant,
    greeting: bool,
    /// The nodes whose loss was not believed.
    frozen: Option<BTreeSet<String>>,
    /// All others are gone; since when frames arrive all the same, and whether that is believed yet.
    alone: bool,
    evidence: Option<Instant>,
    waits: bool,
    waits_since: Option<Instant>,
    /// When no frame had arrived last for so long that this node owned nothing.
    was_deaf: Option<Instant>,
    /// When anything of any other node arrived last.
    sign: Option<Instant>,
    accused: bool,
    /// Somebody may have told of moves of our VIPs.
    told: bool,
    held_until: Option<Instant>,
    /// What the time of day was when the agent started, in seconds since 1970.
    epoch_s: u64,
    heard: Heard,
    /// Whose reports are repeated, and until when.
    news: VecDeque<(String, Instant)>,
    outbox: Vec<(IpAddr, Vec<u8>)>,
    counts: Counts,
    /// What is published may not be as it is.
    stale: bool,
    alive: Arc<Alive>,
    cookies: Arc<NodeCookies>,
    hearing: Arc<Hearing>,
}

/// What a datagram was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// One for this module.
    Ours,
    /// Another module's, of this node.
    Other(String, Vec<u8>),
}

impl Members {
    /// An agent that starts now on node `me`. `incarnation` is the time of day, in microseconds since
    /// 1970, so that it is larger than at its last start. Without keys, anybody is believed.
    pub fn new(
        me: impl Into<String>,
        incarnation: u64,
        timing: Timing,
        keys: Keyring,
        mut random: Random,
        now: Instant,
    ) -> Self {
        let me = me.into();
        let report = Report {
            node: me.clone(),
            incarnation,
            version: 1,
            plan_version: PLAN_VERSION,
            ..Report::default()
        };
        let mut members = Self {
            mine: 0,
            timing,
            envelopes: Envelopes::new(me.clone(), keys, &mut random),
            random,
            report,
            changed: true,
            began: now,
            started: now,
            peers: Vec::new(),
            addresses: HashMap::new(),
            orders: Orders::default(),
            polled: now,
            promised: now,
            refresh: true,
            watched: Vec::new(),
            fit: Vec::new(),
            hello_due: now,
            greeting: true,
            frozen: None,
            alone: false,
            evidence: None,
            waits: false,
            waits_since: None,
            was_deaf: None,
            epoch_s: incarnation / 1_000_000,
            sign: None,
            accused: false,
            told: false,
            held_until: None,
            heard: Heard::default(),
            news: VecDeque::new(),
            outbox: Vec::new(),
            counts: Counts::default(),
            stale: true,
            alive: Arc::new([(me.clone(), AliveNode::default())].into()),
            cookies: Arc::default(),
            hearing: Arc::default(),
            me,
        };
        members.set_nodes(&KnownNodes::new(), now);
        members
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

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes other keys.
    pub fn set_keys(&mut self, keys: Keyring) {
        self.envelopes.set_keys(keys);
    }

    /// Says what this node asks tunnelled packets to carry. It does so already.
    pub fn set_cookie(&mut self, cookie: Cookie) {
        self.changed |= self.report.cookie != Some(cookie);
        self.report.cookie = Some(cookie);
    }

    /// Notes that a probe frame of the agent with this address has arrived.
    pub fn heard_probe(&mut self, sender: IpAddr, now: Instant) {
        if !self.heard.lately(&sender, now)
            && let Some(at) = self.addresses.get(&sender).copied()
        {
            self.greet(at);
        }
        self.heard.note(sender, now);
    }

    /// The node with this address, if it is another's.
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(|at| self.peers[*at].name.as_str())
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.peers.binary_search_by(|peer| peer.name.as_str().cmp(name)).ok()
    }

    fn others(&self) -> impl Iterator<Item = (usize, &Peer)> {
        self.peers.iter().enumerate().filter(|(at, _)| *at != self.mine)
    }

    /// The lowest plan version among the agents that live.
    pub fn plan_version(&self) -> u32 {
        let lives = self.others().filter(|(_, peer)| peer.standing.agent);
        let versions = lives.filter_map(|(_, peer)| Some(peer.report.as_ref()?.plan_version));
        versions.fold(PLAN_VERSION, u32::min)
    }

    /// Says which nodes there are. This node itself may be among them.
    pub fn set_nodes(&mut self, nodes: &KnownNodes, now: Instant) {
        let mut known: BTreeMap<String, Peer> =
            self.peers.drain(..).map(|peer| (peer.name.clone(), peer)).collect();
        let starting = self.started + self.timing.starting();
        let mut names: BTreeSet<&String> = nodes.keys().collect();
        names.insert(&self.me);
        for name in names {
            let mut peer = known.remove(name).unwrap_or_else(|| Peer {
                name: name.clone(),
                // A node that comes later owns nothing yet: no need to assume.
                assumed_until: (now < starting).then_some(starting),
                greet: true,
                ..Peer::default()
            });
            peer.addresses = nodes.get(name).cloned().unwrap_or_default();
            self.peers.push(peer);
        }
        self.orders = Orders::new(self.peers.iter().map(|peer| peer.name.as_str()));
        self.mine = self.position(&self.me).unwrap_or_default();
        let others = self.others();
        let all = others.flat_map(|(at, peer)| peer.addresses.iter().map(move |a| (*a, at)));
        self.addresses = all.collect();
        self.envelopes.retain(|name| nodes.contains_key(name));
        self.report.troubles.retain(|name, _| nodes.contains_key(name));
        let watched = self.peers.iter().enumerate().filter(|(_, peer)| peer.watch.is_some());
        self.watched = watched.map(|(at, _)| at).collect();
        self.fit.clear();
        (self.greeting, self.refresh, self.stale) = (true, true, true);
    }

    /// Says which uplinks this node has.
    pub fn set_interfaces(&mut self, interfaces: BTreeSet<String>) {
        self.changed |= self.report.interfaces != interfaces;
        self.report.interfaces = interfaces;
        self.refresh = true;
    }

    /// Says that this agent goes.
    pub fn leave(&mut self, departure: Departure) {
        self.report.departure = Some(departure);
        self.changed = true;
        self.refresh = true;
    }

    /// Whether it is to be said when frames [have arrived](Self::frames_arrived).
    pub fn wants_evidence(&self) -> bool {
        self.alone && self.evidence.is_none()
    }

    /// Says that this node's uplinks still receive frames.
    pub fn frames_arrived(&mut self, now: Instant) {
        if self.wants_evidence() {
            self.evidence = Some(now);
        }
    }

    /// Takes in the answer of a node's kernel program to a probe. [`poll`](Self::poll) after it.
    pub fn answered(&mut self, from: IpAddr, number: u64, answer: Answer, now: Instant) {
        let Some(at) = self.addresses.get(&from).copied() else { return };
        let peer = &mut self.peers[at];
        let Some(watch) = &mut peer.watch else { return };
        if watch.probing.answer(number, answer, &self.timing.pace, now) {
            self.counts.answers += 1;
            self.sign = Some(now);
            // Who had lost all was away itself.
            if self.alone {
                watch.probing.absolve();
            }
            // It has programs, and once it announces, tables: no need to have heard its agent.
            if peer.report.is_none() && !peer.serves && watch.probing.announces().is_some() {
                peer.serves = true;
                self.refresh = true;
            }
        }
    }

    /// Brings [`alive`](Self::alive) up to date and says what is to be sent. All that had
    /// arrived before `now` is to be taken in before.
    pub fn poll(&mut self, now: Instant) -> Output {
        self.forgive_stall(now);
        let mut output = Output::default();
        self.watch(&mut output, now);
        let starting = self.started + self.timing.starting();
        if self.refresh || self.waits || self.polled < starting && starting <= now {
            self.refresh = false;
            self.look(now);
        }
        self.hold(now);
        self.polled = now;
        if std::mem::take(&mut self.changed) {
            self.report.version += 1;
            self.peers.iter_mut().for_each(|peer| peer.greet = true);
            self.greeting = true;
        }
        self.say_hello(now);
        if std::mem::take(&mut self.stale) {
            self.publish();
        }
        output.datagrams = std::mem::take(&mut self.outbox);
        self.counts.sent += output.datagrams.len() as u64;
        self.counts.probes += output.probes.len() as u64;
        self.promised = self.next_deadline();
        output
    }

    /// When [`poll`](Self::poll) is due again, if nothing is received before.
    pub fn next_deadline(&self) -> Instant {
        let mut next = self.polled + self.timing.hello;
        let mut at = |time: Instant| {
            if time > self.polled {
                next = next.min(time);
            }
        };
        at(self.started + self.timing.starting());
        self.held_until.into_iter().for_each(&mut at);
        if self.waits {
            at(self.polled + LOOK);
        }
        at(if self.greeting { self.polled + hellos::PAUSE } else { self.hello_due });
        for peer in self.watched.iter().filter_map(|watched| self.peers.get(*watched)) {
            if let Some(watch) = &peer.watch {
                at(watch.probing.next_deadline(&self.timing.pace));
                let heard = peer.heard.map_or(watch.since, |heard| heard.max(watch.since));
                at(heard + self.timing.silence);
            }
        }
        next
    }

    /// Nobody is to blame for what was not heard while this process did not run.
    fn forgive_stall(&mut self, now: Instant) {
        if now < self.promised + LATE {
            return;
        }
        let stalled = now - self.promised;
        for peer in &mut self.peers {
            peer.heard = peer.heard.map(|heard| (heard + stalled).min(now));
            peer.assumed_until = peer.assumed_until.map(|until| until + stalled);
            if let Some(watch) = &mut peer.watch {
                watch.since = (watch.since + stalled).min(now);
                watch.probing.forgive(stalled, now);
            }
        }
        if now < self.started + self.timing.starting() + stalled {
            self.started = (self.started + stalled).min(now);
        }
    }

    /// Probes those that this node watches, and finds out what is amiss.
    fn watch(&mut self, output: &mut Output, now: Instant) {
        let Self { peers, watched, timing, random, report, counts, greeting, .. } = self;
        let pace = &timing.pace;
        let mut changed = false;
        for watched in watched.iter() {
            let Some(peer) = peers.get_mut(*watched) else { continue };
            let Some(watch) = &mut peer.watch else { continue };
            output.probes.extend(watch.probing.poll(&peer.addresses, pace, random, now));
            let overdue = watch.probing.overdue_since(pace, now).is_some();
            let asked = watch.asked.is_some_and(|at| now < at + pace.steady);
            if overdue && watch.probing.is_known() && !watch.probing.is_unseen() && !asked {
                watch.asked = Some(now);
                (peer.greet, peer.ask, *greeting) = (true, true, true);
            }
            let heard = peer.heard.map_or(watch.since, |heard| heard.max(watch.since));
            let hangs = watch.probing.announces().is_some_and(|left| left < HANGS);
            let restarts = (peer.report.as_ref())
                .is_some_and(|report| report.departure == Some(Departure::Restarting));
            let excused = restarts && watch.probing.announces().is_some();
            let silent = now >= heard + timing.silence && !excused || hangs;
            let unseen = if watch.probing.is_known() { watch.probing.is_unseen() } else { silent };
            let unknown = peer.heard.is_none_or(|heard| heard < watch.since) && !silent;
            let trouble = Trouble { unseen, silent, unknown };
            if trouble == watch.trouble {
                continue;
            }
            counts.unseen += u64::from(unseen && !watch.trouble.unseen);
            counts.silent += u64::from(silent && !watch.trouble.silent);
            watch.trouble = trouble;
            changed = true;
            if trouble.any() {
                report.troubles.insert(peer.name.clone(), trouble);
            } else {
                report.troubles.remove(&peer.name);
            }
        }
        self.changed |= changed;
        self.refresh |= changed;
    }
}

#[cfg(test)]
mod departure_tests;
#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
mod large;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
