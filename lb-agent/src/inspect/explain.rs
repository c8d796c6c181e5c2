//! `lb-agent explain`: which way a flow takes, from this node's maps.
//!
//! It follows the kernel program's steps (docs/data-path.md) on what stands in the maps at
//! the moment, for a packet that reaches this node from a client.
use super::flow::Flow;
use crate::datapath::{address_bytes, address_from_bytes};
use lb_common::{
    hash::row_index,
    maps::{
        Affinity, AffinityKey, ELSEWHERE_ASKED, ELSEWHERE_ASKED_AGAIN, ELSEWHERE_NOBODY,
        ELSEWHERE_NODE, ENDPOINT_PRESENT, Elsewhere, Endpoint, FLOW_CLOSING, FLOW_KERNEL, FlowKey,
        NO_NODE, NO_RANGE, NODE_LINK, NODE_TUNNEL, Node, RangeKey, Row, SERVICE_CLIENT_IP,
        SERVICE_KERNEL, SERVICE_RANGES, Service, ServiceKey, THIS_NODE, TO_ENDPOINT,
    },
    wire::protocol::UDP,
};
use serde::Serialize;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// What is looked up. Each error is that of the map.
pub trait Tables {
    /// Why a map cannot be read.
    type Error;
    /// Whether `VIPS` has it.
    fn is_vip(&self, vip: [u8; 16]) -> Result<bool, Self::Error>;
    /// An entry of `SERVICES`.
    fn service(&self, key: &ServiceKey) -> Result<Option<Service>, Self::Error>;
    /// An element of `ROWS`.
    fn row(&self, index: u32) -> Result<Option<Row>, Self::Error>;
    /// An element of `ROW_ENDPOINTS`.
    fn row_endpoint(&self, index: u32) -> Result<Option<u32>, Self::Error>;
    /// An element of `NODES`.
    fn node(&self, index: u32) -> Result<Option<Node>, Self::Error>;
    /// An element of `ENDPOINTS`.
    fn endpoint(&self, index: u32) -> Result<Option<Endpoint>, Self::Error>;
    /// An entry of `FLOWS`, or else of `PENDING`.
    fn flow(&self, key: &FlowKey) -> Result<Option<lb_common::maps::Flow>, Self::Error>;
    /// An entry of `AFFINITY`.
    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Self::Error>;
    /// An entry of `ELSEWHERE`.
    fn elsewhere(&self, key: &FlowKey) -> Result<Option<Elsewhere>, Self::Error>;
    /// Whether `SOURCE_RANGES` has a prefix of the key.
    fn in_ranges(&self, key: RangeKey) -> Result<bool, Self::Error>;
}

/// How packets get to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It is this node.
    Here,
    /// By rewriting link-layer addresses.
    Link,
    /// In a tunnel.
    Tunnel,
    /// There is none at the moment.
    None,
}

/// A node of the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Its InternalIP; none for this node.
    pub address: Option<IpAddr>,
    /// How it is reached from here.
    pub way: Way,
    /// Index of the interface to send by; none for this node.
    pub ifindex: Option<u32>,
}

/// A flow that this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Its endpoint; none if kube-proxy does the last step.
    pub endpoint: Option<SocketAddr>,
    /// The client's port as the endpoint sees it, where that is another.
    pub client_port: Option<u16>,
    /// Seconds since the client was last heard.
    pub silent_s: u32,
    /// The client has closed it.
    pub closing: bool,
}

/// What the other agents said about the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// They are being asked.
    Asked,
    /// Nothing, for it is UDP; but it is looked for along its row.
    Sought,
    /// The node at this address knows it; none: it is this node.
    Node(Option<IpAddr>),
    /// Nobody knows it.
    Nobody,
}

/// A VIP's port on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Served {
    /// How many rows it has.
    pub rows: u32,
    /// Position of the flow's row among them.
    pub row: u32,
    /// Seconds since the rows changed.
    pub changed_s: u32,
    /// The row's nodes in order: new flows go to the first. The first is absent if nobody
    /// takes new flows.
    pub nodes: Vec<Option<Stop>>,
    /// This node's endpoint for new flows of the row.
    pub endpoint: Option<SocketAddr>,
    /// kube-proxy does the last step here.
    pub kernel: bool,
    /// All flows of a client go by one row.
    pub client_ip_affinity: bool,
    /// The endpoint that the client's new flows go to for a while.
    pub affinity: Option<SocketAddr>,
    /// What this node knows of the flow.
    pub known: Option<Known>,
    /// What other agents said of it.
    pub elsewhere: Option<Said>,
}

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The address is no VIP: its packets pass untouched.
    NoVip,
    /// The VIP has no such port: refused.
    NoPort,
    /// `loadBalancerSourceRanges` leaves the client out: dropped.
    SourceRange,
    /// The Service has no endpoint: refused.
    NoEndpoint,
    /// It goes by a row.
    Served(Box<Served>),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The flow as people write it.
    pub flow: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// Follows a flow through the maps of this node. `now_s` is in seconds of `CLOCK_MONOTONIC`.
