use super::*;
use crate::bfd::packet::LENGTH;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn config(tx: u32, rx: u32, multiplier: u8) -> Config {
    Config {
        desired_min_tx: MS * tx,
        required_min_rx: MS * rx,
        detect_multiplier: NonZeroU8::new(multiplier).unwrap(),
        passive: false,
        minimum_ttl: 255,
    }
}

/// Two sessions, and packets that take no time.
struct Pair {
    now: Instant,
    sides: [Session; 2],
    /// What each side has sent, and when.
    sent: [Vec<(Instant, Packet)>; 2],
    /// Whether what each side sends arrives.
    arrives: [bool; 2],
}

impl Pair {
    fn new(configs: [Config; 2]) -> Self {
        let now = Instant::now();
        let sides = [0, 1].map(|side: usize| {
            let number = u32::try_from(side).unwrap();
            Session::new(configs[side], 7 + number, u64::from(number), now)
        });
        Self { now, sides, sent: Default::default(), arrives: [true; 2] }
    }

    fn up(configs: [Config; 2]) -> Self {
        let mut pair = Self::new(configs);
        pair.pass(5_000 * MS);
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.changes();
        pair.sent = Default::default();
        pair
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }

    fn changes(&mut self) -> [Vec<Change>; 2] {
        [0, 1].map(|side: usize| std::iter::from_fn(|| self.sides[side].next_change()).collect())
    }

