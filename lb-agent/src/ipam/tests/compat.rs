//! What manifests written for MetalLB rely on.
use super::{annotate, contains, edit, held, run, settle, with, write};
use crate::{
    ipam::PoolUsage,
    snapshot::{
        Ingress, IpAddressPool, IpFamilyPolicy, LabelSelector, Service, ServiceAllocation, Snapshot,
    },
    testing::{holder, labels, name, pool, service},
};

const POOL: &str = "metallb.io/address-pool";
const IPS: &str = "metallb.io/loadBalancerIPs";

fn v4() -> IpAddressPool {
    pool(&["192.0.2.0/30"])
}

fn dual() -> IpAddressPool {
    pool(&["192.0.2.0/30", "2001:db8::/126"])
}

fn policy(mut service: Service, policy: IpFamilyPolicy) -> Service {
    service.ip_family_policy = policy;
    service
}

#[test]
fn first_free_in_the_order_listed() {
    let pools = [("a", pool(&["192.0.2.8-192.0.2.9", "192.0.2.0/31"]))];
    let names = ["a", "b", "c", "d", "e"];
    let mut s = with(&pools, names.map(|n| service(n, "4")));
    let said = settle(&mut s);
    let got = names.map(|n| held(&s, n).concat());
    assert_eq!(got, ["192.0.2.8", "192.0.2.9", "192.0.2.0", "192.0.2.1", ""]);
    assert_eq!(said.iter().filter(|r| **r == "IPAllocated").count(), 4);
    assert_eq!(said.iter().filter(|r| **r == "AllocationFailed").count(), 1);
    let recorded = s.services[&name("a")].annotations.get("metallb.io/ip-allocated-from-pool");
    assert_eq!(recorded.unwrap(), "a");
    // What a holder leaves goes to who waits.
    s.services.remove(&name("b"));
    settle(&mut s);
    assert_eq!(held(&s, "e"), ["192.0.2.9"]);
}

#[test]
fn holders_before_requests_before_the_rest() {
    let mut s = with(
        &[("a", v4())],
        [service("a", "4"), service("b", "4"), holder("z", "4", &["192.0.2.0"])],
    );
    annotate(&mut s, "b", IPS, "192.0.2.1");
    settle(&mut s);
    assert_eq!(held(&s, "z"), ["192.0.2.0"]);
    assert_eq!(held(&s, "b"), ["192.0.2.1"]);
    assert_eq!(held(&s, "a"), ["192.0.2.2"]);
}

#[test]
fn requests_by_field_and_by_either_annotation() {
    for (key, warned) in [(IPS, false), ("metallb.universe.tf/loadBalancerIPs", true)] {
        let mut s = with(&[("a", v4())], [service("s", "4")]);
        annotate(&mut s, "s", key, "192.0.2.3");
        assert_eq!(settle(&mut s).contains(&"deprecatedAnnotation"), warned);
        assert_eq!(held(&s, "s"), ["192.0.2.3"]);
    }
    let mut s = with(&[("a", v4())], [service("s", "4")]);
    edit(&mut s, "s").load_balancer_ip = Some("192.0.2.2".to_owned());
    settle(&mut s);
    assert_eq!(held(&s, "s"), ["192.0.2.2"]);
    // Both: a warning, and nothing changes.
    annotate(&mut s, "s", IPS, "192.0.2.3");
    assert_eq!(settle(&mut s), ["LoadBalancerFailed"]);
    assert_eq!(held(&s, "s"), ["192.0.2.2"]);
    edit(&mut s, "s").load_balancer_ip = None;
    assert_eq!(settle(&mut s), ["ClearAssignment", "IPAllocated"]);
    assert_eq!(held(&s, "s"), ["192.0.2.3"]);
}

#[test]
fn requests_that_cannot_be_met() {
    // What is asked for, ClusterIPs, what is held, what is said, what is held then.
    let cases = [
        ("nonsense", "4", "192.0.2.1", "LoadBalancerFailed", "192.0.2.1"),
        ("192.0.2.1,192.0.2.2", "4", "", "LoadBalancerFailed", ""),
        ("2001:db8::1", "4", "", "LoadBalancerFailed", ""),
        ("192.0.2.1", "6", "", "LoadBalancerFailed", ""),
        ("192.0.2.1", "46", "", "LoadBalancerFailed", ""),
        ("192.0.2.1,2001:db8::1", "4", "", "LoadBalancerFailed", ""),
        ("198.51.100.1", "4", "192.0.2.1", "AllocationFailed", ""),
        ("192.0.2.0", "4", "", "AllocationFailed", ""),
    ];
    for (asked, families, holds, reason, then) in cases {
        let hold: Vec<_> = Some(holds).filter(|h| !h.is_empty()).into_iter().collect();
        let pools = [("a", IpAddressPool { avoid_buggy_ips: true, ..dual() })];
        let mut s = with(&pools, [holder("s", families, &hold)]);
        annotate(&mut s, "s", IPS, asked);
        assert!(settle(&mut s).contains(&reason), "{asked} for {families}");
        assert_eq!(held(&s, "s").concat(), then, "{asked} for {families}");
    }
    let mut s = with(&[("a", v4())], [holder("a", "4", &["192.0.2.1"]), service("b", "4")]);
    annotate(&mut s, "b", IPS, "192.0.2.1");
    let said = run(&s);
    assert!(contains(&said, "AllocationFailed", "used by Service default/a"), "{said:?}");
}

