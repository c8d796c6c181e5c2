use super::*;
use crate::{
    api::{IPAddressPool, IPAddressPoolSpec, L2Advertisement},
    validate::Entry,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use std::time::Duration;

fn view() -> View {
    View::new(Events::new("metallb-system").0)
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("d", name)
}

fn service(service: &str) -> Arc<snapshot::Service> {
    let name = name(service);
    Arc::new(snapshot::Service { name, wants_address: true, ..Default::default() })
}

fn list_all(view: &View, term: u64) {
    view.replace::<Service>(term, [(name("web"), service("web"))].into(), Vec::new());
    view.replace::<EndpointSlice>(term, Store::new(), Vec::new());
    view.replace::<Node>(term, Store::new(), Vec::new());
    view.replace::<Namespace>(term, Store::new(), Vec::new());
    view.replace::<IPAddressPool>(term, Store::new(), Vec::new());
    view.replace::<L2Advertisement>(term, Store::new(), Vec::new());
}

#[test]
fn nothing_is_published_before_every_kind_is_there() {
    let view = view();
    view.replace::<Service>(0, [(name("web"), service("web"))].into(), Vec::new());
    view.publish_now(Instant::now());
    assert!(view.snapshots().borrow().is_none());
    list_all(&view, 0);
    view.publish_now(Instant::now());
    assert_eq!(view.snapshots().borrow().as_ref().unwrap().services.len(), 1);
}

#[test]
fn an_unchanged_snapshot_wakes_nobody() {
    let view = view();
    list_all(&view, 0);
    view.publish_now(Instant::now());
    let mut snapshots = view.snapshots();
    snapshots.mark_unchanged();
    list_all(&view, 0);
    view.publish_now(Instant::now());
    assert!(!snapshots.has_changed().unwrap());
    view.set::<Service>(name("web"), None);
    view.publish_now(Instant::now());
    assert!(snapshots.has_changed().unwrap());
}

#[test]
fn a_new_allocator_reads_again_before_it_may_allocate() {
    let view = view();
    let may = view.may_allocate();
    list_all(&view, 0);
    let now = Instant::now();
    view.leading(Some(now + Duration::from_secs(10)));
    view.publish_now(now);
    assert!(!*may.borrow(), "what was read before may lack what the last one wrote");
    let term = *view.term().borrow();
    view.replace::<Service>(term, Store::new(), Vec::new());
    view.replace::<Namespace>(term, Store::new(), Vec::new());
    view.publish_now(now);
    assert!(!*may.borrow());
    view.replace::<IPAddressPool>(term, Store::new(), Vec::new());
    view.publish_now(now);
    assert!(*may.borrow());
    assert!(view.may_allocate_until(now).is_some());
    assert_eq!(view.may_allocate_until(now + Duration::from_secs(10)), None);

    // A renewal is not a new term; losing it is the end at once.
    view.leading(Some(now + Duration::from_secs(12)));
    assert_eq!(*view.term().borrow(), term);
    assert_eq!(view.may_allocate_until(now), Some(now + Duration::from_secs(12)));
    view.leading(None);
    assert!(!*may.borrow());
    assert_eq!(view.may_allocate_until(now), None);
    view.publish_now(now);
    assert!(!*may.borrow());

    view.leading(Some(now + Duration::from_secs(20)));
    view.publish_now(now);
    assert!(!*may.borrow(), "another term, another reading");
}

#[test]
fn a_bad_object_keeps_its_last_good_version_and_stalls_nothing() {
    let view = view();
    let pool = |addresses: &str| {
        let spec = IPAddressPoolSpec {
            addresses: vec![addresses.to_owned()],
            auto_assign: true,
            avoid_buggy_ips: false,
            service_allocation: None,
        };
        Entry::new(Default::default(), spec, Vec::new())
    };
    let name = |n: &str| ObjectName::new("metallb-system", n);
    list_all(&view, 0);
    view.set::<IPAddressPool>(name("a"), Some(pool("192.0.2.0/24")));
    view.bad::<IPAddressPool>(&name("a"), None, "why".to_owned());
    view.set::<IPAddressPool>(name("b"), Some(pool("198.51.100.0/24")));
    // A new list has it, still bad.
    let objects = [(name("b"), pool("203.0.113.0/24"))].into();
    view.replace::<IPAddressPool>(0, objects, vec![name("a"), name("never-good")]);
    view.publish_now(Instant::now());
    let pools = view.snapshots().borrow().as_ref().unwrap().pools.clone();
    assert_eq!(Vec::from_iter(pools.keys()), ["a", "b"]);
    assert_eq!(pools["a"].addresses, ["192.0.2.0/24"]);
    assert_eq!(pools["b"].addresses, ["203.0.113.0/24"]);
}
