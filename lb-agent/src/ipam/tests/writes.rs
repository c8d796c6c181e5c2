//! What is written when: the order, failures, time, and what is told.
use super::{annotate, edit, held, with, write};
use crate::{
    ipam::{Allocator, Assignment, Outcome},
    snapshot::{IpFamilyPolicy, Service, Snapshot},
    testing::{holder, ip, name, pool, service},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const IPS: &str = "metallb.io/loadBalancerIPs";

/// An allocator, and the API that it writes to.
struct Bench {
    api: Snapshot,
    allocator: Allocator,
    now: Instant,
    version: u64,
}

impl Bench {
    fn new(api: Snapshot) -> Self {
        let mut bench =
            Self { api, allocator: Allocator::default(), now: Instant::now(), version: 100 };
        bench.show();
        bench
    }

    /// The allocator sees how things are.
    fn show(&mut self) {
        self.allocator.update(self.now, &Arc::new(self.api.clone()));
    }

    /// What is written at once.
    fn sends(&mut self) -> Vec<Assignment> {
        std::iter::from_fn(|| self.allocator.next_write(self.now)).collect()
    }

    fn succeeds(&mut self, assignment: Assignment) {
        self.arrives(&assignment);
        self.allocator.ended(self.now, assignment, Outcome::Written);
    }

    /// The API has it; the allocator has not heard of that.
    fn arrives(&mut self, assignment: &Assignment) {
        let service = assignment.service.clone();
        write(&mut self.api, std::slice::from_ref(assignment));
        self.version += 1;
        let version = self.version.to_string();
        let service = self.api.services.get_mut(&service).unwrap();
        Arc::make_mut(service).resource_version = version;
    }

    fn ends(&mut self, assignment: Assignment, outcome: Outcome) {
        self.allocator.ended(self.now, assignment, outcome);
    }

    fn passes(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.allocator.tick(self.now);
    }

    fn told(&mut self) -> Vec<&'static str> {
        self.allocator.take_notices().iter().map(|notice| notice.reason).collect()
    }

    /// Writes and sees until there is nothing left to do. Returns how many writes it took.
    fn settles(&mut self) -> usize {
        let mut writes = 0;
        loop {
            let sent = self.sends();
            if sent.is_empty() {
                return writes;
            }
            writes += sent.len();
            sent.into_iter().for_each(|assignment| self.succeeds(assignment));
            self.show();
        }
    }
}

fn names(assignments: &[Assignment]) -> Vec<&str> {
    assignments.iter().map(|a| &*a.service.name).collect()
}

#[test]
fn who_takes_an_address_waits_until_it_has_been_given_up() {
    let api = with(
        &[("a", pool(&["192.0.2.1/32"])), ("b", pool(&["198.51.100.0/30"]))],
        [holder("old", "4", &["192.0.2.1"]), service("new", "4")],
    );
    let mut bench = Bench::new(api);
    bench.settles();
    annotate(&mut bench.api, "old", IPS, "198.51.100.3");
    annotate(&mut bench.api, "new", IPS, "192.0.2.1");
    bench.show();
    let sent = bench.sends();
    assert_eq!(names(&sent), ["old"], "one has it still");
    bench.ends(sent[0].clone(), Outcome::Failed);
    assert_eq!(names(&bench.sends()), [""; 0], "nobody knows whether it was written");
    bench.passes(1);
    let sent = bench.sends();
    assert_eq!(names(&sent), ["old"]);
    bench.succeeds(sent[0].clone());
    assert_eq!(names(&bench.sends()), ["new"], "without waiting for the write to be seen");
}

#[test]
fn two_that_want_what_the_other_has_get_it_in_three_writes() {
    let api = with(
        &[("a", pool(&["192.0.2.0/30"]))],
        [holder("s", "4", &["192.0.2.1"]), holder("t", "4", &["192.0.2.2"])],
    );
    let mut bench = Bench::new(api);
    bench.settles();
    annotate(&mut bench.api, "s", IPS, "192.0.2.2");
    annotate(&mut bench.api, "t", IPS, "192.0.2.1");
    bench.show();
    let first = bench.sends();
    assert!(first.len() == 1 && first[0].addresses.is_empty(), "{first:?}");
    bench.succeeds(first[0].clone());
    assert!(bench.told().contains(&"ClearAssignment"));
    bench.show();
    assert_eq!(bench.settles(), 2);
    assert_eq!(
        (held(&bench.api, "s"), held(&bench.api, "t")),
        (vec!["192.0.2.2".into()], vec!["192.0.2.1".into()])
    );
}

