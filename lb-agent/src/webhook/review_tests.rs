use super::*;

fn known(pools: &[(&str, &str)]) -> Configuration {
    let mut objects = Objects::default();
    for (name, addresses) in pools {
        let object = json!({
            "metadata": { "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "addresses": [addresses] },
        });
        let pool: IPAddressPool = serde_json::from_value(object).unwrap();
        let entry = Entry::new(pool.metadata, pool.spec, vec![]);
        objects.pools.insert((*name).to_owned(), entry);
    }
    let verdict = validate::judge(&objects);
    Configuration { objects, verdict }
}

/// A review of an object of that kind.
fn review(kind: &str, operation: &str, namespace: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "kind": { "group": "metallb.io", "version": "v1beta1", "kind": kind },
            "name": object["metadata"]["name"].as_str().or(old["metadata"]["name"].as_str()),
            "namespace": namespace,
            "operation": operation,
            "object": object,
            "oldObject": old,
        },
    })
}

fn pool(name: &str, addresses: &str) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": { "name": name },
        "spec": { "addresses": [addresses] },
    })
}

/// The response, and its message.
fn ask(review: &Value, known: Option<&Configuration>) -> (bool, String, Vec<String>) {
    let answer = answer(review.to_string().as_bytes(), "metallb-system", known).unwrap();
    let response = &answer["response"];
    assert_eq!(response["uid"], "u");
    (
        response["allowed"].as_bool().unwrap(),
        response["status"]["message"].as_str().unwrap_or_default().to_owned(),
        serde_json::from_value(response.get("warnings").cloned().unwrap_or(json!([]))).unwrap(),
    )
}

fn create(object: &Value, known: Option<&Configuration>) -> (bool, String, Vec<String>) {
    let kind = object["kind"].as_str().unwrap();
    ask(&review(kind, "CREATE", "metallb-system", object, &Value::Null), known)
}

#[test]
fn what_is_good_is_let_in() {
    let known = known(&[("a", "10.0.0.0/24")]);
    assert_eq!(create(&pool("b", "10.0.1.0/24"), Some(&known)), (true, String::new(), vec![]));
}