#[test]
fn pool_by_annotation() {
    let hidden = IpAddressPool { auto_assign: false, ..pool(&["198.51.100.0/30"]) };
    let mut s = with(&[("a", v4()), ("b", hidden)], [service("s", "4"), service("t", "4")]);
    annotate(&mut s, "s", POOL, "b");
    settle(&mut s);
    assert_eq!(
        (held(&s, "s"), held(&s, "t")),
        (vec!["198.51.100.0".into()], vec!["192.0.2.0".into()])
    );
    annotate(&mut s, "s", POOL, "a");
    assert_eq!(settle(&mut s), ["ClearAssignment", "IPAllocated"]);
    assert_eq!(held(&s, "s"), ["192.0.2.1"]);
    // Together with an address of another pool.
    annotate(&mut s, "s", IPS, "198.51.100.1");
    assert_eq!(settle(&mut s), ["ClearAssignment", "AllocationFailed"]);
    edit(&mut s, "s").annotations.remove(POOL);
    settle(&mut s);
    assert_eq!(held(&s, "s"), ["198.51.100.1"], "by name also where autoAssign is off");
    annotate(&mut s, "t", POOL, "nowhere");
    assert!(contains(&run(&s), "AllocationFailed", "\"nowhere\""));
}

#[test]
fn families() {
    use IpFamilyPolicy::{PreferDualStack as Prefer, RequireDualStack as Require, SingleStack};
    let (four, six) = (pool(&["192.0.2.0/30"]), pool(&["2001:db8::/126"]));
    let (v4, v6) = ("192.0.2.0", "2001:db8::");
    let all: &[(&str, IpAddressPool)] = &[("dual", dual())];
    let only_v4 = &[("four", four.clone())];
    let only_v6 = &[("six", six.clone())];
    let apart = &[("four", four), ("six", six)];
    let cases: &[(&[_], &str, IpFamilyPolicy, &[&str])] = &[
        (all, "4", SingleStack, &[v4]),
        (all, "6", SingleStack, &[v6]),
        (all, "46", Require, &[v4, v6]),
        (all, "64", Require, &[v4, v6]),
        (all, "46", Prefer, &[v4, v6]),
        (all, "4", Prefer, &[v4]),
        (all, "6", Prefer, &[v6]),
        (all, "4", Require, &[]),
        (only_v4, "46", Prefer, &[v4]),
        (only_v6, "46", Prefer, &[v6]),
        (only_v4, "46", Require, &[]),
        (only_v4, "6", SingleStack, &[]),
        (apart, "46", Require, &[]),
        (apart, "46", Prefer, &[v4]),
        (all, "", SingleStack, &[]),
    ];
    for (pools, families, with_policy, expected) in cases {
        let mut s = with(pools, [policy(service("s", families), *with_policy)]);
        let said = settle(&mut s);
        assert_eq!(held(&s, "s"), *expected, "{families} {with_policy:?}");
        if families.is_empty() {
            assert!(said.is_empty(), "headless Services are nobody's fault: {said:?}");
        }
    }
    let mut first_six = policy(service("s", "46"), Prefer);
    first_six.ipv6_first = true;
    let mut s = with(apart, [first_six]);
    settle(&mut s);
    assert_eq!(held(&s, "s"), [v6]);
}

#[test]
fn the_second_family_is_added_from_the_same_pool() {
    let prefer = |s| policy(s, IpFamilyPolicy::PreferDualStack);
    let mut s = with(&[("a", v4())], [prefer(holder("s", "46", &["192.0.2.1"]))]);
    settle(&mut s);
    s.pools.insert("a".to_owned(), dual());
    assert_eq!(settle(&mut s), ["IPAllocated"]);
    assert_eq!(held(&s, "s"), ["192.0.2.1", "2001:db8::"]);
    // Full: said, and the one is kept.
    let full = pool(&["192.0.2.0/30", "2001:db8::/128"]);
    let mut s = with(
        &[("a", full)],
        [holder("r", "6", &["2001:db8::"]), prefer(holder("s", "46", &["192.0.2.1"]))],
    );
    settle(&mut s);
    let said = run(&s);
    assert!(contains(&said, "AdditionalAssignFailed", "no free IPv6 address"), "{said:?}");
    assert_eq!(held(&s, "s"), ["192.0.2.1"]);
}

