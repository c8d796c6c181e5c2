use super::*;
use crate::testing::ip;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
/// How long a message is under way.
const TRIP: Duration = Duration::from_millis(2);

/// Agents on one link, in a time of their own.
struct Lab {
    now: Instant,
    nodes: KnownNodes,
    agents: BTreeMap<String, Heartbeats>,
    /// Kernels that run.
    kernels: BTreeSet<String>,
    /// Nodes whose link is cut.
    cut: BTreeSet<String>,
    under_way: Vec<(Instant, String, String, Option<Vec<u8>>)>,
    /// When each agent's view changed, and how.
    seen: Vec<(Duration, String, Arc<Alive>)>,
    began: Instant,
    starts: u64,
}

impl Lab {
    fn new(count: u8) -> Self {
        let now = Instant::now();
        let nodes: KnownNodes =
            (1..=count).map(|i| (format!("n{i}"), vec![ip(&format!("10.0.0.{i}"))])).collect();
        let kernels = nodes.keys().cloned().collect();
        let mut lab = Self {
            now,
            nodes,
            kernels,
            agents: BTreeMap::new(),
            cut: BTreeSet::new(),
            under_way: Vec::new(),
            seen: Vec::new(),
            began: now,
            starts: 0,
        };
        for name in lab.nodes.keys().cloned().collect::<Vec<_>>() {
            lab.start(&name);
            lab.run(37);
        }
        lab.run(1000);
        lab
    }

    fn start(&mut self, name: &str) {
        self.starts += 1;
        let mut agent = Heartbeats::new(name, self.starts, Timing::default(), self.now);
        agent.set_nodes(&self.nodes, self.now);
        agent.set_interfaces(["eth0".to_owned()].into(), self.now);
        self.agents.insert(name.to_owned(), agent);
    }

    fn name_of(&self, address: IpAddr) -> String {
        self.nodes.iter().find(|(_, a)| a.contains(&address)).unwrap().0.clone()
    }

    /// Lets time pass, with everything due happening in order.
    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let names: Vec<_> = self.agents.keys().cloned().collect();
            for name in names {
                let agent = self.agents.get_mut(&name).unwrap();
                let before = agent.alive().clone();
                let output = agent.poll(self.now);
                let after = agent.alive().clone();
                if !Arc::ptr_eq(&before, &after) {
                    self.seen.push((self.now - self.began, name.clone(), after));
                }
                for (to, message) in output.heartbeats {
                    let to = self.name_of(to);
                    let at = self.now + TRIP;
                    self.under_way.push((at, name.clone(), to, Some(message.to_vec())));
                }
                for to in output.echo {
                    let to = self.name_of(to);
                    if self.kernels.contains(&to) && !self.cut.contains(&to) {
                        self.under_way.push((self.now + TRIP, to, name.clone(), None));
                    }
                }
            }
            let due = self.under_way.iter().map(|w| w.0);
            let next = due.chain(self.agents.values().map(Heartbeats::next_deadline)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            assert!(next > self.now, "time passes");
            self.now = next;
            let (due, later) = self.under_way.drain(..).partition(|w| w.0 <= self.now);
            self.under_way = later;
            let due: Vec<_> = due;
            for (_, from, to, message) in due {
                let open = !self.cut.contains(&from) && !self.cut.contains(&to);
                if let (true, Some(agent)) = (open, self.agents.get_mut(&to)) {
                    let source = self.nodes[&from][0];
                    match message {
                        Some(bytes) => agent.receive(source, &bytes, self.now).unwrap(),
                        None => agent.echoed(source, self.now),
                    }
                }
            }
        }
        self.now = end;
    }

    fn kill_agent(&mut self, name: &str) {
        self.agents.remove(name);
    }

    fn kill_node(&mut self, name: &str) {
        self.agents.remove(name);
        self.kernels.remove(name);
    }

    /// The nodes in an agent's view; an agent that is dead in brackets.
    fn view(&self, of: &str) -> String {
        let alive = self.agents[of].alive();
        let text =
            |(n, a): (&String, &AliveNode)| if a.agent { n.clone() } else { format!("({n})") };
        alive.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// When an agent's view last changed, after a moment.
    fn changed(&self, of: &str, after: Duration) -> Option<Duration> {
        self.seen.iter().rev().find(|(at, n, _)| n == of && *at > after).map(|(at, ..)| *at - after)
    }
}