#[test]
fn a_refusal_names_object_field_value_and_remedy() {
    let known = known(&[("a", "10.0.0.0/24")]);
    let (allowed, message, _) = create(&pool("b", "10.0.0.128/25"), Some(&known));
    assert!(!allowed);
    for part in ["IPAddressPool b", "spec.addresses[0]", "10.0.0.128/25", "IPAddressPool a", "take"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn who_changes_loses_however_old_it_is() {
    let mut known = known(&[("a", "10.0.0.0/24"), ("b", "10.0.1.0/24")]);
    known.objects.pools.get_mut("a").unwrap().created = 0;
    let (old, new) = (pool("a", "10.0.0.0/24"), pool("a", "10.0.0.0/16"));
    let update = review("IPAddressPool", "UPDATE", "metallb-system", &new, &old);
    let (allowed, message, _) = ask(&update, Some(&known));
    assert!(!allowed && message.contains("IPAddressPool b"), "{message}");
}

#[test]
fn an_object_may_be_changed_into_what_it_is() {
    let known = known(&[("a", "10.0.0.0/24")]);
    let (old, new) = (pool("a", "10.0.0.0/24"), pool("a", "10.0.0.0/25"));
    let update = review("IPAddressPool", "UPDATE", "metallb-system", &new, &old);
    assert!(ask(&update, Some(&known)).0);
}

#[test]
fn another_namespace_is_refused_at_creation_only() {
    let object = pool("a", "10.0.0.0/24");
    let refused = ask(&review("IPAddressPool", "CREATE", "shop", &object, &Value::Null), None);
    assert!(!refused.0 && refused.1.contains("metadata.namespace: \"shop\""), "{}", refused.1);
    assert!(refused.1.contains("metallb-system"));
    assert!(ask(&review("IPAddressPool", "UPDATE", "shop", &object, &json!({})), None).0);
}

#[test]
fn finalizers_and_annotations_of_bad_objects_may_change() {
    let mut bad = pool("a", "nonsense");
    let (old, update) = (bad.clone(), |new: &Value, old: &Value| {
        ask(&review("IPAddressPool", "UPDATE", "metallb-system", new, old), None).0
    });
    bad["metadata"]["annotations"] = json!({ "a": "b" });
    assert!(update(&bad, &old));
    bad["spec"]["autoAssign"] = false.into();
    assert!(!update(&bad, &old));
    bad["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(update(&bad, &old));
}

#[test]
fn a_bfd_profile_in_use_stays() {
    let mut known = known(&[]);
    let peer: BGPPeer = serde_json::from_value(json!({
        "metadata": { "name": "tor" },
        "spec": { "myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "bfdProfile": "fast" },
    }))
    .unwrap();
    known.objects.peers.insert("tor".to_owned(), Entry::new(peer.metadata, peer.spec, vec![]));
    let delete = |name: &str| {
        let old = json!({ "metadata": { "name": name } });
        let review = review("BFDProfile", "DELETE", "metallb-system", &Value::Null, &old);
        ask(&review, Some(&known))
    };
    let (allowed, message, _) = delete("fast");
    assert!(!allowed && message.contains("BGPPeer tor"), "{message}");
    assert!(delete("slow").0);
}

#[test]
fn what_may_come_yet_is_a_warning_only() {
    let peer = json!({
        "kind": "BGPPeer",
        "metadata": { "name": "a" },
        "spec": { "myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "bfdProfile": "fast" },
    });
    let (allowed, _, warnings) = create(&peer, Some(&known(&[])));
    assert!(allowed && warnings.len() == 1 && warnings[0].contains("\"fast\""), "{warnings:?}");
}

/// MetalLB lets everything through with it.
#[test]
fn disable_mp_is_a_warning_and_no_way_round_the_rules() {
    let mut peer = json!({
        "kind": "BGPPeer",
        "metadata": { "name": "a" },
        "spec": { "myASN": 1, "peerASN": 2, "peerAddress": "10.0.0.1", "disableMP": true },
    });
    let (allowed, _, warnings) = create(&peer, Some(&known(&[])));
    assert!(allowed && warnings[0].contains("disableMP"), "{warnings:?}");
    peer["spec"]["peerASN"] = 0.into();
    assert!(!create(&peer, Some(&known(&[]))).0);
    peer["metadata"]["namespace"] = "shop".into();
    assert!(!ask(&review("BGPPeer", "CREATE", "shop", &peer, &Value::Null), None).0);
}

#[test]
fn what_a_change_does_to_others_is_a_warning() {
    let mut known = known(&[("a", "10.0.0.0/28")]);
    let advertisement: BGPAdvertisement = serde_json::from_value(json!({
        "metadata": { "name": "rolled-up" },
        "spec": { "aggregationLength": 28 },
    }))
    .unwrap();
    let entry = Entry::new(advertisement.metadata, advertisement.spec, vec![]);
    known.objects.bgp_advertisements.insert("rolled-up".to_owned(), entry);
    known.verdict = validate::judge(&known.objects);
    let (allowed, _, warnings) = create(&pool("b", "10.0.1.0/24"), Some(&known));
    assert!(allowed && warnings.is_empty(), "{warnings:?}");
    let (old, new) = (pool("a", "10.0.0.0/28"), pool("a", "10.0.0.0/29"));
    let update = review("IPAddressPool", "UPDATE", "metallb-system", &new, &old);
    let (allowed, _, warnings) = ask(&update, Some(&known));
    assert!(allowed, "pools are not held up by advertisements");
    assert!(
        warnings.len() == 1 && warnings[0].contains("BGPAdvertisement rolled-up"),
        "{warnings:?}"
    );
}

#[test]
fn without_knowledge_an_object_is_judged_alone() {
    let (allowed, _, warnings) = create(&pool("a", "10.0.0.0/24"), None);
    assert!(allowed && warnings[0].contains("not compared"), "{warnings:?}");
    assert!(!create(&pool("a", "nonsense"), None).0);
}

#[test]
fn what_cannot_be_read_is_refused_and_what_is_not_ours_is_not() {
    let object =
        json!({ "kind": "IPAddressPool", "metadata": {"name": "a"}, "spec": {"addresses": 7} });
    let (allowed, message, _) = create(&object, None);
    assert!(!allowed && message.contains("cannot be read"), "{message}");
    assert!(create(&json!({ "kind": "Widget", "metadata": {"name": "a"} }), None).0);
    assert!(answer(b"{}", "m", None).is_err());
    assert!(answer(b"\xff", "m", None).is_err());
}
