//! MetalLB's rules for who announces what to whom, one test each.
use super::*;
use crate::{
    bgp::configuration::{Password, Target},
    testing::{cluster, endpoint, holder, ip, labels, name, slice},
    validate::{judge, tests::objects},
};
use lb_bgp::{
    attribute::{Community, ExtendedCommunity},
    session::RemoteAs,
};
use proptest::{collection::vec, prelude::*};
use std::time::Duration;

/// Two peers that all nodes speak to, and an advertisement of everything.
pub(super) const ALL: &str = "
---
kind: BGPPeer
metadata: {name: r1}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.0.0.254, dualStackAddressFamily: true}
---
kind: BGPPeer
metadata: {name: r2}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.0.0.253, dualStackAddressFamily: true}
---
kind: BGPAdvertisement
metadata: {name: all}
spec: {}
";

pub(super) fn configuration(text: &str) -> Configuration {
    let objects = objects(text);
    let verdict = judge(&objects);
    let faults: Vec<_> = verdict.iter().collect();
    assert!(faults.is_empty(), "{faults:?}");
    Configuration::new(&objects, &verdict)
}

/// What of it is valid, whatever is not.
fn valid(text: &str) -> Configuration {
    let objects = objects(text);
    Configuration::new(&objects, &judge(&objects))
}

/// A Service `a` with an address of either family, and an endpoint on n1.
pub(super) fn snapshot() -> Snapshot {
    cluster(2)
        .with_services([holder("a", "46", &["192.0.2.1", "2001:db8::1"])])
        .with_slices([slice("a", vec![endpoint("10.244.1.1", "n1")])])
}

fn plan_of(text: &str, snapshot: &Snapshot, me: &str) -> Plan {
    Planning::default().plan(&configuration(text), snapshot, me, false)
}

fn routes(plan: &Plan, peer: &str) -> Vec<String> {
    plan.peers[peer].routes.keys().map(ToString::to_string).collect()
}

/// Why a Service is announced to nobody, if so.
fn silence(plan: &Plan, service: &str) -> Option<Silence> {
    let announced = plan.services.get(&name(service))?;
    let reasons: BTreeSet<_> = announced.silent.values().cloned().collect();
    assert!(reasons.len() <= 1, "{reasons:?}");
    reasons.into_iter().next().filter(|_| announced.peers.is_empty())
}

const BOTH: [&str; 2] = ["192.0.2.1/32", "2001:db8::1/128"];

#[test]
fn every_node_that_may_announces_to_every_peer() {
    for me in ["n1", "n2"] {
        let plan = plan_of(ALL, &snapshot(), me);
        for peer in ["r1", "r2"] {
            assert_eq!(routes(&plan, peer), BOTH, "{me} {peer}");
        }
        let peers = ["r1", "r2"].map(str::to_owned).into();
        let addresses = ["192.0.2.1", "2001:db8::1"].map(ip).into();
        let expected = Announced { addresses, peers, ..Announced::default() };
        assert_eq!(*plan.services[&name("a")], expected);
    }
}

#[test]
fn empty_or_unready_endpoints_withdraw() {
    let mut gone = snapshot();
    gone.edit_slices(|slice| slice.endpoints.clear());
    let mut unready = snapshot();
    unready.edit_slices(|slice| {
        (slice.endpoints[0].ready, slice.endpoints[0].serving) = (false, false);
    });
    for snapshot in [gone, unready] {
        let plan = plan_of(ALL, &snapshot, "n1");
        assert_eq!(routes(&plan, "r1"), [""; 0]);
        assert_eq!(silence(&plan, "a"), Some(Silence::NoEndpoints));
    }
}

#[test]
fn endpoints_that_serve_or_are_ready_keep_the_route() {
    for (ready, serving) in [(false, true), (true, false)] {
        let mut snapshot = snapshot();
        snapshot.edit_slices(|slice| {
            (slice.endpoints[0].ready, slice.endpoints[0].serving) = (ready, serving);
        });
        assert_eq!(routes(&plan_of(ALL, &snapshot, "n2"), "r1"), BOTH);
    }
}

#[test]
fn an_endpoint_listed_ready_and_not_ready_counts_as_ready() {
    let mut snapshot = snapshot();
    snapshot.edit_slices(|slice| {
        let mut unready = slice.endpoints[0].clone();
        (unready.ready, unready.serving) = (false, false);
        slice.endpoints.insert(0, unready);
    });
    assert_eq!(routes(&plan_of(ALL, &snapshot, "n1"), "r1"), BOTH);
}

