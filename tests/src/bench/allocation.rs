//! Addresses for thousands of Services on a real API server, against what that server can write.

use std::{ops::Range, time::Instant};

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::Patch;
use serde_json::{Value, json};

use super::{
    api_server::{self, AT_ONCE, Api, SERVICES, Version, in_namespace, settled_memory},
    report::Judged,
};
use crate::lab::{
    Lab, command,
    control_plane::{ControlPlane, check_programs},
};

/// A class that no agent serves.
const NOBODY: &str = "bench.example/nobody";

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
    super::in_laboratory(|lab| on(lab, services, all))
}

fn on(lab: &Lab, services: usize, all: usize) -> Result<Allocation> {
    let control = ControlPlane::start(lab)?;
    let options = control.install()?;
    control.apply(&command::workspace().join("examples/manifests/nodes.yaml"))?;
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {name: wide, namespace: metallb-system}\nspec: {addresses: [198.18.0.0/15]}\n",
    )?;
    let mut others =
        in_namespace(&control, async |api| create(api, "bare", 0..services, Some(NOBODY)).await)?;
    others.sort();
    let before = in_namespace(&control, async |api| bare(api, &mut others, "198.51").await)?;

    in_namespace(&control, async |api| create(api, "s", 0..services, None).await.map(drop))?;
    let mut agent = lab.start_agent(&lab.nodes[0], &options)?;
    let given = in_namespace(&control, async |api| {
        api.await_address(&name("s", 0)).await?;
        let start = Instant::now();
        api.await_address(&name("s", services - 1)).await?;
        let given = (services - 1) as f64 / start.elapsed().as_secs_f64();
        api.await_addresses(services).await?;
        Ok(given)
    })?;
    agent.check()?;
    in_namespace(&control, async |api| {
        create(api, "s", services..all, None).await?;
        api.await_address(&name("s", all - 1)).await?;
        api.await_addresses(all).await
    })?;
    let memory = settled_memory(&mut agent)?;
    agent.kill()?;
    let after = in_namespace(&control, async |api| bare(api, &mut others, "203.0").await)?;
    Ok(Allocation { services, all, bare: [before, after], given, memory })
}

/// What the API server takes: the same patch as the agent's, by a client that does nothing else. (To
/// create Services takes it the longer the more there are, so these serve more than once.)
async fn bare(api: &Api, services: &mut [Version], prefix: &str) -> Result<f64> {
    let start = Instant::now();
    let count = services.len() as f64;
    stream::iter(services.iter_mut().enumerate())
        .map(|(i, service)| async move {
            let (name, version) = &*service;
            let address = format!("{prefix}.{}.{}", i / 256 % 256, i % 256);
            let patch = Patch::Merge(json!({
                "metadata": {
                    "resourceVersion": version,
                    "annotations": { "metallb.io/ip-allocated-from-pool": "bare" },
                },
                "status": { "loadBalancer": { "ingress": [{ "ip": address }] } },
            }));
            *service = api.patch(SERVICES, (name, Some("status")), &patch).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |()| Ok(()))
        .await?;
    Ok(count / start.elapsed().as_secs_f64())
}

/// Creates Services; their versions by name.
async fn create(
    api: &Api,
    prefix: &str,
    numbers: Range<usize>,
    class: Option<&str>,
) -> Result<Vec<Version>> {
    let bodies = numbers.map(|number| -> Value {
        let ports = json!([
            { "name": "http", "port": 80, "targetPort": 8080 },
            { "name": "https", "port": 443, "targetPort": 8443 },
        ]);
        let mut body = api_server::service(&name(prefix, number), &ports);
        body["spec"]["loadBalancerClass"] = class.into();
        body
    });
    api.create_all("Services", SERVICES, bodies).await
}

fn name(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:05}")
}

impl Allocation {
    /// The figures, with what they are held against.
    pub fn judged(&self) -> Vec<Judged> {
        let Self { services, all, bare: [before, after], given, memory: (now, most) } = *self;
        let bare = f64::midpoint(before, after);
        let share = 100.0 * given / bare;
        vec![
            Judged {
                between: Some((before.min(after), before.max(after))),
                ..Judged::told(
                    format!("bare patches of the status of {services} Services"),
                    bare,
                    "1/s",
                    "before and after",
                )
            },
            Judged::told(format!("addresses for {services} pending Services"), given, "1/s", ""),
            Judged {
                target: Some("≥ 80".into()),
                met: Some(share >= 80.0),
                ..Judged::told("addresses, share of bare patches", share, "%", "")
            },
            Judged {
                target: Some("≤ 60".into()),
                met: Some(now <= 60.0),
                ..Judged::told(
                    format!("agent's memory with {all} Services"),
                    now,
                    "MiB",
                    format!("{most:.0} MiB at most"),
                )
            },
        ]
    }
}
