//! Which addresses a Service may keep, and which it is given.
use super::{
    book::Book,
    case::Case,
    pools::{Family, Pool, Pools, is_buggy},
    request::Want,
};
use crate::snapshot::{Labels, Service};
use imbl::OrdMap;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// Why a Service may not keep what it holds.
pub(super) enum Loss {
    /// By what it is and what the pools say.
    Unfit(String),
    /// Another has it.
    Taken(String),
}

/// Addresses, and the pool they are from.
pub(super) type Found = (Vec<IpAddr>, Arc<Pool>);

/// What is judged by.
pub(super) struct Rules<'a> {
    pub(super) pools: &'a Pools,
    pub(super) namespaces: &'a OrdMap<String, Labels>,
    pub(super) book: &'a mut Book,
}

impl Rules<'_> {
    /// Whether a Service may keep what it holds, and of which pool that is.
    pub(super) fn may_keep(&self, case: &Case) -> Result<Arc<Pool>, Loss> {
        let pool = self.still_fit(case).map_err(Loss::Unfit)?;
        for ip in &case.held {
            let fits = self.book.fits(*ip, &case.tenant);
            fits.map_err(|why| Loss::Taken(format!("{ip} {why}")))?;
        }
        Ok(pool)
    }

    fn still_fit(&self, case: &Case) -> Result<Arc<Pool>, String> {
        let Case { service, held, .. } = case;
        let families: BTreeSet<_> = held.iter().map(|ip| Family::of(*ip)).collect();
        if !case.want.allows(&families) {
            return Err(format!(
                "by spec.clusterIPs and spec.ipFamilyPolicy it needs {}",
                case.want.families()
            ));
        }
        let mut pool: Option<&Arc<Pool>> = None;
        for ip in held {
            let of = self.pools.held(service, *ip);
            let of = of.ok_or_else(|| {
                format!(
                    "{ip} is in no IPAddressPool (any more): to have it back, add it to \
                     spec.addresses of one and ask for it"
                )
            })?;
            if let Some(pool) = pool.filter(|pool| pool.name != of.name) {
                return Err(format!(
                    "the two are in different IPAddressPools, {} and {}",
                    pool.name, of.name
                ));
            }
            pool = Some(of);
        }
        let pool = pool.ok_or("it holds none")?;
        if case.unsent && pool.refused {
            return Err(format!("IPAddressPool {} gives no new addresses", pool.name));
        }
        let wanted = service.annotation("address-pool").filter(|wanted| **wanted != *pool.name);
        if let Some(wanted) = wanted {
            return Err(format!(
                "the annotation metallb.io/address-pool now says {wanted}, and that is of \
                 IPAddressPool {}",
                pool.name
            ));
        }
        if let Some(asked) = case.asked.as_ref().filter(|asked| !asked.iter().eq(held)) {
            let asked: Vec<_> = asked.iter().copied().collect();
            return Err(format!("it now asks for {}", list(&asked)));
        }
        if !pool.refused {
            self.usable(service, pool, held)?;
        }
        Ok(Arc::clone(pool))
    }

    /// Whether a pool's rules let a Service have these addresses of it.
    fn usable(&self, service: &Service, pool: &Pool, ips: &[IpAddr]) -> Result<(), String> {
        if !pool.admits(service, self.namespaces) {
            return Err(format!(
                "spec.serviceAllocation of IPAddressPool {} does not admit Services of namespace \
                 {} with such labels: change either, or take another pool",
                pool.name, service.name.namespace
            ));
        }
        match ips.iter().find(|ip| pool.spec.avoid_buggy_ips && is_buggy(**ip)) {
            Some(ip) => Err(format!(
                "{ip} ends in 0 or 255, which spec.avoidBuggyIPs of IPAddressPool {} excludes: \
                 ask for another, or change that",
                pool.name
            )),
            None => Ok(()),
        }
    }

    /// The addresses that a Service asks for, or why it cannot have them.
    pub(super) fn find_asked(
        &self,
        case: &Case,
        asked: &BTreeSet<IpAddr>,
    ) -> Result<Found, String> {
        let ips: Vec<_> = asked.iter().copied().collect();
        let mut pool: Option<&Arc<Pool>> = None;
        for ip in &ips {
            let of = self.pools.of(*ip).ok_or_else(|| match self.pools.held(&case.service, *ip) {
                Some(refused) => format!(
                    "{ip} is asked for, but spec.addresses of IPAddressPool {} cannot be used: \
                     correct what its Events name",
                    refused.name
                ),
                None => format!(
                    "{ip} is asked for, which is in no IPAddressPool: ask for another, or add it \
                     to spec.addresses of one"
                ),
            })?;
            if let Some(other) = pool.filter(|pool| pool.name != of.name) {
                return Err(format!(
                    "{} are asked for, which are in different IPAddressPools ({} and {}): ask for \
                     two of one pool",
                    list(&ips),
                    other.name,
                    of.name
                ));
            }
            pool = Some(of);
        }
        let pool = pool.ok_or("none is asked for")?;
        let annotated = case.service.annotation("address-pool");
        if let Some(wanted) = annotated.filter(|wanted| **wanted != *pool.name) {
            return Err(format!(
                "{} is asked for, which is in IPAddressPool {}, but the annotation \
                 metallb.io/address-pool says {wanted}: change either",
                list(&ips),
                pool.name
            ));
        }
        self.usable(&case.service, pool, &ips)?;
        for ip in &ips {
            let fits = self.book.fits(*ip, &case.tenant);
            fits.map_err(|why| format!("{ip} is asked for, but {why}"))?;
        }
        Ok((ips, Arc::clone(pool)))
    }

    /// The first addresses that a Service without wishes can have, or why there are none.
    pub(super) fn find_any(&mut self, case: &Case) -> Result<Found, String> {
        let pools = self.pools;
        if let Some(name) = case.service.annotation("address-pool") {
            let pool = pools.get(name).ok_or_else(|| {
                format!(
                    "the annotation metallb.io/address-pool names {name:?}, but there is no such \
                     IPAddressPool: correct the name or create the pool"
                )
            })?;
            if pool.refused {
                return Err(format!(
                    "the annotation metallb.io/address-pool names {name}, but spec.addresses of \
                     that IPAddressPool cannot be used: correct what its Events name"
                ));
            }
            self.usable(&case.service, pool, &[])?;
            let found = self.search(case, &[pool]);
            return found.ok_or_else(|| exhausted(case.want, &[pool]));
        }
        if pools.is_empty() {
            return Err("there is no IPAddressPool: create one".to_owned());
        }
        let (mut scoped, general): (Vec<_>, Vec<_>) = pools
            .iter()
            .filter(|pool| pool.spec.auto_assign && !pool.refused)
            .filter(|pool| pool.admits(&case.service, self.namespaces))
            .partition(|pool| pool.spec.service_allocation.is_some());
        // Priority 0 stands for none and comes last.
        let priority = |pool: &&Arc<Pool>| {
            let rule = pool.spec.service_allocation.as_ref();
            rule.map(|r| r.priority).filter(|p| *p != 0).map_or((1, 0), |p| (0, p))
        };
        scoped.sort_by_key(|pool| (priority(pool), Arc::clone(&pool.name)));
        let found = self.search(case, &scoped).or_else(|| self.search(case, &general));
        found.ok_or_else(|| {
            let all: Vec<_> = scoped.into_iter().chain(general).collect();
            if all.is_empty() {
                format!(
                    "no IPAddressPool that can be used has spec.autoAssign and admits Services of \
                     namespace {} with such labels by spec.serviceAllocation: create one, or name \
                     a pool by the annotation metallb.io/address-pool",
                    case.service.name.namespace
                )
            } else {
                exhausted(case.want, &all)
            }
        })
    }

    /// The first addresses of the first of these pools that has what is wanted.
    fn search(&mut self, case: &Case, pools: &[&Arc<Pool>]) -> Option<Found> {
        let alternatives: &[&[Family]] = match case.want {
            Want::One(Family::V4) => &[&[Family::V4]],
            Want::One(Family::V6) => &[&[Family::V6]],
            Want::Both => &[&[Family::V4, Family::V6]],
            Want::Prefer(Family::V4) => &[&[Family::V4, Family::V6], &[Family::V4], &[Family::V6]],
            Want::Prefer(Family::V6) => &[&[Family::V4, Family::V6], &[Family::V6], &[Family::V4]],
        };
        alternatives.iter().find_map(|families| {
            pools.iter().find_map(|pool| {
                let first = |family: &Family| self.book.first(pool, *family, &case.tenant);
                let ips: Option<Vec<_>> = families.iter().map(first).collect();
                Some((ips?, Arc::clone(pool)))
            })
        })
    }

    /// The other family for a Service that prefers two and holds one: from the same pool.
    /// `Ok(None)` where that pool has none by design, or nothing is lacking.
    ///
    /// # Errors
    /// It has none left.
    pub(super) fn find_second(
        &mut self,
        case: &Case,
        held: &[IpAddr],
    ) -> Result<Option<(IpAddr, Arc<Pool>)>, String> {
        let ([held], Want::Prefer(_)) = (held, case.want) else { return Ok(None) };
        let family = Family::of(*held).other();
        let Some(pool) = self.pools.of(*held).filter(|pool| pool.has(family)) else {
            return Ok(None);
        };
        match self.book.first(pool, family, &case.tenant) {
            Some(ip) => Ok(Some((ip, Arc::clone(pool)))),
            None => Err(format!(
                "spec.ipFamilyPolicy is PreferDualStack, but IPAddressPool {}, which {held} is \
                 from, has no free {family} address: add some to its spec.addresses.",
                pool.name
            )),
        }
    }
}

/// Why none of these pools has what is wanted.
fn exhausted(want: Want, pools: &[&Arc<Pool>]) -> String {
    let names = pools.iter().map(|pool| &*pool.name).collect::<Vec<_>>().join(", ");
    let wanted = match want {
        Want::One(family) => format!("{family} address"),
        Want::Both => "pair of an IPv4 and an IPv6 address".to_owned(),
        Want::Prefer(_) => "address".to_owned(),
    };
    format!(
        "no free {wanted} in IPAddressPool {names}: add some to its spec.addresses or create \
         another pool"
    )
}

/// Addresses for people.
pub(super) fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
