//! All objects that were seen, reduced, and the snapshot made of them.
//!
//! Both sources fill an [`Index`]; which objects count and which do not is decided here
//! once for both.
mod current;

use self::current::Current;
use super::{
    ALLOCATED_FROM,
    convert::{self, Invalid, object_name},
};
use crate::{
    api::{
        BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec,
        Community, CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement,
        L2AdvertisementSpec,
    },
    snapshot::{self, Labels, ObjectName, Snapshot},
    validate::{self, Entries, Entry, Objects, Verdict},
};
use imbl::OrdMap;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

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
    type Reduced: Clone + PartialEq + Send;

    /// Its name in messages.
    const KIND: &'static str;

    /// Whether the configuration must be judged anew where one of these changes.
    const CONFIGURES: bool = false;

    /// Checks and reduces an object; `None` where it is not our business.
    ///
    /// # Errors
    /// The first field that cannot be meant.
    fn reduce(self, scope: &Scope) -> Result<Option<Self::Reduced>, Invalid>;

    /// Where it is kept.
    fn store(index: &mut Index) -> &mut Store<Self::Reduced>;

    /// Gives an object that was just reduced its name anew, which is in memory already.
    fn share_name(_reduced: &mut Self::Reduced, _name: &ObjectName) {}

    /// Takes note that one was this and is that now.
    fn changed(
        _current: &mut Current,
        _name: &ObjectName,
        _was: Option<&Self::Reduced>,
        _is: Option<&Self::Reduced>,
    ) {
    }
}

/// The objects of one kind.
pub type Store<T> = BTreeMap<ObjectName, T>;

/// All objects. Once a snapshot was made of them, they are changed by [`Index::set`] and
/// [`Index::replace`] only, which note what the next one will differ in.
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
    pub pools: Store<Entry<IPAddressPoolSpec>>,
    /// What is announced on layer 2.
    pub l2_advertisements: Store<Entry<L2AdvertisementSpec>>,
    /// What is announced by BGP.
    pub bgp_advertisements: Store<Entry<BGPAdvertisementSpec>>,
    /// BGP peers.
    pub peers: Store<Entry<BGPPeerSpec>>,
    /// Settings of BFD sessions.
    pub bfd_profiles: Store<Entry<BFDProfileSpec>>,
    /// Names of communities.
    pub communities: Store<Entry<CommunitySpec>>,
    /// The configuration as it was judged last, until it changes.
    judged: OnceLock<Arc<Configuration>>,
    current: Current,
}

/// The configuration, and what of it can be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// All of it.
    pub objects: Objects,
    /// What cannot be used.
    pub verdict: Verdict,
}

impl Index {
    /// Sets or removes an object. Returns whether that changes anything.
    pub fn set<K: Kind>(&mut self, name: ObjectName, mut object: Option<K::Reduced>) -> bool {
        let store = K::store(self);
        let was = store.get(&name).cloned();
        if was == object {
            return false;
        }
        let name = known(store, name);
        if let Some(object) = &mut object {
            K::share_name(object, &name);
        }
        K::changed(&mut self.current, &name, was.as_ref(), object.as_ref());
        let store = K::store(self);
        match object {
            Some(object) => store.insert(name, object),
            None => store.remove(&name),
        };
        self.judge_again_if(K::CONFIGURES);
        true
    }

    /// Replaces all objects of a kind. Returns whether that changes anything.
    pub fn replace<K: Kind>(&mut self, objects: Store<K::Reduced>) -> bool {
        let store = K::store(self);
        let mut changes = Vec::new();
        let mut last: Option<ObjectName> = None;
        let mut renew = |(mut name, mut object): (ObjectName, K::Reduced)| {
            let was = match store.remove_entry(&name) {
                // The same allocation as before tells others quickly that it has not changed.
                Some((known, was)) if was == object => return (known, was),
                Some((known, was)) => {
                    name = known;
                    Some(was)
                }
                None => None,
            };
            name = name.sharing_namespace(last.as_ref());
            last = Some(name.clone());
            K::share_name(&mut object, &name);
            changes.push((name.clone(), was, Some(object.clone())));
            (name, object)
        };
        let objects = objects.into_iter().map(&mut renew).collect();
        let gone = std::mem::replace(store, objects);
        changes.extend(gone.into_iter().map(|(name, was)| (name, Some(was), None)));
        for (name, was, is) in &changes {
            K::changed(&mut self.current, name, was.as_ref(), is.as_ref());
        }
        // Some may have been taken out before.
        self.judge_again_if(K::CONFIGURES);
        !changes.is_empty()
    }

    fn judge_again_if(&mut self, changed: bool) {
        if changed {
            self.judged = OnceLock::new();
        }
    }