#[test]
fn traffic_policy_local_needs_an_endpoint_on_the_node() {
    let mut snapshot = snapshot();
    snapshot.edit_services(|service| {
        service.external_traffic_policy = ExternalTrafficPolicy::Local;
    });
    assert_eq!(routes(&plan_of(ALL, &snapshot, "n1"), "r1"), BOTH);
    let other = plan_of(ALL, &snapshot, "n2");
    assert_eq!(routes(&other, "r1"), [""; 0]);
    assert_eq!(silence(&other, "a"), Some(Silence::NoLocalEndpoints));
    snapshot.edit_slices(|slice| slice.endpoints[0].node = None);
    assert_eq!(routes(&plan_of(ALL, &snapshot, "n1"), "r1"), [""; 0]);
}

#[test]
fn a_node_without_network_announces_nothing() {
    let mut snapshot = snapshot();
    snapshot.nodes["n1"].network_unavailable = true;
    let plan = plan_of(ALL, &snapshot, "n1");
    assert_eq!(silence(&plan, "a"), Some(Silence::NodeNetworkUnavailable));
    assert_eq!(plan.peers.len(), 2, "its sessions stay");
    assert_eq!(routes(&plan_of(ALL, &snapshot, "n2"), "r1"), BOTH);
}

#[test]
fn a_node_with_the_exclude_label_announces_nothing_unless_it_is_ignored() {
    let mut snapshot = snapshot();
    snapshot.nodes["n1"].labels = labels(&[(EXCLUDE_LABEL, "")]);
    let plan = |ignore| Planning::default().plan(&configuration(ALL), &snapshot, "n1", ignore);
    assert_eq!(silence(&plan(false), "a"), Some(Silence::NodeLabeledExcludeBalancers));
    assert_eq!(routes(&plan(true), "r1"), BOTH);
}

#[test]
fn peers_and_advertisements_select_nodes() {
    let text = "
---
kind: BGPPeer
metadata: {name: r1}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.0.0.254, nodeSelectors: [{matchLabels: {rack: a}}]}
---
kind: BGPAdvertisement
metadata: {name: all}
spec: {nodeSelectors: [{matchLabels: {edge: 'yes'}}]}
";
    let mut snapshot = snapshot();
    assert_eq!(plan_of(text, &snapshot, "n1").peers.len(), 0);
    assert_eq!(silence(&plan_of(text, &snapshot, "n1"), "a"), Some(Silence::NotOwner));
    snapshot.nodes["n1"].labels = labels(&[("rack", "a")]);
    let plan = plan_of(text, &snapshot, "n1");
    assert_eq!((routes(&plan, "r1"), silence(&plan, "a")), (vec![], Some(Silence::NotOwner)));
    snapshot.nodes["n1"].labels = labels(&[("rack", "a"), ("edge", "yes")]);
    assert_eq!(routes(&plan_of(text, &snapshot, "n1"), "r1"), ["192.0.2.1/32"]);
    snapshot.nodes["n1"].labels = labels(&[("edge", "yes")]);
    assert_eq!(silence(&plan_of(text, &snapshot, "n1"), "a"), Some(Silence::NoPeer));
}

#[test]
fn a_node_that_the_api_does_not_know_does_nothing() {
    assert_eq!(plan_of(ALL, &snapshot(), "n9"), Plan::default());
}

#[test]
fn advertisements_are_for_pools_by_name_or_label() {
    let text = |selection: &str| {
        let peer = "kind: BGPPeer\nmetadata: {name: r1}\nspec: {myASN: 64512, peerASN: 64513, \
                    peerAddress: 10.0.0.254}\n";
        format!("{peer}---\nkind: BGPAdvertisement\nmetadata: {{name: one}}\nspec: {{{selection}}}")
    };
    let mut snapshot = snapshot();
    snapshot.pools["pool"].labels = labels(&[("zone", "edge")]);
    for (selection, announced) in [
        ("", true),
        ("ipAddressPools: [pool]", true),
        ("ipAddressPools: [other]", false),
        ("ipAddressPoolSelectors: [{matchLabels: {zone: edge}}]", true),
        ("ipAddressPoolSelectors: [{matchLabels: {zone: core}}]", false),
        ("ipAddressPools: [pool], ipAddressPoolSelectors: [{matchLabels: {zone: core}}]", true),
    ] {
        let plan = plan_of(&text(selection), &snapshot, "n1");
        assert_eq!(!routes(&plan, "r1").is_empty(), announced, "{selection}");
        assert_eq!(silence(&plan, "a") == Some(Silence::NotOwner), !announced, "{selection}");
    }
}

