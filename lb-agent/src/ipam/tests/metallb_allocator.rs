//! The rules that MetalLB's allocator has tests for (`internal/allocator/allocator_test.go`),
//! one test each, in its order.
use super::{annotate, contains, edit, held, run, settle, with};
use crate::{
    snapshot::{
        ExternalTrafficPolicy, IpAddressPool, IpFamilyPolicy, LabelSelector, Protocol, Service,
        ServiceAllocation, ServicePort, Snapshot,
    },
    testing::{labels, name, pool, service},
};

const IPS: &str = "metallb.io/loadBalancerIPs";
const KEY: &str = "metallb.io/allow-shared-ip";
const POOL: &str = "metallb.io/address-pool";

/// Each rule holds in either family.
const FAMILIES: [(&str, &str, [&str; 3]); 2] = [
    ("4", "192.0.2.0/30", ["192.0.2.0", "192.0.2.1", "192.0.2.2"]),
    ("6", "2001:db8::/126", ["2001:db8::", "2001:db8::1", "2001:db8::2"]),
];

fn asking(of: &str, family: &str, address: &str) -> Service {
    let mut service = service(of, family);
    service.annotations.insert(IPS.to_owned(), address.to_owned());
    service
}

fn sharing(mut service: Service, key: &str, port: u16) -> Service {
    service.annotations.insert(KEY.to_owned(), key.to_owned());
    service.ports = vec![ServicePort { port, ..Default::default() }];
    service
}

fn local(mut service: Service, app: &str) -> Service {
    service.external_traffic_policy = ExternalTrafficPolicy::Local;
    service.selector = labels(&[("app", app)]);
    service
}

/// Gives Services versions, in the order in which they have changed.
fn changed(snapshot: &mut Snapshot, services: &[&str]) {
    for (version, service) in services.iter().enumerate() {
        edit(snapshot, service).resource_version = version.to_string();
    }
}

fn buggy(addresses: &[&str]) -> IpAddressPool {
    IpAddressPool { avoid_buggy_ips: true, ..pool(addresses) }
}

/// Rule 1: to assign what a Service has changes nothing.
#[test]
fn assigning_the_same_again_is_no_change() {
    for (family, range, [_, ip, _]) in FAMILIES {
        let mut s = with(&[("a", pool(&[range]))], [asking("s", family, ip)]);
        settle(&mut s);
        let again = run(&s);
        assert!(again.changes.is_empty() && again.notices.is_empty(), "{again:?}");
    }
}

/// Rule 2: another cannot take it; once it is released, it can.
#[test]
fn an_address_is_one_service_s_until_it_is_released() {
    for (family, range, [_, ip, _]) in FAMILIES {
        let mut s = with(&[("a", pool(&[range]))], [asking("s", family, ip)]);
        settle(&mut s);
        s = s.with_services([asking("r", family, ip)]);
        settle(&mut s);
        assert!(held(&s, "r").is_empty());
        assert!(contains(&run(&s), "AllocationFailed", "is used by Service default/s"));
        s.services.remove(&name("s"));
        settle(&mut s);
        assert_eq!(held(&s, "r"), [ip]);
    }
}

/// Rule 3: where buggy addresses are avoided, .0 and .255 are refused also to who asks for them.
#[test]
fn buggy_addresses_are_refused_on_request() {
    for (ip, given) in [("192.0.2.0", false), ("192.0.2.255", false), ("192.0.2.254", true)] {
        let mut s = with(&[("a", buggy(&["192.0.2.0/24"]))], [asking("s", "4", ip)]);
        settle(&mut s);
        assert_eq!(held(&s, "s"), [ip][..usize::from(given)]);
        assert_eq!(contains(&run(&s), "AllocationFailed", "spec.avoidBuggyIPs"), !given);
    }
}

/// Rule 4: who is alone on an address may take another sharing key.
#[test]
fn a_sole_sharer_may_change_its_key() {
    for (family, range, [ip, ..]) in FAMILIES {
        let mut s = with(&[("a", pool(&[range]))], [sharing(service("s", family), "k", 80)]);
        settle(&mut s);
        for key in ["l", ""] {
            annotate(&mut s, "s", KEY, key);
            assert!(settle(&mut s).is_empty());
            assert_eq!(held(&s, "s"), [ip]);
        }
    }
}

