use super::{simulation::*, *};
use crate::{
    membership::envelope::{Kind, Refused},
    testing::ip,
};
use proptest::prelude::*;

/// Positions.
const N1: usize = 0;
const N2: usize = 1;
const N3: usize = 2;
const N4: usize = 3;
const N5: usize = 4;

#[test]
fn everybody_sees_everybody_and_their_uplinks() {
    let lab = Lab::new(5);
    for agent in lab.agents.iter().flatten() {
        assert_eq!(agent.alive().len(), 5);
        assert!(
            agent
                .alive()
                .values()
                .all(|n| n.agent && n.held_until_s.is_none() && n.interfaces.contains("eth0"))
        );
        assert_eq!(agent.plan_version(), PLAN_VERSION);
    }
    // Nobody ever saw less, from the start on.
    assert!(lab.seen.iter().all(|(_, _, view)| view.len() == 5), "{:?}", lab.seen);
}

#[test]
fn a_dead_node_is_gone_within_130_ms() {
    for count in [2, 3, 4, 7, 30] {
        for phase in [0, 7, 13, 19] {
            let mut lab = Lab::new(count);
            lab.run(phase);
            lab.cut(N1);
            let at = lab.time();
            lab.run(2000);
            for of in 1..count {
                assert!(!lab.view(of).contains(&lab.names[N1]), "{count}: {}", lab.view(of));
                let took = lab.changed(of, at).unwrap();
                // Of two, the survivor looks first whether it is the one cut off.
                let limit = if count == 2 { 175 * MS } else { 130 * MS };
                assert!(took <= limit && took > 70 * MS, "{count}: {took:?}");
            }
        }
    }
}

#[test]
fn an_agent_that_dies_alone_leaves_its_kernel_in_place() {
    let mut lab = Lab::new(3);
    let at = lab.time();
    lab.kill_agent(N2);
    lab.run(1100);
    assert_eq!(lab.view(N1), "n1 (n2) n3");
    assert!(lab.changed(N1, at).unwrap() <= 1050 * MS);
    lab.run(60_000);
    assert_eq!(lab.view(N1), "n1 (n2) n3");
    // A newcomer is told.
    lab.kill_agent(N3);
    lab.start(N3);
    lab.run(3000);
    assert_eq!(lab.view(N3), "n1 (n2) n3");
    // Back again, with an incarnation of its own.
    lab.start(N2);
    lab.run(300);
    assert_eq!((lab.view(N1), lab.view(N3)), ("n1 n2 n3".into(), "n1 n2 n3".into()));
    // The node dies too; when its kernel is back without an agent, it does not count.
    lab.kill_node(N2);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1 n3");
    lab.kernels[N2].runs = true;
    lab.run(3000);
    assert_eq!(lab.view(N1), "n1 n3");
}

#[test]
fn an_agent_that_hangs_owns_nothing() {
    let mut lab = Lab::new(3);
    // Its threads do not run at all.
    lab.stop(N2);
    lab.run(1100);
    assert_eq!(lab.view(N1), "n1 (n2) n3");
    lab.go_on(N2);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1 n2 n3");
    assert_eq!(lab.view(N2), "n1 n2 n3");
    // It is heard, but does not move its deadline any more.
    lab.kernels[N2].announces = Duration::from_secs(29);
    lab.run(100);
    assert_eq!(lab.view(N1), "n1 (n2) n3");
    assert_eq!(lab.view(N2), "n1 (n2) n3", "it hears so");
}