#[test]
fn advertisements_select_services() {
    let text = ALL.replace("spec: {}", "spec: {serviceSelectors: [{matchLabels: {tier: web}}]}");
    let mut snapshot = snapshot();
    let plan = plan_of(&text, &snapshot, "n1");
    assert_eq!(silence(&plan, "a"), Some(Silence::NoMatchingAdvertisement));
    snapshot.edit_services(|service| service.labels = labels(&[("tier", "web")]));
    assert_eq!(routes(&plan_of(&text, &snapshot, "n1"), "r1"), BOTH);
}

#[test]
fn advertisements_name_their_peers() {
    let text = ALL.replace("spec: {}", "spec: {peers: [r2, r9]}");
    let plan = plan_of(&text, &snapshot(), "n1");
    assert_eq!(routes(&plan, "r1"), [""; 0]);
    assert_eq!(routes(&plan, "r2"), BOTH);
    assert_eq!(plan.services[&name("a")].peers, ["r2".to_owned()].into());
    let nobody = ALL.replace("spec: {}", "spec: {peers: [r9]}");
    let plan = plan_of(&nobody, &snapshot(), "n1");
    assert_eq!(silence(&plan, "a"), Some(Silence::NoPeer));
}

#[test]
fn a_session_carries_the_family_of_its_addresses_unless_asked_for_both() {
    let peer = |spec: &str| {
        let advertisement = "kind: BGPAdvertisement\nmetadata: {name: all}\nspec: {}\n";
        let spec = format!("{{myASN: 64512, peerASN: 64513, {spec}}}");
        format!("{advertisement}---\nkind: BGPPeer\nmetadata: {{name: r1}}\nspec: {spec}")
    };
    for (spec, expected) in [
        ("peerAddress: 10.0.0.254", &BOTH[..1]),
        ("peerAddress: '2001:db8:ffff::1'", &BOTH[1..]),
        ("peerAddress: 10.0.0.254, dualStackAddressFamily: true", &BOTH),
        ("peerAddress: '2001:db8:ffff::1', dualStackAddressFamily: true", &BOTH),
        ("interface: eth0", &BOTH),
    ] {
        assert_eq!(routes(&plan_of(&peer(spec), &snapshot(), "n1"), "r1"), expected, "{spec}");
    }
}

#[test]
fn an_aggregate_stays_while_any_service_in_it_is_announced() {
    let text = ALL.replace("spec: {}", "spec: {aggregationLength: 24, aggregationLengthV6: 64}");
    let mut snapshot = snapshot()
        .with_services([holder("b", "4", &["192.0.2.2"])])
        .with_slices([slice("b", vec![endpoint("10.244.1.2", "n1")])]);
    assert_eq!(routes(&plan_of(&text, &snapshot, "n1"), "r1"), ["192.0.2.0/24", "2001:db8::/64"]);
    snapshot.services.remove(&name("a"));
    assert_eq!(routes(&plan_of(&text, &snapshot, "n1"), "r1"), ["192.0.2.0/24"]);
    snapshot.services.remove(&name("b"));
    assert_eq!(routes(&plan_of(&text, &snapshot, "n1"), "r1"), [""; 0]);
}

#[test]
fn an_address_may_be_announced_in_several_lengths() {
    let text = format!(
        "{ALL}---\nkind: BGPAdvertisement\nmetadata: {{name: wide}}\nspec: {{aggregationLength: 26, \
         localPref: 50}}"
    );
    let plan = plan_of(&text, &snapshot(), "n1");
    assert_eq!(routes(&plan, "r1"), ["192.0.2.0/26", "192.0.2.1/32"]);
    let route = |prefix: &str| &plan.peers["r1"].routes[&prefix.parse::<IpNet>().unwrap()];
    assert_eq!(route("192.0.2.0/26").local_pref, Some(50));
    assert_eq!(route("192.0.2.1/32").local_pref, None);
    // In IPv6 both are of the same length, and differ.
    let silent = &plan.services[&name("a")].silent;
    let why = Silence::ConflictingAdvertisements("all".to_owned(), "wide".to_owned());
    assert_eq!(*silent, [(ip("2001:db8::1"), why)].into());
}

