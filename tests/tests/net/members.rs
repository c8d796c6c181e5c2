//! Who is alive: how soon a node is missed, and who is not.
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Cut, Host, addresses, command, probe,
        scenario::{self, AGENT_LIMIT, Cluster, TAKEOVER_LIMIT, WEB_PORT},
    },
    suite, wait,
};
use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Cuts the owner's link again and again: how long a client with ever new flows goes without an answer.
pub(crate) fn cut_links(cluster: &mut Cluster) -> Result<()> {
    let cuts = if suite::full() { 100 } else { 4 };
    let mut gaps = Vec::new();
    for round in 0..cuts {
        let vip = cluster.vips[0];
        let lab = &cluster.lab;
        let owner = scenario::settled_owner(lab, vip)?;
        let how = if round % 2 == 0 { Cut::Silent } else { Cut::Port };
        let others = scenario::others(lab, owner);
        let taken = scenario::takeover(lab, vip, owner, &others, || lab.cut(owner, how))?;
        gaps.push(taken.gap);
        lab.mend(owner)?;
        cluster.await_all_serve()?;
    }
    gaps.sort();
    let percentile = |of: usize| gaps[(gaps.len() * of).div_ceil(100) - 1];
    let longest = percentile(100);
    println!(
        "longest gap at {cuts} cut links: p50 {:?}, p99 {:?}, at most {longest:?}",
        percentile(50),
        percentile(99)
    );
    ensure!(longest <= TAKEOVER_LIMIT, "{longest:?}, the limit is {TAKEOVER_LIMIT:?}");
    Ok(())
}

/// An agent that is killed is missed within a second, and another node answers, too: the kernel of the
/// first goes on, so that the client misses nothing.
pub(crate) fn killed_agent(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
    let position = cluster.position(&owner)?;
    let agent = cluster.agents.remove(position);
    let pid = agent.pid().to_string();
    missed(cluster, &owner, || command::run(Command::new("kill").args(["-KILL", &pid])).map(drop))?;
    drop(agent);
    cluster.start_agent(position)?;
    cluster.await_all_serve()
}

/// So is one that is there but does not run; when it runs again it gives way or takes its part again, and
/// nobody misses anything.
pub(crate) fn frozen_agent(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let owner = scenario::settled_owner(&cluster.lab, vip)?.name.clone();
    let pid = cluster.agents[cluster.position(&owner)?].pid().to_string();
    let signal = |name: &str| command::run(Command::new("kill").args([name, &pid])).map(drop);
    let result = missed(cluster, &owner, || signal("-STOP"));
    signal("-CONT")?;
    result?;
    cluster.await_all_serve()
}

/// Probes an address while its owner's agent is taken away, until another node announces it.
fn missed(cluster: &Cluster, owner: &str, take: impl FnOnce() -> Result<()>) -> Result<()> {
    let (lab, vip) = (&cluster.lab, cluster.vips[0]);
    let gaps =
        probe::watch_gaps(&lab.client.namespace, (vip, WEB_PORT).into(), Duration::from_millis(2));
    wait::sleep_until(Instant::now() + Duration::from_millis(200));
    take()?;
    let began = Instant::now();
    let what = format!("another node than {owner} answers for {vip}");
    let other = wait::until(AGENT_LIMIT, &what, || {
        let answers = scenario::answers(lab, vip)?;
        let nodes = answers.iter().filter_map(|answer| lab.node_by_mac(answer.mac));
        Ok(nodes.map(|node| node.name.clone()).find(|name| name != owner))
    })?;
    println!("{other} answers {:?} after the agent of {owner} was gone", began.elapsed());
    // While both answer, too.
    wait::sleep_until(Instant::now() + Duration::from_millis(500));
    let gaps = gaps.stop()?;
    let lost = gaps.lost();
    ensure!(lost == 0, "{vip}: {lost} of {} probes lost", gaps.sent);
    Ok(())
}

