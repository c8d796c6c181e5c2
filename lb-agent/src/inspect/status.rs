//! `lb-agent status`: what this node serves, and how.
//!
//! What stands in the kernel is read from the pinned maps, whether there is an agent or not; names,
//! decisions and sessions are the running agent's to tell.
mod text;

use crate::{
    datapath::{
        Error, IngressMode, address_from_bytes,
        maps::Maps,
        netlink,
        pins::{LinkKind, Pins},
        state::{Contents, ReadRows as _},
        stats::service_address,
    },
    plan::Reason,
    running::{Peer, Pod, Running},
    system,
};
use lb_common::{
    hash::{row_mask, row_weight},
    maps::{
        NO_ENDPOINT, NO_NODE, NO_RANGE, SERVICE_KERNEL, Service, ServiceKey, THIS_NODE, VipKey,
    },
    outcome::{Action, Outcome},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// What is called a node whose name is not known.
const THIS: &str = "this node";

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// This node's name, if its agent told it.
    pub node: Option<String>,
    /// The agent.
    pub agent: Agent,
    /// For how many seconds the kernel goes on announcing without an agent; none once it has stopped.
    pub announces_for_s: Option<u64>,
    /// The nodes that take part, if the agent told them.
    pub nodes: BTreeSet<String>,
    /// On which interfaces VIPs are served.
    pub interfaces: Vec<Interface>,
    /// All VIPs.
    pub vips: Vec<Vip>,
    /// All ports of VIPs.
    pub services: Vec<Port>,
    /// The BGP peers, if the agent told them.
    pub peers: Vec<Peer>,
    /// Frames by what became of them, as far as there were any.
    pub frames: BTreeMap<&'static str, u64>,
}

/// Whether there is an agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Agent {
    /// It answers.
    Running {
        /// Its version.
        version: String,
        /// A plan stands in the kernel.
        ready: bool,
        /// It moves the deadline after which the kernel stops announcing.
        healthy: bool,
        /// It gives Services their addresses.
        allocator: bool,
        /// How many nodes it takes to be alive.
        nodes_alive: i64,
    },
    /// It does not.
    NotRunning {
        /// Where it was asked, and what came of it.
        reason: String,
    },
}

/// An interface, or a VLAN of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its VLAN; 0 is none.
    pub vlan: u16,
    /// How the ingress program is attached; none if it is not.
    pub mode: Option<&'static str>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vip {
    /// The address.
    pub vip: IpAddr,
    /// The node that announces it, as far as that is known here.
    pub owner: Option<String>,
    /// Why that node does.
    pub owner_why: Option<Reason>,
    /// Why this node does not, though another does.
    pub not_here: Option<Reason>,
    /// To which peers this node announces it by BGP, or why to none; none if BGP is not for it.
    pub bgp: Option<Reason>,
    /// On which interfaces this node does.
    pub announced_on: Vec<String>,
    /// How many questions for it this node has answered since then.
    pub answered: u64,
    /// The Services that have it.
    pub services: Vec<String>,
    /// Why it is so, where something is to be said.
    pub notices: Vec<String>,
}

/// A VIP's port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Port {
    /// The Service, if the agent told it.
    pub service: Option<String>,
    /// The VIP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// kube-proxy does the last step here.
    pub kernel: bool,
    /// How many rows it has.
    pub rows: u32,
    /// Which part of new flows each node takes.
    pub nodes: Vec<Share>,
    /// Which part each pod takes: of all nodes if the agent told it, else of this one.
    pub pods: Vec<Pod>,
    /// These are the pods of all nodes.
    pub pods_of_all_nodes: bool,
    /// Packets handed to pods of this node.
    pub delivered_packets: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets sent on to other nodes.
    pub forwarded_packets: u64,
    /// Their bytes.
    pub forwarded_bytes: u64,
}

/// A part of all new flows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// A node's name or address.
    pub of: String,
    /// Of 100.
    pub percent: f64,
}

impl Status {
    /// Reads it; the agent is asked at `agent`.
    ///
    /// # Errors
    ///
    /// [`Error::NothingPinned`] if neither an agent nor its maps are here, [`Error::Map`],
    /// [`Error::Netlink`]
    pub async fn read(pin_dir: &Path, agent: SocketAddr) -> Result<Self, Error> {
        let asked = Running::ask(agent).await;
        let asked = asked.map_err(|error| format!("nobody answers at {agent}: {error}"));
        Self::with(pin_dir, asked).await
    }

