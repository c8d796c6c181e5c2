//! Advertisements and communities.
use super::*;

const NODES: &str = "---\nkind: Node\nmetadata: {name: n1, labels: {rack: a}}\n\
                     ---\nkind: Node\nmetadata: {name: n2, labels: {rack: b}}\n";
const V4: &str = "---\nkind: IPAddressPool\nmetadata: {name: v4, labels: {tier: gold}}\n\
                  spec: {addresses: [10.0.0.0/28]}\n";
const V6: &str =
    "---\nkind: IPAddressPool\nmetadata: {name: v6}\nspec: {addresses: ['2001:db8::/124']}\n";
const RANGE: &str =
    "---\nkind: IPAddressPool\nmetadata: {name: range}\nspec: {addresses: [3.3.3.2-3.3.3.254]}\n";

fn l2(spec: &str) -> String {
    document("L2Advertisement", "a", spec)
}

fn bgp(name: &str, spec: &str) -> String {
    document("BGPAdvertisement", name, spec)
}

#[test]
fn empty_advertisements_are_good() {
    assert_good(&(l2("{}") + &bgp("a", "{}") + NODES + V4 + V6 + RANGE));
}

#[test]
fn a_selector_that_matches_no_pool_and_a_pool_that_is_not_there_are_good() {
    let spec = "{ipAddressPools: [absent], ipAddressPoolSelectors: [{matchLabels: {a: b}}]}";
    assert_good(&(l2(spec) + &bgp("a", spec) + V4));
}

#[test]
fn pools_peers_and_communities_that_are_given_twice() {
    assert_bad(&l2("{ipAddressPools: [p, p]}"), &["L2Advertisement a", "spec.ipAddressPools[1]"]);
    for (field, values) in
        [("ipAddressPools", "p, p"), ("peers", "p, p"), ("communities", "'1:2', '1:2'")]
    {
        let advertisement = bgp("a", &format!("{{{field}: [{values}]}}"));
        assert_bad(&advertisement, &[&format!("spec.{field}[1]"), "given twice"]);
    }
}

#[test]
fn selectors_that_are_given_twice() {
    for field in ["ipAddressPoolSelectors", "nodeSelectors", "serviceSelectors"] {
        let spec = format!("{{{field}: [{{}}, {{}}]}}");
        assert_bad(&l2(&spec), &[&format!("spec.{field}[1]")]);
        assert_bad(&bgp("a", &spec), &[&format!("spec.{field}[1]")]);
    }
}

#[test]
fn weights_from_1_to_100() {
    for (weight, good) in [(0, false), (1, true), (100, true), (101, false)] {
        let text =
            l2(&format!("{{preferredNodeSelectors: [{{weight: {weight}, preference: {{}}}}]}}"));
        if good {
            assert_good(&text);
        } else {
            assert_bad(&text, &["spec.preferredNodeSelectors[0].weight", "1 to 100"]);
        }
    }
}

#[test]
fn aggregation_beyond_an_address() {
    assert_bad(&bgp("a", "{aggregationLength: 33}"), &["spec.aggregationLength", "33", "1 to 32"]);
    assert_bad(&bgp("a", "{aggregationLengthV6: 129}"), &["spec.aggregationLengthV6", "128"]);
}

/// MetalLB has no lower bound for IPv6: it would announce the whole Internet.
#[test]
fn aggregation_to_everything() {
    assert_bad(&bgp("a", "{aggregationLength: 0}"), &["spec.aggregationLength"]);
    assert_bad(&bgp("a", "{aggregationLengthV6: 0}"), &["spec.aggregationLengthV6"]);
}

#[test]
fn aggregation_that_reaches_beyond_a_prefix() {
    assert_good(&(bgp("a", "{aggregationLength: 28}") + V4));
    assert_bad(
        &(bgp("a", "{aggregationLength: 26}") + V4),
        &["spec.aggregationLength", "\"26\"", "10.0.0.0/28", "IPAddressPool v4", "at least 28"],
    );
    assert_bad(
        &(bgp("a", "{aggregationLengthV6: 120}") + V6),
        &["spec.aggregationLengthV6", "124"],
    );
}

#[test]
fn aggregation_that_reaches_beyond_a_range() {
    assert_good(&(bgp("a", "{aggregationLength: 26}") + RANGE));
    assert_bad(&(bgp("a", "{aggregationLength: 24}") + RANGE), &["3.3.3.2-3.3.3.254", "26"]);
}

