use super::{all_alive, plan_all_alive, reasons};
use crate::{
    plan::{Delivery, EndpointAddress, Plan, PlanOptions, ServiceAddress, plan},
    snapshot::{Endpoint, Protocol, ServicePort, Snapshot},
    testing::{cluster, endpoint, holder, ip, slice},
};
use std::collections::BTreeSet;

const VIP: &str = "192.0.2.1";

fn with(endpoints: Vec<Endpoint>) -> Snapshot {
    cluster(3).with_services([holder("web", "4", &[VIP])]).with_slices([slice("web", endpoints)])
}

fn key(port: u16, protocol: Protocol) -> ServiceAddress {
    ServiceAddress { vip: ip(VIP), port, protocol }
}

/// The nodes that take new flows, and all that rows name.
fn nodes(plan: &Plan) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let name = |p: u16| plan.nodes[usize::from(p)].name.as_str();
    let rows = &plan.services[&key(80, Protocol::Tcp)].rows;
    (
        rows.iter().map(|r| name(r.nodes[usize::from(r.first)].unwrap())).collect(),
        rows.iter().flat_map(|r| r.nodes).flatten().map(name).collect(),
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
    assert_eq!(plan.local_endpoints, [local].into());
    assert!(plan.services[&key(80, Protocol::Tcp)].rows.iter().all(|r| r.endpoint.is_none()));
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
    assert!(plan.services[&key(80, Protocol::Tcp)].rows.is_empty());
    assert_eq!(plan.vips[&ip(VIP)].owner, None);
    assert_eq!(plan.local_endpoints.len(), 1, "its flows live on");
    assert_eq!(reasons(&plan), ["NoEndpoints"]);
}

#[test]
fn publish_not_ready_addresses() {
    let mut snapshot = with(vec![state("10.1.0.1", "n1", false, false, false)]);
    snapshot.services.values_mut().for_each(|s| s.publish_not_ready = true);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(nodes(&plan).0, ["n1"].into());
    assert!(plan.vips[&ip(VIP)].owner.is_some());
}

#[test]
fn an_address_listed_twice_counts_once_and_as_ready() {
    let mut snapshot = with(vec![state("10.1.0.1", "n1", false, false, false)]);
    let mut second = slice("web", vec![endpoint("10.1.0.1", "n2")]);
    second.name.name = "web-xyz".to_owned();
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
    assert_eq!(reasons(&plan), ["EndpointOnUnknownNode", "EndpointWithoutNode"]);
    let message = &plan.notices[0].message;
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
    six.name.name = "web-6".to_owned();
    snapshot = snapshot.with_slices([six]);
    for s in snapshot.services.values_mut() {
        s.ports.push(ServicePort { name: "dns".into(), port: 53, protocol: Protocol::Udp });
    }
    for s in snapshot.endpoint_slices.values_mut() {
        let dns =
            |port, protocol| crate::snapshot::EndpointPort { name: "dns".into(), port, protocol };
        s.ports.push(dns(Some(5353), Protocol::Udp));
        s.ports.push(dns(Some(5354), Protocol::Tcp));
    }
    let plan = plan_all_alive(&snapshot, "n1");
    let first = |vip, port, protocol| {
        let key = ServiceAddress { vip: ip(vip), port, protocol };
        plan.services[&key].rows[0].endpoint.map(|e| (e.address, e.port))
    };
    assert_eq!(plan.services.len(), 4);
    assert_eq!(first(VIP, 80, Protocol::Tcp), Some((ip("10.1.0.1"), 8080)));
    assert_eq!(first(VIP, 53, Protocol::Udp), Some((ip("10.1.0.1"), 5353)));
    assert_eq!(first("2001:db8::1", 80, Protocol::Tcp), Some((ip("fd00::1"), 8080)));
}

#[test]
fn a_port_without_a_number() {
    let mut snapshot = with(vec![endpoint("10.1.0.1", "n1")]);
    snapshot.endpoint_slices.values_mut().for_each(|s| s.ports[0].port = None);
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(reasons(&plan), ["EndpointPortMissing"]);
    assert!(plan.services[&key(80, Protocol::Tcp)].rows.is_empty());
}

#[test]
fn what_is_left_to_kube_proxy_or_refused() {
    let endpoints = vec![endpoint("10.1.0.1", "n1")];
    let kernel = |edit: fn(&mut crate::snapshot::Service), delivery| {
        let mut snapshot = with(endpoints.clone());
        snapshot.services.values_mut().for_each(edit);
        let options = PlanOptions { delivery, ..Default::default() };
        let plan = plan(&snapshot, "n1", &all_alive(&snapshot), &options);
        (plan.services[&key(80, Protocol::Tcp)].kernel, reasons(&plan))
    };
    let (direct, by_kernel) = (Delivery::Direct, Delivery::Kernel);
    assert_eq!(kernel(|_| (), direct), (false, vec![]));
    assert_eq!(kernel(|_| (), by_kernel), (true, vec![]));
    let said = vec!["KernelDelivery"];
    assert_eq!(kernel(|s| s.client_ip_affinity = true, direct), (true, said.clone()));
    assert_eq!(kernel(|s| s.source_ranges.push("10.0.0.0/8".into()), direct), (true, said));
    assert_eq!(kernel(|s| s.client_ip_affinity = true, by_kernel), (true, vec![]));

    let mut snapshot = with(endpoints);
    for s in snapshot.services.values_mut() {
        s.ports.push(ServicePort { name: "x".into(), port: 9, protocol: Protocol::Sctp });
    }
    let plan = plan_all_alive(&snapshot, "n1");
    assert_eq!(reasons(&plan), ["UnsupportedProtocol"]);
    assert_eq!(plan.services.len(), 1);
}

#[test]
fn addresses_that_are_not_ours_are_left_alone() {
    let mut snapshot = cluster(1).with_services([
        holder("a", "4", &["203.0.113.9"]),
        holder("b", "4", &["192.0.2.7"]),
        holder("c", "4", &["192.0.2.7"]),
    ]);
    snapshot.services.get_mut(&crate::testing::name("c")).unwrap().ports[0].port = 81;
    snapshot = snapshot.with_services([holder("d", "4", &["192.0.2.7"])]);
    let mut gone = holder("e", "4", &["192.0.2.8"]);
    gone.wants_address = false;
    let plan = plan_all_alive(&snapshot.with_services([gone]), "n1");
    assert_eq!(plan.vips.keys().collect::<Vec<_>>(), [&ip("192.0.2.7")]);
    assert_eq!(plan.vips[&ip("192.0.2.7")].services.len(), 3);
    assert!(reasons(&plan).contains(&"PortConflict"), "b has port 80 before d");
}
