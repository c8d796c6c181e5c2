//! What was last asked for about BGP in a file, passwords included, for an agent that starts while the API
//! server is away: else its sessions would not come back, and routers would drop the routes that they
//! keep over a restart.
//!
//! Passwords are kept as well, since a session with one is no use without. The file is of the folder
//! that has the agents' keys, and only the owner of the process may read it; whoever can become that can
//! read the passwords of a running agent.
use super::last_seen::{PATIENCE, PAUSE, recall, replace};
use crate::{
    api::{BFDProfileSpec, BGPAdvertisementSpec, BGPPeerSpec, CommunitySpec},
    bgp::{self, speaker::Passwords},
    source::index::Configuration,
    validate::{Entries, Entry, Kind, Objects, Verdict},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

const FILE: &str = "bgp.json";
/// The layout of the file. To be raised with every change that a field of MetalLB's kinds is not.
const VERSION: u32 = 1;

/// What of the objects is valid: it was judged by what was there then.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Document {
    version: u32,
    advertisements: BTreeMap<String, Kept<BGPAdvertisementSpec>>,
    peers: BTreeMap<String, Kept<BGPPeerSpec>>,
    bfd_profiles: BTreeMap<String, Kept<BFDProfileSpec>>,
    communities: BTreeMap<String, Kept<CommunitySpec>>,
    /// By the names of Secrets.
    passwords: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept<S> {
    annotations: BTreeMap<String, String>,
    spec: S,
}

impl Document {
    fn new(configuration: &Configuration, passwords: &Passwords) -> Self {
        let Configuration { objects, verdict } = configuration;
        Self {
            version: VERSION,
            advertisements: valid(&objects.bgp_advertisements, Kind::BgpAdvertisement, verdict),
            peers: valid(&objects.peers, Kind::Peer, verdict),
            bfd_profiles: valid(&objects.bfd_profiles, Kind::BfdProfile, verdict),
            communities: valid(&objects.communities, Kind::Community, verdict),
            passwords: passwords.0.clone(),
        }
    }

    fn into_parts(self) -> (Objects, Passwords) {
        let objects = Objects {
            bgp_advertisements: entries(self.advertisements),
            peers: entries(self.peers),
            bfd_profiles: entries(self.bfd_profiles),
            communities: entries(self.communities),
            ..Objects::default()
        };
        (objects, Passwords(self.passwords))
    }
}

fn valid<S: Clone>(all: &Entries<S>, kind: Kind, verdict: &Verdict) -> BTreeMap<String, Kept<S>> {
    let valid = all.iter().filter(|(name, _)| verdict.is_valid(kind, name));
    let keep = |entry: &Entry<S>| Kept {
        annotations: entry.annotations.clone(),
        spec: entry.spec.clone(),
    };
    valid.map(|(name, entry)| (name.clone(), keep(entry))).collect()
}

fn entries<S>(kept: BTreeMap<String, Kept<S>>) -> Entries<S> {
    let entry = |Kept { annotations, spec }| {
        let meta = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        Entry::new(meta, spec, Vec::new())
    };
    kept.into_iter().map(|(name, kept)| (name, entry(kept))).collect()
}

fn read(directory: &Path) -> io::Result<Option<Document>> {
    recall(directory, FILE, VERSION)
}

fn write(directory: &Path, document: &Document) -> io::Result<()> {
    replace(directory, FILE, |file| serde_json::to_writer(file, document).map_err(Into::into))
}

/// What is kept, and where it is passed on.
pub(super) struct Keeper {
    pub(super) configuration: watch::Receiver<Option<Arc<Configuration>>>,
    pub(super) bgp: watch::Sender<Arc<bgp::Configuration>>,
    pub(super) passwords: watch::Sender<Arc<Passwords>>,
    pub(super) directory: PathBuf,
}

impl Keeper {
    /// Goes on with what was last asked for if the API server gives no answer, and keeps what is asked
    /// for.
    pub(super) async fn run(mut self) {
        let seen = self.configuration.wait_for(Option::is_some);
        if timeout(PATIENCE, seen).await.is_err() {
            self.go_on().await;
        }
        let mut passwords = self.passwords.subscribe();
        let mut written = None;
        let mut said = false;
        loop {
            let now = self.configuration.borrow_and_update().clone();
            let secrets = passwords.borrow_and_update().clone();
            if let Some(now) = now {
                let document = Document::new(&now, &secrets);
                if written.as_ref() != Some(&document) {
                    let to = self.directory.clone();
                    let writing = spawn_blocking(move || (write(&to, &document), document)).await;
                    let Ok((result, document)) = writing else { return };
                    match result {
                        Ok(()) => written = Some(document),
                        Err(error) if !std::mem::replace(&mut said, true) => warn!(
                            "{}: what is asked for about BGP cannot be kept ({error}): an agent that starts while the API server is away has no sessions. Name a folder that can be written with --state-dir",
                            self.directory.display()
                        ),
                        Err(_) => {}
                    }
                    sleep(PAUSE).await;
                }
            }
            tokio::select! {
                changed = self.configuration.changed() => if changed.is_err() { return },
                changed = passwords.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn go_on(&self) {
        let from = self.directory.clone();
        match spawn_blocking(move || read(&from)).await {
            Ok(Ok(Some(document))) => {
                // It may have answered just now.
                if self.configuration.borrow().is_some() {
                    return;
                }
                let (objects, passwords) = document.into_parts();
                warn!(
                    peers = objects.peers.len(),
                    "the Kubernetes API gives no answer: BGP goes on by what was last asked for"
                );
                self.passwords.send_if_modified(|known| {
                    let none = known.0.is_empty();
                    if none {
                        *known = Arc::new(passwords);
                    }
                    none
                });
                bgp::configuration::publish(&objects, &Verdict::default(), &self.bgp);
            }
            Ok(Ok(None)) => debug!("nothing was asked for about BGP before"),
            Ok(Err(error)) => warn!("what was last asked for about BGP cannot be read: {error}"),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::{judge, tests::objects};
    use std::fs;

    #[test]
    fn what_is_valid_comes_back_with_its_passwords() {
        let objects = objects(
            "
---
kind: BGPPeer
metadata: {name: good, annotations: {herald-lb.io/ttl-security: required, other: x}}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.0.0.254, bfdProfile: fast, passwordSecret: {name: s}}
---
kind: BGPPeer
metadata: {name: bad}
spec: {myASN: 0, peerASN: 64513, peerAddress: 10.0.0.253}
---
kind: BFDProfile
metadata: {name: fast}
spec: {receiveInterval: 50}
---
kind: Community
metadata: {name: names}
spec: {communities: [{name: web, value: '64512:80'}]}
---
kind: BGPAdvertisement
metadata: {name: all}
spec: {communities: [web]}
",
        );
        let verdict = judge(&objects);
        let expected = bgp::Configuration::new(&objects, &verdict);
        assert_eq!(expected.peers.len(), 1);
        let configuration = Configuration { objects, verdict };
        let passwords = Passwords([("s".to_owned(), "secret".to_owned())].into());
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).unwrap().is_none());
        write(directory.path(), &Document::new(&configuration, &passwords)).unwrap();
        let (objects, kept) = read(directory.path()).unwrap().unwrap().into_parts();
        assert!(bgp::Configuration::new(&objects, &Verdict::default()) == expected);
        assert!(kept == passwords);
        let file = directory.path().join(FILE);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replacen("\"version\":1", "\"version\":0", 1)).unwrap();
        assert!(read(directory.path()).unwrap().is_none(), "another version's");
    }
}
