use super::*;
use crate::{
    attribute::{Attribute, Community, LargeCommunity, NextHop},
    message::{Decoded, Kind, LONGEST, RefreshKind, RouteRefresh, Update},
    route::Manner,
    testing::{any_prefix, any_route, net, only_message},
};
use ipnet::Ipv4Net;
use proptest::prelude::*;

const MANNER: Manner = Manner { local_as: 65_001, internal: true, four_octets: true };

fn peer() -> Peer {
    let v6 = "2001:db8::1".parse().unwrap();
    let next_hops = NextHops {
        ipv4: Some(NextHop::V4([192, 0, 2, 1].into())),
        ipv6: Some(NextHop::V6 { global: v6, link_local: None }),
    };
    Peer { next_hops, manner: MANNER }
}

/// What a peer makes of our messages.
#[derive(Default)]
struct Model {
    routes: BTreeMap<IpNet, Vec<Attribute>>,
    ends: Vec<Family>,
    updates: usize,
    withdrawals: usize,
    /// Routes of a refresh that have not been seen again, by RFC 7313 section 4.
    stale: BTreeMap<Family, BTreeSet<IpNet>>,
}

impl Model {
    fn take(&mut self, made: &Made) {
        assert!(made.bytes.len() <= LONGEST);
        let (kind, body) = only_message(&made.bytes);
        if kind == Kind::RouteRefresh {
            let refresh = RouteRefresh::decode(&body).unwrap();
            let family = Family::of_wire(refresh.family).unwrap();
            match refresh.kind {
                RefreshKind::Begin => {
                    let all = self.routes.keys().filter(|one| Family::of(one) == family);
                    self.stale.insert(family, all.copied().collect());
                }
                RefreshKind::End => {
                    for prefix in self.stale.remove(&family).expect("no beginning") {
                        self.routes.remove(&prefix);
                    }
                }
                other => panic!("{other:?}"),
            }
            return;
        }
        assert_eq!(kind, Kind::Update);
        self.updates += 1;
        let decoded = Update::decode(&body, MANNER.four_octets, MANNER.internal).unwrap();
        assert_eq!(decoded.faults, []);
        if let Some(family) = decoded.end_of_rib() {
            self.ends.push(family);
            return;
        }
        self.apply(&decoded);
    }

    fn apply(&mut self, decoded: &Decoded) {
        for prefix in decoded.withdrawn() {
            assert!(self.routes.remove(prefix).is_some(), "{prefix} was not there to withdraw");
            self.withdrawals += 1;
        }
        let mut said = decoded.update.attributes.clone();
        said.retain(|one| !matches!(one, Attribute::MpReach(_) | Attribute::NextHop(_)));
        for prefix in decoded.announced() {
            self.routes.insert(*prefix, said.clone());
            if let Some(stale) = self.stale.get_mut(&Family::of(prefix)) {
                stale.remove(prefix);
            }
        }
    }

    fn take_all(&mut self, rib: &mut AdjRibOut) {
        while let Some(made) = rib.next_message() {
            self.take(&made);
        }
    }

    /// That it has exactly these routes.
    fn check(&self, desired: &BTreeMap<IpNet, Arc<Route>>) {
        let expected: BTreeMap<_, _> = desired
            .iter()
            .map(|(prefix, route)| {
                let next_hop = NextHop::V6 { global: [0; 16].into(), link_local: None };
                (*prefix, route.attributes(next_hop, MANNER))
            })
            .collect();
        assert_eq!(self.routes, expected);
    }
}

fn host(number: u32) -> IpNet {
    Ipv4Net::new(std::net::Ipv4Addr::from(0x0a00_0000 + number), 32).unwrap().into()
}

fn host6(number: u16) -> IpNet {
    net(&format!("2001:db8:1::{number:x}/128"))
}

fn local_pref(value: u32) -> Arc<Route> {
    Arc::new(Route { local_pref: Some(value), ..Route::default() })
}