/// Rule 5: the same port, another sharing key and another backend key each refuse.
#[test]
fn a_port_or_a_key_that_does_not_fit_refuses() {
    for (family, range, [ip, ..]) in FAMILIES {
        let first = local(sharing(asking("s", family, ip), "k", 80), "x");
        let second = local(sharing(asking("t", family, ip), "k", 81), "x");
        let cases = [
            (second.clone(), ""),
            (sharing(second.clone(), "k", 80), "has its port 80/TCP used by Service default/s"),
            (sharing(second.clone(), "l", 81), "another sharing key"),
            (local(second.clone(), "y"), "another sharing key"),
            (asking("t", family, ip), "is used by Service default/s"),
        ];
        for (other, why) in cases {
            let mut s = with(&[("a", pool(&[range]))], [first.clone(), other]);
            settle(&mut s);
            assert_eq!(held(&s, "t").is_empty(), !why.is_empty(), "{why}");
            assert!(why.is_empty() || contains(&run(&s), "AllocationFailed", why), "{why}");
        }
    }
}

/// Rule 6: a sharer may change its ports and keeps the address.
#[test]
fn a_sharer_may_change_its_ports() {
    for (family, range, [ip, ..]) in FAMILIES {
        let services = [80, 81].map(|p| sharing(service(&format!("s{p}"), family), "k", p));
        let mut s = with(&[("a", pool(&[range]))], services);
        settle(&mut s);
        edit(&mut s, "s80").ports[0].port = 8080;
        edit(&mut s, "s81").ports[0].protocol = Protocol::Udp;
        assert!(settle(&mut s).is_empty());
        assert_eq!((held(&s, "s80"), held(&s, "s81")), (vec![ip.into()], vec![ip.into()]));
    }
}

/// Rule 7: a sharer may change neither sharing nor backend key while there are others: it moves.
#[test]
fn a_sharer_that_changes_its_key_moves_while_others_share() {
    for (family, range, [ip, next, _]) in FAMILIES {
        let changes: [fn(&mut Service); 2] = [
            |s| drop(s.annotations.insert(KEY.to_owned(), "other".to_owned())),
            |s| *s = local(s.clone(), "y"),
        ];
        for change in changes {
            let services = [80, 81].map(|p| sharing(service(&format!("s{p}"), family), "k", p));
            let mut s = with(&[("a", pool(&[range]))], services);
            settle(&mut s);
            changed(&mut s, &["s81", "s80"]);
            change(edit(&mut s, "s80"));
            assert_eq!(settle(&mut s), ["ClearAssignment", "IPAllocated"]);
            assert_eq!((held(&s, "s80"), held(&s, "s81")), (vec![next.into()], vec![ip.into()]));
        }
    }
}

/// Rule 8: who moves frees what it had.
#[test]
fn moving_frees_the_old_address() {
    for (family, range, [_, first, second]) in FAMILIES {
        let mut s = with(&[("a", pool(&[range]))], [asking("s", family, first)]);
        settle(&mut s);
        annotate(&mut s, "s", IPS, second);
        s = s.with_services([asking("t", family, first)]);
        settle(&mut s);
        assert_eq!((held(&s, "s"), held(&s, "t")), (vec![second.into()], vec![first.into()]));
    }
}

/// Rule 9: avoidBuggyIPs concerns IPv4 alone; all else is the same in IPv6 (the tests above).
#[test]
fn no_ipv6_address_is_buggy() {
    let mut s = with(&[("a", buggy(&["2001:db8::/120"]))], [asking("s", "6", "2001:db8::ff")]);
    s = s.with_services([service("t", "6")]);
    settle(&mut s);
    assert_eq!(
        (held(&s, "s").concat(), held(&s, "t").concat()),
        ("2001:db8::ff".into(), "2001:db8::".into())
    );
}

/// Rule 10: two addresses that are asked for must be of one pool.
#[test]
fn a_pair_is_of_one_pool() {
    let pools =
        [("a", pool(&["192.0.2.0/30", "2001:db8::/126"])), ("b", pool(&["2001:db8:1::/126"]))];
    for (pair, given) in [("192.0.2.1,2001:db8::1", true), ("192.0.2.1,2001:db8:1::1", false)] {
        let mut s = with(&pools, [asking("s", "46", pair)]);
        settle(&mut s);
        assert_eq!(held(&s, "s").len(), if given { 2 } else { 0 });
        assert_eq!(
            contains(&run(&s), "AllocationFailed", "different IPAddressPools (a and b)"),
            !given
        );
    }
}

fn scoped(range: &str, rule: ServiceAllocation) -> IpAddressPool {
    IpAddressPool { service_allocation: Some(rule), ..pool(&[range]) }
}

