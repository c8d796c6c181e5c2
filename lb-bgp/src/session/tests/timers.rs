//! Timers.
use super::*;

#[test]
fn a_peer_that_is_silent_is_given_up() {
    let (mut lab, _) = Lab::up(config());
    let began = lab.now;
    let outputs = lab.pass(89 * SECOND);
    assert_eq!(outputs, []);
    let outputs = lab.pass(SECOND);
    assert_eq!(lab.now, began + 90 * SECOND);
    let [Output::Close { last: Some(last), .. }, Output::Down { state, reason }] = &outputs[..2]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(last[19..], [4, 0]);
    assert_eq!(*state, State::Established);
    assert_eq!(reason.to_string(), "nothing was heard of the peer for 90 s (hold time)");
}

#[test]
fn each_message_lets_the_peer_be_silent_again() {
    let (mut lab, link) = Lab::up(config());
    for bytes in [keepalive(), Update::default().encode(true).unwrap(), keepalive()] {
        assert_eq!(lab.pass(89 * SECOND), []);
        lab.receive(link, &bytes);
    }
    assert_eq!(lab.pass(89 * SECOND), []);
    assert!(!lab.pass(SECOND).is_empty());
}

#[test]
fn without_a_hold_time_nothing_is_sent_and_nothing_missed() {
    let config = Config { hold_time: HoldTime::new(0).unwrap(), ..config() };
    let (mut lab, link) = Lab::up(config);
    lab.sent(link);
    assert_eq!(lab.session.next_deadline(), None);
    lab.session.routes_mut().announce("198.51.100.1/32".parse().unwrap(), Default::default());
    assert!(lab.session.transmit(link, lab.now).is_some());
    // Nor does anybody mind if it is not read.
    assert_eq!(lab.session.next_deadline(), None);
}

#[test]
fn without_a_hold_time_a_first_keepalive_has_to_come_all_the_same() {
    let config = Config { hold_time: HoldTime::new(0).unwrap(), ..config() };
    let (mut lab, link) = Lab::open_sent(config);
    lab.receive(link, &peer_open().encode());
    assert_eq!(lab.session.state(), State::OpenConfirm);
    assert_eq!(lab.pass(239 * SECOND), []);
    let outputs = lab.pass(SECOND);
    assert!(
        outputs.contains(&Output::Down {
            state: State::OpenConfirm,
            reason: Reason::Silent(240 * SECOND)
        }),
        "{outputs:?}"
    );
}

#[test]
fn a_peer_that_says_nothing_at_first_has_four_minutes() {
    let (mut lab, _) = Lab::open_sent(config());
    assert_eq!(lab.pass(239 * SECOND), []);
    let outputs = lab.pass(SECOND);
    assert!(matches!(outputs[0], Output::Close { last: Some(_), .. }), "{outputs:?}");
}

#[test]
fn keepalives_come_three_times_in_the_hold_time_with_jitter() {
    let (mut lab, link) = Lab::up(config());
    lab.sent(link);
    let mut pauses = Vec::new();
    for _ in 0..200 {
        let at = lab.session.next_deadline().unwrap();
        pauses.push(at - lab.now);
        lab.now = at;
        lab.session.advance(lab.now);
        assert_eq!(lab.kinds(link), [Kind::Keepalive]);
        lab.receive(link, &keepalive());
    }
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*least >= Duration::from_millis(22_500) && *least < 24 * SECOND, "{least:?}");
    assert!(*most <= 30 * SECOND && *most > 28 * SECOND, "{most:?}");
}

#[test]
fn an_update_is_as_good_as_a_keepalive() {
    let (mut lab, link) = Lab::up(config());
    lab.sent(link);
    for number in 0..20 {
        lab.now += 20 * SECOND;
        let route = format!("198.51.100.{number}/32").parse().unwrap();
        lab.session.routes_mut().announce(route, Default::default());
        assert_eq!(lab.kinds(link), [Kind::Update]);
        lab.receive(link, &keepalive());
        lab.session.advance(lab.now);
        assert_eq!(lab.kinds(link), []);
    }
}

#[test]
fn keepalives_do_not_pile_up_before_a_transport_that_takes_none() {
    let (mut lab, link) = Lab::up(config());
    lab.sent(link);
    for _ in 0..10 {
        lab.now += 30 * SECOND;
        lab.receive(link, &keepalive());
        lab.session.advance(lab.now);
    }
    assert_eq!(lab.kinds(link), [Kind::Keepalive]);
}

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    let (mut lab, link) = Lab::up(config());
    lab.sent(link);
    lab.session.routes_mut().announce("198.51.100.1/32".parse().unwrap(), Default::default());
    // Handed over, and never asked for more.
    assert!(lab.session.transmit(link, lab.now).is_some());
    let stuck = lab.now + 480 * SECOND;
    while lab.now + 20 * SECOND < stuck {
        lab.now += 20 * SECOND;
        lab.receive(link, &keepalive());
        lab.session.advance(lab.now);
        assert_eq!(lab.outputs(), []);
    }
    lab.now = stuck;
    lab.session.advance(lab.now);
    let (last, reason) = lab.ended();
    assert_eq!(last, None);
    assert_eq!(reason.to_string(), "the peer has read nothing for 480 s (send hold time)");
}

#[test]
fn an_attempt_that_has_no_answer_is_followed_by_another() {
    let (mut lab, first) = Lab::started(config());
    let mut attempts = vec![first];
    let began = lab.now;
    for output in lab.pass(100 * SECOND) {
        match output {
            Output::Connect(link) => attempts.push(link),
            Output::Close { link, last: None } => assert_eq!(attempts.last(), Some(&link)),
            Output::Down { state: State::Connect, reason: Reason::NoAnswer(_) } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lab.now - began, 100 * SECOND);
    // Every 3.75 to 5 seconds.
    assert!((20..=27).contains(&attempts.len()), "{}", attempts.len());
    assert_eq!(lab.session.failures, 0);
}

#[test]
fn an_attempt_that_fails_is_followed_by_another_when_its_time_has_come() {
    let (mut lab, link) = Lab::started(config());
    lab.session.connect_failed(link, "connection refused", lab.now);
    let outputs = lab.outputs();
    let expected = Reason::NotConnected("connection refused".to_owned());
    assert_eq!(outputs[1], Output::Down { state: State::Connect, reason: expected });
    assert_eq!(lab.session.state(), State::Active);
    assert_eq!(lab.pass(Duration::from_millis(3_700)), []);
    assert!(matches!(lab.pass(2 * SECOND)[..], [Output::Connect(_)]));
}

#[test]
fn a_connection_that_ends_before_an_open_leads_to_another_attempt() {
    let (mut lab, link) = Lab::open_sent(config());
    lab.session.closed(link, "connection reset", lab.now);
    assert_eq!(lab.session.state(), State::Active);
    lab.outputs();
    assert!(matches!(lab.pass(5 * SECOND)[..], [Output::Connect(_)]));
    assert_eq!(lab.session.failures, 0);
}