#[test]
fn a_write_may_be_seen_before_its_answer() {
    let api = with(
        &[("a", pool(&["192.0.2.0/30"]))],
        [holder("s", "4", &["192.0.2.1"]), holder("t", "4", &["192.0.2.2"])],
    );
    let mut bench = Bench::new(api);
    bench.settles();
    annotate(&mut bench.api, "s", IPS, "192.0.2.2");
    annotate(&mut bench.api, "t", IPS, "192.0.2.1");
    bench.show();
    let mut writes = 0;
    while let Some(assignment) = bench.allocator.next_write(bench.now) {
        writes += 1;
        bench.arrives(&assignment);
        bench.show();
        bench.ends(assignment, Outcome::Written);
    }
    assert_eq!(writes, 3);
    assert_eq!(held(&bench.api, "s"), ["192.0.2.2"]);
    assert_eq!(held(&bench.api, "t"), ["192.0.2.1"]);
}

#[test]
fn one_write_gives_a_service_all_it_is_to_have() {
    let mut dual = service("s", "46");
    dual.ip_family_policy = IpFamilyPolicy::RequireDualStack;
    let pools = [("a", pool(&["192.0.2.0/30", "2001:db8::/126"]))];
    let mut bench = Bench::new(with(&pools, [dual]));
    assert_eq!(bench.settles(), 1);
    assert_eq!(held(&bench.api, "s"), ["192.0.2.0", "2001:db8::"]);
    assert_eq!(bench.settles(), 0);
    // Nor does it take two to move, nor another allocator any.
    bench.api.pools.insert("a".to_owned(), pool(&["192.0.2.2/31", "2001:db8::/126"]));
    bench.show();
    assert_eq!(bench.settles(), 1);
    bench.allocator = Allocator::default();
    bench.show();
    assert_eq!(bench.settles(), 0);
}

#[test]
fn sixteen_writes_are_under_way_at_most() {
    let names: Vec<_> = (0..40).map(|i| format!("s{i:02}")).collect();
    let api = with(&[("a", pool(&["192.0.2.0/24"]))], names.iter().map(|n| service(n, "4")));
    let mut bench = Bench::new(api);
    let sent = bench.sends();
    assert_eq!(sent.len(), 16);
    bench.succeeds(sent[3].clone());
    assert_eq!(bench.sends().len(), 1);
    bench.show();
    assert!(bench.sends().is_empty());
}

#[test]
fn a_write_that_fails_is_tried_again_after_growing_pauses() {
    let mut bench = Bench::new(with(&[("a", pool(&["192.0.2.0/30"]))], [service("s", "4")]));
    for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
        let sent = bench.sends();
        assert_eq!(sent.len(), 1, "before a pause of {pause} s");
        bench.ends(sent[0].clone(), Outcome::Failed);
        assert!(bench.sends().is_empty());
        let due = bench.allocator.next_deadline().unwrap();
        assert_eq!(due - bench.now, Duration::from_secs(pause));
        bench.passes(pause - 1);
        assert!(bench.sends().is_empty() || pause == 1);
        bench.passes(1);
    }
    assert!(bench.told().is_empty(), "nothing has come of it");
    assert_eq!(bench.settles(), 1);
    assert_eq!(bench.told(), ["IPAllocated"]);
    assert_eq!(bench.allocator.next_deadline(), None);
}

#[test]
fn an_api_that_takes_nothing_is_not_stormed() {
    let names: Vec<_> = (0..400).map(|i| format!("s{i:03}")).collect();
    let api = with(&[("a", pool(&["10.0.0.0/16"]))], names.iter().map(|n| service(n, "4")));
    let mut bench = Bench::new(api);
    let mut tried = 0;
    for _ in 0..600 {
        for assignment in bench.sends() {
            tried += 1;
            bench.ends(assignment, Outcome::Failed);
        }
        bench.passes(1);
    }
    assert!((16..300).contains(&tried), "{tried} attempts in ten minutes");
    bench.passes(64);
    while bench.settles() > 0 {
        bench.passes(64);
    }
    assert!(bench.api.services.values().all(|s| s.addresses().len() == 1));
}