#[test]
fn everybody_sees_everybody_and_their_uplinks() {
    let lab = Lab::new(5);
    for agent in lab.agents.values() {
        assert_eq!(agent.alive().len(), 5);
        assert!(agent.alive().values().all(|n| n.agent && n.interfaces.contains("eth0")));
        assert_eq!(agent.plan_version(), PLAN_VERSION);
    }
    // Nobody ever saw less, from the start on.
    assert!(lab.seen.iter().all(|(_, _, view)| view.len() == 5), "{:?}", lab.seen);
}

#[test]
fn a_dead_node_is_gone_within_three_intervals() {
    for count in [2, 3, 4, 7] {
        let mut lab = Lab::new(count);
        lab.kill_node("n1");
        let at = lab.now - lab.began;
        lab.run(2000);
        for name in lab.agents.keys() {
            assert!(!lab.view(name).contains("n1"), "{count}: {}", lab.view(name));
            let took = lab.changed(name, at).unwrap();
            assert!(took <= 602 * MS && took > 400 * MS, "{count}: {took:?}");
        }
    }
}

#[test]
fn nodes_that_the_rows_name_are_asked_before_they_are_forgotten() {
    let mut lab = Lab::new(4);
    lab.kill_agent("n2");
    lab.kill_node("n4");
    lab.kill_agent("n3");
    lab.start("n3");
    let now = lab.now;
    let rows = ["n1", "n2", "n4"].map(str::to_owned).into();
    lab.agents.get_mut("n3").unwrap().remember(&rows, now);
    lab.run(500);
    assert_eq!(lab.view("n3"), "n1 n2 n3 n4", "still assumed");
    lab.run(500);
    assert_eq!(lab.view("n3"), "n1 (n2) n3", "of two silent agents' nodes one answers");
    lab.run(60_000);
    assert_eq!(lab.view("n3"), "n1 (n2) n3");
    lab.kernels.remove("n2");
    lab.run(1000);
    assert_eq!(lab.view("n3"), "n1 n3");
}

#[test]
fn an_agent_that_dies_alone_leaves_its_kernel_in_place() {
    let mut lab = Lab::new(3);
    lab.kill_agent("n2");
    lab.run(700);
    assert_eq!(lab.view("n1"), "n1 (n2) n3");
    lab.run(60_000);
    assert_eq!(lab.view("n1"), "n1 (n2) n3");
    // A newcomer has never heard of it and cannot know that it has programs.
    lab.kill_agent("n3");
    lab.start("n3");
    lab.run(1000);
    assert_eq!(lab.view("n3"), "n1 n3");
    // Back again, with an incarnation of its own.
    lab.start("n2");
    lab.run(300);
    assert_eq!((lab.view("n1"), lab.view("n3")), ("n1 n2 n3".into(), "n1 n2 n3".into()));
    // The node dies too; when its kernel is back without an agent, it does not count.
    lab.kill_agent("n2");
    lab.run(1000);
    lab.kernels.remove("n2");
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1 n3");
    lab.kernels.insert("n2".to_owned());
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1 n3");
}

#[test]
fn a_quick_restart_is_not_noticed() {
    let mut lab = Lab::new(4);
    let at = lab.now - lab.began;
    lab.kill_agent("n2");
    lab.run(350);
    lab.start("n2");
    lab.run(2000);
    assert_eq!(lab.changed("n1", at), None);
    let views = lab.seen.iter().filter(|(t, n, _)| n == "n2" && *t > at);
    assert!(views.into_iter().all(|(_, _, view)| view.len() == 4));
}

