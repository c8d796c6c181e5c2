use super::*;
use crate::snapshot::ObjectName;
use std::{fs, net::IpAddr};
use tempfile::TempDir;

const POOL: &str = "
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: p}
spec: {addresses: [192.0.2.0/24]}
";

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
    )
}

fn start(folder: &TempDir) -> Manifests {
    let scope = Scope { namespace: "metallb-system".to_owned(), ..Scope::default() };
    Manifests::start(folder.path(), scope).unwrap()
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn assignment(service: &str, addresses: &[&str]) -> Assignment {
    Assignment {
        service: name(service),
        resource_version: String::new(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pool: (!addresses.is_empty()).then(|| "p".to_owned()),
    }
}

/// Waits until the snapshot is as wanted.
async fn until(
    source: &Manifests,
    what: &str,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let mut snapshots = source.snapshots();
    let waiting = snapshots.wait_for(|s| s.as_deref().is_some_and(&wanted));
    let found = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    found.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone().unwrap()
}

fn addresses(snapshot: &Snapshot, service: &str) -> Vec<IpAddr> {
    snapshot.services.get(&name(service)).map(|s| s.addresses()).unwrap_or_default()
}

#[tokio::test]
async fn the_first_snapshot_is_there_at_once_and_follows_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
    write("a.yaml", &(service("web") + POOL));
    let source = start(&folder);
    let first = source.snapshots().borrow().clone().unwrap();
    assert_eq!((first.services.len(), first.pools.len()), (1, 1));
    assert!(*source.may_allocate().borrow());

    write("b.yml", &service("shop"));
    until(&source, "a new file", |s| s.services.len() == 2).await;
    write("b.yml", "kind: [");
    write("c.json", &service("json"));
    let now = until(&source, "another new file", |s| s.services.contains_key(&name("json"))).await;
    assert!(now.services.contains_key(&name("shop")), "the broken file's last version stays");
    fs::remove_file(folder.path().join("b.yml")).unwrap();
    until(&source, "a file is gone", |s| !s.services.contains_key(&name("shop"))).await;
}

#[tokio::test]
async fn addresses_survive_a_restart_and_are_seen_by_other_agents() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), service("web") + &service("shop") + POOL).unwrap();
    let first = start(&folder);
    let second = start(&folder);
    assert!(!*second.may_allocate().borrow(), "one allocates");
    let refused = second.assign(&assignment("web", &["192.0.2.1"])).await;
    assert!(matches!(refused, Err(AssignError::NotAllocator)), "{refused:?}");

    first.assign(&assignment("web", &["192.0.2.1"])).await.unwrap();
    let seen = first.snapshots().borrow().clone().unwrap();
    assert_eq!(addresses(&seen, "web"), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    until(&second, "the other agent sees it", |s| addresses(s, "web").len() == 1).await;
    let absent = first.assign(&assignment("absent", &["192.0.2.2"])).await;
    assert!(matches!(absent, Err(AssignError::Conflict(_))), "{absent:?}");

    drop(first);
    let mut may_allocate = second.may_allocate();
    let taken_over = may_allocate.wait_for(|may| *may);
    tokio::time::timeout(Duration::from_secs(20), taken_over).await.unwrap().unwrap();
    second.assign(&assignment("shop", &["192.0.2.2"])).await.unwrap();
    drop(second);

    let third = start(&folder);
    let mut may_allocate = third.may_allocate();
    let taken_over = may_allocate.wait_for(|may| *may);
    tokio::time::timeout(Duration::from_secs(20), taken_over).await.unwrap().unwrap();
    let now = third.snapshots().borrow().clone().unwrap();
    assert_eq!((addresses(&now, "web").len(), addresses(&now, "shop").len()), (1, 1));
    third.assign(&assignment("web", &[])).await.unwrap();
    let now = third.snapshots().borrow().clone().unwrap();
    assert!(addresses(&now, "web").is_empty());
}

#[tokio::test]
async fn a_service_that_is_none_any_more_may_only_give_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, service("web") + POOL).unwrap();
    let source = start(&folder);
    source.assign(&assignment("web", &["192.0.2.1"])).await.unwrap();
    fs::write(&file, service("web").replace("LoadBalancer", "ClusterIP") + POOL).unwrap();
    let now = until(&source, "the type changes", |s| {
        s.services.get(&name("web")).is_some_and(|s| !s.wants_address)
    })
    .await;
    assert_eq!(addresses(&now, "web").len(), 1);
    let refused = source.assign(&assignment("web", &["192.0.2.2"])).await;
    assert!(matches!(refused, Err(AssignError::Conflict(_))), "{refused:?}");
    source.assign(&assignment("web", &[])).await.unwrap();
    let now = source.snapshots().borrow().clone().unwrap();
    assert!(now.services.is_empty());
}

#[tokio::test]
async fn a_broken_address_file_stops_allocation_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), service("web")).unwrap();
    let state = folder.path().join(addresses::STATE);
    fs::create_dir(&state).unwrap();
    fs::write(state.join("addresses.yaml"), "services: 1").unwrap();
    let source = start(&folder);
    assert_eq!(source.snapshots().borrow().as_ref().unwrap().services.len(), 1);
    assert!(!*source.may_allocate().borrow());
    fs::remove_file(state.join("addresses.yaml")).unwrap();
    let mut may_allocate = source.may_allocate();
    let mended = may_allocate.wait_for(|may| *may);
    tokio::time::timeout(Duration::from_secs(20), mended).await.unwrap().unwrap();
}

#[test]
fn a_folder_that_is_not_there_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let error = Manifests::start(&absent, Scope::default()).unwrap_err().to_string();
    assert!(error.contains(&absent.display().to_string()), "{error}");
    assert!(error.contains("--manifests"), "{error}");
}
