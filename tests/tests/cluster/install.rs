//! From the chart to a Service that answers, with nothing given to the agents but what it says.
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Lab, Recording, Shape, command,
        container::{DaemonSet, Image, Pod},
        control_plane::{ControlPlane, NAMESPACE, ProxyMode, VERSION, program},
        probe,
        scenario::{self, START_LIMIT, WEB_PORT},
    },
    wait,
};
use serde_json::{Value, json};
use std::{env, path::Path, process::Command, time::Duration};

/// What is applied after the definitions.
const EXAMPLES: [&str; 4] =
    ["manifests/nodes.yaml", "manifests/web-endpoints.yaml", "pool.yaml", "web.yaml"];

/// Values as they stand in an installation of MetalLB, and what of them is not used.
const METALLB_VALUES: &str = "
loadBalancerClass: lan
controller: {logLevel: debug, image: {tag: v0.16.1}, tolerations: [], webhookMode: disabled}
speaker:
  logLevel: all
  ignoreExcludeLB: true
  tolerateMaster: false
  nodeSelector: {lb: 'yes'}
  memberlist: {enabled: true}
  frr: {enabled: false}
  startupProbe: {enabled: true}
frrk8s: {enabled: false}
crds: {enabled: false}
";

fn helm(arguments: &[&str], values: &str) -> Result<String> {
    let mut helm = Command::new(program("helm")?);
    helm.args(arguments).current_dir(command::workspace()).env_remove("KUBECONFIG");
    command::run_with_input(helm.args(["--namespace", NAMESPACE, "--values", "-"]), values)
}

/// The objects that the chart renders to.
pub(crate) fn rendered(values: &str) -> Result<String> {
    let version = format!("--kube-version={VERSION}");
    helm(&["template", "herald", "deploy/chart", &version], values)
}

fn apply(control: &ControlPlane, manifests: &str, dry_run: bool) -> Result<String> {
    let mut arguments = vec!["apply", "--server-side", "--validate=strict", "-f", "-"];
    if dry_run {
        // Another manager's fields are among them.
        arguments.extend(["--dry-run=server", "--force-conflicts"]);
    }
    control.kubectl_with(&arguments, manifests)
}

/// The chart is rendered by the real Helm, the API server takes it to the letter, and the pods
/// that it describes serve: with their own service account, capabilities, system calls and mounts.
/// A rolling update of them loses nothing.
pub(crate) fn chart_to_external_ip() -> Result<()> {
    with_image(Image::of_built_agent)
}

/// The same with an image of `cargo xtask image`, which `HERALD_IMAGE` names.
pub(crate) fn image_to_external_ip() -> Result<()> {
    let archive = env::var_os("HERALD_IMAGE").context("HERALD_IMAGE names no image")?;
    with_image(|lab| Image::of_archive(lab, Path::new(&archive)))
}

