//! Short ways to write snapshots in tests.
use crate::{
    datapath::{neighbours::NextHop, uplinks::Uplink},
    snapshot::{
        Endpoint, EndpointPort, EndpointSlice, Ingress, IpAddressPool, L2Advertisement, Labels,
        Node, ObjectName, Service, ServicePort, Snapshot,
    },
};
use imbl::OrdMap;
use std::{net::IpAddr, sync::Arc};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn name(service: &str) -> ObjectName {
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    ObjectName::new(namespace, name)
}

/// A Service with TCP port 80 and one ClusterIP of each family of `families` ("4", "6", "46").
pub(crate) fn service(of: &str, families: &str) -> Service {
    let cluster = |f| if f == '4' { ip("10.96.0.1") } else { ip("fd00:96::1") };
    Service {
        name: name(of),
        wants_address: true,
        cluster_ips: families.chars().map(cluster).collect(),
        ports: vec![ServicePort { port: 80, ..Default::default() }],
        ..Default::default()
    }
}

/// The same, holding addresses.
pub(crate) fn holder(of: &str, families: &str, addresses: &[&str]) -> Service {
    let ingress = addresses.iter().map(|ip| Ingress { ip: Some((*ip).to_owned()), hostname: None });
    Service { ingress: ingress.collect(), ..service(of, families) }
}

pub(crate) fn pool(addresses: &[&str]) -> IpAddressPool {
    IpAddressPool {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        auto_assign: true,
        ..Default::default()
    }
}

/// An endpoint that is ready.
pub(crate) fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        node: Some(node.to_owned()),
        ready: true,
        serving: true,
        terminating: false,
    }
}

/// A slice of a Service with port 8080 for its port 80.
pub(crate) fn slice(of: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let service = name(of);
    EndpointSlice {
        name: service.beside(&format!("{}-abc", service.name)),
        service: service.name.to_string(),
        ports: vec![EndpointPort { port: Some(8080), ..Default::default() }],
        endpoints,
    }
}

/// An interface without VLAN, addresses or anything special.
pub(crate) fn uplink(ifindex: u32, name: &str) -> Uplink {
    Uplink {
        ifindex,
        vlan: 0,
        device: ifindex,
        name: name.to_owned(),
        lower: name.to_owned(),
        ports: Vec::new(),
        mac: [2, 0, 0, 0, 0, ifindex as u8],
        addresses: Vec::new(),
        mtu: 1500,
        without_driver: false,
        announces: true,
        carrier: true,
        settled: true,
    }
}

/// A way on the link of that uplink, to a link-layer address that ends with this byte.
pub(crate) fn next_hop(ifindex: u32, last: u8) -> NextHop {
    NextHop {
        device: ifindex,
        ifindex,
        vlan: 0,
        mac: [6, 0, 0, 0, 0, last],
        source_mac: [2, 0, 0, 0, 0, ifindex as u8],
        source: ip("10.0.0.1"),
        mtu: 1500,
        on_link: true,
    }
}

/// Nodes `n1` to `n{count}`, a pool and an advertisement of everything.
pub(crate) fn cluster(count: u8) -> Snapshot {
    let node =
        |i: u8| Node { internal_ips: vec![ip(&format!("10.0.0.{i}"))], ..Default::default() };
    let pools = [("pool".to_owned(), pool(&["192.0.2.0/24", "2001:db8::/64"]))];
    Snapshot {
        nodes: (1..=count).map(|i| (format!("n{i}"), node(i))).collect(),
        pools: pools.into_iter().collect(),
        l2_advertisements: OrdMap::unit("all".to_owned(), L2Advertisement::default()),
        ..Default::default()
    }
}

impl Snapshot {
    pub(crate) fn with_services(mut self, services: impl IntoIterator<Item = Service>) -> Self {
        self.services.extend(services.into_iter().map(|s| (s.name.clone(), Arc::new(s))));
        self
    }

    pub(crate) fn with_slices(mut self, slices: impl IntoIterator<Item = EndpointSlice>) -> Self {
        slices.into_iter().for_each(|slice| self.add_slice(Arc::new(slice)));
        self
    }

    pub(crate) fn edit_services(&mut self, mut edit: impl FnMut(&mut Service)) {
        for mut service in Vec::from_iter(self.services.values().cloned()) {
            edit(Arc::make_mut(&mut service));
            self.services.insert(service.name.clone(), service);
        }
    }

    pub(crate) fn edit_slices(&mut self, mut edit: impl FnMut(&mut EndpointSlice)) {
        for mut slice in Vec::from_iter(self.slices.values().flat_map(|s| s.iter()).cloned()) {
            edit(Arc::make_mut(&mut slice));
            self.add_slice(slice);
        }
    }
}
