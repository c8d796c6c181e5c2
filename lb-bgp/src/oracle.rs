//! Messages as another implementation understands them: zettabgp, which knows nothing of ours.
use crate::{
    attribute::{
        AsPath, Attribute, Community, ExtendedCommunity, LargeCommunity, NextHop, Segment,
        SegmentKind,
    },
    family::Family,
    message::{Kind, Open, RefreshKind, RouteRefresh, Update},
    rib::{NextHops, Peer},
    route::{Manner, Route},
    session::{Config, HoldTime, RemoteAs},
    testing::{any_prefix, only_message},
};
use ipnet::IpNet;
use proptest::{
    collection::{btree_set, vec},
    prelude::*,
};
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};
use zettabgp::prelude::{
    BgpAS, BgpASpath, BgpAddr, BgpAddrV4, BgpAddrV6, BgpAddrs, BgpAttrItem, BgpAttrOrigin,
    BgpCapability, BgpCommunity, BgpCommunityList, BgpLargeCommunity, BgpLargeCommunityList,
    BgpLocalpref, BgpMED, BgpMPUpdates, BgpMPWithdraws, BgpMessage, BgpNextHop, BgpOpenMessage,
    BgpOrigin, BgpRouterefreshMessage, BgpSessionParams, BgpTransportMode, BgpUpdateMessage,
};

fn session(four_octets: bool) -> BgpSessionParams {
    let id = Ipv4Addr::new(192, 0, 2, 9);
    let mut session = BgpSessionParams::new(65_009, 90, BgpTransportMode::IPv4, id, Vec::new());
    session.has_as32bit = four_octets;
    session.fuzzy_pathid = false;
    session
}

