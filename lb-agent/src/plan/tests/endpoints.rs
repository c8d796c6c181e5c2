use super::{all_alive, plan_all_alive, reasons};
use crate::{
    plan::{
        Delivery, EndpointAddress, LocalEndpoints, Plan, PlanOptions, PlannedRow, ServiceAddress,
        plan,
    },
    snapshot::{Endpoint, EndpointPort, Protocol, Service, ServicePort, Snapshot},
    testing::{cluster, endpoint, holder, ip, slice},
};
use imbl::OrdSet;
use lb_common::maps::NO_NODE;
use std::{collections::BTreeSet, sync::Arc};

const VIP: &str = "192.0.2.1";

fn with(endpoints: Vec<Endpoint>) -> Snapshot {
    cluster(3).with_services([holder("web", "4", &[VIP])]).with_slices([slice("web", endpoints)])
}

fn key(port: u16, protocol: Protocol) -> ServiceAddress {
    ServiceAddress { vip: ip(VIP), port, protocol }
}

/// The nodes that take new flows, and all that rows name.
fn nodes(plan: &Plan) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let names = plan.services[&key(80, Protocol::Tcp)].rows.nodes();
    let name = |p: u16| &*names[usize::from(p)];
    let rows = plan.services[&key(80, Protocol::Tcp)].rows.table();
    (
        rows.iter().filter_map(PlannedRow::first).map(name).collect(),
        rows.iter().flat_map(|r| r.nodes).filter(|n| *n != NO_NODE).map(name).collect(),
    )
}

fn state(address: &str, node: &str, ready: bool, serving: bool, terminating: bool) -> Endpoint {
    Endpoint { ready, serving, terminating, ..endpoint(address, node) }
}

#[test]
fn new_flows_go_to_ready_endpoints_and_old_ones_to_all() {
    let plan = plan_all_alive(
        &with(vec![
            endpoint("10.1.0.1", "n1"),
            state("10.1.0.2", "n2", false, true, true),
            state("10.1.0.3", "n3", false, false, false),
        ]),
        "n2",
    );
    assert_eq!(nodes(&plan), (["n1"].into(), ["n1", "n2", "n3"].into()));
    let local = EndpointAddress { address: ip("10.1.0.2"), port: 8080, protocol: Protocol::Tcp };
    assert_eq!(plan.local_endpoints, OrdSet::unit(local));
    let planned = &plan.services[&key(80, Protocol::Tcp)];
    assert_eq!((&planned.endpoints, planned.here), (&LocalEndpoints::None, true));
}

#[test]
fn the_last_ones_serve_while_they_terminate() {
    let plan = plan_all_alive(
        &with(vec![
            state("10.1.0.1", "n1", false, false, true),
            state("10.1.0.2", "n2", false, true, true),
        ]),
        "n2",
    );
    assert_eq!(nodes(&plan).0, ["n2"].into());
}

#[test]
fn nothing_takes_new_flows() {
    let plan = plan_all_alive(&with(vec![state("10.1.0.1", "n1", false, false, false)]), "n1");
    assert_eq!(nodes(&plan), ([].into(), ["n1"].into()));
    assert_eq!(plan.vips[&ip(VIP)].owner, None);
    assert_eq!(plan.local_endpoints.len(), 1, "its flows live on");
    assert_eq!(reasons(&plan), ["NoEndpoints"]);
}

#[test]
fn publish_not_ready_addresses() {
    let mut snapshot = with(vec![state("10.1.0.1", "n1", false, false, false)]);
    snapshot.edit_services(|s| s.publish_not_ready = true);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(nodes(&plan).0, ["n1"].into());
    assert!(plan.vips[&ip(VIP)].owner.is_some());
}

#[test]
fn an_address_listed_twice_counts_once_and_as_ready() {
    let mut snapshot = with(vec![state("10.1.0.1", "n1", false, false, false)]);
    let mut second = slice("web", vec![endpoint("10.1.0.1", "n2")]);
    second.name = second.name.beside("web-xyz");
    snapshot = snapshot.with_slices([second]);
    assert_eq!(nodes(&plan_all_alive(&snapshot, "n1")), (["n2"].into(), ["n2"].into()));
}

