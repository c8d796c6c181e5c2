//! The rules that MetalLB's controller has tests for (`controller/controller_test.go`), one test
//! each, in its order.
use super::{annotate, contains, edit, held, run, settle, with};
use crate::{
    snapshot::{
        ExternalTrafficPolicy, Ingress, IpAddressPool, IpFamilyPolicy, LabelSelector, Service,
        ServiceAllocation, Snapshot,
    },
    testing::{holder, labels, name, pool, service},
};
use IpFamilyPolicy::{PreferDualStack, RequireDualStack};

const IPS: &str = "metallb.io/loadBalancerIPs";
const POOL: &str = "metallb.io/address-pool";

/// Three pools: IPv4, IPv6, and one with both that nobody gets without asking.
fn cluster(services: impl IntoIterator<Item = Service>) -> Snapshot {
    let hidden =
        IpAddressPool { auto_assign: false, ..pool(&["203.0.113.0/30", "2001:db8:3::/126"]) };
    let pools =
        [("four", pool(&["192.0.2.0/30"])), ("six", pool(&["2001:db8::/126"])), ("both", hidden)];
    with(&pools, services)
}

fn dual(services: impl IntoIterator<Item = Service>) -> Snapshot {
    with(&[("dual", pool(&["192.0.2.0/30", "2001:db8::/126"]))], services)
}

fn annotated(mut service: Service, key: &str, value: &str) -> Service {
    service.annotations.insert(key.to_owned(), value.to_owned());
    service
}

fn policy(mut service: Service, policy: IpFamilyPolicy) -> Service {
    service.ip_family_policy = policy;
    service
}

/// What the one Service has and what is said once everything is settled.
fn result(mut snapshot: Snapshot) -> (Vec<String>, Vec<&'static str>) {
    let of = snapshot.services.keys().next().unwrap().name.clone();
    let said = settle(&mut snapshot);
    (held(&snapshot, &of), said)
}

fn gets(snapshot: Snapshot, addresses: &[&str]) {
    let (held, said) = result(snapshot);
    assert_eq!(held, addresses);
    assert!(said.iter().all(|reason| *reason == "IPAllocated"), "{said:?}");
}

fn refused(snapshot: Snapshot, reason: &str) {
    let (held, said) = result(snapshot);
    assert_eq!((held.len(), said), (0, vec![reason]));
}

/// Rule 1: that a Service is gone concerns nobody who did not wait.
#[test]
fn a_deleted_service_is_forgotten() {
    let mut s = cluster([service("s", "4")]);
    settle(&mut s);
    s.services.clear();
    let allocation = run(&s);
    assert!(allocation.changes.is_empty() && allocation.notices.is_empty());
    assert_eq!(allocation.usage["four"].assigned_v4, 0);
}

/// Rule 2.
#[test]
fn a_service_of_another_type_gets_nothing() {
    let mut other = service("s", "4");
    other.wants_address = false;
    let s = cluster([other]);
    assert!(run(&s).changes.is_empty() && run(&s).notices.is_empty());
}

/// Rule 3.
#[test]
fn a_plain_service_gets_the_first_address() {
    gets(cluster([service("s", "4")]), &["192.0.2.0"]);
    gets(cluster([service("s", "6")]), &["2001:db8::"]);
}

/// Rule 4.
#[test]
fn an_address_by_field_or_by_annotation() {
    let mut by_field = service("s", "4");
    by_field.load_balancer_ip = Some("192.0.2.2".to_owned());
    gets(cluster([by_field]), &["192.0.2.2"]);
    gets(cluster([annotated(service("s", "4"), IPS, "192.0.2.2")]), &["192.0.2.2"]);
    gets(cluster([annotated(service("s", "6"), IPS, "2001:db8::2")]), &["2001:db8::2"]);
    let pair = annotated(service("s", "46"), IPS, "203.0.113.1, 2001:db8:3::1");
    gets(cluster([pair]), &["203.0.113.1", "2001:db8:3::1"]);
}

