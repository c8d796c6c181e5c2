//! A status as people read it.
use super::{Agent, Share, Status, Vip};
use crate::{
    inspect::columns::{bytes, columns},
    plan::ANNOUNCED,
    running::Pod,
};
use std::fmt::Write as _;

/// How many shares of one port stand in a table.
const SHOWN: usize = 16;

impl Status {
    /// Tables, and what is to be said beside them.
    pub fn text(&self) -> String {
        let mut text = self.heading();
        let interfaces = self.interfaces.iter().map(|interface| {
            let vlan = if interface.vlan == 0 { String::new() } else { interface.vlan.to_string() };
            [interface.name.clone(), vlan, interface.mode.unwrap_or("not attached").to_owned()]
        });
        section(
            &mut text,
            &columns(["INTERFACE", "VLAN", "MODE"], &interfaces.collect::<Vec<_>>()),
        );
        let vips = self.vips.iter().map(|vip| {
            [
                vip.vip.to_string(),
                vip.owner.clone().unwrap_or_else(|| match self.agent {
                    Agent::Running { .. } => "nobody".to_owned(),
                    Agent::NotRunning { .. } => "another node".to_owned(),
                }),
                vip.announced_on.join(","),
                vip.answered.to_string(),
                vip.services.join(","),
            ]
        });
        let heading = ["VIP", "OWNER", "ANNOUNCED ON", "ANSWERED", "SERVICES"];
        section(&mut text, &columns(heading, &vips.collect::<Vec<_>>()));
        let why = self.vips.iter().flat_map(why).collect::<Vec<_>>();
        section(&mut text, &columns(["VIP", "WHY"], &why));
        let services = self.services.iter().map(|port| {
            [
                port.service.clone().unwrap_or_default(),
                match port.vip {
                    std::net::IpAddr::V4(vip) => format!("{vip}:{}/{}", port.port, port.protocol),
                    std::net::IpAddr::V6(vip) => format!("[{vip}]:{}/{}", port.port, port.protocol),
                },
                shares(&port.nodes),
                match (port.kernel, port.pods_of_all_nodes) {
                    (true, _) => "by kube-proxy".to_owned(),
                    (false, true) => pods(&port.pods),
                    (false, false) => format!("here: {}", pods(&port.pods)),
                },
                format!("{} ({})", port.delivered_packets, bytes(port.delivered_bytes)),
                format!("{} ({})", port.forwarded_packets, bytes(port.forwarded_bytes)),
            ]
        });
        let heading = ["SERVICE", "PORT", "NODES", "PODS", "DELIVERED", "SENT ON"];
        section(&mut text, &columns(heading, &services.collect::<Vec<_>>()));
        let peers = self.peers.iter().map(|peer| {
            let up = |up| if up { "up" } else { "down" }.to_owned();
            [
                peer.peer.to_string(),
                up(peer.up),
                peer.bfd_up.map(up).unwrap_or_default(),
                peer.announced.to_string(),
                peer.pending.to_string(),
            ]
        });
        let heading = ["BGP PEER", "SESSION", "BFD", "PREFIXES", "PENDING"];
        section(&mut text, &columns(heading, &peers.collect::<Vec<_>>()));
        let dropped = self.dropped().map(|(name, count)| [name.to_owned(), count.to_string()]);
        section(&mut text, &columns(["DROPPED", "FRAMES"], &dropped.collect::<Vec<_>>()));
        text
    }

    fn heading(&self) -> String {
        let mut text = format!("node: {}\n", self.node.as_deref().unwrap_or("not known"));
        let _ = match &self.agent {
            Agent::Running { version, ready, healthy, allocator, nodes_alive } => {
                let ready = if *ready { "a plan is in force" } else { "no plan is in force yet" };
                let stuck = if *healthy { "" } else { ", stuck" };
                let allocates = if *allocator { ", gives Services addresses" } else { "" };
                writeln!(
                    text,
                    "agent: {version}, {ready}{stuck}{allocates}; sees {nodes_alive} nodes alive"
                )
            }
            Agent::NotRunning { reason } => writeln!(text, "agent: not running ({reason})"),
        };
        let _ = match self.announces_for_s {
            Some(seconds) => writeln!(
                text,
                "kernel: steers, and announces for {seconds} s more unless an agent says otherwise"
            ),
            None => writeln!(text, "kernel: steers, and announces nothing without an agent"),
        };
        text
    }
}

/// Appends a table that has more than its heading.
fn section(text: &mut String, table: &str) {
    if table.lines().nth(1).is_some() {
        text.push('\n');
        text.push_str(table);
    }
}

/// Of a VIP: why it has its owner, why that is not this node, and what else is to be said.
fn why(vip: &Vip) -> Vec<[String; 2]> {
    let mut said = Vec::new();
    if let (Some(owner), Some(why)) = (&vip.owner, &vip.owner_why) {
        said.push(format!("{owner} owns it: {}", why.message));
    }
    if let Some(why) = &vip.not_here {
        said.push(format!("this node does not: {}", why.message));
    }
    if let Some(bgp) = &vip.bgp {
        let how = if bgp.reason == ANNOUNCED { "announced" } else { "not announced" };
        said.push(format!("{how} by BGP from this node: {}", bgp.message));
    }
    said.extend(vip.notices.iter().cloned());
    said.into_iter().map(|said| [vip.vip.to_string(), said]).collect()
}

fn shares(shares: &[Share]) -> String {
    listed(shares.iter().map(|share| format!("{} {:.1}%", share.of, share.percent)))
}

/// Each with its node.
fn pods(pods: &[Pod]) -> String {
    listed(pods.iter().map(|pod| format!("{} ({}) {:.1}%", pod.pod, pod.node, pod.percent)))
}

/// The first of many: a table has them for orientation, JSON all.
fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(SHOWN);
    let mut shown: Vec<_> = all.take(SHOWN).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}
