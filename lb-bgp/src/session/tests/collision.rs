//! Two connections at once (RFC 4271 section 6.8).
use super::*;

/// Both connections with their OPEN sent.
fn both(config: Config) -> (Lab, Link, Link) {
    let (mut lab, outgoing) = Lab::open_sent(config);
    let incoming = lab.session.accepted(endpoint(), lab.now).unwrap();
    assert_eq!(lab.kinds(incoming), [Kind::Open]);
    (lab, outgoing, incoming)
}

#[test]
fn the_connection_of_the_speaker_with_the_higher_identifier_is_kept() {
    let theirs = Ipv4Addr::new(192, 0, 2, 2);
    for (ours, local_as, ours_is_kept) in [
        (Ipv4Addr::new(192, 0, 2, 1), 65_001, false),
        (Ipv4Addr::new(192, 0, 2, 3), 65_001, true),
        // RFC 6286: equal ones may be of different ASes, and the higher one counts.
        (theirs, 65_001, false),
        (theirs, 65_003, true),
    ] {
        for outgoing_first in [true, false] {
            let config = Config { router_id: ours, local_as, ..config() };
            let (mut lab, outgoing, incoming) = both(config);
            let order = if outgoing_first { [outgoing, incoming] } else { [incoming, outgoing] };
            let (kept, lost) =
                if ours_is_kept { (outgoing, incoming) } else { (incoming, outgoing) };
            lab.receive(order[0], &peer_open().encode());
            assert_eq!(lab.outputs(), []);
            lab.receive(order[1], &peer_open().encode());
            let outputs = lab.outputs();
            let [Output::Close { link, last: Some(last) }, Output::Down { reason, .. }] =
                &outputs[..]
            else {
                panic!("{outputs:?}")
            };
            assert_eq!((*link, &last[19..]), (lost, &[6, 7][..]));
            assert_eq!(*reason, Reason::Collision);
            assert_eq!(lab.session.failures, 0);
            lab.receive(kept, &keepalive());
            assert!(matches!(lab.outputs()[..], [Output::Up(_)]));
        }
    }
}

#[test]
fn a_session_that_is_up_is_not_disturbed() {
    let (mut lab, outgoing, incoming) = both(config());
    lab.receive(incoming, &peer_open().encode());
    lab.receive(incoming, &keepalive());
    // The one that has not come so far is given up as soon as the other is up.
    let outputs = lab.outputs();
    assert!(matches!(outputs[0], Output::Up(_)), "{outputs:?}");
    assert!(
        matches!(&outputs[1], Output::Close { link, last: Some(_) } if *link == outgoing),
        "{outputs:?}"
    );
    assert_eq!(lab.session.accepted(endpoint(), lab.now), Err(Refusal::Established));
    // Nor is another attempt made.
    for _ in 0..10 {
        assert_eq!(lab.pass(60 * SECOND), []);
        lab.receive(incoming, &keepalive());
    }
    assert_eq!(lab.session.state(), State::Established);
}

#[test]
fn when_the_session_ends_both_ways_are_open_again() {
    let (mut lab, link) = Lab::up(config());
    lab.session.closed(link, "reset", lab.now);
    let outputs = lab.pass(SECOND);
    assert!(outputs.iter().any(|one| matches!(one, Output::Connect(_))), "{outputs:?}");
    assert!(lab.session.accepted(endpoint(), lab.now).is_ok());
}

#[test]
fn a_second_connection_of_the_peer_replaces_the_first() {
    for confirmed in [false, true] {
        let mut lab = Lab::new(Config { passive: true, ..config() });
        lab.session.start(lab.now);
        let first = lab.session.accepted(endpoint(), lab.now).unwrap();
        lab.sent(first);
        if confirmed {
            lab.receive(first, &peer_open().encode());
        }
        let second = lab.session.accepted(endpoint(), lab.now).unwrap();
        assert_eq!(lab.kinds(second), [Kind::Open]);
        assert!(matches!(lab.outputs()[0], Output::Close { link, last: None } if link == first));
        lab.bring_up(second, &peer_open());
    }
}

#[test]
fn a_collision_that_the_peer_sees_is_no_failure() {
    let (mut lab, link) = Lab::open_sent(config());
    lab.receive(link, &peer_open().encode());
    lab.receive(link, &Notification::cease(7).encode());
    assert_eq!(lab.session.failures, 0);
}