fn gold() -> Vec<LabelSelector> {
    vec![LabelSelector { match_labels: labels(&[("tier", "gold")]), ..Default::default() }]
}

/// For each Service, whether it gets an address: without wishes, by name, and of the pool by name.
fn admitted(rule: &ServiceAllocation, expected: &[(&str, bool, bool)]) {
    for (of, is_gold, given) in expected {
        for (key, value) in [("x", "y"), (IPS, "192.0.2.1"), (POOL, "a")] {
            let mut s = with(&[("a", scoped("192.0.2.0/30", rule.clone()))], [service(of, "4")]);
            annotate(&mut s, of, key, value);
            if *is_gold {
                edit(&mut s, of).labels = labels(&[("tier", "gold")]);
            }
            settle(&mut s);
            assert_eq!(!held(&s, of).is_empty(), *given, "{of} {is_gold} {key}");
            assert_eq!(contains(&run(&s), "AllocationFailed", "spec.serviceAllocation"), !given);
        }
    }
}

/// Rule 11: a pool of a namespace refuses others.
#[test]
fn a_pool_of_namespaces() {
    let rule = ServiceAllocation { namespaces: vec!["ns".into()], ..Default::default() };
    admitted(&rule, &[("ns/s", false, true), ("other/s", true, false)]);
}

/// Rule 12: a pool of labels refuses Services without them.
#[test]
fn a_pool_of_service_labels() {
    let rule = ServiceAllocation { service_selectors: gold(), ..Default::default() };
    admitted(&rule, &[("ns/s", true, true), ("ns/s", false, false)]);
}

/// Rule 13: with both, both must fit.
#[test]
fn a_pool_of_namespaces_and_service_labels() {
    let namespaces = vec!["ns".into()];
    let rule = ServiceAllocation { namespaces, service_selectors: gold(), ..Default::default() };
    admitted(&rule, &[("ns/s", true, true), ("ns/s", false, false), ("other/s", true, false)]);
}

/// Rule 14: an exhausted pool refuses; what is freed is given again; sharing lets one more in.
#[test]
fn an_exhausted_pool() {
    for (family, range, [ip, ..]) in FAMILIES {
        let services = ["a", "b", "c", "d", "e"].map(|n| service(n, family));
        let mut s = with(&[("p", pool(&[range]))], services);
        assert_eq!(settle(&mut s).iter().filter(|r| **r == "AllocationFailed").count(), 1);
        assert!(contains(&run(&s), "AllocationFailed", "in IPAddressPool p"));
        s.services.remove(&name("a"));
        settle(&mut s);
        assert_eq!(held(&s, "e"), [ip]);
        *edit(&mut s, "e") = sharing(s.services[&name("e")].as_ref().clone(), "k", 80);
        s = s.with_services([sharing(service("f", family), "k", 81)]);
        settle(&mut s);
        assert_eq!(held(&s, "f"), [ip]);
    }
}

/// Rule 15: a pair that cannot be had leaves nothing assigned.
#[test]
fn half_a_pair_is_not_kept() {
    let mut s = with(
        &[("a", pool(&["192.0.2.0/32", "2001:db8::/128"]))],
        [asking("s", "6", "2001:db8::"), service("t", "46"), service("u", "4")],
    );
    settle(&mut s);
    assert!(held(&s, "t").is_empty());
    assert_eq!(held(&s, "u"), ["192.0.2.0"], "not lost either");
    assert_eq!(run(&s).usage["a"].assigned_v4, 1);
}

/// Rule 16: PreferDualStack takes one address of a pool that has one family.
#[test]
fn prefer_dual_stack_takes_what_a_pool_has() {
    for (_, range, [ip, ..]) in FAMILIES {
        let mut s = with(&[("a", pool(&[range]))], [service("s", "46")]);
        edit(&mut s, "s").ip_family_policy = IpFamilyPolicy::PreferDualStack;
        assert_eq!(settle(&mut s), ["IPAllocated"]);
        assert_eq!(held(&s, "s"), [ip]);
    }
}

/// Rule 17: prefixes do not matter to which addresses are buggy.
#[test]
fn buggy_addresses_at_the_ends_of_small_prefixes() {
    for (range, given) in [
        ("192.0.2.0/31", "192.0.2.1"),
        ("192.0.2.254/31", "192.0.2.254"),
        ("192.0.2.0/32", ""),
        ("192.0.2.255-192.0.3.1", "192.0.3.1"),
    ] {
        let mut s = with(&[("a", buggy(&[range]))], [service("s", "4"), service("t", "4")]);
        settle(&mut s);
        assert_eq!((held(&s, "s").concat().as_str(), held(&s, "t").concat().as_str()), (given, ""));
    }
}

