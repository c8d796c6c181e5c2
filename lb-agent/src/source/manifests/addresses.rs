//! `DIR/.herald/addresses.yaml`: which Service of the folder has which addresses.
//!
//! The folder is shared by several agents. One of them allocates: the one that holds the
//! lock on `DIR/.herald/allocator.lock`, which the kernel gives back when its process
//! ends, however it ends. Only that one writes the file, as a whole and by renaming, so
//! that the others never read half of it.
use crate::{
    snapshot::{Ingress, ObjectName},
    source::{ALLOCATED_FROM, index::Index},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The folder in the folder, for what Herald itself writes.
pub const STATE: &str = ".herald";

const HEADER: &str =
    "# Written by Herald: the addresses that it has given to Services of this folder.\n";

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    services: BTreeMap<ObjectName, Given>,
}

/// The addresses of one Service. None means that its manifest's own are taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// In the order in which they were given.
    pub addresses: Vec<IpAddr>,
    /// The pool that they are from.
    pub pool: Option<String>,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    services: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    namespace: String,
    name: String,
    addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
}

impl Addresses {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Where it is not what Herald has written.
    pub fn parse(text: &str) -> Result<Self, serde_yaml_ng::Error> {
        let document: Document = serde_yaml_ng::from_str(text)?;
        let services = document.services.into_iter().map(|line| {
            let Line { namespace, name, addresses, pool } = line;
            (ObjectName::new(namespace, name), Given { addresses, pool })
        });
        Ok(Self { services: services.collect() })
    }

    /// The file's text.
    ///
    /// # Errors
    /// None in practice.
    pub fn text(&self) -> Result<String, serde_yaml_ng::Error> {
        let services = self.services.iter().map(|(service, given)| Line {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            addresses: given.addresses.clone(),
            pool: given.pool.clone(),
        });
        let document = Document { services: services.collect() };
        Ok(format!("{HEADER}{}", serde_yaml_ng::to_string(&document)?))
    }

    /// Notes what a Service has been given.
    pub fn set(&mut self, service: ObjectName, given: Given) {
        self.services.insert(service, given);
    }

    /// Forgets Services that are not there any more.
    pub fn retain(&mut self, index: &Index) {
        self.services.retain(|service, _| index.services.contains_key(service));
    }

    /// Writes the addresses into the Services, in place of what their manifests say.
    pub fn apply(&self, index: &mut Index) {
        for (name, given) in &self.services {
            let Some(service) = index.services.get_mut(name).map(Arc::make_mut) else { continue };
            service.ingress.retain(|i| i.ip.is_none());
            let ingress = given
                .addresses
                .iter()
                .map(|ip| Ingress { ip: Some(ip.to_string()), hostname: None });
            service.ingress.splice(0..0, ingress);
            match &given.pool {
                Some(pool) => service.annotations.insert(ALLOCATED_FROM.to_owned(), pool.clone()),
                None => service.annotations.remove(ALLOCATED_FROM),
            };
        }
    }
}

/// The files.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    lock: Option<File>,
}

impl Files {
    /// Those of a folder of manifests. Nothing is read or written yet.
    pub fn new(manifests: &Path) -> Self {
        Self { folder: manifests.join(STATE), lock: None }
    }

    /// The path of the addresses.
    pub fn path(&self) -> PathBuf {
        self.folder.join("addresses.yaml")
    }

    /// Tries to become the allocator, or stays it.
    ///
    /// # Errors
    /// Where the lock cannot be made: the folder is read-only, mostly.
    pub fn try_lock(&mut self) -> io::Result<bool> {
        if self.lock.is_some() {
            return Ok(true);
        }
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join("allocator.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(path)?;
        match lock.try_lock() {
            Ok(()) => {
                self.lock = Some(lock);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// The file's text; `None` where there is no file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Where it cannot be written; the old one is untouched then.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let new = self.folder.join("addresses.yaml.new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Service;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    fn given(addresses: &[&str], pool: Option<&str>) -> Given {
        Given {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            pool: pool.map(str::to_owned),
        }
    }

    #[test]
    fn the_text_reads_back() {
        let mut addresses = Addresses::default();
        assert_eq!(Addresses::parse(&addresses.text().unwrap()).unwrap(), addresses);
        addresses.set(name("web"), given(&["192.0.2.1", "2001:db8::1"], Some("a")));
        addresses.set(name("gone"), given(&[], None));
        let text = addresses.text().unwrap();
        assert!(text.starts_with("# Written by Herald"), "{text}");
        assert_eq!(Addresses::parse(&text).unwrap(), addresses);
        assert!(Addresses::parse("services: [{name: a}]").is_err());
        assert!(Addresses::parse("").is_err());
    }

    #[test]
    fn given_addresses_take_the_place_of_the_manifest_s() {
        let mut index = Index::default();
        let ingress = |ip: Option<&str>, hostname: Option<&str>| Ingress {
            ip: ip.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
        };
        let manifest = [ingress(Some("192.0.2.9"), None), ingress(None, Some("a.example"))];
        for n in ["given", "untouched", "taken"] {
            let service =
                Service { name: name(n), ingress: manifest.to_vec(), ..Default::default() };
            index.services.insert(name(n), Arc::new(service));
        }
        let mut addresses = Addresses::default();
        addresses.set(name("given"), given(&["192.0.2.1"], Some("a")));
        addresses.set(name("taken"), given(&[], None));
        addresses.set(name("absent"), given(&["192.0.2.3"], None));
        addresses.apply(&mut index);
        assert_eq!(
            index.services[&name("given")].ingress,
            [ingress(Some("192.0.2.1"), None), ingress(None, Some("a.example"))]
        );
        let recorded = index.services[&name("given")].annotations.get(ALLOCATED_FROM);
        assert_eq!(recorded.unwrap(), "a");
        assert_eq!(index.services[&name("untouched")].ingress, manifest);
        assert_eq!(index.services[&name("taken")].ingress, [ingress(None, Some("a.example"))]);
        addresses.retain(&index);
        assert!(!addresses.text().unwrap().contains("absent"));
    }

    #[test]
    fn one_allocator_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (Files::new(folder.path()), Files::new(folder.path()));
        assert!(a.try_lock().unwrap());
        assert!(!b.try_lock().unwrap());
        assert!(a.try_lock().unwrap());
        assert_eq!(b.read().unwrap(), None);
        a.write("text").unwrap();
        assert_eq!(b.read().unwrap().as_deref(), Some("text"));
        drop(a);
        assert!(b.try_lock().unwrap());
    }
}
