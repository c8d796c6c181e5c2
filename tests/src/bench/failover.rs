//! What clients notice when a node's link is cut, and when agents stop, start and change.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_common::maps::SCHEMA_VERSION;

use super::{api_server::percentile, report::Judged};
use crate::{
    lab::{
        Cut, Host, Lab, Recording, Shape,
        agent::Agent,
        endpoints::{self, Condition},
        maps,
        probe::{self, Running},
        scenario::{self, AGENT_LIMIT, Cluster, START_LIMIT, WEB_PORT},
    },
    wait,
};

/// Services beside the one of the examples; a third of them on each node.
const SERVICES: u16 = 600;
/// Of those that the node owned whose link is cut, so many are probed.
const PROBED: usize = 16;
/// How often one address is probed, where it is the only one, and where there are many.
const ONE: Duration = Duration::from_millis(2);
const MANY: Duration = Duration::from_millis(4);
/// How long is probed before something happens, and after it is over.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_secs(1);
/// What clients may go without an answer for when a link is cut, ms.
const TARGET: f64 = 250.0;
/// Most answers are waited for, for so many addresses.
const LIMIT: Duration = Duration::from_secs(60);

/// What was found out.
#[derive(Clone, Debug)]
pub struct Failover {
    /// The longest gap at each cut link, ms, sorted: of one address, and of each probed one of many.
    one: Vec<f64>,
    many: Vec<f64>,
    /// How many the nodes owned whose links were cut, least and most.
    owned: (usize, usize),
    /// What planned work lost: its name, probes lost, probes sent.
    planned: Vec<(&'static str, usize, usize)>,
}

/// Cuts links of one VIP's owner, and of nodes with hundreds, so many times each, and then does
/// what is done to agents.
///
/// # Errors
/// A laboratory cannot be made, or does not do what it should.
pub fn measure(cuts: usize) -> Result<Failover> {
    let one = with_cluster(0, |cluster| {
        let vip = cluster.vips[0];
        let one = |round| {
            scenario::settled_owner(&cluster.lab, vip)?;
            Ok(cut(cluster, &[vip], ONE, round)?.1[0])
        };
        (0..cuts).map(one).collect()
    })?;
    let (many, owned) = with_cluster(SERVICES, |cluster| {
        let vips: Vec<IpAddr> = (1..=SERVICES).map(|n| vip(n).into()).collect();
        let (mut gaps, mut owned) = (Vec::new(), Vec::new());
        for round in 0..cuts.div_ceil(4) {
            // Agents that have forgotten who lost its VIPs of late: all own a third.
            for position in 0..cluster.agents.len() {
                cluster.restart_agent(position)?;
            }
            await_known(cluster)?;
            await_all(cluster, &vips)?;
            let (owns, of_round) = cut(cluster, &vips, MANY, round)?;
            gaps.extend(of_round);
            owned.push(owns);
        }
        let least = owned.iter().min().copied().unwrap_or_default();
        Ok((gaps, (least, owned.iter().max().copied().unwrap_or_default())))
    })?;
    let planned = with_cluster(0, planned)?;
    let sorted = |mut gaps: Vec<f64>| {
        gaps.sort_by(f64::total_cmp);
        gaps
    };
    Ok(Failover { one: sorted(one), many: sorted(many), owned, planned })
}

fn with_cluster<T>(services: u16, body: impl FnOnce(&mut Cluster) -> Result<T>) -> Result<T> {
    let shape = Shape { recording: Recording::None, ..Shape::default() };
    let mut cluster = Cluster::on_manifests_and(shape, &[], |lab, folder| {
        if services > 0 {
            lab.client.namespace.ip("route add 10.78.0.0/16 dev eth0\n")?;
            fs::write(folder.join("many.yaml"), many(lab, services)?)?;
        }
        Ok(())
    })?;
    let result = body(&mut cluster);
    result.map_err(|error| cluster.failed(error))
}

/// How long agents that have started go on telling what they announce.
const CALM: Duration = Duration::from_secs(8);

/// The address of a Service, outside of what the LAN's hosts have.
fn vip(service: u16) -> Ipv4Addr {
    let [high, low] = service.to_be_bytes();
    Ipv4Addr::new(10, 78, high, low)
}

/// Services with an address each, all with the same pods.
fn many(lab: &Lab, services: u16) -> Result<String> {
    let pods: Vec<_> = lab.pods.iter().map(|pod| (pod, Condition::Ready)).collect();
    let mut text = String::from(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: many, namespace: \
         metallb-system}\nspec: {addresses: [10.78.0.0/16], autoAssign: false}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: many, namespace: \
         metallb-system}\nspec: {ipAddressPools: [many]}\n",
    );
    for service in 1..=services {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: many-{service}\n  namespace: \
             default\n  annotations: {{metallb.io/loadBalancerIPs: {}}}\nspec:\n  type: \
             LoadBalancer\n  selector: {{app: web}}\n  ports:\n  - {{name: probe, protocol: UDP, \
             port: 80, targetPort: 8080}}\n",
            vip(service)
        )?;
        text += &endpoints::slices(lab, &format!("many-{service}"), &pods)?;
    }
    Ok(text)
}

