//! One session against a peer that a test plays by hand.
mod collision;
mod damping;
mod messages;
mod negotiation;
mod restart;
mod simulation;
mod timers;

use super::*;
use crate::{
    family::Family,
    message::{Capability, Decoded, Kind, Notification, Open, Update, keepalive},
    testing::messages,
};
use std::net::{IpAddr, Ipv4Addr};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn config() -> Config {
    Config {
        local_as: 65_001,
        remote_as: RemoteAs::Is(65_002),
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        hold_time: HoldTime::default(),
        keepalive: None,
        connect_retry: 5 * SECOND,
        passive: false,
        families: Family::ALL.into(),
        graceful_restart: None,
        prefix_limit: None,
    }
}

/// The OPEN of a peer that suits [`config`].
pub(super) fn peer_open() -> Open {
    let families = Family::ALL.map(|family| Capability::Multiprotocol(family.wire()));
    Open::new(65_002, 90, Ipv4Addr::new(192, 0, 2, 2), families.into())
}

pub(super) fn endpoint() -> Endpoint {
    let ipv6 = Some("2001:db8::1".parse().unwrap());
    Endpoint { ipv6, ..Endpoint::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))) }
}

pub(super) struct Lab {
    pub(super) now: Instant,
    pub(super) session: Session,
}

impl Lab {
    pub(super) fn new(config: Config) -> Self {
        let now = Instant::now();
        Self { now, session: Session::new(config, false, 1, now) }
    }

    /// A session that is started, and its first attempt to connect.
    pub(super) fn started(config: Config) -> (Self, Link) {
        let mut lab = Self::new(config);
        lab.session.start(lab.now);
        let Some(Output::Connect(link)) = lab.session.next_output() else { panic!("no attempt") };
        (lab, link)
    }

    /// One whose OPEN has been sent.
    pub(super) fn open_sent(config: Config) -> (Self, Link) {
        let (mut lab, link) = Self::started(config);
        lab.session.connected(link, endpoint(), lab.now);
        let sent = lab.sent(link);
        assert_eq!(sent[0].0, Kind::Open);
        assert_eq!(lab.session.state(), State::OpenSent);
        (lab, link)
    }

    /// One that is up.
    pub(super) fn up(config: Config) -> (Self, Link) {
        Self::up_with(config, &peer_open())
    }

    pub(super) fn up_with(config: Config, open: &Open) -> (Self, Link) {
        let (mut lab, link) = Self::open_sent(config);
        lab.bring_up(link, open);
        (lab, link)
    }

    pub(super) fn bring_up(&mut self, link: Link, open: &Open) {
        self.receive(link, &open.encode());
        self.receive(link, &keepalive());
        let outputs = self.outputs();
        assert!(matches!(outputs.last(), Some(Output::Up(_))), "{outputs:?}");
        assert_eq!(self.session.state(), State::Established);
    }

    pub(super) fn receive(&mut self, link: Link, bytes: &[u8]) {
        self.session.received(link, bytes, self.now);
    }

