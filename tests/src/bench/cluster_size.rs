//! A large cluster as objects on a real API server, and one real agent in it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use kube::api::Patch;
use lb_common::maps::{Service, ServiceKey};
use serde_json::{Value, json};

use super::{
    api_server::{
        self, Api, LIMIT, SERVICES, SLICES, in_namespace, memory, percentile, settled_memory,
    },
    fleet::{self, FleetNode},
    report::Judged,
};
use crate::{
    kernel::{object::service_key, random::Random},
    lab::{
        Lab,
        agent::{self, Agent},
        control_plane::ControlPlane,
        maps,
        probe::Running,
    },
    wait,
};

const NODES: &str = "/api/v1/nodes";
const PORT: u16 = 80;
/// Pods of each Service.
const PODS: usize = 10;
/// What a table of so many pods has.
const ROWS_EACH: usize = 8192;
/// How often the kernel is asked whether a change is there.
const LOOK: Duration = Duration::from_micros(200);
/// How long a change is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two changes at least, so that each is a single one.
const REST: Duration = Duration::from_millis(800);
/// What is added to that at most.
const JITTER_MS: usize = 200;
/// How long the agent is watched at rest.
const IDLE: Duration = Duration::from_secs(10);

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes, the one with the agent among them.
    pub nodes: usize,
    /// Services with one port and 10 pods each.
    pub services: usize,
    /// Single changes of an endpoint that are timed.
    pub changes: usize,
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct ClusterSize {
    size: Size,
    /// What making the objects took, s.
    made: f64,
    /// From the agent's first start to all addresses given and all tables in the kernel, s.
    first: f64,
    /// From a start after a reboot, with the addresses there, to all tables in the kernel, s.
    again: f64,
    /// The agent's resident memory, MiB: then, at most, and what of the first is its own and not
    /// the kernel's tables.
    memory: (f64, f64, f64),
    /// What it takes of a CPU while nothing changes, %.
    idle: f64,
    /// How often the agent took other nodes to be alive while changes were timed: all tables are
    /// made anew then.
    alive_changed: usize,
    /// From the request to the changed table in the kernel, ms; sorted.
    from_request: Vec<f64>,
    /// From the API server's answer, ms; sorted.
    from_response: Vec<f64>,
}

/// Makes the objects, and has an agent serve them.
///
/// # Errors
/// A program is missing, or something does not come about.
pub fn measure(size: Size) -> Result<ClusterSize> {
    super::in_laboratory(|lab| on(lab, size))
}

fn on(lab: &Lab, size: Size) -> Result<ClusterSize> {
    let control = ControlPlane::start(lab)?;
    let mut options = control.install()?;
    // Room for all tables and as many again, which stand beside them while they change.
    options.arguments.push(format!("--row-capacity={}", 2 * size.services * ROWS_EACH));
    let key = fleet::key_file(lab)?.display().to_string();
    options.arguments.extend(["--membership-secret-file".to_owned(), key]);
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {name: wide, namespace: metallb-system}\nspec: {addresses: [198.18.0.0/15]}\n\
         ---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\n\
         metadata: {name: all, namespace: metallb-system}\n",
    )?;
    let nodes = fleet::nodes(size.nodes - 1);
    let pods = pods(&nodes, size.services);
    ways_to_pods(lab, &pods)?;
    let start = Instant::now();
    in_namespace(&control, async |api| objects(api, &nodes, &pods).await)?;
    let made = start.elapsed().as_secs_f64();
    eprintln!("  made all objects in {made:.0} s");

    let _fleet = fleet::start(lab, nodes)?;
    let start = Instant::now();
    let mut agent = lab.start_agent(&lab.nodes[0], &options)?;
    let addresses = in_namespace(&control, async |api| api.await_addresses(size.services).await)?;
    await_tables(&mut agent, size.services)?;
    let first = start.elapsed().as_secs_f64();
    eprintln!("  all addresses given, and all tables in the kernel, after {first:.1} s");
    agent.kill()?;
    agent::unload(lab, &lab.nodes[0])?;

    let start = Instant::now();
    let mut agent = lab.start_agent(&lab.nodes[0], &options)?;
    await_tables(&mut agent, size.services)?;
    let again = start.elapsed().as_secs_f64();
    eprintln!("  all tables in the kernel {again:.1} s after another start");
    let (now, most) = settled_memory(&mut agent)?;
    let memory = (now, most, memory(agent.pid(), "RssAnon:")?);
    let idle = idle(&agent)?;

    eprintln!("  changes of single endpoints");
    let (mut from_request, mut from_response) = (vec![], vec![]);
    let before = alive_changed(&agent)?;
    in_namespace(&control, async |api| {
        let mut random = Random::new(1);
        for _ in 0..size.changes {
            let (service, vip) = &addresses[random.below(addresses.len())];
            let rest = REST + Duration::from_millis(random.below(JITTER_MS) as u64);
            tokio::time::sleep(rest).await;
            let (request, response) =
                change(api, &agent.pin_directory, service, vip.parse()?).await?;
            agent.check()?;
            from_request.push(request);
            from_response.push(response);
        }
        Ok(())
    })?;
    from_request.sort_by(f64::total_cmp);
    from_response.sort_by(f64::total_cmp);
    let alive_changed = alive_changed(&agent)? - before;
    Ok(ClusterSize {
        size,
        made,
        first,
        again,
        memory,
        idle,
        alive_changed,
        from_request,
        from_response,
    })
}

