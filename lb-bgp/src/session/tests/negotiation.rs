//! What comes of both OPENs.
use super::*;
use crate::{
    attribute::NextHop,
    message::{ExtendedNextHop, GracefulRestart},
    rib::NextHops,
};
use std::net::Ipv6Addr;

fn refused(config: Config, open: &Open) -> (Notification, String) {
    let (mut lab, link) = Lab::open_sent(config);
    lab.receive(link, &open.encode());
    let (last, reason) = lab.ended();
    (last.unwrap(), reason.to_string())
}

#[test]
fn the_peer_must_be_of_the_as_that_was_asked_for() {
    let open = |asn| Open::new(asn, 90, [192, 0, 2, 2].into(), Vec::new());
    let with = |remote_as| Config { remote_as, ..config() };
    for (remote_as, asn, accepted) in [
        (RemoteAs::Is(65_002), 65_002, true),
        (RemoteAs::Is(65_002), 65_003, false),
        (RemoteAs::Is(4_200_000_000), 4_200_000_000, true),
        (RemoteAs::Is(23_456), 4_200_000_000, false),
        (RemoteAs::Internal, 65_001, true),
        (RemoteAs::Internal, 65_002, false),
        (RemoteAs::External, 65_002, true),
        (RemoteAs::External, 65_001, false),
    ] {
        if accepted {
            let (lab, _) = Lab::up_with(with(remote_as), &open(asn));
            let negotiated = lab.session.negotiated().unwrap();
            assert_eq!((negotiated.remote_as, negotiated.internal), (asn, asn == 65_001));
        } else {
            let (told, reason) = refused(with(remote_as), &open(asn));
            assert_eq!((told.code, told.subcode), (2, 2), "{remote_as:?} {asn}");
            assert!(reason.contains(&format!("the peer is of AS {asn}; expected ")), "{reason}");
        }
    }
}

#[test]
fn a_peer_of_our_as_must_have_another_identifier() {
    let ours = config().router_id;
    let (told, reason) = refused(
        Config { remote_as: RemoteAs::Internal, ..config() },
        &Open::new(65_001, 90, ours, Vec::new()),
    );
    assert_eq!((told.code, told.subcode), (2, 3));
    assert!(reason.contains("our own BGP identifier, 192.0.2.1"), "{reason}");
    // One of another AS may have the same (RFC 6286).
    Lab::up_with(config(), &Open::new(65_002, 90, ours, Vec::new()));
}

#[test]
fn opens_that_cannot_be_read_are_refused() {
    let (mut lab, link) = Lab::open_sent(config());
    let mut open = peer_open().encode().to_vec();
    open[19] = 5;
    lab.receive(link, &open);
    let (last, reason) = lab.ended();
    assert_eq!(codes(last.as_ref()), Some((2, 1)));
    assert!(reason.to_string().contains("version 5"), "{reason}");
}

#[test]
fn families_are_those_that_both_carry() {
    let multiprotocol = |family: Family| Capability::Multiprotocol(family.wire());
    let open = |capabilities| Open::new(65_002, 90, [192, 0, 2, 2].into(), capabilities);
    let families = |ours: &[Family], theirs: Vec<Capability>| {
        let config = Config { families: ours.iter().copied().collect(), ..config() };
        let (lab, _) = Lab::up_with(config, &open(theirs));
        lab.session.negotiated().unwrap().families.iter().copied().collect::<Vec<_>>()
    };
    use Family::{Ipv4Unicast, Ipv6Unicast};
    let both = Family::ALL.map(multiprotocol).to_vec();
    assert_eq!(families(&Family::ALL, both.clone()), Family::ALL);
    assert_eq!(families(&[Ipv6Unicast], both), [Ipv6Unicast]);
    assert_eq!(families(&Family::ALL, vec![multiprotocol(Ipv6Unicast)]), [Ipv6Unicast]);
    assert_eq!(families(&Family::ALL, Vec::new()), [Ipv4Unicast]);
    let (told, reason) =
        refused(Config { families: [Ipv6Unicast].into(), ..config() }, &open(Vec::new()));
    assert_eq!((told.code, told.subcode, &told.data[..]), (2, 7, &[1, 4, 0, 2, 0, 1][..]));
    assert!(reason.contains("does not carry IPv6 unicast"), "{reason}");
}

