//! Nodes that are cut off, and come back.
use super::simulation::*;

/// Positions.
const N1: usize = 0;
const N2: usize = 1;
const N3: usize = 2;

#[test]
fn whom_no_frame_reaches_claims_nothing() {
    for count in [2, 3] {
        let mut lab = Lab::new(count);
        let at = lab.time();
        // What it sends gets through.
        lab.cut.insert((ALL, N1));
        lab.run(10_000);
        let views: Vec<_> = lab.seen.iter().filter(|(t, n, _)| *n == N1 && *t > at).collect();
        assert!(views.iter().all(|(_, _, view)| view.len() == count), "{views:?}");
        assert!(!lab.agents[N1].as_ref().unwrap().alive()["n1"].agent, "nor does it own anything");
        assert!(!lab.view(N2).contains("n1"));
    }
}

/// Its port forwards others' frames before it hears the nodes: it does not take what is theirs for that moment.
#[test]
fn whose_link_is_mended_waits_for_the_others() {
    let mut lab = Lab::new(3);
    lab.cut(N1);
    lab.run(1000);
    lab.cut = [(N2, N1), (N3, N1)].into();
    let at = lab.time();
    lab.run(300);
    let views: Vec<_> = lab.seen.iter().filter(|(t, n, _)| *n == N1 && *t > at).collect();
    assert!(views.iter().all(|(_, _, view)| view.len() == 3), "{views:?}");
    assert!(!lab.agents[N1].as_ref().unwrap().alive()["n1"].agent);
    lab.cut.clear();
    lab.run(1000);
    assert_eq!(lab.view(N1).replace('*', ""), "n1 n2 n3");
    // Where they stay away, it is alone.
    lab.cut(N1);
    lab.run(1000);
    lab.cut = [(N2, N1), (N3, N1)].into();
    lab.run(700);
    assert_eq!(lab.view(N1).replace('*', ""), "n1");
}

#[test]
fn who_was_cut_off_does_not_hold_it_against_the_others() {
    let mut lab = Lab::new(3);
    for _ in 0..5 {
        lab.cut(N2);
        lab.run(1000);
        lab.cut.clear();
        lab.run(60);
        // It sees all at once, but is not back for them.
        assert_eq!(lab.view(N2).replace('*', ""), "n1 (n2) n3");
        // Now the next is cut off: one is left to own what there is.
        lab.cut(N1);
        lab.run(150);
        let n3 = lab.agents[N3].as_ref().unwrap().alive();
        assert!(n3["n3"].agent && !n3.contains_key("n1"), "{}", lab.view(N3));
        lab.run(1000);
        lab.cut.clear();
        lab.run(10_000);
        assert_eq!(lab.view(N3).replace('*', ""), "n1 n2 n3");
    }
}