#[test]
fn nodes_that_are_not_alive_or_not_known() {
    let mut nameless = endpoint("10.1.0.3", "");
    nameless.node = None;
    let snapshot = with(vec![
        endpoint("10.1.0.1", "n1"),
        endpoint("10.1.0.2", "n2"),
        nameless,
        endpoint("10.1.0.4", "n9"),
        endpoint("10.1.0.5", "n8"),
    ]);
    let mut alive = all_alive(&snapshot);
    alive.remove("n2");
    let plan = plan(&snapshot, "n1", &alive, &PlanOptions::default());
    assert_eq!(nodes(&plan).1, ["n1"].into());
    let said = ["EndpointOnNodeWithoutAgent", "EndpointOnUnknownNode", "EndpointWithoutNode"];
    assert_eq!(reasons(&plan), said);
    let message = &plan.notices.iter().nth(1).unwrap().message;
    assert!(message.contains("n9") && message.contains("web-abc"), "{message}");
    assert!(message.ends_with("So are 1 more of the slice."), "{message}");
    assert_eq!(plan.nodes.len(), 3, "positions do not depend on who is alive");
}

#[test]
fn ports_are_matched_by_name_and_protocol_and_vips_by_family() {
    let mut snapshot = cluster(1)
        .with_services([holder("web", "46", &[VIP, "2001:db8::1"])])
        .with_slices([slice("web", vec![endpoint("10.1.0.1", "n1")])]);
    let mut six = slice("web", vec![endpoint("fd00::1", "n1")]);
    six.name = six.name.beside("web-6");
    snapshot = snapshot.with_slices([six]);
    snapshot.edit_services(|s| {
        s.ports.push(ServicePort { name: "dns".into(), port: 53, protocol: Protocol::Udp });
    });
    snapshot.edit_slices(|s| {
        let dns =
            |port, protocol| crate::snapshot::EndpointPort { name: "dns".into(), port, protocol };
        s.ports.push(dns(Some(5353), Protocol::Udp));
        s.ports.push(dns(Some(5354), Protocol::Tcp));
    });
    let plan = plan_all_alive(&snapshot, "n1");
    let first = |vip, port, protocol| {
        let key = ServiceAddress { vip: ip(vip), port, protocol };
        plan.services[&key].endpoints.by_row()(0).map(|e| (e.address, e.port))
    };
    assert_eq!(plan.services.len(), 4);
    assert_eq!(first(VIP, 80, Protocol::Tcp), Some((ip("10.1.0.1"), 8080)));
    assert_eq!(first(VIP, 53, Protocol::Udp), Some((ip("10.1.0.1"), 5353)));
    assert_eq!(first("2001:db8::1", 80, Protocol::Tcp), Some((ip("fd00::1"), 8080)));
}

#[test]
fn a_port_without_a_number() {
    let mut snapshot = with(vec![endpoint("10.1.0.1", "n1")]);
    snapshot.edit_slices(|s| s.ports[0].port = None);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(reasons(&plan), ["EndpointPortMissing"]);
    assert!(plan.services[&key(80, Protocol::Tcp)].rows.is_empty());
}

/// The plan of the one Service, after an edit, on `n1`.
fn edited(edit: impl Fn(&mut Service), options: &PlanOptions) -> Plan {
    let mut snapshot = with(vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")]);
    snapshot.edit_services(edit);
    plan(&snapshot, "n1", &all_alive(&snapshot), options)
}

#[test]
fn affinity_and_source_ranges_are_direct() {
    let direct = PlanOptions::default();
    let plan = edited(|s| s.client_ip_affinity = Some(60), &direct);
    let planned = &plan.services[&key(80, Protocol::Tcp)];
    assert_eq!((planned.kernel, planned.affinity_s), (false, Some(60)));
    let ranges = |list: &'static [&'static str]| {
        let plan =
            edited(|s| s.source_ranges = list.iter().map(ToString::to_string).collect(), &direct);
        let planned = &plan.services[&key(80, Protocol::Tcp)];
        let ranges = planned.source_ranges.as_ref();
        let ranges = ranges.map(|r| r.iter().map(ToString::to_string).collect::<Vec<_>>());
        (planned.kernel, ranges.map(|r| r.join(" ")), reasons(&plan))
    };
    assert_eq!(ranges(&[]), (false, None, vec![]));
    assert_eq!(ranges(&[" 10.9.8.7/8"]), (false, Some("10.0.0.0/8".into()), vec![]));
    let one = ranges(&["10.0.0.0/8", "10.0.0/33"]);
    assert_eq!(one, (false, Some("10.0.0.0/8".into()), vec!["SourceRangeMalformed"]));
    // Nobody, rather than everybody.
    assert_eq!(ranges(&["x"]).1, Some(String::new()));
    let six = ranges(&["2001:db8::/32"]);
    assert_eq!(six, (false, Some(String::new()), vec!["SourceRangeFamily"]));
}

