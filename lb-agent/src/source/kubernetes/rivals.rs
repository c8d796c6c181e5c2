//! Whether MetalLB runs beside Herald: both would give and announce the same addresses.
//!
//! MetalLB's workloads are known by the labels of its manifests (`app`) and of its chart
//! (`app.kubernetes.io/name`), and looked for in the namespace of the `metallb.io` resources,
//! which is the only one that MetalLB reads as well.
use super::{health::Health, view::View};
use crate::{plan::Notice, snapshot::ObjectName};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, Client, api::ListParams};
use std::{collections::BTreeSet, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::debug;

/// Between two looks. A replacement is seldom, and an Event about it may come a minute late.
const PAUSE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
/// How MetalLB's workloads are labelled, by its manifests and by its chart.
const LABELS: [&str; 2] = ["app=metallb", "app.kubernetes.io/name=metallb"];

/// A workload of MetalLB's with pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rival {
    kind: &'static str,
    name: ObjectName,
}

/// Looks for MetalLB for ever, as long as this agent is the allocator, and tells of what it finds.
pub(super) async fn look(
    client: Client,
    namespace: &str,
    mut may_allocate: watch::Receiver<bool>,
    view: &View,
    health: &Health,
) {
    let daemons = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let deployments = Api::<Deployment>::namespaced(client, namespace);
    let mut told = BTreeSet::new();
    loop {
        if *may_allocate.borrow_and_update() {
            match timeout(PATIENCE, rivals(&daemons, &deployments)).await {
                Ok(Ok(rivals)) => {
                    rivals.difference(&told).for_each(|rival| view.notify(notice(rival)));
                    told = rivals;
                }
                // What it is for is worth no alarm of its own.
                Ok(Err(error)) => debug!("{}", health.explain("look for MetalLB", &error)),
                Err(_) => debug!("no answer while looking for MetalLB"),
            }
        } else {
            told.clear();
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            changed = may_allocate.changed() => if changed.is_err() { return },
        }
    }
}

async fn rivals(
    daemons: &Api<DaemonSet>,
    deployments: &Api<Deployment>,
) -> kube::Result<BTreeSet<Rival>> {
    let mut found = BTreeSet::new();
    for labels in LABELS {
        let params = ListParams::default().labels(labels);
        for daemon in daemons.list(&params).await? {
            let wanted = daemon.status.as_ref().map_or(0, |status| status.desired_number_scheduled);
            found.extend((wanted > 0).then(|| rival("DaemonSet", &daemon)));
        }
        for deployment in deployments.list(&params).await? {
            let wanted = deployment.spec.as_ref().map_or(1, |spec| spec.replicas.unwrap_or(1));
            found.extend((wanted > 0).then(|| rival("Deployment", &deployment)));
        }
    }
    Ok(found)
}

fn rival(kind: &'static str, object: &impl kube::ResourceExt) -> Rival {
    let namespace = object.namespace().unwrap_or_default();
    Rival { kind, name: ObjectName::new(namespace, object.name_any()) }
}

fn notice(rival: &Rival) -> Notice {
    let does = match rival.kind {
        "DaemonSet" => "announces the same addresses from other nodes",
        _ => "gives Services addresses from the same pools",
    };
    Notice {
        kind: rival.kind,
        object: rival.name.clone(),
        warning: true,
        reason: "MetalLBRunning",
        message: format!(
            "this is MetalLB, which {does}, while Herald does so too: remove one of them \
             (docs/migrate-from-metallb.md says how no address is lost)"
        )
        .into(),
    }
}
