//! Which configuration is let in, and what is said of what cannot be used.
mod samples;

use crate::objects::{LIMIT, Service, await_event};
use anyhow::{Context, Result, bail, ensure};
use herald_tests::{
    lab::{
        control_plane::{ControlPlane, NAMESPACE},
        scenario::Cluster,
    },
    wait,
};
use samples::{GOOD, REFUSED_BY_SCHEMA, REFUSED_BY_WEBHOOK};
use serde_json::Value;
use std::fmt::Write as _;

/// What stands there already when the webhook is asked about [`REFUSED_BY_WEBHOOK`].
const STANDING: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: standing, namespace: metallb-system}
spec: {addresses: [10.77.9.0/24], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: standing, namespace: metallb-system}
spec: {communities: [{name: TAKEN, value: '1:1'}]}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: standing, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: standing, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.77.0.201, bfdProfile: standing}
";

/// A document a sample, `sample-0` and so on.
fn documents<'a>(samples: impl Iterator<Item = (&'a str, &'a str)>) -> Result<String> {
    let mut text = String::new();
    for (i, (kind, spec)) in samples.enumerate() {
        let (version, kind) = kind.split_once(' ').context("a version and a kind")?;
        writeln!(
            text,
            "---\napiVersion: metallb.io/{version}\nkind: {kind}\nmetadata: {{name: sample-{i}, \
             namespace: {NAMESPACE}}}\nspec: {spec}"
        )?;
    }
    Ok(text)
}

/// Asks the API server, which stores nothing. An error says all that it refuses.
fn try_all(control: &ControlPlane, documents: &str) -> Result<String> {
    control.kubectl_with(&["create", "--dry-run=server", "-f", "-"], documents)
}