#[test]
fn routes_alike_share_messages_that_are_full() {
    let mut rib = AdjRibOut::default();
    let route = Arc::new(Route::default());
    (0..2_000).for_each(|number| rib.announce(host(number), route.clone()));
    (0..500).for_each(|number| rib.announce(host6(number), route.clone()));
    rib.set_whole();
    rib.begin(peer());
    let mut model = Model::default();
    model.take_all(&mut rib);
    // 4,096 octets less 23, and 21 of attributes: 810 routes of 5 octets fit. With a next hop of 16
    // octets, 236 of 17.
    assert_eq!(model.updates, 3 + 3 + 2);
    assert_eq!(model.ends, Family::ALL);
    model.check(&rib.desired);
    assert!(rib.is_flushed());
    let counts = rib.counts();
    assert_eq!((counts.desired, counts.announced, counts.pending), (2_500, 2_500, 0));

    rib.replace(BTreeMap::new());
    assert_eq!(rib.counts().pending, 2_500);
    model.updates = 0;
    model.take_all(&mut rib);
    // 814 of 5 octets, 239 of 17.
    assert_eq!(model.updates, 3 + 3);
    model.check(&BTreeMap::new());
}

#[test]
fn messages_are_full_and_never_too_long() {
    for bits in 16..=128 {
        let of = |number: u32| -> (IpNet, IpNet) {
            let v4 = Ipv4Net::new((number << 16).into(), bits.min(32)).unwrap();
            let v6 = ipnet::Ipv6Net::new((u128::from(number) << 112).into(), bits).unwrap();
            (v4.into(), v6.into())
        };
        let (v4, v6): (Vec<_>, Vec<_>) = (0..2_000).map(of).unzip();
        for (family, all) in [(Family::Ipv4Unicast, v4), (Family::Ipv6Unicast, v6)] {
            let route = Route::default();
            let (gone, taken) = peer().withdrawal(family, all.iter().copied());
            let (told, also) = peer().announcement(family, &route, all.iter().copied()).unwrap();
            for (bytes, taken) in [(gone, taken), (told, also)] {
                let (_, body) = only_message(&bytes);
                let decoded = Update::decode(&body, true, true).unwrap();
                let seen = decoded.announced().chain(decoded.withdrawn()).count();
                assert_eq!(seen, taken.len());
                let one = crate::prefix::length(&all[0]);
                assert!(bytes.len() <= LONGEST && bytes.len() + one > LONGEST, "{bits}");
            }
        }
    }
}

#[test]
fn changes_that_undo_each_other_are_not_sent() {
    let mut rib = AdjRibOut::default();
    rib.set_whole();
    rib.begin(peer());
    let mut model = Model::default();
    rib.announce(host(1), local_pref(1));
    model.take_all(&mut rib);
    let before = model.updates;
    rib.announce(host(1), local_pref(2));
    rib.announce(host(1), local_pref(1));
    rib.withdraw(&host(1));
    rib.announce(host(1), local_pref(1));
    rib.announce(host(2), local_pref(1));
    rib.withdraw(&host(2));
    rib.announce(host(1), local_pref(1));
    assert!(rib.is_flushed());
    model.take_all(&mut rib);
    assert_eq!(model.updates, before);
}

#[test]
fn host_bits_do_not_make_another_route() {
    let mut rib = AdjRibOut::default();
    rib.begin(peer());
    rib.announce(net("10.0.0.7/24"), local_pref(1));
    rib.announce(net("10.0.0.9/24"), local_pref(1));
    let mut model = Model::default();
    model.take_all(&mut rib);
    assert_eq!(model.routes.keys().copied().collect::<Vec<_>>(), [net("10.0.0.0/24")]);
    rib.withdraw(&net("10.0.0.1/24"));
    model.take_all(&mut rib);
    assert!(model.routes.is_empty());
}

#[test]
fn the_end_is_told_when_the_routes_are_whole() {
    let mut rib = AdjRibOut::default();
    rib.begin(peer());
    rib.announce(host(1), local_pref(1));
    let mut model = Model::default();
    model.take_all(&mut rib);
    assert!(model.ends.is_empty());
    assert!(!rib.is_flushed());
    rib.announce(host(2), local_pref(1));
    rib.set_whole();
    model.take_all(&mut rib);
    assert_eq!(model.ends, Family::ALL);
    assert_eq!(model.routes.len(), 2);
    // Once for each session.
    rib.announce(host(3), local_pref(1));
    model.take_all(&mut rib);
    assert_eq!(model.ends.len(), 2);
    rib.begin(peer());
    let mut next = Model::default();
    next.take_all(&mut rib);
    assert_eq!(next.ends, Family::ALL);
    assert_eq!(next.routes.len(), 3);
}

