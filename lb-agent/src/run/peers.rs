//! What other agents tell about the ways to them, and what this one tells them: cookies, and
//! which links let clients' addresses through.
use super::steer::lock;
use crate::{
    datapath::{
        apply::Datapath,
        neighbours::{NextHop, NextHops},
        reach::{LinkProof, Peers},
    },
    membership::{
        cookies::{Cookie, Cookies},
        probe::Probe,
        proofs::{Peer, Proofs},
        udp::Exchange,
    },
    metrics::View,
    snapshot::Snapshot,
    system::FrameSocket,
};
use anyhow::Context as _;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};
use tracing::{debug, info, warn};

/// What it goes by, and where it says what it finds.
pub(super) struct Parts {
    pub(super) me: String,
    pub(super) tunnel_port: u16,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    pub(super) view: Arc<View>,
    pub(super) exchange: Exchange,
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) next_hops: watch::Receiver<NextHops>,
    pub(super) peers: watch::Sender<Peers>,
}

/// Looked at at least as often.
const CHECK: Duration = Duration::from_secs(1);

fn fresh() -> Option<Cookie> {
    let cookie = Cookie::random();
    cookie.inspect_err(|error| warn!("no randomness for a new cookie: {error}")).ok()
}

/// Puts this node's cookies in force: those of the agent before, if there was one.
///
/// # Errors
///
/// The map cannot be read or written, or the system has no randomness.
pub(super) fn adopt(datapath: &Mutex<Datapath>) -> anyhow::Result<Cookies> {
    let mut datapath = lock(datapath);
    let pinned = datapath.cookies()?;
    let fresh = Cookie::random().context("the system has no randomness")?;
    let cookies = Cookies::adopt(pinned, fresh, Instant::now());
    datapath.set_cookies(cookies.in_force())?;
    Ok(cookies)
}

/// Runs as long as the agent does. `publish` says which cookies are in force.
pub(super) async fn run(parts: Parts, mut cookies: Cookies, publish: watch::Sender<[u64; 2]>) {
    let mut task = Task { proofs: Proofs::default(), sockets: BTreeMap::new(), parts };
    let mut told = task.parts.exchange.cookies();
    let mut hearing = task.parts.exchange.hearing();
    let mut next_hops = task.parts.next_hops.clone();
    task.parts.exchange.tell_cookie(cookies.current()).await;
    loop {
        let now = Instant::now();
        if cookies.rotate(fresh, now) {
            match lock(&task.parts.datapath).set_cookies(cookies.in_force()) {
                Ok(()) => {
                    publish.send_replace(cookies.in_force());
                    task.parts.view.own.cookies.add(1);
                }
                Err(error) => warn!("{error}"),
            }
            task.parts.exchange.tell_cookie(cookies.current()).await;
        }
        task.prove(now);
        task.parts.view.own.set_members(task.parts.exchange.counts());
        let wake = (now + CHECK)
            .min(cookies.next_deadline())
            .min(task.proofs.next_deadline().unwrap_or(now + CHECK));
        let ended = tokio::select! {
            changed = told.changed() => changed.is_err(),
            changed = hearing.changed() => changed.is_err(),
            changed = next_hops.changed() => changed.is_err(),
            () = time::sleep_until(wake.into()) => false,
        };
        if ended {
            return;
        }
    }
}

struct Task {
    parts: Parts,
    proofs: Proofs,
    sockets: BTreeMap<u32, FrameSocket>,
}

impl Task {
    /// Sends the probe frames that are due, and says what is known.
    fn prove(&mut self, now: Instant) {
        let probes = self.probes();
        let hearing = Arc::clone(&self.parts.exchange.hearing().borrow());
        let peers: BTreeMap<IpAddr, Peer> = probes
            .iter()
            .map(|(address, (_, probe))| {
                let heard = hearing.get(address);
                let hears = heard.is_some_and(|heard| heard.contains(&probe.sender));
                (*address, Peer { lives: heard.is_some(), hears })
            })
            .collect();
        let before = Arc::clone(self.proofs.proofs());
        for due in self.proofs.poll(&peers, now) {
            if let Some((ifindex, probe)) = probes.get(&due) {
                self.send(*ifindex, &probe.frame());
            }
        }
        let proofs = self.proofs.proofs();
        for (address, proof) in proofs.iter().filter(|(a, p)| before.get(a) != Some(p)) {
            match proof {
                LinkProof::Proven => debug!(%address, "clients' addresses get through"),
                LinkProof::Disproved => info!(
                    %address,
                    "frames with clients' addresses do not get through to this node: it is sent tunnels"
                ),
            }
        }
        let count = |wanted| proofs.values().filter(|proof| **proof == wanted).count();
        self.parts.view.own.links_proven.set(count(LinkProof::Proven));
        self.parts.view.own.links_disproved.set(count(LinkProof::Disproved));
        let cookies = (**self.parts.exchange.cookies().borrow()).clone();
        let peers = Peers { cookies, proofs: (**proofs).clone() };
        self.parts.peers.send_if_modified(|known| {
            let changed = *known != peers;
            if changed {
                *known = peers;
            }
            changed
        });
    }

    /// The links to other nodes, by their address, and what to send by which interface.
    fn probes(&self) -> BTreeMap<IpAddr, (u32, Probe)> {
        let Some(snapshot) = self.parts.snapshots.borrow().clone() else { return BTreeMap::new() };
        let cookies = self.parts.exchange.cookies();
        let cookies = cookies.borrow();
        let next_hops = self.parts.next_hops.borrow();
        let own = snapshot.nodes.get(&self.parts.me).map(|node| node.internal_ips.as_slice());
        let own = own.unwrap_or_default();
        // The other node's agent knows us by our InternalIPs.
        let sender = |hop: &NextHop| {
            let fits = own.iter().find(|address| **address == hop.source);
            fits.or_else(|| own.iter().find(|address| address.is_ipv4() == hop.source.is_ipv4()))
        };
        let mut probes = BTreeMap::new();
        for (name, node) in snapshot.nodes.iter().filter(|(name, _)| **name != self.parts.me) {
            let Some(cookie) = cookies.get(name) else { continue };
            for address in &node.internal_ips {
                let Some(hop) = next_hops.get(address).filter(|hop| hop.on_link) else { continue };
                let Some(sender) = sender(hop) else { continue };
                let probe = Probe {
                    mac: hop.mac,
                    source_mac: hop.source_mac,
                    vlan: hop.vlan,
                    peer: *address,
                    sender: *sender,
                    cookie: *cookie,
                    port: self.parts.tunnel_port,
                };
                probes.insert(*address, (hop.ifindex, probe));
            }
        }
        probes
    }

    fn send(&mut self, ifindex: u32, frame: &[u8]) {
        let socket = match self.sockets.entry(ifindex) {
            Entry::Occupied(socket) => Ok(socket.into_mut()),
            Entry::Vacant(vacant) => FrameSocket::open(ifindex).map(|s| vacant.insert(s)),
        };
        if let Err(error) = socket.and_then(|socket| socket.send(frame)) {
            debug!(ifindex, %error, "probe frame not sent");
            self.sockets.remove(&ifindex);
        }
    }
}
