//! A router beside the cluster, to which one node's agent speaks BGP.
use crate::objects::LIMIT;
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        bgp::{Bird, NODES_AS, ROUTER_AS},
        scenario::{Cluster, START_LIMIT},
    },
    wait,
};
use std::net::IpAddr;

/// A password that is in a Secret.
const PASSWORD: &str = "in a Secret";

/// The router, on the client's host. Its routes do not get into the kernel there.
pub(crate) struct Router {
    bird: Bird,
    vip: IpAddr,
}

impl Router {
    /// Starts it, and has the first node announce the Service to it, by a session with a password. Returns
    /// once it has the route.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let (lab, control) = (&cluster.lab, cluster.control()?);
        let (node, router) = (&lab.nodes[0], &lab.client);
        let config = format!(
            "router id {};\nprotocol device {{ scan time 10; }}\nprotocol bgp node {{\n local as \
             {ROUTER_AS}; neighbor {} as {NODES_AS}; direct; passive; password \"{PASSWORD}\";\n \
             ipv4 {{ import all; export none; }};\n}}\n",
            router.ipv4, node.ipv4
        );
        let bird = Bird::start(lab, &router.namespace, "client", &config)?;
        control.apply_text(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: router, namespace: metallb-system}}\n\
             type: kubernetes.io/basic-auth\nstringData: {{password: {PASSWORD}}}\n---\n\
             apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {{name: router, namespace: \
             metallb-system}}\nspec: {{myASN: {NODES_AS}, peerASN: {ROUTER_AS}, peerAddress: {}, \
             connectTime: 1s, passwordSecret: {{name: router}}, nodeSelectors: [{{matchLabels: \
             {{kubernetes.io/hostname: {}}}}}]}}\n---\napiVersion: metallb.io/v1beta1\nkind: \
             BGPAdvertisement\nmetadata: {{name: router, namespace: metallb-system}}\n",
            router.ipv4, node.name
        ))?;
        let router = Self { bird, vip: cluster.vips[0] };
        router.await_session(None)?;
        Ok(router)
    }

    /// Waits until a session is up that is another than `before`, and the Service's route is there; since
    /// when it is.
    pub(crate) fn await_session(&self, before: Option<&str>) -> Result<String> {
        wait::until(3 * START_LIMIT, "a session with the router is up", || {
            let told = self.bird.tell("show protocols node")?;
            let line = told.lines().find(|line| line.contains("Established"));
            let since = line.and_then(|line| line.split_whitespace().nth(4)).map(str::to_owned);
            let routes = self.bird.tell(&format!("show route for {}", self.vip))?;
            ensure!(routes.contains(&format!("{}/32", self.vip)), "{told}{routes}");
            Ok(since.filter(|since| Some(since.as_str()) != before))
        })
    }

    /// Takes it out of use again.
    pub(crate) fn remove(self, cluster: &Cluster) -> Result<()> {
        let control = cluster.control()?;
        for kind in ["bgppeers", "bgpadvertisements", "secrets"] {
            control.kubectl(&["delete", "-n", "metallb-system", kind, "router"])?;
        }
        wait::until_true(LIMIT, "the session has ended", || {
            Ok(!self.bird.tell("show protocols node")?.contains("Established"))
        })?;
        self.bird.tell("down").map(drop)
    }
}
