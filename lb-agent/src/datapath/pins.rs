//! The pin directory: `DIR/v<schema>/maps/<NAME>` and `DIR/v<schema>/links/<kind>-<ifindex>`.
//!
//! Links carry the interface's index, not its name, since bpffs refuses dots
//! (`eth0.100`) and since an interface that was made anew has another index.
use super::{Error, IngressMode, MapLayout};
use crate::system;
use aya::maps::{Map, MapData, MapError, MapInfo};
use lb_common::maps::SCHEMA_VERSION;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// What a link attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// The egress program, TCX.
    Egress,
    /// The ingress program, native XDP.
    Ingress,
    /// The ingress program, generic XDP.
    IngressGeneric,
    /// The ingress program, TCX.
    IngressTcx,
    /// The program that passes everything.
    Pass,
}

impl From<IngressMode> for LinkKind {
    fn from(mode: IngressMode) -> Self {
        match mode {
            IngressMode::Native => Self::Ingress,
            IngressMode::Generic => Self::IngressGeneric,
            IngressMode::Tcx => Self::IngressTcx,
        }
    }
}

impl LinkKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Egress, Self::Ingress, Self::IngressGeneric, Self::IngressTcx, Self::Pass];

    /// As it stands in the pin's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::IngressGeneric => "ingress_generic",
            Self::IngressTcx => "ingress_tcx",
            Self::Pass => "pass",
        }
    }
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinnedLink {
    /// The interface it was attached to.
    pub ifindex: u32,
    /// What it attaches.
    pub kind: LinkKind,
    /// The pin.
    pub path: PathBuf,
}

/// The pin directory of one agent.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
}

fn pin_error(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::Pin { path, error }
}

/// Ignores that something is absent already.
fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Pins {
    /// Names the directory; touches nothing.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// As given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn version(&self) -> PathBuf {
        self.dir.join(format!("v{SCHEMA_VERSION}"))
    }

    /// The directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The directory of the links.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// The pin of a link.
    pub fn link(&self, kind: LinkKind, ifindex: u32) -> PathBuf {
        self.links().join(format!("{}-{ifindex}", kind.name()))
    }

    /// Makes the directories.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn create(&self) -> Result<(), Error> {
        for dir in [self.maps(), self.links()] {
            fs::create_dir_all(&dir).map_err(pin_error(&dir))?;
        }
        Ok(())
    }

    /// Reserves the directory for this process as long as the result lives. The kernel
    /// lets go of it however the process ends.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`], [`Error::Pin`]
    pub fn lock(&self) -> Result<File, Error> {
        let dir = File::open(&self.dir).map_err(pin_error(&self.dir))?;
        match dir.try_lock() {
            Ok(()) => Ok(dir),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path: self.dir.clone() }),
            Err(TryLockError::Error(error)) => Err(pin_error(&self.dir)(error)),
        }
    }

    /// The layout of the map pinned under a name; `None` if nothing is.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn map_layout(&self, name: &str) -> Result<Option<MapLayout>, Error> {
        layout_of(&self.map(name))
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    ///
    /// [`Error::NothingPinned`] if it is not there, [`Error::Map`] if it is another.
    pub fn open<M: TryFrom<Map, Error = MapError>>(&self, name: &'static str) -> Result<M, Error> {
        self.open_untyped(name)?.try_into().map_err(|error| Error::Map { map: name, error })
    }

    /// The same, of whichever kind it is.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_untyped(&self, name: &'static str) -> Result<Map, Error> {
        let path = self.map(name);
        if !path.exists() {
            return Err(Error::NothingPinned { path });
        }
        let opened = MapData::from_pin(&path).and_then(Map::from_map_data);
        opened.map_err(|error| Error::Map { map: name, error })
    }

    /// Opens the map of this name that an earlier version has pinned, if there is one that looks as this
    /// version's does.
    pub fn open_earlier<M: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Option<M> {
        let layout = self.map_layout(name).ok().flatten()?;
        let earlier = self.versions().into_iter().skip(1).rev();
        let mut paths = earlier.map(|version| version.join("maps").join(name));
        let path = paths.find(|path| layout_of(path).is_ok_and(|found| found == Some(layout)))?;
        open(&path).ok()
    }

    /// The version directories there are, this schema's first.
    fn versions(&self) -> Vec<PathBuf> {
        let current = self.version();
        let mut versions: Vec<_> = entries(&self.dir)
            .into_iter()
            .filter(|(path, name)| {
                *path != current && name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok())
            })
            .map(|(path, _)| path)
            .collect();
        versions.sort();
        versions.insert(0, current);
        versions
    }

    /// Has maps of the latest earlier version serve in this one, if they are as they would be here:
    /// from `since` on they are. Those that are pinned already stay. Returns whether there are programs
    /// of an earlier version, which go on with its maps until they are replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn keep_maps(&self, names: &[&str], since: u32) -> Result<bool, Error> {
        let version = |path: &Path| path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
        let earlier = self.versions().into_iter().skip(1);
        let earlier = earlier.filter_map(|path| Some((version(&path)?, path)));
        let attached = |path: &Path| !entries(&path.join("links")).is_empty();
        let latest = earlier
            .filter(|(version, path)| (since..SCHEMA_VERSION).contains(version) && attached(path))
            .max();
        let Some((_, old)) = latest else { return Ok(false) };
        for name in names {
            let (old, new) = (old.join("maps").join(name), self.map(name));
            if !new.exists() && old.exists() {
                let failed = |error: String| Error::Pin {
                    path: new.clone(),
                    error: io::Error::other(error),
                };
                let map = MapData::from_pin(&old).map_err(|error| failed(error.to_string()))?;
                map.pin(&new).map_err(|error| failed(error.to_string()))?;
            }
        }
        Ok(true)
    }

    /// All pinned links, those of other schema versions last.
    pub fn list_links(&self) -> Vec<PinnedLink> {
        let mut links = Vec::new();
        for version in self.versions() {
            let mut found: Vec<_> = entries(&version.join("links"))
                .into_iter()
                .filter_map(|(path, name)| {
                    let (kind, ifindex) = name.rsplit_once('-')?;
                    let kind = LinkKind::ALL.into_iter().find(|k| k.name() == kind)?;
                    Some(PinnedLink { ifindex: ifindex.parse().ok()?, kind, path })
                })
                .collect();
            found.sort();
            links.append(&mut found);
        }
        links
    }

    /// Finds a link's pin. One that an older agent pinned under another schema version
    /// is moved to this version's place, so that its program can be replaced without a gap.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn adopt_link(&self, kind: LinkKind, ifindex: u32) -> Result<Option<PathBuf>, Error> {
        let place = self.link(kind, ifindex);
        let Some(found) =
            self.list_links().into_iter().find(|link| link.kind == kind && link.ifindex == ifindex)
        else {
            return Ok(None);
        };
        if found.path != place {
            fs::rename(&found.path, &place).map_err(pin_error(&found.path))?;
        }
        Ok(Some(place))
    }

    /// Removes the links whose interface is gone; returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn remove_dead_links(&self) -> Result<usize, Error> {
        let mut removed = 0;
        for link in self.list_links() {
            let target = system::link_target(&link.path).map_err(pin_error(&link.path))?;
            if target.ifindex == 0 {
                self.remove(&link.path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes a pin. A link is detached thereby, once no process holds it.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        gone(fs::remove_file(path)).map_err(pin_error(path))
    }

    /// Removes the maps of other schema versions that have no links left.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn remove_old_versions(&self) -> Result<(), Error> {
        for version in self.versions().into_iter().skip(1) {
            if entries(&version.join("links")).is_empty() {
                remove_tree(&version).map_err(pin_error(&version))?;
            }
        }
        Ok(())
    }

    /// Removes all pins of all versions, and the directory. Interfaces are left as they
    /// were before; ingress goes first, so that no flow begins that egress would not finish.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]
    pub fn remove_all(&self) -> Result<(), Error> {
        let mut links = self.list_links();
        links.sort_by_key(|link| link.kind == LinkKind::Egress);
        for link in links {
            self.remove(&link.path)?;
        }
        for version in self.versions() {
            remove_tree(&version).map_err(pin_error(&version))?;
        }
        // A directory that holds something else, or is the file system's root, stays.
        let _: io::Result<()> = fs::remove_dir(&self.dir);
        Ok(())
    }
}

