//! Nodes on other links, links that let only a node's own addresses through, and narrow ones.
use crate::ecmp::nothing_breaks;
use anyhow::{Context, Result, ensure};
use herald_tests::lab::{
    Lab, Outside, Shape,
    probe::Connection,
    routed::Routed,
    scenario::{START_LIMIT, WEB_PORT},
};
use herald_tests::wait;

/// Frames that went to another node in a tunnel, and by rewriting link-layer addresses.
const TUNNELLED: [&str; 2] = ["tunnelled", "tunnelled_redirected"];
const FORWARDED: [&str; 2] = ["forwarded", "redirected"];

/// What goes through a link of 1,400 bytes.
const NARROW: u16 = 1400;

/// Segments of full size both ways, by way of every node and to every pod.
fn transfers(routed: &Routed) -> Result<()> {
    let from = &routed.remote()?.namespace;
    for vip in routed.cluster.vips {
        for i in 0..24 {
            let mut connection = Connection::open(from, vip, WEB_PORT)?;
            for (up, down) in [(100, 1_000_000), (300_000, 100), (1459, 1461)] {
                connection
                    .exchange(up, down)
                    .with_context(|| format!("{vip}, {i}: {up} bytes up, {down} down"))?;
            }
        }
    }
    Ok(())
}

fn leaves_and_joins(routed: &mut Routed) -> Result<()> {
    nothing_breaks(routed, |routed, traffic| {
        for position in 0..routed.lab().nodes.len() {
            routed.bgp.leave(routed.lab(), position)?;
            traffic.settle(2)?;
            routed.bgp.join(routed.lab(), position)?;
            traffic.settle(2)?;
        }
        Ok(())
    })
    .map(drop)
}

/// One node is behind a router: what is for its pods goes to it in tunnels, and what arrives there for
/// others as well.
pub(crate) fn node_apart() -> Result<()> {
    let shape = Shape { router: Outside::RouterAndNode, ..Shape::default() };
    let mut routed = Routed::new(shape, &[])?;
    let result = (|| {
        leaves_and_joins(&mut routed)?;
        transfers(&routed)?;
        ensure!(routed.counted(&TUNNELLED)? > 0, "nothing was tunnelled");
        ensure!(routed.counted(&FORWARDED)? > 0, "nodes on one link do not use it");
        Ok(())
    })();
    result.map_err(|error| routed.failed(error))
}

/// The switch drops what does not come from a node's own addresses: the agents find that out, and use
/// tunnels.
pub(crate) fn foreign_sources_refused() -> Result<()> {
    let mut routed = Routed::prepared(Shape::routed(), &[], |lab, _| lab.refuse_foreign_sources())?;
    let result = (|| {
        ensure!(routed.lab().foreign_sources_refused()? > 0, "no frame has proved the links");
        let before = routed.counted(&FORWARDED)?;
        leaves_and_joins(&mut routed)?;
        transfers(&routed)?;
        ensure!(routed.counted(&FORWARDED)? == before, "frames were sent to be dropped");
        ensure!(routed.counted(&TUNNELLED)? > 0, "nothing was tunnelled");
        Ok(())
    })();
    result.map_err(|error| routed.failed(error))
}

/// What hosts have learnt of path MTUs is forgotten.
fn forget_path_mtus(lab: &Lab, routed: &Routed) -> Result<()> {
    let pods = lab.pods.iter().map(|pod| &pod.namespace);
    for namespace in pods.chain([&routed.remote()?.namespace]) {
        for family in ["-4", "-6"] {
            namespace.output("ip", &[family, "route", "flush", "cache"])?;
        }
    }
    Ok(())
}

/// A link behind the router is narrow: its ICMP errors go to the VIP, by way of any node, and reach the
/// pod.
pub(crate) fn narrow_path(routed: &mut Routed) -> Result<()> {
    forget_path_mtus(routed.lab(), routed)?;
    let before = routed.counted(&["delivered_icmp"])?;
    routed.router()?.narrow(NARROW)?;
    let result = transfers(routed);
    routed.router()?.widen()?;
    result?;
    let delivered = routed.counted(&["delivered_icmp"])? - before;
    // Each pod learns it once for each family.
    let pods = 2 * routed.lab().pods.len() as u64;
    ensure!(delivered >= pods, "{delivered} ICMP errors were delivered, not {pods}");
    forget_path_mtus(routed.lab(), routed)
}

/// The way from a node to its pods is narrow: the node's ICMP errors reach the client, from the VIP.
pub(crate) fn narrow_pods(routed: &mut Routed) -> Result<()> {
    let lab = routed.lab();
    forget_path_mtus(lab, routed)?;
    let before = routed.counted(&["replied_icmp"])?;
    let set = |mtu: &str| {
        lab.pods.iter().try_for_each(|pod| {
            let (v4, v6, name) = (pod.ipv4, pod.ipv6, &pod.name);
            lab.nodes[pod.node].namespace.ip(&format!(
                "route replace {v4} dev {name} {mtu}\nroute replace {v6} dev {name} {mtu}\n"
            ))
        })
    };
    set(&format!("mtu lock {NARROW}"))?;
    let result = transfers(routed);
    set("")?;
    result?;
    let replied = routed.counted(&["replied_icmp"])? - before;
    ensure!(replied >= 2, "{replied} ICMP errors reached the client, not one of each family");
    forget_path_mtus(lab, routed)?;
    let remote = &routed.remote()?.namespace;
    wait::until_true(START_LIMIT, "the client is served as before", || {
        Connection::open(remote, routed.cluster.vips[0], WEB_PORT)?.exchange(100, 100).map(|_| true)
    })
}
