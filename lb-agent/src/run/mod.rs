//! `lb-agent run`: wires the parts together.
mod allocate;
mod announce;
mod handover;
mod logging;
mod network;
pub mod options;
mod peers;
mod resort;
mod secret;
mod steer;
mod stopping;

use self::{
    announce::Claim,
    handover::Handover,
    network::{Network, known_nodes},
    options::Run,
    steer::{Inputs, Parts, Steering, lock},
    stopping::{Signal, Stop},
};
use crate::{
    bgp::{
        listener::{self, Listener},
        speaker,
    },
    datapath::{
        apply::Datapath,
        check,
        events::{self, Event},
        flows::FlowMaps,
        neighbours, netlink,
        reach::Peers,
        replies, uplinks,
    },
    exit::{Exit, ExitContext as _},
    http,
    membership::{
        Alive, Liveness as _,
        keys::Keyring,
        members::Timing,
        udp::{Datagram, Setup, UdpLiveness},
    },
    metrics::{KernelStats, View},
    snapshot::Snapshot,
    source::{
        Source,
        index::Scope,
        kubernetes::{self, Kubernetes},
        manifests::Manifests,
    },
};
use anyhow::{Context as _, anyhow};
use rtnetlink::Handle;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Unknown flows that may wait for being asked about; the kernel program names more again.
const UNKNOWN_FLOWS: usize = 4096;
/// Claims of VIPs that may wait for being looked at; the kernel program tells of others again.
const CLAIMS: usize = 256;

/// Runs the agent until it is told to stop.
///
/// # Errors
///
/// What keeps it from starting, with the exit code that goes with it. Once it runs, it
/// goes on whatever happens around it.
pub async fn run(options: Run) -> anyhow::Result<()> {
    logging::start(&options.log_level, options.log_format)?;
    let node = options.node_name()?;
    let stop = CancellationToken::new();
    let signal = stopping::on_signals(stop.clone())?;
    let scope = Scope {
        namespace: options.namespace(),
        class: options.lb_class.clone(),
        addresses_apart: false,
    };
    if let Some(folder) = &options.manifests {
        let source = Manifests::start(folder, scope).exit_with(Exit::Configuration)?;
        let keys = match &options.membership_secret_file {
            Some(file) => secret::of_file(file.clone()).exit_with(Exit::Configuration)?,
            None => secret::none(),
        };
        return serve(&options, node, Arc::new(source), async { keys }, stop, signal).await;
    }
    // What this machine lacks is said before the API is asked for anything.
    crate::datapath::preflight::check(&options.load.pin_dir)?;
    let kubernetes = kubernetes::Options {
        kubeconfig: options.kubeconfig.clone(),
        scope,
        node: node.clone(),
        webhook: options.webhook_port(),
        state: options.state_dir.clone(),
    };
    let source =
        Arc::new(Kubernetes::start(kubernetes, stop.clone()).await.exit_with(Exit::Configuration)?);
    let of_file = options.membership_secret_file.clone().map(secret::of_file);
    let of_file = of_file.transpose().exit_with(Exit::Configuration)?;
    let secret = source.membership_secret();
    let keys = async {
        match of_file {
            Some(keys) => keys,
            None => secret::of_cluster(secret).await,
        }
    };
    let result = serve(&options, node, Arc::clone(&source), keys, stop, signal).await;
    source.stopped().await;
    result
}

