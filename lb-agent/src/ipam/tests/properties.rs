use super::{allocate, run, with, write};
use crate::{
    ipam::pools::Pools,
    snapshot::{
        ExternalTrafficPolicy, Ingress, IpAddressPool, IpFamilyPolicy, Protocol, Service,
        ServicePort, Snapshot,
    },
    testing::{pool, service},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

fn any_pool() -> impl Strategy<Value = IpAddressPool> {
    let entry = prop_oneof![
        (0..12u8, 0..6u8).prop_map(|(a, n)| format!("192.0.2.{a}-192.0.2.{}", a + n)),
        (0..12u8, 0..6u8).prop_map(|(a, n)| format!("2001:db8::{a:x}-2001:db8::{:x}", a + n)),
        (252..=255u8).prop_map(|a| format!("192.0.2.{a}/31")),
        Just("nonsense".to_owned()),
    ];
    let entries = prop::collection::vec(entry, 1..3);
    (entries, prop::bool::weighted(0.8), prop::bool::weighted(0.2)).prop_map(
        |(list, auto, buggy)| IpAddressPool {
            addresses: list,
            auto_assign: auto,
            avoid_buggy_ips: buggy,
            ..Default::default()
        },
    )
}

fn any_address() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0..16u8).prop_map(|a| format!("192.0.2.{a}")),
        4 => (0..16u8).prop_map(|a| format!("2001:db8::{a:x}")),
        1 => Just("nonsense".to_owned()),
    ]
}

fn any_service() -> impl Strategy<Value = Service> {
    let families = prop::sample::select(vec!["4", "6", "46", ""]);
    let policy = prop::sample::select(vec![
        IpFamilyPolicy::SingleStack,
        IpFamilyPolicy::PreferDualStack,
        IpFamilyPolicy::RequireDualStack,
    ]);
    let annotations = (
        prop::option::weighted(0.2, prop::sample::select(vec!["p0", "p1", "p9"])),
        prop::option::weighted(0.2, prop::collection::vec(any_address(), 1..3)),
        prop::option::weighted(0.4, prop::sample::select(vec!["k", "l"])),
    );
    let status = prop::collection::vec(any_address(), 0..3);
    let rest = (prop::bool::weighted(0.9), 0..3u16, any::<bool>(), 0..5u32);
    (families, policy, annotations, status, rest).prop_map(
        |(families, policy, (pool, ips, key), status, (wants, port, local, version))| {
            let mut s = service("s", families);
            s.ip_family_policy = policy;
            s.wants_address = wants;
            s.resource_version = version.to_string();
            s.ports = vec![ServicePort { port, protocol: Protocol::Tcp, ..Default::default() }];
            if local {
                s.external_traffic_policy = ExternalTrafficPolicy::Local;
            }
            let mut set = |name: &str, value: Option<String>| {
                s.annotations.extend(value.map(|v| (format!("metallb.io/{name}"), v)));
            };
            set("address-pool", pool.map(str::to_owned));
            set("loadBalancerIPs", ips.map(|ips| ips.join(",")));
            set("allow-shared-ip", key.map(str::to_owned));
            s.ingress =
                status.into_iter().map(|ip| Ingress { ip: Some(ip), hostname: None }).collect();
            s
        },
    )
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let pools = prop::collection::vec(any_pool(), 0..4);
    (pools, prop::collection::vec(any_service(), 0..14)).prop_map(|(pools, services)| {
        let named = services.into_iter().enumerate().map(|(i, mut s)| {
            s.name = s.name.beside(&format!("s{i:02}"));
            s
        });
        let pools = pools.into_iter().enumerate().map(|(i, p)| (format!("p{i}"), p));
        Snapshot { pools: pools.collect(), ..Default::default() }.with_services(named)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..Default::default() })]

    #[test]
    fn an_allocation_is_lawful_and_settles(mut snapshot in any_snapshot()) {
        let before = snapshot.clone();
        let allocation = run(&snapshot);
        prop_assert_eq!(&allocation, &run(&snapshot));
        write(&mut snapshot, &allocation.changes);
        let again = run(&snapshot);
        prop_assert!(again.changes.is_empty(), "settles at once: {:?}", again.changes);

        let (pools, _) = Pools::new(&snapshot);
        let mut tenants = BTreeMap::<IpAddr, Vec<&Service>>::new();
        for (name, s) in &snapshot.services {
            let ips = s.addresses();
            prop_assert_eq!(ips.len(), s.ingress.len().min(ips.len()));
            if !s.wants_address {
                continue;
            }
            let families: BTreeSet<_> = ips.iter().map(IpAddr::is_ipv6).collect();
            prop_assert_eq!(families.len(), ips.len(), "one per family");
            for ip in &ips {
                let cluster = s.cluster_ips.iter().any(|c| c.is_ipv6() == ip.is_ipv6());
                prop_assert!(cluster, "{} has no ClusterIP like {}", name, ip);
                prop_assert!(pools.held(s, *ip).is_some(), "{} is in no pool", ip);
                tenants.entry(*ip).or_default().push(s);
            }
            if s.ip_family_policy == IpFamilyPolicy::RequireDualStack {
                prop_assert!(ips.is_empty() || ips.len() == 2);
            }
            if ips.len() == 2 {
                let names = [ips[0], ips[1]].map(|ip| pools.held(s, ip).unwrap().name.clone());
                prop_assert_eq!(&names[0], &names[1], "both from one pool");
            }
            // Who is left without has been told, unless it is headless.
            if ips.is_empty() && !s.cluster_ips.is_empty() {
                prop_assert!(allocation.notices.iter().any(|n| n.warning && n.object == *name));
            }
            // A Service that asks for nothing goes without only if nothing is free.
            let plain = !s.annotations.keys().any(|k| k.contains("address-pool") || k.contains("IPs"));
            if ips.is_empty() && plain && s.cluster_ips.len() == 1
                && s.ip_family_policy != IpFamilyPolicy::RequireDualStack
            {
                let six = s.cluster_ips[0].is_ipv6();
                for n in 0..=255u8 {
                    let ip: IpAddr = match six {
                        true => format!("2001:db8::{n:x}").parse().unwrap(),
                        false => IpAddr::from([192, 0, 2, n]),
                    };
                    let taken = snapshot.services.values().any(|o| o.addresses().contains(&ip));
                    let usable = pools.of(ip).is_some_and(|p| {
                        let avoid = p.spec.avoid_buggy_ips && !six && matches!(n, 0 | 255);
                        p.spec.auto_assign && !avoid
                    });
                    prop_assert!(taken || !usable, "{} could have had {}", name, ip);
                }
            }
        }
        for (ip, sharers) in tenants {
            for (i, a) in sharers.iter().enumerate() {
                for b in &sharers[i + 1..] {
                    prop_assert!(a.annotation("allow-shared-ip").is_some(), "{}", ip);
                    prop_assert_eq!(a.annotation("allow-shared-ip"), b.annotation("allow-shared-ip"));
                    prop_assert!(a.ports[0] != b.ports[0], "{} has a port twice", ip);
                }
            }
        }
        // Some holder of an address that is wanted keeps it: addresses do not change hands
        // for no reason.
        for (name, s) in &before.services {
            let after = snapshot.services[name].addresses();
            let lost = s.addresses().iter().any(|ip| !after.contains(ip));
            if lost && s.wants_address && !s.cluster_ips.is_empty() {
                prop_assert!(allocation.notices.iter().any(|n| n.object == *name));
            }
        }
    }

    #[test]
    fn later_arrivals_disturb_nobody(mut snapshot in any_snapshot(), more in prop::collection::vec(any_service(), 1..6)) {
        let changes = run(&snapshot).changes;
        write(&mut snapshot, &changes);
        let newcomers = more.into_iter().enumerate().map(|(i, mut s)| {
            s.name = s.name.beside(&format!("a{i}"));
            s.ingress.clear();
            s
        });
        let settled: BTreeSet<_> =
            snapshot.services.values().filter(|s| !s.addresses().is_empty()).map(|s| s.name.clone()).collect();
        let changes = run(&snapshot.clone().with_services(newcomers)).changes;
        prop_assert!(changes.iter().all(|c| !settled.contains(&c.service)), "{:?}", changes);
    }
}

