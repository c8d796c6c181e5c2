use super::{all_alive, first_message, plan_all_alive, reasons};
use crate::{
    membership::{Alive, AliveNode, NO_INTERFACE, told},
    plan::{Interfaces, Plan, PlanOptions, owner::EXCLUDE_LABEL, plan},
    snapshot::{
        ExternalTrafficPolicy, L2Advertisement, LabelSelector, NodePreference, Service, Snapshot,
    },
    testing::{cluster, endpoint, holder, ip, labels, name, slice},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

const VIP: &str = "192.0.2.1";

fn base() -> Snapshot {
    cluster(3)
        .with_services([holder("web", "4", &[VIP])])
        .with_slices([slice("web", vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")])])
}

fn web(snapshot: &mut Snapshot) -> &mut Service {
    Arc::make_mut(snapshot.services.get_mut(&name("web")).unwrap())
}

fn advertisement(snapshot: &mut Snapshot) -> &mut L2Advertisement {
    snapshot.l2_advertisements.get_mut("all").unwrap()
}

fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: labels(&[(key, value)]), ..Default::default() }
}

fn owner(plan: &Plan) -> Option<&str> {
    plan.vips[&ip(VIP)].owner.as_deref()
}

/// The owner by the rule as it is told.
fn lowest<'a>(nodes: &[&'a str], vip: &str) -> Option<&'a str> {
    nodes.iter().copied().min_by_key(|n| Sha256::digest(format!("{n}#{vip}")))
}

/// Agents of different versions must agree: a change here is a new plan version. The
/// digests can be had from `printf '%s' 'n1#192.0.2.1' | sha256sum`.
#[test]
fn golden_owners() {
    let vips = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::a:0:0:1"];
    let services = vips.iter().enumerate().map(|(i, vip)| {
        let families = if vip.contains(':') { "6" } else { "4" };
        holder(&format!("s{i}"), families, &[vip])
    });
    let slices = (0..vips.len()).map(|i| slice(&format!("s{i}"), vec![endpoint("10.1.0.1", "n1")]));
    let mut snapshot = cluster(3).with_services(services).with_slices(slices);
    snapshot
        .pools
        .insert("pool".to_owned(), crate::testing::pool(&["192.0.2.0/24", "2001:db8::/32"]));
    let plan = plan_all_alive(&snapshot, "n1");
    let owners = vips.map(|vip| plan.vips[&ip(vip)].owner.as_deref().unwrap());
    assert_eq!(owners, ["n2", "n1", "n2", "n2", "n3"]);
}

/// A node that has lost the carrier of one of several uplinks owns what is announced there only where
/// nobody else can, even if that one is held.
#[test]
fn a_node_without_carrier_gives_way_where_that_matters() {
    let mut snapshot = base();
    let best = lowest(&["n1", "n2", "n3"], VIP).unwrap();
    let rest: Vec<_> = ["n1", "n2", "n3"].into_iter().filter(|node| *node != best).collect();
    let second = lowest(&rest, VIP).unwrap();
    let uplinks = |lost: bool| match lost {
        false => AliveNode::new(["eth0", "eth1"].map(str::to_owned)),
        true => AliveNode::new(["eth0".to_owned(), told::down("eth1")]),
    };
    let owner_of = |snapshot: &Snapshot, lost: &[&str], held: &[&str]| {
        let alive = ["n1", "n2", "n3"].map(|name| {
            let held_until_s = held.contains(&name).then_some(1_900_000_000);
            (name.to_owned(), AliveNode { held_until_s, ..uplinks(lost.contains(&name)) })
        });
        let plan = plan(snapshot, "n1", &alive.into(), &PlanOptions::default());
        owner(&plan).map(str::to_owned)
    };
    for (interfaces, moves) in [(vec![], true), (vec!["eth1"], true), (vec!["eth0"], false)] {
        let named = interfaces.iter().map(|name| (*name).to_owned());
        advertisement(&mut snapshot).interfaces = named.collect();
        assert_eq!(owner_of(&snapshot, &[], &[]).as_deref(), Some(best));
        let expected = if moves { second } else { best };
        assert_eq!(owner_of(&snapshot, &[best], &[]).as_deref(), Some(expected), "{interfaces:?}");
        if interfaces == ["eth1"] {
            // It has none of the interfaces.
            assert_eq!(owner_of(&snapshot, &["n1", "n2", "n3"], &[]), None);
            continue;
        }
        assert_eq!(owner_of(&snapshot, &["n1", "n2", "n3"], &[]).as_deref(), Some(best));
        let expected = if moves { second } else { best };
        let all_held = owner_of(&snapshot, &[best], &rest);
        assert_eq!(all_held.as_deref(), Some(expected), "{interfaces:?}, others held");
    }
}