#[test]
fn aggregation_counts_only_for_the_pools_that_are_announced() {
    assert_good(&(bgp("a", "{aggregationLength: 26, ipAddressPools: [range]}") + V4 + RANGE));
    let selected = "{aggregationLength: 26, ipAddressPoolSelectors: [{matchLabels: {tier: gold}}]}";
    assert_bad(&(bgp("a", selected) + V4 + RANGE), &["v4"]);
}

#[test]
fn aggregation_with_service_selectors() {
    assert_good(&bgp("a", "{serviceSelectors: [{}], aggregationLength: 32}"));
    assert_bad(&bgp("a", "{serviceSelectors: [{}], aggregationLength: 24}"), &["serviceSelectors"]);
    assert_bad(&bgp("a", "{serviceSelectors: [{}], aggregationLengthV6: 64}"), &["V6"]);
}

#[test]
fn communities_that_are_malformed_or_too_large() {
    for value in ["65536:1", "1:2:3", "large:1:2:4294967296", "other:1:2:3"] {
        let advertisement = bgp("a", &format!("{{communities: ['{value}']}}"));
        assert_bad(&advertisement, &["spec.communities[0]", value, "65000:100"]);
        let community = format!("{{communities: [{{name: x, value: '{value}'}}]}}");
        assert_bad(&document("Community", "c", &community), &["spec.communities[0].value", value]);
    }
    assert_bad(&document("Community", "c", "{communities: [{name: x, value: '7'}]}"), &["\"7\""]);
}

#[test]
fn a_name_that_no_community_gives_may_come_yet() {
    let text = bgp("a", "{communities: [NO_EXPORT]}");
    assert_bad(&text, &["spec.communities[0]", "NO_EXPORT", "create a Community"]);
    let verdict = judge(&objects(&text));
    assert!(verdict.faults(Kind::BgpAdvertisement, "a")[0].may_pass);
    let named = "{communities: [{name: NO_EXPORT, value: '65535:65281'}]}";
    assert_good(&(text + &document("Community", "c", named)));
}

#[test]
fn a_name_that_is_given_twice_in_an_object() {
    let named = "{communities: [{name: x, value: '1:1'}, {name: x, value: '1:2'}]}";
    assert_bad(&document("Community", "c", named), &["spec.communities[1].name", "\"x\"", "twice"]);
}

#[test]
fn a_name_that_is_given_twice_across_objects() {
    let named = "{communities: [{name: x, value: '1:1'}]}";
    let both = created("Community", "a", 2, named) + &created("Community", "b", 1, named);
    assert_bad(&both, &["Community a", "spec.communities[0].name", "Community b"]);
}

#[test]
fn preferences_that_differ_for_the_same_route() {
    let older = created("BGPAdvertisement", "old", 1, "{localPref: 100}");
    let clash = |spec: &str| older.clone() + &created("BGPAdvertisement", "new", 2, spec) + NODES;
    let both = clash("{localPref: 200}") + V4;
    assert_bad(&both, &["BGPAdvertisement new", "spec.localPref", "200", "BGPAdvertisement old"]);
    // One of the two families alone is no other route.
    assert_bad(&(clash("{localPref: 200, aggregationLengthV6: 126}") + V4), &["spec.localPref"]);
    let dual = "---\nkind: IPAddressPool\nmetadata: {name: d}\nspec: {addresses: [10.0.0.0/28, '2001:db8::/124']}\n";
    assert_good(
        &(clash("{localPref: 200, aggregationLengthV6: 126, aggregationLength: 30}") + dual),
    );
    for good in [
        "{localPref: 100}",
        "{localPref: 200, aggregationLength: 30}",
        "{localPref: 200, serviceSelectors: [{matchLabels: {a: b}}]}",
        "{localPref: 200, ipAddressPools: [other]}",
        "{localPref: 200, nodeSelectors: [{matchLabels: {rack: nowhere}}]}",
    ] {
        assert_good(&(clash(good) + V4));
    }
}

#[test]
fn preferences_that_differ_for_other_peers_or_nodes() {
    let two = |a: &str, b: &str| {
        bgp("a", &format!("{{localPref: 100, {a}}}"))
            + &bgp("b", &format!("{{localPref: 200, {b}}}"))
            + NODES
            + V4
    };
    assert_good(&two("peers: [x]", "peers: [y]"));
    assert_bad(&two("peers: [x]", "peers: [y, x]"), &["localPref"]);
    assert_bad(&two("peers: [x]", "peers: []"), &["localPref"]);
    let rack = |rack| format!("nodeSelectors: [{{matchLabels: {{rack: {rack}}}}}]");
    assert_good(&two(&rack("a"), &rack("b")));
    assert_bad(&two(&rack("a"), "nodeSelectors: []"), &["localPref"]);
}
