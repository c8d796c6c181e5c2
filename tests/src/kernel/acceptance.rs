//! The checked-in table `tests/acceptance.md`, row by row.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::world::Family;

const TABLE: &str = include_str!("../../acceptance.md");

/// Fields that IPv6 does not have.
const IPV4_ONLY: [&str; 2] = ["ip.check", "quoted.ip.check"];

/// Which program a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// XDP
    Ingress,
    /// TCX egress
    Egress,
}

/// One row of the table, for one of its families.
#[derive(Clone, Debug)]
pub struct Row {
    /// Line of the table's file.
    pub line: usize,
    /// The program.
    pub direction: Direction,
    /// What kind of frame.
    pub frame: String,
    /// The address that it is about.
    pub to: String,
    /// Where it comes from and goes to on the link.
    pub hop: String,
    /// What flows this node has.
    pub known: String,
    /// The family.
    pub family: Family,
    /// The return value.
    pub action: u32,
    /// The fields that change, by the names of [`super::fields`].
    pub changes: BTreeSet<String>,
    /// The counter that rises by one.
    pub counter: String,
}

impl Row {
    /// The row in a message.
    pub fn title(&self) -> String {
        let Self { line, frame, to, hop, known, family, .. } = self;
        format!("acceptance.md:{line}: {frame} | {to} | {hop} | {known} | {family:?}")
    }
}

/// All rows, each once per family.
///
/// # Errors
/// The table has a row that does not read.
pub fn rows() -> Result<Vec<Row>> {
    let mut direction = None;
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(TABLE.lines()) {
        direction = match text {
            "## Ingress" => Some(Direction::Ingress),
            "## Egress" => Some(Direction::Egress),
            _ => direction,
        };
        let Some(direction) = direction else { continue };
        let Some(inner) = text.strip_prefix('|').and_then(|t| t.strip_suffix('|')) else {
            continue;
        };
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        if cells[0] == "frame" || cells[0].starts_with("---") {
            continue;
        }
        let read = read(line, direction, &cells);
        rows.extend(read.with_context(|| format!("acceptance.md:{line}: {text}"))?);
    }
    ensure!(!rows.is_empty(), "acceptance.md has no rows");
    Ok(rows)
}

fn read(line: usize, direction: Direction, cells: &[&str]) -> Result<Vec<Row>> {
    let &[frame, to, hop, known, families, verdict, changes, counter] = cells else {
        bail!("{} cells instead of 8", cells.len());
    };
    let action = match (direction, verdict) {
        (Direction::Ingress, "DROP") => 1,
        (Direction::Ingress, "PASS") => 2,
        (Direction::Ingress, "TX") => 3,
        (Direction::Ingress, "REDIRECT") => 4,
        // TCX_NEXT lets the programs behind this one see the packet, too (linux/bpf.h).
        (Direction::Egress, "PASS") => u32::MAX,
        (Direction::Egress, "DROP") => 2,
        _ => bail!("no verdict {verdict}"),
    };
    let mut rows = Vec::new();
    for family in families.split_whitespace() {
        let family = match family {
            "4" => Family::V4,
            "6" => Family::V6,
            _ => bail!("no family {family}"),
        };
        let changes = changes.split_whitespace();
        rows.push(Row {
            line,
            direction,
            frame: frame.to_owned(),
            to: to.to_owned(),
            hop: hop.to_owned(),
            known: known.to_owned(),
            family,
            action,
            changes: changes
                .filter(|&field| family == Family::V4 || !IPV4_ONLY.contains(&field))
                .map(str::to_owned)
                .collect(),
            counter: counter.to_owned(),
        });
    }
    ensure!(!rows.is_empty(), "no family");
    Ok(rows)
}
