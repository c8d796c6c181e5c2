use super::*;
use proptest::prelude::*;

fn scope() -> Scope {
    Scope { namespace: "metallb-system".to_owned(), ..Scope::default() }
}

fn read(text: &str) -> Parsed {
    parse(text.as_bytes(), &scope())
}

fn identities(parsed: &Parsed) -> Vec<String> {
    parsed.objects.iter().map(|o| format!("{} {}", o.identity().0, o.identity().1)).collect()
}

const ALL_KINDS: &str = "# a comment
%YAML 1.2
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ports: [{port: 80}]}
--- # next
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
...
# between
---
apiVersion: v1
kind: Node
metadata: {name: a, namespace: ignored}
---
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
--- {apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: p}, spec: {addresses: [192.0.2.0/24]}}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: bgp}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: fast}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: names}
spec: {communities: [{name: a, value: '64512:1'}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
";

#[test]
fn every_kind_and_its_namespace() {
    let expected = [
        "Service default/web",
        "EndpointSlice shop/web-1",
        "Node a",
        "Namespace shop",
        "IPAddressPool metallb-system/p",
        "L2Advertisement metallb-system/l2",
        "BGPAdvertisement metallb-system/bgp",
        "BGPPeer metallb-system/router",
        "BFDProfile metallb-system/fast",
        "Community metallb-system/names",
    ];
    for text in
        [ALL_KINDS.to_owned(), ALL_KINDS.replace('\n', "\r\n"), format!("\u{feff}{ALL_KINDS}")]
    {
        let parsed = read(&text);
        assert_eq!(parsed.faults, []);
        assert_eq!(parsed.remarks, []);
        assert_eq!(identities(&parsed), expected);
        assert_eq!(parsed.ignored.len(), 1, "{:?}", parsed.ignored);
        assert_eq!(
            parsed.ignored[0].reason,
            "Deployment web: apps/v1 Deployment is of no use here"
        );
    }
}

#[test]
fn faults_name_line_and_reason_and_leave_the_rest_alone() {
    let good = "\n---\napiVersion: v1\nkind: Node\nmetadata: {name: good}\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
    for (text, line, reason) in [
        // The list ends nowhere, so the fault is where the text ends.
        ("kind: [".to_owned(), 2, "did not find expected"),
        ("a: b\n\tc: d".to_owned(), 2, "found a tab character"),
        ("just text".to_owned(), 1, "is not a Kubernetes object"),
        ("kind: Service".to_owned(), 1, "apiVersion and kind must both be given"),
        ("apiVersion: 1\nkind: Service".to_owned(), 1, "apiVersion and kind must both be given"),
        ("apiVersion: v2\nkind: Service".to_owned(), 1, "Service ?: apiVersion v2 is unknown for this kind; v1 is meant"),
        (format!("{service}spec:\n  ports: [{{port: http}}]"), 5, "Service web: spec.ports[0].port: invalid type: string \"http\", expected i32"),
        (format!("{service}spec:\n  type: LoadBalancer\n  ports: [{{port: 0}}]"), 1, "Service web: spec.ports[0].port: 0 is not a port"),
        (format!("{service}spec: {{}}\nspec: {{}}"), 1, "duplicate entry"),
        ("apiVersion: v1\nkind: Service\nspec: {type: LoadBalancer}".to_owned(), 1, "Service ?: metadata.name: is missing"),
        ("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: p}\nspec:\n  autoAssign: true".to_owned(), 5, "IPAddressPool p: spec: missing field `addresses`"),
        ("apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: p}\nspec:\n  nodeSelectors:\n  - matchExpressions: [{key: a, operator: Is}]".to_owned(), 6, "unknown variant `Is`"),
    ] {
        let alone = read(&text);
        assert_eq!(alone.objects, [], "{text}");
        assert_eq!(alone.faults.len(), 1, "{text}: {:?}", alone.faults);
        assert!(alone.faults[0].reason.contains(reason), "{text}: {:?}", alone.faults);
        assert!(!alone.faults[0].reason.contains(" at line "), "{text}: {:?}", alone.faults);
        assert_eq!(alone.faults[0].line, line, "{text}: {:?}", alone.faults);

        // The same, six lines further down and between good documents.
        let between = read(&format!("#{good}---\n{text}{good}"));
        assert_eq!(between.faults.len(), 1, "{text}");
        let Fault { line: found, reason } = &between.faults[0];
        assert_eq!(*found, line + 6, "{text}");
        assert_eq!(reason, &alone.faults[0].reason, "{text}");
        assert_eq!(identities(&between), ["Node good", "Node good"], "{text}");
    }
}

#[test]
fn lists() {
    let parsed = read(
        "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: a}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {type: LoadBalancer, ports: [{port: x}]}}
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Node, metadata: {name: c}}]}
- text
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPoolList
items:
- {metadata: {name: p}, spec: {addresses: [192.0.2.0/24]}}
",
    );
    assert_eq!(identities(&parsed), ["Node a", "Node c", "IPAddressPool metallb-system/p"]);
    assert_eq!(parsed.faults.len(), 2);
    assert!(parsed.faults[0].reason.starts_with("items[1]: Service b: "), "{:?}", parsed.faults);
    assert!(parsed.faults[1].reason.starts_with("items[3]: is not"), "{:?}", parsed.faults);
}

