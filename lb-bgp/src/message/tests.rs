use super::*;
use crate::{
    attribute::{AS_TRANS, Severity, kind},
    family::{AfiSafi, Family},
    testing::{any_open, any_update, net, only_message},
};
use bytes::Bytes;
use proptest::prelude::*;

/// The body of an UPDATE with these attributes and one IPv4 route.
fn update_with(attributes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap();
    [&[0, 0][..], &length.to_be_bytes(), attributes, &[24, 192, 0, 2]].concat()
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 1];
const LOCAL_PREF: &[u8] = &[0x40, 5, 4, 0, 0, 0, 100];

/// What comes of an attribute beside those that must be there, from a peer of another AS.
fn judged(attribute: &[u8]) -> Result<Option<Severity>, UpdateError> {
    let kind = attribute[1];
    let others = [ORIGIN, AS_PATH, NEXT_HOP];
    let others = others.into_iter().filter(|other| other[1] != kind || attribute.len() < 2);
    let body = update_with(&[&others.collect::<Vec<_>>().concat(), attribute].concat());
    let decoded = Update::decode(&body, true, false)?;
    Ok(decoded.faults.iter().map(|fault| fault.severity).max())
}

#[test]
fn attributes_that_are_wrong_have_the_consequences_of_rfc_7606() {
    const DISCARD: Option<Severity> = Some(Severity::AttributeDiscard);
    const WITHDRAW: Option<Severity> = Some(Severity::TreatAsWithdraw);
    let table: &[(&str, &[u8], Option<Severity>)] = &[
        ("ORIGIN", &[0x40, 1, 1, 2], None),
        ("ORIGIN with a long length", &[0x50, 1, 0, 1, 2], None),
        ("ORIGIN, partial", &[0x60, 1, 1, 2], None),
        ("ORIGIN, optional", &[0xc0, 1, 1, 2], WITHDRAW),
        ("ORIGIN, not transitive", &[0, 1, 1, 2], WITHDRAW),
        ("ORIGIN of 3", &[0x40, 1, 1, 3], WITHDRAW),
        ("ORIGIN of two octets", &[0x40, 1, 2, 0, 0], WITHDRAW),
        ("AS_PATH, empty", &[0x40, 2, 0], None),
        ("AS_PATH, unknown segment", &[0x40, 2, 6, 5, 1, 0, 0, 0, 1], WITHDRAW),
        ("AS_PATH, empty segment", &[0x40, 2, 2, 2, 0], WITHDRAW),
        ("AS_PATH, segment too long", &[0x40, 2, 6, 2, 2, 0, 0, 0, 1], WITHDRAW),
        ("AS_PATH, an octet too many", &[0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], WITHDRAW),
        ("NEXT_HOP of three octets", &[0x40, 3, 3, 1, 2, 3], WITHDRAW),
        ("MULTI_EXIT_DISC", &[0x80, 4, 4, 0, 0, 0, 1], None),
        ("MULTI_EXIT_DISC of two octets", &[0x80, 4, 2, 0, 1], WITHDRAW),
        ("LOCAL_PREF of another AS", LOCAL_PREF, DISCARD),
        ("LOCAL_PREF of another AS, wrong", &[0x40, 5, 1, 0], DISCARD),
        ("ATOMIC_AGGREGATE", &[0x40, 6, 0], None),
        ("ATOMIC_AGGREGATE, not empty", &[0x40, 6, 1, 0], DISCARD),
        ("AGGREGATOR", &[0xc0, 7, 8, 0, 0, 0, 1, 1, 2, 3, 4], None),
        ("AGGREGATOR of six octets", &[0xc0, 7, 6, 0, 1, 1, 2, 3, 4], DISCARD),
        ("COMMUNITIES", &[0xc0, 8, 4, 0, 1, 0, 2], None),
        ("COMMUNITIES, none", &[0xc0, 8, 0], WITHDRAW),
        ("COMMUNITIES, one and a half", &[0xc0, 8, 6, 0, 1, 0, 2, 0, 3], WITHDRAW),
        ("ORIGINATOR_ID of another AS", &[0x80, 9, 4, 1, 2, 3, 4], DISCARD),
        ("CLUSTER_LIST of another AS", &[0x80, 10, 4, 1, 2, 3, 4], DISCARD),
        ("EXTENDED COMMUNITIES of four octets", &[0xc0, 16, 4, 0, 0, 0, 0], WITHDRAW),
        ("AS4_PATH, empty segment", &[0xc0, 17, 2, 2, 0], DISCARD),
        ("AS4_AGGREGATOR of six octets", &[0xc0, 18, 6, 0, 1, 1, 2, 3, 4], DISCARD),
        ("LARGE_COMMUNITY of eight octets", &[0xc0, 32, 8, 0, 0, 0, 0, 0, 0, 0, 0], WITHDRAW),
        ("MP_UNREACH_NLRI of a family of others", &[0x80, 15, 3, 0, 25, 65], None),
        ("MP_REACH_NLRI, well-known", &[0x40, 14, 9, 0, 1, 1, 4, 1, 2, 3, 4, 0], WITHDRAW),
        ("MP_UNREACH_NLRI, transitive", &[0xc0, 15, 3, 0, 2, 1], WITHDRAW),
        ("unknown and optional", &[0xc0, 99, 1, 0], None),
        ("beyond the end", &[0xc0, 99, 9, 0], WITHDRAW),
        ("only half a head", &[0xc0, 99], WITHDRAW),
    ];
    for (what, attribute, expected) in table {
        assert_eq!(judged(attribute), Ok(*expected), "{what}");
    }
}