/// A link that lets frames through in one direction only is as good as cut: others take over, and the
/// node does not take it back from them.
pub(crate) fn one_way(cluster: &mut Cluster) -> Result<()> {
    for direction in ["ingress", "egress"] {
        let vip = cluster.vips[0];
        let lab = &cluster.lab;
        let owner = scenario::settled_owner(lab, vip)?;
        let others = scenario::others(lab, owner);
        let taken =
            scenario::takeover(lab, vip, owner, &others, || block(cluster, owner, direction))?;
        let (lost, sent) = {
            // Longer than it takes to give up hope for the others.
            let to = (vip, WEB_PORT).into();
            let probing = probe::watch_gaps(&lab.client.namespace, to, Duration::from_millis(5));
            wait::sleep_until(Instant::now() + Duration::from_secs(3));
            let gaps = probing.stop()?;
            (gaps.lost(), gaps.sent)
        };
        let still = scenario::settled_owner(lab, vip);
        lab.lan.output("nft", &["delete", "table", "netdev", "one_way"])?;
        println!("frames of {} lost at {direction}: a gap of {:?}", owner.name, taken.gap);
        ensure!(taken.gap <= TAKEOVER_LIMIT, "{direction}: {:?}", taken.gap);
        // Whoever takes a VIP back unheard loses them all.
        ensure!(100 * lost <= sent, "{direction}: {lost} of {sent} probes lost after the takeover");
        let still = still?;
        ensure!(others.contains(&&*still.name), "{direction}: {} answers again", still.name);
        cluster.await_all_serve()?;
    }
    Ok(())
}

/// Drops what comes from a node at its switch's port (`ingress`), or what goes to it (`egress`).
fn block(cluster: &Cluster, node: &Host, direction: &str) -> Result<()> {
    let port = &node.port;
    let rules = format!(
        "table netdev one_way {{\n chain lost {{\n\
         type filter hook {direction} device \"{port}\" priority 0; policy drop;\n }}\n}}\n"
    );
    cluster.lab.lan.feed("nft", &["-f", "-"], &rules).map(drop)
}

/// Agents get next to no processor time for a while: what they then believe of each other costs nobody
/// an answer, and in the end one node answers for each VIP.
pub(crate) fn starved_agents(cluster: &mut Cluster) -> Result<()> {
    let idle = |cluster: &Cluster, policy: &str| {
        cluster.agents.iter().try_for_each(|agent| {
            let pid = agent.pid().to_string();
            command::run(Command::new("chrt").args(["-a", policy, "-p", "0", &pid])).map(drop)
        })
    };
    idle(cluster, "--idle")?;
    let result = starve(cluster);
    idle(cluster, "--other")?;
    result?;
    cluster.await_all_serve()
}

/// Takes all processors while clients ask.
fn starve(cluster: &Cluster) -> Result<()> {
    let client = &cluster.lab.client.namespace;
    let every = Duration::from_millis(10);
    let probes = cluster.vips.map(|vip| probe::watch_gaps(client, (vip, WEB_PORT).into(), every));
    let over = AtomicBool::new(false);
    let processors = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        for _ in 0..2 * processors {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        wait::sleep_until(Instant::now() + STARVED);
        over.store(true, Relaxed);
    });
    for (vip, probing) in cluster.vips.into_iter().zip(probes) {
        let gaps = probing.stop()?;
        let lost = gaps.lost();
        println!("{vip}: {lost} of {} probes lost, {:?} at the longest", gaps.sent, gaps.longest());
        ensure!(gaps.sent > 100, "{vip}: only {} probes were sent", gaps.sent);
        ensure!(lost == 0, "{vip}: {lost} of {} probes lost", gaps.sent);
    }
    Ok(())
}