async fn serve<S: Source>(
    options: &Run,
    node: String,
    source: Arc<S>,
    keys: impl Future<Output = watch::Receiver<Keyring>>,
    stop: CancellationToken,
    signal: stopping::Received,
) -> anyhow::Result<()> {
    let datapath = Arc::new(Mutex::new(Datapath::open(&options.load_options())?));
    let netlink = netlink::connect()?;
    check_interfaces(&netlink, &options.interfaces).await?;
    let chosen = uplinks::Selection {
        only: options.interfaces.clone(),
        excluded: options.excluded()?,
        ..uplinks::Selection::default()
    };
    let view = Arc::new(view(node.clone(), &datapath));
    listen(options, &view, &stop).await?;

    let mut snapshots = source.snapshots();
    let Some(first) = first_snapshot(&mut snapshots, &node, &stop).await else { return Ok(()) };
    let Some(keys) = stop.run_until_cancelled(keys).await else { return Ok(()) };
    let nodes = known_nodes(&first);
    // The kernel is brought to the newest one, and this one is large.
    drop(first);
    let in_rows = lock(&datapath).nodes_in_rows();
    let remembered: BTreeSet<String> = (nodes.iter())
        .filter(|(_, addresses)| addresses.iter().any(|address| in_rows.contains(address)))
        .map(|(name, _)| name.clone())
        .collect();
    let timing = Timing::default();
    let setup = Setup {
        me: node.clone(),
        port: options.heartbeat_port,
        tunnel_port: options.tunnel_port(),
        timing,
        nodes: nodes.clone(),
        remembered,
        keys,
    };
    let mut liveness = UdpLiveness::start(setup)
        .with_context(|| {
            format!(
                "UDP port {} for other agents cannot be opened: free it, or choose another with --heartbeat-port on all nodes",
                options.heartbeat_port
            )
        })
        .exit_with(Exit::Environment)?;
    let alive = liveness.alive();
    let exchange = liveness.exchange();
    let datagrams =
        liveness.take_datagrams().context("other agents' datagrams have another listener")?;

    let (selection, selections) = watch::channel(None);
    let (publish_links, links) = watch::channel(None);
    let (wanted, wants) = watch::channel(None);
    let (publish_next_hops, next_hops) = watch::channel(neighbours::NextHops::default());
    let (question, questions) = watch::channel(None);
    let (answer, unseen) = watch::channel(replies::Unseen::default());
    let (tell_peers, peers) = watch::channel(Peers::default());
    let mut followers = JoinSet::new();
    followers.spawn(uplinks::follow(selections, publish_links));
    followers.spawn(neighbours::follow(wants, links.clone(), publish_next_hops));
    followers.spawn(replies::follow(netlink.clone(), questions, answer));
    tokio::spawn(check::tell(netlink.clone(), options.load.pin_dir.clone(), links.clone()));
    tokio::spawn(allocate::run(Arc::clone(&source), Arc::clone(&view), stop.clone()));

    let flows = Arc::new(Mutex::new(lock(&datapath).take_flows()?));
    let handover = Arc::new(Handover::new(Arc::clone(&flows), Arc::clone(&view)));
    let mut helpers = JoinSet::new();
    helpers.spawn(Arc::clone(&handover).run());
    let parts = peers::Parts {
        me: node.clone(),
        tunnel_port: options.tunnel_port(),
        datapath: Arc::clone(&datapath),
        view: Arc::clone(&view),
        exchange,
        snapshots: snapshots.clone(),
        next_hops: next_hops.clone(),
        peers: tell_peers,
    };
    let (claim, claims) = mpsc::channel(CLAIMS);
    with_others(&mut helpers, parts, flows, datagrams, alive.clone(), claim)?;
    let (withdraw, withdrawn) = watch::channel(BTreeSet::new());
    let (announcing, announcements) = announce::start(announce::Parts {
        source: Arc::clone(&source),
        view: Arc::clone(&view),
        policy: options.address_conflict,
        claims,
        alive: alive.clone(),
        next_hops: next_hops.clone(),
        links: links.clone(),
        withdrawn: withdraw,
    });
    helpers.spawn(announcements);

    let bgp_listener = bgp_listener(options)?;
    let (me, latest) = (node.clone(), snapshots.clone());
    let (serves, serves_now) = watch::channel(false);
    let (farewell, farewells) = watch::channel(None);
    let speaker = speaker::Parts {
        source: Arc::clone(&source),
        node: node.clone(),
        namespace: options.namespace(),
        ignore_exclude_label: options.ignore_exclude_lb,
        restarted: lock(&datapath).is_adopted(),
        serves: serves_now,
        view: Arc::clone(&view),
        listener: bgp_listener,
        prefix_limit: options.bgp_prefix_limit,
    };
    let speaking = tokio::spawn(speaker::run(speaker, farewells));
    let network = Network::new(node.clone(), chosen, selection, wanted, Box::new(liveness), nodes);
    let parts = Parts {
        node,
        options: options.plan_options(),
        forward: options.forward,
        question,
        datapath,
        network,
        netlink,
        announcing,
        view,
        handover,
        serves,
        starting: timing.starting() + timing.hello,
    };
    let alive_now = alive.clone();
    let bgp = source.bgp();
    let inputs = Inputs { snapshots, alive, links, next_hops, peers, unseen, withdrawn, bgp };
    let mut steering = Steering::new(source, parts);
    tokio::select! {
        ended = steering.run(inputs, &stop) => ended?,
        // The agent is of no use without them, and the next one adopts all that stands
        // in the kernel.
        Some(ended) = followers.join_next() => {
            ended.context("following the kernel's links")??;
        }
    }
    let signal = *signal.get().unwrap_or(&Signal::Terminate);
    let latest = latest.borrow().clone();
    let meant = stopping::meant_by(signal, latest.and_then(|s| s.nodes.get(&me).cloned()).as_ref());
    let others = alive_now.borrow().values().filter(|node| node.agent).count();
    farewell.send_replace(Some(match &meant {
        Stop::Restarting => speaker::Farewell::Restart,
        Stop::Leaving(reason) => speaker::Farewell::Leave(reason.clone()),
    }));
    // Routers are told first: they send here until they have heard, and so long this node serves.
    let _panic = speaking.await;
    steering.stop(&meant, others).await;
    Ok(())
}