#[test]
fn what_nothing_mends_ends_the_session() {
    let table: &[(&str, &[u8], u8)] = &[
        ("unknown and well-known", &[0x40, 99, 1, 0], 2),
        ("MP_REACH_NLRI within its family", &[0x80, 14, 2, 0, 2], 9),
        ("MP_REACH_NLRI, next hop of 5", &[0x80, 14, 10, 0, 2, 1, 5, 1, 2, 3, 4, 5, 0], 9),
        ("MP_REACH_NLRI, next hop beyond", &[0x80, 14, 5, 0, 2, 1, 16, 1], 9),
        ("MP_REACH_NLRI, IPv6 by way of IPv4", &[0x80, 14, 9, 0, 2, 1, 4, 1, 2, 3, 4, 0], 9),
        ("MP_UNREACH_NLRI, prefix too long", &[0x80, 15, 4, 0, 2, 1, 129], 9),
        ("MP_UNREACH_NLRI twice", &[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1], 1),
    ];
    for (what, attribute, subcode) in table {
        let error = judged(attribute).expect_err(what);
        let told = error.notification();
        assert_eq!((told.code, told.subcode), (code::UPDATE, *subcode), "{what}: {error}");
    }
    for (body, expected, subcode) in [
        (&[0, 9, 0, 0][..], UpdateError::Lengths, 1),
        (&[0, 0, 0, 9], UpdateError::Lengths, 1),
        (&[0, 1, 33, 0, 0], UpdateError::Routes, 10),
        (&[0, 0, 0, 0, 33], UpdateError::Routes, 10),
    ] {
        assert_eq!(Update::decode(body, true, false), Err(expected.clone()));
        assert_eq!(expected.notification().subcode, subcode);
    }
}

#[test]
fn routes_without_what_they_must_have_count_as_withdrawn() {
    let all = [ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF];
    for missing in 0..all.len() {
        let rest: Vec<_> = (0..4).filter(|at| *at != missing).map(|at| all[at]).collect();
        let decoded = Update::decode(&update_with(&rest.concat()), true, true).unwrap();
        let kinds: Vec<_> = decoded.faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds, [all[missing][1]]);
        assert!(decoded.withdraws_all());
        assert_eq!(decoded.announced().count(), 0);
        assert_eq!(decoded.withdrawn().copied().collect::<Vec<_>>(), [net("192.0.2.0/24")]);
    }
    let decoded = Update::decode(&update_with(&all.concat()), true, true).unwrap();
    assert_eq!(decoded.announced().copied().collect::<Vec<_>>(), [net("192.0.2.0/24")]);
    assert!(decoded.faults.is_empty());
    // Withdrawals alone need nothing.
    let decoded = Update::decode(&[0, 4, 24, 192, 0, 2, 0, 0], true, true).unwrap();
    assert!(decoded.faults.is_empty());
}