#[test]
fn a_starting_agent_owns_nothing_until_it_knows_its_uplinks() {
    let quiet_start = |lab: &mut Lab, name: &str| {
        lab.start(name);
        let now = lab.now;
        lab.agents.get_mut(name).unwrap().set_interfaces(BTreeSet::new(), now);
    };
    let mut lab = Lab::new(3);
    let at = lab.now - lab.began;
    // Not missed: as before, however long it takes.
    lab.kill_agent("n2");
    lab.run(300);
    quiet_start(&mut lab, "n2");
    lab.run(2000);
    assert_eq!(lab.changed("n1", at), None);
    // Missed: only when it says so.
    lab.kill_agent("n2");
    lab.run(700);
    quiet_start(&mut lab, "n2");
    lab.run(2000);
    assert_eq!(lab.view("n1"), "n1 (n2) n3");
    let now = lab.now;
    lab.agents.get_mut("n2").unwrap().set_interfaces(["eth1".to_owned()].into(), now);
    lab.run(10);
    assert_eq!(lab.view("n1"), "n1 n2 n3");
}

#[test]
fn a_node_whose_first_agent_is_starting_is_sent_nothing() {
    let mut lab = Lab::new(4);
    // Its kernel is started anew, and has no programs.
    lab.kill_node("n3");
    lab.run(1000);
    let at = lab.now - lab.began;
    lab.kernels.insert("n3".to_owned());
    lab.start("n3");
    let now = lab.now;
    lab.agents.get_mut("n3").unwrap().set_interfaces(BTreeSet::new(), now);
    lab.run(5000);
    assert_eq!(lab.changed("n1", at), None);
    assert_eq!(lab.view("n3"), "n1 n2 n3 n4");
    let now = lab.now;
    lab.agents.get_mut("n3").unwrap().set_interfaces(["eth0".to_owned()].into(), now);
    lab.run(10);
    assert_eq!(lab.view("n1"), "n1 n2 n3 n4");
    // From then on its kernel counts, whatever becomes of its agent.
    lab.kill_agent("n3");
    lab.run(2000);
    assert_eq!(lab.view("n1"), "n1 n2 (n3) n4");
}

#[test]
fn who_leaves_owns_nothing_at_once() {
    let mut lab = Lab::new(3);
    let at = lab.now - lab.began;
    let now = lab.now;
    lab.agents.get_mut("n3").unwrap().leave(Departure::Stopping, now);
    lab.run(20);
    assert_eq!(lab.view("n1"), "n1 n2 (n3)");
    assert_eq!(lab.view("n3"), "n1 n2 (n3)", "nor in its own view");
    assert!(lab.changed("n1", at).unwrap() <= 3 * MS);
    lab.kill_agent("n3");
    lab.run(5000);
    assert_eq!(lab.view("n1"), "n1 n2 (n3)", "its kernel goes on");
    lab.start("n3");
    lab.run(300);
    let now = lab.now;
    lab.agents.get_mut("n3").unwrap().leave(Departure::Unloading, now);
    lab.run(20);
    assert_eq!(lab.view("n1"), "n1 n2", "and now it does not");
}

#[test]
fn isolation() {
    // In a large cluster the one that is cut off changes nothing, and the others go on.
    let mut lab = Lab::new(5);
    lab.cut.insert("n1".to_owned());
    lab.run(60_000);
    assert_eq!(lab.view("n1"), "n1 n2 n3 n4 n5");
    assert_eq!(lab.view("n2"), "n2 n3 n4 n5");
    lab.cut.clear();
    lab.run(300);
    assert_eq!(
        (lab.view("n1"), lab.view("n2")),
        ("n1 n2 n3 n4 n5".into(), "n1 n2 n3 n4 n5".into())
    );
    // Half may go at once, and any number one after the other.
    lab.kill_node("n4");
    lab.kill_node("n5");
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1 n2 n3");
    lab.run(10_000);
    lab.kill_node("n3");
    lab.run(10_000);
    assert_eq!(lab.view("n1"), "n1 n2");
    // In a small one the survivor takes over.
    lab.kill_node("n2");
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1");
}

