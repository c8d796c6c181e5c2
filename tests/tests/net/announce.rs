//! ARP, neighbour discovery and echo: exactly one node answers, whatever the kernels would.
use anyhow::{Context, Result, bail, ensure};
use herald_tests::{
    lab::{
        Cut, Host, Lab, Shape,
        addresses::FIRST_VIPS,
        agent::Source,
        frames::{self, Resolved},
        maps,
        namespace::Namespace,
        probe,
        scenario::{self, Cluster, LISTEN, START_LIMIT, TAKEOVER_LIMIT},
    },
    suite,
    system::PacketSocket,
    wait,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

const QUESTIONS: usize = 20;
/// Flags of an advertisement (RFC 4861 section 4.4): never a router's; solicited; override.
const SOLICITED_OVERRIDE: u8 = 0b011;
const OVERRIDE: u8 = 0b001;

/// Requests and probes are answered by the owner, counted there, and dropped and counted by the
/// others.
pub(crate) fn arp(cluster: &Cluster) -> Result<()> {
    let vip = FIRST_VIPS.0;
    let (lab, client) = (&cluster.lab, &cluster.lab.client);
    let owner = scenario::owner(lab, vip.into())?.context("nobody answers")?;
    let before = counters(cluster)?;
    let told = answers_told(owner, vip.into())?;
    for i in 0..QUESTIONS {
        let sender = if i % 2 == 0 { client.ipv4 } else { Ipv4Addr::UNSPECIFIED };
        let answers = frames::arp(&client.namespace, client.mac, sender, vip, LISTEN)?;
        by(owner, &answers).with_context(|| format!("asked by {sender}"))?;
        ensure!(answers[0].frame_destination == client.mac, "not to the asker: {answers:?}");
    }
    for (node, (before, after)) in lab.nodes.iter().zip(before.iter().zip(counters(cluster)?)) {
        let answered = after.arp_answered - before.arp_answered;
        let dropped = after.arp_not_announced - before.arp_not_announced;
        let n = QUESTIONS as u64;
        let expected = if node.name == owner.name { (n, 0) } else { (0, n) };
        ensure!(
            (answered, dropped) == expected,
            "{}: answered {answered}, dropped {dropped}; expected {expected:?}",
            node.name
        );
    }
    let told = answers_told(owner, vip.into())? - told;
    ensure!(told == QUESTIONS as u64, "the metrics tell of {told} requests for {vip}");
    Ok(())
}

/// How many requests for a VIP the metrics of a node tell of, which are as many as answers.
fn answers_told(node: &Host, vip: IpAddr) -> Result<u64> {
    let metrics = scenario::metrics(node)?;
    let value = |name: &str| -> Result<u64> {
        let series = format!("{name}{{ip=\"{vip}\"}}");
        scenario::sample(&metrics, &series)?.with_context(|| format!("no {series}"))
    };
    let requests = value("metallb_layer2_requests_received")?;
    let responses = value("metallb_layer2_responses_sent")?;
    ensure!(requests == responses, "{requests} requests, {responses} responses");
    Ok(requests)
}

/// A host that checks whether an entry of its cache still holds asks one node alone.
pub(crate) fn arp_unicast(cluster: &Cluster) -> Result<()> {
    let vip = FIRST_VIPS.0;
    let (lab, client) = (&cluster.lab, &cluster.lab.client);
    let owner = scenario::owner(lab, vip.into())?.context("nobody answers")?;
    for node in &lab.nodes {
        let mut request = frames::arp_request(client.mac, client.ipv4, vip);
        request[..6].copy_from_slice(&node.mac);
        let answered = client.namespace.enter(|| {
            let socket = PacketSocket::open("eth0")?;
            socket.send(&request)?;
            let deadline = Instant::now() + LISTEN;
            while let Some(frame) = socket.receive(deadline)? {
                // What is not for the client alone is the owner's announcement.
                let answer = frame.len() >= 42
                    && frame[..6] == client.mac
                    && frame[12..14] == [8, 6]
                    && frame[28..32] == vip.octets();
                if answer {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        ensure!(answered == (node.name == owner.name), "{}: answered is {answered}", node.name);
    }
    Ok(())
}

/// Solicitations get a solicited advertisement; probes of duplicate address detection one to all
/// nodes.
pub(crate) fn ndp(cluster: &Cluster) -> Result<()> {
    let vip = FIRST_VIPS.1;
    let (lab, client) = (&cluster.lab, &cluster.lab.client);
    let owner = scenario::owner(lab, vip.into())?.context("nobody answers")?;
    let before = counters(cluster)?;
    let told = answers_told(owner, vip.into())?;
    for i in 0..QUESTIONS {
        let (sender, flags, destination) = if i % 2 == 0 {
            (client.ipv6, SOLICITED_OVERRIDE, client.mac)
        } else {
            (Ipv6Addr::UNSPECIFIED, OVERRIDE, [0x33, 0x33, 0, 0, 0, 1])
        };
        let mut answers = frames::ndp(&client.namespace, client.mac, sender, vip, LISTEN)?;
        if sender.is_unspecified() {
            // The owner may announce itself to all nodes meanwhile, which looks alike; whether it
            // answered show its counters.
            answers.dedup_by_key(|a| (a.mac, a.frame_source, a.flags));
        }
        by(owner, &answers).with_context(|| format!("asked by {sender}"))?;
        ensure!(answers[0].flags == flags, "asked by {sender}: {answers:?}");
        ensure!(answers[0].frame_destination == destination, "asked by {sender}: {answers:?}");
    }
    let told = answers_told(owner, vip.into())? - told;
    ensure!(told == QUESTIONS as u64, "the metrics tell of {told} solicitations for {vip}");
    let after = counters(cluster)?;
    for (node, (before, after)) in lab.nodes.iter().zip(before.iter().zip(after)) {
        let answered = after.ndp_answered - before.ndp_answered;
        let expected = if node.name == owner.name { QUESTIONS as u64 } else { 0 };
        ensure!(answered == expected, "{}: answered {answered}, not {expected}", node.name);
    }
    Ok(())
}

/// Who takes a VIP over says so at once, by all forms, and again; in a full run, until it says so as long
/// as it has it.
pub(crate) fn again(cluster: &mut Cluster) -> Result<()> {
    for vip in cluster.vips {
        let lab = &cluster.lab;
        let owner = scenario::settled_owner(lab, vip)?.clone();
        let macs: Vec<_> = lab.nodes.iter().map(|node| node.mac).collect();
        let listen = if suite::full() { Duration::from_secs(130) } else { Duration::from_secs(6) };
        lab.cut(&owner, Cut::Silent)?;
        let began = Instant::now();
        let heard = lab.client.namespace.enter(|| {
            let socket = PacketSocket::open("eth0")?;
            let mut heard = Vec::new();
            while let Some(frame) = socket.receive(began + listen)? {
                let of = macs.iter().find(|mac| frames::is_announcement(&frame, **mac, vip));
                heard.extend(of.filter(|mac| **mac != owner.mac).map(|_| began.elapsed()));
            }
            Ok(heard)
        });
        lab.mend(&owner)?;
        let heard = heard?;
        let first = *heard.first().with_context(|| format!("nobody announces {vip}"))?;
        println!("{vip}: announced after {first:?}, {} frames in {listen:?}", heard.len());
        ensure!(first <= TAKEOVER_LIMIT, "{vip}: announced after {first:?}");
        let forms = if vip.is_ipv4() { 2 } else { 1 };
        let soon = heard.iter().filter(|at| **at <= first + Duration::from_secs(6)).count();
        ensure!((4 * forms..=5 * forms).contains(&soon), "{vip}: {soon} frames, {forms} a round");
        if suite::full() {
            let late = heard.iter().filter(|at| **at > first + Duration::from_secs(60)).count();
            ensure!(late >= 1, "{vip}: not repeated");
        }
        cluster.await_all_serve()?;
    }
    Ok(())
}

/// A node with some two hundred VIPs vanishes: the other has announced all of them after a tenth of a
/// second, each within few frames at a time.
pub(crate) fn many() -> Result<()> {
    let lab = Lab::new(Shape { nodes: 2, pods_per_node: 1, ..Shape::default() })?;
    let result = on_many(&lab);
    if result.is_err() {
        lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", lab.directory.display()))
}

/// Services with a VIP of each family.
const MANY: usize = 200;

fn on_many(lab: &Lab) -> Result<()> {
    let options = scenario::on_manifests(lab)?;
    let Source::Manifests(folder) = &options.source else { bail!("no folder") };
    let pool = fs::read_to_string(folder.join("pool.yaml"))?;
    fs::write(folder.join("pool.yaml"), pool.replace("10.77.0.200-10.77.0.239", "10.77.1.0/24"))?;
    for file in ["web.yaml", "web-endpoints.yaml"] {
        let text = fs::read_to_string(folder.join(file))?;
        let all: Vec<_> = (1..MANY)
            // The label that names the Service, too.
            .map(|n| text.replace("name: web", &format!("name: web{n}")))
            .collect();
        fs::write(folder.join(format!("many-{file}")), all.join("---\n"))?;
    }
    let _agents = scenario::start_agents(lab, &options)?;
    let (node, other) = (&lab.nodes[0], &lab.nodes[1]);
    let owned = |of: &Host| maps::announced(&lab.pin_directory(of));
    let shared = || -> Result<Option<BTreeSet<IpAddr>>> {
        let (Ok(here), Ok(there)) = (owned(node), owned(other)) else { return Ok(None) };
        let all = here.len() + there.len() == 2 * MANY;
        Ok((all && !here.is_empty() && !there.is_empty()).then_some(here))
    };
    let moving = wait::until(START_LIMIT * 2, "both nodes share all VIPs", shared)?;
    // Until the repetitions of what came first are over.
    let quiet = Instant::now() + Duration::from_secs(6);
    let (lan, port, mac) = (&lab.lan, &node.port, other.mac);
    // One of two that hears nothing at all takes itself for the one that is cut off.
    let first = Ipv4Addr::new(10, 77, 1, 0);
    let anybody = (IpAddr::from(first), scenario::WEB_PORT).into();
    let asking = probe::watch_gaps(&lab.client.namespace, anybody, Duration::from_millis(5));
    let heard = lab.client.namespace.enter(|| {
        let socket = PacketSocket::open("eth0")?;
        while socket.receive(quiet)?.is_some() {}
        lab_cut(lan, port)?;
        let began = Instant::now();
        let mut heard = BTreeMap::new();
        while let Some(frame) = socket.receive(began + Duration::from_secs(2))? {
            let vip = moving.iter().find(|vip| frames::is_announcement(&frame, mac, **vip));
            if let Some(vip) = vip {
                heard.entry(*vip).or_insert_with(|| began.elapsed());
            }
        }
        Ok(heard)
    })?;
    asking.stop()?;
    ensure!(heard.len() == moving.len(), "{} of {} are announced", heard.len(), moving.len());
    let (first, last) =
        (heard.values().min().context("none")?, heard.values().max().context("none")?);
    println!("{} VIPs: announced {first:?} to {last:?} after the cut", heard.len());
    ensure!(*last - *first <= 4 * Duration::from_millis(100), "within {:?}", *last - *first);
    ensure!(*first <= TAKEOVER_LIMIT, "after {first:?}");
    Ok(())
}

fn lab_cut(lan: &Namespace, port: &str) -> Result<()> {
    lan.ip(&format!("link set {port} nomaster\n"))
}

/// `ping` and `ping -6`, also with more data than usual.
pub(crate) fn echo(cluster: &Cluster) -> Result<()> {
    for vip in cluster.vips {
        for size in ["56", "1400"] {
            let text = cluster.lab.client.namespace.output(
                "ping",
                &["-n", "-c", "10", "-i", "0.05", "-W", "1", "-s", size, &vip.to_string()],
            )?;
            ensure!(text.contains(" 0% packet loss"), "{text}");
        }
    }
    Ok(())
}

/// kube-proxy in IPVS mode has every VIP on an interface of every node: a kernel with the
/// address would answer, as the control shows, and must not be heard.
pub(crate) fn address_in_the_kernel(cluster: &Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let (vip4, vip6) = FIRST_VIPS;
    let other = Ipv4Addr::new(10, 77, 0, 250);
    for node in &lab.nodes {
        node.namespace.ip(&format!(
            "addr add {vip4}/32 dev lo\naddr add {other}/32 dev lo\n\
             addr add {vip6}/128 dev eth0 nodad\n"
        ))?;
    }
    let result = (|| {
        let answers = frames::arp_from(&lab.client, other, LISTEN)?;
        ensure!(answers.len() == lab.nodes.len(), "every kernel answers for its own: {answers:?}");
        for vip in cluster.vips {
            let owner = scenario::owner(lab, vip)?;
            if owner.is_none() {
                bail!("nobody answers for {vip} any more");
            }
        }
        Ok(())
    })();
    for node in &lab.nodes {
        node.namespace.ip(&format!(
            "addr del {vip4}/32 dev lo\naddr del {other}/32 dev lo\n\
             addr del {vip6}/128 dev eth0\n"
        ))?;
    }
    result
}

fn by(owner: &Host, answers: &[Resolved]) -> Result<()> {
    ensure!(
        answers.len() == 1 && answers[0].mac == owner.mac && answers[0].frame_source == owner.mac,
        "{} alone should answer, but: {answers:?}",
        owner.name
    );
    Ok(())
}

fn counters(cluster: &Cluster) -> Result<Vec<lb_common::outcome::Counters>> {
    cluster.agents.iter().map(|agent| maps::counters(&agent.pin_directory)).collect()
}
