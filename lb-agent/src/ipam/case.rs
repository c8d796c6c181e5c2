//! A Service, and what it has and wants.
use super::{
    Decision, Promise,
    pools::{ALLOCATED_FROM, Family, Pools},
    request::{Tenant, Want, addresses, deprecated_annotations},
};
use crate::{plan::Notice, snapshot::Service};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// A Service that is to have addresses.
pub(super) struct Case {
    pub(super) service: Arc<Service>,
    /// The addresses that it has, IPv4 first.
    pub(super) held: Vec<IpAddr>,
    /// It has them by a decision that the API does not show yet: with what is to be told
    /// once it does.
    pub(super) promised: Option<Vec<Notice>>,
    /// And that has not been sent to the API either.
    pub(super) unsent: bool,
    /// Its status has something else than one address per family.
    pub(super) odd: bool,
    pub(super) want: Want,
    pub(super) tenant: Tenant,
    /// The addresses that it asks for by name.
    pub(super) asked: Option<BTreeSet<IpAddr>>,
    /// What is wrong with what it asks for.
    pub(super) malformed: Option<String>,
}

/// What a look at a Service shows.
pub(super) enum Reading {
    /// It is to have addresses, as far as there are any.
    Wants(Box<Case>),
    /// It is to have none; what it has of ours is to be taken back.
    WantsNone,
    /// It is not our business.
    Foreign,
}

impl Case {
    /// Looks at a Service. A promise takes the place of what its status says. What users
    /// should be told goes to `notices`.
    pub(super) fn read(
        service: &Arc<Service>,
        promise: Option<Promise>,
        pools: &Pools,
        notices: &mut Vec<Notice>,
    ) -> Reading {
        let mut held =
            promise.as_ref().map_or_else(|| service.addresses(), |p| p.addresses.clone());
        held.sort();
        if !service.wants_address {
            let ours = service.annotations.contains_key(ALLOCATED_FROM)
                || held.iter().any(|ip| pools.held(service, *ip).is_some());
            return if ours { Reading::WantsNone } else { Reading::Foreign };
        }
        let mut warn = |reason, message| notices.push(notice(service, true, reason, message));
        for message in deprecated_annotations(service) {
            warn("deprecatedAnnotation", message);
        }
        let want = match Want::of(service) {
            Ok(want) => want,
            Err(why) => {
                if let Some((reason, message)) = why {
                    warn(reason, message);
                }
                return Reading::WantsNone;
            }
        };
        let (asked, malformed) = match addresses(service, want) {
            Ok(asked) => (asked, None),
            Err(message) => (None, Some(message)),
        };
        let families: BTreeSet<_> = held.iter().map(|ip| Family::of(*ip)).collect();
        let unreadable = promise.is_none() && has_unreadable(service);
        let odd = unreadable || families.len() != held.len();
        if odd {
            let texts: Vec<_> = service.ingress.iter().filter_map(|i| i.ip.as_deref()).collect();
            warn(
                "nolbIPsIPFamily",
                format!(
                    "status.loadBalancer.ingress has the addresses {}, which is something else \
                     than one per family: it is written anew. Leave it to the allocator; to ask \
                     for an address, use the annotation metallb.io/loadBalancerIPs.",
                    texts.join(", ")
                ),
            );
        }
        Reading::Wants(Box::new(Self {
            service: Arc::clone(service),
            held,
            unsent: promise.as_ref().is_some_and(|promise| promise.unsent),
            promised: promise.map(|promise| promise.done),
            odd,
            want,
            tenant: Tenant::of(service),
            asked,
            malformed,
        }))
    }

    /// Who may keep what two hold comes first: who has it in the API, who has changed longest
    /// ago. So who adds a port that collides moves, and not who was there.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        // Versions that are no numbers are all as old.
        let age = self.service.resource_version.parse::<u64>().unwrap_or(0);
        (self.promised.is_some(), age, self.service.name.clone())
    }
}

/// Whether a Service's status has an address that is none.
fn has_unreadable(service: &Service) -> bool {
    service.ingress.iter().filter(|i| i.ip.is_some()).count() != service.addresses().len()
}

/// Whether a Service's status and annotation say what was decided.
pub(super) fn is_written(service: &Service, decision: &Decision) -> bool {
    let mut held = service.addresses();
    held.sort();
    let recorded = service.annotations.get(ALLOCATED_FROM);
    held == decision.addresses
        && !has_unreadable(service)
        && (decision.as_it_is || recorded == decision.pool.as_deref())
}

/// A notice about a Service.
pub(super) fn notice(
    service: &Service,
    warning: bool,
    reason: &'static str,
    message: String,
) -> Notice {
    let (object, message) = (service.name.clone(), message.into());
    Notice { kind: "Service", object, warning, reason, message }
}
