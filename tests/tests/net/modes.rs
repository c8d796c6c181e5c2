//! Where native XDP cannot be, and which way packets take to other nodes.
use anyhow::{Result, ensure};
use herald_tests::lab::{
    addresses, maps, probe,
    scenario::{self, Cluster, START_LIMIT, WEB_PORT},
};
use herald_tests::wait;
use lb_common::maps::SCHEMA_VERSION;
use std::{collections::BTreeSet, fs, path::Path, time::Duration};

fn links(pins: &Path) -> Result<BTreeSet<String>> {
    let mut kinds = BTreeSet::new();
    for entry in fs::read_dir(pins.join(format!("v{SCHEMA_VERSION}/links")))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        kinds.extend(name.rsplit_once('-').map(|(kind, _)| kind.to_owned()));
    }
    Ok(kinds)
}

/// The program at TCX ingress serves as it does in XDP; and a restart moves it from one place
/// to the other, and back, without losing a datagram of a running flow.
pub(crate) fn tcx_and_back() -> Result<()> {
    let mut cluster = Cluster::on_manifests(&["--xdp-mode", "tcx"])?;
    let outcome = moves(&mut cluster);
    outcome.map_err(|error| cluster.failed(error))
}

fn moves(cluster: &mut Cluster) -> Result<()> {
    let pins = cluster.agents[0].pin_directory.clone();
    ensure!(links(&pins)?.contains("ingress_tcx"), "{:?}", links(&pins)?);
    crate::traffic::spread(cluster)?;
    crate::traffic::large_transfers(cluster)?;
    let client = &cluster.lab.client.namespace.clone();
    let to = (cluster.vips[0], WEB_PORT).into();
    let flow = probe::watch_flow(client, to, Duration::from_millis(2));
    for (mode, expected, gone) in
        [("auto", "ingress", "ingress_tcx"), ("tcx", "ingress_tcx", "ingress")]
    {
        cluster.options.arguments.extend(["--xdp-mode", mode].map(str::to_owned));
        let arguments = &mut cluster.options.arguments;
        // The last of an option is not taken: it may be given once.
        let first = arguments.iter().position(|argument| argument == "--xdp-mode");
        if let Some(first) = first.filter(|first| first + 2 < arguments.len()) {
            arguments.drain(first..first + 2);
        }
        for position in 0..cluster.agents.len() {
            cluster.restart_agent(position)?;
            let pins = cluster.agents[position].pin_directory.clone();
            wait::until_true(START_LIMIT, "the program stands in its new place", || {
                let links = links(&pins)?;
                Ok(links.contains(expected) && !links.contains(gone))
            })?;
        }
    }
    let flow = flow.stop()?;
    ensure!(flow.sent > 100, "only {} datagrams were sent", flow.sent);
    ensure!(flow.lost() == 0, "{} of {} datagrams were lost", flow.lost(), flow.sent);
    Ok(())
}

/// An uplink that is a bridge has no driver: TCX is taken unasked.
pub(crate) fn bridge_uplink() -> Result<()> {
    let lab = herald_tests::lab::Lab::new(herald_tests::lab::Shape::default())?;
    let options = scenario::on_manifests(&lab)?;
    for node in &lab.nodes {
        let (ipv4, ipv6) = (node.ipv4, node.ipv6);
        let mac = addresses::mac_text(node.mac);
        let (gateway4, gateway6, _) = addresses::GATEWAY;
        let routes4 = node.namespace.output("ip", &["route", "show", "dev", "eth0"])?;
        let routes6 = node.namespace.output("ip", &["-6", "route", "show", "dev", "eth0"])?;
        let mut commands = format!(
            "link add br0 address {mac} type bridge\n\
             link set br0 up\n\
             addr flush dev eth0\n\
             link set eth0 master br0\n\
             addr add {ipv4}/24 brd + dev br0\n\
             addr add {ipv6}/64 dev br0 nodad\n\
             route replace default via {gateway4}\n\
             route replace ::/0 via {gateway6} dev br0\n"
        );
        for line in routes4.lines().chain(routes6.lines()) {
            let mut words = line.split_whitespace();
            if let (Some(prefix), Some("via"), Some(by)) =
                (words.next(), words.next(), words.next())
                && prefix != "default"
            {
                commands += &format!("route replace {prefix} via {by} dev br0\n");
            }
        }
        node.namespace.ip(&commands)?;
        node.namespace.output("ethtool", &["-K", "br0", "tx", "off"])?;
        // As the agent asks for: connection tracking must not see packets before TCX does.
        for which in ["iptables", "ip6tables"] {
            let path = format!("net/bridge/bridge-nf-call-{which}");
            if Path::new("/proc/sys").join(&path).exists() {
                node.namespace.sysctl(&path, "0")?;
            }
        }
    }
    let agents = scenario::start_agents(&lab, &options)?;
    let vips = addresses::both(addresses::FIRST_VIPS);
    let mut cluster = Cluster { agents, options, control: None, vips, lab };
    let outcome = cluster.await_all_serve().and_then(|()| {
        for agent in &cluster.agents {
            let links = links(&agent.pin_directory)?;
            ensure!(
                links.contains("ingress_tcx") && !links.contains("ingress"),
                "{}: {links:?}",
                agent.node
            );
            ensure!(maps::counters(&agent.pin_directory)?.delivered > 0, "{}", agent.node);
        }
        crate::traffic::spread(&cluster)
    });
    outcome.map_err(|error| cluster.failed(error))
}
