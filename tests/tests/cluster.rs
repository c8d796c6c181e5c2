//! Real agents on a real API server, under the rules of `deploy/rbac.yaml`.
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Lab, Shape, command,
        control_plane::{self, ControlPlane},
        probe,
    },
    suite::{self, case},
    wait,
};
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let request = suite::begin();
    let obstacle = control_plane::check_programs().err().map(|e| e.to_string());
    suite::run(&request, obstacle, vec![case("kube_proxy", kube_proxy)])
}

/// kube-proxy serves the Service's cluster address on every node.
fn kube_proxy() -> Result<()> {
    let lab = Lab::new(Shape::default())?;
    let control = ControlPlane::start(&lab)?;
    let examples = command::workspace().join("examples");
    control.apply(&examples.join("manifests"))?;
    control.apply(&examples.join("web.yaml"))?;
    for node in &lab.nodes {
        control.start_kube_proxy(node)?;
    }
    let addresses =
        control.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIPs[*]}"])?;
    ensure!(!addresses.is_empty(), "the Service has no cluster address");
    for address in addresses.split_whitespace() {
        let address = address.parse()?;
        for node in &lab.nodes {
            wait::until_true(Duration::from_secs(30), "kube-proxy serves", || {
                Ok(probe::http(&node.namespace, address, 80)?.pod.starts_with("web-"))
            })?;
        }
    }
    Ok(())
}