/// 10,000 Services; limits are generous because tests are not optimised and share the machine.
#[test]
fn large_pools_cost_nothing() {
    let pools = [
        ("four", pool(&["10.0.0.0/16"])),
        (
            "six",
            IpAddressPool { avoid_buggy_ips: true, ..pool(&["2001:db8::/64", "198.18.0.0/15"]) },
        ),
    ];
    let names: Vec<_> = (0..10_000).map(|i| format!("s{i:05}")).collect();
    let services = |key: bool| {
        names.iter().enumerate().map(move |(i, n)| {
            let mut s = service(n, if i % 2 == 0 { "4" } else { "6" });
            if key {
                s.annotations.insert("metallb.io/allow-shared-ip".to_owned(), "k".to_owned());
            }
            s
        })
    };
    for key in [false, true] {
        let mut snapshot = with(&pools, services(key));
        let start = Instant::now();
        let changes = run(&snapshot).changes;
        let fresh = start.elapsed();
        assert_eq!(changes.len(), 10_000);
        let distinct: BTreeSet<_> = changes.iter().flat_map(|c| &c.addresses).collect();
        assert_eq!(distinct.len(), 10_000);
        write(&mut snapshot, &changes);
        let start = Instant::now();
        assert!(allocate(&snapshot, &BTreeMap::new()).changes.is_empty());
        let settled = start.elapsed();
        println!("10,000 Services, sharing {key}: fresh {fresh:?}, settled {settled:?}");
        assert!(fresh.as_secs() < 60 && settled.as_secs() < 60, "{fresh:?} {settled:?}");
    }
}
