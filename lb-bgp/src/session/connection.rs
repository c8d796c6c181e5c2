//! One of the two connections that a session may have for a while: its state, its timers, its bytes.
use super::{
    config::{Endpoint, Negotiated},
    state::State,
};
use crate::message::{Open, Stream};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Names a connection, or an attempt to make one. No name is used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub(super) u64);

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Outgoing,
    Incoming,
}

impl Role {
    pub(super) const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// `HoldTimer` until something is agreed on (RFC 4271 section 8.2.2 proposes four minutes).
pub(super) const LARGE_HOLD: Duration = Duration::from_mins(4);
/// The least that RFC 9687 section 5 proposes for `SendHoldTimer`.
const SEND_HOLD: Duration = Duration::from_mins(8);

/// Timers that run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timers {
    pub(super) connect_retry: Option<Instant>,
    pub(super) hold: Option<Instant>,
    pub(super) keepalive: Option<Instant>,
    pub(super) idle_hold: Option<Instant>,
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) timers: Timers,
    pub(super) link: Option<Link>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) stream: Stream,
    /// Our OPEN, until it is sent.
    pub(super) open_due: Option<Bytes>,
    pub(super) keepalive_due: bool,
    /// Since when the transport has not asked for more, having been given something.
    pub(super) handed: Option<Instant>,
    /// The peer's OPEN.
    pub(super) open: Option<Open>,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) established: Option<Instant>,
}

impl Connection {
    /// Forgets all that belonged to a connection. Its name, if there was one.
    pub(super) fn disconnect(&mut self) -> Option<Link> {
        let old = std::mem::take(self);
        self.state = old.state;
        self.timers = Timers {
            connect_retry: old.timers.connect_retry,
            idle_hold: old.timers.idle_hold,
            ..Timers::default()
        };
        old.link
    }

    /// How long the hold timer runs; zero: not at all.
    pub(super) fn hold_time(&self) -> Duration {
        self.negotiated.as_ref().map_or(LARGE_HOLD, |negotiated| negotiated.hold_time)
    }

    /// How long the peer may leave what it was sent unread. None where the peer may be silent,
    /// too.
    pub(super) fn send_hold_time(&self) -> Option<Duration> {
        let hold = self.hold_time();
        (!hold.is_zero()).then(|| (hold * 2).max(SEND_HOLD))
    }

    /// When `SendHoldTimer` expires.
    pub(super) fn send_hold(&self) -> Option<Instant> {
        Some(self.handed? + self.send_hold_time()?)
    }

    pub(super) fn restart_hold(&mut self, now: Instant) {
        let hold = self.hold_time();
        self.timers.hold = (!hold.is_zero()).then(|| now + hold);
    }

    /// The earliest timer.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let Timers { connect_retry, hold, keepalive, idle_hold } = self.timers;
        [connect_retry, hold, keepalive, idle_hold, self.send_hold()].into_iter().flatten().min()
    }
}
