//! The ground that the other cases stand on.
use anyhow::{Result, ensure};
use herald_tests::lab::{Cut, Lab, POD_PORT, Shape, frames, probe, scenario::LISTEN};

pub(crate) fn laboratory() -> Result<()> {
    let lab = Lab::new(Shape::default())?;
    // Pods of other nodes are reached.
    for pod in &lab.pods {
        let answer = probe::http(&lab.nodes[0].namespace, pod.ipv4.into(), POD_PORT)?;
        ensure!(answer.pod == pod.name && answer.local == Some(pod.ipv4.into()), "{answer:?}");
        let answer = probe::udp(&lab.nodes[2].namespace, pod.ipv6.into(), POD_PORT)?;
        ensure!(answer.pod == pod.name, "{answer:?}");
        ensure!(answer.echo.as_deref() == Some("probe"), "{answer:?}");
    }
    // The kernel's own answers are seen.
    let node = &lab.nodes[1];
    let answers = frames::arp_from(&lab.client, node.ipv4, LISTEN)?;
    ensure!(answers.len() == 1 && answers[0].mac == node.mac, "{answers:?}");
    let answers = frames::ndp_from(&lab.client, node.ipv6, LISTEN)?;
    ensure!(answers.len() == 1 && answers[0].mac == node.mac, "{answers:?}");
    // Both ways of cutting a link cut it, and are mended.
    for how in [Cut::Port, Cut::Silent] {
        lab.cut(node, how)?;
        let answers = frames::arp_from(&lab.client, node.ipv4, LISTEN)?;
        ensure!(answers.is_empty(), "{how:?}: {answers:?}");
        let state = node.namespace.output("ip", &["-o", "link", "show", "eth0"])?;
        ensure!(state.contains("NO-CARRIER") == (how == Cut::Port), "{how:?}: {state}");
        lab.mend(node)?;
        let answers = frames::arp_from(&lab.client, node.ipv4, LISTEN)?;
        ensure!(answers.len() == 1, "{how:?}: {answers:?}");
    }
    Ok(())
}
