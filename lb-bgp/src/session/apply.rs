//! Doing what the table of states says, and what it leaves to the session: damping, and that no
//! connection is left without a future.
use super::{
    Output, STABLE, Session,
    connection::{LARGE_HOLD, Role},
    reason::Reason,
    state::{Action, Event, State},
};
use crate::message::{Notification, code};
use std::time::{Duration, Instant};

/// How long Idle is kept after a first failure; twice as long after each further one.
const IDLE_HOLD: Duration = Duration::from_secs(1);
/// And no longer than this.
const LONGEST_IDLE_HOLD: Duration = Duration::from_mins(1);

impl Session {
    /// Something happens to a connection.
    pub(super) fn fire(&mut self, role: Role, event: Event, reason: Option<Reason>, now: Instant) {
        let before = self.connection(role).state;
        let (after, actions) = before.on(event);
        let since = self.connection(role).established;
        if since.is_some_and(|since| now >= since + STABLE) && after != State::Established {
            self.failures = 0;
        }
        self.connection_mut(role).state = after;
        let mut last = None;
        for action in actions {
            match action {
                Action::Connect => {
                    let link = self.new_link();
                    self.connection_mut(role).link = Some(link);
                    self.outputs.push_back(Output::Connect(link));
                }
                Action::StartConnectRetry => self.start_connect_retry(role, now),
                Action::StopConnectRetry => self.connection_mut(role).timers.connect_retry = None,
                Action::ClearFailures => self.failures = 0,
                Action::CountFailure => {
                    let collision = reason.as_ref().is_some_and(Reason::is_collision);
                    self.failures = self.failures.saturating_add(u32::from(!collision));
                }
                Action::SendOpen => {
                    let restarting = self.restarting.is_some_and(|until| now < until);
                    let open = self.config.open(restarting, self.forwarding).encode();
                    self.connection_mut(role).open_due = Some(open);
                }
                Action::SendKeepalive => {
                    self.connection_mut(role).keepalive_due = true;
                    self.restart_keepalive(role, now);
                }
                Action::SendNotification => last = reason.as_ref().and_then(Reason::notification),
                // RFC 6608 section 3.
                Action::SendUnexpected => {
                    let subcode = match before {
                        State::OpenSent => 1,
                        State::OpenConfirm => 2,
                        State::Established => 3,
                        State::Idle | State::Active | State::Connect => 0,
                    };
                    last = Some(Notification::new(code::STATE_MACHINE, subcode, &[]));
                }
                Action::StartLargeHold => {
                    self.connection_mut(role).timers.hold = Some(now + LARGE_HOLD);
                }
                Action::StartTimers => {
                    let connection = self.connection_mut(role);
                    connection.restart_hold(now);
                    // Even where silence is agreed on: a first KEEPALIVE has to come.
                    connection.timers.hold.get_or_insert(now + LARGE_HOLD);
                    self.restart_keepalive(role, now);
                }
                Action::RestartHold => self.connection_mut(role).restart_hold(now),
                Action::Drop => self.disconnect(role, last.take()),
            }
        }
        if after == State::Idle {
            self.connection_mut(role).timers = Default::default();
        }
        if before == State::Established && after != before {
            self.rib.end();
            self.received.clear();
        }
        if after < before || actions.contains(&Action::Drop) {
            self.outputs.extend(reason.map(|reason| Output::Down { state: before, reason }));
        }
        if after == State::Established && before != after {
            self.establish(role, now);
        }
        self.settle(now);
    }

    fn disconnect(&mut self, role: Role, last: Option<Notification>) {
        let connection = self.connection_mut(role);
        // Nobody can read a last message before the first.
        let first = connection.open_due.take().unwrap_or_default();
        let Some(link) = connection.disconnect() else { return };
        self.counters.notifications_sent += u64::from(last.is_some());
        self.counters.opens_sent += u64::from(last.is_some() && !first.is_empty());
        let last = last.map(|last| [first, last.encode()].concat().into());
        self.outputs.push_back(Output::Close { link, last });
    }