#[test]
fn nodes_that_the_rows_name_are_looked_for_before_they_are_forgotten() {
    let mut lab = Lab::new(4);
    for gone in [N1, N2, N4, N3] {
        lab.kill_agent(gone);
    }
    lab.kill_node(N4);
    // Nobody is there to tell; n1 has no programs.
    lab.kernels[N1].programs = false;
    lab.kernels[N2].announces = Duration::ZERO;
    lab.start(N3);
    let rows = ["n2", "n4"].map(str::to_owned).into();
    lab.agent(N3).remember(&rows);
    lab.run(700);
    assert_eq!(
        lab.view(N3),
        "n1? n2 n3 n4",
        "still assumed, but sent nothing where the rows did without"
    );
    lab.run(500);
    assert_eq!(lab.view(N3), "(n2) n3", "of two silent agents' nodes one answers");
    lab.run(60_000);
    assert_eq!(lab.view(N3), "(n2) n3");
    lab.kernels[N2].runs = false;
    lab.run(1000);
    assert_eq!(lab.view(N3), "n3");
}

#[test]
fn a_node_that_the_rows_do_without_is_sent_nothing_before_it_is_heard() {
    let mut lab = Lab::new(4);
    lab.kill_node(N4);
    lab.run(2000);
    lab.kill_agent(N2);
    lab.start(N2);
    lab.agent(N2).remember(&["n1".to_owned()].into());
    lab.run(0);
    assert_eq!(lab.view(N2), "n1 n2 n3? n4?");
    lab.run(50);
    assert_eq!(lab.view(N2), "n1 n2 n3", "one has come since or has no endpoints, one is dead");
}

#[test]
fn a_quick_restart_is_not_noticed() {
    let mut lab = Lab::new(4);
    let at = lab.time();
    lab.kill_agent(N2);
    lab.run(500);
    lab.start(N2);
    lab.run(3000);
    assert_eq!(lab.changed(N1, at), None);
    let views = lab.seen.iter().filter(|(t, n, _)| *n == N2 && *t > at);
    assert!(views.into_iter().all(|(_, _, view)| view.len() == 4));
}

#[test]
fn a_starting_agent_owns_nothing_until_it_knows_its_uplinks() {
    let mut lab = Lab::new(3);
    let at = lab.time();
    // Not missed: as before, however long it takes.
    lab.kill_agent(N2);
    lab.run(300);
    lab.start_quietly(N2);
    lab.run(2000);
    assert_eq!(lab.changed(N1, at), None);
    // Missed: only when it says so.
    lab.kill_agent(N2);
    lab.run(1100);
    lab.start_quietly(N2);
    lab.run(2000);
    assert_eq!(lab.view(N1), "n1 (n2) n3");
    lab.agent(N2).set_interfaces(["eth1".to_owned()].into());
    lab.run(10);
    assert_eq!(lab.view(N1), "n1 n2 n3");
}

#[test]
fn a_node_whose_first_agent_is_starting_is_sent_nothing() {
    let mut lab = Lab::new(4);
    // Its kernel is started anew, and has no programs.
    lab.kill_node(N3);
    lab.run(1000);
    let at = lab.time();
    lab.start_quietly(N3);
    lab.run(5000);
    assert_eq!(lab.changed(N1, at), None);
    assert_eq!(lab.view(N3), "n1 n2 (n3) n4");
    lab.ready(N3);
    lab.run(600);
    assert_eq!(lab.view(N1), "n1 n2 n3 n4");
    // From then on its kernel counts, whatever becomes of its agent.
    lab.kill_agent(N3);
    lab.run(2000);
    assert_eq!(lab.view(N1), "n1 n2 (n3) n4");
}

#[test]
fn whom_nobody_ever_had_is_not_missed() {
    // On a cluster that has no agents yet they come one after another, and may take a while for their
    // programs, longer than others are assumed to be there.
    for (count, pause) in [(2, 1500), (3, 1500), (3, 300), (5, 1500)] {
        let mut lab = Lab::empty(count, 1);
        lab.start(N1);
        lab.run(2500);
        assert_eq!(lab.view(N1), "n1", "{count}");
        for at in 1..count {
            let from = lab.seen.len();
            lab.start_quietly(at);
            lab.run(pause);
            let name = lab.names[at].clone();
            let early =
                lab.seen[from..].iter().find(|(_, of, view)| *of < at && view.contains_key(&name));
            assert_eq!(early, None, "{count}: {name} has no programs yet");
            lab.ready(at);
            lab.run(1500);
            assert!(lab.view(N1).contains(&name), "{count}");
        }
    }
}

