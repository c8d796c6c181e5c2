//! What MetalLB has given is taken over as it stands, and left as it could go on with it.
use crate::objects::{LIMIT, await_event};
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        control_plane::{ControlPlane, NAMESPACE},
        scenario::{Cluster, START_LIMIT, start_agents},
    },
    wait,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A Service as MetalLB leaves it.
struct Held {
    name: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    families: &'static str,
    port: u16,
    addresses: &'static [&'static str],
}

const POOL: (&str, &str) = ("metallb.io/ip-allocated-from-pool", "lan");
const SHARING: (&str, &str) = ("metallb.io/allow-shared-ip", "key");

/// None has what would be chosen for it today, and by name all that have none come first.
const HELD: [Held; 6] = [
    Held {
        name: "held-first",
        annotations: &[POOL],
        families: "IPv4",
        port: 80,
        addresses: &["10.77.0.239"],
    },
    Held {
        name: "held-old-annotation",
        annotations: &[
            ("metallb.universe.tf/ip-allocated-from-pool", "lan"),
            ("metallb.universe.tf/loadBalancerIPs", "10.77.0.222"),
        ],
        families: "IPv4",
        port: 80,
        addresses: &["10.77.0.222"],
    },
    Held {
        name: "held-six",
        annotations: &[POOL],
        families: "IPv6",
        port: 80,
        addresses: &["fd77::2aa"],
    },
    Held {
        name: "held-dual",
        annotations: &[POOL],
        families: "both",
        port: 80,
        addresses: &["10.77.0.221", "fd77::2bb"],
    },
    Held {
        name: "held-shared-a",
        annotations: &[POOL, SHARING],
        families: "IPv4",
        port: 80,
        addresses: &["10.77.0.220"],
    },
    Held {
        name: "held-shared-b",
        annotations: &[POOL, SHARING],
        families: "IPv4",
        port: 81,
        addresses: &["10.77.0.220"],
    },
];
/// Services that were pending when MetalLB went.
const PENDING: [&str; 3] = ["a-pending", "b-pending", "c-pending"];

const SPEAKER: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system, labels: {app: metallb, component: speaker}}
spec:
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec: {containers: [{name: speaker, image: example.invalid/speaker}]}
";

/// No address changes when Herald takes over, nor is a Service written that already names its pool
/// as MetalLB does today; those that were pending get others. What Herald leaves is what MetalLB reads.
pub(crate) fn there_and_back(cluster: &mut Cluster) -> Result<()> {
    for agent in std::mem::take(&mut cluster.agents) {
        agent.kill()?;
    }
    let control = cluster.control()?;
    for name in PENDING {
        control.apply_text(&service(name, &[], "IPv4", 80))?;
    }
    for Held { name, annotations, families, port, addresses } in HELD {
        control.apply_text(&service(name, annotations, families, port))?;
        let addresses: Result<Vec<_>, _> = addresses.iter().map(|text| text.parse()).collect();
        control.set_ingress(name, &addresses?)?;
    }
    let speaker = json!({"status": {
        "desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberMisscheduled": 0,
        "numberReady": 3,
    }});
    control.apply_text(SPEAKER)?;
    control.kubectl(&[
        "patch",
        "daemonset",
        "speaker",
        "-n",
        NAMESPACE,
        "--subresource=status",
        "--type=merge",
        "-p",
        &speaker.to_string(),
    ])?;
    let before = held(control)?;

    cluster.agents = start_agents(&cluster.lab, &cluster.options)?;
    let control = cluster.control()?;
    let mut given = BTreeSet::new();
    for name in PENDING {
        let what = format!("{name} has an address");
        given.extend(wait::until(2 * START_LIMIT, &what, || {
            Ok(Some(control.ingress("default", name)?).filter(|addresses| !addresses.is_empty()))
        })?);
    }
    ensure!(given.len() == PENDING.len(), "an address was given twice: {given:?}");
    let after = held(control)?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    let kept: BTreeSet<_> = HELD.iter().flat_map(|held| held.addresses).collect();
    ensure!(!given.iter().any(|ip| kept.contains(&ip.to_string().as_str())), "{given:?} were held");
    let message = await_event(control, "speaker", "MetalLBRunning")?;
    ensure!(message.contains("docs/migrate-from-metallb.md"), "{message}");
    control.kubectl(&["delete", "daemonset", "speaker", "-n", NAMESPACE])?;
    cluster.await_all_serve()?;

    let control = cluster.control()?;
    for name in PENDING {
        left_as_metallb_does(control, name)?;
        control.kubectl(&["delete", "service", name])?;
    }
    for Held { name, .. } in HELD {
        control.kubectl(&["delete", "service", name])?;
    }
    Ok(())
}

fn service(name: &str, annotations: &[(&str, &str)], families: &str, port: u16) -> String {
    let families = match families {
        "both" => json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
        one => json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": [one]}),
    };
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": port, "targetPort": 8080}]},
    });
    for field in ["ipFamilyPolicy", "ipFamilies"] {
        object["spec"][field] = families[field].clone();
    }
    object.to_string()
}

/// Version and addresses of what MetalLB had given.
fn held(control: &ControlPlane) -> Result<BTreeMap<&'static str, (String, Value)>> {
    let entry = |Held { name, .. }| {
        let object = get(control, name)?;
        let metadata = &object["metadata"];
        let version = metadata["resourceVersion"].as_str().context("a version")?;
        // Where only the old annotation names the pool, the new one is added once.
        let old = metadata["annotations"].get("metallb.universe.tf/ip-allocated-from-pool");
        let version = if old.is_some() { "" } else { version };
        Ok((name, (version.to_owned(), object["status"]["loadBalancer"].clone())))
    };
    HELD.into_iter().map(entry).collect()
}

/// Its addresses and the pool's annotation, and nothing that MetalLB would not know.
fn left_as_metallb_does(control: &ControlPlane, name: &str) -> Result<()> {
    let object = wait::until(LIMIT, &format!("{name} names its pool"), || {
        let object = get(control, name)?;
        let pool = &object["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"];
        Ok((pool == "lan").then_some(object))
    })?;
    let metadata = object["metadata"].as_object().context("metadata")?;
    ensure!(!metadata.contains_key("finalizers"), "{name} has finalizers: {metadata:?}");
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array().context("ingress")?;
    for entry in ingress {
        // The API server adds the mode.
        let fields: BTreeSet<_> = entry.as_object().into_iter().flatten().map(|(k, _)| k).collect();
        ensure!(fields.iter().all(|field| ["ip", "ipMode"].contains(&field.as_str())), "{entry}");
    }
    Ok(())
}

fn get(control: &ControlPlane, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&control.kubectl(&["get", "service", name, "-o", "json"])?)?)
}
