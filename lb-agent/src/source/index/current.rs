//! The snapshot of an [`Index`], brought up to date by what has changed.
use super::Index;
use crate::{
    ipam::pools::Range,
    snapshot::{EndpointSlice, IpAddressPool, Labels, Node, ObjectName, Service, Slices, Snapshot},
    source::{ALLOCATED_FROM, index::Configuration},
};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// The snapshot as it was made last, and what it lacks.
#[derive(Clone, Debug, Default)]
pub struct Current {
    snapshot: Snapshot,
    /// The EndpointSlices of all Services, also of those that are not in the snapshot.
    slices: HashMap<ObjectName, Slices>,
    /// What the pools and advertisements are from; none before the first snapshot.
    configuration: Option<Arc<Configuration>>,
    /// Where addresses are ours.
    ranges: Vec<Range>,
    /// Services that have changed, or their slices.
    stale: BTreeSet<ObjectName>,
}

impl Current {
    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    pub(super) fn service_changed(&mut self, name: &ObjectName) {
        self.stale.insert(name.clone());
    }

    pub(super) fn slice_changed(
        &mut self,
        was: Option<&Arc<EndpointSlice>>,
        is: Option<&Arc<EndpointSlice>>,
    ) {
        let (before, after) = (was.map(|slice| slice.owner()), is.map(|slice| slice.owner()));
        if let (Some(was), Some(owner)) = (was, &before)
            && before != after
            && let Some(slices) = self.slices.get_mut(owner)
        {
            slices.remove(&was.name);
            if slices.is_empty() {
                self.slices.remove(owner);
            }
        }
        if let (Some(is), Some(owner)) = (is, &after) {
            self.slices.entry(owner.clone()).or_default().set(Arc::clone(is));
        }
        self.stale.extend(before.into_iter().chain(after));
    }

    pub(super) fn node_changed(&mut self, name: &str, is: Option<&Node>) {
        match is {
            Some(node) => self.snapshot.nodes.insert(name.to_owned(), node.clone()),
            None => self.snapshot.nodes.remove(name),
        };
    }

    pub(super) fn namespace_changed(&mut self, name: &str, is: Option<&Labels>) {
        match is {
            Some(labels) => self.snapshot.namespaces.insert(name.to_owned(), labels.clone()),
            None => self.snapshot.namespaces.remove(name),
        };
    }

    /// Brings the snapshot to what the index has.
    pub(super) fn catch_up(&mut self, index: &Index) {
        if self.configuration.is_none() {
            self.take_all(index);
        }
        let configuration = index.configuration();
        if self.configuration.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &configuration)) {
            let (pools, advertisements) =
                (configuration.pools(), configuration.l2_advertisements());
            if pools != self.snapshot.pools {
                self.ranges = ranges(pools.values());
                self.snapshot.pools = pools;
                // Whether they have something of a pool of ours is another question now.
                let others = index.services.iter().filter(|(_, service)| !service.wants_address);
                self.stale.extend(others.map(|(name, _)| name.clone()));
            }
            if advertisements != self.snapshot.l2_advertisements {
                self.snapshot.l2_advertisements = advertisements;
            }
            self.configuration = Some(configuration);
        }
        for name in std::mem::take(&mut self.stale) {
            self.settle(index, &name);
        }
    }

    /// Whatever was in the index before the first snapshot, however it came there.
    fn take_all(&mut self, index: &Index) {
        *self = Self::default();
        for (name, node) in &index.nodes {
            self.node_changed(&name.name, Some(node));
        }
        for (name, labels) in &index.namespaces {
            self.namespace_changed(&name.name, Some(labels));
        }
        for slice in index.endpoint_slices.values() {
            self.slice_changed(None, Some(slice));
        }
        self.stale.extend(index.services.keys().cloned());
    }

    /// A Service and its slices, as they are now.
    fn settle(&mut self, index: &Index, name: &ObjectName) {
        let service = index.services.get(name);
        let service = service.filter(|s| s.wants_address || self.has_of_ours(s));
        let slices = service.and_then(|_| self.slices.get(name));
        let Snapshot { services, slices: all, .. } = &mut self.snapshot;
        match service {
            Some(service) => services.insert(name.clone(), Arc::clone(service)),
            None => services.remove(name),
        };
        match slices {
            Some(slices) => all.insert(name.clone(), slices.clone()),
            None => all.remove(name),
        };
    }

    /// Whether a Service has something to be taken back: an address of a pool of ours, or
    /// the annotation that says so. (The API server itself takes the address away when
    /// the type changes, and leaves the annotation.)
    fn has_of_ours(&self, service: &Service) -> bool {
        let annotation = service.annotations.get(ALLOCATED_FROM);
        let ours = |ip: &IpAddr| self.ranges.iter().any(|range| range.contains(*ip));
        annotation.is_some_and(|pool| self.snapshot.pools.contains_key(pool))
            || service.addresses().iter().any(ours)
    }
}

fn ranges<'a>(pools: impl Iterator<Item = &'a IpAddressPool>) -> Vec<Range> {
    pools.flat_map(|pool| &pool.addresses).filter_map(|entry| Range::parse(entry).ok()).collect()
}
