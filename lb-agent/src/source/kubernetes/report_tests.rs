use super::*;
use crate::{
    api::{BGPPeer, IPAddressPool},
    validate::{Entry, Objects, judge},
};

fn configuration() -> Configuration {
    let mut objects = Objects::default();
    let pool: IPAddressPool = serde_json::from_value(json!({
        "metadata": { "name": "p" }, "spec": { "addresses": ["nonsense"] },
    }))
    .unwrap();
    objects.pools.insert("p".to_owned(), Entry::new(pool.metadata, pool.spec, vec![]));
    let peer: BGPPeer = serde_json::from_value(json!({
        "metadata": { "name": "tor" },
        "spec": {
            "myASN": 0, "peerASN": 2, "peerAddress": "10.0.0.1",
            "nodeSelectors": [{ "matchLabels": { "rack": "a" } }],
        },
    }))
    .unwrap();
    objects.peers.insert("tor".to_owned(), Entry::new(peer.metadata, peer.spec, vec![]));
    for rack in ["a", "b"] {
        let labels = [("rack".to_owned(), rack.to_owned())].into_iter().collect();
        objects.nodes.insert(format!("n-{rack}"), labels);
    }
    let verdict = judge(&objects);
    Configuration { objects, verdict }
}

#[test]
fn the_controller_tells_of_pools_and_each_speaker_of_what_concerns_its_node() {
    let configuration = configuration();
    let pools = errors(&configuration, |kind, _| kind == Kind::Pool);
    assert!(pools.starts_with("IPAddressPool p: spec.addresses[0]"), "{pools}");
    assert!(!pools.contains("BGPPeer"));
    let speaker =
        |node: &str| errors(&configuration, |k, name| concerns(&configuration, k, name, node));
    assert_eq!(speaker("n-a").lines().count(), 2);
    assert_eq!(speaker("n-b").lines().count(), 1, "the peer is another rack's");
    assert_eq!(speaker("unknown").lines().count(), 2);
}

#[test]
fn a_state_is_written_only_where_it_says_something_else() {
    let none = ConfigurationStateStatus::default();
    let valid = state(&none, OF_ALL, "").unwrap();
    assert_eq!(valid.result, Some(ConfigurationResult::Valid));
    let condition = &valid.conditions[0];
    assert_eq!((&*condition.type_, &*condition.status), ("configReconcilerValid", "True"));
    assert_eq!(condition.reason, "Reconciled");
    assert_eq!(state(&valid, OF_ALL, ""), None);

    let invalid = state(&valid, OF_ALL, "a: b").unwrap();
    assert_eq!(invalid.result, Some(ConfigurationResult::Invalid));
    assert_eq!(invalid.error_summary.as_deref(), Some("a: b"));
    assert_eq!(invalid.conditions[0].reason, "ConfigurationError");
    assert_eq!(invalid.conditions[0].message, "a: b");
    let other = state(&invalid, OF_ALL, "c: d").unwrap();
    let began =
        |status: &ConfigurationStateStatus| status.conditions[0].last_transition_time.clone();
    assert_eq!(began(&other), began(&invalid), "it has been invalid since then");
}

#[test]
fn long_messages_fit() {
    let condition = condition(VALID, &"ä".repeat(40_000), 3);
    assert!(condition.message.len() <= 32_768);
    assert_eq!(condition.observed_generation, Some(3));
    assert!(same(
        &condition,
        &Condition { last_transition_time: Time(Timestamp::UNIX_EPOCH), ..condition.clone() }
    ));
}

#[test]
fn labels_take_any_node_s_name() {
    assert_eq!(label_value("n1.example"), "n1.example");
    let long = format!("{}.{}", "a".repeat(62), "b".repeat(30));
    assert_eq!(label_value(&long), "a".repeat(62));
}
