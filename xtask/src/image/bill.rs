//! The bill of materials (SBOM): which crates the agent is made of, with versions and licences.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Commit, VERSION};
use crate::process::output;
use crate::project;

/// In CycloneDX 1.5 (cyclonedx.org, ECMA-424).
pub(super) fn of_materials(target: &str, commit: &Commit) -> Result<Value> {
    let mut tree = project::cargo();
    tree.args(["tree", "--package=lb-agent", "--edges=normal", "--prefix=none", "--no-dedupe"])
        .args(["--locked", "--target", target, "--format={p}|{l}"]);
    let printed = output(&mut tree).context("cargo tree fails")?;
    let crates = crates(&printed);
    ensure!(crates.len() > 50, "cargo tree names {} crates only", crates.len());
    // Those of this workspace are the agent itself.
    let components: Vec<_> = crates.iter().filter_map(component).collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": Timestamp::from_second(i64::try_from(commit.time)?)?.to_string(),
            "component": {
                "type": "application", "name": "herald", "version": VERSION,
                "bom-ref": format!("herald@{VERSION}"),
                "properties": [{"name": "revision", "value": commit.id}],
            },
        },
        "components": components,
    }))
}

/// Name, version, licence (empty if it names none), and whether it is of this workspace.
type Crate = (String, String, String, bool);

/// Reads lines such as `serde v1.0.0 (proc-macro)|MIT OR Apache-2.0`.
fn crates(printed: &str) -> BTreeSet<Crate> {
    let lines = printed.lines().filter_map(|line| {
        let (package, licence) = line.split_once('|')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        let own = package.contains("(/");
        Some((name.to_owned(), version.to_owned(), licence.to_owned(), own))
    });
    lines.collect()
}

fn component((name, version, licence, own): &Crate) -> Option<Value> {
    if *own {
        return None;
    }
    let package = format!("pkg:cargo/{name}@{version}");
    let mut component = json!({
        "type": "library", "name": name, "version": version, "purl": package, "bom-ref": package,
    });
    if !licence.is_empty() {
        // Old crates write a stroke for "or".
        let expression = licence.replace(" / ", " OR ").replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    Some(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_from_the_tree() {
        let printed = "lb-agent v0.1.0 (/home/user/herald/lb-agent)|Apache-2.0\nserde v1.0.0|MIT/Apache-2.0\n\
                       serde_derive v1.0.0 (proc-macro)|MIT OR Apache-2.0\nserde v1.0.0|MIT/Apache-2.0";
        let components: Vec<_> = crates(printed).iter().filter_map(component).collect();
        let purls: Vec<_> = components.iter().map(|c| c["purl"].as_str().unwrap()).collect();
        assert_eq!(purls, ["pkg:cargo/serde@1.0.0", "pkg:cargo/serde_derive@1.0.0"]);
        assert_eq!(components[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