#[test]
fn routes_in_an_attribute_with_other_flags_are_withdrawn() {
    let reach = [0xc0, 14, 13, 0, 1, 1, 4, 10, 0, 0, 1, 0, 24, 198, 51, 100];
    let body = update_with(&[&reach, ORIGIN, AS_PATH, NEXT_HOP].concat());
    let decoded = Update::decode(&body, true, false).unwrap();
    let gone: Vec<_> = decoded.withdrawn().copied().collect();
    assert_eq!(gone, [net("192.0.2.0/24"), net("198.51.100.0/24")]);
}

#[test]
fn an_attribute_that_is_there_twice_counts_once() {
    let twice = [ORIGIN, AS_PATH, NEXT_HOP, &[0x40, 1, 1, 2]].concat();
    let decoded = Update::decode(&update_with(&twice), true, false).unwrap();
    assert_eq!(decoded.faults.len(), 1);
    assert_eq!(decoded.faults[0].severity, Severity::AttributeDiscard);
    assert_eq!(decoded.faults[0].kind, kind::ORIGIN);
    assert_eq!(decoded.announced().count(), 1);
}

#[test]
fn the_end_of_a_family_is_recognised() {
    let end = |body: &[u8]| Update::decode(body, true, false).unwrap().end_of_rib();
    assert_eq!(end(&[0, 0, 0, 0]), Some(Family::Ipv4Unicast));
    assert_eq!(end(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]), Some(Family::Ipv6Unicast));
    assert_eq!(end(&[0, 0, 0, 8, 0x80, 15, 5, 0, 2, 1, 8, 0x20]), None);
    assert_eq!(end(&[0, 2, 8, 10, 0, 0]), None);
}

/// An OPEN of AS 65001 with hold time 90 and these optional parameters, with their length before.
fn open_with(parameters: &[u8]) -> Vec<u8> {
    [&[4, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1][..], parameters].concat()
}

#[test]
fn opens_that_are_wrong_are_refused_for_their_reason() {
    let change = |at: usize, to: &[u8]| {
        let mut body = open_with(&[0]);
        body[at..at + to.len()].copy_from_slice(to);
        body
    };
    for (body, expected, told) in [
        (change(0, &[3]), OpenError::Version(3), (1, &[0, 4][..])),
        (change(1, &[0, 0]), OpenError::ZeroAs, (2, &[])),
        (open_with(&[8, 2, 6, 65, 4, 0, 0, 0, 0]), OpenError::ZeroAs, (2, &[])),
        (change(5, &[0; 4]), OpenError::Identifier, (3, &[])),
        (open_with(&[3, 1, 1, 0]), OpenError::Parameter(1), (4, &[])),
        (change(3, &[0, 1]), OpenError::HoldTime(1), (6, &[])),
        (change(3, &[0, 2]), OpenError::HoldTime(2), (6, &[])),
        (open_with(&[1]), OpenError::Malformed, (0, &[])),
        (open_with(&[0, 1]), OpenError::Malformed, (0, &[])),
        (open_with(&[4, 2, 3, 1, 4]), OpenError::Malformed, (0, &[])),
        (open_with(&[4, 2, 2, 1, 4]), OpenError::Malformed, (0, &[])),
        (open_with(&[255, 255, 0, 9]), OpenError::Malformed, (0, &[])),
    ] {
        assert_eq!(Open::decode(&body), Err(expected.clone()), "{body:?}");
        let notification = expected.notification();
        assert_eq!(notification.code, code::OPEN);
        assert_eq!((notification.subcode, &notification.data[..]), told, "{expected}");
    }
}

#[test]
fn opens_may_have_parameters_of_both_lengths() {
    let refresh = vec![Capability::RouteRefresh];
    for parameters in [
        &[4, 2, 2, 2, 0][..],
        // RFC 9072, whatever the first length is.
        &[255, 255, 0, 5, 2, 0, 2, 2, 0],
        &[9, 255, 0, 5, 2, 0, 2, 2, 0],
    ] {
        assert_eq!(Open::decode(&open_with(parameters)).unwrap().capabilities, refresh);
    }
    // One parameter for each capability is as good.
    let two = Open::decode(&open_with(&[8, 2, 2, 2, 0, 2, 2, 70, 0])).unwrap();
    assert_eq!(two.capabilities, [Capability::RouteRefresh, Capability::EnhancedRouteRefresh]);
}

