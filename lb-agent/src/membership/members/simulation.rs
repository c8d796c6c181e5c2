//! Agents and kernels on a simulated network, in a time of their own.
use super::*;
use crate::testing::ip;
use std::{cmp::Reverse, collections::BinaryHeap};

pub(super) const MS: Duration = Duration::from_millis(1);
/// IPv4, UDP and Ethernet.
const HEADERS: usize = 42;

/// How the network treats what is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Of a million datagrams, so many are lost.
    pub(super) loss: u64,
    /// Of a million datagrams, so many come twice.
    pub(super) doubled: u64,
    /// How long one is under way, at least, and at most.
    pub(super) trip: (Duration, Duration),
}

pub(super) const CALM: Faults =
    Faults { loss: 0, doubled: 0, trip: (Duration::from_micros(100), Duration::from_micros(100)) };

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Poll,
    Datagram(Vec<u8>),
    Probe(u64),
    Answer(u64),
}

/// When, a number to keep order, from whom, to whom, and what.
type Event = (Instant, u64, usize, usize, What);

#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub(super) runs: bool,
    /// It carries the programs.
    pub(super) programs: bool,
    pub(super) announces: Duration,
}

/// What a node has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
}

pub(super) struct Lab {
    pub(super) now: Instant,
    pub(super) began: Instant,
    pub(super) nodes: KnownNodes,
    pub(super) names: Vec<String>,
    pub(super) agents: Vec<Option<Members>>,
    /// Agents that do not run, but are there; and what waits in their sockets.
    stopped: BTreeMap<usize, Vec<(usize, What)>>,
    pub(super) kernels: Vec<Kernel>,
    /// From whom to whom nothing gets through; [`ALL`] stands for everybody.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) faults: Faults,
    /// For how long an agent lets what arrives wait, to take it in together. All of a thousand conclude from each
    /// of a million datagrams when they start, otherwise.
    pub(super) together: Duration,
    pub(super) keys: Keyring,
    /// Whether it is noted how views change: a thousand that start see each other one by one.
    pub(super) watched: bool,
    /// When views changed, whose, and to what.
    pub(super) seen: Vec<(Duration, usize, Arc<Alive>)>,
    pub(super) traffic: Vec<Traffic>,
    /// All datagrams between agents, if they are to be kept.
    pub(super) recorded: Option<Vec<(usize, usize, Vec<u8>)>>,
    events: BinaryHeap<Reverse<Event>>,
    wakes: Vec<Instant>,
    sequence: u64,
    starts: u64,
    pub(super) state: u64,
}

pub(super) const ALL: usize = usize::MAX;

impl Lab {
    /// Agents `n1`, `n2` and so on, of which none runs yet.
    pub(super) fn empty(count: usize, seed: u64) -> Self {
        let now = Instant::now() + Duration::from_secs(1000);
        let name = |i: usize| if count < 10 { format!("n{i}") } else { format!("n{i:04}") };
        let address = |i: usize| ip(&format!("10.0.{}.{}", i / 250, i % 250 + 1));
        let nodes: KnownNodes = (1..=count).map(|i| (name(i), vec![address(i)])).collect();
        Self {
            now,
            began: now,
            names: nodes.keys().cloned().collect(),
            nodes,
            agents: (0..count).map(|_| None).collect(),
            stopped: BTreeMap::new(),
            kernels: vec![Kernel { runs: true, programs: false, announces: Duration::ZERO }; count],
            cut: BTreeSet::new(),
            faults: CALM,
            together: Duration::ZERO,
            keys: Keyring::from_lines("0123456789abcdef").unwrap(),
            watched: true,
            seen: Vec::new(),
            traffic: vec![Traffic::default(); count],
            recorded: None,
            events: BinaryHeap::new(),
            wakes: vec![now; count],
            sequence: 0,
            starts: 0,
            state: seed.wrapping_mul(2).wrapping_add(1),
        }
    }