    /// Lets each side send what is due.
    fn exchange(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for side in 0..2 {
                while let Some(packet) = self.sides[side].poll(self.now) {
                    busy = true;
                    self.sent[side].push((self.now, packet.clone()));
                    if self.arrives[side] {
                        let bytes: [u8; LENGTH] = packet.encode();
                        let packet = Packet::decode(&bytes).unwrap();
                        // It may be for a session that is no longer.
                        let _ = self.sides[1 - side].receive(&packet, 255, self.now);
                    }
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.exchange();
        while let Some(at) =
            self.sides.iter().filter_map(Session::next_deadline).min().filter(|at| *at <= end)
        {
            assert!(at > self.now, "a deadline stays");
            self.now = at;
            self.exchange();
        }
        self.now = end;
    }

    /// The pauses between packets of a side that were not asked for.
    fn pauses(&self, side: usize) -> Vec<Duration> {
        let regular: Vec<_> = self.sent[side]
            .iter()
            .filter(|(_, packet)| !packet.is_final)
            .map(|(at, _)| *at)
            .collect();
        regular.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn assert_within(pauses: &[Duration], interval: Duration) {
    assert!(pauses.len() > 5, "{pauses:?}");
    for pause in pauses {
        assert!(*pause >= interval * 3 / 4 && *pause <= interval, "{pause:?} of {interval:?}");
    }
}

/// A packet of a peer in this state, that knows of us or not.
fn packet(state: State, your_discriminator: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::None,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: NonZeroU8::new(3).unwrap(),
        my_discriminator: 99,
        your_discriminator,
        desired_min_tx: 300 * MS,
        required_min_rx: 300 * MS,
        required_min_echo_rx: Duration::ZERO,
    }
}

/// A session in this state, whose peer was heard a moment ago.
fn in_state(state: State) -> (Session, Instant) {
    let now = Instant::now();
    let mut session = Session::new(config(300, 300, 3), 7, 1, now);
    let heard = match state {
        State::AdminDown | State::Down => None,
        State::Init => Some(State::Down),
        State::Up => Some(State::Init),
    };
    if state == State::AdminDown {
        session.set_admin_down(true, now);
    }
    if let Some(heard) = heard {
        session.receive(&packet(heard, 7), 255, now).unwrap();
    }
    while session.next_change().is_some() {}
    assert_eq!(session.state(), state);
    (session, now)
}

#[test]
fn each_state_of_the_peer_leads_where_the_rfc_says() {
    use State::{AdminDown, Down, Init, Up};
    for (state, row) in [
        // The peer is:  AdminDown  Down       Init       Up
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ] {
        for (remote, expected) in [AdminDown, Down, Init, Up].into_iter().zip(row) {
            let (mut session, now) = in_state(state);
            session.receive(&packet(remote, 7), 255, now).unwrap();
            assert_eq!(session.state(), expected, "{state:?}, peer {remote:?}");
            let change = session.next_change();
            assert_eq!(change.is_some(), state != expected);
            if let Some(change) = change {
                assert_eq!(change.by_peer_admin, remote == AdminDown && expected == Down);
                if state == Up {
                    assert_eq!(change.diagnostic, Diagnostic::NeighborSignaledDown);
                }
            }
        }
    }
}

#[test]
fn two_sessions_find_each_other_slowly_and_then_keep_their_pace() {
    let mut pair = Pair::new([config(300, 200, 3), config(100, 400, 5)]);
    pair.pass(5_000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
    let [ours, theirs] = pair.changes();
    assert_eq!((ours.last().unwrap().to, theirs.last().unwrap().to), (State::Up, State::Up));
    pair.sent = Default::default();
    pair.pass(20_000 * MS);
    // The longer one of what the sender wants and the receiver takes.
    assert_within(&pair.pauses(0), 400 * MS);
    assert_within(&pair.pauses(1), 200 * MS);
    assert_eq!(pair.sides[0].detection_time(), Some(5 * 200 * MS));
    assert_eq!(pair.sides[1].detection_time(), Some(3 * 400 * MS));
    // All that was changed has been confirmed.
    assert!(pair.sent.iter().flatten().all(|(_, packet)| !packet.poll));
    assert!(pair.sides.iter().all(|side| !side.polling));
    assert_eq!(pair.changes(), [vec![], vec![]]);
}

#[test]
fn nobody_is_asked_for_more_than_a_packet_a_second_before() {
    let mut pair = Pair::new([config(10, 10, 3), config(10, 10, 3)]);
    pair.arrives = [false; 2];
    pair.pass(30_000 * MS);
    for side in 0..2 {
        assert_within(&pair.pauses(side), 1_000 * MS);
        assert!(pair.sent[side].iter().all(|(_, packet)| packet.desired_min_tx == SLOW));
    }
}

#[test]
fn a_passive_session_waits_until_it_is_heard() {
    let mut passive = config(300, 300, 3);
    passive.passive = true;
    let mut pair = Pair::new([passive; 2]);
    pair.pass(10_000 * MS);
    assert!(pair.sent[0].is_empty() && pair.sent[1].is_empty());
    let mut pair = Pair::up([passive, config(300, 300, 3)]);
    // And again, when nothing is known any more.
    pair.arrives[1] = false;
    pair.pass(10_000 * MS);
    pair.sent = Default::default();
    pair.pass(10_000 * MS);
    assert!(pair.sent[0].is_empty());
    pair.arrives[1] = true;
    pair.pass(5_000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn packets_that_are_missed_take_the_session_down_in_the_detection_time() {
    let mut pair = Pair::up([config(300, 300, 3); 2]);
    pair.exchange();
    pair.arrives = [false; 2];
    let heard = pair.sides[0].heard.unwrap();
    pair.pass(heard + 899 * MS - pair.now);
    assert_eq!(pair.sides[0].state(), State::Up);
    pair.pass(MS);
    assert_eq!(pair.sides[0].state(), State::Down);
    let expected = Change {
        from: State::Up,
        to: State::Down,
        diagnostic: Diagnostic::DetectionTimeExpired,
        by_peer_admin: false,
    };
    assert_eq!(pair.sides[0].next_change(), Some(expected));
    // The peer is told at once, in a packet that knows nothing of it.
    let (at, last) = pair.sent[0].last().unwrap();
    assert_eq!(*at, heard + 900 * MS);
    assert_eq!((last.state, last.diagnostic), (State::Down, Diagnostic::DetectionTimeExpired));
    assert_eq!(last.your_discriminator, 0);
    pair.arrives = [true; 2];
    pair.pass(5_000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sides[0].diagnostic(), Diagnostic::None);
}

#[test]
fn a_way_that_is_broken_in_one_direction_is_down_in_both() {
    let mut pair = Pair::up([config(100, 100, 3); 2]);
    pair.arrives[0] = false;
    pair.pass(1_500 * MS);
    assert_ne!(pair.sides[0].state(), State::Up);
    let [ours, _] = pair.changes();
    assert_eq!(ours[0].diagnostic, Diagnostic::NeighborSignaledDown);
    assert!(!ours[0].by_peer_admin);
}

#[test]
fn a_session_taken_out_of_use_says_nothing_of_the_way() {
    let mut pair = Pair::up([config(300, 300, 3); 2]);
    let now = pair.now;
    pair.sides[0].set_admin_down(true, now);
    pair.pass(2_000 * MS);
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    let [ours, theirs] = pair.changes();
    assert_eq!(ours[0].diagnostic, Diagnostic::AdministrativelyDown);
    assert!(theirs[0].by_peer_admin && theirs.len() == 1, "{theirs:?}");
    // It goes on saying so.
    let (_, last) = pair.sent[0].last().unwrap();
    assert_eq!(last.state, State::AdminDown);
    let now = pair.now;
    pair.sides[0].set_admin_down(false, now);
    pair.pass(5_000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn packets_of_others_change_nothing() {
    let (mut session, now) = in_state(State::Up);
    let far = session.receive(&packet(State::Down, 7), 254, now);
    assert_eq!(far, Err(Discard::Ttl(254)));
    let other = session.receive(&packet(State::Down, 8), 255, now);
    assert_eq!(other, Err(Discard::Discriminator(8)));
    assert_eq!(session.state(), State::Up);
    // Over several hops, as far as its configuration says.
    let mut multihop = config(300, 300, 3);
    multihop.minimum_ttl = 250;
    session.set_config(multihop, now);
    assert!(session.receive(&packet(State::Up, 7), 250, now).is_ok());
    assert_eq!(session.receive(&packet(State::Up, 7), 249, now), Err(Discard::Ttl(249)));
}

#[test]
fn a_poll_is_answered_at_once_and_alone() {
    let (mut session, now) = in_state(State::Up);
    while session.poll(now).is_some() {}
    let mut polling = packet(State::Up, 7);
    polling.poll = true;
    session.receive(&polling, 255, now).unwrap();
    let answer = session.poll(now).unwrap();
    assert!(answer.is_final && !answer.poll);
    assert_eq!(session.poll(now), None);
}

#[test]
fn a_longer_interval_waits_until_the_peer_knows() {
    let mut pair = Pair::up([config(100, 400, 9), config(100, 100, 9)]);
    pair.arrives[1] = false;
    let now = pair.now;
    pair.sides[0].set_config(config(500, 50, 9), now);
    pair.pass(250 * MS);
    assert_eq!(pair.sides[0].interval(), 100 * MS);
    assert_eq!(pair.sides[0].detection_time(), Some(3_600 * MS));
    let (_, told) = pair.sent[0].last().unwrap();
    assert!(told.poll);
    assert_eq!((told.desired_min_tx, told.required_min_rx), (500 * MS, 50 * MS));
    pair.arrives[1] = true;
    pair.pass(1_000 * MS);
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sides[0].interval(), 500 * MS);
    // The peer's packets may not come more often than it wants to send them.
    assert_eq!(pair.sides[0].detection_time(), Some(900 * MS));
    assert_eq!(pair.sides[1].detection_time(), Some(4_500 * MS));
}

#[test]
fn a_shorter_interval_and_a_longer_patience_hold_at_once() {
    let mut pair = Pair::up([config(400, 100, 3), config(100, 100, 3)]);
    pair.arrives[1] = false;
    let now = pair.now;
    pair.sides[0].set_config(config(200, 600, 3), now);
    assert_eq!(pair.sides[0].interval(), 200 * MS);
    assert_eq!(pair.sides[0].detection_time(), Some(1_800 * MS));
}

#[test]
fn a_change_during_a_poll_is_polled_for_again() {
    let mut pair = Pair::up([config(100, 100, 3); 2]);
    pair.arrives[1] = false;
    for tx in [300, 500] {
        let now = pair.now;
        pair.sides[0].set_config(config(tx, 100, 3), now);
    }
    pair.arrives[1] = true;
    pair.pass(3_000 * MS);
    assert_eq!(pair.sides[0].interval(), 500 * MS);
    let polls = pair.sent[0].iter().filter(|(_, packet)| packet.poll).count();
    assert_eq!(polls, 2);
}

#[test]
fn a_peer_that_demands_silence_has_it_while_the_session_is_up() {
    let (mut session, now) = in_state(State::Up);
    // What was changed on the way to Up is confirmed first.
    let mut demanding = packet(State::Up, 7);
    demanding.demand = true;
    session.receive(&demanding, 255, now).unwrap();
    assert!(session.poll(now + 500 * MS).unwrap().poll);
    demanding.is_final = true;
    session.receive(&demanding, 255, now + 500 * MS).unwrap();
    assert_eq!(session.poll(now + 1_000 * MS), None);
    assert_eq!(session.next_deadline(), Some(now + 1_400 * MS), "only for the peer to be missed");
    // It is answered all the same, and asked when something changes.
    demanding.poll = true;
    demanding.is_final = false;
    session.receive(&demanding, 255, now + 1_100 * MS).unwrap();
    assert!(session.poll(now + 1_100 * MS).unwrap().is_final);
    session.set_config(config(500, 500, 3), now + 1_100 * MS);
    assert!(session.poll(now + 1_600 * MS).unwrap().poll);
}

#[test]
fn a_peer_that_can_receive_nothing_is_sent_nothing_regularly() {
    let (mut session, now) = in_state(State::Up);
    let mut deaf = packet(State::Up, 7);
    deaf.required_min_rx = Duration::ZERO;
    session.receive(&deaf, 255, now).unwrap();
    assert_eq!(session.poll(now + 500 * MS), None);
    session.receive(&packet(State::Up, 7), 255, now + 500 * MS).unwrap();
    assert!(session.poll(now + 500 * MS).is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u32),
    Arrive([bool; 2]),
    Admin(usize, bool),
    Configure(usize, u32, u32, u8),
    /// A packet from anywhere.
    Inject(usize, [u8; LENGTH]),
    /// A side begins anew, under another number.
    Restart(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let side = || 0..2usize;
    prop_oneof![
        10 => (0..3_000u32).prop_map(Step::Pass),
        3 => any::<[bool; 2]>().prop_map(Step::Arrive),
        2 => (side(), any::<bool>()).prop_map(|(side, down)| Step::Admin(side, down)),
        2 => (side(), 10..900u32, 10..900u32, 1..10u8)
            .prop_map(|(side, tx, rx, multiplier)| Step::Configure(side, tx, rx, multiplier)),
        2 => (side(), any::<[u8; LENGTH]>()).prop_map(|(side, mut bytes)| {
            (bytes[0], bytes[3]) = (bytes[0] & 0x1f | 0x20, 24);
            bytes[1] &= 0xfa;
            // From or to somebody who may be there, with intervals of a second at most.
            bytes[4..7].fill(0);
            bytes[8..11].fill(0);
            bytes[7] = bytes[7] % 3 + 6;
            bytes[11] = bytes[11] % 3 + 6;
            for at in [12, 16] {
                bytes[at] = 0;
                bytes[at + 1] &= 0x0f;
            }
            Step::Inject(side, bytes)
        }),
        1 => side().prop_map(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn no_script_keeps_the_sessions_from_coming_up(
        steps in proptest::collection::vec(any_step(), 0..60),
        multipliers in [2..10u8, 2..10u8],
        passive: bool,
    ) {
        let mut configs = multipliers.map(|multiplier| config(100, 100, multiplier));
        configs[1].passive = passive;
        let mut pair = Pair::new(configs);
        for (number, step) in (20..).zip(steps) {
            let now = pair.now;
            match step {
                Step::Pass(ms) => pair.pass(MS * ms),
                Step::Arrive(arrives) => pair.arrives = arrives,
                Step::Admin(side, down) => pair.sides[side].set_admin_down(down, now),
                Step::Configure(side, tx, rx, multiplier) => {
                    let passive = configs[side].passive;
                    let config = Config { passive, ..config(tx, rx, multiplier) };
                    pair.sides[side].set_config(config, now);
                }
                Step::Inject(side, bytes) => {
                    if let Ok(packet) = Packet::decode(&bytes) {
                        let _ = pair.sides[side].receive(&packet, 255, now);
                    }
                }
                Step::Restart(side) => {
                    pair.sides[side] = Session::new(configs[side], number, u64::from(number), now);
                }
            }
        }
        pair.arrives = [true; 2];
        let now = pair.now;
        for (side, config) in pair.sides.iter_mut().zip(configs) {
            side.set_admin_down(false, now);
            side.set_config(config, now);
        }
        // What was injected may claim intervals of more than an hour, and multipliers to match: that
        // peer is missed no sooner. So are packets that it cannot receive.
        pair.exchange();
        let patience = pair.sides.iter().filter_map(Session::detection_time).max();
        let patience = patience.unwrap_or_default();
        if patience > MS * 60_000 {
            return Ok(());
        }
        pair.pass(patience * 2 + 20_000 * MS);
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        // And then nothing is missed, whatever the jitter is.
        pair.changes();
        pair.pass(30_000 * MS);
        prop_assert_eq!(pair.changes(), [vec![], vec![]]);
    }
}
