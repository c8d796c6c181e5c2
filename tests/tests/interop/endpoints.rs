//! The Service's endpoints change, and its policy.
use crate::ecmp::{self, nothing_breaks};
use anyhow::{Result, ensure};
use herald_tests::lab::{
    Lab, Pod,
    connections::Load,
    endpoints::{Condition, replace},
    probe::{self, Over},
    routed::Routed,
    scenario::WEB_PORT,
};
use std::{collections::BTreeSet, fs};

/// From which ports the client connects, here and by the kernel's default.
const PORT_RANGE: &str = "net/ipv4/ip_local_port_range";
const FEW_PORTS: &str = "20000 22999";
const ALL_PORTS: &str = "32768 60999";

fn with(lab: &Lab, condition: impl Fn(&Pod) -> Option<Condition>) -> Vec<(&Pod, Condition)> {
    lab.pods.iter().filter_map(|pod| Some((pod, condition(pod)?))).collect()
}

fn all_ready(lab: &Lab) -> Vec<(&Pod, Condition)> {
    with(lab, |_| Some(Condition::Ready))
}

/// Pods are added, one after another, which take rows from others; those that were there from the
/// beginning keep all their connections. Then the new ones are drained again.
///
/// The client's ports are few: most connections have one that had another connection before, to a pod
/// that takes its row later.
pub(crate) fn come_and_go(routed: &mut Routed) -> Result<()> {
    let result = with_few_ports(routed).and_then(|()| added_and_drained(routed));
    let remote = &routed.remote()?.namespace;
    remote.sysctl(PORT_RANGE, ALL_PORTS)?;
    result
}

/// Has the client use few ports, each of them soon again, and most of them once.
fn with_few_ports(routed: &Routed) -> Result<()> {
    let remote = &routed.remote()?.namespace;
    remote.sysctl(PORT_RANGE, FEW_PORTS)?;
    remote.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    for vip in routed.cluster.vips {
        let spread = probe::spread(remote, Over::Tcp, (vip, WEB_PORT).into(), 2000)?;
        ensure!(spread.failed == 0, "{vip}: {:?}", spread.first_failure);
    }
    Ok(())
}

fn added_and_drained(routed: &mut Routed) -> Result<()> {
    let names: Vec<_> = routed.lab().pods.iter().map(|pod| pod.name.clone()).collect();
    let (first, rest) = names.split_at(2);
    let listed = |routed: &Routed, names: &[String], rest: Option<Condition>| {
        let states = with(routed.lab(), |pod| {
            if names.contains(&pod.name) { Some(Condition::Ready) } else { rest }
        });
        routed.set_endpoints(&states)
    };
    listed(routed, first, None)?;
    routed.await_serving(&first.iter().cloned().collect())?;
    nothing_breaks(routed, |routed, traffic| {
        for count in 1..=rest.len() {
            listed(routed, &names[..first.len() + count], None)?;
            traffic.settle(1)?;
        }
        routed.await_all_serve()?;
        listed(routed, first, Some(Condition::Terminating))?;
        traffic.settle(2)?;
        listed(routed, first, None)
    })?;
    routed.set_endpoints(&all_ready(routed.lab()))?;
    routed.await_all_serve()
}

/// Pods that terminate keep their connections to the end and get no new ones; when they are gone,
/// those go that were still open, and no others.
pub(crate) fn drained(routed: &mut Routed) -> Result<()> {
    let leaving: Vec<_> = {
        let pods = routed.lab().pods.iter();
        pods.enumerate().filter(|(i, _)| i % 3 == 0).map(|(_, pod)| pod.name.clone()).collect()
    };
    let leaves = |pod: &Pod| leaving.contains(&pod.name);
    let staying: BTreeSet<_> = routed
        .lab()
        .pods
        .iter()
        .map(|pod| pod.name.clone())
        .filter(|n| !leaving.contains(n))
        .collect();
    nothing_breaks(routed, |routed, traffic| {
        let states = with(routed.lab(), |pod| {
            Some(if leaves(pod) { Condition::Terminating } else { Condition::Ready })
        });
        routed.set_endpoints(&states)?;
        traffic.settle(2)?;
        for vip in routed.cluster.vips {
            let to = (vip, WEB_PORT).into();
            let spread = probe::spread(&routed.remote()?.namespace, Over::Tcp, to, 100)?;
            ensure!(spread.failed == 0 && spread.pods.keys().eq(&staying), "{vip}: {spread}");
        }
        Ok(())
    })?;
    // Connections to those that stay outlive the end of the others.
    let traffic = routed.traffic(Load::default(), 0)?;
    let states = with(routed.lab(), |pod| (!leaves(pod)).then_some(Condition::Ready));
    routed.set_endpoints(&states)?;
    traffic.settle(4)?;
    traffic.stop()?.check()?;
    routed.set_endpoints(&all_ready(routed.lab()))?;
    routed.await_all_serve()
}

/// Under `externalTrafficPolicy: Local`, too, any node takes any packet.
pub(crate) fn policy_local(routed: &mut Routed) -> Result<()> {
    let file = routed.cluster.folder()?.join("web.yaml");
    let cluster = fs::read_to_string(&file)?;
    let local = cluster.replace(
        "  type: LoadBalancer\n",
        "  type: LoadBalancer\n  externalTrafficPolicy: Local\n",
    );
    ensure!(local != cluster, "examples/web.yaml has another form");
    replace(&file, &local)?;
    routed.await_all_serve()?;
    let result = ecmp::node_leaves(routed).and_then(|()| come_and_go(routed));
    replace(&file, &cluster)?;
    result?;
    routed.await_all_serve()
}
