//! What a Service asks for: families, addresses, a pool, a sharing key.
use super::pools::Family;
use crate::snapshot::{ExternalTrafficPolicy, IpFamilyPolicy, Protocol, Service};
use std::{collections::BTreeSet, fmt::Write, net::IpAddr};

/// The prefix of annotations that MetalLB has deprecated, and that are still read.
const DEPRECATED: &str = "metallb.universe.tf/";

/// The families that a Service wants an address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// One.
    One(Family),
    /// Both or none.
    Both,
    /// Both if there are, else one, this one if there is.
    Prefer(Family),
}

impl Want {
    /// From the ClusterIPs and the policy. Errors are the reason and message of a warning;
    /// `None` stands for a headless Service, about which there is nothing to say.
    pub fn of(service: &Service) -> Result<Self, Option<(&'static str, String)>> {
        let families: BTreeSet<_> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
        let policy = service.ip_family_policy;
        match (families.len(), families.first()) {
            (0, _) | (_, None) => Err(None),
            (1, _) if policy == IpFamilyPolicy::RequireDualStack => Err(Some((
                "not enough clusterips",
                "spec.ipFamilyPolicy is RequireDualStack, but the Service has a ClusterIP of one \
                 family only: recreate it on a dual-stack cluster, or use PreferDualStack."
                    .to_owned(),
            ))),
            (1, Some(family)) => Ok(Self::One(*family)),
            _ if policy == IpFamilyPolicy::PreferDualStack => {
                Ok(Self::Prefer(if service.ipv6_first { Family::V6 } else { Family::V4 }))
            }
            _ => Ok(Self::Both),
        }
    }

    /// Whether addresses of these families are what is wanted.
    pub fn allows(self, families: &BTreeSet<Family>) -> bool {
        match self {
            Self::One(family) => families.len() == 1 && families.contains(&family),
            Self::Both => families.len() == 2,
            Self::Prefer(_) => !families.is_empty(),
        }
    }

    /// Whether a request for addresses of these families may be granted: they must be the
    /// families of the ClusterIPs, also under PreferDualStack.
    fn may_request(self, families: &BTreeSet<Family>) -> bool {
        match self {
            Self::One(_) => self.allows(families),
            Self::Both | Self::Prefer(_) => families.len() == 2,
        }
    }

    /// In words.
    pub(super) fn families(self) -> &'static str {
        match self {
            Self::One(Family::V4) => "one IPv4 address",
            Self::One(Family::V6) => "one IPv6 address",
            Self::Both | Self::Prefer(_) => "an IPv4 and an IPv6 address",
        }
    }
}

/// The addresses that a Service asks for by name, if it does. Errors are the message of a
/// warning `LoadBalancerFailed`.
pub fn addresses(service: &Service, want: Want) -> Result<Option<BTreeSet<IpAddr>>, String> {
    let field = service.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
    let annotation = service.annotation("loadBalancerIPs").filter(|list| !list.is_empty());
    let (from, list) = match (field, annotation) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err("spec.loadBalancerIP and the annotation metallb.io/loadBalancerIPs are \
                        both set: remove one of them."
                .to_owned());
        }
        (Some(ip), None) => ("spec.loadBalancerIP", ip),
        (None, Some(list)) => ("the annotation metallb.io/loadBalancerIPs", list),
    };
    let mut asked = BTreeSet::new();
    let mut families = BTreeSet::new();
    for text in list.split(',').map(str::trim) {
        let address: IpAddr = text.parse().map_err(|_| {
            format!("{from} names {text:?}, which is not an IP address: correct or remove it.")
        })?;
        asked.insert(address);
        if !families.insert(Family::of(address)) {
            return Err(format!(
                "{from} names more than one {} address: leave one per family.",
                Family::of(address)
            ));
        }
    }
    if !want.may_request(&families) {
        return Err(format!(
            "{from} names {list}, but by its ClusterIPs the Service needs {}: name as many.",
            want.families()
        ));
    }
    Ok(Some(asked))
}

/// What Services must have in common to share an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharingKey {
    /// The annotation's value.
    key: String,
    /// Under externalTrafficPolicy Local the selector, so that all sharers have their
    /// endpoints on the same nodes; else empty.
    backend: String,
}

/// How a Service uses an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Absent: alone, as most are.
    pub sharing: Option<Box<SharingKey>>,
    /// Its ports.
    pub ports: BTreeSet<(Protocol, u16)>,
}

impl Tenant {
    /// From its annotation, policy, selector and ports.
    pub fn of(service: &Service) -> Self {
        let key = service.annotation("allow-shared-ip").filter(|key| !key.is_empty());
        let mut backend = String::new();
        if service.external_traffic_policy == ExternalTrafficPolicy::Local {
            for (key, value) in service.selector.iter() {
                // Writing to a String cannot fail.
                let _ = write!(backend, "{key}={value},");
            }
        }
        Self {
            sharing: key.map(|key| Box::new(SharingKey { key: key.to_owned(), backend })),
            ports: service.ports.iter().map(|p| (p.protocol, p.port)).collect(),
        }
    }
}

/// The deprecated annotations in use: those whose stable form is absent.
pub fn deprecated_annotations(service: &Service) -> Vec<String> {
    ["address-pool", "loadBalancerIPs", "allow-shared-ip"]
        .into_iter()
        .filter(|name| {
            service.annotations.contains_key(&format!("{DEPRECATED}{name}"))
                && !service.annotations.contains_key(&format!("metallb.io/{name}"))
        })
        .map(|name| format!("annotation {DEPRECATED}{name} is deprecated: use metallb.io/{name}."))
        .collect()
}
