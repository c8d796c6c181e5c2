//! What tests of several modules need.
use crate::{
    attribute::{
        Aggregator, AsPath, Attribute, Community, ExtendedCommunity, LargeCommunity, MpReach,
        MpUnreach, NextHop, OPTIONAL, Origin, Segment, SegmentKind, TRANSITIVE,
    },
    family::{AfiSafi, Family},
    message::{
        Capability, ExtendedNextHop, GracefulFamily, GracefulRestart, HEADER, Kind, Open, Stream,
        Update,
    },
    route::Route,
};
use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The one message in some bytes.
pub(crate) fn only_message(bytes: &[u8]) -> (Kind, Bytes) {
    let mut stream = Stream::default();
    stream.push(bytes);
    let message = stream.next_message().unwrap().unwrap();
    assert_eq!(message.1.len() + HEADER, bytes.len(), "more than one message");
    message
}

/// All messages in some bytes.
pub(crate) fn messages(bytes: &[u8]) -> Vec<(Kind, Bytes)> {
    let mut stream = Stream::default();
    stream.push(bytes);
    std::iter::from_fn(|| stream.next_message().unwrap()).collect()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn any_prefix(family: Family) -> BoxedStrategy<IpNet> {
    match family {
        Family::Ipv4Unicast => (any::<[u8; 4]>(), 0..=32u8)
            .prop_map(|(octets, bits)| Ipv4Net::new(octets.into(), bits).unwrap().trunc().into())
            .boxed(),
        Family::Ipv6Unicast => (any::<[u8; 16]>(), 0..=128u8)
            .prop_map(|(octets, bits)| Ipv6Net::new(octets.into(), bits).unwrap().trunc().into())
            .boxed(),
    }
}

fn any_prefixes(family: Family, most: usize) -> impl Strategy<Value = Vec<IpNet>> {
    vec(any_prefix(family), 0..most)
}

fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<[u8; 4]>().prop_map(Ipv4Addr::from)
}

fn any_v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u8; 16]>().prop_map(Ipv6Addr::from)
}

fn any_next_hop(family: Family) -> BoxedStrategy<NextHop> {
    let v6 = (any_v6(), option::of(any_v6()))
        .prop_map(|(global, link_local)| NextHop::V6 { global, link_local });
    match family {
        Family::Ipv4Unicast => prop_oneof![any_v4().prop_map(NextHop::V4), v6].boxed(),
        Family::Ipv6Unicast => v6.boxed(),
    }
}

/// Paths, with AS numbers up to this one.
pub(crate) fn any_path(highest: u32) -> impl Strategy<Value = AsPath> {
    let kind = select(vec![
        SegmentKind::Set,
        SegmentKind::Sequence,
        SegmentKind::ConfederationSequence,
        SegmentKind::ConfederationSet,
    ]);
    let segment =
        (kind, vec(1..=highest, 1..20)).prop_map(|(kind, numbers)| Segment { kind, numbers });
    vec(segment, 0..3).prop_map(AsPath)
}

fn any_large() -> impl Strategy<Value = LargeCommunity> {
    any::<[u32; 3]>().prop_map(|[global_administrator, local_data_1, local_data_2]| {
        LargeCommunity { global_administrator, local_data_1, local_data_2 }
    })
}

