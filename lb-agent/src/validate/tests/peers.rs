//! Peers and BFD profiles.
use super::*;

/// A peer, with some fields beside those that every peer has.
fn peer(name: &str, fields: &str) -> String {
    document(
        "BGPPeer",
        name,
        &format!("{{myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, {fields}}}"),
    )
}

fn raw(spec: &str) -> String {
    document("BGPPeer", "a", spec)
}

#[test]
fn peers_of_every_form_are_good() {
    for spec in [
        "{myASN: 64512, peerASN: 64512, peerAddress: 172.30.0.3}",
        "{myASN: 64512, peerASN: 4294967295, peerAddress: 'fc00::5', peerPort: 16384}",
        "{myASN: 64512, dynamicASN: external, interface: eth0}",
        "{myASN: 64512, peerASN: 0, dynamicASN: internal, peerAddress: '', interface: eth0}",
        "{myASN: 64512, peerASN: 64513, peerAddress: 10.0.0.1, ebgpMultiHop: true, vrf: red, \
         localASN: 1, sourceAddress: 10.0.0.2, routerID: 10.0.0.3, connectTime: 120s, password: p, \
         passwordSecret: {name: ''}, enableGracefulRestart: true, dualStackAddressFamily: true, \
         nodeSelectors: [{}]}",
        "{myASN: 64512, peerASN: 64512, peerAddress: 10.0.0.1, passwordSecret: {name: s}, \
         holdTime: 9m0s, keepaliveTime: 0s}",
    ] {
        assert_good(&raw(spec));
    }
}

#[test]
fn as_numbers() {
    let address = "peerAddress: 10.0.0.1";
    assert_bad(&raw(&format!("{{myASN: 0, peerASN: 1, {address}}}")), &["spec.myASN"]);
    assert_bad(
        &raw(&format!("{{myASN: 1, {address}}}")),
        &["spec.peerASN", "missing", "dynamicASN"],
    );
    assert_bad(
        &raw(&format!("{{myASN: 1, peerASN: 2, dynamicASN: external, {address}}}")),
        &["spec.peerASN", "\"2\"", "dynamicASN exclude each other"],
    );
    assert_bad(&raw(&format!("{{myASN: 1, peerASN: 4294967296, {address}}}")), &["spec.peerASN"]);
    let bad = serde_yaml_ng::from_str::<BGPPeerSpec>("{myASN: 1, dynamicASN: other}");
    assert!(bad.unwrap_err().to_string().contains("unknown variant"));
}

#[test]
fn addresses() {
    let asns = "myASN: 1, peerASN: 2";
    assert_bad(&raw(&format!("{{{asns}}}")), &["spec.peerAddress", "missing", "interface"]);
    assert_bad(
        &raw(&format!("{{{asns}, peerAddress: 10.0.0.1, interface: eth0}}")),
        &["spec.peerAddress", "interface exclude each other"],
    );
    assert_bad(&raw(&format!("{{{asns}, peerAddress: ten}}")), &["spec.peerAddress", "\"ten\""]);
    assert_bad(&peer("a", "sourceAddress: 1.2.3"), &["spec.sourceAddress", "\"1.2.3\""]);
    assert_bad(&peer("a", "routerID: 1.2.3.4.5"), &["spec.routerID", "192.0.2.1"]);
}

#[test]
fn several_hops_within_one_as() {
    assert_bad(
        &raw("{myASN: 1, peerASN: 1, peerAddress: 10.0.0.1, ebgpMultiHop: true}"),
        &["spec.ebgpMultiHop", "another AS"],
    );
}

#[test]
fn timers() {
    for (fields, good) in [
        ("holdTime: 0s, keepaliveTime: 0s", true),
        ("holdTime: 0s", true),
        ("keepaliveTime: 0s", true),
        ("holdTime: 3s", true),
        ("keepaliveTime: 1s", true),
        ("holdTime: 90s, keepaliveTime: 90s", true),
        ("connectTime: 65535s", true),
        ("holdTime: 1s", false),
        ("holdTime: 2900ms", false),
        ("keepaliveTime: 900ms", false),
        ("holdTime: 90s, keepaliveTime: 91s", false),
        ("holdTime: soon", false),
        ("connectTime: 0s", false),
        ("connectTime: 65536s", false),
        ("connectTime: 1500ms", false),
    ] {
        let text = peer("a", fields);
        if good {
            assert_good(&text);
        } else {
            let (field, _) = fields.rsplit(", ").next().unwrap().split_once(':').unwrap();
            assert_bad(&text, &[&format!("spec.{field}")]);
        }
    }
}

#[test]
fn password_and_secret() {
    assert_bad(
        &peer("a", "password: p, passwordSecret: {name: s}"),
        &["spec.passwordSecret.name", "\"s\"", "password exclude"],
    );
    let text = faults(&peer("a", "password: hunter2, passwordSecret: {name: s}")).join("");
    assert!(!text.contains("hunter2"), "a password is not for logs");
}

#[test]
fn node_selectors_that_are_given_twice() {
    assert_bad(&peer("a", "nodeSelectors: [{}, {}]"), &["spec.nodeSelectors[1]"]);
}

#[test]
fn ports() {
    assert_good(&peer("a", "peerPort: 0"));
    assert_bad(&peer("a", "peerPort: 16385"), &["spec.peerPort", "16384"]);
}

#[test]
fn a_bfd_profile_that_is_not_there_may_come_yet() {
    let text = peer("a", "bfdProfile: fast");
    assert_bad(&text, &["spec.bfdProfile", "\"fast\"", "not there"]);
    assert!(judge(&objects(&text)).faults(Kind::Peer, "a")[0].may_pass);
    assert_good(&(text + &document("BFDProfile", "fast", "{}")));
}