#[test]
fn a_service_that_has_changed_is_decided_about_anew_when_that_is_seen() {
    let mut bench = Bench::new(with(&[("a", pool(&["192.0.2.0/30"]))], [service("s", "4")]));
    let sent = bench.sends();
    annotate(&mut bench.api, "s", IPS, "192.0.2.3");
    edit(&mut bench.api, "s").resource_version = "7".to_owned();
    bench.show();
    assert!(bench.sends().is_empty(), "one write at a time");
    bench.ends(sent[0].clone(), Outcome::Changed);
    let sent = bench.sends();
    assert_eq!((sent[0].resource_version.as_str(), sent[0].addresses[0]), ("7", ip("192.0.2.3")));
    // Should it never be seen, the write is tried again.
    bench.ends(sent[0].clone(), Outcome::Changed);
    assert!(bench.sends().is_empty());
    bench.passes(10);
    assert_eq!(bench.sends().len(), 1);
}

#[test]
fn everything_is_looked_at_again_while_somebody_waits() {
    let pools = [("a", pool(&["192.0.2.1/32"]))];
    let mut bench = Bench::new(with(&pools, [service("s", "4")]));
    bench.settles();
    assert_eq!(bench.allocator.next_deadline(), None, "nobody waits");
    bench.api = bench.api.clone().with_services([service("t", "4")]);
    bench.show();
    bench.told();
    for _ in 0..3 {
        let due = bench.allocator.next_deadline().unwrap();
        assert_eq!(due - bench.now, Duration::from_secs(60));
        bench.passes(60);
        assert!(bench.sends().is_empty());
        assert!(bench.told().is_empty(), "it has been told");
    }
}

#[test]
fn room_goes_to_who_waits_at_once() {
    let pools = [("a", pool(&["192.0.2.1/32"]))];
    let mut bench = Bench::new(with(&pools, [service("s", "4"), service("t", "4")]));
    bench.settles();
    assert_eq!(held(&bench.api, "t"), [""; 0]);
    bench.api.services.remove(&name("s"));
    bench.show();
    assert_eq!(bench.settles(), 1);
    assert_eq!(held(&bench.api, "t"), ["192.0.2.1"]);
    bench.api = bench.api.clone().with_services([service("s", "4")]);
    bench.show();
    bench.api.pools.insert("b".to_owned(), pool(&["198.51.100.1/32"]));
    bench.show();
    assert_eq!(bench.settles(), 1);
    assert_eq!(held(&bench.api, "s"), ["198.51.100.1"]);
}

#[test]
fn a_change_is_told_once_and_a_look_is_not() {
    let pools = [("a", pool(&["192.0.2.1/32"]))];
    let mut bench = Bench::new(with(&pools, [service("s", "4"), service("t", "4")]));
    assert_eq!(bench.told(), ["AllocationFailed"]);
    bench.settles();
    assert_eq!(bench.told(), ["IPAllocated"]);
    for label in ["x", "y"] {
        edit(&mut bench.api, "t").labels.insert(label.to_owned(), String::new());
        bench.show();
        assert_eq!(bench.settles(), 0);
        assert!(bench.told().is_empty());
    }
    bench.api.pools.clear();
    bench.show();
    bench.settles();
    let mut told = bench.told();
    told.sort_unstable();
    assert_eq!(told, ["AllocationFailed", "AllocationFailed", "ClearAssignment"]);
}

#[test]
fn what_is_promised_stays_so_when_others_come() {
    let mut bench = Bench::new(with(&[("a", pool(&["192.0.2.0/24"]))], [service("m", "4")]));
    // Neither while it waits to be written nor while that is under way nor before it is seen.
    for stage in 0..3 {
        let newcomer: Service = service(&format!("a{stage}"), "4");
        bench.api = bench.api.clone().with_services([newcomer]);
        bench.show();
        if stage == 0 {
            let sent = bench.sends();
            let m = sent.iter().find(|a| a.service == name("m")).unwrap();
            assert_eq!(m.addresses, [ip("192.0.2.0")]);
            bench.succeeds(m.clone());
        }
    }
    for assignment in bench.sends() {
        assert_ne!(assignment.addresses, [ip("192.0.2.0")]);
    }
}