/// Waits until agents that have just started know each other, and have told what they announce: what is
/// pinned would say so at once.
fn await_known(cluster: &Cluster) -> Result<()> {
    for node in &cluster.lab.nodes {
        scenario::await_known(&cluster.lab, node, LIMIT)?;
    }
    wait::sleep_until(Instant::now() + CALM);
    Ok(())
}

/// Waits until all is served and each address is announced by one node.
fn await_all(cluster: &mut Cluster, vips: &[IpAddr]) -> Result<()> {
    cluster.await_all_serve()?;
    wait::until_true(LIMIT, "nodes announce all addresses", || {
        let owned = owned(&cluster.lab, vips)?;
        Ok(owned.values().map(Vec::len).sum::<usize>() == vips.len())
    })
}

/// Which of the addresses each node announces.
fn owned<'a>(lab: &'a Lab, vips: &[IpAddr]) -> Result<BTreeMap<&'a str, Vec<IpAddr>>> {
    let of_node = |node: &'a Host| {
        let all = maps::announced(&lab.pin_directory(node))?;
        Ok((&*node.name, vips.iter().filter(|vip| all.contains(vip)).copied().collect()))
    };
    lab.nodes.iter().map(of_node).collect()
}

/// Cuts the link of the node that owns the most of the addresses, and mends it when all is served
/// again. Returns how many it owned, and the longest gap of each that was probed, ms.
fn cut(
    cluster: &mut Cluster,
    vips: &[IpAddr],
    every: Duration,
    round: usize,
) -> Result<(usize, Vec<f64>)> {
    let lab = &cluster.lab;
    let most = owned(lab, vips)?.into_iter().max_by_key(|(_, owned)| owned.len());
    let (name, owned) = most.context("no address is owned")?;
    let node = lab.node(name)?;
    let step = owned.len().div_ceil(PROBED);
    let probed: Vec<IpAddr> = owned.iter().copied().step_by(step).collect();
    let probes = watch(lab, &probed, every);
    wait::sleep_until(Instant::now() + BEFORE);
    lab.cut(node, if round.is_multiple_of(2) { Cut::Silent } else { Cut::Port })?;
    let others = scenario::others(lab, node);
    for vip in &probed {
        scenario::await_owner_among(lab, &others, *vip, AGENT_LIMIT)?;
    }
    wait::sleep_until(Instant::now() + AFTER);
    let mut gaps = Vec::new();
    for (vip, probe) in probed.iter().zip(probes) {
        let seen = probe.stop()?;
        ensure!(seen.answered.len() > 20, "{vip}: {} probes answered", seen.answered.len());
        gaps.push(seen.longest().as_secs_f64() * 1e3);
    }
    lab.mend(node)?;
    eprintln!(
        "{name} cut off with {} VIPs: the longest gap {:.0} ms",
        owned.len(),
        gaps.iter().copied().fold(0.0, f64::max)
    );
    cluster.await_all_serve()?;
    Ok((owned.len(), gaps))
}

fn watch(lab: &Lab, vips: &[IpAddr], every: Duration) -> Vec<Running<probe::Gaps>> {
    let client = &lab.client.namespace;
    vips.iter().map(|vip| probe::watch_gaps(client, (*vip, WEB_PORT).into(), every)).collect()
}

type Work = fn(&mut Cluster, usize) -> Result<()>;

/// What is done to the agent of the node that announces, under probes of both families.
fn planned(cluster: &mut Cluster) -> Result<Vec<(&'static str, usize, usize)>> {
    let works: [(&str, Work); 5] = [
        ("agent killed and started again", |cluster, position| {
            cluster.agents.remove(position).kill()?;
            cluster.start_agent(position)
        }),
        ("agent told to stop and started again", |cluster, position| {
            stop(cluster.agents.remove(position))?;
            cluster.start_agent(position)
        }),
        ("the same with tables of another version", |cluster, position| {
            let agent = cluster.agents.remove(position);
            let directory = agent.pin_directory.clone();
            stop(agent)?;
            let version = |number| directory.join(format!("v{number}"));
            fs::rename(version(SCHEMA_VERSION), version(SCHEMA_VERSION - 1))?;
            cluster.start_agent(position)
        }),
        ("agent told to leave", |cluster, position| {
            let agent = cluster.agents.remove(position);
            ensure!(agent.interrupt(AGENT_LIMIT)?.success(), "the agent failed");
            await_others(cluster, position)?;
            cluster.start_agent(position)
        }),
        ("node cordoned, drained, and its agent stopped", |cluster, position| {
            drain(cluster, position)?;
            await_others(cluster, position)?;
            cluster.start_agent(position)?;
            undo_drain(cluster)
        }),
    ];
    let mut all = Vec::new();
    for (name, work) in works {
        let owner = scenario::settled_owner(&cluster.lab, cluster.vips[0])?.name.clone();
        let position = cluster.position(&owner)?;
        let probes = watch(&cluster.lab, &cluster.vips, ONE);
        wait::sleep_until(Instant::now() + BEFORE);
        let done = work(cluster, position);
        let all_serve = done.and_then(|()| cluster.await_all_serve());
        let (mut lost, mut sent) = (0, 0);
        for probe in probes {
            let seen = probe.stop()?;
            lost += seen.lost();
            sent += seen.sent;
        }
        all_serve.with_context(|| name.to_owned())?;
        eprintln!("{name}: {lost} of {sent} probes lost");
        all.push((name, lost, sent));
    }
    Ok(all)
}

