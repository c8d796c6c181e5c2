//! Random frames and random conversations: the object does what the model does, and
//! never aborts.

use std::{collections::BTreeMap, net::SocketAddr};

use herald_tests::kernel::{
    acceptance::{self, Direction, Row},
    cases::{self, Case},
    frames::{self, Link, tcp_flags},
    random::{Random, count},
    rig::{self, Rig},
    services::SERVED,
    world::{self, Family, FlowKey, World, port},
};

/// Values at which length and protocol checks turn.
const TURNS: [u8; 20] =
    [0, 1, 3, 4, 5, 6, 17, 20, 40, 43, 44, 58, 59, 60, 64, 128, 132, 135, 136, 255];

/// Damages a frame, or moves it to another port or client.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    if frame.len() < 15 {
        return;
    }
    match random.below(8) {
        0 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(frame.len().min(150));
            frame[at] = random.pick(&TURNS);
        }
        2 => {
            let at = 12 + random.below(frame.len().min(150) - 12);
            frame[at] = random.byte();
        }
        3 => frame.truncate(14 + random.below(frame.len() - 13)),
        4 => frame.resize(frame.len() + random.below(70), random.byte()),
        5 | 6 => {
            let at = frames::l4_offset(frame);
            if frame.len() >= at + 4 {
                // Ports, whatever the protocol; rows of all kinds are found through them.
                let ports = [&SERVED[..], &[port::NONE, 6080]].concat();
                let to = random.pick(&ports).to_be_bytes();
                frame[at + 2..at + 4].copy_from_slice(&to);
                frame[at] = random.byte();
                frame[at + 1] = random.byte();
            }
        }
        _ => {
            let mac = random.pick(&[
                world::MY_MAC,
                world::NODE_2_MAC,
                world::NODE_4_MAC,
                world::ROUTER_MAC,
                frames::BROADCAST,
            ]);
            let at = random.pick(&[0, 6]);
            frame[at..at + 6].copy_from_slice(&mac);
        }
    }
}

#[test]
fn mutated_frames_fare_as_in_the_model() {
    let seed = Random::seed();
    println!("HERALD_SEED={seed}");
    let mut random = Random::new(seed);
    let mut rig = Rig::new().unwrap();
    let rows = acceptance::rows().unwrap();
    let starts: Vec<(Row, Case)> = rows
        .into_iter()
        .map(|row| {
            let case = cases::build(&row, &rig.world()).unwrap();
            (row, case)
        })
        .collect();
    let mut outcomes = BTreeMap::<_, u32>::new();
    for number in 0..count(50_000, 1_200_000) {
        let (row, start) = &starts[random.below(starts.len())];
        let mut case = start.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut random, &mut case.frame);
        }
        if !rig::runs(row.direction, &case.frame) {
            continue;
        }
        let title = format!("HERALD_SEED={seed} frame {number}, from {}", row.title());
        let verdict = rig.check(row.direction, &title, &mut case);
        let verdict = verdict.unwrap_or_else(|error| panic!("{error:#}"));
        let kept = rig::checksums_are_kept(row.direction, &case.frame, &verdict);
        assert!(kept, "{title}: a checksum is wrong");
        *outcomes.entry(verdict.counter).or_default() += 1;
    }
    let frames: u32 = outcomes.values().sum();
    println!("{frames} frames, {} outcomes: {outcomes:?}", outcomes.len());
}

/// Clients that share pods through two VIPs and several ports.
struct Conversation {
    family: Family,
    protocol: u8,
    clients: Vec<SocketAddr>,
}

impl Conversation {
    fn new(random: &mut Random) -> Self {
        let family = random.pick(&[Family::V4, Family::V6]);
        let address = world::client(family);
        let ports: Vec<u16> = (0..4).map(|_| 1024 + random.below(60_000) as u16).collect();
        Self {
            family,
            protocol: random.pick(&world::PROTOCOLS),
            clients: ports.into_iter().map(|port| SocketAddr::new(address, port)).collect(),
        }
    }

    /// A client's next packet, by way of the gateway or of another node.
    fn packet(&self, random: &mut Random) -> Vec<u8> {
        use tcp_flags::{ACK, FIN, PSH, RST, SYN};
        let vip = random.pick(&[world::vip(self.family), world::vip_elsewhere(self.family)]);
        let port = random.pick(&[
            port::DELIVER,
            port::DELIVER,
            port::FORWARD,
            port::MIXED,
            port::AFFINITY,
            port::CHANGED,
            port::UNSETTLED,
            port::AFFINITY_HERE,
            port::KERNEL,
            port::ROWS,
        ]);
        let from = random.pick(&[world::ROUTER_MAC, world::NODE_2_MAC]);
        let link = Link { from, to: world::MY_MAC };
        let (client, vip) = (random.pick(&self.clients), SocketAddr::new(vip, port));
        if self.protocol == 17 {
            return frames::udp(link, client, vip, 64);
        }
        if self.protocol == 132 {
            return frames::sctp(link, client, vip, 64, random.one_in(2));
        }
        let flags = [SYN, SYN, ACK, ACK | PSH, FIN | ACK, RST, SYN | ACK, SYN | FIN, 0];
        frames::tcp(link, client, vip, 64, random.pick(&flags))
    }