#[test]
fn a_family_that_is_not_carried_is_not_told() {
    let mut rib = AdjRibOut::default();
    rib.set_whole();
    rib.announce(host(1), local_pref(1));
    rib.announce(host6(1), local_pref(1));
    let mut only_v4 = peer();
    only_v4.next_hops.ipv6 = None;
    rib.begin(only_v4);
    let mut model = Model::default();
    model.take_all(&mut rib);
    assert_eq!(model.routes.keys().copied().collect::<Vec<_>>(), [host(1)]);
    assert_eq!(model.ends, [Family::Ipv4Unicast]);
    assert_eq!(rib.counts().not_carried, 1);
    rib.refresh(Family::Ipv6Unicast, true);
    rib.withdraw(&host6(1));
    assert!(rib.next_message().is_none());
}

#[test]
fn ipv4_by_way_of_ipv6_is_told_and_withdrawn_as_rfc_8950_has_it() {
    let mut rib = AdjRibOut::default();
    let mut extended = peer();
    extended.next_hops.ipv4 = extended.next_hops.ipv6;
    rib.begin(extended);
    rib.announce(host(1), local_pref(1));
    let (_, body) = only_message(&rib.next_message().unwrap().bytes);
    let decoded = Update::decode(&body, true, true).unwrap();
    assert!(decoded.update.reachable.is_empty());
    let Attribute::MpReach(reach) = &decoded.update.attributes[0] else { panic!("{decoded:?}") };
    assert_eq!(
        (reach.family, reach.next_hop),
        (Family::Ipv4Unicast, extended.next_hops.ipv4.unwrap())
    );
    assert!(!decoded.update.attributes.iter().any(|one| matches!(one, Attribute::NextHop(_))));
    rib.withdraw(&host(1));
    let (_, body) = only_message(&rib.next_message().unwrap().bytes);
    let decoded = Update::decode(&body, true, true).unwrap();
    assert!(decoded.update.withdrawn.is_empty());
    assert_eq!(decoded.withdrawn().copied().collect::<Vec<_>>(), [host(1)]);
}

/// Attributes that fill more than a message.
fn huge() -> Arc<Route> {
    let large =
        |local_data_1| LargeCommunity { global_administrator: 1, local_data_1, local_data_2: 0 };
    Arc::new(Route { large_communities: (0..400).map(large).collect(), ..Route::default() })
}

#[test]
fn attributes_that_fill_a_message_are_not_sent_and_replace_nothing() {
    let mut rib = AdjRibOut::default();
    rib.set_whole();
    rib.begin(peer());
    rib.announce(host(1), local_pref(1));
    rib.announce(host6(1), local_pref(1));
    let mut model = Model::default();
    model.take_all(&mut rib);
    rib.announce(host(1), huge());
    rib.announce(host(2), huge());
    rib.announce(host6(1), huge());
    model.take_all(&mut rib);
    assert!(model.routes.is_empty(), "what the peer had is no longer so");
    assert_eq!(rib.counts().too_large, 3);
    assert!(rib.is_flushed());
    rib.announce(host(2), local_pref(1));
    rib.withdraw(&host(1));
    model.take_all(&mut rib);
    assert_eq!(model.routes.len(), 1);
    assert_eq!(rib.counts().too_large, 1);
}

#[test]
fn a_refresh_sends_all_of_a_family_again_between_its_marks() {
    let mut rib = AdjRibOut::default();
    rib.set_whole();
    rib.begin(peer());
    (0..1_000).for_each(|number| rib.announce(host(number), local_pref(1)));
    rib.announce(host6(1), local_pref(1));
    let mut model = Model::default();
    model.take_all(&mut rib);
    for marked in [false, true] {
        let before = model.updates;
        rib.refresh(Family::Ipv4Unicast, marked);
        // Twice is once, as long as the first is not done.
        rib.refresh(Family::Ipv4Unicast, marked);
        rib.withdraw(&host(0));
        rib.announce(host(0), local_pref(1));
        let mut made = Vec::new();
        while let Some(one) = rib.next_message() {
            model.take(&one);
            made.push(one.is_update);
        }
        assert_eq!(model.updates - before, 2);
        let expected = if marked { vec![false, true, true, false] } else { vec![true, true] };
        assert_eq!(made, expected);
        model.check(&rib.desired);
    }
}

