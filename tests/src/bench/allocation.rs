//! Addresses for thousands of Services on a real API server, against what that server can write.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::{Value, json};

use super::report::Judged;
use crate::{
    lab::{
        Lab,
        agent::Agent,
        command,
        control_plane::{ControlPlane, check_programs},
    },
    wait,
};

/// As many as the agent has.
const AT_ONCE: usize = 16;
/// On a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(600);
/// A class that no agent serves.
const NOBODY: &str = "bench.example/nobody";
const PATH: &str = "/api/v1/namespaces/default/services";

/// What was found out.
#[derive(Clone, Debug)]
pub struct Allocation {
    services: usize,
    all: usize,
    /// Patches of a Service's status in a second that the API server takes, before and after.
    bare: [f64; 2],
    /// Services that were given addresses in a second.
    given: f64,
    /// The agent's resident memory with all Services, MiB: then, and at most.
    memory: (f64, f64),
}

/// Whether Kubernetes' programs are there.
pub fn can_run() -> bool {
    check_programs().is_ok()
}

/// Gives addresses to `services` pending Services, and to as many more as make `all`.
///
/// # Errors
/// A program is missing, or something does not come about.
pub fn measure(services: usize, all: usize) -> Result<Allocation> {
    let lab = Lab::without_pods(1)?;
    let result = on(&lab, services, all);
    if result.is_err() {
        lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", lab.directory.display()))
}

fn on(lab: &Lab, services: usize, all: usize) -> Result<Allocation> {
    let control = ControlPlane::start(lab)?;
    let options = control.install()?;
    control.apply(&command::workspace().join("examples/manifests/nodes.yaml"))?;
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {name: wide, namespace: metallb-system}\nspec: {addresses: [198.18.0.0/15]}\n",
    )?;
    let before = in_namespace(&control, async |api| bare(api, "before", services).await)?;

    in_namespace(&control, async |api| api.create("s", 0..services, None).await.map(drop))?;
    let mut agent = lab.start_agent(&lab.nodes[0], &options)?;
    let given = in_namespace(&control, async |api| {
        api.await_address(&service("s", 0)).await?;
        let start = Instant::now();
        api.await_address(&service("s", services - 1)).await?;
        let given = (services - 1) as f64 / start.elapsed().as_secs_f64();
        api.check_addresses(services).await?;
        Ok(given)
    })?;
    agent.check()?;
    in_namespace(&control, async |api| {
        api.create("s", services..all, None).await?;
        api.await_address(&service("s", all - 1)).await?;
        api.check_addresses(all).await
    })?;
    let memory = settled_memory(&mut agent)?;
    agent.kill()?;
    let after = in_namespace(&control, async |api| bare(api, "after", services).await)?;
    Ok(Allocation { services, all, bare: [before, after], given, memory })
}

/// What the API server takes: the same patch as the agent's, by a client that does nothing else.
async fn bare(api: &Api, prefix: &str, services: usize) -> Result<f64> {
    let versions = api.create(prefix, 0..services, Some(NOBODY)).await?;
    let start = Instant::now();
    stream::iter(versions.iter().enumerate())
        .map(|(i, (name, version))| async move {
            let address = format!("198.51.{}.{}", i / 256 % 256, i % 256);
            let patch = Patch::Merge(json!({
                "metadata": {
                    "resourceVersion": version,
                    "annotations": { "metallb.io/ip-allocated-from-pool": "bare" },
                },
                "status": { "loadBalancer": { "ingress": [{ "ip": address }] } },
            }));
            let request = Request::new(PATH);
            let params = PatchParams::default();
            let patch = request.patch_subresource("status", name, &params, &patch)?;
            api.0.request_text(patch).await.context("a bare patch")
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(services as f64 / start.elapsed().as_secs_f64())
}

/// Runs something on the API server's machine, where what it costs to get there is the same for all.
fn in_namespace<T: Send>(
    control: &ControlPlane,
    action: impl AsyncFnOnce(&Api) -> Result<T> + Send,
) -> Result<T> {
    let file = control.admin_kubeconfig();
    control.host.namespace.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(&file)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            action(&Api(Client::try_from(config)?)).await
        })
    })
}

