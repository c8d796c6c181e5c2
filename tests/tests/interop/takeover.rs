//! Herald takes over from another load balancer with kube-proxy, and changes between its two ways
//! of delivering, with connections open.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Recording, Shape,
        connections::{Load, SLOW},
        maps,
        openings::Openings,
        probe::{self, Over},
        routed::Routed,
        scenario::{self, START_LIMIT, WEB_PORT},
    },
    system, wait,
};
use lb_common::outcome::{Action, Outcome};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    time::Duration,
};

/// What stands in the cluster, of `examples/`.
const OBJECTS: [&str; 4] =
    ["manifests/nodes.yaml", "manifests/web-endpoints.yaml", "pool.yaml", "web.yaml"];

/// Four times what a connection may take to be opened and answered; one whose SYN is lost takes a second
/// at least (RFC 6298 section 2.1).
const LIMIT: Duration = Duration::from_millis(400);

/// New connections a second that are tried first, and the least that are.
const MOST: u32 = 5000;
const LEAST: u32 = 1000;

/// How much of the processors it may take. Three agents that start need some as well, and on one
/// machine there are none that are each node's own: on two processors 5,000 connections a second take
/// all, and are no slower than 15 ms through kube-proxy; at 2,450 none was slower than 70 ms in any
/// stage, at 3,500 some took 500 ms.
const BUSY: f64 = 0.65;

/// How long things are left as they are before and after a change.
const WARM_UP: Duration = Duration::from_secs(1);
const STAGE: Duration = Duration::from_secs(3);

/// A thread's own network namespace's statistics, a line for each processor.
const CONNTRACK: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// How long the agents of all nodes may take to load their programs and to steer, at the same time
/// and on a machine that does other things as well.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// Rounds of requests after a change.
const SETTLED: u64 = 4;

/// Connections that kube-proxy began go on after the agents have started, and so do those of each
/// way of delivering after a change to the other.
pub(crate) fn from_kube_proxy() -> Result<()> {
    let mut routed = Routed::on_kubernetes(Shape::routed(), &OBJECTS)?;
    let result = take_over(&mut routed);
    result.map_err(|error| routed.failed(error))
}

/// New connections at a steady rate from few client ports, which meet what conntrack still has of
/// earlier ones, while Herald takes over from kube-proxy and changes between its ways of delivering:
/// none is refused, no packet of one is dropped, and none is slow.
///
/// The rate is 5,000 a second, or half or a quarter of it, as this machine has room at that moment.
pub(crate) fn under_load() -> Result<()> {
    // Recording would take a tenth of the processors.
    let shape = Shape { recording: Recording::None, ..Shape::routed() };
    let mut routed = Routed::on_kubernetes(shape, &OBJECTS)?;
    let result = take_over_under_load(&mut routed);
    result.map_err(|error| routed.failed(error))
}

fn take_over_under_load(routed: &mut Routed) -> Result<()> {
    let remote = routed.remote()?.namespace.clone();
    // Each port is used again after a few seconds, as on a busy proxy.
    remote.sysctl("net/ipv4/ip_local_port_range", "20000 35000")?;
    remote.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    routed.await_all_serve()?;
    let (load, has_room) = by_kube_proxy(routed)?;
    let mut stages = Stages { counts: counts(routed)?, load, has_room };
    routed.cluster.agents = scenario::start_agents(&routed.cluster.lab, &routed.cluster.options)?;
    give_way(routed)?;
    await_delivery(routed, true)?;
    stages.end(routed, "taking over")?;
    stages.last(routed, "directly")?;
    for arguments in [&["--delivery", "kernel"][..], &[]] {
        routed.cluster.options.arguments = arguments.iter().map(ToString::to_string).collect();
        restart_agents(routed)?;
        give_way(routed)?;
        await_delivery(routed, arguments.is_empty())?;
        stages.end(routed, &format!("to {arguments:?}"))?;
        stages.last(routed, &format!("with {arguments:?}"))?;
    }
    stages.load.stop()?.check()
}

