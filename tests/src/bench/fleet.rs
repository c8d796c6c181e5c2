//! The other nodes of a large cluster, as the agent under test meets them: their addresses behind a
//! router, whose kernel answers for all of them, and the heartbeats that their agents would send.
//! They carry no traffic and have no maps.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_agent::{
    membership::{DEFAULT_PORT, cookies::Cookie, heartbeat::Timing, message::Message},
    plan::PLAN_VERSION,
};

use crate::{
    lab::{Lab, addresses, probe::Running},
    wait,
};

/// They beat in so many groups, one after another, as nodes that know nothing of each other do.
const GROUPS: usize = 100;
/// What an agent keeps unread is nothing to nodes without one.
const UNREAD: usize = 4096;

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

/// Plugs them in behind a router of the laboratory's first node, and lets them beat until what is
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
    lab.nodes[0].namespace.ip(&format!("route add 10.80.0.0/16 via {}\n", router.ipv4))?;
    let to = SocketAddr::from((lab.nodes[0].ipv4, DEFAULT_PORT));
    Ok(Running::start(&router.namespace, move |stop| beat(&nodes, to, stop)))
}

fn beat(nodes: &[FleetNode], to: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let sockets = nodes.iter().map(|node| socket(node.address, to)).collect::<Result<Vec<_>>>();
    let sockets = sockets.context("a socket for each node: `ulimit -n` may be too low")?;
    let mut messages: Vec<_> = nodes
        .iter()
        .map(|node| {
            Ok(Message {
                node: node.name.clone(),
                incarnation: 1,
                sequence: 0,
                departure: None,
                plan_version: PLAN_VERSION,
                interfaces: BTreeSet::from(["eth0".to_owned()]),
                cookie: Some(Cookie::random()?),
                heard: BTreeSet::new(),
            })
        })
        .collect::<Result<_>>()?;
    let interval = Timing::default().interval / GROUPS as u32;
    let mut next = Instant::now();
    for group in (0..GROUPS).cycle() {
        if stop.load(Relaxed) {
            break;
        }
        let members = messages.iter_mut().zip(&sockets).skip(group).step_by(GROUPS);
        for (message, socket) in members {
            message.sequence += 1;
            // The agent may not listen (yet): a heartbeat is lost then, as any may be.
            let _ = socket.send(&message.encode());
        }
        next = (next + interval).max(Instant::now().checked_sub(interval).unwrap_or(next));
        wait::sleep_until(next);
    }
    Ok(())
}

fn socket(from: Ipv4Addr, to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((from, DEFAULT_PORT))?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(UNREAD)?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    Ok(socket)
}

/// How long the agent may take to have heard all of them.
pub const HEARD_WITHIN: Duration = Duration::from_secs(30);
