//! Which address families a Service of a manifest asks for.
//!
//! A cluster gives a Service cluster addresses, and their families are the families
//! of the addresses that the load balancer gives. A manifest has no cluster behind it.
//! Where it names no `clusterIP`, the unspecified address of each family stands in, so
//! that the allocator finds what it would find in a cluster:
//!
//! - `ipFamilyPolicy` PreferDualStack or RequireDualStack, or two `ipFamilies`: both, as
//!   in a dual-stack cluster. What the pools offer of it is then the allocator's matter.
//! - else the family in `ipFamilies`, or of the address that is asked for by
//!   `metallb.io/loadBalancerIPs` or `spec.loadBalancerIP` (both, if that names both);
//! - else IPv4, or IPv6 if the pools offer nothing else.
use crate::snapshot::{self, IpFamilyPolicy};
use k8s_openapi::api::core::v1::Service;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Stands for "some cluster address of IPv4".
const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Stands for "some cluster address of IPv6".
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What a Service without cluster addresses says about families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `spec.ipFamilies`: whether each is IPv6.
    listed: Vec<bool>,
    /// `spec.ipFamilyPolicy` is given.
    has_policy: bool,
}

impl Wanted {
    /// `None` where the Service has cluster addresses, or says that it is to have none.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let given = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        if given.filter(|ip| !ip.is_empty()).count() > 0 {
            return None;
        }
        Some(Self {
            listed: spec.ip_families.iter().flatten().map(|f| f == "IPv6").collect(),
            has_policy: spec.ip_family_policy.is_some(),
        })
    }

    /// Fills in [`snapshot::Service::cluster_ips`]. `only_ipv6`: the pools offer nothing else.
    pub fn fill(&self, service: &mut snapshot::Service, only_ipv6: bool) {
        let families =
            if self.listed.is_empty() { requested(service) } else { self.listed.clone() };
        let both = families.contains(&true) && families.contains(&false);
        if both && !self.has_policy {
            service.ip_family_policy = IpFamilyPolicy::RequireDualStack;
        }
        service.ipv6_first = families.first().copied().unwrap_or(only_ipv6);
        service.cluster_ips = if service.ipv6_first { [ANY_V6, ANY_V4] } else { [ANY_V4, ANY_V6] }
            .into_iter()
            .take(if service.ip_family_policy == IpFamilyPolicy::SingleStack { 1 } else { 2 })
            .collect();
    }
}

/// Families of the addresses asked for, in order: whether each is IPv6.
fn requested(service: &snapshot::Service) -> Vec<bool> {
    let list = service.annotation("loadBalancerIPs").or(service.load_balancer_ip.as_deref());
    let addresses = list.unwrap_or_default().split(',').map(|ip| ip.trim().parse::<IpAddr>());
    addresses.flatten().map(|ip| ip.is_ipv6()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(spec: &str, annotation: &str, only_ipv6: bool) -> Option<(String, IpFamilyPolicy)> {
        let text = format!(
            "metadata: {{name: a, annotations: {{metallb.io/loadBalancerIPs: '{annotation}'}}}}\n\
             spec: {{type: LoadBalancer, {spec}}}"
        );
        let service: Service = serde_yaml_ng::from_str(&text).unwrap();
        let wanted = Wanted::of(&service)?;
        let mut reduced = crate::source::convert::service(service, None).unwrap().unwrap();
        wanted.fill(&mut reduced, only_ipv6);
        let ips = reduced.cluster_ips.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(reduced.ipv6_first, ips[0] == "::");
        Some((ips.join(" "), reduced.ip_family_policy))
    }

    #[test]
    fn families() {
        use IpFamilyPolicy::{PreferDualStack as Prefer, RequireDualStack as Require, SingleStack};
        for (spec, annotation, only_ipv6, ips, policy) in [
            ("", "", false, "0.0.0.0", SingleStack),
            ("", "", true, "::", SingleStack),
            ("ipFamilies: [IPv6]", "", false, "::", SingleStack),
            ("ipFamilies: [IPv4]", "", true, "0.0.0.0", SingleStack),
            ("ipFamilies: [IPv6, IPv4]", "", false, ":: 0.0.0.0", Require),
            ("ipFamilyPolicy: PreferDualStack", "", false, "0.0.0.0 ::", Prefer),
            ("ipFamilyPolicy: PreferDualStack", "", true, ":: 0.0.0.0", Prefer),
            ("ipFamilyPolicy: RequireDualStack", "", false, "0.0.0.0 ::", Require),
            (
                "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]",
                "",
                false,
                ":: 0.0.0.0",
                Require,
            ),
            ("ipFamilyPolicy: SingleStack", "", false, "0.0.0.0", SingleStack),
            ("", "fd00::1", false, "::", SingleStack),
            ("", "192.0.2.1, fd00::1", false, "0.0.0.0 ::", Require),
            ("loadBalancerIP: 'fd00::1'", "nonsense", false, "0.0.0.0", SingleStack),
        ] {
            let expected = (ips.to_owned(), policy);
            assert_eq!(filled(spec, annotation, only_ipv6), Some(expected), "{spec} {annotation}");
        }
    }

    #[test]
    fn given_cluster_addresses_stay() {
        for spec in ["clusterIP: 10.0.0.1", "clusterIP: None", "clusterIPs: ['fd00::1']"] {
            assert_eq!(filled(spec, "", false), None, "{spec}");
        }
        assert!(filled("clusterIP: ''", "", false).is_some());
    }
}
