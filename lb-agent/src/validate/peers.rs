//! Peers and BFD profiles.
use super::{
    Entry, Fault, Kind, Objects, PasswordSecret, Verdict, advertisements,
    annotations::{self, TTL_SECURITY},
    by_age, in_range, pools, selectors, values,
};
use crate::api::{BFDProfileSpec, BGPPeerSpec};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// The type of a Secret with a password.
pub(crate) const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

const ASNS: std::ops::RangeInclusive<i64> = 1..=u32::MAX as i64;

/// What is wrong with a BFDProfile.
pub(super) fn bfd_profile(spec: &BFDProfileSpec) -> Vec<Fault> {
    [
        ("spec.receiveInterval", spec.receive_interval, 10..=60_000),
        ("spec.transmitInterval", spec.transmit_interval, 10..=60_000),
        ("spec.echoInterval", spec.echo_interval, 10..=60_000),
        ("spec.detectMultiplier", spec.detect_multiplier, 2..=255),
        ("spec.minimumTtl", spec.minimum_ttl, 1..=254),
    ]
    .into_iter()
    .filter_map(|(field, value, range)| in_range(field, value?.into(), range))
    .collect()
}

/// Judges all BGPPeers.
pub(super) fn judge(objects: &Objects, verdict: &mut Verdict) {
    let mut in_force: Vec<(&str, &BGPPeerSpec)> = Vec::new();
    for (name, entry) in by_age(&objects.peers) {
        let spec = &entry.spec;
        let mut faults = alone(spec);
        faults.extend(annotations::one_value(entry, TTL_SECURITY, "required"));
        if entry.annotations.contains_key(TTL_SECURITY) && spec.ebgp_multi_hop == Some(true) {
            let problem = "is for peers one hop away, and spec.ebgpMultiHop says otherwise";
            let field = format!("metadata.annotations[{TTL_SECURITY}]");
            faults.push(Fault::new(field, "", problem, "remove one of the two"));
        }
        faults.extend(bad_profile(objects, verdict, name, spec));
        faults.extend(bad_secret(objects, spec));
        let beside = in_force.iter().filter(|(_, other)| share_a_node(objects, spec, other));
        faults.extend(beside.filter_map(|(other, other_spec)| clash(spec, other, other_spec)));
        if faults.is_empty() {
            in_force.push((name, spec));
        }
        verdict.add(Kind::Peer, name, faults);
    }
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// The Secret with a peer's password.
pub(super) fn password_secret(spec: &BGPPeerSpec) -> Option<&str> {
    spec.password_secret.as_ref().and_then(|secret| given(secret.name.as_ref()))
}

/// What is wrong with it. It may be created later, so that it is no reason to refuse a peer.
fn bad_secret(objects: &Objects, spec: &BGPPeerSpec) -> Option<Fault> {
    let name = password_secret(spec)?;
    let problem = match objects.password_secrets.get(name)? {
        PasswordSecret::WellFormed => return None,
        PasswordSecret::Missing => "names a Secret that is not there".to_owned(),
        PasswordSecret::OtherType(other) => {
            format!("names a Secret of type {other:?}, which must be {BASIC_AUTH:?}")
        }
        PasswordSecret::NoPassword => "names a Secret without a password".to_owned(),
    };
    let remedy = format!(
        "create it in the namespace of the BGPPeer, of type {BASIC_AUTH}, with the key password"
    );
    Some(Fault::new("spec.passwordSecret.name", name, problem, remedy).may_pass())
}

/// What is wrong with a peer by itself.
fn alone(spec: &BGPPeerSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(in_range("spec.myASN", spec.my_asn, ASNS));
    faults.extend(spec.local_asn.and_then(|asn| in_range("spec.localASN", asn, ASNS)));
    let peer_asn = spec.peer_asn.filter(|asn| *asn != 0);
    match (peer_asn, spec.dynamic_asn) {
        (Some(asn), None) => faults.extend(in_range("spec.peerASN", asn, ASNS)),
        (None, Some(_)) => {}
        (None, None) => faults.push(Fault::new(
            "spec.peerASN",
            "",
            "is missing",
            "give the peer's AS number, or dynamicASN",
        )),
        (Some(asn), Some(_)) => faults.push(Fault::new(
            "spec.peerASN",
            asn,
            "and dynamicASN exclude each other",
            "remove one of the two",
        )),
    }
    if peer_asn == Some(spec.my_asn) && spec.ebgp_multi_hop == Some(true) {
        faults.push(Fault::new(
            "spec.ebgpMultiHop",
            true,
            "is for peers of another AS, and this one's is the same",
            "remove it, or correct peerASN or myASN",
        ));
    }
    match (given(spec.peer_address.as_ref()), given(spec.interface.as_ref())) {
        (None, None) => faults.push(Fault::new(
            "spec.peerAddress",
            "",
            "is missing",
            "give the peer's address, or the interface that it is on",
        )),
        (Some(address), Some(_)) => faults.push(Fault::new(
            "spec.peerAddress",
            address,
            "and interface exclude each other",
            "remove one of the two",
        )),
        _ => {}
    }
    for (field, text) in
        [("spec.peerAddress", &spec.peer_address), ("spec.sourceAddress", &spec.source_address)]
    {
        if let Some(text) = given(text.as_ref())
            && text.parse::<IpAddr>().is_err()
        {
            faults.push(Fault::new(field, text, "is not an IP address", "correct it"));
        }
    }
    if let Some(id) = given(spec.router_id.as_ref())
        && id.parse::<Ipv4Addr>().is_err()
    {
        let problem = "does not have the form of an IPv4 address";
        faults.push(Fault::new("spec.routerID", id, problem, "write it as 192.0.2.1"));
    }
    // 0 is what v1beta1 has for the usual port.
    if spec.peer_port != 0 {
        faults.extend(in_range("spec.peerPort", spec.peer_port.into(), 1..=16_384));
    }
    faults.extend(selectors::check("spec.nodeSelectors", &spec.node_selectors));
    if let (Some(_), Some(secret)) = (given(spec.password.as_ref()), password_secret(spec)) {
        faults.push(Fault::new(
            "spec.passwordSecret.name",
            secret,
            "and password exclude each other",
            "remove one of the two",
        ));
    }
    faults.extend(timers(spec));
    faults
}

/// What is wrong with a peer's timers (RFC 4271, section 4.2, for the hold time).
fn timers(spec: &BGPPeerSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut read = |field: &str, text: &Option<String>| {
        let text = text.as_ref()?;
        let duration = values::duration(text);
        if duration.is_none() {
            let remedy = "write it as 90s or 1m30s";
            faults.push(Fault::new(field, text, "is not a duration", remedy));
        }
        duration
    };
    let hold = read("spec.holdTime", &spec.hold_time);
    let keepalive = read("spec.keepaliveTime", &spec.keepalive_time);
    let connect = read("spec.connectTime", &spec.connect_time);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (field, value, in_force) = match hold {
        None => {
            let hold = keepalive.map(|keepalive| keepalive.saturating_mul(3));
            ("spec.keepaliveTime", text(&spec.keepalive_time), hold)
        }
        hold => ("spec.holdTime", text(&spec.hold_time), hold),
    };
    if let Some(hold) = in_force
        && (1..3).contains(&hold.as_secs())
    {
        faults.push(Fault::new(
            field,
            value,
            "makes a hold time of less than three seconds",
            "give a hold time of 0, or of 3s or more",
        ));
    }
    if let (Some(hold), Some(keepalive)) = (hold, keepalive)
        && keepalive > hold
    {
        let value = text(&spec.keepalive_time);
        let problem = format!("is longer than holdTime ({})", text(&spec.hold_time));
        faults.push(Fault::new("spec.keepaliveTime", value, problem, "give a third of holdTime"));
    }
    if let Some(connect) = connect
        && (connect.subsec_nanos() != 0
            || !(Duration::from_secs(1)..=Duration::from_secs(65_535)).contains(&connect))
    {
        faults.push(Fault::new(
            "spec.connectTime",
            text(&spec.connect_time),
            "is out of range",
            "give whole seconds from 1s to 65535s",
        ));
    }
    faults
}

/// What is wrong with a peer's BFD profile.
fn bad_profile(
    objects: &Objects,
    verdict: &Verdict,
    name: &str,
    spec: &BGPPeerSpec,
) -> Option<Fault> {
    let profile = given(spec.bfd_profile.as_ref())?;
    let field = "spec.bfdProfile";
    let Some(entry) = objects.bfd_profiles.get(profile) else {
        let problem = "names a BFDProfile that is not there";
        return Some(Fault::new(field, profile, problem, "create or correct it").may_pass());
    };
    if !verdict.is_valid(Kind::BfdProfile, profile) {
        let problem = "names a BFDProfile that cannot be used";
        return Some(Fault::new(field, profile, problem, "correct the profile").may_pass());
    }
    if entry.spec.echo_mode != Some(true) {
        return None;
    }
    let (advertisement, pool) = announced_v6(objects, verdict, name)?;
    let problem = format!(
        "has echoMode, which does not go with IPv6, and the BGPAdvertisement {advertisement} \
         announces IPv6 addresses of the IPAddressPool {pool} to this peer"
    );
    let remedy = "take a profile without echoMode, or announce the pool to other peers";
    Some(Fault::new(field, profile, problem, remedy).may_pass())
}

/// An advertisement by which a peer is told of IPv6 addresses, and their pool.
fn announced_v6<'a>(
    objects: &'a Objects,
    verdict: &Verdict,
    peer: &str,
) -> Option<(&'a str, &'a str)> {
    let advertisements = objects.bgp_advertisements.iter().filter(|(name, entry)| {
        let peers = &entry.spec.peers;
        verdict.is_valid(Kind::BgpAdvertisement, name)
            && (peers.is_empty() || peers.iter().any(|name| name == peer))
    });
    advertisements.into_iter().find_map(|(name, entry)| {
        let mut of_v6 = advertisements::pools_of(objects, &entry.spec)
            .filter(|(pool, entry)| verdict.is_valid(Kind::Pool, pool) && pools::families(entry).1);
        of_v6.next().map(|(pool, _)| (name.as_str(), pool))
    })
}

