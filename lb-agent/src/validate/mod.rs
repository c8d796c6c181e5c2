//! Which objects of the configuration can be used, and what is wrong with the others.
//!
//! Object by object: what is wrong with one is reported and leaves it out of force, and its
//! neighbours stand. Where two are in each other's way, the older stands, and of two of the same
//! age the first by name. What is judged is what the API says now, so that all agents, the
//! webhook and an agent that has just started come to the same result.
mod advertisements;
mod annotations;
mod peers;
mod pools;
mod selectors;
mod values;

pub(crate) use annotations::{LINK_BANDWIDTH, TTL_SECURITY};
pub(crate) use peers::BASIC_AUTH;
pub(crate) use values::duration;

use crate::{
    api::{
        self, BFDProfileSpec, BGPAdvertisementSpec, BGPPeerSpec, CommunitySpec, Condition,
        IPAddressPoolSpec, L2AdvertisementSpec,
    },
    snapshot::Labels,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A kind of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `IPAddressPool`
    Pool,
    /// `L2Advertisement`
    L2Advertisement,
    /// `BGPAdvertisement`
    BgpAdvertisement,
    /// `BGPPeer`
    Peer,
    /// `BFDProfile`
    BfdProfile,
    /// `Community`
    Community,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pool,
        Self::L2Advertisement,
        Self::BgpAdvertisement,
        Self::Peer,
        Self::BfdProfile,
        Self::Community,
    ];

    /// Its name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::BgpAdvertisement => "BGPAdvertisement",
            Self::Peer => "BGPPeer",
            Self::BfdProfile => "BFDProfile",
            Self::Community => "Community",
        }
    }
}

/// An object, of the namespace that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<S> {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
    /// When it was created, in seconds since 1970; 0 in manifests.
    pub created: i64,
    /// Its labels.
    pub labels: Labels,
    /// Those of its annotations that are Herald's own.
    pub annotations: BTreeMap<String, String>,
    /// What it asks for.
    pub spec: S,
    /// `status.conditions`, as they stand in the API.
    pub conditions: Vec<Condition>,
}

impl<S> Entry<S> {
    /// The object of these parts.
    pub fn new(meta: ObjectMeta, spec: S, conditions: Vec<Condition>) -> Self {
        Self {
            created: api::created(&meta),
            uid: meta.uid.unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default().into_iter().collect(),
            annotations: own(meta.annotations.unwrap_or_default()),
            spec,
            conditions,
        }
    }
}

fn own(mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.retain(|name, _| name.starts_with("herald-lb.io/"));
    annotations
}

/// The objects of one kind by name.
pub type Entries<S> = BTreeMap<String, Entry<S>>;

/// The whole configuration, and what it is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// `IPAddressPool`
    pub pools: Entries<IPAddressPoolSpec>,
    /// `L2Advertisement`
    pub l2_advertisements: Entries<L2AdvertisementSpec>,
    /// `BGPAdvertisement`
    pub bgp_advertisements: Entries<BGPAdvertisementSpec>,
    /// `BGPPeer`
    pub peers: Entries<BGPPeerSpec>,
    /// `BFDProfile`
    pub bfd_profiles: Entries<BFDProfileSpec>,
    /// `Community`
    pub communities: Entries<CommunitySpec>,
    /// Labels of the nodes.
    pub nodes: BTreeMap<String, Labels>,
    /// Of the Secrets that BGPPeers name, those that were looked at. The others are taken for good.
    pub password_secrets: BTreeMap<String, PasswordSecret>,
}

/// What can be said of a Secret with a peer's password without keeping the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSecret {
    /// It has one.
    WellFormed,
    /// There is no such Secret.
    Missing,
    /// Its `type` is another than `kubernetes.io/basic-auth`.
    OtherType(String),
    /// It has no key `password`, or nothing in it.
    NoPassword,
}

impl Objects {
    /// The Secrets that BGPPeers name.
    pub fn names_of_password_secrets(&self) -> BTreeSet<&str> {
        self.peers.values().filter_map(|entry| peers::password_secret(&entry.spec)).collect()
    }

    /// A `BGPPeer` that uses a `BFDProfile`.
    pub fn user_of_bfd_profile(&self, profile: &str) -> Option<&str> {
        peers::user_of(self, profile)
    }
}

/// What is wrong with a field of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The field, as a path from the object.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// The way out.
    pub remedy: String,
    /// It may right itself when other objects come: objects may be applied in any order, so
    /// that this is no reason to refuse one.
    pub may_pass: bool,
}

impl Fault {
    fn new(
        field: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            value: value.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
            may_pass: false,
        }
    }

    fn may_pass(self) -> Self {
        Self { may_pass: true, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, problem, remedy, .. } = self;
        write!(f, "{field}")?;
        if !value.is_empty() {
            write!(f, ": {value:?}")?;
        }
        write!(f, " {problem}: {remedy}")
    }
}

/// What is wrong, by object; those that can be used are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    faults: BTreeMap<(Kind, String), Vec<Fault>>,
}

impl Verdict {
    /// What is wrong with an object; nothing if it can be used.
    pub fn faults(&self, kind: Kind, name: &str) -> &[Fault] {
        self.faults.get(&(kind, name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Whether an object can be used.
    pub fn is_valid(&self, kind: Kind, name: &str) -> bool {
        self.faults(kind, name).is_empty()
    }

    /// All objects that cannot be used.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &str, &[Fault])> {
        self.faults.iter().map(|((kind, name), faults)| (*kind, name.as_str(), faults.as_slice()))
    }

    fn add(&mut self, kind: Kind, name: &str, faults: impl IntoIterator<Item = Fault>) {
        let faults = Vec::from_iter(faults);
        if !faults.is_empty() {
            self.faults.entry((kind, name.to_owned())).or_default().extend(faults);
        }
    }
}

/// Judges everything.
pub fn judge(objects: &Objects) -> Verdict {
    let mut verdict = Verdict::default();
    pools::judge(objects, &mut verdict);
    for (name, entry) in &objects.l2_advertisements {
        verdict.add(Kind::L2Advertisement, name, advertisements::l2(&entry.spec));
    }
    for (name, entry) in &objects.bfd_profiles {
        verdict.add(Kind::BfdProfile, name, peers::bfd_profile(&entry.spec));
    }
    let aliases = advertisements::communities(objects, &mut verdict);
    advertisements::bgp(objects, &aliases, &mut verdict);
    peers::judge(objects, &mut verdict);
    verdict
}

/// Older objects first, those of the same age by name.
fn by_age<S>(entries: &Entries<S>) -> Vec<(&str, &Entry<S>)> {
    let mut list: Vec<_> = entries.iter().map(|(name, entry)| (name.as_str(), entry)).collect();
    list.sort_by_key(|(name, entry)| (entry.created, *name));
    list
}

/// The first of each value that is given more than once.
fn duplicates<'a>(field: &'a str, list: &'a [String]) -> impl Iterator<Item = Fault> + 'a {
    let mut seen = BTreeSet::new();
    list.iter().enumerate().filter(move |(_, value)| !seen.insert(value.as_str())).map(
        move |(i, value)| {
            Fault::new(format!("{field}[{i}]"), value, "is given twice", "remove one of the two")
        },
    )
}

/// A whole number that must be in a range.
fn in_range(field: &str, value: i64, range: std::ops::RangeInclusive<i64>) -> Option<Fault> {
    let (low, high) = (range.start(), range.end());
    (!range.contains(&value)).then(|| {
        Fault::new(field, value, "is out of range", format!("give a number from {low} to {high}"))
    })
}

#[cfg(test)]
pub(crate) mod tests;
