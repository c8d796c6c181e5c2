//! A folder of manifests is read again when it changes.
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Host, maps,
        probe::{self, Over},
        scenario::{self, Cluster, START_LIMIT},
    },
    wait,
};
use lb_common::maps::{Service, ServiceKey};
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// What a change may take, on a machine that does other things as well.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// Endpoints that are no longer listed get nothing; listed again, their share.
pub(crate) fn endpoints_change(cluster: &mut Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let file = cluster.folder()?.join("web-endpoints.yaml");
    let all = fs::read_to_string(&file)?;
    // Both lines of each endpoint, and the one with its conditions, which follows.
    let mut rest = String::new();
    let lines: Vec<_> = all.lines().collect();
    let mut skip = 0;
    for (i, line) in lines.iter().enumerate() {
        if lines.get(i + 1).is_some_and(|next| next.contains("nodeName: node3")) {
            skip = 3;
        }
        if skip == 0 {
            rest.push_str(line);
            rest.push('\n');
        } else {
            skip -= 1;
        }
    }
    let ranges = |node: &Host| -> Result<BTreeSet<u32>> {
        let services = maps::entries::<ServiceKey, Service>(&lab.pin_directory(node), "SERVICES")?;
        Ok(services.into_iter().map(|(_, service)| service.rows_start).collect())
    };
    let before = lab.nodes.iter().map(ranges).collect::<Result<Vec<_>>>()?;
    fs::write(&file, rest)?;
    // Each agent looks at the folder by itself, and which of them the client's packets
    // come to may change in between (a gratuitous ARP that its cache takes up late).
    for (node, before) in lab.nodes.iter().zip(&before) {
        wait::until_true(CHANGE_LIMIT, &format!("{} has new rows", node.name), || {
            Ok(ranges(node)?.is_disjoint(before))
        })?;
    }
    for vip in cluster.vips {
        scenario::await_serving(lab, vip, &["node1", "node2"], CHANGE_LIMIT)?;
        scenario::check_spread(lab, Over::Tcp, vip, &["node1", "node2"], 200)?;
    }
    fs::write(&file, all)?;
    cluster.await_all_serve()
}

/// A second Service gets the next address, and loses it with its file.
pub(crate) fn service_comes_and_goes(cluster: &mut Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let folder = cluster.folder()?;
    let vip = IpAddr::from(Ipv4Addr::new(10, 77, 0, 201));
    for name in ["web.yaml", "web-endpoints.yaml"] {
        let text = fs::read_to_string(folder.join(name))?
            .replace("name: web", "name: second")
            .replace("service-name: web", "service-name: second")
            .replace("port: 80\n", "port: 8000\n");
        fs::write(folder.join(format!("second-{name}")), text)?;
    }
    let what = format!("{vip} is served");
    wait::until_true(START_LIMIT, &what, || {
        Ok(scenario::owner(lab, vip)?.is_some()
            && probe::try_spread(&lab.client.namespace, Over::Tcp, (vip, 8000).into(), 60)?
                .check(
                    &scenario::pods_of(lab, &scenario::node_names(lab))
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>(),
                    lab.client.ipv4.into(),
                )
                .is_ok())
    })?;
    for name in ["web.yaml", "web-endpoints.yaml"] {
        fs::remove_file(folder.join(format!("second-{name}")))?;
    }
    wait::until_true(CHANGE_LIMIT, &format!("nobody answers for {vip}"), || {
        Ok(scenario::answers(lab, vip)?.is_empty())
    })?;
    cluster.await_all_serve()
}

/// It is reported with its place; what the other files say stays in force, and so does what this
/// one said when it was right.
pub(crate) fn invalid_file(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.folder()?;
    let file = folder.join("broken.yaml");
    fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata:\n  name: [\n")?;
    for agent in &cluster.agents {
        wait::until_true(CHANGE_LIMIT, "the invalid file is reported", || {
            Ok(agent.printed()?.lines().any(|line| line.contains("broken.yaml")))
        })?;
        let printed = agent.printed()?;
        let line = printed
            .lines()
            .find(|line| line.contains("broken.yaml"))
            .context("no line names the file")?;
        ensure!(
            line.contains("broken.yaml:") || line.contains("line "),
            "the message does not name the line: {line}"
        );
    }
    let nodes = scenario::node_names(&cluster.lab);
    for vip in cluster.vips {
        scenario::check_spread(&cluster.lab, Over::Tcp, vip, &nodes, 200)?;
    }
    fs::remove_file(&file)?;
    cluster.await_all_serve()
}

/// What can be read, but not used, is reported once with its field and the way out; its neighbours
/// stay in force.
pub(crate) fn unusable_object(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.folder()?;
    let file = folder.join("unusable.yaml");
    fs::write(
        &file,
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: unusable, namespace: \
         metallb-system}\nspec: {serviceSelectors: [{}, {}]}\n",
    )?;
    let parts = ["L2Advertisement metallb-system/unusable", "spec.serviceSelectors[1]", "remove"];
    for agent in &cluster.agents {
        wait::until_true(CHANGE_LIMIT, "the unusable object is reported", || {
            let printed = agent.printed()?;
            let said = printed.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
            let count = said.count();
            ensure!(count < 2, "{} says it {count} times", agent.node);
            Ok(count == 1)
        })?;
    }
    cluster.await_all_serve()?;
    fs::remove_file(&file)?;
    cluster.await_all_serve()
}
