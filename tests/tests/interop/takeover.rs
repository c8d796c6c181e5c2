//! Herald takes over from another load balancer with kube-proxy, and changes between its two ways
//! of delivering, with connections open.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Recording, Shape,
        connections::Load,
        maps,
        openings::Openings,
        probe::{self, Over},
        routed::Routed,
        scenario::{self, START_LIMIT, WEB_PORT},
    },
    wait,
};
use lb_common::outcome::{Action, Outcome};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::IpAddr,
    time::Duration,
};

/// What stands in the cluster, of `examples/`.
const OBJECTS: [&str; 4] =
    ["manifests/nodes.yaml", "manifests/web-endpoints.yaml", "pool.yaml", "web.yaml"];

/// New connections a second that are tried first, and the least that are.
const MOST: u32 = 5000;
const LEAST: u32 = 1000;

/// How much of the processors it may take, for three agents that start need some as well, and on one
/// machine there are none that are each node's own. On two processors 5,000 connections a second
/// through kube-proxy alone take 0.6 to 0.8 of them, and none is slower than 20 ms.
const BUSY: f64 = 0.75;

/// What the slowest may take through kube-proxy alone, and how late the client may be in beginning
/// one, if those that Herald takes over are to be no slower than 100 ms: else others have the
/// processors.
const EASY: Duration = Duration::from_millis(50);

/// At what a stage fails: four times what a connection may take to be opened and answered. One whose
/// SYN is lost takes a second at least (RFC 6298 section 2.1).
const LIMIT: Duration = Duration::from_millis(400);

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
/// none is refused, no packet of one is dropped, and how many took longer than 100 ms is told.
///
/// The rate is 5,000 a second, or half or a quarter of it where this machine has no room for more at
/// that moment; the last line says at what rate it was shown.
///
/// Where the machine's own queues drop packets, others have its processors: a SYN that is repeated after a
/// second may meet another pod than the one that has answered the first, and reset what that one began. If
/// connections fail then, it is tried again, at half the rate.
pub(crate) fn under_load() -> Result<()> {
    let mut most = MOST;
    loop {
        // Recording would take a tenth of the processors.
        let shape = Shape { recording: Recording::None, ..Shape::routed() };
        let mut routed = Routed::on_kubernetes(shape, &OBJECTS)?;
        let error = match take_over_under_load(&mut routed, most) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.downcast_ref() {
            Some(Crowded { per_second, .. }) if per_second / 2 >= LEAST => {
                println!("{error:#}: again, at half the rate");
                most = per_second / 2;
            }
            _ => return Err(routed.failed(error)),
        }
    }
}

/// The machine had no room for such a load.
#[derive(Debug)]
struct Crowded {
    per_second: u32,
    dropped: u64,
    behind: Duration,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, dropped, behind } = self;
        write!(
            f,
            "at {per_second} a second, the machine's queues dropped {dropped} packets, and the client was \
             {} ms behind",
            behind.as_millis()
        )
    }
}

fn take_over_under_load(routed: &mut Routed, most: u32) -> Result<()> {
    let remote = routed.remote()?.namespace.clone();
    // Each port is used again after a few seconds, as on a busy proxy.
    remote.sysctl("net/ipv4/ip_local_port_range", "20000 35000")?;
    remote.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    routed.cluster.options.yields = true;
    routed.await_all_serve()?;
    let mut stages = by_kube_proxy(routed, most)?;
    // One after another: what one takes to load its programs, a second of one processor, all would
    // take from the connections at once, where elsewhere each node has its own.
    for position in 0..routed.cluster.lab.nodes.len() {
        routed.cluster.start_agent(position)?;
    }
    await_delivery(routed, true)?;
    stages.end(routed, "taking over")?;
    stages.last(routed, "directly")?;
    for arguments in [&["--delivery", "kernel"][..], &[]] {
        routed.cluster.options.arguments = arguments.iter().map(ToString::to_string).collect();
        restart_agents(routed)?;
        await_delivery(routed, arguments.is_empty())?;
        stages.end(routed, &format!("to {arguments:?}"))?;
        stages.last(routed, &format!("with {arguments:?}"))?;
    }
    let Stages { load, per_second, judged, slowest, slow, .. } = stages;
    load.stop()?.check()?;
    let slowest = slowest.as_secs_f64() * 1e3;
    println!(
        "shown at {per_second} new connections a second: none failed; in {judged} of 6 stages this \
         machine had time for them, and {slow} of these took longer than 100 ms, the slowest {slowest:.1} ms"
    );
    Ok(())
}