/// All of `count` samples are refused. Returns what is said of each.
fn refusals(control: &ControlPlane, documents: &str, count: usize) -> Result<Vec<String>> {
    let said = match try_all(control, documents) {
        Ok(accepted) => bail!("all were let in: {accepted}"),
        Err(error) => error.to_string(),
    };
    let mut all = vec![];
    for i in 0..count {
        let name = format!("sample-{i}");
        // The name ends there: sample-1 is not sample-12.
        let here = said.match_indices(&name).map(|(at, _)| &said[at + name.len()..]);
        let rest = here
            .into_iter()
            .find(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
            .with_context(|| format!("nothing is said of {name}: {said}"))?;
        let end = rest.find("sample-").unwrap_or(rest.len());
        all.push(rest[..end].to_owned());
    }
    Ok(all)
}

/// The schema lets in what MetalLB lets in, and refuses what can be seen in one object.
pub(crate) fn schema(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    try_all(control, &documents(GOOD.iter().copied())?)?;
    let bad = documents(REFUSED_BY_SCHEMA.iter().map(|(kind, spec, _)| (*kind, *spec)))?;
    let said = refusals(control, &bad, REFUSED_BY_SCHEMA.len())?;
    for ((kind, spec, part), said) in REFUSED_BY_SCHEMA.iter().zip(said) {
        ensure!(said.contains(part), "{kind} {spec}: {part:?} is not in {said:?}");
    }
    Ok(())
}

fn get(control: &ControlPlane, resource: &str, name: &str) -> Result<Value> {
    let text = control.kubectl(&["get", resource, "-n", NAMESPACE, name, "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

/// A peer in the old version is the same in the new one, and the other way round.
pub(crate) fn bgp_peer_versions(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    let spec = serde_json::json!({
        "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "sourceAddress": "192.0.2.2",
        "peerPort": 180, "holdTime": "1m30s", "keepaliveTime": "30s", "routerID": "192.0.2.3",
        "password": "p", "bfdProfile": "f", "ebgpMultiHop": true,
        "nodeSelectors": [{
            "matchLabels": { "x": "y" },
            "matchExpressions": [{ "key": "k", "operator": "In", "values": ["1", "2"] }],
        }],
    });
    let peer = serde_json::json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "BGPPeer",
        "metadata": { "name": "old", "namespace": NAMESPACE }, "spec": spec,
    });
    control.apply_text(&peer.to_string())?;
    let (old, new) = ("bgppeers.v1beta1.metallb.io", "bgppeers.v1beta2.metallb.io");
    let fields = get(control, new, "old")?["spec"].clone();
    for (name, value) in spec.as_object().context("fields")? {
        ensure!(fields[name] == *value, "v1beta2 has another {name}: {fields}");
    }
    let fields = get(control, old, "old")?["spec"].clone();
    ensure!(fields == spec, "not what was written: {fields}");
    let patch = ["patch", new, "-n", NAMESPACE, "old", "--type=merge", "-p"];
    let patch = [&patch[..], &[r#"{"spec": {"vrf": "red"}}"#]].concat();
    control.kubectl(&patch)?;
    ensure!(get(control, new, "old")?["spec"]["vrf"] == "red", "v1beta2 lost a field");
    ensure!(get(control, old, "old")?["spec"] == spec, "v1beta1 shows what it does not know");
    control.kubectl(&["delete", new, "-n", NAMESPACE, "old"]).map(drop)
}

/// The message of an object's condition `Valid`, if its status is that one.
fn valid(
    control: &ControlPlane,
    resource: &str,
    name: &str,
    status: &str,
) -> Result<Option<String>> {
    let object = get(control, resource, name)?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut valid = conditions.iter().filter(|c| c["type"] == "Valid" && c["status"] == status);
    Ok(valid.next().map(|c| c["message"].as_str().unwrap_or_default().to_owned()))
}

/// Without the webhook: what cannot be used says so itself, and its neighbours work.
pub(crate) fn told_by_status(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    // Two at once: the good one is older.
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: neighbour, \
         namespace: metallb-system}\nspec: {addresses: [10.77.0.246/31], autoAssign: false}\n",
    )?;
    wait::until_true(2 * LIMIT, "the good pool is valid", || {
        Ok(valid(control, "ipaddresspool", "neighbour", "True")?.is_some())
    })?;
    // A second later, so that it is the younger one.
    wait::until_true(LIMIT, "the API server's clock goes on", || {
        let created =
            get(control, "ipaddresspool", "neighbour")?["metadata"]["creationTimestamp"].clone();
        control.apply_text(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clock, namespace: default}\n",
        )?;
        let text = control.kubectl(&["get", "configmap", "clock", "-o", "json"])?;
        let now: Value = serde_json::from_str(&text)?;
        control.kubectl(&["delete", "configmap", "clock"])?;
        Ok(now["metadata"]["creationTimestamp"] != created)
    })?;
    control.apply_text(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: bad, \
         namespace: metallb-system}\nspec: {addresses: [10.77.0.247/32]}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: bad, \
         namespace: metallb-system}\nspec: {interfaces: [nowhere], serviceSelectors: [{}, {}]}\n",
    )?;
    for (resource, parts) in [
        ("ipaddresspool", ["spec.addresses[0]", "10.77.0.247/32", "neighbour"]),
        ("l2advertisement", ["spec.serviceSelectors[1]", "earlier selector", "remove"]),
    ] {
        let message = wait::until(2 * LIMIT, &format!("the {resource} is not valid"), || {
            valid(control, resource, "bad", "False")
        })?;
        for part in parts {
            ensure!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
    let message = await_event(control, "bad", "ConfigurationError")?;
    ensure!(message.contains("spec."), "the Event names no field: {message}");

    // Each agent says so, too: the allocator of pools, all of everything.
    let mut states = vec!["controller".to_owned()];
    states.extend(cluster.lab.nodes.iter().map(|node| format!("speaker-{}", node.name)));
    for state in &states {
        wait::until_true(2 * LIMIT, &format!("the state {state} is Invalid"), || {
            let status = get(control, "configurationstate", state)?["status"].clone();
            let summary = status["errorSummary"].as_str().unwrap_or_default();
            Ok(status["result"] == "Invalid"
                && summary.contains("IPAddressPool bad: spec.addresses"))
        })?;
    }
    let annotations = &["metallb.io/address-pool: neighbour"][..];
    let service = Service { name: "beside", annotations, ..Service::default() };
    service.create(cluster)?;
    let vip = service.await_address(cluster)?;
    service.await_served(cluster, vip)?;
    service.delete(cluster)?;

    let all = ["delete", "-n", NAMESPACE, "ipaddresspool/bad", "l2advertisement/bad"];
    control.kubectl(&all)?;
    // Somebody may delete it: it comes back.
    control.kubectl(&["delete", "-n", NAMESPACE, "configurationstate", "controller"])?;
    control.kubectl(&["delete", "-n", NAMESPACE, "ipaddresspool", "neighbour"])?;
    for state in &states {
        wait::until_true(2 * LIMIT, &format!("the state {state} is Valid again"), || {
            let list =
                control.kubectl(&["get", "configurationstates", "-n", NAMESPACE, "-o", "json"])?;
            let list: Value = serde_json::from_str(&list)?;
            let mut items = list["items"].as_array().into_iter().flatten();
            Ok(items.any(|item| {
                item["metadata"]["name"] == **state && item["status"]["result"] == "Valid"
            }))
        })?;
    }
    Ok(())
}

/// A peer whose Secret holds no password says so, until it holds one; nothing of it is logged.
pub(crate) fn password_secrets(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    control.apply_text(&format!(
        "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: secured, namespace: \
         {NAMESPACE}}}\nspec: {{myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.7, \
         passwordSecret: {{name: session}}}}\n"
    ))?;
    let told = |status: &str, part: &str| {
        wait::until_true(3 * LIMIT, &format!("the peer is {status}: {part:?}"), || {
            let message = valid(control, "bgppeer", "secured", status)?;
            Ok(message.is_some_and(|message| message.contains(part)))
        })
    };
    told("False", "not there")?;
    let secret = |kind: &str, key: &str, value: &str| {
        control.apply_text(&format!(
            "apiVersion: v1\nkind: Secret\ntype: {kind}\nmetadata: {{name: session, namespace: \
             {NAMESPACE}}}\nstringData: {{{key}: {value}}}\n"
        ))
    };
    let delete = || control.kubectl(&["delete", "secret", "-n", NAMESPACE, "session"]);
    secret("Opaque", "password", "not-to-be-told")?;
    told("False", "\"Opaque\"")?;
    delete()?;
    secret("kubernetes.io/basic-auth", "username", "not-to-be-told")?;
    told("False", "without a password")?;
    let node = &cluster.lab.nodes[0].name;
    wait::until_true(2 * LIMIT, "a node's state names it", || {
        let state = get(control, "configurationstate", &format!("speaker-{node}"))?;
        let summary = state["status"]["errorSummary"].as_str().unwrap_or_default();
        Ok(summary.contains("BGPPeer secured: spec.passwordSecret.name"))
    })?;
    secret("kubernetes.io/basic-auth", "password", "not-to-be-told")?;
    told("True", "")?;
    for agent in &cluster.agents {
        let printed = agent.printed()?;
        let told = ["not-to-be-told", "bm90LXRvLWJlLXRvbGQ"].iter().any(|s| printed.contains(s));
        ensure!(!told, "the log of {} has the password", agent.node);
    }
    delete()?;
    control.kubectl(&["delete", "bgppeer", "-n", NAMESPACE, "secured"]).map(drop)
}

/// With the webhook: what cannot be used is not let in. It is asked to convert, too, if the
/// definition says so.
pub(crate) fn webhook(cluster: &Cluster) -> Result<()> {
    let control = cluster.control()?;
    control.apply_text(STANDING)?;
    control.install_webhook()?;
    // There are no pods here, and no controller that would look for them.
    let mut slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: \
                     webhook-1, namespace: metallb-system, labels: {kubernetes.io/service-name: \
                     metallb-webhook-service}}\naddressType: IPv4\nports: [{port: 9443}]\n\
                     endpoints:\n"
        .to_owned();
    for node in &cluster.lab.nodes {
        writeln!(slice, "- {{addresses: [{}], conditions: {{ready: true}}}}", node.ipv4)?;
    }
    control.apply_text(&slice)?;
    let named = ["metallb.io", "validatingwebhookconfiguration/metallb-webhook-configuration"];
    wait::until_true(4 * LIMIT, "the API server is told whom to trust", || {
        let text = control.kubectl(&["get", named[1], "-o", "json"])?;
        let configuration: Value = serde_json::from_str(&text)?;
        let mut webhooks = configuration["webhooks"].as_array().into_iter().flatten();
        Ok(webhooks.all(|webhook| webhook["clientConfig"]["caBundle"].is_string()))
    })?;
    // Each agent has the certificate, which it looks for each five seconds, and all that stands.
    let samples = REFUSED_BY_WEBHOOK.iter().map(|(kind, spec, _)| (*kind, *spec));
    let documents = documents(samples)?;
    let nodes = cluster.lab.nodes.len();
    let mut in_a_row = 0;
    let said = wait::until(4 * LIMIT, "all samples are refused", || {
        match refusals(control, &documents, REFUSED_BY_WEBHOOK.len()) {
            Ok(said) => {
                in_a_row += 1;
                // Several times over, since any of the agents may have answered.
                Ok((in_a_row > 2 * nodes).then_some(said))
            }
            Err(_) => {
                in_a_row = 0;
                Ok(None)
            }
        }
    })?;
    for ((kind, spec, parts), said) in REFUSED_BY_WEBHOOK.iter().zip(said) {
        for part in *parts {
            ensure!(said.contains(part), "{kind} {spec}: {part:?} is not in {said:?}");
        }
    }
    let good = GOOD.iter().copied().filter(|(kind, _)| !kind.ends_with("BGPPeer"));
    try_all(control, &self::documents(good)?).context("with the webhook")?;
    let elsewhere = "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: a, \
                     namespace: default}\n";
    // Any of the agents may be asked, also one that looks for the certificate only now.
    let refused = wait::until(LIMIT, "another namespace is refused", || {
        Ok(try_all(control, elsewhere).err())
    })?;
    ensure!(refused.to_string().contains("metadata.namespace: \"default\""), "{refused}");
    let delete = ["delete", "bfdprofile", "-n", NAMESPACE, "standing", "--dry-run=server"];
    let refused = wait::until(LIMIT, "the deletion of a profile in use is refused", || {
        Ok(control.kubectl(&delete).err())
    })?;
    ensure!(refused.to_string().contains("BGPPeer standing"), "{refused}");

    certificate_is_replaced(cluster, &documents).context("while the certificate is replaced")?;
    converts(control)?;
    control.kubectl(&["delete", named[1]])?;
    control.kubectl(&["delete", "service", "-n", NAMESPACE, "metallb-webhook-service"])?;
    control.kubectl(&["delete", "endpointslice", "-n", NAMESPACE, "webhook-1"])?;
    control.kubectl_with(&["delete", "-f", "-"], STANDING).map(drop)
}

