//! Speaks to the peers that are planned, and tells people how that goes.
use super::{
    Configuration, Plan,
    bfd::{self, Bfd},
    configuration::{Password, Target},
    listener::{Accepted, Listener},
    peer::{News, Order, Peer, Setup},
    plan::{Announced, Planning, Services, silence},
    transport::Way,
    unnumbered::{Discovery, Found, Router},
};
use crate::{
    differences,
    ipam::pools::Pools,
    metrics::{BgpPeer, View},
    plan::Notice,
    snapshot::{ObjectName, Snapshot},
    source::{Source, notices::Standing},
};
use imbl::OrdMap;
use lb_bgp::session::{self, Reason, State, Stop};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::{interval, sleep_until, timeout},
};
use tracing::{debug, info, warn};

/// How often what the metrics tell is brought up to date.
const LOOK: Duration = Duration::from_secs(1);
/// Planning takes a quarter of the time at most, and no change waits longer than this.
const LONGEST_REST: Duration = Duration::from_millis(60);
/// How long peers are given to end their sessions.
const FAREWELL: Duration = Duration::from_secs(4);
/// How long BFD is out of use before the sessions it watched end: a detection time of any sane profile.
const AFTER_BFD: Duration = Duration::from_secs(1);

/// Passwords by the names of the Secrets that they are in. They are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passwords(pub BTreeMap<String, String>);

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How speaking comes to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The agent comes back soon: peers keep its routes if they can.
    Restart,
    /// It does not: routes are withdrawn, and then the sessions end. With the reason.
    Leave(String),
}

/// What speaking needs.
pub struct Parts<S> {
    /// What is asked for, and where people are told.
    pub source: Arc<S>,
    /// This node's name.
    pub node: String,
    /// The namespace of BGPPeers.
    pub namespace: String,
    /// `--ignore-exclude-lb`
    pub ignore_exclude_label: bool,
    /// Programs and tables of an earlier agent were there when this one started.
    pub restarted: bool,
    /// Whether this node's kernel serves what is announced.
    pub serves: watch::Receiver<bool>,
    /// Where metrics are read.
    pub view: Arc<View>,
    /// Where peers connect to, if they may, and their connections.
    pub listener: Option<(Listener, mpsc::Receiver<Accepted>)>,
    /// `--bgp-prefix-limit`
    pub prefix_limit: Option<u32>,
}

