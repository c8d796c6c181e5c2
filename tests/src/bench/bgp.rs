//! BGP to a real router (BIRD 2): from the creation of a Service to the route in the router's kernel and from its
//! deletion to the route's end, with no other Service and among thousands; and sessions with all their routes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    api_server::{self, Api, LIMIT, SERVICES, SLICES, in_namespace, percentile, settled_memory},
    report::Judged,
};
use crate::{
    kernel::random::Random,
    lab::{
        Host, Lab,
        bgp::{Bird, NODES_AS, ROUTER_AS},
        cleanup, command,
        control_plane::ControlPlane,
    },
};

/// How long a route is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two samples at least: what one has set in motion has come to rest before the next.
const REST: Duration = Duration::from_millis(150);
/// What is added to that at most, so that samples do not fall in step with the agent's timers.
const JITTER_MS: usize = 50;
/// After thousands of Services have been created: what they have set in motion has come to rest.
const LONG_REST: Duration = Duration::from_secs(5);
/// What is taken of a Service's creation to be in a router's table.
const TARGET_MS: f64 = 100.0;
/// What the agent tells of each Service.
const STATUSES: &str = "/apis/metallb.io/v1beta1/namespaces/metallb-system/servicebgpstatuses";
/// How often it is looked whether the router's log says more.
const LOOK: Duration = Duration::from_millis(1);

/// What was found out.
#[derive(Clone, Debug)]
pub struct Bgp {
    /// With no other Service.
    alone: Samples,
    /// Among all others.
    among: Samples,
    /// All routes.
    routes: usize,
    /// From a session that is up to the last route in the router's kernel, where the router has begun the session
    /// anew, s.
    session: f64,
    /// From the start of an agent to the same, s.
    start: f64,
    /// The agent's resident memory, MiB: with few routes, with all, and at most.
    memory: (f64, f64, f64),
}

/// Times, ms, each sorted.
#[derive(Clone, Debug, Default)]
struct Samples {
    /// From the request for a Service to its route.
    from_request: Vec<f64>,
    /// The same since the EndpointSlice was confirmed.
    from_response: Vec<f64>,
    /// From the one to the other: what the API server takes.
    creation: Vec<f64>,
    /// From the request that deletes a Service to the end of its route.
    removal: Vec<f64>,
}

/// Takes `samples`, and as many among `others` further Services, whose routes it then has told anew.
///
/// # Errors
/// A program is missing, or a route does not come.
pub fn measure(samples: usize, others: usize) -> Result<Bgp> {
    super::in_laboratory(|lab| on(lab, samples, others))
}

fn on(lab: &Lab, samples: usize, others: usize) -> Result<Bgp> {
    let control = ControlPlane::start(lab)?;
    let options = control.install()?;
    control.apply(&command::workspace().join("examples/manifests/nodes.yaml"))?;
    let (node, router) = (&lab.nodes[0], &lab.client);
    control.apply_text(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {{name: wide, namespace: metallb-system}}\nspec: {{addresses: [198.18.0.0/15]}}\n\
         ---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\n\
         metadata: {{name: all, namespace: metallb-system}}\n\
         ---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\n\
         metadata: {{name: router, namespace: metallb-system}}\n\
         spec: {{myASN: {NODES_AS}, peerASN: {ROUTER_AS}, peerAddress: {}, connectTime: 1s}}\n",
        router.ipv4
    ))?;
    let bird = Bird::start(
        lab,
        &router.namespace,
        "router",
        &format!(
            "router id {};\nprotocol device {{ scan time 10; }}\nprotocol kernel {{\n ipv4 {{ import \
             none; export where source = RTS_BGP; }};\n}}\nprotocol bgp node {{\n debug {{ events }};\n \
             local as {ROUTER_AS}; neighbor {} as {NODES_AS}; direct; passive;\n ipv4 {{ import all; export \
             none; }};\n}}\n",
            router.ipv4, node.ipv4
        ),
    )?;
    let ups = ups(&bird)?;
    let mut agent = lab.start_agent(node, &options)?;
    let mut monitor = Monitor::start(router)?;
    let (alone, few) = in_namespace(&control, async |api| {
        // Its start is not what is measured.
        create(api, &mut monitor, "first", 0).await?;
        let alone = several(api, &mut monitor, "alone", 1, samples).await?;
        Ok((alone, settled_memory(&mut agent)?.0))
    })?;
    let among = in_namespace(&control, async |api| {
        let names = || (0..others).map(|n| format!("other-{n:05}"));
        let ports = json!([{ "port": 80, "targetPort": 8080 }]);
        let services: Vec<_> = names().map(|name| api_server::service(&name, &ports)).collect();
        api.create_all("Services", SERVICES, services.into_iter()).await?;
        let slices: Vec<_> = names().map(|name| api_server::slice(&name, &[pod()])).collect();
        api.create_all("EndpointSlices", SLICES, slices.into_iter()).await?;
        api.await_addresses(1 + others).await?;
        monitor.await_changes(others, Change::New)?;
        api.await_count(STATUSES, 1 + others).await?;
        tokio::time::sleep(LONG_REST).await;
        several(api, &mut monitor, "among", 1 + samples, samples).await
    })?;
    let (with_all, most) = settled_memory(&mut agent)?;
    let routes = 1 + others;
    drain(&ups);
    bird.tell("disable node")?;
    monitor.await_changes(routes, Change::Gone)?;
    bird.tell("enable node")?;
    let up = ups.recv_timeout(PATIENCE).context("the session does not come up again")?;
    let session = monitor.await_changes(routes, Change::New)?.saturating_duration_since(up);
    agent.check()?;
    ensure!(agent.terminate(PATIENCE)?.success(), "the agent failed");
    monitor.await_changes(routes, Change::Gone)?;
    let begun = Instant::now();
    let mut agent = lab.start_agent(node, &options)?;
    let start = monitor.await_changes(routes, Change::New)?.saturating_duration_since(begun);
    agent.check()?;
    let (session, start) = (session.as_secs_f64(), start.as_secs_f64());
    Ok(Bgp { alone, among, routes, session, start, memory: (few, with_all, most) })
}

