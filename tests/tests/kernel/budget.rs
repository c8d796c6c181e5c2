//! How large the programs are, printed with every run of the suite.

use herald_tests::kernel::object::{Capacity, DataPath, program};

/// The kernel's limit for one program is a million; ours leaves a factor of five for what
/// is still to come, and shows it when a change makes the verifier walk much further.
const MOST_VERIFIED: u32 = 200_000;
/// Some bytes for each thing that can happen to a packet, of which one packet sees few: what the
/// bench measures is what counts, this shows when a change doubles it all.
const MOST_JITED: u32 = 80 * 1024;

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