#[test]
fn bfd_values_out_of_range() {
    let all = "{receiveInterval: 10, transmitInterval: 60000, echoInterval: 50, \
               detectMultiplier: 255, minimumTtl: 254, passiveMode: true}";
    assert_good(&document("BFDProfile", "f", all));
    for (field, value) in [
        ("receiveInterval", 9),
        ("transmitInterval", 60_001),
        ("echoInterval", 0),
        ("detectMultiplier", 1),
        ("detectMultiplier", 256),
        ("minimumTtl", 0),
        ("minimumTtl", 255),
    ] {
        let profile = document("BFDProfile", "f", &format!("{{{field}: {value}}}"));
        assert_bad(&profile, &["BFDProfile f", &format!("spec.{field}: \"{value}\""), "from"]);
    }
}

#[test]
fn a_peer_of_a_bad_profile_waits_for_it() {
    let text = peer("a", "bfdProfile: f") + &document("BFDProfile", "f", "{minimumTtl: 0}");
    assert_eq!(faults(&text).len(), 2, "both are named");
}

#[test]
fn echo_and_ipv6() {
    let pool = |addresses| document("IPAddressPool", "p", &format!("{{addresses: [{addresses}]}}"));
    let echo = peer("a", "bfdProfile: f") + &document("BFDProfile", "f", "{echoMode: true}");
    let to = |peers| document("BGPAdvertisement", "adv", &format!("{{peers: [{peers}]}}"));
    assert_good(&(echo.clone() + &pool("10.0.0.0/24") + &to("")));
    let v6 = echo + &pool("'2001:db8::/120'");
    assert_good(&v6);
    assert_good(&(v6.clone() + &to("other")));
    for peers in ["", "a"] {
        let parts = ["BGPPeer a", "echoMode", "BGPAdvertisement adv", "IPAddressPool p"];
        assert_bad(&(v6.clone() + &to(peers)), &parts);
    }
}

#[test]
fn peers_of_a_node_have_one_router_id() {
    let two = peer("a", "routerID: 10.0.0.1")
        + &document("BGPPeer", "b", "{myASN: 64512, peerASN: 1, peerAddress: 192.0.2.2}");
    assert_bad(&two, &["BGPPeer b", "spec.routerID", "10.0.0.1", "BGPPeer a"]);
}

#[test]
fn peers_of_a_node_have_one_local_as_in_a_vrf() {
    let other = |vrf| format!("{{myASN: 7, peerASN: 1, peerAddress: 192.0.2.2{vrf}}}");
    let two = peer("a", "") + &document("BGPPeer", "b", &other(""));
    assert_bad(&two, &["BGPPeer b", "spec.myASN", "\"7\"", "64512", "localASN"]);
    assert_good(&(peer("a", "") + &document("BGPPeer", "b", &other(", vrf: red"))));
}

#[test]
fn a_node_has_one_session_with_an_address_or_on_an_interface() {
    let two = peer("a", "") + &peer("b", "peerPort: 180");
    assert_bad(&two, &["BGPPeer b", "spec.peerAddress", "192.0.2.1", "BGPPeer a"]);
    assert_good(&(peer("a", "") + &peer("b", "vrf: red")));
    let unnumbered = "{myASN: 1, peerASN: 2, interface: eth0}";
    let two = document("BGPPeer", "a", unnumbered) + &document("BGPPeer", "b", unnumbered);
    assert_bad(&two, &["BGPPeer b", "spec.interface", "eth0"]);
}

#[test]
fn peers_without_a_common_node_are_not_in_each_other_s_way() {
    let nodes = "---\nkind: Node\nmetadata: {name: n1, labels: {rack: a}}\n\
                 ---\nkind: Node\nmetadata: {name: n2, labels: {rack: b}}\n";
    let on =
        |name, rack| peer(name, &format!("nodeSelectors: [{{matchLabels: {{rack: {rack}}}}}]"));
    assert_good(&(on("p", "a") + &on("q", "b") + nodes));
    assert_bad(&(on("p", "a") + &on("q", "a") + nodes), &["BGPPeer q"]);
    // While no node is known, they may have some in common.
    assert_bad(&(on("p", "a") + &on("q", "b")), &["BGPPeer q"]);
}

#[test]
fn secrets_with_a_password() {
    let mut objects = objects(&peer("a", "passwordSecret: {name: s}"));
    assert_eq!(Vec::from_iter(objects.names_of_password_secrets()), ["s"]);
    assert_eq!(judge(&objects), Verdict::default(), "what is not known yet is taken for good");
    for (secret, part) in [
        (PasswordSecret::WellFormed, None),
        (PasswordSecret::Missing, Some("not there")),
        (PasswordSecret::OtherType("Opaque".to_owned()), Some("\"Opaque\"")),
        (PasswordSecret::NoPassword, Some("without a password")),
    ] {
        objects.password_secrets = [("s".to_owned(), secret)].into();
        let verdict = judge(&objects);
        let faults = verdict.faults(Kind::Peer, "a");
        assert_eq!(faults.len(), usize::from(part.is_some()), "{faults:?}");
        for (fault, part) in faults.iter().zip(part) {
            assert!(fault.may_pass, "it can be created later");
            let text = fault.to_string();
            for part in ["spec.passwordSecret.name", "\"s\"", part, "kubernetes.io/basic-auth"] {
                assert!(text.contains(part), "{part:?} is not in {text:?}");
            }
        }
    }
}
