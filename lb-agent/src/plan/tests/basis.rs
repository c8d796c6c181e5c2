//! What is told of a plan: why owners are owners, and what each endpoint takes.
use super::all_alive;
use crate::{
    bgp::plan::{Announced, Services, Silence},
    membership::{Alive, AliveNode, told},
    plan::{Basis, EndpointShares, Ownership, Plan, PlanOptions, owner::EXCLUDE_LABEL, plan},
    snapshot::{ExternalTrafficPolicy, LabelSelector, NodePreference, Snapshot},
    testing::{cluster, endpoint, holder, ip, labels, name, slice},
};
use lb_common::hash::{row_mask, row_weight};
use std::{collections::BTreeMap, sync::Arc};

const VIP: &str = "192.0.2.1";

fn base() -> Snapshot {
    let mut snapshot = cluster(3)
        .with_services([holder("web", "4", &[VIP])])
        .with_slices([slice("web", vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")])]);
    for node in ["n1", "n2", "n3"] {
        snapshot.nodes.get_mut(node).unwrap().labels = labels(&[("name", node)]);
    }
    snapshot
}

fn planned(snapshot: &Snapshot, me: &str, alive: &Alive) -> (Plan, Basis) {
    let options = PlanOptions::default();
    let plan = plan(snapshot, me, alive, &options);
    let (snapshot, alive) = (Arc::new(snapshot.clone()), Arc::new(alive.clone()));
    (plan, Basis { snapshot, alive, options, me: me.to_owned() })
}

fn ownership(snapshot: &Snapshot, me: &str, alive: &Alive) -> Option<Ownership> {
    let (plan, basis) = planned(snapshot, me, alive);
    let all = basis.announcers(&plan, &Services::new());
    assert_eq!(all.len(), plan.vips.len());
    let ownership = all[&ip(VIP)].layer2.clone();
    let owner = plan.vips[&ip(VIP)].owner.as_deref();
    assert_eq!(ownership.is_some(), owner.is_some());
    if let Some(ownership) = &ownership {
        assert_eq!(ownership.not_here.is_none(), owner == Some(me), "{ownership:?}");
    }
    ownership
}

/// The reason of the owner, and those of the nodes that are not it.
fn reasons(snapshot: &Snapshot, alive: &Alive) -> (String, BTreeMap<String, String>) {
    let mut why = None;
    let mut others = BTreeMap::new();
    for me in ["n1", "n2", "n3"] {
        let told = ownership(snapshot, me, alive).unwrap();
        assert!(why.replace(told.owner.clone()).is_none_or(|before| before == told.owner));
        others.extend(told.not_here.map(|why| (me.to_owned(), why.reason.into_owned())));
    }
    (why.unwrap().reason.into_owned(), others)
}

fn only_n1() -> LabelSelector {
    LabelSelector { match_labels: labels(&[("name", "n1")]), ..LabelSelector::default() }
}

#[test]
fn the_lowest_of_some_digests_owns_and_the_others_have_higher_ones() {
    let snapshot = base();
    let (owner, others) = reasons(&snapshot, &all_alive(&snapshot));
    assert_eq!(owner, "LowestDigest");
    assert_eq!(others.into_values().collect::<Vec<_>>(), ["HigherDigest", "HigherDigest"]);
    let told = ownership(&snapshot, "n1", &all_alive(&snapshot)).unwrap();
    assert_eq!(told.owner.message, "its digest is the lowest of the 3 nodes that may announce it");
}

#[test]
fn who_is_preferred_held_or_without_carrier_is_told() {
    let mut snapshot = base();
    let mut alive = all_alive(&snapshot);
    snapshot.l2_advertisements.get_mut("all").unwrap().preferred_node_selectors =
        vec![NodePreference { weight: 10, preference: only_n1() }];
    let (owner, others) = reasons(&snapshot, &alive);
    assert_eq!((owner.as_str(), others.len()), ("Preferred", 2));
    assert!(others.values().all(|why| why == "LessPreferred"), "{others:?}");

    alive.get_mut("n1").unwrap().held_until_s = Some(1_900_000_000);
    let (owner, others) = reasons(&snapshot, &alive);
    assert_eq!((owner.as_str(), others["n1"].as_str()), ("LowestDigest", "HeldBack"));
    let told = ownership(&snapshot, "n1", &alive).unwrap().owner.message;
    assert!(told.ends_with("1 have lost their VIPs often of late and are held back"), "{told}");

    // All are held: the one that has been there longest.
    for (node, until) in [("n1", 1_900_000_009), ("n2", 1_900_000_001), ("n3", 1_900_000_002)] {
        alive.get_mut(node).unwrap().held_until_s = Some(until);
    }
    let (owner, others) = reasons(&snapshot, &alive);
    assert_eq!(owner, "OthersHeldBack");
    assert_eq!([&others["n1"], &others["n3"]], ["HeldBack", "HeldBack"]);

    for node in ["n1", "n2"] {
        let uplinks = ["eth0".to_owned(), told::down("eth1")];
        alive.insert(node.to_owned(), AliveNode::new(uplinks));
    }
    let (owner, others) = reasons(&snapshot, &alive);
    assert_eq!(owner, "OthersWithoutCarrier");
    assert_eq!([&others["n1"], &others["n2"]], ["NoCarrier", "NoCarrier"]);
}

#[test]
fn who_may_not_announce_is_told_why() {
    let all = |edit: &dyn Fn(&mut Snapshot, &mut Alive)| {
        let mut snapshot = base();
        let mut alive = all_alive(&snapshot);
        edit(&mut snapshot, &mut alive);
        reasons(&snapshot, &alive)
    };
    let only = |(owner, others): (String, BTreeMap<String, String>), why: &str| {
        assert_eq!(owner, "OnlyCandidate");
        assert_eq!([&others["n2"], &others["n3"]], [why, why]);
    };
    only(
        all(&|snapshot, _| {
            snapshot.l2_advertisements.get_mut("all").unwrap().node_selectors = vec![only_n1()];
        }),
        "NotSelected",
    );
    only(
        all(&|snapshot, alive| {
            snapshot.l2_advertisements.get_mut("all").unwrap().interfaces = vec!["eth9".into()];
            alive.insert("n1".into(), AliveNode::new(["eth9"]));
        }),
        "NoInterface",
    );
    let (owner, others) = all(&|snapshot, _| {
        snapshot.nodes.get_mut("n2").unwrap().network_unavailable = true;
        snapshot.nodes.get_mut("n3").unwrap().labels = labels(&[(EXCLUDE_LABEL, "")]);
    });
    assert_eq!(owner, "OnlyCandidate");
    assert_eq!([&others["n2"], &others["n3"]], ["NetworkUnavailable", "Excluded"]);
    let (owner, others) = all(&|snapshot, _| {
        snapshot.edit_services(|web| web.external_traffic_policy = ExternalTrafficPolicy::Local);
    });
    assert_eq!((owner.as_str(), others["n3"].as_str()), ("LowestDigest", "NoLocalEndpoint"));
    let told = all(&|snapshot, alive| {
        snapshot.edit_services(|web| web.external_traffic_policy = ExternalTrafficPolicy::Local);
        alive.remove("n2");
    });
    assert_eq!(told.0, "OnlyCandidate");
    assert_eq!([&told.1["n2"], &told.1["n3"]], ["NotAlive", "NoLocalEndpoint"]);

    let mut nobody = base();
    nobody.l2_advertisements.clear();
    assert_eq!(ownership(&nobody, "n1", &all_alive(&nobody)), None);
}

#[test]
fn what_bgp_does_with_an_address_is_told_where_it_is_for_its_pool() {
    let snapshot = base();
    let (plan, mut basis) = planned(&snapshot, "n1", &all_alive(&snapshot));
    let told = |basis: &Basis, announced: Announced| {
        let routed = Services::unit(name("web"), Arc::new(announced));
        basis.announcers(&plan, &routed)[&ip(VIP)].bgp.clone()
    };
    let peers = ["r2", "r1"].map(str::to_owned).into();
    let announced = Announced { addresses: [ip(VIP)].into(), peers, ..Announced::default() };
    assert_eq!(told(&basis, announced.clone()), None);
    basis.options.routed_pools.insert("pool".to_owned());
    let why = told(&basis, announced).unwrap();
    assert_eq!((&*why.reason, &*why.message), ("Announced", "to BGPPeer r1, r2"));
    let silent = [(ip(VIP), Silence::NoLocalEndpoints)].into();
    let why = told(&basis, Announced { silent, ..Announced::default() }).unwrap();
    assert_eq!(why.reason, "NoLocalEndpoints");
}

/// What is told of all nodes on one is what each of them does itself.
#[test]
fn shares_are_those_that_the_nodes_deal_out() {
    for (pods, not_ready) in [(1, 0), (2, 0), (3, 1), (7, 0), (7, 7), (70, 20)] {
        let mut snapshot = cluster(3).with_services([holder("web", "4", &[VIP])]);
        let endpoints = (0..pods).map(|pod| {
            let mut one = endpoint(&format!("10.1.0.{pod}"), &format!("n{}", 1 + pod % 3));
            one.ready = pod >= not_ready;
            one
        });
        let mut first = slice("web", endpoints.collect());
        // One pod has two ports.
        let mut second = slice("web", vec![first.endpoints[0].clone()]);
        second.name = name("web-def");
        second.ports[0].port = Some(9090);
        first.ports[0].port = Some(8080);
        snapshot = snapshot.with_slices([first, second]);
        let alive = all_alive(&snapshot);
        let (plan, basis) = planned(&snapshot, "n3", &alive);
        let (address, service) = plan.services.iter().next().unwrap();
        let count = service.rows.len();
        let mut expected = BTreeMap::new();
        for me in ["n1", "n2", "n3"] {
            let own = crate::plan::plan(&snapshot, me, &alive, &PlanOptions::default());
            let of_row = own.services[address].endpoints.by_row();
            for (row, planned) in service.rows.table().iter().enumerate() {
                let first = planned.first().map(|node| &*service.rows.nodes()[usize::from(node)]);
                if first == Some(me) {
                    let weight = row_weight(row as u32, count);
                    *expected.entry(of_row(row).unwrap()).or_insert(0) += weight;
                }
            }
        }
        let mut known = EndpointShares::default();
        assert!(known.of(&basis, &plan, || false).is_empty(), "there was no time");
        let shares = known.of(&basis, &plan, || true)[address].clone();
        assert_eq!(shares.iter().filter(|share| share.percent > 0.0).count(), expected.len());
        for share in &*shares {
            let weight = expected.get(&share.endpoint).copied().unwrap_or(0);
            let percent = 100.0 * f64::from(weight) / (f64::from(row_mask(count)) + 1.0);
            assert!((share.percent - percent).abs() < 1e-9, "{share:?} instead of {percent}");
        }
        let all: f64 = shares.iter().map(|share| share.percent).sum();
        assert!((all - 100.0).abs() < 1e-9, "{pods}: {all} %");
        let again = known.of(&basis, &plan, || false)[address].clone();
        assert!(Arc::ptr_eq(&shares, &again), "what is known needs no time");
    }
}
