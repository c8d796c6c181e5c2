//! `metav1.LabelSelector`, with a schema.
use crate::snapshot;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A selection by labels. What it lists must all hold; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels that must be there with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on single labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelectorRequirement {
    /// The label's key.
    pub key: String,
    /// How the label is compared.
    pub operator: Operator,
    /// What it is compared with: at least one value for In and NotIn, none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The value is one of those listed.
    In,
    /// The value is none of those listed, or the label is absent.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl From<Operator> for snapshot::Operator {
    fn from(operator: Operator) -> Self {
        match operator {
            Operator::In => Self::In,
            Operator::NotIn => Self::NotIn,
            Operator::Exists => Self::Exists,
            Operator::DoesNotExist => Self::DoesNotExist,
        }
    }
}

impl From<LabelSelector> for snapshot::LabelSelector {
    fn from(selector: LabelSelector) -> Self {
        let LabelSelector { match_labels, match_expressions } = selector;
        Self {
            match_labels: match_labels.into_iter().collect(),
            match_expressions: match_expressions
                .into_iter()
                .map(|LabelSelectorRequirement { key, operator, values }| snapshot::Requirement {
                    key,
                    operator: operator.into(),
                    values: BTreeSet::from_iter(values),
                })
                .collect(),
        }
    }
}

/// All of a list.
pub(super) fn selectors(list: Vec<LabelSelector>) -> Vec<snapshot::LabelSelector> {
    list.into_iter().map(Into::into).collect()
}
