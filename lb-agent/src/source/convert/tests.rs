use super::*;
use serde::de::DeserializeOwned;

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_yaml_ng::from_str(text).unwrap()
}

fn reduce(spec_and_status: &str, class: Option<&str>) -> Result<Option<snapshot::Service>, String> {
    let text = format!("metadata: {{name: web, namespace: default}}\n{spec_and_status}");
    service(yaml(&text), class).map_err(|e| e.to_string())
}

#[test]
fn every_field_of_a_service() {
    let service = service(
        yaml(
            "
metadata:
  name: web
  namespace: shop
  uid: u1
  resourceVersion: '7'
  labels: {app: web}
  annotations:
    metallb.io/address-pool: a
    metallb.universe.tf/allow-shared-ip: b
    herald-lb.io/x: c
    kubectl.kubernetes.io/last-applied-configuration: '{}'
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: PreferDualStack
  loadBalancerIP: 192.0.2.1
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
  - {name: sctp, port: 9, protocol: SCTP}
  selector: {app: web}
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [198.51.100.0/24]
  publishNotReadyAddresses: true
status:
  loadBalancer:
    ingress: [{ip: 192.0.2.1, ipMode: VIP}, {hostname: web.example}]
",
        ),
        None,
    )
    .unwrap()
    .unwrap();
    assert_eq!(service.name, ObjectName::new("shop", "web"));
    assert_eq!((service.uid.as_str(), service.resource_version.as_str()), ("u1", "7"));
    assert_eq!(service.labels.get("app").unwrap(), "web");
    assert_eq!(
        Vec::from_iter(service.annotations.keys()),
        ["herald-lb.io/x", "metallb.io/address-pool", "metallb.universe.tf/allow-shared-ip"]
    );
    assert!(service.wants_address && service.ipv6_first);
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.ip_family_policy, IpFamilyPolicy::PreferDualStack);
    assert_eq!(service.load_balancer_ip.as_deref(), Some("192.0.2.1"));
    let ports: Vec<_> = service.ports.iter().map(|p| (p.port, p.protocol.number())).collect();
    assert_eq!(ports, [(80, 6), (53, 17), (9, 132)]);
    assert_eq!(service.selector.get("app").unwrap(), "web");
    assert_eq!(service.external_traffic_policy, ExternalTrafficPolicy::Local);
    assert_eq!(service.client_ip_affinity, Some(10_800));
    assert!(service.publish_not_ready);
    assert_eq!(service.source_ranges, ["198.51.100.0/24"]);
    assert_eq!(service.ingress[1].hostname.as_deref(), Some("web.example"));
    assert_eq!(service.addresses(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    // Lists hold no memory of the API's own, whose elements are larger.
    assert_eq!(service.ports.capacity(), service.ports.len());
    assert_eq!(service.ingress.capacity(), service.ingress.len());
    assert_eq!(service.cluster_ips.capacity(), service.cluster_ips.len());
}

#[test]
fn which_services_are_ours() {
    let lb = "spec: {type: LoadBalancer}";
    let classy = "spec: {type: LoadBalancer, loadBalancerClass: herald}";
    let held = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}";
    for (text, class, wants) in [
        (lb.to_owned(), None, Some(true)),
        (lb.to_owned(), Some("herald"), None),
        (classy.to_owned(), None, None),
        (classy.to_owned(), Some("herald"), Some(true)),
        (classy.to_owned(), Some("other"), None),
        // Not a load balancer (any more), whatever the class, which the API server removes
        // together with the type.
        ("spec: {type: ClusterIP}".to_owned(), None, Some(false)),
        (format!("spec: {{type: ClusterIP}}\n{held}"), None, Some(false)),
        (format!("spec: {{type: NodePort}}\n{held}"), Some("herald"), Some(false)),
        (format!("{classy}\n{held}"), None, None),
    ] {
        let service = reduce(&text, class).unwrap();
        assert_eq!(service.map(|s| s.wants_address), wants, "{text} {class:?}");
    }
    let deleted = service(
        yaml(&format!(
            "metadata: {{name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}}\n{lb}\n{held}"
        )),
        None,
    );
    assert!(!deleted.unwrap().unwrap().wants_address);
}

#[test]
fn cluster_ips_are_read_in_both_spellings() {
    for (spec, count) in [
        ("clusterIP: 10.96.0.1", 1),
        ("clusterIPs: [10.96.0.1, 'fd00::1']", 2),
        ("clusterIP: None", 0),
        ("clusterIPs: [None]", 0),
        ("clusterIP: ''", 0),
    ] {
        let text = format!("spec:\n  type: LoadBalancer\n  {spec}");
        assert_eq!(reduce(&text, None).unwrap().unwrap().cluster_ips.len(), count, "{spec}");
    }
}

#[test]
fn what_cannot_be_meant_is_named_with_its_field() {
    for (spec, message) in [
        ("type: Loadbalancer", "spec.type: \"Loadbalancer\" is unknown; known are LoadBalancer"),
        ("ports: [{port: 80}, {port: 0}]", "spec.ports[1].port: 0 is not a port (1 to 65535)"),
        ("ports: [{port: 65536}]", "spec.ports[0].port: 65536 is not a port"),
        ("ports: [{port: 1, targetPort: -1}]", "spec.ports[0].targetPort: -1 is not a port"),
        ("ports: [{port: 1, protocol: tcp}]", "spec.ports[0].protocol: \"tcp\" is unknown"),
        ("ipFamilies: [ipv4]", "spec.ipFamilies[0]: \"ipv4\" is unknown; known are IPv4, IPv6"),
        ("ipFamilyPolicy: Dual", "spec.ipFamilyPolicy: \"Dual\" is unknown"),
        ("externalTrafficPolicy: local", "spec.externalTrafficPolicy: \"local\" is unknown"),
        ("sessionAffinity: Cookie", "spec.sessionAffinity: \"Cookie\" is unknown"),
    ] {
        let text = if spec.starts_with("type") {
            format!("spec: {{{spec}}}")
        } else {
            format!("spec: {{type: LoadBalancer, {spec}}}")
        };
        let error = reduce(&text, None).unwrap_err();
        assert!(error.starts_with(message), "{spec}: {error}");
    }
    let nameless = service(yaml("metadata: {}\nspec: {type: LoadBalancer}"), None);
    assert_eq!(nameless.unwrap_err().to_string(), "metadata.name: is missing");
}

