//! The objects of all files of a folder.
//!
//! Pure. A file with a fault keeps the objects of its last faultless version; one that
//! never had any gives what is good in it.
use super::parse::{Fault, Object, Parsed};
use crate::{snapshot::ObjectName, source::index::Index};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

/// The label that every Namespace of a cluster carries, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The files by name.
#[derive(Debug, Default)]
pub struct Folder {
    files: BTreeMap<String, File>,
}

#[derive(Debug, Default)]
struct File {
    objects: Vec<Object>,
    faulty: bool,
}

impl Folder {
    /// Takes what a file holds now.
    pub fn set(&mut self, file: &str, parsed: Parsed) {
        let faulty = !parsed.faults.is_empty();
        match self.files.entry(file.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(File { objects: parsed.objects, faulty });
            }
            Entry::Occupied(mut entry) => {
                let file = entry.get_mut();
                file.faulty = faulty;
                if !faulty {
                    file.objects = parsed.objects;
                }
            }
        }
    }

    /// Takes notice that a file cannot be read.
    pub fn unreadable(&mut self, file: &str) {
        self.files.entry(file.to_owned()).or_default().faulty = true;
    }

    /// Takes notice that a file is gone.
    pub fn remove(&mut self, file: &str) {
        self.files.remove(file);
    }

    /// Whether any file has a fault.
    pub fn is_faulty(&self) -> bool {
        self.files.values().any(|f| f.faulty)
    }

    /// All objects, and what is said about those that stand in two places. Of these,
    /// the one in the first file by name counts.
    pub fn index(&self) -> (Index, Vec<String>) {
        let mut index = Index::default();
        let mut seen: BTreeMap<(&str, &ObjectName), &str> = BTreeMap::new();
        let mut doubles = Vec::new();
        let mut wanted = Vec::new();
        let objects =
            self.files.iter().flat_map(|(f, file)| file.objects.iter().map(move |o| (f, o)));
        for (file, object) in objects {
            let (kind, name) = object.identity();
            if let Some(first) = seen.insert((kind, name), file) {
                doubles.push(format!(
                    "{kind} {name} stands in {first} and again in {file}: the first counts; \
                     remove one"
                ));
                seen.insert((kind, name), first);
                continue;
            }
            match object.clone() {
                Object::Service(service, families) => {
                    wanted.extend(families.map(|families| (service.name.clone(), families)));
                    index.services.insert(service.name.clone(), service);
                }
                Object::EndpointSlice(slice) => {
                    index.endpoint_slices.insert(slice.name.clone(), slice);
                }
                Object::Node(name, node) => {
                    index.nodes.insert(name, node);
                }
                Object::Namespace(name, labels) => {
                    index.namespaces.insert(name, labels);
                }
                Object::Pool(name, pool) => {
                    index.pools.insert(name, pool);
                }
                Object::L2Advertisement(name, advertisement) => {
                    index.l2_advertisements.insert(name, advertisement);
                }
                Object::BgpAdvertisement(name, advertisement) => {
                    index.bgp_advertisements.insert(name, advertisement);
                }
                Object::BgpPeer(name, peer) => {
                    index.peers.insert(name, *peer);
                }
                Object::BfdProfile(name, profile) => {
                    index.bfd_profiles.insert(name, profile);
                }
                Object::Community(name, names) => {
                    index.communities.insert(name, names);
                }
            }
        }
        let only_ipv6 = only_ipv6(&index);
        for (name, families) in wanted {
            if let Some(service) = index.services.get_mut(&name) {
                families.fill(Arc::make_mut(service), only_ipv6);
            }
        }
        add_namespaces(&mut index);
        (index, doubles)
    }
}

fn only_ipv6(index: &Index) -> bool {
    let mut entries = index.pools.values().flat_map(|p| &p.spec.addresses).peekable();
    entries.peek().is_some() && entries.all(|entry| entry.contains(':'))
}

/// Namespaces that are only mentioned exist too, and each has its name as a label.
fn add_namespaces(index: &mut Index) {
    for service in index.services.keys() {
        let name = ObjectName::new("", &*service.namespace);
        index.namespaces.entry(name).or_default();
    }
    for (name, labels) in &mut index.namespaces {
        labels.insert(NAMESPACE_NAME.to_owned(), name.name.to_string());
    }
}