/// Whether some node speaks to both. While no node is known, any might.
fn share_a_node(objects: &Objects, a: &BGPPeerSpec, b: &BGPPeerSpec) -> bool {
    objects.nodes.is_empty()
        || objects.nodes.values().any(|labels| {
            selectors::any_matches(&a.node_selectors, labels)
                && selectors::any_matches(&b.node_selectors, labels)
        })
}

/// What keeps a node from speaking to both peers.
fn clash(spec: &BGPPeerSpec, other: &str, other_spec: &BGPPeerSpec) -> Option<Fault> {
    let vrf = |spec: &BGPPeerSpec| spec.vrf.clone().unwrap_or_default();
    let target = |spec: &BGPPeerSpec| {
        let address = given(spec.peer_address.as_ref());
        let address = address.map(|text| text.parse::<IpAddr>().map_err(|_| text.to_owned()));
        (address, given(spec.interface.as_ref()).map(str::to_owned))
    };
    let same_vrf = vrf(spec) == vrf(other_spec);
    let id = |spec: &BGPPeerSpec| spec.router_id.clone().unwrap_or_default();
    let with = format!("the BGPPeer {other}, which is older and has nodes in common");
    if id(spec) != id(other_spec) {
        return Some(Fault::new(
            "spec.routerID",
            id(spec),
            format!("differs from {:?} of {with}", id(other_spec)),
            "give both the same, or nodeSelectors without a common node",
        ));
    }
    if same_vrf && target(spec) == target(other_spec) {
        let (field, value) = match given(spec.peer_address.as_ref()) {
            Some(address) => ("spec.peerAddress", address),
            None => ("spec.interface", given(spec.interface.as_ref()).unwrap_or_default()),
        };
        return Some(Fault::new(
            field,
            value,
            format!("is that of {with}, too"),
            "remove one of the two, or give nodeSelectors without a common node",
        ));
    }
    (same_vrf && spec.my_asn != other_spec.my_asn).then(|| {
        Fault::new(
            "spec.myASN",
            spec.my_asn,
            format!("differs from {} of {with}, in the same VRF", other_spec.my_asn),
            "give both the same (see localASN for one that only this peer is shown)",
        )
    })
}

/// A peer that uses a BFD profile.
pub(super) fn user_of<'a>(objects: &'a Objects, profile: &str) -> Option<&'a str> {
    let uses = |entry: &Entry<BGPPeerSpec>| entry.spec.bfd_profile.as_deref() == Some(profile);
    objects.peers.iter().find(|(_, entry)| uses(entry)).map(|(name, _)| name.as_str())
}