fn slice(text: &str) -> Result<Option<snapshot::EndpointSlice>, String> {
    let meta = "metadata: {name: s, namespace: d, labels: {kubernetes.io/service-name: web}}";
    endpoint_slice(yaml(&format!("{meta}\n{text}"))).map_err(|e| e.to_string())
}

#[test]
fn conditions_of_endpoints_have_the_api_s_defaults() {
    for (conditions, expected) in [
        ("{}", (true, true, false)),
        ("{ready: false}", (false, false, false)),
        ("{ready: false, serving: true, terminating: true}", (false, true, true)),
        ("{ready: true, serving: false}", (true, false, false)),
    ] {
        let slice = slice(&format!(
            "addressType: IPv4\nendpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]"
        ));
        let endpoint = slice.unwrap().unwrap().endpoints.remove(0);
        let found = (endpoint.ready, endpoint.serving, endpoint.terminating);
        assert_eq!(found, expected, "{conditions}");
    }
}

#[test]
fn slices() {
    let full = slice(
        "
addressType: IPv6
ports: [{name: http, port: 8080}, {name: any, protocol: UDP}]
endpoints:
- {addresses: ['fd00::1', 'fd00::2'], nodeName: a}
- {addresses: []}
- {addresses: ['fd00::3'], nodeName: ''}
",
    );
    let full = full.unwrap().unwrap();
    assert_eq!(full.service, "web");
    assert_eq!(full.ports[0].port, Some(8080));
    assert_eq!(full.ports[1].port, None);
    assert_eq!(full.endpoints.len(), 2);
    assert_eq!(full.ports.capacity(), 2);
    assert_eq!(full.endpoints.capacity(), 2);
    assert_eq!(full.endpoints[0].node.as_deref(), Some("a"));
    assert_eq!(full.endpoints[1].node, None);

    assert_eq!(slice("addressType: FQDN\nendpoints: [{addresses: [a.example]}]"), Ok(None));
    assert!(slice("addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]").is_err());
    assert!(slice("addressType: IPv4\nendpoints: [{addresses: [10.0.0]}]").is_err());
    assert!(slice("addressType: IPX\nendpoints: []").is_err());
    let orphan = yaml("metadata: {name: s}\naddressType: IPv4\nendpoints: []");
    assert_eq!(endpoint_slice(orphan), Ok(None));
}

#[test]
fn nodes() {
    let full = node(yaml(
        "
metadata: {name: a, labels: {zone: z}}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, 'fd00:244::/64']}
status:
  addresses:
  - {type: Hostname, address: a}
  - {type: InternalIP, address: 192.168.0.1}
  - {type: ExternalIP, address: 198.51.100.1}
  - {type: InternalIP, address: 'fd00::1'}
  conditions: [{type: Ready, status: 'False'}, {type: NetworkUnavailable, status: 'True'}]
",
    ))
    .unwrap();
    assert_eq!(full.labels.get("zone").unwrap(), "z");
    assert_eq!(full.internal_ips.len(), 2);
    assert_eq!(full.pod_cidrs.len(), 2);
    assert!(full.network_unavailable);
    assert_eq!(full.leaving, None);
    let bare = node(yaml("metadata: {name: a}\nspec: {podCIDR: 10.244.0.0/24}")).unwrap();
    assert_eq!(bare.pod_cidrs.len(), 1);
    assert!(!bare.network_unavailable);
    let bad = node(yaml("metadata: {name: a}\nspec: {podCIDRs: [10.244.0.0]}")).unwrap_err();
    assert_eq!(bad.to_string(), "spec.podCIDRs: \"10.244.0.0\" is not a prefix");
}

#[test]
fn nodes_on_their_way_out() {
    let cases = [
        ("{metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}}", "is being deleted"),
        ("{metadata: {name: a}, spec: {unschedulable: true}}", "is cordoned"),
        (
            "{metadata: {name: a}, spec: {taints: [{key: node.kubernetes.io/out-of-service, effect: NoExecute}]}}",
            "is marked to be shut down or taken away",
        ),
        (
            "{metadata: {name: a}, status: {conditions: [{type: Ready, status: 'False', message: '[container runtime status check may not have completed yet, node is shutting down]'}]}}",
            "is shutting down",
        ),
    ];
    for (object, reason) in cases {
        assert_eq!(node(yaml(object)).unwrap().leaving.as_deref(), Some(reason), "{object}");
    }
    let stays = [
        "{metadata: {name: a}, spec: {unschedulable: false, taints: [{key: node.kubernetes.io/not-ready, effect: NoExecute}]}}",
        "{metadata: {name: a}, status: {conditions: [{type: Ready, status: 'False', message: 'PLEG is not healthy'}]}}",
    ];
    for object in stays {
        assert_eq!(node(yaml(object)).unwrap().leaving, None, "{object}");
    }
}
