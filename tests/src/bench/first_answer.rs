//! From the creation of a Service and its EndpointSlice to the first answer on the wire.

use std::{
    net::Ipv4Addr,
    sync::{
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    api_server::{self, Api, LIMIT, SERVICES, SLICES, in_namespace, percentile},
    report::Judged,
};
use crate::{
    kernel::random::Random,
    lab::{Host, Lab, command, control_plane::ControlPlane, frames, probe::Running},
    system::PacketSocket,
};

/// How often the client asks.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two samples at least: what one has set in motion has come to rest before the next.
const REST: Duration = Duration::from_millis(150);
/// What is added to that at most, so that samples do not fall in step with the agent's timers.
const JITTER_MS: usize = 50;

/// What was found out.
#[derive(Clone, Debug)]
pub struct FirstAnswer {
    /// With no other Service.
    alone: Samples,
    /// How many others there were, and what came of that.
    among: (usize, Samples),
}

/// Times from the creation to the first answer, ms, each sorted.
#[derive(Clone, Debug, Default)]
struct Samples {
    /// Since the request for the Service was sent.
    from_request: Vec<f64>,
    /// Since the EndpointSlice was confirmed.
    from_response: Vec<f64>,
    /// From the one to the other: what the API server takes.
    creation: Vec<f64>,
}

/// Takes `samples`, and as many among `others` further Services.
///
/// # Errors
/// A program is missing, or an answer does not come.
pub fn measure(samples: usize, others: usize) -> Result<FirstAnswer> {
    super::in_laboratory(|lab| on(lab, samples, others))
}

fn on(lab: &Lab, samples: usize, others: usize) -> Result<FirstAnswer> {
    let control = ControlPlane::start(lab)?;
    let options = control.install()?;
    control.apply(&command::workspace().join("examples/manifests/nodes.yaml"))?;
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {name: wide, namespace: metallb-system}\nspec: {addresses: [198.18.0.0/15]}\n\
         ---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\n\
         metadata: {name: all, namespace: metallb-system}\n",
    )?;
    pods(lab)?;
    let client = &lab.client;
    let mut agent = lab.start_agent(&lab.nodes[0], &options)?;
    let result = in_namespace(&control, async |api| {
        // Its start is not what is measured.
        sample(client, api, "first", vip(0)).await?;
        let alone = several(client, api, "alone", 0, samples).await?;
        let names = || (0..others).map(|n| format!("other-{n:05}"));
        let services = names().map(|name| {
            let mut body = api_server::service(&name, &json!([{ "port": 80, "targetPort": 8080 }]));
            body["metadata"]["annotations"] = json!({ "metallb.io/address-pool": "wide" });
            body
        });
        let services: Vec<_> = services.collect();
        api.create_all("Services", SERVICES, services.into_iter()).await?;
        let slices: Vec<_> = names().map(|name| api_server::slice(&name, &[pod()])).collect();
        api.create_all("EndpointSlices", SLICES, slices.into_iter()).await?;
        api.await_addresses(1 + samples + others).await?;
        let among = several(client, api, "among", 1, samples).await?;
        Ok(FirstAnswer { alone, among: (others, among) })
    });
    agent.check()?;
    result
}

/// Where all the Services' pod is.
fn pod() -> (String, String) {
    ("10.244.1.2".to_owned(), "node1".to_owned())
}

/// A way to it, so that the agent sees where its replies leave.
fn pods(lab: &Lab) -> Result<()> {
    lab.nodes[0].namespace.ip(&format!(
        "link add pods type veth peer name pods-end\n\
         link set pods up\nlink set pods-end up\nroute add {}/32 dev pods\n",
        pod().0
    ))
}

/// The address that is asked for, of the upper half of the pool: the others get the lower.
fn vip(number: usize) -> Ipv4Addr {
    let [_, _, high, low] = (number as u32).to_be_bytes();
    Ipv4Addr::new(198, 19, high, low)
}