/// A certificate that has grown old is replaced, and at no moment anything bad is let in: API servers
/// trust the new one before any agent shows it, and the old one as long as some do.
fn certificate_is_replaced(cluster: &Cluster, bad: &str) -> Result<()> {
    const SECRET: &str = "metallb-webhook-cert";
    const OLD: &str = "herald-lb.io/certificate-made-at=2025-01-01T00:00:00Z";
    let control = cluster.control()?;
    let trusted = || -> Result<String> {
        let template = r#"go-template={{index .data "ca.crt" | base64decode}}"#;
        control.kubectl(&["get", "secret", "-n", NAMESPACE, SECRET, "-o", template])
    };
    let before = trusted()?;
    control.kubectl(&["annotate", "secret", "-n", NAMESPACE, SECRET, "--overwrite", OLD])?;
    // The allocator looks once a minute.
    let after = wait::until(8 * LIMIT, "there is another certificate", || {
        // Once is too often.
        if let Err(let_in) = refusals(control, bad, REFUSED_BY_WEBHOOK.len()) {
            return Ok(Some(Err(let_in)));
        }
        Ok(Some(trusted()?).filter(|after| *after != before).map(Ok))
    })??;
    let end = "-----END CERTIFICATE-----\n";
    let (new, old) = after.split_at(after.find(end).context("no certificate")? + end.len());
    ensure!(before.starts_with(old) && old.contains("BEGIN"), "the old CA is not trusted any more");

    // Who makes it shows it; the others follow.
    let name = format!("metallb-webhook-service.{NAMESPACE}.svc");
    let files = [("new", new), ("both", &after)].map(|(name, text)| {
        let file = cluster.lab.directory.join(format!("{name}-ca.pem"));
        std::fs::write(&file, text).map(|()| file.display().to_string())
    });
    let [new, both] = files;
    let believed = |by: &str, node: &herald_tests::lab::Host| {
        let at = format!("{name}:9443:{}", node.ipv4);
        let url = format!("https://{name}:9443/convert");
        let ask = ["-s", "--cacert", by, "--resolve", &at, "-d", "{}", &url];
        cluster.lab.client.namespace.output("curl", &ask)
    };
    let (new, both) = (new?, both?);
    wait::until_true(LIMIT, "an agent shows the new certificate", || {
        Ok(cluster.lab.nodes.iter().any(|node| believed(&new, node).is_ok()))
    })?;
    for node in &cluster.lab.nodes {
        believed(&both, node).with_context(|| format!("of {}", node.name))?;
    }
    for _ in 0..3 * cluster.lab.nodes.len() {
        refusals(control, bad, REFUSED_BY_WEBHOOK.len())?;
    }
    Ok(())
}