#[test]
fn isolation() {
    // In a large cluster the one that is cut off changes nothing, and the others go on.
    let mut lab = Lab::new(5);
    lab.cut(N1);
    lab.run(60_000);
    assert_eq!(lab.view(N1), "(n1) n2 n3 n4 n5");
    assert_eq!(lab.view(N2), "n2 n3 n4 n5");
    lab.cut.clear();
    lab.run(1000);
    assert_eq!((lab.view(N1), lab.view(N2)), ("n1 n2 n3 n4 n5".into(), "n1 n2 n3 n4 n5".into()));
    // Half may go at once, and any number one after the other.
    lab.kill_node(N4);
    lab.kill_node(N5);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1 n2 n3");
    lab.run(10_000);
    lab.kill_node(N3);
    lab.run(10_000);
    assert_eq!(lab.view(N1), "n1 n2");
    // In a small one the survivor takes over.
    lab.kill_node(N2);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1");
}

#[test]
fn whom_nobody_hears_owns_nothing() {
    let mut lab = Lab::new(3);
    lab.cut.insert((N1, ALL));
    lab.run(500);
    assert_eq!((lab.view(N1), lab.view(N2)), ("(n1) n2 n3".into(), "n2 n3".into()));
    // Mended, it comes back.
    lab.cut.clear();
    lab.run(1000);
    assert_eq!((lab.view(N1), lab.view(N2)), ("n1 n2 n3".into(), "n1 n2 n3".into()));
}

#[test]
fn a_link_between_two_changes_nothing() {
    for cut in [vec![(N1, N2)], vec![(N2, N1)], vec![(N1, N2), (N2, N1)]] {
        let mut lab = Lab::new(4);
        let at = lab.time();
        lab.cut.extend(cut);
        lab.run(30_000);
        for of in 0..4 {
            assert_eq!(lab.changed(of, at), None, "{of}: {}", lab.view(of));
        }
    }
}

#[test]
fn more_than_half_lost_at_once_stay_until_half_are_back_or_deleted() {
    let mut lab = Lab::new(6);
    for gone in 2..6 {
        lab.kill_node(gone);
        lab.run(15);
    }
    lab.run(30_000);
    assert_eq!(lab.view(N1), "n1 n2 n3 n4 n5 n6");
    lab.start(N3);
    lab.run(2000);
    assert_eq!(lab.view(N1), "n1 n2 n3");
    lab.run(6000);
    lab.kill_node(N2);
    lab.kill_node(N3);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1", "three are few enough to follow");

    let mut lab = Lab::new(4);
    for gone in 1..4 {
        lab.kill_node(gone);
    }
    lab.run(5000);
    assert_eq!(lab.view(N1), "n1 n2 n3 n4");
    let two: KnownNodes = lab.nodes.clone().into_iter().take(2).collect();
    let now = lab.now;
    lab.agent(N1).set_nodes(&two, now);
    lab.run(1000);
    assert_eq!(lab.view(N1), "n1");
}

#[test]
fn a_stalled_process_blames_nobody() {
    let mut lab = Lab::new(3);
    let at = lab.time();
    // n1 does not run for two seconds; what was sent to it meanwhile is lost.
    let stalled = lab.agents[N1].take();
    lab.run(2000);
    lab.agents[N1] = stalled;
    lab.agent(N1);
    lab.run(3000);
    let views: Vec<_> = lab.seen.iter().filter(|(t, n, _)| *n == N1 && *t > at).collect();
    assert!(views.iter().all(|(_, _, view)| view["n2"].agent && view["n3"].agent), "{views:?}");
    assert_eq!(lab.view(N2), "n1 n2 n3");
    // Who died meanwhile is found out all the same.
    let stalled = lab.agents[N1].take();
    lab.kill_node(N3);
    lab.run(2000);
    lab.agents[N1] = stalled;
    lab.agent(N1);
    lab.run(700);
    // It was missed twice itself.
    assert_eq!(lab.view(N1), "n1* n2");
}

