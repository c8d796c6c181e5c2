//! A cluster with the definitions of only what it uses.
use crate::objects::LIMIT;
use anyhow::{Context as _, Result, ensure};
use herald_tests::{
    lab::{
        Lab, Recording, command,
        control_plane::{ControlPlane, NAMESPACE},
        scenario,
    },
    wait,
};
use std::time::Duration;

/// How often an agent looks for what is not defined, and then some.
const LOOKS: Duration = Duration::from_secs(90);

const POOL: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: all, namespace: metallb-system}
spec: {addresses: [10.77.0.200/29]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: all, namespace: metallb-system}
";

/// One that BGP would not accept.
const PEER: &str = "apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: bad, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.77.0.201, bfdProfile: absent}
";

/// Without those of BGP an agent is in sync with what there is; what is missing is said once; and
/// what comes later is followed.
pub(crate) fn without_bgp() -> Result<()> {
    let lab = Lab::without_pods(1, Recording::Latest)?;
    let result = without_bgp_on(&lab);
    if result.is_err() {
        lab.mark_failed();
    }
    result.with_context(|| format!("logs are in {}", lab.directory.display()))
}

fn without_bgp_on(lab: &Lab) -> Result<()> {
    let control = ControlPlane::start(lab)?;
    let options = control.install_kinds(&["ipaddresspools", "l2advertisements"])?;
    control.apply(&command::workspace().join("examples/manifests/nodes.yaml"))?;
    control.apply_text(POOL)?;
    let mut agent = lab.start_agent(&lab.nodes[0], &options)?;
    wait::until_true(2 * LIMIT, "the agent is in sync", || {
        agent.check()?;
        let metrics = scenario::metrics(&lab.nodes[0])?;
        Ok(scenario::sample(&metrics, "metallb_k8s_client_config_stale_bool")? == Some(0))
    })?;
    wait::until_true(2 * LIMIT, "the pool is judged", || {
        valid(&control, "ipaddresspool/all", "True")
    })?;

    for kind in ["bgpadvertisements", "bgppeers", "bfdprofiles", "communities"] {
        control.define(kind)?;
    }
    control.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    control.apply_text(PEER)?;
    wait::until_true(LOOKS, "a peer is judged", || {
        agent.check()?;
        valid(&control, "bgppeer/bad", "False")
    })?;
    let printed = agent.printed()?;
    for kind in ["BGPAdvertisements", "BGPPeers", "BFDProfiles", "Communitys"] {
        let text = format!("cannot list and watch {kind}");
        let lines: Vec<_> = printed.lines().filter(|line| line.contains(&text)).collect();
        let said: Vec<_> = lines.iter().filter(|line| !line.contains("no more")).collect();
        ensure!(said.len() == 1 && said[0].contains("lb-agent crds"), "{kind}: {lines:?}");
    }
    Ok(())
}

fn valid(control: &ControlPlane, object: &str, status: &str) -> Result<bool> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Valid\")].status}";
    Ok(control.kubectl(&["get", object, "-n", NAMESPACE, "-o", path])? == status)
}
