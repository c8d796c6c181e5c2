//! Messages that are wrong, or come at a wrong time.
use super::*;
use crate::message::{RefreshKind, RouteRefresh};

#[test]
fn messages_at_a_wrong_time_are_answered_as_rfc_6608_has_it() {
    let update = Update::default().encode(true).unwrap();
    let refresh =
        RouteRefresh { family: Family::Ipv4Unicast.wire(), kind: RefreshKind::Request }.encode();
    let open = peer_open().encode();
    for (bytes, name) in [
        (keepalive(), "a KEEPALIVE"),
        (update.clone(), "an UPDATE"),
        (refresh.clone(), "a ROUTE-REFRESH"),
    ] {
        let (mut lab, link) = Lab::open_sent(config());
        lab.receive(link, &bytes);
        let (last, reason) = lab.ended();
        assert_eq!(codes(last.as_ref()), Some((5, 1)), "{name}");
        assert_eq!(reason.to_string(), format!("the peer sent {name} at a wrong time"));
    }
    for bytes in [update, refresh, open.clone()] {
        let (mut lab, link) = Lab::open_sent(config());
        lab.receive(link, &open);
        lab.receive(link, &bytes);
        assert_eq!(codes(lab.ended().0.as_ref()), Some((5, 2)));
    }
    let (mut lab, link) = Lab::up(config());
    lab.receive(link, &open);
    assert_eq!(codes(lab.ended().0.as_ref()), Some((5, 3)));
}

#[test]
fn what_stands_behind_a_message_that_ends_the_session_is_not_read() {
    let (mut lab, link) = Lab::up(config());
    let told = Notification::with_text(2, "maintenance").encode();
    lab.receive(link, &[&told[..], b"garbage that is no message at all"].concat());
    let (last, reason) = lab.ended();
    assert_eq!(last, None, "a NOTIFICATION is never answered");
    assert_eq!(
        reason.to_string(),
        "the peer ended the session: Cease: Administrative Shutdown (6/2), \"maintenance\""
    );
}

#[test]
fn bytes_that_are_no_message_end_the_session() {
    let (mut lab, link) = Lab::up(config());
    lab.receive(link, b"GET / HTTP/1.1\r\nHost: router\r\n\r\n");
    let (last, reason) = lab.ended();
    assert_eq!(codes(last.as_ref()), Some((1, 1)));
    assert!(reason.to_string().contains("marker"), "{reason}");
    assert_eq!(lab.session.counters().notifications_sent, 1);
}

#[test]
fn an_update_that_nothing_mends_ends_the_session() {
    let (mut lab, link) = Lab::up(config());
    let mut update = Update::default().encode(true).unwrap().to_vec();
    update[20] = 9;
    lab.receive(link, &update);
    let (last, reason) = lab.ended();
    assert_eq!(codes(last.as_ref()), Some((3, 1)));
    assert!(reason.to_string().contains("do not add up"), "{reason}");
}

/// An UPDATE that announces these IPv4 routes with a wrong attribute, or with none that is.
fn announcing(routes: &[&str], origin: u8) -> Vec<u8> {
    let update = Update {
        attributes: vec![
            crate::attribute::Attribute::Origin(crate::attribute::Origin::Igp),
            crate::attribute::Attribute::AsPath(crate::attribute::AsPath::sequence(vec![65_002])),
            crate::attribute::Attribute::NextHop([192, 0, 2, 2].into()),
        ],
        reachable: routes.iter().map(|route| route.parse().unwrap()).collect(),
        ..Update::default()
    };
    let mut bytes = update.encode(true).unwrap().to_vec();
    // Header, two lengths, and the head of the first attribute.
    bytes[19 + 4 + 3] = origin;
    bytes
}

fn withdrawing(routes: &[&str]) -> Bytes {
    let withdrawn = routes.iter().map(|route| route.parse().unwrap()).collect();
    Update { withdrawn, ..Update::default() }.encode(true).unwrap()
}

