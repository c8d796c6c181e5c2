//! Whatever the nodes' tables say, a packet comes to an end: it is sent on five times at most,
//! once more by a link or to a fragment's node, and its TTL falls each time.

use herald_tests::kernel::{
    acceptance::Direction,
    cases::Case,
    cluster::Cluster,
    fields, model,
    random::{Random, count},
    rig::{LOOPBACK, Rig},
    world::World,
};

/// How often a packet was sent on.
#[derive(Clone, Copy, Debug, Default)]
struct Hops {
    links: u32,
    tunnels: u32,
}

/// Follows a packet from node to node.
fn follow(
    cluster: &mut Cluster,
    start: usize,
    mut frame: Vec<u8>,
    title: &str,
    mut step: impl FnMut(usize, &mut Case) -> model::Verdict,
) -> Hops {
    let mut node = start;
    let mut sent = Hops::default();
    loop {
        let ttl = fields::ttl(&frame);
        let world: World = cluster.worlds[node].clone();
        let mut case = Case { world, frame };
        let verdict = step(node, &mut case);
        cluster.worlds[node] = case.world;
        let Some(to) = verdict.sent else {
            assert!([model::DROP, model::PASS, model::TX].contains(&verdict.action), "{title}");
            return sent;
        };
        match to.position {
            Some(_) => sent.tunnels += 1,
            None => sent.links += 1,
        }
        assert!(sent.links + sent.tunnels < 100, "{title}: goes round");
        assert!(fields::ttl(&verdict.frame) < ttl, "{title}: TTL does not fall");
        node = cluster.indices[node][usize::from(to.node)];
        frame = verdict.frame;
    }
}

fn run(nodes: usize, clusters: u32, packets: u32, rigs: &mut [Rig], seed: u64) {
    let mut random = Random::new(seed ^ 0x40b5);
    let mut most = 0;
    for number in 0..clusters {
        let mut cluster = Cluster::random(&mut random, nodes, LOOPBACK);
        for packet in 0..packets {
            let start = random.below(nodes);
            let (frame, fragment) = cluster.packet(&mut random, start);
            let title = format!("HERALD_SEED={seed} cluster {number}, packet {packet}");
            let sent = follow(&mut cluster, start, frame, &title, |node, case| {
                if rigs.is_empty() {
                    return Rig::expect(Direction::Ingress, case);
                }
                let title = format!("{title}, at node {node}");
                let verdict = rigs[node].check(Direction::Ingress, &title, case);
                verdict.unwrap_or_else(|error| panic!("{error:#}"))
            });
            assert!(sent.tunnels <= if fragment { 6 } else { 5 }, "{title}: {sent:?}");
            assert!(sent.links <= if fragment { 0 } else { 1 }, "{title}: {sent:?}");
            assert!(sent.links + sent.tunnels <= 6, "{title}: {sent:?}");
            most = most.max(sent.links + sent.tunnels);
        }
    }
    println!("sent on {most} times at most");
    assert!(most >= 4, "too tame: {most}");
}

#[test]
fn every_packet_comes_to_an_end_in_the_model() {
    let seed = Random::seed();
    println!("HERALD_SEED={seed}");
    run(5, count(200, 5_000), 200, &mut [], seed);
}

#[test]
fn every_packet_comes_to_an_end_by_the_program() {
    let seed = Random::seed();
    println!("HERALD_SEED={seed}");
    let mut rigs = vec![Rig::new().unwrap()];
    rigs.extend((1..4).map(|_| Rig::here().unwrap()));
    run(4, count(30, 500), 150, &mut rigs, seed);
}