/// `FILE:LINE: reason`, as compilers do.
pub fn message(file: &str, fault: &Fault) -> String {
    format!("{file}:{}: {}", fault.line, fault.reason)
}

#[cfg(test)]
mod tests {
    use super::{super::parse::parse, *};
    use crate::source::index::Scope;

    fn set(folder: &mut Folder, file: &str, text: &str) {
        let scope = Scope { namespace: "metallb-system".to_owned(), ..Scope::default() };
        folder.set(file, parse(text.as_bytes(), &scope));
    }

    fn service(name: &str, port: u32) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: {port}}}]}}\n"
        )
    }

    fn ports(folder: &Folder) -> Vec<(String, u16)> {
        let services = folder.index().0.snapshot().services;
        services.values().map(|s| (s.name.name.to_string(), s.ports[0].port)).collect()
    }

    #[test]
    fn a_faulty_file_keeps_its_last_faultless_version() {
        let mut folder = Folder::default();
        set(&mut folder, "a.yaml", &(service("a", 1) + &service("b", 2)));
        set(&mut folder, "c.yaml", &service("c", 3));
        let before = ports(&folder);
        assert_eq!(before.len(), 3);
        assert!(!folder.is_faulty());

        set(&mut folder, "a.yaml", &(service("a", 10) + &service("b", 0)));
        assert!(folder.is_faulty());
        assert_eq!(ports(&folder), before, "neither its good part nor its bad part counts");
        folder.unreadable("a.yaml");
        assert_eq!(ports(&folder), before);
        set(&mut folder, "c.yaml", &service("c", 30));
        assert_eq!(ports(&folder)[2], ("c".to_owned(), 30), "other files go on");

        set(&mut folder, "a.yaml", &service("a", 10));
        assert_eq!(ports(&folder), [("a".to_owned(), 10), ("c".to_owned(), 30)]);
        assert!(!folder.is_faulty());
        folder.remove("a.yaml");
        assert_eq!(ports(&folder), [("c".to_owned(), 30)]);
    }

    #[test]
    fn a_file_that_was_faulty_from_the_start_gives_what_is_good_in_it() {
        let mut folder = Folder::default();
        set(&mut folder, "a.yaml", &(service("a", 1) + &service("b", 0)));
        assert_eq!(ports(&folder), [("a".to_owned(), 1)]);
        assert!(folder.is_faulty());
    }

    #[test]
    fn of_two_objects_of_one_name_the_first_counts() {
        let mut folder = Folder::default();
        for (file, port) in [("b.yaml", 2), ("a.yaml", 1), ("c.yaml", 3)] {
            set(&mut folder, file, &service("web", port));
        }
        assert_eq!(ports(&folder), [("web".to_owned(), 1)]);
        let doubles = folder.index().1;
        assert_eq!(doubles.len(), 2);
        assert!(doubles[0].contains("default/web stands in a.yaml and again in b.yaml"));
        assert!(doubles[1].contains("stands in a.yaml and again in c.yaml"));
    }

    #[test]
    fn namespaces_have_their_name_as_a_label_and_exist_when_mentioned() {
        let mut folder = Folder::default();
        set(&mut folder, "a.yaml", &service("web", 1));
        set(
            &mut folder,
            "b.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}",
        );
        let namespaces = folder.index().0.snapshot().namespaces;
        assert_eq!(namespaces["default"].get(NAMESPACE_NAME).unwrap(), "default");
        assert_eq!(namespaces["shop"].get(NAMESPACE_NAME).unwrap(), "shop");
        assert_eq!(namespaces["shop"].get("team").unwrap(), "a");
    }

    #[test]
    fn families_follow_the_pools() {
        let mut folder = Folder::default();
        set(&mut folder, "a.yaml", &service("web", 1));
        let ips = |folder: &Folder| {
            let (index, _) = folder.index();
            index.services[&ObjectName::new("default", "web")].cluster_ips.clone()
        };
        assert_eq!(ips(&folder), ["0.0.0.0".parse::<std::net::IpAddr>().unwrap()]);
        set(
            &mut folder,
            "p.yaml",
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: p}\n\
             spec: {addresses: ['fd00::/64']}",
        );
        assert_eq!(ips(&folder), ["::".parse::<std::net::IpAddr>().unwrap()]);
    }
}
