//! The endpoints of each Service, port by port, from its EndpointSlices.
use super::{EndpointAddress, Notice, Rows};
use crate::{
    ipam::pools::Family,
    membership::Alive,
    snapshot::{Endpoint, EndpointPort, EndpointSlice, Node, Service, ServicePort},
};
use imbl::OrdMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Whether an endpoint can carry a flow at all: it is ready, or still serves while it ends.
pub fn can_serve(service: &Service, endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.serving || service.publish_not_ready
}

/// The endpoints of one port of a Service, and what is wrong with some.
#[derive(Debug, Default)]
pub struct PortEndpoints {
    /// The rows of all that have a place in them.
    pub rows: Rows,
    /// All of this node, whatever their conditions.
    pub local: Vec<EndpointAddress>,
    /// Those of this node that take new flows, sorted.
    pub taking: Vec<EndpointAddress>,
    /// An endpoint has another port than the Service.
    pub translated: bool,
    /// What users should be told.
    pub notices: BTreeSet<Notice>,
}

/// Whether an endpoint is ready, whether it serves, and its node.
type Placed<'a> = (bool, bool, &'a Arc<str>);

/// What endpoints are placed by.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// All nodes.
    pub nodes: &'a OrdMap<String, Node>,
    /// Who is alive.
    pub alive: &'a Alive,
    /// Their names, each once in memory.
    pub names: &'a BTreeSet<Arc<str>>,
    /// The node that is planned for.
    pub me: &'a str,
}