/// What happens to a RIB.
#[derive(Clone, Debug)]
enum Step {
    Announce(IpNet, Route),
    Withdraw(IpNet),
    Replace(Vec<(IpNet, Route)>),
    Refresh(Family, bool),
    Whole,
    /// The transport takes so many messages.
    Take(usize),
    /// The session is down, and up again.
    Reset,
}

fn any_step() -> impl Strategy<Value = Step> {
    // Few prefixes, so that steps meet.
    let prefix = || {
        prop_oneof![
            4 => (0..12u32).prop_map(host),
            4 => (0..12u16).prop_map(host6),
            1 => any_prefix(Family::Ipv4Unicast),
            1 => any_prefix(Family::Ipv6Unicast),
        ]
    };
    let family = proptest::sample::select(Family::ALL.to_vec());
    prop_oneof![
        8 => (prefix(), any_route()).prop_map(|(prefix, route)| Step::Announce(prefix, route)),
        5 => prefix().prop_map(Step::Withdraw),
        1 => proptest::collection::vec((prefix(), any_route()), 0..9).prop_map(Step::Replace),
        2 => (family, any::<bool>()).prop_map(|(family, marked)| Step::Refresh(family, marked)),
        1 => Just(Step::Whole),
        6 => (0..4usize).prop_map(Step::Take),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever changes in whatever order, and however little the transport takes at a time, the
    /// peer has in the end what it should have, and was never told what it had not to be told.
    #[test]
    fn the_peer_ends_with_exactly_the_desired_routes(steps in proptest::collection::vec(any_step(), 0..60)) {
        let mut rib = AdjRibOut::default();
        rib.begin(peer());
        let mut model = Model::default();
        let mut desired = BTreeMap::new();
        for step in steps {
            match step {
                Step::Announce(prefix, route) => {
                    let route = Arc::new(route);
                    desired.insert(prefix, route.clone());
                    rib.announce(prefix, route);
                }
                Step::Withdraw(prefix) => {
                    desired.remove(&prefix);
                    rib.withdraw(&prefix);
                }
                Step::Replace(routes) => {
                    desired = routes.into_iter().map(|(prefix, route)| (prefix, route.into())).collect();
                    rib.replace(desired.clone());
                }
                Step::Refresh(family, marked) => rib.refresh(family, marked),
                Step::Whole => rib.set_whole(),
                Step::Take(count) => {
                    for made in std::iter::from_fn(|| rib.next_message()).take(count) {
                        model.take(&made);
                    }
                }
                Step::Reset => {
                    rib.begin(peer());
                    model = Model::default();
                }
            }
        }
        // What is left takes no more messages than there are withdrawals by family, and groups.
        let told = rib.session.as_ref().unwrap();
        let groups: usize = told.announce.values().map(BTreeMap::len).sum();
        let least = told.withdraw.len() + groups;
        let before = (model.updates, model.ends.len());
        model.take_all(&mut rib);
        prop_assert_eq!(model.updates - before.0 - (model.ends.len() - before.1), least);
        model.check(&desired);
        prop_assert!(model.stale.is_empty());
        rib.set_whole();
        model.take_all(&mut rib);
        prop_assert!(rib.is_flushed());
        model.ends.sort();
        prop_assert_eq!(&model.ends, &Family::ALL);
        prop_assert_eq!(rib.counts().announced, desired.len());
    }
}

#[test]
fn a_community_that_changes_is_a_change() {
    let mut rib = AdjRibOut::default();
    rib.begin(peer());
    rib.announce(host(1), Arc::default());
    let mut model = Model::default();
    model.take_all(&mut rib);
    let marked = Route { communities: [Community::GRACEFUL_SHUTDOWN].into(), ..Route::default() };
    rib.announce(host(1), marked.into());
    model.take_all(&mut rib);
    let list = vec![Community::GRACEFUL_SHUTDOWN];
    assert!(model.routes[&host(1)].contains(&Attribute::Communities(list)));
    assert_eq!((model.updates, model.withdrawals), (2, 0));
}
