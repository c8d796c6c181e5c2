//! The last snapshot in a file, for an agent that starts while the API server is away.
//!
//! What it says was so when the API server was last heard of. That is what the kernel goes by, too,
//! which an agent before this one has left: with it the new one knows the other nodes and is
//! known to them, announces what this node announced, and follows who lives. It is read for that
//! alone: as soon as the API server has been read, that counts, and addresses are given by what
//! was read from there only.
//!
//! The file is JSON of a layout of its own [version](VERSION): one that an agent of another version has
//! written is left alone, and overwritten later.
use super::view::View;
use crate::snapshot::{
    EndpointSlice, IpAddressPool, L2Advertisement, Labels, Node, Service, Snapshot,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// The layout of the file. To be raised with every change of what a [`Snapshot`] holds.
pub const VERSION: u32 = 1;

const FILE: &str = "snapshot.json";

/// How long an agent that starts waits for the API server.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two writes. What changes in the last moments before an agent ends is lost, as it would be had
/// the API server been away a moment earlier.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    nodes: BTreeMap<String, Node>,
    namespaces: BTreeMap<String, Labels>,
    pools: BTreeMap<String, IpAddressPool>,
    l2_advertisements: BTreeMap<String, L2Advertisement>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl From<&Snapshot> for Document {
    fn from(snapshot: &Snapshot) -> Self {
        let Snapshot { services, slices, nodes, namespaces, pools, l2_advertisements } = snapshot;
        Self {
            version: VERSION,
            services: services.values().cloned().collect(),
            slices: slices.values().flat_map(|slices| slices.iter().cloned()).collect(),
            nodes: nodes.clone().into_iter().collect(),
            namespaces: namespaces.clone().into_iter().collect(),
            pools: pools.clone().into_iter().collect(),
            l2_advertisements: l2_advertisements.clone().into_iter().collect(),
        }
    }
}

impl From<Document> for Snapshot {
    fn from(document: Document) -> Self {
        let mut snapshot = Self {
            services: document.services.into_iter().map(|s| (s.name.clone(), s)).collect(),
            nodes: document.nodes.into_iter().collect(),
            namespaces: document.namespaces.into_iter().collect(),
            pools: document.pools.into_iter().collect(),
            l2_advertisements: document.l2_advertisements.into_iter().collect(),
            ..Self::default()
        };
        document.slices.into_iter().for_each(|slice| snapshot.add_slice(slice));
        snapshot
    }
}

/// Reads a snapshot, and when it was written. None if there is none, or of another version.
///
/// # Errors
///
/// The file cannot be read, or is not what was written.
pub fn read(directory: &Path) -> io::Result<Option<(Snapshot, SystemTime)>> {
    let Some(document) = recall::<Document>(directory, FILE, VERSION)? else { return Ok(None) };
    let written = fs::metadata(directory.join(FILE))?.modified()?;
    Ok(Some((document.into(), written)))
}

/// Reads a file of the folder; none if there is none, or of another version than its layout has now.
pub(super) fn recall<T: DeserializeOwned>(
    directory: &Path,
    name: &str,
    layout: u32,
) -> io::Result<Option<T>> {
    let text = match fs::read(directory.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let Version { version } = serde_json::from_slice(&text)?;
    Ok(if version == layout { Some(serde_json::from_slice(&text)?) } else { None })
}

/// Writes a snapshot, whole or not at all. Only the owner of the process may read it.
///
/// # Errors
///
/// The folder cannot be made, or the file cannot be written there.
pub fn write(directory: &Path, snapshot: &Snapshot) -> io::Result<()> {
    replace(directory, FILE, |file| {
        serde_json::to_writer(file, &Document::from(snapshot)).map_err(Into::into)
    })
}

/// Makes a file of the folder anew, whole or not at all.
pub(super) fn replace(
    directory: &Path,
    name: &str,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let unfinished = directory.join(format!("{name}.new"));
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut file = BufWriter::new(file);
    fill(&mut file)?;
    file.flush()?;
    fs::rename(unfinished, directory.join(name))
}

/// Goes on with what was last seen if the API server gives no answer, and keeps what is seen.
pub(super) async fn keep(view: Arc<View>, directory: PathBuf) {
    let mut snapshots = view.snapshots();
    if timeout(PATIENCE, snapshots.wait_for(Option::is_some)).await.is_err() {
        let from = directory.clone();
        match spawn_blocking(move || read(&from)).await {
            Ok(Ok(Some((snapshot, written)))) => {
                if view.begin_with(snapshot) {
                    let age = written.elapsed().unwrap_or_default().as_secs();
                    warn!(
                        "the Kubernetes API gives no answer: going on by what was seen {age} s ago"
                    );
                }
            }
            Ok(Ok(None)) => debug!("nothing was seen of the API before"),
            Ok(Err(error)) => warn!("what was last seen cannot be read: {error}"),
            Err(_) => {}
        }
        // What is seen first now may be what was just read.
        snapshots.mark_unchanged();
    } else {
        snapshots.mark_changed();
    }
    let mut said = false;
    while snapshots.changed().await.is_ok() {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
        let to = directory.clone();
        let written = spawn_blocking(move || write(&to, &snapshot)).await;
        if let Ok(Err(error)) = written
            && !std::mem::replace(&mut said, true)
        {
            warn!(
                "{}: what is seen of the API cannot be kept ({error}): an agent that starts while the \
                 API server is away has nothing to go by. Name a folder that can be written with \
                 --state-dir",
                directory.display()
            );
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Endpoint, Ingress, ObjectName, ServicePort};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let service = Service {
            name: ObjectName::new("default", "web"),
            wants_address: true,
            labels: [("app".to_owned(), "web".to_owned())].into_iter().collect(),
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ingress: vec![Ingress { ip: Some("192.0.2.1".into()), hostname: None }],
            ingress_as_written: Some([serde_json::json!({"ip": "192.0.2.1"})].into()),
            ..Service::default()
        };
        snapshot.services.insert(service.name.clone(), Arc::new(service));
        for n in 0..3u8 {
            snapshot.add_slice(Arc::new(EndpointSlice {
                name: ObjectName::new("default", format!("web-{n}")),
                service: "web".into(),
                endpoints: vec![Endpoint {
                    address: [10, 0, 0, n].into(),
                    node: Some("n1".into()),
                    ready: true,
                    serving: true,
                    terminating: false,
                }],
                ..EndpointSlice::default()
            }));
        }
        let node = Node {
            internal_ips: vec![[10, 0, 0, 1].into()],
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            ..Node::default()
        };
        snapshot.nodes.insert("n1".into(), node);
        snapshot.namespaces.insert("default".into(), Labels::default());
        snapshot.pools.insert("wide".into(), crate::testing::pool(&["192.0.2.0/24"]));
        snapshot.l2_advertisements.insert("all".into(), L2Advertisement::default());
        snapshot
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("below");
        assert!(read(&directory).unwrap().is_none());
        write(&directory, &snapshot()).unwrap();
        assert!(read(&directory).unwrap().unwrap().0 == snapshot());
        let file = directory.join(FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert!(read(&directory).is_err(), "half of it");
        fs::write(&file, text.replacen("\"version\":1", "\"version\":0", 1)).unwrap();
        assert!(read(&directory).unwrap().is_none(), "another version's");
        write(&directory, &Snapshot::default()).unwrap();
        assert!(read(&directory).unwrap().unwrap().0 == Snapshot::default());
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