fn with_image(image: impl Fn(&Lab) -> Result<Image>) -> Result<()> {
    let lab = Lab::new(Shape::default())?;
    let result = image(&lab).and_then(|image| chart_to_external_ip_on(&lab, image));
    if result.is_err() {
        lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", lab.directory.display()))
}

fn chart_to_external_ip_on(lab: &Lab, image: Image) -> Result<()> {
    let control = ControlPlane::start(lab)?;
    apply(&control, &rendered("namespace: {create: true}")?, false)?;
    control.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    for objects in EXAMPLES {
        control.apply(&command::workspace().join("examples").join(objects))?;
    }
    for node in &lab.nodes {
        control.start_kube_proxy(node, ProxyMode::Nftables)?;
    }

    let agents = DaemonSet::read(&control, NAMESPACE, "herald", image)?;
    admitted(&control, &agents)?;
    let start = |node| agents.start(lab, &control, node);
    let mut pods = lab.nodes.iter().map(start).collect::<Result<Vec<_>>>()?;
    for pod in &mut pods {
        await_ready(&agents, pod)?;
    }
    let vips = scenario::external_addresses(&control, &mut [])?;
    for vip in vips {
        scenario::await_owner(lab, &mut [], vip, START_LIMIT)?;
        scenario::await_serving(lab, vip, &scenario::node_names(lab), START_LIMIT)?;
    }
    let status = agents.exec(&pods[0], &["status", "--output=json"])?;
    let status: Value = serde_json::from_str(&status)?;
    ensure!(status["agent"]["ready"] == true, "{status}");

    let client = &lab.client.namespace;
    let to = (vips[0], WEB_PORT).into();
    let flow = probe::watch_flow(client, to, Duration::from_millis(5));
    let gaps = probe::watch_gaps(client, to, Duration::from_millis(5));
    for (position, node) in lab.nodes.iter().enumerate() {
        let status = pods.remove(position).terminate(agents.grace())?;
        ensure!(status.success(), "the pod of {} ended with {status}", node.name);
        let mut pod = agents.start(lab, &control, node)?;
        await_ready(&agents, &mut pod)?;
        ensure!(agents.probe(&pod, "livenessProbe")?, "the pod of {} is not healthy", node.name);
        pods.insert(position, pod);
    }
    let flow = flow.stop()?;
    ensure!(flow.lost() == 0, "{} of {} datagrams lost", flow.lost(), flow.sent);
    let gaps = gaps.stop()?;
    ensure!(gaps.lost() == 0, "{} of {} datagrams of new flows lost", gaps.lost(), gaps.sent);
    for pod in &pods {
        let printed = pod.printed()?.to_lowercase();
        let wrong =
            ["forbidden", "not permitted", "permission denied", "read-only file", "z error "];
        let line = printed.lines().find(|line| wrong.iter().any(|word| line.contains(word)));
        ensure!(line.is_none(), "{}: {}", pod.node, line.unwrap_or_default());
    }
    // Applied again, it takes nothing away that agents have written since.
    let keys =
        || control.kubectl(&["get", "secret", "-n", NAMESPACE, "-o", "jsonpath={.items[*].data}"]);
    let before = keys()?;
    ensure!(before.contains("tls.crt"), "no certificate: {before}");
    apply(&control, &rendered("namespace: {create: true}")?, false)?;
    ensure!(keys()? == before, "the Secrets have lost something");
    Ok(())
}

/// The namespace admits the pods; one without its label would not.
fn admitted(control: &ControlPlane, agents: &DaemonSet) -> Result<()> {
    let mut pod = agents.pod("node1");
    control.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &pod.to_string())?;
    let restricted = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "baseline"},
        },
    });
    control.apply_text(&restricted.to_string())?;
    pod["metadata"]["namespace"] = "restricted".into();
    let refused =
        control.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &pod.to_string());
    ensure!(refused.is_err_and(|error| error.to_string().contains("PodSecurity")), "admitted");
    Ok(())
}

fn await_ready(agents: &DaemonSet, pod: &mut Pod) -> Result<()> {
    wait::until_true(2 * START_LIMIT, &format!("the pod of {} is ready", pod.node), || {
        pod.check()?;
        agents.probe(pod, "readinessProbe")
    })
}

