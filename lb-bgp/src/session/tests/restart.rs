//! Restarts over which routes are kept (RFC 4724, RFC 8538).
use super::*;
use crate::message::{GracefulFamily, GracefulRestart};

fn graceful() -> Config {
    Config { graceful_restart: Some(120), ..config() }
}

fn graceful_open(notification: bool) -> Open {
    let mut open = peer_open();
    open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
        notification,
        restart_time: 60,
        ..GracefulRestart::default()
    }));
    open
}

/// What our OPEN says of restarts.
fn told(session: &mut Session, now: Instant) -> (Link, Option<GracefulRestart>) {
    let link = loop {
        match session.next_output() {
            Some(Output::Connect(link)) => break link,
            Some(_) => {}
            None => session.advance(session.next_deadline().unwrap().max(now)),
        }
    };
    session.connected(link, endpoint(), now);
    let sent = messages(&session.transmit(link, now).unwrap());
    let open = Open::decode(&sent[0].1).unwrap();
    let found = open.capabilities.into_iter().find_map(|one| match one {
        Capability::GracefulRestart(graceful) => Some(graceful),
        _ => None,
    });
    (link, found)
}

#[test]
fn peers_are_told_whether_forwarding_went_on() {
    let now = Instant::now();
    for restarted in [false, true] {
        let mut session = Session::new(graceful(), restarted, 1, now);
        session.start(now);
        let families = Family::ALL
            .map(|family| GracefulFamily { family: family.wire(), forwarding: restarted })
            .to_vec();
        let expected = GracefulRestart {
            restarting: restarted,
            notification: true,
            restart_time: 120,
            families,
        };
        assert_eq!(told(&mut session, now).1, Some(expected));
    }
    let mut session = Session::new(config(), true, 1, now);
    session.start(now);
    assert_eq!(told(&mut session, now).1, None);
}

#[test]
fn a_session_that_was_up_comes_back_with_forwarding() {
    let (mut lab, link) = Lab::up_with(graceful(), &graceful_open(false));
    lab.session.closed(link, "reset", lab.now);
    let now = lab.now + SECOND;
    let again = told(&mut lab.session, now).1.unwrap();
    assert!(!again.restarting && again.families.iter().all(|family| family.forwarding));
}

#[test]
fn the_restart_is_over_when_all_has_been_told_or_it_took_too_long() {
    let now = Instant::now();
    let mut session = Session::new(graceful(), true, 1, now);
    session.start(now);
    let (link, first) = told(&mut session, now);
    assert!(first.unwrap().restarting);
    for bytes in [graceful_open(false).encode(), keepalive()] {
        session.received(link, &bytes, now);
    }
    session.transmit(link, now);
    session.closed(link, "reset", now);
    // All has not been told: the routes were not whole.
    let (link, again) = told(&mut session, now + SECOND);
    assert!(again.unwrap().restarting);
    for bytes in [graceful_open(false).encode(), keepalive()] {
        session.received(link, &bytes, now);
    }
    session.routes_mut().set_whole();
    while session.transmit(link, now).is_some() {}
    session.closed(link, "reset", now);
    let (_, after) = told(&mut session, now + 9 * SECOND);
    assert!(!after.unwrap().restarting);

    let mut session = Session::new(graceful(), true, 1, now);
    session.start(now);
    let (_, late) = told(&mut session, now + 120 * SECOND);
    assert!(!late.unwrap().restarting);
}

#[test]
fn an_agent_that_restarts_leaves_without_a_word() {
    let (mut lab, _) = Lab::up_with(graceful(), &graceful_open(true));
    lab.session.stop(&Stop::Restart, lab.now);
    let (last, reason) = lab.ended();
    assert_eq!(last, None);
    assert_eq!(reason.to_string(), "it was stopped: the agent restarts");
}

#[test]
fn one_that_leaves_for_good_has_the_routes_dropped() {
    for (notification, expected) in [
        (false, "Cease: Administrative Shutdown (6/2), \"bye\""),
        (true, "Cease: Hard Reset (6/9): Cease: Administrative Shutdown (6/2), \"bye\""),
    ] {
        let (mut lab, _) = Lab::up_with(graceful(), &graceful_open(notification));
        lab.session.stop(&Stop::Shutdown("bye".to_owned()), lab.now);
        assert_eq!(lab.ended().0.unwrap().to_string(), expected);
    }
}

#[test]
fn a_peer_that_restarts_is_taken_in_while_its_old_session_is_up() {
    let (mut lab, link) = Lab::up_with(graceful(), &graceful_open(false));
    // So soon, it is the other half of a collision.
    assert_eq!(lab.session.accepted(endpoint(), lab.now), Err(Refusal::Established));
    lab.now += 5 * SECOND;
    lab.session.failures = 5;
    let new = lab.session.accepted(endpoint(), lab.now).unwrap();
    let outputs = lab.outputs();
    assert_eq!(outputs[0], Output::Close { link, last: None });
    assert_eq!(outputs[1], Output::Down { state: State::Established, reason: Reason::Restarted });
    assert_eq!(lab.kinds(new), [Kind::Open]);
    lab.bring_up(new, &graceful_open(false));
}
