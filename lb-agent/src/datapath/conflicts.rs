//! Which network plugin runs on this node, and what of it an operator should know before a client
//! finds out. [`check`](super::check) tells it; what stands behind each is in `docs/cni.md`.
use super::{
    Error,
    check::{Finding, Verdict},
    netlink,
};
use aya::programs::loaded_programs;
use futures::TryStreamExt as _;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::Handle;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What was seen of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All interfaces of the network namespace.
    pub interfaces: BTreeSet<String>,
    /// Those of them that belong to Open vSwitch.
    pub open_vswitch: BTreeSet<String>,
    /// The interfaces that VIP traffic arrives on.
    pub uplinks: BTreeSet<String>,
    /// The names of all loaded BPF programs, of 15 characters at most.
    pub programs: BTreeSet<String>,
    /// The reverse path filter in force on each uplink (`ip-sysctl.rst`: 0 none, 1 strict, 2 loose).
    pub reverse_path_filter: BTreeMap<String, u8>,
}

/// A network plugin, and how it is known.
struct Plugin {
    name: &'static str,
    /// [`Verdict::Good`]: works as it is, and is told because it is good to know.
    verdict: Verdict,
    /// Beginnings of names of interfaces that only it makes.
    interfaces: &'static [&'static str],
    /// Beginnings of names of programs that only it loads: if there are any, one must be there.
    programs: &'static [&'static str],
    remedy: &'static str,
}

const PLUGINS: [Plugin; 9] = [
    Plugin {
        name: "Cilium",
        verdict: Verdict::Good,
        interfaces: &["cilium_"],
        programs: &[],
        remedy: "give Services to one of the two only: leave Cilium's LB IPAM, L2 announcements and BGP off, or tell them apart by spec.loadBalancerClass; policies see clients as entity world",
    },
    Plugin {
        name: "Cilium's XDP acceleration",
        verdict: Verdict::Warning,
        interfaces: &["cilium_"],
        programs: &["cil_xdp_entry"],
        remedy: "set loadBalancer.acceleration=disabled in Cilium: an interface takes one XDP program",
    },
    Plugin {
        name: "Calico",
        verdict: Verdict::Good,
        interfaces: &["cali", "vxlan.calico", "vxlan-v6.calico"],
        programs: &[],
        remedy: "leave Calico's LoadBalancer controller off (assignIPs: RequestedServicesOnly) and serviceLoadBalancerIPs unset; policies see the client's own address",
    },
    Plugin {
        name: "Calico's eBPF data plane",
        verdict: Verdict::Good,
        interfaces: &["cali"],
        programs: &["cali_tc_", "calico_tc_"],
        remedy: "have no HostEndpoint on uplinks, or use --delivery kernel; keep bpfEnforceRPF at Loose on nodes with several uplinks",
    },
    Plugin {
        name: "Kube-OVN",
        verdict: Verdict::Good,
        interfaces: &["ovn0"],
        programs: &[],
        remedy: "serve pods of underlay subnets and of subnets with a centralized gateway by --delivery kernel: their replies do not pass the node's own stack",
    },
    Plugin {
        name: "Antrea",
        verdict: Verdict::Good,
        interfaces: &["antrea-gw0"],
        programs: &[],
        remedy: "give no Service of Herald the annotation service.antrea.io/external-ip-pool",
    },
    Plugin {
        name: "kube-router",
        verdict: Verdict::Good,
        interfaces: &["kube-bridge", "kube-dummy-if"],
        programs: &[],
        remedy: "start kube-router without --run-loadbalancer and without --advertise-loadbalancer-ip",
    },
    Plugin {
        name: "flannel",
        verdict: Verdict::Good,
        interfaces: &["flannel.", "flannel-v6.", "flannel-wg"],
        programs: &[],
        remedy: "nothing is to be done",
    },
    Plugin {
        name: "IPVS",
        verdict: Verdict::Good,
        interfaces: &["kube-ipvs0"],
        programs: &[],
        remedy: "nothing is to be done: strictARP may be on or off",
    },
];

/// What of all that was seen concerns Herald, warnings first.
pub fn findings(observed: &Observed) -> Vec<Finding> {
    let mut findings: Vec<_> =
        PLUGINS.iter().filter_map(|plugin| plugin.finding(observed)).collect();
    let in_switch: Vec<_> = observed.uplinks.intersection(&observed.open_vswitch).collect();
    if !in_switch.is_empty() {
        findings.push(finding(
            "an uplink of Open vSwitch",
            Verdict::Warning,
            &listed(in_switch),
            "such an interface has no native XDP, and pods that the switch connects to the network do not answer through it: use --delivery kernel, or name another interface with --interfaces",
        ));
    }
    let strict: Vec<_> = observed
        .reverse_path_filter
        .iter()
        .filter(|(_, mode)| **mode == 1)
        .map(|(name, _)| name)
        .collect();
    if !strict.is_empty() && observed.uplinks.len() > 1 {
        findings.push(finding(
            "strict reverse path filter on several uplinks",
            Verdict::Warning,
            &listed(strict),
            "a client's packet that comes in by another interface than its answer leaves by is dropped: set net.ipv4.conf.all.rp_filter and those of the uplinks to 2",
        ));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    findings
}

fn finding(what: &'static str, verdict: Verdict, found: &str, remedy: &str) -> Finding {
    Finding { what, verdict, found: format!("{found}: {remedy}") }
}

impl Plugin {
    fn finding(&self, observed: &Observed) -> Option<Finding> {
        let Self { name, verdict, interfaces, programs, remedy } = *self;
        let interface = first_of(interfaces, &observed.interfaces)?;
        let program = first_of(programs, &observed.programs);
        if program.is_none() && !programs.is_empty() {
            return None;
        }
        let found = match program {
            Some(program) => format!("interface {interface} and program {program}"),
            None => format!("interface {interface}"),
        };
        Some(finding(name, verdict, &found, remedy))
    }
}

/// The first name that begins with one of these.
fn first_of<'a>(beginnings: &[&str], names: &'a BTreeSet<String>) -> Option<&'a str> {
    beginnings
        .iter()
        .find_map(|beginning| names.iter().find(|name| name.starts_with(beginning)))
        .map(String::as_str)
}

fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Looks at the calling thread's network namespace.
///
/// # Errors
///
/// [`Error::Netlink`]; what else cannot be read counts as absent.
pub async fn observe(
    handle: &Handle,
    uplinks: impl IntoIterator<Item = &str>,
) -> Result<Observed, Error> {
    let mut observed = Observed {
        uplinks: uplinks.into_iter().map(Into::into).collect(),
        programs: loaded_programs()
            .flatten()
            .filter_map(|program| program.name_as_str().map(Into::into))
            .collect(),
        ..Observed::default()
    };
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(netlink::failed("read interfaces"))? {
        let mut name = None;
        let mut open_vswitch = false;
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::LinkInfo(info) => {
                    open_vswitch = info.iter().any(|info| {
                        matches!(info, LinkInfo::Kind(InfoKind::Other(kind)) if kind == "openvswitch")
                    });
                }
                _ => {}
            }
        }
        let Some(name) = name else { continue };
        if open_vswitch {
            observed.open_vswitch.insert(name.clone());
        }
        observed.interfaces.insert(name);
    }
    for name in &observed.uplinks {
        // The stricter of the two is in force.
        let mode = reverse_path_filter("all").max(reverse_path_filter(name));
        observed.reverse_path_filter.extend(mode.map(|mode| (name.clone(), mode)));
    }
    Ok(observed)
}

fn reverse_path_filter(interface: &str) -> Option<u8> {
    let path = Path::new("/proc/sys/net/ipv4/conf").join(interface).join("rp_filter");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(Into::into).collect()
    }

    fn found(observed: &Observed) -> Vec<&'static str> {
        findings(observed).iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn plugins_are_known_by_their_interfaces() {
        for (interfaces, expected) in [
            ("lo eth0 cilium_host cilium_net lxc1a2b", &["Cilium"][..]),
            ("lo eth0 cali1234 vxlan.calico", &["Calico"]),
            ("lo eth0 flannel.1 cni0 veth1", &["flannel"]),
            ("lo eth0 flannel.1 cali1234", &["Calico", "flannel"]),
            ("lo br-ext ovn0 mirror0", &["Kube-OVN"]),
            ("lo eth0 antrea-gw0", &["Antrea"]),
            ("lo eth0 kube-bridge kube-dummy-if", &["kube-router"]),
            ("lo eth0 kube-ipvs0", &["IPVS"]),
            ("lo eth0 cni0 veth1", &[]),
            ("", &[]),
        ] {
            let observed = Observed { interfaces: names(interfaces), ..Observed::default() };
            assert_eq!(found(&observed), expected, "{interfaces}");
        }
    }

    #[test]
    fn a_program_that_holds_xdp_is_a_warning_and_comes_first() {
        let observed = Observed {
            interfaces: names("eth0 cilium_host"),
            programs: names("cil_from_netdev cil_xdp_entry herald_ingress"),
            ..Observed::default()
        };
        assert_eq!(found(&observed), ["Cilium's XDP acceleration", "Cilium"]);
        assert!(findings(&observed)[0].found.contains("cil_xdp_entry"));
    }

    #[test]
    fn programs_of_another_machines_plugin_say_nothing() {
        // Programs are the whole kernel's, interfaces the namespace's.
        let observed = Observed { programs: names("cil_xdp_entry"), ..Observed::default() };
        assert_eq!(found(&observed), [""; 0]);
    }

    #[test]
    fn a_strict_filter_matters_with_several_uplinks() {
        let strict = |uplinks: &str| Observed {
            uplinks: names(uplinks),
            reverse_path_filter: names(uplinks).into_iter().map(|name| (name, 1)).collect(),
            ..Observed::default()
        };
        assert_eq!(found(&strict("eth0")), [""; 0]);
        assert_eq!(found(&strict("eth0 eth1")), ["strict reverse path filter on several uplinks"]);
    }

    #[test]
    fn an_uplink_in_a_switch_is_told() {
        let observed = Observed {
            uplinks: names("br-ext"),
            open_vswitch: names("br-ext br-int"),
            ..Observed::default()
        };
        assert_eq!(found(&observed), ["an uplink of Open vSwitch"]);
    }

    proptest! {
        #[test]
        fn whatever_the_names_are(
            interfaces in proptest::collection::btree_set(".{0,15}", 0..20),
            programs in proptest::collection::btree_set(".{0,15}", 0..20),
        ) {
            let uplinks = interfaces.clone();
            for finding in findings(&Observed { interfaces, programs, uplinks, ..Observed::default() }) {
                prop_assert!(!finding.found.starts_with(": ") && !finding.found.ends_with(": "));
            }
        }
    }
}
