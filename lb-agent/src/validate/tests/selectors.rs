//! Label selectors, as every kind has them.
use super::*;

fn selecting(selectors: &str) -> String {
    document("L2Advertisement", "a", &format!("{{nodeSelectors: [{selectors}]}}"))
}

#[test]
fn any_kind_of_condition_is_good() {
    assert_good(&selecting(
        "{}, {matchLabels: {kubernetes.io/hostname: n1, empty: ''}}, {matchExpressions: \
         [{key: a, operator: In, values: [x, y]}, {key: a, operator: NotIn, values: [z]}, \
         {key: b, operator: Exists}, {key: c.example/d, operator: DoesNotExist}]}",
    ));
}

#[test]
fn the_order_of_values_makes_no_other_selector() {
    let one = "{matchExpressions: [{key: a, operator: In, values: [x, y]}]}";
    let other = "{matchExpressions: [{key: a, operator: In, values: [y, x]}]}";
    assert_bad(&selecting(&format!("{one}, {other}")), &["spec.nodeSelectors[1]", "earlier"]);
}

#[test]
fn values_that_are_given_twice() {
    assert_bad(
        &selecting("{matchExpressions: [{key: a, operator: In, values: [x, y, x]}]}"),
        &["spec.nodeSelectors[0].matchExpressions[0].values[2]", "\"x\"", "given twice"],
    );
}

#[test]
fn conditions_that_are_given_twice() {
    let condition = "{key: a, operator: In, values: [x]}";
    assert_bad(
        &selecting(&format!("{{matchExpressions: [{condition}, {condition}]}}")),
        &["matchExpressions[1]", "\"a\"", "earlier expression"],
    );
}

#[test]
fn a_condition_without_a_key() {
    assert_bad(
        &selecting("{matchExpressions: [{key: '', operator: Exists}]}"),
        &["matchExpressions[0].key", "not the name of a label"],
    );
}

#[test]
fn values_where_there_must_be_some_and_where_there_must_be_none() {
    assert_bad(
        &selecting("{matchExpressions: [{key: a, operator: In}]}"),
        &["matchExpressions[0].values", "is empty", "In"],
    );
    assert_bad(
        &selecting("{matchExpressions: [{key: a, operator: Exists, values: [x]}]}"),
        &["matchExpressions[0].values", "\"x\"", "Exists"],
    );
}

#[test]
fn what_is_no_label() {
    for (selector, part) in [
        ("{matchLabels: {'a b': c}}", "a b"),
        ("{matchLabels: {a: '-c'}}", "-c"),
        ("{matchLabels: {'UPPER.example/a': c}}", "UPPER.example/a"),
        ("{matchLabels: {'/a': c}}", "/a"),
    ] {
        assert_bad(&selecting(selector), &[part, "spec.nodeSelectors[0].matchLabels"]);
    }
    let long = "x".repeat(64);
    assert_bad(&selecting(&format!("{{matchLabels: {{a: {long}}}}}")), &["63"]);
}