#[test]
fn what_a_status_says_is_kept_or_made_good() {
    // The addresses in the status, ClusterIPs, then.
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["192.0.2.3"], "4", &["192.0.2.3"]),
        (&["2001:db8::2", "192.0.2.3"], "46", &["192.0.2.3", "2001:db8::2"]),
        (&["198.51.100.9"], "4", &["192.0.2.0"]),
        (&["192.0.2.1", "192.0.2.2"], "4", &["192.0.2.0"]),
        (&["192.0.2.1", "192.0.2.2", "2001:db8::1"], "4", &["192.0.2.0"]),
        (&["192.0.2.3"], "6", &["2001:db8::"]),
        (&["192.0.2.3"], "46", &["192.0.2.0", "2001:db8::"]),
        (&["nonsense"], "4", &["192.0.2.0"]),
    ];
    for (status, families, then) in cases {
        let s = holder("s", families, status);
        let s = if families.len() == 2 { policy(s, IpFamilyPolicy::RequireDualStack) } else { s };
        let mut s = with(&[("a", dual())], [s]);
        settle(&mut s);
        assert_eq!(held(&s, "s"), *then, "{status:?}");
    }
    // Somebody else's hostname is left alone.
    let mut s = with(&[("a", v4())], [service("s", "4")]);
    edit(&mut s, "s").ingress.push(Ingress { ip: None, hostname: Some("example.org".to_owned()) });
    settle(&mut s);
    assert_eq!(held(&s, "s"), ["192.0.2.0"]);
    assert_eq!(edit(&mut s, "s").ingress.len(), 2);
}

#[test]
fn what_no_longer_wants_an_address_gives_it_back() {
    let mut s = with(&[("a", v4())], [service("s", "4"), service("t", "4")]);
    settle(&mut s);
    for (service, change) in [
        ("s", Box::new(|s: &mut Service| s.wants_address = false) as Box<dyn Fn(&mut Service)>),
        ("t", Box::new(|s: &mut Service| s.cluster_ips.clear())),
    ] {
        change(edit(&mut s, service));
        assert!(settle(&mut s).is_empty());
        assert!(held(&s, service).is_empty());
        assert!(edit(&mut s, service).annotations.is_empty());
    }
    // An address that somebody else has given is not ours to take.
    let mut s = with(&[("a", v4())], [holder("s", "4", &["198.51.100.9"])]);
    edit(&mut s, "s").wants_address = false;
    assert!(run(&s).changes.is_empty());
}

#[test]
fn pools_change_under_their_holders() {
    let base = || {
        let mut s = with(&[("a", v4())], [service("s", "4"), service("t", "4")]);
        settle(&mut s);
        s
    };
    let set = |s: &mut Snapshot, pools: &[(&str, IpAddressPool)]| {
        s.pools = pools.iter().map(|(n, p)| ((*n).to_owned(), p.clone())).collect();
    };
    // Pools then, what s and t have, what is said.
    let reserve = ("b", pool(&["198.51.100.0/30"]));
    let cases: &[(&[_], &str, &str, &[&str])] = &[
        (&[("a", pool(&["192.0.2.0/24"]))], "192.0.2.0", "192.0.2.1", &[]),
        (&[("renamed", v4())], "192.0.2.0", "192.0.2.1", &[]),
        (
            &[("a", pool(&["192.0.2.0/32"])), ("c", pool(&["192.0.2.1/32"]))],
            "192.0.2.0",
            "192.0.2.1",
            &[],
        ),
        (&[("a", v4()), reserve.clone()], "192.0.2.0", "192.0.2.1", &[]),
        (
            &[("a", pool(&["192.0.2.0/32"]))],
            "192.0.2.0",
            "",
            &["ClearAssignment", "AllocationFailed"],
        ),
        (
            &[("a", pool(&["192.0.2.1/32"])), reserve.clone()],
            "198.51.100.0",
            "192.0.2.1",
            &["ClearAssignment", "IPAllocated"],
        ),
        (
            &[("a", IpAddressPool { avoid_buggy_ips: true, ..v4() })],
            "192.0.2.2",
            "192.0.2.1",
            &["ClearAssignment", "IPAllocated"],
        ),
        (
            &[("a", pool(&["192.0.2.0/30", "nonsense"]))],
            "192.0.2.0",
            "192.0.2.1",
            &["ConfigurationError"],
        ),
        (&[("a", pool(&["nonsense"]))], "192.0.2.0", "192.0.2.1", &["ConfigurationError"]),
        (
            &[],
            "",
            "",
            &["ClearAssignment", "ClearAssignment", "AllocationFailed", "AllocationFailed"],
        ),
    ];
    for (pools, first, second, said) in cases {
        let mut s = base();
        set(&mut s, pools);
        assert_eq!(settle(&mut s), *said, "{pools:?}");
        assert_eq!(
            (held(&s, "s").concat(), held(&s, "t").concat()),
            ((*first).into(), (*second).into())
        );
    }
}