///
/// # Errors
///
/// Those of the maps.
pub fn explain<T: Tables>(tables: &T, flow: &Flow, now_s: u32) -> Result<Explanation, T::Error> {
    Ok(Explanation { flow: flow.to_string(), fate: fate(tables, flow, now_s)? })
}

fn fate<T: Tables>(tables: &T, flow: &Flow, now_s: u32) -> Result<Fate, T::Error> {
    let vip = address_bytes(flow.vip.ip());
    let client = address_bytes(flow.client.ip());
    let (port, proto) = (flow.vip.port().to_be_bytes(), flow.protocol.number());
    let key = ServiceKey { vip, port, proto, pad: 0, pad2: 0 };
    let Some(service) = tables.service(&key)? else {
        return Ok(if tables.is_vip(vip)? { Fate::NoPort } else { Fate::NoVip });
    };
    if service.flags & SERVICE_RANGES != 0
        && !tables.in_ranges(RangeKey { ranges: service.ranges.to_be_bytes(), client })?
    {
        return Ok(Fate::SourceRange);
    }
    let client_ip_affinity = service.flags & SERVICE_CLIENT_IP != 0;
    if service.rows == 0 {
        return Ok(Fate::NoEndpoint);
    }
    let position = row_index(flow.hash(client_ip_affinity), service.rows, service.mask);
    let Some(row) = tables.row(service.rows_start.wrapping_add(position))? else {
        return Ok(Fate::NoEndpoint);
    };
    let mut nodes = Vec::new();
    for (place, index) in row.nodes.into_iter().enumerate() {
        match index {
            NO_NODE if place == 0 => nodes.push(None),
            NO_NODE => {}
            index => nodes.push(Some(stop(tables, index)?)),
        }
    }
    let mut index = service.endpoint;
    if service.endpoints_start != NO_RANGE {
        let at = service.endpoints_start.wrapping_add(position);
        index = tables.row_endpoint(at)?.unwrap_or(index);
    }
    let key = FlowKey {
        client,
        peer: vip,
        client_port: flow.client.port().to_be_bytes(),
        peer_port: port,
        proto,
        direction: TO_ENDPOINT,
        pad: [0; 2],
    };
    let affinity = AffinityKey { client, vip, port, proto, pad: [0; 5] };
    let affinity = match tables.affinity(&affinity)? {
        Some(a) if client_ip_affinity && now_s.saturating_sub(a.seen_s) < service.affinity_s => {
            endpoint(tables, a.endpoint)?.filter(|e| address_bytes(e.ip()) == a.address)
        }
        _ => None,
    };
    Ok(Fate::Served(Box::new(Served {
        rows: service.rows,
        row: position,
        changed_s: now_s.saturating_sub(service.changed_s),
        nodes,
        endpoint: endpoint(tables, index)?,
        kernel: service.flags & SERVICE_KERNEL != 0,
        client_ip_affinity,
        affinity,
        known: known(tables, flow, &key, now_s)?,
        elsewhere: said(tables, &key, now_s)?,
    })))
}

fn stop<T: Tables>(tables: &T, index: u16) -> Result<Stop, T::Error> {
    if index == THIS_NODE {
        return Ok(Stop { address: None, way: Way::Here, ifindex: None });
    }
    let node = tables.node(index.into())?.unwrap_or_default();
    let way = match node.flags {
        _ if node.ifindex == 0 => Way::None,
        flags if flags & NODE_LINK != 0 => Way::Link,
        flags if flags & NODE_TUNNEL != 0 => Way::Tunnel,
        _ => Way::None,
    };
    let address = Some(address_from_bytes(node.address));
    Ok(Stop { address, way, ifindex: Some(node.ifindex) })
}

fn endpoint<T: Tables>(tables: &T, index: u32) -> Result<Option<SocketAddr>, T::Error> {
    let endpoint = tables.endpoint(index)?.filter(|e| e.flags & ENDPOINT_PRESENT != 0);
    Ok(endpoint.map(|e| SocketAddr::new(address_from_bytes(e.address), u16::from_be_bytes(e.port))))
}