fn service(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:05}")
}

/// The API server, to an administrator.
struct Api(Client);

impl Api {
    /// Creates Services; their versions by name.
    async fn create(
        &self,
        prefix: &str,
        numbers: std::ops::Range<usize>,
        class: Option<&str>,
    ) -> Result<BTreeMap<String, String>> {
        stream::iter(numbers)
            .map(|number| async move {
                let name = service(prefix, number);
                let body = json!({
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": { "name": name, "labels": { "app": name } },
                    "spec": {
                        "type": "LoadBalancer",
                        "loadBalancerClass": class,
                        // There are fewer node ports than Services.
                        "allocateLoadBalancerNodePorts": false,
                        "selector": { "app": name },
                        "ports": [
                            { "name": "http", "port": 80, "targetPort": 8080 },
                            { "name": "https", "port": 443, "targetPort": 8443 },
                        ],
                    },
                });
                let body = serde_json::to_vec(&body)?;
                let create = Request::new(PATH).create(&PostParams::default(), body)?;
                let created: Value = self.0.request(create).await.context("a Service")?;
                let version = created["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                Ok::<_, anyhow::Error>((name, version.to_owned()))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn await_address(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let get = Request::new(PATH).get(name, &kube::api::GetParams::default())?;
            let found: Value = self.0.request(get).await?;
            if found["status"]["loadBalancer"]["ingress"].is_array() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} has no address after {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All of the agent's Services have an address, and no two the same.
    async fn check_addresses(&self, services: usize) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let list = Request::new(PATH).list(&ListParams::default())?;
            let list: Value = self.0.request(list).await?;
            let items = list["items"].as_array().context("no list")?;
            let ours = items.iter().filter(|item| item["spec"]["loadBalancerClass"].is_null());
            let address = |item: &Value| {
                let ip = &item["status"]["loadBalancer"]["ingress"][0]["ip"];
                ip.as_str().map(str::to_owned)
            };
            let mut addresses: Vec<_> = ours.filter_map(address).collect();
            if addresses.len() == services {
                addresses.sort();
                addresses.dedup();
                ensure!(addresses.len() == services, "an address was given twice");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} of {services} addresses", addresses.len());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// The agent's resident memory once it does not change any more: now, and at most; MiB.
fn settled_memory(agent: &mut Agent) -> Result<(f64, f64)> {
    let mut last = f64::NAN;
    wait::until(LIMIT, "the agent's memory comes to rest", || {
        agent.check()?;
        std::thread::sleep(Duration::from_secs(3));
        let now = memory(agent.pid(), "VmRSS:")?;
        let settled = (now - last).abs() < 0.1;
        last = now;
        Ok(settled.then_some(()))
    })?;
    Ok((last, memory(agent.pid(), "VmHWM:")?))
}

fn memory(process: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib / 1024.0)
}

impl Allocation {
    /// The figures, with what they are held against.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { services, all, bare: [before, after], given, memory: (now, most) } = *self;
        let bare = f64::midpoint(before, after);
        let share = 100.0 * given / bare;
        let figure = |name: String, figure: f64, unit, note: &str| Judged {
            name,
            figure,
            between: None,
            unit,
            target: None,
            met: None,
            note: note.to_owned(),
        };
        vec![
            Judged {
                between: Some((before.min(after), before.max(after))),
                ..figure(
                    format!("bare patches of the status of {services} Services"),
                    bare,
                    "1/s",
                    "before and after",
                )
            },
            figure(format!("addresses for {services} pending Services"), given, "1/s", ""),
            Judged {
                target: Some("≥ 80".into()),
                met: Some(share >= 80.0),
                ..figure("addresses, share of bare patches".into(), share, "%", "")
            },
            Judged {
                target: Some("≤ 60".into()),
                met: Some(now <= 60.0),
                ..figure(
                    format!("agent's memory with {all} Services"),
                    now,
                    "MiB",
                    &format!("{most:.0} MiB at most"),
                )
            },
        ]
    }
}