    /// Reads it, and adds what the agent says, or why it does not.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn with(pin_dir: &Path, agent: Result<Running, String>) -> Result<Self, Error> {
        let pins = Pins::new(pin_dir);
        let maps = Maps::open(&pins)?;
        let contents = maps.read()?;
        let (running, agent) = match agent {
            Ok(running) => {
                let told = Agent::Running {
                    version: running.version.clone(),
                    ready: running.ready,
                    healthy: running.healthy,
                    allocator: running.allocator,
                    nodes_alive: running.nodes_alive,
                };
                (Some(running), told)
            }
            Err(reason) => (None, Agent::NotRunning { reason }),
        };
        let left = maps.settings()?.announce_until_ns.checked_sub(system::monotonic_ns());
        let counters = maps.counters()?;
        let seen = Outcome::ALL.iter().map(|outcome| (outcome.name(), counters.get(*outcome)));
        let names = interface_names(&contents).await?;
        let known = Known { running: running.as_ref(), contents: &contents, names: &names };
        Ok(Self {
            node: running.as_ref().map(|running| running.node.clone()),
            agent,
            announces_for_s: left.map(|ns| ns / 1_000_000_000),
            nodes: running.iter().flat_map(|r| r.nodes.values().cloned()).collect(),
            interfaces: known.interfaces(&pins),
            vips: known.vips(),
            services: known.ports(&maps)?,
            peers: running.as_ref().map(|running| running.peers.clone()).unwrap_or_default(),
            frames: seen.filter(|(_, count)| *count > 0).collect(),
        })
    }

    /// Frames that were dropped, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let drops = Outcome::ALL.iter().filter(|outcome| outcome.action() == Action::Drop);
        drops.filter_map(|outcome| {
            self.frames.get_key_value(outcome.name()).map(|(name, count)| (*name, *count))
        })
    }
}

/// Names by index, of the interfaces that the maps speak of.
async fn interface_names(contents: &Contents) -> Result<BTreeMap<u32, String>, Error> {
    let handle = netlink::connect()?;
    let uplinks = contents.uplinks.iter().map(|uplink| uplink.ifindex);
    let mut names = BTreeMap::new();
    for ifindex in uplinks.chain(contents.announced.keys().map(|key| key.ifindex)) {
        if let std::collections::btree_map::Entry::Vacant(place) = names.entry(ifindex) {
            place.insert(netlink::name(&handle, ifindex).await?);
        }
    }
    Ok(names)
}

/// What the parts are made of.
struct Known<'a> {
    running: Option<&'a Running>,
    contents: &'a Contents,
    names: &'a BTreeMap<u32, String>,
}

