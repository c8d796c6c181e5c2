//! `lb-agent run`: wires the parts together.
mod allocate;
mod handover;
mod logging;
mod network;
pub mod options;
mod peers;
mod resort;
mod secret;
mod steer;

use self::{
    handover::Handover,
    network::{Network, known_nodes},
    options::Run,
    steer::{Inputs, Parts, Steering, lock},
};
use crate::{
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
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Unknown flows that may wait for being asked about; the kernel program names more again.
const UNKNOWN_FLOWS: usize = 4096;

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
    stop_on_signals(stop.clone())?;
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
        return serve(&options, node, Arc::new(source), async { keys }, stop).await;
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
    let result = serve(&options, node, Arc::clone(&source), keys, stop).await;
    source.stopped().await;
    result
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

async fn serve<S: Source>(
    options: &Run,
    node: String,
    source: Arc<S>,
    keys: impl Future<Output = watch::Receiver<Keyring>>,
    stop: CancellationToken,
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
    tokio::spawn(check::tell(netlink.clone(), links.clone()));
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
    with_others(&mut helpers, parts, flows, datagrams, alive.clone())?;

    let network = Network::new(node.clone(), chosen, selection, wanted, Box::new(liveness), nodes);
    let parts = Parts {
        node,
        options: options.plan_options(),
        forward: options.forward,
        question,
        datapath,
        network,
        netlink,
        view,
        handover,
        starting: timing.starting() + timing.hello,
    };
    let inputs = Inputs { snapshots, alive: alive.clone(), links, next_hops, peers, unseen };
    let mut steering = Steering::new(source, parts);
    tokio::select! {
        ended = steering.run(inputs, &stop) => ended?,
        // The agent is of no use without them, and the next one adopts all that stands
        // in the kernel.
        Some(ended) = followers.join_next() => {
            ended.context("following the kernel's links")??;
        }
    }
    info!("leaving: others take the VIPs over, and the kernel goes on steering");
    let others = alive.borrow().values().filter(|node| node.agent).count();
    steering.leave(others).await;
    Ok(())
}

/// Starts what agents do together: cookies, proofs of links, and the last resort.
fn with_others(
    helpers: &mut JoinSet<()>,
    parts: peers::Parts,
    flows: Arc<Mutex<FlowMaps>>,
    datagrams: mpsc::Receiver<Datagram>,
    alive: watch::Receiver<Arc<Alive>>,
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
    let next_hops = parts.next_hops.clone();
    helpers.spawn(async move {
        let mut claims = BTreeSet::new();
        let sort = |event| match event {
            Event::UnknownFlow { flow, node } => {
                if ask.try_send((flow, node)).is_err() {
                    view.own.not_asked.add(1);
                }
            }
            Event::Probe { sender } => exchange.heard_probe(sender),
            // The kernel program may have seen it before it was told who the agents' nodes are.
            Event::Claim { mac, .. } if is_node(&next_hops.borrow(), mac) => {}
            Event::Claim { vip, mac, ifindex } => {
                view.own.claims.add(1);
                // Once for each, and not for ever.
                if claims.len() < 1000 && claims.insert((vip, mac)) {
                    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                    warn!(%vip, mac, ifindex, "a host that is no agent's node claims this VIP: free the address there, or take it out of the pool");
                }
            }
        };
        if let Err(error) = events::follow(events, sort).await {
            warn!("{error}: flows that no node of their row knows are not asked about");
        }
    });
    helpers.spawn(peers::run(parts, cookies, publish));
    Ok(())
}

/// Whether a link-layer address is that of a node on one of our links.
fn is_node(next_hops: &neighbours::NextHops, mac: [u8; 6]) -> bool {
    next_hops.values().any(|hop| hop.on_link && hop.mac == mac)
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
    let serving = http::serve(listener, Arc::clone(view), stop.clone());
    tokio::spawn(async move {
        if let Err(failure) = serving.await {
            warn!("metrics are not served any more: {failure}");
        }
    });
    Ok(())
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
