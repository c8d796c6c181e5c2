//! MetalLB's rules, one test each (those that its own tests pin), and what goes beyond them.
mod advertisements;
mod peers;
mod pools;
mod selectors;

use super::*;
use crate::api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement,
};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

fn read<T: DeserializeOwned>(document: Value) -> T {
    serde_yaml_ng::from_value(document).unwrap()
}

/// The objects of some documents; `age` stands for the order of creation.
pub(crate) fn objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let document: Value = serde::Deserialize::deserialize(document).unwrap();
        if document.is_null() {
            continue;
        }
        macro_rules! insert {
            ($object:ty, $entries:ident) => {{
                let object: $object = read(document);
                let name = object.metadata.name.clone().unwrap();
                let entry = Entry::new(object.metadata, object.spec, vec![]);
                objects.$entries.insert(name, entry);
            }};
        }
        match document["kind"].as_str().unwrap() {
            "IPAddressPool" => insert!(IPAddressPool, pools),
            "L2Advertisement" => insert!(L2Advertisement, l2_advertisements),
            "BGPAdvertisement" => insert!(BGPAdvertisement, bgp_advertisements),
            "BGPPeer" => insert!(BGPPeer, peers),
            "BFDProfile" => insert!(BFDProfile, bfd_profiles),
            "Community" => insert!(Community, communities),
            "Node" => {
                let labels: BTreeMap<_, _> = read(document["metadata"]["labels"].clone());
                let labels = labels.into_iter().collect();
                let name = document["metadata"]["name"].as_str().unwrap();
                objects.nodes.insert(name.to_owned(), labels);
            }
            other => panic!("{other}"),
        }
    }
    objects
}

/// A document of that kind, name and spec.
fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The same, created at that second.
fn created(kind: &str, name: &str, second: u8, spec: &str) -> String {
    format!(
        "---\nkind: {kind}\nmetadata: {{name: {name}, creationTimestamp: \
         '2026-01-01T00:00:{second:02}Z'}}\nspec: {spec}\n"
    )
}

/// All that is wrong, a line each: `Kind name: fault`.
fn faults(text: &str) -> Vec<String> {
    let verdict = judge(&objects(text));
    let all = verdict.iter();
    all.flat_map(|(kind, name, faults)| {
        faults.iter().map(move |fault| format!("{} {name}: {fault}", kind.name()))
    })
    .collect()
}

fn assert_good(text: &str) {
    assert_eq!(faults(text), Vec::<String>::new(), "{text}");
}

/// Exactly one thing is wrong, and each of the parts stands in the line that says so.
fn assert_bad(text: &str, parts: &[&str]) {
    let faults = faults(text);
    let [line] = &faults[..] else { panic!("{text}\n{faults:#?}") };
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn nothing_is_wrong_with_nothing() {
    assert_good("");
}

#[test]
fn a_fault_names_field_value_and_remedy() {
    let fault = Fault::new("spec.a", "x", "is not y", "write y");
    assert_eq!(fault.to_string(), "spec.a: \"x\" is not y: write y");
    assert_eq!(
        Fault::new("spec.a", "", "is missing", "give it").to_string(),
        "spec.a is missing: give it"
    );
}

#[test]
fn durations_are_those_of_go() {
    for (text, millis) in [
        ("0", Some(0)),
        ("0s", Some(0)),
        ("90s", Some(90_000)),
        ("9m0s", Some(540_000)),
        ("1h1m1.5s", Some(3_661_500)),
        (".5s", Some(500)),
        ("100ms", Some(100)),
        ("5us", Some(0)),
        ("", None),
        ("90", None),
        ("s", None),
        ("-3s", None),
        ("1d", None),
        ("1.2.3s", None),
        ("3 s", None),
        ("999999999999999999999h", None),
    ] {
        let read = values::duration(text);
        assert_eq!(read.map(|d| d.as_millis()), millis, "{text}");
    }
}

#[test]
fn communities_are_standard_or_large() {
    use values::CommunityValue::{Large, Standard};
    for (text, value) in [
        ("65535:65282", Some(Standard(65_535, 65_282))),
        ("0:0", Some(Standard(0, 0))),
        ("large:4294967295:0:7", Some(Large(u32::MAX, 0, 7))),
        ("65536:1", None),
        ("large:4294967296:0:7", None),
        ("65000", None),
        ("1:2:3", None),
        ("big:1:2:3", None),
        ("large:1:2", None),
        ("+1:2", None),
        (":", None),
        ("", None),
    ] {
        assert_eq!(values::community(text), value, "{text}");
    }
}

proptest! {
    /// Whatever text the API holds, judging comes to an end without a panic.
    #[test]
    fn any_text_is_judged(
        text in "\\PC{0,40}", address in "[0-9a-f:./ -]{0,40}", number in any::<i64>(), small in any::<i32>(),
    ) {
        let text = serde_json::to_string(&text).unwrap();
        let all = [
            document("IPAddressPool", "a", &format!("{{addresses: [{text}, '{address}', '::/0', '0.0.0.0/0']}}")),
            document("Community", "a", &format!("{{communities: [{{name: {text}, value: {text}}}]}}")),
            document("BGPAdvertisement", "a", &format!(
                "{{communities: [{text}], aggregationLength: {small}, aggregationLengthV6: {small}, localPref: {small}}}"
            )),
            document("BGPPeer", "a", &format!(
                "{{myASN: {number}, peerASN: {number}, peerAddress: {text}, holdTime: {text}, \
                 connectTime: {text}, routerID: '{address}', peerPort: {small}, \
                 nodeSelectors: [{{matchLabels: {{{text}: {text}}}}}]}}"
            )),
            document("BFDProfile", "a", &format!("{{receiveInterval: {small}}}")),
        ];
        let _ = judge(&objects(&all.concat()));
        let _ = values::duration(&address);
    }
}
