//! Alert rules and dashboard, as Prometheus' own promtool reads them.
use crate::install::rendered;
use anyhow::{Context as _, Result, ensure};
use herald_tests::lab::command;
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, process::Command};

/// When which alert fires.
const CASES: &str = include_str!("../../alerts.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/chart/files/dashboard.json");

/// What Grafana puts in before it asks Prometheus.
const VARIABLES: [(&str, &str); 3] =
    [("$__rate_interval", "4m"), ("$job", ".+"), ("$instance", ".+")];

/// Every rule of the chart is one for Prometheus, and fires when it should and not otherwise.
pub(crate) fn fire_when_they_should() -> Result<()> {
    let text = rendered("prometheus: {prometheusRule: {enabled: true}}")?;
    let mut rule = None;
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let object: Value = serde::Deserialize::deserialize(document)?;
        if object["kind"] == "PrometheusRule" {
            rule = Some(object);
        }
    }
    let rule = rule.context("the chart renders to no PrometheusRule")?;
    let folder = tempfile::tempdir()?;
    write(folder.path(), "rules.yaml", &serde_yaml_ng::to_string(&rule["spec"])?)?;
    write(folder.path(), "alerts.yaml", CASES)?;
    promtool(folder.path(), &["check", "rules", "rules.yaml"])?;
    promtool(folder.path(), &["test", "rules", "alerts.yaml"])?;

    let groups = rule["spec"]["groups"].as_array().into_iter().flatten();
    let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
    let names: BTreeSet<_> = rules.filter_map(|rule| rule["alert"].as_str()).collect();
    ensure!(names.len() >= 10, "{names:?}");
    let untested = names.iter().find(|name| !CASES.contains(&format!("alertname=\"{name}\"")));
    ensure!(untested.is_none(), "tests/alerts.yaml has no case for {untested:?}");
    Ok(())
}

/// Prometheus' parser takes every query of the dashboard.
pub(crate) fn dashboard_queries() -> Result<()> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    ensure!(queries.len() > 30, "{} queries only", queries.len());
    // As rules that record them, which every version of promtool checks.
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, query) in queries.iter().enumerate() {
        let put = |query: String, (name, value): &(&str, &str)| query.replace(name, value);
        let query = VARIABLES.iter().fold((*query).to_owned(), put);
        ensure!(!query.contains('$'), "what is put into {query}?");
        writeln!(rules, "  - record: query:{at}\n    expr: {}", Value::from(query))?;
    }
    let folder = tempfile::tempdir()?;
    write(folder.path(), "dashboard.yaml", &rules)?;
    let said = promtool(folder.path(), &["check", "rules", "dashboard.yaml"])?;
    ensure!(said.contains(&format!("{} rules found", queries.len())), "{said}");
    Ok(())
}

/// All `expr` of a dashboard.
fn collect<'a>(value: &'a Value, queries: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            queries.extend(fields.get("expr").and_then(Value::as_str));
            fields.values().for_each(|field| collect(field, queries));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, queries)),
        _ => {}
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(folder.join(name), text).with_context(|| name.to_owned())
}

fn promtool(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut promtool = Command::new(command::find("promtool")?);
    command::run(promtool.current_dir(folder).args(arguments))
}
