use super::*;

fn name(name: &str) -> ObjectName {
    ObjectName::new("d", name)
}

fn service(service: &str, wants_address: bool, ip: Option<&str>) -> Arc<snapshot::Service> {
    Arc::new(snapshot::Service {
        name: name(service),
        wants_address,
        ingress: ip
            .map(|ip| snapshot::Ingress { ip: Some(ip.to_owned()), hostname: None })
            .into_iter()
            .collect(),
        ..Default::default()
    })
}

fn pool(addresses: &[&str]) -> Entry<IPAddressPoolSpec> {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    let spec = IPAddressPoolSpec {
        addresses,
        auto_assign: true,
        avoid_buggy_ips: false,
        service_allocation: None,
    };
    Entry::new(Default::default(), spec, Vec::new())
}

#[test]
fn a_service_that_wants_none_stays_while_it_holds_an_address_of_ours() {
    let mut index = Index::default();
    for (n, wants, ip) in [
        ("wants", true, None),
        ("holds", false, Some("192.0.2.5")),
        ("holds-v6", false, Some("2001:db8::5")),
        ("foreign", false, Some("198.51.100.1")),
    ] {
        index.set::<Service>(name(n), Some(service(n, wants, ip)));
    }
    for (n, pool) in [("trace", "p"), ("trace-foreign", "q")] {
        let mut service = service(n, false, None);
        Arc::make_mut(&mut service).annotations.insert(ALLOCATED_FROM.to_owned(), pool.to_owned());
        index.set::<Service>(name(n), Some(service));
    }
    let names = |index: &mut Index| Vec::from_iter(index.snapshot().services.keys().cloned());
    assert_eq!(names(&mut index), [name("wants")], "no pools yet");
    let pools = pool(&["192.0.2.0-192.0.2.9", "2001:db8::/120", "nonsense"]);
    index.set::<IPAddressPool>(ObjectName::new("metallb-system", "p"), Some(pools));
    assert_eq!(names(&mut index), ["holds", "holds-v6", "trace", "wants"].map(name));
}

#[test]
fn slices_come_with_their_service() {
    let mut index = Index::default();
    let slice = |n: &str, service: &str| {
        Arc::new(snapshot::EndpointSlice {
            name: name(n),
            service: service.to_owned(),
            ..Default::default()
        })
    };
    index.set::<EndpointSlice>(name("a-1"), Some(slice("a-1", "a")));
    index.set::<EndpointSlice>(name("b-1"), Some(slice("b-1", "b")));
    let foreign = ObjectName::new("elsewhere", "a-1");
    index.set::<EndpointSlice>(foreign, Some(slice("a-1", "a")));
    assert!(index.snapshot().slices.is_empty());
    index.set::<Service>(name("a"), Some(service("a", true, None)));
    let slices = |index: &mut Index| {
        let snapshot = index.snapshot();
        let slices = snapshot.slices.iter().flat_map(|(owner, slices)| {
            slices.iter().map(|slice| (owner.name.clone(), slice.name.name.clone()))
        });
        Vec::from_iter(slices)
    };
    let pair = |service: &str, slice: &str| (service.into(), slice.into());
    assert_eq!(slices(&mut index), [pair("a", "a-1")]);
    // A slice may be given to another Service.
    index.set::<EndpointSlice>(name("b-1"), Some(slice("b-1", "a")));
    assert_eq!(slices(&mut index), [pair("a", "a-1"), pair("a", "b-1")]);
    index.set::<Service>(name("b"), Some(service("b", true, None)));
    index.set::<EndpointSlice>(name("a-1"), Some(slice("a-1", "b")));
    assert_eq!(slices(&mut index), [pair("a", "b-1"), pair("b", "a-1")]);
    index.replace::<EndpointSlice>([(name("c-1"), slice("c-1", "b"))].into());
    assert_eq!(slices(&mut index), [pair("b", "c-1")]);
    index.set::<Service>(name("b"), None);
    assert!(index.snapshot().slices.is_empty());
}

#[test]
fn only_differences_count_as_changes() {
    let mut index = Index::default();
    let a = || Some(service("a", true, None));
    assert!(index.set::<Service>(name("a"), a()));
    assert!(!index.set::<Service>(name("a"), a()));
    assert!(!index.replace::<Service>([(name("a"), a().unwrap())].into()));
    assert!(index.set::<Service>(name("a"), None));
    assert!(!index.set::<Service>(name("a"), None));
    assert!(index.replace::<Service>([(name("a"), a().unwrap())].into()));
    assert!(index.replace::<Service>(Store::new()));
}

#[test]
fn only_our_namespace_s_pools_and_advertisements() {
    let scope = Scope { namespace: "metallb-system".to_owned(), ..Scope::default() };
    for (namespace, ours) in [("metallb-system", true), ("default", false)] {
        let pool: IPAddressPool = serde_yaml_ng::from_str(&format!(
            "metadata: {{name: a, namespace: {namespace}}}\nspec: {{addresses: [192.0.2.0/24]}}"
        ))
        .unwrap();
        assert_eq!(pool.reduce(&scope).unwrap().is_some(), ours);
        let l2: L2Advertisement =
            serde_yaml_ng::from_str(&format!("metadata: {{name: a, namespace: {namespace}}}"))
                .unwrap();
        assert_eq!(l2.reduce(&scope).unwrap().is_some(), ours);
    }
}

#[test]
fn an_advertisement_that_is_not_valid_is_ignored_and_its_neighbours_stand() {
    let mut index = Index::default();
    for (n, weight) in [("bad", 0), ("good", 1)] {
        let l2: L2Advertisement = serde_yaml_ng::from_str(&format!(
            "metadata: {{name: {n}}}\nspec: {{preferredNodeSelectors: [{{weight: {weight}, preference: {{}}}}]}}"
        ))
        .unwrap();
        let entry = l2.reduce(&Scope::default()).unwrap();
        index.set::<L2Advertisement>(name(n), entry);
    }
    assert_eq!(Vec::from_iter(index.snapshot().l2_advertisements.keys()), ["good"]);
    index.set::<L2Advertisement>(name("good"), None);
    assert!(index.snapshot().l2_advertisements.is_empty(), "judged anew at each change");
}

#[test]
fn services_without_any_address_are_kept_only_where_addresses_are_apart() {
    for (annotations, status, apart, kept) in [
        ("{}", "", false, false),
        ("{}", "", true, true),
        ("{metallb.io/ip-allocated-from-pool: p}", "", false, true),
        ("{}", "status: {loadBalancer: {ingress: [{hostname: a.example}]}}", false, false),
        ("{}", "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}", false, true),
    ] {
        let scope = Scope { addresses_apart: apart, ..Scope::default() };
        let text = format!(
            "metadata: {{name: a, annotations: {annotations}}}\nspec: {{type: ClusterIP}}\n{status}"
        );
        let service: Service = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(service.reduce(&scope).unwrap().is_some(), kept, "{text}");
    }
}
