//! A Deployment is rolled by the real controllers.
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Shape,
        agent::Agent,
        api::Api,
        connections::Load,
        kubelet::Kubelet,
        routed::{self, Routed},
        scenario::{self, START_LIMIT},
        traffic::Traffic,
    },
    suite, wait,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICAS: usize = 12;

/// Connections end long before the pods that they are on.
const LIFE: Duration = Duration::from_secs(3);
const GRACE_SECONDS: u32 = 8;

/// Starting twelve pods takes a while on a small machine, ending them their grace period.
const LIMIT: Duration = Duration::from_secs(120);

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "containers": [{"name": "web", "image": "web"}],
                },
            },
        },
    })
}

/// Twelve pods are replaced, three at a time, while ever new connections come: none is broken.
pub(crate) fn deployment_rolled() -> Result<()> {
    let shape = Shape { pods_per_node: 0, ..Shape::routed() };
    let objects = ["manifests/nodes.yaml", "pool.yaml", "web.yaml"];
    let mut routed = Routed::on_kubernetes(shape, &objects)?;
    let result = roll(&mut routed);
    result.map_err(|error| routed.failed(error))
}

fn roll(routed: &mut Routed) -> Result<()> {
    let control = routed.cluster.control()?;
    control.start_controllers(&[
        "deployment-controller",
        "replicaset-controller",
        "endpointslice-controller",
    ])?;
    let api = Api::start(control)?;
    let mut agents = scenario::start_agents(routed.lab(), &routed.cluster.options)?;
    let lab = &routed.cluster.lab;
    api.post(DEPLOYMENTS, &deployment())?;
    let mut kubelet = Kubelet::new(lab, &api, 0);
    until(&mut kubelet, "all pods are ready", |_| {
        Ok(count(&api, "readyReplicas")? == REPLICAS as u64)
    })?;
    let first: BTreeSet<_> = kubelet.pods().values().map(ToString::to_string).collect();
    for vip in routed.cluster.vips {
        routed::await_serving(lab, vip, &first, &mut agents)?;
    }
    scenario::await_steering(&mut agents)?;
    for round in 0..if suite::full() { 5 } else { 1 } {
        let before: BTreeSet<_> = kubelet.pods().keys().map(ToString::to_string).collect();
        let load = Load { life: Some(LIFE), ..Load::default() };
        let from = &routed.remote()?.namespace;
        let traffic = Traffic::begin(from, &routed.cluster.vips, load, 0)?;
        let template = json!({"metadata": {"annotations": {"round": round.to_string()}}});
        api.patch(&format!("{DEPLOYMENTS}/web"), &json!({"spec": {"template": template}}))?;
        until(&mut kubelet, "all pods are replaced and the old ones gone", |kubelet| {
            let pods = kubelet.pods();
            Ok(pods.len() == REPLICAS
                && !pods.keys().any(|name| before.contains(*name))
                && count(&api, "updatedReplicas")? == REPLICAS as u64)
        })?;
        traffic.settle(4)?;
        let outcome = traffic.stop()?;
        outcome.check()?;
        for (vip, report) in &outcome.tcp {
            let served = report.pods.len();
            ensure!(served == 2 * REPLICAS, "{vip}: {served} pods served in all: {report}");
        }
    }
    wait::until_true(START_LIMIT, "the agents are well", || {
        agents.iter_mut().try_for_each(Agent::check).map(|()| true)
    })
}

/// A count in the Deployment's status.
fn count(api: &Api, field: &str) -> Result<u64> {
    let deployment = api.get(&format!("{DEPLOYMENTS}/web"))?;
    Ok(deployment["status"][field].as_u64().unwrap_or(0))
}

/// Plays kubelet until a condition holds.
fn until(
    kubelet: &mut Kubelet<'_>,
    what: &str,
    mut condition: impl FnMut(&Kubelet<'_>) -> Result<bool>,
) -> Result<()> {
    wait::until_true(LIMIT, what, || {
        kubelet.sync(Instant::now()).context("playing kubelet")?;
        let holds = condition(kubelet)?;
        // The API server needs time for others as well.
        wait::sleep_until(Instant::now() + Duration::from_millis(50));
        Ok(holds)
    })
}