#[test]
fn routes_of_the_peer_are_counted_and_faults_told_once() {
    let (mut lab, link) = Lab::up(config());
    lab.receive(link, &announcing(&["10.0.0.0/8", "10.1.0.0/16"], 0));
    lab.receive(link, &withdrawing(&["10.0.0.0/8"]));
    assert_eq!(lab.outputs(), []);
    for _ in 0..2 {
        lab.receive(link, &announcing(&["10.2.0.0/16"], 7));
    }
    let outputs = lab.outputs();
    let [Output::Fault(fault)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(fault.to_string(), "ORIGIN: it is none of 0, 1 and 2");
    let counters = lab.session.counters();
    assert_eq!((counters.prefixes_announced, counters.prefixes_withdrawn), (2, 3));
    assert_eq!((counters.faults, counters.updates_received), (2, 4));
    assert_eq!(lab.session.state(), State::Established);
}

#[test]
fn a_peer_with_more_routes_than_it_may_have_is_told_so() {
    let (mut lab, link) = Lab::up(Config { prefix_limit: Some(2), ..config() });
    lab.receive(link, &announcing(&["10.0.0.0/8", "10.1.0.0/16"], 0));
    lab.receive(link, &announcing(&["10.0.0.0/8"], 0));
    lab.receive(link, &withdrawing(&["10.0.0.0/8"]));
    lab.receive(link, &announcing(&["10.2.0.0/16"], 0));
    assert_eq!(lab.outputs(), []);
    lab.receive(link, &announcing(&["10.3.0.0/16"], 0));
    let (last, reason) = lab.ended();
    let last = last.unwrap();
    assert_eq!((last.code, last.subcode, &last.data[..]), (6, 1, &[0, 1, 1, 0, 0, 0, 2][..]));
    assert!(reason.to_string().starts_with("the peer announces more than 2 prefixes"), "{reason}");
}

#[test]
fn a_refresh_is_answered_by_all_routes_of_the_family() {
    for enhanced in [false, true] {
        let mut open = peer_open();
        open.capabilities.push(Capability::RouteRefresh);
        open.capabilities.extend(enhanced.then_some(Capability::EnhancedRouteRefresh));
        let (mut lab, link) = Lab::up_with(config(), &open);
        for route in ["198.51.100.1/32", "2001:db8:1::1/128"] {
            lab.session.routes_mut().announce(route.parse().unwrap(), Default::default());
        }
        lab.sent(link);
        let family = Family::Ipv6Unicast.wire();
        let kind = RefreshKind::Request;
        lab.receive(link, &RouteRefresh { family, kind }.encode());
        let expected: &[Kind] = if enhanced {
            &[Kind::RouteRefresh, Kind::Update, Kind::RouteRefresh]
        } else {
            &[Kind::Update]
        };
        assert_eq!(lab.kinds(link), expected);
        // Of a family that is not carried, and marks of the peer's own.
        let other = crate::family::AfiSafi { afi: 25, safi: 65 };
        lab.receive(link, &RouteRefresh { family: other, kind }.encode());
        lab.receive(link, &RouteRefresh { family, kind: RefreshKind::End }.encode());
        assert_eq!(lab.kinds(link), []);
        assert_eq!(lab.outputs(), []);
    }
}

#[test]
fn a_refresh_of_a_wrong_length_ends_the_session() {
    let (mut lab, link) = Lab::up(config());
    let mut refresh = [0xff; 24];
    refresh[16..].copy_from_slice(&[0, 24, 5, 0, 1, 0, 1, 9]);
    lab.receive(link, &refresh);
    assert_eq!(codes(lab.ended().0.as_ref()), Some((7, 1)));
}

#[test]
fn a_peer_that_does_not_speak_our_version_does_not_count_as_flapping() {
    let (mut lab, link) = Lab::open_sent(config());
    lab.receive(link, &Notification::new(2, 1, &[0, 3]).encode());
    assert_eq!(lab.session.failures, 0);
    assert!(lab.ended().1.to_string().contains("Unsupported Version"));
}