#[test]
fn a_cluster_s_versions_mean_nothing() {
    let parsed = read(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, uid: u, resourceVersion: '7'}\n\
         spec: {type: LoadBalancer}",
    );
    let [Object::Service(service, _)] = &parsed.objects[..] else { panic!("{parsed:?}") };
    assert_eq!((service.uid.as_str(), service.resource_version.as_str()), ("", ""));
}

#[test]
fn what_has_no_effect_is_said() {
    for (text, expected) in [
        (
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: p, namespace: x}\nspec: {addresses: [192.0.2.0/24]}",
            "IPAddressPool p: has no effect in namespace x: only those in metallb-system are read (--namespace)",
        ),
        (
            "apiVersion: metallb.io/v1beta1\nkind: ConfigurationState\nmetadata: {name: p}",
            "ConfigurationState p: this kind has no effect",
        ),
    ] {
        let parsed = read(text);
        assert_eq!(parsed.objects, []);
        assert_eq!(parsed.remarks, [Fault { line: 1, reason: expected.to_owned() }]);
    }
}

#[test]
fn documents_that_hold_nothing() {
    for text in ["", "\n\n", "---", "---\n---\n", "# only a comment", "--- # c\n...\n", "null", "~"]
    {
        assert_eq!(read(text), Parsed::default(), "{text:?}");
    }
}

#[test]
fn text_that_is_not_utf8() {
    let parsed = parse(b"a: b\n\nc: \xff\xfe", &scope());
    assert_eq!(parsed.faults, [Fault { line: 3, reason: "is not UTF-8 text".to_owned() }]);
}

#[test]
fn markers_count_only_at_the_start_of_a_line() {
    let text = "a\n ---\n---b\n---- \n---\tc\n...\nd";
    let found: Vec<_> = documents(text).iter().map(|d| (d.first_line, d.text)).collect();
    assert_eq!(found, [(1, "a\n ---\n---b\n---- \n"), (5, "\tc\n"), (7, "d")]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse(&bytes, &scope());
    }

    #[test]
    fn manifests_with_random_damage_never_panic(
        edits in proptest::collection::vec((0..ALL_KINDS.len(), any::<u8>(), any::<bool>()), 1..12),
    ) {
        let mut bytes = ALL_KINDS.as_bytes().to_vec();
        for (at, byte, insert) in edits {
            let at = at.min(bytes.len().saturating_sub(1));
            if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        }
        parse(&bytes, &scope());
    }

    #[test]
    fn yaml_like_text_never_panics(
        tokens in proptest::collection::vec(
            prop_oneof![
                Just("---\n"), Just("...\n"), Just("- "), Just("? "), Just(": "), Just("\n"),
                Just("  "), Just("{"), Just("}"), Just("["), Just("]"), Just("&a "), Just("*a"),
                Just("!!int "), Just("|\n"), Just(">-\n"), Just("\""), Just("'"), Just("#"),
                Just("apiVersion: v1\n"), Just("kind: Service\n"), Just("kind: List\n"),
                Just("items: "), Just("metadata: "), Just("spec: "), Just("<<: "), Just("\t"),
                Just("name: a\n"), Just("é"), Just("0x1f"), Just("1e999"),
            ],
            0..60,
        ),
    ) {
        parse(tokens.concat().as_bytes(), &scope());
    }
}
