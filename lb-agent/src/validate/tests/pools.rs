//! Pools.
use super::*;

fn pool(name: &str, addresses: &str) -> String {
    document("IPAddressPool", name, &format!("{{addresses: [{addresses}]}}"))
}

#[test]
fn prefixes_and_ranges_of_both_families_are_good() {
    let addresses = "192.168.10.0/24, 192.168.9.1-192.168.9.5, 'fc00:f853:0ccd:e799::/124', \
                     ' 10.0.0.1 - 10.0.0.9 ', 10.1.0.7/24";
    assert_good(&pool("a", addresses));
}

#[test]
fn a_pool_without_an_advertisement_is_good() {
    assert_good(&pool("a", "10.0.0.0/24"));
}

#[test]
fn a_pool_without_addresses() {
    assert_bad(&pool("a", ""), &["IPAddressPool a", "spec.addresses", "is empty", "list a prefix"]);
}

#[test]
fn a_bad_prefix() {
    assert_bad(&pool("a", "10.0.0.0/24, nonsense"), &["spec.addresses[1]", "\"nonsense\""]);
}

#[test]
fn a_prefix_longer_than_32() {
    assert_bad(&pool("a", "10.0.0.0/33"), &["spec.addresses[0]", "10.0.0.0/33"]);
}

#[test]
fn a_single_address_without_a_length() {
    assert_bad(&pool("a", "10.0.0.1"), &["10.0.0.1/32"]);
}

#[test]
fn a_range_that_is_reversed() {
    assert_bad(&pool("a", "10.0.0.9-10.0.0.1"), &["ends before it starts"]);
}

#[test]
fn a_range_of_two_families() {
    assert_bad(&pool("a", "'10.0.0.1-fd00::1'"), &["IPv4 and the other IPv6"]);
}

#[test]
fn an_entry_that_is_given_twice() {
    assert_bad(&pool("a", "10.0.0.0/24, 10.0.0.0/24"), &["spec.addresses[1]", "spec.addresses[0]"]);
}

#[test]
fn entries_of_a_pool_that_overlap() {
    assert_bad(
        &pool("a", "10.0.0.0/24, 10.0.0.7-10.0.0.9"),
        &["spec.addresses[1]", "10.0.0.7-10.0.0.9", "take the common addresses out"],
    );
}

#[test]
fn of_pools_that_overlap_the_younger_is_refused() {
    let pools = created("IPAddressPool", "a", 2, "{addresses: [10.0.0.0/24]}")
        + &created("IPAddressPool", "z", 1, "{addresses: [10.0.0.128/25]}");
    assert_bad(&pools, &["IPAddressPool a", "IPAddressPool z, which is older", "10.0.0.0/24"]);
}

#[test]
fn of_pools_of_the_same_age_the_later_by_name_is_refused() {
    let pools = pool("b", "10.0.0.0/24") + &pool("a", "10.0.0.0/24");
    assert_bad(&pools, &["IPAddressPool b", "IPAddressPool a"]);
}

#[test]
fn a_pool_that_is_refused_is_in_nobody_s_way() {
    let pools = created("IPAddressPool", "a", 1, "{addresses: [10.0.0.0/24, nonsense]}")
        + &created("IPAddressPool", "b", 2, "{addresses: [10.0.0.0/24]}");
    assert_bad(&pools, &["IPAddressPool a", "nonsense"]);
}

#[test]
fn a_namespace_that_is_given_twice() {
    let spec = "{addresses: [10.0.0.0/24], serviceAllocation: {namespaces: [a, b, a]}}";
    let pool = document("IPAddressPool", "a", spec);
    assert_bad(&pool, &["spec.serviceAllocation.namespaces[2]", "\"a\"", "given twice"]);
}

#[test]
fn selectors_that_are_given_twice() {
    for field in ["namespaceSelectors", "serviceSelectors"] {
        let spec = format!(
            "{{addresses: [10.0.0.0/24], serviceAllocation: {{{field}: \
             [{{matchLabels: {{a: b}}}}, {{matchLabels: {{a: b}}}}]}}}}"
        );
        let pool = document("IPAddressPool", "a", &spec);
        assert_bad(&pool, &[&format!("spec.serviceAllocation.{field}[1]"), "earlier selector"]);
    }
}