fn stop(agent: Agent) -> Result<()> {
    ensure!(agent.terminate(AGENT_LIMIT)?.success(), "the agent failed");
    Ok(())
}

fn await_others(cluster: &Cluster, position: usize) -> Result<()> {
    let lab = &cluster.lab;
    let others = scenario::others(lab, &lab.nodes[position]);
    scenario::await_owner_among(lab, &others, cluster.vips[0], AGENT_LIMIT).map(drop)
}

/// As `kubectl drain` does: no new pods, those that are there end, and then the machine goes down.
fn drain(cluster: &mut Cluster, position: usize) -> Result<()> {
    let folder = cluster.folder()?;
    let lab = &cluster.lab;
    let node: &Host = &lab.nodes[position];
    let nodes = folder.join("nodes.yaml");
    let name = format!("name: {}\n", node.name);
    let text = fs::read_to_string(&nodes)?;
    ensure!(text.contains(&name) && text.contains("\nspec:\n"), "nodes.yaml looks different");
    let (before, after) = text.split_once(&name).context("the node is there")?;
    let after = after.replacen("\nspec:\n", "\nspec:\n  unschedulable: true\n", 1);
    endpoints::replace(&nodes, &format!("{before}{name}{after}"))?;
    endpoints_without(lab, &folder, position, Condition::Terminating)?;
    let agent = cluster.agents.remove(position);
    wait::until_true(START_LIMIT, "the agent sees that its node is cordoned", || {
        Ok(agent.printed()?.contains("reason=is cordoned"))
    })?;
    wait::sleep_until(Instant::now() + AFTER);
    let rest: Vec<_> = lab.pods.iter().filter(|pod| pod.node != position).collect();
    let rest: Vec<_> = rest.into_iter().map(|pod| (pod, Condition::Ready)).collect();
    endpoints::write(lab, &folder, &rest)?;
    stop(agent)
}

fn endpoints_without(lab: &Lab, folder: &Path, node: usize, of_node: Condition) -> Result<()> {
    let condition = |of: usize| if of == node { of_node } else { Condition::Ready };
    let all: Vec<_> = lab.pods.iter().map(|pod| (pod, condition(pod.node))).collect();
    endpoints::write(lab, folder, &all)
}

fn undo_drain(cluster: &Cluster) -> Result<()> {
    let folder = cluster.folder()?;
    let nodes = folder.join("nodes.yaml");
    let text = fs::read_to_string(&nodes)?.replace("  unschedulable: true\n", "");
    endpoints::replace(&nodes, &text)?;
    endpoints_without(&cluster.lab, &folder, usize::MAX, Condition::Ready)
}

impl Failover {
    /// The figures, with what they are held against.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { one, many, owned: (least, most), planned } = self;
        let mut all = Vec::new();
        let of_many = format!("nodes with {least} to {most} VIPs");
        for (name, gaps) in [("a node with 2 VIPs", one), (of_many.as_str(), many)] {
            for percent in [50, 99] {
                let figure = percentile(gaps, percent);
                let held = percent == 99;
                all.push(Judged {
                    name: format!("longest gap at a cut link, {name}, p{percent}"),
                    figure,
                    between: gaps.first().copied().zip(gaps.last().copied()),
                    unit: "ms",
                    target: held.then(|| format!("≤ {TARGET}")),
                    met: held.then_some(figure <= TARGET),
                    note: format!("{} gaps", gaps.len()),
                });
            }
        }
        all.extend(planned.iter().map(|(name, lost, sent)| Judged {
            name: format!("probes lost: {name}"),
            figure: *lost as f64,
            between: None,
            unit: "",
            target: Some("0".to_owned()),
            met: Some(*lost == 0),
            note: format!("of {sent}"),
        }));
        all
    }

    /// The gaps, for the picture: what they are of, and each in ms, sorted.
    pub fn gaps(&self) -> [(String, &[f64]); 2] {
        let (least, most) = self.owned;
        [
            ("2 VIPs on the node".to_owned(), &self.one),
            (format!("{least} to {most} VIPs on the node"), &self.many),
        ]
    }
}
