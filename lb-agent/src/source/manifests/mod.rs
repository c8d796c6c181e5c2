//! A folder of manifests in the place of the Kubernetes API.
//!
//! The folder's `*.yaml`, `*.yml` and `*.json` files are looked at ten times a second
//! (by time, size and inode, which works on every file system and for every editor) and
//! read when they have changed and then stood still for one look: editors empty a file
//! before they fill it. Hidden files and subfolders are left alone.
//!
//! Where a manifest names no `clusterIP`, see [`families`]. Addresses are kept in
//! `DIR/.herald/`, see [`addresses`].
pub mod addresses;
pub mod families;
pub mod folder;
pub mod parse;
mod scan;

use self::{
    addresses::{Addresses, Files, Given},
    folder::{Folder, message},
    scan::{Changes, Scan},
};
use super::{
    AssignError, Assignment, Source,
    index::{Index, Scope},
    notices::{self, Standing, Telling, Told},
};
use crate::{
    bgp::{self, speaker::Passwords},
    ipam::PoolUsage,
    plan::{Announcing, Notice},
    snapshot::{ObjectName, Service, Snapshot},
};
use imbl::OrdMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};
use tracing::{debug, error, info, warn};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the manifests in {}: {source}; create the folder or correct --manifests", folder.display())]
pub struct FolderError {
    folder: PathBuf,
    source: io::Error,
}

/// A folder of manifests as a source.
///
/// It is watched until the last handle is dropped.
#[derive(Debug)]
pub struct Manifests {
    state: Arc<Mutex<State>>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    bgp: watch::Receiver<Arc<bgp::Configuration>>,
    may_allocate: watch::Receiver<bool>,
    told: Mutex<Told>,
    waiting: Arc<Mutex<Waiting>>,
    passwords: watch::Sender<Arc<Passwords>>,
}

impl Manifests {
    /// Reads the folder once, and watches it from then on.
    ///
    /// # Errors
    /// Where the folder cannot be read. What is wrong with single files is only logged.
    pub fn start(folder: &Path, scope: Scope) -> Result<Self, FolderError> {
        let error = |source| FolderError { folder: folder.to_owned(), source };
        let (snapshots, snapshots_out) = watch::channel(None);
        let (bgp, bgp_out) = watch::channel(Arc::default());
        let (may_allocate, may_allocate_out) = watch::channel(false);
        let mut state = State {
            scan: Scan::new(folder),
            folder: Folder::default(),
            scope: Scope { addresses_apart: true, ..scope },
            files: Files::new(folder),
            addresses: Addresses::default(),
            addresses_text: None,
            dirty: true,
            keeps_addresses: true,
            said: BTreeSet::new(),
            unusable: Standing::default(),
            troubles: BTreeSet::new(),
            snapshots,
            bgp,
            may_allocate,
        };
        state.scan.look().map_err(error)?;
        let changes = state.scan.look().map_err(error)?;
        state.take(changes);
        state.follow_addresses();
        state.publish();
        let state = Arc::new(Mutex::new(state));
        let watched = Arc::downgrade(&state);
        thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || watch_folder(&watched))
            .map_err(error)?;
        Ok(Self {
            state,
            snapshots: snapshots_out,
            bgp: bgp_out,
            may_allocate: may_allocate_out,
            told: Mutex::default(),
            waiting: Arc::default(),
            passwords: watch::Sender::default(),
        })
    }
}

