use super::*;
use lb_common::{
    hash::row_mask,
    maps::{Flow as MapFlow, NO_ENDPOINT, mapped},
};
use std::{cell::RefCell, collections::BTreeMap, convert::Infallible};

const VIP: [u8; 16] = mapped([10, 77, 0, 200]);
const POD: [u8; 16] = mapped([10, 244, 1, 5]);

/// Tables of which a test sets what it needs.
#[derive(Default)]
struct Fake {
    services: BTreeMap<ServiceKey, Service>,
    rows: Vec<Row>,
    row_endpoints: Vec<u32>,
    nodes: Vec<Node>,
    endpoints: Vec<Endpoint>,
    flows: BTreeMap<FlowKey, MapFlow>,
    affinity: Option<Affinity>,
    elsewhere: Option<Elsewhere>,
    /// What was asked of `SOURCE_RANGES`, and what it says.
    ranges: RefCell<Vec<RangeKey>>,
    allowed: bool,
}

impl Tables for Fake {
    type Error = Infallible;
    fn is_vip(&self, vip: [u8; 16]) -> Result<bool, Infallible> {
        Ok(vip == VIP)
    }
    fn service(&self, key: &ServiceKey) -> Result<Option<Service>, Infallible> {
        Ok(self.services.get(key).copied())
    }
    fn row(&self, index: u32) -> Result<Option<Row>, Infallible> {
        Ok(self.rows.get(index as usize).copied())
    }
    fn row_endpoint(&self, index: u32) -> Result<Option<u32>, Infallible> {
        Ok(self.row_endpoints.get(index as usize).copied())
    }
    fn node(&self, index: u32) -> Result<Option<Node>, Infallible> {
        Ok(self.nodes.get(index as usize).copied())
    }
    fn endpoint(&self, index: u32) -> Result<Option<Endpoint>, Infallible> {
        Ok(self.endpoints.get(index as usize).copied())
    }
    fn flow(&self, key: &FlowKey) -> Result<Option<MapFlow>, Infallible> {
        Ok(self.flows.get(key).copied())
    }
    fn affinity(&self, _: &AffinityKey) -> Result<Option<Affinity>, Infallible> {
        Ok(self.affinity)
    }
    fn elsewhere(&self, _: &FlowKey) -> Result<Option<Elsewhere>, Infallible> {
        Ok(self.elsewhere)
    }
    fn in_ranges(&self, key: RangeKey) -> Result<bool, Infallible> {
        self.ranges.borrow_mut().push(key);
        Ok(self.allowed)
    }
}

fn flow() -> Flow {
    Flow::new("192.0.2.1:40000".parse().unwrap(), "10.77.0.200:80/TCP".parse().unwrap()).unwrap()
}

/// Three rows' worth of nodes: another node by link, this one, a third by tunnel.
fn fake() -> Fake {
    let node = |last, flags| Node {
        address: mapped([10, 0, 0, last]),
        ifindex: 2,
        flags,
        ..Node::default()
    };
    let key = ServiceKey { vip: VIP, port: [0, 80], proto: 6, pad: 0, pad2: 0 };
    let service = Service {
        rows: 256,
        mask: row_mask(256),
        changed_s: 90,
        endpoint: 0,
        ..Service::default()
    };
    Fake {
        services: [(key, service)].into(),
        rows: vec![Row { nodes: [1, THIS_NODE, 2, NO_NODE] }; 256],
        nodes: vec![Node::default(), node(1, NODE_LINK | NODE_TUNNEL), node(2, NODE_TUNNEL)],
        endpoints: vec![Endpoint {
            address: POD,
            port: [0x1f, 0x90],
            flags: ENDPOINT_PRESENT,
            pad: 0,
        }],
        ..Fake::default()
    }
}

fn text(fake: &Fake) -> String {
    let Ok(explanation) = explain(fake, &flow(), 100);
    explanation.to_string()
}

fn change(fake: &mut Fake, change: impl Fn(&mut Service)) {
    fake.services.values_mut().for_each(change);
}

#[test]
fn a_flow_of_another_node_names_the_row_in_order() {
    let text = text(&fake());
    for line in [
        "flow        192.0.2.1:40000 → 10.77.0.200:80/TCP",
        "new flows   10.0.0.1 by link, interface 2",
        "then        this node",
        "            10.0.0.2 by tunnel, interface 2",
        "endpoint    10.244.1.5:8080, of this node's",
        "known here  no",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("of 256, unchanged for 10 s"), "{text}");
}