#[test]
fn the_first_view_assumes_and_the_second_knows() {
    let mut lab = Lab::empty(3, 1);
    lab.start(N1);
    lab.run(990);
    assert_eq!(lab.view(N1), "n1 n2 n3");
    assert!(lab.agents[N1].as_ref().unwrap().alive()["n2"].interfaces.is_empty());
    lab.run(20);
    assert_eq!(lab.view(N1), "n1", "nobody has been heard: no isolation from nobody");
    lab.nodes.insert("n4".to_owned(), vec![ip("10.0.0.5")]);
    lab.names.push("n4".to_owned());
    lab.kernels.push(Kernel { runs: true, programs: false, announces: Duration::ZERO });
    lab.agents.push(None);
    lab.traffic.push(Traffic::default());
    let (nodes, now) = (lab.nodes.clone(), lab.now);
    lab.agent(N1).set_nodes(&nodes, now);
    lab.run(100);
    assert_eq!(lab.view(N1), "n1", "who comes later is not assumed to own anything");
}

#[test]
fn cookies_and_heard_probes_reach_the_others_and_outlive_an_agent() {
    let mut lab = Lab::new(3);
    let cookie = |n| Cookie::new(n).unwrap();
    let of = |lab: &Lab, at: usize| Arc::clone(lab.agents[at].as_ref().unwrap().cookies());
    let hearing = |lab: &Lab, at: usize| Arc::clone(lab.agents[at].as_ref().unwrap().hearing());
    assert!(of(&lab, N1).is_empty());
    for (at, n) in [(N1, 1), (N2, 2), (N3, 3)] {
        lab.agent(at).set_cookie(cookie(n));
    }
    lab.run(10);
    let expected: NodeCookies = [("n2".to_owned(), cookie(2)), ("n3".to_owned(), cookie(3))].into();
    assert_eq!(*of(&lab, N1), expected, "told at once");

    // n2 receives a probe frame of n1: n1 is told, n3 is not.
    let (one, two) = (lab.nodes["n1"][0], lab.nodes["n2"][0]);
    let now = lab.now;
    lab.agent(N2).heard_probe(one, now);
    lab.run(10);
    assert_eq!(hearing(&lab, N1)[&two], [one].into());
    assert!(hearing(&lab, N3)[&two].is_empty());
    lab.run(40_000);
    assert!(hearing(&lab, N1)[&two].is_empty(), "it is not told of for ever");

    lab.kill_agent(N2);
    lab.run(2000);
    assert_eq!(of(&lab, N1)["n2"], cookie(2), "its kernel goes on with it");
    assert!(!hearing(&lab, N1).contains_key(&two));
    lab.start(N2);
    lab.run(2000);
    assert_eq!(of(&lab, N1)["n2"], cookie(2), "though it has not said any");
}

#[test]
fn a_clock_that_was_set_back_locks_nobody_out() {
    let mut lab = Lab::new(3);
    for at in [N2, N3] {
        lab.agent(at).set_cookie(Cookie::new(7).unwrap());
    }
    lab.run(100);
    lab.kill_agent(N2);
    lab.run(2000);
    lab.start(N2);
    let agent = lab.agents[N2].as_mut().unwrap();
    agent.report.incarnation = 0;
    agent.set_cookie(Cookie::new(9).unwrap());
    lab.run(500);
    assert_eq!((lab.view(N1), lab.view(N3)), ("n1 n2 n3".into(), "n1 n2 n3".into()));
    let cookies = lab.agents[N1].as_ref().unwrap().cookies();
    assert_eq!(cookies["n2"], Cookie::new(9).unwrap());
}