/// Begins a load that kube-proxy alone keeps up with, and that leaves room for three agents on this
/// machine. Tells whether it does: where others have the machine, time says nothing.
fn by_kube_proxy(routed: &Routed) -> Result<(Openings, bool)> {
    let mut per_second = MOST;
    loop {
        let from = &routed.remote()?.namespace;
        let mut load = Openings::begin(from, &routed.cluster.vips, per_second)?;
        // What conntrack and the caches do with the first is not what they do with the rest.
        load.run_for(WARM_UP)?;
        load.report().check()?;
        let before = processor_time()?;
        load.run_for(STAGE)?;
        let (busy, all) = processor_time()?;
        let busy = (busy - before.0) as f64 / (all - before.1).max(1) as f64;
        let report = load.report();
        println!("\nkube-proxy alone, {per_second} a second: {report}, processors {busy:.2} busy");
        report.check()?;
        let kept_up = report.left_out == 0 && report.quantile(0.999) < SLOW && busy <= BUSY;
        if kept_up || per_second / 2 < LEAST {
            return Ok((load, kept_up));
        }
        load.stop()?.check()?;
        per_second /= 2;
    }
}

/// The time that the machine's processors have been busy, and all their time, in ticks (proc(5)).
fn processor_time() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks = line.split_whitespace().skip(1).take(8).map(str::parse);
    let ticks = ticks.collect::<Result<Vec<u64>, _>>()?;
    // User, nice, system, idle, waiting, interrupts, soft interrupts, stolen.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().sum();
    Ok((all - idle, all))
}

/// Gives the agents what the traffic of all nodes leaves: here all share the processors of one machine.
fn give_way(routed: &Routed) -> Result<()> {
    routed.cluster.agents.iter().try_for_each(|agent| Ok(system::yield_to_others(agent.pid())?))
}

/// What the nodes did with packets, by name.
type Counts = BTreeMap<&'static str, u64>;

/// What happened to packets that should not: dropped or refused by Herald's programs or by conntrack.
/// Those of flows that nobody knows may be the last of connections that have ended; others would show
/// as slow.
fn counts(routed: &Routed) -> Result<Counts> {
    // A packet that kube-proxy takes for none of its connections goes to and fro between node and
    // router until its TTL ends, which programs that are attached meanwhile count. No connection
    // misses it, or it would have failed.
    const OTHERS: [Outcome; 7] = [
        Outcome::ProbeReceived,
        Outcome::ArpNotAnnounced,
        Outcome::NdpNotAnnounced,
        Outcome::NdpInvalid,
        Outcome::DropAsked,
        Outcome::DropUnknownFlow,
        Outcome::DropTtl,
    ];
    let mut counts = Counts::new();
    for agent in &routed.cluster.agents {
        // One that has just been started has pinned nothing yet.
        let counters = maps::counters(&agent.pin_directory).unwrap_or_default();
        for &outcome in Outcome::ALL {
            let lost = outcome.action() == Action::Drop && !OTHERS.contains(&outcome);
            if lost || outcome == Outcome::RefusedReset {
                *counts.entry(outcome.name()).or_default() += counters.get(outcome);
            }
        }
    }
    for node in &routed.lab().nodes {
        let text = node.namespace.enter(|| Ok(fs::read_to_string(CONNTRACK)?))?;
        let mut lines = text.lines().map(str::split_whitespace);
        let names: Vec<_> = lines.next().context("no conntrack statistics")?.collect();
        for values in lines {
            for (name, value) in names.iter().zip(values) {
                if let Some(name) =
                    ["insert_failed", "drop", "early_drop"].iter().find(|n| *n == name)
                {
                    *counts.entry(name).or_default() += u64::from_str_radix(value, 16)?;
                }
            }
        }
    }
    Ok(counts)
}

struct Stages {
    load: Openings,
    /// Whether the load leaves room for others on this machine.
    has_room: bool,
    counts: Counts,
}

