//! Following one kind of object.
use super::{
    health::Health,
    view::{KINDS, OF_ALLOCATOR, View},
};
use crate::source::{
    convert::object_name,
    index::{Kind, Scope, Store},
};
use futures::{StreamExt, future};
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, pin::pin, time::Duration};
use tokio::time::sleep;
use tracing::debug;

/// A watch is opened anew after so many seconds: within them (and five more), a connection
/// that has silently died is noticed.
const REOPEN: u32 = 60;

/// The longest pause between two attempts. The kinds come back each for itself: with pauses of
/// half a minute, kube's longest, Services would be served by endpoints as old as that after
/// the API was away for half a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a kind that is not defined, and not needed, is looked for: by every agent of a cluster.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// kube's own pauses, growing and jittered, up to [`LONGEST_PAUSE`].
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// What following a kind needs.
pub(super) struct Follow<'a> {
    pub(super) view: &'a View,
    pub(super) health: &'a Health,
    pub(super) scope: &'a Scope,
    /// Which objects: a label that they must have.
    pub(super) label: Option<&'a str>,
}

impl Follow<'_> {
    /// Follows a kind for ever.
    pub(super) async fn run<K>(self, api: Api<DeserializeGuard<K>>)
    where
        K: Kind + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
    {
        let mut term = self.view.term();
        // It has been listed, or was found not to be defined.
        let mut known = false;
        loop {
            let now = *term.borrow_and_update();
            let config = watcher::Config {
                label_selector: self.label.map(str::to_owned),
                timeout: Some(REOPEN),
                ..watcher::Config::default()
            };
            let again = async {
                if !OF_ALLOCATOR.contains(&K::KIND) || term.changed().await.is_err() {
                    future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = again => debug!(kind = K::KIND, "reading again"),
                () = self.follow(now, &api, config, &mut known) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Follows it until that turns out to be impossible, because the kind is not defined: a cluster
    /// that has only the definitions of what it uses is served by these.
    async fn follow<K>(
        &self,
        term: u64,
        api: &Api<DeserializeGuard<K>>,
        config: watcher::Config,
        known: &mut bool,
    ) where
        K: Kind + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
    {
        let mut events =
            pin!(watcher(api.clone(), config).backoff(Pauses(DefaultBackoff::default())));
        let mut listing = Listing::<K>::default();
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(e) => {
                    debug!(kind = K::KIND, "watch: {e}");
                    let reason = self.health.of_watch(K::KIND, &e);
                    if KINDS.contains(&K::KIND) {
                        reason.inspect(|reason| self.health.failed(K::KIND, reason));
                        continue;
                    }
                    reason.inspect(|reason| self.health.failed_aside(K::KIND, reason));
                    if undefined(&e) {
                        if !std::mem::replace(known, true) {
                            self.view.replace::<K>(term, Store::new(), Vec::new());
                        }
                        return;
                    }
                    continue;
                }
            };
            match event {
                Event::Init => listing = Listing::default(),
                Event::InitApply(object) => {
                    let Ok(name) = object_name(object.meta()) else { continue };
                    match self.read(object) {
                        Ok(Some(reduced)) => {
                            listing.objects.insert(name, reduced);
                        }
                        Ok(None) => {}
                        Err(()) => listing.bad.push(name),
                    }
                }
                Event::InitDone => {
                    let Listing { objects, bad } = std::mem::take(&mut listing);
                    self.view.replace::<K>(term, objects, bad);
                    *known = true;
                    self.health.succeeded(K::KIND);
                }
                Event::Apply(object) => {
                    let Ok(name) = object_name(object.meta()) else { continue };
                    if let Ok(reduced) = self.read(object) {
                        self.view.set::<K>(name, reduced);
                    }
                    self.health.succeeded(K::KIND);
                }
                Event::Delete(object) => {
                    let Ok(name) = object_name(object.meta()) else { continue };
                    self.view.set::<K>(name, None);
                    self.health.succeeded(K::KIND);
                }
            }
        }
    }

    /// Reduces an object; what is wrong with it has been reported if that fails.
    fn read<K>(&self, object: DeserializeGuard<K>) -> Result<Option<K::Reduced>, ()>
    where
        K: Kind + Resource<DynamicType = ()>,
    {
        let (name, uid) = (object_name(object.meta()), object.meta().uid.clone());
        let reduced = match object.0 {
            Ok(object) => object.reduce(self.scope).map_err(|e| e.to_string()),
            Err(e) => Err(e.error),
        };
        reduced.map_err(|reason| {
            if let Ok(name) = name {
                self.view.bad::<K>(&name, uid, reason);
            }
        })
    }
}

/// Whether the API does not know the kind. (A namespace that is not there is no error of a list.)
fn undefined(error: &watcher::Error) -> bool {
    use kube::Error::Api;
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(Api(status)) | WatchStartFailed(Api(status)) if status.code == 404)
}

/// A list that is coming in.
struct Listing<K: Kind> {
    objects: Store<K::Reduced>,
    bad: Vec<crate::snapshot::ObjectName>,
}

impl<K: Kind> Default for Listing<K> {
    fn default() -> Self {
        Self { objects: Store::new(), bad: Vec::new() }
    }
}