#[test]
fn services_that_share_an_address_keep_its_route_until_the_last_is_gone() {
    let mut snapshot = snapshot()
        .with_services([holder("b", "4", &["192.0.2.1"])])
        .with_slices([slice("b", vec![endpoint("10.244.1.2", "n1")])]);
    assert_eq!(routes(&plan_of(ALL, &snapshot, "n1"), "r1"), BOTH);
    snapshot.services.remove(&name("a"));
    assert_eq!(routes(&plan_of(ALL, &snapshot, "n1"), "r1"), ["192.0.2.1/32"]);
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_is_not_announced() {
    let mut snapshot = snapshot();
    snapshot.edit_services(|service| service.wants_address = false);
    let plan = plan_of(ALL, &snapshot, "n1");
    assert_eq!((routes(&plan, "r1"), plan.services.len()), (vec![], 0));
}

#[test]
fn addresses_of_nobodys_pool_are_not_announced() {
    let snapshot = snapshot()
        .with_services([holder("b", "4", &["203.0.113.1"])])
        .with_slices([slice("b", vec![endpoint("10.244.1.2", "n1")])]);
    let plan = plan_of(ALL, &snapshot, "n1");
    assert_eq!(routes(&plan, "r1"), BOTH);
    assert_eq!(plan.services.get(&name("b")), None);
}

#[test]
fn communities_of_all_advertisements_of_a_prefix_are_merged() {
    let text = format!(
        "{}---\nkind: BGPAdvertisement\nmetadata: {{name: more}}\nspec: {{communities: ['64512:2', \
         'large:64512:1:2']}}\n---\nkind: Community\nmetadata: {{name: names}}\nspec: {{communities: \
         [{{name: blue, value: '64512:1'}}]}}",
        ALL.replace("spec: {}", "spec: {communities: [blue]}\n"),
    );
    let plan = plan_of(&text, &snapshot(), "n1");
    let route = &plan.peers["r2"].routes[&"192.0.2.1/32".parse::<IpNet>().unwrap()];
    assert_eq!(route.communities, [Community::new(64_512, 1), Community::new(64_512, 2)].into());
    let large: Vec<_> = route.large_communities.iter().map(ToString::to_string).collect();
    assert_eq!(large, ["64512:1:2"]);
}

#[test]
fn the_nodes_share_is_told_where_it_is_asked_for() {
    let text = ALL.replace(
        "{name: all}",
        "{name: all, annotations: {herald-lb.io/link-bandwidth: endpoints}}",
    );
    let snapshot =
        snapshot().with_services([holder("b", "4", &["192.0.2.1"])]).with_slices([slice(
            "b",
            vec![endpoint("10.244.1.2", "n1"), endpoint("10.244.1.3", "n1")],
        )]);
    let told = |me, prefix: &str| {
        let plan = plan_of(&text, &snapshot, me);
        plan.peers["r1"].routes[&prefix.parse::<IpNet>().unwrap()].extended_communities.clone()
    };
    let share =
        |endpoints: f32| [ExtendedCommunity::link_bandwidth(64512, 125e6 * endpoints)].into();
    assert_eq!(told("n1", "192.0.2.1/32"), share(3.0), "of both Services");
    assert_eq!(told("n2", "192.0.2.1/32"), share(0.01));
    assert_eq!(told("n1", "2001:db8::1/128"), share(0.01), "its endpoint is of the other family");
    let plan = plan_of(ALL, &snapshot, "n1");
    assert!(plan.peers["r1"].routes.values().all(|route| route.extended_communities.is_empty()));
    let wrong = text.replace(": endpoints}", ": gigabits}");
    assert!(valid(&wrong).advertisements.is_empty());
}

#[test]
fn preferences_that_differ_for_a_service_silence_it() {
    let advertisement = |name: &str, spec: &str| {
        format!("---\nkind: BGPAdvertisement\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    };
    let peers = ALL.split("---\nkind: BGPAdvertisement").next().unwrap();
    let web = "serviceSelectors: [{matchLabels: {tier: web}}]";
    for (one, other, conflict) in [
        (format!("localPref: 100, {web}"), format!("localPref: 200, {web}"), true),
        (format!("localPref: 100, {web}"), format!("localPref: 100, {web}"), false),
        (web.to_owned(), format!("localPref: 0, {web}"), false),
        (format!("localPref: 100, {web}, peers: [r1]"), format!("localPref: 200, {web}"), true),
        (
            format!("localPref: 100, {web}, peers: [r1]"),
            format!("localPref: 200, {web}, peers: [r2]"),
            false,
        ),
        (
            format!("localPref: 100, {web}"),
            format!("localPref: 200, {web}, nodeSelectors: [{{matchLabels: {{rack: b}}}}]"),
            false,
        ),
    ] {
        let text = format!("{peers}{}{}", advertisement("x", &one), advertisement("y", &other));
        let mut snapshot = snapshot();
        snapshot.edit_services(|service| service.labels = labels(&[("tier", "web")]));
        let plan = plan_of(&text, &snapshot, "n1");
        let expected =
            conflict.then(|| Silence::ConflictingAdvertisements("x".to_owned(), "y".to_owned()));
        assert_eq!(silence(&plan, "a"), expected, "{one} / {other}");
    }
}

#[test]
fn one_bad_object_leaves_the_others_in_force() {
    let text = format!(
        "{ALL}---\nkind: BGPPeer\nmetadata: {{name: bad}}\nspec: {{myASN: 64512, peerASN: 64513}}\n---\n\
         kind: BGPAdvertisement\nmetadata: {{name: bad}}\nspec: {{communities: [nobody]}}"
    );
    let configuration = valid(&text);
    assert_eq!(configuration.peers.keys().collect::<Vec<_>>(), ["r1", "r2"]);
    assert_eq!(configuration.advertisements.keys().collect::<Vec<_>>(), ["all"]);
}

#[test]
fn a_peer_is_read_with_all_its_fields() {
    let text = "
kind: BGPPeer
metadata: {name: r1}
spec:
  myASN: 64512
  localASN: 64600
  dynamicASN: external
  peerAddress: 10.9.0.1
  sourceAddress: 10.0.0.1
  peerPort: 1179
  holdTime: 30s
  keepaliveTime: 5s
  connectTime: 20s
  routerID: 192.0.2.77
  passwordSecret: {name: md5}
  bfdProfile: fast
  enableGracefulRestart: true
  ebgpMultiHop: true
  vrf: red
---
kind: BFDProfile
metadata: {name: fast}
spec: {receiveInterval: 50, transmitInterval: 60, detectMultiplier: 5, passiveMode: true, minimumTtl: 250}
";
    let plan = plan_of(text, &snapshot(), "n1");
    let PlannedPeer { peer, session, .. } = &plan.peers["r1"];
    assert_eq!(peer.target, Target::Address(ip("10.9.0.1")));
    assert_eq!((peer.port, peer.source), (1179, Some(ip("10.0.0.1"))));
    assert_eq!((peer.vrf.as_deref(), peer.multihop), (Some("red"), true));
    assert_eq!(peer.password, Some(Password::Secret("md5".to_owned())));
    let bfd = peer.bfd.unwrap();
    assert_eq!(bfd.required_min_rx, Duration::from_millis(50));
    assert_eq!(bfd.desired_min_tx, Duration::from_millis(60));
    assert_eq!((bfd.detect_multiplier.get(), bfd.passive, bfd.minimum_ttl), (5, true, 250));
    assert_eq!((session.local_as, session.remote_as), (64_600, RemoteAs::External));
    assert_eq!(session.router_id, Ipv4Addr::new(192, 0, 2, 77));
    assert_eq!(session.hold_time.seconds(), 30);
    assert_eq!(session.keepalive, Some(Duration::from_secs(5)));
    assert_eq!(session.connect_retry, Duration::from_secs(20));
    assert_eq!(session.graceful_restart, Some(120));
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn a_peer_with_little_said_has_the_usual_values() {
    let text = "
kind: BGPPeer
metadata: {name: r1}
spec: {myASN: 64512, peerASN: 64512, peerAddress: 10.0.0.254, bfdProfile: plain, password: hunter2}
---
kind: BFDProfile
metadata: {name: plain}
spec: {}
";
    let plan = plan_of(text, &snapshot(), "n2");
    let PlannedPeer { peer, session, .. } = &plan.peers["r1"];
    assert_eq!((peer.port, peer.source, peer.multihop), (179, None, false));
    assert_eq!(session.router_id, Ipv4Addr::new(10, 0, 0, 2), "the node's own address");
    assert_eq!((session.hold_time.seconds(), session.keepalive), (90, None));
    assert_eq!(session.graceful_restart, None);
    let bfd = peer.bfd.unwrap();
    assert_eq!(bfd.required_min_rx, Duration::from_millis(300));
    assert_eq!((bfd.detect_multiplier.get(), bfd.passive, bfd.minimum_ttl), (3, false, 255));
    assert_eq!(peer.password, Some(Password::Given("hunter2".to_owned())));
    assert!(!format!("{plan:?}").contains("hunter2"), "a password is never shown");
}

#[test]
fn one_timer_gives_the_other() {
    let timers = |spec: &str| {
        let text = format!(
            "kind: BGPPeer\nmetadata: {{name: r1}}\nspec: {{myASN: 1, peerASN: 2, peerAddress: \
             10.0.0.254{spec}}}"
        );
        let session = plan_of(&text, &snapshot(), "n1").peers["r1"].session.clone();
        (session.hold_time.seconds(), session.keepalive.map(|time| time.as_secs()))
    };
    assert_eq!(timers(""), (90, None));
    assert_eq!(timers(", keepaliveTime: 10s"), (30, Some(10)));
    assert_eq!(timers(", holdTime: 9s"), (9, None));
    assert_eq!(timers(", holdTime: 0s"), (0, None));
    assert_eq!(timers(", holdTime: 0s, keepaliveTime: 0s"), (0, Some(0)));
}

#[test]
fn a_node_without_ipv4_has_an_identifier_that_stays() {
    let mut snapshot = snapshot();
    snapshot.nodes["n1"].internal_ips = vec![ip("2001:db8:ffff::1")];
    let id = |me| plan_of(ALL, &snapshot, me).peers["r1"].session.router_id;
    assert_eq!(id("n1"), id("n1"));
    assert_eq!(id("n2"), Ipv4Addr::new(10, 0, 0, 2));
    assert!(!id("n1").is_unspecified());
}

/// What a configuration may turn into.
const AGGREGATED: &str =
    "spec: {aggregationLength: 30, aggregationLengthV6: 126, communities: ['64512:7']}";

proptest! {
    /// A plan that is made from the one before is that which is made anew.
    #[test]
    fn a_plan_follows_from_the_one_before(steps in vec((0..5usize, 0..9u8), 1..40)) {
        let aggregated = configuration(&ALL.replace("spec: {}", AGGREGATED));
        let weighed = ALL.replace(
            "{name: all}",
            "{name: all, annotations: {herald-lb.io/link-bandwidth: endpoints}}",
        );
        let configurations = [configuration(ALL), aggregated, configuration(&weighed)];
        let mut snapshot = cluster(2);
        let (mut planning, mut chosen) = (Planning::default(), 0);
        for (one, what) in steps {
            let service = ["a", "b", "c", "d", "e"][one];
            let (v4, v6) = (format!("192.0.2.{}", one / 2 + 1), format!("2001:db8::{}", one + 1));
            snapshot = match what {
                0 => { snapshot.services.remove(&name(service)); snapshot }
                1 => snapshot.with_services([holder(service, "4", &[&v4])]),
                2 => snapshot.with_services([holder(service, "46", &[&v4, &v6])]),
                3 => snapshot.with_slices([slice(service, vec![endpoint("10.244.1.1", "n1")])]),
                4 => snapshot.with_slices([slice(service, vec![endpoint("10.244.2.1", "n2")])]),
                5 => { snapshot.slices.remove(&name(service)); snapshot }
                6 => { chosen = one % configurations.len(); snapshot }
                7 => {
                    snapshot.nodes["n1"].network_unavailable = one == 0;
                    snapshot
                }
                _ => {
                    if let Some(service) = snapshot.services.get_mut(&name(service)) {
                        Arc::make_mut(service).external_traffic_policy = ExternalTrafficPolicy::Local;
                    }
                    snapshot
                }
            };
            let configuration = &configurations[chosen];
            let followed = planning.plan(configuration, &snapshot, "n1", false);
            let anew = Planning::default().plan(configuration, &snapshot, "n1", false);
            prop_assert_eq!(followed, anew);
        }
    }
}