fn open<M: TryFrom<Map, Error = MapError>>(path: &Path) -> Result<M, MapError> {
    Map::from_map_data(MapData::from_pin(path)?)?.try_into()
}

fn layout_of(path: &Path) -> Result<Option<MapLayout>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let unreadable = |error: MapError| Error::Pin {
        path: path.into(),
        error: io::Error::other(error.to_string()),
    };
    let info = MapInfo::from_pin(path).map_err(unreadable)?;
    Ok(Some(MapLayout {
        kind: info.map_type().map_err(unreadable)? as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags(),
    }))
}

/// Paths and names in a directory; nothing if it cannot be read.
fn entries(dir: &Path) -> Vec<(PathBuf, String)> {
    let Ok(read) = fs::read_dir(dir) else { return Vec::new() };
    read.flatten()
        .filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
        .collect()
}

/// Removes a version's directory: two levels, pins below.
fn remove_tree(version: &Path) -> io::Result<()> {
    for (dir, _) in entries(version) {
        for (pin, _) in entries(&dir) {
            gone(fs::remove_file(pin))?;
        }
        gone(fs::remove_dir(dir))?;
    }
    gone(fs::remove_dir(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_listed_adopted_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path().join("herald"));
        pins.create().unwrap();
        let old = pins.dir().join("v0/links");
        fs::create_dir_all(&old).unwrap();
        fs::create_dir_all(pins.dir().join("v0/maps")).unwrap();
        fs::write(pins.link(LinkKind::Egress, 7), "").unwrap();
        fs::write(pins.links().join("something-else"), "").unwrap();
        fs::write(old.join("ingress-7"), "").unwrap();
        fs::write(pins.dir().join("v0/maps/VIPS"), "").unwrap();

        let found: Vec<_> = pins.list_links().into_iter().map(|l| (l.kind, l.ifindex)).collect();
        assert_eq!(found, [(LinkKind::Egress, 7), (LinkKind::Ingress, 7)]);

        // Not while it has a link.
        pins.remove_old_versions().unwrap();
        assert!(old.exists());
        assert_eq!(pins.adopt_link(LinkKind::Ingress, 8).unwrap(), None);
        let place = pins.adopt_link(LinkKind::Ingress, 7).unwrap().unwrap();
        assert!(place.exists() && place == pins.link(LinkKind::Ingress, 7));
        pins.remove_old_versions().unwrap();
        assert!(!pins.dir().join("v0").exists());

        pins.remove_all().unwrap();
        assert!(!pins.dir().exists());
        // Again, with nothing there.
        pins.remove_all().unwrap();
    }

    #[test]
    fn a_directory_has_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path());
        let lock = pins.lock().unwrap();
        assert!(matches!(pins.lock(), Err(Error::InUse { .. })));
        drop(lock);
        pins.lock().unwrap();
    }
}