#[test]
fn more_than_half_lost_at_once_stay_until_half_are_back_or_deleted() {
    let mut lab = Lab::new(6);
    for gone in ["n3", "n4", "n5", "n6"] {
        lab.kill_node(gone);
        lab.run(50);
    }
    lab.run(30_000);
    assert_eq!(lab.view("n1"), "n1 n2 n3 n4 n5 n6");
    lab.kernels.insert("n3".to_owned());
    lab.start("n3");
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1 n2 n3");
    lab.run(6000);
    for gone in ["n2", "n3"] {
        lab.kill_node(gone);
    }
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1", "three are few enough to follow");

    let mut lab = Lab::new(4);
    for gone in ["n2", "n3", "n4"] {
        lab.kill_node(gone);
    }
    lab.run(5000);
    assert_eq!(lab.view("n1"), "n1 n2 n3 n4");
    lab.nodes.retain(|name, _| name == "n1" || name == "n2");
    let (nodes, now) = (lab.nodes.clone(), lab.now);
    lab.agents.get_mut("n1").unwrap().set_nodes(&nodes, now);
    lab.run(1000);
    assert_eq!(lab.view("n1"), "n1");
}

#[test]
fn a_stalled_process_blames_nobody() {
    let mut lab = Lab::new(3);
    let at = lab.now - lab.began;
    // n1 does not run for two seconds; what was sent to it meanwhile is lost.
    let stalled = lab.agents.remove("n1").unwrap();
    lab.run(2000);
    lab.agents.insert("n1".to_owned(), stalled);
    lab.run(3000);
    assert_eq!(lab.changed("n1", at), None);
    assert_eq!(lab.view("n2"), "n1 n2 n3");
    // Who died meanwhile is found out all the same.
    let stalled = lab.agents.remove("n1").unwrap();
    lab.kill_node("n3");
    lab.run(2000);
    lab.agents.insert("n1".to_owned(), stalled);
    lab.run(700);
    assert_eq!(lab.view("n1"), "n1 n2");
}

#[test]
fn the_first_view_assumes_and_the_second_knows() {
    let mut lab = Lab::new(1);
    lab.nodes = (1..=3).map(|i| (format!("n{i}"), vec![ip(&format!("10.0.0.{i}"))])).collect();
    lab.start("n1");
    lab.run(590);
    assert_eq!(lab.view("n1"), "n1 n2 n3");
    assert!(lab.agents["n1"].alive()["n2"].interfaces.is_empty());
    lab.run(20);
    assert_eq!(lab.view("n1"), "n1", "nobody has been heard: no isolation from nobody");
    lab.nodes.insert("n4".to_owned(), vec![ip("10.0.0.4")]);
    let (nodes, now) = (lab.nodes.clone(), lab.now);
    lab.agents.get_mut("n1").unwrap().set_nodes(&nodes, now);
    lab.run(100);
    assert_eq!(lab.view("n1"), "n1", "who comes later is not assumed to own anything");
}

#[test]
fn cookies_and_heard_probes_reach_the_others_and_outlive_an_agent() {
    let mut lab = Lab::new(3);
    let cookie = |n| Cookie::new(n).unwrap();
    assert!(lab.agents["n1"].cookies().is_empty());
    for (name, n) in [("n1", 1), ("n2", 2), ("n3", 3)] {
        let now = lab.now;
        lab.agents.get_mut(name).unwrap().set_cookie(cookie(n), now);
    }
    lab.run(10);
    let expected: NodeCookies = [("n2".to_owned(), cookie(2)), ("n3".to_owned(), cookie(3))].into();
    assert_eq!(**lab.agents["n1"].cookies(), expected, "told at once");

    // n2 receives a probe frame of n1: n1 is told, n3 is not.
    let now = lab.now;
    lab.agents.get_mut("n2").unwrap().heard_probe(ip("10.0.0.1"), now);
    lab.run(10);
    let (one, two) = (ip("10.0.0.1"), ip("10.0.0.2"));
    assert_eq!(lab.agents["n1"].hearing()[&two], [one].into());
    assert!(lab.agents["n3"].hearing()[&two].is_empty());
    lab.run(40_000);
    assert!(lab.agents["n1"].hearing()[&two].is_empty(), "it is not told of for ever");

    lab.kill_agent("n2");
    lab.run(2000);
    assert_eq!(lab.agents["n1"].cookies()["n2"], cookie(2), "its kernel goes on with it");
    assert!(!lab.agents["n1"].hearing().contains_key(&two));
    lab.start("n2");
    lab.run(2000);
    assert_eq!(lab.agents["n1"].cookies()["n2"], cookie(2), "though it has not said any");
}

