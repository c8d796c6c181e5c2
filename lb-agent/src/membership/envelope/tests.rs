use super::*;
use proptest::prelude::*;

fn random(seed: u64) -> Random {
    let mut state = seed;
    Random::new(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (state ^ state >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    })
}

fn keys(lines: &[&str]) -> Keyring {
    Keyring::from_lines(&lines.join("\n")).unwrap()
}

const A: &str = "aaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbb";

/// An agent of a node.
struct End {
    envelopes: Envelopes,
    random: Random,
}

impl End {
    fn new(name: &str, keys: Keyring, seed: u64) -> Self {
        let mut random = random(seed);
        Self { envelopes: Envelopes::new(name, keys, &mut random), random }
    }

    fn open<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Result<Opened<'a>, Refused> {
        self.envelopes.open(bytes, &mut self.random, now)
    }
}

/// Writes until it is taken; all that was sent on the way.
fn deliver(from: &mut End, to: &mut End, names: (&str, &str), now: Instant) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for _ in 0..4 {
        let bytes = from.envelopes.seal(names.1, Kind::Hello, b"hello", now);
        sent.push(bytes.clone());
        match to.open(&bytes, now) {
            Ok(Opened::Message { kind: Kind::Hello, body: b"hello", .. }) => return sent,
            Ok(Opened::Challenge(challenge)) => {
                assert_eq!(from.open(&challenge, now), Ok(Opened::Challenged));
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("not taken")
}

#[test]
fn a_session_is_proven_once_and_nothing_is_taken_twice() {
    for ring in [Keyring::default(), keys(&[A])] {
        let now = Instant::now();
        let (mut one, mut two) = (End::new("n1", ring.clone(), 1), End::new("n2", ring.clone(), 2));
        let mut sent = deliver(&mut one, &mut two, ("n1", "n2"), now);
        assert_eq!(sent.len(), 2, "one challenge");
        sent.extend(deliver(&mut one, &mut two, ("n1", "n2"), now));
        assert_eq!(sent.len(), 3);
        for old in &sent[1..] {
            assert_eq!(two.open(old, now), Err(Refused::Old));
        }
        // The receiver starts anew and knows nothing: the old is not taken for new.
        let mut two = End::new("n2", ring.clone(), 3);
        for (round, old) in sent.iter().enumerate() {
            let later = now + CHALLENGE_AGAIN * (1 + round as u32);
            assert!(matches!(two.open(old, later), Ok(Opened::Challenge(_))));
            assert_eq!(two.open(old, later), Err(Refused::Unproven));
        }
        // The sender starts anew: its former session does not come back.
        let now = now + Duration::from_secs(1);
        deliver(&mut one, &mut two, ("n1", "n2"), now);
        let of_before = one.envelopes.seal("n2", Kind::Hello, b"hello", now);
        let mut one = End::new("n1", ring, 4);
        deliver(&mut one, &mut two, ("n1", "n2"), now + CHALLENGE_AGAIN);
        assert!(matches!(
            two.open(&of_before, now + CHALLENGE_AGAIN * 2),
            Ok(Opened::Challenge(_))
        ));
        let taken = deliver(&mut one, &mut two, ("n1", "n2"), now);
        assert_eq!(taken.len(), 1, "the new one goes on");
    }
}

#[test]
fn who_has_no_key_is_not_listened_to() {
    let now = Instant::now();
    let mut two = End::new("n2", keys(&[A]), 2);
    for ring in [Keyring::default(), keys(&[B])] {
        let mut stranger = End::new("n1", ring, 1);
        let bytes = stranger.envelopes.seal("n2", Kind::Hello, b"hello", now);
        assert_eq!(two.open(&bytes, now), Err(Refused::Forged));
    }
    let mut open = End::new("n2", Keyring::default(), 2);
    let bytes = End::new("n1", keys(&[A]), 1).envelopes.seal("n2", Kind::Hello, b"hello", now);
    assert_eq!(open.open(&bytes, now), Err(Refused::Forged));
    // What is meant for another node is nothing here.
    let mut one = End::new("n1", keys(&[A]), 1);
    let bytes = one.envelopes.seal("n3", Kind::Hello, b"hello", now);
    assert_eq!(two.open(&bytes, now), Err(Refused::Forged));
}

#[test]
fn keys_change_without_a_gap() {
    let mut now = Instant::now();
    let (mut one, mut two) = (End::new("n1", keys(&[A]), 1), End::new("n2", keys(&[A]), 2));
    let both = |one: &mut End, two: &mut End, now| {
        deliver(one, two, ("n1", "n2"), now).len() + deliver(two, one, ("n2", "n1"), now).len()
    };
    both(&mut one, &mut two, now);
    // Each reads the Secret in its own time.
    let steps: [(&[&str], &[&str]); 6] = [
        (&[A, B], &[A]),
        (&[A, B], &[A]),
        (&[A, B], &[A, B]),
        (&[A, B], &[B]),
        (&[B], &[B]),
        (&[B], &[B]),
    ];
    for (first, second) in steps {
        now += Duration::from_millis(200);
        one.envelopes.set_keys(keys(first));
        two.envelopes.set_keys(keys(second));
        assert_eq!(both(&mut one, &mut two, now), 2, "{first:?} {second:?}");
    }
    // One that starts does not know which key the other still has.
    now += Duration::from_secs(9);
    let mut one = End::new("n1", keys(&[A, B]), 7);
    two.envelopes.set_keys(keys(&[A]));
    let taken = (0..3).any(|_| {
        let bytes = one.envelopes.seal("n2", Kind::Hello, b"hello", now);
        matches!(two.open(&bytes, now), Ok(Opened::Challenge(_)))
    });
    assert!(taken);
}

proptest! {
    /// Whatever is lost, doubled, delayed or turned round: each is taken once at most.
    #[test]
    fn each_is_taken_once_at_most(order in prop::collection::vec(0..60usize, 1..300)) {
        let now = Instant::now();
        let (mut one, mut two) = (End::new("n1", keys(&[A]), 1), End::new("n2", keys(&[A]), 2));
        deliver(&mut one, &mut two, ("n1", "n2"), now);
        let sent: Vec<_> = (0..60u8)
            .map(|n| one.envelopes.seal("n2", Kind::Other, &[n], now))
            .collect();
        let mut taken = std::collections::BTreeSet::new();
        for at in order {
            if let Ok(Opened::Message { body, .. }) = two.open(&sent[at], now) {
                prop_assert_eq!(body, &[at as u8]);
                prop_assert!(taken.insert(at));
            }
        }
    }

    #[test]
    fn a_changed_bit_shows(bit in 0..(8 * 100usize)) {
        let now = Instant::now();
        let (mut one, mut two) = (End::new("n1", keys(&[A]), 1), End::new("n2", keys(&[A]), 2));
        deliver(&mut one, &mut two, ("n1", "n2"), now);
        let mut bytes = one.envelopes.seal("n2", Kind::Other, b"content", now);
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(two.open(&bytes, now).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let now = Instant::now();
        for ring in [Keyring::default(), keys(&[A])] {
            let mut two = End::new("n2", ring, 2);
            let _ = two.open(&bytes, now);
            let likely = [&b"HrlM\x01\x01\x02\0"[..], &bytes].concat();
            let opened = two.open(&likely, now);
            let taken = matches!(opened, Ok(Opened::Message { .. }));
            prop_assert!(!taken);
        }
    }
}
