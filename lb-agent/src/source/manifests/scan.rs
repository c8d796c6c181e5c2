//! Which files of the folder have changed.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Larger files are refused: no manifest is, and reading one would take all memory.
const MAX_SIZE: u64 = 64 << 20;

/// What looking at the folder has found.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Files that are gone.
    pub(super) gone: Vec<String>,
    /// The contents of files that are new or have changed.
    pub(super) changed: Vec<(String, io::Result<Vec<u8>>)>,
}

/// What shows that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: u64,
}

/// A folder as last looked at.
#[derive(Debug)]
pub(super) struct Scan {
    folder: PathBuf,
    /// As found by the last look.
    last: BTreeMap<String, Option<Stamp>>,
    /// As reported.
    reported: BTreeMap<String, Option<Stamp>>,
}

impl Scan {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), last: BTreeMap::new(), reported: BTreeMap::new() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks at the folder. What has changed since it was reported is reported if the
    /// previous look has found it as it is now.
    pub(super) fn look(&mut self) -> io::Result<Changes> {
        let now = self.stamps()?;
        let mut changes = Changes::default();
        let names: BTreeSet<_> = now.keys().chain(self.reported.keys()).cloned().collect();
        for name in names {
            let stamp = now.get(&name);
            if stamp == self.reported.get(&name) || stamp != self.last.get(&name) {
                continue;
            }
            if let Some(stamp) = stamp {
                changes.changed.push((name.clone(), self.read(&name)));
                self.reported.insert(name, *stamp);
            } else {
                self.reported.remove(&name);
                changes.gone.push(name);
            }
        }
        self.last = now;
        Ok(changes)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.folder.join(name);
        let metadata = fs::metadata(&path)?;
        if metadata.len() > MAX_SIZE {
            return Err(io::Error::other("is larger than 64 MiB, which no manifest is"));
        }
        fs::read(path)
    }

    fn stamps(&self) -> io::Result<BTreeMap<String, Option<Stamp>>> {
        let mut stamps = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            // What is not UTF-8 has none of our endings that we could name.
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if !is_manifest(&name) {
                continue;
            }
            match fs::metadata(self.folder.join(&name)) {
                Ok(metadata) if !metadata.is_file() => {}
                Ok(metadata) => {
                    let stamp = Stamp {
                        modified: (metadata.mtime(), metadata.mtime_nsec()),
                        changed: (metadata.ctime(), metadata.ctime_nsec()),
                        size: metadata.size(),
                        inode: metadata.ino(),
                    };
                    stamps.insert(name, Some(stamp));
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // To be reported by the attempt to read it.
                Err(_) => {
                    stamps.insert(name, None);
                }
            }
        }
        Ok(stamps)
    }
}

/// Whether a file is read: by its ending, and not if it is hidden.
fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changes: &Changes) -> Vec<&str> {
        changes.changed.iter().map(|(n, _)| n.as_str()).collect()
    }

    #[test]
    fn a_change_is_reported_once_it_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let mut scan = Scan::new(folder.path());
        write("a.yaml", "1");
        for other in ["b.txt", ".c.yaml", "d.yaml~"] {
            write(other, "x");
        }
        fs::create_dir(folder.path().join("e.yaml")).unwrap();
        assert!(names(&scan.look().unwrap()).is_empty(), "may still be being written");
        let changes = scan.look().unwrap();
        assert_eq!(names(&changes), ["a.yaml"]);
        assert_eq!(changes.changed[0].1.as_ref().unwrap(), b"1");
        assert!(names(&scan.look().unwrap()).is_empty());

        // Emptied, then filled: the empty state is never reported.
        write("a.yaml", "");
        assert!(names(&scan.look().unwrap()).is_empty());
        write("a.yaml", "23");
        assert!(names(&scan.look().unwrap()).is_empty());
        let changes = scan.look().unwrap();
        assert_eq!(changes.changed[0].1.as_ref().unwrap(), b"23");

        // Renamed over, as some editors do: it is never gone.
        fs::rename(folder.path().join("a.yaml"), folder.path().join("a.yaml~")).unwrap();
        assert!(scan.look().unwrap().gone.is_empty());
        write("a.yaml", "23");
        scan.look().unwrap();
        let changes = scan.look().unwrap();
        assert_eq!((names(&changes), changes.gone.len()), (vec!["a.yaml"], 0));

        fs::remove_file(folder.path().join("a.yaml")).unwrap();
        assert!(scan.look().unwrap().gone.is_empty());
        assert_eq!(scan.look().unwrap().gone, ["a.yaml"]);
        assert!(scan.look().unwrap().gone.is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Scan::new(&folder.path().join("absent")).look().is_err());
    }
}