#[test]
fn a_capability_of_a_wrong_length_is_an_unknown_one() {
    let open = Open::decode(&open_with(&[5, 2, 3, 65, 1, 9])).unwrap();
    let value = Bytes::from_static(&[9]);
    assert_eq!(open.capabilities, [Capability::Unknown { code: 65, value }]);
    assert_eq!(open.asn(), 65_001);
}

#[test]
fn an_as_number_of_four_octets_stands_in_the_capability() {
    let open = Open::new(4_200_000_000, 9, [1, 1, 1, 1].into(), Vec::new());
    assert_eq!(open.two_octet_as, AS_TRANS);
    assert_eq!(open.asn(), 4_200_000_000);
    let small = Open::new(65_001, 9, [1, 1, 1, 1].into(), Vec::new());
    assert_eq!((small.two_octet_as, small.asn()), (65_001, 65_001));
}

#[test]
fn many_capabilities_need_the_longer_lengths() {
    let unknown = Capability::Unknown { code: 200, value: vec![7; 200].into() };
    for count in [1, 2, 15] {
        let open = Open::new(1, 9, [1, 1, 1, 1].into(), vec![unknown.clone(); count]);
        let (kind, body) = only_message(&open.encode());
        assert_eq!((kind, Open::decode(&body)), (Kind::Open, Ok(open)));
    }
    let open = Open::new(1, 9, [1, 1, 1, 1].into(), vec![unknown; 100]);
    assert!(open.encode().len() <= LONGEST);
}

#[test]
fn refreshes_are_read_as_they_are_written() {
    let family = AfiSafi { afi: 2, safi: 1 };
    for kind in [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End, RefreshKind::Other(9)]
    {
        let refresh = RouteRefresh { family, kind };
        let (message, body) = only_message(&refresh.encode());
        assert_eq!((message, RouteRefresh::decode(&body)), (Kind::RouteRefresh, Some(refresh)));
    }
    assert_eq!(RouteRefresh::decode(&[0, 1, 0]), None);
    assert_eq!(RouteRefresh::decode(&[0, 1, 0, 1, 0]), None);
}

proptest! {
    #[test]
    fn opens_are_read_as_they_are_written(open in any_open()) {
        let (kind, body) = only_message(&open.encode());
        prop_assert_eq!(kind, Kind::Open);
        prop_assert_eq!(Open::decode(&body), Ok(open));
    }

    #[test]
    fn updates_are_read_as_they_are_written(
        (four_octets, update) in any::<bool>().prop_flat_map(|four| (Just(four), any_update(four)))
    ) {
        let Ok(bytes) = update.encode(four_octets) else {
            prop_assert!(update.attributes.len() > 3);
            return Ok(());
        };
        prop_assert!(bytes.len() <= LONGEST);
        let (kind, body) = only_message(&bytes);
        prop_assert_eq!(kind, Kind::Update);
        let decoded = Update::decode(&body, four_octets, true).unwrap();
        prop_assert_eq!(&decoded.update, &update);
        // Nothing is wrong but what is not there.
        prop_assert!(decoded.faults.iter().all(|fault| fault.subcode == 3), "{:?}", decoded.faults);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        four_octets: bool,
        internal: bool,
    ) {
        let _ = Open::decode(&bytes);
        let _ = Update::decode(&bytes, four_octets, internal);
        if let Some(told) = Notification::decode(&bytes) {
            let _ = told.to_string();
        }
        let _ = RouteRefresh::decode(&bytes);
        let mut stream = Stream::default();
        stream.push(&bytes);
        while let Ok(Some(_)) = stream.next_message() {}
    }

    #[test]
    fn an_octet_that_was_changed_makes_no_reader_panic(
        update in any_update(true), at: prop::sample::Index, to: u8
    ) {
        let Ok(bytes) = update.encode(true) else { return Ok(()) };
        let mut body = bytes[HEADER..].to_vec();
        *at.get_mut(&mut body) = to;
        if let Ok(decoded) = Update::decode(&body, true, true)
            && decoded.faults.is_empty()
        {
            // What is read without a fault can be said again.
            let again = decoded.update.encode(true).unwrap();
            let again = Update::decode(&again[HEADER..], true, true).unwrap();
            prop_assert_eq!(again.update, decoded.update);
        }
    }
}
