//! Questions about flows and their answers: [`lb_agent::resort::message`].

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_agent::{
    membership::cookies::Cookie,
    resort::{
        FlowId, Found, Knowledge,
        message::{Body, MAX_FLOWS, Message},
    },
};

/// Reads a datagram; what it says can be said again, and flows keep their names in the maps.
pub fn run(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    let flows: Vec<FlowId> = match &message.body {
        Body::Question(flows) => flows.clone(),
        Body::Answer(flows) => flows.iter().map(|(flow, _)| *flow).collect(),
        Body::Verdict(flows) => flows.iter().map(|(flow, _)| *flow).collect(),
    };
    for flow in &flows {
        assert_eq!(FlowId::from_key(&flow.key()), *flow);
    }
    if flows.len() <= MAX_FLOWS {
        assert_eq!(Message::parse(&message.encode()), Ok(message));
    }
}

/// Messages of all kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    let Some(cookie) = Cookie::new(7) else { return Vec::new() };
    let v4 = FlowId {
        client: Ipv4Addr::new(192, 0, 2, 1).into(),
        vip: Ipv4Addr::new(198, 51, 100, 1).into(),
        client_port: 40_000,
        port: 80,
        protocol: 6,
    };
    let v6 = FlowId {
        client: Ipv6Addr::LOCALHOST.into(),
        vip: Ipv6Addr::UNSPECIFIED.into(),
        protocol: 17,
        ..v4
    };
    let node = Ipv4Addr::new(10, 0, 0, 1).into();
    let bodies = [
        Body::Question(vec![v4, v6]),
        Body::Question(vec![v6; MAX_FLOWS]),
        Body::Answer(vec![(v4, Knowledge::Lively), (v6, Knowledge::Nothing)]),
        Body::Verdict(vec![(v4, Found::At(node)), (v6, Found::Nobody)]),
    ];
    bodies.into_iter().map(|body| Message { cookie, body }.encode()).collect()
}
