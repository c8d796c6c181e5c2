//! Two sessions with a network between them that does all kinds of things.
use super::*;
use crate::testing::{any_route, net};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A connection between the two.
struct Wire {
    /// How each side calls it, while it has it.
    ends: [Option<Link>; 2],
    /// Bytes on their way to each side.
    bytes: [VecDeque<u8>; 2],
    /// Nothing more comes to this side after what is on its way.
    closed: [bool; 2],
    /// What side 1 has been told of routes.
    stream: crate::message::Stream,
    routes: BTreeSet<IpNet>,
    up: bool,
}

/// So many bytes at most wait for a side to read.
const WINDOW: usize = 3_000;

struct Net {
    now: Instant,
    sides: [Session; 2],
    wires: Vec<Wire>,
    /// Attempts to connect that have not been answered.
    dialled: VecDeque<(usize, Link)>,
    desired: BTreeMap<IpNet, ()>,
}

impl Net {
    fn new(graceful: [bool; 2], ids: [u8; 2], passive: [bool; 2], seed: u64) -> Self {
        let now = Instant::now();
        let sides = [0, 1].map(|side: usize| {
            let config = Config {
                local_as: 65_001 + side as u32,
                remote_as: RemoteAs::External,
                router_id: Ipv4Addr::new(192, 0, 2, ids[side]),
                hold_time: HoldTime::new(9).unwrap(),
                graceful_restart: graceful[side].then_some(60),
                // Somebody must connect.
                passive: passive[side] && !(passive[0] && passive[1] && side == 0),
                ..config()
            };
            let mut session = Session::new(config, false, seed + side as u64, now);
            session.start(now);
            session
        });
        Self { now, sides, wires: Vec::new(), dialled: VecDeque::new(), desired: BTreeMap::new() }
    }

    fn wire(&mut self, side: usize, link: Link) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.ends[side] == Some(link))
    }

    /// Does what the sessions say.
    fn obey(&mut self) {
        for side in 0..2 {
            while let Some(output) = self.sides[side].next_output() {
                match output {
                    Output::Connect(link) => self.dialled.push_back((side, link)),
                    Output::Close { link, last } => {
                        self.dialled.retain(|dialled| *dialled != (side, link));
                        if let Some(wire) = self.wire(side, link) {
                            wire.ends[side] = None;
                            wire.bytes[1 - side].extend(last.unwrap_or_default());
                            wire.closed[1 - side] = true;
                        }
                    }
                    Output::Fault(fault) => panic!("{fault}"),
                    Output::Up(_) | Output::Down { .. } => {}
                }
            }
        }
        self.wires.retain(|wire| wire.ends.iter().any(Option::is_some));
    }

    /// Answers the oldest attempt.
    fn answer(&mut self, well: bool) {
        let Some((side, link)) = self.dialled.pop_front() else { return };
        let other = 1 - side;
        let taken = if well { self.sides[other].accepted(endpoint(), self.now).ok() } else { None };
        let Some(theirs) = taken else {
            self.sides[side].connect_failed(link, "refused", self.now);
            return self.obey();
        };
        let mut ends = [Some(link); 2];
        ends[other] = Some(theirs);
        self.wires.push(Wire {
            ends,
            bytes: Default::default(),
            closed: [false; 2],
            stream: Default::default(),
            routes: BTreeSet::new(),
            up: false,
        });
        self.sides[side].connected(link, endpoint(), self.now);
        self.obey();
    }

    /// Lets each side write while there is room, and read at most so much of one wire.
    fn carry(&mut self, which: usize, most: usize) {
        if self.wires.is_empty() {
            return;
        }
        let at = which % self.wires.len();
        for side in 0..2 {
            let wire = &mut self.wires[at];
            if let Some(link) = wire.ends[side]
                && wire.bytes[1 - side].len() < WINDOW
                && let Some(bytes) = self.sides[side].transmit(link, self.now)
            {
                wire.bytes[1 - side].extend(bytes);
            }
        }
        for side in 0..2 {
            let wire = &mut self.wires[at];
            let count = most.min(wire.bytes[side].len());
            let bytes: Vec<u8> = wire.bytes[side].drain(..count).collect();
            if side == 1 {
                wire.watch(&bytes);
            }
            let (link, closed) =
                (wire.ends[side], wire.closed[side] && wire.bytes[side].is_empty());
            let Some(link) = link else { continue };
            self.sides[side].received(link, &bytes, self.now);
            if closed && self.wires[at].ends[side].is_some() {
                self.sides[side].closed(link, "closed by the peer", self.now);
            }
        }
        self.obey();
    }

    /// Ends a connection in the middle of whatever it was doing.
    fn cut(&mut self, which: usize) {
        if self.wires.is_empty() {
            return;
        }
        let wire = self.wires.remove(which % self.wires.len());
        for side in 0..2 {
            if let Some(link) = wire.ends[side] {
                self.sides[side].closed(link, "cut", self.now);
            }
        }
        self.obey();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for side in &mut self.sides {
            side.advance(self.now);
        }
        self.obey();
    }

    fn is_settled(&self) -> bool {
        self.sides.iter().all(|side| side.state() == State::Established)
            && self.sides[0].routes().is_flushed()
            && self.wires.iter().all(|wire| wire.bytes.iter().all(VecDeque::is_empty))
            && self.wires.len() == 1
    }

    /// All goes well, for so long at most.
    fn settle(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && !self.is_settled() {
            for _ in 0..50 {
                self.answer(true);
                for which in 0..self.wires.len() {
                    self.carry(which, usize::MAX);
                }
            }
            let deadlines = self.sides.iter().filter_map(Session::next_deadline);
            let next = deadlines.min().expect("a session has no future").max(self.now);
            // What is due at once must come to an end.
            self.pass((next - self.now).max(Duration::from_millis(1)));
        }
    }
}