/// A pool of four, Services on the first two, then other pools: what the two have then.
fn reloaded(pools: &[(&str, IpAddressPool)], expected: [&str; 2], quiet: bool) {
    let mut s = with(&[("a", pool(&["192.0.2.0/30"]))], [service("s", "4"), service("t", "4")]);
    settle(&mut s);
    s.pools = with(pools, []).pools;
    assert_eq!(settle(&mut s).is_empty(), quiet);
    assert_eq!([held(&s, "s").concat(), held(&s, "t").concat()], expected);
}

/// Rule 18, first part: the same pools again.
#[test]
fn pools_reloaded_unchanged() {
    reloaded(&[("a", pool(&["192.0.2.0/30"]))], ["192.0.2.0", "192.0.2.1"], true);
}

/// Rule 18, second part.
#[test]
fn a_pool_grown() {
    reloaded(&[("a", pool(&["192.0.2.0/24"]))], ["192.0.2.0", "192.0.2.1"], true);
}

/// Rule 18, third part.
#[test]
fn a_pool_shrunk_above_what_is_used() {
    reloaded(&[("a", pool(&["192.0.2.0/31"]))], ["192.0.2.0", "192.0.2.1"], true);
}

/// Rule 18, fourth part: only who is concerned loses its address.
#[test]
fn a_pool_shrunk_below_what_is_used() {
    reloaded(&[("a", pool(&["192.0.2.0/32"]))], ["192.0.2.0", ""], false);
}

/// Rule 18, fifth part.
#[test]
fn a_pool_renamed() {
    reloaded(&[("b", pool(&["192.0.2.0/30"]))], ["192.0.2.0", "192.0.2.1"], true);
}

/// Rule 18, sixth part.
#[test]
fn a_pool_split() {
    let halves = [("a", pool(&["192.0.2.0/32"])), ("b", pool(&["192.0.2.1-192.0.2.3"]))];
    reloaded(&halves, ["192.0.2.0", "192.0.2.1"], true);
}

/// Rule 18, last part: who holds .0 must leave.
#[test]
fn buggy_addresses_avoided_from_now_on() {
    reloaded(&[("a", buggy(&["192.0.2.0/30"]))], ["192.0.2.2", "192.0.2.1"], false);
}

/// Rule 19: a pool without autoAssign is left out, whatever the families.
#[test]
fn without_auto_assign_a_pool_is_left_out() {
    for families in ["4", "6", "46"] {
        let hidden =
            IpAddressPool { auto_assign: false, ..pool(&["192.0.2.0/30", "2001:db8::/126"]) };
        let mut s = with(&[("a", hidden)], [service("s", families)]);
        settle(&mut s);
        assert!(held(&s, "s").is_empty());
        assert!(contains(&run(&s), "AllocationFailed", "spec.autoAssign"));
        annotate(&mut s, "s", POOL, "a");
        settle(&mut s);
        assert_eq!(held(&s, "s").len(), families.len());
    }
}

/// Rule 20: how many addresses a pool has.
#[test]
fn addresses_are_counted() {
    for (pool, v4, v6) in [
        (pool(&["192.0.2.0/24"]), 256, 0),
        (pool(&["192.0.2.0/24", "198.51.100.0/25"]), 384, 0),
        (buggy(&["192.0.2.0/24", "198.51.100.0/25"]), 381, 0),
        (pool(&["2001:db8::/64"]), 0, i64::MAX),
        (buggy(&["192.0.2.0/31", "2001:db8::/127"]), 1, 2),
    ] {
        let usage = run(&with(&[("a", pool.clone())], [])).usage["a"];
        assert_eq!((usage.available_v4, usage.available_v6), (v4, v6), "{:?}", pool.addresses);
    }
}

/// Rule 21: three that share an address use one.
#[test]
fn a_shared_address_counts_once() {
    let services = [80, 81, 82].map(|p| sharing(service(&format!("s{p}"), "46"), "k", p));
    let mut s = with(&[("a", pool(&["192.0.2.0/30", "2001:db8::/126"]))], services);
    settle(&mut s);
    let usage = run(&s).usage["a"];
    assert_eq!((usage.assigned_v4, usage.available_v4), (1, 3));
    assert_eq!((usage.assigned_v6, usage.available_v6), (1, 3));
}