/// The real Helm installs the chart on a real API server, upgrades it by the values of a MetalLB
/// installation, and takes it away again; the definitions and the pools stay.
pub(crate) fn by_helm() -> Result<()> {
    let lab = Lab::without_pods(1, Recording::None)?;
    let result = by_helm_on(&lab);
    if result.is_err() {
        lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", lab.directory.display()))
}

fn by_helm_on(lab: &Lab) -> Result<()> {
    let control = ControlPlane::start(lab)?;
    let kubeconfig = control.admin_kubeconfig().display().to_string();
    let release = |arguments: &[&str], values: &str| -> Result<String> {
        let mut helm = control.host.namespace.command(program("helm")?);
        helm.args(arguments).args(["--namespace", NAMESPACE, "--kubeconfig", &kubeconfig]);
        // What Helm keeps for itself goes with the laboratory.
        helm.env("HOME", &lab.directory);
        command::run_with_input(helm.current_dir(command::workspace()), values)
    };
    let notes =
        release(&["install", "herald", "deploy/chart", "--create-namespace", "--values", "-"], "")?;
    ensure!(!notes.contains("were not used"), "{notes}");
    control.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    control.apply(&command::workspace().join("examples/pool.yaml"))?;

    let notes = release(&["upgrade", "herald", "deploy/chart", "--values", "-"], METALLB_VALUES)?;
    let (_, ignored) = notes.split_once("were not used:").context("nothing was ignored")?;
    let mut ignored: Vec<_> = ignored.split_whitespace().collect();
    ignored.sort_unstable();
    let expected = [
        "controller.image",
        "controller.logLevel",
        "controller.tolerations",
        "frrk8s",
        "speaker.frr",
        "speaker.memberlist",
        "speaker.startupProbe",
    ];
    ensure!(ignored == expected, "{ignored:?}");
    let object = control.kubectl(&["get", "daemonset", "-n", NAMESPACE, "herald", "-o", "json"])?;
    let object: Value = serde_json::from_str(&object)?;
    let spec = &object["spec"]["template"]["spec"];
    let args = spec["containers"][0]["args"].to_string();
    for argument in ["--lb-class=lan", "--log-level=trace", "--ignore-exclude-lb", "disabled"] {
        ensure!(args.contains(argument), "no {argument} in {args}");
    }
    ensure!(spec["nodeSelector"]["lb"] == "yes", "{}", spec["nodeSelector"]);
    ensure!(spec["tolerations"].is_null(), "{}", spec["tolerations"]);

    release(&["uninstall", "herald", "--wait"], "")?;
    for gone in ["daemonset", "serviceaccount/herald", "validatingwebhookconfiguration"] {
        let left = control.kubectl(&["get", gone, "-n", NAMESPACE, "--ignore-not-found"])?;
        ensure!(left.is_empty(), "left: {left}");
    }
    let left = control.kubectl(&["get", "ipaddresspool", "-n", NAMESPACE, "-o", "name"])?;
    ensure!(left.contains("ipaddresspool"), "the pools are gone: {left}");
    // Those are found again.
    release(&["install", "herald", "deploy/chart", "--values", "-"], "")?;
    release(&["uninstall", "herald", "--wait"], "")?;
    values(&control)
}

/// Each of these is taken by a strict API server or, if it is wrong, refused by name.
fn values(control: &ControlPlane) -> Result<()> {
    for values in [
        METALLB_VALUES,
        "speaker: {enabled: false}",
        "rbac: {create: false}\nspeaker: {serviceAccount: {create: false, name: mine}}",
        "image: {repository: registry.example/herald, digest: 'sha256:0123456789012345678901234567890123456789012345678901234567890123', pullPolicy: Always}\nimagePullSecrets: [{name: pull}]",
        "fullnameOverride: lb\ncontroller: {webhookMode: disabled}\nnetworkpolicies: {enabled: true}",
        "speaker: {interfaces: [eth0, 'bond*'], delivery: kernel, forward: tunnel, xdpMode: tcx, addressConflict: withdraw, logFormat: json, extraArgs: [--row-capacity=4194304], excludeInterfaces: {enabled: false}, affinity: {nodeAffinity: {}}, tolerations: [{operator: Exists}], podAnnotations: {a: b}, labels: {c: d}, updateStrategy: {type: OnDelete, rollingUpdate: null}, livenessProbe: {enabled: false}, resources: {limits: {memory: 1Gi}}, seccompProfile: {type: Unconfined}, priorityClassName: ''}",
        "prometheus: {scrapeAnnotations: true, metricsPort: 9999}\ngrafana: {dashboard: {enabled: true}}",
        "prometheus: {metricsBindAddress: 'fd77::1'}",
    ] {
        let text = rendered(values).with_context(|| values.to_owned())?;
        apply(control, &format!("{text}\n"), true).with_context(|| values.to_owned())?;
    }
    for (values, named) in [
        ("speaker: {tolerate: true}", "'tolerate' not allowed"),
        ("speaker: {logFormat: xml}", "/speaker/logFormat"),
        ("speaker: {heartbeatPort: 70000}", "/speaker/heartbeatPort"),
        ("speaker: {terminationGracePeriodSeconds: 0}", "/speaker/terminationGracePeriodSeconds"),
        ("controller: {webhookMode: onlywebhook}", "/controller/webhookMode"),
        ("image: {digest: latest}", "/image/digest"),
        (
            "prometheus: {prometheusRule: {addressPoolUsage: {thresholds: [{percent: 101}]}}}",
            "percent",
        ),
        ("loadbalancerClass: x", "'loadbalancerClass' not allowed"),
    ] {
        let refused = rendered(values).err().with_context(|| format!("not refused: {values}"))?;
        ensure!(refused.to_string().contains(named), "{values}: {refused}");
    }
    // Those that only Prometheus' operator knows.
    let text = rendered(
        "prometheus: {podMonitor: {enabled: true, interval: 30s}, serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, serviceAccount: p, namespace: monitoring}",
    )?;
    for kind in [
        "kind: PodMonitor",
        "kind: ServiceMonitor",
        "kind: PrometheusRule",
        "--metrics-addr=0.0.0.0:9120",
    ] {
        ensure!(text.contains(kind), "no {kind}");
    }
    Ok(())
}
