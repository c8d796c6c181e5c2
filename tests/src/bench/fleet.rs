//! The other nodes of a large cluster, as the agent under test meets them: their addresses behind a
//! router, with what their agents would send to it, and the answers that their kernel programs
//! would give. They carry no traffic and have no maps.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_agent::{
    datapath::DEFAULT_TUNNEL_PORT,
    membership::{
        DEFAULT_PORT,
        cookies::Cookie,
        envelope::{Envelopes, Kind, MAX_LENGTH, Opened, Random},
        keys::Keyring,
        message::{Hello, Report},
        probing,
    },
    plan::PLAN_VERSION,
};
use tokio::{net::UdpSocket, runtime, task::JoinSet, time};

use crate::lab::{Host, Lab, addresses, probe::Running};

/// By what they and the agent under test know each other.
const KEY: &str = "a key for a fleet of nodes";
/// Those that watch the agent's node write to it this often, and the others in turn.
const HELLO: Duration = Duration::from_millis(200);
const WATCHERS: usize = 5;
const TURN: Duration = Duration::from_millis(20);

/// The key in a file, for the agent.
///
/// # Errors
/// It cannot be written.
pub fn key_file(lab: &Lab) -> Result<PathBuf> {
    let file = lab.directory.join("membership-key");
    fs::write(&file, KEY)?;
    Ok(file)
}

/// A node of the fleet.
#[derive(Clone, Debug)]
pub struct FleetNode {
    /// Its name.
    pub name: String,
    /// Its InternalIP.
    pub address: Ipv4Addr,
}

/// Nodes `n-0001`, `n-0002` and so on. The laboratory's own has number 0.
pub fn nodes(count: usize) -> Vec<FleetNode> {
    let address = |number: usize| {
        let [_, _, high, low] = (number as u32).to_be_bytes();
        Ipv4Addr::new(10, 80, high, low)
    };
    (1..=count)
        .map(|number| FleetNode { name: format!("n-{number:04}"), address: address(number) })
        .collect()
}

/// Plugs them in behind a router of the laboratory's first node, and lets them live until what is
/// returned is dropped.
///
/// # Errors
/// `ip` refuses, or there are too few descriptors for the sockets.
pub fn start(lab: &Lab, nodes: Vec<FleetNode>) -> Result<Running<()>> {
    let router = lab.add_host("fleet", addresses::FLEET)?;
    let mut addresses = String::new();
    for node in &nodes {
        writeln!(addresses, "addr add {}/32 dev lo", node.address)?;
    }
    router.namespace.ip(&addresses)?;
    let agent: &Host = &lab.nodes[0];
    agent.namespace.ip(&format!("route add 10.80.0.0/16 via {}\n", router.ipv4))?;
    let to = SocketAddr::from((agent.ipv4, DEFAULT_PORT));
    let name = agent.name.clone();
    Ok(Running::start(&router.namespace, move |stop| live(nodes, &name, to, stop)))
}

fn live(nodes: Vec<FleetNode>, agent: &str, to: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let count = nodes.len();
        for (at, node) in nodes.into_iter().enumerate() {
            let interval = if at < WATCHERS { HELLO } else { HELLO.max(TURN * count as u32) };
            let node = Node::new(node, agent, to)
                .await
                .context("sockets for each node: `ulimit -n` may be too low")?;
            tasks.spawn(node.live(interval));
        }
        while !stop.load(Relaxed) {
            time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
}

/// A node with its sockets.
struct Node {
    agent: String,
    to: SocketAddr,
    hello: Vec<u8>,
    envelopes: Envelopes,
    random: Random,
    agents: UdpSocket,
    kernel: UdpSocket,
}

impl Node {
    async fn new(node: FleetNode, agent: &str, to: SocketAddr) -> Result<Self> {
        let mut random = Random::new({
            let mut state = u64::from(u32::from(node.address));
            move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state ^ state >> 31
            }
        });
        let report = Report {
            node: node.name.clone(),
            incarnation: 1,
            version: 1,
            plan_version: PLAN_VERSION,
            interfaces: ["eth0".to_owned()].into(),
            cookie: Some(Cookie::random()?),
            ..Report::default()
        };
        let keys = Keyring::from_lines(KEY)?;
        Ok(Self {
            agent: agent.to_owned(),
            to,
            hello: Hello { report, ..Hello::default() }.encode().0,
            envelopes: Envelopes::new(node.name, keys, &mut random),
            random,
            agents: UdpSocket::bind((node.address, DEFAULT_PORT)).await?,
            kernel: UdpSocket::bind((node.address, DEFAULT_TUNNEL_PORT)).await?,
        })
    }

    async fn live(mut self, interval: Duration) {
        let mut next = time::interval(interval);
        let (mut received, mut asked) = (vec![0; MAX_LENGTH], [0; probing::LENGTH]);
        loop {
            // What is not sent is lost, as any datagram may be: the agent may not listen (yet).
            tokio::select! {
                _ = next.tick() => self.say_hello(),
                Ok((length, from)) = self.agents.recv_from(&mut received) => {
                    let bytes = &received[..length];
                    match self.envelopes.open(bytes, &mut self.random, Instant::now()) {
                        Ok(Opened::Challenge(challenge)) => {
                            let _ = self.agents.try_send_to(&challenge, from);
                        }
                        Ok(Opened::Challenged) => self.say_hello(),
                        Ok(Opened::Message { .. }) | Err(_) => {}
                    }
                }
                Ok((_, from)) = self.kernel.recv_from(&mut asked) => {
                    let answer = probing::answer(&asked, Duration::from_secs(60));
                    let _ = self.kernel.try_send_to(&answer, from);
                }
            }
        }
    }

    fn say_hello(&mut self) {
        let now = Instant::now();
        let bytes = self.envelopes.seal(&self.agent, Kind::Hello, &self.hello, now);
        let _ = self.agents.try_send_to(&bytes, self.to);
    }
}

/// How long the agent may take to have heard all of them.
pub const HEARD_WITHIN: Duration = Duration::from_secs(30);
