//! What is written about Services, given what is there.
use super::*;
use crate::api::{MetalLBServiceBGPStatus, MetalLBServiceL2Status};

fn object(name: &str, node: &str, service: &str, told: Option<&[&str]>) -> ServiceL2Status {
    let labels =
        [(NODE, label(node)), (SERVICE_NAME, service.into()), (SERVICE_NAMESPACE, "shop".into())];
    ServiceL2Status {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
            ..ObjectMeta::default()
        },
        status: told.map(|interfaces| MetalLBServiceL2Status {
            node: Some(node.to_owned()),
            service_name: Some(service.to_owned()),
            service_namespace: Some("shop".to_owned()),
            interfaces: interfaces.iter().map(|name| interface(*name)).collect(),
        }),
        ..ServiceL2Status::default()
    }
}

fn fields(interfaces: &[&str]) -> Value {
    json!({ "interfaces": interfaces.iter().map(|name| interface(*name)).collect::<Vec<_>>() })
}

fn announced(services: &[(&str, &[&str], &[&str])]) -> Announced<Announcing> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let entry = |(service, interfaces, owners): &(&str, &[&str], &[&str])| {
        let announcing = Announcing { interfaces: texts(interfaces), owners: texts(owners) };
        (ObjectName::new("shop", *service), Arc::new(announcing))
    };
    services.iter().map(entry).collect()
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mine = [object("l2-a", "n1", "web", Some(&["eth0"]))];
    let others = [object("l2-b", "n2", "db", Some(&[])).metadata];
    let announced = announced(&[("web", &["eth0"], &["n1"])]);
    assert_eq!(actions(&mine, &others, &announced), []);
}

#[test]
fn a_new_owner_tells_so_and_removes_what_the_old_one_said() {
    let others = [object("l2-b", "n2", "web", Some(&[])).metadata];
    let announced = announced(&[("web", &[], &["n1"])]);
    let expected = [
        Action::Delete("l2-b".into()),
        Action::Create(ObjectName::new("shop", "web"), fields(&[])),
    ];
    assert_eq!(actions(&[], &others, &announced), expected);
}

#[test]
fn both_say_so_where_a_services_addresses_have_two_owners() {
    let others = [object("l2-b", "n2", "web", Some(&[])).metadata];
    let mine = [object("l2-a", "n1", "web", Some(&[]))];
    assert_eq!(actions(&mine, &others, &announced(&[("web", &[], &["n1", "n2"])])), []);
}

#[test]
fn what_was_lost_is_removed_and_twins_and_halves_are_put_right() {
    let mine = [
        object("l2-a", "n1", "gone", Some(&[])),
        object("l2-b", "n1", "web", None),
        object("l2-c", "n1", "web", Some(&[])),
        object("l2-d", "n1", "db", Some(&["eth0"])),
    ];
    let announced = announced(&[("web", &[], &["n1"]), ("db", &["eth1"], &["n1"])]);
    let expected = [
        Action::Delete("l2-a".into()),
        Action::Update("l2-b".into(), ObjectName::new("shop", "web"), fields(&[])),
        Action::Delete("l2-c".into()),
        Action::Update("l2-d".into(), ObjectName::new("shop", "db"), fields(&["eth1"])),
    ];
    assert_eq!(actions(&mine, &[], &announced), expected);
}

#[test]
fn the_peers_are_told_and_objects_of_other_nodes_are_theirs() {
    let labels = [(SERVICE_NAME, "web"), (SERVICE_NAMESPACE, "shop"), (NODE, "n1")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata = ObjectMeta {
        name: Some("bgp-a".to_owned()),
        labels: Some(labels.into()),
        ..ObjectMeta::default()
    };
    let object = |peers: &[&str]| ServiceBGPStatus {
        metadata: metadata.clone(),
        status: Some(MetalLBServiceBGPStatus {
            node: Some("n1".to_owned()),
            service_name: Some("web".to_owned()),
            service_namespace: Some("shop".to_owned()),
            peers: peers.iter().map(ToString::to_string).collect(),
        }),
        ..ServiceBGPStatus::default()
    };
    let web = ObjectName::new("shop", "web");
    let peers = ["r1", "r2"].map(str::to_owned);
    let announced = Announced::unit(web.clone(), Arc::new(BTreeSet::from(peers)));
    assert_eq!(actions(&[object(&["r1", "r2"])], &[], &announced), []);
    let expected = Action::Update("bgp-a".into(), web, json!({ "peers": ["r1", "r2"] }));
    assert_eq!(actions(&[object(&["r1"])], &[], &announced), [expected]);
    let none = Announced::<BTreeSet<String>>::new();
    assert_eq!(actions(&[object(&["r1"])], &[], &none), [Action::Delete("bgp-a".into())]);
}

#[test]
fn only_what_has_changed_is_written_again() {
    let service = |name| ObjectName::new("shop", name);
    let to = |peers: &[&str]| {
        Arc::new(peers.iter().map(ToString::to_string).collect::<BTreeSet<String>>())
    };
    let before = Announced::from_iter([
        (service("stays"), to(&["r1"])),
        (service("changes"), to(&["r1"])),
        (service("goes"), to(&["r1"])),
    ]);
    let mut known: Known =
        ["stays", "changes", "goes"].map(|name| (service(name), format!("bgp-{name}"))).into();
    let mut now = before.clone();
    now.remove(&service("goes"));
    now.insert(service("changes"), to(&["r1", "r2"]));
    now.insert(service("comes"), to(&["r2"]));
    let expected = [
        Action::Update(
            "bgp-changes".to_owned(),
            service("changes"),
            json!({ "peers": ["r1", "r2"] }),
        ),
        Action::Create(service("comes"), json!({ "peers": ["r2"] })),
        Action::Delete("bgp-goes".to_owned()),
    ];
    assert_eq!(changes(&before, &now, &mut known), expected);
    assert_eq!(known.len(), 2, "what is created is known once it is there");
    assert_eq!(changes(&now, &now.clone(), &mut known), []);
}

#[test]
fn long_names_of_nodes_fit_into_labels_and_stay_apart() {
    let long = |end| format!("{}{end}", "n".repeat(200));
    assert_eq!(label("n1"), "n1");
    assert_eq!(label(&long("a")).len(), 63);
    assert_ne!(label(&long("a")), label(&long("b")));
}