#[test]
fn sctp_is_direct_where_ports_need_no_translation() {
    let sctp = |number| {
        let mut snapshot = with(vec![endpoint("10.1.0.1", "n1")]);
        snapshot.edit_services(|s| {
            s.ports.push(ServicePort { name: "x".into(), port: 9, protocol: Protocol::Sctp });
        });
        snapshot.edit_slices(|s| {
            let protocol = Protocol::Sctp;
            s.ports.push(EndpointPort { name: "x".into(), port: Some(number), protocol });
        });
        let plan = plan_all_alive(&snapshot, "n1");
        (plan.services[&key(9, Protocol::Sctp)].kernel, reasons(&plan))
    };
    assert_eq!(sctp(9), (false, vec![]));
    assert_eq!(sctp(10), (true, vec!["KernelDelivery"]));
}

#[test]
fn mode_kernel_and_endpoints_whose_replies_are_not_seen() {
    let planned = |options: PlanOptions| {
        let plan = edited(|_| (), &options);
        let said = plan.local_notices.iter().map(|n| n.reason);
        let said: Vec<_> = said.filter(|reason| *reason != "nodeAssigned").collect();
        assert_eq!(reasons(&plan), Vec::<&str>::new());
        (plan.services[&key(80, Protocol::Tcp)].kernel, said)
    };
    let kernel = PlanOptions { delivery: Delivery::Kernel, ..Default::default() };
    assert_eq!(planned(kernel), (true, vec![]));
    let unseen = |address| PlanOptions {
        unseen: [(ip(address), "they leave by tun0".into())].into(),
        ..Default::default()
    };
    assert_eq!(planned(unseen("10.1.0.1")), (true, vec!["RepliesUnseen"]));
    assert_eq!(planned(unseen("10.1.0.2")), (false, vec![]), "that is another node's");
}

/// Pods on the host's network have the node's own address.
#[test]
fn endpoints_on_the_hosts_network() {
    let snapshot = with(vec![endpoint("10.0.0.1", "n1"), endpoint("10.0.0.2", "n2")]);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(nodes(&plan).0, ["n1", "n2"].into());
    let own = EndpointAddress { address: ip("10.0.0.1"), port: 8080, protocol: Protocol::Tcp };
    assert_eq!(plan.services[&key(80, Protocol::Tcp)].endpoints, LocalEndpoints::One(own));
    assert_eq!(plan.local_endpoints, OrdSet::unit(own));
}

#[test]
fn one_pod_behind_two_vips_and_two_ports() {
    let pods = || vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    let mut second = slice("other", pods());
    second.ports[0].port = Some(9090);
    let snapshot = with(pods()).with_services([holder("other", "4", &["192.0.2.2"])]);
    let plan = plan_all_alive(&snapshot.with_slices([second]), "n1");
    let [first, second] = [VIP, "192.0.2.2"].map(|vip| {
        &plan.services[&ServiceAddress { vip: ip(vip), port: 80, protocol: Protocol::Tcp }]
    });
    assert!(std::sync::Arc::ptr_eq(&first.rows, &second.rows), "rows go by address");
    assert_ne!(first.endpoints, second.endpoints);
    assert_eq!(plan.local_endpoints.len(), 2);
}

#[test]
fn addresses_that_are_not_ours_are_left_alone() {
    let mut snapshot = cluster(1).with_services([
        holder("a", "4", &["203.0.113.9"]),
        holder("b", "4", &["192.0.2.7"]),
        holder("c", "4", &["192.0.2.7"]),
    ]);
    let changed = snapshot.services.get_mut(&crate::testing::name("c")).unwrap();
    Arc::make_mut(changed).ports[0].port = 81;
    snapshot = snapshot.with_services([holder("d", "4", &["192.0.2.7"])]);
    let mut gone = holder("e", "4", &["192.0.2.8"]);
    gone.wants_address = false;
    let plan = plan_all_alive(&snapshot.with_services([gone]), "n1");
    assert_eq!(plan.vips.keys().collect::<Vec<_>>(), [&ip("192.0.2.7")]);
    assert_eq!(plan.vips[&ip("192.0.2.7")].services.len(), 3);
    assert!(reasons(&plan).contains(&"PortConflict"), "b has port 80 before d");
}
