//! Every row of `acceptance.md`, and its frame cut at every byte.

use std::collections::BTreeSet;

use herald_tests::kernel::{
    acceptance::{self, Direction, Row},
    cases::{self, Case},
    fields, model,
    rig::{LOOPBACK, Rig, SECOND_UPLINK},
    world::World,
};
use lb_common::outcome::Outcome;

/// The kernel's test run takes no shorter frames: it parses the Ethernet header itself, and
/// an `sk_buff` must have the IP header that its EtherType promises (which the kernel's own
/// stack sees to for what really leaves).
fn shortest(direction: Direction, frame: &[u8]) -> usize {
    match (direction, &frame[12..14]) {
        (Direction::Ingress, _) => 14,
        (Direction::Egress, [0x08, 0x00]) => 34,
        (Direction::Egress, [0x86, 0xdd]) => 54,
        (Direction::Egress, _) => 15,
    }
}

fn report(failures: &[String]) {
    let shown = failures.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} failures\n{shown}", failures.len());
}

/// What a row says of a verdict that is wrong.
fn differences(row: &Row, arrived: &[u8], verdict: &model::Verdict) -> Vec<String> {
    let mut failures = Vec::new();
    let title = row.title();
    if verdict.action != row.action || verdict.counter != row.counter {
        let (action, counter) = (verdict.action, verdict.counter);
        failures.push(format!("{title}: is {action}, {counter}"));
    }
    let changed = fields::describe(arrived, &verdict.frame);
    let dropped = row.direction == Direction::Ingress && verdict.action == model::DROP;
    if !dropped && !changed.iter().copied().eq(row.changes.iter().map(String::as_str)) {
        failures.push(format!("{title}: changed {changed:?}, not {:?}", row.changes));
    }
    // What leaves unchanged may be wrong already; what is rewritten is not, if it was right.
    if !changed.is_empty() && !dropped {
        let right = model::checksums_are_valid(arrived) || changed.contains("answer");
        if right && !model::checksums_are_valid(&verdict.frame) {
            failures.push(format!("{title}: a checksum is wrong"));
        }
    }
    failures
}

/// That the table and the model say the same needs no kernel.
#[test]
fn every_row_holds_in_the_model() {
    let world = World::new(LOOPBACK, SECOND_UPLINK);
    let mut failures = Vec::new();
    let rows = acceptance::rows().unwrap();
    for row in &rows {
        let mut case = match cases::build(row, &world) {
            Ok(case) => case,
            Err(error) => {
                failures.push(format!("{}: {error:#}", row.title()));
                continue;
            }
        };
        let arrived = case.frame.clone();
        let verdict = Rig::expect(row.direction, &mut case);
        failures.extend(differences(row, &arrived, &verdict));
    }
    report(&failures);
}

#[test]
fn every_row_holds() {
    let mut rig = Rig::new().unwrap();
    let mut failures = Vec::new();
    let rows = acceptance::rows().unwrap();
    for row in &rows {
        let mut case = cases::build(row, &rig.world()).unwrap();
        let arrived = case.frame.clone();
        match rig.check(row.direction, &row.title(), &mut case) {
            Ok(verdict) => failures.extend(differences(row, &arrived, &verdict)),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    report(&failures);
    println!("{} cases", rows.len());
}

#[test]
fn every_row_holds_cut_at_every_byte() {
    let mut rig = Rig::new().unwrap();
    let mut failures = Vec::new();
    let mut runs = 0;
    for row in acceptance::rows().unwrap() {
        let whole = cases::build(&row, &rig.world()).unwrap();
        let shortest = shortest(row.direction, &whole.frame);
        // All headers lie within the first 400 bytes.
        for length in shortest..whole.frame.len().min(400) {
            let frame = whole.frame[..length].to_vec();
            let mut case = Case { frame, world: whole.world.clone() };
            runs += 1;
            if let Err(error) = rig.check(row.direction, &row.title(), &mut case) {
                failures.push(format!("{error:#}"));
            }
        }
    }
    report(&failures);
    println!("{runs} frames");
}

/// Outcomes that no frame can bring about in a test run.
const OUT_OF_REACH: [(&str, &str); 2] = [
    ("drop_flow_table", "an LRU map always takes an entry; its ports run out in random.rs only"),
    ("drop_reply", "of whole frames: the kernel refuses to change cut ones, see the cut rows"),
];

#[test]
fn every_outcome_has_a_row() {
    let rows = acceptance::rows().unwrap();
    let named: BTreeSet<&str> = rows.iter().map(|row| row.counter.as_str()).collect();
    for &outcome in Outcome::ALL {
        let name = outcome.name();
        let out_of_reach = OUT_OF_REACH.iter().any(|(counter, _)| *counter == name);
        assert_eq!(named.contains(name), !out_of_reach, "acceptance.md and {name}");
    }
    for row in &rows {
        assert!(
            Outcome::ALL.iter().any(|outcome| outcome.name() == row.counter),
            "{}: no counter {}",
            row.title(),
            row.counter
        );
    }
}

#[test]
fn print_rows() {
    let world = World::new(LOOPBACK, SECOND_UPLINK);
    let mut out = String::new();
    let mut by_line: std::collections::BTreeMap<usize, Vec<(Row, String, String)>> = Default::default();
    for row in acceptance::rows().unwrap() {
        let mut case = cases::build(&row, &world).unwrap_or_else(|e| panic!("{}: {e:#}", row.title()));
        let arrived = case.frame.clone();
        let verdict = Rig::expect(row.direction, &mut case);
        let dropped = row.direction == Direction::Ingress && verdict.action == model::DROP;
        let changed = if dropped { Default::default() } else { fields::describe(&arrived, &verdict.frame) };
        let text = changed.into_iter().collect::<Vec<_>>().join(" ");
        by_line.entry(row.line).or_default().push((row, text, verdict.counter.to_owned()));
    }
    for (line, rows) in by_line {
        let counter: std::collections::BTreeSet<_> = rows.iter().map(|r| r.2.clone()).collect();
        let changes: std::collections::BTreeSet<_> = rows.iter().map(|r| r.1.clone()).collect();
        let strip = |t: &String| t.split(' ').filter(|w| *w != "ip.check" && *w != "quoted.ip.check").collect::<Vec<_>>().join(" ");
        let same: std::collections::BTreeSet<_> = changes.iter().map(strip).collect();
        out.push_str(&format!("{line}\t{}\t{}\t{}\n", rows[0].1, counter.into_iter().collect::<Vec<_>>().join(","), if same.len() > 1 { format!("{changes:?}") } else { String::new() }));
    }
    std::fs::write("/tmp/rows.tsv", out).unwrap();
}