impl Known<'_> {
    fn interfaces(&self, pins: &Pins) -> Vec<Interface> {
        let links = pins.list_links();
        let modes = [IngressMode::Native, IngressMode::Generic, IngressMode::Tcx];
        let attached = |ifindex: u32, mode: &IngressMode| {
            let kind = LinkKind::from(*mode);
            links.iter().any(|link| link.ifindex == ifindex && link.kind == kind)
        };
        let interface = |uplink: &lb_common::maps::Uplink| Interface {
            name: self.name(uplink.ifindex),
            vlan: uplink.vlan,
            mode: modes.iter().find(|mode| attached(uplink.ifindex, mode)).map(|mode| mode.name()),
        };
        self.contents.uplinks.iter().map(interface).collect()
    }

    fn name(&self, ifindex: u32) -> String {
        self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("interface {ifindex}"))
    }

    fn vips(&self) -> Vec<Vip> {
        self.contents.vips.keys().map(|key| self.vip(key)).collect()
    }

    fn vip(&self, key: &VipKey) -> Vip {
        let vip = address_from_bytes(key.vip);
        let here = self.contents.announced.iter().filter(|(announced, _)| announced.vip == key.vip);
        let on = |(ifindex, vlan)| match vlan {
            0 => self.name(ifindex),
            vlan => format!("{} (VLAN {vlan})", self.name(ifindex)),
        };
        let announced_on: Vec<_> =
            here.clone().map(|(key, _)| on((key.ifindex, key.vlan))).collect();
        let told = self.running.and_then(|r| r.vips.iter().find(|told| told.vip == vip));
        let owner = match told {
            Some(told) => told.owner.clone(),
            None => (!announced_on.is_empty()).then(|| THIS.to_owned()),
        };
        Vip {
            vip,
            owner,
            owner_why: told.and_then(|told| told.owner_why.clone()),
            not_here: told.and_then(|told| told.not_here.clone()),
            bgp: told.and_then(|told| told.bgp.clone()),
            announced_on,
            answered: here.map(|(_, announced)| announced.answered).sum(),
            services: told.map(|told| told.services.clone()).unwrap_or_default(),
            notices: told.map(|told| told.notices.clone()).unwrap_or_default(),
        }
    }

    fn ports(&self, maps: &Maps) -> Result<Vec<Port>, Error> {
        let known = self.contents.services.iter();
        known
            .map(|(key, service)| self.port(maps, key, service))
            .filter_map(Result::transpose)
            .collect()
    }

    fn port(
        &self,
        maps: &Maps,
        key: &ServiceKey,
        service: &Service,
    ) -> Result<Option<Port>, Error> {
        let Some(address) = service_address(key) else { return Ok(None) };
        let stats = maps.service_stats(service.stats)?;
        let told = self.running.and_then(|running| {
            running.ports.iter().find(|told| {
                (told.vip, told.port) == (address.vip, address.port)
                    && told.protocol == address.protocol.to_string()
            })
        });
        let (nodes, here) = self.shares(maps, service);
        let pods = told.and_then(|told| told.pods.clone());
        Ok(Some(Port {
            service: told.map(|told| told.service.clone()),
            vip: address.vip,
            port: address.port,
            protocol: address.protocol.to_string(),
            kernel: service.flags & SERVICE_KERNEL != 0,
            rows: service.rows,
            nodes,
            pods_of_all_nodes: pods.is_some(),
            pods: pods.unwrap_or(here),
            delivered_packets: stats.delivered_packets,
            delivered_bytes: stats.delivered_bytes,
            forwarded_packets: stats.forwarded_packets,
            forwarded_bytes: stats.forwarded_bytes,
        }))
    }

    /// Which part of new flows is each node's, and each of this node's pods'.
    fn shares(&self, maps: &Maps, service: &Service) -> (Vec<Share>, Vec<Pod>) {
        let mut nodes = BTreeMap::<u16, u32>::new();
        let mut pods = BTreeMap::<u32, u32>::new();
        let tables = maps.rows();
        for row in 0..service.rows {
            let Some(found) = tables.get(service.rows_start + row) else { break };
            let first = found.nodes[0];
            if first == NO_NODE {
                continue;
            }
            let weight = row_weight(row, service.rows);
            *nodes.entry(first).or_default() += weight;
            let endpoint = match service.endpoints_start {
                NO_RANGE => Some(service.endpoint),
                start => tables.row_endpoint(start + row),
            };
            let endpoint = endpoint.filter(|index| first == THIS_NODE && *index != NO_ENDPOINT);
            if let Some(endpoint) = endpoint {
                *pods.entry(endpoint).or_default() += weight;
            }
        }
        let all = f64::from(row_mask(service.rows)) + 1.0;
        let percent = |weight: u32| (1000.0 * f64::from(weight) / all).round() / 10.0;
        let nodes = nodes.into_iter();
        let nodes =
            nodes.map(|(node, weight)| Share { of: self.node(node), percent: percent(weight) });
        let pods = pods.into_iter().filter_map(|(endpoint, weight)| {
            let node = self.node(THIS_NODE);
            Some(Pod { pod: self.pod(endpoint)?, node, percent: percent(weight) })
        });
        (nodes.collect(), pods.collect())
    }

    fn node(&self, index: u16) -> String {
        if index == THIS_NODE {
            return self.running.map_or_else(|| THIS.to_owned(), |running| running.node.clone());
        }
        let Some(node) = self.contents.nodes.get(&u32::from(index)) else {
            return format!("node {index}");
        };
        let address = address_from_bytes(node.address);
        let name = self.running.and_then(|running| running.nodes.get(&address).cloned());
        name.unwrap_or_else(|| address.to_string())
    }

    fn pod(&self, index: u32) -> Option<SocketAddr> {
        let endpoint = self.contents.endpoints.get(&index)?;
        let port = u16::from_be_bytes(endpoint.port);
        Some(SocketAddr::new(address_from_bytes(endpoint.address), port))
    }
}