    /// All run, and know each other.
    pub(super) fn new(count: usize) -> Self {
        let mut lab = Self::empty(count, 1);
        for at in 0..count {
            lab.start(at);
            lab.run(17);
        }
        lab.run(2500);
        lab
    }

    pub(super) fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Starts an agent, with its programs and tables.
    pub(super) fn start(&mut self, at: usize) {
        self.start_quietly(at);
        self.ready(at);
    }

    /// Starts an agent that has not attached its programs yet.
    pub(super) fn start_quietly(&mut self, at: usize) {
        self.starts += 1;
        let mut state = self.random();
        let random = Random::new(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state ^ state >> 31
        });
        let name = self.names[at].as_str();
        let (timing, keys) = (Timing::default(), self.keys.clone());
        let mut agent = Members::new(name, self.starts, timing, keys, random, self.now);
        agent.set_nodes(&self.nodes, self.now);
        self.kernels[at].runs = true;
        self.stopped.remove(&at);
        self.agents[at] = Some(agent);
        self.wake(at, self.now);
    }

    pub(super) fn ready(&mut self, at: usize) {
        self.kernels[at].programs = true;
        self.kernels[at].announces = Duration::from_secs(60);
        self.agent(at).set_interfaces(["eth0".to_owned()].into());
    }

    /// An agent, which is polled after what is done with it.
    pub(super) fn agent(&mut self, at: usize) -> &mut Members {
        self.wake(at, self.now);
        self.agents[at].as_mut().unwrap()
    }

    pub(super) fn kill_agent(&mut self, at: usize) {
        self.agents[at] = None;
    }

    pub(super) fn kill_node(&mut self, at: usize) {
        self.agents[at] = None;
        self.kernels[at] = Kernel { runs: false, programs: false, announces: Duration::ZERO };
    }

    /// Cuts a node's link.
    pub(super) fn cut(&mut self, at: usize) {
        self.cut.extend([(at, ALL), (ALL, at)]);
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        !self.cut.is_empty()
            && [(from, to), (from, ALL), (ALL, to)].iter().any(|pair| self.cut.contains(pair))
    }

    fn wake(&mut self, at: usize, when: Instant) {
        self.wakes[at] = when;
        self.push(when, at, at, What::Poll);
    }

    fn push(&mut self, when: Instant, from: usize, to: usize, what: What) {
        self.sequence += 1;
        self.events.push(Reverse((when, self.sequence, from, to, what)));
    }

    pub(super) fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        self.transmit(from, to, &What::Datagram(bytes));
    }

    fn transmit(&mut self, from: usize, to: usize, what: &What) {
        let length = match what {
            What::Datagram(bytes) => bytes.len(),
            _ => crate::membership::probing::LENGTH,
        };
        self.traffic[from].datagrams += 1;
        self.traffic[from].bytes += (HEADERS + length) as u64;
        let faults = self.faults;
        let copies = 1 + usize::from(self.random() % 1_000_000 < faults.doubled);
        for _ in 0..copies {
            if self.is_cut(from, to) || self.random() % 1_000_000 < faults.loss {
                continue;
            }
            let (least, most) = faults.trip;
            let spread = (most - least).as_nanos() as u64 + 1;
            let trip = least + Duration::from_nanos(self.random() % spread);
            self.push(self.now + trip, from, to, what.clone());
        }
    }

    /// Lets time pass, with everything due happening in order.
    pub(super) fn run(&mut self, ms: u64) {
        self.run_for(Duration::from_millis(ms));
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse(event)) = self.events.peek()
            && event.0 <= end
        {
            let Some(Reverse((when, _, from, to, what))) = self.events.pop() else { break };
            self.now = when;
            match what {
                What::Poll => self.poll(to),
                What::Probe(number) => {
                    let kernel = self.kernels[to];
                    if kernel.runs && kernel.programs {
                        self.transmit(to, from, &What::Answer(number));
                    }
                }
                _ if self.stopped.contains_key(&to) => {
                    self.stopped.entry(to).or_default().push((from, what));
                }
                _ => {
                    self.arrive(from, to, what);
                    let soon = self.now + self.together;
                    if soon == self.now {
                        self.poll_now(to);
                    } else if soon < self.wakes[to] {
                        self.wake(to, soon);
                    }
                }
            }
        }
        self.now = end;
    }

    fn arrive(&mut self, from: usize, to: usize, what: What) {
        let (now, announces) = (self.now, self.kernels[from].announces);
        let source = self.nodes[&self.names[from]][0];
        let Some(agent) = &mut self.agents[to] else { return };
        match what {
            What::Datagram(bytes) => {
                let _ = agent.receive(source, &bytes, now);
            }
            What::Answer(number) => agent.answered(source, number, Answer { announces }, now),
            What::Poll | What::Probe(_) => {}
        }
    }

    /// Keeps an agent from running.
    pub(super) fn stop(&mut self, at: usize) {
        self.stopped.entry(at).or_default();
    }

    /// Lets it run again: it finds what has arrived meanwhile.
    pub(super) fn go_on(&mut self, at: usize) {
        for (from, what) in self.stopped.remove(&at).unwrap_or_default() {
            self.arrive(from, at, what);
        }
        self.poll_now(at);
    }

    fn poll(&mut self, at: usize) {
        if self.wakes[at] <= self.now && !self.stopped.contains_key(&at) {
            self.poll_now(at);
        }
    }

    fn poll_now(&mut self, at: usize) {
        let now = self.now;
        let hears = !self.is_cut(ALL, at);
        let Some(agent) = &mut self.agents[at] else { return };
        if agent.wants_evidence() && hears {
            agent.frames_arrived(now);
        }
        let before = Arc::clone(agent.alive());
        let output = agent.poll(now);
        let after = Arc::clone(agent.alive());
        let next = agent.next_deadline();
        assert!(next > now, "time passes");
        if self.watched && !Arc::ptr_eq(&before, &after) {
            self.seen.push((now - self.began, at, after));
        }
        if self.wakes[at] != next {
            self.wake(at, next);
        }
        let position = |lab: &Self, to: IpAddr| {
            let owner = lab.nodes.iter().position(|(_, all)| all.contains(&to));
            owner.unwrap()
        };
        let by_address = |lab: &Self, to: IpAddr| match to {
            // The addresses are made from positions.
            IpAddr::V4(v4) if lab.nodes.len() >= 10 => {
                usize::from(v4.octets()[2]) * 250 + usize::from(v4.octets()[3]) - 2
            }
            _ => position(lab, to),
        };
        for (to, bytes) in output.datagrams {
            let to = by_address(self, to);
            if let Some(recorded) = &mut self.recorded {
                recorded.push((at, to, bytes.clone()));
            }
            self.transmit(at, to, &What::Datagram(bytes));
        }
        for (to, number) in output.probes {
            let to = by_address(self, to);
            self.transmit(at, to, &What::Probe(number));
        }
    }

    /// The nodes in an agent's view; an agent that is dead in brackets, one that is held with a star,
    /// one that rows may not name with a question mark.
    pub(super) fn view(&self, of: usize) -> String {
        let alive = self.agents[of].as_ref().unwrap().alive();
        let text = |(n, a): (&String, &AliveNode)| match a {
            AliveNode { agent: false, .. } => format!("({n})"),
            AliveNode { held_until_s: Some(_), .. } => format!("{n}*"),
            AliveNode { in_rows: false, .. } => format!("{n}?"),
            _ => n.clone(),
        };
        alive.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn time(&self) -> Duration {
        self.now - self.began
    }

    /// How long after a moment an agent's view last changed.
    pub(super) fn changed(&self, of: usize, after: Duration) -> Option<Duration> {
        self.seen
            .iter()
            .rev()
            .find(|(at, n, _)| *n == of && *at > after)
            .map(|(at, ..)| *at - after)
    }
}
