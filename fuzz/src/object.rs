//! Frames through the production object in the kernel, which must agree with the model.
//!
//! Inputs are those of [`crate::frames`]. What libFuzzer is led by is the model's code: the kernel's
//! cannot be instrumented. Needs root.

use std::cell::RefCell;

use herald_tests::kernel::rig::Rig;

use crate::frames;

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

/// Runs a frame through both.
pub fn run(data: &[u8]) {
    let Some((row, mut case)) = frames::case_of(data) else { return };
    let arrived = case.frame.clone();
    RIG.with_borrow_mut(|rig| {
        let rig = rig.get_or_insert_with(|| Rig::new().unwrap_or_else(|error| panic!("{error:#}")));
        let checked = rig.check(row.direction, &row.title(), &mut case);
        let verdict = checked.unwrap_or_else(|error| panic!("{error:#}"));
        frames::check(row.direction, &arrived, &verdict);
    });
}
