//! A host that is no node has a VIP, too: it is told, and what the operator asked for is done.
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Host,
        addresses::{self, Pair, both, mac_text},
        frames,
        scenario::{self, Cluster, LISTEN, START_LIMIT},
    },
    system::PacketSocket,
    wait,
};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

/// What the agents log, and the reason of the Event.
const CONFLICT: &str = "AddressConflict";
/// The second addresses of the pool, which a second Service gets.
const SECOND_VIPS: Pair =
    (Ipv4Addr::new(10, 77, 0, 201), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x201));
/// How long a VIP stays withdrawn before it is asked for, the question, and what a machine that does
/// other things needs.
const WITHDRAWN: Duration = Duration::from_secs(60);

/// A host has an address that is then given to a Service: it is announced at once all the same, and
/// people are told. So they are of one that takes an address later; that is answered by one
/// announcement in ten seconds, however often it is repeated.
pub(crate) fn defended(cluster: &mut Cluster) -> Result<()> {
    let stranger = cluster.lab.add_host("stranger", addresses::host(66))?;
    let result = before(cluster, &stranger).and_then(|()| later(cluster, &stranger));
    remove_second(cluster)?;
    result?;
    cluster.await_all_serve()
}

fn before(cluster: &mut Cluster, stranger: &Host) -> Result<()> {
    has(stranger, SECOND_VIPS, true)?;
    add_second(cluster)?;
    for vip in both(SECOND_VIPS) {
        let what = format!("a node tells that {} claims {vip}", stranger.name);
        let owner = wait::until(START_LIMIT, &what, || teller(cluster, stranger, vip))?;
        let answers = scenario::answers(&cluster.lab, vip)?;
        ensure!(answers.len() == 2, "both are heard: {answers:?}");
        let announces = answers.iter().any(|a| cluster.lab.nodes[owner].mac == a.mac);
        ensure!(announces, "{} tells, but does not announce it: {answers:?}", owner + 1);
        let series =
            format!("herald_vip_conflict{{ip=\"{vip}\",interface=\"eth0\",state=\"defended\"}}");
        let metrics = scenario::metrics(&cluster.lab.nodes[owner])?;
        ensure!(scenario::sample(&metrics, &series)? == Some(1), "no {series}");
    }
    has(stranger, SECOND_VIPS, false)?;
    remove_second(cluster)
}

fn later(cluster: &mut Cluster, stranger: &Host) -> Result<()> {
    // Another address of the same Service's, which nobody has claimed yet.
    add_second(cluster)?;
    for vip in both(SECOND_VIPS) {
        let owner = scenario::await_owner_among(
            &cluster.lab,
            &scenario::node_names(&cluster.lab),
            vip,
            START_LIMIT,
        )?
        .clone();
        let told = tellings(cluster, stranger, vip)?;
        let defences = claim_for(stranger, vip, owner.mac, Duration::from_secs(4))?;
        let most = if vip.is_ipv4() { 2 } else { 1 };
        // The rounds after its coming may fall into that time.
        println!("{vip}: {defences} announcements of {} in 4 s of claims", owner.name);
        ensure!(defences >= 1, "{vip} was not defended");
        ensure!(defences <= most * 5, "{vip} was announced {defences} times within 4 s");
        let after = claim_for(stranger, vip, owner.mac, Duration::from_secs(4))?;
        // Eighty claims; what was put off, or is said again to a node that was out of sight, is little.
        ensure!(after <= 2 * most, "{vip} was announced {after} times within ten seconds");
        // The one before is not ten minutes old: it counts as the same, unless its owner is another.
        let now = tellings(cluster, stranger, vip)?;
        ensure!(now <= told + 1, "{vip}: told {} times", now - told);
        ensure!(now >= 1, "{vip}: not told");
    }
    Ok(())
}

/// A host that claims a VIP thousands of times a second, each time for another link-layer address, has no
/// more said or done than one that does so once: the agent hears of few of its claims, and clients are
/// answered.
pub(crate) fn flooded(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(&cluster.lab, vip)?;
    let agent = &cluster.agents[cluster.position(&owner.name)?];
    let stranger = cluster.lab.add_host("flood", addresses::host(68))?;
    let words = "AddressConflict";
    let told = agent.printed()?.matches(words).count();
    let heard = claims_heard(owner, vip)?;
    let began = Instant::now();
    let sent = stranger.namespace.enter(|| {
        let socket = PacketSocket::open("eth0")?;
        let mut sent = 0u32;
        while began.elapsed() < FLOOD {
            let [_, _, high, low] = sent.to_be_bytes();
            // Not faster than the machine takes them.
            if socket.send(&frames::announcement([2, 0x66, 0, 0, high, low], vip)).is_ok() {
                sent += 1;
            }
            if sent.is_multiple_of(64) {
                wait::sleep_until(Instant::now() + Duration::from_millis(1));
            }
        }
        Ok(sent)
    })?;
    let heard = claims_heard(owner, vip)? - heard;
    let took = began.elapsed();
    let told = agent.printed()?.matches(words).count() - told;
    println!("{sent} claims in {FLOOD:?}: the agent heard of {heard}, told {told} times");
    ensure!(sent > 10_000, "only {sent} claims: that is no flood");
    ensure!(told <= 1, "told {told} times");
    let processors = thread::available_parallelism()?.get() as f64;
    let most = (CLAIMS_TOLD * took.as_secs_f64() + CLAIMS_AHEAD) * processors;
    ensure!(heard > 0 && heard as f64 <= most, "{heard} claims heard, {most} at most");
    let owner = scenario::owner(&cluster.lab, vip)?.context("nobody answers")?;
    ensure!(owner.name == agent.node, "{} answers now", owner.name);
    cluster.await_all_serve()
}