#[test]
fn times_are_the_lesser_ones() {
    for (ours, keepalive, theirs, expected) in [
        (90, None, 90, (90, 30_000)),
        (90, None, 9, (9, 3_000)),
        (9, None, 180, (9, 3_000)),
        (90, Some(5), 90, (90, 5_000)),
        (90, Some(60), 90, (90, 30_000)),
        (90, Some(0), 90, (90, 30_000)),
        (10, Some(4), 3, (3, 1_000)),
        (90, Some(5), 0, (0, 0)),
        (0, None, 90, (0, 0)),
    ] {
        let config = Config {
            hold_time: HoldTime::new(ours).unwrap(),
            keepalive: keepalive.map(Duration::from_secs),
            ..config()
        };
        let open = Open::new(65_002, theirs, [192, 0, 2, 2].into(), Vec::new());
        let (lab, _) = Lab::up_with(config, &open);
        let negotiated = lab.session.negotiated().unwrap();
        let (hold, keepalive) = (negotiated.hold_time, negotiated.keepalive);
        assert_eq!((hold.as_secs(), keepalive.as_millis()), expected, "{ours} {theirs}");
    }
    assert_eq!((HoldTime::new(1), HoldTime::new(2)), (None, None));
}

#[test]
fn restarts_are_agreed_on_only_if_both_want_it() {
    let graceful = GracefulRestart { notification: true, ..GracefulRestart::default() };
    let mut open = peer_open();
    open.capabilities.push(Capability::GracefulRestart(graceful.clone()));
    let agreed = |config, open: &Open| {
        let (lab, _) = Lab::up_with(config, open);
        let negotiated = lab.session.negotiated().unwrap();
        (negotiated.graceful_restart.clone(), negotiated.notification)
    };
    let wanted = Config { graceful_restart: Some(120), ..config() };
    assert_eq!(agreed(wanted.clone(), &open), (Some(graceful), true));
    assert_eq!(agreed(config(), &open), (None, false));
    assert_eq!(agreed(wanted, &peer_open()), (None, false));
}

#[test]
fn next_hops_are_the_addresses_that_the_peer_can_reach() {
    let v4 = Ipv4Addr::new(192, 0, 2, 1);
    let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let local: Ipv6Addr = "fe80::1".parse().unwrap();
    let hop4 = Some(NextHop::V4(v4));
    let hop6 = |global, link_local| Some(NextHop::V6 { global, link_local });
    let end = |address: &str| Endpoint::new(address.parse().unwrap());
    for (what, endpoint, extended, ipv4, ipv6) in [
        ("IPv4 alone", end("192.0.2.1"), true, hop4, None),
        (
            "IPv4, with a known IPv6 address",
            Endpoint { ipv6: Some(global), ..end("192.0.2.1") },
            false,
            hop4,
            hop6(global, None),
        ),
        ("IPv6, and no other next hops", end("2001:db8::1"), false, None, hop6(global, None)),
        ("IPv6, RFC 8950", end("2001:db8::1"), true, hop6(global, None), hop6(global, None)),
        (
            "IPv6, with a known IPv4 address",
            Endpoint { ipv4: Some(v4), ..end("2001:db8::1") },
            true,
            hop4,
            hop6(global, None),
        ),
        (
            "IPv6 on the link",
            Endpoint { link_local: Some(local), ..end("2001:db8::1") },
            false,
            None,
            hop6(global, Some(local)),
        ),
        (
            "unnumbered",
            Endpoint { ipv6: Some(global), ..end("fe80::1") },
            true,
            hop6(global, Some(local)),
            hop6(global, Some(local)),
        ),
        (
            "unnumbered, link-local only",
            end("fe80::1"),
            true,
            hop6(local, Some(local)),
            hop6(local, Some(local)),
        ),
    ] {
        let mut open = peer_open();
        let wire = Family::Ipv4Unicast.wire();
        let entry = ExtendedNextHop { afi: wire.afi, safi: wire.safi.into(), next_hop_afi: 2 };
        open.capabilities.extend(extended.then(|| Capability::ExtendedNextHop(vec![entry])));
        let (lab, _) = Lab::up_with(config(), &open);
        let negotiated = lab.session.negotiated().unwrap();
        let peer = negotiated.peer(65_001, &endpoint);
        assert_eq!(peer.next_hops, NextHops { ipv4, ipv6 }, "{what}");
        assert_eq!((peer.manner.local_as, peer.manner.internal), (65_001, false));
    }
}

#[test]
fn a_peer_with_as_numbers_of_two_octets_is_told_such() {
    let open = Open { capabilities: Vec::new(), ..peer_open() };
    let config = Config { local_as: 4_200_000_000, ..config() };
    let (mut lab, link) = Lab::up_with(config, &open);
    lab.session.routes_mut().announce("198.51.100.1/32".parse().unwrap(), Default::default());
    let sent = lab.sent(link);
    let (_, body) = sent.iter().find(|(kind, _)| *kind == Kind::Update).unwrap();
    let update = Update::decode(body, false, false).unwrap();
    use crate::attribute::{AsPath, Attribute};
    let path = |asn| AsPath::sequence(vec![asn]);
    assert!(update.update.attributes.contains(&Attribute::AsPath(path(23_456))));
    assert!(update.update.attributes.contains(&Attribute::As4Path(path(4_200_000_000))));
}