/// A carrier that has just come back is better than none: of those whose only uplink has one, somebody owns.
#[test]
fn where_all_carriers_have_just_come_back_one_announces() {
    let snapshot = base();
    let (settled, back) = (AliveNode::new(["eth0"]), [told::down("eth0"), "eth0".to_owned()]);
    let mut alive: Alive =
        ["n1", "n2", "n3"].map(|name| (name.to_owned(), AliveNode::new(back.clone()))).into();
    let best = lowest(&["n1", "n2", "n3"], VIP).unwrap();
    let decided = plan(&snapshot, best, &alive, &PlanOptions::default());
    assert_eq!(owner(&decided), Some(best));
    assert_eq!(decided.vips[&ip(VIP)].announce, Some(Interfaces::All));
    let other = ["n1", "n2", "n3"].into_iter().find(|name| *name != best).unwrap();
    alive.insert(other.to_owned(), settled);
    assert_eq!(owner(&plan(&snapshot, best, &alive, &PlanOptions::default())), Some(other));
}

#[test]
fn lowest_digest_among_the_live() {
    let snapshot = base();
    let mut alive = all_alive(&snapshot);
    let mut left = vec!["n1", "n2", "n3"];
    while !left.is_empty() {
        let expected = lowest(&left, VIP).unwrap();
        for me in ["n1", "n2", "n3"] {
            let plan = plan(&snapshot, me, &alive, &PlanOptions::default());
            assert_eq!(owner(&plan), Some(expected), "all agree");
            let announce = (me == expected).then_some(Interfaces::All);
            assert_eq!(plan.vips[&ip(VIP)].announce, announce);
        }
        // A node without its agent goes on serving but owns nothing.
        if left.len() == 3 {
            alive.get_mut(expected).unwrap().agent = false;
        } else {
            alive.remove(expected);
        }
        left.retain(|n| *n != expected);
    }
    let plan = plan(&snapshot, "n1", &Alive::new(), &PlanOptions::default());
    assert_eq!(
        (owner(&plan), reasons(&plan)),
        (None, vec!["EndpointOnNodeWithoutAgent", "NoEligibleNode"])
    );
}

#[test]
fn nodes_that_are_held_back_own_what_nobody_else_can() {
    let mut snapshot = base();
    snapshot.nodes.get_mut("n1").unwrap().labels = labels(&[("name", "n1")]);
    let preference = NodePreference { weight: 100, preference: selector("name", "n1") };
    advertisement(&mut snapshot).preferred_node_selectors = vec![preference];
    let mut alive = all_alive(&snapshot);
    let decide = |snapshot: &Snapshot, alive: &Alive| {
        owner(&plan(snapshot, "n1", alive, &PlanOptions::default())).unwrap().to_owned()
    };
    assert_eq!(decide(&snapshot, &alive), "n1", "preferred");
    alive.get_mut("n1").unwrap().held_until_s = Some(1000);
    assert_eq!(decide(&snapshot, &alive), lowest(&["n2", "n3"], VIP).unwrap());
    alive.values_mut().for_each(|node| node.held_until_s = Some(1000));
    assert_eq!(decide(&snapshot, &alive), "n1", "all are: as if none were");
    alive.get_mut("n1").unwrap().held_until_s = Some(1001);
    assert_eq!(decide(&snapshot, &alive), lowest(&["n2", "n3"], VIP).unwrap(), "the last to come");
    alive.get_mut("n1").unwrap().held_until_s = Some(999);
    // Only nodes with an endpoint may, which are n1 and n2.
    web(&mut snapshot).external_traffic_policy = ExternalTrafficPolicy::Local;
    alive.get_mut("n3").unwrap().held_until_s = None;
    assert_eq!(decide(&snapshot, &alive), "n1");
    alive.get_mut("n2").unwrap().held_until_s = None;
    assert_eq!(decide(&snapshot, &alive), "n2");
}

