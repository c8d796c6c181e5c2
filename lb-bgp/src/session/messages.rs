//! What comes of the messages that a peer sends.
use super::{
    Output, Session,
    connection::Role,
    reason::Reason,
    state::{Event, State},
};
use crate::{
    family::Family,
    message::{Decoded, Kind, Notification, Open, RefreshKind, RouteRefresh, Update, cease, code},
};
use std::time::Instant;

impl Session {
    pub(super) fn message(&mut self, role: Role, kind: Kind, body: &[u8], now: Instant) {
        match kind {
            Kind::Open => self.open(role, body, now),
            Kind::Update => self.update(role, body, now),
            Kind::Notification => self.notification(role, body, now),
            Kind::Keepalive => {
                self.counters.keepalives_received += 1;
                let reason = Reason::Unexpected("a KEEPALIVE");
                self.fire(role, Event::Keepalive, Some(reason), now);
            }
            Kind::RouteRefresh => self.route_refresh(role, body, now),
        }
    }

    fn open(&mut self, role: Role, body: &[u8], now: Instant) {
        self.counters.opens_received += 1;
        if self.connection(role).state != State::OpenSent {
            self.fire(role, Event::Open, Some(Reason::Unexpected("an OPEN")), now);
            return;
        }
        let read = Open::decode(body).map_err(|error| Reason::Refused {
            notification: error.notification(),
            why: error.to_string(),
        });
        let judged = read.and_then(|open| Ok((self.config.negotiate(&open)?, open)));
        let (negotiated, open) = match judged {
            Ok(judged) => judged,
            Err(reason) => return self.fire(role, Event::OpenError, Some(reason), now),
        };
        let other = role.other();
        let loser = match self.connection(other).state {
            // RFC 4271 section 6.8: one that is up stays.
            State::Established => Some(role),
            State::OpenConfirm if self.keeps_outgoing(&open) => Some(Role::Incoming),
            State::OpenConfirm => Some(Role::Outgoing),
            State::Idle | State::Active | State::Connect | State::OpenSent => None,
        };
        if let Some(loser) = loser {
            self.fire(loser, Event::CollisionDump, Some(Reason::Collision), now);
            if loser == role {
                return;
            }
        }
        let connection = self.connection_mut(role);
        connection.open = Some(open);
        connection.negotiated = Some(negotiated);
        self.fire(role, Event::Open, None, now);
    }

    /// Of two connections, the one is kept that was made by the speaker with the higher identifier
    /// (RFC 4271 section 6.8), or with the higher AS number if they are equal (RFC 6286 section 2.3).
    fn keeps_outgoing(&self, open: &Open) -> bool {
        (self.config.router_id, self.config.local_as) > (open.identifier, open.asn())
    }

    fn update(&mut self, role: Role, body: &[u8], now: Instant) {
        self.counters.updates_received += 1;
        let connection = self.connection(role);
        let Some(negotiated) =
            connection.negotiated.as_ref().filter(|_| connection.is_established())
        else {
            let reason = Reason::Unexpected("an UPDATE");
            return self.fire(role, Event::Update, Some(reason), now);
        };
        match Update::decode(body, negotiated.four_octets, negotiated.internal) {
            Ok(decoded) => match self.count(&decoded) {
                Ok(()) => self.fire(role, Event::Update, None, now),
                Err(reason) => self.fire(role, Event::UpdateError, Some(reason), now),
            },
            Err(error) => {
                let (notification, why) = (error.notification(), error.to_string());
                let reason = Reason::Refused { notification, why };
                self.fire(role, Event::UpdateError, Some(reason), now);
            }
        }
    }

    /// Routes are counted, and dropped: this speaker takes none.
    fn count(&mut self, decoded: &Decoded) -> Result<(), Reason> {
        if let Some(fault) = decoded.faults.first() {
            self.counters.faults += 1;
            if !std::mem::replace(&mut self.faulty, true) {
                self.outputs.push_back(Output::Fault(fault.clone()));
            }
        }
        self.counters.prefixes_announced += decoded.announced().count() as u64;
        self.counters.prefixes_withdrawn += decoded.withdrawn().count() as u64;
        let Some(limit) = self.config.prefix_limit else { return Ok(()) };
        for prefix in decoded.withdrawn() {
            self.received.remove(prefix);
        }
        for prefix in decoded.announced() {
            self.received.insert(*prefix);
            if self.received.len() as u64 <= u64::from(limit) {
                continue;
            }
            // RFC 4486 section 4: which family, and how many it may be.
            let wire = Family::of(prefix).wire();
            let [high, low] = wire.afi.to_be_bytes();
            let data = [&[high, low, wire.safi], &limit.to_be_bytes()[..]].concat();
            let notification = Notification::new(code::CEASE, cease::PREFIX_LIMIT, &data);
            let why = format!("the peer announces more than {limit} prefixes");
            return Err(Reason::Refused { notification, why });
        }
        Ok(())
    }

    fn notification(&mut self, role: Role, body: &[u8], now: Instant) {
        self.counters.notifications_received += 1;
        // The stream takes none that is shorter.
        let Some(told) = Notification::decode(body) else { return };
        let version = (told.code, told.subcode) == (code::OPEN, 1);
        let event = if version { Event::NotificationVersion } else { Event::Notification };
        self.fire(role, event, Some(Reason::Received(told)), now);
    }

    fn route_refresh(&mut self, role: Role, body: &[u8], now: Instant) {
        self.counters.refreshes_received += 1;
        let connection = self.connection(role);
        let Some(negotiated) =
            connection.negotiated.as_ref().filter(|_| connection.is_established())
        else {
            let reason = Reason::Unexpected("a ROUTE-REFRESH");
            return self.fire(role, Event::Update, Some(reason), now);
        };
        let marked = negotiated.enhanced_refresh;
        let Some(refresh) = RouteRefresh::decode(body) else {
            // RFC 7313 section 5.
            let reason = Reason::Refused {
                notification: Notification::new(code::ROUTE_REFRESH, 1, body),
                why: "the peer's ROUTE-REFRESH has a wrong length".to_owned(),
            };
            return self.fire(role, Event::UpdateError, Some(reason), now);
        };
        // Beginnings and ends of the peer's own refreshes concern those who keep its routes.
        if refresh.kind == RefreshKind::Request
            && let Some(family) = Family::of_wire(refresh.family)
        {
            self.rib.refresh(family, marked);
        }
        self.fire(role, Event::Update, None, now);
    }
}
