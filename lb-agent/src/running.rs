//! What a running agent tells of itself beside its metrics: `/status`, which `lb-agent status` reads.
//!
//! Names and decisions, that is, what does not stand in the kernel's maps. Nothing secret.
use crate::{
    metrics::View,
    plan::{Announcers, EndpointShare, Plan, Reason},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// How long an agent may take to answer: it does so within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the largest answer: 65,536 ports of Services with ten pods at 100 bytes each.
const LARGEST: usize = 80 << 20;
/// How long shares may be worked out for one answer.
const WORK: Duration = Duration::from_secs(1);

/// A running agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Its version.
    pub version: String,
    /// Its node's name.
    pub node: String,
    /// A plan stands in the kernel.
    pub ready: bool,
    /// It moves the deadline after which the kernel stops announcing.
    pub healthy: bool,
    /// It gives Services their addresses.
    pub allocator: bool,
    /// How many nodes it takes to be alive, its own included.
    pub nodes_alive: i64,
    /// All nodes by their InternalIPs.
    pub nodes: BTreeMap<IpAddr, String>,
    /// All VIPs.
    pub vips: Vec<Vip>,
    /// All ports of VIPs.
    pub ports: Vec<Port>,
    /// The BGP peers of this node.
    pub peers: Vec<Peer>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub vip: IpAddr,
    /// The node that announces it on layer 2.
    pub owner: Option<String>,
    /// Why that node does; none if none does.
    pub owner_why: Option<Reason>,
    /// Why this node does not, though another does.
    pub not_here: Option<Reason>,
    /// To which peers this node announces it by BGP, or why to none; none if BGP is not for its pool.
    pub bgp: Option<Reason>,
    /// The Services that have it.
    pub services: Vec<String>,
    /// What users were told of these, such as why nobody announces it.
    pub notices: Vec<String>,
}

/// A VIP's port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// The VIP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The Service.
    pub service: String,
    /// Which part of new flows each of its pods takes, on whichever node; none while that is being
    /// worked out.
    pub pods: Option<Vec<Pod>>,
}

/// A pod's part of new flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Its address and port.
    pub pod: SocketAddr,
    /// Its node.
    pub node: String,
    /// Of 100.
    pub percent: f64,
}

/// A BGP peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address.
    pub peer: SocketAddr,
    /// The session is up.
    pub up: bool,
    /// BFD finds it; absent without BFD.
    pub bfd_up: Option<bool>,
    /// Prefixes that it has been told.
    pub announced: usize,
    /// Changes that it has yet to be told.
    pub pending: usize,
}

impl Running {
    /// What there is to tell. This may take a second, where there are many Services.
    pub fn of(view: &View) -> Self {
        let plan = view.plan();
        let nodes = plan.nodes.iter();
        let peers = view.peers().into_iter().map(|peer| Peer {
            peer: peer.peer,
            up: peer.up,
            bfd_up: peer.bfd_up,
            announced: peer.routes.announced,
            pending: peer.routes.pending,
        });
        let shares = view.endpoint_shares(Instant::now() + WORK);
        let ports = plan.services.iter().map(|(address, planned)| Port {
            vip: address.vip,
            port: address.port,
            protocol: address.protocol.to_string(),
            service: planned.service.to_string(),
            pods: shares.get(address).map(|pods| pods.iter().map(pod).collect()),
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: view.node().to_owned(),
            ready: view.is_ready(),
            healthy: view.is_alive(Instant::now()),
            allocator: view.is_allocator(),
            nodes_alive: view.nodes_alive(),
            nodes: nodes.flat_map(|n| n.addresses.iter().map(|ip| (*ip, n.name.clone()))).collect(),
            vips: vips(&plan, view.announcers()),
            ports: ports.collect(),
            peers: peers.collect(),
        }
    }

    /// Asks the agent that serves at an address.
    ///
    /// # Errors
    ///
    /// None answers there, or what answers is no agent of this version.
    pub async fn ask(address: SocketAddr) -> io::Result<Self> {
        serde_json::from_slice(&get(address, "/status").await?).map_err(io::Error::other)
    }
}

/// What an agent serves under a path.
///
/// # Errors
///
/// None answers there, or not with what is asked for.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    timeout(PATIENCE, get_body(address, path)).await?
}

async fn get_body(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, address.to_string())
        .body(axum::body::Body::empty())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = axum::body::Body::new(response.into_body());
    let body = axum::body::to_bytes(body, LARGEST).await.map_err(io::Error::other)?;
    connection.abort();
    if !status.is_success() {
        return Err(io::Error::other(format!("{status} for {path}")));
    }
    Ok(body.into())
}

fn pod(share: &EndpointShare) -> Pod {
    let EndpointShare { endpoint, node, percent } = share;
    let pod = SocketAddr::new(endpoint.address, endpoint.port);
    Pod { pod, node: node.to_string(), percent: (10.0 * percent).round() / 10.0 }
}

fn vips(plan: &Plan, mut announcers: BTreeMap<IpAddr, Announcers>) -> Vec<Vip> {
    let told = |services: &[crate::snapshot::ObjectName]| {
        let notices = plan.notices.iter().filter(|n| n.kind == "Service");
        notices
            .filter(|notice| services.contains(&notice.object))
            .map(|notice| format!("{}: {}", notice.reason, notice.message))
            .collect()
    };
    plan.vips
        .iter()
        .map(|(vip, planned)| {
            let Announcers { layer2, bgp } = announcers.remove(vip).unwrap_or_default();
            let (owner_why, not_here) =
                layer2.map_or((None, None), |why| (Some(why.owner), why.not_here));
            Vip {
                vip: *vip,
                owner: planned.owner.as_deref().map(str::to_owned),
                owner_why,
                not_here,
                bgp,
                services: planned.services.iter().map(ToString::to_string).collect(),
                notices: told(&planned.services),
            }
        })
        .collect()
}
