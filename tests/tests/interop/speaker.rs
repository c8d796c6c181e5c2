//! The agents speak BGP to the router themselves.
use crate::ecmp::nothing_breaks;
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        Cut, Lab, Shape, addresses,
        agent::Agent,
        bgp::{FAST_AND_WEB, NODES_AS, ROUTER_AS},
        routed::Routed,
        scenario::START_LIMIT,
    },
    wait,
};
use jiff::Timestamp;
use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// From a cut link to the router's kernel without the node: BFD finds it within 300 ms; the rest is the
/// router's, on a machine that does other things as well.
const NOTICED: Duration = Duration::from_secs(2);
/// The node's detection time (RFC 5880 section 6.8.4): ten intervals of BIRD's, of 100 ms.
const DETECTION: Duration = Duration::from_secs(1);

/// A peer for each family, with a password, and an advertisement with communities. BFD watches one, and the
/// other keeps routes over a restart: both at once contradict each other (docs/bgp.md).
fn manifests(lab: &Lab, folder: &Path) -> Result<()> {
    let mut text = FAST_AND_WEB.to_owned();
    text.push_str(
        "---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: all, namespace: \
         metallb-system}\nspec: {communities: [web, 'large:64512:1:2']}\n",
    );
    let (router4, router6) = addresses::gateway(lab.nodes[0].ipv4);
    let peers = [
        ("ipv4", router4.to_string(), "bfdProfile: fast"),
        ("ipv6", router6.to_string(), "enableGracefulRestart: true"),
    ];
    for (name, router, more) in peers {
        write!(
            text,
            "---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: router-{name}, \
             namespace: metallb-system}}\nspec: {{myASN: {NODES_AS}, peerASN: {ROUTER_AS}, peerAddress: \
             '{router}', password: lab, {more}, holdTime: 30s, \
             connectTime: 1s}}\n"
        )?;
    }
    Ok(fs::write(folder.join("bgp.yaml"), text)?)
}

/// A cluster whose agents speak to the router.
pub(crate) fn cluster() -> Result<Routed> {
    Routed::speaking(Shape::routed(), "password \"lab\"; graceful restart on;", manifests)
}

/// The router has a route to each VIP from each node, with the communities.
pub(crate) fn routes(routed: &mut Routed) -> Result<()> {
    for vip in routed.cluster.vips {
        let routes = routed.bgp.tell_router(&format!("show route for {vip} all"))?;
        let count = routes.matches("BGP.community: (64512,80)").count();
        ensure!(count == routed.lab().nodes.len(), "{count} routes with the community: {routes}");
        ensure!(routes.contains("BGP.large_community: (64512, 1, 2)"), "{routes}");
    }
    nothing_breaks(routed, |_, _| Ok(())).map(drop)
}

/// An agent leaves: the router has its routes no more before it ends, and no connection breaks. It comes
/// back: the same.
pub(crate) fn agent_leaves_and_returns(routed: &mut Routed) -> Result<()> {
    nothing_breaks(routed, |routed, traffic| {
        let node = routed.lab().nodes[0].clone();
        routed.cluster.agents.remove(0).interrupt(START_LIMIT)?;
        routed.bgp.await_gone(&node)?;
        traffic.settle(2)?;
        routed.cluster.start_agent(0)?;
        let all: Vec<_> = routed.lab().nodes.iter().collect();
        routed.bgp.await_next_hops(&all)
    })
    .map(drop)
}

/// Agents are restarted, as in an upgrade: no connection breaks, and the router keeps the routes of a session
/// with graceful restart.
pub(crate) fn agents_restart(routed: &mut Routed) -> Result<()> {
    nothing_breaks(routed, |routed, traffic| {
        for position in 0..routed.lab().nodes.len() {
            let ups = ups(routed)?;
            let status = routed.cluster.agents.remove(position).terminate(START_LIMIT)?;
            ensure!(status.success(), "the agent ended with {status}");
            let name = routed.lab().nodes[position].name.clone();
            let there = |routed: &Routed| -> Result<()> {
                let vip = routed.cluster.vips[1];
                let hops = routed.bgp.next_hops(routed.lab(), vip)?;
                ensure!(hops.contains(&name), "{vip}: {name} is missing among {hops:?}");
                Ok(())
            };
            there(routed)?;
            routed.cluster.start_agent(position)?;
            wait::until_true(START_LIMIT, &format!("sessions with {name} are up again"), || {
                there(routed)?;
                Ok(self::ups(routed)? == ups)
            })?;
            traffic.settle(1)?;
        }
        Ok(())
    })
    .map(drop)
}

/// How many sessions the router has.
fn ups(routed: &Routed) -> Result<usize> {
    Ok(routed.bgp.tell_router("show protocols")?.matches("Established").count())
}

/// A link is cut without loss of carrier: BFD tells the router, long before the hold time is over.
pub(crate) fn link_is_cut(routed: &mut Routed) -> Result<()> {
    let node = routed.lab().nodes[1].clone();
    let vip = routed.cluster.vips[0];
    wait::until_true(START_LIMIT, "BFD finds all nodes", || {
        let sessions = routed.bgp.tell_router("show bfd sessions")?;
        // Up, and past the slow start: packets every 100 ms, three of ours are missed.
        let fast = sessions.lines().filter(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(2) == Some(&"Up") && words.ends_with(&["0.100", "0.300"])
        });
        Ok(fast.count() == routed.lab().nodes.len())
    })?;
    let cut = Timestamp::now();
    routed.lab().cut(&node, Cut::Silent)?;
    let began = Instant::now();
    let gone = wait::until_true(START_LIMIT, "the router has the node no more", || {
        Ok(!routed.bgp.next_hops(routed.lab(), vip)?.contains(&node.name))
    });
    let took = began.elapsed();
    routed.lab().mend(&node)?;
    gone?;
    let found = bfd_found(&routed.cluster.agents[1], cut, DETECTION)?;
    println!(
        "the router has {} no more {took:?} after its link was cut; BFD there found it after {found:?}",
        node.name
    );
    ensure!(took < NOTICED, "{took:?}");
    let all: Vec<_> = routed.lab().nodes.iter().collect();
    routed.bgp.await_next_hops(&all)?;
    routed.await_all_serve()
}

/// How long after a cut an agent's BFD said that the peer is gone: its detection time after the last packet, and
/// what a machine with other work adds.
pub(crate) fn bfd_found(agent: &Agent, cut: Timestamp, detection: Duration) -> Result<Duration> {
    let what = "BFD of the node finds that the link is cut";
    let found = wait::until(NOTICED, what, || agent.printed_at(&["BFD", "to=Down"], cut))?;
    let took = Duration::try_from(found.duration_since(cut))?;
    ensure!(took < 2 * detection, "BFD found the cut after {took:?}, not {detection:?}");
    Ok(took)
}