/// Where all the Services' pod is; nobody sends anything there.
fn pod() -> (String, String) {
    ("10.244.1.2".to_owned(), "node1".to_owned())
}

/// Creates Services and deletes them again, one after another, from address `first` on.
async fn several(
    api: &Api,
    monitor: &mut Monitor,
    name: &str,
    first: usize,
    samples: usize,
) -> Result<Samples> {
    let mut random = Random::new(first as u64);
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut all = Samples::default();
    for number in first..first + samples {
        let mut rest = async || {
            let jitter = Duration::from_millis(random.below(JITTER_MS) as u64);
            tokio::time::sleep(REST + jitter).await;
        };
        let name = format!("{name}-{number:04}");
        rest().await;
        let (creation, route) = create(api, monitor, &name, number).await?;
        rest().await;
        let removal = delete(api, monitor, &name, number).await?;
        all.from_request.push(ms(route));
        // The route can be there before the client knows that the slice is.
        all.from_response.push(ms(route.saturating_sub(creation)));
        all.creation.push(ms(creation));
        all.removal.push(ms(removal));
    }
    let Samples { from_request, from_response, creation, removal } = &mut all;
    for samples in [from_request, from_response, creation, removal] {
        samples.sort_by(f64::total_cmp);
    }
    Ok(all)
}

/// The address that is asked for, of the upper half of the pool: the others get the lower.
fn vip(number: usize) -> String {
    format!("198.19.{}.{}", number / 256, number % 256)
}

/// Creates a Service and its slice: how long that took, and how long it took until the router's kernel had
/// the route, both since just before the first request was sent.
async fn create(
    api: &Api,
    monitor: &mut Monitor,
    name: &str,
    number: usize,
) -> Result<(Duration, Duration)> {
    let mut service = api_server::service(name, &json!([{ "port": 80, "targetPort": 8080 }]));
    service["metadata"]["annotations"] = json!({ "metallb.io/loadBalancerIPs": vip(number) });
    let slice = api_server::slice(name, &[pod()]);
    let start = Instant::now();
    api.create(SERVICES, &service).await?;
    api.create(SLICES, &slice).await?;
    let creation = start.elapsed();
    let at = monitor.await_change(Change::New, &vip(number)).context(name.to_owned())?;
    Ok((creation, at.saturating_duration_since(start)))
}

/// Deletes a Service, and its slice afterwards: how long it took from the request until the router's kernel
/// had the route no more.
async fn delete(api: &Api, monitor: &mut Monitor, name: &str, number: usize) -> Result<Duration> {
    let start = Instant::now();
    api.delete(SERVICES, name).await?;
    let at = monitor.await_change(Change::Gone, &vip(number)).context(name.to_owned())?;
    api.delete(SLICES, &format!("{name}-1")).await?;
    Ok(at.saturating_duration_since(start))
}