/// Rule 5: a warning, and nothing changes.
#[test]
fn an_address_by_field_and_by_annotation() {
    for holds in [&[][..], &["192.0.2.1"]] {
        let mut both = annotated(holder("s", "4", holds), IPS, "192.0.2.2");
        both.annotations.insert("metallb.io/ip-allocated-from-pool".to_owned(), "four".to_owned());
        both.load_balancer_ip = Some("192.0.2.2".to_owned());
        let mut s = cluster([both]);
        if holds.is_empty() {
            edit(&mut s, "s").annotations.remove("metallb.io/ip-allocated-from-pool");
        }
        let allocation = run(&s);
        assert!(allocation.changes.is_empty(), "{allocation:?}");
        assert!(contains(&allocation, "LoadBalancerFailed", "spec.loadBalancerIP"));
    }
}

/// Rule 6.
#[test]
fn an_address_that_is_none() {
    for text in ["nonsense", "192.0.2.300", "192.0.2.1,", ","] {
        let s = cluster([annotated(service("s", "4"), IPS, text)]);
        assert!(contains(&run(&s), "LoadBalancerFailed", "is not an IP address"), "{text}");
        refused(s, "LoadBalancerFailed");
    }
}

/// Rule 7.
#[test]
fn an_address_of_another_pool_than_the_one_asked_for() {
    let s = annotated(annotated(service("s", "4"), IPS, "192.0.2.1"), POOL, "both");
    refused(cluster([s]), "AllocationFailed");
}

/// Rule 8.
#[test]
fn two_addresses_of_one_family() {
    for (families, pair) in [("4", "192.0.2.1,192.0.2.2"), ("46", "2001:db8::1,2001:db8::2")] {
        refused(cluster([annotated(service("s", families), IPS, pair)]), "LoadBalancerFailed");
    }
}

/// Rule 9: a request that is well formed and cannot be met costs the address that is held.
#[test]
fn an_address_that_cannot_be_had_while_another_is_held() {
    let (held, said) =
        result(cluster([annotated(holder("s", "4", &["192.0.2.1"]), IPS, "198.51.100.1")]));
    assert!(held.is_empty());
    assert_eq!(said, ["ClearAssignment", "AllocationFailed"]);
}

/// Rule 10.
#[test]
fn a_pool_by_annotation() {
    let mut s = cluster([annotated(service("s", "4"), POOL, "both")]);
    settle(&mut s);
    assert_eq!(held(&s, "s"), ["203.0.113.0"]);
    annotate(&mut s, "s", POOL, "four");
    assert_eq!(settle(&mut s), ["ClearAssignment", "IPAllocated"]);
    assert_eq!(held(&s, "s"), ["192.0.2.0"]);
    annotate(&mut s, "s", POOL, "nowhere");
    assert_eq!(settle(&mut s), ["ClearAssignment", "AllocationFailed"]);
    assert!(held(&s, "s").is_empty());
}

/// Rule 11.
#[test]
fn an_address_that_is_in_no_pool_is_replaced() {
    let (held, said) = result(cluster([holder("s", "4", &["198.51.100.1"])]));
    assert_eq!((held, said), (vec!["192.0.2.0".into()], vec!["ClearAssignment", "IPAllocated"]));
}

/// Rule 12, but that another's hostname stays, which MetalLB removes.
#[test]
fn a_foreign_address_beside_a_hostname_is_replaced() {
    let mut mixed = holder("s", "4", &["198.51.100.1"]);
    mixed.ingress.push(Ingress { ip: None, hostname: Some("lb.example".to_owned()) });
    let mut s = cluster([mixed]);
    settle(&mut s);
    assert_eq!(held(&s, "s"), ["192.0.2.0"]);
    let hostnames = s.services[&name("s")].ingress.iter().filter_map(|i| i.hostname.as_deref());
    assert_eq!(Vec::from_iter(hostnames), ["lb.example"]);
}

