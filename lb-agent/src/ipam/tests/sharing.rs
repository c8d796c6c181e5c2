//! Services that share an address.
use super::{annotate, edit, held, settle, with};
use crate::{
    snapshot::{ExternalTrafficPolicy, ObjectName, Protocol, Service, ServicePort, Snapshot},
    testing::{holder, labels, pool, service},
};

const KEY: &str = "metallb.io/allow-shared-ip";
const ONE: [&str; 1] = ["192.0.2.1/32"];

fn sharer(name: &str, key: &str, ports: &[(Protocol, u16)]) -> Service {
    let mut service = service(name, "4");
    service.annotations.insert(KEY.to_owned(), key.to_owned());
    service.ports = ports
        .iter()
        .map(|(protocol, port)| ServicePort {
            protocol: *protocol,
            port: *port,
            ..Default::default()
        })
        .collect();
    service
}

const TCP80: &[(Protocol, u16)] = &[(Protocol::Tcp, 80)];
const TCP53: &[(Protocol, u16)] = &[(Protocol::Tcp, 53)];
const UDP53: &[(Protocol, u16)] = &[(Protocol::Udp, 53)];

fn one(services: impl IntoIterator<Item = Service>) -> Snapshot {
    with(&[("a", pool(&ONE))], services)
}

fn both_have_it(s: &mut Snapshot) -> bool {
    settle(s);
    held(s, "a") == ["192.0.2.1"] && held(s, "b") == ["192.0.2.1"]
}

#[test]
fn what_it_takes() {
    let local = |mut s: Service, app: &str| {
        s.external_traffic_policy = ExternalTrafficPolicy::Local;
        s.selector = labels(&[("app", app)]);
        s
    };
    let tcp = |key| sharer("a", key, TCP53);
    let udp = |key| sharer("b", key, UDP53);
    assert!(both_have_it(&mut one([tcp("k"), udp("k")])));
    assert!(!both_have_it(&mut one([tcp("k"), udp("other")])), "another key");
    assert!(!both_have_it(&mut one([tcp("k"), sharer("b", "k", TCP53)])), "the same port");
    assert!(!both_have_it(&mut one([tcp(""), udp("")])), "an empty key is none");
    assert!(!both_have_it(&mut one([tcp("k"), service("b", "4")])), "no key");
    assert!(both_have_it(&mut one([local(tcp("k"), "x"), local(udp("k"), "x")])));
    assert!(!both_have_it(&mut one([local(tcp("k"), "x"), local(udp("k"), "y")])), "selectors");
    assert!(!both_have_it(&mut one([local(tcp("k"), "x"), udp("k")])), "Local and Cluster");
    let mut elsewhere = udp("k");
    elsewhere.name = ObjectName::new("elsewhere", &elsewhere.name.name);
    let mut s = one([tcp("k"), elsewhere]);
    settle(&mut s);
    assert_eq!(held(&s, "elsewhere/b"), ["192.0.2.1"], "namespaces do not matter");
}

#[test]
fn the_lowest_that_is_free_or_can_be_shared() {
    let wide = pool(&["192.0.2.1-192.0.2.9"]);
    let at = |mut s: Service, address: &str| {
        s.ingress = holder("x", "4", &[address]).ingress;
        s
    };
    let low = at(sharer("a", "k", TCP53), "192.0.2.1");
    let mut s = with(&[("a", wide.clone())], [low, sharer("b", "k", UDP53)]);
    settle(&mut s);
    assert_eq!(held(&s, "b"), ["192.0.2.1"]);
    let high = at(sharer("a", "k", TCP53), "192.0.2.5");
    let mut s = with(&[("a", wide)], [high, sharer("b", "k", UDP53), sharer("c", "k", TCP53)]);
    settle(&mut s);
    assert_eq!(held(&s, "b"), ["192.0.2.1"], "an address that comes first is free");
    assert_eq!(held(&s, "c"), ["192.0.2.1"], "b's");
}

#[test]
fn changes_of_sharers() {
    let settled = || {
        let mut s = with(
            &[("a", pool(&["192.0.2.1-192.0.2.2"]))],
            [sharer("a", "k", TCP53), sharer("b", "k", UDP53)],
        );
        assert!(both_have_it(&mut s));
        edit(&mut s, "a").resource_version = "20".to_owned();
        edit(&mut s, "b").resource_version = "10".to_owned();
        s
    };
    // Its own ports, as long as they do not collide.
    let mut s = settled();
    edit(&mut s, "a").ports[0].port = 80;
    assert!(both_have_it(&mut s));
    // Whoever comes to collide moves; it is the one that has changed last.
    let mut s = settled();
    edit(&mut s, "a").ports[0].protocol = Protocol::Udp;
    settle(&mut s);
    assert_eq!(
        (held(&s, "a").concat(), held(&s, "b").concat()),
        ("192.0.2.2".into(), "192.0.2.1".into())
    );
    // Likewise who takes another key.
    let mut s = settled();
    annotate(&mut s, "a", KEY, "other");
    settle(&mut s);
    assert_eq!(
        (held(&s, "a").concat(), held(&s, "b").concat()),
        ("192.0.2.2".into(), "192.0.2.1".into())
    );
    // Alone it keeps its address with any key.
    let mut s = one([sharer("a", "k", TCP80)]);
    settle(&mut s);
    annotate(&mut s, "a", KEY, "other");
    assert!(settle(&mut s).is_empty());
    assert_eq!(held(&s, "a"), ["192.0.2.1"]);
}

#[test]
fn shared_addresses_count_once() {
    let mut s = one([sharer("a", "k", TCP53), sharer("b", "k", UDP53), sharer("c", "k", TCP80)]);
    settle(&mut s);
    assert_eq!(held(&s, "c"), ["192.0.2.1"]);
    assert_eq!(super::run(&s).usage["a"].assigned_v4, 1);
}