/// When BIRD's log says that a session is up, each time.
fn ups(bird: &Bird) -> Result<Receiver<Instant>> {
    let mut log = BufReader::new(File::open(bird.log())?);
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        // A line may come in parts.
        while log.read_line(&mut line).is_ok() {
            if !line.ends_with('\n') {
                thread::sleep(LOOK);
                continue;
            }
            if line.contains("BGP session established") && send.send(Instant::now()).is_err() {
                return;
            }
            line.clear();
        }
    });
    Ok(receive)
}

/// Forgets what has been told already.
fn drain<T>(told: &Receiver<T>) {
    while told.try_recv().is_ok() {}
}

/// What happens to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    New,
    Gone,
}

/// Tells of changes of a host's IPv4 routes to VIPs, as they happen.
struct Monitor {
    changes: Receiver<(Change, String, Instant)>,
    ip: Child,
}

impl Monitor {
    fn start(host: &Host) -> Result<Self> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &host.namespace.name, "-4", "-o", "monitor", "route"]);
        ip.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ip = cleanup::spawn(&mut ip)?;
        let lines = BufReader::new(ip.stdout.take().context("it has no output")?).lines();
        let (send, changes) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let at = Instant::now();
                let (change, rest) = match line.strip_prefix("Deleted ") {
                    Some(rest) => (Change::Gone, rest),
                    None => (Change::New, line.as_str()),
                };
                let to = rest.split_whitespace().next().unwrap_or_default();
                if to.starts_with("198.1") && send.send((change, to.to_owned(), at)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { changes, ip })
    }

    /// When that happened to the route to an address; nothing else may have happened before.
    fn await_change(&mut self, wanted: Change, vip: &str) -> Result<Instant> {
        let told = self.changes.recv_timeout(PATIENCE);
        let (change, to, at) = told.with_context(|| format!("{wanted:?}: no word of {vip}"))?;
        ensure!((change, to.as_str()) == (wanted, vip), "{change:?} {to}, not {wanted:?} {vip}");
        Ok(at)
    }

    /// Waits until that has happened to so many routes, and tells when the last did.
    fn await_changes(&mut self, count: usize, wanted: Change) -> Result<Instant> {
        let (deadline, mut all) = (Instant::now() + LIMIT, BTreeSet::new());
        loop {
            let so_far = || format!("{wanted:?}: {} of {count} routes", all.len());
            let (change, to, at) = self.changes.recv_timeout(PATIENCE).with_context(so_far)?;
            ensure!(Instant::now() < deadline, "{} in time", so_far());
            if change == wanted {
                all.insert(to);
            }
            if all.len() == count {
                return Ok(at);
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.ip.kill();
        let _ = self.ip.wait();
    }
}

impl Bgp {
    /// The figures, with what they are held against.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { alone, among, routes, session, start, memory: (few, with_all, most) } = self;
        let mut all = alone.judged("no other Service");
        all.extend(among.judged(&format!("{} other Services", routes - 1)));
        let told =
            |name: String, figure, unit, note: String| Judged::told(name, figure, unit, note);
        all.extend([
            told(
                format!("session up to the last of {routes} routes"),
                *session,
                "s",
                "in the router's kernel".to_owned(),
            ),
            told(
                format!("start of an agent to the last of {routes} routes"),
                *start,
                "s",
                "the API server read, an attempt a second".to_owned(),
            ),
            told("agent's memory with 1 route".to_owned(), *few, "MiB", String::new()),
            told(
                format!("agent's memory with {routes} routes"),
                *with_all,
                "MiB",
                format!("at most {most:.1}"),
            ),
        ]);
        all
    }
}

impl Samples {
    fn judged(&self, among: &str) -> Vec<Judged> {
        let Self { from_request, from_response, creation, removal } = self;
        let kinds = [
            ("request for a Service to route", from_request, true),
            ("response to route", from_response, false),
            ("creation of both, the API server's part", creation, false),
            ("deletion of a Service to the end of its route", removal, true),
        ];
        let mut all = Vec::new();
        for (name, sorted, held) in kinds {
            for percent in [50, 99] {
                let figure = percentile(sorted, percent);
                all.push(Judged {
                    name: format!("{name}, {among}, p{percent}"),
                    figure,
                    between: sorted.first().copied().zip(sorted.last().copied()),
                    unit: "ms",
                    target: held.then(|| format!("≤ {TARGET_MS}")),
                    met: held.then_some(figure <= TARGET_MS),
                    note: format!("{} samples", sorted.len()),
                });
            }
        }
        all
    }
}
