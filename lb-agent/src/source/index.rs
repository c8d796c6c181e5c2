//! All objects that were seen, reduced, and the snapshot made of them.
//!
//! Both sources fill an [`Index`]; which objects count and which do not is decided here
//! once for both.
use super::{
    ALLOCATED_FROM,
    convert::{self, Invalid, object_name},
};
use crate::{
    api::{IPAddressPool, L2Advertisement},
    ipam::pools::Range,
    snapshot::{self, Labels, ObjectName, Snapshot},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use std::{collections::BTreeMap, sync::Arc};

/// Which objects are ours.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The namespace that pools and advertisements are read from.
    pub namespace: String,
    /// `--lb-class`: the `loadBalancerClass` of our Services; `None` for those without.
    pub class: Option<String>,
    /// Addresses do not stand in the Services themselves, so that Services which want none
    /// must be kept too. Else only those are kept that have one, or the trace of one: of
    /// a large cluster's Services most never have.
    pub addresses_apart: bool,
}

/// A kind of object that the snapshot is made of.
pub trait Kind: Sized {
    /// What is kept of it.
    type Reduced: PartialEq + Send;

    /// Its name in messages.
    const KIND: &'static str;

    /// Checks and reduces an object; `None` where it is not our business.
    ///
    /// # Errors
    /// The first field that cannot be meant.
    fn reduce(self, scope: &Scope) -> Result<Option<Self::Reduced>, Invalid>;

    /// Where it is kept.
    fn store(index: &mut Index) -> &mut Store<Self::Reduced>;
}

/// The objects of one kind.
pub type Store<T> = BTreeMap<ObjectName, T>;

/// With the object's identity, which Events about it carry.
#[derive(Clone, Debug, PartialEq)]
pub struct Identified<T> {
    /// `metadata.uid`
    pub uid: String,
    /// The object.
    pub object: T,
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Services of type LoadBalancer of our class, and others that may have an address.
    pub services: Store<Arc<snapshot::Service>>,
    /// EndpointSlices of all Services.
    pub endpoint_slices: Store<Arc<snapshot::EndpointSlice>>,
    /// Nodes.
    pub nodes: Store<snapshot::Node>,
    /// Labels of Namespaces.
    pub namespaces: Store<Labels>,
    /// Pools.
    pub pools: Store<Identified<snapshot::IpAddressPool>>,
    /// Advertisements.
    pub l2_advertisements: Store<Identified<snapshot::L2Advertisement>>,
}

impl Index {
    /// Sets or removes an object. Returns whether that changes anything.
    pub fn set<K: Kind>(&mut self, name: ObjectName, object: Option<K::Reduced>) -> bool {
        let store = K::store(self);
        match object {
            None => store.remove(&name).is_some(),
            Some(object) if store.get(&name) == Some(&object) => false,
            Some(object) => {
                store.insert(name, object);
                true
            }
        }
    }

    /// Replaces all objects of a kind. Returns whether that changes anything.
    pub fn replace<K: Kind>(&mut self, objects: Store<K::Reduced>) -> bool {
        let store = K::store(self);
        let changed = *store != objects;
        *store = objects;
        changed
    }

    /// The objects that matter to the allocator and the planner.
    ///
    /// Services that want no address (any more) are there as long as they have something of
    /// a pool of ours; EndpointSlices, if their Service is.
    pub fn snapshot(&self) -> Snapshot {
        let services: BTreeMap<_, _> = self
            .services
            .iter()
            .filter(|(_, service)| service.wants_address || self.has_of_ours(service))
            .map(|(name, service)| (name.clone(), service.clone()))
            .collect();
        let mut owner = ObjectName::default();
        let endpoint_slices = self
            .endpoint_slices
            .iter()
            .filter(|(name, slice)| {
                owner.namespace.clone_from(&name.namespace);
                owner.name.clone_from(&slice.service);
                services.contains_key(&owner)
            })
            .map(|(name, slice)| (name.clone(), slice.clone()))
            .collect();
        Snapshot {
            endpoint_slices,
            services,
            nodes: by_name(&self.nodes, Clone::clone),
            namespaces: by_name(&self.namespaces, Clone::clone),
            pools: by_name(&self.pools, |p| p.object.clone()),
            l2_advertisements: by_name(&self.l2_advertisements, |a| a.object.clone()),
        }
    }

    /// Whether a Service has something to be taken back: an address of a pool of ours, or
    /// the annotation that says so. (The API server itself takes the address away when
    /// the type changes, and leaves the annotation.)
    fn has_of_ours(&self, service: &snapshot::Service) -> bool {
        let annotation = service.annotations.get(ALLOCATED_FROM);
        let addresses = service.addresses();
        self.pools.iter().any(|(name, pool)| {
            let ranges = pool.object.addresses.iter().flat_map(|entry| Range::parse(entry));
            annotation == Some(&name.name)
                || (!addresses.is_empty()
                    && ranges.into_iter().any(|r| addresses.iter().any(|ip| r.contains(*ip))))
        })
    }
}

fn by_name<T, U>(store: &Store<T>, value: impl Fn(&T) -> U) -> BTreeMap<String, U> {
    store.iter().map(|(name, object)| (name.name.clone(), value(object))).collect()
}

impl Kind for Service {
    type Reduced = Arc<snapshot::Service>;
    const KIND: &'static str = "Service";

    fn reduce(self, scope: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        let service = convert::service(self, scope.class.as_deref())?;
        let ours = service.filter(|s| {
            s.wants_address
                || scope.addresses_apart
                || s.ingress.iter().any(|i| i.ip.is_some())
                || s.annotations.contains_key(ALLOCATED_FROM)
        });
        Ok(ours.map(Arc::new))
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.services
    }
}

impl Kind for EndpointSlice {
    type Reduced = Arc<snapshot::EndpointSlice>;
    const KIND: &'static str = "EndpointSlice";

    fn reduce(self, _: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        Ok(convert::endpoint_slice(self)?.map(Arc::new))
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.endpoint_slices
    }
}

impl Kind for Node {
    type Reduced = snapshot::Node;
    const KIND: &'static str = "Node";

    fn reduce(self, _: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        convert::node(self).map(Some)
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.nodes
    }
}

impl Kind for Namespace {
    type Reduced = Labels;
    const KIND: &'static str = "Namespace";

    fn reduce(self, _: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        convert::namespace(self).map(Some)
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.namespaces
    }
}

impl Kind for IPAddressPool {
    type Reduced = Identified<snapshot::IpAddressPool>;
    const KIND: &'static str = "IPAddressPool";

    fn reduce(self, scope: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        let name = object_name(&self.metadata)?;
        let uid = self.metadata.uid.clone().unwrap_or_default();
        let ours = name.namespace == scope.namespace;
        Ok(ours.then(|| Identified { uid, object: self.into() }))
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.pools
    }
}

impl Kind for L2Advertisement {
    type Reduced = Identified<snapshot::L2Advertisement>;
    const KIND: &'static str = "L2Advertisement";

    fn reduce(self, scope: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        let name = object_name(&self.metadata)?;
        for (i, preference) in self.spec.preferred_node_selectors.iter().enumerate() {
            if !(1..=100).contains(&preference.weight) {
                return Err(Invalid::new(
                    format!("spec.preferredNodeSelectors[{i}].weight"),
                    format!("{} is not in the range of 1 to 100", preference.weight),
                ));
            }
        }
        let uid = self.metadata.uid.clone().unwrap_or_default();
        let ours = name.namespace == scope.namespace;
        Ok(ours.then(|| Identified { uid, object: self.into() }))
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.l2_advertisements
    }
}

#[cfg(test)]
mod tests;