/// Speaks until it is told how to stop, and returns once that is done.
pub async fn run<S: Source>(mut parts: Parts<S>, mut farewell: watch::Receiver<Option<Farewell>>) {
    let mut configurations = parts.source.bgp();
    let mut passwords = parts.source.passwords();
    let mut snapshots = parts.source.snapshots();
    let mut serves = parts.serves.clone();
    let reporter = parts.source.may_allocate();
    let (news, mut heard) = mpsc::unbounded_channel();
    let (changes, mut changed_bfd) = mpsc::unbounded_channel();
    let (found, mut newly_found) = watch::channel(Found::new());
    let (listener, mut incoming) = parts.listener.take().unzip();
    let mut speaker = Speaker {
        parts,
        listener,
        peers: BTreeMap::new(),
        plan: Plan::default(),
        planning: Planning::default(),
        routed: OrdMap::new(),
        news,
        changes,
        bfd: None,
        discovery: Discovery::new(found),
        told: BTreeMap::new(),
        unable: BTreeMap::new(),
        reporter,
        judged: None,
        silent: Standing::default(),
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rest_until = Instant::now();
    loop {
        let changed = async {
            tokio::select! {
                changed = configurations.changed() => changed.is_ok(),
                changed = passwords.changed() => changed.is_ok(),
                changed = snapshots.changed() => changed.is_ok(),
                changed = serves.changed() => changed.is_ok(),
                changed = newly_found.changed() => changed.is_ok(),
            }
        };
        tokio::select! {
            how = told_to_end(&mut farewell) => {
                speaker.end(how).await;
                return;
            }
            Some(connection) = accepted(&mut incoming) => speaker.accepted(connection),
            Some((peer, news)) = heard.recv() => speaker.tell(&peer, news).await,
            Some((peer, change)) = changed_bfd.recv() => speaker.bfd_changed(&peer, &change).await,
            _ = look.tick() => {
                speaker.show();
                let (configuration, snapshot) = (configurations.borrow().clone(), snapshots.borrow().clone());
                if let Some(snapshot) = snapshot {
                    speaker.tell_silent(configuration, snapshot).await;
                }
            }
            more = changed => {
                if !more {
                    return;
                }
                sleep_until(rest_until.into()).await;
                let configuration = configurations.borrow_and_update().clone();
                let passwords = passwords.borrow_and_update().clone();
                let snapshot = snapshots.borrow_and_update().clone();
                let found = newly_found.borrow_and_update().clone();
                let (Some(snapshot), true) = (snapshot, *serves.borrow_and_update()) else { continue };
                let began = Instant::now();
                speaker.update(&configuration, &passwords, &snapshot, &found).await;
                rest_until = Instant::now() + (3 * began.elapsed()).min(LONGEST_REST);
            }
        }
    }
}

/// The next connection that somebody has made, where it is listened.
async fn accepted(incoming: &mut Option<mpsc::Receiver<Accepted>>) -> Option<Accepted> {
    match incoming {
        Some(incoming) => incoming.recv().await,
        None => None,
    }
}

/// Waits until it is said how to end; whoever is gone without a word will be back.
async fn told_to_end(farewell: &mut watch::Receiver<Option<Farewell>>) -> Farewell {
    match farewell.wait_for(Option::is_some).await {
        Ok(how) => how.clone().unwrap_or(Farewell::Restart),
        Err(_) => Farewell::Restart,
    }
}

struct Speaker<S> {
    parts: Parts<S>,
    listener: Option<Listener>,
    peers: BTreeMap<String, Peer>,
    plan: Plan,
    planning: Planning,
    /// The Services that are announced, and to which peers.
    routed: OrdMap<ObjectName, Arc<BTreeSet<String>>>,
    news: mpsc::UnboundedSender<(String, News)>,
    changes: bfd::Changes,
    bfd: Option<Bfd>,
    discovery: Discovery,
    /// What was told last of the sessions that are not up, so that it is told once.
    told: BTreeMap<String, String>,
    /// Peers that cannot be spoken to, and why.
    unable: BTreeMap<String, String>,
    /// Whether this agent is the one that tells users what all agents see alike.
    reporter: watch::Receiver<bool>,
    /// What it was last looked through for addresses that nobody announces.
    judged: Option<(Arc<Configuration>, Arc<Snapshot>)>,
    silent: Standing,
}

impl<S: Source> Speaker<S> {
    /// Brings peers and routes to what is planned.
    async fn update(
        &mut self,
        configuration: &Configuration,
        passwords: &Passwords,
        snapshot: &Snapshot,
        found: &Found,
    ) {
        if configuration.peers.is_empty() && self.plan.peers.is_empty() {
            self.parts.source.report_routed(&OrdMap::new());
            return;
        }
        let Parts { node, ignore_exclude_label, .. } = &self.parts;
        let planning = &mut self.planning;
        let plan =
            block_in_place(|| planning.plan(configuration, snapshot, node, *ignore_exclude_label));
        let interfaces = plan.peers.values().filter_map(|planned| match &planned.peer.target {
            Target::Interface(interface) => Some(interface.clone()),
            Target::Address(_) => None,
        });
        self.discovery.set(&interfaces.collect());
        let addresses = own_addresses(snapshot, node);
        let mut unable = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        let mut bfd = BTreeMap::new();
        for (name, planned) in &plan.peers {
            // Where there are link-local addresses only, they are the next hops.
            let (to, interface, own) = match &planned.peer.target {
                Target::Address(address) => {
                    (SocketAddr::new(*address, planned.peer.port), None, addresses)
                }
                Target::Interface(interface) => match found.get(interface) {
                    Some(Router::At { address, scope }) => {
                        let to = SocketAddrV6::new(*address, planned.peer.port, 0, *scope);
                        (to.into(), Some(interface.clone()), (None, None))
                    }
                    Some(Router::Missing(why)) => {
                        unable.insert(name.clone(), why.clone());
                        continue;
                    }
                    Some(Router::Awaited) | None => continue,
                },
            };
            let password = match &planned.peer.password {
                None => None,
                Some(Password::Given(text)) => Some(text.clone()),
                Some(Password::Secret(secret)) => match passwords.0.get(secret) {
                    Some(text) => Some(text.clone()),
                    None => {
                        let why =
                            format!("the Secret {secret} with its password has not been read");
                        unable.insert(name.clone(), why);
                        continue;
                    }
                },
            };
            let peer = &planned.peer;
            let (source, vrf, multihop) = (peer.source, peer.vrf.clone(), peer.multihop);
            if let Some(config) = peer.bfd {
                let mut to = to;
                to.set_port(bfd::port(multihop));
                let (interface, vrf) = (interface.clone(), vrf.clone());
                let setup = bfd::Setup { to, source, interface, vrf, multihop, config };
                bfd.insert(name.clone(), setup);
            }
            let ttl_security = peer.ttl_security;
            let way = Way { to, source, interface, vrf, password, multihop, ttl_security };
            let prefix_limit = self.parts.prefix_limit;
            let session = session::Config { prefix_limit, ..planned.session.clone() };
            wanted.insert(name.clone(), Setup { session, way, own });
        }
        self.tell_unable(unable).await;
        self.follow_bfd(bfd).await;
        if let Some(listener) = &mut self.listener {
            let ways: Vec<_> = wanted.values().map(|setup| &setup.way).collect();
            listener.set(&ways);
        }
        let gone: Vec<_> = (self.peers.iter())
            .filter(|(name, peer)| wanted.get(*name) != Some(&peer.setup))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let again = wanted.contains_key(&name);
            if let Some(peer) = self.peers.remove(&name) {
                info!(peer = name, again, "the session ends: its BGPPeer has changed or is gone");
                peer.order(Order::Stop(if again {
                    Stop::Reconfigured
                } else {
                    Stop::Deconfigured
                }));
                self.told.remove(&name);
            }
        }
        for (name, setup) in wanted {
            let routes = &plan.peers[&name].routes;
            let known = self.plan.peers.get(&name).map(|planned| &planned.routes);
            let (peer, new) = match self.peers.entry(name) {
                std::collections::btree_map::Entry::Occupied(there) => (there.into_mut(), false),
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    let (name, restarted) = (vacant.key().clone(), self.parts.restarted);
                    let peer = Peer::start(name, setup, restarted, self.news.clone());
                    (vacant.insert(peer), true)
                }
            };
            if new || known != Some(routes) {
                peer.order(Order::Routes(routes.clone()));
            }
        }
        if self.plan.services != plan.services {
            self.tell_services(&plan.services);
        }
        self.plan = plan;
        self.show();
    }

    /// Shows which Services are announced, and to whom.
    fn tell_services(&mut self, services: &Services) {
        for name in differences::keys(&self.plan.services, services) {
            let announced = services.get(name);
            if let Some(Announced { addresses, peers, silent }) = announced.map(|one| &**one) {
                debug!(service = %name, ?addresses, ?peers, ?silent, "announced by this node");
            }
            match announced.filter(|announced| !announced.peers.is_empty()) {
                Some(announced) => {
                    self.routed.insert(name.clone(), Arc::new(announced.peers.clone()));
                }
                None => drop(self.routed.remove(name)),
            }
        }
        self.parts.source.report_routed(&self.routed);
        self.parts.view.routed(services.clone());
    }

    /// Tells users of addresses that no node announces, one agent for all.
    async fn tell_silent(&mut self, configuration: Arc<Configuration>, snapshot: Arc<Snapshot>) {
        // By then all that is asked for has been read.
        if !*self.reporter.borrow() || !*self.parts.serves.borrow() {
            (self.judged, self.silent) = (None, Standing::default());
            return;
        }
        let same = |(c, s): &(Arc<Configuration>, Arc<Snapshot>)| {
            Arc::ptr_eq(c, &configuration) && Arc::ptr_eq(s, &snapshot)
        };
        if self.judged.as_ref().is_some_and(same)
            || configuration.advertisements.is_empty() && self.judged.is_none()
        {
            return;
        }
        let ignore_exclude_label = self.parts.ignore_exclude_label;
        let notices = block_in_place(|| {
            let (pools, _) = Pools::new(&snapshot);
            silence::notices(&configuration, &snapshot, &pools, ignore_exclude_label)
        });
        self.judged = Some((configuration, snapshot));
        for notice in self.silent.update(notices) {
            self.parts.source.notify(&notice).await;
        }
    }

    /// Hands a connection to the peer that has made it; that of anybody else is closed.
    fn accepted(&self, connection: Accepted) {
        match self.peers.values().find(|peer| connection.is_from(&peer.setup.way)) {
            Some(peer) => peer.order(Order::Accepted(connection.stream)),
            None => debug!(from = %connection.from, "who connects is no peer"),
        }
    }

    async fn follow_bfd(&mut self, sessions: BTreeMap<String, bfd::Setup>) {
        if sessions.is_empty() {
            self.bfd = None;
            return;
        }
        if self.bfd.is_none() {
            match Bfd::start(self.changes.clone()) {
                Ok(bfd) => self.bfd = Some(bfd),
                Err(error) => {
                    let message = format!(
                        "BFD cannot be spoken on node {}: UDP ports 3784 and 4784: {error}; end what else uses them",
                        self.parts.node
                    );
                    for peer in sessions.keys() {
                        self.notify(peer, true, "BFDUnavailable", message.clone()).await;
                    }
                    return;
                }
            }
        }
        if let Some(bfd) = &self.bfd {
            bfd.set(sessions);
        }
    }

    async fn tell_unable(&mut self, unable: BTreeMap<String, String>) {
        let before = std::mem::replace(&mut self.unable, unable);
        for (name, why) in self.unable.clone() {
            if before.get(&name) != Some(&why) {
                let message = format!("node {} does not speak to it: {why}", self.parts.node);
                self.notify(&name, true, "BGPPeerNotUsed", message).await;
            }
        }
    }

    async fn bfd_changed(&mut self, name: &str, change: &lb_bgp::bfd::Change) {
        info!(peer = name, from = ?change.from, to = ?change.to, why = ?change.diagnostic, "BFD");
        if bfd::is_loss(change)
            && let Some(peer) = self.peers.get(name)
        {
            peer.order(Order::BfdDown);
        }
    }

    /// Tells people what has become of a session; the same reason for being down once.
    async fn tell(&mut self, name: &str, news: News) {
        let node = self.parts.node.clone();
        match news {
            News::Up(negotiated) => {
                self.told.remove(name);
                let families: Vec<_> =
                    negotiated.families.iter().map(ToString::to_string).collect();
                let message = format!(
                    "the session with node {node} is up: AS {}, {}, hold time {} s",
                    negotiated.remote_as,
                    families.join(" and "),
                    negotiated.hold_time.as_secs()
                );
                self.notify(name, false, "BGPSessionUp", message).await;
            }
            News::Down { was_up, reason } => {
                let mut why = reason.to_string();
                let signed = |peer: &Peer| peer.setup.way.password.is_some();
                if matches!(reason, Reason::NoAnswer(_)) && self.peers.get(name).is_some_and(signed)
                {
                    // The kernels of both sides drop what is signed otherwise, without a word (RFC 2385 section 4.1).
                    why += "; where the peer is there, its password is another or none";
                }
                if !self.peers.contains_key(name) || !was_up && self.told.get(name) == Some(&why) {
                    debug!(peer = name, why, "no session");
                    return;
                }
                let state = if was_up { "is down" } else { "does not come up" };
                let message = format!("the session with node {node} {state}: {why}");
                self.told.insert(name.to_owned(), why);
                self.notify(name, true, "BGPSessionDown", message).await;
            }
            News::Fault(fault) => warn!(peer = name, fault, "a fault in what the peer announces"),
        }
        self.show();
    }

    async fn notify(&self, peer: &str, warning: bool, reason: &'static str, message: String) {
        let object = ObjectName::new(&self.parts.namespace, peer);
        let message = message.into();
        let notice = Notice { kind: "BGPPeer", object, warning, reason, message };
        self.parts.source.notify(&notice).await;
    }

    /// What the metrics tell.
    fn show(&self) {
        let bfd = self.bfd.as_ref().map(Bfd::states).unwrap_or_default();
        let all = self.peers.iter().filter_map(|(name, peer)| {
            let status = peer.status()?;
            Some(BgpPeer {
                peer: peer.setup.way.to,
                up: status.state == State::Established,
                routes: status.routes,
                counters: status.counters,
                bfd_up: bfd.get(name).map(|state| *state == lb_bgp::bfd::State::Up),
            })
        });
        self.parts.view.bgp(all.collect());
    }

    async fn end(mut self, how: Farewell) {
        if let Some(bfd) = &self.bfd {
            bfd.admin_down();
            if !self.peers.is_empty() {
                tokio::time::sleep(AFTER_BFD).await;
            }
        }
        let peers = std::mem::take(&mut self.peers);
        for peer in peers.values() {
            peer.order(match &how {
                Farewell::Restart => Order::Stop(Stop::Restart),
                Farewell::Leave(why) => Order::Leave(why.clone()),
            });
        }
        let all = futures::future::join_all(peers.into_values().map(Peer::ended));
        let forgotten = async {
            if matches!(how, Farewell::Leave(_))
                && self.plan.services.values().any(|one| !one.peers.is_empty())
            {
                self.parts.source.forget_routed().await;
            }
        };
        let _late = tokio::join!(timeout(FAREWELL, all), forgotten);
    }
}

/// This node's first address of each family.
fn own_addresses(
    snapshot: &Snapshot,
    node: &str,
) -> (Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>) {
    let all = snapshot.nodes.get(node).map(|node| node.internal_ips.as_slice());
    let (mut v4, mut v6) = (None, None);
    for address in all.unwrap_or_default() {
        match address {
            IpAddr::V4(address) => v4 = v4.or(Some(*address)),
            IpAddr::V6(address) => v6 = v6.or(Some(*address)),
        }
    }
    (v4, v6)
}
