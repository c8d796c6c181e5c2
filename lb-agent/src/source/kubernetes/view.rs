//! What the watches have seen so far, and when it is published.
use super::{
    events::{Events, Writing},
    pace::Pace,
};
use crate::{
    plan::Notice,
    snapshot::{self, ObjectName, Snapshot},
    source::index::{Configuration, Index, Kind, Store},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep_until,
};
use tracing::info;

/// The kinds that must have been listed for a view to be complete.
pub(super) const KINDS: [&str; 6] =
    ["Service", "EndpointSlice", "Node", "Namespace", "IPAddressPool", "L2Advertisement"];

/// The kinds that must have been listed before the configuration is judged by them all.
const CONFIGURATION: [&str; 7] = [
    "IPAddressPool",
    "L2Advertisement",
    "BGPAdvertisement",
    "BGPPeer",
    "BFDProfile",
    "Community",
    "Node",
];

/// The kinds that a new allocator lists anew before it decides anything.
pub(super) const OF_ALLOCATOR: [&str; 3] = ["Service", "Namespace", "IPAddressPool"];

/// Shared by the watches, the publisher and the writers.
#[derive(Debug)]
pub(super) struct View {
    inner: Mutex<Inner>,
    wake: Notify,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    configuration: watch::Sender<Option<Arc<Configuration>>>,
    may_allocate: watch::Sender<bool>,
    /// Counts the terms as allocator: each calls for a new list.
    term: watch::Sender<u64>,
    events: Events,
}

#[derive(Debug, Default)]
struct Inner {
    index: Index,
    /// In which term each kind was listed last.
    listed: BTreeMap<&'static str, u64>,
    pace: Pace,
    /// The term, and until when it lasts unless it is prolonged.
    leading: Option<(u64, Instant)>,
    /// Objects that could not be read, and why.
    bad: BTreeMap<(&'static str, ObjectName), String>,
}

impl View {
    pub(super) fn new(events: Events) -> Self {
        Self {
            inner: Mutex::default(),
            wake: Notify::new(),
            snapshots: watch::Sender::new(None),
            configuration: watch::Sender::new(None),
            may_allocate: watch::Sender::new(false),
            term: watch::Sender::new(0),
            events,
        }
    }

    pub(super) fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.subscribe()
    }

    /// Begins with a snapshot of before, if none has been made yet. The first one that is made takes its
    /// place; nothing is allocated until then.
    pub(super) fn begin_with(&self, snapshot: Snapshot) -> bool {
        self.snapshots.send_if_modified(|last| {
            let first = last.is_none();
            if first {
                *last = Some(Arc::new(snapshot));
            }
            first
        })
    }

    /// The configuration, judged, once every kind of it is known.
    pub(super) fn configuration(&self) -> watch::Receiver<Option<Arc<Configuration>>> {
        self.configuration.subscribe()
    }

    pub(super) fn may_allocate(&self) -> watch::Receiver<bool> {
        self.may_allocate.subscribe()
    }

    pub(super) fn term(&self) -> watch::Receiver<u64> {
        self.term.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is whole before anything could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, inner: &mut Inner) {
        inner.pace.changed(Instant::now());
        self.wake.notify_one();
    }

    /// An object is thus now, or gone.
    pub(super) fn set<K: Kind>(&self, name: ObjectName, object: Option<K::Reduced>) {
        let mut inner = self.lock();
        inner.bad.remove(&(K::KIND, name.clone()));
        if inner.index.set::<K>(name, object) {
            self.changed(&mut inner);
        }
    }

    /// These are all objects of a kind, as listed in a term. Those that could not be read
    /// keep their last good version.
    pub(super) fn replace<K: Kind>(
        &self,
        term: u64,
        mut objects: Store<K::Reduced>,
        bad: Vec<ObjectName>,
    ) {
        let mut inner = self.lock();
        inner.bad.retain(|(kind, name), _| *kind != K::KIND || bad.contains(name));
        let old = K::store(&mut inner.index);
        for name in bad {
            if let Some(object) = old.remove(&name) {
                objects.insert(name, object);
            }
        }
        inner.index.replace::<K>(objects);
        inner.listed.insert(K::KIND, term);
        self.changed(&mut inner);
    }