/// Rule 13.
#[test]
fn a_service_that_becomes_a_node_port_gives_its_address_back() {
    let mut s = cluster([service("s", "4")]);
    settle(&mut s);
    edit(&mut s, "s").wants_address = false;
    assert!(settle(&mut s).is_empty());
    assert!(held(&s, "s").is_empty() && s.services[&name("s")].annotations.is_empty());
    // The API server itself has emptied the status; the annotation is left.
    annotate(&mut s, "s", "metallb.io/ip-allocated-from-pool", "four");
    settle(&mut s);
    assert!(s.services[&name("s")].annotations.is_empty());
}

/// Rule 14.
#[test]
fn traffic_policy_local_gets_an_address_like_any_other() {
    let mut local = service("s", "4");
    local.external_traffic_policy = ExternalTrafficPolicy::Local;
    gets(cluster([local]), &["192.0.2.0"]);
}

/// Rule 15.
#[test]
fn without_a_cluster_address_there_is_nothing_to_say() {
    for holds in [&[][..], &["192.0.2.1"]] {
        let (held, said) = result(cluster([holder("s", "", holds)]));
        assert!(held.is_empty() && said.is_empty(), "{said:?}");
    }
}

/// Rule 16.
#[test]
fn an_address_of_the_wrong_family_is_refused() {
    for (families, asked) in [("4", "2001:db8::1"), ("6", "192.0.2.1")] {
        refused(cluster([annotated(service("s", families), IPS, asked)]), "LoadBalancerFailed");
        let mut by_field = service("s", families);
        by_field.load_balancer_ip = Some(asked.to_owned());
        refused(cluster([by_field]), "LoadBalancerFailed");
    }
}

/// Rule 17.
#[test]
fn an_address_of_the_wrong_family_is_replaced() {
    for (families, holds, then) in
        [("4", "2001:db8::1", "192.0.2.0"), ("6", "192.0.2.1", "2001:db8::")]
    {
        let (held, said) = result(cluster([holder("s", families, &[holds])]));
        assert_eq!((held, said), (vec![then.into()], vec!["ClearAssignment", "IPAllocated"]));
    }
}

/// Rule 18: IPv4 comes first, however the ClusterIPs are listed.
#[test]
fn require_dual_stack_gets_a_pair_with_ipv4_first() {
    for families in ["46", "64"] {
        gets(
            dual([policy(service("s", families), RequireDualStack)]),
            &["192.0.2.0", "2001:db8::"],
        );
    }
}

/// Rule 19; and it stays at that, where MetalLB adds and removes the second for ever.
#[test]
fn prefer_dual_stack_on_one_family_gets_one_address() {
    gets(dual([policy(service("s", "4"), PreferDualStack)]), &["192.0.2.0"]);
    gets(dual([policy(service("s", "6"), PreferDualStack)]), &["2001:db8::"]);
}

/// Rule 20.
#[test]
fn prefer_dual_stack_in_a_named_pool_of_one_family() {
    for (named, ip) in [("four", "192.0.2.0"), ("six", "2001:db8::")] {
        let prefers = policy(annotated(service("s", "46"), POOL, named), PreferDualStack);
        gets(cluster([prefers]), &[ip]);
    }
}

/// Rule 21.
#[test]
fn require_dual_stack_on_one_family() {
    refused(dual([policy(service("s", "4"), RequireDualStack)]), "not enough clusterips");
}

/// Rule 22: also where one would be enough.
#[test]
fn one_address_asked_for_on_two_families() {
    for with_policy in [PreferDualStack, RequireDualStack] {
        let s = policy(annotated(service("s", "46"), IPS, "192.0.2.1"), with_policy);
        refused(dual([s]), "LoadBalancerFailed");
    }
}

/// Rule 23.
#[test]
fn two_addresses_asked_for_on_one_family() {
    refused(
        dual([annotated(service("s", "4"), IPS, "192.0.2.1,2001:db8::1")]),
        "LoadBalancerFailed",
    );
}