fn alive_changed(agent: &Agent) -> Result<usize> {
    Ok(agent.printed()?.matches("who is alive has changed").count())
}

/// A pod: its address, and its node's name.
type Pod = (String, String);

/// Pods of all Services, each node with about as many, in random order. Those of node 0 are the
/// laboratory's own node's.
fn pods(nodes: &[FleetNode], services: usize) -> Vec<Pod> {
    let all = nodes.len() + 1;
    let mut order: Vec<usize> = (0..services * PODS).collect();
    let mut random = Random::new(2);
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i + 1));
    }
    let pod = |number: usize| {
        let (node, host) = (number % all, number / all + 2);
        let [_, _, high, low] = (node as u32).to_be_bytes();
        let address = Ipv4Addr::new(10, 128 + high, low, host as u8);
        let name = node.checked_sub(1).map_or("node1", |other| &nodes[other].name);
        (address.to_string(), name.to_owned())
    };
    order.into_iter().map(pod).collect()
}

/// Ways to the pods of the laboratory's node, so that the agent sees where their replies leave.
fn ways_to_pods(lab: &Lab, pods: &[Pod]) -> Result<()> {
    let routes: String = pods
        .iter()
        .filter(|(_, node)| *node == lab.nodes[0].name)
        .map(|(address, _)| format!("route add {address}/32 dev pods\n"))
        .collect();
    lab.nodes[0].namespace.ip(&format!(
        "link add pods type veth peer name pods-end\n\
         link set pods up\nlink set pods-end up\n{routes}"
    ))
}

fn service_name(number: usize) -> String {
    format!("s-{number:05}")
}

async fn objects(api: &Api, nodes: &[FleetNode], pods: &[Pod]) -> Result<()> {
    let first = [("node1".to_owned(), "10.77.0.11".to_owned())];
    let others = nodes.iter().map(|node| (node.name.clone(), node.address.to_string()));
    let bodies: Vec<_> = first.into_iter().chain(others).map(|(n, a)| node(&n, &a)).collect();
    api.create_all("Nodes", NODES, bodies.into_iter()).await?;
    let services = pods.len() / PODS;
    let bodies = (0..services).map(|number| {
        api_server::service(&service_name(number), &json!([{ "port": PORT, "targetPort": 8080 }]))
    });
    api.create_all("Services", SERVICES, bodies).await?;
    let bodies = pods
        .chunks_exact(PODS)
        .enumerate()
        .map(|(number, pods)| api_server::slice(&service_name(number), pods));
    api.create_all("EndpointSlices", SLICES, bodies).await.map(drop)
}

fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// Waits until every Service has the rows of all its pods in the kernel.
fn await_tables(agent: &mut Agent, services: usize) -> Result<()> {
    wait::until(LIMIT, &format!("tables of {services} Services in the kernel"), || {
        agent.check()?;
        thread::sleep(Duration::from_millis(200));
        let Ok(entries) = maps::entries::<ServiceKey, Service>(&agent.pin_directory, "SERVICES")
        else {
            return Ok(None);
        };
        let whole = entries.iter().filter(|(_, service)| service.rows as usize == ROWS_EACH);
        Ok((whole.count() == services).then_some(()))
    })
}