fn known<T: Tables>(
    tables: &T,
    flow: &Flow,
    key: &FlowKey,
    now_s: u32,
) -> Result<Option<Known>, T::Error> {
    let Some(found) = tables.flow(key)? else { return Ok(None) };
    let silent_s = now_s.saturating_sub(found.seen_s);
    let closing = found.state & FLOW_CLOSING != 0;
    if found.state & FLOW_KERNEL != 0 {
        return Ok(Some(Known { endpoint: None, client_port: None, silent_s, closing }));
    }
    let peer = SocketAddr::new(address_from_bytes(found.peer), u16::from_be_bytes(found.peer_port));
    // A flow to an endpoint that is gone is none.
    if endpoint(tables, found.endpoint)? != Some(peer) {
        return Ok(None);
    }
    let port = u16::from_be_bytes(found.client_port);
    let client_port = (port != flow.client.port()).then_some(port);
    Ok(Some(Known { endpoint: Some(peer), client_port, silent_s, closing }))
}

fn said<T: Tables>(tables: &T, key: &FlowKey, now_s: u32) -> Result<Option<Said>, T::Error> {
    let said = tables.elsewhere(key)?.filter(|said| now_s < said.until_s);
    Ok(match said {
        None => None,
        Some(Elsewhere { verdict: ELSEWHERE_ASKED, .. }) if key.proto == UDP => Some(Said::Sought),
        Some(Elsewhere { verdict: ELSEWHERE_ASKED | ELSEWHERE_ASKED_AGAIN, .. }) => {
            Some(Said::Asked)
        }
        Some(Elsewhere { verdict: ELSEWHERE_NOBODY, .. }) => Some(Said::Nobody),
        Some(Elsewhere { verdict: ELSEWHERE_NODE, node, .. }) => {
            Some(Said::Node(stop(tables, node)?.address))
        }
        // It has begun, which says nothing of where it is.
        Some(_) => None,
    })
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, way, ifindex } = self;
        let address = address.map_or_else(|| "this node".to_owned(), |a| a.to_string());
        let by = ifindex.map(|index| format!(", interface {index}")).unwrap_or_default();
        match way {
            Way::Here => write!(f, "{address}"),
            Way::Link => write!(f, "{address} by link{by}"),
            Way::Tunnel => write!(f, "{address} by tunnel{by}"),
            Way::None => write!(f, "{address}, but there is no way to it at the moment"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "flow        {}", self.flow)?;
        match &self.fate {
            Fate::NoVip => {
                writeln!(f, "passes      the address is no VIP here: Herald does not touch it")
            }
            Fate::NoPort => writeln!(f, "refused     no Service has that port"),
            Fate::SourceRange => {
                writeln!(f, "dropped     loadBalancerSourceRanges leaves the client out")
            }
            Fate::NoEndpoint => writeln!(f, "refused     the Service has no endpoint"),
            Fate::Served(served) => served.fmt(f),
        }
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, row, changed_s, nodes, .. } = self;
        let by = if self.client_ip_affinity { " by the client's address" } else { "" };
        writeln!(f, "row         {row} of {rows}{by}, unchanged for {changed_s} s")?;
        for (place, node) in nodes.iter().enumerate() {
            match (place, node) {
                (0, None) => writeln!(f, "new flows   nobody takes any: refused")?,
                (0, Some(node)) => writeln!(f, "new flows   {node}")?,
                (1, Some(node)) => writeln!(f, "then        {node}")?,
                (_, Some(node)) => writeln!(f, "            {node}")?,
                (_, None) => {}
            }
        }
        match (self.kernel, self.endpoint) {
            (true, _) => writeln!(f, "endpoint    kube-proxy's choice (mode kernel)")?,
            (false, Some(endpoint)) => writeln!(f, "endpoint    {endpoint}, of this node's")?,
            (false, None) => writeln!(f, "endpoint    none of this node's takes new flows")?,
        }
        if let Some(endpoint) = self.affinity {
            writeln!(f, "affinity    the client's new flows go to {endpoint}")?;
        }
        match &self.known {
            Some(Known { endpoint, client_port, silent_s, closing }) => {
                let to = endpoint.map_or_else(|| "kube-proxy".to_owned(), |e| e.to_string());
                let port = client_port.map(|p| format!(", from client port {p}"));
                let port = port.unwrap_or_default();
                let end = if *closing { ", closed by the client" } else { "" };
                writeln!(f, "known here  goes to {to}{port}; last heard {silent_s} s ago{end}")?;
            }
            None => writeln!(f, "known here  no")?,
        }
        match &self.elsewhere {
            Some(Said::Asked) => writeln!(f, "elsewhere   the other agents are being asked"),
            Some(Said::Sought) => writeln!(f, "elsewhere   looked for along the row"),
            Some(Said::Nobody) => writeln!(f, "elsewhere   no agent knows it"),
            Some(Said::Node(Some(node))) => writeln!(f, "elsewhere   {node} knows it"),
            Some(Said::Node(None)) => writeln!(f, "elsewhere   this node knows it"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