#[test]
fn who_is_lost_often_is_held() {
    let mut lab = Lab::new(3);
    let flap = |lab: &mut Lab| {
        lab.cut(N2);
        lab.run(1000);
        assert_eq!(lab.view(N1), "n1 n3");
        lab.cut.clear();
        lab.run(3000);
    };
    flap(&mut lab);
    assert_eq!(lab.view(N1), "n1 n2 n3", "the first time it comes back at once");
    flap(&mut lab);
    for of in 0..3 {
        assert_eq!(lab.view(of), "n1 n2* n3");
    }
    // Its agent may start anew meanwhile.
    lab.kill_agent(N2);
    lab.run(2000);
    lab.start_quietly(N2);
    lab.run(50);
    lab.ready(N2);
    lab.run(3000);
    assert_eq!((lab.view(N1), lab.view(N2)), ("n1 n2* n3".into(), "n1 n2* n3".into()));
    lab.run(180_000);
    assert_eq!((lab.view(N1), lab.view(N2)), ("n1 n2 n3".into(), "n1 n2 n3".into()));
    let agent = lab.agents[N2].as_ref().unwrap();
    assert_eq!(agent.alive()["n2"].interfaces, ["eth0".to_owned()].into());
}

#[test]
fn who_is_listened_to() {
    let now = Instant::now();
    let random = || {
        let mut n = 0;
        Random::new(move || {
            n += 1;
            n
        })
    };
    let keys = Keyring::from_lines("0123456789abcdef").unwrap();
    let mut agent = Members::new("n1", 1, Timing::default(), keys.clone(), random(), now);
    agent.set_nodes(&[("n2".to_owned(), vec![ip("10.0.0.2"), ip("fd00::2")])].into(), now);
    let of = |name: &str, keys: Keyring| {
        Envelopes::new(name, keys, &mut random()).seal("n1", Kind::Hello, b"", now)
    };
    let four = ip("10.0.0.2");
    let foreign = Ignored::ForeignAddress { node: "n2".to_owned(), from: ip("10.0.0.9") };
    let mut receive = |from, bytes: &[u8]| agent.receive(from, bytes, now).unwrap_err();
    assert_eq!(receive(four, b"junk"), Refused::Malformed.into());
    assert_eq!(receive(four, &of("n9", keys.clone())), Ignored::UnknownNode("n9".into()));
    assert_eq!(receive(four, &of("n1", keys.clone())), Ignored::UnknownNode("n1".into()));
    assert_eq!(receive(ip("10.0.0.9"), &of("n2", keys.clone())), foreign);
    assert_eq!(receive(four, &of("n2", Keyring::default())), Refused::Forged.into());
    let counts = agent.counts();
    assert_eq!((counts.forged, counts.old, counts.received), (5, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    fn arbitrary_datagrams_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut lab = Lab::new(2);
        let at = lab.time();
        lab.send(N2, N1, bytes.clone());
        lab.send(N2, N1, [&b"HrlM\x01\x01\x02\0"[..], &bytes].concat());
        lab.run(1000);
        prop_assert_eq!(lab.changed(N1, at), None);
    }

    /// Whatever nodes come and go, and however bad the network is meanwhile, once it is calm
    /// all agents agree.
    #[test]
    fn all_agree_when_it_is_calm(
        events in prop::collection::vec((0..6u8, 0..6usize, 0..400u64), 0..20),
        loss in 0..200_000u64,
        jitter in 0..60u64,
        seed: u64,
    ) {
        let mut lab = Lab::new(6);
        lab.state = seed | 1;
        lab.faults = Faults { loss, doubled: 50_000, trip: (MS / 10, MS / 10 + MS * jitter as u32) };
        for (what, node, pause) in events {
            let others = lab.agents.iter().flatten().count() > 1 || lab.agents[node].is_none();
            match what {
                0 if others => lab.kill_node(node),
                1 if others => lab.kill_agent(node),
                2 => lab.cut(node),
                3 => lab.cut.clear(),
                4 => { lab.cut.insert((node, (node + 1) % 6)); }
                _ => lab.start(node),
            }
            lab.run(pause);
        }
        // Everybody is back.
        lab.cut.clear();
        lab.faults = CALM;
        for node in 0..6 {
            if lab.agents[node].is_none() {
                lab.start(node);
            }
        }
        lab.run(20_000);
        for of in 0..6 {
            prop_assert_eq!(lab.view(of).replace('*', ""), "n1 n2 n3 n4 n5 n6");
            prop_assert_eq!(lab.view(of), lab.view(0), "and who is held");
        }
    }

    /// Nothing that was sent at any time changes anything when it is sent again, to whomever.
    #[test]
    fn what_is_old_changes_nothing(picks in prop::collection::vec((any::<prop::sample::Index>(), 0..4usize), 1..60)) {
        let mut lab = Lab::empty(4, 1);
        lab.recorded = Some(Vec::new());
        (0..4).for_each(|at| lab.start(at));
        lab.run(2000);
        lab.agent(N2).leave(Departure::Stopping);
        lab.run(100);
        lab.kill_agent(N2);
        lab.run(2000);
        lab.start(N2);
        lab.run(2000);
        lab.kill_agent(N3);
        lab.run(3000);
        let recorded = lab.recorded.take().unwrap();
        let at = lab.time();
        prop_assert_eq!(lab.view(N1), "n1 n2 (n3) n4");
        for (pick, to) in picks {
            let (from, _, bytes) = &recorded[pick.index(recorded.len())];
            lab.send(*from, to, bytes.clone());
            lab.run(7);
        }
        lab.run(2000);
        for of in [N1, N2, N4] {
            prop_assert_eq!(lab.changed(of, at), None, "{}", lab.view(of));
        }
    }

    /// A process that is kept from running now and then, for however long, blames nobody.
    #[test]
    fn starvation_is_no_death(pauses in prop::collection::vec((1..300u64, 1..300u64), 1..40)) {
        let mut lab = Lab::new(3);
        let at = lab.time();
        for (runs, pauses) in pauses {
            lab.run(runs);
            lab.stop(N1);
            lab.run(pauses);
            lab.go_on(N1);
        }
        lab.run(1000);
        for of in 0..3 {
            prop_assert_eq!(lab.changed(of, at), None, "{}", lab.view(of));
        }
    }
}

/// Nobody is taken for dead in a network that loses one datagram in twenty, for two minutes.
#[test]
fn loss_is_no_death() {
    for count in [2, 3, 8] {
        let mut lab = Lab::new(count);
        lab.faults = Faults { loss: 50_000, doubled: 10_000, trip: (MS / 10, MS * 5) };
        let at = lab.time();
        lab.run(120_000);
        let changes = lab.seen.iter().filter(|(when, ..)| *when > at).count();
        assert_eq!(changes, 0, "{count}");
    }
}

/// Of five hundred a turn takes ten seconds. Who was never heard is written to at once, and after one second, two and
/// four more: what was lost may have been all that it would have answered.
#[test]
fn who_was_never_heard_is_written_to_again_soon() {
    let mut lab = Lab::empty(500, 1);
    lab.recorded = Some(Vec::new());
    lab.start(N1);
    lab.run(8000);
    let mut written = vec![0; 500];
    for (_, to, _) in lab.recorded.iter().flatten() {
        written[*to] += 1;
    }
    assert!(written[N2..].iter().all(|times| *times >= 4), "{written:?}");
    let often = written.iter().filter(|times| **times > 5).count();
    assert!(often <= crate::membership::watchers::WATCHERS, "{written:?}");
}
