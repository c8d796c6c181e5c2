//! Messages of BGP, one by one and as the stream of a session: [`lb_bgp::message`] and
//! [`lb_bgp::session`].

use lb_bgp::{
    Family, Route,
    message::{
        Capability, HEADER, Kind, Notification, Open, RefreshKind, RouteRefresh, Stream, Update,
        cease, keepalive,
    },
    session::{Config, Endpoint, HoldTime, Output, RemoteAs, Session},
};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

/// Reads what a peer sends: each message for itself, and all of them as a session does, from where
/// it has sent its OPEN and from where it is up. The session has a future whatever comes, and what it
/// sends can be read.
pub fn run(data: &[u8]) {
    let mut stream = Stream::default();
    stream.push(data);
    while let Ok(Some((kind, body))) = stream.next_message() {
        message(kind, &body);
    }
    session(&[data]);
    session(&[&open().encode(), &keepalive(), data]);
}

fn message(kind: Kind, body: &[u8]) {
    match kind {
        Kind::Open => {
            if let Ok(open) = Open::decode(body) {
                let written = open.encode();
                assert!(
                    body.len() > 2_000 || Open::decode(&written[HEADER..]).as_ref() == Ok(&open)
                );
            }
        }
        Kind::Update => {
            for (four_octets, internal) in [(true, true), (true, false), (false, true)] {
                if let Ok(decoded) = Update::decode(body, four_octets, internal) {
                    let announced = decoded.announced().count();
                    assert!(!decoded.withdraws_all() || announced == 0);
                    let _ = (decoded.withdrawn().count(), decoded.end_of_rib());
                }
            }
        }
        Kind::Notification => {
            if let Some(told) = Notification::decode(body) {
                let text = told.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert_eq!(Notification::decode(&told.encode()[HEADER..]), Some(told));
            }
        }
        Kind::RouteRefresh => {
            let _ = RouteRefresh::decode(body);
        }
        Kind::Keepalive => assert!(body.is_empty()),
    }
}

fn session(pieces: &[&[u8]]) {
    let now = Instant::now();
    let config = Config {
        local_as: 65_001,
        remote_as: RemoteAs::External,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        hold_time: HoldTime::default(),
        keepalive: None,
        connect_retry: Duration::from_secs(5),
        passive: false,
        families: Family::ALL.into(),
        graceful_restart: Some(120),
        prefix_limit: Some(8),
    };
    let mut session = Session::new(config, true, 1, now);
    if let Ok(prefix) = "198.51.100.1/32".parse() {
        session.routes_mut().announce(prefix, Route::default().into());
    }
    session.routes_mut().set_whole();
    session.start(now);
    let Some(Output::Connect(link)) = session.next_output() else { return };
    session.connected(link, Endpoint::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), now);
    sent(&mut session, link, now);
    for piece in pieces {
        session.received(link, piece, now);
        sent(&mut session, link, now);
    }
    while session.next_output().is_some() {}
    let silent = session.negotiated().is_some_and(|agreed| agreed.hold_time.is_zero());
    let deadline = session.next_deadline();
    assert!(silent || deadline.is_some_and(|at| at <= now + Duration::from_mins(5)), "no future");
}

fn sent(session: &mut Session, link: lb_bgp::session::Link, now: Instant) {
    let four_octets = session.negotiated().is_none_or(|agreed| agreed.four_octets);
    let mut stream = Stream::default();
    while let Some(bytes) = session.transmit(link, now) {
        stream.push(&bytes);
    }
    while let Some((kind, body)) = stream.next_message().expect("we send what can be read") {
        if kind == Kind::Update {
            let decoded = Update::decode(&body, four_octets, false).expect("our own UPDATE");
            assert!(decoded.faults.is_empty());
        }
    }
}

fn open() -> Open {
    let families = Family::ALL.map(|family| Capability::Multiprotocol(family.wire()));
    let others =
        [vec![Capability::RouteRefresh, Capability::EnhancedRouteRefresh], families.into()];
    Open::new(65_002, 90, Ipv4Addr::new(192, 0, 2, 2), others.concat())
}

/// Messages of all kinds; among UPDATEs those that a session sends.
pub fn seeds() -> Vec<Vec<u8>> {
    let refresh = RouteRefresh { family: Family::Ipv6Unicast.wire(), kind: RefreshKind::Request };
    let shutdown = Notification::with_text(cease::SHUTDOWN, "maintenance");
    let mut seeds = vec![
        open().encode().to_vec(),
        keepalive().to_vec(),
        refresh.encode().to_vec(),
        shutdown.clone().encode().to_vec(),
        shutdown.hard().encode().to_vec(),
        [&open().encode()[..], &keepalive(), &refresh.encode()].concat(),
    ];
    // UPDATEs by hand, since a session never sends some of their attributes: attributes, then routes.
    let head = |length: usize| {
        let length = u16::try_from(HEADER + length).unwrap_or(0).to_be_bytes();
        [&[0xff; 16][..], &length, &[2]].concat()
    };
    let plain: &[u8] = &[
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea, 0x40, 3, 4, 192, 0, 2, 2, 0x80, 4, 4, 0,
        0, 0, 1, 0x40, 5, 4, 0, 0, 0, 100, 0x40, 6, 0, 0xc0, 7, 8, 0, 0, 0xfd, 0xea, 192, 0, 2, 2,
        0xc0, 8, 4, 0xff, 0xff, 0, 0,
    ];
    let multiprotocol: &[u8] = &[
        0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32,
        0x20, 1, 0xd, 0xb8, 0x80, 15, 4, 0, 2, 1, 0, 0xc0, 16, 8, 0x40, 4, 0xfd, 0xea, 0x4e, 0x95,
        2, 0xf9, 0xc0, 17, 6, 2, 1, 0, 0, 0xfd, 0xea, 0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0,
        0, 3, 0x80, 9, 4, 1, 1, 1, 1, 0x80, 10, 4, 2, 2, 2, 2,
    ];
    for attributes in [plain.to_vec(), [plain, multiprotocol].concat(), Vec::new()] {
        let length = u16::try_from(attributes.len()).unwrap_or(0).to_be_bytes();
        let body = [&[0, 2, 8, 10][..], &length, &attributes, &[24, 192, 0, 2]].concat();
        seeds.push([head(body.len()), body].concat());
    }
    seeds
}
