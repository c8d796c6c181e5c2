//! The finite state machine of one connection (RFC 4271 section 8.2.2), as a table.
//!
//! Events and actions are the RFC's. What the RFC leaves open or optional is decided so:
//!
//! - The OPEN is not delayed (`DelayOpen`), so events 12, 14 and 20 are not there.
//! - Peers that flap are damped (`DampPeerOscillations`): what fails counts, and Idle is left by
//!   `IdleHoldTimer`. Connections that lost against another one do not count.
//! - An attempt to connect that fails leads to Active, as the RFC has it with `DelayOpen`, so
//!   that the `ConnectRetryTimer` paces attempts.
//! - A NOTIFICATION is never answered by one (section 6.4 has it so; the table of section 8.2.2 would
//!   answer it in `OpenSent`).
//! - RFC 9687 adds the `SendHoldTimer`.
use std::fmt;

/// Where a connection is. They are in the order of their progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing is tried, and nobody let in.
    #[default]
    Idle,
    /// Waiting for the peer's connection, or for the next attempt to make one.
    Active,
    /// An attempt to connect is under way.
    Connect,
    /// Connected; the peer's OPEN is awaited.
    OpenSent,
    /// Its first KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are told.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What happens to a connection, with the RFC's number (section 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// 1 and 3: it is to be connected.
    Start,
    /// 4 and 5: it is to be waited for.
    StartPassive,
    /// 2: it is to end.
    ManualStop,
    /// 8: it is to end for a reason that may pass.
    AutomaticStop,
    /// 9.
    ConnectRetryExpires,
    /// 10.
    HoldExpires,
    /// 11.
    KeepaliveExpires,
    /// 13, 6: the damping is over, and it is to be connected.
    IdleHoldExpires,
    /// 13, 7: the damping is over, and it is to be waited for.
    IdleHoldExpiresPassive,
    /// 16 and 17: there is a connection.
    TcpConnected,
    /// 18: there is none, or none any more.
    TcpFails,
    /// 19: an OPEN that is acceptable.
    Open,
    /// 21: a header that no message has.
    HeaderError,
    /// 22: an OPEN that is not acceptable.
    OpenError,
    /// 23: another connection is kept instead.
    CollisionDump,
    /// 24: the peer does not speak this version.
    NotificationVersion,
    /// 25.
    Notification,
    /// 26.
    Keepalive,
    /// 27, and a ROUTE-REFRESH.
    Update,
    /// 28: an UPDATE that ends the session, or too many routes.
    UpdateError,
    /// RFC 9687, event 29.
    SendHoldExpires,
}

/// What is to be done, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A connection is to be made.
    Connect,
    /// `ConnectRetryTimer` starts anew.
    StartConnectRetry,
    /// `ConnectRetryTimer` stops.
    StopConnectRetry,
    /// `ConnectRetryCounter` is zero.
    ClearFailures,
    /// `ConnectRetryCounter` is one more.
    CountFailure,
    /// An OPEN is sent.
    SendOpen,
    /// A KEEPALIVE is sent.
    SendKeepalive,
    /// The NOTIFICATION that belongs to the event is sent.
    SendNotification,
    /// The NOTIFICATION of a message that is not for this state is sent (RFC 6608).
    SendUnexpected,
    /// `HoldTimer` starts with its large value.
    StartLargeHold,
    /// `HoldTimer` and `KeepaliveTimer` start with what was agreed on.
    StartTimers,
    /// `HoldTimer` starts anew.
    RestartHold,
    /// Connection and attempts are given up.
    Drop,
}

use Action::{
    ClearFailures, Connect, CountFailure, Drop, RestartHold, SendKeepalive, SendNotification,
    SendOpen, SendUnexpected, StartConnectRetry, StartLargeHold, StartTimers, StopConnectRetry,
};

impl State {
    /// Where an event leads, and what is to be done. Whoever comes to Idle stops all timers.
    pub fn on(self, event: Event) -> (Self, &'static [Action]) {
        match self {
            Self::Idle => Self::on_idle(event),
            Self::Connect => Self::on_connect(event),
            Self::Active => Self::on_active(event),
            Self::OpenSent => Self::on_open_sent(event),
            Self::OpenConfirm => Self::on_open_confirm(event),
            Self::Established => Self::on_established(event),
        }
    }

    fn on_idle(event: Event) -> (Self, &'static [Action]) {
        match event {
            Event::Start => (Self::Connect, &[ClearFailures, StartConnectRetry, Connect]),
            Event::StartPassive => (Self::Active, &[ClearFailures]),
            Event::IdleHoldExpires => (Self::Connect, &[StartConnectRetry, Connect]),
            Event::IdleHoldExpiresPassive => (Self::Active, &[]),
            _ => (Self::Idle, &[]),
        }
    }

