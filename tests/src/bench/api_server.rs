//! A real API server as the benches use it: many requests at once, by a client on its own machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Client, Config,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::{Value, json};

use crate::{
    lab::{agent::Agent, control_plane::ControlPlane},
    wait,
};

/// As many as the agent has.
pub const AT_ONCE: usize = 16;
/// On a machine that does other things as well.
pub const LIMIT: Duration = Duration::from_secs(600);
/// Between two lines about what goes on.
const QUIET: Duration = Duration::from_secs(10);
/// Where Services are.
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Where EndpointSlices are.
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Runs something on the API server's machine, where what it costs to get there is the same for all.
///
/// # Errors
/// There is no way to the API server, or what `action` returns.
pub fn in_namespace<T: Send>(
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

/// The API server, to an administrator.
pub struct Api(Client);

/// An object's name and resourceVersion.
pub type Version = (String, String);

fn version(object: &Value) -> Version {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("name"), text("resourceVersion"))
}

impl Api {
    /// Creates an object.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn create(&self, path: &str, body: &Value) -> Result<Version> {
        let body = serde_json::to_vec(body)?;
        let create = Request::new(path).create(&PostParams::default(), body)?;
        let created: Value = self.0.request(create).await.with_context(|| path.to_owned())?;
        Ok(version(&created))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn delete(&self, path: &str, name: &str) -> Result<()> {
        let delete = Request::new(path).delete(name, &DeleteParams::default())?;
        let _: Value = self.0.request(delete).await.with_context(|| format!("{path}/{name}"))?;
        Ok(())
    }

    /// Creates objects, several at once, and says how far it is; in any order.
    ///
    /// # Errors
    /// The API server refuses one.
    pub async fn create_all(
        &self,
        what: &str,
        path: &str,
        bodies: impl ExactSizeIterator<Item = Value>,
    ) -> Result<Vec<Version>> {
        let (all, mut said) = (bodies.len(), Instant::now());
        let mut created = Vec::with_capacity(all);
        let mut requests = stream::iter(bodies)
            .map(async |body| self.create(path, &body).await)
            .buffer_unordered(AT_ONCE);
        while let Some(version) = requests.try_next().await? {
            created.push(version);
            if said.elapsed() > QUIET {
                said = Instant::now();
                eprintln!("  {} of {all} {what}", created.len());
            }
        }
        Ok(created)
    }

    /// Patches an object, or its `subresource`; its version then.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn patch(
        &self,
        path: &str,
        (name, subresource): (&str, Option<&str>),
        patch: &Patch<Value>,
    ) -> Result<Version> {
        let (request, params) = (Request::new(path), PatchParams::default());
        let patch = match subresource {
            Some(subresource) => request.patch_subresource(subresource, name, &params, patch)?,
            None => request.patch(name, &params, patch)?,
        };
        let patched = self.0.request(patch).await;
        Ok(version(&patched.with_context(|| format!("{path}/{name}"))?))
    }

    /// Waits until a Service has an address.
    ///
    /// # Errors
    /// It has none after ten minutes.
    pub async fn await_address(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let get = Request::new(SERVICES).get(name, &GetParams::default())?;
            let found: Value = self.0.request(get).await?;
            if found["status"]["loadBalancer"]["ingress"].is_array() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} has no address after {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until there are so many objects of a kind.
    ///
    /// # Errors
    /// There are not after ten minutes.
    pub async fn await_count(&self, path: &str, count: usize) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let list = Request::new(path).list(&ListParams::default().limit(1))?;
            let list: Value = self.0.request(list).await?;
            let first = list["items"].as_array().map_or(0, Vec::len);
            let rest = list["metadata"]["remainingItemCount"].as_u64().unwrap_or_default();
            let now = first + rest as usize;
            if now == count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{path}: {now} of {count} objects");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The addresses of all Services without a class, by name, once there are `services`, no two the
    /// same.
    ///
    /// # Errors
    /// There are not after ten minutes, or two have the same.
    pub async fn await_addresses(&self, services: usize) -> Result<Vec<(String, String)>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let list = Request::new(SERVICES).list(&ListParams::default())?;
            let list: Value = self.0.request(list).await?;
            let items = list["items"].as_array().context("no list")?;
            let ours = items.iter().filter(|item| item["spec"]["loadBalancerClass"].is_null());
            let address = |item: &Value| {
                let ip = item["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?;
                Some((item["metadata"]["name"].as_str()?.to_owned(), ip.to_owned()))
            };
            let addresses: Vec<_> = ours.filter_map(address).collect();
            if addresses.len() == services {
                let mut distinct: Vec<_> = addresses.iter().map(|(_, ip)| ip).collect();
                distinct.sort();
                distinct.dedup();
                ensure!(distinct.len() == services, "an address was given twice");
                return Ok(addresses);
            }
            ensure!(Instant::now() < deadline, "{} of {services} addresses", addresses.len());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// A Service of type LoadBalancer with `ports`, without node ports: there are fewer of those than
/// Services.
pub fn service(name: &str, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "selector": { "app": name },
            "ports": ports,
        },
    })
}

/// An EndpointSlice of a Service: pods that are ready, by address and node.
pub fn slice(service: &str, pods: &[(String, String)]) -> Value {
    let endpoint = |(address, node): &(String, String)| json!({ "addresses": [address], "nodeName": node, "conditions": { "ready": true } });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "port": 8080 }],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The agent's resident memory once it does not change any more: now, and at most; MiB.
///
/// # Errors
/// It ends, or does not come to rest within ten minutes.
pub fn settled_memory(agent: &mut Agent) -> Result<(f64, f64)> {
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

/// A figure of a process's memory, MiB, as `/proc/PID/status` names it (`VmRSS:`).
///
/// # Errors
/// The process has ended, or there is no such figure.
pub fn memory(process: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib / 1024.0)
}

/// The sample below which `percent` of them are; of sorted ones.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