#[test]
fn excluded_and_unreachable_nodes() {
    let mut snapshot = base();
    let (first, second) = (lowest(&["n1", "n2", "n3"], VIP).unwrap(), |out: &[&str]| {
        let left: Vec<_> = ["n1", "n2", "n3"].into_iter().filter(|n| !out.contains(n)).collect();
        lowest(&left, VIP).unwrap()
    });
    snapshot.nodes.get_mut(first).unwrap().labels = labels(&[(EXCLUDE_LABEL, "")]);
    assert_eq!(owner(&plan_all_alive(&snapshot, "n1")), Some(second(&[first])));
    let options = PlanOptions { ignore_exclude_label: true, ..Default::default() };
    assert_eq!(owner(&plan(&snapshot, "n1", &all_alive(&snapshot), &options)), Some(first));
    let next = second(&[first]);
    snapshot.nodes.get_mut(next).unwrap().network_unavailable = true;
    assert_eq!(owner(&plan_all_alive(&snapshot, "n1")), Some(second(&[first, next])));
}

#[test]
fn policy_local_wants_an_endpoint_on_the_node() {
    let mut snapshot = base();
    web(&mut snapshot).external_traffic_policy = ExternalTrafficPolicy::Local;
    assert_eq!(owner(&plan_all_alive(&snapshot, "n3")), lowest(&["n1", "n2"], VIP));
    snapshot.edit_slices(|s| {
        s.endpoints[0] = crate::snapshot::Endpoint {
            ready: false,
            terminating: true,
            ..endpoint("10.1.0.1", "n1")
        }
    });
    assert_eq!(owner(&plan_all_alive(&snapshot, "n3")), lowest(&["n1", "n2"], VIP), "it drains");
    snapshot.edit_slices(|s| s.endpoints[0].serving = false);
    assert_eq!(owner(&plan_all_alive(&snapshot, "n3")), Some("n2"));
}

#[test]
fn preferences_add_up_and_count_only_where_they_apply() {
    let mut snapshot = base();
    let worst =
        *["n1", "n2", "n3"].iter().max_by_key(|n| Sha256::digest(format!("{n}#{VIP}"))).unwrap();
    for n in ["n1", "n2", "n3"] {
        snapshot.nodes.get_mut(n).unwrap().labels = labels(&[("name", n), ("any", "yes")]);
    }
    let prefer = |weight, selector| NodePreference { weight, preference: selector };
    advertisement(&mut snapshot).preferred_node_selectors =
        vec![prefer(1, selector("name", worst)), prefer(2, LabelSelector::default())];
    assert_eq!(owner(&plan_all_alive(&snapshot, "n1")), Some(worst));
    // A second advertisement prefers another, but is for another pool.
    let other = ["n1", "n2", "n3"].into_iter().find(|n| *n != worst).unwrap();
    let mut second = L2Advertisement {
        ip_address_pools: vec!["elsewhere".to_owned()],
        preferred_node_selectors: vec![prefer(50, selector("name", other))],
        ..Default::default()
    };
    snapshot.l2_advertisements.insert("second".to_owned(), second.clone());
    assert_eq!(owner(&plan_all_alive(&snapshot, "n1")), Some(worst));
    second.ip_address_pools = vec!["pool".to_owned()];
    snapshot.l2_advertisements.insert("second".to_owned(), second);
    assert_eq!(owner(&plan_all_alive(&snapshot, "n1")), Some(other));
}