/// The network is in two for a while, and both parts have a node that answers; when it is one again, one
/// does, everybody's caches say so, and clients miss nothing.
pub(crate) fn halves(cluster: &mut Cluster) -> Result<()> {
    let witness = cluster.lab.add_host("witness", addresses::host(67))?;
    let vip = cluster.vips[0];
    let lab = &cluster.lab;
    let owner = scenario::settled_owner(lab, vip)?.clone();
    let single = lab.node(scenario::others(lab, &owner)[0])?.clone();
    lab.part(&[&single, &lab.client])?;
    let result = (|| -> Result<()> {
        for vip in cluster.vips {
            let what = format!("{} answers for {vip} in its half", single.name);
            wait::until_true(AGENT_LIMIT, &what, || {
                let answers = scenario::answers(lab, vip)?;
                Ok(answers.len() == 1 && answers[0].mac == single.mac)
            })?;
            // Both have it in their caches then.
            let others: Vec<_> =
                scenario::others(lab, &single).into_iter().map(|name| lab.node(name)).collect();
            wait::until_true(AGENT_LIMIT, &format!("both halves reach {vip}"), || {
                if ![&lab.client, &witness].iter().all(|host| reaches(host, vip)) {
                    return Ok(false);
                }
                let (here, there) = (cached(&lab.client, vip)?, cached(&witness, vip)?);
                let other = others.iter().flatten().any(|node| there == Some(node.mac));
                Ok(here == Some(single.mac) && other)
            })?;
        }
        Ok(())
    })();
    let gaps =
        probe::watch_gaps(&lab.client.namespace, (vip, WEB_PORT).into(), Duration::from_millis(5));
    [&single, &lab.client].into_iter().try_for_each(|host| lab.mend(host))?;
    let healed = Instant::now();
    result?;
    for vip in cluster.vips {
        let now = scenario::settled_owner(lab, vip)?;
        let what = format!("all caches say that {vip} is at {}", now.name);
        wait::until_true(2 * AGENT_LIMIT, &what, || {
            Ok([&lab.client, &witness]
                .iter()
                .all(|host| cached(host, vip).is_ok_and(|mac| mac == Some(now.mac))))
        })?;
        println!(
            "{vip}: all caches are right {:?} after the network is one again",
            healed.elapsed()
        );
    }
    let gaps = gaps.stop()?;
    ensure!(
        gaps.longest() <= TAKEOVER_LIMIT,
        "{:?} without an answer when it became one",
        gaps.longest()
    );
    cluster.await_all_serve()
}

/// Whether a host gets an answer from a VIP.
fn reaches(host: &Host, vip: IpAddr) -> bool {
    let arguments = ["-n", "-c", "1", "-W", "1", &vip.to_string()];
    host.namespace.output("ping", &arguments).is_ok()
}

/// The link-layer address that a host's kernel has for an address.
fn cached(host: &Host, address: IpAddr) -> Result<Option<[u8; 6]>> {
    let text = host.namespace.output("ip", &["neigh", "show", &address.to_string()])?;
    let mac = text.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    let Some(mac) = mac else { return Ok(None) };
    let bytes: Vec<_> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Ok(bytes.try_into().ok())
}

/// The agents' key is exchanged for another while they run: nobody misses anybody, and clients nothing.
pub(crate) fn keys_change() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("keys");
    let (old, new) = ("an old key of the cluster", "a new key of the cluster");
    fs::write(&file, old)?;
    let path = file.display().to_string();
    let mut cluster = Cluster::on_manifests(&["--membership-secret-file", &path])?;
    let result = exchange(&mut cluster, &file, &[&format!("{old}\n{new}"), new]);
    result.map_err(|error| cluster.failed(error))
}

fn exchange(cluster: &mut Cluster, file: &Path, steps: &[&str]) -> Result<()> {
    let client = &cluster.lab.client.namespace;
    let probing =
        probe::watch_gaps(client, (cluster.vips[0], WEB_PORT).into(), Duration::from_millis(10));
    let count = |cluster: &Cluster, text: &str| -> Result<Vec<usize>> {
        let printed = cluster.agents.iter().map(|agent| Ok(agent.printed()?.matches(text).count()));
        printed.collect()
    };
    let alive = count(cluster, ALIVE_CHANGED)?;
    for (step, keys) in steps.iter().enumerate() {
        fs::write(file, keys)?;
        wait::until_true(KEYS_READ, "all agents read the keys", || {
            Ok(count(cluster, KEYS_CHANGED)?.iter().all(|read| *read == step + 1))
        })?;
        // Longer than an agent may be silent.
        wait::sleep_until(Instant::now() + Duration::from_millis(1500));
    }
    let gaps = probing.stop()?;
    let lost = gaps.lost();
    ensure!(lost == 0, "{lost} of {} probes lost", gaps.sent);
    ensure!(count(cluster, ALIVE_CHANGED)? == alive, "somebody was missed");
    Ok(())
}

/// How long agents get no processor.
const STARVED: Duration = Duration::from_secs(10);
/// What agents log.
const ALIVE_CHANGED: &str = "who is alive has changed";
const KEYS_CHANGED: &str = "agents know each other by other keys";
/// How long agents may take to read keys.
const KEYS_READ: Duration = Duration::from_secs(20);