/// UPDATEs of a peer of the same AS, with attributes of which none is there twice.
pub(crate) fn any_update(four_octets: bool) -> impl Strategy<Value = Update> {
    let highest = if four_octets { u32::MAX } else { u16::MAX.into() };
    let family = || select(Family::ALL.to_vec());
    let reach = family().prop_flat_map(|family| {
        (any_next_hop(family), any_prefixes(family, 20)).prop_map(move |(next_hop, prefixes)| {
            Attribute::MpReach(MpReach { family, next_hop, prefixes })
        })
    });
    let unreach = family().prop_flat_map(|family| {
        any_prefixes(family, 20)
            .prop_map(move |prefixes| Attribute::MpUnreach(MpUnreach { family, prefixes }))
    });
    let aggregator =
        |highest| (0..=highest, any_v4()).prop_map(|(asn, address)| Aggregator { asn, address });
    let unknown = (33..=127u8, vec(any::<u8>(), 0..300)).prop_map(|(kind, value)| {
        Attribute::Unknown { flags: OPTIONAL | TRANSITIVE, kind, value: value.into() }
    });
    let origin = select(vec![Origin::Igp, Origin::Egp, Origin::Incomplete]);
    let first = (
        option::of(origin.prop_map(Attribute::Origin)),
        option::of(any_path(highest).prop_map(Attribute::AsPath)),
        option::of(any_v4().prop_map(Attribute::NextHop)),
        option::of(any::<u32>().prop_map(Attribute::MultiExitDisc)),
        option::of(any::<u32>().prop_map(Attribute::LocalPref)),
        option::of(Just(Attribute::AtomicAggregate)),
        option::of(aggregator(highest).prop_map(Attribute::Aggregator)),
        option::of(vec(any::<u32>().prop_map(Community), 1..100).prop_map(Attribute::Communities)),
    );
    let second = (
        option::of(any_v4().prop_map(Attribute::OriginatorId)),
        option::of(vec(any_v4(), 1..9).prop_map(Attribute::ClusterList)),
        option::of(reach),
        option::of(unreach),
        option::of(
            vec(any::<[u8; 8]>().prop_map(ExtendedCommunity), 1..40)
                .prop_map(Attribute::ExtendedCommunities),
        ),
        option::of(any_path(u32::MAX).prop_map(Attribute::As4Path)),
        option::of(aggregator(u32::MAX).prop_map(Attribute::As4Aggregator)),
        option::of(vec(any_large(), 1..30).prop_map(Attribute::LargeCommunities)),
        option::of(unknown),
    );
    let v4 = || any_prefixes(Family::Ipv4Unicast, 30);
    (v4(), first, second, v4()).prop_map(|(withdrawn, first, second, reachable)| {
        let (a, b, c, d, e, f, g, h) = first;
        let (i, j, k, l, m, n, o, p, q) = second;
        let all = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q];
        Update { withdrawn, attributes: all.into_iter().flatten().collect(), reachable }
    })
}

pub(crate) fn any_open() -> impl Strategy<Value = Open> {
    let wire = || (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| AfiSafi { afi, safi });
    let graceful = (any::<bool>(), any::<bool>(), 0..4096u16, vec((wire(), any::<bool>()), 0..4));
    let graceful = graceful.prop_map(|(restarting, notification, restart_time, families)| {
        let families =
            families.into_iter().map(|(family, forwarding)| GracefulFamily { family, forwarding });
        let families = families.collect();
        Capability::GracefulRestart(GracefulRestart {
            restarting,
            notification,
            restart_time,
            families,
        })
    });
    let extended = any::<[u16; 3]>().prop_map(|[afi, safi, next_hop_afi]| ExtendedNextHop {
        afi,
        safi,
        next_hop_afi,
    });
    let capability = prop_oneof![
        wire().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::EnhancedRouteRefresh),
        vec(extended, 0..4).prop_map(Capability::ExtendedNextHop),
        graceful,
        (128..=255u8, vec(any::<u8>(), 0..80))
            .prop_map(|(code, value)| Capability::Unknown { code, value: value.into() }),
    ];
    let hold_time = any::<u16>().prop_filter("RFC 4271", |hold| !matches!(hold, 1 | 2));
    let id = any::<u32>().prop_filter("not zero", |id| *id != 0).prop_map(Ipv4Addr::from);
    (1..=u32::MAX, hold_time, id, vec(capability, 0..12))
        .prop_map(|(asn, hold_time, id, others)| Open::new(asn, hold_time, id, others))
}

/// Routes, few enough that some are alike.
pub(crate) fn any_route() -> impl Strategy<Value = Route> {
    let communities = proptest::collection::btree_set((0..3u32).prop_map(Community), 0..3);
    (option::of(0..3u32), communities).prop_map(|(local_pref, communities)| Route {
        local_pref,
        communities,
        ..Route::default()
    })
}