/// For how long.
const FLOOD: Duration = Duration::from_secs(5);
/// Of how many claims a second the program on one processor tells the agent at most, and of how many at once
/// before that.
const CLAIMS_TOLD: f64 = 100.0;
const CLAIMS_AHEAD: f64 = 11.0;

/// Of how many claims of a VIP by other hosts a node's agent has been told.
fn claims_heard(node: &Host, vip: IpAddr) -> Result<u64> {
    let series = format!("herald_vip_claims_total{{ip=\"{vip}\"}}");
    Ok(scenario::sample(&scenario::metrics(node)?, &series)?.unwrap_or(0))
}

/// With `withdraw`, nobody but the host answers, until it is gone.
pub(crate) fn withdrawn() -> Result<()> {
    let mut cluster = Cluster::on_manifests(&["--address-conflict", "withdraw"])?;
    let result = withdraw(&mut cluster);
    result.map_err(|error| cluster.failed(error))
}

fn withdraw(cluster: &mut Cluster) -> Result<()> {
    let stranger = cluster.lab.add_host("stranger", addresses::host(66))?;
    has(&stranger, addresses::FIRST_VIPS, true)?;
    for vip in cluster.vips {
        claim(&stranger, vip)?;
        let what = format!("only {} answers for {vip}", stranger.name);
        // One node after the other takes it over, and finds out within a second or so.
        wait::until_true(START_LIMIT, &what, || {
            let answers = scenario::answers(&cluster.lab, vip)?;
            Ok(answers.len() == 1 && answers[0].mac == stranger.mac)
        })?;
        ensure!(teller(cluster, &stranger, vip)?.is_some(), "nobody tells of {vip}");
    }
    has(&stranger, addresses::FIRST_VIPS, false)?;
    for vip in cluster.vips {
        scenario::await_owner(&cluster.lab, &mut cluster.agents, vip, WITHDRAWN)?;
    }
    cluster.await_all_serve()
}

/// However often VIPs have moved among the nodes so far: that is no conflict.
pub(crate) fn moves_are_none(cluster: &Cluster) -> Result<()> {
    for agent in &cluster.agents {
        let printed = agent.printed()?;
        for node in &cluster.lab.nodes {
            let claims = format!("{} claims", mac_text(node.mac));
            let told = printed.lines().find(|line| line.contains(&claims));
            ensure!(told.is_none(), "{}: {}", agent.node, told.unwrap_or_default());
        }
    }
    Ok(())
}

/// Gives a host's kernel both addresses, or takes them from it.
fn has(host: &Host, (v4, v6): Pair, it: bool) -> Result<()> {
    let (does, nodad) = if it { ("add", "nodad") } else { ("del", "") };
    host.namespace
        .ip(&format!("addr {does} {v4}/24 dev eth0\naddr {does} {v6}/64 dev eth0 {nodad}\n"))
}

/// The position of the node whose agent tells that a host claims an address.
fn teller(cluster: &Cluster, host: &Host, vip: IpAddr) -> Result<Option<usize>> {
    for (at, agent) in cluster.agents.iter().enumerate() {
        let printed = agent.printed()?;
        if printed.lines().any(|line| tells(line, host, vip)) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// How often agents tell that a host claims an address.
fn tellings(cluster: &Cluster, host: &Host, vip: IpAddr) -> Result<usize> {
    let printed = cluster.agents.iter().map(|agent| {
        let printed = agent.printed()?;
        Ok(printed.lines().filter(|line| tells(line, host, vip)).count())
    });
    printed.sum()
}

fn tells(line: &str, host: &Host, vip: IpAddr) -> bool {
    let words = format!("{} claims {vip} on eth0", mac_text(host.mac));
    line.contains(CONFLICT) && line.contains("Service default/") && line.contains(&words)
}

/// Says once, to all, that a host has an address.
fn claim(host: &Host, vip: IpAddr) -> Result<()> {
    let frame = frames::announcement(host.mac, vip);
    host.namespace.enter(|| Ok(PacketSocket::open("eth0")?.send(&frame)?))
}

/// Says it every 50 ms, and returns how often `owner` announces it meanwhile.
fn claim_for(host: &Host, vip: IpAddr, owner: [u8; 6], time: Duration) -> Result<usize> {
    let frame = frames::announcement(host.mac, vip);
    host.namespace.enter(|| {
        let socket = PacketSocket::open("eth0")?;
        let end = Instant::now() + time;
        let mut announced = 0;
        while Instant::now() < end {
            socket.send(&frame)?;
            let next = Instant::now() + LISTEN;
            while let Some(heard) = socket.receive(next)? {
                announced += usize::from(frames::is_announcement(&heard, owner, vip));
            }
        }
        Ok(announced)
    })
}

const SECOND: [&str; 2] = ["web.yaml", "web-endpoints.yaml"];

fn add_second(cluster: &Cluster) -> Result<()> {
    let folder = cluster.folder()?;
    for name in SECOND {
        let text = fs::read_to_string(folder.join(name))?
            // The label that names the Service, too.
            .replace("name: web", "name: second");
        fs::write(folder.join(format!("second-{name}")), text).context("a second Service")?;
    }
    Ok(())
}

fn remove_second(cluster: &Cluster) -> Result<()> {
    let folder = cluster.folder()?;
    for name in SECOND {
        let _ = fs::remove_file(folder.join(format!("second-{name}")));
    }
    for vip in both(SECOND_VIPS) {
        wait::until_true(START_LIMIT, &format!("no node answers for {vip}"), || {
            let answers = scenario::answers(&cluster.lab, vip)?;
            Ok(answers.iter().all(|answer| cluster.lab.node_by_mac(answer.mac).is_none()))
        })?;
    }
    Ok(())
}