/// Begins a load that kube-proxy alone keeps up with, and that leaves room for three agents on this
/// machine.
fn by_kube_proxy(routed: &Routed, most: u32) -> Result<Stages> {
    let mut per_second = most;
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
        let has_room = report.left_out == 0 && report.slowest() < EASY && busy <= BUSY;
        if has_room || per_second / 2 < LEAST {
            let (counts, dropped) = (counts(routed)?, dropped(routed)?);
            let (judged, slow, slowest) = (0, 0, Duration::ZERO);
            return Ok(Stages {
                load,
                per_second,
                has_room,
                counts,
                dropped,
                judged,
                slow,
                slowest,
            });
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

/// How many packets found the queues full that lead to another processor's work: the backlog of a
/// processor, and the rings of interfaces with XDP (256 packets for a veth).
fn dropped(routed: &Routed) -> Result<u64> {
    let backlog = fs::read_to_string("/proc/net/softnet_stat")?;
    let column = |line: &str, at: usize, radix| {
        let value = line.split_whitespace().nth(at).context("no such column")?;
        u64::from_str_radix(value, radix).with_context(|| value.to_owned())
    };
    let mut dropped = 0;
    for line in backlog.lines() {
        dropped += column(line, 1, 16)?;
    }
    let (lab, router) = (routed.lab(), routed.router()?);
    let pods = lab.pods.iter().map(|pod| &pod.namespace);
    let hosts = lab.nodes.iter().chain([&router.host, &router.remote]).map(|host| &host.namespace);
    for namespace in pods.chain(hosts).chain([&lab.lan]) {
        let table = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        for line in table.lines().filter_map(|line| Some(line.split_once(':')?.1)) {
            // Behind eight columns of what was received: bytes, packets, errors, drops.
            dropped += column(line, 11, 10)?;
        }
    }
    Ok(dropped)
}

struct Stages {
    load: Openings,
    /// The load's rate.
    per_second: u32,
    /// Whether the load leaves room for others on this machine: where others have it, time says
    /// nothing.
    has_room: bool,
    counts: Counts,
    /// See [`dropped`].
    dropped: u64,
    /// In how many stages the client had not to wait for the processors itself, how many connections of
    /// these took longer than 100 ms, and the slowest.
    judged: usize,
    slow: usize,
    slowest: Duration,
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
        let all_dropped = dropped(routed)?;
        let dropped = all_dropped - std::mem::replace(&mut self.dropped, all_dropped);
        println!("{name}: {report}; {dropped} dropped by full queues {more:?}");
        let mut fared = report.check().with_context(|| name.to_owned());
        if dropped > 0 || report.behind >= EASY {
            let (per_second, behind) = (self.per_second, report.behind);
            fared = fared.context(Crowded { per_second, dropped, behind });
        }
        fared?;
        ensure!(more.is_empty(), "{name}: {more:?}");
        if self.has_room && dropped == 0 && report.behind < EASY {
            ensure!(report.slowest() < LIMIT, "{name}: {report}");
            self.judged += 1;
            self.slow += report.slow();
            self.slowest = self.slowest.max(report.slowest());
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

/// One after another, in order, as a DaemonSet's are.
fn restart_agents(routed: &mut Routed) -> Result<()> {
    for position in 0..routed.cluster.agents.len() {
        let status = routed.cluster.agents.remove(position).terminate(START_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}");
        routed.cluster.start_agent(position)?;
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