    fn on_connect(event: Event) -> (Self, &'static [Action]) {
        match event {
            Event::Start
            | Event::StartPassive
            | Event::IdleHoldExpires
            | Event::IdleHoldExpiresPassive => (Self::Connect, &[]),
            Event::ManualStop => (Self::Idle, &[Drop, ClearFailures]),
            Event::ConnectRetryExpires => (Self::Connect, &[Drop, StartConnectRetry, Connect]),
            Event::TcpConnected => (Self::OpenSent, &[StopConnectRetry, SendOpen, StartLargeHold]),
            Event::TcpFails => (Self::Active, &[Drop]),
            Event::CollisionDump => (Self::Idle, &[Drop]),
            Event::NotificationVersion => (Self::Idle, &[Drop]),
            Event::AutomaticStop
            | Event::HoldExpires
            | Event::KeepaliveExpires
            | Event::SendHoldExpires
            | Event::Open
            | Event::HeaderError
            | Event::OpenError
            | Event::Notification
            | Event::Keepalive
            | Event::Update
            | Event::UpdateError => (Self::Idle, &[Drop, CountFailure]),
        }
    }

    fn on_active(event: Event) -> (Self, &'static [Action]) {
        match event {
            Event::Start
            | Event::StartPassive
            | Event::IdleHoldExpires
            | Event::IdleHoldExpiresPassive => (Self::Active, &[]),
            Event::ManualStop => (Self::Idle, &[Drop, ClearFailures]),
            Event::ConnectRetryExpires => (Self::Connect, &[StartConnectRetry, Connect]),
            Event::TcpConnected => (Self::OpenSent, &[StopConnectRetry, SendOpen, StartLargeHold]),
            Event::CollisionDump => (Self::Idle, &[Drop]),
            Event::NotificationVersion => (Self::Idle, &[Drop]),
            Event::TcpFails
            | Event::AutomaticStop
            | Event::HoldExpires
            | Event::KeepaliveExpires
            | Event::SendHoldExpires
            | Event::Open
            | Event::HeaderError
            | Event::OpenError
            | Event::Notification
            | Event::Keepalive
            | Event::Update
            | Event::UpdateError => (Self::Idle, &[Drop, CountFailure]),
        }
    }

    fn on_open_sent(event: Event) -> (Self, &'static [Action]) {
        match event {
            Event::Start
            | Event::StartPassive
            | Event::IdleHoldExpires
            | Event::IdleHoldExpiresPassive => (Self::OpenSent, &[]),
            Event::ManualStop => (Self::Idle, &[SendNotification, Drop, ClearFailures]),
            Event::AutomaticStop | Event::HoldExpires | Event::HeaderError | Event::OpenError => {
                (Self::Idle, &[SendNotification, Drop, CountFailure])
            }
            Event::CollisionDump => (Self::Idle, &[SendNotification, Drop]),
            Event::TcpFails => (Self::Active, &[Drop, StartConnectRetry]),
            Event::Open => (Self::OpenConfirm, &[SendKeepalive, StartTimers]),
            Event::NotificationVersion => (Self::Idle, &[Drop]),
            Event::Notification | Event::SendHoldExpires => (Self::Idle, &[Drop, CountFailure]),
            Event::ConnectRetryExpires
            | Event::KeepaliveExpires
            | Event::TcpConnected
            | Event::Keepalive
            | Event::Update
            | Event::UpdateError => (Self::Idle, &[SendUnexpected, Drop, CountFailure]),
        }
    }

    fn on_open_confirm(event: Event) -> (Self, &'static [Action]) {
        match event {
            Event::Start
            | Event::StartPassive
            | Event::IdleHoldExpires
            | Event::IdleHoldExpiresPassive => (Self::OpenConfirm, &[]),
            Event::ManualStop => (Self::Idle, &[SendNotification, Drop, ClearFailures]),
            Event::AutomaticStop | Event::HoldExpires | Event::HeaderError | Event::OpenError => {
                (Self::Idle, &[SendNotification, Drop, CountFailure])
            }
            Event::CollisionDump => (Self::Idle, &[SendNotification, Drop]),
            Event::KeepaliveExpires => (Self::OpenConfirm, &[SendKeepalive]),
            Event::NotificationVersion => (Self::Idle, &[Drop]),
            Event::TcpFails | Event::Notification | Event::SendHoldExpires => {
                (Self::Idle, &[Drop, CountFailure])
            }
            Event::Keepalive => (Self::Established, &[RestartHold]),
            Event::ConnectRetryExpires
            | Event::TcpConnected
            | Event::Open
            | Event::Update
            | Event::UpdateError => (Self::Idle, &[SendUnexpected, Drop, CountFailure]),
        }
    }