impl Placement<'_> {
    /// Collects the endpoints of `port` that have an address of `family`.
    ///
    /// Every endpoint that is listed stands in the rows' order, whatever its conditions:
    /// its node may have flows to it, and those go on for as long as it exists (also while
    /// its readiness probe fails). New flows go to those that are ready; if none is, to
    /// those that serve while they terminate, as kube-proxy does. Endpoints on nodes that
    /// are not alive are left out.
    pub fn of_port(
        &self,
        service: &Service,
        slices: &[Arc<EndpointSlice>],
        port: &ServicePort,
        family: Family,
    ) -> PortEndpoints {
        let mut found = PortEndpoints::default();
        let mut rows = BTreeMap::new();
        for (endpoint, takes_new, node) in self.placed(service, slices, port, family, &mut found) {
            if takes_new && **node == *self.me {
                found.taking.push(endpoint);
            }
            found.translated |= endpoint.port != port.port;
            *rows.entry((endpoint.address, node)).or_insert(false) |= takes_new;
        }
        let row = |((address, node), takes_new)| (address, Arc::clone(node), takes_new);
        found.rows = Rows::new(rows.into_iter().map(row));
        found
    }

    /// On each node that has some, the endpoints that take new flows, sorted.
    pub fn taking(
        &self,
        service: &Service,
        slices: &[Arc<EndpointSlice>],
        port: &ServicePort,
        family: Family,
    ) -> BTreeMap<Arc<str>, Vec<EndpointAddress>> {
        let mut taking = BTreeMap::<_, Vec<_>>::new();
        let placed = self.placed(service, slices, port, family, &mut PortEndpoints::default());
        for (endpoint, _, node) in placed.into_iter().filter(|(_, takes_new, _)| *takes_new) {
            taking.entry(Arc::clone(node)).or_default().push(endpoint);
        }
        taking
    }

    /// The endpoints that have a place, sorted: each with whether it takes new flows, and its node.
    /// What else there is to say of them is added to `found`.
    fn placed(
        &self,
        service: &Service,
        slices: &[Arc<EndpointSlice>],
        port: &ServicePort,
        family: Family,
        found: &mut PortEndpoints,
    ) -> Vec<(EndpointAddress, bool, &Arc<str>)> {
        // One address may be listed twice, on its way from one slice (or node) to another:
        // ready wins over not ready.
        let mut best = BTreeMap::<EndpointAddress, Placed<'_>>::new();
        let mut unplaced = BTreeMap::<_, ((IpAddr, String), u32)>::new();
        fn rank<'a>((ready, serving, node): &Placed<'a>) -> (bool, bool, &'a str) {
            (!ready, !serving, node)
        }
        let named = |p: &&EndpointPort| p.name == port.name && p.protocol == port.protocol;
        for (slice, listed) in
            slices.iter().flat_map(|s| s.ports.iter().filter(named).map(move |p| (s, p)))
        {
            let Some(number) = listed.port else {
                found.notices.insert(warning(
                    service,
                    "EndpointPortMissing",
                    format!(
                        "EndpointSlice {} names no number for port {:?}: give it one, else \
                         traffic to port {} is not served.",
                        slice.name, port.name, port.port
                    ),
                ));
                continue;
            };
            for endpoint in slice.endpoints.iter().filter(|e| Family::of(e.address) == family) {
                let (address, protocol) = (endpoint.address, port.protocol);
                let address = EndpointAddress { address, port: number, protocol };
                if endpoint.node.as_deref() == Some(self.me) {
                    found.local.push(address);
                }
                let node = match self.node_of(slice, endpoint) {
                    Ok(node) => node,
                    Err((reason, message)) => {
                        // One notice for a whole slice of them is enough: for the lowest.
                        let first = (endpoint.address, message);
                        let known = unplaced.entry((&slice.name, reason));
                        let known = known.or_insert_with(|| (first.clone(), 0));
                        known.0 = known.0.clone().min(first);
                        known.1 += 1;
                        continue;
                    }
                };
                if let Some(name) = self.names.get(node) {
                    let ready = endpoint.ready || service.publish_not_ready;
                    let offer = (ready, endpoint.serving, name);
                    let known = best.entry(address).or_insert(offer);
                    *known = std::cmp::min_by_key(*known, offer, rank);
                }
            }
        }
        for ((_, reason), ((_, mut message), count)) in unplaced {
            if count > 1 {
                message.push_str(&format!(" So are {} more of the slice.", count - 1));
            }
            found.notices.insert(warning(service, reason, message));
        }
        let any_ready = best.values().any(|(ready, ..)| *ready);
        let takes_new = |ready, serving| if any_ready { ready } else { serving };
        best.into_iter()
            .map(|(endpoint, (ready, serving, node))| (endpoint, takes_new(ready, serving), node))
            .collect()
    }

    /// The node of an endpoint, or the reason and message for a warning that it has none.
    fn node_of<'e>(
        &self,
        slice: &EndpointSlice,
        endpoint: &'e Endpoint,
    ) -> Result<&'e str, (&'static str, String)> {
        let (address, slice) = (endpoint.address, &slice.name);
        match endpoint.node.as_deref() {
            None => Err((
                "EndpointWithoutNode",
                format!(
                    "endpoint {address} in EndpointSlice {slice} is left out because it has no \
                     nodeName: set it to the node that can reach the endpoint."
                ),
            )),
            Some(node) if !self.nodes.contains_key(node) => Err((
                "EndpointOnUnknownNode",
                format!(
                    "endpoint {address} in EndpointSlice {slice} is left out because its node \
                     {node:?} does not exist: correct nodeName."
                ),
            )),
            Some(node) if !self.alive.get(node).is_some_and(|node| node.in_rows) => Err((
                NODE_WITHOUT_AGENT,
                format!(
                    "endpoint {address} in EndpointSlice {slice} is left out because node {node} \
                     does not answer, or never had an agent: see that the node is up and that \
                     lb-agent runs on it."
                ),
            )),
            Some(node) => Ok(node),
        }
    }
}

/// The reason of the warning that an endpoint's node does not answer.
pub const NODE_WITHOUT_AGENT: &str = "EndpointOnNodeWithoutAgent";

/// A warning about a Service.
pub(crate) fn warning(service: &Service, reason: &'static str, message: String) -> Notice {
    Notice {
        kind: "Service",
        object: service.name.clone(),
        warning: true,
        reason,
        message: message.into(),
    }
}
