//! The ground that the other cases stand on.
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Cut, Lab, POD_PORT, Shape, cleanup,
        command::{run, sibling},
        frames, probe,
        scenario::{LISTEN, START_LIMIT},
    },
    wait,
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

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

/// The demo is interrupted, and killed: the first leaves nothing, and what the second leaves
/// goes with the next laboratory.
pub(crate) fn nothing_stays() -> Result<()> {
    let mut demo = demo_at_work()?;
    signal(&demo, "-INT")?;
    let status = wait::until(START_LIMIT, "the demo ends", || Ok(demo.try_wait()?))?;
    ensure!(status.code() == Some(130), "interrupted, the demo ended with {status}");
    let left = remains(&demo)?;
    ensure!(left.is_empty(), "left behind after Ctrl-C: {left:?}");

    let mut demo = demo_at_work()?;
    demo.kill()?;
    demo.wait()?;
    ensure!(remains(&demo)?.len() > 10, "there is nothing to sweep");
    cleanup::sweep()?;
    let left = remains(&demo)?;
    ensure!(left.is_empty(), "left behind by a sweep: {left:?}");
    Ok(())
}

/// A demo whose agents serve.
fn demo_at_work() -> Result<Child> {
    let mut demo = Command::new(sibling("demo")?);
    demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = cleanup::spawn(&mut demo)?;
    let printed = demo.stdout.take().context("the demo's output")?;
    for line in BufReader::new(printed).lines() {
        if line?.trim_start().starts_with("agents ") {
            return Ok(demo);
        }
    }
    let status = demo.wait()?;
    anyhow::bail!("the demo ended ({status}) before its agents served")
}

fn signal(process: &Child, signal: &str) -> Result<()> {
    run(Command::new("kill").args([signal, &process.id().to_string()])).map(drop)
}

/// What is there of a process's laboratory: namespaces, pins, record, logs.
fn remains(process: &Child) -> Result<Vec<String>> {
    let id = format!("lab{}", process.id());
    let mut found = vec![];
    let logs = cleanup::directory("").display().to_string();
    for folder in ["/run/netns", "/sys/fs/bpf", "/run/herald-lab", &logs] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.split(['-', '_']).any(|part| part.trim_start_matches('h') == id) {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    Ok(found)
}
