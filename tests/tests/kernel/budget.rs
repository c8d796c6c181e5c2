//! How large the programs are, printed with every run of the suite.

use herald_tests::kernel::object::{Capacity, DataPath, program};

/// The kernel's limit for one program is a million; ours leaves a factor of ten for what
/// is still to come, and shows it when a change makes the verifier walk much further.
const MOST_VERIFIED: u32 = 100_000;
/// Three quarters of a first-level instruction cache (32 KiB); most of it is the unrolled
/// check of solicitations, which other packets never touch.
const MOST_JITED: u32 = 24 * 1024;

#[test]
fn programs_stay_within_their_budgets() {
    let path = DataPath::load(Capacity::SMALL).unwrap();
    for name in [program::INGRESS, program::EGRESS] {
        let (verified, jited) = path.size(name).unwrap();
        println!("{name}: {verified} instructions verified, {jited} bytes of machine code");
        assert!(verified <= MOST_VERIFIED, "{name}: {verified} instructions verified");
        assert!(jited <= MOST_JITED, "{name}: {jited} bytes of machine code");
    }
}