/// Starts what agents do together: cookies, proofs of links, and the last resort.
fn with_others(
    helpers: &mut JoinSet<()>,
    parts: peers::Parts,
    flows: Arc<Mutex<FlowMaps>>,
    datagrams: mpsc::Receiver<Datagram>,
    alive: watch::Receiver<Arc<Alive>>,
    claims: mpsc::Sender<Claim>,
) -> anyhow::Result<()> {
    let events = lock(&parts.datapath).take_events()?;
    let cookies = peers::adopt(&parts.datapath)?;
    let (publish, cookies_in_force) = watch::channel(cookies.in_force());
    let (ask, unknown) = mpsc::channel(UNKNOWN_FLOWS);
    let resort = resort::Parts {
        me: parts.me.clone(),
        datapath: Arc::clone(&parts.datapath),
        flows,
        view: Arc::clone(&parts.view),
        exchange: parts.exchange.clone(),
        alive,
        cookies: cookies_in_force,
    };
    helpers.spawn(resort::run(resort, unknown, datagrams));
    let (exchange, view) = (parts.exchange.clone(), Arc::clone(&parts.view));
    helpers.spawn(async move {
        let sort = |event| match event {
            Event::UnknownFlow { flow, node } => {
                if ask.try_send((flow, node)).is_err() {
                    view.own.not_asked.add(1);
                }
            }
            Event::Probe { sender } => exchange.heard_probe(sender),
            Event::Claim { vip, mac, ifindex, vlan } => {
                // Of those that find no room there are many more.
                let _ = claims.try_send(Claim { vip, mac, arrived: (ifindex, vlan) });
            }
        };
        if let Err(error) = events::follow(events, sort).await {
            warn!("{error}: flows that no node of their row knows are not asked about");
        }
    });
    helpers.spawn(peers::run(parts, cookies, publish));
    Ok(())
}

/// An interface that is asked for by its name and is not there is a mistake in the command
/// line. One that goes away later, or comes later by a pattern, is not.
async fn check_interfaces(netlink: &Handle, names: &[String]) -> anyhow::Result<()> {
    for name in names.iter().filter(|name| !name.contains(['*', '?'])) {
        netlink::ifindex(netlink, name).await?;
    }
    Ok(())
}

fn view(node: String, datapath: &Arc<Mutex<Datapath>>) -> View {
    let datapath = Arc::clone(datapath);
    View::new(
        node,
        Box::new(move || {
            let datapath = lock(&datapath);
            Some(KernelStats {
                frames: datapath.counters().ok()?,
                answered: datapath.answered().ok()?,
                services: datapath.service_stats().ok()?,
                ingress: datapath.ingress_modes(),
            })
        }),
    )
}

async fn listen(options: &Run, view: &Arc<View>, stop: &CancellationToken) -> anyhow::Result<()> {
    let Some(address) = options.metrics_addr.0 else { return Ok(()) };
    let listener = http::listen(address)
        .await
        .with_context(|| {
            format!("cannot listen on {address} for metrics: choose another address with --metrics-addr, or `off`")
        })
        .exit_with(Exit::Environment)?;
    let serving =
        http::serve(listener, Arc::clone(view), options.load.pin_dir.clone(), stop.clone());
    tokio::spawn(async move {
        if let Err(failure) = serving.await {
            warn!("metrics are not served any more: {failure}");
        }
    });
    Ok(())
}

/// Listens for BGP peers, if it is asked for.
fn bgp_listener(
    options: &Run,
) -> anyhow::Result<Option<(Listener, mpsc::Receiver<listener::Accepted>)>> {
    let Some(port) = options.bgp_listen_port else { return Ok(None) };
    let (accepted, incoming) = mpsc::channel(listener::WAITING);
    let listener = Listener::open(port, accepted)
        .with_context(|| {
            format!(
                "TCP port {port} for BGP peers cannot be opened: end what else listens there, or leave out --bgp-listen-port"
            )
        })
        .exit_with(Exit::Environment)?;
    Ok(Some((listener, incoming)))
}

/// Waits for a snapshot that knows this node; without it nothing can be planned, and what
/// stands in the kernel stays.
async fn first_snapshot(
    snapshots: &mut watch::Receiver<Option<Arc<Snapshot>>>,
    node: &str,
    stop: &CancellationToken,
) -> Option<Arc<Snapshot>> {
    let mut said = false;
    loop {
        if let Some(snapshot) = snapshots.borrow_and_update().clone() {
            if snapshot.nodes.contains_key(node) {
                return Some(snapshot);
            }
            if !said {
                let known: Vec<_> = snapshot.nodes.keys().take(5).map(String::as_str).collect();
                let error = anyhow!("there is no node {node:?}; there are: {}", known.join(", "));
                warn!("waiting: {error}. Correct --node-name, or create the Node");
                said = true;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            changed = snapshots.changed() => if changed.is_err() { return None },
        }
    }
}
