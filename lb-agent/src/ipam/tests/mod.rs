mod compat;
mod properties;
mod sharing;

use super::{Allocation, Assignment, allocate, pools::ALLOCATED_FROM};
use crate::{
    snapshot::{Ingress, IpAddressPool, Service, Snapshot},
    testing::{ip, name},
};
use std::{collections::BTreeMap, sync::Arc};

fn with(pools: &[(&str, IpAddressPool)], services: impl IntoIterator<Item = Service>) -> Snapshot {
    let pools = pools.iter().map(|(n, p)| ((*n).to_owned(), p.clone())).collect();
    Snapshot { pools, ..Default::default() }.with_services(services)
}

/// Decides without anything in flight.
fn run(snapshot: &Snapshot) -> Allocation {
    allocate(snapshot, &BTreeMap::new())
}

/// Writes the changes into the Services' status, as a source does.
fn write(snapshot: &mut Snapshot, changes: &[Assignment]) {
    for change in changes {
        let service = Arc::make_mut(snapshot.services.get_mut(&change.service).unwrap());
        service.ingress.retain(|i| i.hostname.is_some());
        let ingress = |ip: &std::net::IpAddr| Ingress { ip: Some(ip.to_string()), hostname: None };
        service.ingress.extend(change.addresses.iter().map(ingress));
        match &change.pool {
            Some(pool) => service.annotations.insert(ALLOCATED_FROM.to_owned(), pool.clone()),
            None => service.annotations.remove(ALLOCATED_FROM),
        };
    }
}

/// Decides and writes; returns the reasons of what was said.
fn settle(snapshot: &mut Snapshot) -> Vec<&'static str> {
    let allocation = run(snapshot);
    write(snapshot, &allocation.changes);
    let again = run(snapshot);
    assert!(again.changes.is_empty(), "a second look changes nothing: {:?}", again.changes);
    allocation.notices.iter().map(|n| n.reason).collect()
}

/// The addresses of a Service, as text.
fn held(snapshot: &Snapshot, service: &str) -> Vec<String> {
    snapshot.services[&name(service)].addresses().iter().map(ToString::to_string).collect()
}

fn edit<'a>(snapshot: &'a mut Snapshot, service: &str) -> &'a mut Service {
    Arc::make_mut(snapshot.services.get_mut(&name(service)).unwrap())
}

fn annotate(snapshot: &mut Snapshot, service: &str, key: &str, value: &str) {
    edit(snapshot, service).annotations.insert(key.to_owned(), value.to_owned());
}

fn contains(allocation: &Allocation, reason: &str, text: &str) -> bool {
    allocation.notices.iter().any(|n| n.reason == reason && n.message.contains(text))
}

#[test]
fn an_address_in_flight_is_not_given_twice() {
    let pools = [("a", crate::testing::pool(&["192.0.2.1-192.0.2.9"]))];
    let mut snapshot = with(&pools, [crate::testing::service("b", "4")]);
    edit(&mut snapshot, "b").resource_version = "7".to_owned();
    let first = run(&snapshot);
    let in_flight: BTreeMap<_, _> =
        first.changes.iter().map(|c| (c.service.clone(), c.clone())).collect();
    // Before the write is seen a Service appears that comes first by name.
    snapshot = snapshot.with_services([crate::testing::service("a", "4")]);
    let second = allocate(&snapshot, &in_flight);
    assert_eq!(second.changes.len(), 1);
    assert_eq!(second.changes[0].service, name("a"));
    assert_eq!(second.changes[0].addresses, [ip("192.0.2.2")]);
    // The Service has changed since: the write has failed, and the decision is void.
    edit(&mut snapshot, "b").resource_version = "8".to_owned();
    let third = allocate(&snapshot, &in_flight);
    assert_eq!(third.changes[0].addresses, [ip("192.0.2.1")]);
    assert_eq!(third.changes[1].addresses, [ip("192.0.2.2")]);
    assert_eq!(third.changes[1].resource_version, "8");
}