/// As MetalLB's own definition has it.
fn converts(control: &ControlPlane) -> Result<()> {
    let patch = |patch: &str| {
        control.kubectl(&["patch", "crd", "bgppeers.metallb.io", "--type=merge", "-p", patch])
    };
    patch(
        r#"{"spec": {"conversion": {"strategy": "Webhook", "webhook": {
            "conversionReviewVersions": ["v1beta1", "v1beta2"], "clientConfig": {"service": {
                "name": "metallb-webhook-service", "namespace": "metallb-system",
                "path": "/convert"}}}}}}"#,
    )?;
    // The allocator looks once a minute.
    let path = "jsonpath={.spec.conversion.webhook.clientConfig.caBundle}";
    wait::until_true(8 * LIMIT, "the API server is told whom to trust for conversions", || {
        Ok(!control.kubectl(&["get", "crd", "bgppeers.metallb.io", "-o", path])?.is_empty())
    })?;
    let old = wait::until(2 * LIMIT, "the webhook converts", || {
        Ok(get(control, "bgppeers.v1beta1.metallb.io", "standing").ok())
    })?;
    ensure!(old["apiVersion"] == "metallb.io/v1beta1" && old["spec"]["myASN"] == 64512, "{old}");
    patch(r#"{"spec": {"conversion": {"strategy": "None", "webhook": null}}}"#)?;
    wait::until_true(LIMIT, "the API server converts by itself again", || {
        Ok(get(control, "bgppeers.v1beta1.metallb.io", "standing").is_ok())
    })
}
