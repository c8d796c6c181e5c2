//! Label selectors.
use super::Fault;
use crate::{
    api::{LabelSelector, LabelSelectorRequirement, Operator},
    snapshot::{self, Labels},
};
use std::collections::BTreeMap;

/// The longest name of a label, without its prefix, and the longest value.
const LONGEST: usize = 63;
/// The longest prefix of a label's name, a DNS name.
const LONGEST_PREFIX: usize = 253;

/// What is wrong with a list of selectors.
pub(super) fn check(field: &str, selectors: &[LabelSelector]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, selector) in selectors.iter().enumerate() {
        faults.extend(check_one(&format!("{field}[{i}]"), selector));
        if selectors[..i].iter().any(|other| normal(other) == normal(selector)) {
            faults.push(Fault::new(
                format!("{field}[{i}]"),
                "",
                "is the same as an earlier selector",
                "remove one of the two",
            ));
        }
    }
    faults
}

/// What is wrong with a selector.
pub(super) fn check_one(field: &str, selector: &LabelSelector) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (key, value) in &selector.match_labels {
        faults.extend(bad_key(&format!("{field}.matchLabels"), key));
        faults.extend(bad_value(&format!("{field}.matchLabels[{key}]"), value));
    }
    let expressions = &selector.match_expressions;
    for (i, expression) in expressions.iter().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        faults.extend(check_expression(&field, expression));
        if expressions[..i].iter().any(|other| sorted(other) == sorted(expression)) {
            let key = &expression.key;
            faults.push(Fault::new(
                field,
                key,
                "has the same condition as an earlier expression",
                "remove one of the two",
            ));
        }
    }
    faults
}

fn check_expression(field: &str, expression: &LabelSelectorRequirement) -> Vec<Fault> {
    let LabelSelectorRequirement { key, operator, values } = expression;
    let mut faults = Vec::from_iter(bad_key(&format!("{field}.key"), key));
    let values_field = format!("{field}.values");
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => faults.push(Fault::new(
            &values_field,
            "",
            format!("is empty, which {operator:?} does not allow"),
            "list at least one value",
        )),
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => faults.push(Fault::new(
            &values_field,
            values.join(","),
            format!("is not empty, as {operator:?} demands"),
            "remove the values, or use In or NotIn",
        )),
        _ => {}
    }
    for (i, value) in values.iter().enumerate() {
        faults.extend(bad_value(&format!("{values_field}[{i}]"), value));
    }
    faults.extend(super::duplicates(&values_field, values));
    faults
}

/// With everything in order: the order of values and expressions means nothing.
fn normal(selector: &LabelSelector) -> (&BTreeMap<String, String>, Vec<LabelSelectorRequirement>) {
    let mut expressions: Vec<_> = selector.match_expressions.iter().map(sorted).collect();
    expressions.sort_by(|a, b| (&a.key, &a.values).cmp(&(&b.key, &b.values)));
    (&selector.match_labels, expressions)
}

fn sorted(expression: &LabelSelectorRequirement) -> LabelSelectorRequirement {
    let mut expression = expression.clone();
    expression.values.sort_unstable();
    expression
}

/// Kubernetes' "qualified name": `name`, or `dns.name/name`.
fn bad_key(field: &str, key: &str) -> Option<Fault> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let dns_label = |label: &str| {
        label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && is_between_alphanumerics(label)
    };
    let good = is_name(name)
        && prefix.is_none_or(|p| p.len() <= LONGEST_PREFIX && p.split('.').all(dns_label));
    (!good).then(|| {
        Fault::new(
            field,
            key,
            "is not the name of a label",
            "write it as name or prefix.example/name, with letters, digits, '-', '_' and '.'",
        )
    })
}

fn bad_value(field: &str, value: &str) -> Option<Fault> {
    (!value.is_empty() && !is_name(value)).then(|| {
        Fault::new(
            field,
            value,
            "cannot be the value of a label",
            "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        )
    })
}

fn is_name(text: &str) -> bool {
    text.len() <= LONGEST
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && is_between_alphanumerics(text)
}

fn is_between_alphanumerics(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.iter().all(|end| end.is_some_and(|b| b.is_ascii_alphanumeric()))
}

/// Whether any of a list matches; an empty list matches everything.
pub(super) fn any_matches(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || some_matches(selectors, labels)
}

/// Whether any of a list matches; an empty list matches nothing.
pub(super) fn some_matches(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.iter().any(|s| snapshot::LabelSelector::from(s.clone()).matches(labels))
}