    /// An object cannot be read.
    pub(super) fn bad<K: Kind>(&self, name: &ObjectName, uid: Option<String>, reason: String) {
        let key = (K::KIND, name.clone());
        if self.lock().bad.get(&key) == Some(&reason) {
            return;
        }
        let message = format!(
            "cannot be used: {reason}. Correct it; until then its last good version stays in \
             force, if this agent has seen one."
        );
        let notice = Notice {
            kind: K::KIND,
            object: name.clone(),
            warning: true,
            reason: "ConfigurationError",
            message: message.into(),
        };
        self.events.send(notice, uid);
        self.lock().bad.insert(key, reason);
    }

    /// A Service as last seen.
    pub(super) fn service(&self, name: &ObjectName) -> Option<Arc<snapshot::Service>> {
        self.lock().index.services.get(name).cloned()
    }

    /// Notes that an address is being written: Events wait meanwhile.
    pub(super) fn writing(&self) -> Writing {
        self.events.writing()
    }

    /// Passes a notice on, with the identity of the object that it is about.
    pub(super) fn notify(&self, notice: Notice) {
        let inner = self.lock();
        let (name, index) = (&notice.object, &inner.index);
        let uid = match notice.kind {
            "Service" => index.services.get(name).map(|s| s.uid.clone()),
            "IPAddressPool" => index.pools.get(name).map(|e| e.uid.clone()),
            "L2Advertisement" => index.l2_advertisements.get(name).map(|e| e.uid.clone()),
            "BGPAdvertisement" => index.bgp_advertisements.get(name).map(|e| e.uid.clone()),
            "BGPPeer" => index.peers.get(name).map(|e| e.uid.clone()),
            "BFDProfile" => index.bfd_profiles.get(name).map(|e| e.uid.clone()),
            "Community" => index.communities.get(name).map(|e| e.uid.clone()),
            _ => None,
        };
        drop(inner);
        self.events.send(notice, uid);
    }

    /// The allocator's Lease is ours until then, or not at all.
    pub(super) fn leading(&self, until: Option<Instant>) {
        let mut inner = self.lock();
        match (until, inner.leading) {
            (Some(until), Some((term, _))) => inner.leading = Some((term, until)),
            (Some(until), None) => {
                let term = *self.term.borrow() + 1;
                inner.leading = Some((term, until));
                self.term.send_replace(term);
                info!("this agent is the allocator now, and reads again what there is");
            }
            (None, Some(_)) => {
                inner.leading = None;
                self.may_allocate.send_replace(false);
                info!("this agent is not the allocator any more");
            }
            (None, None) => {}
        }
    }

    /// Until when this agent may allocate unless the Lease is renewed.
    pub(super) fn may_allocate_until(&self, now: Instant) -> Option<Instant> {
        if !*self.may_allocate.borrow() {
            return None;
        }
        self.lock().leading.map(|(_, until)| until).filter(|until| now < *until)
    }

    /// Publishes snapshots for ever.
    pub(super) async fn publish(&self) {
        loop {
            let due = self.lock().pace.due();
            let Some(due) = due else {
                self.wake.notified().await;
                continue;
            };
            sleep_until(due.into()).await;
            let start = Instant::now();
            if self.lock().pace.due().is_some_and(|due| due <= start) {
                self.publish_now(start);
            }
        }
    }

    fn publish_now(&self, start: Instant) {
        let mut inner = self.lock();
        if CONFIGURATION.iter().all(|kind| inner.listed.contains_key(kind)) {
            let configuration = inner.index.configuration();
            self.configuration.send_if_modified(|last| {
                let same = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &configuration));
                if !same {
                    *last = Some(configuration);
                }
                !same
            });
        }
        if KINDS.iter().all(|kind| inner.listed.contains_key(kind)) {
            let snapshot = inner.index.snapshot();
            self.snapshots.send_if_modified(|last| {
                let changed = last.as_deref() != Some(&snapshot);
                if changed {
                    *last = Some(Arc::new(snapshot));
                }
                changed
            });
            let read_in = OF_ALLOCATOR.iter().filter_map(|kind| inner.listed.get(kind)).min();
            let may = inner.leading.is_some_and(|(term, _)| read_in.is_some_and(|t| *t >= term));
            self.may_allocate.send_if_modified(|last| std::mem::replace(last, may) != may);
        }
        inner.pace.published(start, Instant::now());
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