async fn several(
    client: &Host,
    api: &Api,
    name: &str,
    half: usize,
    samples: usize,
) -> Result<Samples> {
    let mut random = Random::new(half as u64 + 1);
    let mut all = Samples::default();
    for number in 0..samples {
        let rest = REST + Duration::from_millis(random.below(JITTER_MS) as u64);
        tokio::time::sleep(rest).await;
        let vip = vip(1 + half * samples + number);
        let (creation, answer) = sample(client, api, &format!("{name}-{number:03}"), vip).await?;
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        all.creation.push(ms(creation));
        all.from_request.push(ms(answer));
        // The answer can be there before the client knows that the slice is.
        all.from_response.push(ms(answer.saturating_sub(creation)));
    }
    for samples in [&mut all.creation, &mut all.from_request, &mut all.from_response] {
        samples.sort_by(f64::total_cmp);
    }
    Ok(all)
}

/// Creates a Service and its slice while the client asks: how long the creation took, and how long
/// it took to the first answer, both since just before the first request was sent.
async fn sample(
    client: &Host,
    api: &Api,
    name: &str,
    vip: Ipv4Addr,
) -> Result<(Duration, Duration)> {
    let mut service = api_server::service(name, &json!([{ "port": 80, "targetPort": 8080 }]));
    service["metadata"]["annotations"] = json!({ "metallb.io/loadBalancerIPs": vip.to_string() });
    let slice = api_server::slice(name, &[pod()]);
    let (_asking, asked, answered) = ask(client, vip);
    asked.recv_timeout(LIMIT).context("nobody asks")?;
    let start = Instant::now();
    api.create(SERVICES, &service).await?;
    api.create(SLICES, &slice).await?;
    let creation = start.elapsed();
    let answer = answered
        .recv_timeout(PATIENCE)
        .with_context(|| format!("{name}: no answer for {vip} within {PATIENCE:?}"))?;
    ensure!(answer > start, "{name}: {vip} was answered for before it was asked for");
    Ok((creation, answer - start))
}

/// Has the client ask for an address every millisecond until it is answered: tells when it has begun,
/// and when the answer came.
fn ask(client: &Host, vip: Ipv4Addr) -> (Running<()>, Receiver<()>, Receiver<Instant>) {
    let (begun, asked) = channel();
    let (found, answered) = channel();
    let (mac, address) = (client.mac, client.ipv4);
    let running = Running::start(&client.namespace, move |stop| {
        let socket = PacketSocket::open("eth0")?;
        let request = frames::arp_request(mac, address, vip);
        let mut next = Instant::now();
        while !stop.load(Relaxed) {
            socket.send(&request)?;
            // Whoever does not wait any more has ended for another reason.
            let _ = begun.send(());
            next += INTERVAL;
            while let Some(frame) = socket.receive(next)? {
                if frames::arp_answer(&frame, address, vip).is_some() {
                    let _ = found.send(Instant::now());
                    return Ok(());
                }
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    });
    (running, asked, answered)
}

impl FirstAnswer {
    /// The figures, with what they are held against.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { alone, among: (others, among) } = self;
        let mut all = alone.judged("no other Service");
        all.extend(among.judged(&format!("{others} other Services")));
        all
    }
}

impl Samples {
    fn judged(&self, among: &str) -> Vec<Judged> {
        let figure = |name: String, sorted: &[f64], percent, note: String| Judged {
            name,
            figure: percentile(sorted, percent),
            between: sorted.first().copied().zip(sorted.last().copied()),
            unit: "ms",
            target: None,
            met: None,
            note,
        };
        let targets = [(50, 20.0), (99, 50.0)];
        let held = targets.map(|(percent, most)| {
            let p = format!("request to first answer, {among}, p{percent}");
            let judged = figure(p, &self.from_request, percent, String::new());
            Judged {
                target: Some(format!("≤ {most}")),
                met: Some(judged.figure <= most),
                note: format!("{} samples", self.from_request.len()),
                ..judged
            }
        });
        let mut all = Vec::from(held);
        for percent in [50, 99] {
            let p = format!("response to first answer, {among}, p{percent}");
            all.push(figure(p, &self.from_response, percent, String::new()));
        }
        let p = format!("creation of both, {among}, p50");
        all.push(figure(p, &self.creation, 50, "the API server's part".to_owned()));
        all
    }
}