#[test]
fn scoped_pools() {
    let scoped = |addresses: &str, rule: ServiceAllocation| IpAddressPool {
        service_allocation: Some(rule),
        ..pool(&[addresses])
    };
    let select = |pairs| LabelSelector { match_labels: labels(pairs), ..Default::default() };
    let rule = ServiceAllocation::default;
    let pools = [
        ("general", pool(&["192.0.2.0/30"])),
        (
            "p0",
            scoped(
                "198.51.100.0/32",
                ServiceAllocation { namespaces: vec!["ns".into()], ..rule() },
            ),
        ),
        (
            "p20",
            scoped(
                "198.51.100.20/32",
                ServiceAllocation { priority: 20, namespaces: vec!["ns".into()], ..rule() },
            ),
        ),
        (
            "p10",
            scoped(
                "198.51.100.10/32",
                ServiceAllocation {
                    priority: 10,
                    namespace_selectors: vec![select(&[("team", "red")])],
                    ..rule()
                },
            ),
        ),
        (
            "p5",
            scoped(
                "198.51.100.5/32",
                ServiceAllocation {
                    priority: 5,
                    namespaces: vec!["ns".into()],
                    service_selectors: vec![select(&[("tier", "gold")])],
                    ..rule()
                },
            ),
        ),
    ];
    let names = ["ns/a", "ns/b", "ns/c", "ns/d", "ns/e", "other/a"];
    let mut s = with(&pools, names.map(|n| service(n, "4")));
    s.namespaces.insert("ns".to_owned(), labels(&[("team", "red")]));
    edit(&mut s, "ns/d").labels = labels(&[("tier", "gold")]);
    settle(&mut s);
    let got = names.map(|n| held(&s, n).concat());
    let expected = [
        "198.51.100.10",
        "198.51.100.20",
        "198.51.100.0",
        "198.51.100.5",
        "192.0.2.0",
        "192.0.2.1",
    ];
    assert_eq!(got, expected);
    // Neither by name nor by keeping does a Service get round the scope.
    annotate(&mut s, "other/a", POOL, "p10");
    assert_eq!(settle(&mut s), ["ClearAssignment", "AllocationFailed"]);
    s.namespaces.clear();
    let said = settle(&mut s);
    assert!(said.contains(&"ClearAssignment"), "a has lost the label of its namespace: {said:?}");
}

#[test]
fn capacity() {
    let buggy = |addresses: &[&str]| IpAddressPool { avoid_buggy_ips: true, ..pool(addresses) };
    let cases = [
        (pool(&["192.0.2.0/24"]), (256, 0)),
        (pool(&["192.0.2.0/24", "198.51.100.0/25"]), (384, 0)),
        (buggy(&["192.0.2.0/24", "198.51.100.0/25"]), (381, 0)),
        (pool(&["2001:db8::/64"]), (0, i64::MAX)),
        (buggy(&["192.0.2.0/31", "2001:db8::/127"]), (1, 2)),
        (buggy(&["192.0.2.255-192.0.3.0"]), (0, 0)),
        (pool(&["0.0.0.0/0", "::/0"]), (1 << 32, i64::MAX)),
    ];
    for (pool, (available_v4, available_v6)) in cases {
        let text = format!("{:?}", pool.addresses);
        let usage = run(&with(&[("a", pool)], [])).usage["a"];
        assert_eq!(usage, PoolUsage { available_v4, available_v6, ..Default::default() }, "{text}");
    }
    let mut s =
        with(&[("a", dual())], [policy(service("s", "46"), IpFamilyPolicy::RequireDualStack)]);
    let changes = run(&s).changes;
    write(&mut s, &changes);
    let usage = PoolUsage { assigned_v4: 1, assigned_v6: 1, available_v4: 3, available_v6: 3 };
    assert_eq!(run(&s).usage["a"], usage);
}