#[test]
fn what_is_known_here_and_elsewhere_is_told() {
    let mut fake = fake();
    let key = FlowKey {
        client: mapped([192, 0, 2, 1]),
        peer: VIP,
        client_port: 40_000u16.to_be_bytes(),
        peer_port: [0, 80],
        proto: 6,
        direction: TO_ENDPOINT,
        pad: [0; 2],
    };
    let known = MapFlow {
        peer: POD,
        peer_port: [0x1f, 0x90],
        client_port: 1025u16.to_be_bytes(),
        endpoint: 0,
        seen_s: 97,
        state: FLOW_CLOSING,
        closed_at: [0; 3],
    };
    fake.flows.insert(key, known);
    let line = "known here  goes to 10.244.1.5:8080, from client port 1025; last heard 3 s ago, closed \
                by the client";
    assert!(text(&fake).contains(line), "{}", text(&fake));
    // Of an endpoint that is gone.
    fake.endpoints[0].flags = 0;
    assert!(text(&fake).contains("known here  no"));
    let kernel = MapFlow { state: FLOW_KERNEL, endpoint: NO_ENDPOINT, ..known };
    fake.flows.insert(key, kernel);
    assert!(text(&fake).contains("known here  goes to kube-proxy; last heard 3 s ago"));
    fake.elsewhere = Some(Elsewhere { node: 2, verdict: 1, until_s: 101 });
    assert!(text(&fake).contains("elsewhere   10.0.0.2 knows it"));
    fake.elsewhere = Some(Elsewhere { node: 2, verdict: 1, until_s: 100 });
    assert!(!text(&fake).contains("elsewhere"));
}

#[test]
fn refusals_are_told_apart() {
    let mut fake = fake();
    fake.services.clear();
    assert!(text(&fake).contains("no Service has that port"));
    let other = Flow::new("192.0.2.1:40000".parse().unwrap(), "10.77.0.9:80/TCP".parse().unwrap());
    let Ok(explanation) = explain(&fake, &other.unwrap(), 100);
    assert_eq!(explanation.fate, Fate::NoVip);
    let mut fake = self::fake();
    change(&mut fake, |service| (service.flags, service.ranges) = (SERVICE_RANGES, 7));
    assert!(text(&fake).contains("loadBalancerSourceRanges"));
    let asked = RangeKey { ranges: [0, 0, 0, 7], client: mapped([192, 0, 2, 1]) };
    assert_eq!(*fake.ranges.borrow(), [asked]);
    fake.allowed = true;
    assert!(text(&fake).contains("new flows"));
    change(&mut fake, |service| service.rows = 0);
    assert!(text(&fake).contains("no endpoint"));
}

#[test]
fn the_endpoint_of_a_row_and_of_a_client_is_found() {
    let mut fake = fake();
    let second = Endpoint { address: mapped([10, 244, 1, 6]), ..fake.endpoints[0] };
    fake.endpoints.push(second);
    fake.row_endpoints = vec![1; 300];
    change(&mut fake, |service| service.endpoints_start = 40);
    assert!(text(&fake).contains("endpoint    10.244.1.6:8080"));
    fake.affinity = Some(Affinity {
        address: POD,
        port: [0x1f, 0x90],
        endpoint: 0,
        seen_s: 60,
        ..Affinity::default()
    });
    assert!(!text(&fake).contains("affinity"), "only with sessionAffinity");
    change(&mut fake, |s| (s.flags, s.affinity_s) = (SERVICE_CLIENT_IP, 41));
    let line = "affinity    the client's new flows go to 10.244.1.5:8080";
    assert!(text(&fake).contains(line), "{}", text(&fake));
    change(&mut fake, |s| s.affinity_s = 40);
    assert!(!text(&fake).contains("affinity"));
}

#[test]
fn scripts_get_names_they_can_rely_on() {
    let Ok(explanation) = explain(&fake(), &flow(), 100);
    let json = serde_json::to_value(&explanation).unwrap();
    let served = &json["fate"]["served"];
    assert_eq!(served["nodes"][0]["way"], "link");
    assert_eq!(served["nodes"][1]["way"], "here");
    assert_eq!(served["endpoint"], "10.244.1.5:8080");
    assert_eq!(served["rows"], 256);
}