/// What the agent takes of a CPU while nothing changes, %.
fn idle(agent: &Agent) -> Result<f64> {
    let used = || -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
        // utime and stime, fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
        let fields = stat.rsplit_once(')').context("no name")?.1;
        fields.split_whitespace().skip(11).take(2).map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
    };
    let (before, start) = (used()?, Instant::now());
    thread::sleep(IDLE);
    Ok((used()? - before) as f64 / start.elapsed().as_secs_f64())
}

/// Has an endpoint of a Service not be ready any more. How long it took until the Service has other
/// rows in the kernel, ms: since the request, and since the API server's answer.
async fn change(api: &Api, pins: &Path, service: &str, vip: IpAddr) -> Result<(f64, f64)> {
    let key = service_key((vip, PORT).into(), 6);
    let (_watching, watched, changed) = watch(pins, key)?;
    watched.recv_timeout(PATIENCE).context("nobody watches the map")?;
    let path = "/endpoints/0/conditions/ready";
    let patch = json!([{ "op": "replace", "path": path, "value": false }]);
    let patch = serde_json::from_value(patch)?;
    // What a new connection costs is not meant.
    api.await_address(service).await?;
    let start = Instant::now();
    api.patch(SLICES, (&format!("{service}-1"), None), &Patch::Json(patch)).await?;
    let answered = Instant::now();
    let there = changed
        .recv_timeout(PATIENCE)
        .with_context(|| format!("{service}: no other rows within {PATIENCE:?}"))?;
    ensure!(there > start, "{service} had other rows before it was changed");
    let ms = |since: Instant| there.saturating_duration_since(since).as_secs_f64() * 1000.0;
    Ok((ms(start), ms(answered)))
}

/// Looks at a Service's entry until it names other rows; tells when it has begun, and when that was.
fn watch(pins: &Path, key: ServiceKey) -> Result<(Running<()>, Receiver<()>, Receiver<Instant>)> {
    let map = Map::HashMap(MapData::from_pin(maps::path(pins, "SERVICES")?)?);
    let map: HashMap<_, ServiceKey, Service> = map.try_into()?;
    let before = map.get(&key, 0)?.rows_start;
    let (begun, watched) = channel();
    let (found, changed) = channel();
    let running = Running::start_here(move |stop| {
        // Whoever does not wait any more has ended for another reason.
        let _ = begun.send(());
        while !stop.load(Relaxed) {
            if map.get(&key, 0)?.rows_start != before {
                let _ = found.send(Instant::now());
                break;
            }
            thread::sleep(LOOK);
        }
        Ok(())
    });
    Ok((running, watched, changed))
}

impl ClusterSize {
    /// The figures, with what they are held against.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { size, made, first, again, memory: (now, most, own), idle, .. } = self;
        let objects = format!(
            "{} Nodes, {} Services, {} endpoints",
            size.nodes,
            size.services,
            size.services * PODS
        );
        let tables = (size.services * ROWS_EACH * 8) >> 20;
        let resident =
            format!("{most:.0} MiB at most; the kernel's tables, {tables} MiB, are in it");
        let mut all = vec![
            Judged::told("making the objects", *made, "s", objects),
            Judged::told("first start to all in the kernel", *first, "s", "addresses given"),
            Judged::told("start to all in the kernel", *again, "s", "addresses there"),
            Judged::told("agent's memory", *now, "MiB", resident),
            Judged::told("agent's own memory", *own, "MiB", "anonymous"),
            Judged::told("agent at rest", *idle, "%", "of a CPU; hellos of all nodes"),
        ];
        for percent in [50, 99] {
            let held = percentile(&self.from_response, percent);
            all.push(Judged {
                between: bounds(&self.from_response),
                target: Some("≤ 100".into()),
                met: Some(held <= 100.0),
                ..Judged::told(
                    format!("an endpoint's change, response to kernel, p{percent}"),
                    held,
                    "ms",
                    format!(
                        "{} changes; who is alive changed {} times meanwhile",
                        self.from_response.len(),
                        self.alive_changed
                    ),
                )
            });
        }
        for percent in [50, 99] {
            all.push(Judged {
                between: bounds(&self.from_request),
                ..Judged::told(
                    format!("an endpoint's change, request to kernel, p{percent}"),
                    percentile(&self.from_request, percent),
                    "ms",
                    String::new(),
                )
            });
        }
        all
    }
}

fn bounds(sorted: &[f64]) -> Option<(f64, f64)> {
    sorted.first().copied().zip(sorted.last().copied())
}