impl Stages {
    /// Ends a stage, whose connections must have fared well.
    fn end(&mut self, routed: &Routed, name: &str) -> Result<()> {
        let report = self.load.report();
        let counts = counts(routed)?;
        let before = std::mem::replace(&mut self.counts, counts);
        let more: Vec<_> = (self.counts.iter())
            .map(|(name, count)| (*name, count - before.get(name).copied().unwrap_or(0)))
            .filter(|(_, more)| *more > 0)
            .collect();
        println!("{name}: {report} {more:?}");
        report.check().with_context(|| name.to_owned())?;
        ensure!(more.is_empty(), "{name}: {more:?}");
        // Unless the client itself had to wait for the processors.
        if self.has_room && report.behind < SLOW {
            ensure!(report.slowest() < LIMIT, "{name}: {report}");
        }
        Ok(())
    }

    /// A stage in which nothing changes.
    fn last(&mut self, routed: &Routed, name: &str) -> Result<()> {
        self.load.run_for(STAGE)?;
        self.end(routed, name)
    }
}

fn take_over(routed: &mut Routed) -> Result<()> {
    routed.await_all_serve()?;
    let load = Load { connections: 150, ..Load::default() };
    let by_kube_proxy = routed.traffic(load, 0)?;
    by_kube_proxy.settle(2)?;
    routed.cluster.agents = scenario::start_agents(&routed.cluster.lab, &routed.cluster.options)?;
    await_delivery(routed, true)?;
    by_kube_proxy.settle(SETTLED)?;
    let direct = routed.traffic(load, 0)?;
    direct.settle(2)?;
    // Under policy Cluster, kube-proxy's pods do not see the client's address.
    routed.cluster.options.arguments.extend(["--delivery", "kernel"].map(str::to_owned));
    restart_agents(routed)?;
    await_delivery(routed, false)?;
    direct.settle(SETTLED)?;
    let by_kernel = routed.traffic(load, 0)?;
    by_kernel.settle(2)?;
    routed.cluster.options.arguments.clear();
    restart_agents(routed)?;
    await_delivery(routed, true)?;
    for traffic in [&by_kube_proxy, &direct, &by_kernel] {
        traffic.settle(SETTLED)?;
    }
    let stages =
        [("kube-proxy's", by_kube_proxy), ("direct", direct), ("by the kernel", by_kernel)];
    for (name, traffic) in stages {
        let outcome = traffic.stop()?;
        outcome.check().map_err(|error| error.context(format!("connections {name}")))?;
    }
    Ok(())
}

/// One after another, in order.
fn restart_agents(routed: &mut Routed) -> Result<()> {
    for position in 0..routed.cluster.agents.len() {
        let status = routed.cluster.agents.remove(position).terminate(START_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        let lab = &routed.cluster.lab;
        let agent = lab.start_agent(&lab.nodes[position], &routed.cluster.options)?;
        routed.cluster.agents.insert(position, agent);
    }
    Ok(())
}

/// Waits until new connections are delivered directly, which pods tell by the client's address
/// that they see; or until none is.
fn await_delivery(routed: &mut Routed, directly: bool) -> Result<()> {
    let remote = routed.remote()?.clone();
    for vip in routed.cluster.vips {
        let client: IpAddr = if vip.is_ipv4() { remote.ipv4.into() } else { remote.ipv6.into() };
        let how = if directly { "directly" } else { "by kube-proxy" };
        wait::until_true(TURN_LIMIT, &format!("{vip} is delivered {how}"), || {
            let to = (vip, WEB_PORT).into();
            let spread = probe::spread(&remote.namespace, Over::Tcp, to, 60)?;
            let as_wanted = if directly {
                spread.clients == BTreeSet::from([client])
            } else {
                !spread.clients.contains(&client)
            };
            ensure!(spread.failed == 0, "{:?}", spread.first_failure);
            ensure!(as_wanted, "pods see {:?}", spread.clients);
            Ok(true)
        })?;
    }
    Ok(())
}
