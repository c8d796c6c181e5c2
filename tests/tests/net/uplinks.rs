//! Interfaces lose their carrier, go, change their name and are made anew.
use anyhow::{Context, Result, ensure};
use herald_tests::{
    lab::{
        Host, Lab, Shape, addresses, frames, probe,
        scenario::{self, AGENT_LIMIT, Cluster, LISTEN, TAKEOVER_LIMIT, WEB_PORT},
    },
    system::PacketSocket,
    wait,
};
use lb_common::maps::SCHEMA_VERSION;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

/// How long a carrier that has come back must stay, several times over.
const RETURN_LIMIT: Duration = Duration::from_secs(20);

/// Nodes with a second uplink, on another LAN with a client of its own.
struct Second<'a> {
    cluster: &'a Cluster,
    /// The nodes as they are seen there.
    nodes: Vec<Host>,
    client: Host,
    vip: Ipv4Addr,
}

impl Second<'_> {
    /// The node that answers there, if exactly one does.
    fn owner(&self) -> Result<Option<&Host>> {
        let answers = frames::arp_from(&self.client, self.vip, LISTEN)?;
        let [answer] = &answers[..] else { return Ok(None) };
        Ok(self.nodes.iter().find(|node| node.mac == answer.mac))
    }

    /// Waits until one node of these answers on both LANs.
    fn await_owner(&self, nodes: &[&str], limit: Duration) -> Result<&Host> {
        let what = format!("one of {} answers on both LANs", nodes.join(", "));
        wait::until(limit, &what, || {
            let here = scenario::owner(&self.cluster.lab, self.vip.into())?;
            let (Some(here), Some(there)) = (here, self.owner()?) else { return Ok(None) };
            let agreed = here.name == there.name && nodes.contains(&here.name.as_str());
            Ok(agreed.then_some(there))
        })
    }

    /// Takes the second uplink from its owner, and gives it back; `gone` and `back` say how.
    fn lose(
        &self,
        how: &str,
        gone: impl FnOnce(&Host) -> Result<()>,
        back: impl FnOnce(&Host) -> Result<()>,
    ) -> Result<()> {
        let lab = &self.cluster.lab;
        let all = scenario::node_names(lab);
        let owner = self.await_owner(&all, RETURN_LIMIT)?;
        let others = scenario::others(lab, owner);
        let probing = probe::watch_gaps(
            &lab.client.namespace,
            (IpAddr::from(self.vip), WEB_PORT).into(),
            Duration::from_millis(5),
        );
        let began = Instant::now();
        gone(owner)?;
        // There nobody else could answer: the node that has lost its uplink has to give way.
        let new = wait::until(AGENT_LIMIT, "another node answers on the second LAN", || {
            Ok(self.owner()?.filter(|new| new.name != owner.name))
        })?;
        let took = began.elapsed();
        println!("{how}: {} answers on the second LAN after {took:?}", new.name);
        ensure!(took <= TAKEOVER_LIMIT, "{how}: after {took:?}");
        self.await_owner(&others, AGENT_LIMIT)?;
        links_are_live(self.cluster, owner)?;
        back(owner)?;
        let (mac, vip) = (owner.mac, IpAddr::from(self.vip));
        let listening = self.client.namespace.enter(|| {
            let socket = PacketSocket::open("eth0")?;
            let end = Instant::now() + RETURN_LIMIT;
            while let Some(frame) = socket.receive(end)? {
                if frames::is_announcement(&frame, mac, vip) {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        ensure!(listening, "{how}: {} does not announce itself when it is back", owner.name);
        self.await_owner(&[&owner.name], RETURN_LIMIT)?;
        links_are_live(self.cluster, owner)?;
        let gaps = probing.stop()?;
        let lost = gaps.lost();
        ensure!(lost == 0, "{how}: {lost} of {} probes on the first LAN lost", gaps.sent);
        Ok(())
    }
}

/// All of a node's pinned links lead to interfaces that are there.
fn links_are_live(cluster: &Cluster, node: &Host) -> Result<()> {
    let folder = cluster.lab.pin_directory(node).join(format!("v{SCHEMA_VERSION}")).join("links");
    let there = node.namespace.output("ip", &["-o", "link"])?;
    wait::until_true(AGENT_LIMIT, "no pinned link of an interface that is gone", || {
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let (_, index) = name.rsplit_once('-').context("a link that names no interface")?;
            if !there.lines().any(|line| line.starts_with(&format!("{index}: "))) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// A node that loses one of two uplinks gives up what it announces there, although it is alive, and gets
/// it back: the carrier goes, the interface is removed and made anew, or it has another name for a while.
/// Clients on the other LAN miss nothing.
pub(crate) fn second() -> Result<()> {
    let lab = Lab::new(Shape::default())?;
    let prepared = (|| {
        let nodes = lab.nodes.iter().map(|node| lab.add_interface(node, "eth1", second_mac(node)));
        let nodes: Vec<_> = nodes.collect::<Result<_>>()?;
        let client = lab.add_host_beyond("beyond", addresses::host(101))?;
        let mut options = scenario::on_manifests(&lab)?;
        options.arguments.extend(["--interfaces".into(), "eth0,eth1".into()]);
        Ok((nodes, client, scenario::start_agents(&lab, &options)?, options))
    })();
    let (nodes, client, agents, options) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            lab.mark_failed();
            return Err(error);
        }
    };
    let vips = addresses::both(addresses::FIRST_VIPS);
    let mut cluster = Cluster { agents, options, control: None, vips, lab };
    let result = cluster.await_all_serve().and_then(|()| {
        let second = Second { cluster: &cluster, nodes, client, vip: addresses::FIRST_VIPS.0 };
        let lab = &cluster.lab;
        let port =
            |node: &Host, state: &str| lab.lan.ip(&format!("link set {} {state}\n", node.port));
        second.lose("without carrier", |node| port(node, "down"), |node| port(node, "up"))?;
        let remove = |node: &Host| node.namespace.ip("link del eth1\n");
        let anew = |node: &Host| lab.add_interface(node, "eth1", node.mac).map(drop);
        second.lose("removed", remove, anew)?;
        let rename = |node: &Host, from: &str, to: &str| {
            let batch =
                format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up\n");
            node.namespace.ip(&batch)
        };
        second.lose(
            "renamed",
            |node| rename(node, "eth1", "lan1"),
            |node| rename(node, "lan1", "eth1"),
        )?;
        for agent in &cluster.agents {
            let printed = agent.printed()?;
            let told = printed.lines().find(|line| line.contains("AddressConflict"));
            ensure!(told.is_none(), "{}: {}", agent.node, told.unwrap_or_default());
        }
        Ok(())
    });
    result.map_err(|error| cluster.failed(error))
}

/// The link-layer address of a node on the second LAN.
fn second_mac(node: &Host) -> [u8; 6] {
    let mut mac = node.mac;
    mac[1] = 0x79;
    mac
}

/// The owner's only uplink is removed: others take over; it is made anew with another index, and the node
/// takes its part again.
pub(crate) fn made_anew(cluster: &mut Cluster) -> Result<()> {
    let vip = cluster.vips[0];
    let lab = &cluster.lab;
    let owner = scenario::settled_owner(lab, vip)?.clone();
    let others = scenario::others(lab, &owner);
    let mut routes = String::new();
    let taken = scenario::takeover(lab, vip, &owner, &others, || {
        routes = lab.take_away(&owner)?;
        Ok(())
    })?;
    ensure!(taken.gap <= TAKEOVER_LIMIT, "{vip}: {:?}", taken.gap);
    lab.put_back(&owner, &routes)?;
    // Its pods among others, whose packets are sent to the new interface.
    cluster.await_all_serve()?;
    links_are_live(cluster, &owner)?;
    let link = owner.namespace.output("ip", &["link", "show", "dev", "eth0"])?;
    ensure!(link.contains("herald_ingress"), "{link}");
    Ok(())
}