impl Wire {
    /// What side 1 is told of routes over this connection.
    fn watch(&mut self, bytes: &[u8]) {
        self.stream.push(bytes);
        while let Ok(Some((kind, body))) = self.stream.next_message() {
            if kind != Kind::Update {
                continue;
            }
            self.up = true;
            let decoded = Update::decode(&body, true, false).unwrap();
            for prefix in decoded.withdrawn() {
                assert!(self.routes.remove(prefix), "{prefix} was not there");
            }
            self.routes.extend(decoded.announced());
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Answer(bool),
    Carry(usize, usize),
    Cut(usize),
    Pass(u64),
    Announce(u8, crate::Route),
    Withdraw(u8),
    Refresh,
    Bfd(usize),
    /// A side stops and starts.
    Bounce(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::bool::weighted(0.8).prop_map(Step::Answer),
        20 => (0..4usize, 1..5_000usize).prop_map(|(which, most)| Step::Carry(which, most)),
        1 => (0..4usize).prop_map(Step::Cut),
        4 => (0..6_000u64).prop_map(Step::Pass),
        4 => (any::<u8>(), any_route()).prop_map(|(number, route)| Step::Announce(number, route)),
        2 => any::<u8>().prop_map(Step::Withdraw),
        1 => Just(Step::Refresh),
        1 => (0..2usize).prop_map(Step::Bfd),
        1 => (0..2usize).prop_map(Step::Bounce),
    ]
}

fn prefix(number: u8) -> IpNet {
    net(&format!("198.51.{}.{number}/32", number % 3))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever has happened: once all goes well, the session is up, and the peer knows exactly what
    /// it should.
    #[test]
    fn no_script_leaves_the_sessions_without_a_future(
        steps in proptest::collection::vec(any_step(), 0..150),
        graceful: [bool; 2],
        passive: [bool; 2],
        ids in prop_oneof![Just([1, 2]), Just([2, 1]), Just([1, 1])],
        seed in 0..1_000u64,
    ) {
        let mut net = Net::new(graceful, ids, passive, seed);
        net.obey();
        for step in steps {
            match step {
                Step::Answer(well) => net.answer(well),
                Step::Carry(which, most) => net.carry(which, most),
                Step::Cut(which) => net.cut(which),
                Step::Pass(ms) => net.pass(Duration::from_millis(ms)),
                Step::Announce(number, route) => {
                    net.desired.insert(prefix(number), ());
                    net.sides[0].routes_mut().announce(prefix(number), route.into());
                }
                Step::Withdraw(number) => {
                    net.desired.remove(&prefix(number));
                    net.sides[0].routes_mut().withdraw(&prefix(number));
                }
                Step::Refresh => {
                    net.sides[0].routes_mut().refresh(Family::Ipv4Unicast, true);
                }
                Step::Bfd(side) => {
                    let now = net.now;
                    net.sides[side].bfd_down(now);
                    net.obey();
                }
                Step::Bounce(side) => {
                    let now = net.now;
                    net.sides[side].stop(&Stop::Restart, now);
                    net.obey();
                    net.sides[side].start(now);
                    net.obey();
                }
            }
        }
        net.sides[0].routes_mut().set_whole();
        net.settle(Duration::from_secs(600));
        for side in &net.sides {
            prop_assert_eq!(side.state(), State::Established);
        }
        prop_assert!(net.sides[0].routes().is_flushed());
        let up: Vec<_> = net.wires.iter().filter(|wire| wire.up).collect();
        prop_assert_eq!(up.len(), 1);
        let desired: BTreeSet<_> = net.desired.keys().copied().collect();
        prop_assert_eq!(&up[0].routes, &desired);
    }
}
