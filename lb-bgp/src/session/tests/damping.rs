//! Peers that flap.
use super::*;

/// How long it takes after a failure until the next attempt.
fn attempt(lab: &mut Lab) -> (Duration, Link) {
    let began = lab.now;
    loop {
        if let Some(Output::Connect(link)) =
            lab.outputs().into_iter().find(|one| matches!(one, Output::Connect(_)))
        {
            return (lab.now - began, link);
        }
        lab.now = lab.session.next_deadline().expect("no attempt will be made");
        lab.session.advance(lab.now);
    }
}

#[test]
fn each_failure_makes_the_next_attempt_wait_longer() {
    let (mut lab, mut link) = Lab::open_sent(config());
    let wrong = Open::new(65_009, 90, [192, 0, 2, 2].into(), Vec::new()).encode();
    let mut waits = Vec::new();
    for _ in 0..10 {
        lab.receive(link, &wrong);
        assert_eq!(codes(lab.ended().0.as_ref()), Some((2, 2)));
        let (wait, next) = attempt(&mut lab);
        waits.push(wait);
        link = next;
        lab.session.connected(link, endpoint(), lab.now);
        lab.sent(link);
    }
    for (wait, most) in waits.iter().zip([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]) {
        let most = most * SECOND;
        assert!(*wait <= most && *wait >= most * 3 / 4, "{wait:?} of {most:?}");
    }
}

#[test]
fn a_session_that_was_stable_begins_anew_at_once() {
    let (mut lab, link) = Lab::up(config());
    lab.session.failures = 6;
    for _ in 0..3 {
        lab.pass(29 * SECOND);
        lab.receive(link, &keepalive());
    }
    lab.session.closed(link, "reset", lab.now);
    lab.outputs();
    let (wait, _) = attempt(&mut lab);
    assert!(wait <= SECOND, "{wait:?}");
}

#[test]
fn the_peer_may_come_back_at_once_but_not_again_and_again() {
    let (mut lab, link) = Lab::up(config());
    lab.session.closed(link, "reset", lab.now);
    let link = lab.session.accepted(endpoint(), lab.now).expect("the first time");
    lab.sent(link);
    lab.bring_up(link, &peer_open());
    lab.session.closed(link, "reset", lab.now);
    assert_eq!(lab.session.accepted(endpoint(), lab.now), Err(Refusal::Damped));
    lab.pass(2 * SECOND);
    assert!(lab.session.accepted(endpoint(), lab.now).is_ok());
}

#[test]
fn stopping_and_starting_forgives() {
    let (mut lab, _) = Lab::up(config());
    lab.session.failures = 9;
    lab.session.stop(&Stop::Reconfigured, lab.now);
    lab.outputs();
    lab.session.start(lab.now);
    assert!(matches!(lab.outputs()[..], [Output::Connect(_)]));
    assert_eq!(lab.session.failures, 0);
}
