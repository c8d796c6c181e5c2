//! Every row of `acceptance.md`, and its frame cut at every byte.

use std::collections::BTreeSet;

use herald_tests::kernel::{
    acceptance::{self, Direction},
    cases::{self, Case},
    fields, model,
    rig::Rig,
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

#[test]
fn every_row_holds() {
    let mut rig = Rig::new().unwrap();
    let mut failures = Vec::new();
    let rows = acceptance::rows().unwrap();
    for row in &rows {
        let mut case = cases::build(row, &rig.world()).unwrap();
        let title = row.title();
        let arrived = case.frame.clone();
        let verdict = match rig.check(row.direction, &title, &mut case) {
            Ok(verdict) => verdict,
            Err(error) => {
                failures.push(format!("{error:#}"));
                continue;
            }
        };
        if verdict.action != row.action || verdict.counter != row.counter {
            let (action, counter) = (verdict.action, verdict.counter);
            failures.push(format!("{title}: is {action}, {counter}"));
        }
        let changed = fields::changed(&arrived, &verdict.frame);
        if !changed.iter().copied().eq(row.changes.iter().map(String::as_str)) {
            failures.push(format!("{title}: changed {changed:?}, not {:?}", row.changes));
        }
        // What leaves unchanged may be wrong already; what is rewritten is not.
        if !changed.is_empty() && !model::checksums_are_valid(&verdict.frame) {
            failures.push(format!("{title}: a checksum is wrong"));
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
        for length in shortest(row.direction, &whole.frame)..whole.frame.len() {
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