    /// The answer to one of the flows that the node knows.
    fn answer(&self, random: &mut Random, world: &World) -> Option<(FlowKey, Vec<u8>)> {
        let keys: Vec<FlowKey> = world.flows.keys().chain(world.pending.keys()).copied().collect();
        let keys: Vec<FlowKey> = keys.into_iter().filter(|key| key.to_client).collect();
        if keys.is_empty() {
            return None;
        }
        let key = random.pick(&keys);
        let link = Link { from: world::MY_MAC, to: world::ROUTER_MAC };
        let frame = match self.protocol {
            17 => frames::udp(link, key.peer, key.client, 64),
            132 => frames::sctp(link, key.peer, key.client, 64, false),
            _ => frames::tcp(link, key.peer, key.client, 64, tcp_flags::ACK),
        };
        Some((key, frame))
    }
}

/// Whatever a client sends and in whatever order, each reply comes back to it from the
/// VIP and port that it talks to, and to the port that it talks from.
#[test]
fn conversations_fare_as_in_the_model() {
    let seed = Random::seed();
    println!("HERALD_SEED={seed}");
    let mut random = Random::new(seed ^ 0xc0);
    let mut rig = Rig::new().unwrap();
    for number in 0..count(150, 6_000) {
        let conversation = Conversation::new(&mut random);
        let mut case = Case { world: rig.world(), frame: Vec::new() };
        for step in 0..48 {
            let title = format!("HERALD_SEED={seed} conversation {number}, step {step}");
            let reply =
                if random.one_in(3) { conversation.answer(&mut random, &case.world) } else { None };
            let (direction, frame) = match &reply {
                Some((_, frame)) => (Direction::Egress, frame.clone()),
                None => (Direction::Ingress, conversation.packet(&mut random)),
            };
            case.frame = frame;
            let verdict =
                rig.check(direction, &title, &mut case).unwrap_or_else(|error| panic!("{error:#}"));
            if let Some((key, _)) = reply {
                let known = |flows: &BTreeMap<FlowKey, world::Flow>| {
                    flows.get(&key).map(|flow| (flow.peer, flow.client_port))
                };
                let (vip, client_port) =
                    known(&case.world.flows).or_else(|| known(&case.world.pending)).unwrap();
                let client = SocketAddr::new(key.client.ip(), client_port);
                assert!(conversation.clients.contains(&client), "{title}: {client}");
                assert!(case.world.vips.contains(&vip.ip()), "{title}: {vip}");
                assert_eq!(verdict.counter, "replied", "{title}");
            }
        }
    }
}

/// One client port, one pod, many VIPs: each flow gets a client port of its own at the pod,
/// until those that are tried have run out.
#[test]
fn client_ports_at_a_pod_run_out() {
    let mut rig = Rig::new().unwrap();
    for family in [Family::V4, Family::V6] {
        let client = SocketAddr::new(world::client(family), cases::CLIENT_PORT);
        let vip = SocketAddr::new(world::vip(family), port::DELIVER);
        let other = SocketAddr::new(world::vip_elsewhere(family), port::NONE);
        let pod = world::pod(family, 0);
        let link = Link { from: world::ROUTER_MAC, to: world::MY_MAC };
        let frame = frames::tcp(link, client, vip, 64, tcp_flags::SYN);
        let mut taken = Vec::new();
        loop {
            let mut world = rig.world();
            for &port in &taken {
                let seen = SocketAddr::new(client.ip(), port);
                let [_, back] = World::flow(seen, other, pod, world::pod_index(family, 0), 6);
                world.flows.extend([back]);
            }
            let mut case = Case { world, frame: frame.clone() };
            let title = format!("{family:?}, {} ports taken", taken.len());
            let verdict = rig
                .check(Direction::Ingress, &title, &mut case)
                .unwrap_or_else(|error| panic!("{error:#}"));
            if verdict.counter == "drop_flow_table" {
                break;
            }
            assert_eq!(verdict.counter, "delivered", "{title}");
            let (_, flow) = case.world.pending.iter().find(|(key, _)| !key.to_client).unwrap();
            assert!(!taken.contains(&flow.client_port), "{title}: {}", flow.client_port);
            taken.push(flow.client_port);
        }
        assert_eq!(taken.len(), 5);
        assert_eq!(taken[0], client.port());
    }
}