#[test]
fn who_is_listened_to() {
    let now = Instant::now();
    let mut agent = Heartbeats::new("n1", 1, Timing::default(), now);
    agent.set_nodes(&[("n2".to_owned(), vec![ip("10.0.0.2"), ip("fd00::2")])].into(), now);
    let message = |node: &str, incarnation, sequence| {
        Message {
            node: node.to_owned(),
            incarnation,
            sequence,
            departure: None,
            plan_version: 0,
            interfaces: BTreeSet::new(),
            cookie: None,
            heard: BTreeSet::new(),
        }
        .encode()
    };
    let n2 = "n2".to_owned();
    let (four, six) = (ip("10.0.0.2"), ip("fd00::2"));
    let foreign = Ignored::ForeignAddress { node: n2.clone(), from: ip("10.0.0.9") };
    assert_eq!(agent.receive(four, b"junk", now), Err(Malformed::Magic.into()));
    assert_eq!(
        agent.receive(four, &message("n9", 1, 1), now),
        Err(Ignored::UnknownNode("n9".into()))
    );
    assert_eq!(agent.receive(ip("10.0.0.9"), &message("n2", 1, 1), now), Err(foreign));
    assert_eq!(agent.receive(four, &message("n2", 5, 1), now), Ok(()));
    assert_eq!(agent.receive(six, &message("n2", 5, 1), now), Err(Ignored::Old(n2.clone())));
    assert_eq!(agent.receive(six, &message("n2", 5, 2), now), Ok(()));
    assert_eq!(agent.receive(four, &message("n2", 4, 9), now), Err(Ignored::Old(n2.clone())));
    agent.poll(now);
    assert_eq!(agent.plan_version(), 0, "the lowest");
    // The node's clock was set back: taken once the former incarnation is silent.
    let later = now + Duration::from_secs(1);
    for tenth in 1..=10 {
        agent.poll(now + 100 * tenth * MS);
    }
    assert_eq!(agent.receive(four, &message("n2", 5, 2), later), Err(Ignored::Old(n2)));
    assert_eq!(agent.receive(four, &message("n2", 4, 1), later), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn arbitrary_datagrams_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let now = Instant::now();
        let mut agent = Heartbeats::new("n1", 1, Timing::default(), now);
        agent.set_nodes(&[("n2".to_owned(), vec![ip("10.0.0.2")])].into(), now);
        agent.poll(now);
        let before = agent.alive().clone();
        prop_assert!(agent.receive(ip("10.0.0.2"), &bytes, now).is_err());
        agent.poll(now);
        prop_assert!(Arc::ptr_eq(&before, agent.alive()));
    }

    /// Whatever nodes come and go, once it is calm all agents that see each other agree.
    #[test]
    fn all_agree_when_it_is_calm(events in prop::collection::vec((0..3u8, 1..7u8, 0..400u64), 0..20)) {
        let mut lab = Lab::new(6);
        for (what, node, pause) in events {
            let name = format!("n{node}");
            let others = lab.agents.len() > 1 || !lab.agents.contains_key(&name);
            match what {
                0 if others => lab.kill_node(&name),
                1 if others => lab.kill_agent(&name),
                _ => {
                    lab.kernels.insert(name.clone());
                    lab.start(&name);
                }
            }
            lab.run(pause);
        }
        // Everybody is back.
        for name in lab.nodes.keys().cloned().collect::<Vec<_>>() {
            if !lab.agents.contains_key(&name) {
                lab.kernels.insert(name.clone());
                lab.start(&name);
            }
        }
        lab.run(1500);
        for name in lab.agents.keys() {
            prop_assert_eq!(lab.view(name), "n1 n2 n3 n4 n5 n6");
        }
    }
}