/// Rule 24: of pools for the namespace the lowest number, 0 last; labels alike; a pool for both
/// competes by its number with either.
#[test]
fn priorities() {
    let of_namespace = ServiceAllocation { namespaces: vec!["ns".into()], ..Default::default() };
    let gold = LabelSelector { match_labels: labels(&[("tier", "gold")]), ..Default::default() };
    let of_gold = ServiceAllocation { service_selectors: vec![gold.clone()], ..Default::default() };
    let of_both = ServiceAllocation { service_selectors: vec![gold], ..of_namespace.clone() };
    let mut pools = vec![("z", pool(&["192.0.2.0/24"]))];
    for (name, address, priority, rule) in [
        ("a0", "198.51.100.0/32", 0, &of_namespace),
        ("b20", "198.51.100.20/32", 20, &of_namespace),
        ("c10", "198.51.100.10/32", 10, &of_namespace),
        ("d15", "198.51.100.15/32", 15, &of_gold),
        ("e9", "198.51.100.9/32", 9, &of_gold),
        ("f5", "198.51.100.5/32", 5, &of_both),
    ] {
        let rule = ServiceAllocation { priority, ..rule.clone() };
        pools.push((name, IpAddressPool { service_allocation: Some(rule), ..pool(&[address]) }));
    }
    let order = |of: &str, is_gold: bool| {
        let services = (0..8).map(|i| service(&format!("{of}/s{i}"), "4"));
        let mut s = with(&pools, services);
        for i in 0..8 {
            let labels = if is_gold { labels(&[("tier", "gold")]) } else { labels(&[]) };
            edit(&mut s, &format!("{of}/s{i}")).labels = labels;
        }
        settle(&mut s);
        let last =
            |i| held(&s, &format!("{of}/s{i}")).concat().rsplit('.').next().unwrap().to_owned();
        (0..8).map(last).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order("ns", false), "10 20 0 0 1 2 3 4");
    assert_eq!(order("other", true), "9 15 0 1 2 3 4 5");
    assert_eq!(order("ns", true), "5 9 10 15 20 0 0 1");
}

/// Rule 25.
#[test]
fn three_addresses_are_made_one() {
    let (held, said) =
        result(cluster([holder("s", "4", &["192.0.2.1", "192.0.2.2", "192.0.2.3"])]));
    assert_eq!((held, said), (vec!["192.0.2.0".into()], vec!["nolbIPsIPFamily", "IPAllocated"]));
}

/// Rule 27, first half (rule 26, nothing before pools are known, is the sources' and theirs to
/// test): no pools at all are lawful, and take the addresses away.
#[test]
fn a_used_pool_is_removed() {
    let mut s = cluster([service("s", "4")]);
    settle(&mut s);
    s.pools.clear();
    assert_eq!(settle(&mut s), ["ClearAssignment", "AllocationFailed"]);
    assert!(held(&s, "s").is_empty());
}

/// Rule 28.
#[test]
fn who_waits_gets_what_a_deleted_service_had() {
    let mut s = with(&[("a", pool(&["192.0.2.1/32"]))], [service("r", "4"), service("s", "4")]);
    settle(&mut s);
    assert!(held(&s, "s").is_empty());
    s.services.remove(&name("r"));
    settle(&mut s);
    assert_eq!(held(&s, "s"), ["192.0.2.1"]);
}

/// Rule 29.
#[test]
fn a_second_pool_moves_nobody_until_the_first_goes() {
    let mut s = with(&[("b", pool(&["192.0.2.0/30"]))], [service("s", "4")]);
    settle(&mut s);
    s.pools.insert("a".to_owned(), pool(&["198.51.100.0/30"]));
    assert!(settle(&mut s).is_empty());
    assert_eq!(held(&s, "s"), ["192.0.2.0"]);
    s.pools.remove("b");
    assert_eq!(settle(&mut s), ["ClearAssignment", "IPAllocated"]);
    assert_eq!(held(&s, "s"), ["198.51.100.0"]);
}