/// A thread of its own: the file system may block, and the runtime must not.
fn watch_folder(state: &Weak<Mutex<State>>) {
    loop {
        thread::sleep(LOOK);
        let Some(state) = state.upgrade() else { return };
        lock(&state).look();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic has left behind is at worst an older view of the files.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct State {
    scan: Scan,
    folder: Folder,
    scope: Scope,
    files: Files,
    addresses: Addresses,
    /// The text that `addresses` was read from.
    addresses_text: Option<String>,
    /// Something has changed since the last snapshot.
    dirty: bool,
    /// Addresses can be written down.
    keeps_addresses: bool,
    /// What is said about the files as a whole, so that it is said once.
    said: BTreeSet<String>,
    /// What is said about configuration that cannot be used.
    unusable: Standing,
    /// What hinders the looking itself, so that it is said once.
    troubles: BTreeSet<String>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    bgp: watch::Sender<Arc<bgp::Configuration>>,
    may_allocate: watch::Sender<bool>,
}

impl State {
    fn look(&mut self) {
        match self.scan.look() {
            Ok(changes) => {
                self.recovered("folder");
                self.take(changes);
            }
            Err(e) => {
                let folder = self.scan.folder().display();
                let text = format!("cannot look into {folder}: {e}; what was read stays in force");
                self.trouble("folder", &text);
            }
        }
        self.follow_addresses();
        self.publish();
    }

    /// Reads what has changed.
    fn take(&mut self, changes: Changes) {
        self.dirty |= !changes.gone.is_empty() || !changes.changed.is_empty();
        for name in changes.gone {
            info!("{name}: gone, and its objects with it");
            self.folder.remove(&name);
        }
        for (name, content) in changes.changed {
            let parsed = match content {
                Ok(content) => parse::parse(&content, &self.scope),
                Err(e) => {
                    error!("{name}: cannot be read: {e}; its last good version stays in force");
                    self.folder.unreadable(&name);
                    continue;
                }
            };
            for fault in &parsed.ignored {
                debug!("{}", message(&name, fault));
            }
            for fault in &parsed.remarks {
                warn!("{}", message(&name, fault));
            }
            for fault in &parsed.faults {
                error!("{}", message(&name, fault));
            }
            if !parsed.faults.is_empty() {
                error!(
                    "{name}: not taken over; the objects of its last good version stay in force"
                );
            }
            self.folder.set(&name, parsed);
        }
    }

    /// Becomes the allocator if nobody else is, and only then reads the addresses: who
    /// has the lock reads what its last holder has written.
    fn follow_addresses(&mut self) {
        if *self.may_allocate.borrow() {
            return;
        }
        let locked = self.files.try_lock().unwrap_or_else(|e| {
            let path = self.files.path();
            let text = format!(
                "cannot keep addresses in {}: {e}; they are forgotten when this agent stops",
                path.display()
            );
            self.trouble("lock", &text);
            self.keeps_addresses = false;
            true
        });
        match self.read_addresses() {
            Ok(()) => {
                self.recovered("addresses");
                if locked {
                    self.publish();
                    self.may_allocate.send_replace(true);
                }
            }
            Err(e) => {
                let path = self.files.path();
                let text = format!(
                    "cannot read {}: {e}; nothing is allocated until it is corrected or removed",
                    path.display()
                );
                self.trouble("addresses", &text);
            }
        }
    }

    fn read_addresses(&mut self) -> io::Result<()> {
        let text = self.files.read()?;
        if text != self.addresses_text {
            self.addresses = match &text {
                Some(text) => Addresses::parse(text).map_err(io::Error::other)?,
                None => Addresses::default(),
            };
            self.addresses_text = text;
            self.dirty = true;
        }
        Ok(())
    }

    fn trouble(&mut self, what: &str, text: &str) {
        let text = format!("{what}\0{text}");
        if !self.troubles.contains(&text) {
            self.recovered(what);
            error!("{}", &text[what.len() + 1..]);
            self.troubles.insert(text);
        }
    }

    fn recovered(&mut self, what: &str) {
        self.troubles.retain(|t| !t.strip_prefix(what).is_some_and(|t| t.starts_with('\0')));
    }

    fn index(&mut self) -> Index {
        let (mut index, doubles) = self.folder.index();
        let doubles = BTreeSet::from_iter(doubles);
        for double in doubles.difference(&self.said) {
            error!("{double}");
        }
        self.said = doubles;
        self.addresses.apply(&mut index);
        index
    }

    fn publish(&mut self) {
        if !mem::take(&mut self.dirty) {
            return;
        }
        let mut index = self.index();
        let configuration = index.configuration();
        let verdict = &configuration.verdict;
        bgp::configuration::publish(&configuration.objects, verdict, &self.bgp);
        let unusable = verdict.iter().filter_map(|(kind, name, faults)| {
            notices::of_faults(kind, &self.scope.namespace, name, faults)
        });
        let unusable = unusable.map(Arc::new).collect();
        self.unusable.update(unusable).iter().for_each(|notice| notices::log(notice));
        let snapshot = index.snapshot();
        self.snapshots.send_if_modified(|last| {
            let changed = last.as_deref() != Some(&snapshot);
            if changed {
                *last = Some(Arc::new(snapshot));
            }
            changed
        });
    }

    /// Writes down what was decided together, in one file and one snapshot.
    fn assign(&mut self, assignments: &[Assignment]) -> Vec<Result<(), AssignError>> {
        if !*self.may_allocate.borrow() {
            return assignments.iter().map(|_| Err(AssignError::NotAllocator)).collect();
        }
        let index = self.index();
        let mut new = self.addresses.clone();
        if !self.folder.is_faulty() {
            new.retain(&index);
        }
        let mut results = Vec::new();
        for Assignment { service, resource_version: _, addresses, pool } in assignments {
            let holds = index.services.get(service).is_some_and(|s| may_hold(s, addresses));
            if holds {
                let given = Given { addresses: addresses.clone(), pool: pool.clone() };
                new.set(service.clone(), given);
            }
            results.push(if holds { Ok(()) } else { Err(AssignError::Conflict(service.clone())) });
        }
        if results.iter().all(Result::is_err) {
            return results;
        }
        if self.keeps_addresses {
            let text = new.text().map_err(io::Error::other);
            if let Err(error) = text.and_then(|text| self.files.write(&text)) {
                let reason = format!("cannot write {}: {error}", self.files.path().display());
                let failed = |(result, assignment): (Result<(), AssignError>, &Assignment)| {
                    let service = assignment.service.clone();
                    result.and(Err(AssignError::Failed { service, reason: reason.clone() }))
                };
                return results.into_iter().zip(assignments).map(failed).collect();
            }
        }
        self.addresses = new;
        self.dirty = true;
        self.publish();
        results
    }
}

/// What is to be written down, and who waits for it: whoever comes to it first does it for all.
type Waiting = Vec<(Assignment, oneshot::Sender<Result<(), AssignError>>)>;

fn assign_waiting(state: &Mutex<State>, waiting: &Mutex<Waiting>) {
    let mut state = lock(state);
    let (assignments, wait): (Vec<_>, Vec<_>) = mem::take(&mut *lock(waiting)).into_iter().unzip();
    if assignments.is_empty() {
        return;
    }
    for (result, wait) in state.assign(&assignments).into_iter().zip(wait) {
        // Whoever does not wait any more sees it in the next snapshot.
        let _ = wait.send(result);
    }
}

/// Whether the Service is still one that may have these addresses.
fn may_hold(service: &Service, addresses: &[std::net::IpAddr]) -> bool {
    service.wants_address || addresses.is_empty()
}

impl Source for Manifests {
    fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }

    fn in_sync(&self) -> bool {
        // The folder is there, or what was read last is all there is.
        true
    }

    fn may_allocate(&self) -> watch::Receiver<bool> {
        self.may_allocate.clone()
    }

    async fn assign(&self, assignment: &Assignment) -> Result<(), AssignError> {
        let (done, result) = oneshot::channel();
        lock(&self.waiting).push((assignment.clone(), done));
        let (state, waiting) = (Arc::clone(&self.state), Arc::clone(&self.waiting));
        let written = tokio::task::spawn_blocking(move || assign_waiting(&state, &waiting)).await;
        let failed = |reason: String| {
            Err(AssignError::Failed { service: assignment.service.clone(), reason })
        };
        if let Err(error) = written {
            return failed(error.to_string());
        }
        // Another may be at it.
        result.await.unwrap_or_else(|error| failed(error.to_string()))
    }

    fn bgp(&self) -> watch::Receiver<Arc<bgp::Configuration>> {
        self.bgp.clone()
    }

    /// There are no Secrets in a folder: passwords stand in BGPPeers themselves.
    fn passwords(&self) -> watch::Receiver<Arc<Passwords>> {
        self.passwords.subscribe()
    }

    /// A manifest has no status to show it in; the metrics do.
    fn report_usage(&self, _: &BTreeMap<String, PoolUsage>) {}

    /// Neither.
    fn report_announced(&self, _: &OrdMap<ObjectName, Arc<Announcing>>) {}

    /// Nor this.
    fn report_routed(&self, _: &OrdMap<ObjectName, Arc<BTreeSet<String>>>) {}

    async fn forget_routed(&self) {}

    async fn notify(&self, notice: &Notice) {
        let telling = lock(&self.told).judge(Instant::now(), notice);
        if telling != Telling::Nothing {
            // There is no API that has Events.
            notices::log(notice);
        }
    }
}

#[cfg(test)]
mod tests;
