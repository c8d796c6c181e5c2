//! Agents that say that they go.
use super::{simulation::*, *};

/// Positions.
const N1: usize = 0;
const N2: usize = 1;
const N3: usize = 2;

#[test]
fn who_leaves_owns_nothing_at_once() {
    let mut lab = Lab::new(3);
    let at = lab.time();
    lab.agent(N3).leave(Departure::Stopping);
    lab.run(20);
    assert_eq!(lab.view(N1), "n1 n2 (n3)");
    assert_eq!(lab.view(N3), "n1 n2 (n3)", "nor in its own view");
    assert!(lab.changed(N1, at).unwrap() <= MS);
    lab.kill_agent(N3);
    lab.run(5000);
    assert_eq!(lab.view(N1), "n1 n2 (n3)", "its kernel goes on");
    lab.start(N3);
    lab.run(300);
    lab.agent(N3).leave(Departure::Unloading);
    lab.run(20);
    assert_eq!(lab.view(N1), "n1 n2", "and now it does not");
}

#[test]
fn who_restarts_keeps_what_it_owns_for_half_a_minute() {
    for count in [2, 3, 9] {
        let mut lab = Lab::new(count);
        let (before, all) = (lab.time(), lab.view(N1));
        lab.agent(N3 % count).leave(Departure::Restarting);
        lab.run(20);
        lab.kill_agent(N3 % count);
        lab.run(25_000);
        assert!(
            (1..count).all(|of| of == N3 % count || lab.changed(of, before).is_none()),
            "{count}"
        );
        // One that starts meanwhile is told.
        if count > 2 {
            lab.kill_agent(N2);
            lab.start(N2);
            lab.run(3000);
            assert_eq!(lab.view(N2), all);
        }
        lab.start(N3 % count);
        lab.run(2000);
        assert_eq!(lab.view(N1), all);
        assert_eq!(lab.view(N3 % count), all);
        assert!(
            lab.seen.iter().all(|(_, _, view)| view.values().all(|n| n.held_until_s.is_none()))
        );
    }
}

#[test]
fn who_does_not_come_back_loses_what_it_owned() {
    let mut lab = Lab::new(3);
    lab.agent(N3).leave(Departure::Restarting);
    lab.run(20);
    lab.kill_agent(N3);
    lab.run(20_000);
    assert_eq!(lab.view(N1), "n1 n2 n3");
    // Its kernel says how long it still announces.
    lab.kernels[N3].announces = Duration::from_secs(29);
    lab.run(200);
    assert_eq!((lab.view(N1), lab.view(N2)), ("n1 n2 (n3)".into(), "n1 n2 (n3)".into()));
    // And its node may die on the way.
    lab.start(N3);
    lab.run(3000);
    assert_eq!(lab.view(N1), "n1 n2 n3");
    lab.agent(N3).leave(Departure::Restarting);
    lab.run(20);
    lab.kill_node(N3);
    let at = lab.time();
    lab.run(2000);
    assert_eq!(lab.view(N1), "n1 n2");
    assert!(lab.changed(N1, at).unwrap() <= 130 * MS);
}

#[test]
fn the_word_of_who_restarts_does_not_count() {
    // Of three, one is away: the other two agree that the third is dead by one vote.
    let mut lab = Lab::new(3);
    lab.agent(N3).leave(Departure::Restarting);
    lab.run(20);
    lab.kill_agent(N3);
    lab.run(1000);
    let at = lab.time();
    lab.cut(N2);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1 n3");
    assert!(lab.changed(N1, at).unwrap() <= 130 * MS);
}