    /// The session is up by this connection.
    fn establish(&mut self, role: Role, now: Instant) {
        self.connection_mut(role).established = Some(now);
        self.counters.ups += 1;
        self.faulty = false;
        self.forwarding = true;
        let connection = self.connection(role);
        if let (Some(negotiated), Some(endpoint)) = (&connection.negotiated, &connection.endpoint) {
            let peer = negotiated.peer(self.config.local_as, endpoint);
            let up = Output::Up(Box::new(negotiated.clone()));
            self.rib.begin(peer);
            self.outputs.push_back(up);
        }
        let other = role.other();
        if self.connection(other).state != State::Idle {
            let collision = self.connection(other).link.map(|_| Reason::Collision);
            self.fire(other, Event::CollisionDump, collision, now);
        }
    }

    /// Whoever is Idle has a time when it no longer is, unless the other connection is about to
    /// be the session, or no session is wanted.
    fn settle(&mut self, now: Instant) {
        if !self.enabled {
            return;
        }
        for role in Role::BOTH {
            let wanted = role == Role::Incoming || !self.config.passive;
            if !wanted || self.connection(role).state != State::Idle {
                continue;
            }
            if self.connection(role.other()).state >= State::OpenConfirm {
                self.connection_mut(role).timers.idle_hold = None;
            } else if self.connection(role).timers.idle_hold.is_none() {
                // RFC 4271 section 8.1.1 leaves the function open. The peer itself may come back at once
                // the first time: it may have restarted, and may not try again for minutes.
                if role == Role::Incoming && self.failures <= 1 {
                    self.fire(role, Event::IdleHoldExpiresPassive, None, now);
                    continue;
                }
                let doubled = 1 << self.failures.saturating_sub(1).min(10);
                let wait = (IDLE_HOLD * doubled).min(LONGEST_IDLE_HOLD);
                let wait = self.random.part(wait, 75..=100);
                self.connection_mut(role).timers.idle_hold = Some(now + wait);
            }
        }
    }

    /// RFC 4271 section 10: `ConnectRetryTimer` and `KeepaliveTimer` have jitter.
    fn start_connect_retry(&mut self, role: Role, now: Instant) {
        // Who waits for the peer's connection never makes one.
        if role == Role::Outgoing {
            let wait = self.random.part(self.config.connect_retry, 75..=100);
            self.connection_mut(role).timers.connect_retry = Some(now + wait);
        }
    }

    pub(super) fn restart_keepalive(&mut self, role: Role, now: Instant) {
        let negotiated = self.connection(role).negotiated.as_ref();
        let interval = negotiated.map_or(Duration::ZERO, |negotiated| negotiated.keepalive);
        self.connection_mut(role).timers.keepalive =
            (!interval.is_zero()).then(|| now + self.random.part(interval, 75..=100));
    }

    /// Lets a connection's timers expire.
    pub(super) fn expire(&mut self, role: Role, now: Instant) {
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        if due(self.connection(role).send_hold()) {
            let hold = self.connection(role).send_hold_time().unwrap_or_default();
            self.fire(role, Event::SendHoldExpires, Some(Reason::Stuck(hold)), now);
        }
        if due(self.connection(role).timers.hold) {
            let agreed = Some(self.connection(role).hold_time());
            let hold = agreed.filter(|hold| !hold.is_zero()).unwrap_or(LARGE_HOLD);
            self.fire(role, Event::HoldExpires, Some(Reason::Silent(hold)), now);
        }
        if due(self.connection(role).timers.keepalive) {
            self.fire(role, Event::KeepaliveExpires, None, now);
        }
        if due(self.connection(role).timers.connect_retry) {
            let reason = Reason::NoAnswer(self.config.connect_retry);
            let reason = self.connection(role).link.map(|_| reason);
            self.fire(role, Event::ConnectRetryExpires, reason, now);
        }
        if due(self.connection(role).timers.idle_hold) {
            self.connection_mut(role).timers.idle_hold = None;
            let event = match role {
                Role::Outgoing => Event::IdleHoldExpires,
                Role::Incoming => Event::IdleHoldExpiresPassive,
            };
            self.fire(role, event, None, now);
        }
    }
}
