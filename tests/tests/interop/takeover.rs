//! Herald takes over from another load balancer with kube-proxy, and changes between its two ways
//! of delivering, with connections open.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Shape,
        connections::Load,
        probe::{self, Over},
        routed::Routed,
        scenario::{self, START_LIMIT, WEB_PORT},
    },
    suite, wait,
};
use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

/// What stands in the cluster, of `examples/`.
const OBJECTS: [&str; 4] =
    ["manifests/nodes.yaml", "manifests/web-endpoints.yaml", "pool.yaml", "web.yaml"];

/// Four times what a connection may take to be opened, or to be answered: a SYN that is lost is
/// repeated after a second.
const LIMIT: Duration = Duration::from_millis(400);

/// A thread's own network namespace's counters.
const SNMP: &str = "/proc/thread-self/net/snmp";

/// Rounds of new connections before and after a change.
const ROUNDS: u64 = 50;

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

/// The same with 5,000 new connections a second from few client ports, which meet what conntrack still
/// has of earlier ones: none is refused, and none loses a segment.
pub(crate) fn under_load() -> Result<()> {
    let mut routed = Routed::on_kubernetes(Shape::routed(), &OBJECTS)?;
    let result = take_over_under_load(&mut routed);
    result.map_err(|error| routed.failed(error))
}

fn take_over_under_load(routed: &mut Routed) -> Result<()> {
    let remote = &routed.remote()?.namespace;
    // Each port is used again after three seconds, as on a busy proxy.
    remote.sysctl("net/ipv4/ip_local_port_range", "20000 35000")?;
    remote.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    routed.await_all_serve()?;
    let interval = Duration::from_millis(if suite::full() { 40 } else { 200 });
    let load = Load { connections: 110, interval, life: Some(Duration::ZERO), ..Load::default() };
    let (begun, repeated) = (Instant::now(), segments_repeated(routed)?);
    let traffic = routed.traffic(load, 0)?;
    traffic.settle(ROUNDS)?;
    routed.cluster.agents = scenario::start_agents(&routed.cluster.lab, &routed.cluster.options)?;
    for arguments in [&[][..], &["--delivery", "kernel"], &[]] {
        if routed.cluster.options.arguments != arguments {
            routed.cluster.options.arguments = arguments.iter().map(ToString::to_string).collect();
            restart_agents(routed)?;
        }
        await_delivery(routed, arguments.is_empty())?;
        traffic.settle(ROUNDS)?;
    }
    let outcome = traffic.stop()?;
    let took = begun.elapsed().as_secs_f64();
    let opened: usize = outcome.tcp.iter().map(|(_, report)| report.opened).sum();
    println!(
        "\n{outcome}{:.0} connections a second, {} segments repeated by the client",
        opened as f64 / took,
        segments_repeated(routed)? - repeated
    );
    outcome.check()?;
    for (vip, report) in &outcome.tcp {
        ensure!(report.longest < LIMIT, "{vip}: {report}");
    }
    Ok(())
}

/// How many segments the client behind the router has had to send again so far.
fn segments_repeated(routed: &Routed) -> Result<u64> {
    let text = routed.remote()?.namespace.enter(|| Ok(fs::read_to_string(SNMP)?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next(), lines.next());
    let mut all = names.unwrap_or_default().split(' ').zip(values.unwrap_or_default().split(' '));
    let (_, value) = all.find(|(name, _)| *name == "RetransSegs").context("RetransSegs")?;
    Ok(value.parse()?)
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
