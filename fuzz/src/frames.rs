//! Frames through the reference model of the kernel programs ([`herald_tests::kernel::model`]).
//!
//! An input is the number of a row of `tests/acceptance.md`, two bytes, and a frame. The row says
//! which program the frame meets, and what the node knows by then.

use std::sync::OnceLock;

use herald_tests::kernel::{
    acceptance::{self, Direction, Row},
    cases::{self, Case},
    model::{self, Verdict},
    rig::{self, LOOPBACK, Rig, SECOND_UPLINK},
    world::World,
};
use lb_common::outcome::{Action, Outcome};

/// Longer than any frame that the headers could make a difference in.
const LONGEST: usize = 2048;

/// Runs a frame through the model.
pub fn run(data: &[u8]) {
    let Some((row, mut case)) = case_of(data) else { return };
    let arrived = case.frame.clone();
    let verdict = Rig::expect(row.direction, &mut case);
    check(row.direction, &arrived, &verdict);
}

/// The row and the case that an input stands for.
pub(crate) fn case_of(data: &[u8]) -> Option<(&'static Row, Case)> {
    let (number, frame) = data.split_first_chunk::<2>()?;
    let starts = starts();
    let (row, start) = &starts[usize::from(u16::from_le_bytes(*number)) % starts.len()];
    let runs = frame.len() <= LONGEST && rig::runs(row.direction, frame);
    runs.then(|| (row, Case { frame: frame.to_vec(), world: start.world.clone() }))
}

/// What must hold of every verdict.
pub(crate) fn check(direction: Direction, arrived: &[u8], verdict: &Verdict) {
    let outcome = Outcome::ALL.iter().find(|outcome| outcome.name() == verdict.counter);
    let action = outcome.map(|outcome| outcome.action());
    let expected = match (direction, action) {
        (_, None) => panic!("there is no counter {}", verdict.counter),
        (Direction::Ingress, Some(action)) => action as u32,
        (Direction::Egress, Some(Action::Drop)) => model::SHOT,
        (Direction::Egress, Some(_)) => model::NEXT,
    };
    assert_eq!(verdict.action, expected, "{}", verdict.counter);
    assert!(rig::checksums_are_kept(direction, arrived, verdict), "{}", verdict.counter);
    let sent = matches!(action, Some(Action::Tx | Action::Redirect));
    assert!(sent || verdict.sent.is_none(), "{}", verdict.counter);
}

/// Each row's frame.
pub fn seeds() -> Vec<Vec<u8>> {
    let numbered = (0_u16..).zip(starts());
    numbered.map(|(number, (_, case))| [&number.to_le_bytes()[..], &case.frame].concat()).collect()
}

fn starts() -> &'static [(Row, Case)] {
    static STARTS: OnceLock<Vec<(Row, Case)>> = OnceLock::new();
    STARTS.get_or_init(|| {
        let world = World::new(LOOPBACK, SECOND_UPLINK);
        let rows = acceptance::rows().expect("tests/acceptance.md reads");
        let build = |row: Row| {
            let case = cases::build(&row, &world).expect("each row of it is a case");
            (row, case)
        };
        rows.into_iter().map(build).collect()
    })
}