    pub(super) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.session.next_output()).collect()
    }

    /// All that a connection has to send.
    pub(super) fn sent(&mut self, link: Link) -> Vec<(Kind, Bytes)> {
        let mut sent = Vec::new();
        while let Some(bytes) = self.session.transmit(link, self.now) {
            sent.extend(messages(&bytes));
        }
        sent
    }

    pub(super) fn kinds(&mut self, link: Link) -> Vec<Kind> {
        self.sent(link).into_iter().map(|(kind, _)| kind).collect()
    }

    /// Lets time pass, timer by timer; the peer reads all, and sends nothing.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.advance(self.now);
            outputs.extend(self.outputs());
            for link in Role::BOTH.map(|role| self.session.connection(role).link) {
                link.map(|link| self.sent(link));
            }
        }
        self.now = end;
        outputs
    }

    /// What the last message of a connection was that was closed, and why.
    pub(super) fn ended(&mut self) -> (Option<Notification>, Reason) {
        let outputs = self.outputs();
        let last = outputs.iter().find_map(|output| match output {
            Output::Close { last, .. } => Some(last.as_deref().map(|last| {
                let (kind, body) = messages(last).pop().unwrap();
                assert_eq!(kind, Kind::Notification);
                Notification::decode(&body).unwrap()
            })),
            _ => None,
        });
        let reason = outputs.iter().find_map(|output| match output {
            Output::Down { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        (last.expect("nothing was closed"), reason.expect("nothing ended"))
    }
}

pub(super) fn codes(notification: Option<&Notification>) -> Option<(u8, u8)> {
    notification.map(|told| (told.code, told.subcode))
}

#[test]
fn a_session_comes_up_and_tells_its_routes() {
    let (mut lab, link) = Lab::open_sent(config());
    lab.session.routes_mut().announce("198.51.100.1/32".parse().unwrap(), Default::default());
    lab.session.routes_mut().set_whole();
    lab.receive(link, &peer_open().encode());
    assert_eq!(lab.session.state(), State::OpenConfirm);
    assert_eq!(lab.kinds(link), [Kind::Keepalive]);
    lab.receive(link, &keepalive());
    assert_eq!(lab.session.state(), State::Established);
    assert!(matches!(lab.outputs()[..], [Output::Up(_)]));
    let sent = lab.sent(link);
    let updates: Vec<_> =
        sent.iter().map(|(_, body)| Update::decode(body, true, false).unwrap()).collect();
    assert_eq!(updates[0].announced().count(), 1);
    let ends: Vec<_> = updates[1..].iter().map(Decoded::end_of_rib).collect();
    assert_eq!(ends, Family::ALL.map(Some));
    assert!(lab.session.routes().is_flushed());
    let counters = lab.session.counters();
    assert_eq!((counters.updates_sent, counters.opens_received, counters.ups), (3, 1, 1));
}

#[test]
fn nothing_counts_as_told_when_the_session_is_down() {
    let (mut lab, link) = Lab::up(config());
    lab.session.routes_mut().announce("198.51.100.1/32".parse().unwrap(), Default::default());
    lab.sent(link);
    assert_eq!(lab.session.routes().counts().announced, 1);
    lab.session.closed(link, "reset", lab.now);
    let counts = lab.session.routes().counts();
    assert_eq!((counts.desired, counts.announced, counts.pending), (1, 0, 0));
    assert_eq!(lab.session.negotiated(), None);
}

#[test]
fn a_passive_session_waits_for_the_peer() {
    let mut lab = Lab::new(Config { passive: true, ..config() });
    lab.session.start(lab.now);
    assert_eq!(lab.pass(1_000 * SECOND), []);
    assert_eq!(lab.session.state(), State::Active);
    let link = lab.session.accepted(endpoint(), lab.now).unwrap();
    assert_eq!(lab.kinds(link), [Kind::Open]);
    lab.bring_up(link, &peer_open());
}

#[test]
fn a_session_that_is_stopped_takes_no_connection() {
    let mut lab = Lab::new(config());
    assert_eq!(lab.session.accepted(endpoint(), lab.now), Err(Refusal::Stopped));
    lab.session.start(lab.now);
    lab.session.stop(&Stop::Deconfigured, lab.now);
    assert_eq!(lab.session.accepted(endpoint(), lab.now), Err(Refusal::Stopped));
    assert_eq!(lab.session.state(), State::Idle);
    assert_eq!(lab.session.next_deadline(), None);
}

#[test]
fn what_belongs_to_a_connection_that_is_gone_changes_nothing() {
    let (mut lab, link) = Lab::up(config());
    lab.session.closed(link, "reset", lab.now);
    lab.outputs();
    let deadline = lab.session.next_deadline();
    lab.receive(link, &keepalive());
    lab.session.closed(link, "again", lab.now);
    lab.session.connected(link, endpoint(), lab.now);
    lab.session.connect_failed(link, "again", lab.now);
    assert_eq!(lab.session.transmit(link, lab.now), None);
    assert_eq!(lab.outputs(), []);
    assert_eq!(lab.session.next_deadline(), deadline);
}

#[test]
fn stopping_says_why() {
    let stopped = |stop: Stop| {
        let (mut lab, _) = Lab::up(config());
        lab.session.stop(&stop, lab.now);
        let (last, reason) = lab.ended();
        (last.unwrap().to_string(), reason.to_string())
    };
    let (told, reason) = stopped(Stop::Shutdown("until noon".to_owned()));
    assert_eq!(told, "Cease: Administrative Shutdown (6/2), \"until noon\"");
    assert_eq!(reason, "it was stopped: shutdown");
    assert_eq!(stopped(Stop::Deconfigured).0, "Cease: Peer De-configured (6/3)");
    assert_eq!(stopped(Stop::Reconfigured).0, "Cease: Other Configuration Change (6/6)");
    // Without graceful restart the peer may as well know.
    assert_eq!(stopped(Stop::Restart).0, "Cease: Administrative Reset (6/4)");
}

#[test]
fn bfd_ends_a_session_and_not_an_attempt() {
    let (mut lab, _) = Lab::started(config());
    lab.session.bfd_down(lab.now);
    assert_eq!(lab.outputs(), []);
    let (mut lab, _) = Lab::up(config());
    lab.session.bfd_down(lab.now);
    let (last, reason) = lab.ended();
    assert_eq!(codes(last.as_ref()), Some((6, 10)));
    assert_eq!(reason, Reason::BfdDown);
}