fn prefixes(list: &BgpAddrs) -> BTreeSet<IpNet> {
    match list {
        BgpAddrs::None => BTreeSet::new(),
        BgpAddrs::IPV4U(list) => {
            list.iter().map(|one| IpNet::new(one.addr.into(), one.prefixlen).unwrap()).collect()
        }
        BgpAddrs::IPV6U(list) => {
            list.iter().map(|one| IpNet::new(one.addr.into(), one.prefixlen).unwrap()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn any_full_route() -> impl Strategy<Value = Route> {
    let large = any::<[u32; 3]>().prop_map(|[global_administrator, local_data_1, local_data_2]| {
        LargeCommunity { global_administrator, local_data_1, local_data_2 }
    });
    let bandwidth = (any::<u16>(), 1..1_000_000u32)
        .prop_map(|(asn, mega)| ExtendedCommunity::link_bandwidth(asn.into(), mega as f32 * 1e6));
    (
        proptest::option::of(any::<u32>()),
        btree_set(any::<u32>().prop_map(Community), 0..80),
        btree_set(large, 0..30),
        btree_set(bandwidth, 0..2),
    )
        .prop_map(|(local_pref, communities, large_communities, extended_communities)| Route {
            local_pref,
            communities,
            large_communities,
            extended_communities,
        })
}

fn any_family() -> impl Strategy<Value = Family> {
    proptest::sample::select(Family::ALL.to_vec())
}

proptest! {
    #[test]
    fn another_speaker_understands_what_is_announced(
        route in any_full_route(),
        (family, routes) in any_family()
            .prop_flat_map(|family| (Just(family), btree_set(any_prefix(family), 1..200))),
        internal: bool,
        four_octets: bool,
        local_as in prop_oneof![1..65_536u32, 65_536..=u32::MAX],
    ) {
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        let v6 = "2001:db8::1".parse().unwrap();
        let next_hops = NextHops {
            ipv4: Some(NextHop::V4(v4)),
            ipv6: Some(NextHop::V6 { global: v6, link_local: None }),
        };
        let manner = Manner { local_as, internal, four_octets };
        let peer = Peer { next_hops, manner };
        let mut left = routes.clone();
        while !left.is_empty() {
            let (bytes, taken) = peer.announcement(family, &route, left.iter().copied()).unwrap();
            let (_, body) = only_message(&bytes);
            let mut read = BgpUpdateMessage::new();
            read.decode_from(&session(four_octets), &body).unwrap();
            let taken: BTreeSet<_> = taken.into_iter().collect();
            left.retain(|prefix| !taken.contains(prefix));
            match family {
                Family::Ipv4Unicast => {
                    prop_assert_eq!(prefixes(&read.updates), taken);
                    prop_assert_eq!(read.get_attr_nexthop().unwrap().value, v4);
                }
                Family::Ipv6Unicast => {
                    let reach = read.get_mpupdates().unwrap();
                    prop_assert_eq!(prefixes(&reach.addrs), taken);
                    prop_assert_eq!(&reach.nexthop, &BgpAddr::V6(v6));
                }
            }
            prop_assert_eq!(&read.get_attr_origin().unwrap().value, &BgpAttrOrigin::Igp);
            let path = match (internal, four_octets, u16::try_from(local_as)) {
                (true, _, _) => String::new(),
                (false, false, Err(_)) => "23456".to_owned(),
                _ => local_as.to_string(),
            };
            let seen = read.get_attr_aspath().unwrap().to_string();
            prop_assert_eq!(seen.trim(), path);
            let communities = read.get_attr_communitylist()
                .map_or_else(Vec::new, |list| list.value.iter().map(|one| one.value).collect());
            let expected: Vec<_> = route.communities.iter().map(|one| one.0).collect();
            prop_assert_eq!(communities, expected);
            let large = read.get_attr_largecommunitylist().map_or(0, |list| list.value.len());
            prop_assert_eq!(large, route.large_communities.len());
            let extended = read.get_attr_extcommunitylist().map_or(0, |list| list.value.len());
            prop_assert_eq!(extended, route.extended_communities.len());
            let local_pref = read.attrs.iter().find_map(|one| match one {
                BgpAttrItem::LocalPref(local_pref) => Some(local_pref.value),
                _ => None,
            });
            prop_assert_eq!(local_pref, internal.then_some(route.local_pref.unwrap_or(100)));
        }
    }

    #[test]
    fn another_speaker_understands_what_is_withdrawn(
        (family, routes) in any_family()
            .prop_flat_map(|family| (Just(family), btree_set(any_prefix(family), 1..200))),
    ) {
        let next_hops = NextHops { ipv4: Some(NextHop::V4([192, 0, 2, 1].into())), ipv6: None };
        let manner = Manner { local_as: 65_001, internal: false, four_octets: true };
        let peer = Peer { next_hops, manner };
        let (bytes, taken) = peer.withdrawal(family, routes.iter().copied());
        let (_, body) = only_message(&bytes);
        let mut read = BgpUpdateMessage::new();
        read.decode_from(&session(true), &body).unwrap();
        let withdrawn = match family {
            Family::Ipv4Unicast => prefixes(&read.withdraws),
            Family::Ipv6Unicast => prefixes(&read.get_mpwithdraws().unwrap().addrs),
        };
        prop_assert_eq!(withdrawn, taken.into_iter().collect());
    }

    #[test]
    fn what_another_speaker_announces_is_understood(
        v4 in vec(any_prefix(Family::Ipv4Unicast), 0..40),
        v6 in vec(any_prefix(Family::Ipv6Unicast), 1..40),
        gone in vec(any_prefix(Family::Ipv4Unicast), 0..40),
        path in vec(1..=u32::MAX, 1..9),
        communities in btree_set(any::<u32>(), 1..9),
        four_octets: bool,
    ) {
        let path: Vec<u32> = path.into_iter().map(|asn| {
            if four_octets { asn } else { asn % 65_535 + 1 }
        }).collect();
        let v4_list = |list: &[IpNet]| BgpAddrs::IPV4U(list.iter().map(|one| match one {
            IpNet::V4(net) => BgpAddrV4::new(net.addr(), net.prefix_len()),
            IpNet::V6(_) => unreachable!(),
        }).collect());
        let v6_list = BgpAddrs::IPV6U(v6.iter().map(|one| match one {
            IpNet::V6(net) => BgpAddrV6::new(net.addr(), net.prefix_len()),
            IpNet::V4(_) => unreachable!(),
        }).collect());
        let mut large = BgpLargeCommunityList::new();
        large.value.insert(BgpLargeCommunity { ga: 1, ldp1: 2, ldp2: 3 });
        let mut as_path = BgpASpath::new();
        let numbers = path.iter().map(|asn| BgpAS::new(*asn)).collect();
        as_path.value.push(zettabgp::prelude::BgpASitem::Seq(
            zettabgp::prelude::BgpASseq { value: numbers },
        ));
        let written = BgpUpdateMessage {
            updates: v4_list(&v4),
            withdraws: v4_list(&gone),
            attrs: vec![
                BgpAttrItem::Origin(BgpOrigin::new(BgpAttrOrigin::Incomplete)),
                BgpAttrItem::ASPath(as_path),
                BgpAttrItem::NextHop(BgpNextHop::new(Ipv4Addr::new(10, 0, 0, 1).into())),
                BgpAttrItem::MED(BgpMED::new(7)),
                BgpAttrItem::LocalPref(BgpLocalpref::new(200)),
                BgpAttrItem::CommunityList(BgpCommunityList::from_vec(
                    communities.iter().map(|one| BgpCommunity::new(*one)).collect(),
                )),
                BgpAttrItem::LargeCommunityList(large),
                BgpAttrItem::MPUpdates(BgpMPUpdates {
                    nexthop: BgpAddr::V6("2001:db8::7".parse().unwrap()),
                    addrs: v6_list.clone(),
                }),
                BgpAttrItem::MPWithdraws(BgpMPWithdraws::new(v6_list)),
            ],
        };
        let mut body = vec![0; 4096];
        let length = written.encode_to(&session(four_octets), &mut body).unwrap();
        let decoded = Update::decode(&body[..length], four_octets, true).unwrap();
        prop_assert_eq!(&decoded.faults, &[]);
        prop_assert_eq!(&decoded.update.reachable, &v4);
        prop_assert_eq!(&decoded.update.withdrawn, &gone);
        prop_assert_eq!(decoded.announced().count(), v4.len() + v6.len());
        let has = |wanted: &Attribute| decoded.update.attributes.contains(wanted);
        prop_assert!(has(&Attribute::MultiExitDisc(7)));
        prop_assert!(has(&Attribute::LocalPref(200)));
        // zettabgp 0.6.0 writes sequences under the number of sets, and sets under that of sequences.
        let path = AsPath(vec![Segment { kind: SegmentKind::Set, numbers: path }]);
        prop_assert!(has(&Attribute::AsPath(path)));
        let list = communities.into_iter().map(Community).collect();
        prop_assert!(has(&Attribute::Communities(list)));
    }

    #[test]
    fn another_speaker_understands_our_open(
        local_as in 1..=u32::MAX,
        seconds in 3..=u16::MAX,
        restart_time in proptest::option::of(0..4096u16),
        restarting: bool,
    ) {
        let config = Config {
            local_as,
            remote_as: RemoteAs::External,
            router_id: [192, 0, 2, 1].into(),
            hold_time: HoldTime::new(seconds).unwrap(),
            keepalive: None,
            connect_retry: Duration::from_secs(5),
            passive: false,
            families: Family::ALL.into(),
            graceful_restart: restart_time,
            prefix_limit: None,
        };
        let (kind, body) = only_message(&config.open(restarting, restarting).encode());
        prop_assert_eq!(kind, Kind::Open);
        let mut read = BgpOpenMessage::new();
        read.decode_from(&session(true), &body).unwrap();
        prop_assert_eq!(read.hold_time, seconds);
        prop_assert_eq!(read.router_id, config.router_id);
        prop_assert_eq!(read.as_num, u16::try_from(local_as).map_or(23_456, u32::from));
        for capability in [
            BgpCapability::SafiIPv4u,
            BgpCapability::SafiIPv6u,
            BgpCapability::CapRR,
            BgpCapability::CapEnhancedRR,
            BgpCapability::CapASN32(local_as),
        ] {
            prop_assert!(read.caps.contains(&capability), "{:?}", capability);
        }
        let graceful = read.caps.iter().find_map(|one| match one {
            BgpCapability::CapGR { restart_time, restart_state, afis } => {
                Some((*restart_time, *restart_state, afis.len()))
            }
            _ => None,
        });
        prop_assert_eq!(graceful, restart_time.map(|seconds| (seconds, restarting, 2)));
    }

    #[test]
    fn the_open_of_another_speaker_is_understood(asn in 1..=u32::MAX, hold_time in 3..=u16::MAX) {
        let capabilities = vec![
            BgpCapability::SafiIPv4u,
            BgpCapability::SafiIPv6u,
            BgpCapability::CapASN32(asn),
            BgpCapability::CapRR,
        ];
        let written = BgpOpenMessage {
            as_num: asn, hold_time, router_id: [10, 0, 0, 9].into(), caps: capabilities,
        };
        let mut body = vec![0; 4096];
        let length = written.encode_to(&session(true), &mut body).unwrap();
        let open = Open::decode(&body[..length]).unwrap();
        prop_assert_eq!((open.asn(), open.hold_time), (asn, hold_time));
        prop_assert_eq!(open.capabilities.len(), 4);
    }
}

#[test]
fn another_speaker_understands_a_refresh() {
    let refresh = RouteRefresh { family: Family::Ipv6Unicast.wire(), kind: RefreshKind::End };
    let (_, body) = only_message(&refresh.encode());
    let mut read = BgpRouterefreshMessage::new();
    read.decode_from(&session(true), &body).unwrap();
    assert_eq!((read.afi, read.safi, read.subtype), (2, 1, 2));
}