    fn on_established(event: Event) -> (Self, &'static [Action]) {
        match event {
            Event::Start
            | Event::StartPassive
            | Event::IdleHoldExpires
            | Event::IdleHoldExpiresPassive => (Self::Established, &[]),
            Event::ManualStop => (Self::Idle, &[SendNotification, Drop, ClearFailures]),
            Event::AutomaticStop | Event::HoldExpires | Event::HeaderError | Event::UpdateError => {
                (Self::Idle, &[SendNotification, Drop, CountFailure])
            }
            Event::CollisionDump => (Self::Idle, &[SendNotification, Drop]),
            Event::KeepaliveExpires => (Self::Established, &[SendKeepalive]),
            Event::TcpFails
            | Event::Notification
            | Event::NotificationVersion
            | Event::SendHoldExpires => (Self::Idle, &[Drop, CountFailure]),
            Event::Keepalive | Event::Update => (Self::Established, &[RestartHold]),
            Event::ConnectRetryExpires | Event::TcpConnected | Event::Open | Event::OpenError => {
                (Self::Idle, &[SendUnexpected, Drop, CountFailure])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 6] = [
        State::Idle,
        State::Connect,
        State::Active,
        State::OpenSent,
        State::OpenConfirm,
        State::Established,
    ];

    /// The next state, and what is sent on the way: `n` a NOTIFICATION, `u` that of an unexpected
    /// message, `o` an OPEN, `k` a KEEPALIVE, `c` a connection; `+` what counts as a failure, `0`
    /// what clears them.
    fn shown(state: State, event: Event) -> String {
        let (next, actions) = state.on(event);
        let name = match next {
            State::Idle => "I",
            State::Connect => "C",
            State::Active => "A",
            State::OpenSent => "S",
            State::OpenConfirm => "O",
            State::Established => "E",
        };
        let marks = actions.iter().filter_map(|action| match action {
            SendNotification => Some('n'),
            SendUnexpected => Some('u'),
            SendOpen => Some('o'),
            SendKeepalive => Some('k'),
            Connect => Some('c'),
            CountFailure => Some('+'),
            ClearFailures => Some('0'),
            _ => None,
        });
        name.chars().chain(marks).collect()
    }

    #[test]
    fn each_event_leads_from_each_state_where_the_rfc_says() {
        let table: [(Event, [&str; 6]); 21] = [
            // From Idle, Connect, Active, OpenSent, OpenConfirm, Established.
            (Event::Start, ["C0c", "C", "A", "S", "O", "E"]),
            (Event::StartPassive, ["A0", "C", "A", "S", "O", "E"]),
            (Event::ManualStop, ["I", "I0", "I0", "In0", "In0", "In0"]),
            (Event::AutomaticStop, ["I", "I+", "I+", "In+", "In+", "In+"]),
            (Event::ConnectRetryExpires, ["I", "Cc", "Cc", "Iu+", "Iu+", "Iu+"]),
            (Event::HoldExpires, ["I", "I+", "I+", "In+", "In+", "In+"]),
            (Event::KeepaliveExpires, ["I", "I+", "I+", "Iu+", "Ok", "Ek"]),
            (Event::IdleHoldExpires, ["Cc", "C", "A", "S", "O", "E"]),
            (Event::IdleHoldExpiresPassive, ["A", "C", "A", "S", "O", "E"]),
            (Event::TcpConnected, ["I", "So", "So", "Iu+", "Iu+", "Iu+"]),
            (Event::TcpFails, ["I", "A", "I+", "A", "I+", "I+"]),
            (Event::Open, ["I", "I+", "I+", "Ok", "Iu+", "Iu+"]),
            (Event::HeaderError, ["I", "I+", "I+", "In+", "In+", "In+"]),
            (Event::OpenError, ["I", "I+", "I+", "In+", "In+", "Iu+"]),
            (Event::CollisionDump, ["I", "I", "I", "In", "In", "In"]),
            (Event::NotificationVersion, ["I", "I", "I", "I", "I", "I+"]),
            (Event::Notification, ["I", "I+", "I+", "I+", "I+", "I+"]),
            (Event::Keepalive, ["I", "I+", "I+", "Iu+", "E", "E"]),
            (Event::Update, ["I", "I+", "I+", "Iu+", "Iu+", "E"]),
            (Event::UpdateError, ["I", "I+", "I+", "Iu+", "Iu+", "In+"]),
            (Event::SendHoldExpires, ["I", "I+", "I+", "I+", "I+", "I+"]),
        ];
        for (event, row) in table {
            for (state, expected) in STATES.into_iter().zip(row) {
                assert_eq!(shown(state, event), expected, "{event:?} in {state}");
            }
        }
    }

    #[test]
    fn idle_is_only_come_to_with_the_connection_given_up() {
        let events = [
            Event::ManualStop,
            Event::AutomaticStop,
            Event::HoldExpires,
            Event::TcpFails,
            Event::Notification,
            Event::UpdateError,
            Event::SendHoldExpires,
            Event::CollisionDump,
        ];
        for event in events {
            for state in STATES.into_iter().filter(|state| *state != State::Idle) {
                let (next, actions) = state.on(event);
                assert!(next != State::Idle || actions.contains(&Drop), "{event:?} in {state}");
            }
        }
    }
}