#[test]
fn node_selectors_and_interfaces() {
    let mut snapshot = base();
    snapshot.nodes.get_mut("n3").unwrap().labels = labels(&[("edge", "yes")]);
    advertisement(&mut snapshot).node_selectors = vec![selector("edge", "yes")];
    assert_eq!(owner(&plan_all_alive(&snapshot, "n1")), Some("n3"));

    // The elected node must have the interface; one that has not said yet counts as having it.
    let mut snapshot = base();
    advertisement(&mut snapshot).interfaces = vec!["eth1".to_owned(), "eth2".to_owned()];
    let mut alive = all_alive(&snapshot);
    let plan_of = |alive: &Alive, me| plan(&snapshot, me, alive, &PlanOptions::default());
    let plan = plan_of(&alive, "n1");
    assert_eq!((owner(&plan), reasons(&plan)), (None, vec!["announceFailed"]));
    assert!(first_message(&plan).contains("eth1, eth2"), "{}", first_message(&plan));
    alive.insert("n2".to_owned(), AliveNode::new(["eth0", "eth2"]));
    let plan = plan_of(&alive, "n2");
    assert_eq!(owner(&plan), Some("n2"));
    let named = ["eth1", "eth2"].map(str::to_owned).into();
    assert_eq!(plan.vips[&ip(VIP)].announce, Some(Interfaces::Named(named)));
    alive.insert("n3".to_owned(), AliveNode::default());
    assert_eq!(owner(&plan_of(&alive, "n1")), lowest(&["n2", "n3"], VIP));
}

#[test]
fn an_advertisement_must_select_pool_and_service() {
    let mut snapshot = base();
    advertisement(&mut snapshot).ip_address_pool_selectors = vec![selector("tier", "gold")];
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!((owner(&plan), reasons(&plan)), (None, vec!["NoAdvertisement"]));
    assert!(first_message(&plan).contains("spec.ipAddressPools"), "{:?}", plan.notices);
    snapshot.pools.get_mut("pool").unwrap().labels = labels(&[("tier", "gold")]);
    assert!(owner(&plan_all_alive(&snapshot, "n1")).is_some());

    advertisement(&mut snapshot).service_selectors = vec![selector("app", "web")];
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!((owner(&plan), reasons(&plan)), (None, vec!["NoAdvertisement"]));
    assert!(first_message(&plan).contains("serviceSelectors"), "{:?}", plan.notices);
    web(&mut snapshot).labels = labels(&[("app", "web")]);
    assert!(owner(&plan_all_alive(&snapshot, "n1")).is_some());

    web(&mut snapshot).annotations = labels(&[("metallb.io/allow-shared-ip", "key")]);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!((owner(&plan), reasons(&plan)), (None, vec!["SharedIPWithServiceSelector"]));
}

#[test]
fn services_that_share_an_address_have_one_owner() {
    let mut snapshot = base().with_services([holder("dns", "4", &[VIP])]);
    let dns = Arc::make_mut(snapshot.services.get_mut(&name("dns")).unwrap());
    dns.ports[0].port = 53;
    dns.external_traffic_policy = ExternalTrafficPolicy::Local;
    // No endpoint for dns: web alone decides, dns is told.
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(owner(&plan), lowest(&["n1", "n2", "n3"], VIP));
    assert_eq!(reasons(&plan), ["NoEndpoints"]);
    snapshot = snapshot.with_slices([slice("dns", vec![endpoint("10.1.0.3", "n3")])]);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(owner(&plan), Some("n3"));
    assert_eq!(*plan.vips[&ip(VIP)].services, [name("dns"), name("web")]);
}

#[test]
fn a_node_with_every_uplink_excluded_announces_nothing() {
    let snapshot = base();
    let mut alive = all_alive(&snapshot);
    let first = lowest(&["n1", "n2", "n3"], VIP).unwrap();
    let none: BTreeSet<_> = [NO_INTERFACE.to_owned()].into();
    alive.get_mut(first).unwrap().interfaces = none.clone();
    let left: Vec<_> = ["n1", "n2", "n3"].into_iter().filter(|n| *n != first).collect();
    let now = plan(&snapshot, "n1", &alive, &PlanOptions::default());
    assert_eq!(owner(&now), lowest(&left, VIP));
    alive.values_mut().for_each(|node| node.interfaces = none.clone());
    let now = plan(&snapshot, "n1", &alive, &PlanOptions::default());
    assert_eq!((owner(&now), reasons(&now)), (None, vec!["announceFailed"]));
    assert!(first_message(&now).contains("--excluded-interfaces"), "{:?}", now.notices);
}
