use super::*;
use crate::testing::ip;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 66];
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn place() -> Place {
    (ip("192.0.2.5"), 3)
}

fn nobody(_: [u8; 6]) -> bool {
    false
}

fn ours(_: Place) -> bool {
    true
}

/// What is done up to a time, and when.
fn run(conflicts: &mut Conflicts, start: Instant, until: Duration) -> Vec<(u64, Action)> {
    let mut log = Vec::new();
    while let Some(at) = conflicts.next_deadline().filter(|at| *at <= start + until) {
        let before = conflicts.next_deadline();
        log.extend(
            conflicts
                .poll(at, nobody, ours)
                .into_iter()
                .map(|action| ((at - start).as_secs(), action)),
        );
        assert_ne!(conflicts.next_deadline(), before, "it does not go on");
    }
    log
}

#[test]
fn a_claim_is_answered_at_once_and_told_once_it_counts() {
    let start = Instant::now();
    let mut conflicts = Conflicts::new(Policy::Defend);
    let action = conflicts.claim(start, place(), STRANGER);
    assert_eq!(action, Some(Action::Defend(place())));
    assert_eq!(conflicts.standing().count(), 0);
    let log = run(&mut conflicts, start, 500 * S);
    assert_eq!(log, [(1, Action::Tell(place(), STRANGER))]);
    assert_eq!(conflicts.standing().collect::<Vec<_>>(), [(place(), false)]);
    let log = run(&mut conflicts, start, 5000 * S);
    assert_eq!(log, [(600, Action::Over(place()))]);
    assert_eq!(conflicts.next_deadline(), None);
    assert!(conflicts.withdrawn().is_empty());
}

#[test]
fn defences_are_ten_seconds_apart_however_many_claims_there_are() {
    let start = Instant::now();
    let mut conflicts = Conflicts::new(Policy::Defend);
    let mut defended = Vec::new();
    let mut told = Vec::new();
    for tenth in 0..12_000u32 {
        let now = start + S / 10 * tenth;
        // Each time another address, as a forger would have it.
        let [.., a, b] = tenth.to_be_bytes();
        if conflicts.claim(now, place(), [2, 9, 9, 9, a, b]).is_some() {
            defended.push((now - start).as_secs());
        }
        told.extend(conflicts.poll(now, nobody, ours));
    }
    assert_eq!(defended, (0..120).map(|n| n * 10).collect::<Vec<_>>());
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn a_node_that_was_not_known_yet_is_no_conflict() {
    let start = Instant::now();
    for policy in [Policy::Defend, Policy::Withdraw] {
        let mut conflicts = Conflicts::new(policy);
        conflicts.claim(start, place(), NODE);
        assert!(conflicts.poll(start + S / 2, nobody, ours).is_empty());
        assert!(conflicts.poll(start + S, |mac| mac == NODE, ours).is_empty());
        assert_eq!(conflicts.next_deadline(), None);
    }
}

#[test]
fn what_has_moved_elsewhere_meanwhile_is_no_conflict_here() {
    let start = Instant::now();
    for policy in [Policy::Defend, Policy::Withdraw] {
        let mut conflicts = Conflicts::new(policy);
        conflicts.claim(start, place(), STRANGER);
        assert!(conflicts.poll(start + S, nobody, |_| false).is_empty());
        assert_eq!(conflicts.next_deadline(), None);
    }
}

#[test]
fn a_withdrawn_vip_comes_back_once_nobody_answers_for_it() {
    let start = Instant::now();
    let mut conflicts = Conflicts::new(Policy::Withdraw);
    assert_eq!(conflicts.claim(start, place(), STRANGER), None);
    assert!(conflicts.withdrawn().is_empty(), "a single frame that is not looked at again");
    let log = run(&mut conflicts, start, 2 * S);
    assert_eq!(log, [(1, Action::Withdraw(place())), (1, Action::Tell(place(), STRANGER))]);
    assert_eq!(conflicts.withdrawn(), [place()].into());
    // The other host answers; then not any more.
    let log = run(&mut conflicts, start, 32 * S);
    assert_eq!(log, [(31, Action::Ask(place()))]);
    conflicts.claim(start + 32 * S, place(), STRANGER);
    assert_eq!(conflicts.withdrawn(), [place()].into());
    let log = run(&mut conflicts, start, 100 * S);
    assert_eq!(log, [(92, Action::Ask(place())), (95, Action::Restore(place()))]);
    assert!(conflicts.withdrawn().is_empty());
}

#[test]
fn who_comes_again_and_again_is_waited_for_longer() {
    let start = Instant::now();
    let mut conflicts = Conflicts::new(Policy::Withdraw);
    conflicts.claim(start, place(), STRANGER);
    let mut now = start;
    let mut announced = Duration::ZERO;
    let mut since = Some(start);
    while let Some(at) = conflicts.next_deadline().filter(|at| *at <= start + 3600 * S) {
        now = at;
        for action in conflicts.poll(at, nobody, ours) {
            match action {
                Action::Withdraw(_) => announced += at - since.take().unwrap(),
                // At once, whenever it is announced.
                Action::Restore(_) => {
                    since = Some(at);
                    conflicts.claim(at, place(), STRANGER);
                }
                _ => {}
            }
        }
    }
    assert!(now > start + 3000 * S);
    assert!(announced < 20 * S, "{announced:?} of an hour");
}

#[test]
fn a_flood_is_told_at_a_bounded_rate_and_remembered_in_bounded_memory() {
    let start = Instant::now();
    let mut conflicts = Conflicts::new(Policy::Defend);
    let mut told = 0;
    for second in 0..600u32 {
        let now = start + S * second;
        for host in 0..5000u32 {
            let vip = IpAddr::from((0x0a00_0000 + host).to_be_bytes());
            conflicts.claim(now, (vip, 3), STRANGER);
        }
        told += conflicts.poll(now, nobody, ours).len();
    }
    assert!((20..=32).contains(&told), "{told} in ten minutes");
    assert!(conflicts.conflicts.len() <= MOST);
}

proptest! {
    /// Whatever is claimed when, nothing panics, it always goes on, and by default nothing is withdrawn.
    #[test]
    fn it_goes_on(
        claims in prop::collection::vec((0..100u64, 0..4u8, any::<u8>()), 0..200),
        withdraws in any::<bool>(),
    ) {
        let policy = if withdraws { Policy::Withdraw } else { Policy::Defend };
        let mut now = Instant::now();
        let mut conflicts = Conflicts::new(policy);
        for (pause, vip, mac) in claims {
            let until = now + S * pause as u32;
            while let Some(at) = conflicts.next_deadline().filter(|at| *at <= until) {
                conflicts.poll(at, |mac| mac[5] < 20, ours);
                prop_assert!(conflicts.next_deadline().is_none_or(|next| next > at));
            }
            now = until;
            conflicts.claim(now, ([192, 0, 2, vip].into(), 3), [2, 0, 0, 0, 0, mac]);
            prop_assert!(withdraws || conflicts.withdrawn().is_empty());
        }
    }
}