    /// The configuration, judged.
    pub fn configuration(&self) -> Arc<Configuration> {
        let judge = || {
            let objects = Objects {
                pools: entries(&self.pools),
                l2_advertisements: entries(&self.l2_advertisements),
                bgp_advertisements: entries(&self.bgp_advertisements),
                peers: entries(&self.peers),
                bfd_profiles: entries(&self.bfd_profiles),
                communities: entries(&self.communities),
                nodes: by_name(&self.nodes, |node| node.labels.clone()),
                // Asked for only where a peer names one.
                password_secrets: BTreeMap::new(),
            };
            let verdict = validate::judge(&objects);
            Arc::new(Configuration { objects, verdict })
        };
        Arc::clone(self.judged.get_or_init(judge))
    }

    /// The objects that matter to the allocator and the planner.
    ///
    /// Services that want no address (any more) are there as long as they have something of
    /// a pool of ours; EndpointSlices, if their Service is.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut current = std::mem::take(&mut self.current);
        current.catch_up(self);
        self.current = current;
        self.current.snapshot()
    }
}

impl Configuration {
    /// All pools: what a pool that cannot be used has given stays its Services', and the
    /// allocator must know of it.
    fn pools(&self) -> OrdMap<String, snapshot::IpAddressPool> {
        let refused = |name: &str| !self.verdict.is_valid(validate::Kind::Pool, name);
        let pools = self.objects.pools.iter();
        pools.map(|(name, pool)| (name.clone(), pool.to_snapshot(refused(name)))).collect()
    }

    /// The advertisements that can be used.
    fn l2_advertisements(&self) -> OrdMap<String, snapshot::L2Advertisement> {
        let all = self.objects.l2_advertisements.iter();
        all.filter(|(name, _)| self.verdict.is_valid(validate::Kind::L2Advertisement, name))
            .map(|(name, entry)| {
                (name.clone(), snapshot::L2Advertisement::from(entry.spec.clone()))
            })
            .collect()
    }
}

/// The name as it is in memory already, or else what of it is: names of one namespace stand side
/// by side.
fn known<T>(store: &Store<T>, name: ObjectName) -> ObjectName {
    match store.range(..=&name).next_back() {
        Some((known, _)) if *known == name => known.clone(),
        before => name.sharing_namespace(before.map(|(known, _)| known)),
    }
}

fn entries<S: Clone>(store: &Store<Entry<S>>) -> Entries<S> {
    by_name(store, Clone::clone)
}

fn by_name<T, U>(store: &Store<T>, value: impl Fn(&T) -> U) -> BTreeMap<String, U> {
    store.iter().map(|(name, object)| (name.name.to_string(), value(object))).collect()
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

    fn share_name(service: &mut Self::Reduced, name: &ObjectName) {
        if let Some(service) = Arc::get_mut(service) {
            service.name = name.clone();
        }
    }

    fn changed(
        current: &mut Current,
        name: &ObjectName,
        _: Option<&Self::Reduced>,
        _: Option<&Self::Reduced>,
    ) {
        current.service_changed(name);
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

    fn share_name(slice: &mut Self::Reduced, name: &ObjectName) {
        if let Some(slice) = Arc::get_mut(slice) {
            slice.name = name.clone();
        }
    }

    fn changed(
        current: &mut Current,
        _: &ObjectName,
        was: Option<&Self::Reduced>,
        is: Option<&Self::Reduced>,
    ) {
        current.slice_changed(was, is);
    }
}

impl Kind for Node {
    type Reduced = snapshot::Node;
    const KIND: &'static str = "Node";
    const CONFIGURES: bool = true;

    fn reduce(self, _: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
        convert::node(self).map(Some)
    }

    fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
        &mut index.nodes
    }

    fn changed(
        current: &mut Current,
        name: &ObjectName,
        _: Option<&Self::Reduced>,
        is: Option<&Self::Reduced>,
    ) {
        current.node_changed(&name.name, is);
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

    fn changed(
        current: &mut Current,
        name: &ObjectName,
        _: Option<&Self::Reduced>,
        is: Option<&Self::Reduced>,
    ) {
        current.namespace_changed(&name.name, is);
    }
}

/// A kind of configuration, of which only the objects in our namespace count.
macro_rules! configuration {
    ($object:ty, $spec:ty, $store:ident) => {
        impl Kind for $object {
            type Reduced = Entry<$spec>;
            const KIND: &'static str = stringify!($object);
            const CONFIGURES: bool = true;

            fn reduce(self, scope: &Scope) -> Result<Option<Self::Reduced>, Invalid> {
                let name = object_name(&self.metadata)?;
                let conditions = self.status.map(|status| status.conditions).unwrap_or_default();
                let ours = *name.namespace == *scope.namespace;
                Ok(ours.then(|| Entry::new(self.metadata, self.spec, conditions)))
            }

            fn store(index: &mut Index) -> &mut Store<Self::Reduced> {
                &mut index.$store
            }
        }
    };
}

configuration!(IPAddressPool, IPAddressPoolSpec, pools);
configuration!(L2Advertisement, L2AdvertisementSpec, l2_advertisements);
configuration!(BGPAdvertisement, BGPAdvertisementSpec, bgp_advertisements);
configuration!(BGPPeer, BGPPeerSpec, peers);
configuration!(BFDProfile, BFDProfileSpec, bfd_profiles);
configuration!(Community, CommunitySpec, communities);

#[cfg(test)]
mod tests;
